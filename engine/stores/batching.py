"""Group commit: appends that wait for the same writer are written together.

An append that finds no commit asked for asks for one, and a commit takes what waits when it begins. So the next one can
be asked for while the last is under way, and begin right behind it, whatever the event loop is busy with. Nothing is
left running when nobody appends, and an idle store costs nothing.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeAlias

from ..errors import StoreError, TurnlogError
from ..log import Append, Appended
from ..shield import finish

__all__ = ("Batcher", "Outcome", "Take")

Outcome: TypeAlias = Appended | Exception
Take: TypeAlias = Callable[[], Sequence[Append]]
"""Takes what is to be written now, from whatever thread."""

_MOST: Final = 1000
"""Appends in one batch: more would make the first of them wait for the last."""
_FEW: Final = 16
"""Who are woken at once where others are written meanwhile."""
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


class _Lot:
    """What one commit takes."""

    __slots__ = ("begun", "over", "places")

    def __init__(self) -> None:
        self.begun: float | None = None
        """When it was taken."""
        self.places: list[_Place] = []
        self.over = False
        """Whether they have been told; nothing is taken after that, nobody would be told."""


class Batcher:
    """The queue in front of one writer.

    Args:
        commit: writes what it takes, and returns the outcomes in that order.
        ahead: whether it may be called again as soon as it has taken; it must then itself write one batch after the
            other.
        clock: seconds.
    """

    def __init__(
        self,
        commit: Callable[[Take], Awaitable[Sequence[Outcome]]],
        *,
        ahead: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._commit = commit
        self._ahead = ahead
        self._clock = clock
        self._waiting: deque[_Place] = deque()
        self._taking = threading.Lock()
        self._asked = False
        """Whether there is a commit that will take what waits."""
        self._commits: set[asyncio.Task[None]] = set()
        self._written: deque[tuple[_Place, Outcome]] = deque()
        """Who is to be woken, with what."""
        self._took = 0.0
        """Seconds that the last commit took."""

    async def add(self, append: Append) -> Appended:
        """Write *append* in the next batch and return its own outcome.

        Cancelled before its batch begins, nothing is written; after that, the call waits for the batch first.
        """
        place = _Place(append, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        if not self._asked:
            self._ask()
        try:
            await place.woken
        except BaseException as error:
            # Closed together with its event loop it can wait for nothing.
            if not self._withdrawn(place) and not isinstance(error, GeneratorExit):
                await finish(place.settled())
            raise
        if isinstance(place.outcome, Exception):
            raise place.outcome
        assert place.outcome is not None
        return place.outcome

    async def drained(self) -> None:
        """Wait until nothing is being written."""
        while self._commits:
            await asyncio.wait(self._commits)

    def _ask(self) -> None:
        self._asked = True
        lot = _Lot()
        commit = asyncio.ensure_future(self._write(lot))
        self._commits.add(commit)
        commit.add_done_callback(partial(self._ended, lot))

    def _withdrawn(self, place: _Place) -> bool:
        """Take a place out of the queue, if it is still there; return whether it was."""
        with self._taking:
            if not place.taken:
                self._waiting.remove(place)
            return not place.taken

    async def _write(self, lot: _Lot) -> None:
        try:
            outcomes = await self._commit(partial(self._take, lot))
            if lot.begun is not None and lot.places:
                self._took = self._clock() - lot.begun
        except Exception as error:  # noqa: BLE001 - everyone in the batch is told
            if lot.begun is None:
                self._take(lot)
            outcomes = [_twin(error) for _ in lot.places]
        lot.over = True
        self._wake(zip(lot.places, outcomes, strict=True))
        self._go_on()

    def _ended(self, lot: _Lot, commit: asyncio.Task[None]) -> None:
        """See to it that nobody is left waiting if a commit was stopped, perhaps before its first step.

        Only the end of the event loop does that. Whoever waits on then, to clean up, is written by another commit.
        """
        self._commits.remove(commit)
        if lot.over:
            return
        with self._taking:
            lot.over = True
        for place in lot.places:
            place.settle(StoreError(_STOPPED))
        self._asked = False
        self._go_on()

    def _go_on(self) -> None:
        # Where several commits may be asked for, `_take` says so, in the writer's thread perhaps.
        if not self._ahead:
            self._asked = False
        if self._waiting and not self._asked:
            self._ask()

    def _take(self, lot: _Lot) -> Sequence[Append]:
        """Take what is to be written; whoever comes meanwhile asks for another commit, if perhaps in vain."""
        lot.begun = self._clock()
        if self._ahead:
            self._asked = False
        with self._taking:
            for _ in range(0 if lot.over else min(len(self._waiting), _MOST)):
                place = self._waiting.popleft()
                place.taken = True
                lot.places.append(place)
        return [place.append for place in lot.places]

    def _wake(self, written: Iterable[tuple[_Place, Outcome]]) -> None:
        """Wake those who were written.

        They prepare their next appends. If a commit is quicker than that, they are woken a few at a time, so that what
        the first of them have prepared is written meanwhile.
        """
        waking = bool(self._written)
        self._written.extend(written)
        if not waking:
            self._wake_some()

    def _wake_some(self) -> None:
        number = len(self._written)
        if self._took < (number + len(self._waiting)) * _PREPARED:
            number = min(number, _FEW)
        for _ in range(number):
            place, outcome = self._written.popleft()
            place.settle(outcome)
        if self._written:
            asyncio.get_running_loop().call_soon(self._wake_some)


def _twin(error: Exception) -> Exception:
    """Return an error to be raised in one task of several: each adds its own traceback to it."""
    if not isinstance(error, TurnlogError):
        return error  # others cannot all be copied
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
