"""What compactions have made of events: the stand-ins, and what models were asked and said on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from .codec import ITEM, body
from .compaction import references
from .events import ASIDE, ERASED, ContextCompacted, Record, ResponseRequested
from .history import ENDS
from .log import Query, Store
from .manifest import SENT, Manifest

__all__ = ("derived",)

_PAGE: Final = 64


async def derived(
    store: Store, name: str, seqs: AbstractSet[int], void: Sequence[Record], bases: Sequence[Record]
) -> list[Record]:
    """Return the items that were made of events, or of the stand-ins that are *void*; *bases* are all compactions."""
    found = {record.seq: record for record in await _named(store, name, void)}
    for request in await _requests(store, name, seqs, {record.seq for record in void}, bases):
        async for record in _said(store, name, request):
            found[record.seq] = record
    return [found[seq] for seq in sorted(found)]


async def _named(store: Store, name: str, void: Sequence[Record]) -> list[Record]:
    """Return the items that stand-ins consist of and that were made for them, rather than quoted."""
    said = [told for record in void if isinstance(told := body(record), ContextCompacted)]
    seqs = sorted({seq for one in said for seq in references(one) if seq > one.last})
    snapshot = await store.read(name, *(Query(after=seq - 1, before=seq + 1) for seq in seqs)) if seqs else None
    records = [record for some in (snapshot.records if snapshot else ()) for record in some]
    return [record for record in records if not record.flags & ERASED]


async def _requests(
    store: Store, name: str, seqs: AbstractSet[int], void: AbstractSet[int], bases: Sequence[Record]
) -> list[Record]:
    """Return the requests to compact that held what is erased: in their windows, or in what was summed up before.

    Each passes on what it was told to those that follow it, up to the compaction that they came to.
    """
    snapshot = await store.read(name, Query(mark="aside"))
    made = sorted((*(snapshot.records[0] if snapshot else ()), *bases), key=_seq)
    found: list[Record] = []
    held = False
    for record in made:
        said = body(record)
        if isinstance(said, ContextCompacted):
            held = False
        elif isinstance(said, ResponseRequested) and said.purpose == "compaction":
            manifest = said.manifest
            held = held or manifest.base in void or any(_saw(manifest, seq) for seq in seqs)
            if held:
                found.append(record)
    return found


def _saw(manifest: Manifest, seq: int) -> bool:
    """Return whether a request held an item, or an excerpt of it in its question."""
    return manifest.fate(seq) in SENT or any(first <= seq <= last for first, last in manifest.told)


async def _said(store: Store, name: str, request: Record) -> AsyncIterator[Record]:
    """Yield what was asked beside a request's window, and what came of it."""
    after = request.seq - 2
    while True:
        snapshot = await store.read(name, Query(after=after, limit=_PAGE))
        page = snapshot.records[0] if snapshot else []
        for record in page:
            asked = record.seq == request.seq - 1 and record.kind == ITEM and record.flags & ASIDE
            mine = record.response == request.seq
            if (asked or (mine and record.item is not None)) and not record.flags & ERASED:
                yield record
            if mine and record.kind in ENDS:
                return
        if len(page) < _PAGE:
            return
        after = page[-1].seq


def _seq(record: Record) -> int:
    return record.seq
