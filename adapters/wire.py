"""What the adapters of OpenAI's APIs share: sending a body, reading server-sent events, naming what went wrong.

openai's package takes long to import, and what was recorded is read without it: it comes in where a client is at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    aclosing,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import anyio

from turnlog.engine.canonical import salvage
from turnlog.engine.checks import seconds
from turnlog.engine.errors import Invalid
from turnlog.engine.model import ModelFailure, helps
from turnlog.engine.threads import READ, apart
from turnlog.engine.window.budget import accepted

if TYPE_CHECKING:
    import openai

__all__ = (
    "DONE",
    "LONE",
    "Answer",
    "Said",
    "ServerSentEvents",
    "check",
    "check_client",
    "drain",
    "failing",
    "failure",
    "is_openai",
    "label",
    "of_cache",
    "receive",
    "said_error",
)

DONE: Final = "[DONE]"
"""What stands for the end of a stream in place of JSON."""
_LINGER: Final = 0.5
"""Seconds that a server has to end its answer properly behind the last event."""
_LONGEST: Final = 2000
"""Characters of an error's message: some servers answer with a whole page."""
_SHOWN: Final = 160
"""Characters of what came in place of an answer that its failure shows."""
_MARK: Final = b"\xef\xbb\xbf"
_FIELD: Final = re.compile(rb"(\xef\xbb\xbf)?\s*(:|(data|event|id|retry)\s*(:|\r|\n|$))")
"""How a stream of events begins."""
LONE: Final = "a lone surrogate became U+FFFD"
"""What is said of half a character that was replaced."""
_TOO_LONG: Final = re.compile(r"context (length|window)|(prompt|input) is too long|too many tokens")
_UNFOUND: Final = re.compile(r"items? with id .{0,200}not found", re.DOTALL | re.IGNORECASE)
_UNREADABLE: Final = re.compile(r"encrypted content .{0,200}could not be (verified|decrypted|decoded)", re.DOTALL)


class Answer(Protocol):
    """An HTTP answer of openai's client, as `with_streaming_response` gives it."""

    headers: Mapping[str, str]
    retries_taken: int

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        ...


class Said(NamedTuple):
    """One JSON value of an answer."""

    value: Any
    repaired: list[str]
    streamed: bool
    """Whether it is an event of a stream, rather than the whole answer."""
    retries: int
    cut: Any = None
    """The same with the halves of characters that were replaced in it, where there are any."""


class ServerSentEvents:
    """Splits bytes into the data of server-sent events, wherever the bytes were cut. Sans I/O.

    As the HTML standard says: lines end in CR, LF or both, a first byte order mark is skipped, several data lines of
    one event are joined by LF. Of the fields only the data is read: OpenAI's events name themselves in it.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._after_return = False
        self._begun = False
        self.any = False
        """Whether an event has come."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of each event that *chunk* completes."""
        for piece in chunk.splitlines(keepends=True):
            if self._after_return and piece == b"\n":
                self._after_return = False
                continue  # the second half of a line end that was cut in two
            self._after_return = piece.endswith(b"\r")
            line = piece.rstrip(b"\r\n")
            if len(line) == len(piece):
                self._line += line  # what is missing of it is in the next chunk
                continue
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            event = self._ended(line)
            if event is not None:
                yield event

    def finish(self) -> Iterator[bytes]:
        """Yield the last event, if its server forgot the empty line behind it."""
        for line in (bytes(self._line), b""):
            event = self._ended(line)
            if event is not None:
                yield event
        self._line.clear()

    def _ended(self, line: bytes) -> bytes | None:
        """Take a whole line in; return the data of the event that it ends."""
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_MARK)
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data:
            return None
        self.any = True
        data = b"\n".join(self._data)
        self._data.clear()
        return data


async def receive(
    opening: AbstractAsyncContextManager[Any], *, stall: float | None = None
) -> AsyncGenerator[Said, None]:
    """Send a request; yield the JSON of its answer, event by event, or whole where the server does not stream.

    `[DONE]` is yielded as the string that it is. Closing the iterator closes the connection. *stall* is how many
    seconds may pass before the answer begins, and from one event to the next, whatever trickles in meanwhile.

    Raises:
        ModelFailure: there is no answer, it broke off, or it cannot be read.
    """
    begun = False
    try:
        async with AsyncExitStack() as stack:
            with _limit(stall):
                answer = await stack.enter_async_context(opening)
            begun = True
            told = await stack.enter_async_context(aclosing(_said(answer)))
            while True:
                # No scope is open while the caller has what was said.
                with _limit(stall):
                    said = await anext(told, None)
                if said is None:
                    return
                yield said
    except ModelFailure:
        raise
    except Exception as error:
        raise _named(error, begun=begun) from error


