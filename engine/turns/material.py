"""The material of a compaction: all that is alive since the last one, and how much of it is to be covered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from ..codec import ITEM, item_of
from ..compaction import references, weight
from ..events import ERASED, PINNED, ContextCompacted, Record, Target
from ..groups import Entry
from ..history import History
from ..items import read, reading
from ..loading import load
from ..log import Query
from ..paths import Along
from ..reader import logged
from ..window.coverage import Coverage, cover, everything
from ..window.invariants import INVARIANTS
from ..window.units import Scene, Unit, units_of
from .places import turn_at

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Material", "gather", "gather_all")

_ALL: Final = 10**12
_INPUTS: Final = 64
"""Items of one input at most that stay word for word."""


class Material:
    """What a compaction is made of."""

    def __init__(self, history: History, coverage: Coverage, target: Target, room: int) -> None:
        self.history = history
        self.coverage = coverage
        self.room = room
        """What windows have, in tokens."""
        self.records: Sequence[Record] = ()
        """The covered events, but for those that the last compaction covers too."""
        self.base_items: list[dict[str, Any]] = []
        """What stood for what was compacted before, as everybody can read it."""
        self.base_users: list[tuple[int, dict[str, Any]]] = []
        """The user's messages in it that are in the log."""
        base = weight(*history.base, target) if history.base else 0
        pinned = [group for group in history.early if history.is_pinned(group)]
        early = sum(entry.tokens for group in pinned for entry in group.entries if not entry.flags & ERASED)
        self.before = base + early + coverage.counted
        """Counted tokens of all that a window without a limit holds."""
        self.replaced = base + coverage.tokens
        """Counted tokens of what the stand-in takes the place of."""

    def entries(self, *, pinned: bool = False) -> Iterator[Entry]:
        """Yield what is covered and was sent; what is *pinned* is sent all the same, in front of the stand-in."""
        for unit in self.coverage.units:
            if pinned or not unit.pinned:
                yield from (entry for entry in unit.entries if entry.seq not in unit.fit.out)

    def users(self) -> list[Entry]:
        """Return what a user has said of what is covered, pinned or not."""
        return [entry for entry in self.entries(pinned=True) if entry.reading.shape == "user"]


async def gather(
    engine: Engine,
    name: str,
    version: int,
    target: Target,
    room: int | None,
    *,
    least: int = 0,
    base: tuple[Record, ContextCompacted] | None = None,
) -> Material | None:
    """Return what a compaction of a conversation at a version is made of; None: there is nothing, or less than *least*.

    Where nothing new has come since the last compaction, it is made again, of the events that it stands for. So it is
    where its stand-in alone takes half of the *room*. Without a *room* there is as much of it as is used. *base* is a
    compaction that is not in the log; see `load`.
    """
    passed: set[int] = set()
    while True:
        _, history = await load(engine.store, name, line=None, tokens=_ALL, at=version, without=passed, base=base)
        units = units_of(history, Scene(history, target), INVARIANTS)
        stand_in = weight(*history.base, target) if history.base else 0
        most = stand_in + sum(unit.cost for unit in units) if room is None else room
        coverage = cover(history, units, most)
        fresh = coverage if _is_new(history, units) else None
        if history.base is None or (fresh is not None and stand_in <= most // 2) or (fresh is None and least):
            break
        passed.add(history.base[0].seq)
        base = None if base is not None and base[0].seq in passed else base
    if fresh is None or stand_in + fresh.tokens < least:
        return None
    return await _filled(engine, Material(history, fresh, target, most))


def _is_new(history: History, units: Sequence[Unit]) -> bool:
    """Return whether something was answered since the last compaction, where there is one."""
    seq = history.base[0].seq if history.base else 0
    return any(unit.at > seq and unit.group.maker == "model" for unit in units)


async def gather_all(engine: Engine, name: str, version: int, target: Target, room: int) -> Material:
    """Return a conversation as it was at a version as what a compaction is made of, all of it."""
    _, history = await load(engine.store, name, line=None, tokens=_ALL, at=version)
    units = units_of(history, Scene(history, target), INVARIANTS)
    return await _filled(engine, Material(history, everything(history, units), target, room))


async def _filled(engine: Engine, material: Material) -> Material:
    """Read what choosing has no need of."""
    history = material.history
    along = Along(engine.store, history.path)
    snapshot = await along.read(history.conversation, Query(after=history.start, before=material.coverage.last + 1))
    material.records = snapshot.records[0] if snapshot else ()
    if material.coverage.under_way:
        quoted = await _asked(along, history)
        material.coverage = material.coverage._replace(quoted=quoted)
    if history.base is not None:
        known = {entry.seq for entry in material.coverage.quoted}
        said: ContextCompacted = history.base[1]
        parts = await engine.reader.quoted(history.conversation, said, Target(api="chat"))
        material.base_items = [item for seq, item in parts if seq not in known]
        records = await logged(engine.store, history.conversation, references(said))
        items = [(one.seq, item_of(one) or {}) for one in records]
        material.base_users = [(seq, item) for seq, item in items if read(item).shape == "user"]
    return material


async def _asked(along: Along, history: History) -> list[Entry]:
    """Return the input of the turn at the end, which began before the base."""
    turn = await turn_at(along, history.conversation, history.version)
    snapshot = await along.read(history.conversation, Query(after=turn - 1, limit=_INPUTS)) if turn else None
    records = snapshot.records[0] if snapshot else ()
    begun = takewhile(lambda one: one.kind == ITEM and reading(one.shape or "", one.link).maker == "input", records)
    return [Entry.of(one) for one in begun if not one.flags & (ERASED | PINNED)]
