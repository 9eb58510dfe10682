"""The account: writes what was decided about every seq down as a manifest's columns.

Below the cut there is one rule for all that is not sent, so that a manifest is as long as its window, not as the log.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from ..compaction import guessed, weight
from ..events import ESTIMATED
from ..manifest import REWOUND, SENT, Fate, Fates, Manifest, Run, between, form_of, spans
from .render import RENDERER
from .units import FAILED, GONE, Scene, Unit

__all__ = ("Account",)

_Decision: TypeAlias = tuple[Fate, str]
_KEPT: Final[_Decision] = ("kept", "it fits")
_PINNED: Final[_Decision] = ("pinned", "pinned")
_IN_EFFECT: Final[_Decision] = ("pinned", "in effect")
_BASE: Final[_Decision] = ("kept", "it stands for what it covers")
_STRAY: Final[_Decision] = ("dropped", "its call is not in the window")
_REWOUND: Final[_Decision] = ("rewound", REWOUND)
_ASIDE: Final[_Decision] = ("aside", "aside")


class Account:
    """What became of every seq: of what is sent or left out, of what is older, and of events without items."""

    def __init__(self, scene: Scene, units: Sequence[Unit], cut: int, rule: str, last: Manifest | None) -> None:
        self.history = scene.history
        self.seal = scene.seal
        self.target = scene.target
        self.units = units
        """Every unit from the cut on, and those below it that are sent, in order."""
        self.cut = cut
        self.rule = rule or (last.rules[last.cut_by] if last and last.cut else "")
        """Why the cut was made, this time or earlier."""
        self.last = last
        self.fates = Fates(last) if last else None
        self.weights: dict[int, int] = {}
        """Tokens of each item that is sent."""
        self.estimated = 0
        self.bare: list[int] = []
        self.trimmed: list[int] = []
        self.sealed: list[int] = []
        self._decisions: dict[int, _Decision] = {}
        self._enter(units)
        self._enter_strays()
        base = self.history.base
        if base is not None:
            self.estimated += guessed(*base, scene.target)
            if base[0].seq <= self.history.version:  # else it is only supposed
                self._decisions.setdefault(base[0].seq, _BASE)

    def _enter(self, units: Sequence[Unit]) -> None:
        """Take the decisions on units in."""
        decisions, weights, bare = self._decisions, self.weights, self.bare
        for unit in units:
            fit = unit.fit
            if unit.excerpted or not fit.plain:
                self._enter_one_by_one(unit)
                continue
            whole = _whole(unit) if unit.pinned else _KEPT
            for entry in fit.entries:
                seq = entry.seq
                decisions[seq], weights[seq] = whole, entry.tokens
            if fit.bare:
                bare += fit.bare
            if fit.flags & ESTIMATED:
                self.estimated += sum([entry.tokens for entry in fit.entries if entry.flags & ESTIMATED])

    def _enter_one_by_one(self, unit: Unit) -> None:
        """Take the decisions on a unit in of which something goes otherwise than the rest, or not at all."""
        decisions, weights, fit = self._decisions, self.weights, unit.fit
        out, notes = fit.out, fit.notes
        whole = _whole(unit)
        excerpted: _Decision = ("excerpted", self._excerpted_by(unit)) if unit.excerpted else whole
        for entry in fit.entries:
            seq = entry.seq
            if seq in out:
                decisions[seq] = _fate_of(out[seq]), out[seq]
                continue
            tokens, short = fit.weight(entry)
            if unit.excerpted and short is not None:
                decisions[seq], weights[seq] = excerpted, short
            else:
                decisions[seq], weights[seq] = whole, tokens
            if seq in notes:
                fate, rule = decisions[seq]
                decisions[seq] = fate, f"{rule}, {notes[seq]}"
            if entry.flags & ESTIMATED:
                self.estimated += weights[seq]
        self.bare += [seq for seq in fit.bare if seq not in out]
        self.trimmed += [seq for seq in fit.trimmed if seq not in out]
        self.sealed += [entry.seq for entry in fit.sealed]

    def _excerpted_by(self, unit: Unit) -> str:
        """Return the rule by which an earlier cut excerpted a unit, else that of the new one."""
        last, fates = self.last, self.fates
        if last is not None and fates is not None:
            runs = (fates.run(entry.seq) for entry in unit.entries)
            rule = next((run.rule for run in runs if run is not None and run.fate == "excerpted"), None)
            if rule is not None:
                return last.rules[rule]
        return self.rule

    def _enter_strays(self) -> None:
        """Decide on what came after the cut and belongs to groups before it.

        These are outputs, whether their calls are loaded or not; and items of an answer that was requested before the
        cut, while somebody else appended what now comes first.
        """
        here = {unit.at for unit in self.units}
        first = max(self.cut, self.history.start + 1)
        older: _Decision = ("dropped", self.rule) if self.cut else _STRAY
        for group in map(self.history.groups.__getitem__, self.history.late):
            if group.stray or (group.at < first and group.at not in here):
                for entry in group.entries:
                    if entry.seq >= first:
                        self._decisions[entry.seq] = _STRAY if entry.reading.is_output else older

    def columns(self, *, exact: bool = True) -> dict[str, Any]:
        """Return the manifest's columns about seqs; *exact*: text is counted in the model's own vocabulary."""
        history = self.history
        rules: dict[str, int] = {_KEPT[1]: 0}
        if self.cut:
            rules[self.rule] = 1
        runs: list[Run] = []
        for first, last, (fate, text) in self._covered():
            rule = rules.setdefault(text, len(rules))
            if runs and runs[-1].fate == fate and runs[-1].rule == rule:
                first = runs.pop().first  # noqa: PLW2901 - the run before grows
            runs.append(Run(first, last, fate, rule))
        early = {group.at for group in history.early}
        return {
            "renderer": RENDERER,
            "as_of": history.version,
            "base": history.base[0].seq if history.base else 0,
            "cut": self.cut,
            "cut_by": 1 if self.cut else 0,
            "early": tuple(
                sorted(
                    entry.seq
                    for unit in (self.units if early else ())
                    if unit.at in early
                    for entry in unit.entries
                    if entry.seq not in unit.fit.out
                )
            ),
            "runs": tuple(runs),
            "rules": tuple(rules),
            "bare": spans(sorted(self.bare)),
            "trimmed": spans(sorted(self.trimmed)),
            "sealed": tuple(sorted(self.sealed)),
            "measured": exact and self.estimated == 0,
            "shared": self._shared(runs, early),
        }

    # -- runs

    def _covered(self) -> Iterator[tuple[int, int, _Decision]]:
        """Yield every seq's decision in order, as stretches."""
        decisions, others = self._decisions, self._others()
        first = at = 1
        current: _Decision | None = None
        for seq in [*sorted(decisions), self.history.version + 1]:
            decision = decisions.get(seq)
            if seq == at and decision is current:
                at = seq + 1
                continue
            if current is not None:
                yield first, at - 1, current
            if seq > at:
                yield from self._gap(at, seq - 1, self._beside(at - 1), others)
            first, at, current = seq, seq + 1, decision

    def _beside(self, seq: int) -> _Decision:
        """Return what becomes of what carries no item behind *seq*: it goes with what stands before it."""
        decision = self._decisions.get(seq, _KEPT)
        return _KEPT if decision[0] in ("pinned", "kept") or seq < self.cut else decision

    def _others(self) -> list[tuple[int, int, _Decision]]:
        """Return the stretches that are rewound or aside; asides only from the cut on, where all of them are known."""
        rewound = [(low, high, _REWOUND) for low, high in between(self.history.path)]
        return sorted([*rewound, *((seq, seq, _ASIDE) for seq in self.history.asides if seq >= self.cut)])

    def _gap(
        self, first: int, last: int, before: _Decision, others: Sequence[tuple[int, int, _Decision]]
    ) -> Iterator[tuple[int, int, _Decision]]:
        """Yield what became of seqs that no unit holds: compacted, older than the cut, rewound, aside, or no items."""
        base = self.history.base
        compacted = min(self.history.start, last)
        if first <= compacted and base is not None:
            yield first, compacted, ("compacted", f"the compaction at {base[0].seq}")
            first = compacted + 1
        older = min(self.cut - 1, last)
        if first <= older:
            yield from _laid(first, older, ("dropped", self.rule), others)
            first = older + 1
        if first <= last:
            yield from _laid(first, last, before, others)

    # -- the prefix

    def _shared(self, runs: Sequence[Run], early: set[int]) -> int:
        """Return the tokens at the window's beginning that the line's previous window began with too."""
        last, base = self.last, self.history.base
        if last is None:
            return 0
        gone = self._first_left(last, _first_gone(last, runs))
        bare = {seq for low, high in last.bare for seq in range(low, high + 1)}
        total = 0
        for unit in (unit for unit in self.units if unit.at in early):
            tokens, same = self._same(unit, bare, gone)
            total += tokens
            if not same:
                return total
        if last.base != (base[0].seq if base else 0):
            return total
        total += weight(*base, self.target) if base else 0
        for unit in (unit for unit in self.units if unit.at not in early):
            tokens, same = self._same(unit, bare, gone)
            total += tokens
            if not same:
                break
        return total

    def _first_left(self, last: Manifest, gone: int) -> int:
        """Return the first place at which something is missing, given the first seq: a group stands before its items.

        What came while an answer was made stands behind it, and before its items in the log.
        """
        if gone > last.as_of:
            return gone
        for group in self.history.sent(last):
            if group.at >= gone:
                break
            if any(self._is_gone(entry.seq) for entry in group.entries):
                return group.at
        return gone

    def _is_gone(self, seq: int) -> bool:
        """Return whether the last window sent an item that the new one does not."""
        assert self.fates is not None
        decision = self._decisions.get(seq)
        return self.fates.sent(seq) and (decision is None or decision[0] not in SENT)

    def _same(self, unit: Unit, bare: set[int], gone: int) -> tuple[int, bool]:
        """Return the tokens with which a unit begins as it did in the last window, and whether that is all of it."""
        assert self.last is not None
        assert self.fates is not None
        total = 0
        if unit.at > gone:
            return total, False
        for entry in unit.entries:
            before, now = self.fates.of(entry.seq), self._decisions[entry.seq][0]
            if before not in SENT and now not in SENT:
                continue
            if form_of(before) != form_of(now) or (entry.seq in bare) != (entry.seq in unit.fit.bare):
                return total, False
            total += self.weights[entry.seq]
        sealed = {entry.seq for entry in unit.fit.sealed}
        if sealed != {entry.seq for entry in unit.entries if entry.seq in self.last.sealed}:
            return total, False
        return total + self.seal * len(sealed), True


