"""Digests on the run: what a request's body comes to, from what the one before it on the same line came to.

Between two cuts a window only grows at its end, so its items need not be written again for each request that holds
them: the state of the hash behind the groups that can grow no more is kept, and the next digest goes on from there. A
digest that is the recorded one proves that the log still gives what was sent. Any other proves nothing: then the
request is rebuilt from its beginning.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from ..blobs import filled
from ..canonical import encode, loads
from ..codec import ITEM
from ..errors import CorruptLog, StoreError
from ..events import Record, ResponseRequested
from ..history import Group
from ..items import reading
from ..manifest import SENT, Manifest, Run, Span
from ..model import keyed
from ..window.remote import addressed
from ..window.render import render
from .encoders import Encoders, Frame, Piecewise
from .rebuilding import Gathered, Shelf, gathered

__all__ = ("Frames", "Recent", "Running")

_LINES: Final = 4
_FRAMES: Final = 64
_BYTES: Final = 8 * 1024 * 1024
"""How much of what was read last is kept at hand."""
_FAILED: Final = "response.failed"
_CARRIERS: Final = frozenset({ITEM, "response.interrupted"})
"""The events that can carry an item."""
_FAR: Final = 2**63


class Recent:
    """The records of a conversation that were read last, up to a bound."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._first = 1
        """The seq of the first of them."""
        self._sizes: deque[tuple[int, int]] = deque()
        """Of each page: its records, their bytes."""

    def extend(self, page: Sequence[Record], needed: int) -> None:
        """Take the next records in, in seq order without a gap; older ones than *needed* may go."""
        if not self._records and page:
            self._first = page[0].seq
        self._records += page
        self._sizes.append((len(page), sum(len(one.item or b"") + len(one.data or b"") for one in page)))
        # The last two pages are kept, whatever their size.
        while len(self._sizes) > 2 and (
            self._first + self._sizes[0][0] <= needed or sum(size for _, size in self._sizes) > _BYTES
        ):
            count, _ = self._sizes.popleft()
            del self._records[:count]
            self._first += count

    def span(self, first: int, last: int) -> Sequence[Record] | None:
        """Return the records from seq to seq, None if not all of them are here."""
        found = self._records[max(0, first - self._first) : max(0, last - self._first + 1)]
        # Where an event is missing from the log, what follows it is not where it should be.
        there = len(found) == last - first + 1 and found[0].seq == first and found[-1].seq == last
        return found if there else None

    def between(self, after: int, before: int) -> Sequence[Record] | None:
        """Return the records strictly between two seqs, None if not all of them are here."""
        return self.span(after + 1, before - 1) if after + 1 < before else ()


class Frames:
    """What stands around the items of requests, by their settings and the keys of their prompt caches."""

    def __init__(self, store: Shelf, known: Encoders) -> None:
        self._store = store
        self._known = known
        self._frames: OrderedDict[tuple[str, int, str, str | None, str], tuple[Frame, Any] | None] = OrderedDict()

    def encoder(self, said: ResponseRequested) -> Piecewise | None:
        """Return a request's encoder, if it writes piece by piece."""
        encoder = self._known.get((said.adapter, said.encoder))
        return encoder if isinstance(encoder, Piecewise) else None

    async def around(self, said: ResponseRequested) -> tuple[Frame, Any] | None:
        """Return the frame of a request and its settings, None if it has to be rebuilt to know what is wrong."""
        place = said.adapter, said.encoder, said.settings, said.cache_key, said.manifest.remote
        if place not in self._frames:
            self._frames[place] = await self._made(said)
            if len(self._frames) > _FRAMES:
                self._frames.popitem(last=False)
        return self._frames[place]

    async def _made(self, said: ResponseRequested) -> tuple[Frame, Any] | None:
        encoder, raw = self.encoder(said), await self._store.body(said.settings)
        if encoder is None or raw is None or hashlib.sha256(raw).hexdigest() != said.settings:
            return None
        try:
            settings = addressed(keyed(loads(raw), said.cache_key), said.manifest)
            return encoder.frame(settings), settings
        except Exception:  # noqa: BLE001 - whatever is wrong with it, rebuilding tells
            return None


class _Mark(NamedTuple):
    """How far a body is written."""

    hash: Any
    begun: bool
    """Whether the list has entries by then."""
    to: int
    """The last seq of what is written."""
    kept: tuple[Any, Sequence[int]] | None = None
    """What the pieces were kept as: (what is kept of those before, of these)."""


