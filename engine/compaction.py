"""What stands for compacted events in a window. Pure.

A compaction covers an exact range of seqs, which stay in the log. Its stand-in is a list of items: logged ones by
reference to their seq, so that no byte is stored twice, and new ones, such as the opaque item of `/responses/compact`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import astuple

from .canonical import digest
from .events import ContextCompacted, Record, StandIn, Target
from .items import read

__all__ = ("covered_digest", "references", "stand_in", "stand_in_of")


def references(said: ContextCompacted) -> list[int]:
    """Return the seqs of the logged items that a stand-in consists of."""
    return sorted({part.seq for part in said.stand_in if part.seq is not None})


def stand_in(said: ContextCompacted, items: Mapping[int, Any], target: Target) -> list[dict[str, Any]]:
    """Return what is sent in place of the covered events; *items* are the logged ones, by seq.

    Encrypted content goes only to the model that made it. Ids mean something only there, and only beside the reasoning
    that their items were born with; where they go, what the API takes only with its id goes too.
    """
    given = [items.get(part.seq) if part.seq is not None else part.item for part in said.stand_in]
    sent: list[dict[str, Any]] = [item for item in given if isinstance(item, dict)]
    if target.state == "recorded":
        return sent
    origin = said.origin
    own = origin is not None and astuple(origin) == (target.api, target.backend, target.model)
    if own and any(read(item).shape == "reasoning" for item in sent):
        return sent
    return [_nameless(item) for item in sent if (own or not item.get("encrypted_content")) and not _needs_id(item)]


def _needs_id(item: Mapping[str, Any]) -> bool:
    kind = read(item).kind
    return kind is not None and kind.needs_id


def _nameless(item: dict[str, Any]) -> dict[str, Any]:
    kind = read(item).kind
    linked = kind is not None and kind.answers is not None and kind.link == "id"
    return item if linked else {key: value for key, value in item.items() if key != "id"}


def stand_in_of(output: Iterable[Mapping[str, Any]], covered: Sequence[tuple[int, Mapping[str, Any]]]) -> list[StandIn]:
    """Return the result of `/responses/compact` as a stand-in: user messages that are in the log by their seq."""
    left = [(seq, _said(item)) for seq, item in covered]
    parts: list[StandIn] = []
    for item in output:
        said = _said(item)
        match = next((index for index, (_, text) in enumerate(left) if said is not None and text == said), None)
        parts.append(StandIn(item=dict(item)) if match is None else StandIn(seq=left.pop(match)[0]))
    return parts


def _said(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a text-only user message's words, to tell whether two forms of it say the same."""
    if read(item).shape != "user":
        return None
    content = item.get("content")
    if isinstance(content, str):
        return "user", content
    if not isinstance(content, list) or any(
        set(part) != {"type", "text"} for part in content if isinstance(part, dict)
    ):
        return None
    return "user", "\n".join(str(part["text"]) for part in content)


def covered_digest(records: Iterable[Record]) -> str:
    """Return the SHA-256 over the items of covered events, each on its line."""
    return digest(b"\n".join(record.item for record in records if record.item is not None))
