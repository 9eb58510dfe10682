"""A run from its beginning to its document: what was found, on which machine, with which versions, how durable."""

from __future__ import annotations

import os
import platform
import shlex
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from benchmarks.disk import DISK, preloaded
from benchmarks.fleet import Failed, Fleet
from benchmarks.measures import answering, appends, imports, replay, storage, tokens, turns, windows
from benchmarks.results import Results, is_peer, made, over_clients
from benchmarks.run import Plan, Run
from benchmarks.systems import PACKAGES
from turnlog.engine import vocabulary

__all__ = ("MEASURES", "document", "durability", "report")

MEASURES: Final[Mapping[str, Callable[[Run], None]]] = {
    "appends": appends.measure,
    "windows": windows.compared,
    "turns": turns.compared,
    "responses": answering.measure,
    "bytes": storage.bytes_,
    "replay": replay.measure,
    "prefixes": tokens.prefixes,
    "window-growth": windows.growing,
    "turn-growth": turns.growing,
    "tokens": tokens.counting,
    "memory": storage.memory,
    "imports": imports.measure,
}
"""In the order in which they are taken: what others are compared by first, for where time runs out.

Each can be asked for alone, and makes what it needs; what another one has made before, it takes.
"""

LEFT_OUT: Final = "{0}: not asked for; --only {0} measures it"
ESTIMATED: Final = (
    "no vocabulary is at hand, so everyone's tokens are estimated, which takes another time than counting them, and "
    'windows hold fewer items: pip install "turnlog[offline]"'
)
_EVERYONE: Final = tuple(package.name for package in PACKAGES)
_VERSIONS: Final = ("turnlog", "openai", "aiosqlite", "anyio", "msgspec", "tiktoken")


def report(
    plan: Plan,
    *,
    flush: int = 1000,
    measures: Sequence[str] = tuple(MEASURES),
    packages: Sequence[str] = _EVERYONE,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run what was asked for; return its document. *flush* is what a flush takes in microseconds, or the disk's own.

    Raises:
        Failed: turnlog or the floor cannot be measured, or is not durable.
    """
    begun, clock = time.time(), time.perf_counter()
    measures = [one for one in MEASURES if one in measures]  # in their order, each once
    with tempfile.TemporaryDirectory(prefix="turnlog-bench-") as name, preloaded() as (environment, hindrance):
        folder = Path(name)
        say("starting")
        with Fleet(packages, environment, folder) as fleet:
            shares = [share for measure in measures for share in _shares(plan, measure)]
            run = Run(plan, fleet, folder, DISK if hindrance else flush, say, clock, shares)
            run.results.left_out = {one: LEFT_OUT.format(one) for one in MEASURES if one not in measures}
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
            if load > (os.cpu_count() or 1):
                note = (
                    f"the machine was busy (load {load:.1f} on {os.cpu_count()} cores): times are longer than need be"
                )
                run.results.notes.append(note)
                say(f"  {note}")
            if hindrance:
                run.results.notes.append(f"flushes take what the disk takes, and are not counted: {hindrance}")
            if not anyio.run(vocabulary.load).exact:
                run.results.notes.append(ESTIMATED)
                say(f"  {ESTIMATED}")
            for package, reason in fleet.absent.items():
                run.results.notes.append(f"{package} is left out: {reason}")
                say(f"  {package} is left out: {reason}")
            flushes = _flushes(run)
            lasting = durability(run)
            run.results.peers = any(is_peer(kind.name) for kind in fleet.kinds)
            for measure in measures:
                with run.share(measure):
                    MEASURES[measure](run)
            flushes = {name: min(taken, flushes[name]) for name, taken in _flushes(run).items()}
    return document(run.results, flushes["as measured"]) | {
        "machine": _machine(plan, begun, flushes, fixed=run.flush != DISK),
        "flush_ms": flushes["as measured"],
        "versions": _versions(fleet),
        "durability": lasting,
    }


def _shares(plan: Plan, measure: str) -> Sequence[str]:
    """Return by which names a plan gives a measure its time."""
    return [f"append_{many}" for many in plan.crowds] if measure == "appends" else [measure]


def document(results: Results, flush_ms: float) -> dict[str, Any]:
    """Return what was found as JSON; a ratio that cannot be made is null, with its reason beside."""
    ratios, reasons = made(results, flush_ms)
    # The order of readers: machine and versions come first.
    empty: dict[str, Any] = {"machine": {}, "flush_ms": flush_ms, "versions": {}, "durability": {}}
    found = [msgspec.to_builtins(one) for one in (*results.all, *over_clients(results, flush_ms))]
    return empty | {"results": found, "ratios": ratios, "reasons": reasons, "notes": results.notes}


def _flushes(run: Run) -> dict[str, float]:
    """Return what a flush takes, as it is in this run and on the disk itself, in milliseconds."""
    bare = run.fleet.kind("bare file")
    taken = {}
    for name, flush in (("as measured", run.flush), ("disk", DISK)):
        taken[name] = float(bare.ask("flush", run.folder / "flush", flush=flush)["ms"])
    return taken


def durability(run: Run) -> dict[str, str]:
    """Return how everyone makes things last, by their own word; who flushes less than others is measured in nothing.

    Raises:
        Failed: that is turnlog or the floor.
    """
    found = {}
    for kind in [*run.fleet.kinds]:
        try:
            said = kind.ask("durability", run.folder / "durability" / kind.name)
            found[kind.name] = said["durability"]
            reason = lacking(**said)
        except Failed as failed:
            reason = str(failed)
        if reason is None:
            continue
        if not is_peer(kind.name):
            raise Failed(f"{kind.name}: {reason}")
        run.fleet.kinds.remove(kind)
        run.results.note("durability", kind.name, f"nothing of it is measured: {reason}")
        run.say(f"  {kind.name} is left out: {reason}")
    return found


def lacking(durability: str, flushes: float | None) -> str | None:
    """Return what is missing for an append to be as durable as everyone's, None where nothing is.

    >>> lacking("SQLite wal, synchronous=FULL", 1), lacking("SQLite wal, synchronous=FULL", None)
    (None, None)
    >>> lacking("SQLite wal, synchronous=NORMAL", None)
    'what it acknowledges is not flushed (SQLite wal, synchronous=NORMAL)'
    >>> lacking("SQLite wal, synchronous=FULL", 0)
    'what it acknowledges is not flushed (SQLite wal, synchronous=FULL, but no flush was seen)'
    """
    if not durability.endswith(("=FULL", "=EXTRA", "fdatasync")):
        return f"what it acknowledges is not flushed ({durability})"
    return None if flushes != 0 else f"what it acknowledges is not flushed ({durability}, but no flush was seen)"


def _machine(plan: Plan, begun: float, flushes: Mapping[str, float], *, fixed: bool) -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": _memory(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "flush": "fixed, by a preloaded library" if fixed else "the disk's own",
        "disk_flush_ms": flushes["disk"],
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "plan": plan.name,
        "date": time.strftime("%Y-%m-%d", time.gmtime(begun)),
        "seconds": round(time.time() - begun, 1),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _versions(fleet: Fleet) -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in (*_VERSIONS, *(need for worker in fleet.workers.values() for need in worker.package.needs)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
