"""What a model thought goes back to it as text only where its backend wants that, and to nobody else.

Chat Completions has no reasoning of its own; compatible backends show what their models thought, and differ in what
they want of it: nothing, all, or that of turns in which tools were called, where they refuse to go on without it.
"""

from __future__ import annotations

from typing import Final

from ..units import Fit, Scene

__all__ = ("thoughts_where_they_are_wanted",)

_OTHERS: Final = "a thought goes back only to the model that had it"
_NO_TOOLS: Final = "its backend wants thoughts back only where tools were called"


def thoughts_where_they_are_wanted(fit: Fit, scene: Scene) -> None:
    """Leave out reasoning of other models, and what the target's backend does not want back."""
    if scene.target.api != "chat" or scene.target.thoughts == "never":
        return
    for entry in fit.made:
        if entry.reading.shape == "reasoning":
            if not scene.by_the_model(entry):
                fit.leave_out(entry, _OTHERS)
            elif scene.target.thoughts == "tool_turns" and not _with_tools(fit, scene):
                fit.leave_out(entry, _NO_TOOLS)


def _with_tools(fit: Fit, scene: Scene) -> bool:
    """Return whether a response called tools, or goes on with a turn in which they were called."""
    asked = scene.history.requests.get(fit.entries[0].response or 0)
    return any(entry.reading.is_call for entry in fit.made) or (asked is not None and asked.continues)
