"""Policies: what goes first when a window is short of room. Pure, named, versioned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol

from ..errors import BudgetExceeded, Invalid
from ..manifest import Fates, Manifest
from .units import Unit

__all__ = ("Compacting", "Cut", "OldestTurns", "Policy")


class Policy(Protocol):
    """Decides which units a new cut drops or excerpts.

    A policy is asked only on overflow; in between, what it decided stands, so that the prefix of the window stays the
    same and the provider's prompt cache keeps serving it.

    Beside these a policy may have `oldest_first`, true when it drops no unit before it has dropped all older ones that
    can be, and excerpts all it can before it drops one. Then it need not be shown what is too old to stay in any case,
    and the first window of a long log costs no more than that of a short one.
    """

    name: str
    version: int

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """Return a cut after which *units* fit *available* tokens.

        *frontier* holds the places of the units that cannot be dropped: the current turn's input and its last group.
        Pinned units cannot be dropped either.

        Raises:
            BudgetExceeded: they cannot fit; its figures are those of the units.
        """
        ...


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
        if unit.lean < unit.cost and unit.at not in self.excerpted and unit.at not in self.dropped:
            self.excerpted.add(unit.at)
            self.total -= unit.cost - unit.lean

    def drop(self, unit: Unit) -> None:
        """Drop a unit, unless it is pinned."""
        if not unit.pinned and unit.at not in self.dropped:
            self.dropped.add(unit.at)
            self.total -= unit.lean if unit.at in self.excerpted else unit.cost
            self.excerpted.discard(unit.at)


class OldestTurns:
    """The default: large tool outputs of older groups shrink to excerpts, then the oldest turns go, whole.

    A cut goes down to half of the room (the low-water mark), so that the next one is far away; but the last turn before
    the current one stays while it fits at all. When the current turn alone overflows, its older groups go likewise; its
    input and its last group stay.
    """

    name = "oldest-turns"
    version = 1
    oldest_first = True

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """See `Policy.cut`."""
        cut = Cut(sum(unit.cost for unit in units))
        low = available // 2
        for unit in units:
            if cut.total > low and unit.at not in frontier:
                cut.excerpt(unit)
        self._drop_turns(units, cut, low, available, frontier)
        if cut.total > available:
            for unit in units:
                if cut.total > low and unit.at not in frontier:
                    cut.drop(unit)
        for unit in units:
            if cut.total > available and unit.at in frontier:
                cut.excerpt(unit)
        if cut.total > available:
            raise BudgetExceeded(cut.total, available)
        return cut

    def _drop_turns(self, units: Sequence[Unit], cut: Cut, low: int, available: int, frontier: frozenset[int]) -> None:
        """Drop from the oldest, up to where a turn starts, and never into the turn that the frontier is in.

        The last turn before it goes only if there is no room for it at all: it is what the current one speaks of.
        """
        turns = list(_turns(units))
        current = next((index for index, turn in enumerate(turns) if any(unit.at in frontier for unit in turn)), 0)
        for index, turn in enumerate(turns[:current]):
            if cut.total <= (available if index == current - 1 else low):
                return
            for unit in turn:
                cut.drop(unit)


def _turns(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """Yield the units of each turn, those before the first turn first."""
    starts = [index for index, unit in enumerate(units) if unit.start]
    for begin, end in pairwise([0, *starts, len(units)]):
        if begin < end:
            yield units[begin:end]


class Compacting:
    """Compacts before a request that would overflow, and cuts as another policy does where that does not help.

    Nothing is lost by a compaction that fails: the request is made all the same, with a window that was cut.

    Args:
        method: "remote": by the model's own service; "server": within a request, by the Responses API itself;
            "summary": by any model; "extract": by none; "auto": remote where the model has that, else a summary.
        model: what makes a compaction; default: the model of the request.
        at: the part of the room that a window may fill before one is due.
        instructions: for the model that makes it; default: for "remote" those of the request, else none.
        then: what cuts; default: `OldestTurns`.

    Raises:
        Invalid: an argument that is none of these.
    """

    def __init__(
        self,
        method: Literal["auto", "remote", "server", "summary", "extract"] = "auto",
        *,
        model: Any = None,
        at: float = 0.8,
        instructions: str | None = None,
        then: Policy | None = None,
    ) -> None:
        _check(method, at, then)
        self.method = method
        self.model = model
        self.at = at
        self.instructions = instructions
        self.then: Policy = then or OldestTurns()
        self.name = f"compacting+{self.then.name}"
        self.version = self.then.version
        self.oldest_first: bool = getattr(self.then, "oldest_first", False)

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """See `Policy.cut`."""
        return self.then.cut(units, available, frontier)

    def threshold(self, available: int) -> int:
        """Return the tokens from which on a compaction is due, of those that are *available* to a window."""
        return max(1, int(available * self.at))

    def is_due(self, manifest: Manifest, last: Manifest | None, *, tried: bool) -> bool:
        """Return whether to compact before a window is sent; *tried*: an earlier attempt came to nothing.

        Then it is tried again only when the window has to be cut.
        """
        if self.method == "server":
            return False
        early = manifest.tokens > self.threshold(manifest.context - manifest.reserve)
        return (early and not tried) or _cuts(manifest, last)


def _check(method: object, at: object, then: object) -> None:
    if method not in ("auto", "remote", "server", "summary", "extract"):
        raise Invalid(f"method={method!r:.100}: auto, remote, server, summary or extract is needed")
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0.1 <= at <= 1:
        raise Invalid(f"at={at!r:.100}: a part from 0.1 to 1 is needed")
    if then is not None and not callable(getattr(then, "cut", None)):
        raise Invalid(f"then={then!r:.100}: a policy is needed, such as OldestTurns()")


def _cuts(manifest: Manifest, last: Manifest | None) -> bool:
    """Return whether a window leaves out, or shortens, what the one before did not."""
    if manifest.cut > (last.cut if last else 0):
        return True
    fates = Fates(last) if last else None
    short = (run for run in manifest.runs if run.fate == "excerpted")
    return any(fates is None or fates.of(run.first) != "excerpted" for run in short)
