"""What the SQLite store does in its connections' threads: blocking functions of a connection, each one hop."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ..errors import Invalid, StoreError, TurnlogError
from ..events import Record
from ..ids import Position
from ..log import Append, Appended, Head, KeyUse, Lease, Query, Snapshot, decide, limited, ordering, place
from .batching import Outcome
from .statements import script, statements

__all__ = (
    "SCHEMA_VERSION",
    "Database",
    "body",
    "commit",
    "connect",
    "create_schema",
    "heads",
    "key_of",
    "make_file",
    "prepare_writer",
    "renew",
    "schema_version",
    "snapshot",
    "translated",
)

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x7475726E  # "turn", so that `file` and other programs can tell whose database it is
SQL: Final = statements("sqlite_queries.sql")
_FAR: Final = 2**63 - 1
_ITEM: Final = "item.appended"


# -- opening


class Database(sqlite3.Connection):
    """A connection that knows its file."""

    path: Path
    file: tuple[int, int]
    """Which file it was, whatever has its name now."""
    patience: float


def make_file(path: Path, migrate: bool) -> Path:
    """Make an empty database file that only its owner can read, unless there is a file; return its absolute path.

    Raises:
        StoreError: it cannot be made, or *migrate* is false.
    """
    try:
        path = path.absolute()
        if path.is_dir():
            raise StoreError(f"{path}: this is a folder; give turnlog a file in it")
        if not path.exists():
            if not migrate:
                raise StoreError(f"{path}: there is no database; migrate=True makes one")
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: cannot be made: its folder is not there; make it first") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened: {error.strerror}; check that this user may write there") from error
    except ValueError as error:
        raise StoreError(f"{str(path)!r}: no file can have this name: {error}") from error
    return path


def connect(path: Path, patience: float) -> Database:
    """Open a connection to a file that is there; it waits for others' locks for *patience* seconds."""
    # Not to be made: a file that was deleted meanwhile must not come back empty.
    url = path.as_uri() + "?mode=rw"
    db = sqlite3.connect(url, uri=True, timeout=patience, isolation_level=None, cached_statements=256, factory=Database)
    db.execute("PRAGMA temp_store = MEMORY")
    db.path, db.file, db.patience = path, _file(path), patience
    return db


def _file(path: Path) -> tuple[int, int]:
    try:
        there = path.stat()
    except OSError:
        return 0, 0
    return there.st_dev, there.st_ino


def schema_version(db: Database) -> int:
    """Return the schema version, 0 for an empty database.

    Raises:
        StoreError: the database belongs to another program or to a newer turnlog.
    """
    with _moment(db):  # another process may be making it just now
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(f"{db.path}: this database belongs to another program; give turnlog a file of its own")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{db.path}: schema {version} was made by a newer turnlog, this one knows {SCHEMA_VERSION}; upgrade turnlog"
        )
    return version


def create_schema(db: Database) -> None:
    """Make the tables, unless another process was first."""
    with _transaction(db):
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in script("sqlite_schema.sql").split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def prepare_writer(db: Database, durability: str) -> None:
    """Make a connection the one that appends.

    Raises:
        StoreError: no write-ahead log can be kept beside the database.
    """
    # For a database that is still empty. Items of some 700 bytes would leave an eighth of pages of 4 KiB unused.
    db.execute("PRAGMA page_size = 8192")
    if _journal_mode(db) != "wal":
        raise StoreError(f"{db.path}: no write-ahead log can be kept beside it; put the database on a local disk")
    db.execute(f"PRAGMA synchronous = {durability.upper()}")
    db.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")


def _journal_mode(db: Database) -> str:
    """Switch to the write-ahead log; return what the database uses then."""
    deadline = time.monotonic() + db.patience
    while True:
        try:
            mode: str = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            # Of processes that switch at once all but one are refused at once, whatever the busy timeout is.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return mode


# -- writing


