"""Windows of 8,000 and of 100,000 tokens, of conversations of a hundred items to a million.

Before anything is timed, everyone's window of each conversation is compared with a walk over the workload itself: it
must hold the same items.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.fleet import Failed, Kind
from benchmarks.results import OURS, is_peer
from benchmarks.run import OVER, Job, Run
from benchmarks.workload import TURN, items, newest, text, weigh
from turnlog.engine import vocabulary
from turnlog.engine.tokens import Counter

__all__ = ("BUDGETS", "COMPARED", "compared", "growing", "label", "walked")

BUDGETS: Final = {"8k": 8_000, "100k": 100_000}
COMPARED: Final = 10_000
"""Items of the conversation of which windows are compared between systems."""
_TIMES: Final = 3
"""Windows in one round."""


_Found = dict[tuple[str, str], list[float]]
"""Times by measure and system."""


def label(kind: Kind, way: str) -> str:
    """Return what a system is called that is asked for windows in one way: its first way needs no name."""
    plain = len(kind.ways) == 1 or (kind.name == OURS and way == kind.ways[0])
    return kind.name if plain else f"{kind.name}, {way}"


def _folder(run: Run, kind: Kind) -> Path:
    return run.folder / "windows" / kind.name


def _wanted(run: Run, kind: Kind) -> Sequence[int]:
    return () if not kind.ways else run.plan.sizes if kind.name == OURS else run.plan.peers


def _make(run: Run, size: int, kinds: Sequence[Kind]) -> None:
    """Let everyone make a conversation of a size; where that takes too long, it is left out, and so are longer ones."""
    for kind in kinds:
        known = run.seeded.setdefault(kind.name, [])
        if size not in _wanted(run, kind) or size in known or kind.name in run.slow:
            continue
        reason = OVER if run.half_over else _seed(run, kind, size)
        if reason is None:
            known.append(size)
            continue
        run.slow.update([kind.name] if reason != OVER else [])
        run.results.note(f"windows of {size} items", kind.name, reason)
        run.say(f"  windows of {size:,} items, {kind.name}: {reason}")


def _seed(run: Run, kind: Kind, size: int) -> str | None:
    # Of ours, longer conversations are asked than of others.
    allowed = run.plan.seeding * (5 if kind.name == OURS else 1)
    said = {"conversation": f"w{size}", "count": size, "first": 0, "seconds": allowed, "limit": 10 * allowed}
    try:
        done = kind.ask("seed", _folder(run, kind), **said)
    except Failed as reason:
        return str(reason)
    return None if done["items"] == size else f"a conversation of {size:,} items takes it longer than {allowed:g} s"


def walked(size: int, budget: int, count: Counter) -> tuple[int, str]:
    """Return how many items a window holds, and the digest of their texts, from the workload alone."""
    # The end of it is enough: items are made from their numbers.
    first = max(0, size - budget // 50) // TURN
    end = items(size - first * TURN, first)
    start = newest(end, budget, lambda item: weigh(item, count), lambda item: item.get("role") == "user")
    texts = [text(item) for item in end[start:]]
    return len(texts), hashlib.sha256("\n".join(texts).encode()).hexdigest()


def compared(run: Run) -> None:
    """Measure everyone at the size at which systems are compared."""
    size = COMPARED if COMPARED in run.plan.sizes else max(run.plan.peers)
    for (measure, system), times in _measured(run, [size], run.fleet.kinds).items():
        run.results.add(measure, system, times, "ms")


def growing(run: Run) -> None:
    """Measure at every size, all in turn, so that what else the machine does weighs on all sizes alike."""
    kinds = [kind for kind in run.fleet.kinds if len(_wanted(run, kind)) > 1]
    found = _measured(run, run.plan.sizes, kinds)
    grown: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for (measure, system), times in found.items():
        name, _, size = measure.partition("@")
        grown[name, system][float(size)] = statistics.median(times)
        if run.results.value(measure, system) is None:
            run.results.add(measure, system, times, "ms")
    for (name, system), points in grown.items():
        run.results.add_exponent(f"{name}_exponent", system, points)


def _measured(run: Run, sizes: Sequence[int], kinds: Sequence[Kind]) -> _Found:
    """Make conversations of some sizes, and measure everyone's windows of them; return milliseconds."""
    for size in sizes:
        run.say(f"windows of {size:,} items")
        _make(run, size, kinds)
    count = anyio.run(vocabulary.load).count
    found: _Found = defaultdict(list)
    jobs = [
        job
        for size in sizes
        for name, budget in BUDGETS.items()
        if name == "8k" or size in run.plan.long_sizes
        for job in _jobs(run, kinds, name, size, walked(size, budget, count), found)
    ]
    run.interleaved(jobs)
    return {place: [1000 * one for one in times] for place, times in found.items() if times}


def _jobs(
    run: Run, kinds: Sequence[Kind], name: str, size: int, right: tuple[int, str], found: _Found
) -> Iterator[Job]:
    """Yield what everyone does at a size, if its window is the right one."""
    measure = f"window_{name}@{size}"
    for kind in kinds:
        for way in _ways(run, kind) if size in run.seeded[kind.name] else ():
            system = label(kind, way)
            if run.over:
                run.results.note(measure, system, OVER)
            elif _same(run, kind, way, name, size, right):
                work = partial(_ask, run, kind, way, BUDGETS[name], size, found[measure, system])
                yield Job(measure, system, work)


def _ways(run: Run, kind: Kind) -> Sequence[str]:
    return kind.ways if run.plan.every_way or not is_peer(kind.name) else kind.ways[:1]


def _ask(run: Run, kind: Kind, way: str, budget: int, size: int, found: list[float], _: int) -> None:
    given = {"conversation": f"w{size}", "budget": budget, "way": way, "times": _TIMES}
    found += kind.ask("windows", _folder(run, kind), **given, seconds=run.plan.allowance / run.plan.rounds)["times"]


def _same(run: Run, kind: Kind, way: str, name: str, size: int, right: tuple[int, str]) -> bool:
    """Return whether a system's window holds what it should; the policy that cuts further down need not."""
    measure, system = f"window_{name}@{size}", label(kind, way)
    try:
        found: Any = kind.ask(
            "look", _folder(run, kind), conversation=f"w{size}", budget=BUDGETS[name], way=way, limit=60.0
        )
    except Failed as reason:
        run.results.note(measure, system, str(reason))
        return False
    rows = f"window_{name}_rows@{size}"
    if run.results.value(rows, system) is None:
        run.results.add(rows, system, [found["rows"]], "rows")
    if "oldest-turns" in way or (found["items"], found["digest"]) == right:
        return True
    run.results.note(measure, system, f"its window holds {found['items']} items, not the {right[0]} that it should")
    run.say(f"  {measure}, {system}: its window is another one, and not measured")
    return False
