"""Session databases of the OpenAI Agents SDK: its SQLite sessions as conversations, and conversations as its sessions.

A session is rows of `message_data`, each one item of the Responses API as JSON, in the order of their ids; sessions
with branches name the rows of each branch, and their order, in `message_structure`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from turnlog.adapters.agents_sdk import named
from turnlog.adapters.cli.recordings import Made, items_of
from turnlog.engine.canonical import parse
from turnlog.engine.codec import event
from turnlog.engine.errors import Invalid, InvalidItem
from turnlog.engine.events import ConversationCreated
from turnlog.engine.ids import micros
from turnlog.engine.intake import Intake, shifted

__all__ = ("Session", "begins", "check_sessions", "database", "session_events", "sessions")

_SQLITE: Final = b"SQLite format 3\x00"
_MAIN: Final = "main"
_COLUMNS: Final = frozenset({"id", "session_id", "message_data"})
_SCHEMA: Final = """
CREATE TABLE agent_sessions (
    session_id TEXT PRIMARY KEY,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE agent_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    message_data TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_messages_session_id ON agent_messages (session_id, id);
"""


class Session(NamedTuple):
    """One session, or one branch of one."""

    name: str
    branch: str
    items: list[Any]
    times: list[int | None]
    """When each came, in microseconds since 1970, UTC."""


def sessions(path: Path, name: str) -> Iterator[tuple[int, Session | None, InvalidItem | None]] | None:
    """Return the sessions of a database with their numbers, or what is wrong with one; None: it is no such database.

    *name* is what the file is called in errors.

    Raises:
        Invalid: it is a SQLite database of something else.
    """
    return _sessions(path, name) if begins(path, _SQLITE) else None


def begins(path: Path, with_: bytes) -> bool:
    """Return whether a file begins with some bytes; of what can be read once only that is not asked."""
    if path.is_fifo():
        return False
    with path.open("rb") as file:
        return path.is_file() and file.read(len(with_)) == with_


def check_sessions(path: Path, name: str) -> None:
    """See to it that a file, if it is a SQLite database, holds sessions.

    Raises:
        Invalid: it does not, or cannot be read as one.
        OSError: it cannot be read at all.
    """
    if begins(path, _SQLITE):
        with _opened(path, name) as db:
            _table(db, name)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            yield db
    except sqlite3.Error as error:
        raise Invalid(f"{name}: cannot be read: {error}") from error


def _sessions(path: Path, name: str) -> Iterator[tuple[int, Session | None, InvalidItem | None]]:
    with _opened(path, name) as db:
        table, dated = _table(db, name)
        branched = bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'message_structure'").fetchone())
        for number, (session, branch) in enumerate(_names(db, table, branched=branched), 1):
            try:
                yield number, _session(db, table, session, branch, dated=dated, branched=branched), None
            except InvalidItem as error:
                yield number, None, error


def _table(db: sqlite3.Connection, name: str) -> tuple[str, bool]:
    """Return the table of the items, and whether it says when they came."""
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
        columns = {row[1] for row in db.execute(f"PRAGMA table_info({_quoted(table)})")}
        if columns >= _COLUMNS:
            return _quoted(table), "created_at" in columns
    raise Invalid(
        f"{name}: this SQLite database holds no sessions of the Agents SDK; if it is turnlog's, write its "
        f"conversations to a file with turnlog export -o FILE --db {name}, and import that"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _names(db: sqlite3.Connection, table: str, *, branched: bool) -> list[tuple[str, str]]:
    if branched:
        query = "SELECT session_id, branch_id FROM message_structure GROUP BY 1, 2 ORDER BY min(id)"
        return [(str(name), str(branch)) for name, branch in db.execute(query)]
    query = f"SELECT session_id FROM {table} GROUP BY 1 ORDER BY min(id)"  # noqa: S608 - the name is quoted
    return [(str(name), _MAIN) for (name,) in db.execute(query)]


def _session(db: sqlite3.Connection, table: str, name: str, branch: str, *, dated: bool, branched: bool) -> Session:
    when = "m.created_at" if dated else "NULL"
    source, order, values = f"{table} m WHERE m.session_id = ?", "m.id", [name]
    if branched:
        joined = "message_structure s ON m.id = s.message_id WHERE m.session_id = ? AND s.branch_id = ?"
        source, order, values = f"{table} m JOIN {joined}", "s.sequence_number", [name, branch]
    rows = db.execute(f"SELECT m.id, m.message_data, {when} FROM {source} ORDER BY {order}", values)  # noqa: S608
    items: list[Any] = []
    times: list[int | None] = []
    for row, data, created in rows:
        items.append(_item(data, f"session {name!r}, row {row}"))
        times.append(_time(created))
    return Session(name, branch, items, times)


def _item(data: Any, place: str) -> Any:
    item = parse(data, place)
    if isinstance(item, Mapping) and "__enc__" in item:
        raise InvalidItem(
            place, "the session is encrypted; read it with the key that it was written with, and import that"
        )
    return item


def _time(created: Any) -> int | None:
    try:
        when = datetime.fromisoformat(str(created))
    except ValueError:
        return None
    return micros(when if when.tzinfo else when.replace(tzinfo=UTC))


async def session_events(intake: Intake, session: Session) -> Made:
    """Return a session's conversation. It has the session's id, where that can be one.

    Raises:
        InvalidItem: an item of it is none.
    """
    path = f"session {session.name!r}"
    items = await items_of(intake, session.items, chat=False, origin=None, path=path)
    if not items:
        raise InvalidItem(path, "there are no items in it")
    timed = [msgspec.structs.replace(one, time=when) for one, when in zip(items, session.times, strict=True)]
    about = {"session": session.name, **({} if session.branch == _MAIN else {"branch": session.branch})}
    created = msgspec.structs.replace(event(ConversationCreated(metadata=about)), time=session.times[0])
    return Made(_name(session), [created, *shifted(timed, 1)], {})


def _name(session: Session) -> str:
    name = session.name if session.branch == _MAIN else f"{session.name}.{session.branch}"
    return named(name)


def database(conversations: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> bytes:
    """Return a session database with conversations as its sessions."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        for name, items in conversations:
            db.execute("INSERT INTO agent_sessions (session_id) VALUES (?)", (name,))
            rows = [(name, json.dumps(item)) for item in items]
            db.executemany("INSERT INTO agent_messages (session_id, message_data) VALUES (?, ?)", rows)
        db.commit()
        return db.serialize()
