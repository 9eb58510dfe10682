"""Reading a conversation's end: as much of the log as its window needs, whatever the length of the rest.

A cold read takes two hops. The first finds, by index, where things are: the head, rewinds, the base compaction, pinned
items, the line's last request. The second reads the end of the path, from the last cut on, or as many tokens as could
fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .codec import body
from .errors import NotFound
from .events import CompactionUndone, ContextCompacted, HistoryRewound, Record, ResponseRequested
from .history import History, alive, segments
from .log import Head, Query, Snapshot, Store
from .manifest import Manifest, Span

__all__ = ("EFFECTS", "load", "look_up")

EFFECTS: Final = ("additional_tools", "configuration_update")
"""Positional kinds: the latest of each is in effect wherever the window begins."""

_PAGE: Final = 512
_BASES: Final = 4
"""Compactions looked at in the first hop: more are read only when these were all undone or rewound."""


class _Outline:
    """Where things are in a conversation, found by index in one hop."""

    def __init__(self, snapshot: Snapshot, at: int | None) -> None:
        self.head = snapshot.head
        self.version = self.head.version if at is None else min(at, self.head.version)
        rewinds, self.bases, pins, *effects, lines = snapshot.records
        moves = ((record.seq, said.to) for record in rewinds if isinstance(said := body(record), HistoryRewound))
        self.path = segments(moves, self.version)
        self.last = lines[0] if lines else None
        self.manifest = _manifest(self.last)
        early = [record for records in (pins, *effects) for record in records if alive(self.path, record.seq)]
        self.early = sorted(early, key=_seq)


def _seq(record: Record) -> int:
    return record.seq


async def load(
    store: Store, name: str, *, line: str | None, tokens: int, at: int | None = None
) -> tuple[Head, History]:
    """Return a conversation's head and the end of its path: from the line's last cut, else at least *tokens*.

    With *at*, as it was at that version.

    Raises:
        NotFound: there is no such conversation.
    """
    before = None if at is None else at + 1
    snapshot = await store.read(
        name,
        Query(mark="rewind", before=before),
        Query(mark="base", before=before, reverse=True, limit=_BASES),
        Query(mark="pin", before=before),
        *(Query(mark=f"effect:{kind}", before=before, reverse=True, limit=1) for kind in EFFECTS),
        Query(mark=f"line:{line}", before=before, reverse=True, limit=1),
    )
    if snapshot is None:
        raise NotFound(f"conversation {name}")
    outline = _Outline(snapshot, at)
    base = _base(outline.bases, outline.path)
    if base is None and len(outline.bases) == _BASES:
        more = await store.read(name, Query(mark="base", before=before, reverse=True))
        base = _base(more.records[0] if more else (), outline.path)
    history = await _filled(store, name, outline, base, tokens)
    if line is not None:
        history.lines.setdefault(line, outline.manifest)
        if outline.last is not None:
            history.line_of.setdefault(line, outline.last.seq)
    await _report(store, name, history, outline.last)
    return outline.head, history


async def _filled(
    store: Store, name: str, outline: _Outline, base: tuple[Record, ContextCompacted] | None, tokens: int
) -> History:
    """Return the history of what an outline leads to."""
    start = base[1].last if base else 0
    manifest = outline.manifest
    tail, floor = await _tail(store, name, outline.path, max(start, manifest.cut - 1 if manifest else 0), tokens)
    loaded = [*await _islands(store, name, manifest, start, floor), *tail]
    seqs = {record.seq for record in loaded}
    early = [record for record in outline.early if record.seq <= floor and record.seq not in seqs]
    history = History(name, floor=floor, path=outline.path, base=base, early=early)
    history.extend(loaded)
    history.version = outline.version
    history.path = list(outline.path)
    history.stale = False
    return history


def _manifest(record: Record | None) -> Manifest | None:
    said = body(record) if record else None
    return said.manifest if isinstance(said, ResponseRequested) else None


def _base(records: Sequence[Record], path: Sequence[Span]) -> tuple[Record, ContextCompacted] | None:
    """Return the latest compaction on the path that was not undone. *records* come newest first."""
    undone: set[int] = set()
    for record in records:
        if not alive(path, record.seq):
            continue
        said = body(record)
        if isinstance(said, CompactionUndone):
            undone.add(said.seq)
        elif isinstance(said, ContextCompacted) and record.seq not in undone:
            return record, said
    return None


async def _tail(store: Store, name: str, path: Sequence[Span], floor: int, tokens: int) -> tuple[list[Record], int]:
    """Return the end of the path above *floor* in seq order, and how far down it reaches.

    It stops early once *tokens* are read, at a place where no response is cut in two.
    """
    found: list[Record] = []
    left = tokens
    for first, last in path:
        if last <= floor or left <= 0:
            break
        records = await _falling(store, name, max(first - 1, floor), last + 1, left)
        found += records
        left -= sum(record.tokens if record.excerpt is None else record.excerpt for record in records)
    found.reverse()
    if left > 0 or not found:
        return found, floor
    whole = await _whole(store, name, found, floor)
    return whole, max(floor, whole[0].seq - 1)


async def _falling(store: Store, name: str, after: int, before: int, tokens: int | None) -> list[Record]:
    snapshot = await store.read(name, Query(after=after, before=before, reverse=True, tokens=tokens))
    return list(snapshot.records[0]) if snapshot else []


async def _whole(store: Store, name: str, found: list[Record], floor: int) -> list[Record]:
    """Read on to where the earliest response of *found* was requested."""
    first = found[0].seq
    requested = min((record.response for record in found if record.response is not None), default=first)
    if requested >= first or requested <= floor:
        return found
    snapshot = await store.read(name, Query(after=requested - 1, before=first))
    return [*(snapshot.records[0] if snapshot else ()), *found]


async def _islands(store: Store, name: str, manifest: Manifest | None, start: int, floor: int) -> list[Record]:
    """Return what the line's last window kept below the floor: the input of a turn whose middle was dropped."""
    if manifest is None:
        return []
    spans = [(max(first, start + 1), min(last, floor)) for first, last in manifest.sent() if first <= floor]
    queries = [Query(after=first - 1, before=last + 1) for first, last in spans if first <= last]
    if not queries:
        return []
    snapshot = await store.read(name, *queries)
    return [record for records in (snapshot.records if snapshot else ()) for record in records]


async def _report(store: Store, name: str, history: History, last: Record | None) -> None:
    """See to it that what the API reported for the line's last request is known, wherever its end lies."""
    if last is None or last.seq > history.floor or last.seq in history.reported:
        return
    snapshot = await store.read(name, Query(after=last.seq, limit=_PAGE))
    for record in snapshot.records[0] if snapshot else ():
        if record.response == last.seq and record.kind == "response.completed":
            usage = getattr(body(record), "usage", None)
            if usage is not None:
                history.reported[last.seq] = usage


async def look_up(store: Store, history: History, line: str) -> bool:
    """Find the last manifest of a line that a history has not met; return whether the history reaches its cut."""
    if line not in history.lines:
        before = history.version + 1
        snapshot = await store.read(
            history.conversation, Query(mark=f"line:{line}", before=before, reverse=True, limit=1)
        )
        found = snapshot.records[0] if snapshot else ()
        history.lines[line] = _manifest(found[0]) if found else None
        if found:
            history.line_of[line] = found[0].seq
            await _report(store, history.conversation, history, found[0])
    manifest = history.lines[line]
    return manifest is None or max(history.start, manifest.cut - 1) >= history.floor
