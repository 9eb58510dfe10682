"""Bytes to events and back.

A row keeps what it was given: `item` is the item's canonical JSON and `data` the rest of the event's, so that kinds and
fields of a later version pass through this one unchanged. Older rows are read by way of upcasters and never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, get_args

import msgspec

from . import events
from .canonical import AROUND, canonical, encode, loads
from .errors import CorruptLog
from .events import EventBody, NewEvent, Record, checksum
from .ids import moment
from .items import Reading, effects, reading

__all__ = (
    "BARE",
    "ITEM",
    "REQUESTED",
    "REQUESTS",
    "RESTORE",
    "SCHEMAS",
    "UPCASTERS",
    "body",
    "changed",
    "damage",
    "event",
    "has_item",
    "item_in",
    "item_of",
    "kind_of",
    "metadata_in",
    "missing",
    "numbers",
    "renewed",
    "unreadable",
    "when",
)

ITEM: Final = "item.appended"
BARE: Final = events.ItemAppended()
"""What most items' events say: nothing beside the item."""
REQUESTED: Final = "response.requested"
REQUESTS: Final = ("request", "aside")
"""What requests are marked as: those of the conversation, and those beside it."""

_TYPES: Final = {kind.__struct_config__.tag: kind for kind in get_args(EventBody) if kind is not events.Unknown}
_DECODERS: Final = {tag: msgspec.json.Decoder(kind) for tag, kind in _TYPES.items()}

SCHEMAS: Final[dict[str, int]] = dict.fromkeys(_TYPES, 1)
"""The schema version in which events of each kind are written today."""

UPCASTERS: Final[dict[tuple[str, int], Callable[[Any], Any]]] = {}
"""From the data of a kind in one schema version to that of the next; read-side only."""

RESTORE: Final = "restore it from a backup or an export"
"""The remedy for what is missing, or not what was written."""
_CHANGED: Final = "it was changed after it was written: restore the database from a backup"
_DAMAGED: Final = f"it was changed after it was written: {RESTORE}"
_NUMBERS: Final = ("schema", "response", "tokens", "excerpt", "flags")
_MISSING: Final = ("response", "excerpt")
"""Those of them that a record may be without."""


def kind_of(said: EventBody) -> str:
    """Return the tag of an event, such as "item.appended"."""
    return said.kind if isinstance(said, events.Unknown) else str(said.__struct_config__.tag)


def event(
    said: EventBody,
    *,
    item: bytes | None = None,
    form: Reading | None = None,
    response: int | None = None,
    tokens: int = 0,
    excerpt: int | None = None,
    flags: int = 0,
) -> NewEvent:
    """Return an event ready to be appended. *item* is canonical JSON, *form* what it says of itself."""
    bare = said is BARE
    kind = ITEM if bare else kind_of(said)
    written = None if bare else _data(said, kind)
    # Of most items there is nothing to be found by.
    marked = not bare or flags & events.PINNED or (form is not None and form.kind is not None and form.kind.positional)
    return NewEvent(
        kind=kind,
        schema=SCHEMAS.get(kind, 1),
        response=response,
        shape=form.shape if form else None,
        link=form.link if form else None,
        tokens=tokens,
        excerpt=excerpt,
        flags=flags,
        item=item,
        data=written,
        sum=checksum(item, written),
        marks=tuple(_marks(said, flags, form, item)) if marked else (),
        refs=_refs(said),
    )


def _data(said: EventBody, kind: str) -> bytes | None:
    """Return what an event says beside its item, None where that is nothing."""
    if isinstance(said, events.Unknown):
        data = said.data
    else:
        if isinstance(said, events.ResponseRequested | events.RemoteAttached) and said.manifest is not None:
            said = msgspec.structs.replace(said, manifest=said.manifest.folded())
        data = msgspec.to_builtins(said)
        del data["type"]
    return None if data == {} else canonical(data, kind, wrapped=AROUND)


def _refs(said: EventBody) -> tuple[str, ...]:
    """Return the bodies that an event alone refers to."""
    if said is BARE:
        return ()
    return tuple(dict.fromkeys(blob.digest for blob in said.blobs)) if isinstance(said, events.ItemAppended) else ()


def _marks(said: EventBody, flags: int, form: Reading | None, item: bytes | None) -> Iterator[str]:
    """Name the events that must be found without a scan."""
    match said:
        case events.ItemAppended() if not flags & events.ASIDE:
            if flags & events.PINNED:
                yield "pin"
            kind = form.kind if form else None
            if kind is not None and kind.positional and item is not None:
                yield from (f"effect:{name}" for name in effects(loads(item), kind))
        case events.ResponseRequested():
            yield from _request_marks(said)
        case events.ContextCompacted() | events.CompactionUndone():
            yield "base"
        case events.HistoryRewound():
            yield "rewind"
        case events.RemoteAttached():
            yield from ("remote", "attached")
        case events.ResponseStarted(stored=True):
            yield "remote"
        case events.CallDecided():
            yield f"decided:{said.call_id}"
        case _:
            pass


