"""Many rows in one statement.

At each step of a statement SQLite's module lets other threads run, and then waits until they let go again. A batch that
took a step for each of its rows would wait as often for an event loop that has work. It does the same once more after
`execute`, which looks up the last row's id, but not after `executemany`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

from ..canonical import loads
from .sqlite_connection import SQL, Database

__all__ = ("read_rows", "write_rows")

_ROW: Final = re.compile(r"(?<=VALUES )\([?, 0]+\)")
_PARAMETERS: Final = 999
"""Of one statement; some builds of SQLite take no more."""
_NULL: Final = float("nan")
"""What SQLite takes for NULL. At each None its module looks for an adapter first, holding every other thread up."""


def write_rows(db: Database, name: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement that takes one row of values with all of *rows*, in as few steps as may be."""
    for text, values in _parts(name, rows):
        db.executemany(text, ([_NULL if value is None else value for value in values],))


def read_rows(db: Database, name: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return what a statement that takes one row of values finds for all of *rows*: each time it gives a JSON list."""
    found = (db.execute(text, [*values]).fetchone()[0] for text, values in _parts(name, rows))
    return [*chain.from_iterable(map(loads, found))]


def _parts(name: str, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Iterable[Any]]]:
    most = _PARAMETERS // len(rows[0])
    start = 0
    while start < len(rows):
        number = _round(min(most, len(rows) - start))
        yield _text(name, number), chain.from_iterable(rows[start : start + number])
        start += number


def _round(number: int) -> int:
    """Return a number without all but its three highest bits, so that few statements are there to be prepared."""
    least = max(number.bit_length() - 3, 0)
    return number >> least << least


@cache
def _text(name: str, rows: int) -> str:
    """Return a statement for so many rows."""
    return _ROW.sub(lambda row: ", ".join([row[0]] * rows), SQL[name])
