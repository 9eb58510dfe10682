"""Units: a history's groups as one target would receive them, each with what it costs there.

A unit has its place in one window. What it would be in every window for its target, its fit, is decided once, by the
invariants: which items are left out and by which rule, which go without their maker's ids, and which calls are followed
by a stand-in for an output that the log does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from ..events import ERASED, MISNAMED, NAMED, ODD, PINNED, SURPLUS, UNPLACED, WANTING, Origin, Target
from ..groups import Entry, Group, turn_starts
from ..history import History
from ..items import ROLES
from ..tokens import SEAL_TOKENS

__all__ = (
    "FAILED",
    "GONE",
    "IDS",
    "Fit",
    "Invariant",
    "Rule",
    "Scene",
    "Unit",
    "Weights",
    "is_settled",
    "mark_turns",
    "of_ids",
    "units_of",
)

FAILED: Final = "its response failed"
GONE: Final = "erased"


_NONE: Final[Mapping[int, Any]] = MappingProxyType({})
_UNSETTLED: Final = ERASED | ODD | UNPLACED | SURPLUS | WANTING
"""Flags of what not every target takes as it is."""
IDS: Final = NAMED | MISNAMED
"""Flags of items that have an id."""
_CALLS: Final = {
    **dict.fromkeys(("function_call", "function_call_output"), "function_call"),
    **dict.fromkeys(("custom_tool_call", "custom_tool_call_output"), "custom_tool_call"),
}
"""The calls that every API takes, and the outputs of such, by their shapes: the call's."""


class _Named(msgspec.Struct):
    id: Any = None


_named: Final = msgspec.json.Decoder(_Named)


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

    __slots__ = ("history", "homes", "key", "seal", "target", "unfit", "unnamed", "unread", "weights")

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
        self.unfit = frozenset(unfit)
        """Items that are not sent: the server that made them has refused to take them back."""
        self.weights: Mapping[int, tuple[int, int | None]] = weights.items if weights else {}
        self.seal = weights.seal if weights else SEAL_TOKENS
        whom = (target.api, target.backend, target.model, target.state, target.thoughts)
        refused = (str(unread), str(unnamed), *map(str, unfit))
        self.key = None if weights else "\0".join((*whom, *refused))
        """Under which a group's fit is remembered; None: it is not, for it costs what another counter says."""
        self.homes: dict[int | None, bool] = {None: False}
        """Whether the target's own backend made responses, through the same API."""

    def of(self, history: History) -> Scene:
        """Return the same, of another history."""
        twin = copy(self)
        twin.history = history
        twin.homes = {None: False}
        return twin

    def at_home(self, entry: Entry) -> bool:
        """Return whether the target's own backend made an item, through the same API."""
        if entry.origin is not None:
            return self._made(entry.origin)
        home = self.homes.get(entry.response)
        if home is None:
            home = self.homes[entry.response] = self._made(self.history.origin(entry))
        return home

    def _made(self, origin: Origin | None) -> bool:
        return origin is not None and origin.adapter == self.target.api and origin.backend == self.target.backend

    def by_the_model(self, entry: Entry) -> bool:
        """Return whether the target's own model made an item."""
        origin = self.history.origin(entry)
        return self.at_home(entry) and origin is not None and origin.model == self.target.model


