"""Differences between JSON values: where two bodies part, and how two lists of items differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal

import msgspec

from ..canonical import encode

__all__ = ("Change", "Difference", "alike", "at", "between", "changes", "difference", "differences", "told")

_TOLD = 160


class Difference(msgspec.Struct, frozen=True):
    """Where two JSON values part. A side that has nothing there is unset."""

    path: str
    old: Any = msgspec.UNSET
    new: Any = msgspec.UNSET

    def __str__(self) -> str:
        return f"{self.path}: {told(self.old)} became {told(self.new)}"


def told(value: Any) -> str:
    """Return a value in a line, cut short."""
    if value is msgspec.UNSET:
        return "nothing"
    text = encode(value).decode()
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}… ({len(text):,} characters)"


def difference(old: Any, new: Any, path: str = "$") -> Difference | None:
    """Return the first place at which two values part, in the order of the old one; None if they are equal.

    >>> difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]})
    Difference(path='$.a[1].b', old=2, new=3)
    """
    return next(differences(old, new, path), None)


def differences(old: Any, new: Any, path: str = "$") -> Iterator[Difference]:
    """Yield every place at which two values part."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from differences(value, new.get(key, msgspec.UNSET), f"{path}.{key}")
        yield from (Difference(f"{path}.{key}", msgspec.UNSET, new[key]) for key in new if key not in old)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            one = old[index] if index < len(old) else msgspec.UNSET
            other = new[index] if index < len(new) else msgspec.UNSET
            yield from differences(one, other, f"{path}[{index}]")
    elif isinstance(old, bool) is not isinstance(new, bool) or old != new:
        yield Difference(path, old, new)


def at(value: Any, *steps: str | int) -> Any:
    """Return what stands at a place in a value, unset where nothing does."""
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return msgspec.UNSET
    return value


def alike(old: Sequence[Any], new: Sequence[Any]) -> int:
    """Return with how many equal entries two lists begin.

    >>> alike([1, 2, 3], [1, 2, 4]), alike([1], [1, 2])
    (2, 1)
    """
    parted = (index for index, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    return next(parted, min(len(old), len(new)))


class Change(msgspec.Struct, frozen=True):
    """What became of one item between two lists of items."""

    kind: Literal["same", "added", "removed", "changed"]
    old: int | None = None
    """Its place in the old list."""
    new: int | None = None
    """Its place in the new list."""
    differences: Sequence[Difference] = ()
    """Of a changed item: where it did."""


def changes(old: Sequence[Any], new: Sequence[Any]) -> list[Change]:
    """Return how a list of items becomes another, in order. What stands in the same place on both sides has changed.

    >>> [change.kind for change in changes(["a", "b"], ["a", "c", "d"])]
    ['same', 'changed', 'added']
    """
    return between(old, new, [encode(one) for one in old], [encode(one) for one in new])


def between(old: Sequence[Any], new: Sequence[Any], olds: Sequence[Any], news: Sequence[Any]) -> list[Change]:
    """Return the same of lists whose items are told apart by keys."""
    # Most requests begin as the one before: looking for what is alike is slow, and not needed there.
    head = alike(olds, news)
    made = [Change("same", at, at) for at in range(head)]
    for tag, *bounds in SequenceMatcher(None, olds[head:], news[head:], autojunk=False).get_opcodes():
        low, high, begin, end = (bound + head for bound in bounds)
        if tag == "equal":
            made += [Change("same", low + step, begin + step) for step in range(high - low)]
            continue
        both = min(high - low, end - begin)
        for step in range(both):
            parts = list(differences(old[low + step], new[begin + step], "$"))
            made.append(Change("changed", low + step, begin + step, parts))
        made += [Change("removed", place, None) for place in range(low + both, high)]
        made += [Change("added", None, place) for place in range(begin + both, end)]
    return made
