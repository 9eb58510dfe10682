"""Turns, to be listed: where each begins and ends on its path, how it ended, and which one it took the place of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from ..events import Record
from ..history import ENDS, alive, is_answer
from ..log import Query
from ..paths import Along, Paths, Reads
from .places import Groups, turn_at, turn_end

__all__ = ("Turn", "turns_on")

_PAGE: Final = 256


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """From one run of user input to the next."""

    seq: int
    """What names it: the seq of its first input."""
    number: int
    """Its place in the listing, from 1."""
    first: int
    last: int
    """The seq of its last event on its path."""
    status: str
    """Of its last model call: completed, incomplete, failed, interrupted or open; "input" when there was none."""
    alive: bool
    replaces: int | None
    """The turn that stood here before a rewind made room for this one."""


class _Stretch:
    """A part of one path, read page by page, and the turns that begin in it."""

    def __init__(self) -> None:
        self._groups = Groups()
        self._marks: list[tuple[int, int | None, str]] = []
        """Requests and ends, as (seq, response, kind or status)."""

    def feed(self, records: Iterable[Record]) -> None:
        records = list(records)
        self._groups.feed(records)
        for record in records:
            if is_answer(record):
                self._marks.append((record.seq, record.seq, "open"))
            elif record.kind in ENDS:
                self._marks.append((record.seq, record.response, record.kind.removeprefix("response.")))

    def starts(self, bottom: int) -> list[int]:
        return self._groups.starts(bottom)[0]

    def status(self, first: int, before: int) -> str:
        """Return how the last model call that was made between two seqs has ended."""
        requests = [seq for seq, response, _ in self._marks if seq == response and first <= seq < before]
        if not requests:
            return "input"
        said = [kind for seq, response, kind in self._marks if response == requests[-1] and seq != response]
        return said[0] if said else "open"


async def turns_on(
    store: Reads, name: str, paths: Paths, version: int, bounds: tuple[int, int], most: int, *, down: bool = False
) -> list[Turn]:
    """Return at most so many turns of the path to a version that begin strictly between two seqs; without numbers."""
    path = paths.to(version)
    along = Along(store, path)
    after, before = bounds
    # Of what follows the turn that *after* lies in, it is certain where a run of input begins.
    low = max(await turn_at(along, name, after), 1) if after and not down else 1
    stretch, found, edge = _Stretch(), list[int](), low - 1
    top = version + 1
    while True:
        query = Query(before=top, reverse=True, limit=_PAGE) if down else Query(after=edge, limit=_PAGE)
        snapshot = await along.read(name, query)
        records = snapshot.records[0] if snapshot else []
        stretch.feed(records)
        whole = len(records) < _PAGE
        if records:
            top, edge = records[-1].seq, records[-1].seq
        found = stretch.starts((1 if whole else top) if down else low)
        within = [seq for seq in found if after < seq < before]
        if whole or len(within) > most:
            break
    ends = dict(pairwise([*found, version + 1]))
    chosen = within[-most:][::-1] if down else within[:most]
    return [await _turn(store, name, paths, version, stretch, seq, ends[seq]) for seq in chosen]


async def _turn(
    store: Reads, name: str, paths: Paths, version: int, stretch: _Stretch, seq: int, following: int
) -> Turn:
    return Turn(
        seq=seq,
        number=0,
        first=seq,
        last=_last(paths.to(version), following),
        status=stretch.status(seq, following),
        alive=paths.is_alive(seq),
        replaces=await _replaced(store, name, paths, version, seq),
    )


def _last(path: Sequence[tuple[int, int]], before: int) -> int:
    """Return the last seq of a path before another."""
    return max(min(last, before - 1) for first, last in path if first < before)


async def _replaced(store: Reads, name: str, paths: Paths, version: int, seq: int) -> int | None:
    """Return the turn that stood behind the target of the rewind that a turn is the first to follow."""
    path = paths.to(version)
    span = next(((first, last) for first, last in path if first <= seq <= last), None)
    move = paths.move(span[0]) if span else None
    if span is None or move is None:
        return None
    here = Along(store, path)
    if await turn_at(here, name, seq - 1) >= span[0]:
        return None  # an earlier turn of this branch was the first
    before = Along(store, paths.to(span[0] - 1))
    if not alive(paths.to(span[0] - 1), move):
        return None  # the rewind went to another branch: nothing stood behind its target on the one it left
    return await turn_end(before, name, await turn_at(before, name, move))
