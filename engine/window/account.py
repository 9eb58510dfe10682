"""The account: writes what was decided about every seq down as a manifest, in runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Final, TypeAlias

from ..events import ESTIMATED, PINNED
from ..history import Entry, History
from ..manifest import SENT, Fate, Manifest, Run, spans
from ..tokens import SEAL_TOKENS, scaled
from .render import RENDERER
from .units import FAILED, Unit

__all__ = ("Account",)

_Decision: TypeAlias = tuple[Fate, str]
_KEPT: Final[_Decision] = ("kept", "it fits")
_OLDER: Final = "older than the window"


class Account:
    """Collects decisions on loaded items, then covers every seq from 1 to the history's version with runs."""

    def __init__(self, history: History, overhead: int, last: Manifest | None, rule: str) -> None:
        self.history = history
        self.overhead = overhead
        self.last = last
        self.rule = rule
        """Why the new cut was made; empty when there is none."""
        self.decisions: dict[int, _Decision] = {}
        self.weights: dict[int, int] = {}
        self.bare: list[int] = []
        self.sealed: list[int] = []
        self.estimated = 0
        self.cut = last.cut if last else 0
        self.order: list[int] = []
        """All seqs with a decision, as the window orders them."""

    def enter(self, units: Sequence[Unit], dropped: AbstractSet[int], excerpted: AbstractSet[int]) -> None:
        """Take the decisions on all units in."""
        for entry in self.history.early:
            self.order.append(entry.seq)
            self.decisions[entry.seq] = ("pinned", "pinned")
            self._weigh(entry, entry.tokens)
        for index, unit in enumerate(units):
            if unit.at in dropped:
                self.cut = units[index + 1].at if index + 1 < len(units) else self.history.version + 1
            for entry in unit.group.entries:
                self.order.append(entry.seq)
                self.decisions[entry.seq] = self._decide(unit, entry, unit.at in dropped, unit.at in excerpted)
        self.cut = max(self.cut, self.history.floor + 1 if not self.history.complete else 0)

    def _decide(self, unit: Unit, entry: Entry, dropped: bool, excerpted: bool) -> _Decision:
        seq = entry.seq
        if dropped:
            return "dropped", self._standing(seq, "dropped")
        if seq in unit.out:
            rule = unit.out[seq]
            return ("superseded" if rule == FAILED or rule.startswith("superseded") else "dropped"), rule
        if unit.bare:
            self.bare.append(seq)
        if any(entry is call for call in unit.sealed):
            self.sealed.append(seq)
        whole, short = unit.weight(entry)
        if excerpted and short is not None:
            self._weigh(entry, short)
            return "excerpted", self._standing(seq, "excerpted")
        self._weigh(entry, whole)
        return ("pinned", "pinned") if entry.flags & PINNED else _KEPT

    def _weigh(self, entry: Entry, tokens: int) -> None:
        self.weights[entry.seq] = tokens
        if entry.flags & ESTIMATED:
            self.estimated += tokens

    def _standing(self, seq: int, fate: Fate) -> str:
        """Return the rule by which an earlier cut decided the same, else that of the new one."""
        run = self.last.run(seq) if self.last else None
        if self.last is not None and run is not None and run.fate == fate:
            return self.last.rules[run.rule]
        return self.rule

    def manifest(self, *, policy: str, line: str, factor: int, context: int, reserve: int, items: int) -> Manifest:
        """Return the manifest."""
        rules: dict[str, int] = {_KEPT[1]: 0}
        runs: list[Run] = []
        for first, last, (fate, text) in self._covered():
            rule = rules.setdefault(text, len(rules))
            if runs and (runs[-1].fate, runs[-1].rule) == (fate, rule):
                first = runs.pop().first  # noqa: PLW2901 - the run before grows
            runs.append(Run(first, last, fate, rule))
        return Manifest(
            policy=policy,
            renderer=RENDERER,
            as_of=self.history.version,
            line=line,
            base=self.history.base[0].seq if self.history.base else 0,
            cut=self.cut,
            early=tuple(entry.seq for entry in self.history.early),
            runs=tuple(runs),
            rules=tuple(rules),
            bare=spans(sorted(self.bare)),
            sealed=tuple(sorted(self.sealed)),
            factor=factor,
            items=items,
            overhead=self.overhead,
            tokens=scaled(items + self.overhead, factor),
            measured=self.estimated == 0,
            bound=scaled(self.estimated + len(self.weights), factor),
            context=context,
            reserve=reserve,
            shared=self._shared(),
            weights=self.weights,
        )

    def _covered(self) -> Iterator[tuple[int, int, _Decision]]:
        """Yield every seq's decision in order, as stretches. What carries no item goes with what stands before it."""
        at = 1
        before = _KEPT
        for seq in [*sorted(self.decisions), self.history.version + 1]:
            if seq > at:
                yield from self._gap(at, seq - 1, before)
            if seq in self.decisions:
                decision = self.decisions[seq]
                yield seq, seq, decision
                before = _KEPT if decision[0] == "pinned" else decision
            at = seq + 1

    def _gap(self, first: int, last: int, before: _Decision) -> Iterator[tuple[int, int, _Decision]]:
        """Yield what became of seqs without a loaded item: covered by a compaction, not loaded, or no items at all."""
        history = self.history
        compacted = min(history.start, last)
        if first <= compacted and history.base is not None:
            yield first, compacted, ("compacted", f"the compaction at {history.base[0].seq}")
            first = compacted + 1
        unloaded = min(history.floor, last)
        if first <= unloaded:
            yield from self._inherited(first, unloaded)
            first = unloaded + 1
        if first <= last:
            yield from self._lying(first, last, before)

    def _inherited(self, first: int, last: int) -> Iterator[tuple[int, int, _Decision]]:
        """Yield for a stretch that is not loaded what the last manifest said; what it still sent is dropped now."""
        runs = self.last.runs if self.last else ()
        rules = self.last.rules if self.last else ()
        dropped: _Decision = (
            "dropped",
            self.rule or next((rules[run.rule] for run in runs if run.fate == "dropped"), _OLDER),
        )
        at = first
        for run in runs:
            low, high = max(run.first, at), min(run.last, last)
            if low <= high:
                yield low, high, dropped if run.fate in SENT else (run.fate, rules[run.rule])
                at = high + 1
        if at <= last:
            yield at, last, dropped

    def _lying(self, first: int, last: int, before: _Decision) -> Iterator[tuple[int, int, _Decision]]:
        """Tell what is rewound or aside in a loaded stretch apart from the rest."""
        others: list[tuple[int, int, Fate]] = [(seq, seq, "aside") for seq in self.history.asides]
        others += [(low, high, "rewound") for low, high in _between(self.history.path)]
        at = first
        for low, high, fate in sorted(others):
            low, high = max(low, at), min(high, last)  # noqa: PLW2901 - clipped to the stretch
            if low > high:
                continue
            if low > at:
                yield at, low - 1, before
            yield low, high, (fate, fate)
            at = high + 1
        if at <= last:
            yield at, last, before

    def _shared(self) -> int:
        """Return the tokens at the window's beginning that the line's previous window began with too."""
        last = self.last
        base = self.history.base
        if last is None or last.base != (base[0].seq if base else 0):
            return 0
        total = base[0].tokens if base else 0
        for seq in self.order:
            before, now = last.fate(seq), self.decisions[seq][0]
            if before not in SENT and now not in SENT:
                continue
            if before != now or (seq in last.sealed) != (seq in self.sealed):
                break
            total += self.weights[seq] + (SEAL_TOKENS if seq in self.sealed else 0)
        return total


def _between(path: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the stretches between the spans of a path: no path leads through them."""
    ordered = sorted(path)
    for (_, above), (below, _) in pairwise(ordered):
        if below - above > 1:
            yield above + 1, below - 1
