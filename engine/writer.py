"""The writing side of an engine: appends that the live histories learn of at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .events import NewEvent
from .ids import ANY, Expected, Position
from .log import Appended, Key, LeaseChange, Store, record
from .reader import Reader

__all__ = ("Writer",)


class Writer:
    """Appends to conversations of one store."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

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
    ) -> Appended:
        """Append; see `turnlog.engine.log.Store.append`."""
        appended = await self._store.append(
            name, events, expected=expected, key=key, fence=fence, lease=lease, bodies=bodies
        )
        if not appended.replayed:
            records = [
                record(name, seq, Position(""), appended.time, one, appended.first)
                for seq, one in enumerate(events, appended.first)
            ]
            self._reader.appended(name, records)
        return appended
