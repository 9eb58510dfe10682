"""Blobs: large content out of line, stored once by its hash, whoever refers to it.

A string of an item that is longer than `LIMIT` goes into a body of its own; in the row its beginning stands for it,
with the hash. Choosing a window reads rows only; what is sent, listed or rebuilt is put together again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from .canonical import digest, encode, loads
from .codec import RESTORE, body
from .errors import CorruptLog
from .events import Blob, ItemAppended, NewEvent, Record

__all__ = ("LIMIT", "Bodies", "blobs_of", "bodies_of", "filled", "packed", "whole", "whole_items")

LIMIT: Final = 64 * 1024
"""Characters up to which a string stays in its row."""
_SHOWN: Final = 1024


class Bodies(Protocol):
    """Where bodies are stored."""

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        ...


def packed(item: Mapping[str, Any]) -> tuple[dict[str, Any], list[Blob], dict[str, bytes]]:
    """Return an item with its large strings replaced, where they stood, and their bodies by SHA-256."""
    blobs: list[Blob] = []
    bodies: dict[str, bytes] = {}

    def pack(value: Any, path: tuple[str | int, ...]) -> Any:
        match value:
            case str() if len(value) > LIMIT:
                content = encode(value)
                name = digest(content)
                bodies[name] = content
                blobs.append(Blob(path, name))
                return f"{value[:_SHOWN]}[… {len(value) - _SHOWN:,} more characters in the blob {name}]"
            case dict():
                return {key: pack(part, (*path, key)) for key, part in value.items()}
            case list():
                return [pack(part, (*path, index)) for index, part in enumerate(value)]
        return value

    return {key: pack(value, (key,)) for key, value in item.items()}, blobs, bodies


def blobs_of(record: Record) -> Sequence[Blob]:
    """Return what of a record's item stands out of line."""
    # Few records have blobs, and reading what one says costs more than a look at its bytes.
    if record.data is None or b'"blobs"' not in record.data:
        return ()
    said = body(record)
    return said.blobs if isinstance(said, ItemAppended) else ()


def bodies_of(events: Iterable[NewEvent]) -> dict[str, bytes]:
    """Return the bodies that come with events."""
    return {name: content for event in events for name, content in event.blobs.items()}


async def whole(store: Bodies, record: Record) -> Record:
    """Return a record with its item put together again.

    Raises:
        CorruptLog: a body is missing, or cannot be read.
    """
    blobs = blobs_of(record)
    if not blobs:
        return record
    place = f"{record.conversation}/{record.seq}: "
    return msgspec.structs.replace(record, item=await filled(store, record.item or b"{}", blobs, place=place))


async def whole_items(store: Bodies, records: Iterable[Record]) -> dict[int, bytes]:
    """Return the items of those records that have blobs, put together again, by seq."""
    return {record.seq: (await whole(store, record)).item or b"null" for record in records if blobs_of(record)}


async def filled(
    store: Bodies,
    item: bytes,
    blobs: Sequence[Blob],
    at_hand: Mapping[str, bytes] = MappingProxyType({}),
    *,
    place: str = "",
) -> bytes:
    """Return an item put together again; *at_hand* are bodies that need not be, or are not yet, in the store.

    Raises:
        CorruptLog: a body is missing, or cannot be read; *place* says of what.
    """
    value = loads(item)
    for blob in blobs:
        content = at_hand.get(blob.digest) or await store.body(blob.digest)
        if content is None:
            raise CorruptLog(f"{place}the blob {blob.digest} is missing: {RESTORE}")
        holder = value
        for step in blob.path[:-1]:
            holder = holder[step]
        try:
            holder[blob.path[-1]] = loads(content)
        except (msgspec.MsgspecError, ValueError) as error:
            raise CorruptLog(f"{place}the blob {blob.digest} is not what was written: {error}; {RESTORE}") from error
    return encode(value)
