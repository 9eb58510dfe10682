"""What the SQLite store finds conversations by: numbers for each plain value at the top level of their metadata.

A number and not the value itself, so that an index holds no content that would have to be erased from it. Two values
may have the same number; whoever looks for one compares the metadata of what is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from ..canonical import canonical, encode, loads
from ..errors import Invalid
from ..log import Head, Scalar, metadata_of

__all__ = ("facet", "facets", "has", "wanted")

_PRIME: Final = 8796093022151
_LONGEST: Final = 500
"""So many characters of a name and its value make the number."""
_SMALL: Final = 4096
"""Bytes of metadata whose numbers are remembered."""


def facet(name: str, value: Scalar) -> int:
    """Return the number, an even one, of a value of metadata; the next one is for the order by `updated`.

    The migration from schema 1 computes the same in SQL.
    """
    number = 7
    for character in f"{_whole(name)}\x1f{_text(value)}"[:_LONGEST]:
        number = (number * 1000003 + ord(character)) % _PRIME
    return 2 * number


def _text(value: Scalar) -> str:
    match value:
        case None:
            return "z"
        case bool():
            return f"b{value:d}"
        case str():
            return f"t{_whole(value)}"
        case int() if -(2**63) <= value < 2**63:
            return f"n{value}"
    try:
        return f"n{float(value):.10g}"
    except OverflowError:
        return "nInf" if value > 0 else "n-Inf"


def _whole(text: str) -> str:
    """Return a text up to its first NUL, where SQL takes it to end."""
    return text.partition("\0")[0]


def facets(metadata: bytes) -> frozenset[int]:
    """Return the numbers that a conversation with this metadata is found by."""
    return _facets(metadata) if len(metadata) <= _SMALL else _facets.__wrapped__(metadata)


@lru_cache(maxsize=1024)
def _facets(metadata: bytes) -> frozenset[int]:
    try:
        said = loads(metadata)
    except (msgspec.MsgspecError, ValueError):
        said = None
    if not isinstance(said, dict):
        return frozenset()  # it was changed by hand; whoever reads it is told
    return frozenset(facet(name, value) for name, value in said.items() if not isinstance(value, dict | list))


def wanted(where: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """Return the values to be looked for as metadata would hold them.

    Raises:
        Invalid: one of them is no plain value.
    """
    values: dict[str, Scalar] = loads(canonical(dict(where), "where"))
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise Invalid(f"where: {name!r:.100} is an object or an array; conversations are found by plain values")
    return values


def has(head: Head, values: Mapping[str, Scalar]) -> bool:
    """Return whether a conversation's metadata has all of these values; 1, "1" and true are three."""
    said = metadata_of(head)
    return all(name in said and encode(said[name]) == encode(value) for name, value in values.items())
