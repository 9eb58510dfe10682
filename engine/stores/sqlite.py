"""The SQLite store: one file, one writer connection, readers of their own.

Every append is one `BEGIN IMMEDIATE` transaction in the writer's thread, together with whatever else waits (see
`batching`): one hop, one flush. Versions, keys and leases are checked inside it. Readers see a WAL snapshot and never
wait for the writer.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import aiosqlite
import anyio

from ..errors import StoreError, TurnlogError
from ..events import NewEvent, Record
from ..ids import ANY, Clock, Expected, Position, micros, system_clock
from ..log import Append, Appended, Head, Key, KeyUse, Lease, LeaseChange, Query, Snapshot, decide, limited, place
from .batching import Batcher, Outcome
from .statements import script, statements

__all__ = ("SCHEMA_VERSION", "SqliteStore")

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x7475726E  # "turn", so that `file` and other programs can tell whose database it is
_SQL: Final = statements("sqlite_queries.sql")
_READERS: Final = 4
_PATIENCE: Final = 30.0
"""Seconds that an append waits for another process to finish its own."""
_FAR: Final = 2**63 - 1
_ITEM: Final = "item.appended"


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread, for one hop instead of one a statement."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated():
            result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
            return result


class SqliteStore:
    """A log in one SQLite file; made by `SqliteStore.open`."""

    durable = True
    shared = True

    def __init__(self, path: Path, *, durability: Literal["full", "normal"], clock: Clock) -> None:
        self.path = path
        self._durability = durability
        self._clock = clock
        self._writer: _Connection | None = None
        self._opening = anyio.Lock()
        self._batcher = Batcher(self._commit)
        self._free: list[_Connection] = []
        self._readers = anyio.Semaphore(_READERS)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        migrate: bool = True,
        clock: Clock = system_clock,
    ) -> SqliteStore:
        """Open the database at *path*, made with mode 0600 when it is not there.

        "full" flushes every append to the disk before it returns; "normal" leaves the flush to the operating system:
        a killed process loses nothing, a loss of power the last appends.

        Raises:
            StoreError: it is no turnlog database, has a newer schema, or cannot be opened; or its schema is missing and
                *migrate* is false.
        """
        store = cls(Path(path), durability=durability, clock=clock)
        try:
            await store._prepare(migrate)
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self, migrate: bool) -> None:
        if not await anyio.Path(self.path).exists():
            if not migrate:
                raise StoreError(f"{self.path}: there is no database, and migrate=False forbids making one")
            await anyio.to_thread.run_sync(_create_file, self.path)
        async with self._reader() as reader:
            version = await reader.run(lambda db: _schema_version(db, self.path))
        if version == SCHEMA_VERSION:
            return
        if not migrate:
            raise StoreError(f"{self.path}: the schema is missing, and migrate=False forbids making it")
        writer = await self._open_writer()
        await writer.run(_create_schema)

    async def _connect(self) -> _Connection:
        def connector() -> sqlite3.Connection:
            db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, cached_statements=256)
            db.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")
            db.execute("PRAGMA temp_store = MEMORY")
            return db

        connection = _Connection(connector, 64)
        with translated():
            await connection
        return connection

    async def _open_writer(self) -> _Connection:
        """Open the writer at the first append: a database that is only read is not written to."""
        async with self._opening:
            if self._closed:
                raise StoreError(f"{self.path}: the store is closed")
            if self._writer is None:
                writer = await self._connect()
                try:
                    await writer.run(self._prepare_writer)
                except BaseException:
                    await writer.close()
                    raise
                self._writer = writer
            return self._writer

    def _prepare_writer(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL").fetchone()
        db.execute(f"PRAGMA synchronous = {self._durability.upper()}")
        db.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[_Connection]:
        async with self._readers:
            if self._closed:
                raise StoreError(f"{self.path}: the store is closed")
            connection = self._free.pop() if self._free else await self._connect()
            try:
                yield connection
            finally:
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
        writer = self._writer or await self._open_writer()
        now = micros(self._clock())
        return await writer.run(lambda db: _transaction(db, batch, now))

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        writer = self._writer or await self._open_writer()
        values = {"id": conversation, "generation": generation, "expires": time.time() + seconds}
        return await writer.run(lambda db: db.execute(_SQL["renew"], values).rowcount == 1)

    # -- reading

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        async with self._reader() as reader:
            return await reader.run(lambda db: _snapshot(db, conversation, queries))

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        async with self._reader() as reader:
            values = {"id": conversation, "name": name}
            row = await reader.run(lambda db: db.execute(_SQL["key_of"], values).fetchone())
        return KeyUse(*row) if row else None

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        async with self._reader() as reader:
            values = {"digest": bytes.fromhex(digest)}
            row = await reader.run(lambda db: db.execute(_SQL["body"], values).fetchone())
        return row[0] if row else None

    async def heads(
        self, *, order: str = "-updated", limit: int = 50, after: tuple[int, str] | None = None
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        column, falling = order.lstrip("-"), order.startswith("-")
        statement = _SQL[f"heads_{column}_{'falling' if falling else 'rising'}"]
        # A text sorts behind every id: "~" is above all characters that an id may have.
        place_, name = after or ((_FAR, "~") if falling else (-1, ""))
        values = {"time": place_, "id": name, "limit": limit}
        async with self._reader() as reader:
            return await reader.run(lambda db: [_head(row[0], row[1:]) for row in db.execute(statement, values)])

    async def close(self) -> None:
        """See `turnlog.engine.log.Store.close`."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._batcher.drained()
            async with self._opening:
                writer, self._writer = self._writer, None
            for connection in [*self._free, *([writer] if writer else [])]:
                await connection.close()
            self._free.clear()


