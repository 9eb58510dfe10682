"""One model call: its answer received, logged as it comes, and ended in the log whatever becomes of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import anyio

from ..codec import event
from ..errors import Fenced
from ..events import (
    ASIDE,
    ItemAppended,
    NewEvent,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseStarted,
    Usage,
)
from ..items import read
from ..log import Appended, LeaseChange, Release
from ..logs import Log
from ..model import Ending, ModelFailure, StreamEvent, helps
from ..shield import finish
from ..threads import apart, is_large
from ..tokens import settled
from .recorder import Finished, Recorder

if TYPE_CHECKING:
    from ..engine import Engine
    from .plan import Plan

__all__ = ("Emit", "Hold", "ModelCall", "Resumed")

_log = Log("turnlog.turn")

Emit: TypeAlias = Callable[[StreamEvent], None]

_BROKEN: Final = "the answer broke off before its end"
_STOPPING: Final = 3.0
"""Seconds that a server has to stop."""
_LONGEST: Final = 2000
"""Characters of a failure's message that are logged."""


class Hold:
    """A turn's hold on its conversation: once the lease of its generation is lost, its appends write nothing."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.generation = 0
        self.version = 0
        """The version right after the turn's own last append."""
        self.held = False

    def taken(self, appended: Appended) -> None:
        """Learn that the lease has been taken."""
        self.generation, self.version, self.held = appended.generation, appended.version, True
        self.engine.keep_lease(self.name, self.generation)

    def dropped(self) -> None:
        """Stop renewing the lease; what is not given up runs out."""
        self.engine.drop_lease(self.name, self.generation)

    async def append(
        self,
        events: Sequence[NewEvent],
        lease: LeaseChange | None = None,
        *,
        then: Callable[[Appended], None] = lambda _: None,
        **more: Any,
    ) -> None:
        """Append under the lease, and do *then* what follows from it, even if the caller is cancelled meanwhile.

        So the turn always knows what it has written.

        Raises:
            Fenced: somebody else has taken the turn over.
        """

        async def work() -> None:
            then(await self.write(events, lease, **more))

        await finish(work())

    async def write(self, events: Sequence[NewEvent], lease: LeaseChange | None, **more: Any) -> Appended:
        """Do what `append` does, for whoever sees to it that it is not cut short."""
        try:
            appended = await self.engine.writer.append(self.name, events, fence=self.generation, lease=lease, **more)
        except Fenced:
            self.held = False
            raise
        self.version = appended.version
        if isinstance(lease, Release):
            self.held = False
        return appended


class Resumed(NamedTuple):
    """A response that another worker has asked for, in the background."""

    events: AsyncIterator[StreamEvent]
    """What comes of it, from its beginning."""
    logged: int
    """How many of its items are in the log."""


