"""Digests on the run: what a request's body comes to, from what the one before it on the same line came to.

A window grows at its end and is cut at its beginning, so its items need not be written again for each request that
holds them: what each group was written as is kept, and between two cuts the state of the hash behind them too. A
digest that is the recorded one proves that the log still gives what was sent. Any other proves nothing: then the
request is rebuilt from its beginning.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, Final

import msgspec

from ..blobs import filled
from ..canonical import encode, loads
from ..codec import REQUESTED
from ..errors import CorruptLog, StoreError
from ..events import ASIDE, Record, ResponseRequested
from ..groups import Group
from ..manifest import SENT, Fate, Manifest, Run, Span, form_of
from ..model import keyed
from ..paths import Shelf
from ..window.remote import addressed
from ..window.render import Pen
from .encoders import Encoders, Frame, Piecewise
from .rebuilding import Gathered, gathered

__all__ = ("Frames", "Recent", "Running")

_LINES: Final = 4
_FRAMES: Final = 64
_MISSED: Final = 8
_BYTES: Final = 8 * 1024 * 1024
"""How much of what was read last is kept at hand."""
_FAILED: Final = "response.failed"
_FEW: Final = 8
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


class _Chunk(msgspec.Struct, frozen=True, gc=False):
    """What one group of a window was written as."""

    place: int
    """The group's place."""
    upto: int
    """The last seq of it, and of all before it."""
    data: bytes
    """Its entries in the list, between commas; empty where nothing of it is sent."""
    kept: Sequence[int]
    """What the entries were kept as."""


class _Line:
    """What the last window of one line came to: its groups, and a chunk for each of them.

    All chunks but the last, whose group may still grow, are in the state of the hash. The first one is what stands in
    front of the groups.
    """

    def __init__(self, made: Gathered, front: Sequence[Any], keep: Callable[[Any], int] | None) -> None:
        self.history = made.history
        self.manifest = made.manifest
        self.seen = 0
        """The last seq that the history has taken in."""
        self._keep = keep
        self._chunks: list[_Chunk] = []
        self._before: bytes | None = None
        """What the hash begins with; None: it has to begin anew."""
        self._hash: Any = None
        self._hashed = 0
        """How many chunks are in it."""
        self._begun = False
        """Whether the list has entries by the end of them."""
        self._front = max(made.manifest.early, default=0)
        """The last place of what is sent in front of all groups."""
        self.write(self._front, self._front, front)

    def write(self, place: int, upto: int, pieces: Sequence[Any]) -> None:
        """Write a group's entries at the end."""
        kept = () if self._keep is None else [self._keep(one) for one in pieces]
        upto = max(upto, self._chunks[-1].upto) if self._chunks else upto
        self._chunks.append(_Chunk(place, upto, b",".join(map(encode, pieces)), kept))

    def digest(self, frame: Frame) -> str:
        """Return the digest of the body."""
        if self._before != frame.before:  # what is around the items is another; they are the same
            self._before, self._hash = frame.before, hashlib.sha256(frame.before)
            self._hashed, self._begun = 0, frame.begun
        chunks, last = self._chunks, len(self._chunks) - 1
        while self._hashed < last:
            self._update(self._hash, chunks[self._hashed].data)
            self._begun |= chunks[self._hashed].data != b""
            self._hashed += 1
        state = self._hash.copy()
        self._update(state, chunks[last].data)
        state.update(frame.after)
        return str(state.hexdigest())

    def _update(self, state: Any, data: bytes) -> None:
        if data:
            state.update(b"," + data if self._begun else data)

    @property
    def kept(self) -> list[int]:
        """What the entries were kept as."""
        return [place for chunk in self._chunks for place in chunk.kept]

    def go_on(self, manifest: Manifest, records: Sequence[Record]) -> bool:
        """Take in what came since, and keep what the next window holds too; return False if it has to begin anew."""
        before, self.manifest = self.manifest, manifest
        if (before.base, before.early) != (manifest.base, manifest.early) or before.cut > manifest.cut:
            return False
        said = _said(records, manifest)
        if said is None:
            return False
        self.history.extend(said)
        since = 0
        if before.cut < manifest.cut:
            since = manifest.cut
            if not self._shed(before, manifest):
                return False
        low, same = self.history.grown or _FAR, _agreed(before, manifest, since)
        chunks = self._chunks
        while chunks and (chunks[-1].place >= low or chunks[-1].upto > same):
            chunks.pop()
        if len(chunks) < self._hashed:
            self._before = None
        return bool(chunks)

    def _shed(self, before: Manifest, manifest: Manifest) -> bool:
        """Drop the groups below a new cut that are not sent; return False if the others are not what they were."""
        groups, cut = self.history.groups, manifest.cut
        dropped: set[int] = set()
        for at in self.history.order[: bisect_left(self.history.order, cut)]:
            seqs = [entry.seq for entry in groups[at].entries]
            if not any(manifest.fate(seq) in SENT for seq in seqs):
                dropped.add(at)
            elif any(_form(before, seq) != _form(manifest, seq) for seq in seqs):
                return False
        self.history.shed(dropped)
        self._chunks = [chunk for chunk in self._chunks if chunk.place not in dropped]
        self._before = None
        return True

    def behind(self) -> Sequence[int]:
        """Return the places of the groups that are not written yet.

        Raises:
            CorruptLog: some stand where none can: the log was changed.
        """
        order, front = self.history.order, self._front
        if order and order[0] < front:
            raise CorruptLog(f"{self.history.conversation}/{order[0]}: it stands in front of {front}, which is early")
        return order[bisect_right(order, self._chunks[-1].place) :]


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

    async def proves(self, said: ResponseRequested) -> bool:
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
            if around is not None and await self._digest(place, said, encoder, *around) == said.digest:
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
        said: ResponseRequested,
        encoder: Piecewise,
        frame: Frame,
        settings: Any,
    ) -> str:
        """Return the digest of a request's body, going on from its line's last."""
        line = self._lines.get(place)
        as_of = said.manifest.as_of
        new = self.recent.between(line.seen, as_of + 1) if line is not None else None
        if line is None or new is None or not line.go_on(said.manifest, new):
            made = await gathered(self._store, self._name, said, self.recent)
            line = self._lines[place] = _Line(made, encoder.pieces(made.part(()), settings), self._keep)
            while len(self._lines) > _LINES:
                self._lines.popitem(last=False)
        self._lines.move_to_end(place)
        line.seen = as_of
        groups = [line.history.groups[at] for at in line.behind()]
        if groups:
            pen = Pen(_from(said.manifest, groups[0].at), said.target, await self._whole(groups, said.manifest))
            for group in groups:
                seqs = [entry.seq for entry in group.entries]
                if min(seqs) < group.at:
                    raise CorruptLog(f"{self._name}/{min(seqs)}: it is part of what begins at {group.at} only")
                line.write(group.at, max(seqs), encoder.pieces(pen.groups((group,)), settings))
        return line.digest(frame)

    async def _whole(self, groups: Sequence[Group], manifest: Manifest) -> dict[int, bytes]:
        """Return those items of groups of which some stands out of line, put together again."""
        large = [entry for group in groups for entry in group.entries if entry.blobs]
        sent = [entry for entry in large if manifest.fate(entry.seq) in SENT]
        return {entry.seq: await filled(self._store, entry.item, entry.blobs) for entry in sent}


