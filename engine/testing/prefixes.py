"""How much of what a policy sends is the beginning of what was sent before: so much a prompt cache can serve.

    shares = await prefix_of(OldestTurns(), Budget(32_000), turns=200)
    print(f"{shares.share:.1%}")

The conversation is an agent's: each turn is a question, a call with its output, and an answer, so two requests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..canonical import encode
from ..codec import event
from ..events import (
    PINNED,
    ConversationCreated,
    ItemAppended,
    NewEvent,
    ResponseCompleted,
    ResponseRequested,
    Target,
    Usage,
)
from ..intake import Intake, flags_of
from ..items import read
from ..manifest import Manifest
from ..reader import Reader
from ..stores.memory import MemoryStore
from ..window.budget import Budget
from ..window.policies import Policy
from ..window.render import Rendered
from .scribe import Sight

__all__ = ("SIX_HUNDRED", "Shares", "Turn", "prefix_of", "requests")

_TARGET: Final = Target(api="responses", backend="b", model="m")
_NAME: Final = "c"


class Turn(NamedTuple):
    """What the items of a turn weigh, in tokens."""

    question: int = 100
    call: int = 50
    output: int = 350
    answer: int = 100


SIX_HUNDRED: Final = Turn()
"""A turn of 600 tokens."""


@dataclass(slots=True)
class Shares:
    """What the requests of a conversation came to."""

    requests: int = 0
    cuts: int = 0
    input: int = 0
    """Tokens of input of all requests."""
    shared: int = 0
    """Those of them that the request before began with too."""

    @property
    def share(self) -> float:
        """The part of all input that was such a beginning."""
        return self.shared / self.input if self.input else 0.0


async def prefix_of(
    policy: Policy, budget: Budget, *, turns: int, weights: Turn = SIX_HUNDRED, system: int = 0
) -> Shares:
    """Return what a conversation of so many turns comes to under a policy. *system* are a leading message's tokens."""
    shares, cut = Shares(), 0
    async for manifest, _ in requests(policy, budget, turns=turns, weights=weights, system=system):
        shares.requests += 1
        shares.cuts += manifest.cut != cut
        shares.input += manifest.tokens
        shares.shared += manifest.shared
        cut = manifest.cut
    return shares


async def requests(
    policy: Policy,
    budget: Budget,
    *,
    turns: int,
    weights: Turn = SIX_HUNDRED,
    system: int = 0,
    rendered: bool = False,
) -> AsyncIterator[tuple[Manifest, list[Rendered]]]:
    """Yield the manifest of each request of such a conversation, with what it sends if that is to be *rendered*."""
    talk = _Talk(Sight(_TARGET, budget, policy))
    await talk.append(event(ConversationCreated()))
    if system:
        await talk.append(_item({"role": "system", "content": "Be brief."}, system, flags=PINNED))
    for number in range(turns):
        call = {"call_id": f"call_{number}", "name": "look", "arguments": "{}"}
        await talk.append(_item({"role": "user", "content": f"question {number}"}, weights.question))
        yield await talk.ask({"type": "function_call", **call}, weights.call, rendered=rendered)
        output = {"type": "function_call_output", "call_id": f"call_{number}", "output": "clear"}
        await talk.append(_item(output, weights.output))
        yield await talk.ask({"role": "assistant", "content": f"answer {number}"}, weights.answer, rendered=rendered)


class _Talk:
    """A conversation in memory, and whoever reads it."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._store = MemoryStore()
        self._reader = Reader(self._store, Intake())

    async def append(self, *events: NewEvent) -> int:
        return (await self._store.append(_NAME, events)).last

    async def ask(self, answer: dict[str, Any], tokens: int, *, rendered: bool) -> tuple[Manifest, list[Rendered]]:
        """Log a request and what it is answered."""
        sight = self._sight
        _, history = await self._reader.fresh(_NAME, line=sight.line, tokens=sight.budget.context)
        history, manifest = await self._reader.chosen(sight, history)
        items = await self._reader.rendered(history, manifest, sight.target) if rendered else []
        said = ResponseRequested(
            adapter="responses",
            encoder=1,
            target=sight.target,
            settings="0" * 64,
            manifest=manifest,
            digest="0" * 64,
        )
        asked = await self.append(event(said))
        ended = ResponseCompleted(usage=Usage(input_tokens=manifest.tokens, requests=1))
        await self.append(_item(answer, tokens, asked), event(ended, response=asked))
        return manifest, items


def _item(item: dict[str, Any], tokens: int, response: int | None = None, flags: int = 0) -> NewEvent:
    form = read(item)
    flags |= flags_of(item, form)
    return event(ItemAppended(), item=encode(item), form=form, response=response, tokens=tokens, flags=flags)
