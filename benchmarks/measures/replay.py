"""Verifying and rebuilding what was sent: how fast, beside only reading and decoding the same log."""

from __future__ import annotations

from typing import Any

from benchmarks.fleet import Failed
from benchmarks.results import OURS
from benchmarks.run import Job, Run

__all__ = ("measure",)


def measure(run: Run) -> None:
    """Measure the log of turns whose bytes were counted."""
    run.say("verifying and rebuilding requests")
    kind = run.fleet.kind(OURS)
    found: list[Any] = []

    def ask(_: int) -> None:
        folder = run.folder / "logged"
        if not (folder / "log.db").exists():
            raise Failed("there is no log of turns")
        found.append(kind.ask("verified", folder, module="benchmarks.inside", conversation="logged"))

    run.interleaved([Job("verify_log", OURS, ask)])
    if not found:
        return
    results = run.results
    results.add("verify_log", OURS, [1000 * one["verify"] for one in found], "ms")
    results.add("decode_log", OURS, [1000 * one["decode"] for one in found], "ms")
    results.add("verify_requests", OURS, [one["requests"] / one["verify"] for one in found], "requests/s")
    results.add("verify_events", OURS, [one["events"] / one["verify"] for one in found], "events/s")
    results.add("rebuild", OURS, [1000 * one["rebuild"] for one in found], "ms/request")
