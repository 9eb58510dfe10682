"""Units: a history's groups as one target would receive them, each with what it costs there.

A unit has its place in one window. What it would be in every window for its target, its fit, is decided once, by the
invariants: which items are left out and by which rule, which go without their maker's ids, and which calls are followed
by a stand-in for an output that the log does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Final, NamedTuple, TypeAlias

from ..events import Target
from ..history import Entry, Group, History, turn_starts
from ..tokens import SEAL_TOKENS

__all__ = ("FAILED", "GONE", "Fit", "Invariant", "Rule", "Scene", "Unit", "Weights", "mark_turns", "units_of")

FAILED: Final = "its response failed"
GONE: Final = "erased"


class Weights(NamedTuple):
    """Tokens by another counter than the log's."""

    items: Mapping[int, tuple[int, int | None]]
    """By seq: whole, and as an excerpt."""
    seal: int = SEAL_TOKENS
    """Of what stands for a missing output."""
    base: int | None = None
    """Of what stands for compacted events; None: as the log has it."""


class Scene:
    """What an invariant may look at beside its group."""

    __slots__ = ("history", "key", "seal", "target", "unfit", "unnamed", "unread", "weights")

    def __init__(
        self,
        history: History,
        target: Target,
        weights: Weights | None = None,
        *,
        unread: int = 0,
        unnamed: int = 0,
        unfit: tuple[int, ...] = (),
    ) -> None:
        self.history = history
        self.target = target
        self.unread = unread
        """Up to which seq encrypted content is not sent: its maker has refused to read it."""
        self.unnamed = unnamed
        """Up to which seq no ids are sent: the server did not find what it gave them to."""
        self.unfit = unfit
        """Items that are not sent: the server that made them has refused to take them back."""
        self.weights: Mapping[int, tuple[int, int | None]] = weights.items if weights else {}
        self.seal = weights.seal if weights else SEAL_TOKENS
        whom = (target.api, target.backend, target.model, target.state, target.thoughts)
        refused = (str(unread), str(unnamed), *map(str, unfit))
        self.key = None if weights else "\0".join((*whom, *refused))
        """Under which a group's fit is remembered; None: it is not, for it costs what another counter says."""

    def of(self, history: History) -> Scene:
        """Return the same, of another history."""
        twin = copy(self)
        twin.history = history
        return twin

    def at_home(self, entry: Entry) -> bool:
        """Return whether the target's own backend made an item, through the same API."""
        origin = self.history.origin(entry)
        return origin is not None and origin.adapter == self.target.api and origin.backend == self.target.backend

    def by_the_model(self, entry: Entry) -> bool:
        """Return whether the target's own model made an item."""
        origin = self.history.origin(entry)
        return self.at_home(entry) and origin is not None and origin.model == self.target.model


class Fit:
    """One group, with what is attached to it, as a target receives it."""

    __slots__ = ("bare", "cost", "empty", "entries", "lean", "notes", "out", "sealed", "weights")

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self.out: dict[int, str] = {}
        """What is left out, by seq, with the rule."""
        self.bare: set[int] = set()
        """What goes without its id, by seq."""
        self.sealed: list[Entry] = []
        """Calls that are followed by a stand-in for their output."""
        self.notes: dict[int, str] = {}
        """How something is sent that does not go as it is, by seq."""
        self.weights: dict[int, tuple[int, int | None]] = {}
        """Tokens of what is sent, by seq: whole, and as an excerpt."""
        self.cost = 0
        """What it costs whole."""
        self.lean = 0
        """What it costs with its large outputs excerpted."""
        self.empty = False
        """Whether nothing of it would be sent."""

    def copy(self) -> Fit:
        """Return one like it, to be changed."""
        twin = copy(self)
        twin.out, twin.bare, twin.sealed = self.out.copy(), self.bare.copy(), self.sealed.copy()
        return twin

    @property
    def made(self) -> list[Entry]:
        """What a model made."""
        return [entry for entry in self.entries if entry.reading.maker == "model"]

    def leave_out(self, entry: Entry, rule: str) -> None:
        """Leave an entry out, unless an earlier rule has."""
        self.out.setdefault(entry.seq, rule)

    def weigh(self, scene: Scene) -> None:
        """Add up what is sent."""
        cost = lean = scene.seal * len(self.sealed)
        weights: dict[int, tuple[int, int | None]] = {}
        for entry in self.entries:
            seq = entry.seq
            if seq in self.out:
                continue
            whole, short = scene.weights.get(seq) or (entry.tokens, entry.excerpt)
            # Fields of its maker's own shape go back to its maker only, and are counted only there.
            if entry.beside and scene.at_home(self.entries[0]):
                whole, short = whole + entry.beside, None if short is None else short + entry.beside
            weights[seq] = whole, short
            cost += whole
            lean += whole if short is None else short
        self.weights, self.cost, self.lean, self.empty = weights, cost, lean, not weights


