"""Choosing again: whether today's policy would send what was sent, were it asked at the same place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from ..canonical import digest, loads
from ..codec import REQUESTED, RESTORE, body
from ..errors import BudgetExceeded, CorruptLog, TurnlogError
from ..events import Record, ResponseRequested, Target
from ..families import family_of
from ..history import History
from ..loading import load
from ..log import Store
from ..manifest import SENT, Manifest, form_of
from ..tokens import Counter, scale_of
from ..vocabulary import DEFAULT, vocabulary_of
from ..vocabulary import load as load_vocabulary
from ..window.budget import Budget
from ..window.choose import Deeper, Request, choose, line_of
from ..window.ledger import differs, forgets, seen
from ..window.policies import Policy
from ..window.units import Weights
from .verifying import pages

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Otherwise", "Rechooser", "Rechosen", "counter_of", "is_forgotten", "weights_of")


class Otherwise(msgspec.Struct, frozen=True):
    """A request for which today's policy would have chosen otherwise."""

    conversation: str
    response: int
    seq: int
    """The first event with another fate; 0 where nothing can be chosen at all."""
    reason: str


class Rechosen(msgspec.Struct):
    """What choosing again found."""

    same: int = 0
    other: list[Otherwise] = []
    unknown: int = 0
    """Requests that cannot be asked for again: made elsewhere, or by a policy or a counter that is not here."""

    def add(self, more: Rechosen) -> None:
        """Take another conversation's findings in."""
        self.same += more.same
        self.other += more.other
        self.unknown += more.unknown


class Rechooser:
    """Asks today's policies about recorded requests.

    Args:
        engine: the engine; its policy is one of today's.
        policies: others, that recorded requests may name.
    """

    def __init__(self, engine: Engine, policies: Iterable[Policy] = ()) -> None:
        self._engine = engine
        self._policies = {policy.name: policy for policy in [engine.policy, *policies]}

    async def rechoose(self, name: str) -> Rechosen:
        """Choose the window of every request of a conversation again, from what was there and what was sent before."""
        found = Rechosen()
        async for page in pages(self._engine.store, name):
            for record in page:
                if record.kind == REQUESTED:
                    await self._ask(record, found)
        return found

    async def _ask(self, request: Record, found: Rechosen) -> None:
        try:
            said = body(request)
        except TurnlogError:
            found.unknown += 1
            return
        assert isinstance(said, ResponseRequested)
        before = said.manifest
        policy = self._policies.get(before.policy.rpartition("@")[0])
        if policy is None or said.purpose != "answer" or not before.context:
            found.unknown += 1
            return
        place = request.conversation, request.seq
        try:
            now = await self._chosen(request.conversation, said, policy)
        except BudgetExceeded as error:
            found.other.append(Otherwise(*place, 0, str(error)))
            return
        except TurnlogError as error:
            found.other.append(Otherwise(*place, 0, f"it cannot be chosen again: {error}"))
            return
        if now.items != before.items and _fates(now) == _fates(before):
            found.unknown += 1  # it was counted by a counter that is not here
            return
        seq = _parted(before, now)
        if seq is None:
            found.same += 1
        else:
            was, is_ = before.why(seq), now.why(seq)
            told = f"{was.fate} ({was.rule}) then, {is_.fate} ({is_.rule}) today"
            found.other.append(Otherwise(*place, seq, told))

    async def _chosen(self, name: str, said: ResponseRequested, policy: Policy) -> Manifest:
        manifest = said.manifest
        budget = Budget(manifest.context, manifest.reserve)
        counter = await counter_of(said.target.model)
        tokens = budget.context
        while True:
            history = await _as_it_was(self._engine.store, name, said, tokens)
            place = line_of(policy, budget, said.target)
            history.lines[place] = history.lines.get(manifest.line)
            request = await self._request(history, said, place, budget, counter)
            try:
                return choose(history, request, policy)
            except Deeper:
                tokens *= 4

    async def _request(
        self, history: History, said: ResponseRequested, place: str, budget: Budget, counter: Counter | None
    ) -> Request:
        manifest, target = said.manifest, said.target
        overhead = manifest.overhead - manifest.hidden
        own = family_of(target.model) is not None
        shown = seen(history, place, target, overhead, own=own, most=max(0, budget.context - budget.reserve) // 2)
        shown = shown._replace(forgets=await is_forgotten(self._engine.store, history.conversation, said))
        weights = await weights_of(self._engine, history, counter, target)
        return Request(target, budget, budget.reserve, overhead + shown.hidden, weights, manifest.front, shown)


async def _as_it_was(store: Store, name: str, said: ResponseRequested, tokens: int) -> History:
    return (await load(store, name, line=said.manifest.line, tokens=tokens, at=said.manifest.as_of))[1]


async def counter_of(model: str) -> Counter | None:
    """Return what counts a model's tokens, None where that is what items are counted with when they are appended."""
    name = vocabulary_of(model)
    return scale_of(model, (await load_vocabulary(name)).count, alike=name == DEFAULT)


async def weights_of(engine: Engine, history: History, counter: Counter | None, target: Target) -> Weights | None:
    """Return what a history's items weigh by a counter, None where that is what the log says."""
    if counter is None or not differs(counter, history):
        return None
    return await engine.reader.weights(history, counter, target)


async def is_forgotten(store: Store, name: str, said: ResponseRequested) -> bool:
    """Return whether the model of a request was not shown again what it had thought in earlier turns.

    Raises:
        CorruptLog: its settings cannot be read.
    """
    if said.target.api != "responses":
        return False
    raw = await store.body(said.settings)
    if raw is not None and digest(raw) != said.settings:
        raise CorruptLog(f"{name}: the settings {said.settings[:12]}… are not what was written; {RESTORE}")
    settings = loads(raw or b"{}")
    return forgets(said.target.model, said.target.api, settings.get("params") or settings.get("recorded") or {})


def _fates(manifest: Manifest) -> list[tuple[int, int, str]]:
    return [(run.first, run.last, run.fate) for run in manifest.runs if run.fate in SENT]


def _parted(old: Manifest, new: Manifest) -> int | None:
    """Return the first seq that only one of two manifests sends, or that they send in different forms."""
    edges = sorted({run.first for run in (*old.runs, *new.runs)})
    return next((seq for seq in edges if form_of(old.fate(seq)) != form_of(new.fate(seq))), None)
