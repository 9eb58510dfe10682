"""openai-agents: its sessions in SQLite, synchronous and asynchronous, and by SQLAlchemy.

A session gives back all of its items, or the last so many; what fits a budget is for its user to find out. The limit is
a hundredth of the budget: here an item has more than 100 tokens on average, so that no window falls short of it.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from agents.extensions.memory.async_sqlite_session import AsyncSQLiteSession
from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession
from agents.memory.sqlite_session import SQLiteSession
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.systems import Read, Windowed
from benchmarks.workload import Item

__all__ = ("SYSTEMS",)


class _Sessions(Windowed):
    """A session object for each conversation, kept while it is in use."""

    ways = ("limit", "full")

    async def open(self) -> None:
        """See `System.open`."""
        self._sessions: dict[str, Any] = {}

    async def begin(self, conversation: str) -> None:
        """See `System.begin`."""
        self._sessions[conversation] = self.session(conversation)
        await self._sessions[conversation].get_items(1)  # it connects now

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """See `System.append`."""
        await self._sessions[conversation].add_items(items)

    async def window(self, conversation: str, budget: int, way: str) -> Read:
        """See `Windowed.window`."""
        found = await self._sessions[conversation].get_items(budget // 100 if way == "limit" else None)
        return Read(self.fitting(found, budget, _begins), len(found))

    @abstractmethod
    def session(self, conversation: str) -> Any:
        """Return a new session object."""


def _begins(item: Item) -> bool:
    return item.get("role") == "user"


class Sqlite(_Sessions):
    """`SQLiteSession`: calls run in threads, one lock for the file."""

    name = "openai-agents SQLiteSession"

    def session(self, conversation: str) -> Any:
        """See `_Sessions.session`."""
        return SQLiteSession(conversation, self.path)

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        return await asyncio.to_thread(self._pragma, name)

    def _pragma(self, name: str) -> Any:
        connection = next(iter(self._sessions.values()))._get_connection()  # noqa: SLF001 - its own
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    async def close(self) -> None:
        """See `System.close`."""
        for session in self._sessions.values():
            session.close()


class AsyncSqlite(_Sessions):
    """`AsyncSQLiteSession`: a connection, and with it a thread, for each session."""

    name = "openai-agents AsyncSQLiteSession"
    most = 100
    quickly = 10

    def session(self, conversation: str) -> Any:
        """See `_Sessions.session`."""
        return AsyncSQLiteSession(conversation, self.path)

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        connection = await next(iter(self._sessions.values()))._get_connection()  # noqa: SLF001 - its own
        async with connection.execute(f"PRAGMA {name}") as cursor:
            return (await cursor.fetchone())[0]

    async def close(self) -> None:
        """See `System.close`."""
        for session in self._sessions.values():
            await session.close()


class SqlAlchemy(_Sessions):
    """`SQLAlchemySession` on SQLite with aiosqlite: one engine for all sessions."""

    name = "openai-agents SQLAlchemySession"
    most = 100

    async def open(self) -> None:
        """See `System.open`."""
        await super().open()
        self._engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{self.path}")

    def session(self, conversation: str) -> Any:
        """See `_Sessions.session`."""
        return SQLAlchemySession(conversation, engine=self._engine, create_tables=True)

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        async with self._engine.connect() as connection:
            return (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()

    async def close(self) -> None:
        """See `System.close`."""
        await self._engine.dispose()


SYSTEMS: Final = (Sqlite, SqlAlchemy, AsyncSqlite)
