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

__all__ = ("BUDGETS", "COMPARED", "compared", "compared_size", "growing", "label", "make", "walked")

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


def compared_size(run: Run) -> int:
    """Return the size of the conversations by which systems are compared."""
    return COMPARED if COMPARED in run.plan.sizes else max(run.plan.peers)


def make(run: Run, kind: Kind, size: int) -> None:
    """Let a system make a conversation of a size, once; where that takes too long, it makes no longer ones either.

    Raises:
        Failed: it is not made.
    """
    known = run.seeded.setdefault(kind.name, [])
    if size in known:
        return
    least, said = run.slow.get(kind.name, (size + 1, ""))
    if size >= least:
        raise Failed(said)
    if run.half_over:
        raise Failed(OVER)
    try:
        _seed(run, kind, size)
    except Failed as reason:
        # Some of it may be there, so it is not made again where there is more time.
        run.slow[kind.name] = size, str(reason)
        raise
    known.append(size)


def _seed(run: Run, kind: Kind, size: int) -> None:
    # Of ours, longer conversations are asked than of others, and it may take the time that there is.
    left = run.before_half
    seconds = left if kind.name == OURS else min(left, run.plan.seeding)
    said = {"conversation": f"w{size}", "count": size, "first": 0, "seconds": seconds, "limit": 60.0 + 10 * seconds}
    done = kind.ask("seed", _folder(run, kind), **said)
    if done["items"] == size:
        return
    # At its own pace when it is alone, or because others have left it no more time than that.
    reason = f"a conversation of {size:,} items takes it longer than {seconds:.3g} s"
    raise Failed(reason if seconds < left else f"{OVER}: {reason}")


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
    size = compared_size(run)
    for (measure, system), times in _measured(run, [size], run.fleet.kinds).items():
        run.results.add(measure, system, times, "ms")


def growing(run: Run) -> None:
    """Measure at every size, all in turn, so that what else the machine does weighs on all sizes alike."""
    kinds = [kind for kind in run.fleet.kinds if len(_wanted(run, kind)) > 1]
    found = _measured(run, run.plan.sizes, kinds, least=run.plan.rounds)
    grown: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for (measure, system), times in found.items():
        name, _, size = measure.partition("@")
        grown[name, system][float(size)] = statistics.median(times)
        if run.results.value(measure, system) is None:
            run.results.add(measure, system, times, "ms")
    for (name, system), points in grown.items():
        run.results.add_exponent(f"{name}_exponent", system, points)


def _measured(run: Run, sizes: Sequence[int], kinds: Sequence[Kind], least: int = 1) -> _Found:
    """Measure everyone's windows of conversations of some sizes, the shortest first; return milliseconds.

    Everyone is asked for its windows under each budget before the next one makes its conversation: what takes long
    takes the time of those behind it, and not a whole measure's.

    Ours are measured in *least* rounds at least, as soon as there is the conversation: an exponent of a few is noise.
    """
    run.say(f"windows of {', '.join(f'{size:,}' for size in sizes)} items")
    count = anyio.run(vocabulary.load).count
    found: _Found = defaultdict(list)
    right = {
        (name, size): walked(size, budget, count)
        for size in sizes
        for name, budget in BUDGETS.items()
        if name == "8k" or size in run.plan.long_sizes
    }
    jobs = [
        job
        for size in sorted(sizes)
        for kind in kinds
        for name in BUDGETS
        if (name, size) in right
        for job in _jobs(run, kind, name, size, right[name, size], found)
    ]
    jobs = [job._replace(least=least if job.system.startswith(OURS) else 1) for job in jobs]
    run.interleaved(jobs)
    return {place: [1000 * one for one in times] for place, times in found.items() if times}


def _jobs(run: Run, kind: Kind, name: str, size: int, right: tuple[int, str], found: _Found) -> Iterator[Job]:
    """Yield what a system does at a size, once its conversation is made and its window is the right one."""
    measure = f"window_{name}@{size}"
    for way in _ways(run, kind) if size in _wanted(run, kind) else ():
        system = label(kind, way)
        work = partial(_ask, run, kind, way, BUDGETS[name], size, found[measure, system])
        yield Job(measure, system, work, partial(_ready, run, kind, way, name, size, right))


def _ways(run: Run, kind: Kind) -> Sequence[str]:
    return kind.ways if run.plan.every_way or not is_peer(kind.name) else kind.ways[:1]


def _ask(run: Run, kind: Kind, way: str, budget: int, size: int, found: list[float], _: int) -> None:
    given = {"conversation": f"w{size}", "budget": budget, "way": way, "times": _TIMES}
    found += kind.ask("windows", _folder(run, kind), **given, seconds=run.plan.allowance / run.plan.rounds)["times"]


def _ready(run: Run, kind: Kind, way: str, name: str, size: int, right: tuple[int, str]) -> None:
    """See to it that a system's window holds what it should; the policy that cuts further down need not.

    Raises:
        Failed: it does not, or there is no conversation to make it of.
    """
    make(run, kind, size)
    said = {"conversation": f"w{size}", "budget": BUDGETS[name], "way": way}
    found: Any = kind.ask("look", _folder(run, kind), **said, limit=60.0)
    rows, system = f"window_{name}_rows@{size}", label(kind, way)
    if run.results.value(rows, system) is None:
        run.results.add(rows, system, [found["rows"]], "rows")
    if "oldest-turns" not in way and (found["items"], found["digest"]) != right:
        raise Failed(f"its window holds {found['items']} items, not the {right[0]} that it should")
