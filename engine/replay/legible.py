"""What of a log can be read: events of model calls that cannot have stand-ins, so that the rest can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeVar

import msgspec

from ..codec import ITEM, REQUESTED, REQUESTS, RESTORE, body, damage, event, numbers, when
from ..errors import CorruptLog
from ..events import (
    EventBody,
    ItemAppended,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    ResponseStarted,
    Target,
)
from ..log import Query, Snapshot
from ..manifest import Manifest
from ..paths import Shelf

__all__ = ("Legible",)

T = TypeVar("T")

_NOTHING: Final = Manifest(policy="", renderer=0, as_of=0)
_STAND_INS: Final[dict[str, EventBody]] = {
    ITEM: ItemAppended(),
    REQUESTED: ResponseRequested(
        adapter="", encoder=0, target=Target(api="responses"), settings="", manifest=_NOTHING, digest=""
    ),
    "response.started": ResponseStarted(),
    "response.completed": ResponseCompleted(),
    "response.failed": ResponseFailed(kind="damaged"),
    "response.interrupted": ResponseInterrupted(cause="crashed"),
}
"""What stands for an event of which nothing can be read, by its kind."""


class Legible:
    """A store in which every event of a model call can be read, with what is damaged told apart.

    What stands for a damaged event says as little as it can; the time of one that has none is that of the event read
    before it. Items are as they are stored.
    """

    def __init__(self, store: Shelf) -> None:
        self._store = store
        self._stand_ins: dict[int, Record] = {}
        self._time = 0
        self.damaged: dict[int, str] = {}
        """Why something of a response cannot be read, by the response's seq; of what belongs to none, by its own."""

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        return await self._store.body(digest)

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        snapshot = await self._store.read(conversation, *queries)
        if snapshot is None:
            return None
        found = [
            self._legible(records, requests=query.mark in REQUESTS)
            for query, records in zip(queries, snapshot.records, strict=True)
        ]
        return Snapshot(snapshot.head, found)

    def _legible(self, records: Sequence[Record], *, requests: bool) -> list[Record]:
        return [self._stand_ins.get(one.seq) or self._read(one, REQUESTED if requests else one.kind) for one in records]

    def _read(self, record: Record, kind: str) -> Record:
        stand_in = _STAND_INS.get(kind)
        if stand_in is None:
            return record
        with suppress(CorruptLog):
            when(record)
            self._time = record.time
        reason = _unreadable(record, kind)
        if not reason:
            return record
        made = event(stand_in)
        said = msgspec.structs.replace(
            record,
            kind=kind,
            schema=made.schema,
            data=made.data,
            time=self._time,
            response=_number(record.response, None),
            tokens=_number(record.tokens, 0),
            excerpt=_number(record.excerpt, None),
            flags=_number(record.flags, 0),
        )
        self._stand_ins[record.seq] = said
        self.damaged.setdefault(said.response or record.seq, f"{record.conversation}/{record.seq}: {reason}")
        return said


def _number(value: object, otherwise: T) -> int | T:
    """Return what is stored in a column of numbers, something else where that is none."""
    return value if isinstance(value, int) else otherwise


def _unreadable(record: Record, kind: str) -> str:
    """Return why an event is not to be read as one of a kind; nothing if it is. Items may be other than was written."""
    if record.kind != kind:
        return f"its kind is {record.kind}, where a {kind} was written: {RESTORE}"
    try:
        body(record)
        when(record)
        numbers(record)
    except CorruptLog as error:
        return str(error).partition(": ")[2]
    return "" if kind == ITEM else damage(record)
