"""Policies: what goes first when a window is short of room. Pure, named, versioned, composed of parts.

policy = Composed(Pinned(first=1), Excerpts(), DropTurns(keep=3), LeaveRoom(4_000))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import BudgetExceeded, Invalid
from .cutting import Cut, Draft, Policy, check_policy
from .parts import LOW, DropTurns, Excerpts, LastTurns, LeaveRoom, Part, Pinned, check_part
from .units import Unit

__all__ = (
    "Composed",
    "Cut",
    "Draft",
    "DropTurns",
    "Excerpts",
    "LastTurns",
    "LeaveRoom",
    "OldestTurns",
    "Part",
    "Pinned",
    "Policy",
    "check_policy",
)


class Composed:
    """A policy made of parts: what they pin stays, and they shrink the window one after the other, in their order.

    What is still too much after that goes whatever the parts say, but for what is pinned and the frontier: turns from
    the oldest on, then groups, then what is large in the last one. So a window fits whenever one can. A composed policy
    may itself be a part of another.

    Its name is made of those of its parts, in their order, with the versions that are not their first: cuts made by
    other parts are never taken for its own.

    >>> Composed(Pinned(), OldestTurns(), LeaveRoom(4_000)).name
    'pinned+oldest-turns+leave-room(4000)'

    Raises:
        Invalid: there is no part, or one of them is none.
    """

    name: str
    version: int = 1
    """Of how parts are put together, and of the last resort."""

    def __init__(self, *parts: Part) -> None:
        if not parts:
            raise Invalid("Composed(): a part is needed, such as Excerpts()")
        for part in parts:
            check_part(part)
        self.parts = parts
        self.oldest_first = all(getattr(part, "oldest_first", False) for part in parts)
        if not hasattr(type(self), "name"):
            self.name = "+".join(map(_label, parts))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}@{self.version}>"

    def limit(self, available: int) -> int:
        """Return the tokens up to which a window may grow before it is cut: the fewest that a part names."""
        limits: list[int] = [limit(available) for limit in self._those_that("limit")]
        return max(0, min([available, *limits]))

    def pins(self, draft: Draft) -> Iterator[Unit]:
        """Yield what any part pins."""
        for pins in self._those_that("pins"):
            yield from pins(draft)

    def shrink(self, draft: Draft) -> None:
        """Let each part shrink the window."""
        for shrink in self._those_that("shrink"):
            shrink(draft)

    def _those_that(self, do: str) -> list[Callable[..., Any]]:
        return [getattr(part, do) for part in self.parts if hasattr(part, do)]

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """See `Policy.cut`."""
        draft = Draft(units, available, frontier, self.limit(available))
        draft.pin(self.pins(draft))
        self.shrink(draft)
        _make_fit(draft)
        return draft


class OldestTurns(Composed):
    """The default: large tool outputs of older groups shrink to excerpts, then the oldest turns go, whole.

    A cut goes down to half of the room (the low-water mark), so that the next one is far away; but the last turn before
    the current one stays while it fits at all. When the current turn alone overflows, its older groups go likewise; its
    input and its last group stay.
    """

    name = "oldest-turns"
    version = 1

    def __init__(self) -> None:
        super().__init__(Excerpts(), DropTurns())


def _label(part: Part) -> str:
    return part.name if part.version == 1 else f"{part.name}.{part.version}"


_turns = DropTurns()


def _make_fit(draft: Draft) -> None:
    """Take the last resort.

    Raises:
        BudgetExceeded: what cannot be dropped does not fit.
    """
    if draft.over():
        _turns.shrink(draft)
    if draft.over():
        for unit in draft.units:
            if draft.over(LOW):
                draft.drop(unit)
    for unit in draft.units:
        if draft.total > draft.available:
            draft.excerpt(unit)
    if draft.total > draft.available:
        raise BudgetExceeded(draft.total, draft.available)
