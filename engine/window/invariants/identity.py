"""Ids go only where the API accepts them: to the backend that gave them, with the response they came in, whole.

Kinds that the API takes only with an id are left out where the id must go.
"""

from __future__ import annotations

from ...events import MISNAMED, NAMED
from ...history import Entry
from ..units import Scene, Unit

__all__ = ("ids_only_where_accepted",)


def ids_only_where_accepted(unit: Unit, scene: Scene) -> None:
    """Take the ids from a unit that is not whole, or from elsewhere; leave out what cannot go without."""
    if scene.target.api == "chat":
        return
    made = [entry for entry in unit.group.entries if entry.reading.maker == "model"]
    if not made:
        unit.bare = any(entry.flags & MISNAMED for entry in unit.group.entries)
        return
    unit.bare = not all(entry.seq not in unit.out and _at_home(entry, scene) for entry in made)
    if not unit.bare:
        return
    for entry in made:
        kind = entry.reading.kind
        if kind is not None and kind.needs_id:
            unit.leave_out(entry, "the API takes it only with its id, which means nothing without its whole response")


def _at_home(entry: Entry, scene: Scene) -> bool:
    """Return whether an item may keep its id: the target's own backend gave it, in the form that it gives."""
    if entry.flags & MISNAMED:
        return False
    kind = entry.reading.kind
    if kind is not None and kind.needs_id and not entry.flags & NAMED:
        return False
    return scene.at_home(entry)
