"""What an item has no place for: fields of its maker's own shape, kept beside it.

An extra is a short list of differences: `set`, values by path, and `unset`, paths, relative to the Chat message that
the item is part of; `parts`, what stands among the texts of its content, each with its index there; and `field`, the
name that a backend gives to what its model thought.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from .canonical import encode

__all__ = ("apply", "as_parts", "goes_back", "replayed")

_REPLAYED: Final = frozenset({"cache_control", "extra_content", "name", "reasoning_details", "thought_signature"})
"""Fields that backends want back, or that callers have set; others are kept in the log only."""
_EMPTY: Final = frozenset({b"null", b'""', b"[]", b"{}", b"false"})


def replayed(extra: Any) -> Iterator[tuple[Sequence[Any], Any]]:
    """Yield the differences that go back to the backend that they came from."""
    for path, value in extra.get("set", ()) if isinstance(extra, Mapping) else ():
        if path and path[-1] in _REPLAYED and encode(value) not in _EMPTY:
            yield path, value


def goes_back(extra: Any) -> Iterator[Any]:
    """Yield the values that go back to the backend that they came from."""
    yield from (part for _, part in _parts(extra))
    yield from (value for _, value in replayed(extra))


def _parts(extra: Any) -> Iterator[tuple[int, Any]]:
    yield from extra.get("parts", ()) if isinstance(extra, Mapping) else ()


def as_parts(content: Any) -> list[Any]:
    """Return a Chat message's content as a list of parts."""
    return content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []


def apply(message: dict[str, Any], extra: Mapping[str, Any], *, recorded: bool) -> None:
    """Write differences into a message: all of them into a recorded one, else those that are replayed."""
    for index, part in _parts(extra):
        message["content"] = content = list(as_parts(message.get("content")))
        content.insert(index, part)
    for path, value in extra.get("set", ()) if recorded else replayed(extra):
        holder = _holder(message, path)
        if holder is not None:
            holder[path[-1]] = value
    for path in extra.get("unset", ()) if recorded else ():
        holder = _holder(message, path)
        if isinstance(holder, dict):
            holder.pop(path[-1], None)


def _holder(message: Any, path: Sequence[Any]) -> Any:
    """Return what the last step of a path leads into; None when an excerpt has changed the shape."""
    for step in path[:-1]:
        try:
            message = message[step]
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(message, list):
        return message if isinstance(path[-1], int) and path[-1] < len(message) else None
    return message if isinstance(message, dict) else None
