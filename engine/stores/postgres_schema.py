"""The tables of a PostgreSQL store: whether they are there, whose they are, making them, and the SQL that would."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import tuple_row

from ..errors import StoreError
from .postgres_rows import quoted
from .statements import script

__all__ = ("SCHEMA_VERSION", "Migration", "check_version", "creation", "planned", "prepare")

SCHEMA_VERSION: Final = 1
_OLDEST: Final = 130_000
"""Of the server: PostgreSQL 13 numbers transactions in 64 bits."""
_TABLES: Final = [
    *("schema_version", "conversations", "spans", "fields", "events", "marks", "keys", "bodies", "refs", "readers"),
]


_CREATION: Final = script("postgres_schema.sql")
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED;"
_LOCK: Final = "SELECT pg_advisory_xact_lock({lock});"
_MOVED: Final = "UPDATE {schema}.schema_version SET base = (SELECT max(place) + 1 FROM {schema}.events);"
_SCRIPT: Final = """\
-- {what}
-- Run it with psql -v ON_ERROR_STOP=1 -f; it is done whole or not at all.
{begin}
{lock}

{steps}

COMMIT;
"""


class Migration(NamedTuple):
    """What it takes to bring the tables of a schema forward."""

    place: str
    """What messages call the store."""
    version: int
    """What is there; 0: no tables."""
    sql: str
    """The script for psql, "" when nothing is to be done."""


def check_version(place: str, version: int) -> None:
    """See to it that no other release has changed the tables since they were opened.

    Raises:
        StoreError: it has.
    """
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{place}: its schema was {SCHEMA_VERSION} when it was opened, and is {version} now: "
            f"restart this process with a turnlog that works with schema {version}"
        )


def creation(schema: str) -> str:
    """Return the SQL that makes the tables, for those who make them by hand; the schema has to be there.

    >>> print(creation("turnlog").splitlines()[-1])
    INSERT INTO "turnlog".schema_version (application, version, base) VALUES ('turnlog', 1, 0);
    """
    made = _CREATION.replace("{version}", str(SCHEMA_VERSION))
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
        raise StoreError(f"{place}: {steps.missing}; run `turnlog migrate`, or open it once with migrate=True")
    await steps.make()


async def planned(connection: AsyncConnection[Any], place: str, schema: str) -> Migration:
    """Return what `prepare` would do; nothing is changed.

    Raises:
        StoreError, psycopg.Error: as `prepare`.
    """
    steps = _Steps(connection, place, schema)
    await steps.check_server()
    if await steps.ready():
        return Migration(place, SCHEMA_VERSION, "")
    what = " ".join(steps.what.split())  # a comment ends with its line
    script = _SCRIPT.format(what=what, begin=_BEGIN, lock=steps.lock, steps=await steps.script())
    return Migration(place, steps.version, script)


class _Steps:
    def __init__(self, connection: AsyncConnection[Any], place: str, schema: str) -> None:
        self._connection = connection
        self._place = place
        self._schema = schema
        self.version = 0
        """Of the tables that are there; 0: there are none."""
        self.missing = ""
        """What keeps them from being used as they are."""
        self.what = ""
        """What mends that."""
        digest = hashlib.sha256(f"turnlog {schema}".encode()).digest()
        self.lock = _LOCK.format(lock=int.from_bytes(digest[:8], "big", signed=True))
        """Takes the lock that guards this schema's making."""

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
            self.missing = "there is no log in it yet"
            self.what = f"Makes the tables of turnlog, schema {SCHEMA_VERSION}, in {self._place}."
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
        self.version = version
        if moved:
            self.missing = "the tables were moved here from another server, and the feed's places have to go on behind"
            self.what = f"Lets new events of {self._place} come behind those that were moved here from another server."
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
        await self._rows(_BEGIN)
        try:
            await self._rows(self.lock)
            if not await self.ready():
                cursor = AsyncCursor(self._connection)
                await cursor.execute((await self.script()).encode())
            await self._rows("COMMIT")
        except BaseException:
            await self._rows("ROLLBACK")
            raise

    async def script(self) -> str:
        """Return the SQL that does what has to be done."""
        name = quoted(self._schema)
        if self.version:
            return _MOVED.replace("{schema}", name)
        ((there,),) = await self._rows("SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", self._schema)
        return creation(self._schema) if there else f"CREATE SCHEMA {name};\n\n{creation(self._schema)}"
