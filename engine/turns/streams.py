"""Streams: a turn that somebody may watch.

The turn works in the engine's crew and writes what happens into a channel; whoever holds the stream reads it, in any
task. No cancel scope is open while a caller holds the stream, so it may be opened, read, closed and abandoned in
different tasks.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Literal, Self, TypeAlias

import anyio

from ..errors import Invalid
from ..model import StreamEvent
from .outcome import Result

__all__ = ("Channel", "Opening", "Stream")

Start: TypeAlias = "Callable[[], Awaitable[Channel]]"


class Channel:
    """What a working turn has said, and how it ended. Unbounded: a slow reader must not hold the model up."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self._events: deque[StreamEvent] = deque()
        self._news: anyio.Event | None = None
        """What readers wait for; None where nobody does."""
        self._result: Result | None = None
        self._error: Exception | None = None
        self._watched = True
        self._leaves: Callable[[], None] = lambda: None

    def on_leave(self, leaves: Callable[[], None]) -> None:
        """Have *leaves* called when the reader leaves, before the work is cancelled."""
        self._leaves = leaves

    def emit(self, event: StreamEvent) -> None:
        """Say something."""
        if self._watched:
            self._events.append(event)
            self._wake()

    def end(self, result: Result | None, error: Exception | None = None) -> None:
        """Say how it ended."""
        self._result, self._error = result, error
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set()

    def unwatched(self) -> None:
        """Keep nothing more: the reader has left, and the work goes on."""
        self._watched = False
        self._events.clear()

    def cancel(self) -> None:
        """Cancel the work: the reader has left."""
        self.unwatched()
        if not self.ended.is_set():
            self._leaves()
            self.scope.cancel()

    async def next(self) -> StreamEvent | None:
        """Return the next event, None after the last."""
        while not self._events:
            if self.ended.is_set():
                return None
            # All readers wait for one event: with one that each of them makes, the first would wait for ever.
            self._news = news = self._news or anyio.Event()
            await news.wait()
        return self._events.popleft()

    def outcome(self) -> Result:
        """Return the result, or raise what the turn raised."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


class Stream:
    """The events of a turn, as they happen: an async iterator."""

    def __init__(self, channel: Channel, on_leave: Literal["cancel", "finish"]) -> None:
        self._channel = channel
        self._on_leave = on_leave
        self._loop = asyncio.get_running_loop()
        self._finalizer = weakref.finalize(self, _abandoned, channel, on_leave, self._loop)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        """Iterate over the events until the turn ends; a failure is raised after the last of them."""
        return self

    async def __anext__(self) -> StreamEvent:
        """Return the next event.

        Raises:
            ResponseFailed: the model did not answer; code "interrupted": the stream or the engine was closed meanwhile.
        """
        event = await self._next()
        if event is None:
            self._channel.outcome()
            raise StopAsyncIteration
        return event

    async def result(self) -> Result:
        """Read what is left, then return the outcome.

        Raises:
            ResponseFailed: the model did not answer; code "interrupted": the stream or the engine was closed meanwhile.
        """
        while await self._next() is not None:
            pass
        return self._channel.outcome()

    async def _next(self) -> StreamEvent | None:
        if asyncio.get_running_loop() is not self._loop:
            raise Invalid("this stream belongs to another event loop: read it where it was opened")
        return await self._channel.next()

    async def aclose(self) -> None:
        """Leave the stream. A turn that is not over is cancelled, or goes on unseen, as `on_leave` says."""
        self._finalizer.detach()
        if self._on_leave == "finish":
            self._channel.unwatched()
            return
        self._channel.cancel()
        with anyio.CancelScope(shield=True):
            await self._channel.ended.wait()


def _abandoned(channel: Channel, on_leave: str, loop: asyncio.AbstractEventLoop) -> None:
    """A stream was dropped without `aclose`: do the same, from whatever thread the garbage collector runs in."""
    if channel.ended.is_set() or loop.is_closed():
        return
    loop.call_soon_threadsafe(channel.unwatched if on_leave == "finish" else channel.cancel)
    if on_leave != "finish":
        message = "a turnlog stream was dropped without aclose(); its turn is cancelled"
        warnings.warn(message, ResourceWarning, stacklevel=2)


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
