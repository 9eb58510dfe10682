"""Connections to a SQLite file, and their transactions. Blocking: a connection's thread calls it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..errors import StoreError
from .statements import statements

__all__ = (
    "SCHEMA_VERSION",
    "SQL",
    "Database",
    "File",
    "Span",
    "check_schema",
    "connect",
    "file_of",
    "in_place",
    "make_file",
    "moment",
    "prepare_writer",
    "transaction",
)

SCHEMA_VERSION: Final = 2
SQL: Final = statements("sqlite_queries.sql")
_NONE: Final = (0, 0)
"""No file."""

File: TypeAlias = tuple[int, int]
"""What tells a file from every other, whatever has its name."""
Span: TypeAlias = tuple[int, int, int]
"""Where some of a conversation's events are: whose own they are, by key, from which seq, and up to which."""


class Database(sqlite3.Connection):
    """A connection that knows its file."""

    path: Path
    file: File
    """Which file it has open."""
    patience: float
    failed: bool
    """Whether it met an error while it wrote a batch; what was queued behind it goes to another connection."""
    lineages: dict[tuple[int, int, int, int], tuple[Span, ...]]
    """What forks share, newest first. It never changes while the fork is the same, see `Known.fork`."""
    heads: dict[str, Any]
    """Conversations as the last transaction left them, by id, if it was one of appends; see `seen`."""
    seen: int
    """What SQLite calls the data version: another one says that another connection has written since."""

    @property
    def log(self) -> Path:
        """The file of its write-ahead log."""
        return self.path.with_name(f"{self.path.name}-wal")


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


def connect(path: Path, patience: float, file: File | None = None) -> Database:
    """Open a connection to a file that is there; it waits for others' locks for *patience* seconds.

    Raises:
        StoreError: it is not the *file* that it has to be.
    """
    # Looked at first: of one that takes its place meanwhile this connection then says what it is not, and is closed.
    there = file_of(path)
    if file is not None and there != _NONE:
        in_place(path, file)
    # Not to be made: a file that was deleted meanwhile must not come back empty.
    url = path.as_uri() + "?mode=rw"
    db = sqlite3.connect(url, uri=True, timeout=patience, isolation_level=None, cached_statements=256, factory=Database)
    db.execute("PRAGMA temp_store = MEMORY")
    db.path, db.file, db.patience = path, there, patience
    db.failed = False
    db.lineages, db.heads, db.seen = {}, {}, -1
    return db


def file_of(path: Path) -> File:
    """Return which file is at *path*."""
    try:
        there = path.stat()
    except OSError:
        return _NONE
    return there.st_dev, there.st_ino


def in_place(path: Path, file: File) -> None:
    """See to it that a file still has its name: SQLite would go on writing to one that nobody can find any more.

    Raises:
        StoreError: it was moved or deleted, or another has its name.
    """
    there = file_of(path)
    if there == file:
        return
    if there == _NONE:
        raise StoreError(f"{path}: the file was moved or deleted while it was open; put it back, then try again")
    raise StoreError(
        f"{path}: the file was replaced by another while it was open; put it back, then try again, or restart whatever "
        "has it open, to go on with the other"
    )


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
    # What is overwritten or removed is gone from its page at once.
    db.execute("PRAGMA secure_delete = ON")


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


@contextmanager
def transaction(db: Database, *, checked: bool = True) -> Iterator[None]:
    """Write in one transaction: all of it, or nothing.

    Raises:
        StoreError: the file has no longer its name, or the schema is no longer what this process works with, unless
            that is not to be *checked*.
    """
    in_place(db.path, db.file)
    db.execute("BEGIN IMMEDIATE")
    db.heads = {}
    try:
        if checked:
            check_schema(db)
        yield
        db.commit()
    except BaseException:
        # The keys that were given in it will be given to others.
        db.lineages.clear()
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def moment(db: Database, *, checked: bool = True) -> Iterator[None]:
    """Let everything that is read be of one moment.

    Raises:
        StoreError: the schema is no longer what this process works with, unless that is not to be *checked*.
    """
    db.execute("BEGIN")
    try:
        if checked:
            check_schema(db)
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def check_schema(db: Database) -> None:
    """See to it that no other release has migrated the database, or put an older one in its place, meanwhile."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{db.path}: its schema was {SCHEMA_VERSION} when it was opened, and is {version} now: "
            f"restart this process with a turnlog that works with schema {version}"
        )
