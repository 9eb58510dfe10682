"""Counting tokens, its error when it is guessed, and what requests share by policy."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.fleet import Failed
from benchmarks.results import OURS, percentile
from benchmarks.run import Job, Run

__all__ = ("counting", "prefixes")

_ITEMS: Final = 2_000


def counting(run: Run) -> None:
    """Measure counting, and how far off guesses are, of items and of windows of 8,000 tokens."""
    run.say("counting tokens")
    found: list[Any] = []

    def ask(_: int) -> None:
        found.append(_ask(run, "counted", count=_ITEMS))

    run.interleaved([Job("count_tokens", OURS, ask)])
    if found and not found[0]["exact"]:
        run.results.note("count_error", "guesses", "there is no exact count to compare them with")
    for name in found[0]["ways"] if found else ():
        rounds = [one["ways"][name] for one in found]
        run.results.add("count_tokens", name, [1e6 * one["seconds"] / _ITEMS for one in rounds], "us/item")
        for what in ("items", "windows") if name != OURS and found[0]["exact"] else ():
            for share in (0.05, 0.95):
                measure = f"count_error_{what}_p{round(100 * share)}"
                run.results.add(measure, name, [percentile(rounds[0][what], share)], "%")


def prefixes(run: Run) -> None:
    """Measure how much of a request the one before began with too, which is what a prompt cache can serve."""
    run.say("shared prefixes")
    try:
        found = _ask(run, "prefixes", turns=run.plan.steps)
    except Failed as reason:
        run.results.note("shared_prefix", f"{OURS}, oldest-turns", str(reason))
        return
    for system, said in found.items():
        run.results.add("shared_prefix", system, [100 * said["shared"] / said["tokens"]], "% of tokens")


def _ask(run: Run, task: str, **given: Any) -> Any:
    kind = run.fleet.kind(OURS)
    return kind.ask(task, run.folder / "tokens", module="benchmarks.inside", **given)
