"""Paths: which events of a log are alive, and reading along one path as if the others were not there.

A rewind leaves the events behind its target, which stay in the log on a branch of their own. The path to the head is
what windows are made of; every event also lies on the path that was alive until the rewind that left it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import msgspec

from .blobs import Bodies
from .codec import body
from .errors import NotFound
from .events import HistoryRewound, Record
from .history import alive, segments
from .log import Head, Query, Snapshot
from .manifest import Span

__all__ = ("Along", "Paths", "Reads", "Shelf", "paths_of")


class Reads(Protocol):
    """What can be read from: a store, or one path of a conversation in it."""

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        ...


class Shelf(Reads, Bodies, Protocol):
    """What requests are rebuilt from: a store, or what was read of one."""


class Paths:
    """The paths of one conversation."""

    def __init__(self, head: Head, rewinds: Sequence[Record]) -> None:
        self.head = head
        self._moves = [(one.seq, said.to) for one in rewinds if isinstance(said := body(one), HistoryRewound)]
        self.alive = segments(self._moves, head.version)
        """The path to the head, as spans of seqs, newest first."""

    def is_alive(self, seq: int) -> bool:
        """Return whether an event lies on the path to the head."""
        return alive(self.alive, seq)

    def left(self, seq: int) -> int:
        """Return the version at which the path that an event lies on was left, or the head's."""
        return self.head.version if self.is_alive(seq) else self._left(seq)

    def _left(self, seq: int) -> int:
        """Return the last version whose path holds the event."""
        tops = [at - 1 for at, _ in self._moves if at > seq]
        return next((top for top in reversed(tops) if alive(self.to(top), seq)), seq)

    def tops(self) -> list[int]:
        """Return the versions at which paths were left."""
        return [at - 1 for at, _ in self._moves]

    def move(self, seq: int) -> int | None:
        """Return where a rewind went, None when the event at *seq* is none."""
        return dict(self._moves).get(seq)

    def to(self, version: int) -> list[Span]:
        """Return the path to a version, newest span first."""
        return segments([move for move in self._moves if move[0] <= version], version)


async def paths_of(store: Reads, name: str) -> Paths:
    """Return a conversation's paths.

    Raises:
        NotFound: there is no such conversation.
    """
    snapshot = await store.read(name, Query(mark="rewind"))
    if snapshot is None or snapshot.head.deleted:
        raise NotFound(f"conversation {name}", deleted=snapshot is not None)
    return Paths(snapshot.head, snapshot.records[0])


class Along:
    """Reads one path: what lies beside it is not there."""

    def __init__(self, store: Reads, path: Sequence[Span]) -> None:
        self._store = store
        self._path = path

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`; queries by tokens are not for paths."""
        parts = [list(self._parts(query)) for query in queries]
        snapshot = await self._store.read(conversation, *(part for some in parts for part in some))
        if snapshot is None:
            return None
        answers = iter(snapshot.records)
        found = [
            [record for records in islice(answers, len(some)) for record in records][: query.limit]
            for query, some in zip(queries, parts, strict=True)
        ]
        return Snapshot(snapshot.head, found)

    def _parts(self, query: Query) -> Iterator[Query]:
        """Yield a query's parts, one for each span of the path that it meets, in its order."""
        for first, last in self._path if query.reverse else reversed(self._path):
            after = max(query.after, first - 1)
            before = min(last + 1, last + 1 if query.before is None else query.before)
            if after + 1 < before:
                yield msgspec.structs.replace(query, after=after, before=before)