def _request_marks(said: events.ResponseRequested) -> Iterator[str]:
    answer = said.purpose == "answer"
    yield REQUESTS[not answer]
    if answer and said.manifest.line:
        yield f"line:{said.manifest.line}"
    if said.key is not None:
        yield f"key:{said.key}"


def renewed(record: Record) -> NewEvent:
    """Return a record as an event to append elsewhere, with its time, its checksum and its marks."""
    form = reading(record.shape, record.link) if record.shape is not None else None
    said = body(record)
    return NewEvent(
        kind=record.kind,
        schema=record.schema,
        response=record.response,
        shape=record.shape,
        link=record.link,
        tokens=record.tokens,
        excerpt=record.excerpt,
        flags=record.flags,
        item=record.item,
        data=record.data,
        sum=record.sum,
        marks=tuple(_marks(said, record.flags, form, record.item)),
        refs=_refs(said),
        time=record.time,
    )


def body(record: Record) -> EventBody:
    """Return what a record says.

    Raises:
        CorruptLog: its data cannot be read as what its kind says: it was changed, or a newer turnlog wrote it.
    """
    data = record.data or b"{}"
    schema = record.schema
    try:
        while (upcast := UPCASTERS.get((record.kind, schema))) is not None:
            data = encode(upcast(loads(data)))
            schema += 1
        decoder = _DECODERS.get(record.kind)
        said: EventBody = events.Unknown(record.kind, loads(data)) if decoder is None else decoder.decode(data)
    except Exception as error:
        raise unreadable(record, error, schema) from error
    return said


def unreadable(record: Record, error: Exception, schema: int | None = None) -> CorruptLog:
    """Return what to raise where an event's data cannot be read, in the schema that it was brought to."""
    schema = record.schema if schema is None else schema
    known = SCHEMAS.get(record.kind, schema)
    remedy = (
        f"a newer turnlog wrote it, in schema {schema}, and this one reads {known}; upgrade turnlog"
        if schema > known
        else f"{error}; {_DAMAGED}"
    )
    return CorruptLog(f"{record.conversation}/{record.seq}: {record.kind} cannot be read: {remedy}")


def missing(conversation: str, seq: int) -> CorruptLog:
    """Return what to raise where an event is not there."""
    return CorruptLog(f"{conversation}/{seq}: the event is missing; {RESTORE}")


def damage(record: Record) -> str:
    """Return what of a record is not as it was written, in words; nothing where all of it is, as far as it says."""
    try:
        if checksum(record.item, record.data) != record.sum:
            return f"the stored event is not what was written: {RESTORE}"
        when(record)
        numbers(record)
    except TypeError:
        return f"the stored event is not of the kind that was written: {RESTORE}"
    except CorruptLog as error:
        return str(error).partition(": ")[2]
    return ""


def when(record: Record) -> datetime:
    """Return the time of a record.

    Raises:
        CorruptLog: what is stored is no time.
    """
    try:
        return moment(record.time)
    except (TypeError, OverflowError):
        place = f"{record.conversation}/{record.seq}"
        raise CorruptLog(f"{place}: its time {record.time!r:.40} is none; {_DAMAGED}") from None


def changed(conversation: str, why: str) -> CorruptLog:
    """Return what to raise where the rows of a conversation are not as they were written."""
    return CorruptLog(f"conversation {conversation}: {why}; {_CHANGED}")


def numbers(record: Record) -> None:
    """See to it that what a record has in numbers are numbers.

    Raises:
        CorruptLog: something else is stored there.
    """
    for name in _NUMBERS:
        value = getattr(record, name)
        if not isinstance(value, int | None if name in _MISSING else int):
            place = f"{record.conversation}/{record.seq}"
            raise CorruptLog(f"{place}: no number is stored under {name}, but {value!r:.40}; {_DAMAGED}")


def has_item(record: Record) -> bool:
    """Return whether an event has an item, or had one until it was erased. Nothing else of a log is ever sent."""
    return record.item is not None or record.shape is not None or record.kind == ITEM


def item_of(record: Record) -> Any:
    """Return a record's item as a new JSON value, None when it carries none.

    Raises:
        CorruptLog: the stored bytes are no JSON object.
    """
    return None if record.item is None else item_in(record.item, f"{record.conversation}/{record.seq}")


def item_in(data: bytes, place: str) -> dict[str, Any]:
    """Return the item in stored bytes as a new JSON value.

    Raises:
        CorruptLog: they are no JSON object; *place* says where they are stored.
    """
    try:
        item = loads(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptLog(f"{place}: the item cannot be read: {error}; {_DAMAGED}") from error
    if not isinstance(item, dict):
        raise CorruptLog(f"{place}: the item is no JSON object; {_DAMAGED}")
    return item


def metadata_in(data: bytes, conversation: str) -> dict[str, Any]:
    """Return the metadata in stored bytes.

    Raises:
        CorruptLog: they hold no JSON object.
    """
    try:
        value = loads(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise changed(conversation, f"its metadata cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise changed(conversation, "its metadata cannot be read: it is no JSON object")
    return value
