"""Model calls beside the conversation: what is said there is logged, and enters no later window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from ..codec import event
from ..events import ASIDE, NewEvent
from ..log import Appended, LeaseChange
from ..logs import Log
from ..shield import bounded, finish
from .call import Hold, ModelCall
from .recorder import Finished

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ("Beside", "SideCall", "beside")

_log = Log("turnlog.turn")
_PATIENCE: Final = 10.0
"""Seconds that saying how it broke off may take."""


def beside(one: NewEvent) -> NewEvent:
    """Return an item that enters no later window, and takes no effect there."""
    return msgspec.structs.replace(one, flags=one.flags | ASIDE, marks=())


class Beside(Hold):
    """Appends of a call beside the conversation: without a lease; or under a turn's, which stays the turn's."""

    def __init__(self, engine: Engine, name: str, turn: Hold | None = None) -> None:
        super().__init__(engine, name)
        self._turn = turn

    async def write(self, events: Sequence[NewEvent], lease: LeaseChange | None, **more: Any) -> Appended:
        """Append; the lease is not this call's to give up."""
        del lease
        if self._turn is None:
            appended = await self.engine.writer.append(self.name, events, **more)
        else:
            appended = await self._turn.write(events, None, **more)
        self.version = appended.version
        return appended


class SideCall(ModelCall):
    """A response beside the conversation."""

    async def event(self, finished: Finished) -> NewEvent:
        """Return a finished item as an event."""
        return beside(await super().event(finished))

    async def break_off(self, cause: Literal["cancelled", "left", "crashed"]) -> None:
        """Say in the log that it goes no further, within bounds."""
        if not self.ended:
            error = await finish(bounded(_PATIENCE, lambda: self._broken(cause)))
            if error is not None:
                _log.warning("turnlog.response.unsealed", conversation=self.hold.name, error=error)

    async def _broken(self, cause: Literal["cancelled", "left", "crashed"]) -> None:
        events, said, partial = await self.cut()
        said = msgspec.structs.replace(said, cause=cause)
        if partial is None:
            last = event(said, response=self.seq)
        else:
            last = beside(await self.plan.engine.intake.partial(said, partial, self.seq))
        await self.hold.append([*events, last])
