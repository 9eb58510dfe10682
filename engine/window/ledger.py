"""What the API's reports teach about the next request: what it adds to what was counted, and how sure that is. Pure.

A count is of what is sent; the API reports what the model read. What a report exceeds the count by comes back with the
next request. Where text is counted with the model's own vocabulary it is hidden: words of the provider's that nobody
sees, as many in a long request as in a short one. With another vocabulary it is mostly the text, which a factor makes
up for; but no vocabulary differs by more than half: two words under a hidden page show nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..events import PICTURED, SECRET, Target
from ..families import ANY_FAMILY, family_of
from ..history import Figures, History, figures_of
from ..kept import stateless
from ..tokens import Counter, Scale, factor_of, scaled
from .units import Unit

__all__ = ("Seen", "differs", "forgets", "forgotten", "seen")

_FRAME: Final = 256
"""Tokens that an API may put around a request without anybody seeing it."""
_SHORT: Final = 64
"""Of these, as many as are not put down to a foreign vocabulary."""
_STEEPEST: Final = 1500
_ITEM: Final = 6
"""Tokens by which what an API puts around one item may differ from what is counted for it."""
_ANSWERED: Final = 16
"""Tokens by which the frame may differ once the API has reported what it takes."""
_FOREIGN: Final = 500
_FITTED: Final = 100
"""Thousandths by which text may differ that was counted with another vocabulary: before and after a report."""


class Seen(NamedTuple):
    """What is known beside the counts."""

    factor: int = 0
    """Thousandths by which text was counted short; 0: nobody has looked."""
    hidden: int = 0
    """Counted tokens that the API was found to add to such requests."""
    doubt: int = 0
    """Tokens by which all but the items may be off."""
    share: int = 0
    """Thousandths by which text may be off: none with the model's own vocabulary."""
    forgets: bool = False
    """Whether the model is not shown its reasoning of earlier turns, although it is sent it."""

    def bound(self, tokens: int, estimated: int, items: int, factor: int) -> int:
        """Return by how much an estimate of *tokens* may be off: so many of them *estimated*, in so many items."""
        return scaled(estimated + _ITEM * items, factor) + self.doubt + scaled(tokens, self.share)


def seen(history: History, line: str, target: Target, overhead: int, *, own: bool, most: int) -> Seen:
    """Return what the line's last request has shown, else the latest one to the same target.

    *overhead* are the counted tokens of what is sent beside the items; *own* says that text is counted with the model's
    own vocabulary. No more than *most* are taken for hidden: a report may mislead, and a request must stay possible.
    """
    figures, reported = _last(history, line, target)
    if reported <= 0:
        return Seen(figures.factor, min(figures.hidden, most), _FRAME + overhead // 8, 0 if own else _FOREIGN)
    counted = figures.items + figures.overhead - figures.hidden
    shown = 1000 if own else min(_STEEPEST, factor_of(counted, reported - _SHORT))
    missing = reported - scaled(counted, max(figures.factor, shown))
    hidden = max(0, missing * 1000 // max(figures.factor, shown))
    return Seen(shown, min(hidden, most), _ANSWERED, 0 if own else _FITTED)


def _last(history: History, line: str, target: Target) -> tuple[Figures, int]:
    """Return the figures of the request to go by, and the input that was reported of it, 0 where nothing was."""
    record, latest = history.lines.get(line), history.last_asked()
    if record is not None:
        figures, usage = figures_of(record), history.reported.get(record.seq)
    elif latest is not None and stateless(latest[0].target) == stateless(target):
        figures, usage = latest[0].manifest, latest[1]
    else:
        return Figures(), 0
    return figures, usage.input_tokens if usage else 0


def forgets(model: str, api: str, params: Mapping[str, Any]) -> bool:
    """Return whether a model is not shown again what it thought before the last user message."""
    if api != "responses":
        return False  # there is no encrypted reasoning
    reasoning = params.get("reasoning")
    context = reasoning.get("context") if isinstance(reasoning, Mapping) else None
    return context == "current_turn" or (context in (None, "auto") and (family_of(model) or ANY_FAMILY).forgets)


def forgotten(units: Sequence[Unit]) -> dict[int, int]:
    """Return what of units in order a model that forgets is sent and not shown: its counted tokens, by seq."""
    spoken = (index for index in range(len(units) - 1, -1, -1) if units[index].entries[0].reading.shape == "user")
    return {
        entry.seq: unit.fit.weight(entry)[0]
        for unit in units[: next(spoken, 0)]
        if unit.fit.flags & SECRET
        for entry in unit.entries
        if entry.flags & SECRET and entry.reading.shape == "reasoning" and entry.seq not in unit.fit.out
    }


def differs(counter: Counter, history: History) -> bool:
    """Return whether what is loaded weighs something else by a counter than the log says."""
    if not isinstance(counter, Scale) or not counter.alike:
        return True
    return any(group.flags & PICTURED for group in history.groups.values())