def _place(said: ResponseRequested) -> tuple[Any, ...]:
    return said.adapter, said.encoder, said.target, said.manifest.line


def _said(records: Sequence[Record], manifest: Manifest) -> list[Record] | None:
    """Return what windows are made of; None where what was said aside would be sent as part of one."""
    aside = {one.seq for one in records if one.flags & ASIDE}
    items = [one for one in records if one.kind == _FAILED or one.item is not None]
    if any(manifest.fate(seq) in SENT for seq in aside):
        return None
    return [one for one in items if one.seq not in aside] if aside else items


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


def _form(manifest: Manifest, seq: int) -> tuple[Fate | None, bool, bool]:
    """Return in what form a manifest lets something be sent."""
    return form_of(manifest.fate(seq)), manifest.is_bare(seq), seq in manifest.sealed


def _agreed(old: Manifest, new: Manifest, since: int) -> int:
    """Return a seq up to which two manifests let the same be sent, in the same form, from the seq *since* on."""
    same = min(old.as_of, new.as_of)
    for one, other in zip(_runs(old, since), _runs(new, since), strict=False):
        other_form = one.fate != other.fate and form_of(one.fate) != form_of(other.fate)
        if other_form or max(one.first, since) != max(other.first, since):
            same = min(same, max(min(one.first, other.first), since) - 1)
            break
        if one.last != other.last:
            same = min(same, one.last, other.last)
            break
    if old.bare != new.bare:
        same = min(same, _parted(_spans(old.bare, since), _spans(new.bare, since)))
    if old.sealed != new.sealed:
        same = min(same, min([seq for seq in {*old.sealed} ^ {*new.sealed} if seq >= since], default=_FAR) - 1)
    return same


def _runs(manifest: Manifest, since: int) -> Sequence[Run]:
    return manifest.runs[bisect_left(manifest.runs, since, key=_last_of_run) :] if since else manifest.runs


def _spans(spans: Iterable[Span], since: int) -> list[Span]:
    return [(max(first, since), last) for first, last in spans if last >= since]


def _parted(old: Sequence[Span], new: Sequence[Span]) -> int:
    """Return the seq before the first one that is in one of two rows of spans only."""
    for one, other in zip_longest(old, new, fillvalue=(_FAR, _FAR)):
        if one != other:
            return min(one[1], other[1]) if one[0] == other[0] else min(one[0], other[0]) - 1
    return _FAR