def _whole(unit: Unit) -> _Decision:
    """Return what becomes of a unit's items that are sent whole."""
    return _KEPT if not unit.pinned else _PINNED if unit.group.pinned else _IN_EFFECT


def _fate_of(rule: str) -> Fate:
    """Return the fate of what is left out by a rule."""
    if rule == GONE:
        return "erased"
    return "superseded" if rule == FAILED or rule.startswith("superseded") else "dropped"


def _first_gone(last: Manifest, runs: Sequence[Run]) -> int:
    """Return the first seq that the last window sent and the new one does not."""
    for run in last.runs:
        if run.fate not in SENT:
            continue
        for new in runs[bisect_left(runs, run.first, key=_last) :]:
            if new.first > run.last:
                break
            gone = max(new.first, run.first, 2)  # the first event of all, a conversation's creation, carries no item
            if new.fate not in SENT and gone <= min(new.last, run.last):
                return gone
    return last.as_of + 1


def _last(run: Run) -> int:
    return run.last


def _laid(
    first: int, last: int, rest: _Decision, others: Sequence[tuple[int, int, _Decision]]
) -> Iterator[tuple[int, int, _Decision]]:
    """Yield a stretch as *rest*, but for what lies in the *others*."""
    at = first
    for low, high, decision in others[bisect_left(others, first, key=_high) :]:
        if low > last:
            break
        if low > at:
            yield at, low - 1, rest
        yield max(low, at), min(high, last), decision
        at = high + 1
    if at <= last:
        yield at, last, rest


def _high(stretch: tuple[int, int, _Decision]) -> int:
    return stretch[1]
