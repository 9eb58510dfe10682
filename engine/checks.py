"""Checks of arguments, at run time: callers are not all type-checked."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from .errors import Invalid

__all__ = ("lapse", "seconds", "switch", "whole", "why")

_LONGEST: Final = timedelta(days=1_000_000)
"""More would not fit into the microseconds of a store."""


def whole(name: str, value: object, least: int, most: int | None = None, *, of: str = "") -> int:
    """Return *value* if it is a whole number from *least* to *most*.

    Raises:
        Invalid: it is not; the message has *name* and, if given, what it is a number *of*.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise Invalid(f"{name}={value!r:.100}: a whole number{f' of {of}' if of else ''} is needed, {span}")
    return value


def seconds(name: str, value: object, least: float, most: float) -> float:
    """Return *value* if it is a number of seconds from *least* to *most*.

    Raises:
        Invalid: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Invalid(f"{name}={value!r:.100}: seconds are needed, {least:g} to {most:g}")
    return float(value)


def lapse(name: str, value: object, least: timedelta) -> timedelta:
    """Return *value* if it is a time span of at least so long.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(value, timedelta) or not least <= value <= _LONGEST:
        span = "more than nothing" if least else "not negative"
        raise Invalid(
            f"{name}={value!r:.100}: a timedelta is needed, such as timedelta(days=90); {span}, at most "
            f"{_LONGEST.days:,} days"
        )
    return value


def switch(name: str, value: object) -> bool:
    """Return *value* if it is True or False.

    Raises:
        Invalid: it is not; what only counts as one or the other may say its opposite, as "no" does.
    """
    if not isinstance(value, bool):
        raise Invalid(f"{name}={value!r:.100}: True or False is needed")
    return value


def why(reason: object) -> str:
    """Return a reason if it is one: a text that is not blank.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise Invalid(f"reason={reason!r:.100}: a text that says why is needed; it is written in the log")
    return reason
