"""Ids go only where the API accepts them: to the backend that gave them, with the response they came in, whole.

Kinds that the API takes only with an id are left out where the id must go. What a caller said needs none.
"""

from __future__ import annotations

from typing import Final

from ...events import MISNAMED, NAMED
from ...groups import Entry
from ..units import Fit, Scene, of_ids

__all__ = ("ids_only_where_accepted", "without_ids")

_NAMELESS: Final = "the API takes it only with its id, which means nothing without its whole response"
_UNFOUND: Final = "the server does not find it under its id, and takes it only with one"


@of_ids
def ids_only_where_accepted(fit: Fit, scene: Scene) -> None:
    """Take the ids from what callers said, and from a response that is not whole or from elsewhere."""
    if scene.target.api == "chat":
        return
    made, out = fit.made, fit.out
    if made and made[0].seq <= scene.unnamed:
        without_ids(fit, _UNFOUND)
        return
    for entry in made:
        if entry.seq in out or not _at_home(entry, scene):
            without_ids(fit, _NAMELESS)
            return
    if len(made) < len(fit.entries):
        fit.strip([entry for entry in fit.entries if entry.reading.maker in ("input", "output")])


def without_ids(fit: Fit, rule: str) -> None:
    """Take the ids from a response, and leave out what cannot go without."""
    fit.strip(fit.entries)
    for entry in fit.made:
        if entry.reading.kind is not None and entry.reading.kind.needs_id:
            fit.leave_out(entry, rule)


def _at_home(entry: Entry, scene: Scene) -> bool:
    """Return whether an item may keep its id: the target's own backend gave it, in the form that it gives."""
    if entry.flags & MISNAMED:
        return False
    kind = entry.reading.kind
    if kind is not None and kind.needs_id and not entry.flags & NAMED:
        return False
    return scene.at_home(entry)
