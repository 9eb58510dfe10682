"""A scripted, OpenAI-compatible server on loopback: real HTTP for tests and demonstrations, with no model behind it.

It answers `POST /v1/responses` and `POST /v1/chat/completions`, whole or streamed, from a script, and judges every
request first, so that a body which the real API would refuse is refused here. `POST /v1/responses/input_tokens` counts.

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
import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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
    from starlette.types import Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.server import ServerState
except ModuleNotFoundError as missing:
    raise ImportError(
        f'turnlog.engine.testing.server needs {missing.name}: pip install "turnlog[testing]"'
    ) from missing

from .judge import Refusal
from .judge import judge as judge_body
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
    as_answer,
)
from .wire import Count, births_of, body_of, encoded, frames_of, rough

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
    "scripted_server",
)

_ENDPOINTS: Final[Mapping[Api, str]] = {"responses": "/v1/responses", "chat": "/v1/chat/completions"}
_COUNTING: Final = "/v1/responses/input_tokens"
_CLOSING_SECONDS: Final = 5.0
_ACCEPTING_TURNS: Final = 3
_HOUR: Final = 3600
_FINAL: Final = {"x-should-retry": "false"}
_LOG = logging.getLogger("turnlog.testing.http")
_LOG.setLevel(logging.CRITICAL + 1)  # uvicorn takes a connection that is cut for an error, and would print it


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedServer:
    """A running server; made by `scripted_server`.

    *base_url* is what openai's client takes. *requests* has every request that reached an endpoint, in the order of
    arrival, whatever was answered; *refused* has the refusals of the judge, which consumed nothing of the script.
    *counted* has the bodies whose input tokens it was asked for. All grow while the server runs, and stay readable.
    """

    url: str
    requests: list[Received] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    counted: list[Any] = field(default_factory=list)

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
) -> AbstractAsyncContextManager[ScriptedServer]:
    """Run a server that answers from *script*, in the current asyncio event loop, while the context is open.

    A sequence gives one entry a request, in the order of arrival, whichever the endpoint; past its end every request
    is answered with HTTP 500. A callable, plain or async, is given each request and returns its entry; what it raises
    is told in an HTTP 500. Such answers of the server's own carry `x-should-retry: false`.

    *windows* are the context windows of models in tokens. *count* counts the tokens of a text, for them and for
    computed usage; unless given, a quarter of the characters. *judge* false takes any JSON object. *api_key* is the
    only key then accepted. *port* 0 is any free one, always of 127.0.0.1. *first* is the number of the first request:
    ids are made of it, so a server that continues the conversations of another counts on from that one.

    It accepts connections once entered. Leaving ends every connection at once, hanging and half-sent ones too. It
    installs no signal handlers, logs nothing, and leaves no task behind.

    Raises:
        TypeError: *script* is neither a sequence of entries nor a callable.
        OSError: on entering, *port* is taken.
        RuntimeError: on entering, the event loop is not asyncio's.
    """
    return _running(_Desk(_script(script), windows=windows, count=count, judge=judge, key=api_key, first=first), port)


@asynccontextmanager
async def _running(desk: _Desk, port: int) -> AsyncIterator[ScriptedServer]:
    config = uvicorn.Config(
        _app(desk),
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
            url=f"http://127.0.0.1:{bound}", requests=desk.requests, refused=desk.refused, counted=desk.counted
        )
    finally:
        # A script may hold on to its cancellation; the test that left must not wait for it for ever.
        with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    """An HTTP answer ready to send: *length* None is a stream, *cut* closes the connection instead of ending it."""

    status: int = 200
    media: str = "application/json"
    frames: Sequence[bytes]
    length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


class _Desk:
    """Takes requests in, judges them, and finds their answers."""

    def __init__(
        self,
        script: Callable[[Received], Entry | Awaitable[Entry]],
        *,
        windows: Mapping[str, int] | None,
        count: Count | None,
        judge: bool,
        key: str | None,
        first: int,
    ) -> None:
        self.requests: list[Received] = []
        self.refused: list[Refusal] = []
        self.counted: list[Any] = []
        self._script = script
        self._windows = windows or {}
        self._count = count or rough
        self._born: dict[str, str] = {}
        self._judging = judge
        self._key = key
        self._first = first

    def receive(self, path: str, api: Api, headers: Mapping[str, str], content: bytes) -> Received:
        """Record a request."""
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        number = self._first + len(self.requests)
        received = Received(path=path, api=api, headers=headers, content=content, body=body, number=number)
        self.requests.append(received)
        return received

    def take(self, received: Received) -> _Sending | Awaitable[Entry] | Entry:
        """What answers the request; nothing is awaited, so the script is consumed in the order of arrival."""
        if self._key is not None and received.headers.get("authorization") != f"Bearer {self._key}":
            return _fault(Fail(401, code="invalid_api_key", message="Incorrect API key provided."))
        if not isinstance(received.body, dict):
            return _fault(Fail(400, message="The body of the request is not a JSON object."))
        try:
            return self._refusal(received) or self._script(received)
        except Exception as error:  # noqa: BLE001 - whatever a script raises is told to the client that met it
            return _script_fault(error)

    def _refusal(self, received: Received) -> _Sending | None:
        if self._judging:
            window = self._windows.get(str(received.body.get("model")))
            try:
                judge_body(received.api, received.body, window=window, count=self._count, born=self._born)
            except Refusal as refusal:
                self.refused.append(refusal)
                return _whole(refusal.body(), status=refusal.status)
        return None

    async def tally(self, request: Request) -> Response:
        """Answer how many input tokens a request to the Responses API has: those of its JSON."""
        content = (await request.body()).decode()
        self.counted.append(json.loads(content))
        told = {"object": "response.input_tokens", "input_tokens": self._count(content)}
        return Response(encoded(told), media_type="application/json")

    async def answer(self, received: Received, taken: _Sending | Awaitable[Entry] | Entry) -> _Sending | Hang:
        """The answer that was taken, as it is sent."""
        if isinstance(taken, _Sending):
            return taken
        try:
            entry = await taken if inspect.isawaitable(taken) else taken
            return self._sending(as_answer(entry), received)
        except Exception as error:  # noqa: BLE001 - as above
            return _script_fault(error)

    def _sending(self, answer: Answer, received: Received) -> _Sending | Hang:
        match answer:
            case Hang():
                return answer
            case Fail():
                return _fault(answer)
            case Raw(content):
                return _Sending(status=answer.status, media=answer.content_type, frames=(content,), length=len(content))
            case Reply():
                return self._reply(answer, received)

    def _reply(self, answer: Reply, received: Received) -> _Sending:
        self._born |= births_of(answer, received)
        cut = answer.cut_after is not None
        if received.body.get("stream") is True:
            frames = frames_of(answer, received, count=self._count)[: answer.cut_after]
            return _Sending(media="text/event-stream; charset=utf-8", frames=frames, delay=answer.delay, cut=cut)
        content = encoded(body_of(answer, received, count=self._count))
        sent = content[: len(content) // 2] if cut else content
        status = 500 if answer.status == "failed" and received.api == "chat" else 200
        return _Sending(status=status, frames=(sent,), length=len(content), delay=answer.delay, cut=cut)


def _script(script: Script) -> Callable[[Received], Entry | Awaitable[Entry]]:
    if callable(script):
        return script
    if isinstance(script, str | bytes) or not isinstance(script, Sequence):
        raise TypeError(f"A script is a sequence of entries or a callable, not {script!r}; for one answer: [answer].")
    answers = [as_answer(entry) for entry in script]
    entries = iter(answers)

    def following(received: Received) -> Answer:
        for entry in entries:
            return entry
        message = f"The script is used up: it had {len(answers)} answers, and this is request {received.number}."
        return Fail(500, code="script_used_up", message=message, headers=_FINAL)

    return following


def _fault(fail: Fail) -> _Sending:
    usual = "server_error" if fail.status >= 500 else "invalid_request_error"
    kind = fail.type or ("rate_limit_error" if fail.status == 429 else usual)
    error = {"message": fail.message, "type": kind, "param": fail.param, "code": fail.code}
    return _whole({"error": error}, status=fail.status, headers=fail.headers)


def _script_fault(error: Exception) -> _Sending:
    message = f"The script failed with {type(error).__name__}: {error}"
    return _fault(Fail(500, code="script_error", message=message, headers=_FINAL))


def _whole(body: object, *, status: int, headers: Mapping[str, str] | None = None) -> _Sending:
    content = encoded(body)
    return _Sending(status=status, frames=(content,), length=len(content), headers=headers or {})


def _app(desk: _Desk) -> Starlette:
    routes = [Route(path, _Endpoint(desk, api), methods=["POST"]) for api, path in _ENDPOINTS.items()]
    routes.append(Route(_COUNTING, desk.tally, methods=["POST"]))
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
        sending = _fault(Fail(status, message=message))
        headers = {"x-request-id": f"req_elsewhere_{self._met:04d}"}
        return Response(sending.frames[0], status, headers, sending.media)


class _Endpoint:
    """One of the two APIs, as an ASGI application."""

    def __init__(self, desk: _Desk, api: Api) -> None:
        self._desk = desk
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
                await _hang_up(scope)
            else:
                await _transmit(answer, f"req_{received.number:04d}", scope, send)

        await _while_connected(receive, respond)


async def _while_connected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await work()
        group.cancel_scope.cancel()


async def _transmit(sending: _Sending, request_id: str, scope: Scope, send: Send) -> None:
    if sending.length is not None:
        await anyio.sleep(sending.delay)
    await send(_start(sending, request_id))
    for index, frame in enumerate(sending.frames):
        # Without a delay too, others run in between: the events arrive one by one.
        await anyio.sleep(sending.delay if index else 0)
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    if sending.cut:
        await _hang_up(scope)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _start(sending: _Sending, request_id: str) -> Message:
    headers = {"content-type": sending.media, "x-request-id": request_id}
    headers |= {"cache-control": "no-cache"} if sending.length is None else {"content-length": str(sending.length)}
    headers |= {name.lower(): value for name, value in sending.headers.items()}
    encoded_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": sending.status, "headers": encoded_headers}


async def _hang_up(scope: Scope) -> None:
    scope["state"]["hang_up"]()
    await anyio.sleep_forever()  # until the watcher sees that the connection is gone