class _Line:
    """What the last window of one line came to."""

    def __init__(self, made: Gathered, seen: int) -> None:
        self.made = made
        self.history = made.history
        self.manifest = made.manifest
        self.seen = seen
        """The last seq that the history has taken in."""
        self.frame: Frame | None = None
        self.settled: _Mark | None = None
        """Behind all groups but the last, which may still grow; None: nothing is written yet."""
        self.full: _Mark | None = None
        """Behind the last group."""
        self.last = 0
        """The place of the last group."""

    def extend(self, records: Sequence[Record]) -> int:
        """Take in what came since; return the lowest place that something came to."""
        items = [one for one in records if (one.item is not None and one.kind in _CARRIERS) or one.kind == _FAILED]
        self.history.extend(items)
        return min(map(self._place, items), default=2**63)

    def _place(self, record: Record) -> int:
        form = reading(record.shape or "unknown", record.link)
        if form.is_output and form.kind is not None:
            call = self.history.calls.get((form.kind.answers or "", form.link or ""))
            return record.seq if call is None else call.at
        return record.seq if record.response is None else record.response

    def go_on(self, manifest: Manifest, frame: Frame, low: int) -> int | None:
        """Return the index of the first group to write behind `settled` for the next window; None: begin anew.

        *low* is the lowest place that something came to since.
        """
        before, settled, full = self.manifest, self.settled, self.full
        if settled is None or full is None or self.frame is None or self.frame.before != frame.before:
            return None
        if (before.base, before.early, before.cut) != (manifest.base, manifest.early, manifest.cut):
            return None
        same = _agreed(before, manifest)
        order = self.history.order
        if low > self.last and same >= full.to:
            if order and order[-1] > self.last:  # the last group is not the last any more
                self.settled = full
            return bisect_right(order, self.last)
        return bisect_left(order, self.last) if low >= self.last and same >= settled.to else None


