"""A scripted, OpenAI-compatible server on loopback: real HTTP for tests and demonstrations, with no model behind it.

It answers `POST /v1/responses`, `/v1/responses/compact` and `/v1/chat/completions`, whole or streamed, from a script,
and judges every request first, so that a body which the real API would refuse is refused here. It keeps responses and
conversations as the real one does, and serves them; `POST /v1/responses/input_tokens` counts.

    >>> import asyncio
    >>> from openai import AsyncOpenAI
    >>> from turnlog import open_engine
    >>> from turnlog.adapters.responses import Responses
    >>> from turnlog.engine.testing.server import Call, scripted_server
    >>> async def weather(city: str) -> str:
    ...     return f"clear in {city}"
    >>> async def main() -> None:
    ...     async with (
    ...         scripted_server([Call("weather", {"city": "Paris"}), "The sun shines."]) as server,
    ...         AsyncOpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client,
    ...         open_engine(":memory:") as engine,
    ...     ):
    ...         chat = await engine.create()
    ...         result = await chat.run(Responses(client, "gpt-4o-mini"), "Is it sunny in Paris?", tools=[weather])
    ...         print(result.output_text)
    ...         print(server.requests[1].body["input"][-1]["output"])
    >>> asyncio.run(main())
    The sun shines.
    clear in Paris
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import anyio
import anyio.lowlevel

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.server import ServerState
except ModuleNotFoundError as missing:
    raise ImportError(
        f'turnlog.engine.testing.server needs {missing.name}: pip install "turnlog[testing]"'
    ) from missing

from .desk import Desk
from .judge import Refusal
from .script import (
    Answer,
    Api,
    Call,
    CustomCall,
    Entry,
    Fail,
    Hang,
    Item,
    Part,
    Raw,
    Reason,
    Received,
    Refuse,
    Reply,
    Script,
    Text,
)
from .sending import fault, hang_up, transmit, while_connected
from .state import Kept
from .state_doors import Trouble, Visit, doors

__all__ = (
    "Answer",
    "Call",
    "CustomCall",
    "Entry",
    "Fail",
    "Hang",
    "Item",
    "Part",
    "Raw",
    "Reason",
    "Received",
    "Refusal",
    "Refuse",
    "Reply",
    "Script",
    "ScriptedServer",
    "Text",
    "Visit",
    "scripted_server",
)

_ENDPOINTS: Final[Mapping[Api, str]] = {
    "responses": "/v1/responses",
    "chat": "/v1/chat/completions",
    "compact": "/v1/responses/compact",
}
_COUNTING: Final = "/v1/responses/input_tokens"
_CLOSING_SECONDS: Final = 5.0
_ACCEPTING_TURNS: Final = 3
_HOUR: Final = 3600
_LOG = logging.getLogger("turnlog.testing.http")
_LOG.setLevel(logging.CRITICAL + 1)  # uvicorn takes a connection that is cut for an error, and would print it


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedServer:
    """A running server; made by `scripted_server`.

    *base_url* is what openai's client takes. *requests* has every request that reached an endpoint of the script, in
    the order of arrival, whatever was answered; *refused* has the refusals of the judge, which consumed nothing of the
    script; *visits* has what was asked of stored responses and conversations, and *counted* the bodies whose input
    tokens it was asked for. The lists grow while the server runs, and stay readable after it. *kept* is its state: a
    test may take things away, as time does.
    """

    url: str
    requests: list[Received] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    counted: list[Any] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)

    @property
    def base_url(self) -> str:
        """The address of the API: *url* and `/v1`."""
        return f"{self.url}/v1"

    def __repr__(self) -> str:
        return f"ScriptedServer({self.url}, {len(self.requests)} requests, {len(self.refused)} refused)"


def scripted_server(
    script: Script,
    *,
    windows: Mapping[str, int] | None = None,
    count: Callable[[str], int] | None = None,
    judge: bool = True,
    api_key: str | None = None,
    port: int = 0,
    first: int = 1,
    trouble: Trouble | None = None,
    pieces: int | None = None,
) -> AbstractAsyncContextManager[ScriptedServer]:
    """Run a server that answers from *script*, in the current asyncio event loop, while the context is open.

    A sequence gives one entry a request, in the order of arrival, whichever the endpoint; past its end every request
    is answered with HTTP 500. A callable, plain or async, is given each request and returns its entry; what it raises
    is told in an HTTP 500. Such answers of the server's own carry `x-should-retry: false`.

    *windows* are the context windows of models in tokens. *count* counts the tokens of a text, for them and for
    computed usage; unless given, a quarter of the characters. *judge* false takes any JSON object. *api_key* is the
    only key then accepted. *port* 0 is any free one, always of 127.0.0.1. *first* is the number of the first request:
    ids are made of it, so a server that continues the conversations of another counts on from that one. *trouble* is
    given every visit to the state, and may say what goes wrong with it. *pieces* is the size, in bytes, of the chunks
    in which the answers to scripted requests are sent, wherever that cuts them.

    A request in the background is answered at once. What the script gives for it may be awaited, and happens while the
    response is polled, streamed or cancelled.

    It accepts connections once entered. Leaving ends every connection at once, hanging and half-sent ones too. It
    installs no signal handlers, logs nothing, and leaves no task behind.

    Raises:
        TypeError: *script* is neither a sequence of entries nor a callable.
        OSError: on entering, *port* is taken.
        RuntimeError: on entering, the event loop is not asyncio's.
    """
    desk = Desk(script, windows=windows, count=count, judge=judge, key=api_key, first=first)
    return _running(desk, port, trouble, pieces)


@asynccontextmanager
async def _running(desk: Desk, port: int, trouble: Trouble | None, pieces: int | None) -> AsyncIterator[ScriptedServer]:
    visits: list[Visit] = []
    config = uvicorn.Config(
        _app(desk, visits, trouble, pieces),
        interface="asgi3",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=_HOUR,  # a client that pauses must not race with the server's idle close
    )
    config.load()
    state = _State()
    protocol = partial(_Protocol, config=config, server_state=state, app_state={})
    listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=config.backlog)
    try:
        bound = listener.sockets[0].getsockname()[1]
        yield ScriptedServer(
            url=f"http://127.0.0.1:{bound}",
            requests=desk.requests,
            refused=desk.refused,
            counted=desk.counted,
            visits=visits,
            kept=desk.kept,
        )
    finally:
        # A script may hold on to its cancellation; the test that left must not wait for it for ever.
        with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
            await desk.close()
            await _close(listener, state)


async def _close(listener: asyncio.Server, state: _State) -> None:
    state.closing = True  # for uvloop, which makes connections that it accepted after its listener has closed
    # A selector loop makes them a few turns after accepting them, and leaks the socket of one that comes after the
    # close: it stops accepting first. Loops that cannot remove a reader have no such gap.
    with suppress(NotImplementedError):
        asyncio.get_running_loop().remove_reader(listener.sockets[0].fileno())
    for _ in range(_ACCEPTING_TURNS):
        await anyio.lowlevel.checkpoint()
    listener.close()
    for connection in list(state.connections):
        connection.transport.abort()
    if state.tasks:  # a request ends with its connection
        await asyncio.wait(list(state.tasks))
    while state.connections:
        await anyio.lowlevel.checkpoint()


class _State(ServerState):
    """The connections and tasks of one server."""

    closing = False


class _Protocol(H11Protocol):
    """uvicorn's HTTP without its logs, and with a way to close the connection from inside of a request."""

    def __init__(self, config: uvicorn.Config, server_state: _State, app_state: dict[str, Any]) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._state = server_state
        self.logger = _LOG
        self.access_log = False
        self.app_state = {"hang_up": self._hang_up}

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._state.closing:
            transport.abort()

    def _hang_up(self) -> None:
        self.transport.close()


