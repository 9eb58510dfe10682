"""What the commands share: their common options, and how they run and print."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import anyio
import msgspec
import typer

from turnlog.engine.engine import Engine, open_engine
from turnlog.engine.errors import NotFound, StoreError

__all__ = ("DEFAULT", "Db", "Id", "Json", "existing", "put", "run")

T = TypeVar("T")

Db = Annotated[Path, typer.Option("--db", envvar="TURNLOG_DB", help="The database file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The conversation's id.")]
DEFAULT: Final = Path("turnlog.db")


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's work."""
    return anyio.run(work)


@asynccontextmanager
async def existing(db: Path) -> AsyncIterator[Engine]:
    """Open a database that must be there already."""
    try:
        there = await anyio.Path(db).exists()
    except OSError as error:
        raise StoreError(f"{db}: cannot be opened: {error.strerror}; name the database with --db") from error
    if not there:
        raise NotFound(f"database {db} (name it with --db)")
    async with open_engine(db, migrate=False) as engine:
        yield engine


def put(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return msgspec.to_builtins(value)
