"""Errands: the model calls that are made for one compaction, one after another, and the event that they come to.

They stand beside the conversation, in the log like any other call. Within a turn they are the turn's; else the first of
them takes the lease, and whatever ends the errands gives it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..errors import VersionConflict
from ..events import NewEvent, Usage
from ..groups import Entry
from ..history import History
from ..ids import Position, ulid
from ..log import Appended, Break, LeaseChange, Query, Release, Take, record
from ..manifest import Manifest
from ..model import ModelFailure
from ..shield import bounded, finish
from ..summaries import UNFIT, unusable
from ..window.window import Window
from ..writer import HASTY
from .call import Hold
from .plan import Plan
from .requests import requested
from .side import Beside, SideCall, beside

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Check", "Chooses", "Declined", "Errands")

_ATTEMPTS: Final = 8
_PATIENCE: Final = 10.0
"""Seconds that giving the lease up may take."""
_CHANGES: Final = frozenset({"item.erased", "history.rewound", "context.compacted", "compaction.undone"})
"""What makes a stand-in one for something else than it was made of."""

Chooses: TypeAlias = Callable[[History, Sequence[Entry]], tuple[History, Manifest]]
"""From a history with the items at its end that a request is made with: what of it is sent."""
Check: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], str | None]
"""Returns why items cannot be used, None when they can."""


class Declined(Exception):
    """Nothing was compacted."""

    def __init__(self, reason: str, failure: ModelFailure | None = None) -> None:
        self.reason = reason
        self.failure = failure
        super().__init__(UNFIT.get(reason, failure.message if failure else reason))


class Errands:
    """What is asked of a model for a history. *hold* is that of the turn within which it is."""

    def __init__(self, engine: Engine, history: History, hold: Hold | None, expected: int | None) -> None:
        self.engine = engine
        self.history = history
        self.name = history.conversation
        self.usage = Usage()
        self.responses: list[int] = []
        """The calls that were made, by their seqs."""
        self._own = hold is None
        self._hold = hold or Hold(engine, self.name)
        self._beside = Beside(engine, self.name, self._hold)
        self._expected = expected
        """The version at which the first event must come."""

    async def close(self) -> None:
        """Give up what was taken, if it is still held."""
        if self._own:
            if self._hold.held:
                await finish(bounded(_PATIENCE, lambda: self._hold.append([], Release())))
            self._hold.dropped()

    # -- asking

    async def ask(self, plan: Plan, choose: Chooses, asking: NewEvent | None = None) -> SideCall:
        """Log a request, with what is asked as an item in front of it; return the call.

        Raises:
            VersionConflict, ConversationBusy, Fenced, StoreError.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self.engine.writer.quiet(self.name, needed=attempt >= HASTY) as quiet:
                    return await self._ask(plan, choose, asking, quiet=quiet)
            except VersionConflict:
                if self._expected is not None or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _ask(self, plan: Plan, choose: Chooses, asking: NewEvent | None, *, quiet: bool) -> SideCall:
        head = await self.engine.reader.head(self.name)
        self._check(head.version)
        history, prompts = self.history.copy(), list[Entry]()
        if asking is not None:
            seq = head.version + 1
            history.extend([record(self.name, seq, Position(""), 0, asking, seq)])
            prompts = list(history.groups[seq].entries)
        history, manifest = choose(history, prompts)
        blobs = asking.blobs if asking is not None else {}
        rendered = await self.engine.reader.rendered(history, manifest, plan.target, blobs)
        asked, body = await requested(
            plan, history, Window(rendered, manifest, plan.target, plan.budget, history.conversation), "compaction"
        )
        events = [asked] if asking is None else [beside(asking), asked]
        made: list[SideCall] = []

        def logged(appended: Appended) -> None:
            self._expected = None
            self.responses.append(appended.last)
            made.append(SideCall(self._beside, plan, appended.last, body))

        await self._append(events, logged, expected=head.version, bodies=plan.bodies, quiet=quiet)
        return made[0]

    def _check(self, version: int) -> None:
        if self._expected is not None and self._expected != version:
            raise VersionConflict(self.name, self._expected, version)

    async def _append(self, events: Sequence[NewEvent], then: Callable[[Appended], None], **more: Any) -> None:
        """Append a request, and take the lease with the first."""
        if self._hold.held:
            await self._hold.append(events, then=then, **more)
            return
        # The lease is named by what it is held for, the request itself.
        lease = Take(owner=ulid(self.engine.owner), seconds=self.engine.lease, turn=-len(events))

        async def take() -> None:
            appended = await self.engine.writer.append(self.name, events, lease=lease, **more)
            self._hold.taken(appended)
            then(appended)

        await finish(take())

    # -- receiving

    async def receive(self, call: SideCall, *, remote: bool, check: Check) -> dict[int, dict[str, Any]]:
        """Receive an answer and log it; return its items by seq.

        Raises:
            Declined: there is none, or it cannot be used.
        """
        try:
            reason = await self._received(call, remote=remote, check=check)
        except Declined:
            raise
        except BaseException as error:
            await call.break_off("crashed" if isinstance(error, Exception) else "cancelled")
            raise
        if reason is not None:
            raise Declined(reason)
        return {seq: call.items[seq] for seq in sorted(call.items)}

    async def _received(self, call: SideCall, *, remote: bool, check: Check) -> str | None:
        try:
            end = await call.receive(lambda _: None)
        except ModelFailure as failure:
            await call.fail(failure)
            raise Declined(failure.kind, failure) from failure
        items = [*(call.items[seq] for seq in sorted(call.items)), *(one.item for one in call.rest())]
        reason = unusable(items, end.status, remote=remote) or check(items)
        await call.complete(end, [], None, lambda _: None, reason=reason)
        self.usage += end.usage or Usage(requests=1)
        return reason

    # -- the end

    async def conclude(self, compacted: NewEvent, last: LeaseChange | None) -> int:
        """Log what it has all come to; return its seq. *last* is what becomes of a turn's lease with it.

        Raises:
            Declined: something of it has changed meanwhile.
            VersionConflict, ConversationBusy, Fenced, StoreError.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self.engine.writer.quiet(self.name, needed=attempt >= HASTY) as quiet:
                    return await self._conclude(compacted, last, quiet=quiet)
            except VersionConflict:
                if self._expected is not None or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _conclude(self, compacted: NewEvent, last: LeaseChange | None, *, quiet: bool) -> int:
        snapshot = await self.engine.store.read(self.name, Query(after=self.history.version))
        version, records = (snapshot.head.version, snapshot.records[0]) if snapshot else (0, ())
        self._check(version)
        changed = next((one.kind for one in records if one.kind in _CHANGES), None)
        if changed is not None:
            raise Declined(f"meanwhile there was a {changed}")
        if not self._hold.held:
            done = await self.engine.writer.append(self.name, [compacted], expected=version, lease=Break(), quiet=quiet)
            return done.last
        seqs: list[int] = []
        await self._hold.append(
            [compacted],
            Release() if self._own else last,
            then=lambda appended: seqs.append(appended.last),
            expected=version,
            quiet=quiet,
        )
        return seqs[0]
