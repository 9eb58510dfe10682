"""Group commit: appends that wait for the same writer are written together, by one of those who wait.

Whoever finds the writer free becomes the leader: it writes everything that waits, its own append among it, wakes the
others with their results, and hands the lead to the first who came meanwhile. There is no background task, so nothing
is left running when nobody appends, and an idle store costs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import anyio

from ..errors import StoreError, TurnlogError
from ..log import Append, Appended
from ..shield import finish

__all__ = ("Batcher", "Outcome")

Outcome: TypeAlias = Appended | Exception

_MOST: Final = 1000
"""Appends in one batch: more would make the first of them wait for the last."""


class _Place:
    """An append in the queue."""

    __slots__ = ("append", "leads", "outcome", "taken", "woken")

    def __init__(self, append: Append) -> None:
        self.append = append
        self.woken = anyio.Event()
        self.taken = False
        self.leads = False
        self.outcome: Outcome | None = None

    def settle(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.woken.set()


class Batcher:
    """The queue in front of one writer."""

    def __init__(self, commit: Callable[[Sequence[Append]], Awaitable[Sequence[Outcome]]]) -> None:
        self._commit = commit
        self._waiting: list[_Place] = []
        self._busy = False
        self._idle = anyio.Event()
        self._idle.set()

    async def add(self, append: Append) -> Appended:
        """Write *append* in the next batch and return its own outcome.

        Cancelled before its batch begins, nothing is written; after that, the call waits for the batch first.
        """
        place = _Place(append)
        self._waiting.append(place)
        if self._busy:
            await self._wait(place)
        else:
            self._busy = True
            self._idle = anyio.Event()
        if place.outcome is None:
            await finish(self._lead())
        if isinstance(place.outcome, Exception):
            raise place.outcome
        assert place.outcome is not None
        return place.outcome

    async def drained(self) -> None:
        """Wait until nothing is being written."""
        await self._idle.wait()

    async def _wait(self, place: _Place) -> None:
        try:
            await place.woken.wait()
        except BaseException:
            if place.taken:
                await finish(_set(place.woken))
            else:
                self._waiting.remove(place)
                if place.leads:
                    self._hand_over()
            raise

    async def _lead(self) -> None:
        batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        for place in batch:
            place.taken = True
        # Only the end of the event loop cancels this task. Nobody may be left waiting for it.
        stopped = "the writer was stopped: read the log to see whether this is in it"
        outcomes: Sequence[Appended | Exception] = [StoreError(stopped) for _ in batch]
        try:
            outcomes = await self._commit([place.append for place in batch])
        except Exception as error:  # noqa: BLE001 - everyone in the batch is told
            outcomes = [_twin(error) for _ in batch]
        finally:
            for place, outcome in zip(batch, outcomes, strict=True):
                place.settle(outcome)
            self._hand_over()

    def _hand_over(self) -> None:
        """Wake the next leader, if anyone waits."""
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].woken.set()
        else:
            self._busy = False
            self._idle.set()


async def _set(event: anyio.Event) -> None:
    await event.wait()


def _twin(error: Exception) -> Exception:
    """Return an error to be raised in one task of several: each adds its own traceback to it."""
    if not isinstance(error, TurnlogError):
        return error  # others cannot all be copied
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
