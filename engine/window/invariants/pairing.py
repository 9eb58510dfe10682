"""Every call has its output and every output its call, by kind and link, wherever they stand in the group.

An unpaired one is refused: "No tool output found for function call …", "No tool call found for function call output …".
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ...events import SEAL
from ...history import Entry
from ..units import Fit, Scene

__all__ = ("calls_with_their_outputs", "outputs_with_their_calls")

_OPTIONAL: Final = frozenset({"mcp_approval_request"})
"""Calls that may stand without an answer."""
_Pair: TypeAlias = tuple[str, str | None]


def calls_with_their_outputs(fit: Fit, scene: Scene) -> None:  # noqa: ARG001 - one signature for all
    """Follow calls that have no output with a stand-in; leave out those that can have none, or another call's id."""
    answered = {_answers(entry) for entry in fit.entries if entry.reading.is_output and entry.seq not in fit.out}
    seen: set[_Pair] = set()
    for entry in fit.made:
        reading = entry.reading
        if not reading.is_call or entry.seq in fit.out:
            continue
        pair = reading.shape, reading.link
        if pair in seen:
            fit.leave_out(entry, "another call of its response has the same id")
        elif pair not in answered:
            _complete(fit, entry)
        seen.add(pair)


def _complete(fit: Fit, call: Entry) -> None:
    kind = call.reading.kind
    if kind is not None and kind.sealed_by is not None:
        fit.seal(call)
    elif call.reading.shape not in _OPTIONAL:
        fit.leave_out(call, "it has no output")


def outputs_with_their_calls(fit: Fit, scene: Scene) -> None:  # noqa: ARG001 - one signature for all
    """Let each call that is sent have one output, the first that is no seal, and leave all others out."""
    calls = {
        (entry.reading.shape, entry.reading.link)
        for entry in fit.made
        if entry.reading.is_call and entry.seq not in fit.out
    }
    chosen: dict[_Pair, Entry] = {}
    for entry in fit.entries:
        if not entry.reading.is_output or entry.seq in fit.out:
            continue
        pair = _answers(entry)
        first = chosen.get(pair)
        if pair not in calls:
            fit.leave_out(entry, "its call is not sent")
        elif first is None:
            chosen[pair] = entry
        elif first.flags & SEAL and not entry.flags & SEAL:
            fit.leave_out(first, f"superseded by the output at {entry.seq}")
            chosen[pair] = entry
        else:
            fit.leave_out(entry, f"superseded by the first output, at {first.seq}")


def _answers(output: Entry) -> _Pair:
    """Return the kind and link of the call that an output is for."""
    kind = output.reading.kind
    return (kind.answers if kind and kind.answers else ""), output.reading.link
