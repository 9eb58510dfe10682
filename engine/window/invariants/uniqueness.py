"""No id occurs twice in a window: what is sent again goes without ids.

A second item of one id is refused ("Duplicate item found with id …"). A caller who appends an answer's output that is
in the log already makes such pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final

from ..units import IDS, Scene, Unit
from .identity import without_ids
from .pairing import outputs_with_their_calls

__all__ = ("each_id_once",)

_AGAIN: Final = "the API takes it only with its id, which an earlier item has"


def each_id_once(units: Sequence[Unit], scene: Scene) -> None:
    """Take the ids from units in which one is repeated; *units* are what is sent, in order."""
    if scene.target.api == "chat":
        return
    seen: set[str] = set()
    for unit in [unit for unit in units if unit.fit.flags & IDS]:
        ids = unit.fit.ids
        if not ids:
            continue
        if seen.isdisjoint(ids) and len(set(ids)) == len(ids):
            seen.update(ids)
            continue
        # How the group fits elsewhere does not depend on what stands before it here.
        unit.fit = fit = copy(unit.fit)
        without_ids(fit, _AGAIN)
        outputs_with_their_calls(fit, scene)
        fit.weigh(scene)
