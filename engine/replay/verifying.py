"""Verifying: every request that was ever sent, rebuilt from the log and compared with the digest of what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio
import msgspec

from ..codec import ITEM, REQUESTED, REQUESTS, RESTORE, body, damage, has_item
from ..errors import NotFound, TurnlogError
from ..events import ERASED, Record, ResponseRequested, checksum
from ..log import Head, Query, Snapshot
from ..manifest import SENT, Manifest
from ..paths import Reads, Shelf
from .comparing import compared
from .encoders import Encoders, encoders
from .rebuilding import Rebuilt, rebuild
from .running import Frames, Running

__all__ = ("Damage", "Divergence", "Report", "Verifier", "pages", "snapshots", "verify")

_PAGE: Final = 500
_EARLIEST: Final = -(10**16)
_LATEST: Final = 10**17
"""Between them every number of microseconds is a time."""
_MANIFEST: Final = b'"manifest":'
"""What requests say, and few others."""
_ANSWERED: Final = frozenset({"response.completed", "response.failed"})


class Divergence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that is not what was sent."""

    conversation: str
    response: int
    path: str
    """Where in the body the first difference is, as far as the log tells; exact where there is a copy to compare."""
    reason: str
    sent: Any = msgspec.UNSET
    """What was sent there; unset where nothing is left that says it, or nothing was."""
    rebuilt: Any = msgspec.UNSET
    """What the log gives there now; unset where that is nothing."""
    cause: str = ""
    """The first damaged event that it sent, as conversation/seq; of what forks share, where it was written."""


class Damage(msgspec.Struct, frozen=True):
    """An event that is not what was written, or is not there."""

    conversation: str
    """Where it was written: of what forks share, that is not they."""
    seq: int
    reason: str


class Report(msgspec.Struct):
    """What verifying found."""

    responses: int = 0
    verified: int = 0
    erased: int = 0
    diverged: list[Divergence] = []
    damaged: list[Damage] = []

    @property
    def sound(self) -> bool:
        """Whether every event is what was written, and every request what was sent."""
        return not (self.diverged or self.damaged)

    def add(self, other: Report) -> None:
        """Take another conversation's findings in."""
        self.responses += other.responses
        self.verified += other.verified
        self.erased += other.erased
        self.diverged += other.diverged
        self.damaged += other.damaged


