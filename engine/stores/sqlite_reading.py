"""What the SQLite store reads: blocking functions of a connection, each one hop."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import starmap
from typing import Any, Final, NamedTuple

from ..canonical import encode
from ..codec import changed, numbers
from ..errors import CorruptLog
from ..events import Record
from ..ids import Position, misplaced
from ..log import Fed, Head, KeyUse, Lease, Query, Scalar, Snapshot, ordering
from .sqlite_connection import SQL, Database, Span, moment
from .sqlite_facets import facet, has, wanted

__all__ = (
    "ITEM",
    "Known",
    "body",
    "check_place",
    "end",
    "feed",
    "forks",
    "found",
    "heads",
    "key_of",
    "keys_of",
    "known",
    "lineage",
    "owner_of",
    "sharers",
    "snapshot",
)

ITEM: Final = "item.appended"
_FAR: Final = 2**63 - 1
_MANY: Final = 3
"""Marks for which it pays to ask first which of them there are."""
_NUMBERS: Final = ("version", "created", "updated", "last_item", "items", "generation")
_COLUMNS: Final = (
    *("id", "version", "created", "updated", "last_item", "items", "metadata", "generation", "owner", "turn", "until"),
    *("parent", "at", "deleted", "key", "origin", "about"),
)
"""What a conversation's row has, in order."""
_PAGE: Final = 32
"""Rows that are taken from SQLite at once."""
_REMEMBERED: Final = 1000
"""Lineages that a connection remembers."""


class Known(NamedTuple):
    """A conversation as it stands in its row."""

    key: int
    head: Head
    origin: int | None
    about: int | None

    @property
    def fork(self) -> tuple[int, int, int, int] | None:
        """What tells a fork from every other, those too that had its key before the database was put back."""
        at = self.head.parent
        return None if at is None or self.origin is None else (self.key, self.head.created, self.origin, at[1])


def known(db: Database, name: str, now: float) -> Known | None:
    """Return a conversation by its id."""
    row = db.execute(SQL["head"], {"id": name}).fetchone()
    return None if row is None else _known(row, now)


def _known(row: Sequence[Any], now: float) -> Known:
    name, version, created, updated, last_item, items, metadata, generation, owner, turn, until, *rest = row
    parent, at, deleted, key, origin, about = rest
    try:
        _ = version | created | updated | last_item | items | generation  # fails where one of them is no number
        _ = 0 if parent is None else at | 0
        lease = None if owner is None else Lease(owner, turn, until - now)
    except TypeError:
        raise _damaged(row) from None
    head = Head(
        conversation=name,
        version=version,
        created=created,
        updated=updated,
        last_item=last_item,
        items=items,
        metadata=b"{}" if metadata is None else as_bytes(metadata),
        generation=generation,
        lease=lease,
        parent=None if parent is None else (parent, at),
        deleted=deleted == 1,
    )
    return Known(key, head, origin, about)


def _damaged(row: Sequence[Any]) -> CorruptLog:
    """Return what to raise where a conversation's row has something else in the place of a number."""
    said = dict(zip(_COLUMNS, row, strict=True))
    numbers: dict[str, type] = dict.fromkeys(_NUMBERS, int)
    numbers |= {} if said["owner"] is None else {"until": float}
    numbers |= {} if said["parent"] is None else {"at": int}
    name = next(name for name, kind in numbers.items() if not isinstance(said[name], kind))
    return changed(said["id"], f"no number is stored under {name}, but {said[name]!r:.40}")


# -- what is shared


def lineage(db: Database, of: Known) -> Sequence[Span]:
    """Return where a conversation's events are, newest first."""
    head, fork = of.head, of.fork
    if fork is None:
        return ((of.key, 1, head.version),)
    return ((of.key, head.first, head.version), *_shared(db, fork))


def _shared(db: Database, fork: tuple[int, int, int, int]) -> tuple[Span, ...]:
    found = db.lineages.get(fork)
    if found is None:
        if len(db.lineages) >= _REMEMBERED:
            db.lineages.clear()
        *_, origin, at = fork
        found = tuple(db.execute(SQL["lineage"], {"origin": origin, "at": at}))
        db.lineages[fork] = found
    return found


