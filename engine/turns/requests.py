"""A request about to be made: its window chosen and written out, its body, and the event that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ..canonical import AROUND, canonical, digest
from ..codec import event
from ..errors import Invalid
from ..events import NewEvent, Purpose, Record, ResponseRequested
from ..history import History
from ..ids import Position
from ..items import Item, read
from ..log import record
from ..model import ModelFailure, keyed
from ..threads import apart
from ..window.window import Window

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ("NOTHING", "Asked", "ahead_of", "ask", "requested")

_MANY: Final = 100_000
"""Tokens of a request that takes some milliseconds to be written."""
NOTHING: Final = "there is nothing to send yet; pass an input, or append one first"


class Asked(NamedTuple):
    """A request, before it is logged and sent."""

    event: NewEvent
    body: Item
    history: History
    """What its window was chosen from."""
    attached: Sequence[NewEvent] = ()
    """What is logged before it, of the state that its server keeps."""
    broken: ModelFailure | None = None
    """Why it cannot be sent: what it needs at the server could not be made."""


def ahead_of(history: History, events: Sequence[NewEvent]) -> Sequence[Record]:
    """Return events as the log will give them back, when they are appended next."""
    first = history.version + 1
    name = history.conversation
    return [record(name, seq, Position(""), 0, one, first) for seq, one in enumerate(events, first)]


async def ask(plan: Plan, history: History, ahead: Sequence[Record] = (), *, purpose: Purpose = "answer") -> Asked:
    """Return the request for an answer to a history with *ahead* at its end.

    Raises:
        BudgetExceeded: what must be sent does not fit.
        Invalid: there is nothing to send.
    """
    reader = plan.engine.reader
    history, manifest = await reader.chosen(plan, history, ahead)
    rendered = await reader.rendered(history, manifest, plan.target, plan.blobs)
    if not rendered:
        raise Invalid(f"{history.conversation}: {NOTHING}")
    window = Window(rendered, manifest, plan.target, plan.budget, history.conversation)
    return Asked(*await requested(plan, history, window, purpose), history)


async def requested(
    plan: Plan, history: History, window: Window, purpose: Purpose, *, retry_of: int | None = None
) -> tuple[NewEvent, Item]:
    """Return the event that says that a window is sent, and the body in which it is."""
    cache_key = _cache_key(plan, history)
    body = plan.model.encode(window, keyed(plan.settings, cache_key))
    sum_of_body = await apart(_digest, body, when=window.tokens.total >= _MANY)
    said = ResponseRequested(
        purpose=purpose,
        adapter=plan.shape.adapter,
        encoder=plan.shape.encoder,
        target=plan.target,
        settings=plan.settings_digest,
        manifest=window.manifest,
        digest=sum_of_body,
        cache_key=cache_key,
        key=plan.options.key,
        retry_of=retry_of,
        continues=bool(window.rendered) and read(window.rendered[-1].item).is_output,
    )
    return event(said), body


def _digest(body: Item) -> str:
    return digest(canonical(body, "request", wrapped=AROUND))


def _cache_key(plan: Plan, history: History) -> str | None:
    """Return whose requests share a prompt cache with the next one; None where nobody wants to know.

    It is the one of the line's last request, for its beginning is what may be cached: so a fork goes on with its
    parent's.
    """
    if not plan.shape.takes_cache_key or "prompt_cache_key" in plan.settings.get("params", {}):
        return None
    return history.cache_key(plan.line) or history.conversation
