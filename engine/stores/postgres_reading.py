"""What the PostgreSQL store reads: conversations at one moment, lists, the feed.

A read is one transaction, sent in one go with its commit. What it needs is guessed first: that the conversation is no
fork, and how many rows reach a figure of tokens. A wrong guess is made again with what is known by then: whose events
a fork shares never changes, so it is kept; a read of many rows is asked for four times as many.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeVar

from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from ..events import Record
from ..ids import Position, misplaced
from ..log import Fed, Head, KeyUse, Query, Scalar, Snapshot, Standing, limited, ordering, weight
from .postgres_link import Link, Session
from .postgres_rows import (
    Span,
    digest_of,
    field_of,
    head_of,
    numbers,
    position_of,
    record_of,
    said,
    spans_within,
    text,
)
from .postgres_schema import SCHEMA_VERSION, check_version

__all__ = ("Reading", "shared_by")

T = TypeVar("T")

_FAR: Final = 2**63 - 1
_REMEMBERED: Final = 1000
"""Forks whose spans are kept."""
_MOMENT: Final = b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Reading:
    """The reading verbs of a store."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._spans: dict[str, tuple[Head, Sequence[Span]]] = {}
        """Whose events forks share, with a head that says which fork it was: tables can be put back."""

    # -- one conversation

    async def read(self, conversation: str, queries: Sequence[Query]) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        chunks = [_chunk(query) for query in queries]
        while True:
            head, spans, found = await self._link.run(self._attempt(conversation, queries, chunks))
            if head is None:
                return None
            if not queries or spans == await self._spans_of(head):
                again = [place for place, query in enumerate(queries) if _short(query, found[place], chunks[place])]
                if not again:
                    return Snapshot(head, [_cut(query, parts) for query, parts in zip(queries, found, strict=True)])
                for place in again:
                    chunks[place] *= 4

    def _attempt(
        self, name: str, queries: Sequence[Query], chunks: Sequence[int]
    ) -> Callable[[Session], Awaitable[tuple[Head | None, Sequence[Span], list[list[list[Record]]]]]]:
        """Return a read of the head and the parts of each query, where the conversation's events are thought to be."""
        _, spans = self._spans.get(name) or (None, [(name, 1, _FAR)])

        async def work(session: Session) -> tuple[Head | None, Sequence[Span], list[list[list[Record]]]]:
            async with session.pipeline():
                if queries:
                    await session.do(_MOMENT)
                first = await session.ask("head", {"id": name})
                cursors = [
                    [await session.ask(*_statement(query, span, chunk)) for span in _parts(query, spans)]
                    for query, chunk in zip(queries, chunks, strict=True)
                ]
                if queries:
                    await session.do(b"COMMIT")
            row = await first.fetchone()
            if row is None:
                return None, spans, []
            found = [
                [[record_of(name, row) for row in await cursor.fetchall()] for cursor in parts] for parts in cursors
            ]
            return head_of(row), spans, found

        return work

    async def _spans_of(self, head: Head) -> Sequence[Span]:
        """Return where a conversation's events are, oldest first, and remember it."""
        name = head.conversation
        if head.deleted:
            spans: Sequence[Span] = [(name, head.version, head.version)]
        elif head.parent is None:
            self._spans.pop(name, None)
            return [(name, 1, _FAR)]
        elif (known := self._spans.get(name)) is not None and _same_fork(known[0], head):
            return known[1]
        else:
            shared = await self._link.run(lambda session: shared_by(session, [name]))
            spans = [*shared.get(name, ()), (name, head.first, _FAR)]
        while len(self._spans) >= _REMEMBERED:
            self._spans.pop(next(iter(self._spans)))
        self._spans[name] = head, spans
        return spans

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        row = await self._one("key", {"id": conversation, "name": text(name)})
        return KeyUse(*row) if row else None

    async def keys(self, conversation: str, after: str, limit: int) -> dict[str, KeyUse]:
        """See `turnlog.engine.log.Store.keys`."""
        rows = await self._rows("keys", {"id": conversation, "after": text(after), "limit": limit})
        return {said(name): KeyUse(*use) for name, *use in rows}

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        try:
            values = {"digest": digest_of(digest)}
        except ValueError:
            self._link.check()
            return None  # what is no digest names nothing
        row = await self._one("body", values)
        return row[0] if row else None

    # -- all of them

    async def heads(
        self, order: str, limit: int, after: tuple[int, str] | None, where: Mapping[str, Scalar] | None
    ) -> list[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        column, falling = ordering(order)
        # "~" is above all characters that an id may have, and the empty text below.
        time, name = after or ((_FAR, "~") if falling else (-_FAR - 1, ""))
        values: dict[str, Any] = {"time": time, "id": name, "limit": limit}
        kind = f"{column}_{'falling' if falling else 'rising'}"
        fields = sorted({field_of(*pair) for pair in (where or {}).items()})

        async def work(session: Session) -> list[Head]:
            if fields:
                cursor = await session.find(f"found_{kind}", fields, values)
            else:
                cursor = await session.ask(f"heads_{kind}", values)
            return [head_of(row) for row in await cursor.fetchall()]

        return await self._link.run(work)

    async def forks(self, conversation: str) -> list[Head]:
        """See `turnlog.engine.log.Store.forks`."""
        return [head_of(row) for row in await self._rows("forks", {"id": conversation})]

    async def feed(self, after: Position | None, limit: int) -> list[Fed]:
        """See `turnlog.engine.log.Store.feed`."""
        place, number = numbers(after) if after is not None else (-1, -1)
        rows = await self._rows("feed", {"place": place, "number": number, "limit": limit})
        if not rows and after is not None:
            await self._check_place(after)
        return [Fed(record_of(row[-2], row), row[-1]) for row in rows]

    async def end(self) -> Position | None:
        """See `turnlog.engine.log.Store.end`."""
        row = await self._one("feed_end", {})
        return position_of(*row) if row else None

    # -- named readers of the feed

    async def stand(self, name: str, owner: str, seconds: float) -> Standing | None:
        """See `turnlog.engine.log.Store.stand`."""
        values = {"name": text(name), "owner": text(owner), "seconds": seconds}
        row = await self._written("stand", values, AsyncCursor.fetchone)
        return None if row is None else Standing(None if row[0] is None else Position(said(row[0])))

    async def ack(self, name: str, owner: str, position: Position) -> bool:
        """See `turnlog.engine.log.Store.ack`."""
        place, number = numbers(position)
        values = {"name": text(name), "owner": text(owner), "place": place, "number": number}
        stored = await self._written("ack", {**values, "position": text(position)}, _count) == 1
        if not stored:
            await self._check_place(position)
        return stored

    async def _check_place(self, position: Position) -> None:
        """Refuse a position behind the end of the log."""
        place, number = numbers(position)
        if (await self._one("beyond", {"place": place, "number": number}))[0]:
            raise misplaced(position, beyond=True)

    async def resign(self, name: str, owner: str) -> None:
        """See `turnlog.engine.log.Store.resign`."""
        await self._written("resign", {"name": text(name), "owner": text(owner)}, _count)

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        values = {"id": conversation, "generation": generation, "seconds": seconds}
        return await self._written("renew", values, _count) == 1

    # -- statements

    async def _one(self, statement: str, values: Mapping[str, Any]) -> Any:
        async def work(session: Session) -> Any:
            return await (await session.ask(statement, values)).fetchone()

        return await self._link.run(work)

    async def _rows(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        async def work(session: Session) -> list[Any]:
            return await (await session.ask(statement, values)).fetchall()

        return await self._link.run(work)

    async def _written(
        self, statement: str, values: Mapping[str, Any], found: Callable[[AsyncCursor[TupleRow]], Awaitable[T]]
    ) -> T:
        """Send a statement that writes, unless the tables are another release's by now; return what is found of it."""

        async def work(session: Session) -> T:
            async with session.pipeline():
                version = await session.ask("version")
                done = await session.ask(statement, {**values, "version": SCHEMA_VERSION})
            check_version(session.place, (await version.fetchall())[0][0])
            return await found(done)

        return await self._link.run(work)


def _same_fork(one: Head, other: Head) -> bool:
    return (one.parent, one.created, one.deleted) == (other.parent, other.created, other.deleted)


async def _count(done: AsyncCursor[TupleRow]) -> int:
    """Return how many rows were written."""
    return done.rowcount


async def shared_by(session: Session, names: Sequence[str]) -> dict[str, list[Span]]:
    """Return whose events forks share, oldest first."""
    shared: dict[str, list[Span]] = {}
    for name, *span in await (await session.ask("spans", {"ids": list(names)})).fetchall():
        owner, first, last = span
        shared.setdefault(name, []).append((owner, first, last))
    return shared


def _parts(query: Query, spans: Sequence[Span]) -> Sequence[Span]:
    """Return where a query looks, in its order."""
    parts = list(spans_within(spans, query.after + 1, _FAR if query.before is None else query.before - 1))
    return parts[::-1] if query.reverse else parts


def _statement(query: Query, span: Span, chunk: int) -> tuple[str, dict[str, Any]]:
    kind, word = ("marked_", query.mark) if query.mark is not None else ("linked_", query.link)
    owner, first, last = span
    values = {"owner": owner, "first": first, "last": last, "limit": chunk}
    if word is None:
        kind = ""
    else:
        values["word"] = text(word)
    return kind + ("falling" if query.reverse else "rising"), values


def _chunk(query: Query) -> int:
    """Return how many rows to ask for: as many as the query's tokens take if the items are rather short."""
    most = _FAR if query.limit is None else query.limit
    return most if query.tokens is None else min(most, max(query.tokens, 0) // 100 + 32)


def _short(query: Query, parts: Sequence[Sequence[Record]], chunk: int) -> bool:
    """Return whether a part of the answer was cut off where more is needed."""
    if query.tokens is None or (query.limit is not None and query.limit <= chunk):
        return False
    left = max(query.tokens, 1)
    for part in parts:
        left -= weight(part)
        if left <= 0:
            return False
        if len(part) == chunk:
            return True
    return False


def _cut(query: Query, parts: Sequence[Sequence[Record]]) -> list[Record]:
    return list(limited(islice(chain.from_iterable(parts), query.limit), query.tokens))
