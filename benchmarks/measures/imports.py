"""Import time: what a process pays before it can do anything, less what an empty one pays."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from functools import partial
from typing import Final

from benchmarks.fleet import Failed
from benchmarks.results import OURS
from benchmarks.run import Job, Run

__all__ = ("measure",)

_IMPORTS: Final = {
    OURS: "import turnlog",
    "openai-agents": "from agents import SQLiteSession",
    "langgraph": "from langgraph.graph import StateGraph; from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver",
    "google-adk": "from google.adk.sessions import DatabaseSessionService",
    "eventsourcing": "from eventsourcing.sqlite import SQLiteApplicationRecorder",
}


def measure(run: Run) -> None:
    """Measure everyone in processes of their own."""
    run.say("imports")
    empty = statistics.median(_took("pass") for _ in range(5))
    found: dict[str, list[float]] = defaultdict(list)
    jobs = []
    for package, code in _IMPORTS.items():
        if package in run.fleet.workers:
            jobs.append(Job("import", package, partial(_import, code, empty, found[package])))
    run.interleaved(jobs)
    for package, times in found.items():
        if times:
            run.results.add("import", package, times, "ms")


def _import(code: str, empty: float, found: list[float], _: int) -> None:
    found.append(1000 * (_took(code) - empty))


def _took(code: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)  # noqa: S603 - our own
    if done.returncode:
        raise Failed(f"it cannot be imported: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return time.perf_counter() - begun
