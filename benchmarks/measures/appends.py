"""Durable appends: one item at a time, by one conversation, by a hundred and by a thousand at once."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.disk import DISK
from benchmarks.fleet import Kind
from benchmarks.results import percentile
from benchmarks.run import Job, Run

__all__ = ("crowd", "measure")


def measure(run: Run) -> None:
    """Measure everyone."""
    for conversations in sorted(run.plan.crowds, reverse=True):
        crowd(run, conversations, run.flush, f"append_{conversations}")
        if run.plan.disk and run.flush != DISK and conversations <= 100:
            crowd(run, conversations, DISK, f"append_{conversations}_disk")


def crowd(run: Run, conversations: int, flush: int, measure: str) -> None:
    """Measure appends by so many conversations at once."""
    run.say(f"appends, {conversations} at once{', on the disk itself' if measure.endswith('_disk') else ''}")
    found: dict[str, list[Any]] = defaultdict(list)
    jobs = []
    for kind in run.fleet.kinds:
        if conversations > kind.most:
            run.results.note(measure, kind.name, "it opens more connections for that than it is made for")
            continue
        if run.plan.hurried and conversations > kind.quickly:
            run.results.note(measure, kind.name, "its appends wait for locks for seconds; a full run has the time")
            continue
        folder = run.folder / measure / kind.name
        work = partial(_append, run, kind, conversations, flush, folder, found[kind.name])
        jobs.append(Job(measure, kind.name, work))
    with run.share(measure):
        run.interleaved(jobs)
    for kind in run.fleet.kinds:
        if found[kind.name]:
            _add(run, measure, kind.name, found[kind.name])
            kind.ask("close", run.folder / measure / kind.name)


def _append(run: Run, kind: Kind, conversations: int, flush: int, folder: Path, found: list[Any], number: int) -> None:
    said = {"flush": flush, "label": f"r{number}", "conversations": conversations, "seconds": run.plan.appending}
    found.append(kind.ask("appends", folder, **said))


def _add(run: Run, measure: str, system: str, rounds: list[Any]) -> None:
    results = run.results
    done = [one for one in rounds if one["times"]]
    busy = sum(one["busy"] for one in rounds)
    if busy:
        attempts = busy + sum(len(one["times"]) for one in rounds)
        results.add(f"{measure}_refused", system, [100 * busy / attempts], "% of appends")
    if not done:
        results.note(measure, system, "every append was refused: the database was locked")
        return
    results.add(measure, system, [len(one["times"]) / one["seconds"] for one in done], "items/s")
    results.add(f"{measure}_p50", system, [1000 * percentile(one["times"], 0.5) for one in done], "ms")
    results.add(f"{measure}_p99", system, [1000 * percentile(one["times"], 0.99) for one in done], "ms")
    flushes = [one["flushes"] for one in done if one["flushes"] is not None]
    if flushes:
        results.add(f"{measure}_flushes", system, flushes, "flushes/append")
