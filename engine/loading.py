"""Reading a conversation's end: as much of the log as its window needs, whatever the length of the rest.

A cold read takes one hop, as a rule. It finds, by index, where things are (the head, rewinds, the base compaction,
pinned items, the last request and the line's last), and reads as much of the end as a window may hold. Where that is
not enough (the last cut lies deeper, a rewind left some of it), a second reads on; a third fetches what windows still
send of older events, where there is such.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, zip_longest
from typing import Final

from .codec import body, missing
from .compaction import references
from .errors import NotFound
from .events import ASIDE, ERASED, CompactionUndone, ContextCompacted, HistoryRewound, Record, ResponseRequested
from .history import ENDS, NEAR, History, alive, deep, segments
from .items import EFFECTS, reading
from .log import Head, Query, Snapshot, Store, weight
from .manifest import Manifest, Span

__all__ = ("load", "look_up")

_PAGE: Final = 256
_NEXT: Final = 16
"""Events that are read first where the last answer is further back."""
_BASES: Final = 4
"""Compactions looked at in the first hop: more are read only when these were all undone or rewound."""


class _Outline:
    """Where things are in a conversation, found by index."""

    def __init__(self, name: str, snapshot: Snapshot, at: int | None) -> None:
        self.name = name
        self.head = snapshot.head
        self.version = self.head.version if at is None else min(at, self.head.version)
        rewinds, self.bases, self.pins, self.recent, *self.latest = snapshot.records
        moves = ((record.seq, said.to) for record in rewinds if isinstance(said := body(record), HistoryRewound))
        self.path = segments(moves, self.version)
        self.base: tuple[Record, ContextCompacted] | None = None
        self.request: Record | None = None
        self.line: Record | None = None
        self.pinned: list[Record] = []

    async def settle(
        self,
        store: Store,
        marks: Sequence[str],
        without: AbstractSet[int],
        base: tuple[Record, ContextCompacted] | None = None,
    ) -> None:
        """Find what the first hop did not show, because what it showed lies on a branch that was left."""
        self.base = await self._based(store, without, base)
        found = [
            record if record is None or self.tells(record) else await _last(store, self.name, mark, self.path)
            for mark, record in zip(marks, (records[0] if records else None for records in self.latest), strict=True)
        ]
        self.request, self.line, *effects = found
        known = {record.seq: record for record in (*self.pins, *effects) if record is not None}
        quoted = set(references(self.base[1])) if self.base else set()
        self.pinned = [known[seq] for seq in sorted(known) if alive(self.path, seq) and seq not in quoted]

    async def _based(
        self, store: Store, without: AbstractSet[int], supposed: tuple[Record, ContextCompacted] | None
    ) -> tuple[Record, ContextCompacted] | None:
        """Return the compaction that windows start from."""
        base = _base(self.bases, self.path, without)
        if base is None and len(self.bases) == _BASES:
            more = await store.read(self.name, Query(mark="base", before=self.version + 1, reverse=True))
            base = _base(more.records[0] if more else (), self.path, without)
        return supposed if supposed is not None and (base is None or base[0].seq < supposed[0].seq) else base

    @property
    def start(self) -> int:
        return self.base[1].last if self.base else 0

    @property
    def base_seq(self) -> int:
        return self.base[0].seq if self.base else 0

    @property
    def manifest(self) -> Manifest | None:
        said = body(self.line) if self.line else None
        return said.manifest if isinstance(said, ResponseRequested) else None

    def alive(self, record: Record) -> bool:
        return alive(self.path, record.seq)

    def tells(self, record: Record) -> bool:
        return self.alive(record) and not record.flags & ERASED


def _seq(record: Record) -> int:
    return record.seq


async def _last(store: Store, name: str, mark: str, path: Sequence[Span]) -> Record | None:
    """Return the latest event with a mark on a path, of those that were not erased."""
    while path:
        queries = [Query(mark=mark, after=first - 1, before=last + 1, reverse=True, limit=1) for first, last in path]
        snapshot = await store.read(name, *queries)
        found = next((records[0] for records in (snapshot.records if snapshot else ()) if records), None)
        if found is None or not found.flags & ERASED:
            return found
        path = [(first, min(last, found.seq - 1)) for first, last in path if first < found.seq]
    return None


async def load(
    store: Store,
    name: str,
    *,
    line: str | None,
    tokens: int,
    at: int | None = None,
    without: AbstractSet[int] = frozenset(),
    base: tuple[Record, ContextCompacted] | None = None,
) -> tuple[Head, History]:
    """Return a conversation's head and the end of its path: from the line's last cut, else at least *tokens*.

    It knows the last request in any case, with all that came of it. With *at*, as it was at that version; the
    compactions at the seqs *without* are passed over; *base* is one that is not in the log, and counts unless a later
    one is there.

    Raises:
        NotFound: there is no such conversation.
        CorruptLog: an event that is needed is missing.
    """
    before = None if at is None else at + 1
    marks = ["request", f"line:{line}", *(f"effect:{name}" for name in EFFECTS)]
    snapshot = await store.read(
        name,
        Query(mark="rewind", before=before),
        Query(mark="base", before=before, reverse=True, limit=_BASES),
        Query(mark="pin", before=before),
        Query(before=before, reverse=True, tokens=deep(tokens)),
        *(Query(mark=mark, before=before, reverse=True, limit=1) for mark in marks),
    )
    if snapshot is None or snapshot.head.deleted:
        raise NotFound(f"conversation {name}", deleted=snapshot is not None)
    outline = _Outline(name, snapshot, at)
    await outline.settle(store, marks, without, base)
    history = await _filled(store, outline, tokens)
    history.depth = tokens
    if line is not None:
        history.lines[line] = outline.line
        history.reaches.add(line)
    await _report(store, history, outline.line)
    return outline.head, history


async def _filled(store: Store, outline: _Outline, tokens: int) -> History:
    """Return the history of what an outline leads to."""
    manifest = outline.manifest
    end = max(outline.start, manifest.cut - 1 if manifest else 0)
    tail, floor = await _tail(store, outline, end, tokens if manifest else deep(tokens))
    tail, floor = await _to_the_last_answer(store, outline, end, tail, floor)
    _unbroken(outline, floor, tail)
    older = {record.seq: record for record in outline.pinned if record.seq <= floor}
    older |= {record.seq: record for record in await _latest(store, outline, floor)}
    older |= {record.seq: record for record in await _islands(store, outline, manifest, floor, older)}
    older |= await _Groups(store, outline, floor).completed(older)
    below = sorted(older.values(), key=_seq)
    early = [record for record in below if record.seq <= outline.start]
    history = History(outline.name, floor=floor, path=outline.path, base=outline.base, early=early)
    asked = sorted({record.response for record in below if record.response is not None} - older.keys())
    for record in await _spans(store, outline.name, [(seq, seq) for seq in asked]):
        history.learn(record)
    history.extend([*below[len(early) :], *tail])
    history.version = outline.version
    history.path = list(outline.path)
    history.forked = outline.head.parent[1] if outline.head.parent else 0
    history.stale = False
    return history


def _base(
    records: Sequence[Record], path: Sequence[Span], without: AbstractSet[int]
) -> tuple[Record, ContextCompacted] | None:
    """Return the latest compaction on the path that was not undone. *records* come newest first."""
    undone = set(without)
    for record in records:
        if not alive(path, record.seq):
            continue
        said = body(record)
        if isinstance(said, CompactionUndone):
            undone.add(said.seq)
        elif isinstance(said, ContextCompacted) and record.seq not in undone and not record.flags & ERASED:
            return record, said
    return None


async def _tail(store: Store, outline: _Outline, end: int, tokens: int) -> tuple[list[Record], int]:
    """Return the end of the path above *end* in seq order, and how far down it reaches.

    It stops early once *tokens* are read, at a place where no response is cut in two.
    """
    found = [record for record in outline.recent if record.seq > end]
    if len(outline.path) > 1:
        found = [*filter(outline.alive, found)]
    read = outline.recent[-1].seq if outline.recent else outline.version + 1
    left = tokens - weight(found)
    for first, last in outline.path:
        if last <= end or left <= 0:
            break
        low, before = max(first - 1, end), min(last + 1, read)
        if before - low > 1:
            records = await _read(store, outline.name, Query(after=low, before=before, reverse=True, tokens=left))
            found += records
            left -= weight(records)
    found.reverse()
    if left > 0 or not found:
        return found, end
    whole = await _whole(store, outline, found, end)
    return whole, max(end, whole[0].seq - 1)


async def _to_the_last_answer(
    store: Store, outline: _Outline, end: int, tail: list[Record], floor: int
) -> tuple[list[Record], int]:
    """Read on to the last answer, if it is near: its calls may wait for their outputs, see `History.unanswered`."""
    least, size = max(end, outline.version - NEAR), _NEXT
    while floor > least and not any(map(_is_answer, reversed(tail))):
        low = max(least, floor - size)
        more = await _read(store, outline.name, Query(after=low, before=floor + 1))
        tail, floor, size = [*filter(outline.alive, more), *tail], low, 2 * size
        if tail:
            tail = await _whole(store, outline, tail, end)
            floor = min(floor, max(end, tail[0].seq - 1))
    return tail, floor


def _is_answer(record: Record) -> bool:
    """Return whether an event is part of what a model made, or of what a caller appended as such."""
    if record.item is None or record.flags & ASIDE:
        return False
    return reading(record.shape or "", record.link).maker == "model"


def _unbroken(outline: _Outline, floor: int, tail: Sequence[Record]) -> None:
    """See to it that every event of the path above the floor is there.

    Raises:
        CorruptLog: one is not.
    """
    above = [(max(first, floor + 1), last) for first, last in outline.path if last > floor]
    if sum([last + 1 - first for first, last in above]) != len(tail):
        due = chain.from_iterable(range(first, last + 1) for first, last in reversed(above))
        pairs = zip_longest(due, [record.seq for record in tail])
        raise missing(outline.name, next(seq for seq, there in pairs if seq != there))


async def _read(store: Store, name: str, query: Query) -> Sequence[Record]:
    snapshot = await store.read(name, query)
    return snapshot.records[0] if snapshot else ()


async def _latest(store: Store, outline: _Outline, floor: int) -> list[Record]:
    """Return the latest request from below the floor, with all that came of it: it may be open, or wait for outputs."""
    request = outline.request
    if request is None or request.seq > floor:
        return []
    found, ended = [request], False
    owed: set[str | None] = set()
    async for record in _following(store, outline.name, request.seq, floor):
        mine = record.response == request.seq
        # What is said of a call that waits may come late, behind much else.
        if ended and not mine and not _is_output(record) and not owed:
            break
        if mine and outline.alive(record):
            found.append(record)
            owed |= {record.link} if _is_call(record) else set()
        elif _is_output(record):
            owed.discard(record.link)
        ended |= mine and record.kind in ENDS
    return found


async def _whole(store: Store, outline: _Outline, found: list[Record], end: int) -> list[Record]:
    """Read on to where the earliest response of *found* was requested."""
    first = found[0].seq
    requested = min((record.response for record in found if record.response is not None), default=first)
    if requested >= first or requested <= end:
        return found
    more = await _read(store, outline.name, Query(after=requested - 1, before=first))
    return [*filter(outline.alive, more), *found]


async def _islands(
    store: Store, outline: _Outline, manifest: Manifest | None, floor: int, known: Mapping[int, Record]
) -> list[Record]:
    """Return the groups that the line's last window sent from below the floor, but for what is *known*."""
    missing = _missing(manifest, outline.base_seq, outline.start, floor, known) if manifest else []
    return [record for record in await _spans(store, outline.name, missing) if outline.alive(record)]


