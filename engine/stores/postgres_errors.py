"""PostgreSQL's errors as `StoreError`: where, what to do about it, and whether waiting may help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from ..codec import changed
from ..errors import Invalid, StoreError, TurnlogError

__all__ = ("collided", "ended", "of_one", "refusal", "translated")

_COLLISIONS: Final = frozenset({"40001", "40P01", "23505"})
"""A serialization failure, a deadlock, or somebody who created the same conversation a moment before."""
_OWN: Final = frozenset({"events", "marks", "keys", "spans"})
"""Tables whose rows nobody writes but who has locked, or just created, their conversation."""
_OF_VALUES: Final = ("22", "23502", "54")
_OF_PYTHON: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What Python raises of a value, before anything is sent."""
_OF_ONE: Final = (*_OF_VALUES, "23", "P0", "XX")
"""What is said of a value, or of a row that is met: whoever has to do with others does not meet it."""

_REMEDIES: Final[Mapping[str, tuple[str, bool]]] = {
    "53100": ("the server's disk is full; free some space, then try again", True),
    "53300": ("the server has no connection left; raise max_connections, or use fewer; then try again", True),
    "53": ("the server is short of resources; try again", True),
    "25006": ("the server is read-only, as a standby is; connect to one that may be written to", False),
    "42501": ("this user may not do it; grant it the rights on the schema and its tables", False),
    "28": ("the server refuses this user; check its name, its password and pg_hba.conf", False),
    "3D": ("there is no such database; create it, or correct the url", False),
    "3F": ("there is no such schema; open it once with migrate=True, or pass schema=", False),
    "42P01": ("a table is missing; open it once with migrate=True, or restore it from a backup", False),
    "42": ("the tables are not those of this turnlog; check schema=, or upgrade turnlog", False),
    "40": ("it collided with other transactions again and again; try again", True),
    "23": ("the tables hold what they cannot hold; check them, or restore them from a backup", False),
    "55P03": ("another session keeps what is needed locked; end it, then try again", True),
    "57014": ("the server cancelled it: an administrator, or statement_timeout; try again", True),
    "57": ("the server ended the connection or is not ready; try again", True),
    "08": ("the connection was lost; try again", True),
    "58": ("the server's disk or system reported an error; check it, then try again", True),
    "url": ("the url cannot be used; correct it", False),
    "XX": ("the server found its data damaged; check its log, or restore it from a backup", False),
}
_HOPELESS: Final = (
    (re.compile('database ".*" does not exist'), "3D"),
    (re.compile("authentication failed|pg_hba.conf|no password supplied|role "), "28"),
    (re.compile("invalid (integer value|port number|sslmode value)"), "url"),
)
"""What a connection may be refused with, for which the driver gives no code; waiting does not help."""


def of_one(error: BaseException) -> bool:
    """Return whether an error has to do with one append: with what it holds, or with the rows of its conversation."""
    if isinstance(error, psycopg.Error):
        return _unstorable(error) or (error.sqlstate or "").startswith(_OF_ONE)
    return isinstance(error, _OF_PYTHON)


def _unstorable(error: BaseException) -> bool:
    """Return whether an error says that no column can hold a value."""
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OverflowError | ValueError)
    if error.sqlstate is None:  # the driver's own: a value of a type that it does not know, say
        return isinstance(error, psycopg.ProgrammingError | psycopg.DataError)
    return error.sqlstate.startswith(_OF_VALUES)


def refusal(conversation: str, error: Exception) -> Exception:
    """Return what to tell of an append to a conversation that an error kept from being written."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    if cause is None or isinstance(cause, TurnlogError):
        return error
    if _unstorable(cause):
        told: Exception = Invalid(f"{conversation!r:.100}: an event holds what cannot be stored: {_said(cause)}")
    elif isinstance(cause, psycopg.errors.UniqueViolation) and _doubled(cause):
        what = "events behind its version" if cause.diag.table_name == "events" else "rows that are to be new"
        told = changed(conversation, f"{what} are there already ({_said(cause)})")
    else:
        return error
    told.__cause__ = cause
    return told


def collided(error: psycopg.Error) -> bool:
    """Return whether the same transaction may well succeed when it is made again."""
    return error.sqlstate in _COLLISIONS and not _doubled(error)


def _doubled(error: psycopg.Error) -> bool:
    """Return whether a row is there already that nobody else can have written meanwhile."""
    return error.sqlstate == "23505" and error.diag.table_name in _OWN


def ended(error: psycopg.Error) -> bool:
    """Return whether an error is that of a connection that came to its end, not of what it was to do."""
    state = error.sqlstate or ""
    return (
        isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        and not isinstance(error, PoolTimeout | PoolClosed | TooManyRequests)
        and (not state or state.startswith(("57P", "08")))
    )


def translated(place: str, error: BaseException) -> StoreError:
    """Return an error of the driver as ours, with the remedy."""
    remedy, retryable = _remedy(error)
    code = f"{error.sqlstate}: " if isinstance(error, psycopg.Error) and error.sqlstate else ""
    return StoreError(f"{place}: {remedy} ({code}{_said(error)})", retryable=retryable)


def _said(error: BaseException) -> str:
    """Return an error's own words, without the row that the server may quote: it is content."""
    kinds = (psycopg.errors.NotNullViolation, psycopg.errors.CheckViolation)
    quoted = error.diag.message_primary if isinstance(error, kinds) else None
    return f"{' '.join((quoted or str(error)).split()):.300}"


def _remedy(error: BaseException) -> tuple[str, bool]:
    if isinstance(error, PoolTimeout | TooManyRequests):
        return "no connection was to be had: the server is out of reach, or all connections are busy; try again", True
    if isinstance(error, PoolClosed):
        return "the pool is not open; open it before the store, and close it after", False
    state = getattr(error, "sqlstate", None) or ""
    for code in (state, state[:2]):
        if code in _REMEDIES:
            return _REMEDIES[code]
    if isinstance(error, psycopg.OperationalError) and not state:
        for words, code in _HOPELESS:
            if words.search(str(error)):
                return _REMEDIES[code]
        return "the server cannot be reached; check that it runs and the url; then try again", True
    return "PostgreSQL refused", False
