"""Digests on the run: what a request's body comes to, from what the one before it on the same line came to.

Between two cuts a window only grows at its end, so its items need not be written again for each request that holds
them: the state of the hash behind the groups that can grow no more is kept, and the next digest goes on from there. A
digest that is the recorded one proves that the log still gives what was sent. Any other proves nothing: then the
request is rebuilt from its beginning.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final

import msgspec

from ..blobs import filled
from ..canonical import encode, loads
from ..codec import ITEM, REQUESTED
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
_MISSED: Final = 8
_BYTES: Final = 8 * 1024 * 1024
"""How much of what was read last is kept at hand."""
_FAILED: Final = "response.failed"
_FEW: Final = 8
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
        self._sizes.append((len(page), sum([len(one.item or b"") + len(one.data or b"") for one in page])))
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


class _Settings(msgspec.Struct):
    settings: str


_settings = msgspec.json.Decoder(_Settings)


def _settings_of(record: Record) -> str | None:
    try:
        return _settings.decode(record.data or b"").settings
    except msgspec.MsgspecError:
        return None  # whatever is wrong with it is told where it is read


class Frames:
    """What stands around the items of requests, by their settings and the keys of their prompt caches."""

    def __init__(self, store: Shelf, known: Encoders) -> None:
        self._store = store
        self._known = known
        self._missed = _MISSED
        """Of the last page: how many settings were not known yet."""
        self._raw: dict[str, bytes | None] = {}
        """What was fetched last."""
        self._frames: OrderedDict[tuple[str, int, str, str | None, str], tuple[Frame, Any] | None] = OrderedDict()

    def encoder(self, said: ResponseRequested) -> Piecewise | None:
        """Return a request's encoder, if it writes piece by piece."""
        encoder = self._known.get((said.adapter, said.encoder))
        return encoder if isinstance(encoder, Piecewise) else None

    async def fetch(self, page: Sequence[Record]) -> None:
        """Read the settings of a page's requests, all at once; only where those of the last page were ever others."""
        missed, self._missed = self._missed, 0
        if missed < _MISSED:
            return
        wanted = {_settings_of(record) for record in page if record.kind == REQUESTED} - self._raw.keys() - {None}
        if len(wanted) > 1:
            names = [name for name in wanted if name is not None]
            found = await asyncio.gather(*map(self._store.body, names))
            self._raw = dict(zip(names, found, strict=True))

    async def around(self, said: ResponseRequested) -> tuple[Frame, Any] | None:
        """Return the frame of a request and its settings, None if it has to be rebuilt to know what is wrong."""
        place = said.adapter, said.encoder, said.settings, said.cache_key, said.manifest.remote
        if place not in self._frames:
            self._frames[place] = await self._made(said)
            self._missed += 1
            if len(self._frames) > _FRAMES:
                self._frames.popitem(last=False)
        return self._frames[place]

    async def _made(self, said: ResponseRequested) -> tuple[Frame, Any] | None:
        encoder, raw = self.encoder(said), self._raw.get(said.settings)
        raw = await self._store.body(said.settings) if raw is None else raw
        if encoder is None or raw is None or hashlib.sha256(raw).hexdigest() != said.settings:
            return None
        try:
            settings = addressed(keyed(loads(raw), said.cache_key), said.manifest)
            return encoder.frame(settings), settings
        except Exception:  # noqa: BLE001 - whatever is wrong with it, rebuilding tells
            return None


