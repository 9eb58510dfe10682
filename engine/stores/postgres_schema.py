"""The tables of a PostgreSQL store: whether they are there, whose they are, and making them."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import tuple_row

from ..errors import StoreError
from .postgres_rows import quoted
from .statements import script

__all__ = ("SCHEMA_VERSION", "creation", "prepare")

SCHEMA_VERSION: Final = 1
_OLDEST: Final = 130_000
"""Of the server: PostgreSQL 13 numbers transactions in 64 bits."""
_TABLES: Final = [
    *("schema_version", "conversations", "spans", "fields", "events", "marks", "keys", "bodies", "refs", "readers"),
]


def creation(schema: str) -> str:
    """Return the SQL that makes the tables, for those who make them by hand; the schema has to be there.

    >>> print(creation("turnlog").splitlines()[-1])
    INSERT INTO "turnlog".schema_version (application, version, base) VALUES ('turnlog', 1, 0);
    """
    made = script("postgres_schema.sql").replace("{version}", str(SCHEMA_VERSION))
    return made.replace("{schema}", quoted(schema)).strip()


async def prepare(connection: AsyncConnection[Any], place: str, schema: str, *, migrate: bool) -> None:
    """See to it that the tables are there, making them if that is allowed; guarded against others who do the same.

    Raises:
        StoreError: the server is too old or does not speak UTF-8, the tables are another program's or a newer
            turnlog's, or they would have to be made or changed, which *migrate* forbids.
        psycopg.Error: what the server says.
    """
    steps = _Steps(connection, place, schema)
    await steps.check_server()
    if await steps.ready():
        return
    if not migrate:
        raise StoreError(f"{place}: {steps.missing}, and migrate=False forbids it; open it once with migrate=True")
    await steps.make()


class _Steps:
    def __init__(self, connection: AsyncConnection[Any], place: str, schema: str) -> None:
        self._connection = connection
        self._place = place
        self._schema = schema
        self.missing = ""
        """What would have to be done."""

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = AsyncCursor(self._connection, row_factory=tuple_row)
        name = quoted(self._schema).replace("%", "%%" if values else "%")
        await cursor.execute(statement.replace("{schema}", name).encode(), values or None)
        return await cursor.fetchall() if cursor.description else []

    async def check_server(self) -> None:
        version = self._connection.info.server_version
        if version < _OLDEST:
            raise StoreError(f"{self._place}: PostgreSQL {version // 10_000} is too old; 13 or newer is needed")
        ((encoding,),) = await self._rows("SHOW server_encoding")
        if encoding != "UTF8":
            raise StoreError(f"{self._place}: the database's encoding is {encoding}; create one with ENCODING 'UTF8'")

    async def ready(self) -> bool:
        """Return whether the tables are there and can be used as they are.

        Raises:
            StoreError: they are another program's or a newer turnlog's.
        """
        found = await self._rows(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s)) AND relname = ANY(%s)",
            self._schema,
            _TABLES,
        )
        names = {name for (name,) in found}
        if not names:
            self.missing = "the tables would have to be made"
            return False
        version = await self._version() if "schema_version" in names else None
        if version is None:
            raise StoreError(
                f"{self._place}: there are tables of another program ({', '.join(sorted(names))}); "
                'pass schema="turnlog", or any other that is free'
            )
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._place}: schema {version} was made by a newer turnlog, this one knows {SCHEMA_VERSION}; "
                "upgrade turnlog"
            )
        ((moved,),) = await self._rows(
            "SELECT base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            " <= (SELECT coalesce(max(place), 0) FROM {schema}.events) FROM {schema}.schema_version"
        )
        if moved:
            self.missing = "the tables were moved here from another server, and the feed's places have to go on behind"
        return not moved

    async def _version(self) -> int | None:
        """Return the version of our tables, None when they are not ours."""
        try:
            found = await self._rows("SELECT version FROM {schema}.schema_version WHERE application = 'turnlog'")
        except psycopg.errors.UndefinedColumn:
            return None
        return found[0][0] if found else None

    async def make(self) -> None:
        """Make the tables, or put the feed behind what it had, unless somebody else was first."""
        await self._rows("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await self._rows("SELECT pg_advisory_xact_lock(%s)", self._lock())
            if not await self.ready():
                await self._change()
            await self._rows("COMMIT")
        except BaseException:
            await self._rows("ROLLBACK")
            raise

    async def _change(self) -> None:
        if "moved" in self.missing:
            await self._rows("UPDATE {schema}.schema_version SET base = (SELECT max(place) + 1 FROM {schema}.events)")
            return
        ((there,),) = await self._rows("SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", self._schema)
        if not there:
            await self._rows("CREATE SCHEMA {schema}")
        cursor = AsyncCursor(self._connection)
        await cursor.execute(creation(self._schema).encode())

    def _lock(self) -> int:
        """Return the number of the lock that guards this schema's making."""
        digest = hashlib.sha256(f"turnlog {self._schema}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)
