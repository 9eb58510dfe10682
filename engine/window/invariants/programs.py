"""A program that is over stands with its output, and an output with its program, in whichever answers the two came.

A provider runs programs, and may do so over several requests, since what a program calls is the caller's to answer. So
the two may be of different groups, of which a cut may leave one. Only the latest answer's program may still be running.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final

from ...groups import Entry
from ..units import Scene, Unit
from .identity import without_ids
from .pairing import outputs_with_their_calls

__all__ = ("programs_with_their_outputs",)

_ENDLESS: Final = "it has no output"


def programs_with_their_outputs(units: Sequence[Unit], scene: Scene) -> None:
    """Leave out programs without output and outputs without program; *units* are what is sent, in order."""
    # What goes may take others of its answer along, programs too, whose outputs are left alone then.
    while _leave_out_the_lone(units, scene):
        pass


def _leave_out_the_lone(units: Sequence[Unit], scene: Scene) -> bool:
    """Leave out what has no other half; return whether there was any."""
    lone: list[tuple[Unit, Entry, str]] = []
    programs: dict[str, tuple[Unit, Entry]] = {}
    latest = next((unit for unit in reversed(units) if unit.group.maker == "model" and not unit.fit.empty), None)
    for unit in [unit for unit in units if not unit.fit.settled]:
        for entry in unit.entries:
            if entry.reading.shape not in ("program", "program_output") or entry.seq in unit.fit.out:
                continue
            link = str(entry.value().get("call_id"))
            begun = programs.pop(link, None)
            if entry.reading.shape == "program":
                programs[link] = unit, entry
                if begun is not None:  # ids may come back: an output is for the latest
                    lone.append((*begun, _ENDLESS))
            elif begun is None:
                lone.append((unit, entry, "its program is not sent"))
    lone += [(unit, entry, _ENDLESS) for unit, entry in programs.values() if unit is not latest]
    for unit, entry, rule in lone:
        _leave_out(unit, entry, rule, scene)
    return bool(lone)


def _leave_out(unit: Unit, entry: Entry, rule: str, scene: Scene) -> None:
    # How the group fits elsewhere does not depend on what else is sent here.
    unit.fit = fit = copy(unit.fit)
    fit.leave_out(entry, rule)
    without_ids(fit, "its response is not sent whole")
    outputs_with_their_calls(fit, scene)
    fit.weigh(scene)
