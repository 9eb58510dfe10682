"""eventsourcing: the recorder of its SQLite applications, the layer below aggregates.

It is synchronous, so its calls run in threads; its user encodes, counts and decodes. An aggregate of a whole
conversation would be rebuilt from all of its events each time, which is what this layer avoids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import msgspec
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks.systems import Read, Windowed
from benchmarks.workload import Item

__all__ = ("SYSTEMS",)


class Recorder(Windowed):
    """Events of `SQLiteApplicationRecorder`, read backwards with a limit of a hundredth of the budget."""

    name = "eventsourcing recorder"
    ways = ("limit",)

    async def open(self) -> None:
        """See `System.open`."""
        self._store = SQLiteDatastore(str(self.path), lock_timeout=30)
        self._recorder = SQLiteApplicationRecorder(self._store)
        self._recorder.create_table()
        self._versions: dict[str, int] = {}

    async def close(self) -> None:
        """See `System.close`."""
        self._store.close()

    async def begin(self, conversation: str) -> None:
        """See `System.begin`."""
        found = await asyncio.to_thread(self._recorder.select_events, _id(conversation), desc=True, limit=1)
        self._versions[conversation] = found[0].originator_version if found else 0

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """See `System.append`."""
        version = self._versions[conversation]
        events = [
            StoredEvent(_id(conversation), version + number, "item", msgspec.json.encode(item))
            for number, item in enumerate(items, 1)
        ]
        await asyncio.to_thread(self._recorder.insert_events, events)
        self._versions[conversation] = version + len(items)

    async def window(self, conversation: str, budget: int, way: str) -> Read:  # noqa: ARG002 - there is one
        """See `Windowed.window`."""
        name = _id(conversation)
        found = await asyncio.to_thread(self._recorder.select_events, name, desc=True, limit=budget // 100)
        items = [msgspec.json.decode(event.state) for event in reversed(found)]
        return Read(self.fitting(items, budget, _begins), len(found))

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        with self._store.get_connection(commit=True) as connection, connection.transaction(commit=False) as cursor:
            cursor.execute(f"PRAGMA {name}")
            return cursor.fetchone()[0]


def _id(conversation: str) -> UUID:
    return uuid5(NAMESPACE_OID, conversation)


def _begins(item: Item) -> bool:
    return item.get("role") == "user"


SYSTEMS: Final = (Recorder,)
