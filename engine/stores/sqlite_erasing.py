"""What the SQLite store erases: blocking functions of the writer's connection.

What is overwritten or removed is gone from the database file with the transaction that says so, but for copies that
SQLite makes when it merges pages, which `sqlite_sweeping` overwrites, and for the write-ahead log, which `truncated`
empties.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

from msgspec.structs import replace

from ..errors import Conflict, ConversationBusy, NotFound, StoreError
from ..events import NewEvent
from ..log import Append, Erased
from .sqlite_connection import SQL, Database, in_place
from .sqlite_errors import refused
from .sqlite_reading import Known, lineage, owner_of, sharers
from .sqlite_sweeping import Sweep, locked
from .sqlite_writing import Writing

__all__ = ("alone", "collect", "delete", "erase", "truncated")

T = TypeVar("T")

_UNSWEPT: Final = (
    "{path}: unused parts of it may hold copies, for it could not be swept ({error}); erase again, or VACUUM it"
)


def alone(db: Database, work: Callable[[Database], T]) -> tuple[T, str]:
    """Erase while no other process does; return what that comes to, and why the log was not emptied, "" if it was.

    Raises:
        StoreError: the file was moved, or another process erases for too long; nothing was changed.
    """
    in_place(db.path, db.file)
    with locked(db):
        return work(db), truncated(db, 0.1)


def erase(db: Database, appends: Sequence[Append], now: int) -> Erased:
    """Overwrite events and append what says so, all in one transaction.

    Raises:
        NotFound, VersionConflict, StoreError: nothing was changed.
    """
    with Sweep(db) as sweep:
        names = ", ".join(append.conversation for append in appends)
        with refused(db.path, names), sweep.transaction():
            versions, bodies = _erased(db, appends, now, sweep)
        return Erased(versions=versions, bodies=bodies, left=_swept(db, sweep))


def _erased(db: Database, appends: Sequence[Append], now: int, sweep: Sweep) -> tuple[dict[str, int], int]:
    writing = Writing(db, now)
    freed: set[bytes] = set()
    versions: dict[str, int] = {}
    for append in appends:
        of = writing.known(append.conversation)
        outcome = writing.decided(append)
        if isinstance(outcome, Exception):
            raise outcome
        if of is not None:
            freed.update(_overwritten(db, of, append))
        versions[append.conversation] = outcome.version
    writing.write()
    return versions, _drop(db, freed, sweep)


def _overwritten(db: Database, of: Known, append: Append) -> Iterator[bytes]:
    """Overwrite what an append erases of a conversation; yield the bodies that it referred to."""
    for erasure in append.erasures:
        seq, owner = erasure.seq, owner_of(db, of, erasure.seq)
        values = (erasure.item, erasure.data, erasure.flags, erasure.sum, owner, seq)
        if owner is None or db.execute(SQL["overwrite_event"], values).rowcount != 1:
            raise NotFound(f"event {append.conversation}/{seq}")
        yield from _released(db, {"key": owner, "after": seq - 1, "before": seq + 1})


def _released(db: Database, span: dict[str, int]) -> list[bytes]:
    """Remove the references of some events; return to which bodies they were."""
    digests = [row[0] for row in db.execute(SQL["referred"], span)]
    db.execute(SQL["delete_refs"], span)
    return digests


def _drop(db: Database, digests: Iterable[bytes], sweep: Sweep) -> int:
    """Remove those of some bodies that nothing refers to; return how many."""
    gone = 0
    for digest in digests:
        # Emptied first: a page that is merged with another then has nothing of it to leave behind.
        if db.execute(SQL["blank_body"], {"digest": digest}).rowcount == 1:
            gone += db.execute(SQL["delete_body"], {"digest": digest}).rowcount
    if gone:
        sweep.note()
    return gone


def delete(
    db: Database, conversation: str, tombstone: NewEvent, now: int, *, forks: Literal["refuse", "keep"]
) -> Erased:
    """Remove a conversation's events but for the tombstone, and what only it refers to.

    Raises:
        NotFound: there is no such conversation, or it was deleted before.
        ConversationBusy: a turn is running.
        Conflict: it has forks, and they are to "refuse".
    """
    with Sweep(db) as sweep:
        with refused(db.path, conversation), sweep.transaction():
            version, bodies = _deleted(db, conversation, tombstone, now, forks, sweep)
        return Erased(versions={conversation: version}, bodies=bodies, left=_swept(db, sweep))


def _deleted(
    db: Database, conversation: str, tombstone: NewEvent, now: int, forks: Literal["refuse", "keep"], sweep: Sweep
) -> tuple[int, int]:
    writing = Writing(db, now)
    of = writing.known(conversation)
    if of is None or of.head.deleted:
        raise NotFound(f"conversation {conversation}", deleted=of is not None)
    _check(db, of, forks)
    writing.replace(of, replace(of.head, lease=None))
    outcome = writing.decided(Append(conversation=conversation, events=[tombstone]))
    if isinstance(outcome, Exception):
        raise outcome
    writing.write()
    db.execute(SQL["delete_keys"], {"key": of.key})
    sweep.note()
    return outcome.version, _drop(db, _pruned(db, writing, conversation), sweep)


def _check(db: Database, of: Known, forks: Literal["refuse", "keep"]) -> None:
    lease, name = of.head.lease, of.head.conversation
    if lease is not None and lease.remaining > 0:
        raise ConversationBusy(name, lease.turn, lease.remaining)
    if forks == "refuse" and (found := sharers(db, of.key)):
        named = ", ".join(each for each, *_ in found)
        raise Conflict(f'{name}: its events are shared by {named}; pass forks="keep" or "delete"')


def _pruned(db: Database, writing: Writing, name: str) -> set[bytes]:
    """Remove what nobody shares of the events of a deleted conversation and of its deleted ancestors."""
    of = writing.known(name)
    assert of is not None
    freed: set[bytes] = set()
    for owner, _, _ in lineage(db, of):
        deleted, version = db.execute(SQL["tombstone"], {"key": owner}).fetchone()
        if not deleted:
            continue
        last = max((last for _, last, _ in sharers(db, owner)), default=0)
        # Under seq 0 are the bodies of the conversation, which go when all else goes.
        span = {"key": owner, "after": last or -1, "before": version}
        freed.update(_released(db, span))
        # Emptied first: a page that is merged with another then has nothing of them to leave behind.
        for statement in ("blank_events", "delete_events", "delete_marks", "delete_counts"):
            db.execute(SQL[statement], span)
    return freed


def collect(db: Database, seconds: float) -> int:
    """Remove bodies that nothing has referred to for so long; return how many."""
    with Sweep(db) as sweep:
        with sweep.transaction():
            before = {"time": int((time.time() - seconds) * 1_000_000)}
            rows = db.execute(SQL["unused_bodies"], before).fetchall()
            db.execute(SQL["forget_unused"], before)
            gone = _drop(db, [row[0] for row in rows], sweep)
        _swept(db, sweep)
    return gone


def _swept(db: Database, sweep: Sweep) -> Sequence[str]:
    """Overwrite copies in unused parts of pages; return what could not be reached. What was erased stays erased."""
    try:
        sweep.sweep()
    except (OSError, sqlite3.Error, StoreError) as error:
        return (_UNSWEPT.format(path=db.path, error=error),)
    return ()


def truncated(db: Database, seconds: float) -> str:
    """Bring the write-ahead log into the database and empty it; return why not, "" when that was done within *seconds*.

    Whoever reads or writes is waited for; whoever reads for longer keeps the log from being emptied.
    """
    db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
    try:
        busy: int = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy == 0:
            _flush(db.log)
    except (sqlite3.Error, OSError) as error:
        return f"it could not be written to ({error}); once it can"
    finally:
        db.execute(f"PRAGMA busy_timeout = {int(db.patience * 1000)}")
    return "a program or a backup is reading what it holds; when that has ended" if busy else ""


def _flush(path: Path) -> None:
    """Flush a file: SQLite leaves the truncation of its log to the system, and a loss of power would undo it."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
