"""What if: the same conversation under another budget, policy or API, request by request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from ..codec import ITEM, REQUESTED, body, event
from ..errors import BudgetExceeded
from ..events import ASIDE, ContextCompacted, Record, ResponseCompleted, ResponseRequested, StandIn, Target, Usage
from ..history import History
from ..ids import Position
from ..items import reading
from ..loading import load
from ..log import record as recorded
from ..manifest import Manifest
from ..prices import Prices
from ..tokens import overhead
from ..turns.material import gather
from ..window.budget import Budget
from ..window.choose import Deeper, Request, choose, line_of
from ..window.ledger import Seen
from ..window.policies import Compacting, Policy
from ..window.render import RENDERER
from .rechoosing import counter_of, is_forgotten, weights_of
from .scenarios import Outcome, Scenario, served, shared
from .verifying import pages

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Outcome", "Scenario", "WhatIf")

_GROWTH: Final = 2_000
"""Groups beyond twice what a window needs, from which on a history is read anew rather than carried along."""
_BACK: Final = 512
"""Windows of a line that a rewind can go back to."""
Base: TypeAlias = tuple[Record, ContextCompacted]
"""A compaction."""


class _Lines:
    """The last windows of each line under one scenario, of one conversation."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._apart = Outcome(label=outcome.label)
        self.counts = True
        """Whether requests count; those that were counted already are only gone on from."""
        self._windows: dict[str, deque[Manifest]] = {}
        self.history: History | None = None
        """The conversation with a compaction that is not in the log; None where there is none."""
        self._most = 0
        """Groups from which on it is read anew rather than carried along."""
        self.bases: deque[Base] = deque(maxlen=_BACK)
        """These compactions."""
        self.tried = 0
        """The seq at which one was tried in vain."""

    @property
    def outcome(self) -> Outcome:
        """What a request is added to."""
        return self._outcome if self.counts else self._apart

    def go_on(self, history: History | None) -> None:
        """Go on with a history of the scenario's own, or without one."""
        self.history = history
        self._most = 0 if history is None else 2 * len(history.groups) + _GROWTH

    def extend(self, record: Record) -> None:
        """Take the log's next event in."""
        if self.history is not None:
            self.history.extend([record])

    @property
    def stale(self) -> bool:
        """Whether the history of the scenario's own has to be read anew."""
        return self.history is not None and (self.history.stale or len(self.history.groups) > self._most)

    def last(self, line: str, history: History) -> Manifest | None:
        """Return a line's last window on the path; a rewind goes back to an earlier one."""
        return next((one for one in reversed(self._windows.get(line, ())) if history.is_alive(one.as_of)), None)

    def base(self, history: History) -> Base | None:
        """Return the last compaction on the path that is not in the log."""
        return next((one for one in reversed(self.bases) if history.is_alive(one[0].seq)), None)

    def count(self, line: str, history: History, manifest: Manifest, room: int) -> None:
        """Take a line's next window in."""
        last = self.last(line, history)
        cut = manifest.cut != (last.cut if last else 0)
        compaction = manifest.base != (last.base if last else 0) and manifest.base > 0
        self.outcome.count(manifest, room, cut=cut, compaction=compaction)
        self._windows.setdefault(line, deque(maxlen=_BACK)).append(manifest)


class _Asked(msgspec.Struct):
    """A model call, its windows, and what is known of its answer."""

    said: ResponseRequested
    made: list[tuple[Outcome, Manifest]]
    output: int = 0
    """Counted tokens of what the model made."""


class _Course:
    """One conversation under way: its history so far, and its windows under every scenario."""

    def __init__(self, name: str, recorded: Outcome, outcomes: Sequence[Outcome], shared: int) -> None:
        self.history = History(name)
        self._most = _GROWTH
        self.actual, self.lines = _Lines(recorded), [_Lines(one) for one in outcomes]
        self.shared = shared
        """The seq up to which requests were counted already, as another conversation's."""
        self.asked: dict[int, _Asked] = {}
        self.answered: int | None = None
        """The response that the last request or item is of."""

    @property
    def stale(self) -> bool:
        """Whether the history has to be read anew."""
        return self.history.stale or len(self.history.groups) > self._most

    def go_on(self, history: History) -> None:
        """Go on with a history that was read anew."""
        self.history, self._most = history, 2 * len(history.groups) + _GROWTH

    def extend(self, record: Record) -> None:
        """Take the log's next event in."""
        if record.kind == REQUESTED or _is_of_a_response(record):
            self.answered = _response_of(record)
        self.history.extend([record])
        for line in self.lines:
            line.extend(record)


