"""Seals: outputs that say what became of calls that got none, and the events that end a response that broke off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..codec import event
from ..events import NewEvent, ResponseInterrupted
from ..groups import Call
from ..history import History
from ..items import read
from .outcome import NEVER_RAN, UNKNOWN

if TYPE_CHECKING:
    from ..engine import Engine
    from .call import ModelCall

__all__ = ("interruption", "is_sealable", "seals")


async def seals(engine: Engine, calls: Iterable[tuple[Mapping[str, Any], str]]) -> list[NewEvent]:
    """Return outputs that say what became of calls, in words; of those calls that such an output can answer."""
    readings = [(item, read(item), words) for item, words in calls]
    return await engine.intake.seals(
        [
            (item, form.shape, words)
            for item, form, words in readings
            if form.kind is not None and form.kind.sealed_by is not None
        ]
    )


async def interruption(
    engine: Engine,
    history: History,
    response: int,
    cause: Literal["cancelled", "left", "crashed"],
    call: ModelCall | None = None,
    spare: Callable[[Call], bool] = lambda _: False,
) -> list[NewEvent]:
    """Return the events that end a response, or the tools that it called: what came of it, and seals for its calls.

    Once a response has ended, only its started calls were its worker's to answer; others wait for the client. Calls
    that are to be spared, because whoever takes over is going to run them, get no seal.
    """
    events: list[NewEvent] = []
    said, partial = ResponseInterrupted(cause=cause), None
    if call is not None and not call.ended:
        events, said, partial = await call.cut()
    unfinished = history.open == response
    left = [
        one
        for one in history.unanswered()
        if one.at == response and (unfinished or history.attempts(one)) and is_sealable(one) and not spare(one)
    ]
    said = msgspec.structs.replace(said, cause=cause, sealed=[one.entry.reading.link or "" for one in left])
    if partial is None:
        events.append(event(said, response=response))
    else:
        events.append(await engine.intake.partial(said, partial, response))
    words = [UNKNOWN if history.attempts(one) else NEVER_RAN for one in left]
    return [*events, *await seals(engine, zip((one.entry.value() for one in left), words, strict=True))]


def is_sealable(call: Call) -> bool:
    """Return whether an output can say in words what became of a call."""
    kind = call.entry.reading.kind
    return kind is not None and kind.sealed_by is not None
