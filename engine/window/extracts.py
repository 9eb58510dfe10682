"""Extracts: what stands for compacted events where no model is asked, or cannot be read by all. Pure.

The newest messages stay, word for word while they are short, with their beginning and end where they are long; tool
calls and thoughts go. An extract is never larger than it may be, and says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..events import ERASED, StandIn
from ..groups import Entry
from ..items import parts, read
from ..tokens import Counter, measure

__all__ = ("Extract", "extract")

_SPOKEN: Final = ("user", "assistant")
_LEAST: Final = 24
"""Tokens under which nothing of a message is worth showing."""
_SHARE: Final = 4
"""A message has this part of the room at most, before it is shortened."""


class Extract(NamedTuple):
    """A stand-in, and what it weighs."""

    stand_in: list[StandIn]
    tokens: int


def extract(entries: Sequence[Entry], before: Sequence[Mapping[str, Any]], room: int, count: Counter) -> Extract:
    """Return what stands for *entries*, and for what stood *before* them, in at most so many counted tokens.

    What stood before is kept with half of the room at most: it is what is left of much more.
    """
    messages = [entry for entry in entries if entry.reading.shape in _SPOKEN and not entry.flags & ERASED]
    head = _header(len(messages), len(messages))
    left = room - measure(head, count).tokens
    if left < 0:
        return Extract([], 0)
    older = list(_older(before, left // 2, count))
    left -= sum(measure(item, count).tokens for item in older)
    newer = list(_newest(messages, left, count))[::-1]
    stand_in = [StandIn(item=_header(len(newer), len(messages))), *(StandIn(item=item) for item in older)]
    stand_in += [part for part, _ in newer]
    tokens = sum(measure(part.item, count).tokens for part in stand_in if part.item is not None)
    return Extract(stand_in, tokens + sum(weight for part, weight in newer if part.item is None))


def _header(shown: int, all_: int) -> dict[str, Any]:
    text = f"[What was said up to here is left out, but for {shown:,} of {all_:,} messages, which follow.]"
    return {"type": "message", "role": "user", "content": text}


def _older(before: Sequence[Mapping[str, Any]], room: int, count: Counter) -> Iterator[dict[str, Any]]:
    """Yield the messages of an earlier stand-in that fit, from the first on; the last of them may be shortened."""
    for item in before:
        if read(item).shape not in _SPOKEN:
            continue
        plain = {"type": "message", "role": item["role"], "content": _text(item)}
        short = _fitted(plain, room, count)
        if short is None:
            return
        room -= measure(short, count).tokens
        yield short


def _newest(messages: Sequence[Entry], room: int, count: Counter) -> Iterator[tuple[StandIn, int]]:
    """Yield what of messages fits, from the last on, with what it weighs."""
    most = max(room // _SHARE, _LEAST)
    for entry in reversed(messages):
        if entry.tokens <= min(room, most):
            room -= entry.tokens
            yield StandIn(seq=entry.seq), entry.tokens
            continue
        item = entry.value()
        text = _text(item)
        short = _fitted({"type": "message", "role": item["role"], "content": text}, min(room, most), count)
        if short is None or not text:
            continue
        weight = measure(short, count).tokens
        room -= weight
        yield StandIn(item=short), weight


def _text(item: Mapping[str, Any]) -> str:
    return "\n".join(piece["text"] for piece in parts(item) if isinstance(piece.get("text"), str))


def _fitted(item: dict[str, Any], room: int, count: Counter) -> dict[str, Any] | None:
    """Return a message with as much of its beginning and end as fits, None when that is hardly anything."""
    if measure(item, count).tokens <= room:
        return item
    text = item["content"]
    size = min(len(text), room * 4)
    while size >= _LEAST:
        short = {**item, "content": f"{text[: size * 2 // 3]} […] {text[len(text) - size // 3 :]}"}
        if measure(short, count).tokens <= room:
            return short
        size = size * 3 // 4
    return None
