"""Names of things, and the two sources they come from: a clock and an id source, both injectable."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NewType, TypeAlias

from .errors import Invalid

__all__ = (
    "ANY",
    "NO_STREAM",
    "Clock",
    "Expected",
    "Ids",
    "Position",
    "check_id",
    "check_key",
    "micros",
    "misplaced",
    "moment",
    "ordinal",
    "system_clock",
    "ulid",
    "version_of",
)

Position = NewType("Position", str)
"""An event's place in the store: an opaque cursor. Only its own store can order two of them."""

ANY: Final = "any"
"""Append whatever the version is."""
NO_STREAM: Final = "no_stream"
"""Append only if the conversation does not exist yet; 0 says the same."""
Expected: TypeAlias = int | Literal["any", "no_stream"]

Clock: TypeAlias = Callable[[], datetime]
Ids: TypeAlias = Callable[[str], str]
"""Given a prefix such as "cv", a new id such as "cv_01J…"."""

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,64}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_id(value: object) -> str:
    """Return *value* if it can name a conversation: 1 to 64 of `A-Z a-z 0-9 . _ : -`.

    >>> check_id("tenant-7:ada")
    'tenant-7:ada'

    Raises:
        Invalid: it cannot.
    """
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise Invalid(f"conversation id {value!r:.100}: 1 to 64 characters of A-Z a-z 0-9 . _ : - are needed")
    return value


def check_key(value: object, what: str = "key") -> str:
    """Return *value* if it can be an idempotency key, or a follower's name: a text of 1 to 255 characters.

    Raises:
        Invalid: it cannot.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 255 or _SURROGATE.search(value):
        raise Invalid(f"{what} {value!r:.100}: a text of 1 to 255 characters is needed")
    return value


def version_of(expected: object) -> int | None:
    """Return the version that is expected, None for any.

    Raises:
        Invalid: it is no version.
    """
    if expected == ANY:
        return None
    if isinstance(expected, int) and not isinstance(expected, bool) and expected >= 0:
        return expected
    if expected != NO_STREAM:
        raise Invalid(f"expected={expected!r:.100}: ANY, NO_STREAM or a version is needed: a whole number, at least 0")
    return 0


def misplaced(position: object, *, beyond: bool = False) -> Invalid:
    """Return the error for what a store's feed cannot have given as a position, such as one beyond the log's end."""
    what = "behind the end of this log" if beyond else "not a position of this store"
    return Invalid(f"position {position!r:.100}: {what}; use one that its feed gave, such as batch[-1].position")


def ordinal(position: object) -> int:
    """Return the number that a position is in stores that number all events in one row.

    Raises:
        Invalid: it is none.
    """
    if not isinstance(position, str) or not (position.isdecimal() and len(position) < 19):
        raise misplaced(position)
    return int(position)


def ulid(prefix: str) -> str:
    """Return a new id: *prefix*, an underscore, and a ULID (48 bits of milliseconds, 80 of chance)."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return f"{prefix}_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def system_clock() -> datetime:
    """Return the current time, UTC."""
    return datetime.now(UTC)


def micros(when: datetime) -> int:
    """Return *when* as integer microseconds since 1970, UTC; a naive time is taken as UTC."""
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    delta = when - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment(time_us: int) -> datetime:
    """Return the time of integer microseconds since 1970, UTC.

    >>> moment(1_500_000).isoformat()
    '1970-01-01T00:00:01.500000+00:00'
    """
    return _EPOCH + timedelta(microseconds=time_us)
