"""Group commit: appends that wait for the same writer are written together.

The first append that finds nothing being written starts a task; it writes what waits, batch after batch, until nothing
does, and ends. So nothing is left running when nobody appends, and an idle store costs nothing.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from ..errors import StoreError, TurnlogError
from ..log import Append, Appended
from ..shield import finish

__all__ = ("Batcher", "Outcome")

Outcome: TypeAlias = Appended | Exception

_MOST: Final = 1000
"""Appends in one batch: more would make the first of them wait for the last."""
_MANY: Final = 32
"""Appends from which on a batch may be halved."""
_PREPARED: Final = 50e-6
"""Seconds, about, in which an append is prepared: checked, encoded, counted."""
_STOPPED: Final = "the writer was stopped: read the log to see whether this is in it"


class _Place:
    """An append in the queue."""

    __slots__ = ("append", "outcome", "taken", "woken")

    def __init__(self, append: Append, woken: asyncio.Future[None]) -> None:
        self.append = append
        self.taken = False
        self.outcome: Outcome | None = None
        self.woken = woken

    def settle(self, outcome: Outcome) -> None:
        self.outcome = outcome
        # It is done already where the waiter was cancelled.
        if not self.woken.done():
            self.woken.set_result(None)

    async def settled(self) -> None:
        """Wait for the outcome after all, although the waiter was cancelled."""
        while self.outcome is None:
            self.woken = self.woken.get_loop().create_future()
            await self.woken


class Batcher:
    """The queue in front of one writer."""

    def __init__(
        self,
        commit: Callable[[Sequence[Append]], Awaitable[Sequence[Outcome]]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._commit = commit
        self._clock = clock
        self._waiting: list[_Place] = []
        self._writing: asyncio.Task[None] | None = None
        self._took = 0.0
        """Seconds that the last commit took."""

    async def add(self, append: Append) -> Appended:
        """Write *append* in the next batch and return its own outcome.

        Cancelled before its batch begins, nothing is written; after that, the call waits for the batch first.
        """
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())
        place = _Place(append, self._writing.get_loop().create_future())
        self._waiting.append(place)
        try:
            await place.woken
        except BaseException:
            if place.taken:
                await finish(place.settled())
            else:
                self._waiting.remove(place)
            raise
        if isinstance(place.outcome, Exception):
            raise place.outcome
        assert place.outcome is not None
        return place.outcome

    async def drained(self) -> None:
        """Wait until nothing is being written."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        batch: Sequence[_Place] = ()
        try:
            while batch := self._batch():
                for place, outcome in zip(batch, await self._written(batch), strict=True):
                    place.settle(outcome)
        finally:
            self._writing = None
            # Only the end of the event loop cancels this task. Nobody may be left waiting for it.
            for place in (*batch, *self._waiting):
                place.settle(StoreError(_STOPPED))

    def _batch(self) -> Sequence[_Place]:
        """Take what is to be written next.

        While a commit is under way, the loop prepares the next appends of those who do not wait for it. If a commit is
        quicker than that, it takes half of what waits, so that the two go on beside each other.
        """
        waiting = len(self._waiting)
        quick = waiting >= _MANY and self._took < waiting * _PREPARED
        most = min(_MOST, -(-waiting // 2) if quick else waiting)
        batch, self._waiting = self._waiting[:most], self._waiting[most:]
        for place in batch:
            place.taken = True
        return batch

    async def _written(self, batch: Sequence[_Place]) -> Sequence[Outcome]:
        begun = self._clock()
        try:
            return await self._commit([place.append for place in batch])
        except Exception as error:  # noqa: BLE001 - everyone in the batch is told
            return [_twin(error) for _ in batch]
        finally:
            self._took = self._clock() - begun


def _twin(error: Exception) -> Exception:
    """Return an error to be raised in one task of several: each adds its own traceback to it."""
    if not isinstance(error, TurnlogError):
        return error  # others cannot all be copied
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
