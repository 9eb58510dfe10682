"""The commands that keep a log safe: `backup`, `migrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, put, run
from turnlog.engine.errors import NotFound
from turnlog.engine.stores.sqlite import SCHEMA_VERSION, SqliteStore, copied, migration_sql, stored_version

__all__ = ("backup", "migrate")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make; none of that name may be there.")],
    db: Db = DEFAULT,
    as_json: Json = False,
) -> None:
    """Copy a database as it is at one moment, while it is in use."""
    _check(db)
    version = run(lambda: copied(db, file))
    made: dict[str, Any] = {"file": str(file), "schema": version, "bytes": file.stat().st_size}
    if as_json:
        put(made)
    else:
        show.console.print(f"{file}: {made['bytes']:,} bytes, schema {version}", markup=False, soft_wrap=True)


def migrate(
    db: Db = DEFAULT,
    sql: Annotated[bool, typer.Option("--sql", help="Print what would be done, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a database of an older turnlog forward; take a backup first."""
    _check(db)
    version = stored_version(db)
    done: dict[str, Any] = {"from": version, "to": SCHEMA_VERSION}
    if sql:
        done["sql"] = migration_sql(version)
    else:
        run(lambda: _migrated(db))
    if as_json:
        put(done)
    elif sql:
        sys.stdout.write(done["sql"])
    elif version == SCHEMA_VERSION:
        show.console.print(f"{db} has schema {version} already", markup=False, soft_wrap=True)
    else:
        show.console.print(f"{db} had schema {version} and has {SCHEMA_VERSION} now", markup=False, soft_wrap=True)


def _check(db: Path) -> None:
    if not db.exists():
        raise NotFound(f"database {db} (name it with --db)")


async def _migrated(db: Path) -> None:
    await (await SqliteStore.open(db)).close()
