"""What a policy is, and what it decides: a cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

from ..errors import Invalid, TurnlogError
from .units import Unit

__all__ = (
    "Cut",
    "Draft",
    "Policy",
    "blamed",
    "called",
    "check_cut",
    "check_name",
    "check_policy",
    "limit_of",
)

_LONGEST = 255


class Policy(Protocol):
    """Decides which units a new cut drops or excerpts.

    A policy is asked only on overflow; in between, what it decided stands, so that the prefix of the window stays the
    same and the provider's prompt cache keeps serving it.

    Beside these a policy may have:

    - `limit(available)`: the tokens up to which a window may grow before the policy is asked, fewer than *available*;
    - `oldest_first`: true when what it does to a unit is the same however many older ones there are, as long as the
      newer ones alone do not fit even with their outputs excerpted. Then it need not be shown what is too old to stay
      in any case, and the first window of a long log costs no more than that of a short one.
    """

    name: str
    """With the version it is what cuts are remembered under: policies that decide otherwise have other names."""
    version: int
    """Goes up whenever the policy would decide otherwise than before."""

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """Return a cut after which *units* fit *available* tokens; pure.

        *frontier* holds the places of the units that cannot be dropped: the current turn's input and its last group.
        Pinned units cannot be dropped either.

        Raises:
            BudgetExceeded: they cannot fit; its figures are those of the units.
        """
        ...


def check_policy(policy: Any, what: str = "policy") -> None:
    """See to it that a policy is one, or None.

    Raises:
        Invalid: it is not; the message says what it lacks.
    """
    if policy is None:
        return
    if isinstance(policy, type) or not callable(getattr(policy, "cut", None)):
        raise Invalid(f"{what}={policy!r:.100}: a policy is needed, such as OldestTurns()")
    check_name(policy, what)


def check_name(one: Any, what: str) -> None:
    """See to it that something bears a name and a version.

    Raises:
        Invalid: it does not.
    """
    name, version = getattr(one, "name", None), getattr(one, "version", None)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST:
        raise Invalid(f"{what}={one!r:.100}: its name is {name!r:.100}; a text of 1 to {_LONGEST} characters is needed")
    if isinstance(version, bool) or not isinstance(version, int):
        raise Invalid(f"{what}={one!r:.100}: its version is {version!r:.100}; a whole number is needed")


def check_cut(cut: Any, policy: Policy) -> None:
    """See to it that what a policy has returned is a cut.

    Raises:
        Invalid: it is something else.
    """
    if not isinstance(cut, Cut):
        raise Invalid(f"{called(policy)}: cut() returned {cut!r:.100}; a Cut is needed")


def called(one: Any) -> str:
    """Return what a policy or a part is called where it is at fault."""
    return f"{'policy' if hasattr(one, 'cut') else 'part'} {one.name}@{one.version}"


@contextmanager
def blamed(one: Any, ability: str) -> Iterator[None]:
    """Name the policy or the part that raises what is none of turnlog's errors.

    Raises:
        Invalid: from that error.
    """
    try:
        yield
    except TurnlogError:
        raise
    except Exception as error:
        raise Invalid(f"{called(one)}: {ability}() failed: {type(error).__name__}: {error}") from error


def limit_of(one: Any, available: int) -> int | None:
    """Return the tokens up to which a policy or a part lets a window grow, None where it says nothing of that.

    Raises:
        Invalid: what it says is no number of tokens.
    """
    if getattr(one, "limit", None) is None:
        return None
    with blamed(one, "limit"):
        limit = one.limit(available)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise Invalid(f"{called(one)}: limit() returned {limit!r:.100}; a whole number of tokens is needed")
    return limit


class Cut:
    """What a policy has decided: units dropped and excerpted, by place."""

    __slots__ = ("dropped", "excerpted", "total")

    def __init__(self, total: int) -> None:
        self.dropped: set[int] = set()
        self.excerpted: set[int] = set()
        self.total = total
        """Tokens of what is left."""

    def excerpt(self, unit: Unit) -> None:
        """Let a unit's large outputs go as excerpts."""
        shorter = unit.cost - unit.lean
        if shorter > 0 and unit.at not in self.excerpted and unit.at not in self.dropped:
            self.excerpted.add(unit.at)
            self.total -= shorter

    def drop(self, unit: Unit) -> None:
        """Drop a unit, unless it is pinned."""
        at = unit.at
        if unit.pinned or at in self.dropped:
            return
        self.dropped.add(at)
        if at in self.excerpted:
            self.total -= unit.lean
            self.excerpted.remove(at)
        else:
            self.total -= unit.cost


class Draft(Cut):
    """A cut under way, with all that a policy's parts go by."""

    __slots__ = ("_pinned", "available", "current", "frontier", "room", "turns", "units")

    def __init__(
        self, units: Sequence[Unit], available: int, frontier: frozenset[int], room: int | None = None
    ) -> None:
        super().__init__(sum([unit.cost for unit in units]))
        self.units = units
        """What may be sent, in order."""
        self.available = available
        """The tokens that there are."""
        self.room = available if room is None else min(room, available)
        """Those of them that a window is to take."""
        self.frontier = frontier
        """The places of what cannot be dropped: the current turn's input and its last group."""
        self.turns = tuple(_turns(units))
        """The same units by turns; those before the first turn come first."""
        self.current = _first_of(self.turns, frontier)
        """The index of the current turn."""
        self._pinned: frozenset[int] = frozenset()

    @property
    def older(self) -> Sequence[Sequence[Unit]]:
        """The turns before the current one."""
        return self.turns[: self.current]

    def over(self, share: float = 1.0) -> bool:
        """Return whether more is left than a share of the room."""
        return self.total > int(self.room * share)

    def pin(self, units: Iterable[Unit]) -> None:
        """Keep units from being dropped."""
        self._pinned |= {unit.at for unit in units}

    def drop(self, unit: Unit) -> None:
        """Drop a unit, unless it is pinned or belongs to the frontier."""
        if unit.at not in self.frontier and unit.at not in self._pinned:
            super().drop(unit)


def _first_of(turns: Sequence[Sequence[Unit]], frontier: frozenset[int]) -> int:
    """Return the index of the first turn with something of the frontier in it, which is one of the last."""
    first, left = 0, len(frontier)
    for index in range(len(turns) - 1, -1, -1):
        found = sum([unit.at in frontier for unit in turns[index]])
        if found:
            first, left = index, left - found
        if left <= 0:
            break
    return first


def _turns(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    starts = [index for index, unit in enumerate(units) if unit.start]
    for begin, end in pairwise([0, *starts, len(units)]):
        if begin < end:
            yield units[begin:end]
