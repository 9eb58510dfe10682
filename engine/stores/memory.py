"""The memory store: the contract of `turnlog.engine.log` in its shortest form.

It is here to be read before writing another store, and for tests and scratch work: it forgets everything when its
engine closes, and one process is all that sees it. Everything happens between two awaits, so no lock is needed and a
cancelled caller finds its append either whole or not begun.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Literal

import msgspec

from ..answers import Linked
from ..canonical import canonical, encode, loads
from ..errors import Conflict, ConversationBusy, NotFound
from ..events import NewEvent, Record
from ..ids import ANY, Clock, Expected, Position, micros, misplaced, ordinal, system_clock
from ..log import (
    Append,
    Appended,
    Erased,
    Fed,
    Fork,
    Head,
    Key,
    KeyUse,
    LeaseChange,
    Query,
    Scalar,
    Snapshot,
    Standing,
    Trunk,
    brought,
    decide,
    is_counted,
    limited,
    ordering,
    record,
)

__all__ = ("MemoryStore",)

_seq = attrgetter("seq")


class _Stream:
    """One conversation's own events, and how to find them."""

    def __init__(self) -> None:
        self.first = 1
        self.records: dict[int, Record] = {}
        self.marks: dict[str, list[int]] = {}
        self.links: dict[str, list[int]] = {}
        self.refs: dict[int, set[str]] = {0: set()}
        """The bodies that an event refers to, by its seq; under 0 those of the conversation."""