class ModelCall:
    """One response, from its request to its end. Its items are durable before they are passed on."""

    def __init__(
        self,
        hold: Hold,
        plan: Plan,
        seq: int,
        body: Any,
        *,
        broken: ModelFailure | None = None,
        resumed: Resumed | None = None,
    ) -> None:
        self.hold = hold
        self.plan = plan
        self.seq = seq
        """The seq of its `response.requested`, which names it."""
        self.body = body
        self.broken = broken
        """Why it cannot be sent."""
        self._resumed = resumed
        self.background = resumed is not None or (isinstance(body, Mapping) and body.get("background") is True)
        """Whether it goes on at its server without anybody listening."""
        self.ended = False
        self.items: dict[int, dict[str, Any]] = {}
        """What is logged of the answer, by seq."""
        self.calls: dict[str, tuple[dict[str, Any], int]] = {}
        """Logged calls that the caller owes an output for, with their seqs, by link."""
        self.recorder = Recorder()
        self._due: list[Finished] = []
        """What the recorder has let go of and is not in the log yet."""
        self._announced = resumed is not None
        self._last: StreamEvent | None = None
        self._began = time.monotonic()

    @property
    def begun(self) -> bool:
        """Whether there is something of an answer."""
        return bool(self.items) or self.recorder.begun

    # -- receiving

    async def receive(self, emit: Emit) -> Ending:
        """Send the request; log and pass on what comes back, up to its end, which `complete` logs.

        Raises:
            ModelFailure: the model did not answer.
        """
        stream = self._said()
        try:
            async for said in stream:
                await apart(self._take, said, when=said.item is not None and is_large(said.item))
                if self._resumed is not None:
                    self._due = [one for one in self._due if one.place >= self._resumed.logged]
                if self._due or (self.background and not self._announced and self.recorder.provider_id):
                    await self._log(emit)
                if self.recorder.ending is not None:
                    self._last = said
                    break
                if said.type != "response.output_item.done":
                    emit(StreamEvent(type=said.type, delta=said.delta, response=self.seq, raw=said.raw))
        finally:
            await stream.aclose()
        end = self.recorder.ending
        if end is None:
            raise ModelFailure("stream", _BROKEN, retryable=True)
        if end.status == "failed":
            message = end.message or "the model said that it failed"
            raise ModelFailure("model", message, code=end.code, retryable=helps(end.code), retries=end.retries)
        return end

    def _take(self, said: StreamEvent) -> None:
        self._due += self.recorder.feed(said)

    async def _said(self) -> AsyncGenerator[StreamEvent, None]:
        """Yield what the model says; whatever goes wrong in its adapter is its failure, not the turn's."""
        if self.broken is not None:
            raise self.broken
        stream: Any = self._resumed.events if self._resumed is not None else self.plan.send(self.body)
        try:
            async for said in stream:
                yield said
        except ModelFailure:
            raise
        except Exception as error:
            raise ModelFailure("adapter", f"{type(error).__name__}: {error}") from error
        finally:
            close: Callable[[], Awaitable[None]] | None = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _log(self, emit: Emit) -> None:
        due = list(self._due)
        events = [*self.started(), *[await self.event(one) for one in due]]
        await self.hold.append(events, then=lambda appended: self._logged(due, appended.last - len(due) + 1, emit))

    def started(self) -> list[NewEvent]:
        """Return the response's start, unless it is logged: it shares an append with what comes first."""
        if self._announced:
            return []
        said = ResponseStarted(
            id=self.recorder.provider_id,
            model=self.recorder.provider_model,
            background=self.background,
            stored=isinstance(self.body, Mapping) and self.body.get("store") is True,
        )
        return [event(said, response=self.seq)]

    async def event(self, finished: Finished) -> NewEvent:
        """Return a finished item as an event."""
        origin = self.plan.origin if finished.extra is not None else None
        said = ItemAppended(repaired=finished.repaired, extra=finished.extra, origin=origin)
        # What a server has made of the events before it is their stand-in, and no item among them.
        flags = ASIDE if read(finished.item).shape == "compaction" else 0
        return await self.plan.engine.intake.item(finished.item, said=said, flags=flags, response=self.seq)

    def _logged(self, finished: Sequence[Finished], first: int, emit: Emit) -> None:
        self._announced = True
        del self._due[: len(finished)]
        for seq, one in enumerate(finished, first):
            self.items[seq] = one.item
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

    def rest(self) -> list[Finished]:
        """Return what is finished and not in the log."""
        known = self._resumed.logged if self._resumed is not None else 0
        self._due += [one for one in self.recorder.rest() if one.place >= known]
        return list(self._due)

    def compacts(self) -> bool:
        """Return whether the server has compacted, in this answer, what it was sent."""
        rest = [one.item for one in self.rest()]
        return any(read(item).shape == "compaction" for item in (*self.items.values(), *rest))

    def owed(self) -> dict[str, dict[str, Any]]:
        """Return the calls of the whole answer, logged or about to be, by link."""
        rest = {
            form.link: one.item for one in self.rest() if (form := read(one.item)).is_call and form.link is not None
        }
        return {**{link: item for link, (item, _) in self.calls.items()}, **rest}

    async def complete(
        self,
        end: Ending,
        more: Sequence[NewEvent],
        lease: LeaseChange | None,
        emit: Emit,
        *,
        reason: str | None,
        approvals: Sequence[str] = (),
    ) -> None:
        """Log the last items, the response's end, and what follows from it, in one append.

        *reason* says why the turn ends with it, where the model was not done; *approvals* name the calls that a person
        has to decide on.
        """
        rest = self.rest()
        events = [*self.started(), *[await self.event(one) for one in rest]]
        if not self.items:
            events = settled(events, end.usage)
        said = ResponseCompleted(
            status="incomplete" if end.status == "incomplete" else "completed",
            reason=reason,
            usage=end.usage,
            retries=end.retries,
            removed=end.removed,
            approvals=list(approvals),
        )

        def logged(appended: Appended) -> None:
            self.ended = True
            self._logged(rest, appended.first + len(events) - len(rest), emit)
            if self._last is not None:
                emit(StreamEvent(type=self._last.type, response=self.seq, raw=self._last.raw))

        await self.hold.append([*events, event(said, response=self.seq), *more], lease, then=logged)
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
        await self.hold.append(self.failed(failure), Release(), then=lambda _: self.over(failure))
        if failure.kind != "model":
            await self.stop()

    def failed(self, failure: ModelFailure) -> list[NewEvent]:
        """Return what is to be logged of a failure."""
        said = ResponseFailed(
            kind=failure.kind,
            code=failure.code,
            param=failure.param,
            message=failure.message[:_LONGEST],
            status_code=failure.status_code,
            retryable=failure.retryable,
            retries=failure.retries,
        )
        # The provider's id of what failed is what its support asks for.
        events = self.started() if self.recorder.provider_id is not None else []
        return [*events, event(said, response=self.seq)]

    def over(self, failure: ModelFailure) -> None:
        """Learn that its failure is in the log."""
        self.ended = True
        _log.warning(
            "turnlog.response.failed",
            conversation=self.hold.name,
            response=self.seq,
            kind=failure.kind,
            code=failure.code,
            status_code=failure.status_code,
            retries=failure.retries,
            seconds=round(time.monotonic() - self._began, 3),
        )

    async def stop(self) -> None:
        """Have the server stop what would go on there although nobody waits for it."""
        cancel: Callable[..., Awaitable[None]] | None = getattr(self.plan.model, "cancel", None)
        name = self.recorder.provider_id
        if cancel is None or name is None or not self.background or self.recorder.ending is not None:
            return
        with suppress(ModelFailure), anyio.move_on_after(_STOPPING):
            await cancel(name, **self.plan.transport)

    async def cut(self) -> tuple[list[NewEvent], ResponseInterrupted, dict[str, Any] | None]:
        """Return what is to be logged of an answer that goes no further.

        That is its finished items; the event that names the unfinished ones; and their text, as one message.
        """
        partial, items = self.recorder.unfinished()
        events: list[NewEvent] = []
        for one in self.rest():
            if read(one.item).is_call:
                items.append(one.item)  # nobody was told of it, so it needs no output
            else:
                events.append(await self.event(one))
        if events or self.recorder.provider_id is not None:
            events = [*self.started(), *events]
        return events, ResponseInterrupted(cause="cancelled", items=items), partial
