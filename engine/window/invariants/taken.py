"""Only item kinds that the target's API takes are sent to it."""

from __future__ import annotations

from typing import Final

from ...events import ERASED
from ...items import Reading
from ..kinds import refused
from ..units import GONE, Scene, Unit

__all__ = ("only_what_the_api_takes",)

_UNLINKED: Final = frozenset({"function_call_output", "tool_search_call", "tool_search_output"})
"""Kinds that the Responses API takes without what pairs them."""


def only_what_the_api_takes(unit: Unit, scene: Scene) -> None:
    """Leave out what has no form in the target's API."""
    chat = scene.target.api == "chat"
    for entry in unit.entries:
        if entry.flags & ERASED:
            unit.leave_out(entry, GONE)
            continue
        reading = entry.reading
        rule = refused(reading.shape, scene.target)
        if rule is not None:
            unit.leave_out(entry, rule)
        elif reading.link is None and _needs_link(reading, chat=chat):
            unit.leave_out(entry, "nothing says which call it is, or is for")


def _needs_link(reading: Reading, *, chat: bool) -> bool:
    kind = reading.kind
    return kind is not None and kind.link is not None and (chat or reading.shape not in _UNLINKED)