def _missing(manifest: Manifest, base: int, start: int, floor: int, known: Container[int]) -> list[Span]:
    """Return the spans below a floor of which a window sent something, but for what is *known*."""
    covered = [(seq, seq) for seq in manifest.early if seq <= floor] if manifest.base == base else []
    wanted = [(max(first, start + 1), min(last, floor)) for first, last in manifest.islands()]
    spans = [(low, high) for low, high in (*covered, *wanted) if low <= high]
    return [(low, high) for low, high in spans if not all(seq in known for seq in range(low, high + 1))]


async def _spans(store: Store, name: str, spans: Iterable[Span]) -> list[Record]:
    queries = [Query(after=first - 1, before=last + 1) for first, last in spans if first <= last]
    snapshot = await store.read(name, *queries) if queries else None
    return [record for records in (snapshot.records if snapshot else ()) for record in records]


class _Groups:
    """Completes the groups of which some items are loaded from below the floor: outputs by their links, and calls.

    What is said aside, or for a compaction, pairs with nothing in them.
    """

    def __init__(self, store: Store, outline: _Outline, floor: int) -> None:
        self._store = store
        self._outline = outline
        self._floor = floor
        self._links: dict[str, list[Record]] = {}

    async def completed(self, older: Mapping[int, Record]) -> dict[int, Record]:
        """Return what belongs to the groups of *older* events, and calls that may be taken for theirs."""
        found: dict[int, Record] = {}
        new = [*older.values()]
        while new:
            await self._look_up(new)
            calls = [call for record in new if (call := self._due(record)) is not None]
            made = await self._responses([one for one in calls if one.seq not in older and one.seq not in found])
            new = [record for record in made if record.seq not in found]
            found |= {record.seq: record for record in new}
        wanted = {_place(record) for record in (*older.values(), *found.values()) if not _is_output(record)}
        for records in self._links.values():
            for record in records:
                call = record if _is_call(record) else self._call(record)
                if call is not None and _place(call) in wanted:
                    found[record.seq] = record
        return found

    def _due(self, record: Record) -> Record | None:
        """Return the call without which an event would be taken for another than it is; None: there is no such.

        Of an output it is the call that it is for; but an output behind a compaction that covers its call is for none.
        Of a call it is the last one that bears its id: what comes later is for that.
        """
        if _is_output(record):
            call = self._call(record)
            return None if call is None or call.seq <= self._outline.start < record.seq else call
        if not _is_call(record):
            return None
        calls = [one for one in self._links.get(record.link or "", ()) if one.shape == record.shape]
        return calls[-1] if calls else None

    async def _look_up(self, records: Iterable[Record]) -> None:
        """Learn of all calls and outputs with the links of some."""
        paired = {record.link for record in records if _is_call(record) or _is_output(record)}
        links = sorted(link for link in paired if link is not None and link not in self._links)
        if links:
            queries = [Query(link=link, before=self._floor + 1) for link in links]
            snapshot = await self._store.read(self._outline.name, *queries)
            for link, read in zip(links, snapshot.records if snapshot else (), strict=True):
                self._links[link] = [one for one in read if self._outline.alive(one) and not one.flags & ASIDE]

    def _call(self, output: Record) -> Record | None:
        """Return the call that an output is for: the latest of its link before it."""
        if not _is_output(output):
            return None
        kind = reading(output.shape or "", output.link).kind
        calls = [one for one in self._links.get(output.link or "", ()) if one.seq < output.seq and _is_call(one)]
        return next((one for one in reversed(calls) if kind is not None and one.shape == kind.answers), None)

    async def _responses(self, calls: Iterable[Record]) -> list[Record]:
        """Return all items of the responses that calls are part of, and the end of one that failed."""
        found: list[Record] = []
        for place in sorted({_place(call) for call in calls}):
            async for record in _following(self._store, self._outline.name, place - 1, self._floor):
                mine = record.response == place
                # What failed is not sent again, whatever of it is pinned: so its end belongs to it.
                said = record.item is not None or record.kind == "response.failed"
                if mine and said and self._outline.alive(record):
                    found.append(record)
                # A model's response has an end; what a caller appended as one stands together.
                if (mine and record.kind in ENDS) or (not mine and found and found[0].seq == place):
                    break
        return found


