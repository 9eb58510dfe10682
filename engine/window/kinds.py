"""Which kinds of items the APIs take in a stateless request, and how Chat Completions has fewer.

Source: the input item union of `POST /responses`; the message roles and tool call types of `POST /chat/completions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..events import Target
from ..families import family_of
from ..items import IN_ORDER, ROLES, read

__all__ = ("CHAT", "knows_phases", "paired", "refused")

CHAT: Final = ROLES | {
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
}
"""The kinds that have a form in Chat Completions."""
_NOT_STATELESS: Final = frozenset({"item_reference", "compaction_trigger", "unknown", "message"})


def refused(shape: str, target: Target) -> str | None:
    """Return why a target takes no item of a shape, None when it does."""
    if shape == "reasoning" and target.api == "chat" and target.thoughts != "never":
        return None
    if target.api == "chat" and shape not in CHAT:
        return f"Chat Completions has no {shape}"
    if target.api != "chat" and shape in _NOT_STATELESS:
        return f"a stateless request takes no {shape}"
    return None


def knows_phases(target: Target) -> bool:
    """Return whether a target surely takes the phase of a message, from wherever that comes: others may refuse it.

    Servers of OpenAI's own models do.
    """
    family = family_of(target.model)
    return target.api != "chat" and family is not None and not family.free


def paired(items: Sequence[dict[str, Any]], target: Target) -> Iterator[dict[str, Any]]:
    """Yield those of a stand-in's items that a target takes, calls only with their outputs and outputs with calls."""
    taken = [(item, form) for item in items if refused((form := read(item)).shape, target) is None]
    calls: dict[tuple[str, str | None], list[int]] = {}
    pairs: set[int] = set()
    for index, (_, form) in enumerate(taken):
        if form.is_call:
            waiting = calls.setdefault((form.shape, form.link), [])
            if not waiting or form.link == IN_ORDER:
                waiting.append(index)
        elif form.is_output and form.kind is not None:
            waiting = calls.get((form.kind.answers or "", form.link), [])
            pairs |= {waiting.pop(0), index} if waiting else set()
    for index, (item, form) in enumerate(taken):
        if index in pairs or not (form.is_call or form.is_output):
            yield item