class Fit(msgspec.Struct, eq=False, gc=False):
    """One group, with what is attached to it, as a target receives it.

    What it holds is replaced, never changed: so copies share it.
    """

    entries: tuple[Entry, ...]
    flags: int
    """Those of all its entries."""
    settled: bool = False
    """Whether every target takes it as it is, but for ids."""
    out: Mapping[int, str] = _NONE
    """What is left out, by seq, with the rule."""
    bare: frozenset[int] = frozenset()
    """What goes without its id, by seq."""
    trimmed: frozenset[int] = frozenset()
    """What goes without the fields that its kind has not, or what its role may not say, by seq."""
    sealed: tuple[Entry, ...] = ()
    """Calls that are followed by a stand-in for their output."""
    notes: Mapping[int, str] = _NONE
    """How something is sent that does not go as it is, by seq."""
    other: Mapping[int, tuple[int, int | None]] = _NONE
    """Tokens by seq, whole and as an excerpt, of what weighs something else than the log says."""
    cost: int = 0
    """What it costs whole."""
    lean: int = 0
    """What it costs with its large outputs excerpted."""
    empty: bool = False
    """Whether nothing of it would be sent."""

    plain: bool = False
    """Whether all of it is sent as it is, but for ids, and weighs what the log says."""

    _made: Sequence[Entry] | None = None
    _ids: Sequence[str] | None = None

    @property
    def made(self) -> Sequence[Entry]:
        """What a model made."""
        made = self._made
        if made is None:
            made = self._made = [entry for entry in self.entries if entry.reading.maker == "model"]
        return made

    @property
    def ids(self) -> Sequence[str]:
        """The ids with which it is sent."""
        ids = self._ids
        if ids is None:
            bare, out = self.bare, self.out
            sent = [one for one in self.entries if one.flags & IDS and one.seq not in bare and one.seq not in out]
            ids = [name for entry in sent if isinstance(name := _named.decode(entry.item).id, str)]
            self._ids = ids
        return ids

    @property
    def weights(self) -> dict[int, tuple[int, int | None]]:
        """Tokens of what is sent, by seq: whole, and as an excerpt."""
        return {entry.seq: self.weight(entry) for entry in self.entries if entry.seq not in self.out}

    def weight(self, entry: Entry) -> tuple[int, int | None]:
        """Return the tokens of an entry that is sent: whole, and as an excerpt."""
        return self.other.get(entry.seq) or (entry.tokens, entry.excerpt)

    def leave_out(self, entry: Entry, rule: str) -> None:
        """Leave an entry out, unless an earlier rule has."""
        if entry.seq not in self.out:
            self.out = {**self.out, entry.seq: rule}
            self._ids = None

    def note(self, entry: Entry, how: str) -> None:
        """Say how an entry is sent that does not go as it is."""
        self.notes = {**self.notes, entry.seq: how}

    def strip(self, entries: Iterable[Entry]) -> None:
        """Send entries without their ids, those that have one."""
        self.bare = self.bare.union([entry.seq for entry in entries if entry.flags & IDS])
        self._ids = None

    def trim(self, entry: Entry) -> None:
        """Send an entry without the fields that its kind has not, or what its role may not say."""
        self.trimmed = self.trimmed | {entry.seq}

    def seal(self, call: Entry) -> None:
        """Follow a call with a stand-in for its output."""
        self.sealed = (*self.sealed, call)

    def weigh(self, scene: Scene) -> None:
        """Add up what is sent."""
        out, counted = self.out, scene.weights
        cost = lean = scene.seal * len(self.sealed) if self.sealed else 0
        other: dict[int, tuple[int, int | None]] = {}
        for entry in self.entries:
            if out and entry.seq in out:
                continue
            whole, short = entry.tokens, entry.excerpt
            if counted or entry.beside:
                whole, short = other[entry.seq] = self._other(entry, scene)
            cost += whole
            lean += whole if short is None else short
        self.cost, self.lean = cost, lean
        self.other = other or _NONE
        self.empty = len(out) == len(self.entries)
        self.plain = not (out or other or self.notes or self.trimmed or self.sealed)

    def _other(self, entry: Entry, scene: Scene) -> tuple[int, int | None]:
        whole, short = scene.weights.get(entry.seq) or (entry.tokens, entry.excerpt)
        # Fields of its maker's own shape go back to its maker only, and are counted only there.
        if entry.beside and scene.at_home(self.entries[0]):
            whole, short = whole + entry.beside, None if short is None else short + entry.beside
        return whole, short


