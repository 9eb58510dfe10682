"""Opening the database that a command works on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from turnlog.engine.engine import Engine, open_engine
from turnlog.engine.errors import NotFound, StoreError

__all__ = ("existing",)


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
