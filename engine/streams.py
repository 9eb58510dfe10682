"""Streams: a turn that somebody may watch.

The turn works in the engine's task group and writes what happens into a channel; whoever holds the stream reads it, in
any task. No cancel scope is open while a caller holds the stream, so it may be opened, read, closed and abandoned in
different tasks.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Literal, TypeAlias

import anyio

from .model import StreamEvent
from .outcome import Result

__all__ = ("Channel", "Opening", "Stream")

Start: TypeAlias = "Callable[[], Awaitable[Channel]]"


class Channel:
    """What a working turn has said, and how it ended. Unbounded: a slow reader must not hold the model up."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.leaves: Callable[[], None] = lambda: None
        """Told when the reader has left, before the work is cancelled."""
        self._events: deque[StreamEvent] = deque()
        self._news = anyio.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self.ended = anyio.Event()

    def emit(self, event: StreamEvent) -> None:
        """Say something."""
        self._events.append(event)
        self._news.set()

    def end(self, result: Result | None, error: BaseException | None = None) -> None:
        """Say how it ended."""
        self._result, self._error = result, error
        self.ended.set()
        self._news.set()

    async def next(self) -> StreamEvent | None:
        """Return the next event, None after the last."""
        while not self._events:
            if self.ended.is_set():
                return None
            self._news = anyio.Event()
            await self._news.wait()
        return self._events.popleft()

    def outcome(self) -> Result:
        """Return the result, or raise what the turn raised."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


class Stream:
    """The events of a turn, as they happen; an async iterator, for one reader at a time."""

    def __init__(self, channel: Channel, on_leave: Literal["cancel", "finish"]) -> None:
        self._channel = channel
        self._on_leave = on_leave
        self._closed = False
        loop = asyncio.get_running_loop()
        self._finalizer = weakref.finalize(self, _abandoned, channel, on_leave, loop)
        self._finalizer.atexit = False

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Yield events until the turn ends; a failure is raised after the last of them."""
        while (event := await self._channel.next()) is not None:
            yield event
        self._channel.outcome()

    async def result(self) -> Result:
        """Read what is left, then return the outcome.

        Raises:
            ResponseFailed: the model did not answer.
        """
        while await self._channel.next() is not None:
            pass
        return self._channel.outcome()

    async def aclose(self) -> None:
        """Leave the stream. A turn that is not over is cancelled, or goes on unseen, as `on_leave` says."""
        if self._closed:
            return
        self._closed = True
        self._finalizer.detach()
        if self._channel.ended.is_set() or self._on_leave == "finish":
            return
        self._channel.leaves()
        self._channel.scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._channel.ended.wait()


def _abandoned(channel: Channel, on_leave: str, loop: asyncio.AbstractEventLoop) -> None:
    """A stream was dropped without `aclose`: do the same, from whatever thread the garbage collector runs in."""
    if channel.ended.is_set() or on_leave == "finish" or loop.is_closed():
        return

    def leave() -> None:
        channel.leaves()
        channel.scope.cancel()

    loop.call_soon_threadsafe(leave)
    warnings.warn("a turnlog stream was dropped without aclose(); its turn is cancelled", ResourceWarning, stacklevel=2)


class Opening:
    """A stream about to be opened: `async with` it, or `await` it and `aclose()` it later, from any task."""

    def __init__(self, start: Start, on_leave: Literal["cancel", "finish"]) -> None:
        self._start = start
        self._on_leave: Literal["cancel", "finish"] = on_leave
        self._stream: Stream | None = None

    async def _open(self) -> Stream:
        return Stream(await self._start(), self._on_leave)

    def __await__(self) -> Generator[Any, None, Stream]:
        """Open the stream; everything that can be refused is refused here."""
        return self._open().__await__()

    async def __aenter__(self) -> Stream:
        self._stream = await self._open()
        return self._stream

    async def __aexit__(self, *exc: object) -> None:
        if self._stream is not None:
            await self._stream.aclose()
