"""The engine's background tasks: turns that are streamed, and the renewal of leases.

Not a task group: an engine may be entered in one task and left in another, as test fixtures and application servers
do, and a task group's cancel scope does not survive that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio

from ..logs import Log

__all__ = ("Crew",)

_log = Log("turnlog.engine")


class Crew:
    """Tasks that end at the latest when their crew does."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str, *, awaited: bool = False) -> None:
        """Let *work* run in the background; where it is *awaited*, its end is worth waiting for."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        if awaited:
            self._awaited.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._awaited.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("turnlog.task.failed", task=task.get_name(), error=type(error).__name__)

    async def settle(self, patience: float) -> None:
        """Wait so many seconds at most until what is awaited has ended, what begins meanwhile too."""
        with anyio.move_on_after(patience):
            while self._awaited:
                await asyncio.wait(self._awaited)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has cleaned up."""
        while self._tasks:
            # A task that is cancelled before its first step never begins, and could clean nothing up.
            await asyncio.sleep(0)
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
