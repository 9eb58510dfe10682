"""A turn's storage work, the same for all: one append of its four items, and a window of 8,000 tokens."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet import Failed, Kind
from benchmarks.measures.windows import label
from benchmarks.results import OURS
from benchmarks.run import OVER, Job, Run
from benchmarks.workload import TURN

__all__ = ("COMPARED", "compared", "growing")

_BUDGET: Final = 8_000
COMPARED: Final = 1_000
"""The turn at which systems are compared."""
_TIMES: Final = 3
"""Turns in one round."""
_FEW: Final = 100
"""Up to this turn each is measured in a conversation of its own: the same one would soon be much longer."""
_LIVE: Final = "live"


_Found = dict[tuple[int, str], list[Any]]
"""Rounds by turn and system."""


def compared(run: Run) -> None:
    """Measure everyone at the turn at which systems are compared."""
    turn = COMPARED if COMPARED in run.plan.turns else max(run.plan.peer_turns)
    for (at, system), rounds in _measured(run, [turn], "compared", run.fleet.kinds).items():
        _add(run, at, system, rounds)


def growing(run: Run) -> None:
    """Measure at every turn, all in turn, so that what else the machine does weighs on all alike."""
    grown: dict[str, dict[float, float]] = defaultdict(dict)
    kinds = [kind for kind in run.fleet.kinds if len(_asked(run, kind)) > 1]
    for (at, system), rounds in _measured(run, run.plan.turns, "growing", kinds, least=run.plan.rounds).items():
        grown[system][at] = statistics.median(one for each in rounds for one in each["times"])
        if run.results.value(f"turn@{at}", system) is None:
            _add(run, at, system, rounds)
    for system, points in grown.items():
        run.results.add_exponent("turn_exponent", system, points)


def _measured(run: Run, ats: Sequence[int], label: str, kinds: Sequence[Kind], least: int = 1) -> _Found:
    """Measure some turns, the earliest first; ours in *least* rounds at least, as with windows."""
    run.say(f"turn {', '.join(f'{at:,}' for at in ats)}")
    found: _Found = defaultdict(list)
    jobs = [job for at in ats for kind in kinds for job in _jobs(run, kind, at, label, found)]
    run.interleaved([job._replace(least=least if job.system == OURS else 1) for job in jobs])
    return {place: rounds for place, rounds in found.items() if rounds}


def _add(run: Run, at: int, system: str, rounds: Sequence[Any]) -> None:
    run.results.add(f"turn@{at}", system, [1000 * one for each in rounds for one in each["times"]], "ms")
    flushes = [each["flushes"] for each in rounds if each["flushes"] is not None]
    if flushes:
        run.results.add(f"turn_flushes@{at}", system, flushes, "flushes/turn")


def _asked(run: Run, kind: Kind) -> Any:
    return run.plan.turns if kind.name == OURS else run.plan.peer_turns


def _ways(run: Run, kind: Kind) -> list[str]:
    """Return how a system makes windows within turns: ours as a service does, with what it has just appended."""
    if kind.name == OURS:
        return [_LIVE]
    return list(kind.ways if run.plan.every_way else kind.ways[:1])


def _name(kind: Kind, way: str) -> str:
    return kind.name if kind.name == OURS else label(kind, way)


def _jobs(run: Run, kind: Kind, at: int, label: str, found: _Found) -> Iterator[Job]:
    """Yield what a system does at a turn, in each of its ways, once it has made conversations of that length."""
    folder = run.folder / "turns" / label / kind.name
    for way in _ways(run, kind) if kind.ways and at in _asked(run, kind) else ():
        system = _name(kind, way)
        work = partial(_ask, run, kind, folder, at, way, found[at, system])
        yield Job(f"turn@{at}", system, work, partial(_ready, run, kind, folder, at, way))


def _conversations(at: int, way: str, number: int) -> list[str]:
    return [f"t{at}-{way}-{number}-{each}" if at <= _FEW else f"t{at}-{way}" for each in range(_TIMES)]


def _ready(run: Run, kind: Kind, folder: Path, at: int, way: str) -> None:
    """Make the conversations that turns are appended to.

    Raises:
        Failed: that cannot be.
    """
    if run.half_over:
        raise Failed(OVER)
    names = dict.fromkeys(name for number in range(run.plan.rounds) for name in _conversations(at, way, number))
    count = (at - 1) * TURN
    left = run.before_half
    seconds = left if kind.name == OURS else min(left, run.plan.seeding)
    for name in names:
        said = {"conversation": name, "count": count, "first": 0, "seconds": seconds / len(names)}
        if kind.ask("seed", folder, **said)["items"] < count:
            reason = f"{count:,} items take it longer than {seconds:.3g} s"
            raise Failed(reason if seconds < left else f"{OVER}: {reason}")


def _ask(run: Run, kind: Kind, folder: Path, at: int, way: str, found: list[Any], number: int) -> None:
    said = {
        "flush": run.flush,
        "conversations": _conversations(at, way, number),
        "at": at + number * _TIMES,
        "budget": _BUDGET,
        "way": way,
    }
    found.append(kind.ask("turns", folder, **said))
