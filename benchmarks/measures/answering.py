"""A response through turnlog beside the bare client: the same items, the same server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from benchmarks.fleet import Failed
from benchmarks.results import OURS, RAW, TYPED
from benchmarks.run import Job, Run

__all__ = ("WAYS", "measure", "serving")

WAYS: Final = {OURS: "turnlog", TYPED: "typed", RAW: "raw"}
"""Who answers: turnlog; the client as its documentation shows; and the client where a body goes as it is and only JSON
is read, as turnlog's own adapter does it, which is the quicker of its two ways."""
_TIMES: Final = 3


@contextmanager
def serving() -> Iterator[str]:
    """Run the scripted server in a process of its own; yield its address."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(  # noqa: S603 - our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            if not url:
                process.wait()
                errors.seek(0)
                lines = errors.read().strip().splitlines() or ["it said nothing"]
                raise Failed(f"the scripted server did not start: {lines[-1]}")
            yield url
        finally:
            assert process.stdin is not None
            process.stdin.close()


def measure(run: Run) -> None:
    """Measure both, streamed and not; and how many flushes a turn with a tool costs."""
    run.say("responses through turnlog and by the bare client")
    try:
        with serving() as url:
            _measure(run, url)
    except Failed as reason:
        run.results.note("response_streamed", OURS, str(reason))


def _measure(run: Run, url: str) -> None:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    jobs = []
    for measure, streamed in (("response_streamed", True), ("response_whole", False)):
        for system, way in WAYS.items():
            said = {"url": url, "streamed": streamed, "way": way}
            jobs.append(Job(measure, system, partial(_ask, run, said, measure, found[measure, system])))
    run.interleaved(jobs)
    for (measure, system), rounds in found.items():
        if rounds:
            run.results.add(measure, system, [1000 * one for each in rounds for one in each["times"]], "ms")
    flushes = [each["flushes"] for each in found["response_streamed", OURS] if each["flushes"] is not None]
    if flushes:
        run.results.add("response_flushes", OURS, flushes, "flushes/response")
    turns = _worker(run, "logged_turns", url=url, times=5)["flushes"]
    if turns is not None:
        run.results.add("flushes_per_turn", OURS, [turns], "flushes/turn with a tool")


def _ask(run: Run, said: dict[str, Any], measure: str, found: list[Any], number: int) -> None:
    label = f"{measure}-{said['way']}-{number}"
    found.append(_worker(run, "answers", **said, label=label, flush=run.flush, times=_TIMES))


def _worker(run: Run, task: str, **given: Any) -> Any:
    kind = run.fleet.kind(OURS)
    return kind.ask(task, run.folder / "answering", module="benchmarks.inside", **given)
