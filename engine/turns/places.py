"""Which turn an event stands in, read from the store: the same as the fold tells of what it has loaded.

A turn is named by the first of a run of input with a user's message in it. What counts is the order of groups: a
response and the outputs of its calls stand where the response was requested, so what others appended meanwhile comes
behind it. Only what lies around the events in question is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

from ..events import ASIDE, PINNED, Record
from ..items import KINDS, reading
from ..log import Query
from ..paths import Reads

__all__ = ("Groups", "turn_at", "turn_end", "turns_of")

_PAGE: Final = 64
_FAR: Final = 256
"""Events behind which a place is looked up by itself, rather than by reading all that lies between."""

_What: TypeAlias = Literal["user", "input", "other", "nothing"]
_Call: TypeAlias = tuple[str, str]
"""A call's kind and link."""


class Groups:
    """What stands at each place, as far as records have been seen. They may come in any order."""

    def __init__(self) -> None:
        self._first: dict[int, Record] = {}
        self._pinned: set[int] = set()
        self._calls: dict[_Call, list[tuple[int, int]]] = {}
        self.answered: set[int] = set()
        """The responses that have come to something, or to their end."""

    def feed(self, records: Iterable[Record]) -> None:
        """Take records in."""
        for record in records:
            if record.response is not None and record.kind != "response.started":
                self.answered.add(record.response)
            form = reading(record.shape or "unknown", record.link)
            if record.item is None or record.flags & ASIDE or form.is_output:
                continue
            place = record.seq if record.response is None else record.response
            if form.is_call:
                self._calls.setdefault((form.shape, form.link or ""), []).append((record.seq, place))
            if record.flags & PINNED:
                self._pinned.add(place)
            if place not in self._first or record.seq < self._first[place].seq:
                self._first[place] = record

    def call_of(self, output: int, call: _Call) -> int | None:
        """Return the place of the last call before an output that it can be the answer to; None: it is not here."""
        places = [found for found in self._calls.get(call, ()) if found[0] < output]
        return max(places)[1] if places else None

    def _what(self, place: int) -> _What:
        record = self._first[place]
        form = reading(record.shape or "unknown", record.link)
        if form.shape == "user":
            return "user"
        pinned = place in self._pinned
        if form.maker == "input":
            return "nothing" if pinned else "input"
        return "nothing" if form.maker is None and record.response is None and not pinned else "other"

    def starts(self, bottom: int) -> tuple[list[int], int | None]:
        """Return where turns start from *bottom* on, and where the last run of input does if it has no user yet.

        Unless *bottom* is where all begins, a run that may have begun below it does not count.
        """
        found: list[int] = []
        run: int | None = None
        sure = bottom <= 1
        for place in sorted(place for place in self._first if place >= bottom):
            what = self._what(place)
            if what == "other":
                run, sure = None, True
            elif what != "nothing" and sure:
                run = place if run is None else run
                if what == "user" and (not found or found[-1] != run):
                    found.append(run)
        return found, None if found and found[-1] == run else run


async def turns_of(store: Reads, name: str, records: Sequence[Record]) -> dict[int, int]:
    """Return the turns of events by seq, 0 before the first one. *records* are neighbours, such as a page."""
    if not records:
        return {}
    places = await _places(store, name, records)
    first = min(places)
    near = [place for place in places.values() if place >= first - _FAR]
    starts = await _starts(store, name, min(near), max(near)) if near else []
    far = {place for place in places.values() if place < first - _FAR}
    alone = {place: await _starts(store, name, place, place) for place in far}
    return {seq: _before(alone.get(place, starts), place) for seq, place in places.items()}


async def turn_at(store: Reads, name: str, seq: int) -> int:
    """Return the turn in which a request or an input stands, 0 before the first."""
    return _before(await _starts(store, name, seq, seq), seq)


async def turn_end(store: Reads, name: str, turn: int) -> int | None:
    """Return where the turn behind a turn starts, None when it is the last."""
    groups = Groups()
    after, page = turn - 1, _PAGE
    while True:
        snapshot = await store.read(name, Query(after=after, limit=page))
        records = snapshot.records[0] if snapshot else []
        groups.feed(records)
        # Nothing below is known: the turn itself is what its run begins with.
        later = [start for start in groups.starts(turn)[0] if start > turn]
        if later or len(records) < page:
            return later[0] if later else None
        after, page = records[-1].seq, page * 2


def _before(starts: Sequence[int], place: int) -> int:
    index = bisect_right(starts, place) - 1
    return starts[index] if index >= 0 else 0


async def _places(store: Reads, name: str, records: Sequence[Record]) -> dict[int, int]:
    """Return where events stand: an output with its call, what a model made with its response."""
    groups = Groups()
    groups.feed(records)
    places: dict[int, int] = {}
    outputs: dict[int, _Call] = {}
    for record in records:
        form = reading(record.shape or "unknown", record.link)
        if record.item is not None and form.is_output:
            outputs[record.seq] = KINDS[form.shape].answers or "", form.link or ""
        places[record.seq] = record.seq if record.response is None else record.response
    for seq, call in outputs.items():
        place = groups.call_of(seq, call)
        if place is None:
            place = await _call(store, name, seq, call)
        places[seq] = seq if place is None else place
    return places


async def _call(store: Reads, name: str, output: int, call: _Call) -> int | None:
    """Return the place of the call that an output answers, wherever it is; None when there is none."""
    snapshot = await store.read(name, Query(link=call[1], before=output))
    groups = Groups()
    groups.feed(snapshot.records[0] if snapshot else ())
    return groups.call_of(output, call)


async def _starts(store: Reads, name: str, low: int, high: int) -> list[int]:
    """Return where turns start, from the one that *low* stands in to *high*.

    It reads down to where that one started; and up, while it is not known what the last response has come to, or
    whether a user's message is in the last run of input.
    """
    groups = Groups()
    snapshot = await store.read(
        name,
        Query(after=low - 1, before=high + 1),
        Query(mark="request", before=high + 1, reverse=True, limit=1),
    )
    records, requests = snapshot.records if snapshot else ((), ())
    groups.feed(records)
    down, up, page = low, high + 1, _PAGE
    while True:
        found, run = groups.starts(down)
        if down > 1 and not (found and found[0] <= low):
            query = Query(before=down, reverse=True, limit=page)
        elif (run is not None and run <= high) or any(one.seq not in groups.answered for one in requests):
            query = Query(after=up - 1, limit=page)
        else:
            return found
        snapshot = await store.read(name, query)
        records = snapshot.records[0] if snapshot else []
        groups.feed(records)
        whole = len(records) < page
        if query.reverse:
            down = 1 if whole else records[-1].seq
        elif whole:
            return groups.starts(down)[0]
        else:
            up = records[-1].seq + 1
        page *= 2
