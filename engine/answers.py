"""First outputs: a call has one, and the first stands. What an append has to find out for that, and from what. Pure.

What is said aside is no part of the conversation: its calls and outputs are of themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from .errors import Invalid
from .events import ASIDE, SEAL, NewEvent
from .items import IN_ORDER, reading

__all__ = ("LATEST", "Linked", "first_outputs", "standing")

LATEST: Final = 64
"""How many of a link are looked at, the newest: what came since its last call is among them."""
Linked: TypeAlias = tuple[int, str | None, int]
"""Of a call or an output in the log: its seq, its shape, its flags."""


def first_outputs(conversation: str, events: Iterable[NewEvent]) -> Sequence[str]:
    """Return the links of calls, not among *events* themselves, that outputs among them are for.

    Raises:
        Invalid: two outputs for one call.
    """
    wanted: list[str] = []
    answered: dict[str, bool] = {}
    searches = 0
    for one in events:
        if one.link is None or one.flags & ASIDE:
            continue
        if one.link == IN_ORDER:
            searches += -1 if reading(one.shape or "", one.link).is_output else 1
            if searches < 0 and IN_ORDER not in wanted:
                wanted.append(IN_ORDER)
            continue
        if not reading(one.shape or "", one.link).is_output:
            answered[one.link] = False  # the call is made anew
        elif answered.get(one.link):
            raise Invalid(f"{conversation}: two outputs for call {one.link}; a call has one")
        else:
            if one.link not in answered:
                wanted.append(one.link)
            answered[one.link] = True
    return wanted


def standing(link: str, linked: Iterable[Linked]) -> int | None:
    """Return the seq of the output that the last call of a link has, None without one; a seal is none.

    *linked* is what the log has of the link, in order, the newest `LATEST` at least. Of calls that are answered in
    order, one without an output leaves room for one.
    """
    answer: int | None = None
    linked = [one for one in linked if not one[2] & ASIDE]
    if link == IN_ORDER:
        waiting = 0
        for seq, shape, _ in linked:
            is_output = reading(shape or "", link).is_output
            waiting, answer = (max(0, waiting - 1), seq) if is_output else (waiting + 1, answer)
        return None if waiting else answer
    for seq, shape, flags in linked:
        if not reading(shape or "", link).is_output:
            answer = None
        elif answer is None and not flags & SEAL:
            answer = seq
    return answer