def _named(error: Exception, *, begun: bool) -> ModelFailure:
    """Return what an error of the client says, or one of its HTTP library: what reads bytes meets those."""
    import openai  # noqa: PLC0415 - see above

    return failure(error) if isinstance(error, openai.OpenAIError) else _broken(error, begun=begun)


_UNLIMITED: Final = nullcontext()


def _limit(seconds: float | None) -> AbstractContextManager[None]:
    """Return what limits one step; without a limit nothing, for it is asked for at every event."""
    return _UNLIMITED if seconds is None else _limited(seconds)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise ModelFailure("timeout", f"the answer stalled: nothing came for {seconds:g} s", retryable=True)


@contextmanager
def failing() -> Iterator[None]:
    """Raise what goes wrong with a client's call as a `ModelFailure`."""
    import openai  # noqa: PLC0415 - see above

    try:
        yield
    except openai.OpenAIError as error:
        raise failure(error) from error


async def drain(answer: AsyncIterator[Said]) -> None:
    """Read what is behind the last event, so that the connection may serve again; a server that lingers is left."""
    with suppress(ModelFailure), anyio.move_on_after(_LINGER):
        async for _ in answer:
            pass


async def _said(answer: Answer) -> AsyncGenerator[Said, None]:
    kind = answer.headers.get("content-type", "")
    retries = int(getattr(answer, "retries_taken", 0) or 0)
    if "text/event-stream" not in kind and "json" in kind:
        body = b"".join([chunk async for chunk in answer.iter_bytes()])
        yield await _whole(body, kind, retries)
        return
    events = ServerSentEvents()
    other = bytearray()
    async for chunk in answer.iter_bytes():
        for data in events.feed(chunk):
            if data.strip():
                yield await _event(data, retries)
        if not events.any and _is_other(other):
            other += chunk
    for data in events.finish():
        if data.strip():
            yield await _event(data, retries)
    if not events.any and other.strip() and _is_other(other):
        yield await _whole(bytes(other), kind, retries)


def _is_other(body: bytes | bytearray) -> bool:
    """Return whether what came so far may be something else than a stream of events."""
    return _FIELD.match(body) is None


async def _event(data: bytes, retries: int) -> Said:
    if data.strip() == DONE.encode():
        return Said(DONE, [], streamed=True, retries=retries)
    try:
        value, repaired = await apart(salvage, data, when=len(data) >= READ)
    except ValueError as error:
        raise ModelFailure("answer", f"the answer is no JSON: {error}", retryable=True, retries=retries) from error
    # A character may have been cut in two: the other half is in another event.
    cut = _unrepaired(data) if any(one.endswith(LONE) for one in repaired) else None
    return Said(value, repaired, streamed=True, retries=retries, cut=cut)


def _unrepaired(data: bytes) -> Any:
    text = data.decode(errors="replace").removeprefix("\ufeff")
    return json.loads(text, parse_int=float)  # only its texts are looked at


async def _whole(body: bytes, kind: str, retries: int) -> Said:
    try:
        value, repaired = await apart(salvage, body, when=len(body) >= READ)
    except ValueError as error:
        told = body[: 4 * _SHOWN].decode(errors="replace").strip()[:_SHOWN]
        what = "no JSON" if "json" in kind or told.startswith("{") else "no stream of events, and no JSON"
        message = f"the answer is {what}: {error}; it came as {kind or 'nothing said'}: {told!r}"
        raise ModelFailure("answer", message, retryable=True, retries=retries) from error
    return Said(value, repaired, streamed=False, retries=retries)


def _broken(error: Exception, *, begun: bool) -> ModelFailure:
    """Return what an error of the HTTP library says, or of the client while it made the request."""
    what = str(error) or type(error).__name__
    if not begun:
        return ModelFailure("client", f"the request cannot be sent: {what}")
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return ModelFailure("timeout", f"the answer stopped: {what}", retryable=True)
    return ModelFailure("stream", f"the answer broke off: {what}", retryable=True)


