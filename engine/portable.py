"""Conversations as JSON Lines: all their events, and back.

A conversation is a header line, then its idempotency keys and how many there are, then its events in seq order, each
body before the first event that refers to it. What a fork shares comes before it, as the conversations that it is a
fork of, up to there; of their keys, those that stand for what is shared. Reading it into another store gives the same
events: same seqs, times, checksums; only positions are the new store's own. The keys are used up there too, so that
whoever repeats what was appended here appends nothing there.

Format 1 had no keys. It is still read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import msgspec

from .blobs import blobs_of
from .canonical import digest, encode, loads, written
from .codec import ITEM, REQUESTED, RESTORE, body, damage, missing, renewed
from .errors import Conflict, CorruptLog, InvalidItem, NotFound
from .events import ERASED, NewEvent, Record, ResponseRequested, checksum
from .ids import Position, check_id, check_key, moment
from .log import Fork, Head, KeyUse, Query, Store

__all__ = ("FORMAT", "Package", "dump", "restore")

FORMAT: Final = 2
_FORMATS: Final = (1, FORMAT)
_PAGE: Final = 500
_BATCH: Final = 20_000
"""Events that are appended at once: what fits is restored whole or not at all."""

_CREATED: Final = "conversation.created"
_AGAIN: Final = "export it again"
_BESIDE: Final = "to import it beside, change the id in its first line"
_LARGEST: Final = 2**63 - 1
"""What a store has room for, in a number."""

_PLAIN: Final = ("schema", "response", "shape", "link", "tokens", "excerpt", "flags")
_DEFAULTS: Final[Mapping[str, Any]] = {"schema": 1, "tokens": 0, "flags": 0}
_LEAST: Final = {"seq": 1, "time": -_LARGEST, "sum": -_LARGEST - 1, "schema": 1, "tokens": 0, "flags": 0}
"""Numbers that every event has, and their least values."""


async def dump(store: Store, name: str, written: dict[str, int] | None = None) -> AsyncIterator[tuple[bytes, str]]:
    """Yield a conversation line by line, and with each event whose own it is; in memory bounded by a page.

    Given what has been *written* to the same file, as versions by id, what a fork shares with these is not written
    again; what is written now is noted there.

    Raises:
        NotFound: there is no such conversation, or it was deleted meanwhile.
        CorruptLog: an event in it is missing, cannot be read, or is not what was written.
    """
    snapshot = await store.read(name)
    if snapshot is None or snapshot.head.deleted:
        raise NotFound(f"conversation {name}", deleted=snapshot is not None)
    written = {} if written is None else written
    for one, first, last in await _lineage(store, snapshot.head, written):
        if one != name and written.get(one, 0) >= last:
            continue
        written[one] = max(written.get(one, 0), last)
        header: dict[str, Any] = {"turnlog": "conversation", "format": FORMAT, "id": one, "version": last}
        if first is not None:
            header |= {"parent": first[0], "at": first[1]}
        yield _line(header), ""
        count = 0
        async for key, use in _keys(store, one):
            # One that was used up since, or for an append of which a fork shares a part only, is not in it.
            if use.last <= last:
                yield _line({"key": key, "digest": use.digest, "first": use.first, "last": use.last}), ""
                count += 1
        yield _line({"keys": count}), ""
        async for line, is_event in _lines(store, name, first[1] if first else 0, last):
            yield line, one if is_event else ""


async def _lineage(
    store: Store, head: Head, written: Mapping[str, int]
) -> list[tuple[str, tuple[str, int] | None, int]]:
    """Return a conversation and those whose events it shares, oldest first: id, parent and seq, last seq shared."""
    found: list[tuple[str, tuple[str, int] | None, int]] = []
    last = head.version
    while True:
        # A fork of a fork at a point before that one's own beginning shares none of its events.
        if head.parent is None or head.parent[1] < last:
            found.append((head.conversation, head.parent, last))
        if head.parent is None:
            break
        last = min(last, head.parent[1])
        parent = await store.read(head.parent[0])
        assert parent is not None, "what was deleted leaves its head"
        head = parent.head
    for index, (name, parent_, top) in enumerate(found[:-1]):
        # Such a one can be named as the parent where it is at hand; else the next one that it shares events with is.
        if parent_ is not None and written.get(parent_[0], 0) < parent_[1]:
            found[index] = name, (found[index + 1][0], parent_[1]), top
    return found[::-1]


async def _lines(store: Store, name: str, first: int, last: int) -> AsyncIterator[tuple[bytes, bool]]:
    seen: set[str] = set()
    async for record in _records(store, name, last, after=first):
        if record.seq != first + 1:
            raise missing(name, first + 1)
        line = _line(_written(record))
        told = damage(record)
        if told:
            raise CorruptLog(f"{name}/{record.seq}: {told}")
        said = body(record) if record.kind == REQUESTED else None
        wanted = {blob.digest: "its blob" for blob in blobs_of(record)}
        if isinstance(said, ResponseRequested):
            wanted[said.settings] = "its settings"
        for name_, what in wanted.items():
            if name_ not in seen:
                seen.add(name_)
                yield await _body(store, name_, f"{name}/{record.seq}: {what}"), False
        first = record.seq
        yield line, True
    if first < last:
        snapshot = await store.read(name)
        if snapshot is None or snapshot.head.deleted:
            raise NotFound(f"conversation {name}", deleted=True)
        raise missing(name, first + 1)


async def _body(store: Store, name: str, place: str) -> bytes:
    content = await store.body(name)
    if content is None:
        raise CorruptLog(f"{place}: what was stored is missing; {RESTORE}")
    value = _value(content, place)
    if digest(content) != name:
        raise CorruptLog(f"{place}: what is stored is not what was written; {RESTORE}")
    return _line({"body": name, "value": value})


async def _keys(store: Store, name: str) -> AsyncIterator[tuple[str, KeyUse]]:
    after = ""
    while page := await store.keys(name, after=after, limit=_PAGE):
        for after, use in page.items():
            yield after, use


async def _records(store: Store, name: str, version: int, after: int = 0) -> AsyncIterator[Record]:
    while after < version:
        snapshot = await store.read(name, Query(after=after, before=version + 1, limit=_PAGE))
        page = snapshot.records[0] if snapshot else ()
        if not page:
            return
        for record in page:
            yield record
        after = page[-1].seq


def _line(value: Any) -> bytes:
    return encode(value) + b"\n"


def _written(record: Record) -> dict[str, Any]:
    made: dict[str, Any] = {"seq": record.seq, "time": record.time, "kind": record.kind, "sum": record.sum}
    for name in _PLAIN:
        value = getattr(record, name)
        if value != _DEFAULTS.get(name):
            made[name] = value
    for name in ("item", "data"):
        content = getattr(record, name)
        if content is not None:
            made[name] = _value(content, f"{record.conversation}/{record.seq}")
    return made


def _value(content: bytes, place: str) -> Any:
    try:
        return loads(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptLog(f"{place}: what is stored is no JSON: {error}; {RESTORE}") from error


class Package:
    """One conversation read from lines, before it is restored."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        """Begin with a header line.

        Raises:
            InvalidItem: it is no header of a format that is known here.
        """
        if header.get("format") not in _FORMATS:
            raise InvalidItem(
                "$.format", f"{header.get('format')!r:.100} is not known here; this turnlog reads formats 1 to {FORMAT}"
            )
        self.id = check_id(header.get("id"))
        self.version = _number(header, "version", 1)
        self.fork = _fork(header)
        self.first = self.fork.at + 1 if self.fork else 1
        self.bodies: dict[str, bytes] = {}
        self.records: list[Record] = []
        self.uses: dict[str, KeyUse] = {}
        self._listing = header["format"] > 1
        """Whether the keys, or how many there are, are still to come."""

    def add(self, line: Mapping[str, Any]) -> None:
        """Take the next line in, as `turnlog.engine.canonical.parse` has returned it.

        Raises:
            InvalidItem: it is neither a key, a body nor the next event, or not what was exported.
        """
        if self._listing:
            self._add_key(line)
        elif "body" in line:
            self._add_body(line)
        else:
            self._add_event(line)

    def _add_key(self, line: Mapping[str, Any]) -> None:
        if "key" not in line:
            if line.get("keys") != len(self.uses):
                told = (
                    f"{line['keys']!r:.100} were exported" if "keys" in line else "the line that counts them is missing"
                )
                raise InvalidItem("$.keys", f"{len(self.uses)} keys are here, {told}; the file is not whole, {_AGAIN}")
            self._listing = False
            return
        name = check_key(line["key"])
        use = KeyUse(_text(line, "digest"), _number(line, "first", self.first), _number(line, "last", self.first - 1))
        if not use.first <= use.last + 1 <= self.version + 1:
            said = f"key {name!r:.100} cannot stand for the events from {use.first} to {use.last}"
            raise InvalidItem("$", f"{said}; the file was changed, {_AGAIN}")
        if name in self.uses:
            raise InvalidItem("$.key", f"{name!r:.100} comes twice; the file was changed, {_AGAIN}")
        self.uses[name] = use

    def _add_body(self, line: Mapping[str, Any]) -> None:
        content = encode(line.get("value"))
        if digest(content) != line["body"]:
            raise InvalidItem("$.value", f"the body is not what its digest says; the file was changed, {_AGAIN}")
        self.bodies[str(line["body"])] = content

    def _add_event(self, line: Mapping[str, Any]) -> None:
        seq = line.get("seq")
        if seq != self.first + len(self.records):
            missed = f"{seq!r:.100}: event {self.first + len(self.records)} is expected here"
            raise InvalidItem("$.seq", f"{missed}; the file is not whole, {_AGAIN}")
        record = _read(self.id, line)
        if checksum(record.item, record.data) != record.sum:
            raise InvalidItem("$", f"event {seq} is not what its checksum says; the file was changed, {_AGAIN}")
        self.records.append(record)

    @property
    def whole(self) -> bool:
        """Whether its last event has been read."""
        return self.first + len(self.records) - 1 == self.version

    def check(self) -> None:
        """See to it that it is whole.

        Raises:
            InvalidItem: events are missing at its end, or settings that they refer to.
        """
        if not self.whole:
            there = f"{len(self.records)} of {self.version - self.first + 1} events are here"
            raise InvalidItem("$", f"{self.id}: {there}; the file is not whole, {_AGAIN}")
        for record in self.records:
            self._check(record)

    def _check(self, record: Record) -> None:
        if (record.kind == _CREATED) != (record.seq == self.first):
            rule = f"the first event, and no other, is a {_CREATED}"
            raise InvalidItem("$", f"{self.id}/{record.seq}: {rule}; the file was changed, {_AGAIN}")
        if record.kind == ITEM and record.item is None and not record.flags & ERASED:
            raise InvalidItem("$", f"{self.id}/{record.seq}: an {ITEM} without an item; the file was changed, {_AGAIN}")
        try:
            said = body(record)
            blobs = blobs_of(record)
        except CorruptLog as error:
            raise InvalidItem("$", str(error)) from error
        wanted = {blob.digest for blob in blobs}
        what = f"{self.id}: the blobs"
        if isinstance(said, ResponseRequested):
            wanted, what = {said.settings}, f"{self.id}: the settings"
        if not wanted <= self.bodies.keys():
            raise InvalidItem("$", f"{what} of event {record.seq} are missing; the file is not whole, {_AGAIN}")


def _fork(header: Mapping[str, Any]) -> Fork | None:
    parent, at = header.get("parent"), header.get("at")
    if parent is None:
        return None
    if not isinstance(at, int) or at < 1:
        raise InvalidItem("$.at", f"{at!r}: the seq up to which the parent's events are shared is needed")
    return Fork(check_id(str(parent)), at)


def _read(name: str, line: Mapping[str, Any]) -> Record:
    values = {key: line[key] for key in _PLAIN if key in line}
    for key, least in _LEAST.items():
        if key in line or key in ("time", "sum"):
            _number(line, key, least)
    for key in ("response", "excerpt"):
        if values.get(key) is not None:
            _number(line, key, 0)
    for key in ("kind", "shape", "link"):
        if key == "kind" or line.get(key) is not None:
            _text(line, key)
    try:
        moment(line["time"])
    except OverflowError:
        raise InvalidItem("$.time", f"{line['time']} is no time in microseconds since 1970") from None
    return Record(
        conversation=name,
        position=Position(""),
        seq=line["seq"],
        time=line["time"],
        kind=line["kind"],
        item=_object(line, "item"),
        data=_object(line, "data"),
        sum=line["sum"],
        **values,
    )


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key)
    if not isinstance(value, str):
        raise InvalidItem(f"$.{key}", f"{value!r:.100} is no text")
    return value


def _number(line: Mapping[str, Any], key: str, least: int) -> int:
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise InvalidItem(f"$.{key}", f"{value!r:.100} is no whole number that can stand here")
    return value


def _object(line: Mapping[str, Any], key: str) -> bytes | None:
    value = line.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidItem(f"$.{key}", "a JSON object is expected here")
    return written(value, f"$.{key}")


async def restore(store: Store, package: Package) -> int:
    """Append a conversation's events to a store that does not have them; return how many there were to append.

    What is there already, from an earlier time or an import that was stopped, is compared and left alone. A key is
    restored with the last of the events that it stands for, or behind them, where an earlier import brought none.

    Raises:
        Conflict: the store has a conversation of that id with other events, or a key of it stands for others; or it
            does not have the parent of what is a fork.
        StoreError: it cannot be written; what was is whole up to a batch's end, and the same import goes on from there.
    """
    package.check()
    there = await _same(store, package)
    if package.fork is not None and not there:
        await _check_parent(store, package, package.fork)
    uses = await _missing(store, package) if there else list(package.uses.items())
    uses.sort(key=_last, reverse=True)
    for start in range(there, len(package.records), _BATCH):
        events: list[NewEvent] = [renewed(record) for record in package.records[start : start + _BATCH]]
        version = package.first - 1 + start if start else 0
        await store.append(
            package.id,
            events,
            expected=version,
            bodies=package.bodies,
            fork=package.fork if start == 0 else None,
            uses=_up_to(uses, package.first - 1 + start + len(events)),
        )
    if uses:
        await store.append(package.id, [], uses=dict(uses))
    return len(package.records) - there


async def _check_parent(store: Store, package: Package, fork: Fork) -> None:
    parent = await store.read(fork.parent)
    if parent is None or parent.head.deleted or parent.head.version < fork.at:
        here = "which was deleted here" if parent and parent.head.deleted else "which is not here up to there"
        raise Conflict(f"conversation {package.id}: it is a fork of {fork.parent} at {fork.at}, {here}")


def _last(use: tuple[str, KeyUse]) -> int:
    return use[1].last


def _up_to(uses: list[tuple[str, KeyUse]], seq: int) -> dict[str, KeyUse]:
    """Take those keys off the end of a list that stand for events up to a seq."""
    found: dict[str, KeyUse] = {}
    while uses and _last(uses[-1]) <= seq:
        name, use = uses.pop()
        found[name] = use
    return found


async def _missing(store: Store, package: Package) -> list[tuple[str, KeyUse]]:
    """Return the keys that are not there."""
    missing = dict(package.uses)
    async for name, use in _keys(store, package.id):
        if missing.pop(name, use) != use:
            raise Conflict(
                f"conversation {package.id}: key {name!r:.100} stands for the events from {use.first} to {use.last} "
                f"here, and for others in the file; {_BESIDE}"
            )
    return list(missing.items())


async def _same(store: Store, package: Package) -> int:
    """Return how many of the events are there already."""
    snapshot = await store.read(package.id)
    if snapshot is None:
        return 0
    version = snapshot.head.version
    shared = snapshot.head.parent[1] if snapshot.head.parent else 0
    if snapshot.head.deleted or shared != package.first - 1:
        raise Conflict(f"conversation {package.id}: it is another one here; import it under another id")
    ours: Iterable[Record] = package.records
    theirs = [record async for record in _records(store, package.id, version, after=package.first - 1)]
    for mine, other in zip(ours, theirs, strict=False):
        if (mine.kind, mine.time, mine.sum, mine.item, mine.data) != (
            other.kind,
            other.time,
            other.sum,
            other.item,
            other.data,
        ):
            raise Conflict(f"conversation {package.id}: event {mine.seq} is another one here; {_BESIDE}")
    return min(len(theirs), len(package.records))
