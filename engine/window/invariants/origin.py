"""Encrypted content goes only to who made it; hosted items only to the backend they came from.

Another organisation, backend or model answers foreign encrypted content with `invalid_encrypted_content`. An item of a
hosted tool refers to state on its own backend.
"""

from __future__ import annotations

from typing import Final

from ...events import SECRET
from ..units import Fit, Scene

__all__ = ("secrets_only_to_their_maker",)

_READABLE: Final = frozenset({"assistant", "function_call", "custom_tool_call"})
"""What a model makes that every backend can read."""


def secrets_only_to_their_maker(fit: Fit, scene: Scene) -> None:
    """Leave out encrypted content of another origin, and hosted items of another backend."""
    for entry in fit.entries:
        reading = entry.reading
        shape = reading.shape
        if reading.maker in ("input", "output") or shape in _READABLE:
            continue
        if shape in ("reasoning", "compaction") or entry.flags & SECRET:
            if not entry.flags & SECRET and scene.target.api == "chat":
                continue  # it goes as text, where it goes
            if not entry.flags & SECRET:
                fit.leave_out(entry, f"a stateless API keeps no {shape} without encrypted content")
            elif not scene.by_the_model(entry):
                fit.leave_out(entry, f"only its maker can read this {shape}")
            elif entry.seq <= scene.unread:
                fit.leave_out(entry, f"its maker has refused to read this {shape}")
        elif not reading.is_call and entry.response is not None and not scene.at_home(entry):
            fit.leave_out(entry, f"a {shape} means nothing to another backend")
