"""Only item kinds that the target's API takes are sent to it."""

from __future__ import annotations

from typing import Final

from ...events import ERASED
from ...history import Entry
from ..kinds import refused
from ..units import GONE, Fit, Scene

__all__ = ("only_what_the_api_takes",)

_UNFIT: Final = "the server has refused it"

_UNLINKED: Final = frozenset({"function_call_output", "tool_search_call", "tool_search_output"})
"""Kinds that the Responses API takes without what pairs them; of searches, those that it carries out itself."""


def only_what_the_api_takes(fit: Fit, scene: Scene) -> None:
    """Leave out what has no form in the target's API."""
    chat = scene.target.api == "chat"
    for entry in fit.entries:
        if entry.flags & ERASED:
            fit.leave_out(entry, GONE)
            continue
        rule = _UNFIT if entry.seq in scene.unfit else refused(entry.reading.shape, scene.target)
        if rule is not None:
            fit.leave_out(entry, rule)
        elif entry.reading.link is None and _needs_link(entry, chat=chat):
            fit.leave_out(entry, "nothing says which call it is, or is for")


def _needs_link(entry: Entry, *, chat: bool) -> bool:
    shape, kind = entry.reading.shape, entry.reading.kind
    if kind is None or kind.link is None or not kind.owed:
        return False
    owed = shape == "tool_search_call" and entry.value().get("execution") == "client"
    return chat or owed or shape not in _UNLINKED
