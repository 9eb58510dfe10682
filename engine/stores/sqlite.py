"""The SQLite store: one file, one writer connection, readers of their own.

Every append is one `BEGIN IMMEDIATE` transaction in the writer's thread, together with whatever else waits (see
`batching`): one hop, one flush. Versions, keys and leases are checked inside it. Readers see a WAL snapshot and never
wait for the writer. What the threads do with their connections is in `sqlite_thread`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import aiosqlite
import anyio

from ..errors import StoreError
from ..events import NewEvent
from ..ids import ANY, Clock, Expected, micros, system_clock
from ..log import Append, Appended, Head, Key, KeyUse, LeaseChange, Query, Snapshot
from ..shield import finish
from . import sqlite_thread as thread
from .batching import Batcher, Outcome
from .sqlite_thread import SCHEMA_VERSION

__all__ = ("SCHEMA_VERSION", "SqliteStore")

T = TypeVar("T")

_READERS: Final = 4


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread, for one hop instead of one a statement."""

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__(lambda: thread.connect(path, patience), 64)
        self._path = path

    async def open(self) -> None:
        with thread.translated(self._path):
            await self

    async def run(self, work: Callable[[thread.Database], T]) -> T:
        with thread.translated(self._path):
            execute: Callable[..., Awaitable[T]] = self._execute
            return await execute(work, self._conn)


class SqliteStore:
    """A log in one SQLite file; made by `SqliteStore.open`."""

    durable = True
    shared = True

    def __init__(self, path: Path, *, durability: Literal["full", "normal"], clock: Clock, patience: float) -> None:
        self.path = path
        self._durability = durability
        self._clock = clock
        self._patience = patience
        self._writer: _Connection | None = None
        self._opening = anyio.Lock()
        self._batcher = Batcher(self._commit)
        self._free: list[_Connection] = []
        self._readers = anyio.Semaphore(_READERS, fast_acquire=True)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        migrate: bool = True,
        clock: Clock = system_clock,
        patience: float = 30.0,
    ) -> SqliteStore:
        """Open the database at *path*, made with mode 0600 when it is not there.

        "full" flushes every append to the disk before it returns; "normal" leaves the flush to the operating system:
        a killed process loses nothing, a loss of power the last appends. *patience* is for how many seconds an append
        waits while another program keeps the database locked.

        Raises:
            StoreError: it is no turnlog database, has a newer schema, or cannot be opened; or its schema is missing and
                *migrate* is false.
        """
        store = cls(Path(path), durability=durability, clock=clock, patience=patience)
        try:
            await store._prepare(migrate)
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self, migrate: bool) -> None:
        self.path = await anyio.to_thread.run_sync(thread.make_file, self.path, migrate)
        async with self._reader() as reader:
            version = await reader.run(thread.schema_version)
        if version == SCHEMA_VERSION:
            return
        if not migrate:
            raise StoreError(f"{self.path}: there is no log in it yet; the first that writes to it makes one")
        writer = await self._open_writer()
        await writer.run(thread.create_schema)

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: the store is closed")

    async def _connect(self) -> _Connection:
        connection = _Connection(self.path, self._patience)
        try:
            await finish(connection.open())
        except BaseException:
            await finish(connection.close())
            raise
        return connection

    async def _open_writer(self) -> _Connection:
        """Open the writer at the first append: a database that is only read is not written to."""
        async with self._opening:
            self._check()
            if self._writer is None:
                writer = await self._connect()
                try:
                    await writer.run(lambda db: thread.prepare_writer(db, self._durability))
                except BaseException:
                    await finish(writer.close())
                    raise
                self._writer = writer
            return self._writer

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[_Connection]:
        async with self._readers:
            self._check()
            connection = self._free.pop() if self._free else await self._connect()
            try:
                yield connection
            except StoreError:
                # What was wrong with the file may be mended by then, but not for a connection that met it.
                await finish(connection.close())
                raise
            except BaseException:
                self._free.append(connection)
                raise
            self._free.append(connection)

    # -- writing

    async def append(
        self,
        conversation: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected = ANY,
        key: Key | None = None,
        fence: int | None = None,
        lease: LeaseChange | None = None,
        bodies: Mapping[str, bytes] | None = None,
    ) -> Appended:
        """See `turnlog.engine.log.Store.append`."""
        return await self._batcher.add(
            Append(
                conversation=conversation,
                events=events,
                expected=expected,
                key=key,
                fence=fence,
                lease=lease,
                bodies=bodies or {},
            )
        )

    async def _commit(self, batch: Sequence[Append]) -> Sequence[Outcome]:
        now = micros(self._clock())
        return await self._write(lambda db: thread.commit(db, batch, now))

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        return await self._write(lambda db: thread.renew(db, conversation, generation, seconds))

    async def _write(self, work: Callable[[thread.Database], T]) -> T:
        writer = self._writer or await self._open_writer()
        try:
            return await writer.run(work)
        except StoreError:
            # Opened while the file was read-only, say, it would refuse to write for ever.
            if self._writer is writer:
                self._writer = None
                await finish(writer.close())
            raise

    # -- reading

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        async with self._reader() as reader:
            return await reader.run(lambda db: thread.snapshot(db, conversation, queries))

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        async with self._reader() as reader:
            return await reader.run(lambda db: thread.key_of(db, conversation, name))

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        async with self._reader() as reader:
            return await reader.run(lambda db: thread.body(db, digest))

    async def heads(
        self, *, order: str = "-updated", limit: int = 50, after: tuple[int, str] | None = None
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        async with self._reader() as reader:
            return await reader.run(lambda db: thread.heads(db, order, limit, after))

    async def close(self) -> None:
        """See `turnlog.engine.log.Store.close`."""
        self._closed = True
        await finish(self._close())

    async def _close(self) -> None:
        await self._batcher.drained()
        for _ in range(_READERS):
            await self._readers.acquire()
        async with self._opening:
            writer, self._writer = self._writer, None
        # The writer last: as the last connection it empties the write-ahead log.
        for connection in [*self._free, *([writer] if writer else [])]:
            await connection.close()
        self._free.clear()
        for _ in range(_READERS):
            self._readers.release()