def owner_of(db: Database, of: Known, seq: int) -> int | None:
    """Return whose own an event is, by key; None when the conversation has no such event."""
    return next((owner for owner, first, last in lineage(db, of) if first <= seq <= last), None)


def sharers(db: Database, key: int) -> list[tuple[str, int, int]]:
    """Return who shares events of a conversation's own: its id, up to which of them, its key; sorted."""
    return sorted(db.execute(SQL["sharers"], {"key": key}))


def forks(db: Database, conversation: str) -> list[Head]:
    """Return the conversations that share events of this one's own, at any depth, by id."""
    with moment(db):
        now = time.time()
        of = known(db, conversation, now)
        if of is None:
            return []
        rows = (db.execute(SQL["head_of_key"], {"key": key}).fetchone() for _, _, key in sharers(db, of.key))
        return [_known(row, now).head for row in rows]


# -- events


def snapshot(db: Database, conversation: str, queries: Sequence[Query]) -> Snapshot | None:
    """Return the head and the events of each query as of one moment."""
    with moment(db):
        of = known(db, conversation, time.time())
        if of is None:
            return None
        # Of what was deleted the tombstone is shown, whatever forks keep of the rest.
        spans = [(of.key, of.head.version, of.head.version)] if of.head.deleted else lineage(db, of)
        there = _marks(db, spans, [query.mark for query in queries if query.mark is not None])
        found = [
            _found(db, conversation, query, spans) if query.mark is None or query.mark in there else []
            for query in queries
        ]
        return Snapshot(of.head, found)


def _marks(db: Database, spans: Sequence[Span], wanted: Sequence[str]) -> Collection[str]:
    """Return which of some marks there may be: one statement tells for all of them, and most are rare."""
    if len(wanted) < _MANY:
        return wanted
    marks = encode(wanted).decode()
    owners = {owner for owner, _, _ in spans}
    values = ({"conversation": owner, "marks": marks} for owner in owners)
    return {mark for each in values for (mark,) in db.execute(SQL["marks_there"], each)}


def _found(db: Database, name: str, query: Query, spans: Sequence[Span]) -> list[Record]:
    statement = SQL[_statement(query)]
    before = _FAR if query.before is None else query.before
    most = _FAR if query.limit is None else query.limit
    values: dict[str, Any] = {"mark": query.mark, "link": query.link}
    left = query.tokens
    found: list[Record] = []
    for owner, first, last in spans if query.reverse else reversed(spans):
        values |= {"conversation": owner, "after": max(query.after, first - 1), "before": min(before, last + 1)}
        if values["after"] + 1 >= values["before"]:
            continue
        values["limit"] = most - len(found)
        with closing(db.execute(statement, values)) as rows:
            # The columns are in the order of a record's fields.
            if left is None:
                found += [Record(name, *row) for row in rows]
            else:
                left = _until(name, rows, found, left)
        if len(found) >= most or (left is not None and left <= 0):
            break
    return found


def _statement(query: Query) -> str:
    direction = "falling" if query.reverse else "rising"
    if query.mark is not None:
        return f"marked_{direction}"
    if query.link is not None:
        return f"linked_{direction}"
    return "latest" if query.reverse and query.tokens is not None else direction


def _until(name: str, rows: sqlite3.Cursor, found: list[Record], tokens: int) -> int:
    """Add the records of rows until *tokens* are read; return how many are left to read.

    Raises:
        CorruptLog: what a record counts is no number.
    """
    while page := rows.fetchmany(_PAGE):
        for record in starmap(partial(Record, name), page):
            found.append(record)
            try:
                tokens -= record.tokens if record.excerpt is None else record.excerpt
            except TypeError:
                numbers(record)
                raise
            if tokens <= 0:
                return tokens
    return tokens


def as_bytes(value: Any) -> Any:
    """Return what a row has as bytes; text is what somebody has written there by hand."""
    return value if value is None or isinstance(value, bytes) else str(value).encode()


