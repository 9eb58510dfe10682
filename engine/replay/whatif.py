"""What if: the same conversation under another budget, policy or API, request by request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from ..checks import whole
from ..codec import REQUESTED, body, event
from ..errors import BudgetExceeded, Invalid
from ..events import Record, ResponseCompleted, ResponseRequested, Target, Usage
from ..history import History
from ..ids import Position
from ..loading import load
from ..log import record as recorded
from ..manifest import Manifest
from ..prices import Prices
from ..window.budget import Budget
from ..window.choose import Deeper, Request, choose, line_of
from ..window.ledger import Seen
from ..window.policies import Policy
from .rechoosing import counter_of, is_forgotten, weights_of
from .verifying import pages

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Outcome", "Scenario", "WhatIf")

_GROWTH: Final = 2_000
"""Groups beyond twice what a window needs, from which on a history is read anew rather than carried along."""
_BACK: Final = 512
"""Windows of a line that a rewind can go back to."""


class Scenario:
    """What is to be otherwise; what is left out stays as it was recorded.

    Args:
        context: tokens that the model takes.
        reserve: tokens kept free for the answer.
        policy: what goes first when a window is short of room.
        api: the API that is asked.

    Raises:
        Invalid: a number that cannot be.
    """

    def __init__(
        self,
        *,
        context: int | None = None,
        reserve: int | None = None,
        policy: Policy | None = None,
        api: Literal["responses", "chat"] | None = None,
    ) -> None:
        self.context = None if context is None else whole("context", context, 1, of="tokens")
        self.reserve = None if reserve is None else whole("reserve", reserve, 0, of="tokens")
        self.policy = policy
        self.api = api
        if context is not None and reserve is not None:
            Budget(context, reserve)

    @property
    def label(self) -> str:
        """What is otherwise, in words."""
        parts = [
            f"context {self.context:,}" if self.context is not None else "",
            f"reserve {self.reserve:,}" if self.reserve is not None else "",
            f"{self.policy.name}@{self.policy.version}" if self.policy is not None else "",
            self.api or "",
        ]
        return ", ".join(filter(None, parts)) or "as recorded, chosen today"

    def budget(self, said: ResponseRequested) -> Budget:
        """Return the budget of a request.

        Raises:
            Invalid: nothing says what it was, or nothing is left for the input.
        """
        context = said.manifest.context if self.context is None else self.context
        if not context:
            raise Invalid(
                "the requests were recorded elsewhere, with a context that nobody knows: name one with --context"
            )
        return Budget(context, said.manifest.reserve if self.reserve is None else self.reserve)


class Outcome(msgspec.Struct, kw_only=True):
    """What came of the requests under one scenario."""

    label: str
    requests: int = 0
    overflow: int = 0
    """Requests that cannot be made: what must be sent does not fit."""
    tokens: int = 0
    shared: int = 0
    """Of them, tokens at the windows' beginnings that the request before began with too."""
    largest: int = 0
    cuts: int = 0
    compactions: int = 0
    """How often windows begin to start from a compaction."""
    price: float | None = None
    """Of the tokens sent, the shared ones as cached, and the recorded answers; None: nothing says it."""
    unpriced: int = 0
    """Requests of models without a price."""
    series: list[int | None] = []
    """The tokens of each request in order, None where it cannot be made."""
    rooms: list[int] = []
    """The tokens that there was room for."""

    def count(self, manifest: Manifest, room: int, *, cut: bool, compaction: bool) -> None:
        """Take a window in."""
        self.requests += 1
        self.tokens += manifest.tokens
        self.shared += _shared(manifest)
        self.largest = max(self.largest, manifest.tokens)
        self.cuts += cut
        self.compactions += compaction
        self.series.append(manifest.tokens)
        self.rooms.append(room)

    def refuse(self, room: int) -> None:
        """Take a window in that cannot be made."""
        self.requests += 1
        self.overflow += 1
        self.series.append(None)
        self.rooms.append(room)

    def cost(self, prices: Prices | None, model: str, manifest: Manifest, output: int) -> None:
        """Add what a request costs."""
        if prices is None:
            return
        usage = Usage(input_tokens=manifest.tokens, cached_tokens=_shared(manifest), output_tokens=output)
        price = prices.cost(model, usage)
        if price is None:
            self.unpriced += 1
        else:
            self.price = (self.price or 0.0) + price