def _place(record: Record) -> int:
    return record.seq if record.response is None else record.response


def _is_output(record: Record) -> bool:
    return reading(record.shape or "", record.link).is_output


def _is_call(record: Record) -> bool:
    return reading(record.shape or "", record.link).is_call


async def _report(store: Store, history: History, last: Record | None) -> None:
    """See to it that what the API reported for the line's last request is known, wherever its end lies."""
    if last is None or last.seq > history.floor or last.seq in history.reported:
        return
    answer = History(history.conversation)
    answer.extend([last])
    async for record in _following(store, history.conversation, last.seq, history.version):
        answer.extend([record] if record.response == last.seq else ())
        if answer.open is None:
            break
    history.reported.update(answer.reported)


async def _following(store: Store, name: str, after: int, version: int) -> AsyncIterator[Record]:
    """Yield events behind a seq, up to a version, page by page."""
    while after < version:
        page = await _read(store, name, Query(after=after, before=version + 1, limit=_PAGE))
        for record in page:
            yield record
        if not page:
            return
        after = page[-1].seq


async def look_up(store: Store, history: History, line: str) -> bool:
    """Find the last request of a line that a history has not met; return whether the history has all that it sent."""
    if line not in history.lines and history.last_request is not None:
        history.lines[line] = await _last(store, history.conversation, f"line:{line}", history.path)
        await _report(store, history, history.lines[line])
    last = history.previous(line)
    if last is None:
        return True
    if max(history.start, last[1].cut - 1) < history.floor:
        return False
    if line not in history.reaches:
        known = {entry.seq for entry in history.entries()}
        if _missing(last[1], history.base[0].seq if history.base else 0, history.start, history.floor, known):
            return False
        history.reaches.add(line)
    return True
