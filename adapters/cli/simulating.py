"""What other budgets and policies would have sent: the requests of a recorded conversation, chosen once more.

Nothing is asked and nothing is written. At every place where the log holds a request, and in an imported conversation
wherever a model answered, a window is chosen as it would have been, each going on from the one before it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from turnlog.engine.codec import ITEM, REQUESTED, body, event
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import ASIDE, Record, ResponseRequested, Target, Usage
from turnlog.engine.history import History
from turnlog.engine.ids import Position
from turnlog.engine.items import reading
from turnlog.engine.loading import load
from turnlog.engine.log import Store, record
from turnlog.engine.manifest import Manifest
from turnlog.engine.replay.verifying import pages
from turnlog.engine.tokens import overhead, scaled
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import Deeper, Request, choose, line_of
from turnlog.engine.window.policies import Composed, DropTurns, Policy

__all__ = ("Asked", "NewestTurns", "Sums", "simulate")

_GROWTH: Final = 512
"""Groups by which a history may outgrow twice what was loaded; then its beginning is let go."""


class NewestTurns(Composed):
    """What is often written by hand: the newest turns that fit, chosen anew each time; nothing is excerpted.

    It keeps as much as can be kept, and so the beginning of the window moves with every turn once it is full.
    """

    name = "newest-turns"
    version = 1

    def __init__(self) -> None:
        super().__init__(DropTurns(1.0, keep=0))


class Asked(msgspec.Struct, frozen=True):
    """One request as it would have been."""

    at: int
    """The version that it is of."""
    tokens: int
    """The estimate of the whole request; of one that does not fit, what it would have needed."""
    shared: int = 0
    """Tokens at its beginning that the request before began with too: what a prompt cache can serve."""
    fits: bool = True
    cut: bool = False
    """Whether its policy was asked, and cut anew."""
    base: int = 0
    """The seq of the compaction that it starts from, 0 without one."""
    answer: int = 0
    """Counted tokens of what the model answered."""


class Sums(msgspec.Struct):
    """Requests, summed up."""

    requests: int = 0
    overflow: int = 0
    """Requests that would not have been possible."""
    tokens: int = 0
    shared: int = 0
    largest: int = 0
    cuts: int = 0
    compactions: int = 0
    """Changes from one compaction to start from to another."""
    cached: int = 0
    """Of the shared tokens, those that a provider would have served from its cache."""
    answers: int = 0
    _base: int = 0

    @property
    def usage(self) -> Usage:
        """What an API would have reported."""
        return Usage(input_tokens=self.tokens, cached_tokens=self.cached, output_tokens=self.answers)

    def begin(self) -> None:
        """Go on with another conversation."""
        self._base = 0

    def add(self, asked: Asked) -> None:
        """Take a request in."""
        self.requests += 1
        self.largest = max(self.largest, asked.tokens)
        if not asked.fits:
            self.overflow += 1
            return
        self.tokens += asked.tokens
        self.shared += asked.shared
        self.cached += served(asked.shared)
        self.cuts += asked.cut
        self.compactions += asked.base not in (0, self._base)
        self._base = asked.base
        self.answers += asked.answer


def served(shared: int) -> int:
    """Return how many of the tokens that two requests begin with a prompt cache serves, by OpenAI's documentation.

    >>> [served(1000), served(1024), served(1300)]
    [0, 1024, 1280]
    """
    return shared // 128 * 128 if shared >= 1024 else 0


async def simulate(store: Store, name: str, policy: Policy, budget: Budget, *, after: int = 0) -> AsyncIterator[Asked]:
    """Yield what each request of a conversation behind *after* would have been under a policy and a budget.

    Of a conversation that is not there, that is none.
    """
    simulation = _Simulation(store, name, policy, budget)
    async for request, answer in _places(store, name):
        made = await simulation.asked(request, answer)
        if made.at >= after:
            yield made


class _Place(msgspec.Struct, frozen=True):
    """Where a model was asked: for whom, and what was sent beside the items."""

    before: int
    """The version before it."""
    records: Sequence[Record]
    """What came since the last place."""
    target: Target
    overhead: int


async def _places(store: Store, name: str) -> AsyncIterator[tuple[_Place, int]]:
    """Yield where a model was asked, each with the tokens of its answer."""
    since: list[Record] = []
    place: _Place | None = None
    answer = 0
    answered: int | None = None
    async for page in pages(store, name):
        for one in page:
            found = _place(one, since, answered)
            if found is not None:
                if place is not None:
                    yield place, answer
                place, answer, since = found, 0, []
            if one.kind == ITEM and one.response is not None and not one.flags & ASIDE:
                answered = one.response
                answer += one.tokens if reading(one.shape or "", one.link).maker == "model" else 0
            elif one.kind == REQUESTED:
                answered = one.seq
            since.append(one)
    if place is not None:
        yield place, answer


def _place(one: Record, since: Sequence[Record], answered: int | None) -> _Place | None:
    """Return the place that an event marks, if it does: a request, or the first item of an answer without one."""
    if one.kind == REQUESTED:
        said = body(one)
        assert isinstance(said, ResponseRequested)
        if said.purpose == "aside":
            return None
        target = msgspec.structs.replace(said.target, state="stateless")
        return _Place(one.seq - 1, list(since), target, said.manifest.overhead)
    first = one.kind == ITEM and one.response is not None and one.response != answered and not one.flags & ASIDE
    if first and reading(one.shape or "", one.link).maker == "model":
        return _Place(one.seq - 1, list(since), Target(api="responses"), overhead({}, len))
    return None


class _Simulation:
    """One conversation under one policy and budget."""

    def __init__(self, store: Store, name: str, policy: Policy, budget: Budget) -> None:
        self._store = store
        self._name = name
        self._policy = policy
        self._budget = budget
        self._history: History | None = None
        self._most = 0
        self._lines: dict[str, Record] = {}
        """The last simulated request of each line."""

    async def asked(self, place: _Place, answer: int) -> Asked:
        """Choose one window."""
        line = line_of(self._policy, self._budget, place.target)
        request = Request(place.target, self._budget, self._budget.reserve, place.overhead)
        try:
            manifest = await self._chosen(place, request, line)
        except BudgetExceeded as error:
            return Asked(place.before, error.needed, fits=False)
        last = self._lines.get(line)
        self._lines[line] = self._requested(place, manifest)
        return Asked(
            place.before,
            manifest.tokens,
            scaled(manifest.shared, manifest.factor),
            cut=manifest.cut > (_manifest(last).cut if last else 0),
            base=manifest.base,
            answer=answer,
        )

    async def _chosen(self, place: _Place, request: Request, line: str) -> Manifest:
        history = self._history
        if history is not None:
            history.extend(place.records)
            if history.stale or len(history.groups) > self._most:
                history = None
        tokens = 2 * self._budget.context
        while True:
            if history is None:
                _, history = await load(self._store, self._name, line=None, tokens=tokens, at=place.before)
                self._most = 2 * len(history.groups) + _GROWTH
            self._history = history
            history.lines[line] = self._lines.get(line)
            try:
                return choose(history, request, self._policy)
            except Deeper:
                tokens *= 4
                history = None

    def _requested(self, place: _Place, manifest: Manifest) -> Record:
        """Return a manifest as the log would hold it; the next one of its line goes on from it."""
        said = ResponseRequested(
            adapter=place.target.api,
            encoder=1,
            target=place.target,
            settings="",
            manifest=manifest,
            digest="",
        )
        # What was reported for the request that stands here was of another window: it is asked for by no seq of these.
        return record(self._name, -place.before, Position(""), 0, event(said), 0)


def _manifest(request: Record) -> Manifest:
    said: Any = body(request)
    found: Manifest = said.manifest
    return found