@contextmanager
def _transaction(db: Database) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_OF_ONE: Final = (sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError, ValueError)
"""What SQLite's module raises for a value that no column can hold."""


def commit(db: Database, batch: Sequence[Append], now: int) -> list[Outcome]:
    """Write a batch: every append checked on its own, all of them in one transaction.

    Raises:
        StoreError, sqlite3.Error: the database cannot be written; nothing of the batch is in it.
    """
    if _file(db.path) != db.file:
        # SQLite would go on writing to a file that nobody can find any more.
        raise StoreError(f"{db.path}: the file was moved or deleted while it was open; put it back, then try again")
    try:
        return _written(db, batch, now)
    except _OF_ONE:
        # One append holds what cannot be stored; the others are not to pay for it.
        return [_alone(db, append, now) for append in batch]


def _alone(db: Database, append: Append, now: int) -> Outcome:
    try:
        with translated(db.path):
            return _written(db, [append], now)[0]
    except _OF_ONE as error:
        return Invalid(f"{append.conversation!r:.100}: an event holds what cannot be stored: {error}")
    except StoreError as error:
        return error


def _written(db: Database, batch: Sequence[Append], now: int) -> list[Outcome]:
    with _transaction(db):
        writing = _Writing(db, now)
        outcomes = [writing.decided(append) for append in batch]
        writing.write()
    return outcomes


class _Writing:
    """One transaction's decisions, gathered so that each table is written in one go."""

    def __init__(self, db: Database, now: int) -> None:
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
            key = self._db.execute(SQL["insert_head"], {"id": name}).lastrowid
            assert key is not None
        self._heads[name] = key, head
        self._changed.add(name)
        self._add(append, key, result)
        return result

    def _read(self, name: str) -> tuple[int | None, Head | None]:
        row = self._db.execute(SQL["head"], {"id": name}).fetchone()
        if row is None:
            return None, None
        self._heads[name] = row[0], _head(name, row[1:], self._clock)
        return self._heads[name]

    def _use(self, append: Append, key: int | None) -> KeyUse | None:
        assert append.key is not None
        known = self._uses.get((append.conversation, append.key.name))
        if known is not None or key is None:
            return known
        row = self._db.execute(SQL["key"], {"conversation": key, "name": append.key.name}).fetchone()
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
            self._marks.extend((key, mark, seq) for mark in dict.fromkeys(event.marks))
        if append.key is not None:
            self._uses[append.conversation, append.key.name] = KeyUse(append.key.digest, first, result.last)
            self._keys.append((key, append.key.name, append.key.digest, first, result.last))
        self._bodies.update(append.bodies)

    def write(self) -> None:
        self._db.executemany(SQL["insert_event"], self._events)
        if self._marks:
            self._db.executemany(SQL["insert_mark"], self._marks)
        if self._keys:
            self._db.executemany(SQL["insert_key"], self._keys)
        if self._bodies:
            rows = [(bytes.fromhex(digest), body) for digest, body in self._bodies.items()]
            self._db.executemany(SQL["insert_body"], rows)
        self._db.executemany(SQL["update_head"], [self._row(name) for name in self._changed])

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


def renew(db: Database, conversation: str, generation: int, seconds: float) -> bool:
    """Let a lease run for *seconds* from now, if it is held and of that generation; return whether it was."""
    values = {"id": conversation, "generation": generation, "expires": time.time() + seconds}
    return db.execute(SQL["renew"], values).rowcount == 1


# -- reading


