"""Replay: what was sent, from the log alone; and the log's answers in the place of a model.

No request body is stored. Each is rebuilt from its manifest, the items that it names and its settings, by the renderer
and the encoder of its day, and checked against the digest of what was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .encoders import Encoder, Encoders, Piecewise, encoders
from .rebuilding import Rebuilt, rebuild
from .verifying import Damage, Divergence, Report, Verifier, verify

if TYPE_CHECKING:
    from .recorded import RecordedModel

__all__ = (
    "Damage",
    "Divergence",
    "Encoder",
    "Encoders",
    "Piecewise",
    "Rebuilt",
    "RecordedModel",
    "Report",
    "Verifier",
    "encoders",
    "rebuild",
    "verify",
)


def __getattr__(name: str) -> Any:
    if name == "RecordedModel":  # only who plays recordings pays for the adapters that it looks for
        from .recorded import RecordedModel  # noqa: PLC0415

        return RecordedModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
