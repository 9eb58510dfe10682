"""Compacting: a stand-in is made for what came first, by the model's own service, by any model, or by none.

Only when all is well does one event make the stand-in count; until then, and whatever goes wrong, nothing has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from ..blobs import filled
from ..canonical import loads
from ..codec import event, item_of
from ..compaction import Compacted, covered_digest, stand_in_of, weight
from ..errors import BudgetExceeded
from ..events import ContextCompacted, NewEvent, Origin, StandIn
from ..groups import Entry
from ..history import History
from ..items import Item, read
from ..log import LeaseChange
from ..manifest import Manifest, Span, spans
from ..model import StreamEvent
from ..passages import passage
from ..reader import logged
from ..summaries import HEADER, is_too_short, prompt
from ..tokens import Counter, measure
from ..window.coverage import next_part, sending
from ..window.extracts import extract
from ..window.invariants import INVARIANTS
from ..window.units import Scene, Unit, units_of
from .call import Hold
from .errands import Check, Declined, Errands
from .material import Material
from .outcome import text_of
from .plan import Plan

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Compactor", "Method", "RemotePlan")

Method: TypeAlias = Literal["remote", "server", "summary", "extract"]
_Made: TypeAlias = Mapping[int, Mapping[str, Any]]

_FACTOR: Final = 1100
"""Thousandths that counted tokens are multiplied by: a request that is refused for its length helps nobody."""
_ANSWER: Final = 4096
"""Tokens kept free for a summary, in a large model; in a small one a quarter."""
_OPAQUE: Final = 4
"""Tokens that an opaque item has at least: what it really takes nobody knows."""


class RemotePlan(Plan):
    """A plan of what goes to a model's own service for compactions."""

    def send(self, body: Item) -> AsyncIterator[StreamEvent]:
        """Send a body there."""
        compacts: Any = self.model
        sent: AsyncIterator[StreamEvent] = compacts.compact(body, **self.transport)
        return sent


class _Part(NamedTuple):
    """What one request for a summary is made with."""

    units: Sequence[Unit]
    asking: NewEvent
    told: tuple[Span, ...]
    """What is in the question rather than among the items."""
    size: int
    """How many units of what is to be summed up that is."""


