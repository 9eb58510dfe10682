"""PostgreSQL's errors as `StoreError`: where, what to do about it, and whether waiting may help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from ..errors import StoreError

__all__ = ("collided", "ended", "of_one", "translated")

_COLLISIONS: Final = frozenset({"40001", "40P01", "23505"})
"""A serialization failure, a deadlock, or somebody who created the same conversation a moment before."""

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
    """Return whether an error says that a value cannot be stored: the fault of the append that brought it."""
    if isinstance(error, psycopg.ProgrammingError):
        return error.sqlstate is None  # the driver's own: a value of a type that it does not know
    kinds = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, OverflowError, ValueError)
    return isinstance(error, kinds)


def collided(error: psycopg.Error) -> bool:
    """Return whether the same transaction may well succeed when it is made again."""
    return error.sqlstate in _COLLISIONS


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
    said = " ".join(str(error).split())
    code = f"{error.sqlstate}: " if isinstance(error, psycopg.Error) and error.sqlstate else ""
    return StoreError(f"{place}: {remedy} ({code}{said:.300})", retryable=retryable)


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
