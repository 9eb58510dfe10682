"""Choosing: from a history and a budget to a manifest. Pure: no clock, no chance, no I/O.

Choosing starts from the line's last manifest and keeps its cut while it fits, adding what is new. On overflow the
policy makes one new cut. So between two cuts a window only grows at its end.

How much of the log is loaded makes no difference to what is chosen: below the last cut only what that manifest sent
counts, and where less than that is loaded, either what is there decides alone or `Deeper` asks for more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from ..canonical import canonical
from ..compaction import weight
from ..errors import BudgetExceeded
from ..events import Target
from ..groups import Group
from ..history import History, deep
from ..kept import stateless
from ..manifest import Fates, Manifest
from ..tokens import factor_of, scaled
from .account import Account
from .budget import Budget, room
from .cutting import Policy, blamed, check_cut, limit_of
from .invariants import BETWEEN, INVARIANTS
from .ledger import Seen, forgotten
from .units import Scene, Unit, Weights, mark_turns, units_of

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
    weights: Weights | None = None
    """Tokens by another counter than the log's."""
    front: str | None = None
    """What stands in front of the items, see `Manifest.front`; None: taken for what it was before."""
    seen: Seen = Seen()
    """What the API has reported of such requests."""
    refused: int = 0
    """Counted tokens that the server has just found too many; 0: it has not."""
    unread: int = 0
    """Encrypted content up to this seq has just been refused by its maker."""
    unnamed: int = 0
    """Items up to this seq have just not been found under their ids."""
    unfit: tuple[int, ...] = ()
    """Items that the server has just refused to take back."""


def line_of(policy: Policy, budget: Budget, target: Target) -> str:
    """Return the short name of the requests that continue one another's cut: same policy, budget and target.

    How the server keeps state is no part of it: it changes what is sent, not what the model sees.
    """
    return _line(policy.name, policy.version, budget, stateless(target))


@lru_cache(256)
def _line(name: str, version: int, budget: Budget, target: Target) -> str:
    whom = [target.api, target.backend, target.model, target.state]
    thoughts = [] if target.thoughts == "never" else [target.thoughts]
    parts = [name, version, budget.context, budget.reserve, *whom, *thoughts]
    return hashlib.sha256(canonical(parts)).hexdigest()[:12]


def choose(history: History, request: Request, policy: Policy) -> Manifest:
    """Return the manifest of the next window.

    Raises:
        BudgetExceeded: what must be sent does not fit.
        Deeper: older events have to be loaded first.
    """
    floor = _floor(history, request, policy)
    if floor > history.floor:
        with suppress(Deeper):
            return _Choice(history, request, policy, floor).manifest()
    return _Choice(history, request, policy, history.floor).manifest()


def _floor(history: History, request: Request, policy: Policy) -> int:
    """Return below which seq what is loaded need not be looked at, to decide as if it had not been loaded.

    So the windows of a history that has grown cost no more than its first, which was not loaded any deeper than that.
    """
    line = line_of(policy, request.budget, request.target)
    if history.lines.get(line) is not None or not getattr(policy, "oldest_first", False):
        return history.floor
    return max(history.floor, history.last_of(deep(request.budget.context)) - 1)


