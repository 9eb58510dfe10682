"""The SQLite store: one file, one writer connection, readers of their own.

Every append is one `BEGIN IMMEDIATE` transaction in the writer's thread, together with whatever else waits (see
`batching`): one hop, one flush. Versions, keys and leases are checked inside it. Readers see a WAL snapshot and never
wait for the writer. What the threads do with their connections is in `sqlite_reading`, `sqlite_writing` and
`sqlite_erasing`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import aiosqlite
import anyio
from msgspec.structs import replace

from ..errors import NotFound, StoreError
from ..events import NewEvent
from ..ids import ANY, Clock, Expected, Position, micros, ordinal, system_clock
from ..log import (
    Append,
    Appended,
    Erased,
    Fed,
    Fork,
    Head,
    Key,
    KeyUse,
    LeaseChange,
    Query,
    Scalar,
    Snapshot,
    Standing,
)
from ..shield import finish
from . import sqlite_erasing as erasing
from . import sqlite_reading as reading
from . import sqlite_writing as writing
from .batching import Batcher, Outcome, Take
from .sqlite_connection import (
    SCHEMA_VERSION,
    Database,
    File,
    connect,
    file_of,
    make_file,
    prepare_writer,
)
from .sqlite_copying import copy
from .sqlite_errors import translated
from .sqlite_schema import migrate as migrated
from .sqlite_schema import migration_sql, schema_version, stored_version

__all__ = ("SCHEMA_VERSION", "SqliteStore", "copied", "migration_sql", "stored_version")

T = TypeVar("T")

_READERS: Final = 4
_ERASING: Final = 5.0
"""For so many seconds an erasure waits until nobody reads what the write-ahead log holds."""

_LOG_LEFT: Final = (
    "{path}-wal, the write-ahead log: {why}, erase again, or close every program that has the database open"
)


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread, for one hop instead of one a statement."""

    def __init__(self, path: Path, patience: float, file: File | None) -> None:
        super().__init__(lambda: connect(path, patience, file), 64)
        self._path = path
        # A process that ends without closing its store must end. What it is told of is on the disk.
        self._worker: threading.Thread = vars(self).get("_thread", self)
        self._worker.daemon = True

    async def open(self) -> None:
        try:
            with translated(self._path):
                await self
        except BaseException:
            # It tells the event loop that it ends, and nobody waits for that: by then the loop may be closed.
            if self._worker.is_alive():
                await anyio.to_thread.run_sync(self._worker.join)
            raise

    async def run(self, work: Callable[[Database], T]) -> T:
        with translated(self._path):
            execute: Callable[..., Awaitable[T]] = self._execute
            return await execute(work, self._conn)


class _FailedBefore(Exception):
    """The writer's connection met an error; it is about to be closed."""


