"""What the checks of the store contract are made with: a place that keeps a log, and events to append."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from ..canonical import encode
from ..codec import event
from ..errors import TurnlogError
from ..events import ConversationCreated, ItemAppended, MetadataUpdated, NewEvent, Record, checksum
from ..items import accept, read
from ..log import Appended, Head, Query, Store

__all__ = (
    "Check",
    "Declined",
    "Place",
    "created",
    "fails",
    "head_of",
    "item",
    "other",
    "patched",
    "records_of",
    "started",
    "text_of",
)

E = TypeVar("E", bound=TurnlogError)

BEGUN: Final = 1_700_000_000_000_000
"""An explicit time, in microseconds."""


class Place(Protocol):
    """Where a log is kept. A check is given a fresh one, which nobody else uses."""

    def open(self) -> AbstractAsyncContextManager[Store]:
        """Open the log, and close it at the end of the `async with`.

        Opened again it is the same log, unless the store declares that it is not `durable`. It may be open several
        times at once if the store declares that it is `shared`.
        """
        ...


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


def other(kind: str, said: Any = None, **columns: Any) -> NewEvent:
    """Return an event of any kind, with any columns."""
    data = None if said is None else encode(said)
    values: dict[str, Any] = {"data": data, "sum": checksum(columns.get("item"), data)}
    return NewEvent(kind=kind, **values | columns)


async def started(store: Store, name: str = "c", *texts: str) -> Appended:
    """Create a conversation with some messages."""
    return await store.append(name, [created(), *(item(text) for text in texts)])


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


async def fails(kind: type[E], attempt: Awaitable[object]) -> E:
    """Return the error that an attempt must fail with."""
    try:
        result = await attempt
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was to be raised, not returned {result!r}")
