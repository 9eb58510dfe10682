"""Rows of the PostgreSQL store, and what they stand for: heads, records, positions, texts, digests.

PostgreSQL has no NUL in its texts, so what callers choose freely is written with it, and with a backslash, escaped.
Bytes are bytes there too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ..canonical import canonical, encode, loads
from ..errors import Invalid
from ..events import Record
from ..ids import Position, misplaced
from ..log import Head, Lease, Scalar
from .statements import statements

__all__ = (
    "ITEM",
    "Span",
    "Sql",
    "columns",
    "digest_of",
    "field_of",
    "fields_of",
    "having",
    "head_of",
    "numbers",
    "position_of",
    "quoted",
    "record_of",
    "said",
    "spans_within",
    "sql_for",
    "text",
)

ITEM: Final = "item.appended"
_POSITION = re.compile(r"(\d{1,18})\.(\d{1,18})")
_ESCAPED = re.compile(r"\\(.)")

Sql: TypeAlias = Mapping[str, bytes]
"""Statements by name, with the schema in them; bytes, which the driver takes from anywhere."""

Span: TypeAlias = tuple[str, int, int]
"""Where events are: whose, from which seq, up to which."""


_QUERIES: Final = statements("postgres_queries.sql")


def quoted(schema: object) -> str:
    """Return a schema's name as SQL.

    Raises:
        Invalid: no schema can have this name.
    """
    if not isinstance(schema, str) or "\0" in schema or not 0 < len(schema.encode("utf-8", "replace")) < 64:
        raise Invalid(f"schema={schema!r:.100}: a name of 1 to 63 bytes is needed")
    return '"' + schema.replace('"', '""') + '"'


def sql_for(schema: str) -> Sql:
    """Return the statements for the tables in a schema."""
    name = quoted(schema).replace("%", "%%")  # the driver takes a single one for a value's place
    return {key: text.replace("{schema}", name).encode() for key, text in _QUERIES.items()}


def having(sql: Sql, name: str, fields: int) -> bytes:
    """Return a statement that finds conversations which have so many values in their metadata."""
    joins = (sql["having"].replace(b"#", str(number).encode()) for number in range(fields))
    return sql[name].replace(b"{fields}", b" ".join(joins))


# -- values


def text(value: str) -> str:
    r"""Return a text as PostgreSQL can hold it.

    >>> print(text("a\0b"))
    a\0b
    """
    return value.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in value or "\\" in value else value


def said(value: str) -> str:
    """Return the text that `text` wrote."""
    return _ESCAPED.sub(lambda part: "\0" if part[1] == "0" else part[1], value) if "\\" in value else value


def digest_of(name: str) -> bytes:
    """Return a SHA-256 that is written in hexadecimal digits.

    Raises:
        ValueError: it is none.
    """
    return bytes.fromhex(name)


def field_of(name: str, value: Scalar) -> bytes:
    """Return the digest under which conversations are found whose metadata has this value."""
    return _field(canonical([name, value], "where"))


def fields_of(metadata: bytes) -> set[bytes]:
    """Return the digests under which a conversation with this metadata is found."""
    pairs = loads(metadata).items()
    return {_field(encode([name, value])) for name, value in pairs if not isinstance(value, dict | list)}


def _field(pair: bytes) -> bytes:
    return hashlib.blake2b(pair, digest_size=16).digest()


def numbers(position: object) -> tuple[int, int]:
    """Return what a position of this store stands for: a place in the feed, and a number within it.

    Raises:
        Invalid: it is none.
    """
    found = _POSITION.fullmatch(position) if isinstance(position, str) else None
    if found is None:
        raise misplaced(position)
    return int(found[1]), int(found[2])


def position_of(place: int, number: int) -> Position:
    """Return a position."""
    return Position(f"{place}.{number}")


# -- rows


def columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Return rows as columns, by name."""
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def head_of(row: Sequence[Any], now: float | None = None) -> Head:
    """Return a head; its lease is counted from *now*, or the row says what remains of it."""
    name, version, created, updated, last_item, items, metadata, generation = row[:8]
    owner, turn, expires, parent, at, deleted = row[8:14]
    return Head(
        conversation=name,
        version=version,
        created=created,
        updated=updated,
        last_item=last_item,
        items=items,
        metadata=metadata,
        generation=generation,
        lease=None if owner is None else Lease(said(owner), turn, expires - (now or 0.0)),
        parent=None if parent is None else (parent, at),
        deleted=deleted,
    )


def record_of(conversation: str, row: Sequence[Any]) -> Record:
    """Return an event, as one of *conversation*, which may share it."""
    seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, total = row[:15]
    return Record(
        conversation=conversation,
        seq=seq,
        position=position_of(place, number),
        time=time,
        kind=ITEM if kind is None else said(kind),
        schema=schema,
        response=response,
        shape=None if shape is None else said(shape),
        link=None if link is None else said(link),
        tokens=tokens,
        excerpt=excerpt,
        flags=flags,
        item=item,
        data=data,
        sum=total,
    )


def spans_within(spans: Sequence[Span], first: int, last: int) -> Iterator[Span]:
    """Yield the parts of spans from one seq to another."""
    for owner, low, high in spans:
        if max(low, first) <= min(high, last):
            yield owner, max(low, first), min(high, last)
