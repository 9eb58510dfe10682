"""Every call has its output and every output its call, by kind and link, wherever they stand in the group.

An unpaired one is refused: "No tool output found for function call …", "No tool call found for function call output …".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from ...events import SEAL
from ...groups import Entry
from ...items import IN_ORDER
from ..units import Fit, Scene

__all__ = ("calls_with_their_outputs", "outputs_with_their_calls")

_OPTIONAL: Final = frozenset({"mcp_approval_request"})
"""Calls that may stand without an answer."""
_Pair: TypeAlias = tuple[str, str | int]


def calls_with_their_outputs(fit: Fit, scene: Scene) -> None:  # noqa: ARG001 - one signature for all
    """Follow calls that have no output with a stand-in; leave out those that can have none, or another call's id."""
    pairs = _pairs(fit.entries)
    answered = {pairs[one.seq] for one in fit.entries if one.reading.is_output and one.seq not in fit.out}
    seen: set[_Pair] = set()
    for entry in fit.made:
        reading = entry.reading
        if not reading.is_call or entry.seq in fit.out:
            continue
        pair = pairs[entry.seq]
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
    pairs = _pairs(fit.entries)
    calls = {pairs[one.seq] for one in fit.made if one.reading.is_call and one.seq not in fit.out}
    chosen: dict[_Pair, Entry] = {}
    for entry in fit.entries:
        if not entry.reading.is_output or entry.seq in fit.out:
            continue
        pair = pairs[entry.seq]
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


def _pairs(entries: Iterable[Entry]) -> dict[int, _Pair]:
    """Return the kind and link of each call, and of the call that each output is for, by seq.

    Those without a link are numbered, calls and outputs each in their order.
    """
    pairs: dict[int, _Pair] = {}
    calls = outputs = 0
    for entry in entries:
        form = entry.reading
        if form.is_call:
            nth, calls = calls, calls + (form.link == IN_ORDER)
            pairs[entry.seq] = form.shape, form.link or nth
        elif form.is_output:
            nth, outputs = outputs, outputs + (form.link == IN_ORDER)
            pairs[entry.seq] = (form.kind.answers if form.kind and form.kind.answers else ""), form.link or nth
    return pairs