async def verify(
    store: Shelf,
    name: str,
    known: Encoders | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Rebuild every request of a conversation and compare it with the digest of what was sent.

    In memory bounded by the largest window. *progress* is told the number of events as they are read.
    """
    return await (await Verifier.made(store, known)).verify(name, progress)


class Verifier:
    """Verifies conversations of one store; what they have in common is read once.

    Args:
        store: the log.
        known: the encoders.
        against: another copy of the log, such as a backup: where a request diverges, and the copy still gives what was
            sent, both values are told.
    """

    def __init__(self, store: Shelf, known: Encoders, against: Shelf | None = None) -> None:
        self._store = store
        self._known = known
        self._against = against
        self._frames = Frames(store, known)
        self._told: set[tuple[str, int]] = set()
        """Damage that was reported: what forks share is reported once."""

    @classmethod
    async def made(cls, store: Shelf, known: Encoders | None = None, against: Shelf | None = None) -> Verifier:
        """Return a verifier, by default with the encoders of all installed adapters."""
        if known is None:
            known = await anyio.to_thread.run_sync(encoders)  # the first time, it looks around on the disk
        return cls(store, known, against)

    async def verify(self, name: str, progress: Callable[[int], None] | None = None) -> Report:
        """Verify one conversation; see `verify`."""
        report = Report()
        running = Running(self._store, name, self._frames)
        seen: _Seen | None = None
        snapshot = await self._store.read(name, Query(limit=_PAGE))
        while snapshot is not None:
            seen = seen or _Seen(snapshot.head)
            page = snapshot.records[0]
            more = Query(after=page[-1].seq, limit=_PAGE) if len(page) == _PAGE else None
            # The next page is read while this one is looked at.
            reading = None if more is None else asyncio.ensure_future(self._read(name, more))
            try:
                await self._look(page, running, seen, report)
            except BaseException:
                if reading is not None:
                    reading.cancel()
                raise
            if progress is not None:
                progress(len(page))
            snapshot = None if reading is None else await reading
        if seen is not None:
            seen.end()
            for seq, (_, reason) in seen.damaged.items():
                place = await self._owner(name, seq), seq
                if place not in self._told:
                    self._told.add(place)
                    report.damaged.append(Damage(*place, reason))
        return report

    async def _read(self, name: str, query: Query) -> Snapshot | None:
        return await self._store.read(name, query)

    async def _look(self, page: Sequence[Record], running: Running, seen: _Seen, report: Report) -> None:
        """Verify the requests of a page."""
        if page:
            running.read(page)
            await self._frames.fetch(page)
        for record in page:
            seen.take(record)
            if record.kind == REQUESTED:
                await self._check(record, running, seen, report)
            elif record.item is None and await self._was_request(record):
                told = f"its kind is {record.kind}, where a {REQUESTED} was written: {RESTORE}"
                seen.damaged.setdefault(record.seq, (record.seq, told))

    async def _was_request(self, record: Record) -> bool:
        """Return whether an event was written as a request: then the log's index has it as one, whatever its row is."""
        if not isinstance(record.data, bytes) or _MANIFEST not in record.data:
            return False
        here = (Query(mark=mark, after=record.seq - 1, before=record.seq + 1) for mark in REQUESTS)
        snapshot = await self._store.read(record.conversation, *here)
        return snapshot is not None and any(snapshot.records)

    async def _owner(self, name: str, seq: int) -> str:
        """Return the conversation in which an event was written: a fork shares its parent's."""
        while True:
            snapshot = await self._store.read(name)
            parent = None if snapshot is None else snapshot.head.parent
            if parent is None or seq > parent[1]:
                return name
            name = parent[0]

    async def _check(self, request: Record, running: Running, seen: _Seen, report: Report) -> None:
        report.responses += 1
        said: ResponseRequested | None = None
        rebuilt: Rebuilt | None = None
        reason = f"the stored request is not what was written; {RESTORE}"
        if request.seq not in seen.damaged:
            try:
                known = body(request)
                assert isinstance(known, ResponseRequested)
                said = known
                follows = said.manifest.follows
                if seen.gone and any(said.manifest.fate(seq) in SENT for seq in seen.gone if seq > follows):
                    report.erased += 1
                    return
                if await running.proves(said):
                    report.verified += 1
                    return
                rebuilt = await rebuild(self._store, request, self._known, running.recent)
            except NotFound:
                report.erased += 1
                return
            except TurnlogError as error:
                reason = str(error)
        if rebuilt is not None and said is not None:
            if rebuilt.digest == said.digest:
                report.verified += 1
                return
            reason = rebuilt.reason or f"the body's digest is {rebuilt.digest}, what was sent had {said.digest}"
        report.diverged.append(await self._divergence(request, said, rebuilt, seen, reason))

    async def _divergence(
        self, request: Record, said: ResponseRequested | None, rebuilt: Rebuilt | None, seen: _Seen, reason: str
    ) -> Divergence:
        """Return where a request parts from what was sent, and both values, as far as they are known."""
        blamed = request.seq
        if said is not None:
            blamed = seen.blamed(said.manifest)
        cause = f"{await self._owner(request.conversation, blamed)}/{blamed}" if blamed else ""
        place = request.conversation, request.seq
        found = None
        if self._against is not None:
            with suppress(TurnlogError):  # it cannot tell
                found = await compared(self._store, self._against, self._known, request, rebuilt)
        if found is not None:
            return Divergence(*place, found.path, reason, found.old, found.new, cause)
        if rebuilt is None:
            return Divergence(*place, "$", reason, cause=cause)
        return Divergence(*place, rebuilt.path, reason, rebuilt=rebuilt.value, cause=cause)


class _Seen:
    """What the events of a conversation are, as far as they have been read."""

    def __init__(self, head: Head) -> None:
        self._version = 0 if head.deleted else head.version
        self._last = 0
        self._open: set[int] = set()
        """Requests without an answer so far."""
        self.damaged: dict[int, tuple[int, str]] = {}
        """What is not as it was written: the first seq, the last one, and why."""
        self.gone: list[int] = []
        """The items that were erased."""

    def take(self, record: Record) -> None:
        """Take the next event in."""
        if record.seq != self._last + 1:
            self._missing(record.seq - 1)
        self._last = record.seq
        erased = 0
        try:
            # What nearly every event is; `damage` says more. What cannot be put together here is no number.
            erased = record.flags & ERASED
            _ = record.flags | record.tokens | record.schema | (record.response or 0) | (record.excerpt or 0)
            sound = checksum(record.item, record.data) == record.sum and _EARLIEST < record.time < _LATEST
        except TypeError:
            sound = False
        if not sound and (reason := damage(record)):
            self.damaged[record.seq] = record.seq, reason
        if erased and has_item(record):
            self.gone.append(record.seq)
        if record.kind != ITEM:
            self._answers(record)

    def _answers(self, record: Record) -> None:
        """Take in what asks for an answer, or is the end of one."""
        if record.kind == REQUESTED:
            self._open.add(record.seq)
        elif record.kind in _ANSWERED and record.response is not None:
            if record.response not in self._open and record.response not in self.damaged:
                told = f"{record.seq} ends the response of that seq, which is no {REQUESTED}: {RESTORE}"
                self.damaged[record.response] = record.response, told
            self._open.discard(record.response)

    def end(self) -> None:
        """Learn that these were all."""
        if self._last < self._version:
            self._missing(self._version)

    def _missing(self, last: int) -> None:
        first = self._last + 1
        what = "the event is missing" if first == last else f"the events from {first} to {last} are missing"
        self.damaged[first] = last, f"{what}: {RESTORE}"

    def blamed(self, manifest: Manifest) -> int:
        """Return the first damaged event that a request sent, 0 where there is none."""
        for first, (last, _) in self.damaged.items():
            if first == manifest.base or any(manifest.fate(seq) in SENT for seq in range(first, last + 1)):
                return first
        return 0


async def snapshots(store: Reads, name: str, after: int = 0) -> AsyncIterator[Snapshot]:
    """Yield a conversation behind a seq, page by page, its head with each; nothing where there is none."""
    while True:
        snapshot = await store.read(name, Query(after=after, limit=_PAGE))
        if snapshot is None:
            return
        yield snapshot
        page = snapshot.records[0]
        if len(page) < _PAGE:
            return
        after = page[-1].seq


async def pages(store: Reads, name: str, after: int = 0) -> AsyncIterator[Sequence[Record]]:
    """Yield a conversation's records behind a seq, page by page."""
    async for snapshot in snapshots(store, name, after):
        if snapshot.records[0]:
            yield list(snapshot.records[0])
