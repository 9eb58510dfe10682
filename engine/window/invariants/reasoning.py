"""Reasoning stays with what it led to, both ways; else none of its response's reasoning goes.

Reasoning with nothing behind it is refused ("provided without its required following item"), and so is an item with its
id but without the reasoning it was born with. What follows must be what the model made, under the id that it was given:
a message written without one does not count. A response that is not whole is therefore sent without any reasoning, and
`identity` takes the ids from the rest. In Chat Completions a thought is a field of the message that it led to, and goes
with it.
"""

from __future__ import annotations

from typing import Final

from ...events import NAMED
from ..units import Fit, Scene

__all__ = ("reasoning_with_what_it_led_to",)

_NOTHING: Final = "nothing follows it"


def reasoning_with_what_it_led_to(fit: Fit, scene: Scene) -> None:
    """Leave a response's reasoning out unless all that the model made is there and follows it."""
    thoughts = [entry for entry in fit.made if entry.reading.shape == "reasoning"]
    if not thoughts:
        return
    if scene.target.api == "chat":
        alone = all(entry.seq in fit.out for entry in fit.made if entry.reading.shape != "reasoning")
        for entry in thoughts if alone else ():
            fit.leave_out(entry, _NOTHING)
        return
    whole = all(entry.seq not in fit.out and entry.flags & NAMED for entry in fit.made)
    if whole and fit.made[-1].reading.shape != "reasoning":
        return
    rule = _NOTHING if whole else "its response is not sent whole"
    for entry in thoughts:
        fit.leave_out(entry, rule)
