"""SQLite's errors in words: what to do about them, whether waiting may help, and whom they concern."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..codec import changed
from ..errors import CorruptLog, Invalid, StoreError, TurnlogError

__all__ = ("of_all", "refusal", "refused", "translated")

_GROWING: Final = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNCATE")
"""What SQLite makes of a file that may not grow, as of other errors; it does not tell the system's own."""
_REMEDIES: Final[dict[str, tuple[str, bool]]] = {
    "SQLITE_FULL": ("the disk is full; free some space, then try again", True),
    "SQLITE_READONLY": (
        "the database is read-only; make it, the files beside it (-wal, -shm) and their folder writable for this user",
        False,
    ),
    "SQLITE_CANTOPEN": (
        "the database cannot be opened; check that it is there and that this user may read and write it and its folder",
        False,
    ),
    "SQLITE_PERM": ("access was denied; check the permissions of the file and its folder", False),
    "SQLITE_AUTH": ("access was denied; check the permissions of the file and its folder", False),
    "SQLITE_BUSY": ("another program keeps the database locked; close it, then try again", True),
    "SQLITE_LOCKED": ("the database is locked from inside this process; try again", True),
    "SQLITE_NOTADB": ("this is no SQLite database; give turnlog a file of its own", False),
    "SQLITE_CORRUPT": ("the database file is damaged; restore it from a backup", False),
    "SQLITE_IOERR": ("the disk reported an error; check it, then try again", True),
    "SQLITE_TOOBIG": ("the item is larger than SQLite can hold; store a reference to it", False),
}


_NULL: Final = "SQLITE_CONSTRAINT_NOTNULL"
_DOUBLED: Final = ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
_NUMBERED: Final = "events.conversation, events.seq"
"""The columns that make a version a version."""
_OF_VALUES: Final = (sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError, ValueError)
"""What SQLite's module raises for a value that no column can hold."""
_OF_ONE: Final = ("", "SQLITE_CONSTRAINT", "SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
"""What is said of a value, or of a row or page that is met: whoever has to do with others does not meet it."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `StoreError`, with the file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise _said(path, error) from error


def _said(path: Path, error: sqlite3.Error) -> StoreError:
    """Return one of SQLite's errors as ours."""
    name = _name(error)
    remedy, retryable = _REMEDIES.get(_primary(error), ("SQLite refused", False))
    if _unmade(error):
        remedy = "a part of its schema is not there; restore it from a backup"
    if name in _GROWING and (limit := _limit()) is not None:
        remedy = (
            f"a file would have grown beyond the {limit:,} bytes that this process may write (ulimit -f), or the "
            "disk reported an error; raise the limit, or check the disk; then try again"
        )
    return StoreError(f"{path}: {remedy} ({name or type(error).__name__}: {error})", retryable=retryable)


def of_all(error: Exception) -> bool:
    """Return whether an error is of the file, the disk or a lock: every append would meet it."""
    if isinstance(error, sqlite3.Error):
        return _primary(error) not in _OF_ONE or _unmade(error)
    return isinstance(error, StoreError) and not isinstance(error, CorruptLog)


def refusal(path: Path, conversation: str, error: Exception) -> Exception:
    """Return what to tell of an append to a conversation that an error kept from being written."""
    if isinstance(error, TurnlogError):
        return error
    if isinstance(error, _OF_VALUES) or (isinstance(error, sqlite3.Error) and _name(error) == _NULL):
        told: Exception = Invalid(f"{conversation!r:.100}: an event holds what cannot be stored: {error}")
    elif not isinstance(error, sqlite3.Error):
        return error
    elif _name(error) in _DOUBLED:
        what = "events behind its version" if _NUMBERED in str(error) else "rows that are to be new"
        told = changed(conversation, f"{what} are there already ({error})")
    elif _name(error) == "SQLITE_ERROR" and not _unmade(error):
        told = changed(conversation, f"its rows cannot be worked with ({error})")
    else:
        told = _said(path, error)
    told.__cause__ = error
    return told


@contextmanager
def refused(path: Path, conversation: str) -> Iterator[None]:
    """Tell what keeps an append to a conversation from being written."""
    try:
        yield
    except (sqlite3.Error, OverflowError, ValueError) as error:
        told = refusal(path, conversation, error)
        raise told from told.__cause__


def _name(error: sqlite3.Error) -> str:
    """Return what SQLite calls an error, "" where it is its module's own."""
    return getattr(error, "sqlite_errorname", "") or ""


def _unmade(error: sqlite3.Error) -> bool:
    """Return whether a table or a column is missing; nothing else than the message says so."""
    return _name(error) == "SQLITE_ERROR" and str(error).startswith(("no such table", "no such column"))


def _primary(error: sqlite3.Error) -> str:
    """Return the name up to its second underscore: SQLITE_IOERR_WRITE is an SQLITE_IOERR."""
    return "_".join(_name(error).split("_")[:2])


def _limit() -> int | None:
    """Return the size beyond which the system lets this process write no file, None where there is no such size."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - it is not there for all systems

    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if most == resource.RLIM_INFINITY else most