class _Line:
    """What the last window of one line came to.

    The groups that can grow no more are settled: they are in the state of the hash. The last one, which may still grow,
    is the tail.
    """

    def __init__(self, made: Gathered) -> None:
        self.made = made
        self.history = made.history
        self.manifest = made.manifest
        self.seen = 0
        """The last seq that the history has taken in."""
        self.frame: Frame | None = None
        self.last = 0
        """The place of the last group."""
        self.settled_to = 0
        """The last seq of what is settled."""
        self.written_to = 0
        """The last seq of the tail."""
        self._hash: Any = None
        self._begun = False
        """Whether the list has entries by the end of what is settled."""
        self._settled: list[bytes] = []
        self._tail = b""
        self._kept: list[int] = []
        self._tail_kept: list[int] = []

    def begin(self, frame: Frame) -> None:
        """Begin a body, with what is settled and stands in another one now."""
        self.frame = frame
        self._hash = hashlib.sha256(frame.before)
        self._begun = frame.begun
        data = b",".join(self._settled)
        self._settled.clear()
        self._settle(data)

    def _settle(self, data: bytes) -> None:
        if data:
            self._hash.update(b"," + data if self._begun else data)
            self._begun = True
            self._settled.append(data)

    def settle(self, data: bytes, to: int, kept: Sequence[int]) -> None:
        """Write entries that stand where they are as long as the window begins so."""
        self._settle(data)
        self.settled_to = max(self.settled_to, to)
        self._kept += kept

    def end(self, data: bytes, to: int, kept: list[int]) -> None:
        """Write the entries of the last group."""
        self._tail, self._tail_kept = data, kept
        self.written_to = max(self.settled_to, to)

    def digest(self, frame: Frame) -> str:
        """Return the digest of the body."""
        state = self._hash.copy()
        state.update((b"," if self._begun and self._tail else b"") + self._tail + frame.after)
        return str(state.hexdigest())

    @property
    def kept(self) -> list[int]:
        """What the entries were kept as."""
        return [*self._kept, *self._tail_kept]

    def extend(self, records: Sequence[Record]) -> int:
        """Take in what came since; return the lowest place that something came to."""
        items = [one for one in records if (one.item is not None and one.kind in _CARRIERS) or one.kind == _FAILED]
        self.history.extend(items)
        low = _FAR
        for record in items:
            at = record.seq if record.response is None else record.response
            form = reading(record.shape or "unknown", record.link)
            if form.is_output and form.kind is not None:
                call = self.history.calls.get((form.kind.answers or "", form.link or ""))
                at = record.seq if call is None else call.at
            low = min(low, at)
        return low

    def go_on(self, manifest: Manifest, frame: Frame, low: int) -> int | None:
        """Return the index of the first group to write behind what is settled for the next window; None: begin anew.

        *low* is the lowest place that something came to since.
        """
        before = self.manifest
        if self.frame is None:
            return None
        if (before.base, before.early, before.cut) != (manifest.base, manifest.early, manifest.cut):
            return None
        same = _agreed(before, manifest)
        order = self.history.order
        if low > self.last and same >= self.written_to:
            if order and order[-1] > self.last:  # the last group is not the last any more
                self.settle(self._tail, self.written_to, self._tail_kept)
                self.end(b"", self.settled_to, [])
            index = bisect_right(order, self.last)
        elif low >= self.last and same >= self.settled_to:
            index = bisect_left(order, self.last)
        else:
            return None
        if self.frame is not frame and self.frame.before != frame.before:
            self.begin(frame)  # what is around the items is another; they are the same
        return index


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
        return self._lines[_place(said)].kept

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
            line = self._lines[place] = _Line(await gathered(self._store, self._name, said, self.recent))
            while len(self._lines) > _LINES:
                self._lines.popitem(last=False)
            line.begin(frame)
            line.settle(*self._written(encoder.pieces(line.made.part(()), settings), 0))
            index = 0
        self._lines.move_to_end(place)
        line.seen, line.manifest, line.frame = request.seq - 1, said.manifest, frame
        order = line.history.order
        if index < len(order):
            await self._write(line, [line.history.groups[at] for at in order[index:]], said, encoder, settings)
        return line.digest(frame)

    async def _write(
        self, line: _Line, groups: Sequence[Group], said: ResponseRequested, encoder: Piecewise, settings: Any
    ) -> None:
        """Write groups behind what is settled, the last of them as the tail."""
        manifest = _from(said.manifest, groups[0].at)
        whole: dict[int, bytes] = {}
        for group in groups:
            for entry in group.entries:
                if entry.blobs and manifest.fate(entry.seq) in SENT:
                    whole[entry.seq] = await filled(self._store, entry.item, entry.blobs)
        rendered = render(groups, (), (), 0, manifest, said.target, whole)
        last = groups[-1].entries
        end = 0
        if len(groups) > 1:
            seqs = [entry.seq for entry in last]
            end = next((at for at, one in enumerate(rendered) if one.seq in seqs), len(rendered))
            to = max(entry.seq for group in groups[:-1] for entry in group.entries)
            line.settle(*self._written(encoder.pieces(rendered[:end], settings), to))
        rest = rendered[end:] if end else rendered
        line.end(*self._written(encoder.pieces(rest, settings), max([entry.seq for entry in last])))
        line.last = groups[-1].at

    def _written(self, pieces: Sequence[Any], to: int) -> tuple[bytes, int, list[int]]:
        """Return entries as bytes, with the last seq of them and what they were kept as."""
        kept = [] if self._keep is None else [self._keep(one) for one in pieces]
        return b",".join(map(encode, pieces)), to, kept


def _place(said: ResponseRequested) -> tuple[Any, ...]:
    return said.adapter, said.encoder, said.target, said.manifest.line


def _from(manifest: Manifest, first: int) -> Manifest:
    """Return what a manifest says of seqs from one on: for the end of a window nothing else is looked at."""
    if len(manifest.runs) + len(manifest.bare) < _FEW:
        return manifest
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
