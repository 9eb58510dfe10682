"""Policies: what goes first when a window is short of room. Pure, named, versioned, composed of parts.

policy = Composed(Pinned(first=1), Excerpts(), DropTurns(keep=3), LeaveRoom(4_000))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ..errors import BudgetExceeded, Invalid
from ..manifest import Fates, Manifest
from .cutting import Cut, Draft, Policy, blamed, check_policy, limit_of
from .parts import LOW, DropTurns, Excerpts, LastTurns, LeaveRoom, Part, Pinned, check_part, pinned_by, shrunk_by
from .units import Unit

__all__ = (
    "Compacting",
    "Composed",
    "Cut",
    "Draft",
    "DropTurns",
    "Excerpts",
    "LastTurns",
    "LeaveRoom",
    "OldestTurns",
    "Part",
    "Pinned",
    "Policy",
    "check_policy",
)


class Composed:
    """A policy made of parts: what they pin stays, and they shrink the window one after the other, in their order.

    What is still too much after that goes whatever the parts say, but for what is pinned and the frontier: turns from
    the oldest on, then groups, then what is large in the last one. So a window fits whenever one can. A composed policy
    may itself be a part of another.

    Its name is made of those of its parts, in their order, with the versions that are not their first: cuts made by
    other parts are never taken for its own.

    >>> Composed(Pinned(), OldestTurns(), LeaveRoom(4_000)).name
    'pinned+oldest-turns+leave-room(4000)'

    Raises:
        Invalid: there is no part, or one of them is none.
    """

    name: str
    version: int = 1
    """Of how parts are put together, and of the last resort."""

    def __init__(self, *parts: Part) -> None:
        if not parts:
            raise Invalid("Composed(): a part is needed, such as Excerpts()")
        for part in parts:
            check_part(part)
        self.parts = parts
        self.oldest_first = all(getattr(part, "oldest_first", False) for part in parts)
        if not hasattr(type(self), "name"):
            self.name = "+".join(map(_label, parts))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}@{self.version}>"

    def limit(self, available: int) -> int:
        """Return the tokens up to which a window may grow before it is cut: the fewest that a part names."""
        limits = [limit for part in self.parts if (limit := limit_of(part, available)) is not None]
        return max(0, min([available, *limits]))

    def pins(self, draft: Draft) -> Iterator[Unit]:
        """Yield what any part pins."""
        for part in self.parts:
            yield from pinned_by(part, draft)

    def shrink(self, draft: Draft) -> None:
        """Let each part shrink the window."""
        for part in self.parts:
            shrunk_by(part, draft)

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """See `Policy.cut`."""
        draft = Draft(units, available, frontier, self.limit(available))
        draft.pin(self.pins(draft))
        self.shrink(draft)
        _make_fit(draft)
        return draft


class OldestTurns(Composed):
    """The default: large tool outputs of older groups shrink to excerpts, then the oldest turns go, whole.

    A cut goes down to half of the room (the low-water mark), so that the next one is far away; but the last turn before
    the current one stays while it fits at all. When the current turn alone overflows, its older groups go likewise; its
    input and its last group stay.
    """

    name = "oldest-turns"
    version = 1

    def __init__(self) -> None:
        super().__init__(Excerpts(), DropTurns())


def _label(part: Part) -> str:
    return part.name if part.version == 1 else f"{part.name}.{part.version}"


_turns = DropTurns()


def _make_fit(draft: Draft) -> None:
    """Take the last resort.

    Raises:
        BudgetExceeded: what cannot be dropped does not fit.
    """
    if draft.over():
        _turns.shrink(draft)
    if draft.over():
        for unit in draft.units:
            if draft.over(LOW):
                draft.drop(unit)
    for unit in draft.units:
        if draft.total > draft.available:
            draft.excerpt(unit)
    if draft.total > draft.available:
        raise BudgetExceeded(draft.total, draft.available)


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

    def __repr__(self) -> str:
        return f"<Compacting {self.method}, at {self.at:g}, then {self.then!r}>"

    def cut(self, units: Sequence[Unit], available: int, frontier: frozenset[int]) -> Cut:
        """See `Policy.cut`."""
        with blamed(self.then, "cut"):
            return self.then.cut(units, available, frontier)

    def limit(self, available: int) -> int:
        """See `Policy`: what `then` says."""
        limit = limit_of(self.then, available)
        return available if limit is None else limit

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
    check_policy(then, "then")


def _cuts(manifest: Manifest, last: Manifest | None) -> bool:
    """Return whether a window leaves out, or shortens, what the one before did not."""
    if manifest.cut > (last.cut if last else 0):
        return True
    fates = Fates(last) if last else None
    short = (run for run in manifest.runs if run.fate == "excerpted")
    return any(fates is None or fates.of(run.first) != "excerpted" for run in short)