class Unit:
    """One group, with what is attached to it, in one window."""

    __slots__ = ("at", "excerpted", "fit", "group", "pinned", "start")

    def __init__(self, group: Group, fit: Fit, *, pinned: bool) -> None:
        self.group = group
        self.at = group.at
        self.fit = fit
        """How its target takes it."""
        self.pinned = pinned
        self.start = False
        """Whether a turn starts here."""
        self.excerpted = False
        """Whether its large outputs go as excerpts since an earlier cut."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its items, in order."""
        return self.fit.entries

    @property
    def cost(self) -> int:
        """What it costs as it stands."""
        return self.fit.lean if self.excerpted else self.fit.cost

    @property
    def lean(self) -> int:
        """What it costs with its large outputs excerpted."""
        return self.fit.lean

    @property
    def empty(self) -> bool:
        """Whether nothing of it would be sent."""
        return self.fit.empty

    def shrink(self) -> None:
        """Let its large outputs go as excerpts."""
        self.excerpted = True


Invariant: TypeAlias = Callable[[Fit, Scene], None]
"""What holds of one group."""
Rule: TypeAlias = Callable[[Sequence[Unit], Scene], None]
"""What holds between the units that are sent."""


def units_of(groups: Iterable[Group], scene: Scene, invariants: Sequence[Invariant]) -> list[Unit]:
    """Return groups in order as units, after every invariant has had its say."""
    units: list[Unit] = []
    in_effect, key = set(scene.history.effects.values()), scene.key
    for group in groups:
        if group.attached and units and _holds(units[-1].group):
            units[-1].fit = _fit((*units[-1].entries, *group.entries), scene, invariants, units[-1].group.void)
            continue
        fit = group.fits.get(key)
        if fit is None:
            fit = _fit(group.entries, scene, invariants, group.void)
            if key is not None:
                group.fits[key] = fit
        units.append(Unit(group, fit, pinned=group.pinned or group.at in in_effect))
    return units


def _holds(group: Group) -> bool:
    """Return whether an item of an unknown kind stands or falls with the group before it.

    It does not with one that fell already, nor with one that stays for a reason of its own.
    """
    kind = group.entries[0].reading.kind
    return not (group.void or group.pinned or (kind is not None and kind.positional))


def _fit(entries: tuple[Entry, ...], scene: Scene, invariants: Sequence[Invariant], void: bool) -> Fit:
    fit = Fit(entries)
    if void:
        for entry in entries:
            fit.leave_out(entry, FAILED)
    elif not all(entry.plain for entry in entries):
        for invariant in invariants:
            invariant(fit, scene)
    fit.weigh(scene)
    return fit


def mark_turns(units: Sequence[Unit]) -> None:
    """Mark where turns start; where nothing of a turn's first group would be sent, at the next that is."""
    starts = set(turn_starts(unit.group for unit in units))
    due = False
    for unit in units:
        if unit.at in starts:
            due = True
        if due:
            unit.start = not unit.fit.empty
            due = not unit.start