class _Choice:
    """One decision: what the line's last manifest kept, what is new, and, if that is too much, a new cut."""

    def __init__(self, history: History, request: Request, policy: Policy, floor: int) -> None:
        self.history = history
        self.floor = floor
        """What is not above it counts as not loaded."""
        self.request = request
        self.policy = policy
        self.line = line_of(policy, request.budget, request.target)
        previous = history.previous(self.line)
        self.seq: int = previous[0] if previous else 0
        self.last: Manifest | None = previous[1] if previous else None
        self.fates = Fates(self.last) if self.last else None
        self.cut = self.last.cut if self.last else 0
        self.begin = max(self.cut, history.start + 1)
        """What is older was decided before: dropped, unless it is pinned or the last window sent it."""
        self.short = floor >= self.begin
        """Whether there may be more to send than what is loaded."""
        self.refused = _least(request.refused, self.last.refused if self.last else 0)
        self.barred = _barred(request, self.last)
        self.scene = Scene(history, request.target, request.weights, **self.barred)
        self.units = units_of(self._considered(), self.scene, INVARIANTS)
        for unit in self.units:
            if self.fates and any(self.fates.of(entry.seq) == "excerpted" for entry in unit.entries):
                unit.shrink()
        self._limits: dict[int, int] = {}
        self.fixed = weight(*history.base, request.target) if history.base else 0
        """Counted tokens of what stands for compacted events."""
        if history.base and request.weights and request.weights.base is not None:
            self.fixed = request.weights.base

    def _considered(self) -> Iterator[Group]:
        """Yield the groups that may be sent, in order."""
        history = self.history
        begin = max(self.begin, self.floor + 1)
        continued = self.last is not None and self.last.base == (history.base[0].seq if history.base else 0)
        for group in history.early:
            if not group.stray and (history.is_pinned(group) or (continued and self._was_sent(group))):
                yield group
        sent = [span for span in self.last.sent() if span[0] < begin] if self.last else []
        yield from [group for group in history.since(begin, sent) if not group.stray]

    def _was_sent(self, group: Group) -> bool:
        return self.fates is not None and any(self.fates.sent(entry.seq) for entry in group.entries)

    def manifest(self) -> Manifest:
        """Decide, and write down what was decided."""
        factor = max(self.last.factor, self._observed() or 0) if self.last else self._inherited()
        units, rule = self.units, ""
        total = self._total(units)
        if total > self._limit(factor):
            # Only here may the factor come down again: what is cut now need not be cut by an old error.
            factor = self._observed() or factor
            if total > self._limit(factor):
                units, rule = self._cut(factor)
        if self.short and not rule:
            raise Deeper
        units = [unit for unit in units if unit.at >= self.cut or unit.pinned or not unit.fit.empty]
        for holds in BETWEEN:
            holds(units, self.scene)
        account = Account(self.scene, units, self.cut, rule, self.last)
        items = self._total(units)
        return Manifest(
            policy=f"{self.policy.name}@{self.policy.version}",
            line=self.line,
            factor=factor,
            items=items,
            overhead=self.request.overhead,
            tokens=scaled(items + self.request.overhead, factor),
            hidden=self.request.seen.hidden,
            bound=self.request.seen.bound(
                scaled(items + self.request.overhead, factor), account.estimated, len(account.weights), factor
            ),
            context=self.request.budget.context,
            reserve=self.request.reserve,
            forked=self.history.forked,
            refused=self.refused,
            **self.barred,
            **self._shares(account.columns(exact=self.request.seen.share == 0)),
            **self._weighed(account),
        )

    def _weighed(self, account: Account) -> dict[str, Any]:
        """Return the manifest's columns about the tokens of single items, which are its items' in all."""
        unseen = forgotten(account.units) if self.request.seen.forgets else {}
        weights, base = account.weights, self.history.base
        if not (unseen or base or account.sealed):
            return {"weights": weights}
        weights = weights | dict.fromkeys(unseen, 0)
        if base:
            weights[base[0].seq] = self.fixed
        for call in account.sealed:
            weights[call] += self.scene.seal
        return {"weights": weights, "forgotten": set(unseen)}

    def _shares(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest's columns with what stands in front, without which nothing behind it is shared."""
        before = self.last.front if self.last else ""
        front = self.request.front
        return {**columns, "front": before} if front in (None, before) else {**columns, "front": front, "shared": 0}

    def _room(self, factor: int) -> int:
        left = room(self.request.budget.context, self.request.reserve, self.request.overhead, factor)
        # How far over it was, the server does not say.
        return min(left, max(0, self.refused - self.request.overhead) * 3 // 4) if self.refused else left

    def _limit(self, factor: int) -> int:
        """Return how many counted tokens of items a window may hold before the policy is asked."""
        if factor not in self._limits:
            left = self._room(factor)
            limit = limit_of(self.policy, left - self.fixed)
            self._limits[factor] = left if limit is None else min(left, self.fixed + max(0, limit))
        return self._limits[factor]

    def _total(self, units: Sequence[Unit]) -> int:
        total = self.fixed + sum([unit.fit.lean if unit.excerpted else unit.fit.cost for unit in units])
        return total - sum(forgotten(units).values()) if self.request.seen.forgets else total

    def _observed(self) -> int | None:
        """Return the factor that the line's last answer showed, None before the first."""
        usage = self.history.reported.get(self.seq)
        if self.last is None or usage is None or usage.input_tokens <= 0:
            return None
        return self.request.seen.factor or factor_of(self.last.items + self.last.overhead, usage.input_tokens)

    def _decidable(self, left: int) -> list[Unit]:
        """Return the units that a cut is made from, with their turns marked.

        Where not everything is loaded, what is there must hold a turn to stop at, and more than could be kept: then a
        policy that drops the oldest first would drop what is older in any case.
        """
        if not self.short:
            mark_turns(self.units)
            return self.units
        begin = self._first_answer()
        pinned, after = [unit for unit in self.units[:begin] if unit.pinned], self.units[begin:]
        # Behind those of which nothing is sent, a turn would seem to start at an answer: what is between is not here.
        mark_turns([*(unit for unit in pinned if not unit.fit.empty), *after])
        units = pinned + after
        if not (
            getattr(self.policy, "oldest_first", False)
            and any(unit.start for unit in after)
            and sum([unit.fit.lean for unit in units if not unit.fit.empty]) > left
        ):
            raise Deeper
        return units

    def _inherited(self) -> int:
        """Return the factor of the latest request, where it went to the same model: it holds whatever the budget is."""
        latest = self.history.last_asked()
        if latest is None or stateless(latest[0].target) != stateless(self.request.target):
            return 1000
        said, usage = latest[0].manifest, latest[1]
        reported = usage.input_tokens if usage else 0
        seen = self.request.seen.factor
        return max(said.factor, seen or (factor_of(said.items + said.overhead, reported) if reported > 0 else 0))

    def _cut(self, factor: int) -> tuple[list[Unit], str]:
        """Ask the policy for a new cut; return what is sent after it, and the rule."""
        left = self._room(factor) - self.fixed
        units = self._decidable(left)
        candidates = [unit for unit in units if not unit.fit.empty]
        frontier = _frontier(candidates)
        try:
            with blamed(self.policy, "cut"):
                cut = self.policy.cut(candidates, left, frontier)
        except BudgetExceeded as error:
            raise self._exceeded(error.needed + self.fixed, factor) from None
        check_cut(cut, self.policy)
        dropped = cut.dropped - frontier
        kept = {unit.at for unit in candidates if unit.at not in dropped or unit.pinned}
        units = [unit for unit in units if unit.at in kept or unit.fit.empty]
        for unit in units:
            if unit.at in cut.excerpted:
                unit.shrink()
        total = self._total(units)
        if total > self._room(factor):
            raise self._exceeded(total, factor, f"what the policy {self.policy.name}@{self.policy.version} keeps")
        self.cut = max(self.cut, _place(candidates, kept))
        over = f"over {self._limit(factor) - self.fixed:,} counted tokens, cut to {total - self.fixed:,}"
        return units, f"{self.policy.name}@{self.policy.version}: {over}"

    def _exceeded(self, items: int, factor: int, *what: str) -> BudgetExceeded:
        """Return the error for so many counted tokens of items; it speaks of whole requests, as callers do."""
        overhead, available = self.request.overhead, self.request.budget.context - self.request.reserve
        if self.refused:
            available = min(available, scaled(max(0, self._room(factor)) + overhead, factor))
        refused = scaled(self.refused, factor)
        return BudgetExceeded(scaled(items + overhead, factor), available, *what, refused=refused)

    def _first_answer(self) -> int:
        """Return the index of the first loaded unit of which it is certain that it ended a turn's input."""
        return next(
            (
                index
                for index, unit in enumerate(self.units)
                if unit.at > self.floor
                and unit.group.maker != "input"
                and not (unit.group.attached or unit.group.pinned)
            ),
            len(self.units),
        )


def _barred(request: Request, last: Manifest | None) -> dict[str, Any]:
    """Return what its server has refused of the line's windows, now or before."""
    return {
        "unread": max(request.unread, last.unread if last else 0),
        "unnamed": max(request.unnamed, last.unnamed if last else 0),
        "unfit": tuple(sorted({*request.unfit, *(last.unfit if last else ())})),
    }


def _least(one: int, other: int) -> int:
    """Return the smaller of two figures of which 0 is none."""
    return min(one, other) if one and other else one or other


def _place(units: Sequence[Unit], kept: AbstractSet[int]) -> int:
    """Return the place behind the last unit that was dropped, 0 when none was.

    It lies behind the items of each answer that stays before it: an answer stands where it was asked for, and what came
    while it was made stands behind it, but before its items in the log.
    """
    place = 0
    for unit in reversed(units):
        if unit.at not in kept:
            break
        place = unit.at
    else:
        return 0
    for unit in units:
        if unit.at >= place:
            break
        if unit.at in kept:
            made = [entry.seq + 1 for entry in unit.group.entries if entry.response and not entry.reading.is_output]
            place = max([place, *made])
    return place


def _frontier(units: Sequence[Unit]) -> frozenset[int]:
    """Return the places of the current turn's input, its last group, and what came behind that."""
    begin = next((index for index in range(len(units) - 1, -1, -1) if units[index].start), 0)
    turn = units[begin:]
    answers = [index for index, unit in enumerate(turn) if unit.group.maker == "model"]
    if not answers:
        return frozenset(unit.at for unit in turn)
    return frozenset(unit.at for unit in [*turn[: answers[0]], *turn[answers[-1] :]])