def _app(desk: Desk, visits: list[Visit], trouble: Trouble | None, pieces: int | None) -> Starlette:
    async def tally(request: Request) -> Response:
        return Response(desk.tally(await request.body()), media_type="application/json")

    scripted = [Route(path, _Endpoint(desk, api, pieces), methods=["POST"]) for api, path in _ENDPOINTS.items()]
    routes = [Route(_COUNTING, tally, methods=["POST"]), *scripted, *doors(desk, visits, trouble)]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _Elsewhere()})
    app.router.redirect_slashes = False
    return app


class _Elsewhere:
    """Answers what no endpoint takes, in the shape of OpenAI's errors."""

    def __init__(self) -> None:
        self._met = 0

    def __call__(self, request: Request, error: Exception) -> Response:
        self._met += 1
        status = cast("HTTPException", error).status_code
        where = f"{request.method} {request.url.path}"
        message = f"Invalid URL ({where})" if status == 404 else f"Not allowed: {where}"
        sending = fault(Fail(status, message=message))
        headers = {"x-request-id": f"req_elsewhere_{self._met:04d}"}
        return Response(sending.frames[0], status, headers, sending.media)


class _Endpoint:
    """One of the scripted APIs, as an ASGI application."""

    def __init__(self, desk: Desk, api: Api, pieces: int | None) -> None:
        self._desk = desk
        self._pieces = pieces
        self._api: Api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        content = await request.body()
        received = self._desk.receive(request.url.path, self._api, request.headers, content)
        taken = self._desk.take(received)

        async def respond() -> None:
            answer = await self._desk.answer(received, taken)
            if isinstance(answer, Hang):
                await anyio.sleep(answer.seconds)
                await hang_up(scope)
            else:
                await transmit(answer, f"req_{received.number:04d}", scope, send, pieces=self._pieces)

        try:
            await while_connected(receive, respond)
        finally:
            self._desk.left(received)
