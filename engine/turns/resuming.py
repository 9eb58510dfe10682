"""Resuming: a background response goes on at its server when its worker is gone; who comes next waits for its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..history import History
from ..log import Release
from ..model import ModelFailure, StreamEvent
from ..shield import finish
from .call import ModelCall, Resumed

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ("Resumable", "resumable", "see_out")


class Resumable(NamedTuple):
    """An open response that can be asked for."""

    response: int
    """The seq that names it."""
    provider_id: str
    resume: Callable[..., AsyncIterator[StreamEvent]]
    transport: Mapping[str, Any]
    logged: int
    """How many of its items are in the log."""

    def resumed(self) -> Resumed:
        """Begin to ask for it."""
        return Resumed(self.resume(self.provider_id, **self.transport), self.logged)


def resumable(history: History, plan: Plan) -> Resumable | None:
    """Return the open response, if it goes on in the background and the plan's model can ask for it."""
    response = history.open
    resume = getattr(plan.model, "resume", None)
    if response is None or response not in history.background or resume is None:
        return None
    asked = history.requests[response]
    if (asked.adapter, asked.target.backend) != (plan.shape.adapter, plan.target.backend):
        return None
    group = history.groups.get(response)
    made = [entry for entry in group.entries if not entry.reading.is_output] if group else []
    return Resumable(response, history.provider[response], resume, plan.transport, len(made))


async def see_out(call: ModelCall) -> None:
    """Wait for the end of a response and log it; if the caller goes, somebody else may still wait for it."""
    hold = call.hold
    try:
        try:
            end = await call.receive(lambda _: None)
        except ModelFailure as failure:
            await call.fail(failure)
        else:
            await call.complete(end, [], Release(), lambda _: None, reason=None)
    except BaseException:
        if hold.held:
            await finish(hold.append([], Release()))
        raise
    finally:
        hold.dropped()