@contextmanager
def _moment(db: Database) -> Iterator[None]:
    """Let everything that is read be of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def snapshot(db: Database, conversation: str, queries: Sequence[Query]) -> Snapshot | None:
    """Return the head and the events of each query as of one moment."""
    with _moment(db):
        row = db.execute(SQL["head"], {"id": conversation}).fetchone()
        if row is None:
            return None
        found = [list(_found(db, conversation, row[0], query)) for query in queries]
        return Snapshot(_head(conversation, row[1:], time.time()), found)


def _found(db: Database, conversation: str, key: int, query: Query) -> Iterator[Record]:
    stream = "marked_" if query.mark is not None else "linked_" if query.link is not None else ""
    values = {
        "conversation": key,
        "after": query.after,
        "before": _FAR if query.before is None else query.before,
        "limit": -1 if query.limit is None else query.limit,
        "mark": query.mark,
        "link": query.link,
    }
    cursor = db.execute(SQL[stream + ("falling" if query.reverse else "rising")], values)
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
        item=_bytes(item),
        data=_bytes(data),
        sum=total,
    )


def _bytes(value: Any) -> Any:
    """Return what a row has as bytes; text is what somebody has written there by hand."""
    return value if value is None or isinstance(value, bytes) else str(value).encode()


def _head(name: str, row: Sequence[Any], now: float) -> Head:
    version, created, updated, last_item, items, metadata, generation, owner, turn, expires = row
    return Head(
        conversation=name,
        version=version,
        created=created,
        updated=updated,
        last_item=last_item,
        items=items,
        metadata=_bytes(metadata),
        generation=generation,
        lease=None if owner is None else Lease(owner, turn, expires - now),
    )


def heads(db: Database, order: str, limit: int, after: tuple[int, str] | None) -> list[Head]:
    """Return conversations in *order*, behind the place *after*."""
    column, falling = ordering(order)
    # "~" is above all characters that an id may have, and the empty text below.
    time_, name = after or ((_FAR, "~") if falling else (-_FAR - 1, ""))
    rows = db.execute(
        SQL[f"heads_{column}_{'falling' if falling else 'rising'}"], {"time": time_, "id": name, "limit": limit}
    )
    now = time.time()
    return [_head(row[0], row[1:], now) for row in rows]


def key_of(db: Database, conversation: str, name: str) -> KeyUse | None:
    """Return what a key was used for."""
    row = db.execute(SQL["key_of"], {"id": conversation, "name": name}).fetchone()
    return KeyUse(*row) if row else None


def body(db: Database, digest: str) -> bytes | None:
    """Return a body by its digest."""
    try:
        values = {"digest": bytes.fromhex(digest)}
    except ValueError:
        return None  # what is no digest names nothing
    row = db.execute(SQL["body"], values).fetchone()
    return _bytes(row[0]) if row else None


# -- errors

_REMEDIES: Final[Mapping[str, tuple[str, bool]]] = {
    "SQLITE_FULL": ("the disk is full; free some space, then try again", True),
    "SQLITE_READONLY": (
        "the database is read-only; make it, the files beside it (-wal, -shm) and their folder writable for this user",
        False,
    ),
    "SQLITE_CANTOPEN": (
        "the database cannot be opened; check that it is there and that this user may read and write it and its folder",
        False,
    ),
    "SQLITE_PERM": ("access was denied; check the permissions of the file and its folder", False),
    "SQLITE_AUTH": ("access was denied; check the permissions of the file and its folder", False),
    "SQLITE_BUSY": ("another program keeps the database locked; close it, then try again", True),
    "SQLITE_LOCKED": ("the database is locked from inside this process; try again", True),
    "SQLITE_NOTADB": ("this is no SQLite database; give turnlog a file of its own", False),
    "SQLITE_CORRUPT": ("the database file is damaged; restore it from a backup", False),
    "SQLITE_IOERR": ("the disk reported an error; check it, then try again", True),
    "SQLITE_TOOBIG": ("the item is larger than SQLite can hold; store a reference to it", False),
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `StoreError`, with the file and the remedy.

    The primary code is the name up to its second underscore: SQLITE_IOERR_WRITE is an SQLITE_IOERR.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        primary = "_".join(name.split("_")[:2])
        remedy, retryable = _REMEDIES.get(primary, ("SQLite refused", False))
        raise StoreError(f"{path}: {remedy} ({name or type(error).__name__}: {error})", retryable=retryable) from error
