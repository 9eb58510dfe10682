"""One model call: its answer received, and logged as it comes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .codec import event
from .events import ItemAppended, NewEvent, ResponseCompleted, ResponseFailed, ResponseStarted, Usage
from .items import read
from .log import Appended, LeaseChange, Release
from .logs import Log
from .model import Ending, ModelFailure, StreamEvent
from .recorder import Finished, Recorder

if TYPE_CHECKING:
    from .engine import Engine
    from .plan import Plan

__all__ = ("Emit", "Hold", "ModelCall")

_log = Log("turnlog.turn")

Emit: TypeAlias = Callable[[StreamEvent], None]

_BROKEN: Final = "the answer broke off before its end"


class Hold:
    """A turn's hold on its conversation: once the lease of its generation is lost, its appends write nothing."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.generation = 0
        self.version = 0

    async def append(self, events: Sequence[NewEvent], lease: LeaseChange | None = None) -> Appended:
        """Append under the lease.

        Raises:
            Fenced: somebody else has taken the turn over.
        """
        appended = await self.engine.writer.append(self.name, events, fence=self.generation, lease=lease)
        self.version = appended.version
        return appended


class ModelCall:
    """One response, from its request to its end. Its items are durable before they are passed on."""

    def __init__(self, hold: Hold, plan: Plan, seq: int, body: Any) -> None:
        self.hold = hold
        self.plan = plan
        self.seq = seq
        """The seq of its `response.requested`, which names it."""
        self.body = body
        self.ended = False
        self.items: list[dict[str, Any]] = []
        self.calls: dict[str, tuple[dict[str, Any], int]] = {}
        """Logged calls that the caller owes an output for, with their seqs, by link."""
        self.recorder = Recorder()
        self._announced = False
        self._last: StreamEvent | None = None
        self._began = time.monotonic()

    # -- receiving

    async def receive(self, emit: Emit) -> Ending:
        """Send the request; log and pass on what comes back, up to its end, which `complete` logs.

        Raises:
            ModelFailure: the model did not answer.
        """
        stream = self.plan.send(self.body)
        try:
            async for said in stream:
                due = self.recorder.feed(said)
                if due:
                    await self._log(due, emit)
                if self.recorder.ending is not None:
                    self._last = said
                    break
                if said.type != "response.output_item.done":
                    emit(StreamEvent(type=said.type, delta=said.delta, response=self.seq, raw=said.raw))
        finally:
            close: Callable[[], Awaitable[None]] | None = getattr(stream, "aclose", None)
            if close is not None:
                await close()
        end = self.recorder.ending
        if end is None:
            raise ModelFailure("stream", _BROKEN, retryable=True)
        if end.status == "failed":
            raise ModelFailure(
                "model", end.message or "the model said that it failed", code=end.code, retries=end.retries
            )
        return end

    async def _log(self, finished: Sequence[Finished], emit: Emit) -> None:
        events = [*self.started(), *[await self.event(one) for one in finished]]
        appended = await self.hold.append(events)
        self._logged(finished, appended.last - len(finished) + 1, emit)

    def started(self) -> list[NewEvent]:
        """Return the response's start the first time it is asked for: it shares an append with what comes first."""
        if self._announced:
            return []
        self._announced = True
        said = ResponseStarted(id=self.recorder.provider_id, model=self.recorder.provider_model)
        return [event(said, response=self.seq)]

    async def event(self, finished: Finished) -> NewEvent:
        """Return a finished item as an event."""
        origin = self.plan.origin if finished.extra is not None else None
        said = ItemAppended(repaired=finished.repaired, extra=finished.extra, origin=origin)
        return await self.plan.engine.intake.item(finished.item, said=said, response=self.seq)

    def _logged(self, finished: Sequence[Finished], first: int, emit: Emit) -> None:
        for seq, one in enumerate(finished, first):
            self.items.append(one.item)
            form = read(one.item)
            if form.is_call and form.link is not None:
                self.calls[form.link] = (one.item, seq)
            emit(
                StreamEvent(
                    type=one.event.type,
                    item=one.item,
                    seq=seq,
                    call_id=form.link,
                    response=self.seq,
                    raw=one.event.raw,
                )
            )

    # -- ending

    def owed(self) -> dict[str, dict[str, Any]]:
        """Return the calls of the whole answer, logged or about to be, by link."""
        rest = {form.link: one.item for one in self.recorder.held if (form := read(one.item)).is_call and form.link}
        return {**{link: item for link, (item, _) in self.calls.items()}, **rest}

    async def complete(self, end: Ending, more: Sequence[NewEvent], lease: LeaseChange | None, emit: Emit) -> None:
        """Log the last items, the response's end, and what follows from it, in one append."""
        rest = self.recorder.rest()
        events = [*self.started(), *[await self.event(one) for one in rest]]
        first = len(events) - len(rest)
        said = ResponseCompleted(
            status="incomplete" if end.status == "incomplete" else "completed",
            reason=end.reason,
            usage=end.usage,
            retries=end.retries,
            removed=end.removed,
        )
        appended = await self.hold.append([*events, event(said, response=self.seq), *more], lease)
        self.ended = True
        self._logged(rest, appended.first + first, emit)
        if self._last is not None:
            emit(StreamEvent(type=self._last.type, response=self.seq, raw=self._last.raw))
        usage = end.usage or Usage()
        _log.info(
            "turnlog.response",
            conversation=self.hold.name,
            response=self.seq,
            status=end.status,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            retries=end.retries,
            seconds=round(time.monotonic() - self._began, 3),
        )

    async def fail(self, failure: ModelFailure) -> None:
        """Log that the model did not answer, and give the lease up."""
        said = ResponseFailed(
            kind=failure.kind,
            code=failure.code,
            message=failure.message[:2000],
            status_code=failure.status_code,
            retryable=failure.retryable,
            retries=failure.retries,
        )
        await self.hold.append([event(said, response=self.seq)], Release())
        self.ended = True
        _log.warning(
            "turnlog.response.failed",
            conversation=self.hold.name,
            response=self.seq,
            kind=failure.kind,
            code=failure.code,
            status_code=failure.status_code,
            seconds=round(time.monotonic() - self._began, 3),
        )
