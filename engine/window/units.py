"""Units: a history's groups as one target would receive them, each with what it costs there.

A unit collects what the invariants decide about its group: which items are left out and by which rule, whether the rest
goes without its maker's ids, and which calls are followed by a stand-in for an output that the log does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ..events import PINNED, Target
from ..history import Entry, Group, History
from ..tokens import SEAL_TOKENS

__all__ = ("Scene", "Unit", "units_of")


class Scene:
    """What an invariant may look at beside its unit."""

    __slots__ = ("history", "target", "weights")

    def __init__(
        self, history: History, target: Target, weights: Mapping[int, tuple[int, int | None]] | None = None
    ) -> None:
        self.history = history
        self.target = target
        self.weights = weights
        """Tokens by another counter than the log's, by seq: (whole, excerpt)."""

    def at_home(self, entry: Entry) -> bool:
        """Return whether the target's own backend made an item, through the same API."""
        origin = self.history.origin(entry)
        return origin is not None and origin.adapter == self.target.api and origin.backend == self.target.backend

    def by_the_model(self, entry: Entry) -> bool:
        """Return whether the target's own model made an item."""
        origin = self.history.origin(entry)
        return self.at_home(entry) and origin is not None and origin.model == self.target.model


class Unit:
    """One group, as a target receives it."""

    __slots__ = ("at", "bare", "cost", "group", "home", "lean", "out", "pinned", "sealed", "start", "weights")

    def __init__(self, group: Group, scene: Scene) -> None:
        self.at = group.at
        self.group = group
        self.weights = scene.weights
        self.home = scene.at_home(group.entries[0])
        """Whether it goes back to the backend that it came from."""
        self.start = False
        """Whether a turn starts here."""
        self.pinned = bool(group.entries[0].flags & PINNED) and all(entry.flags & PINNED for entry in group.entries)
        self.out: dict[int, str] = {}
        """What is left out, by seq, with the rule."""
        self.bare = False
        self.sealed: list[Entry] = []
        self.cost = 0
        self.lean = 0
        """What it costs with its large outputs excerpted."""

    @property
    def kept(self) -> list[Entry]:
        """The entries that are sent if the unit is."""
        return (
            [entry for entry in self.group.entries if entry.seq not in self.out]
            if self.out
            else list(self.group.entries)
        )

    @property
    def empty(self) -> bool:
        """Whether nothing of it would be sent."""
        return len(self.out) == len(self.group.entries)

    def absorb(self, group: Group) -> None:
        """Take in a group of an unknown kind, which stands or falls with this one."""
        for entry in group.entries:
            self.group = self.group.with_entry(entry)
        self.weigh()

    def leave_out(self, entry: Entry, rule: str) -> None:
        """Leave an entry out, unless an earlier rule has."""
        self.out.setdefault(entry.seq, rule)

    def weight(self, entry: Entry) -> tuple[int, int | None]:
        """Return an entry's tokens, whole and excerpted."""
        whole, short = entry.tokens, entry.excerpt
        if self.weights is not None:
            whole, short = self.weights.get(entry.seq, (whole, short))
        if entry.beside and self.home:
            return whole + entry.beside, None if short is None else short + entry.beside
        return whole, short

    def weigh(self) -> None:
        """Add up what is kept."""
        seals = SEAL_TOKENS * len(self.sealed)
        cost = lean = seals
        for entry in self.group.entries:
            if entry.seq in self.out:
                continue
            tokens, short = self.weight(entry)
            cost += tokens
            lean += tokens if short is None else short
        self.cost, self.lean = cost, lean


Invariant = Callable[[Unit, Scene], None]
FAILED: Final = "its response failed"


def units_of(scene: Scene, invariants: tuple[Invariant, ...]) -> list[Unit]:
    """Return the units of a history in order, after every invariant has had its say."""
    starts = set(scene.history.turns())
    units: list[Unit] = []
    for group in scene.history:
        if group.attached and units:
            units[-1].absorb(group)
            continue
        unit = Unit(group, scene)
        unit.start = group.at in starts
        if group.void:
            for entry in group.entries:
                unit.leave_out(entry, FAILED)
        else:
            for invariant in invariants:
                invariant(unit, scene)
        unit.weigh()
        units.append(unit)
    return units
