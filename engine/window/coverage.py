"""Coverage: how much of a history a compaction stands for, and what the requests send that are to sum it up. Pure.

A compaction covers whole groups from the beginning on, up to a place where nothing is torn. What nobody has answered
yet is never covered, nor the last exchange while there is room for it: that is what comes next speaks of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ..errors import BudgetExceeded
from ..events import ESTIMATED
from ..groups import Entry, Group
from ..history import History
from ..manifest import Manifest, Run, Span, spans
from ..tokens import scaled
from .invariants import BETWEEN
from .render import RENDERER
from .units import Scene, Unit, mark_turns

__all__ = ("Coverage", "cover", "everything", "next_part", "sending")

_POLICY: Final = "compaction@1"
_READ: Final = "it is compacted"
_ELSEWHERE: Final = "another part has it"
_TOLD: Final = "it is too long for any request: an excerpt of what it says is in the question"


class Coverage(NamedTuple):
    """What a compaction is to stand for."""

    last: int
    """The last seq of it."""
    units: Sequence[Unit]
    """The groups of it, in order."""
    quoted: Sequence[Entry]
    """The input of the turn under way, as far as it is covered: it stays word for word."""
    under_way: bool
    """Whether a turn is under way whose input lies before all of it."""
    tokens: int
    """Counted tokens that it takes away: pinned groups stay."""
    rest: int
    """Counted tokens of what it leaves."""

    @property
    def counted(self) -> int:
        """Counted tokens of all that windows without a limit hold behind the base."""
        return self.tokens + self.rest


def cover(history: History, units: Sequence[Unit], room: int) -> Coverage | None:
    """Return what is to be covered of a history, None when there is nothing: *room* is what windows have.

    *units* are all its groups behind the base, for any target.
    """
    mark_turns(units)
    end, quoting = _answered(history, units)
    starts = [index for index, unit in enumerate(units) if unit.start]
    index = _before_the_last_turn(units, starts, end, room // 4)
    while index > 0 and not _is_clean(units, index):
        index -= 1
    if index == 0:
        return None
    turn = max((start for start in starts if start <= index), default=None)
    quoted: list[Entry] = []
    if quoting and turn is not None:
        quoted = [entry for unit in units[turn:index] if unit.group.maker == "input" for entry in unit.entries]
    taken = sum(unit.cost for unit in units[:index] if not unit.pinned)
    if taken == 0:
        return None
    last = units[index].at - 1 if index < len(units) else history.version
    rest = sum(unit.cost for unit in units) - taken
    return Coverage(last, units[:index], quoted, quoting and turn is None, taken, rest)


def everything(history: History, units: Sequence[Unit]) -> Coverage:
    """Return all of a history as what is covered."""
    mark_turns(units)
    turn = max((index for index, unit in enumerate(units) if unit.start), default=len(units))
    quoted = [entry for unit in units[turn:] if unit.group.maker == "input" for entry in unit.entries]
    taken = sum(unit.cost for unit in units if not unit.pinned)
    rest = sum(unit.cost for unit in units) - taken
    return Coverage(history.version, units, quoted, turn == len(units), taken, rest)


def _answered(history: History, units: Sequence[Unit]) -> tuple[int, bool]:
    """Return the index behind the last group that may be covered, and whether a turn is under way there."""
    waiting = {call.at for call in history.unanswered()} | ({history.open} if history.open else set())
    end = next((index for index, unit in enumerate(units) if unit.at in waiting), len(units))
    while end > 0 and (units[end - 1].group.maker != "model" or units[end - 1].group.void):
        end -= 1
    if end == 0:
        return 0, False
    called = any(entry.reading.is_output for entry in units[end - 1].entries)
    # A model that has called tools is owed the next request: its last group stays, with what was asked.
    under_way = called or (end < len(units) and units[end].at in waiting)
    return (end - 1, True) if under_way else (end, False)


def _before_the_last_turn(units: Sequence[Unit], starts: Sequence[int], end: int, most: int) -> int:
    """Return where the last turn begun before *end* starts, if it is short and not all there is; else *end*."""
    begun = [start for start in starts if start < end]
    if not begun or sum(unit.cost for unit in units[begun[-1] : end]) > most:
        return end
    earlier = any(not unit.pinned and not unit.empty for unit in units[: begun[-1]])
    return begun[-1] if earlier else end


def _is_clean(units: Sequence[Unit], index: int) -> bool:
    """Return whether all that stands before a unit was logged before it."""
    if index == len(units):
        return True
    return max(entry.seq for unit in units[:index] for entry in unit.entries) < units[index].at


def next_part(units: Sequence[Unit], room: int) -> int:
    """Return how many units fit a request, large outputs excerpted only where they would not fit at all.

    Raises:
        BudgetExceeded: not even the first of them does.
    """
    size = total = 0
    for unit in units:
        if unit.cost > room:
            unit.shrink()
        total += unit.cost
        if total > room:
            break
        size += 1
    if size == 0:
        raise BudgetExceeded(units[0].cost, max(room, 0), f"a group that is to be compacted, at {units[0].at},")
    return size


def sending(
    scene: Scene,
    part: Sequence[Unit],
    prompts: Sequence[Entry],
    *,
    base: int,
    factor: int,
    budget: tuple[int, int],
    told: tuple[Span, ...] = (),
) -> Manifest:
    """Return the manifest of a request that sends a part of a history, and *prompts* behind it.

    *base* are the tokens of what stands for earlier compacted events, where that is sent too; *budget* is the model's
    context and what of it is kept free; *told* is what the prompts hold an excerpt of.
    """
    history = scene.history
    for holds in BETWEEN:
        holds(part, scene)
    weights, lean = _weighed(part)
    weights |= {entry.seq: entry.tokens for entry in prompts}
    sealed = [entry.seq for unit in part for entry in unit.fit.sealed]
    items = base + sum(weights.values()) + scene.seal * len(sealed)
    guessed = _guessed([*(entry for unit in part for entry in unit.entries), *prompts], weights)
    return Manifest(
        policy=_POLICY,
        renderer=RENDERER,
        as_of=history.version,
        base=history.base[0].seq if history.base else 0,
        runs=tuple(_runs(history.version, sorted(weights), lean, told)),
        rules=(_READ, _ELSEWHERE, _TOLD) if told else (_READ, _ELSEWHERE),
        early=tuple(sorted(seq for group in history.early for seq in _seqs(group) if seq in weights)),
        bare=spans(sorted(weights.keys() & {seq for unit in part for seq in unit.fit.bare})),
        trimmed=spans(sorted(weights.keys() & {seq for unit in part for seq in unit.fit.trimmed})),
        sealed=tuple(sorted(sealed)),
        factor=factor,
        items=items,
        tokens=scaled(items, factor),
        measured=guessed == 0,
        bound=scaled(guessed + len(weights), factor),
        context=budget[0],
        reserve=budget[1],
        told=told,
        weights=weights,
    )


def _weighed(part: Sequence[Unit]) -> tuple[dict[int, int], set[int]]:
    """Return the tokens of what is sent, by seq, and what of it goes as an excerpt."""
    weights: dict[int, int] = {}
    lean: set[int] = set()
    for unit in part:
        for seq, (whole, short) in unit.fit.weights.items():
            shortened = unit.excerpted and short is not None
            weights[seq] = short if shortened and short is not None else whole
            if shortened:
                lean.add(seq)
    return weights, lean


def _guessed(entries: Iterable[Entry], weights: Mapping[int, int]) -> int:
    """Return the tokens of what is sent and was estimated."""
    return sum(weights[entry.seq] for entry in entries if entry.flags & ESTIMATED and entry.seq in weights)


def _seqs(group: Group) -> Iterator[int]:
    return (entry.seq for entry in group.entries)


def _runs(version: int, sent: Sequence[int], short: set[int], told: Sequence[Span]) -> Iterator[Run]:
    at = 1
    for first, last in spans(list(sent)):
        yield from _left_out(at, first - 1, told)
        yield from _sent_runs(first, last, short)
        at = last + 1
    yield from _left_out(at, version, told)


def _left_out(first: int, last: int, told: Sequence[Span]) -> Iterator[Run]:
    """Yield a stretch of which nothing is sent as it is."""
    at = first
    for low, high in told:
        if not first <= low <= high <= last:
            continue
        if at < low:
            yield Run(at, low - 1, "dropped", 1)
        yield Run(low, high, "dropped", 2)
        at = high + 1
    if at <= last:
        yield Run(at, last, "dropped", 1)


def _sent_runs(first: int, last: int, short: set[int]) -> Iterator[Run]:
    begin = first
    for seq in range(first, last + 1):
        if seq == last or (seq + 1 in short) != (seq in short):
            yield Run(begin, seq, "excerpted" if seq in short else "kept", 0)
            begin = seq + 1
