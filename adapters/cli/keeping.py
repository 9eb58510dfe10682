"""The commands that keep a log safe: `backup`, `migrate`."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, Schema, put, run
from turnlog.adapters.cli.databases import Database, named
from turnlog.engine.errors import Invalid
from turnlog.engine.stores import sqlite

__all__ = ("backup", "migrate")

_BAIL: Final = ".bail on\n"
"""Lets SQLite's program stop at the first error, which leaves the database as it was; it would go on otherwise."""
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
"""Names that mean themselves where PostgreSQL's programs expect a pattern."""


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make; none of that name may be there.")],
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Copy a database as it is at one moment, while it is in use; for PostgreSQL, pg_dump does that."""
    database = named(db, schema)
    if isinstance(database.place, str):
        raise Invalid(f"backup copies files; of a PostgreSQL database pg_dump makes a copy: {_pg_dump(schema, file)}")
    database.check()
    source = database.place
    version = run(lambda: sqlite.copied(source, file))
    made: dict[str, Any] = {"file": str(file), "schema": version, "bytes": file.stat().st_size}
    if as_json:
        put(made)
    else:
        show.console.print(f"{file}: {made['bytes']:,} bytes, schema {version}", markup=False, soft_wrap=True)


def _pg_dump(schema: str | None, file: Path) -> str:
    name = schema or "public"
    pattern = name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'
    return f"pg_dump --schema={shlex.quote(pattern)} --file={shlex.quote(str(file))} URL"


class _Found(NamedTuple):
    """What a database would need."""

    place: str
    version: int
    latest: int
    sql: str


def migrate(
    db: Db = DEFAULT,
    schema: Schema = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print what would be done, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a database of an older turnlog forward; take a backup first. Where there is none yet, make it."""
    database = named(db, schema)
    found = run(lambda: _found(database))
    done: dict[str, Any] = {"from": found.version, "to": found.latest}
    if sql:
        done["sql"] = found.sql
    elif found.sql:
        run(lambda: _migrated(database))
    if as_json:
        put(done)
    elif sql:
        script = f"{_BAIL if isinstance(database.place, Path) else ''}{found.sql}"
        sys.stdout.write(
            script if found.sql else f"-- There is nothing to do: it has schema {found.version} already.\n"
        )
    else:
        show.console.print(_told(found), markup=False, soft_wrap=True)


def _told(found: _Found) -> str:
    """Say what has been done."""
    if not found.sql:
        return f"{found.place} has schema {found.version} already"
    if found.version == found.latest:
        return f"{found.place}: new events come behind those that were moved here"
    if found.version == 0:
        return f"{found.place} had no log and has one of schema {found.latest} now"
    return f"{found.place} had schema {found.version} and has {found.latest} now"


async def _found(database: Database) -> _Found:
    if isinstance(database.place, Path):
        version = sqlite.stored_version(database.place) if database.is_there() else 0
        return _Found(str(database.place), version, sqlite.SCHEMA_VERSION, sqlite.migration_sql(version))
    database.opened()  # which is refused, with the remedy, where the driver is not installed
    from turnlog.engine.stores import postgres  # noqa: PLC0415 - its driver comes with an extra

    plan = await postgres.migration(database.place, schema=database.schema or "public")
    return _Found(plan.place, plan.version, postgres.SCHEMA_VERSION, plan.sql)


async def _migrated(database: Database) -> None:
    async with database.opened():
        pass
