"""Units: a history's groups as one target would receive them, each with what it costs there.

A unit collects what the invariants decide about its group: which items are left out and by which rule, which go without
their maker's ids, and which calls are followed by a stand-in for an output that the log does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Final, NamedTuple, TypeAlias

from ..events import Target
from ..history import Entry, Group, History, turn_starts
from ..tokens import SEAL_TOKENS

__all__ = ("FAILED", "GONE", "Invariant", "Scene", "Unit", "Weights", "mark_turns", "units_of")

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
    """What an invariant may look at beside its unit."""

    __slots__ = ("history", "seal", "target", "unread", "weights")

    def __init__(self, history: History, target: Target, weights: Weights | None = None, *, unread: int = 0) -> None:
        self.history = history
        self.target = target
        self.unread = unread
        """Up to which seq encrypted content is not sent: its maker has refused to read it."""
        self.weights: Mapping[int, tuple[int, int | None]] = weights.items if weights else {}
        self.seal = weights.seal if weights else SEAL_TOKENS

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


class Unit:
    """One group with what is attached to it, as a target receives it."""

    __slots__ = (
        "at",
        "bare",
        "cost",
        "entries",
        "excerpted",
        "group",
        "lean",
        "made",
        "out",
        "pinned",
        "sealed",
        "start",
        "weights",
    )

    def __init__(self, groups: Sequence[Group], scene: Scene) -> None:
        self.group = groups[0]
        self.at = self.group.at
        self.entries: tuple[Entry, ...] = self.group.entries
        for group in groups[1:]:
            self.entries += group.entries
        self.made = [entry for entry in self.entries if entry.reading.maker == "model"]
        """What a model made."""
        self.start = False
        """Whether a turn starts here."""
        self.pinned = scene.history.is_pinned(self.group)
        self.out: dict[int, str] = {}
        """What is left out, by seq, with the rule."""
        self.bare: set[int] = set()
        """What goes without its id, by seq."""
        self.sealed: list[Entry] = []
        """Calls that are followed by a stand-in for their output."""
        self.excerpted = False
        """Whether its large outputs go as excerpts since an earlier cut."""
        self.cost = 0
        """What it costs as it stands."""
        self.lean = 0
        """What it costs with its large outputs excerpted."""
        self.weights: dict[int, tuple[int, int | None]] = {}
        """Tokens of what is sent, by seq: whole, and as an excerpt."""

    @property
    def empty(self) -> bool:
        """Whether nothing of it would be sent."""
        return len(self.out) == len(self.entries)

    def leave_out(self, entry: Entry, rule: str) -> None:
        """Leave an entry out, unless an earlier rule has."""
        self.out.setdefault(entry.seq, rule)

    def weigh(self, scene: Scene) -> None:
        """Add up what is sent."""
        cost = lean = scene.seal * len(self.sealed)
        # Fields of its maker's own shape go back to its maker only, and are counted only there.
        home = scene.at_home(self.entries[0])
        self.weights = {}
        for entry in self.entries:
            if entry.seq in self.out:
                continue
            whole, short = scene.weights.get(entry.seq, (entry.tokens, entry.excerpt))
            if entry.beside and home:
                whole, short = whole + entry.beside, None if short is None else short + entry.beside
            self.weights[entry.seq] = whole, short
            cost += whole
            lean += whole if short is None else short
        self.cost, self.lean = lean if self.excerpted else cost, lean

    def shrink(self) -> None:
        """Let its large outputs go as excerpts."""
        self.excerpted = True
        self.cost = self.lean


Invariant: TypeAlias = Callable[[Unit, Scene], None]


def units_of(groups: Iterable[Group], scene: Scene, invariants: Sequence[Invariant]) -> list[Unit]:
    """Return groups in order as units, after every invariant has had its say."""
    together: list[list[Group]] = []
    for group in groups:
        if group.attached and together and _holds(together[-1][0]):
            together[-1].append(group)
        else:
            together.append([group])
    return [_unit(one, scene, invariants) for one in together]


def _holds(group: Group) -> bool:
    """Return whether an item of an unknown kind stands or falls with the group before it.

    It does not with one that fell already, nor with one that stays for a reason of its own.
    """
    kind = group.entries[0].reading.kind
    return not (group.void or group.pinned or (kind is not None and kind.positional))


def _unit(groups: Sequence[Group], scene: Scene, invariants: Sequence[Invariant]) -> Unit:
    unit = Unit(groups, scene)
    if unit.group.void:
        for entry in unit.entries:
            unit.leave_out(entry, FAILED)
        return unit
    for invariant in invariants:
        invariant(unit, scene)
    unit.weigh(scene)
    return unit


def mark_turns(units: Sequence[Unit]) -> None:
    """Mark where turns start; where nothing of a turn's first group would be sent, at the next that is."""
    starts = set(turn_starts(unit.group for unit in units))
    due = False
    for unit in units:
        due = due or unit.at in starts
        unit.start = due and not unit.empty
        due = due and unit.empty
