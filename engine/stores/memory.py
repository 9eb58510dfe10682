"""The memory store: the contract of `turnlog.engine.log` in its shortest form.

It is here to be read before writing another store, and for tests and scratch work: it forgets everything when its
engine closes, and one process is all that sees it. Everything happens between two awaits, so no lock is needed and a
cancelled caller finds its append either whole or not begun.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter

import msgspec

from ..events import NewEvent, Record
from ..ids import ANY, Clock, Expected, Position, micros, system_clock
from ..log import Append, Appended, Head, Key, KeyUse, LeaseChange, Query, Snapshot, decide, limited, ordering, record

__all__ = ("MemoryStore",)

_seq = attrgetter("seq")


class MemoryStore:
    """A log in memory."""

    durable = False
    shared = False

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._heads: dict[str, Head] = {}
        self._expires: dict[str, float] = {}
        self._records: dict[str, list[Record]] = {}
        self._marks: dict[tuple[str, str], list[Record]] = {}
        self._links: dict[tuple[str, str], list[Record]] = {}
        self._keys: dict[tuple[str, str], KeyUse] = {}
        self._bodies: dict[str, bytes] = {}
        self._position = 0

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
    ) -> Appended:
        """See `turnlog.engine.log.Store.append`."""
        append = Append(
            conversation=conversation,
            events=events,
            expected=expected,
            key=key,
            fence=fence,
            lease=lease,
            bodies=bodies or {},
        )
        use = self._keys.get((conversation, key.name)) if key else None
        head, result = decide(append, self._head(conversation), use, micros(self._clock()))
        if head is None:
            return result
        self._heads[conversation] = head
        if head.lease is not None:
            self._expires[conversation] = time.monotonic() + head.lease.remaining
        for seq, event in enumerate(events, result.first):
            self._position += 1
            self._file(
                record(conversation, seq, Position(str(self._position)), result.time, event, result.first), event.marks
            )
        if key is not None:
            self._keys[conversation, key.name] = KeyUse(key.digest, result.first, result.last)
        self._bodies.update(append.bodies)
        return result

    def _file(self, entry: Record, marks: Iterable[str]) -> None:
        self._records.setdefault(entry.conversation, []).append(entry)
        for mark in dict.fromkeys(marks):
            self._marks.setdefault((entry.conversation, mark), []).append(entry)
        if entry.link is not None:
            self._links.setdefault((entry.conversation, entry.link), []).append(entry)

    def _head(self, conversation: str) -> Head | None:
        head = self._heads.get(conversation)
        if head is None or head.lease is None:
            return head
        remaining = self._expires[conversation] - time.monotonic()
        return msgspec.structs.replace(head, lease=msgspec.structs.replace(head.lease, remaining=remaining))

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        head = self._head(conversation)
        return None if head is None else Snapshot(head, [self._found(conversation, query) for query in queries])

    def _found(self, conversation: str, query: Query) -> list[Record]:
        if query.mark is not None:
            stream = self._marks.get((conversation, query.mark), [])
        elif query.link is not None:
            stream = self._links.get((conversation, query.link), [])
        else:
            stream = self._records[conversation]
        start = bisect_right(stream, query.after, key=_seq)
        stop = len(stream) if query.before is None else bisect_left(stream, query.before, key=_seq)
        places = range(start, stop)
        ordered = (stream[place] for place in (reversed(places) if query.reverse else places))
        return list(limited(islice(ordered, query.limit), query.tokens))

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        return self._keys.get((conversation, name))

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        return self._bodies.get(digest)

    async def heads(
        self, *, order: str = "-updated", limit: int = 50, after: tuple[int, str] | None = None
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        column, falling = ordering(order)

        def place(head: Head) -> tuple[int, str]:
            return (getattr(head, column), head.conversation)

        ordered = sorted(filter(None, map(self._head, self._heads)), key=place, reverse=falling)
        if after is not None:
            ordered = [head for head in ordered if (place(head) < after if falling else place(head) > after)]
        return ordered[:limit]

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        head = self._heads.get(conversation)
        if head is None or head.lease is None or head.generation != generation:
            return False
        self._expires[conversation] = time.monotonic() + seconds
        return True

    async def close(self) -> None:
        """See `turnlog.engine.log.Store.close`."""
