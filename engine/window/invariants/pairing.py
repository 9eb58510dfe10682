"""Every call has its output and every output its call, by kind and link, wherever they stand in the group.

An unpaired one is refused: "No tool output found for function call …", "No tool call found for function call output …".
"""

from __future__ import annotations

from typing import Final

from ...events import SEAL
from ..units import Scene, Unit

__all__ = ("calls_and_outputs_in_pairs",)

_OPTIONAL: Final = frozenset({"mcp_approval_request"})
"""Calls that may stand without an answer."""


def calls_and_outputs_in_pairs(unit: Unit, scene: Scene) -> None:  # noqa: ARG001 - one signature for all
    """Leave outputs without a call out, all but the first of several, and complete calls that have none."""
    answered: dict[tuple[str, str], int] = {}
    for entry in unit.group.entries:
        reading = entry.reading
        if reading.is_call and reading.link is not None and entry.seq not in unit.out:
            answered[reading.shape, reading.link] = -entry.seq
    _outputs(unit, answered)
    for entry in unit.group.entries:
        reading = entry.reading
        if not reading.is_call or entry.seq in unit.out or answered[reading.shape, reading.link or ""] > 0:
            continue
        kind = reading.kind
        if kind is not None and kind.sealed_by is not None:
            unit.sealed.append(entry)
        elif reading.shape not in _OPTIONAL:
            unit.leave_out(entry, "it has no output")


def _outputs(unit: Unit, answered: dict[tuple[str, str], int]) -> None:
    """Let each call have one output: the first, or the one that came in place of a seal."""
    chosen: dict[tuple[str, str], int] = {}
    for entry in unit.group.entries:
        reading = entry.reading
        if not reading.is_output or reading.link is None or entry.seq in unit.out:
            continue
        kind = reading.kind
        key = (kind.answers if kind and kind.answers else "", reading.link)
        if key not in answered:
            unit.leave_out(entry, "it has no call")
        elif key not in chosen:
            chosen[key] = entry.seq
        else:
            first = next(other for other in unit.group.entries if other.seq == chosen[key])
            if first.flags & SEAL:
                unit.out[first.seq] = f"superseded by the output at {entry.seq}"
                chosen[key] = entry.seq
            else:
                unit.leave_out(entry, f"superseded by the first output, at {first.seq}")
    answered.update(chosen)
