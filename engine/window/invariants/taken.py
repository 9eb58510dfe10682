"""Only item kinds that the target's API takes are sent to it."""

from __future__ import annotations

from typing import Any, Final

from ...events import ERASED, ODD, SURPLUS, UNPLACED, WANTING
from ...fields import surplus, wanting
from ...forms import mended, says_more, unplaced
from ...groups import Entry
from ..kinds import knows_phases, refused
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
        elif entry.flags & WANTING and not scene.at_home(entry):
            fit.leave_out(entry, _lack(entry))
        elif entry.flags & (ODD | UNPLACED | SURPLUS):
            _note(fit, entry, scene, chat=chat)


def _lack(entry: Entry) -> str:
    """Return what an entry has not that its kind needs: only the backend that gave it so may take it so."""
    lack = next(wanting(entry.value(), entry.reading.shape), None)
    return f"the API would refuse it: {lack.needs}" if lack else "the API would refuse it"


def _note(fit: Fit, entry: Entry, scene: Scene, *, chat: bool) -> None:
    """Note what of an entry is not sent as it is."""
    shape, notes = entry.reading.shape, list[str]()
    item: dict[str, Any] = entry.value() if chat or entry.flags & (ODD | SURPLUS) else {}
    put_right = mended(item, shape, chat=chat) if entry.flags & ODD else item
    if put_right is not item:
        notes.append("put right where the API would refuse it")
    if entry.flags & SURPLUS and not scene.at_home(entry):
        fit.trim(entry)
        notes.append(f"without {', '.join(surplus(put_right, shape))}, which this API does not take")
    if not chat and shape == "assistant" and _is_phase_unknown(entry, scene):
        fit.trim(entry)
        notes.append("without its phase, which another backend may not know")
    if chat and entry.flags & UNPLACED:
        if says_more(item, shape):
            fit.trim(entry)
        notes.append(f"without {', '.join(unplaced(item, shape))}, which Chat Completions has no place for")
    if notes:
        fit.note(entry, ", ".join(notes))


def _is_phase_unknown(entry: Entry, scene: Scene) -> bool:
    if not entry.flags & UNPLACED or scene.at_home(entry) or knows_phases(scene.target):
        return False
    return entry.value().get("phase") is not None


def _needs_link(entry: Entry, *, chat: bool) -> bool:
    shape, kind = entry.reading.shape, entry.reading.kind
    if kind is None or kind.link is None or not kind.owed:
        return False
    owed = shape == "tool_search_call" and entry.value().get("execution") == "client"
    return chat or owed or shape not in _UNLINKED
