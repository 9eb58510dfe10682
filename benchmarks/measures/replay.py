"""Verifying and rebuilding what was sent, beside only reading and decoding the log; a recording beside a server."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.fleet import Failed
from benchmarks.measures.answering import serving
from benchmarks.measures.storage import logged
from benchmarks.results import OURS
from benchmarks.run import Job, Run

__all__ = ("measure",)


_TURNS: Final = 100
_TIMES: Final = 3
"""How often a log is verified before others have their turn."""


def measure(run: Run) -> None:
    """Measure a log of turns, that whose bytes were counted if there is one; and a recorded conversation."""
    _verifying(run)
    run.say("a recorded conversation, and the server that it was recorded of")
    try:
        with serving() as url:
            _playing(run, url)
    except Failed as reason:
        run.results.note("recorded_vs_server", OURS, str(reason))


def _playing(run: Run, url: str) -> None:
    kind = run.fleet.kind(OURS)
    found: list[Any] = []

    def ask(_: int) -> None:
        found.append(kind.ask("played", run.folder / "played", module="benchmarks.inside", url=url, turns=_TURNS))

    run.interleaved([Job("recorded_vs_server", OURS, ask)])
    if found:
        for name in ("server", "recorded", "changed"):
            run.results.add(f"send_{name}", OURS, [1000 * one[name] for one in found], "ms/request")
        slower = [one["server"] / max(one["recorded"], one["changed"]) for one in found]
        run.results.add("recorded_vs_server", OURS, slower, "times as fast")


def _verifying(run: Run) -> None:
    run.say("verifying and rebuilding requests")
    kind = run.fleet.kind(OURS)
    found: list[Any] = []
    folder, task, said = logged(run)

    def asked(times: int) -> Any:
        return kind.ask("verified", folder, module="benchmarks.inside", conversation="logged", times=times)

    def ready() -> None:
        if not (folder / "log.db").exists():  # it is there where bytes were counted
            kind.ask(task, folder, **said)
        asked(1)  # threads are begun, and what is imported late is there

    def ask(_: int) -> None:
        found.append(asked(_TIMES))

    run.interleaved([Job("verify_log", OURS, ask, ready)])
    if not found:
        return
    results, requests, events = run.results, found[0]["requests"], found[0]["events"]
    verify, decode, rebuild = (
        [seconds for one in found for seconds in one[name]] for name in ("verify", "decode", "rebuild")
    )
    results.add("verify_log", OURS, [1000 * one for one in verify], "ms")
    results.add("decode_log", OURS, [1000 * one for one in decode], "ms")
    results.add("verify_requests", OURS, [requests / one for one in verify], "requests/s")
    results.add("verify_events", OURS, [events / one for one in verify], "events/s")
    results.add("rebuild", OURS, [1000 * one for one in rebuild], "ms/request")
