"""Only item kinds that the target's API takes are sent to it.

Source: the input item union of `POST /responses`; the message roles and tool call types of `POST /chat/completions`.
"""

from __future__ import annotations

from typing import Final

from ...items import ROLES
from ..units import Scene, Unit

__all__ = ("CHAT", "only_what_the_api_takes")

CHAT: Final = ROLES | {
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
}
"""The kinds that have a form in Chat Completions."""
_NOT_STATELESS: Final = frozenset({"item_reference", "compaction_trigger", "unknown", "message"})


def only_what_the_api_takes(unit: Unit, scene: Scene) -> None:
    """Leave out what has no form in the target's API."""
    chat = scene.target.api == "chat"
    for entry in unit.group.entries:
        shape = entry.reading.shape
        if chat and shape not in CHAT:
            unit.leave_out(entry, f"Chat Completions has no {shape}")
        elif not chat and shape in _NOT_STATELESS:
            unit.leave_out(entry, f"a stateless request takes no {shape}")