def failure(error: openai.OpenAIError) -> ModelFailure:
    """Return what an error of openai's client says."""
    import openai  # noqa: PLC0415 - see above

    message = str(getattr(error, "message", None) or error)[:_LONGEST]
    if isinstance(error, openai.APIStatusError):
        return ModelFailure(
            "http",
            message,
            code=_code(error.code, message),
            param=error.param if isinstance(error.param, str) else None,
            status_code=error.status_code,
            retryable=_again(error),
            retries=_retries(error.request),
        )
    if isinstance(error, openai.APITimeoutError):
        return ModelFailure("timeout", message, retryable=True, retries=_retries(error.request))
    if isinstance(error, openai.APIConnectionError):
        return ModelFailure("connection", message, retryable=True, retries=_retries(error.request))
    return ModelFailure("client", message)


def _code(said: object, message: str) -> str | None:
    """Return an error's code; where a server gives none, or but a number, the one that its message stands for."""
    code = str(said) if said else None
    if code is None or code.isdigit():
        if _TOO_LONG.search(message):
            return "context_length_exceeded"
        if _UNREADABLE.search(message):
            return "invalid_encrypted_content"
        if _UNFOUND.search(message):
            return "item_not_found"
    return code


def _again(error: openai.APIStatusError) -> bool:
    """Return whether the same request may be answered later: the server's own word first, as in openai's client."""
    word = error.response.headers.get("x-should-retry")
    if word in ("true", "false"):
        return bool(word == "true")
    status = error.status_code
    return (status in (408, 409, 429) or status >= 500) and error.code != "insufficient_quota"


def _retries(request: Any) -> int:
    headers: Mapping[str, str] = getattr(request, "headers", {})
    count = headers.get("x-stainless-retry-count", "0")
    return int(count) if count.isdigit() else 0


def said_error(error: Any, retries: int = 0) -> ModelFailure:
    """Return what an error inside an answer says: an object, nested or flat, or a mere text."""
    told = error if isinstance(error, Mapping) else {"message": error}
    kind = told.get("type")
    message = str(told.get("message") or "the server reported an error")
    name = _code(told.get("code") or (kind if kind != "error" else None), message)
    status = next((told[key] for key in ("status", "status_code") if type(told.get(key)) is int), None)
    return ModelFailure(
        "model",
        message[:_LONGEST],
        code=name,
        param=told["param"] if isinstance(told.get("param"), str) else None,
        status_code=status,
        retryable=helps(name),
        retries=retries,
    )


def label(client: Any) -> str:
    """Return the default label of a client's backend: its host, and its port where that is not the scheme's own."""
    url = getattr(client, "base_url", None)
    host, port = getattr(url, "host", None), getattr(url, "port", None)
    if not host:
        return "unknown"
    return f"[{host}]:{port}" if port and ":" in host else f"{host}:{port}" if port else str(host)


def is_openai(client: Any) -> bool:
    """Return whether a client speaks to OpenAI itself, whatever the label of its backend."""
    host = str(getattr(getattr(client, "base_url", None), "host", None) or "")
    return f".{host}".endswith(".api.openai.com")


def of_cache(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameter that says whose requests share a prompt cache, where the settings do."""
    return {"prompt_cache_key": settings["cache_key"]} if "cache_key" in settings else {}


def check_client(client: object, part: str) -> None:
    """See to it that a client is one that can be waited for, and has the *part* of the API that is needed.

    Raises:
        Invalid: it is not.
    """
    import openai  # noqa: PLC0415 - see above

    kind = type(client).__name__
    if isinstance(client, openai.OpenAI):
        raise Invalid(f"client=an {kind}: it waits for answers where turnlog goes on; pass an Async{kind}")
    if isinstance(client, type) or not (hasattr(type(client), part) or hasattr(client, part)):
        # What was passed may be a key, which belongs into no message.
        what = f"the class {client.__name__}" if isinstance(client, type) else None if client is None else f"a {kind}"
        raise Invalid(f"client={what}: an openai.AsyncOpenAI is needed, or a client of that shape")


def check(model: object, budget: object, count: object, backend: object, stall: object = None) -> None:
    """See to it that an adapter's arguments are what they should be.

    Raises:
        Invalid: one of them is not.
    """
    if not isinstance(model, str) or not model:
        raise Invalid(f"model={model!r:.100}: the model's name is needed, such as 'gpt-5'")
    accepted(budget)
    if count is not None and not callable(count):
        raise Invalid(f"count={count!r:.100}: a function from a text to its number of tokens is needed")
    if stall is not None:
        seconds("stall", stall, 0.001, 86_400.0)
    if backend is not None and not isinstance(backend, str):
        raise Invalid(f"backend={backend!r:.100}: a text is needed, such as 'eu-west'")
