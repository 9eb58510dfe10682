"""The writing side of an engine: appends that the live histories learn of at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from .blobs import bodies_of
from .events import NewEvent
from .ids import ANY, Expected, Position
from .log import Appended, Fork, Key, LeaseChange, Store, record
from .reader import Reader

__all__ = ("Writer",)


class Writer:
    """Appends to conversations of one store."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader
        self._news = anyio.Event()

    async def append(
        self,
        name: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected = ANY,
        key: Key | None = None,
        fence: int | None = None,
        lease: LeaseChange | None = None,
        bodies: Mapping[str, bytes] | None = None,
        fork: Fork | None = None,
    ) -> Appended:
        """Append, with the bodies that come with the events; see `turnlog.engine.log.Store.append`."""
        bodies = {**(bodies or {}), **bodies_of(events)}
        appended = await self._store.append(
            name, events, expected=expected, key=key, fence=fence, lease=lease, bodies=bodies, fork=fork
        )
        if not appended.replayed:
            records = [
                record(name, seq, Position(""), appended.time, one, appended.first)
                for seq, one in enumerate(events, appended.first)
            ]
            self._reader.appended(name, records)
            self.tell()
        return appended

    def news(self) -> anyio.Event:
        """Return an event that is set by the next append."""
        return self._news

    def tell(self) -> None:
        """Wake those who wait for appends."""
        self._news.set()
        self._news = anyio.Event()
