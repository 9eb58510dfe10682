"""Forks and rewinds: where a conversation may be cut, so that nothing that belongs together is torn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .codec import REQUESTED
from .errors import Invalid
from .events import Record
from .history import ENDS, is_answer
from .items import KINDS, reading
from .log import Query
from .paths import Along, Paths, Reads, paths_of

__all__ = ("boundary_at", "boundary_below", "check_boundary")

_PAGE: Final = 256


class _Group:
    """What stands or falls together, read event by event from where it begins."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.last = place
        """The last of its events that has been read."""
        self._owed: set[tuple[str, str]] = set()
        self._begun = False
        self._ended = False

    def feed(self, records: Iterable[Record]) -> bool:
        """Take events in; return whether all of the group has been read."""
        for record in records:
            if record.kind == "call.decided":
                continue  # it may be taken back, alone
            if record.kind == REQUESTED and not is_answer(record):
                if record.seq == self.place:
                    return True  # what is beside the conversation may be torn
                continue
            if record.seq != self.place and record.kind == REQUESTED:
                return True
            self._take(record)
        return self._ended and not self._owed

    def _take(self, record: Record) -> None:
        form = reading(record.shape or "", record.link)
        mine = self.place in (record.seq, record.response)
        if mine and record.item is not None and form.is_call and form.link is not None:
            self._owed.add((form.shape, form.link))
        elif form.is_output:
            call = KINDS[form.shape].answers or "", form.link or ""
            mine = mine or call in self._owed
            self._owed.discard(call)
        elif record.kind == "call.started":
            mine = bool(self._owed)
        if mine:
            self.last = record.seq
        self._begun |= record.kind == REQUESTED
        # What a caller appended as one response has no event for its end.
        self._ended |= (mine and record.kind in ENDS) or not (mine or self._begun)


async def check_boundary(store: Reads, name: str, seq: int) -> Paths:
    """See to it that a conversation can be cut behind *seq*; return its paths.

    Raises:
        Invalid: there is no such seq, or it lies within a group; the message names the nearest that will do.
        NotFound: there is no such conversation.
    """
    paths = await paths_of(store, name)
    if not 1 <= seq <= paths.head.version:
        raise Invalid(f"{name}: there is no seq {seq}; it is at version {paths.head.version}")
    group = await _around(store, name, seq, paths)
    if group is not None:
        below, above = group.place - 1, group.last
        nearest = above if above - seq <= seq - below else below
        raise Invalid(
            f"{name}: seq {seq} lies within what stands or falls together, {group.place} to {above}; "
            f"the nearest seq between groups is {nearest}"
        )
    return paths


async def boundary_at(store: Reads, name: str, seq: int) -> int:
    """Return *seq* if a conversation can be cut behind it, else the last seq before it where that can be done.

    Raises:
        NotFound: there is no such conversation.
    """
    paths = await paths_of(store, name)
    while (group := await _around(store, name, seq, paths)) is not None:
        seq = group.place - 1
    return seq


async def boundary_below(store: Reads, name: str) -> int:
    """Return the last seq behind which a conversation can be cut: its version, unless a response is under way."""
    paths = await paths_of(store, name)
    along = Along(store, paths.alive)
    snapshot = await along.read(name, Query(mark="request", reverse=True, limit=1))
    request = snapshot.records[0][0].seq if snapshot and snapshot.records[0] else 0
    if not request:
        return paths.head.version
    after = request
    while True:
        snapshot = await along.read(name, Query(after=after, limit=_PAGE))
        records = snapshot.records[0] if snapshot else []
        if any(record.response == request and record.kind in ENDS for record in records):
            return paths.head.version
        if len(records) < _PAGE:
            return request - 1
        after = records[-1].seq


async def _around(store: Reads, name: str, seq: int, paths: Paths) -> _Group | None:
    """Return the group that a cut behind *seq* would tear, None when there is none."""
    along = Along(store, paths.to(paths.left(seq)))
    snapshot = await along.read(
        name,
        Query(mark="request", before=seq + 1, reverse=True, limit=1),
        Query(after=seq, limit=1),
    )
    requests, following = snapshot.records if snapshot else ((), ())
    places = {record.seq for record in requests}
    places |= {one.response for one in following if one.response is not None and one.response <= seq}
    for place in sorted(places):
        group = await _read(along, name, place)
        if place <= seq < group.last:
            return group
    return None


async def _read(along: Along, name: str, place: int) -> _Group:
    group, after = _Group(place), place - 1
    while True:
        snapshot = await along.read(name, Query(after=after, limit=_PAGE))
        records = snapshot.records[0] if snapshot else []
        if group.feed(records) or len(records) < _PAGE:
            return group
        after = records[-1].seq
