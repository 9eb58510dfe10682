"""Choosing: from a history and a budget to a manifest. Pure: no clock, no chance, no I/O.

Choosing starts from the line's last manifest and keeps its cut while it fits, adding what is new. On overflow the
policy makes one new cut. So between two cuts a window only grows at its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from ..canonical import canonical
from ..errors import BudgetExceeded
from ..events import Target
from ..history import History
from ..manifest import SENT, Manifest
from ..tokens import factor_of, scaled
from .account import Account
from .budget import Budget, room
from .invariants import INVARIANTS
from .policies import Cut, Policy
from .units import Scene, Unit, units_of

__all__ = ("Deeper", "Request", "choose", "line_of")


class Deeper(Exception):
    """The history does not reach back far enough to decide."""


class Request(NamedTuple):
    """What is known of a request before its window is chosen."""

    target: Target
    budget: Budget
    reserve: int
    overhead: int = 0
    """Counted tokens of everything but the items."""
    weights: Mapping[int, tuple[int, int | None]] | None = None
    """Tokens by another counter than the log's, by seq: (whole, excerpt)."""


def line_of(policy: Policy, budget: Budget, target: Target) -> str:
    """Return the short name of the requests that continue one another's cut: same policy, budget and target."""
    parts = [policy.name, policy.version, budget.context, budget.reserve, *msgspec.structs.astuple(target)]
    return hashlib.sha256(canonical(parts)).hexdigest()[:12]


def choose(history: History, request: Request, policy: Policy) -> Manifest:
    """Return the manifest of the next window.

    Raises:
        BudgetExceeded: what must be sent does not fit.
        Deeper: older events have to be loaded first.
    """
    return _Choice(history, request, policy).manifest()


class _Choice:
    """One decision: what the line's last manifest kept, what is new, and, if that is too much, a new cut."""

    def __init__(self, history: History, request: Request, policy: Policy) -> None:
        self.history = history
        self.request = request
        self.policy = policy
        self.line = line_of(policy, request.budget, request.target)
        self.last = history.previous(self.line)
        self.units = units_of(Scene(history, request.target, request.weights), INVARIANTS)
        self.fixed = sum(entry.tokens for entry in history.early) + (history.base[0].tokens if history.base else 0)
        self.dropped: set[int] = set()
        self.excerpted: set[int] = set()
        if self.last is not None:
            for unit in self.units:
                self._continue(unit, self.last)

    def _continue(self, unit: Unit, last: Manifest) -> None:
        """Give a unit the fate that it had in the last window."""
        seqs = [entry.seq for entry in unit.group.entries if entry.seq <= last.as_of]
        if not seqs or unit.pinned or unit.empty:
            return
        fates = {last.fate(seq) for seq in seqs}
        if "excerpted" in fates:
            self.excerpted.add(unit.at)
        elif not fates & SENT and (seqs[0] < last.cut or "dropped" in fates):
            self.dropped.add(unit.at)

    def manifest(self) -> Manifest:
        observed = self._observed()
        factor = max(self.last.factor, observed or 0) if self.last else 1000
        available = self._room(factor)
        rule = ""
        if self._total() > available:
            # The factor may come down again only here: a lower one in between would let dropped items back in.
            factor = observed or factor
            cut = self._cut(self._room(factor))
            self.dropped |= cut.dropped
            self.excerpted = (self.excerpted | cut.excerpted) - cut.dropped
            if self._total() > self._room(factor):
                raise BudgetExceeded(scaled(self._total(), factor), scaled(self._room(factor), factor), cut.rule)
            rule = cut.rule
        elif self._short:
            raise Deeper
        account = Account(self.history, self.request.overhead, self.last, rule)
        account.enter(self.units, self.dropped, self.excerpted)
        return account.manifest(
            policy=f"{self.policy.name}@{self.policy.version}",
            line=self.line,
            factor=factor,
            context=self.request.budget.context,
            reserve=self.request.reserve,
            items=self._total(),
        )

    @property
    def _short(self) -> bool:
        """Whether there may be more to send than what is loaded."""
        return self.history.floor > max(self.history.start, self.last.cut - 1 if self.last else 0)

    def _room(self, factor: int) -> int:
        return room(self.request.budget.context, self.request.reserve, self.request.overhead, factor)

    def _total(self) -> int:
        return self.fixed + sum(
            unit.lean if unit.at in self.excerpted else unit.cost for unit in self.units if unit.at not in self.dropped
        )

    def _observed(self) -> int | None:
        """Return the factor that the line's last answer showed, None before the first."""
        usage = self.history.reported.get(self.history.line_of.get(self.line, 0))
        if self.last is None or usage is None or usage.input_tokens <= 0:
            return None
        return factor_of(self.last.items + self.last.overhead, usage.input_tokens)

    def _cut(self, available: int) -> Cut:
        """Ask the policy for a new cut of what was to be sent."""
        candidates = [unit for unit in self.units if unit.at not in self.dropped and not unit.empty]
        frontier = _frontier(candidates)
        left = available - self.fixed
        # What a deeper history would add is older, and would be dropped first: but only if there is a turn to stop at,
        # and more than the low-water mark to come down from.
        if self._short and (
            not any(unit.start for unit in candidates) or sum(unit.lean for unit in candidates) <= left
        ):
            raise Deeper
        try:
            return self.policy.cut(candidates, left, frontier)
        except BudgetExceeded as error:
            # The policy speaks of items alone, uncorrected; the caller knows whole requests.
            factor = self.last.factor if self.last else 1000
            needed = scaled(error.needed + self.fixed + self.request.overhead, factor)
            raise BudgetExceeded(needed, self.request.budget.context - self.request.reserve) from None


def _frontier(units: Sequence[Unit]) -> frozenset[int]:
    """Return the places of the current turn's input, its last group, and what came behind that."""
    begin = next((index for index in range(len(units) - 1, -1, -1) if units[index].start), 0)
    turn = units[begin:]
    answers = [index for index, unit in enumerate(turn) if unit.group.entries[0].reading.maker == "model"]
    if not answers:
        return frozenset(unit.at for unit in turn)
    return frozenset(unit.at for unit in [*turn[: answers[0]], *turn[answers[-1] :]])