class MemoryStore:
    """A log in memory."""

    durable = False
    shared = False

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._heads: dict[str, Head] = {}
        self._expires: dict[str, float] = {}
        self._streams: dict[str, _Stream] = {}
        self._keys: dict[str, dict[str, KeyUse]] = {}
        """Of each conversation, by name."""
        self._bodies: dict[str, bytes] = {}
        self._unused: dict[str, float] = {}
        self._feed: list[tuple[int, str, int]] = []
        self._readers: dict[str, tuple[str, float, Position | None]] = {}
        self._position = 0

    # -- writing

    async def append(
        self,
        conversation: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected = ANY,
        key: Key | None = None,
        fence: int | None = None,
        lease: LeaseChange | None = None,
        bodies: Mapping[str, bytes] | None = None,
        fork: Fork | None = None,
        uses: Mapping[str, KeyUse] | None = None,
        answers: Sequence[str] = (),
    ) -> Appended:
        """See `turnlog.engine.log.Store.append`."""
        return self._append(
            Append(
                conversation=conversation,
                events=events,
                expected=expected,
                key=key,
                fence=fence,
                lease=lease,
                bodies=bodies or {},
                fork=fork,
                uses=uses or {},
                answers=answers,
            )
        )

    def _append(self, append: Append) -> Appended:
        name, used = append.conversation, self._keys.get(append.conversation, {})
        trunk = self._trunk(append.fork) if append.fork else None
        there = self._head(name)
        linked = {link: self._linked(there, link) for link in append.answers} if there else {}
        head, result = decide(append, there, used, micros(self._clock()), trunk, linked)
        if head is None:
            return result
        self._heads[name] = head
        if head.lease is not None:
            self._expires[name] = time.monotonic() + head.lease.remaining
        stream = self._streams.setdefault(name, _Stream())
        if append.fork is not None and not stream.records:
            stream.first = append.fork.at + 1
        for seq, event in enumerate(append.events, result.first):
            self._position += 1
            self._file(stream, record(name, seq, Position(str(self._position)), result.time, event, result.first))
            for mark in dict.fromkeys(event.marks):
                stream.marks.setdefault(mark, []).append(seq)
            if event.refs:
                stream.refs[seq] = set(event.refs)
        self._keys.setdefault(name, {}).update(brought(append, used, result))
        self._bodies.update(append.bodies)
        stream.refs[0].update(set(append.bodies).difference(*(event.refs for event in append.events)))
        return result

    def _linked(self, head: Head, link: str) -> list[Linked]:
        return [(entry.seq, entry.shape, entry.flags) for entry in self._found(head, Query(link=link))]

    def _file(self, stream: _Stream, entry: Record) -> None:
        stream.records[entry.seq] = entry
        if entry.link is not None:
            stream.links.setdefault(entry.link, []).append(entry.seq)
        self._feed.append((self._position, entry.conversation, entry.seq))

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        head = self._heads.get(conversation)
        if head is None or head.lease is None or head.generation != generation:
            return False
        self._expires[conversation] = time.monotonic() + seconds
        return True

    # -- what is shared

    def _head(self, conversation: str) -> Head | None:
        head = self._heads.get(conversation)
        if head is None or head.lease is None:
            return head
        remaining = self._expires[conversation] - time.monotonic()
        return msgspec.structs.replace(head, lease=msgspec.structs.replace(head.lease, remaining=remaining))

    def _spans(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Yield where a conversation's events are, newest first: whose, from which seq, up to which."""
        head = self._heads[name]
        top = head.version
        while True:
            first = self._streams[name].first
            if first <= top:
                yield name, first, top
            if head.parent is None:
                return
            name, at = head.parent
            head, top = self._heads[name], min(top, at)

    def _owner(self, name: str, seq: int) -> str:
        return next(owner for owner, first, _ in self._spans(name) if first <= seq)

    def _trunk(self, fork: Fork) -> Trunk | None:
        head = self._heads.get(fork.parent)
        if head is None or head.deleted:
            return None
        items = [entry.seq for entry in self._all(fork.parent) if is_counted(entry) and entry.seq <= fork.at]
        return Trunk(head.version, len(items), items[-1] if items else 0, head.metadata)

    def _all(self, name: str) -> Iterator[Record]:
        for owner, first, last in reversed(list(self._spans(name))):
            stream = self._streams[owner]
            yield from map(stream.records.__getitem__, range(first, last + 1))

    async def forks(self, conversation: str) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.forks`."""
        return [head for name in sorted(self._sharers(conversation)) if (head := self._head(name))]

    def _sharers(self, conversation: str) -> dict[str, int]:
        """Return who shares events of a conversation's own, with the last seq that each does."""
        found: dict[str, int] = {}
        for name, head in self._heads.items():
            if name == conversation or head.deleted:
                continue
            for owner, _, last in self._spans(name):
                if owner == conversation:
                    found[name] = last
        return found

    # -- reading

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        head = self._head(conversation)
        return None if head is None else Snapshot(head, [self._found(head, query) for query in queries])

    def _found(self, head: Head, query: Query) -> list[Record]:
        spans = list(self._spans(head.conversation))
        if head.deleted:
            spans = [(head.conversation, head.version, head.version)]
        parts = (self._part(*span, query) for span in (spans if query.reverse else reversed(spans)))
        found = (
            entry
            if entry.conversation == head.conversation
            else msgspec.structs.replace(entry, conversation=head.conversation)
            for entry in chain.from_iterable(parts)
        )
        return list(limited(islice(found, query.limit), query.tokens))

    def _part(self, owner: str, first: int, last: int, query: Query) -> Iterator[Record]:
        stream = self._streams[owner]
        low = max(query.after + 1, first)
        high = min(last, last if query.before is None else query.before - 1)
        seqs: Sequence[int] = range(low, high + 1)
        if query.mark is not None or query.link is not None:
            index, word = (stream.links, query.link) if query.mark is None else (stream.marks, query.mark)
            known = index.get(word or "", [])
            seqs = known[bisect_left(known, low) : bisect_right(known, high)]
        return map(stream.records.__getitem__, reversed(seqs) if query.reverse else seqs)

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        return self._keys.get(conversation, {}).get(name)

    async def keys(self, conversation: str, *, after: str = "", limit: int = 500) -> Mapping[str, KeyUse]:
        """See `turnlog.engine.log.Store.keys`."""
        behind = sorted(pair for pair in self._keys.get(conversation, {}).items() if pair[0] > after)
        return dict(behind[:limit])

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        return self._bodies.get(digest)

    async def heads(
        self,
        *,
        order: str = "-updated",
        limit: int = 50,
        after: tuple[int, str] | None = None,
        where: Mapping[str, Scalar] | None = None,
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        column, falling = ordering(order)

        def place(head: Head) -> tuple[int, str]:
            return (getattr(head, column), head.conversation)

        there = [head for head in map(self._head, self._heads) if head and not head.deleted and _has(head, where)]
        ordered = sorted(there, key=place, reverse=falling)
        if after is not None:
            ordered = [head for head in ordered if (place(head) < after if falling else place(head) > after)]
        return ordered[:limit]

    # -- erasing

    async def erase(self, appends: Sequence[Append]) -> Erased:
        """See `turnlog.engine.log.Store.erase`."""
        self._check(appends)  # all, before one is written
        freed: set[str] = set()
        versions: dict[str, int] = {}
        for append in appends:
            for erasure in append.erasures:
                stream = self._streams[self._owner(append.conversation, erasure.seq)]
                stream.records[erasure.seq] = msgspec.structs.replace(
                    stream.records[erasure.seq],
                    item=erasure.item,
                    data=erasure.data,
                    flags=erasure.flags,
                    sum=erasure.sum,
                    tokens=0,
                    excerpt=None,
                )
                freed |= stream.refs.pop(erasure.seq, set())
            versions[append.conversation] = self._append(append).version
        return Erased(versions=versions, bodies=self._drop(freed))

    def _check(self, appends: Sequence[Append]) -> None:
        now, heads = micros(self._clock()), dict[str, Head | None]()
        for append in appends:
            name = append.conversation
            heads[name], result = decide(append, heads.get(name) or self._head(name), {}, now)
            for erasure in append.erasures:
                if not 0 < erasure.seq < result.first:
                    raise NotFound(f"event {name}/{erasure.seq}")

    async def delete(self, conversation: str, tombstone: NewEvent, *, forks: Literal["refuse", "keep"]) -> Erased:
        """See `turnlog.engine.log.Store.delete`."""
        head = self._head(conversation)
        if head is None or head.deleted:
            raise NotFound(f"conversation {conversation}", deleted=head is not None)
        if head.lease is not None and head.lease.remaining > 0:
            raise ConversationBusy(conversation, head.lease.turn, head.lease.remaining)
        sharers = sorted(self._sharers(conversation))
        if sharers and forks == "refuse":
            raise Conflict(
                f'{conversation}: its events are shared by {", ".join(sharers)}; pass forks="keep" or "delete"'
            )
        if head.lease is not None:
            self._heads[conversation] = msgspec.structs.replace(head, lease=None)
        result = self._append(Append(conversation=conversation, events=[tombstone]))
        # What forks share stays, and is theirs alone: followers are told no more of it.
        self._feed = [entry for entry in self._feed if entry[1] != conversation or entry[2] == result.last]
        self._keys.pop(conversation, None)
        owners = [owner for owner, _, _ in self._spans(conversation)]
        freed = set[str]().union(*(self._prune(owner) for owner in owners if self._heads[owner].deleted))
        return Erased(versions={conversation: result.version}, bodies=self._drop(freed))

    def _prune(self, name: str) -> set[str]:
        """Forget the events of a deleted conversation that nobody shares; return the bodies they referred to."""
        stream, head = self._streams[name], self._heads[name]
        last = max(self._sharers(name).values(), default=0)
        gone = {seq for seq in stream.records if last < seq < head.version}
        for seq in gone:
            del stream.records[seq]
        for index in (stream.marks, stream.links):
            for word in list(index):
                index[word] = [seq for seq in index[word] if seq not in gone]
        freed = {digest for seq in gone for digest in stream.refs.pop(seq, set())}
        if last == 0:
            freed |= stream.refs[0]
            stream.refs[0] = set()
        return freed

    def _drop(self, digests: set[str]) -> int:
        """Forget those of some bodies that nothing refers to; return how many."""
        gone = [digest for digest in digests - self._used() if self._bodies.pop(digest, None) is not None]
        return len(gone)

    def _used(self) -> set[str]:
        return {digest for stream in self._streams.values() for refs in stream.refs.values() for digest in refs}

    async def collect(self, seconds: float = 3600.0) -> int:
        """See `turnlog.engine.log.Store.collect`."""
        now = time.monotonic()
        unused = set(self._bodies) - self._used()
        self._unused = {digest: self._unused.get(digest, now) for digest in unused}
        return self._drop({digest for digest, since in self._unused.items() if now - since >= seconds})

    # -- the feed

    async def feed(self, after: Position | None, limit: int) -> Sequence[Fed]:
        """See `turnlog.engine.log.Store.feed`."""
        start = 0 if after is None else bisect_right(self._feed, self._place(after), key=lambda entry: entry[0])
        places = self._feed[start : start + limit]
        return [Fed(self._streams[name].records[seq], self._heads[name].metadata) for _, name, seq in places]

    def _place(self, position: Position) -> int:
        place = ordinal(position)
        if place > self._position:
            raise misplaced(position, beyond=True)
        return place

    async def end(self) -> Position | None:
        """See `turnlog.engine.log.Store.end`."""
        return Position(str(self._feed[-1][0])) if self._feed else None

    async def stand(self, name: str, owner: str, seconds: float) -> Standing | None:
        """See `turnlog.engine.log.Store.stand`."""
        now = time.monotonic()
        holder, expires, position = self._readers.get(name, (owner, 0.0, None))
        if holder != owner and expires > now:
            return None
        self._readers[name] = owner, now + seconds, position
        return Standing(position)

    async def ack(self, name: str, owner: str, position: Position) -> bool:
        """See `turnlog.engine.log.Store.ack`."""
        self._place(position)
        holder, expires, _ = self._readers.get(name, ("", 0.0, None))
        if holder != owner:
            return False
        self._readers[name] = owner, expires, position
        return True

    async def resign(self, name: str, owner: str) -> None:
        """See `turnlog.engine.log.Store.resign`."""
        holder, _, position = self._readers.get(name, ("", 0.0, None))
        if holder == owner:
            self._readers[name] = owner, 0.0, position

    async def close(self) -> None:
        """See `turnlog.engine.log.Store.close`."""


def _has(head: Head, where: Mapping[str, Scalar] | None) -> bool:
    if not where:
        return True
    metadata = loads(head.metadata)
    return all(name in metadata and encode(metadata[name]) == canonical(value, name) for name, value in where.items())
