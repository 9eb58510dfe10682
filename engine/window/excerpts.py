"""Excerpts: what stands for a large tool output when the window is short of room. Pure and byte-stable.

The log keeps the whole output; the model sees its beginning and its end and is told what is missing.
"""

from __future__ import annotations

from typing import Any, Final

from ..items import Item, parts

__all__ = ("HEAD", "TAIL", "excerpt")

# Changing these numbers changes what old requests render to: that needs a new renderer version.
_LARGE: Final = 2400
HEAD: Final = 800
TAIL: Final = 400
"""Characters that are shown of its beginning, and of its end."""
_KINDS: Final = ("function_call_output", "custom_tool_call_output")
"""Outputs that the API takes as plain text, whatever they were."""


def excerpt(item: Item) -> dict[str, Any] | None:
    """Return the item with a short output in place of its large one; None when it is no large tool output."""
    if item.get("type") not in _KINDS:
        return None
    pieces = list(parts(item))
    text = "\n".join(piece["text"] for piece in pieces if isinstance(piece.get("text"), str))
    others = [str(piece.get("type")) for piece in pieces if not isinstance(piece.get("text"), str)]
    if len(text) <= _LARGE and not others:
        return None
    said = [text]
    if len(text) > _LARGE:
        left = len(text) - HEAD - TAIL
        gap = f"[… {left:,} of {len(text):,} characters left out to fit the context window …]"
        said = [text[:HEAD], gap, text[-TAIL:]]
    said += [f"[{kind} left out to fit the context window]" for kind in others]
    return {**item, "output": "\n".join(filter(None, said))}
