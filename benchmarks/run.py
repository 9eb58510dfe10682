"""One run: its plan, its clock, and how systems take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.fleet import Failed, Fleet
from benchmarks.results import Results

__all__ = ("FEWER", "FULL", "OVER", "QUICK", "SMALL", "Job", "Plan", "Run")

OVER: Final = "the time for this measure was over"
"""Why something was not measured that could have been."""
FEWER: Final = "it used its time up"
"""Why something was measured less often than others were."""


class Plan(NamedTuple):
    """How much is measured. Sizes are of items, times are seconds."""

    name: str
    limit: float
    """Seconds after which nothing new is begun."""
    shares: Mapping[str, float]
    """By which the measures that are asked for divide that time, so that every one has its part; see `Run.share`."""
    rounds: int
    """How often everyone's turn comes."""
    allowance: float
    """Seconds that one system may take for one measure."""
    grace: float
    """Seconds that a system has for its rounds once it has begun, though the time of the measure is over: what is short
    does not depend on what is slow."""
    least: int
    """Rounds that are measured however long they take, while there is time."""
    appending: float
    """Seconds of a round of appends."""
    crowds: Sequence[int]
    """Conversations that append at once."""
    hurried: bool
    """Whether systems are left out that would wait for most of the time."""
    disk: bool
    """Whether appends are measured on the disk's own flushes too."""
    sizes: Sequence[int]
    """Of the conversations that turnlog makes windows of."""
    peers: Sequence[int]
    """The same, for all others."""
    turns: Sequence[int]
    """At which of a conversation's turns turnlog is measured."""
    peer_turns: Sequence[int]
    """The same, for all others."""
    every_way: bool
    """Whether peers are asked for windows in all their ways, or in their best only."""
    long_sizes: Sequence[int]
    """The sizes of which windows of 100,000 tokens are made."""
    seeding: float
    """Seconds in which a peer must have made a conversation long."""
    filled: tuple[int, int]
    """Conversations, and items of each, whose bytes are counted."""
    held: int
    """Conversations that are held open while memory is measured."""
    logged: int
    """Turns whose requests are verified."""
    steps: int
    """Turns over which prefixes are compared."""


QUICK: Final = Plan(
    name="quick",
    limit=98.0,
    shares={
        "append_100": 11.0,
        "append_1": 5.0,
        "windows": 14.0,
        "turns": 9.0,
        "responses": 5.0,
        "bytes": 7.0,
        "replay": 4.0,
        "prefixes": 6.0,
        "tokens": 2.0,
        "window-growth": 22.0,
        "turn-growth": 18.0,
        "memory": 5.0,
        "imports": 6.0,
    },
    rounds=9,
    allowance=1.5,
    grace=0.4,
    least=1,
    appending=0.2,
    crowds=(1, 100),
    hurried=True,
    disk=False,
    sizes=(100, 1_000, 10_000, 100_000),
    peers=(10_000,),
    turns=(10, 100, 1_000, 10_000),
    peer_turns=(1_000,),
    every_way=False,
    long_sizes=(10_000,),
    seeding=2.0,
    filled=(10, 400),
    held=50,
    logged=100,
    steps=2_000,
)
FULL: Final = Plan(
    name="full",
    limit=3600.0,
    shares={
        "append_1000": 200.0,
        "append_100": 400.0,
        "append_1": 120.0,
        "windows": 300.0,
        "turns": 200.0,
        "responses": 60.0,
        "bytes": 100.0,
        "replay": 60.0,
        "prefixes": 60.0,
        "window-growth": 1200.0,
        "turn-growth": 600.0,
        "tokens": 30.0,
        "memory": 200.0,
        "imports": 30.0,
    },
    rounds=9,
    allowance=15.0,
    grace=2.0,
    least=3,
    appending=1.0,
    crowds=(1, 100, 1_000),
    hurried=False,
    disk=True,
    sizes=(100, 1_000, 10_000, 100_000, 1_000_000),
    peers=(100, 1_000, 10_000, 100_000),
    turns=(10, 100, 1_000, 10_000),
    peer_turns=(10, 100, 1_000, 10_000),
    every_way=True,
    long_sizes=(1_000, 10_000, 100_000, 1_000_000),
    seeding=60.0,
    filled=(10, 400),
    held=200,
    logged=1_000,
    steps=2_000,
)
SMALL: Final = Plan(
    name="small",
    limit=60.0,
    shares={},
    rounds=3,
    allowance=1.0,
    grace=0.0,
    least=1,
    appending=0.02,
    crowds=(1, 5),
    hurried=True,
    disk=False,
    sizes=(200, 400),
    peers=(200,),
    turns=(2, 10),
    peer_turns=(10,),
    every_way=False,
    long_sizes=(),
    seeding=5.0,
    filled=(2, 40),
    held=3,
    logged=4,
    steps=40,
)
"""As little as shows that it works; no figure of it means anything."""


