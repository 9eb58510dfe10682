"""Passages: what is too long for any request as a text, of each of its pieces the beginning and the end. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .items import Item, parts, read
from .tokens import Counter

__all__ = ("passage",)

_LEAST: Final = 24
"""Characters of a piece under which nothing of it is worth showing."""


def passage(items: Iterable[Item], room: int, count: Counter) -> str | None:
    """Return what items say, in at most so many tokens; None when that is hardly anything."""
    pieces = [piece for item in items for piece in _pieces(item)]
    size = max((len(text) for _, text in pieces), default=0)
    # A token has a few characters in nearly all texts: where it has not, the next rounds see to it.
    size = min(size, max(room, 0) * 8)
    while size >= _LEAST:
        said = "\n\n".join(f"{name}: {_shortened(text, size)}" for name, text in pieces)
        if count(said) <= room:
            return said
        size = size * 3 // 4
    return None


def _pieces(item: Item) -> Iterator[tuple[str, str]]:
    """Yield what an item says, with a name for it."""
    shape = read(item).shape
    arguments = item.get("arguments", item.get("input"))
    if isinstance(arguments, str):
        yield f"call of {item.get('name', shape)}", arguments
    for part in parts(item):
        text = part.get("text", part.get("refusal"))
        yield shape, text if isinstance(text, str) else f"[{part.get('type')}]"


def _shortened(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    end = size // 3
    left = len(text) - size
    return f"{text[: size - end]} [… {left:,} characters are left out …] {text[len(text) - end :]}"