class _Aim(msgspec.Struct, frozen=True):
    """What one window is chosen by."""

    said: ResponseRequested
    budget: Budget
    policy: Policy
    target: Target

    @property
    def line(self) -> str:
        return line_of(self.policy, self.budget, self.target)

    @property
    def room(self) -> int:
        return self.budget.context - self.budget.reserve


class WhatIf:
    """Runs recorded conversations through scenarios; adds up what comes of it.

    Requests that answer count, those that forks share once; the recorded answers, tools' outputs and reported tokens
    stay what they were. Where a policy compacts, that is supposed to succeed, with a stand-in of a quarter of the room,
    or of half of what it stands for where that is less.

    Args:
        engine: the engine; its policy is that of scenarios without one.
        scenarios: what is to be otherwise, each with its context where nothing recorded one.
        prices: what tokens cost.
        answers: also ask where a model answered and no request is in the log, as in what was imported.
    """

    def __init__(
        self, engine: Engine, scenarios: Sequence[Scenario], prices: Prices | None = None, *, answers: bool = False
    ) -> None:
        self._engine = engine
        self._scenarios = scenarios
        self._prices = prices
        self._answers = answers
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
        course = _Course(name, self.recorded, self.outcomes, await self._shared(name))
        async for page in pages(self._engine.store, name):
            for record in page:
                said = self._request(record, course.answered)
                if said is not None:
                    course.asked[_response_of(record)] = await self._step(course, record, said)
                self._answer(record, course.asked)
                course.extend(record)
            if progress is not None:
                progress(len(page))
        for left in course.asked.values():
            self._cost(left, left.output)

    async def _step(self, course: _Course, record: Record, said: ResponseRequested) -> _Asked:
        """Choose a request's window under every scenario."""
        if course.stale:
            course.go_on(await self._as_of(course.history, said, self._most(said)))
        for one in (course.actual, *course.lines):
            one.counts = record.seq > course.shared
        made = [self._actual(course.history, said, course.actual)] if record.kind == REQUESTED else []
        for scenario, line in zip(self._scenarios, course.lines, strict=True):
            made += await self._ask(course.history, said, scenario, line)
        return _Asked(said, made)

    def _request(self, record: Record, answered: int | None) -> ResponseRequested | None:
        """Return the request that an event is, or that the first of an answer without one stands for."""
        if record.kind == REQUESTED:
            said = body(record)
            return said if isinstance(said, ResponseRequested) and said.purpose == "answer" else None
        if self._answers and _is_of_a_response(record) and record.response != answered and _is_made(record):
            counted = overhead({}, len)
            manifest = Manifest(policy="recorded", renderer=RENDERER, as_of=record.seq - 1, overhead=counted)
            target = Target(api="responses")
            return ResponseRequested(adapter="", encoder=1, target=target, settings="", manifest=manifest, digest="")
        return None

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

    def _answer(self, record: Record, asked: dict[int, _Asked]) -> None:
        """Take the answer of a request in; when it is there, add what that cost: the same answer in each scenario."""
        one = asked.get(record.response) if record.response is not None else None
        if one is None or record.response is None:
            return
        if record.kind == ITEM and _is_made(record):
            one.output += record.tokens
        elif record.kind == "response.completed":
            told = body(record)
            usage = told.usage if isinstance(told, ResponseCompleted) else None
            self._cost(asked.pop(record.response), one.output if usage is None else usage.output_tokens)

    def _cost(self, asked: _Asked, output: int) -> None:
        for outcome, manifest in asked.made:
            usage = Usage(manifest.tokens, served(shared(manifest)), output)
            outcome.cost(self._prices, asked.said.target.model, usage)

    def _most(self, said: ResponseRequested) -> int:
        """Return the tokens of the largest window."""
        return max([scenario.budget(said).context for scenario in self._scenarios], default=1)

    async def _as_of(self, history: History, said: ResponseRequested, tokens: int, base: Base | None = None) -> History:
        """Return the history as a request saw it, long enough for so many tokens."""
        # Of no line in the log: what the recorded cut has dropped may be sent here.
        name, at = history.conversation, said.manifest.as_of
        return (await load(self._engine.store, name, line=None, tokens=tokens, at=at, base=base))[1]

    def _actual(self, history: History, said: ResponseRequested, lines: _Lines) -> tuple[Outcome, Manifest]:
        manifest = said.manifest
        lines.count(manifest.line, history, manifest, manifest.context - manifest.reserve if manifest.context else 0)
        return lines.outcome, manifest

    async def _ask(
        self, history: History, said: ResponseRequested, scenario: Scenario, lines: _Lines
    ) -> list[tuple[Outcome, Manifest]]:
        """Choose a request's window under a scenario; return what it costs is to be added to."""
        policy = scenario.policy or self._engine.policy
        target = msgspec.structs.replace(said.target, state="stateless", api=scenario.api or said.target.api)
        aim = _Aim(said, scenario.budget(said), policy, target)
        if lines.stale:
            base = lines.base(history)
            lines.go_on(None if base is None else await self._as_of(history, said, aim.budget.context, base))
        manifest = await self._tried(lines.history or history, aim, lines)
        if isinstance(policy, Compacting) and await self._compacts(history, aim, policy, manifest, lines):
            manifest = await self._tried(lines.history or history, aim, lines)
        if manifest is None:
            lines.outcome.refuse(aim.room)
            return []
        lines.count(aim.line, history, manifest, aim.room)
        return [(lines.outcome, manifest)]

    async def _compacts(
        self, history: History, aim: _Aim, policy: Compacting, manifest: Manifest | None, lines: _Lines
    ) -> bool:
        """Suppose a compaction, if one is due before a window, and is of use; return whether there is one more now."""
        base = lines.base(history)
        tried = lines.tried > (base[0].seq if base else 0)
        last = lines.last(aim.line, history)
        due = policy.method != "server" and (manifest is None or policy.is_due(manifest, last, tried=tried))
        if not due:
            return False
        name, at = history.conversation, aim.said.manifest.as_of
        found = await gather(self._engine, name, at, aim.target, aim.room, least=aim.room // 4, base=base)
        if found is None:
            lines.tried = at
            return False
        tokens = min(aim.room // 4, found.replaced // 2)
        text = StandIn(item={"role": "user", "content": " so" * tokens})
        supposed = ContextCompacted(first=1, last=found.coverage.last, stand_in=[text], method="summary")
        # At the seq of the last event before it: what comes next in the log is not behind it.
        made = recorded(name, at, Position(""), 0, event(supposed, tokens=tokens), 0)
        lines.bases.append((made, supposed))
        lines.go_on(await self._as_of(history, aim.said, aim.budget.context, (made, supposed)))
        if policy.method != "extract":
            model = aim.said.target.model if policy.model is None else policy.model.name
            lines.outcome.cost(self._prices, model, Usage(input_tokens=found.replaced, output_tokens=tokens))
        return True

    async def _tried(self, history: History, aim: _Aim, lines: _Lines) -> Manifest | None:
        """Return a window, None where what must be sent does not fit."""
        said, target, tokens = aim.said, aim.target, aim.budget.context
        last = lines.last(aim.line, history)
        counter = await counter_of(target.model)
        forgets = target.api == said.target.api and await is_forgotten(self._engine.store, history.conversation, said)
        # What the API adds, and what it reported, is what it was.
        shown = Seen(said.manifest.factor, said.manifest.hidden, forgets=forgets)
        while True:
            history.lines[aim.line] = None if last is None else _request(said, target, aim.line, last)
            weights = await weights_of(self._engine, history, counter, target)
            was = said.manifest
            request = Request(target, aim.budget, aim.budget.reserve, was.overhead, weights, was.front, shown)
            try:
                return choose(history, request, aim.policy)
            except Deeper:
                tokens *= 4
                history = await self._as_of(history, said, tokens, lines.base(history))
            except BudgetExceeded:
                return None


def _is_of_a_response(record: Record) -> bool:
    return record.kind == ITEM and record.response is not None and not record.flags & ASIDE


def _response_of(record: Record) -> int:
    return record.seq if record.response is None else record.response


def _is_made(record: Record) -> bool:
    """Return whether a model has made an item."""
    return reading(record.shape or "unknown", record.link).maker == "model"


def _request(said: ResponseRequested, target: Target, line: str, last: Manifest) -> Record:
    """Return the request before, as it would be in the log; the factor is what the API's reports came to by then."""
    manifest = msgspec.structs.replace(last, line=line, factor=said.manifest.factor)
    asked = msgspec.structs.replace(said, target=target, manifest=manifest)
    # At no seq: what the API reported was for the request that was made in fact.
    return recorded("", 0, Position(""), 0, event(asked), 0)