class Job(NamedTuple):
    """What one system does when its turn comes, given the number of the round."""

    measure: str
    system: str
    work: Callable[[int], None]
    ready: Callable[[], None] = lambda: None
    """Done before its first turn, off its clock: what it needs is made, and compared with what it should be."""
    least: int = 1
    """Rounds that are measured once it is ready, even if the time is over; for what is short, and no use as a part."""


class Run:
    """A run under way: who takes part, what was found, how much time is left."""

    def __init__(
        self,
        plan: Plan,
        fleet: Fleet,
        folder: Path,
        flush: int,
        say: Callable[[str], None],
        begun: float,
        shares: Sequence[str] = (),
    ) -> None:
        self.plan = plan
        self.fleet = fleet
        self.folder = folder
        self.flush = flush
        """Microseconds that a flush takes, or the disk's own time."""
        self.results = Results()
        self.say = say
        self.seeded: dict[str, list[int]] = {}
        """The conversations that windows were made of, by system: their items."""
        self.slow: dict[str, tuple[int, str]] = {}
        """The systems that take too long to make conversations of so many items, and what was said of that."""
        self._coming = [*shares]
        """What is to be measured yet, as the plan's shares are called."""
        self._end = self._half = begun + plan.limit

    @contextmanager
    def share(self, measure: str) -> Iterator[None]:
        """Let a measure have its part of the time that is left, and not more.

        What is left is divided by the shares of this measure and of those to come: what was not asked for has no part,
        and what one measure leaves goes to the others.
        """
        outer = self._end, self._half
        now = time.perf_counter()
        if measure in self._coming:
            self._coming.remove(measure)
        share = self.plan.shares.get(measure, 0.0)
        others = sum(self.plan.shares.get(one, 0.0) for one in self._coming)
        part = share / (share + others) if share else 1.0
        self._end = now + part * max(0.0, self._end - now)
        self._half = (now + self._end) / 2
        yield
        self._end, self._half = outer

    @property
    def over(self) -> bool:
        """Whether the time of the measure that is under way is up."""
        return time.perf_counter() > self._end

    @property
    def half_over(self) -> bool:
        """Whether half of it is: what is to be measured must be there by then."""
        return self.before_half <= 0

    @property
    def before_half(self) -> float:
        """The seconds until then."""
        return self._half - time.perf_counter()

    def interleaved(self, jobs: Sequence[Job], rounds: int | None = None) -> None:
        """Let systems take turns, round after round, each until its allowance is used up or it fails."""
        spent = [0.0] * len(jobs)
        done = [0] * len(jobs)
        given_up: set[int] = set()
        wanted = rounds or self.plan.rounds
        for number in range(wanted):
            for index, job in enumerate(jobs):
                if index in given_up or (number >= max(1, job.least) and self._late(number, spent[index])):
                    continue
                if number == 0 and self.over:
                    self._give_up(job, OVER, index, given_up)
                    continue
                begun = time.perf_counter()
                try:
                    if number == 0:
                        job.ready()
                        begun = time.perf_counter()
                    job.work(number)
                    done[index] += 1
                except Failed as reason:
                    self._give_up(job, str(reason), index, given_up)
                spent[index] += time.perf_counter() - begun
        for index, job in enumerate(jobs):
            if index not in given_up and done[index] < wanted:
                self.results.note(job.measure, job.system, f"measured in {done[index]} of {wanted} rounds: {FEWER}")

    def _late(self, number: int, spent: float) -> bool:
        """Return whether a system that has taken so many rounds and seconds has had its time."""
        if self.over:
            return spent >= self.plan.grace
        return number >= self.plan.least and spent > self.plan.allowance

    def _give_up(self, job: Job, reason: str, index: int, given_up: set[int]) -> None:
        given_up.add(index)
        self.results.note(job.measure, job.system, reason)
        self.say(f"  {job.measure}, {job.system}: {reason}")
