"""Responses that a scripted server works on in the background: whoever asks sees how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio

from .wire import JSON, named_frame

__all__ = ("Run",)

_OVER: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})


class Run:
    """One such response: the events that have happened so far, and those who wait for more."""

    def __init__(self, queued: JSON, ended: Callable[[JSON], None]) -> None:
        self.response = queued
        """The response as it stands."""
        self.task: asyncio.Task[None] | None = None
        self._ended = ended
        self._events: list[JSON] = []
        self._news = anyio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.response["status"] in _OVER

    def happen(self, event: JSON) -> None:
        """Let one event happen; its number in the sequence is the next one."""
        self._events.append({**event, "sequence_number": len(self._events)})
        if "response" in event:
            output = self.response["output"]
            self.response = event["response"]
            if not self.over:
                self.response = {**self.response, "output": output}
        elif event["type"] == "response.output_item.done":
            self.response = {**self.response, "output": [*self.response["output"], event["item"]]}
        if self.over:
            self._ended(self.response)
        self._wake()

    def cancel(self) -> None:
        """Stop working on it, unless it is over."""
        if not self.over:
            self.response = {**self.response, "status": "cancelled"}
            self._ended(self.response)
            if self.task is not None:
                self.task.cancel()
            self._wake()

    async def frames(self, after: int = -1) -> AsyncIterator[bytes]:
        """Yield the events behind number *after*, those that are to come too."""
        at = after + 1
        while True:
            for event in self._events[at:]:
                at += 1
                yield named_frame(event)
            if self.over and at >= len(self._events):
                return
            await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()
