"""HTTP answers of the scripted server on their way: whole, event by event, or cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
from starlette.types import Message, Receive, Scope, Send

from .script import Fail, Raw
from .wire import encoded

__all__ = ("Following", "Sending", "as_given", "fault", "hang_up", "transmit", "while_connected", "whole")


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """An HTTP answer ready to send: *length* None is a stream, *cut* closes the connection instead of ending it.

    *last* is called right before the last frame is sent, or the cut made: what it does is done before the client can
    have seen the end.
    """

    status: int = 200
    media: str = "application/json"
    frames: Sequence[bytes]
    length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    last: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """A stream of events that somebody else makes, as they are made; *cut* closes the connection behind so many."""

    frames: AsyncIterator[bytes]
    cut: int | None = None


def fault(fail: Fail) -> Sending:
    """Return a failure as an HTTP error with a body in OpenAI's shape."""
    usual = "server_error" if fail.status >= 500 else "invalid_request_error"
    kind = fail.type or ("rate_limit_error" if fail.status == 429 else usual)
    error = {"message": fail.message, "type": kind, "param": fail.param, "code": fail.code}
    return whole({"error": error}, status=fail.status, headers=fail.headers)


def as_given(raw: Raw) -> Sending:
    """Return what a script gave as bytes as an answer in one piece."""
    content = raw.content
    return Sending(status=raw.status, media=raw.content_type, frames=(content,), length=len(content))


def whole(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Sending:
    """Return a JSON value as an answer in one piece."""
    content = encoded(body)
    return Sending(status=status, frames=(content,), length=len(content), headers=headers or {})


async def while_connected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do *work*; if the client hangs up meanwhile, it is cancelled."""
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await work()
        group.cancel_scope.cancel()


async def transmit(
    sending: Sending | Following, request_id: str, scope: Scope, send: Send, *, pieces: int | None = None
) -> None:
    """Send an answer; with *pieces*, in chunks of so many bytes, wherever that cuts it."""
    if pieces is not None:
        send = _in_pieces(send, pieces)
    if isinstance(sending, Following):
        await _follow(sending, request_id, scope, send)
        return
    if sending.length is not None:
        await anyio.sleep(sending.delay)
        sending.last()
    await send(_start(sending, request_id))
    end = len(sending.frames) - 1
    for index, frame in enumerate(sending.frames):
        # Without a delay too, others run in between: the events arrive one by one.
        await anyio.sleep(sending.delay if index else 0)
        if index == end and sending.length is None:
            sending.last()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    if sending.cut:
        if not sending.frames:
            sending.last()
        await hang_up(scope)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _in_pieces(send: Send, size: int) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message["headers"] if name != b"content-length"]
            await send({**message, "headers": headers})
            return
        body = message.get("body", b"")
        for first in range(0, len(body), size):
            await send({**message, "body": body[first : first + size], "more_body": True})
        if not message.get("more_body"):
            await send({**message, "body": b""})

    return sent


async def _follow(following: Following, request_id: str, scope: Scope, send: Send) -> None:
    await send(_start(Sending(media="text/event-stream; charset=utf-8", frames=()), request_id))
    sent = 0
    if following.cut != 0:
        async for frame in following.frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            sent += 1
            if sent == following.cut:
                break
    if following.cut is not None and sent == following.cut:
        await hang_up(scope)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _start(sending: Sending, request_id: str) -> Message:
    headers = {"content-type": sending.media, "x-request-id": request_id}
    headers |= {"cache-control": "no-cache"} if sending.length is None else {"content-length": str(sending.length)}
    headers |= {name.lower(): value for name, value in sending.headers.items()}
    encoded_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": sending.status, "headers": encoded_headers}


async def hang_up(scope: Scope) -> None:
    """Close the connection from inside of a request."""
    scope["state"]["hang_up"]()
    await anyio.sleep_forever()  # until the watcher sees that the connection is gone
