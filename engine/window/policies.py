"""Policies: what goes first when a window is short of room. Pure, named, versioned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import BudgetExceeded
from .units import Unit

__all__ = ("Cut", "OldestTurns", "Policy")


class Policy(Protocol):
    """Decides which units a new cut drops or excerpts.

    A policy is asked only on overflow; in between, what it decided stands, so that the prefix of the window stays the
    same and the provider's prompt cache keeps serving it.
    """

    name: str
    version: int

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """Return a cut after which *units* fit *available* tokens.

        *frontier* holds the places of the units that cannot be dropped: the current turn's input and its last group.

        Raises:
            BudgetExceeded: they cannot fit.
        """
        ...


class Cut:
    """What a policy has decided: units dropped and excerpted, by place, and why."""

    __slots__ = ("dropped", "excerpted", "rule")

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.dropped: set[int] = set()
        self.excerpted: set[int] = set()


class OldestTurns:
    """The default: large tool outputs of older groups shrink to excerpts, then the oldest turns go, whole.

    A cut goes down to half of the room (the low-water mark), so that the next one is far away; but the last turn before
    the current one stays while it fits at all. When the current turn alone overflows, its older groups go likewise; its
    input and its last group stay.
    """

    name = "oldest-turns"
    version = 1

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """See `Policy.cut`."""
        total = sum(unit.cost for unit in units)
        cut = Cut(f"{self.name}@{self.version}: {total - available:,} tokens over {available:,}")
        low = available // 2
        total = self._excerpt([unit for unit in units if unit.at not in frontier], cut, total, low)
        total = self._drop_turns(units, cut, total, low, available, frontier)
        if total > available:
            total = self._drop_groups(units, cut, total, low, frontier)
        if total > available:
            total = self._excerpt([unit for unit in units if unit.at in frontier], cut, total, available)
        if total > available:
            raise BudgetExceeded(total, available)
        return cut

    def _excerpt(self, units: Sequence[Unit], cut: Cut, total: int, low: int) -> int:
        for unit in units:
            if total <= low:
                break
            if unit.lean < unit.cost:
                cut.excerpted.add(unit.at)
                total -= unit.cost - unit.lean
        return total

    def _drop_turns(
        self, units: Sequence[Unit], cut: Cut, total: int, low: int, available: int, frontier: frozenset[int]
    ) -> int:
        """Drop from the oldest, up to where a turn starts, and never into the turn that the frontier is in.

        The last turn before it goes only if there is no room for it at all: it is what the current one speaks of.
        """
        starts = [index for index, unit in enumerate(units) if unit.start]
        ends = [*starts[1:], len(units)] if starts else []
        begin = 0
        for end in ends:
            turn = units[begin:end]
            last = end < len(units) and any(unit.at in frontier for unit in units[end : ends[ends.index(end) + 1]])
            if total <= (available if last else low) or any(unit.at in frontier for unit in turn):
                break
            total = self._drop(turn, cut, total)
            begin = end
        return total

    def _drop_groups(self, units: Sequence[Unit], cut: Cut, total: int, low: int, frontier: frozenset[int]) -> int:
        for unit in units:
            if total <= low:
                break
            if unit.at not in frontier and unit.at not in cut.dropped:
                total = self._drop([unit], cut, total)
        return total

    def _drop(self, units: Sequence[Unit], cut: Cut, total: int) -> int:
        for unit in units:
            if unit.pinned:
                continue
            cut.dropped.add(unit.at)
            total -= unit.lean if unit.at in cut.excerpted else unit.cost
            cut.excerpted.discard(unit.at)
        return total