class Compactor:
    """One attempt to compact a conversation in one way. Used once.

    Args:
        engine: the engine.
        material: what it is made of.
        method: the way.
        plan: of the requests; for an extract None.
        hold: of the turn within which it is; None: by hand.
        expected: the version that the conversation must have.
        opaque: the item that a server has made already, by its seq.
        last: what becomes of the turn's lease with the last event.
    """

    def __init__(
        self,
        engine: Engine,
        material: Material,
        method: Method,
        plan: Plan | None,
        hold: Hold | None = None,
        *,
        expected: int | None = None,
        opaque: int = 0,
        last: LeaseChange | None = None,
    ) -> None:
        self.engine = engine
        self.material = material
        self.method = method
        self.errands = Errands(engine, material.history, hold, expected)
        self._plan = plan
        self._opaque = opaque
        self._last = last

    async def compact(self) -> Compacted:
        """Make the stand-in, and let it count.

        Raises:
            Declined: it cannot be made, or would be of no use.
            BudgetExceeded: what has to be read does not fit the model that is to read it.
            VersionConflict, ConversationBusy, Fenced, StoreError.
        """
        try:
            said, tokens = await self._made((await self.engine.intake.vocabulary()).count)
            seq = await self.errands.conclude(event(said, tokens=tokens), self._last)
        finally:
            await self.errands.close()
        before = self.material.before
        return Compacted(
            seq=seq,
            covered=(said.first, said.last),
            before=before,
            after=before - self.material.replaced + tokens,
            method=self.method,
        )

    async def _made(self, count: Counter) -> tuple[ContextCompacted, int]:
        if self.method == "remote":
            return await self._remote(self._planned, count)
        if self.method == "summary":
            return await self._summary(self._planned, count)
        stand_in, tokens = self._extract(count)
        if self.method == "server":
            item = item_of((await logged(self.engine.store, self.errands.name, [self._opaque]))[0])
            own = [StandIn(seq=self._opaque)]
            return self._said(own, readable=stand_in, readable_tokens=tokens), measure(item, count).tokens
        if not stand_in or tokens >= self.material.replaced:
            raise Declined("not_shorter")
        return self._said(stand_in), tokens

    def _said(self, stand_in: Sequence[StandIn], **more: Any) -> ContextCompacted:
        plan, base, responses = self._plan, self.material.history.base, self.errands.responses
        return ContextCompacted(
            first=1,
            last=self.material.coverage.last,
            digest=covered_digest(self.material.records, base[1].digest if base else ""),
            stand_in=list(stand_in),
            method=self.method,
            origin=Origin(plan.shape.adapter, plan.model.backend, plan.model.name) if plan else None,
            usage=self.errands.usage if responses else None,
            responses=responses,
            **more,
        )

    @property
    def _planned(self) -> Plan:
        assert self._plan is not None
        return self._plan

    # -- without a model

    def _extract(self, count: Counter) -> tuple[list[StandIn], int]:
        """Return a stand-in that everybody can read, of half of what it stands for at most."""
        material = self.material
        quoted = {entry.seq for entry in material.coverage.quoted}
        entries = [entry for entry in material.entries() if entry.seq not in quoted]
        most = min(material.room // 4, material.replaced // 2) - self._quoted_tokens()
        made = extract(entries, material.base_items, most, count)
        return [*made.stand_in, *self._quoted()], made.tokens + self._quoted_tokens()

    def _quoted(self, known: Sequence[StandIn] = ()) -> list[StandIn]:
        """Return the input of a turn that is under way, as far as it is covered and not *known*."""
        seqs = {part.seq for part in known}
        return [StandIn(seq=entry.seq) for entry in self.material.coverage.quoted if entry.seq not in seqs]

    def _quoted_tokens(self) -> int:
        return sum(entry.tokens for entry in self.material.coverage.quoted)

    # -- by the model's own service

    async def _remote(self, plan: Plan, count: Counter) -> tuple[ContextCompacted, int]:
        material = self.material
        scene, units = await self._units(plan)
        base = self._base_weight(plan)
        needed, room = base + sum(unit.cost for unit in units), _room(plan)
        if needed > room:
            raise BudgetExceeded(needed, room, "what is to be compacted")

        def choose(history: History, _: Sequence[Entry]) -> tuple[History, Manifest]:
            return history, _sending(plan, scene, units, (), base)

        def check(items: Sequence[Item]) -> str | None:
            return self._longer(sum(_least(item, count) for item in items))

        call = await self.errands.ask(plan, choose)
        made = await self.errands.receive(call, remote=True, check=check)
        users = [(entry.seq, await self._whole(entry)) for entry in material.users()]
        parts = stand_in_of(list(made.values()), [*material.base_users, *users], list(made))
        # What is pinned goes in front of the stand-in all the same.
        pinned = {entry.seq for entry in material.entries(pinned=True)} - {entry.seq for entry in material.entries()}
        parts = [part for part in parts if part.seq not in pinned]
        parts += self._quoted(parts)
        readable, readable_tokens = self._extract(count)
        said = self._said(parts, readable=readable, readable_tokens=readable_tokens)
        return said, self._weighed(parts, made, count)

    async def _whole(self, entry: Entry) -> dict[str, Any]:
        item: dict[str, Any] = loads(await filled(self.engine.store, entry.item, entry.blobs))
        return item

    def _weighed(self, parts: Sequence[StandIn], made: _Made, count: Counter) -> int:
        material = self.material
        known = {seq: measure(item, count).tokens for seq, item in (*material.base_users, *made.items())}
        known |= {entry.seq: entry.tokens for entry in (*material.entries(pinned=True), *material.coverage.quoted)}
        return sum(known[part.seq] for part in parts if part.seq is not None)

    def _longer(self, tokens: int) -> str | None:
        return "not_shorter" if tokens >= self.material.replaced else None

    # -- by any model

    async def _summary(self, plan: Plan, count: Counter) -> tuple[ContextCompacted, int]:
        """Have a model sum it up, in as many parts as it takes; each summary takes that of the part before in."""
        scene, units = await self._units(plan)
        header: dict[str, Any] = {"type": "message", "role": "user", "content": HEADER}
        fixed = measure(header, count).tokens + self._quoted_tokens()
        made: _Made = {}
        while units or not made:
            before = text_of(list(made.values())) if made else None
            base = 0 if made else self._base_weight(plan)
            part = await self._next(units, before, _room(plan) - base, count)
            units = units[part.size :]
            check = (lambda _: None) if units else partial(self._check, count, fixed)
            made = await self._part(plan, scene, part, base, check)
        spoken = {seq: measure(item, count).tokens for seq, item in made.items() if _is_spoken(item)}
        parts = [StandIn(item=header), *(StandIn(seq=seq) for seq in spoken), *self._quoted()]
        return self._said(parts), fixed + sum(spoken.values())

    async def _next(self, units: Sequence[Unit], before: str | None, room: int, count: Counter) -> _Part:
        """Return as much as one request has room for, at least one unit; of what is too long for any an excerpt.

        Raises:
            BudgetExceeded: there is no room even for that.
        """
        asking = await self._asking(prompt(before))
        try:
            size = next_part(units, room - asking.tokens) if units else 0
        except BudgetExceeded:
            entries = [entry for entry in units[0].entries if entry.seq not in units[0].fit.out]
            left = room - (await self._asking(prompt(before, ""))).tokens
            excerpt = passage([await self._whole(entry) for entry in entries], left, count)
            if excerpt is None:
                raise
            told = spans(sorted(entry.seq for entry in entries))
            return _Part((), await self._asking(prompt(before, excerpt)), told, 1)
        return _Part(units[:size], asking, (), size)

    async def _asking(self, text: str) -> NewEvent:
        return await self.engine.intake.item({"role": "user", "content": text})

    def _check(self, count: Counter, fixed: int, items: Sequence[Item]) -> str | None:
        spoken = sum(measure(item, count).tokens for item in items if _is_spoken(item))
        return (
            "too_short" if is_too_short(count(text_of(items)), self.material.replaced) else self._longer(fixed + spoken)
        )

    async def _part(self, plan: Plan, scene: Scene, part: _Part, base: int, check: Check) -> _Made:
        """Have one part summed up: the first with what stands for what was compacted before."""
        first = not self.errands.responses

        def choose(history: History, prompts: Sequence[Entry]) -> tuple[History, Manifest]:
            if not first:
                history.base = None
            return history, _sending(plan, scene.of(history), part.units, prompts, base, part.told)

        call = await self.errands.ask(plan, choose, part.asking)
        return await self.errands.receive(call, remote=False, check=check)

    # -- what is sent

    async def _units(self, plan: Plan) -> tuple[Scene, list[Unit]]:
        """Return what is covered as the plan's model would receive it."""
        history = self.material.history
        scene = Scene(history, plan.target, (await plan.request(history)).weights)
        units = units_of((unit.group for unit in self.material.coverage.units), scene, INVARIANTS)
        return scene, [unit for unit in units if not unit.empty]

    def _base_weight(self, plan: Plan) -> int:
        base = self.material.history.base
        return weight(*base, plan.target) if base else 0


def _sending(
    plan: Plan, scene: Scene, part: Sequence[Unit], prompts: Sequence[Entry], base: int, told: tuple[Span, ...] = ()
) -> Manifest:
    budget = plan.budget.context, plan.reserve
    return sending(scene, part, prompts, base=base, factor=_FACTOR, budget=budget, told=told)


def _room(plan: Plan) -> int:
    """Return how many counted tokens of items a request may have."""
    context = plan.budget.context
    free = max(plan.reserve, min(_ANSWER, context // 4))
    return (context - free) * 1000 // _FACTOR - plan.overhead


def _least(item: Item, count: Counter) -> int:
    """Return what an item takes at least: the weight of what is opaque is a guess, and upward."""
    return _OPAQUE if read(item).shape == "compaction" else measure(item, count).tokens


def _is_spoken(item: Item) -> bool:
    return read(item).shape == "assistant"