def key_of(db: Database, conversation: str, name: str) -> KeyUse | None:
    """Return what a key was used for."""
    with moment(db):
        row = db.execute(SQL["key_of"], {"id": conversation, "name": name}).fetchone()
    return KeyUse(*row) if row else None


def keys_of(db: Database, conversation: str, after: str, limit: int) -> dict[str, KeyUse]:
    """Return what keys were used for, behind a name."""
    with moment(db):
        rows = db.execute(SQL["keys_of"], {"id": conversation, "after": after, "limit": limit})
        return {name: KeyUse(*use) for name, *use in rows}


def body(db: Database, digest: str) -> bytes | None:
    """Return a body by its digest."""
    try:
        values = {"digest": bytes.fromhex(digest)}
    except ValueError:
        return None  # what is no digest names nothing
    with moment(db):
        row = db.execute(SQL["body"], values).fetchone()
    return as_bytes(row[0]) if row else None


# -- conversations


def heads(
    db: Database, order: str, limit: int, after: tuple[int, str] | None, where: Mapping[str, Scalar] | None
) -> list[Head]:
    """Return conversations in *order*, behind the place *after*; with *where* those whose metadata has these values."""
    column, falling = ordering(order)
    direction = "falling" if falling else "rising"
    # "~" is above all characters that an id may have, and the empty text below.
    place = after or ((_FAR, "~") if falling else (-_FAR - 1, ""))
    with moment(db):
        if where:
            return _having(db, column, direction, limit, place, where)
        return list(_listed(db, SQL[f"heads_{column}_{direction}"], limit, place, {}))


def _listed(
    db: Database, statement: str, limit: int, place: tuple[int, str], values: Mapping[str, int]
) -> Iterator[Head]:
    now = time.time()
    with closing(db.execute(statement, {**values, "time": place[0], "id": place[1], "limit": limit})) as rows:
        for row in rows:
            yield _known(row, now).head


def _having(
    db: Database,
    column: str,
    direction: str,
    limit: int,
    place: tuple[int, str],
    where: Mapping[str, Scalar],
) -> list[Head]:
    """Return conversations with some metadata, going along those that have the rarest of the values."""
    values = wanted(where)
    rarest, *others = sorted({facet(*pair) for pair in values.items()}, key=lambda each: _size(db, each))
    statement = found(direction, len(others))
    numbers = {"facet": rarest + (column == "updated"), **{f"also{n}": other for n, other in enumerate(others)}}
    heads: list[Head] = []
    while len(heads) < limit:
        page = list(_listed(db, statement, limit, place, numbers))
        heads += [head for head in page if has(head, values)]
        if len(page) < limit:
            break
        place = getattr(page[-1], column), page[-1].conversation
    return heads[:limit]


def found(direction: str, others: int) -> str:
    """Return the statement that goes along the conversations with one facet, for those that have some others too."""
    also = SQL["also"].rstrip(";")
    conditions = "".join(f"AND EXISTS ({also.replace(':also', f':also{n}')}) " for n in range(others))
    return SQL[f"found_{direction}"].replace("ORDER BY", conditions + "ORDER BY")


def _size(db: Database, number: int) -> int:
    size: int = db.execute(SQL["facet_size"], {"facet": number}).fetchone()[0]
    return size


# -- the feed


def feed(db: Database, after: int, limit: int) -> list[Fed]:
    """Return the log's events behind a position; 0 is before the first.

    There is one writer at a time, so positions become visible in their order and none comes late.

    Raises:
        Invalid: the position is behind the end.
    """
    with moment(db):
        rows = db.execute(SQL["fed"], {"after": after, "limit": limit})
        found = [Fed(Record(name, *row), b"{}" if about is None else about) for *row, name, about in rows]
        if not found and after:
            check_place(db, after)
        return found


def check_place(db: Database, position: int) -> None:
    """Refuse a position behind the end of the log.

    Raises:
        Invalid: it is.
    """
    if position > (db.execute(SQL["end"]).fetchone()[0] or 0):
        raise misplaced(str(position), beyond=True)


def end(db: Database) -> Position | None:
    """Return the position of the last event."""
    with moment(db):
        last = db.execute(SQL["end"]).fetchone()[0]
    return None if last is None else Position(str(last))
