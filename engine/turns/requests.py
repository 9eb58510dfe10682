"""A request about to be made: its window chosen and written out, its body, and the event that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ..canonical import canonical, digest
from ..codec import event
from ..errors import Invalid
from ..events import NewEvent, Purpose, Record, ResponseRequested
from ..history import History
from ..ids import Position
from ..items import Item, read
from ..log import record
from ..model import ModelFailure
from ..window.window import Window

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ("NOTHING", "Asked", "ahead_of", "ask", "requested")

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
    window = Window(rendered, manifest, plan.target, plan.budget)
    return Asked(*requested(plan, window, purpose), history)


def requested(plan: Plan, window: Window, purpose: Purpose, *, retry_of: int | None = None) -> tuple[NewEvent, Item]:
    """Return the event that says that a window is sent, and the body in which it is."""
    body = plan.model.encode(window, plan.settings)
    said = ResponseRequested(
        purpose=purpose,
        adapter=plan.shape.adapter,
        encoder=plan.shape.encoder,
        target=plan.target,
        settings=plan.settings_digest,
        manifest=window.manifest,
        digest=digest(canonical(body, "request")),
        key=plan.options.key,
        retry_of=retry_of,
        continues=bool(window.rendered) and read(window.rendered[-1].item).is_output,
    )
    return event(said), body
