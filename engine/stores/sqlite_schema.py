"""The schema of a SQLite log: telling which one there is, making it, and bringing an older one forward."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

from ..errors import Invalid, StoreError
from .sqlite_connection import SCHEMA_VERSION, Database, connect, moment, transaction
from .sqlite_errors import translated
from .statements import script

__all__ = ("migrate", "migration_sql", "schema_version", "stored_version")

APPLICATION_ID: Final = 0x7475726E  # "turn", so that `file` and other programs can tell whose database it is

_HEADER: Final = """\
-- {what}. Nothing else may have it open for writing meanwhile.
-- Run it with sqlite3 -bail, or whatever else stops at the first error: it is done whole or not at all then.
PRAGMA page_size = 8192;
PRAGMA journal_mode = WAL;
PRAGMA secure_delete = ON;
BEGIN IMMEDIATE;
"""


def schema_version(db: Database) -> int:
    """Return the schema version, 0 for an empty database.

    Raises:
        StoreError: the database belongs to another program or to a newer turnlog.
    """
    with moment(db, checked=False):  # another process may be making it just now
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


def stored_version(path: Path, patience: float = 30.0) -> int:
    """Return the schema version of a file, 0 when there is no log in it; nothing is written.

    Raises:
        StoreError: it belongs to another program or to a newer turnlog, or cannot be opened.
    """
    with translated(path), closing(connect(path.absolute(), patience)) as db:
        return schema_version(db)


def migrate(db: Database) -> int:
    """Make the tables, or bring those of an older schema forward, in one transaction; return the version before.

    Whoever finds that another process was first, changes nothing.

    Raises:
        StoreError: the database belongs to another program or to a newer turnlog.
    """
    with transaction(db, checked=False):
        version = _found(db)
        for statement in _script(version).split(";\n"):
            if statement.strip():
                db.execute(statement)
    return version


def _found(db: Database) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{db.path}: a newer turnlog has just migrated it to schema {version}, this one knows {SCHEMA_VERSION}; "
            "upgrade turnlog"
        )
    return version


def migration_sql(version: int) -> str:
    """Return the script that brings a database of a schema version forward, "" when it is the newest; 0: an empty one.

    Raises:
        Invalid: there is no such version.
    """
    if not 0 <= version <= SCHEMA_VERSION:
        raise Invalid(f"schema {version!r}: this turnlog knows 0 (an empty database) to {SCHEMA_VERSION}")
    made = _script(version)
    brings = f"Brings a turnlog database from schema {version} to {SCHEMA_VERSION}"
    what = brings if version else f"Makes an empty database one of turnlog, of schema {SCHEMA_VERSION}"
    return f"{_HEADER.format(what=what)}\n{made}COMMIT;\n" if made else ""


def _script(version: int) -> str:
    if version == SCHEMA_VERSION:
        return ""
    if version == 0:
        parts = [script("sqlite_schema.sql"), f"\nPRAGMA application_id = {APPLICATION_ID};\n"]
    else:
        parts = [script(f"sqlite_migrate_{step}.sql") for step in range(version, SCHEMA_VERSION)]
    return "\n".join([*parts, f"PRAGMA user_version = {SCHEMA_VERSION};\n"])
