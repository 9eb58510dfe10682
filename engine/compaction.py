"""What stands for compacted events in a window. Pure.

A compaction covers an exact range of seqs, which stay in the log. Its stand-in is a list of items: logged ones by
reference to their seq, so that no byte is stored twice, and new ones. Where part of it is opaque, another one that
everybody can read goes to whoever did not make it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from .canonical import digest, encode
from .events import SURPLUS, ContextCompacted, Record, StandIn, Target
from .fields import trimmed
from .items import ROLES, read

__all__ = (
    "Compacted",
    "covered_digest",
    "guessed",
    "named",
    "quotable",
    "references",
    "stand_in",
    "stand_in_of",
    "weight",
)


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction came to."""

    seq: int
    """Of its event, which names it."""
    covered: tuple[int, int]
    """The first and the last seq that windows no longer begin with."""
    before: int
    """Counted tokens of all that a window without a limit would have held."""
    after: int
    """The same, now."""
    method: str
    """remote, summary or extract: what "auto" has come to."""


def _is_own(said: ContextCompacted, target: Target) -> bool:
    return said.origin is not None and astuple(said.origin) == (target.api, target.backend, target.model)


def _parts(said: ContextCompacted, target: Target) -> Sequence[StandIn]:
    """Return what a target gets: only whoever made a stand-in that has a readable one beside it gets itself."""
    return said.readable if said.readable and not _is_own(said, target) else said.stand_in


def references(said: ContextCompacted, target: Target | None = None) -> list[int]:
    """Return the seqs of the logged items that a stand-in consists of: for one target, or for any."""
    parts = _parts(said, target) if target else [*said.stand_in, *said.readable]
    return sorted({part.seq for part in parts if part.seq is not None})


def weight(record: Record, said: ContextCompacted, target: Target) -> int:
    """Return the counted tokens of what a target gets."""
    return said.readable_tokens if said.readable and not _is_own(said, target) else record.tokens


def guessed(record: Record, said: ContextCompacted, target: Target) -> int:
    """Return how many of these tokens are estimated, because what they stand for is opaque."""
    parts = _parts(said, target)
    opaque = any(isinstance(part.item, dict) and "encrypted_content" in part.item for part in parts)
    # What these have made, rather than quoted, is behind what is covered.
    made = said.method in ("remote", "server") and any((part.seq or 0) > said.last for part in parts)
    return weight(record, said, target) if opaque or made else 0


def stand_in(said: ContextCompacted, items: Mapping[int, Any], target: Target) -> list[dict[str, Any]]:
    """Return what is sent in place of the covered events; *items* are the logged ones, by seq.

    Encrypted content goes only to the model that made it. Ids mean something only there, and only beside the reasoning
    that their items were born with; where they go, what the API takes only with its id goes too.
    """
    return [item for _, item in named(said, items, target)]


def quotable(item: Any, record: Record, target: Target) -> Any:
    """Return the item of a record as a stand-in quotes it: without the fields that its kind has not."""
    if not record.flags & SURPLUS or target.state == "recorded":
        return item
    return trimmed(item, record.shape or "")


def named(said: ContextCompacted, items: Mapping[int, Any], target: Target) -> list[tuple[int | None, dict[str, Any]]]:
    """Return the same, each item with the seq under which it is in the log, where it is."""
    parts = [(one.seq, items.get(one.seq) if one.seq is not None else one.item) for one in _parts(said, target)]
    sent: list[tuple[int | None, dict[str, Any]]] = [(seq, item) for seq, item in parts if isinstance(item, dict)]
    if target.state == "recorded":
        return sent
    sent = [(seq, _given(item)) for seq, item in sent]
    own = _is_own(said, target)
    if own and any(read(item).shape == "reasoning" for _, item in sent):
        return sent
    return [
        (seq, _nameless(item))
        for seq, item in sent
        if (own or not item.get("encrypted_content")) and not _needs_id(item)
    ]


def _needs_id(item: Mapping[str, Any]) -> bool:
    kind = read(item).kind
    return kind is not None and kind.needs_id


def _nameless(item: dict[str, Any]) -> dict[str, Any]:
    kind = read(item).kind
    linked = kind is not None and kind.answers is not None and kind.link == "id"
    return item if linked else {key: value for key, value in item.items() if key != "id"}


def stand_in_of(
    output: Iterable[Mapping[str, Any]],
    covered: Sequence[tuple[int, Mapping[str, Any]]],
    logged: Sequence[int] = (),
) -> list[StandIn]:
    """Return the result of `/responses/compact` as a stand-in: user messages that are in the log by their seq.

    *logged* are the seqs under which the output itself is in the log, item by item, where it is.
    """
    left = [(seq, _said(item)) for seq, item in covered]
    parts: list[StandIn] = []
    for index, item in enumerate(output):
        said = _said(item)
        match = next((index for index, (_, text) in enumerate(left) if said is not None and text == said), None)
        if match is not None:
            parts.append(StandIn(seq=left.pop(match)[0]))
        else:
            parts.append(StandIn(seq=logged[index]) if logged else StandIn(item=dict(item)))
    return parts


def _given(item: dict[str, Any]) -> dict[str, Any]:
    """Return a message as the API takes it back: it gives fields with no value, which it does not take."""
    content = item.get("content")
    if read(item).shape not in ROLES or not isinstance(content, list):
        return item
    return {**item, "content": [_valued(part) for part in content]}


def _valued(part: Any) -> Any:
    return {key: value for key, value in part.items() if value is not None} if isinstance(part, Mapping) else part


def _said(item: Mapping[str, Any]) -> bytes | None:
    """Return what a user's message says, to tell whether two forms of it say the same."""
    if read(item).shape != "user":
        return None
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        return None
    parts = [_valued(part) for part in content]
    texts = [part.get("text") if isinstance(part, dict) and set(part) == {"type", "text"} else None for part in parts]
    if all(isinstance(text, str) for text in texts):
        return encode("\n".join(map(str, texts)))
    return encode(parts)


def covered_digest(records: Iterable[Record], before: str = "") -> str:
    """Return the SHA-256 over the items of covered events, each on its line.

    Where an earlier compaction covers the beginning, its digest stands for that, on a line *before*.
    """
    items = [record.item for record in records if record.item is not None]
    return digest(b"\n".join([before.encode(), *items] if before else items))
