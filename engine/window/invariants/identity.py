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
        if not scene.at_home(entry) or entry.seq in out or not _is_named(entry):
            without_ids(fit, _NAMELESS)
            return
    if len(made) < len(fit.entries):
        fit.strip([entry for entry in fit.entries if entry.reading.maker in ("input", "output")])


def without_ids(fit: Fit, rule: str) -> None:
    """Take the ids from a response, and leave out what cannot go without."""
    fit.strip(fit.entries)
    for entry in () if fit.settled else fit.made:
        if entry.reading.kind is not None and entry.reading.kind.needs_id:
            fit.leave_out(entry, rule)


def _is_named(entry: Entry) -> bool:
    """Return whether an item may keep its id: it is of the form that the API gives, and there if its kind needs one."""
    if entry.flags & (NAMED | MISNAMED) == NAMED:
        return True
    kind = entry.reading.kind
    return not (entry.flags & MISNAMED or (kind is not None and kind.needs_id))
