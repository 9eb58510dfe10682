"""What the adapters of OpenAI's APIs share: sending a body, reading server-sent events, naming what went wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import openai

from turnlog.engine.canonical import salvage
from turnlog.engine.model import ModelFailure

__all__ = ("Answer", "Said", "ServerSentEvents", "failure", "label", "receive")


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


class ServerSentEvents:
    """Splits bytes into the data of server-sent events, wherever the bytes were cut. Sans I/O."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._after_return = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of each event that *chunk* completes."""
        for piece in chunk.splitlines(keepends=True):
            if self._after_return and piece == b"\n":
                self._after_return = False
                continue  # the second half of a line end that was cut in two
            body = piece.rstrip(b"\r\n")
            ended = len(body) < len(piece)
            self._after_return = piece.endswith(b"\r")
            self._line += body
            if ended:
                yield from self._end_of_line()

    def finish(self) -> Iterator[bytes]:
        """Yield the last event, if its server forgot the empty line behind it."""
        if self._line:
            yield from self._end_of_line()
        if self._data:
            yield from self._end_of_line()

    def _end_of_line(self) -> Iterator[bytes]:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            if self._data:
                yield b"\n".join(self._data)
                self._data.clear()
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))


async def receive(opening: AbstractAsyncContextManager[Any]) -> AsyncIterator[Said]:
    """Send a request; yield the JSON of its answer, event by event, or whole where the server does not stream.

    `[DONE]` is yielded as the string that it is.

    Raises:
        ModelFailure: there is no answer, it broke off, or it cannot be read.
    """
    try:
        async with opening as answer:
            async for said in _said(answer):
                yield said
    except openai.OpenAIError as error:
        raise failure(error) from error
    except (ModelFailure, GeneratorExit):
        raise
    except Exception as error:
        # The client hands bytes on as its HTTP library reads them, with that library's errors.
        raise ModelFailure(
            "stream", f"the answer broke off: {str(error) or type(error).__name__}", retryable=True
        ) from error


async def _said(answer: Answer) -> AsyncIterator[Said]:
    kind = answer.headers.get("content-type", "")
    retries = int(getattr(answer, "retries_taken", 0) or 0)
    if "text/event-stream" not in kind and "json" in kind:
        body = b"".join([chunk async for chunk in answer.iter_bytes()])
        yield Said(*_parsed(body), streamed=False, retries=retries)
        return
    events = ServerSentEvents()
    async for chunk in answer.iter_bytes():
        for data in events.feed(chunk):
            yield _event(data, retries)
    for data in events.finish():
        yield _event(data, retries)


def _event(data: bytes, retries: int) -> Said:
    if data.strip() == b"[DONE]":
        return Said("[DONE]", [], streamed=True, retries=retries)
    return Said(*_parsed(data), streamed=True, retries=retries)


def _parsed(data: bytes) -> tuple[Any, list[str]]:
    try:
        return salvage(data)
    except ValueError as error:
        raise ModelFailure("answer", f"the answer is no JSON: {error}", retryable=True) from error


def failure(error: openai.OpenAIError) -> ModelFailure:
    """Return what an error of openai's client says."""
    message = str(getattr(error, "message", None) or error)
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return ModelFailure(
            "http",
            message,
            code=error.code or None,
            status_code=status,
            retryable=status in (408, 409, 429) or status >= 500,
            retries=_retries(error.request),
        )
    if isinstance(error, openai.APITimeoutError):
        return ModelFailure("timeout", message, retryable=True, retries=_retries(error.request))
    if isinstance(error, openai.APIConnectionError):
        return ModelFailure("connection", message, retryable=True, retries=_retries(error.request))
    return ModelFailure("client", message)


def _retries(request: Any) -> int:
    headers: Mapping[str, str] = getattr(request, "headers", {})
    count = headers.get("x-stainless-retry-count", "0")
    return int(count) if count.isdigit() else 0


def said_error(error: Any) -> ModelFailure:
    """Return what an error inside an answer says."""
    told = error if isinstance(error, Mapping) else {}
    code = told.get("code") or told.get("type")
    message = str(told.get("message") or "the server reported an error")
    status = told.get("status") if isinstance(told.get("status"), int) else None
    lasting = code in ("invalid_request_error", "context_length_exceeded", "invalid_prompt")
    return ModelFailure(
        "model", message, code=None if code is None else str(code), status_code=status, retryable=not lasting
    )


def label(client: Any) -> str:
    """Return the default label of a client's backend: its host."""
    host = getattr(getattr(client, "base_url", None), "host", None)
    return str(host) if host else "unknown"
