"""The database that a command works on: a file, or PostgreSQL. What is said of it never shows a password."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from turnlog.engine.engine import Engine
from turnlog.engine.errors import Invalid, NotFound, StoreError
from turnlog.engine.opening import open_engine

__all__ = ("Database", "existing", "named", "shown", "when_needed")

_POSTGRES: Final = ("postgresql", "postgres")
_MEMORY: Final = (":memory:", "sqlite://", "sqlite:///:memory:")
_FILE: Final = re.compile(r"(file|sqlite)(\+\w+)?:")
"""What begins like an url of a file, and would be taken for its name."""
_ALMOST: Final = re.compile(r"^postgres(ql)?(\+\w+)?(:|//)|(^|\s)(host|dbname|user|password)\s*=")
"""What was meant for PostgreSQL, and may hold a password."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where a log is: in a file, or in a schema of a PostgreSQL database."""

    place: Path | str
    """The file; or the url."""
    schema: str | None = None

    def file(self, what: str) -> Path:
        """Return the file.

        Raises:
            Invalid: it is none; *what* says what needs one.
        """
        if isinstance(self.place, str):
            raise Invalid(f"{what}: --db names a PostgreSQL database; a file is needed here")
        return self.place

    def is_there(self) -> bool:
        """Return whether there is such a file; of what a server has, that server is asked later.

        Raises:
            StoreError: it cannot be looked for.
        """
        if isinstance(self.place, str):
            return False
        try:
            return self.place.exists()
        except OSError as error:
            told = f"{self.place}: cannot be opened: {error.strerror}; name the database with --db"
            raise StoreError(told) from error

    def check(self) -> None:
        """See to it that the file is there, if it is one.

        Raises:
            NotFound, StoreError: it is not, or cannot be looked for.
        """
        if isinstance(self.place, Path) and not self.is_there():
            raise NotFound(f"database {self.place} (name it with --db)")

    def check_apart(self, output: Path) -> None:
        """See to it that a file that is to be written is none of the database's own.

        Raises:
            Invalid: it is; it would take the log's place.
        """
        if isinstance(self.place, Path):
            own = [self.place.with_name(self.place.name + end).resolve() for end in ("", "-wal", "-shm")]
            if output.resolve() in own:
                raise Invalid(f"{output}: this is the database's own file; name another to write to")

    def opened(self, *, migrate: bool = True) -> AbstractAsyncContextManager[Engine]:
        """Open it for as long as an `async with` lasts; see `open_engine`."""
        return open_engine(self.place, migrate=migrate, schema=self.schema)


def named(db: str, schema: str | None = None) -> Database:
    """Return the database that `--db` and `--schema` name.

    Raises:
        Invalid: they name none.
    """
    scheme, found, rest = db.partition("://")
    if found and scheme.partition("+")[0] in _POSTGRES:
        return Database(db, schema)
    if schema is not None:
        raise Invalid("--schema (or TURNLOG_SCHEMA) is for PostgreSQL: name a postgresql:// url with --db")
    if db in _MEMORY:
        raise Invalid(f"--db {db!r}: a log in memory is gone when the command ends; name a file")
    if found and scheme != "sqlite":
        raise Invalid(f"--db {scheme}://…: there is no store for {scheme}; name a file, or a postgresql:// url")
    if found and (not rest[1:] or not rest.startswith("/") or "?" in rest):
        raise Invalid(f"--db {db!r}: sqlite:///path is needed, with three slashes and without parameters")
    if not found:
        _check_path(db)
    if not db:
        raise Invalid("--db (or TURNLOG_DB): a file is needed, or a postgresql:// url")
    return Database(Path(rest[1:] if found else db))


def _check_path(db: str) -> None:
    """See to it that the name of a file was not meant to be an url.

    Raises:
        Invalid: it was, by its looks.
    """
    if almost := _FILE.match(db):
        raise Invalid(
            f"--db {db!r}: this is no url that is known here; name the file by its path alone, or a postgresql:// url "
            f"(a file that is called so: ./{almost[0]}…)"
        )
    if _ALMOST.search(db):
        raise Invalid("--db: for PostgreSQL an url is needed, postgresql://user@host/database")


def shown(database: Database) -> str:
    """Return what a database is called: its file; of a server's nothing, for its url may hold a password."""
    return str(database.place) if isinstance(database.place, Path) else "the database"


@asynccontextmanager
async def existing(database: Database) -> AsyncIterator[Engine]:
    """Open a database that must be there already; nothing is made or changed by that."""
    await anyio.to_thread.run_sync(database.check)
    async with database.opened(migrate=False) as engine:
        yield engine


@asynccontextmanager
async def when_needed(database: Database) -> AsyncIterator[Callable[[], Awaitable[Engine]]]:
    """Yield what opens a database when it is first called: a file that is not there is not made for nothing.

    Raises:
        Invalid: it cannot be one.
        StoreError: a file that is there cannot be used.
    """
    manager = database.opened()
    async with AsyncExitStack() as stack:
        opened: list[Engine] = []

        async def engine() -> Engine:
            try:
                if not opened:
                    opened.append(await stack.enter_async_context(manager))
            except Invalid as error:
                raise StoreError(str(error)) from error  # it is not the fault of what is being written
            return opened[0]

        if await anyio.to_thread.run_sync(database.is_there):
            await engine()
        yield engine
