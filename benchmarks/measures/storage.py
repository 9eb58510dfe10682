"""What a disk and a memory hold: bytes per item, memory of open conversations and of a long one's window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet import Failed, Kind, Worker
from benchmarks.measures.windows import compared_size, label, make
from benchmarks.results import OURS, is_peer
from benchmarks.run import OVER, Run

__all__ = ("bytes_", "logged", "memory")

_BUDGET: Final = 8_000


def bytes_(run: Run) -> None:
    """Measure bytes per item, by files, after everything is closed."""
    run.say("bytes per item")
    conversations, count = run.plan.filled
    ours = run.fleet.kind(OURS)
    inside = {"module": "benchmarks.inside"}
    branches = max(2, count // 10)
    folder = run.folder / "branched"
    _bytes(run, ours, folder, "branched", "bytes_per_item_branched", turns=count, branches=branches, **inside)
    _bytes(run, ours, *logged(run)[:2], "bytes_per_item_logged", **logged(run)[2])
    for kind in run.fleet.kinds:
        if run.over:
            run.results.note("bytes_per_item", kind.name, OVER)
            continue
        folder = run.folder / "bytes" / kind.name
        said = {"conversations": conversations, "count": count, "seconds": run.plan.seeding}
        _bytes(run, kind, folder, "fill", "bytes_per_item", **said)


def logged(run: Run) -> tuple[Path, str, dict[str, Any]]:
    """Return where the log of turns is, by which task it is made, and what that is given."""
    said = {"conversation": "logged", "count": run.plan.logged, "budget": _BUDGET, "module": "benchmarks.inside"}
    return run.folder / "logged", "logged", said


def _bytes(run: Run, kind: Kind, folder: Path, task: str, measure: str, **said: Any) -> None:
    try:
        done = kind.ask(task, folder, **said)
        held = kind.ask("close", folder)["bytes"]
    except Failed as reason:
        run.results.note(measure, kind.name, str(reason))
        return
    run.results.add(measure, kind.name, [held / done["items"]], "B/item")
    if kind.name == OURS:
        run.results.add(measure.replace("bytes", "json"), OURS, [done["json"] / done["items"]], "B/item")


def memory(run: Run) -> None:
    """Measure memory in fresh processes."""
    run.say("memory")
    for kind in run.fleet.kinds:
        # Ours needs to be asked once only: nothing is known in a fresh process.
        for way in kind.ways if run.plan.every_way and kind.name != OURS else kind.ways[:1]:
            _window(run, kind, way, compared_size(run))
    for kind in run.fleet.kinds:
        if kind.name == OURS or (kind.ways and is_peer(kind.name) and run.plan.every_way):
            _held(run, kind)


def _window(run: Run, kind: Kind, way: str, size: int) -> None:
    """Measure by how much a process grows at most that makes a window of a long conversation, the same for all."""
    system = label(kind, way)
    folder = run.folder / "windows" / kind.name
    asked: dict[str, Any] = {"budget": _BUDGET, "way": way}
    try:
        _in_time(run)
        make(run, kind, size)
        kind.ask("seed", folder, conversation="warm", count=80, first=0, seconds=10.0)
        with _fresh(run, kind) as worker:
            worker.ask("remember", kind.name, folder, conversations=["warm"], **asked)
            found = worker.ask("remember", kind.name, folder, conversations=[f"w{size}"], **asked)
    except Failed as reason:
        run.results.note("memory_window", system, str(reason))
        return
    run.results.add("memory_window", system, [found["peak"] / 1e6], f"MB, of {size:,} items")


def _held(run: Run, kind: Kind) -> None:
    """Measure what one more open conversation takes, with its window just made."""
    folder = run.folder / "held" / kind.name
    way = "live" if kind.name == OURS else kind.ways[0]
    names = [f"h{number}" for number in range(run.plan.held)]
    try:
        _in_time(run)
        for name in ["warm", *names]:
            kind.ask("seed", folder, conversation=name, count=80, first=0, seconds=run.plan.seeding)
        with _fresh(run, kind) as worker:
            worker.ask("remember", kind.name, folder, conversations=["warm"], budget=_BUDGET, way=way)
            found = worker.ask("remember", kind.name, folder, conversations=names, budget=_BUDGET, way=way)
    except Failed as reason:
        run.results.note("memory_conversation", kind.name, str(reason))
        return
    run.results.add("memory_conversation", kind.name, [found["grown"] / len(names) / 1e3], "kB/conversation")


def _in_time(run: Run) -> None:
    if run.over:
        raise Failed(OVER)


@contextmanager
def _fresh(run: Run, kind: Kind) -> Iterator[Worker]:
    worker = run.fleet.start(kind.worker.package)
    try:
        worker.ready()
        yield worker
    finally:
        worker.close()
