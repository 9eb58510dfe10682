"""What the checks of the store contract are made with: a place that keeps a log, and events to append."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import anyio
import msgspec

from ..canonical import encode
from ..codec import event
from ..errors import TurnlogError
from ..events import ConversationCreated, ConversationDeleted, ItemAppended, MetadataUpdated, NewEvent, Record, checksum
from ..ids import Position
from ..items import accept, read
from ..log import Appended, Fork, Head, Query, Store

__all__ = (
    "BEGUN",
    "LONG",
    "At",
    "Check",
    "Declined",
    "Place",
    "agree",
    "body",
    "created",
    "fails",
    "forked",
    "head_of",
    "item",
    "matching",
    "other",
    "patched",
    "records_of",
    "started",
    "text_of",
    "texts_of",
    "together",
    "tombstone",
)

E = TypeVar("E", bound=TurnlogError)
T = TypeVar("T")

BEGUN: Final = 1_700_000_000_000_000
"""An explicit time, in microseconds."""
LONG: Final = 600.0
"""Seconds that no check lasts."""


class Place(Protocol):
    """Where a log is kept. A check is given a fresh one, which nobody else uses."""

    def open(self) -> AbstractAsyncContextManager[Store]:
        """Open the log, and close it at the end of the `async with`.

        Opened again it is the same log, unless the store declares that it is not `durable`. It may be open several
        times at once if the store declares that it is `shared`.
        """
        ...


class At:
    """A place that a function opens: `At(SqliteStore.open, path)`. The function is given whatever else stands there."""

    def __init__(self, opens: Callable[..., Awaitable[Store]], *args: object, **options: object) -> None:
        self._opens = opens
        self._args = args
        self._options = options

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """See `Place.open`."""
        store = await self._opens(*self._args, **self._options)
        try:
            yield store
        finally:
            await store.close()


Check: TypeAlias = Callable[[Place], Awaitable[None]]


class Declined(Exception):
    """The store declares that it does not promise what a check is about: `durable` or `shared` is false."""


def created(metadata: dict[str, Any] | None = None) -> NewEvent:
    """Return the first event of a conversation."""
    return event(ConversationCreated(metadata=metadata or {}))


def item(text: str, **columns: Any) -> NewEvent:
    """Return a user's message, with other values for columns."""
    value, data = accept(text, "$")
    made = event(ItemAppended(), item=data, form=read(value), tokens=len(text))
    return NewEvent(**{name: getattr(made, name) for name in made.__struct_fields__} | columns)


def patched(**patch: Any) -> NewEvent:
    """Return a change of the metadata."""
    return event(MetadataUpdated(patch=patch))


def body(text: str) -> tuple[str, bytes]:
    """Return a body, behind its digest."""
    data = encode(text)
    return hashlib.sha256(data).hexdigest(), data


def tombstone() -> NewEvent:
    """Return what is left of a conversation that is deleted."""
    return event(ConversationDeleted(reason="a check"))


def other(kind: str, said: Any = None, **columns: Any) -> NewEvent:
    """Return an event of any kind, with any columns."""
    data = None if said is None else encode(said)
    values: dict[str, Any] = {"data": data, "sum": checksum(columns.get("item"), data)}
    return NewEvent(kind=kind, **values | columns)


async def started(store: Store, name: str = "c", *texts: str) -> Appended:
    """Create a conversation with some messages."""
    return await store.append(name, [created(), *(item(text) for text in texts)])


async def forked(store: Store, name: str, parent: str, at: int, *texts: str) -> Appended:
    """Create a fork with some messages of its own."""
    return await store.append(name, [created(), *(item(text) for text in texts)], fork=Fork(parent, at))


async def records_of(store: Store, name: str = "c") -> Sequence[Record]:
    """Return all events of a conversation, and see to it that its seqs are 1, 2, 3, … up to its version."""
    snapshot = await store.read(name, Query())
    assert snapshot is not None, f"{name} is not there"
    (records,) = snapshot.records
    assert [record.seq for record in records] == list(range(1, snapshot.head.version + 1))
    return records


async def head_of(store: Store, name: str = "c") -> Head:
    """Return a conversation's head."""
    snapshot = await store.read(name)
    assert snapshot is not None, f"{name} is not there"
    return snapshot.head


def text_of(record: Record) -> str:
    """Return the text of a message that `item` made."""
    assert record.item is not None
    return record.item.decode().split('"content":"')[1].split('"')[0]


async def texts_of(store: Store, name: str = "c") -> list[str]:
    """Return the texts of all messages of a conversation."""
    return [text_of(record) for record in await records_of(store, name) if record.item is not None]


def matching(events: Sequence[NewEvent], query: Query) -> list[int]:
    """Return the seqs that a query finds among the events of a conversation, by the words of its definition."""
    found = [(seq, one) for seq, one in enumerate(events, 1) if _matches(seq, one, query)]
    seqs: list[int] = []
    tokens = 0
    for seq, one in reversed(found) if query.reverse else found:
        if query.limit is not None and len(seqs) == query.limit:
            break
        seqs.append(seq)
        tokens += one.tokens if one.excerpt is None else one.excerpt
        if query.tokens is not None and tokens >= query.tokens:
            break
    return seqs


def _matches(seq: int, one: NewEvent, query: Query) -> bool:
    return (
        seq > query.after
        and (query.before is None or seq < query.before)
        and (query.mark is None or query.mark in one.marks)
        and (query.link is None or query.link == one.link)
    )


async def agree(store: Store, name: str, events: Sequence[NewEvent], queries: Sequence[Query]) -> None:
    """See to it that a conversation that consists of some events answers each query with those that match."""
    whole = await records_of(store, name)
    assert [(one.item, one.data) for one in whole] == [(one.item, one.data) for one in events]
    snapshot = await store.read(name, *queries)
    assert snapshot is not None
    assert len(snapshot.records) == len(queries)
    for query, found in zip(queries, snapshot.records, strict=True):
        assert [record.seq for record in found] == matching(events, query), query
        told = whole if query.tokens is None else [*map(_without_place, whole)]
        assert all(record in (whole[record.seq - 1], told[record.seq - 1]) for record in found)


def _without_place(record: Record) -> Record:
    """Return an event as a query by tokens may give it."""
    return msgspec.structs.replace(record, position=Position(""), time=0, sum=0)


async def together(*attempts: Callable[[], Awaitable[T]]) -> list[T | Exception]:
    """Make attempts at the same time; return what each of them came to, in their order."""
    outcomes: dict[int, T | Exception] = {}

    async def one(index: int, attempt: Callable[[], Awaitable[T]]) -> None:
        try:
            outcomes[index] = await attempt()
        except Exception as error:  # noqa: BLE001 - it is handed back
            outcomes[index] = error

    async with anyio.create_task_group() as group:
        for index, attempt in enumerate(attempts):
            group.start_soon(one, index, attempt)
    return [outcomes[index] for index in range(len(attempts))]


async def fails(kind: type[E], attempt: Awaitable[object]) -> E:
    """Return the error that an attempt must fail with."""
    try:
        result = await attempt
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was to be raised, not returned {result!r}")