class SqliteStore:
    """A log in one SQLite file; made by `SqliteStore.open`."""

    durable = True
    shared = True

    def __init__(self, path: Path, *, durability: Literal["full", "normal"], clock: Clock, patience: float) -> None:
        self.path = path
        self._durability = durability
        self._clock = clock
        self._patience = patience
        self._file: File | None = None
        """The one that all connections have open."""
        self._writer: _Connection | None = None
        self._opening = anyio.Lock()
        self._batcher = Batcher(self._commit, ahead=True)
        self._committing = 0
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
        waits while another program keeps the database locked. With *migrate* an older schema is brought forward.

        Raises:
            StoreError: it is no turnlog database, has a newer schema, or cannot be opened; or its schema is missing or
                older and *migrate* is false.
        """
        store = cls(Path(path), durability=durability, clock=clock, patience=patience)
        try:
            await store._prepare(migrate)
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self, migrate: bool) -> None:
        self.path = await anyio.to_thread.run_sync(make_file, self.path, migrate)
        self._file = await anyio.to_thread.run_sync(file_of, self.path)
        async with self._reader() as reader:
            version = await reader.run(schema_version)
        if version == SCHEMA_VERSION:
            return
        if not migrate and version == 0:
            raise StoreError(f"{self.path}: there is no log in it yet; the first that writes to it makes one")
        if not migrate:
            raise StoreError(
                f"{self.path}: its schema is {version}, this turnlog works with {SCHEMA_VERSION}, and migrate=False "
                "forbids bringing it forward; run `turnlog migrate`"
            )
        writer = await self._open_writer()
        await writer.run(migrated)

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: the store is closed")

    async def _connect(self) -> _Connection:
        connection = _Connection(self.path, self._patience, self._file)
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
                    await writer.run(lambda db: prepare_writer(db, self._durability))
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
        fork: Fork | None = None,
        uses: Mapping[str, KeyUse] | None = None,
        answers: Sequence[str] = (),
    ) -> Appended:
        """See `turnlog.engine.log.Store.append`."""
        self._check()
        return await self._batcher.add(
            Append(
                conversation=conversation,
                events=events,
                expected=expected,
                key=key,
                fence=fence,
                lease=lease,
                bodies=bodies or {},
                fork=fork,
                uses=uses or {},
                answers=answers,
            )
        )

    async def _commit(self, take: Take) -> Sequence[Outcome]:
        # Where nothing is being written, nobody else is waited for.
        taken = None if self._committing else take()

        def committed(db: Database) -> Sequence[Outcome]:
            if db.failed:
                raise _FailedBefore
            batch = take() if taken is None else taken
            try:
                return writing.commit(db, batch, micros(self._clock())) if batch else []
            except BaseException:
                db.failed = True
                raise

        self._committing += 1
        try:
            while True:
                try:
                    return await self._write(committed)
                except _FailedBefore:
                    pass  # it was queued behind the one that failed, and begins anew with another connection
        finally:
            self._committing -= 1

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        return await self._write(lambda db: writing.renew(db, conversation, generation, seconds))

    async def _write(self, work: Callable[[Database], T]) -> T:
        writer = self._writer or await self._open_writer()
        try:
            return await writer.run(work)
        except (StoreError, _FailedBefore):
            # Opened while the file was read-only, say, it would refuse to write for ever.
            if self._writer is writer:
                self._writer = None
                await finish(writer.close())
            raise

    # -- erasing

    async def erase(self, appends: Sequence[Append]) -> Erased:
        """See `turnlog.engine.log.Store.erase`."""
        now = micros(self._clock())
        return await finish(self._erased(lambda db: erasing.erase(db, appends, now)))

    async def delete(self, conversation: str, tombstone: NewEvent, *, forks: Literal["refuse", "keep"]) -> Erased:
        """See `turnlog.engine.log.Store.delete`."""
        now = micros(self._clock())
        try:
            return await finish(self._erased(lambda db: erasing.delete(db, conversation, tombstone, now, forks=forks)))
        except NotFound as gone:
            if gone.deleted:  # perhaps by a process that was killed before it came to its end
                await self.collect()
            raise

    async def collect(self, seconds: float = 3600.0) -> int:
        """See `turnlog.engine.log.Store.collect`."""
        return await finish(self._collected(seconds))

    async def _erased(self, work: Callable[[Database], Erased]) -> Erased:
        done, why = await self._write(lambda db: erasing.alone(db, work))
        why = why and await self._emptied(why)
        return replace(done, left=(*done.left, _LOG_LEFT.format(path=self.path, why=why))) if why else done

    async def _collected(self, seconds: float) -> int:
        gone, why = await self._write(lambda db: erasing.alone(db, lambda db: erasing.collect(db, seconds)))
        if why:
            await self._emptied(why)
        return gone

    async def _emptied(self, why: str) -> str:
        """Empty the write-ahead log, in short attempts, so that appends are not held up; return why not, "" if so."""
        deadline = time.monotonic() + min(_ERASING, self._patience)
        while time.monotonic() < deadline:
            try:
                why = await self._write(lambda db: erasing.truncated(db, 0.5))
            except StoreError:
                break
            if not why:
                break
            await anyio.sleep(0.01)
        return why

    # -- reading

    async def _read(self, work: Callable[[Database], T]) -> T:
        async with self._reader() as reader:
            return await reader.run(work)

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        return await self._read(lambda db: reading.snapshot(db, conversation, queries))

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        return await self._read(lambda db: reading.key_of(db, conversation, name))

    async def keys(self, conversation: str, *, after: str = "", limit: int = 500) -> Mapping[str, KeyUse]:
        """See `turnlog.engine.log.Store.keys`."""
        return await self._read(lambda db: reading.keys_of(db, conversation, after, limit))

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        return await self._read(lambda db: reading.body(db, digest))

    async def heads(
        self,
        *,
        order: str = "-updated",
        limit: int = 50,
        after: tuple[int, str] | None = None,
        where: Mapping[str, Scalar] | None = None,
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        return await self._read(lambda db: reading.heads(db, order, limit, after, where))

    async def forks(self, conversation: str) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.forks`."""
        return await self._read(lambda db: reading.forks(db, conversation))

    # -- the feed

    async def feed(self, after: Position | None, limit: int) -> Sequence[Fed]:
        """See `turnlog.engine.log.Store.feed`."""
        place = 0 if after is None else ordinal(after)
        return await self._read(lambda db: reading.feed(db, place, limit))

    async def end(self) -> Position | None:
        """See `turnlog.engine.log.Store.end`."""
        return await self._read(reading.end)

    async def stand(self, name: str, owner: str, seconds: float) -> Standing | None:
        """See `turnlog.engine.log.Store.stand`."""
        return await self._write(lambda db: writing.stand(db, name, owner, seconds))

    async def ack(self, name: str, owner: str, position: Position) -> bool:
        """See `turnlog.engine.log.Store.ack`."""
        place = ordinal(position)
        return await self._write(lambda db: writing.ack(db, name, owner, place))

    async def resign(self, name: str, owner: str) -> None:
        """See `turnlog.engine.log.Store.resign`."""
        await self._write(lambda db: writing.resign(db, name, owner))

    # -- the whole

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the log, as it is at one moment, to a new file at *path*, while others append.

        Raises:
            Invalid: there is a file already, or none can be made.
            StoreError: the log cannot be read, or the copy not be written.
        """
        self._check()
        await copied(self.path, path, file=self._file)

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


async def copied(
    path: str | os.PathLike[str], target: str | os.PathLike[str], *, patience: float = 30.0, file: File | None = None
) -> int:
    """Copy a log of any schema that this turnlog knows, as it is at one moment, to a new file; return its schema.

    Raises:
        Invalid: there is a file already, or none can be made.
        StoreError: the log cannot be read, or is not in the *file* that it has to be in; or the copy not be written.
    """
    stop = threading.Event()
    work = asyncio.ensure_future(anyio.to_thread.run_sync(copy, Path(path), Path(target), patience, stop.is_set, file))
    try:
        return await asyncio.shield(work)
    finally:
        # Whoever is cancelled waits until nothing is left of it.
        stop.set()
        await finish(_ended(work))


async def _ended(work: asyncio.Future[int]) -> None:
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