class Unit(msgspec.Struct, eq=False, gc=False):
    """One group, with what is attached to it, in one window."""

    group: Group
    at: int
    fit: Fit
    """How its target takes it."""
    pinned: bool
    start: bool = False
    """Whether a turn starts here."""
    excerpted: bool = False
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


_ids: Final[set[Invariant]] = set()


def of_ids(invariant: Invariant) -> Invariant:
    """Mark an invariant that is about nothing but ids: it alone is asked about groups that are settled otherwise."""
    _ids.add(invariant)
    return invariant


def units_of(groups: Iterable[Group], scene: Scene, invariants: Sequence[Invariant]) -> list[Unit]:
    """Return groups in order as units, after every invariant has had its say."""
    units: list[Unit] = []
    in_effect, key = set(scene.history.effects.values()), scene.key
    asked = invariants, [one for one in invariants if one in _ids]
    for group in groups:
        if group.attached and units and _holds(units[-1].group):
            before = units[-1]
            entries, flags = (*before.entries, *group.entries), before.fit.flags | group.flags
            before.fit = _fit(entries, flags, scene, asked, void=before.group.void)
            continue
        at, flags = group.at, group.flags
        fit = group.fit
        if key is None or group.fit_for != key:
            fit = _fit(group.entries, flags, scene, asked, void=group.void)
            group.fit, group.fit_for = fit, key
        units.append(Unit(group, at, fit, flags & PINNED != 0 or at in in_effect))
    return units


def _holds(group: Group) -> bool:
    """Return whether an item of an unknown kind stands or falls with the group before it.

    It does not with one that fell already, nor with one that stays for a reason of its own.
    """
    kind = group.entries[0].reading.kind
    return not (group.void or group.pinned or (kind is not None and kind.positional))


def _fit(
    entries: tuple[Entry, ...],
    flags: int,
    scene: Scene,
    asked: tuple[Sequence[Invariant], Sequence[Invariant]],
    *,
    void: bool,
) -> Fit:
    """Return how a target takes entries after invariants have had their say: those of all, and of what is settled.

    *void* says that their response failed.
    """
    settled = not flags & _UNSETTLED and is_settled(entries)
    if settled and scene.unfit:
        settled = scene.unfit.isdisjoint([entry.seq for entry in entries])
    fit = Fit(entries, flags, settled)
    if void:
        for entry in entries:
            fit.leave_out(entry, FAILED)
    elif not settled or flags & IDS:
        for invariant in asked[settled]:
            invariant(fit, scene)
    fit.weigh(scene)
    return fit


def is_settled(entries: Sequence[Entry]) -> bool:
    """Return whether every target takes a group as it is, but for ids, where nothing of it was erased or is odd.

    That is so of messages, and of calls of the kinds that all APIs take, each with one output.
    """
    if len(entries) == 1:  # so most are
        return entries[0].reading.shape in ROLES
    if len(entries) == 2:  # and others a call with its output
        call, output = entries[0].reading, entries[1].reading
        if call.is_call and output.is_output and call.link == output.link:
            return call.shape in _CALLS and _CALLS[call.shape] == _CALLS.get(output.shape)
    answered: dict[tuple[str | None, str | None], bool] = {}
    for entry in entries:
        form = entry.reading
        if form.shape in ROLES:
            continue
        pair = _CALLS.get(form.shape), form.link
        if form.is_call and pair[0] is not None and pair not in answered:
            answered[pair] = False
        elif form.is_output and answered.get(pair) is False:
            answered[pair] = True
        else:
            return False
    return all(answered.values())


def mark_turns(units: Sequence[Unit]) -> None:
    """Mark where turns start; where nothing of a turn's first group would be sent, at the next that is."""
    starts = set(turn_starts([unit.group for unit in units]))
    due = False
    for unit in units:
        if unit.at in starts:
            due = True
        if due:
            unit.start = not unit.fit.empty
            due = not unit.start