class Running:
    """The requests of one conversation, in seq order.

    *keep* is given each piece of a body that is written, and says as what `kept` is to name it.
    """

    def __init__(self, store: Shelf, name: str, frames: Frames, keep: Callable[[Any], int] | None = None) -> None:
        self._keep = keep
        self._store = store
        self._name = name
        self._frames = frames
        self.recent = Recent()
        """What was read last."""
        self._read = 0
        self._lines: OrderedDict[tuple[Any, ...], _Line] = OrderedDict()

    def read(self, page: Sequence[Record]) -> None:
        """Take in the next page of the conversation, with the requests that `proves` will be asked about."""
        # What a line has dropped is not sent again; a line that was not met in the last page counts no more.
        cuts = [line.manifest.cut for line in self._lines.values() if line.manifest.cut and line.seen >= self._read]
        self._read = page[0].seq
        self.recent.extend(page, min(cuts, default=self._read))

    async def proves(self, request: Record, said: ResponseRequested) -> bool:
        """Return whether the log gives what was sent; False: it has to be rebuilt to be known.

        Everything before it must have been read.
        """
        encoder = self._frames.encoder(said)
        if encoder is None or said.target.state == "recorded":
            return False
        if said.manifest.follows or said.purpose != "answer":
            return False  # what it sent is no part of a window that grows
        place = _place(said)
        try:
            around = await self._frames.around(said)
            if around is not None and await self._digest(place, request, said, encoder, *around) == said.digest:
                return True
        except CorruptLog:
            pass
        except StoreError:
            raise
        except Exception:  # noqa: BLE001, S110 - what was changed may be anything by now; rebuilding tells
            pass
        self._lines.pop(place, None)
        return False

    def kept(self, said: ResponseRequested) -> list[int]:
        """Return what the pieces of the request's body were kept as, right after it was proven."""
        line = self._lines[_place(said)]
        link = line.full.kept if line.full is not None else None
        made: list[Sequence[int]] = []
        while link is not None:
            made.append(link[1])
            link = link[0]
        return [one for some in reversed(made) for one in some]

    async def _digest(
        self,
        place: tuple[Any, ...],
        request: Record,
        said: ResponseRequested,
        encoder: Piecewise,
        frame: Frame,
        settings: Any,
    ) -> str:
        """Return the digest of a request's body, going on from its line's last."""
        line, index = self._lines.get(place), None
        new = self.recent.between(line.seen, request.seq) if line is not None else None
        if line is not None and new is not None:
            index = line.go_on(said.manifest, frame, line.extend(new))
        if line is None or index is None:
            line = self._lines[place] = _Line(await gathered(self._store, self._name, said, self.recent), 0)
            while len(self._lines) > _LINES:
                self._lines.popitem(last=False)
            line.settled = self._begin(line.made, encoder, frame, settings)
            index = 0
        self._lines.move_to_end(place)
        line.seen, line.manifest, line.frame = request.seq - 1, said.manifest, frame
        assert line.settled is not None
        groups = [line.history.groups[at] for at in line.history.order[index:]]
        mark = line.settled
        if groups:
            line.last = groups[-1].at
            line.settled, mark = await self._write(mark, groups, said, encoder, settings)
        elif line.full is not None:
            mark = line.full
        line.full = mark
        state = mark.hash.copy()
        state.update(frame.after)
        return str(state.hexdigest())

    async def _write(
        self, mark: _Mark, groups: Sequence[Group], said: ResponseRequested, encoder: Piecewise, settings: Any
    ) -> tuple[_Mark, _Mark]:
        """Write groups; return the marks before and behind the last of them."""
        manifest = _from(said.manifest, groups[0].at)
        whole = {
            entry.seq: await filled(self._store, entry.item, entry.blobs)
            for group in groups
            for entry in group.entries
            if entry.blobs and manifest.fate(entry.seq) in SENT
        }
        rendered = render(groups, (), (), 0, manifest, said.target, whole)
        last = [entry.seq for entry in groups[-1].entries]
        end = next((at for at, one in enumerate(rendered) if one.seq in last), len(rendered))
        to = max([mark.to, *(entry.seq for group in groups[:-1] for entry in group.entries)])
        settled = self._written(mark, encoder.pieces(rendered[:end], settings), to) if end else mark._replace(to=to)
        return settled, self._written(settled, encoder.pieces(rendered[end:], settings), max([to, *last]))

    def _begin(self, made: Gathered, encoder: Piecewise, frame: Frame, settings: Any) -> _Mark:
        """Return the mark behind what stands in front of a window's groups."""
        mark = _Mark(hashlib.sha256(frame.before), frame.begun, 0)
        return self._written(mark, encoder.pieces(made.part(()), settings), 0)

    def _written(self, mark: _Mark, pieces: Sequence[Any], to: int) -> _Mark:
        """Return the mark behind more entries."""
        if not pieces:
            return mark._replace(to=max(mark.to, to))
        state = mark.hash.copy()
        data = b",".join(map(encode, pieces))
        state.update(b"," + data if mark.begun else data)
        kept = None if self._keep is None else (mark.kept, [self._keep(one) for one in pieces])
        return _Mark(state, True, max(mark.to, to), kept)


def _place(said: ResponseRequested) -> tuple[Any, ...]:
    return said.adapter, said.encoder, said.target, said.manifest.line


def _from(manifest: Manifest, first: int) -> Manifest:
    """Return what a manifest says of seqs from one on: for the end of a window nothing else is looked at."""
    runs = bisect_left(manifest.runs, first, key=_last_of_run)
    bare = bisect_left(manifest.bare, first, key=_last_of_span)
    if not runs and not bare:
        return manifest
    return msgspec.structs.replace(manifest, runs=manifest.runs[runs:], bare=manifest.bare[bare:])


def _last_of_run(run: Run) -> int:
    return run.last


def _last_of_span(span: Span) -> int:
    return span[1]


def _agreed(old: Manifest, new: Manifest) -> int:
    """Return a seq up to which two manifests let the same be sent, in the same form."""
    same = min(old.as_of, new.as_of)
    for one, other in zip(old.runs, new.runs, strict=False):
        if one.first != other.first or (one.fate != other.fate and not SENT.isdisjoint((one.fate, other.fate))):
            same = min(same, one.first - 1, other.first - 1)
            break
        if one.last != other.last:
            same = min(same, one.last, other.last)
            break
    if old.bare != new.bare:
        same = min(same, _parted(old.bare, new.bare))
    if old.sealed != new.sealed:
        same = min(same, min(set(old.sealed) ^ set(new.sealed)) - 1)
    return same


def _parted(old: Sequence[Span], new: Sequence[Span]) -> int:
    """Return the seq before the first one that is in one of two rows of spans only."""
    for one, other in zip_longest(old, new, fillvalue=(_FAR, _FAR)):
        if one != other:
            return min(one[1], other[1]) if one[0] == other[0] else min(one[0], other[0]) - 1
    return _FAR
