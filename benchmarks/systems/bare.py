"""The floor: what a careful engineer would write with SQLite or a file alone, with the same durability and no checks.

Both encode the same items as turnlog and count their tokens with the same tokenizer; both have one thread that commits
whatever waits at once, so that appends share flushes. They check no version, no key, no pairing and no item, follow
nothing, and write for one process.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.systems import Read, System, Windowed
from benchmarks.workload import Item

__all__ = ("SYSTEMS", "BareFile", "BareSqlite")

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, conversation TEXT, seq INTEGER, tokens INTEGER, item BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS events_seq ON events (conversation, seq);
"""
INSERT: Final = "INSERT INTO events (conversation, seq, tokens, item) VALUES (?, ?, ?, ?)"
LAST: Final = "SELECT coalesce(max(seq), 0) FROM events WHERE conversation = ?"
NEWEST: Final = "SELECT tokens, item FROM events WHERE conversation = ? ORDER BY seq DESC"


class _Row(NamedTuple):
    conversation: str
    seq: int
    tokens: int
    item: bytes


class _GroupCommit(System):
    """A thread that commits whatever waits, and a task that hands it over."""

    async def open(self) -> None:
        """See `System.open`."""
        self._seqs: dict[str, int] = {}
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[list[_Row], asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        await self._run(self.prepare)
        self._task = asyncio.create_task(self._write())

    async def close(self) -> None:
        """See `System.close`."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._run(self.finish)
        self._thread.shutdown()

    async def _run(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def begin(self, conversation: str) -> None:
        """See `System.begin`."""
        self._seqs[conversation] = await self._run(self.last, conversation)

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """See `System.append`."""
        seq = self._seqs[conversation]
        self._seqs[conversation] += len(items)
        rows = [
            _Row(conversation, seq + number, self.weight(item), msgspec.json.encode(item))
            for number, item in enumerate(items, 1)
        ]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        self._news.set()
        await done

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._waiting = self._waiting, []
            await self._run(self.commit, [row for rows, _ in batch for row in rows])
            for _, done in batch:
                done.set_result(None)

    @abstractmethod
    def prepare(self) -> None:
        """Open the file, in the thread."""

    @abstractmethod
    def finish(self) -> None:
        """Close the file, in the thread."""

    @abstractmethod
    def last(self, conversation: str) -> int:
        """Return the last seq of a conversation, in the thread."""

    @abstractmethod
    def commit(self, rows: Sequence[_Row]) -> None:
        """Write rows and flush, in the thread."""


class BareSqlite(_GroupCommit, Windowed):
    """One table of events with an index; windows are read newest first by the stored token counts."""

    name = "bare SQLite"
    ways = ("newest first",)

    def prepare(self) -> None:
        """See `_GroupCommit.prepare`."""
        self._db = sqlite3.connect(self.path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)

    def finish(self) -> None:
        """See `_GroupCommit.finish`."""
        self._db.close()

    def last(self, conversation: str) -> int:
        """See `_GroupCommit.last`."""
        return int(self._db.execute(LAST, (conversation,)).fetchone()[0])

    def commit(self, rows: Sequence[_Row]) -> None:
        """See `_GroupCommit.commit`."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(INSERT, rows)
        self._db.execute("COMMIT")

    async def window(self, conversation: str, budget: int, way: str) -> Read:  # noqa: ARG002 - there is one
        """See `Windowed.window`."""
        found, rows = await self._run(self._read, conversation, budget)
        start = next((at for at, item in enumerate(found) if item.get("role") == "user"), len(found))
        return Read(found[start:], rows)

    def _read(self, conversation: str, budget: int) -> tuple[list[Item], int]:
        found: list[bytes] = []
        rows = 0
        for tokens, item in self._db.execute(NEWEST, (conversation,)):
            rows += 1
            budget -= tokens
            if budget < 0:
                break
            found.append(item)
        return [msgspec.json.decode(item) for item in reversed(found)], rows

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        return (await self._run(lambda: self._db.execute(f"PRAGMA {name}").fetchone()))[0]


class BareFile(_GroupCommit):
    """Lines of JSON in one file, flushed at the end of each batch; it is only ever appended to."""

    name = "bare file"

    def prepare(self) -> None:
        """See `_GroupCommit.prepare`."""
        self._file = self.path.open("ab", buffering=0)

    def finish(self) -> None:
        """See `_GroupCommit.finish`."""
        self._file.close()

    def last(self, conversation: str) -> int:  # noqa: ARG002 - nothing is looked up
        """See `_GroupCommit.last`."""
        return 0

    def commit(self, rows: Sequence[_Row]) -> None:
        """See `_GroupCommit.commit`."""
        self._file.write(b"".join(b"%s %d %d %s\n" % (row[0].encode(), *row[1:]) for row in rows))
        getattr(os, "fdatasync", os.fsync)(self._file.fileno())

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        raise LookupError(f"{name}: there is no SQLite in this")

    async def durability(self) -> str:
        """See `System.durability`."""
        return "a file, fdatasync"


SYSTEMS: Final = (BareSqlite, BareFile)