def _shared(manifest: Manifest) -> int:
    """Return the tokens that a request and the one before it began with, counted as its own are."""
    return min(manifest.shared * manifest.factor // 1000, manifest.tokens)


class _Lines:
    """The last windows of each line under one scenario, of one conversation."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._apart = Outcome(label=outcome.label)
        self.counts = True
        """Whether requests count; those that were counted already are only gone on from."""
        self._windows: dict[str, deque[Manifest]] = {}

    @property
    def outcome(self) -> Outcome:
        """What a request is added to."""
        return self._outcome if self.counts else self._apart

    def last(self, line: str, history: History) -> Manifest | None:
        """Return a line's last window on the path; a rewind goes back to an earlier one."""
        return next((one for one in reversed(self._windows.get(line, ())) if history.is_alive(one.as_of)), None)

    def count(self, line: str, history: History, manifest: Manifest, room: int) -> None:
        """Take a line's next window in."""
        last = self.last(line, history)
        cut = manifest.cut != (last.cut if last else 0)
        compaction = manifest.base != (last.base if last else 0) and manifest.base > 0
        self.outcome.count(manifest, room, cut=cut, compaction=compaction)
        self._windows.setdefault(line, deque(maxlen=_BACK)).append(manifest)


class WhatIf:
    """Runs recorded conversations through scenarios; adds up what comes of it.

    Requests that answer count, those that forks share once; the recorded answers, tools' outputs and reported tokens
    stay what they were.
    """

    def __init__(self, engine: Engine, scenarios: Sequence[Scenario], prices: Prices | None = None) -> None:
        self._engine = engine
        self._scenarios = scenarios
        self._prices = prices
        self.recorded = Outcome(label="recorded")
        """What came of them in fact."""
        self.outcomes = [Outcome(label=one.label) for one in scenarios]
        self.conversations = 0
        self._counted: dict[str, int] = {}
        """Up to which seq the requests of conversations were counted, by where they were written."""

    async def run(self, name: str, progress: Callable[[int], None] | None = None) -> None:
        """Take one conversation in, in memory bounded by its windows. *progress* is told of events.

        Raises:
            Invalid: a request's budget is not known, or leaves nothing for its input.
            CorruptLog: an event cannot be read.
        """
        self.conversations += 1
        history, most = History(name), _GROWTH
        actual, lines = _Lines(self.recorded), [_Lines(one) for one in self.outcomes]
        shared = await self._shared(name)
        outputs: dict[int, tuple[ResponseRequested, list[tuple[Outcome, Manifest]]]] = {}
        async for page in pages(self._engine.store, name):
            for record in page:
                said = body(record) if record.kind == REQUESTED else None
                if isinstance(said, ResponseRequested) and said.purpose == "answer":
                    if history.stale or len(history.groups) > most:
                        history = await self._as_of(name, said, 1)
                        most = 2 * len(history.groups) + _GROWTH
                    for one in (actual, *lines):
                        one.counts = record.seq > shared
                    made = [self._actual(history, said, actual)]
                    for scenario, line in zip(self._scenarios, lines, strict=True):
                        made += await self._ask(history, said, scenario, line)
                    outputs[record.seq] = said, made
                self._answered(record, outputs)
                history.extend([record])
            if progress is not None:
                progress(len(page))
        for asked, made in outputs.values():
            for outcome, manifest in made:
                outcome.cost(self._prices, asked.target.model, manifest, 0)

    async def _shared(self, name: str) -> int:
        """Return up to which seq the requests of a conversation were counted, as another's; all of them are now."""
        found = 0
        top: int | None = None
        owner: str | None = name
        while owner is not None:
            snapshot = await self._engine.store.read(owner)
            if snapshot is None:
                break
            last = snapshot.head.version if top is None else top
            # Where a fork was written is its own from behind its beginning; what is before that is its parent's.
            found = max(found, min(last, self._counted.get(owner, 0)))
            self._counted[owner] = max(last, self._counted.get(owner, 0))
            parent = snapshot.head.parent
            owner, top = (None, None) if parent is None else (parent[0], min(last, parent[1]))
        return found

    def _answered(
        self, record: Record, outputs: dict[int, tuple[ResponseRequested, list[tuple[Outcome, Manifest]]]]
    ) -> None:
        """Add what a request cost once its answer is there: the same answer under each scenario."""
        if record.kind != "response.completed" or record.response not in outputs:
            return
        told = body(record)
        usage = told.usage if isinstance(told, ResponseCompleted) else None
        said, made = outputs.pop(record.response)
        for outcome, manifest in made:
            outcome.cost(self._prices, said.target.model, manifest, usage.output_tokens if usage else 0)

    async def _as_of(self, name: str, said: ResponseRequested, times: int) -> History:
        """Return the history as a request saw it, long enough for the largest window."""
        contexts = [scenario.budget(said).context for scenario in self._scenarios]
        tokens = max(contexts, default=1) * times
        # Of no line in the log: what the recorded cut has dropped may be sent here.
        return (await load(self._engine.store, name, line=None, tokens=tokens, at=said.manifest.as_of))[1]

    def _actual(self, history: History, said: ResponseRequested, lines: _Lines) -> tuple[Outcome, Manifest]:
        manifest = said.manifest
        lines.count(manifest.line, history, manifest, manifest.context - manifest.reserve if manifest.context else 0)
        return lines.outcome, manifest

    async def _ask(
        self, history: History, said: ResponseRequested, scenario: Scenario, lines: _Lines
    ) -> list[tuple[Outcome, Manifest]]:
        """Choose a request's window under a scenario; return what it costs is to be added to."""
        budget = scenario.budget(said)
        policy = scenario.policy or self._engine.policy
        target = msgspec.structs.replace(said.target, state="stateless", api=scenario.api or said.target.api)
        place = line_of(policy, budget, target)
        try:
            manifest = await self._chosen(history, said, budget, policy, target, lines.last(place, history))
        except BudgetExceeded:
            lines.outcome.refuse(budget.context - budget.reserve)
            return []
        lines.count(place, history, manifest, budget.context - budget.reserve)
        return [(lines.outcome, manifest)]

    async def _chosen(
        self,
        history: History,
        said: ResponseRequested,
        budget: Budget,
        policy: Policy,
        target: Target,
        last: Manifest | None,
    ) -> Manifest:
        counter = await counter_of(target.model)
        forgets = target.api == said.target.api and await is_forgotten(self._engine.store, history.conversation, said)
        # What the API adds, and what it reported, is what it was.
        shown = Seen(said.manifest.factor, said.manifest.hidden, forgets=forgets)
        times = 1
        while True:
            place = line_of(policy, budget, target)
            history.lines[place] = None if last is None else _request(said, target, place, last)
            weights = await weights_of(self._engine, history, counter, target)
            was = said.manifest
            request = Request(target, budget, budget.reserve, was.overhead, weights, was.front, shown)
            try:
                return choose(history, request, policy)
            except Deeper:
                times *= 4
                history = await self._as_of(history.conversation, said, times)


def _request(said: ResponseRequested, target: Target, line: str, last: Manifest) -> Record:
    """Return the request before, as it would be in the log; the factor is what the API's reports came to by then."""
    manifest = msgspec.structs.replace(last, line=line, factor=said.manifest.factor)
    asked = msgspec.structs.replace(said, target=target, manifest=manifest)
    # At no seq: what the API reported was for the request that was made in fact.
    return recorded("", 0, Position(""), 0, event(asked), 0)
