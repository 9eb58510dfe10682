"""The floor: what a careful engineer would write with aiosqlite alone, with the same durability and no checks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiosqlite

__all__ = ("Autocommit", "GroupCommit")

SCHEMA = """
CREATE TABLE events (id INTEGER PRIMARY KEY, conversation TEXT, seq INTEGER, tokens INTEGER, item BLOB);
CREATE UNIQUE INDEX events_seq ON events (conversation, seq);
"""
INSERT = "INSERT INTO events (conversation, seq, tokens, item) VALUES (?, ?, ?, ?)"


class _Bare:
    def __init__(self, path: Path, count: Callable[[str], int]) -> None:
        self._path = path
        self._count = count
        self._seqs: dict[str, int] = {}
        self.db: aiosqlite.Connection

    async def __aenter__(self) -> Self:
        self.db = await aiosqlite.connect(self._path, isolation_level=None)
        await self.db.execute("PRAGMA journal_mode = WAL")
        await self.db.execute("PRAGMA synchronous = FULL")
        await self.db.executescript(SCHEMA)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.db.close()

    def row(self, conversation: str, item: Mapping[str, Any]) -> tuple[str, int, int, bytes]:
        """Encode and count an item."""
        seq = self._seqs[conversation] = self._seqs.get(conversation, 0) + 1
        return conversation, seq, self._count(item["content"]), json.dumps(item, ensure_ascii=False).encode()


class Autocommit(_Bare):
    """One INSERT an item, each its own transaction."""

    async def append(self, conversation: str, item: Mapping[str, Any]) -> None:
        """Append one item."""
        await self.db.execute(INSERT, self.row(conversation, item))


class GroupCommit(_Bare):
    """A writer task that commits whatever waits in one transaction."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._waiting: list[tuple[tuple[str, int, int, bytes], asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._task.cancel()
        await super().__aexit__(kind, error, at)

    async def append(self, conversation: str, item: Mapping[str, Any]) -> None:
        """Append one item."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.row(conversation, item), done))
        self._news.set()
        await done

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._waiting = self._waiting, []
            await self._commit([row for row, _ in batch])
            for _, done in batch:
                done.set_result(None)

    async def _commit(self, rows: Sequence[tuple[str, int, int, bytes]]) -> None:
        await self.db.execute("BEGIN IMMEDIATE")
        await self.db.executemany(INSERT, rows)
        await self.db.execute("COMMIT")