# -- what runs in the connections' threads


def _create_file(path: Path) -> None:
    """Make an empty database file that only its owner can read."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {error.strerror}") from error


def _schema_version(db: sqlite3.Connection, path: Path) -> int:
    """Return the schema version, 0 for an empty database.

    Raises:
        StoreError: the database belongs to another program or to a newer turnlog.
    """
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: this database belongs to another program; give turnlog a file of its own")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema {version} was made by a newer turnlog, this one knows {SCHEMA_VERSION}; upgrade turnlog"
        )
    return version


def _create_schema(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been first.
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in script("sqlite_schema.sql").split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        _rollback(db)
        raise


def _transaction(db: sqlite3.Connection, batch: Sequence[Append], now: int) -> list[Outcome]:
    """Write a batch: every append checked on its own, all of them in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    try:
        writing = _Writing(db, now)
        outcomes = [writing.decided(append) for append in batch]
        writing.write()
        db.execute("COMMIT")
    except BaseException:
        _rollback(db)
        raise
    return outcomes


def _rollback(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


class _Writing:
    """One transaction's decisions, gathered so that each table is written in one go."""

    def __init__(self, db: sqlite3.Connection, now: int) -> None:
        self._db = db
        self._now = now
        self._clock = time.time()
        self._heads: dict[str, tuple[int | None, Head]] = {}
        self._changed: set[str] = set()
        self._uses: dict[tuple[str, str], KeyUse] = {}
        self._events: list[tuple[Any, ...]] = []
        self._marks: list[tuple[int, str, int]] = []
        self._keys: list[tuple[Any, ...]] = []
        self._bodies: dict[str, bytes] = {}

    def decided(self, append: Append) -> Outcome:
        name = append.conversation
        key, head = self._heads[name] if name in self._heads else self._read(name)
        use = self._use(append, key) if append.key else None
        try:
            head, result = decide(append, head, use, self._now)
        except TurnlogError as error:
            return error
        if head is None:
            return result
        if key is None:
            key = self._db.execute(_SQL["insert_head"], {"id": name}).lastrowid
            assert key is not None
        self._heads[name] = key, head
        self._changed.add(name)
        self._add(append, key, result)
        return result

    def _read(self, name: str) -> tuple[int | None, Head | None]:
        row = self._db.execute(_SQL["head"], {"id": name}).fetchone()
        if row is None:
            return None, None
        self._heads[name] = row[0], _head(name, row[1:], self._clock)
        return self._heads[name]

    def _use(self, append: Append, key: int | None) -> KeyUse | None:
        assert append.key is not None
        known = self._uses.get((append.conversation, append.key.name))
        if known is not None or key is None:
            return known
        row = self._db.execute(_SQL["key"], {"conversation": key, "name": append.key.name}).fetchone()
        return KeyUse(*row) if row else None

    def _add(self, append: Append, key: int, result: Appended) -> None:
        first = result.first
        for seq, event in enumerate(append.events, first):
            self._events.append(
                (
                    key,
                    seq,
                    self._now if event.time is None else event.time,
                    None if event.kind == _ITEM else event.kind,
                    event.schema,
                    place(event.response, first),
                    event.shape,
                    event.link,
                    event.tokens,
                    event.excerpt,
                    event.flags,
                    event.item,
                    event.data,
                    event.sum,
                )
            )
            self._marks.extend((key, mark, seq) for mark in event.marks)
        if append.key is not None:
            self._uses[append.conversation, append.key.name] = KeyUse(append.key.digest, first, result.last)
            self._keys.append((key, append.key.name, append.key.digest, first, result.last))
        self._bodies.update(append.bodies)

    def write(self) -> None:
        self._db.executemany(_SQL["insert_event"], self._events)
        if self._marks:
            self._db.executemany(_SQL["insert_mark"], self._marks)
        if self._keys:
            self._db.executemany(_SQL["insert_key"], self._keys)
        if self._bodies:
            rows = [(bytes.fromhex(digest), body) for digest, body in self._bodies.items()]
            self._db.executemany(_SQL["insert_body"], rows)
        self._db.executemany(_SQL["update_head"], [self._row(name) for name in self._changed])

    def _row(self, name: str) -> tuple[Any, ...]:
        key, head = self._heads[name]
        lease = head.lease
        return (
            head.version,
            head.created,
            head.updated,
            head.last_item,
            head.items,
            head.metadata,
            head.generation,
            lease.owner if lease else None,
            lease.turn if lease else None,
            self._clock + lease.remaining if lease else None,
            key,
        )


def _head(name: str, row: Sequence[Any], clock: float | None = None) -> Head:
    version, created, updated, last_item, items, metadata, generation, owner, turn, expires = row
    now = time.time() if clock is None else clock
    return Head(
        conversation=name,
        version=version,
        created=created,
        updated=updated,
        last_item=last_item,
        items=items,
        metadata=metadata,
        generation=generation,
        lease=None if owner is None else Lease(owner, turn, expires - now),
    )


def _snapshot(db: sqlite3.Connection, conversation: str, queries: Sequence[Query]) -> Snapshot | None:
    db.execute("BEGIN")
    try:
        row = db.execute(_SQL["head"], {"id": conversation}).fetchone()
        if row is None:
            return None
        return Snapshot(
            _head(conversation, row[1:]), [list(_found(db, conversation, row[0], query)) for query in queries]
        )
    finally:
        _rollback(db)


def _found(db: sqlite3.Connection, conversation: str, key: int, query: Query) -> Iterator[Record]:
    stream = "marked_" if query.mark is not None else "linked_" if query.link is not None else ""
    values = {
        "conversation": key,
        "after": query.after,
        "before": _FAR if query.before is None else query.before,
        "limit": -1 if query.limit is None else query.limit,
        "mark": query.mark,
        "link": query.link,
    }
    cursor = db.execute(_SQL[stream + ("falling" if query.reverse else "rising")], values)
    yield from limited((_record(conversation, row) for row in cursor), query.tokens)
    cursor.close()


def _record(conversation: str, row: Sequence[Any]) -> Record:
    seq, position, when, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, total = row
    return Record(
        conversation=conversation,
        seq=seq,
        position=Position(str(position)),
        time=when,
        kind=_ITEM if kind is None else kind,
        schema=schema,
        response=response,
        shape=shape,
        link=link,
        tokens=tokens,
        excerpt=excerpt,
        flags=flags,
        item=item,
        data=data,
        sum=total,
    )


_REMEDIES: Final[Mapping[str, tuple[str, bool]]] = {
    "SQLITE_FULL": ("the disk is full; free some space, then try again", True),
    "SQLITE_READONLY": ("the database is read-only; make the file and its folder writable for this user", False),
    "SQLITE_CANTOPEN": (
        "the database cannot be opened; check that the folder exists and that this user may write there",
        False,
    ),
    "SQLITE_PERM": ("access was denied; check the permissions of the file and its folder", False),
    "SQLITE_AUTH": ("access was denied; check the permissions of the file and its folder", False),
    "SQLITE_BUSY": (
        f"another program has kept the database locked for {_PATIENCE:.0f} s; close it, then try again",
        True,
    ),
    "SQLITE_LOCKED": ("the database is locked from inside this process; try again", True),
    "SQLITE_NOTADB": ("this is no SQLite database; give turnlog a file of its own", False),
    "SQLITE_CORRUPT": ("the database file is damaged; restore it from a backup", False),
    "SQLITE_IOERR": ("the disk reported an error; check it, then try again", True),
    "SQLITE_TOOBIG": ("the item is larger than SQLite can hold; store a reference to it", False),
}


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into `StoreError`, with the remedy.

    The primary code is the name up to its second underscore: SQLITE_IOERR_WRITE is an SQLITE_IOERR.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        primary = "_".join(name.split("_")[:2])
        remedy, retryable = _REMEDIES.get(primary, ("SQLite refused", False))
        raise StoreError(f"{remedy} ({name or type(error).__name__}: {error})", retryable=retryable) from error
