"""turnlog itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from benchmarks.systems import Read, Windowed
from benchmarks.workload import Item
from turnlog import Budget, Conversation, Engine, open_engine
from turnlog.engine.log import Query, Snapshot
from turnlog.engine.reader import Reader
from turnlog.engine.replay.scenarios import NewestTurns
from turnlog.engine.window.policies import OldestTurns

__all__ = ("SYSTEMS", "Counting", "Turnlog")


class Counting:
    """A store that hands everything on to another one and counts the events read."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """Read, and count."""
        found: Snapshot | None = await self._store.read(conversation, *queries)
        self.rows += sum(map(len, found.records)) if found else 0
        return found


class Turnlog(Windowed):
    """Conversations of one engine.

    A window is asked for cold, when the engine knows nothing of the conversation; or live, as in a service that has
    just appended to it: it is chosen anew; or live by the default policy, which cuts further down so that cuts are
    rare; or again, when nothing has happened since the same was asked for.
    """

    name = "turnlog"
    ways = ("cold", "live", "live, oldest-turns", "again")

    async def open(self) -> None:
        """See `System.open`."""
        self._stack = AsyncExitStack()
        self.engine: Engine = await self._stack.enter_async_context(open_engine(self.path))
        self._conversations: dict[str, Conversation] = {}
        self._newest = NewestTurns()

    async def close(self) -> None:
        """See `System.close`."""
        await self._stack.aclose()

    async def begin(self, conversation: str) -> None:
        """See `System.begin`."""
        self._conversations[conversation] = await self.engine.get_or_create(conversation)

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """See `System.append`."""
        await self._conversations[conversation].append(*items)

    async def window(self, conversation: str, budget: int, way: str) -> Read:
        """See `Windowed.window`."""
        if way == "cold":
            self.engine.reader.forget(conversation)
        # What one policy has chosen is nothing to another: so a new one is asked, as it would be after an append.
        policy = self._newest if way == "again" else OldestTurns() if "oldest-turns" in way else NewestTurns()
        made = await self._conversations[conversation].window(Budget(budget), policy=policy)
        return Read(made.items, 0)

    async def rows(self, conversation: str, budget: int, way: str) -> int:
        """Return how many events a window reads; asked for apart, so that counting takes no time of it."""
        counting: Any = Counting(self.engine.store)
        reader, self.engine.reader = self.engine.reader, Reader(counting, self.engine.intake)
        try:
            if way != "cold":
                await self.window(conversation, budget, way)
            before = counting.rows
            await self.window(conversation, budget, way)
        finally:
            self.engine.reader = reader
        return int(counting.rows - before)

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        store: Any = self.engine.store
        return (await store._writer.run(lambda db: db.execute(f"PRAGMA {name}").fetchone()))[0]  # noqa: SLF001 - its own


SYSTEMS: Final = (Turnlog,)
