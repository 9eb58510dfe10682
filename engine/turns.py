"""A turn's life: the lease, one model call after another, the tools between them, and how it ends.

Opening appends the input and the request at one exact version and takes the lease; every later append carries the
lease's generation as its fence. Whatever ends the turn gives the lease up in the same append. What a worker that died
left behind is sealed by whoever responds next; reading never seals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio

from .call import Emit, Hold, ModelCall
from .canonical import canonical, digest, encode
from .codec import event
from .errors import CallsOpen, ConversationBusy, Fenced, Invalid, ResponseFailed, StoreError, VersionConflict
from .events import CallStarted, NewEvent, ResponseInterrupted, ResponseRequested, Usage
from .history import Call, History
from .ids import ANY, NO_STREAM, Position, ulid
from .intake import leading
from .items import Item, read
from .log import Head, LeaseChange, Release, Take, record
from .logs import Log
from .model import Ending, ModelFailure, StreamEvent
from .outcome import Result, Status, open_call, text_of
from .shield import finish
from .tools import Runs, ToolContext
from .window.window import Window

if TYPE_CHECKING:
    from .engine import Engine
    from .plan import Plan

__all__ = ("KeyTaken", "Turn", "interruption", "seal_words")

_log = Log("turnlog.turn")

_ATTEMPTS: Final = 8
_PATIENCE: Final = 10.0
"""Seconds that sealing a cancelled turn may take; after that the lease runs out by itself."""

_NEVER_RAN: Final = "[interrupted before this call was started: it never ran]"
_UNKNOWN: Final = "[interrupted while this call was running: whether it took effect is unknown]"
_UNANSWERED: Final = "[no output was given: the conversation went on without it]"
_TOO_MANY: Final = "[not run: the turn reached its limit of model calls]"
_CUT_OFF: Final = "[not run: the answer was cut off]"


class KeyTaken(Exception):
    """Somebody with the same key was first."""


def seal_words(history: History) -> Callable[[Call], str]:
    """Return what to say of calls that an interruption left without an output."""
    return lambda call: _UNKNOWN if (call.entry.reading.link or "") in history.started else _NEVER_RAN


async def interruption(
    engine: Engine,
    history: History,
    response: int,
    cause: Literal["cancelled", "left", "crashed"],
    call: ModelCall | None = None,
) -> list[NewEvent]:
    """Return the events that end a response that did not get to its end: what came of it, and seals for its calls."""
    events: list[NewEvent] = []
    partial: dict[str, Any] | None = None
    items: list[dict[str, Any]] = []
    if call is not None and not call.ended:
        partial, items = call.recorder.unfinished()
        for one in call.recorder.rest():
            if read(one.item).is_call:
                items.append(one.item)
            else:
                events.append(await call.event(one))
        if events:
            events = [*call.started(), *events]
    calls = [one for one in history.unanswered() if one.at == response]
    said = ResponseInterrupted(cause=cause, items=items, sealed=[one.entry.reading.link or "" for one in calls])
    if partial is None:
        events.append(event(said, response=response))
    else:
        events.append(await engine.intake.partial(said, partial, response))
    return [*events, *await engine.seals(calls, seal_words(history))]


class Turn:
    """One turn, from its refusal or opening to its end. Used once."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.engine = engine
        self.plan = plan
        self.name = plan.conversation.id
        self.hold = Hold(engine, self.name)
        self.owner = ulid(engine.owner)
        self.turn = 0
        """The seq that names the turn."""
        self.cause: Literal["cancelled", "left"] = "cancelled"
        self.window: Window | None = None
        self._call: ModelCall | None = None
        self._items: list[dict[str, Any]] = []
        self._usage = Usage()

    # -- opening

    async def open(self, *, input_logged: bool = False) -> None:
        """Append the input and the request, and take the lease. Everything that can be refused is refused here.

        With *input_logged*, an earlier attempt has appended the input already.

        Raises:
            VersionConflict, ConversationBusy, CallsOpen, BudgetExceeded, Invalid, NotFound, StoreError: see
                `Conversation.run`.
            KeyTaken: another worker has opened a turn with the same key.
        """
        expected = 0 if self.plan.options.expected == NO_STREAM else self.plan.options.expected
        conflicts = 0
        while True:
            head, history = await self.engine.reader.fresh(
                self.name, line=self.plan.line, tokens=self.plan.budget.context
            )
            if expected not in (ANY, head.version):
                raise VersionConflict(self.name, int(expected), head.version)
            try:
                if head.lease is not None and head.lease.remaining > 0:
                    await self._wait(head)
                elif head.lease is not None or history.open is not None:
                    version = await self.engine.take_over(self.name, head, history)
                    expected = expected if expected == ANY else version
                else:
                    await self._begin(head, history, input_logged=input_logged)
                    return
            except (VersionConflict, ConversationBusy) as error:
                waits = isinstance(error, ConversationBusy) and self.plan.options.when_busy == "wait"
                conflicts += 0 if waits else 1
                if conflicts >= _ATTEMPTS or (isinstance(error, ConversationBusy) and not waits):
                    raise

    async def _wait(self, head: Head) -> None:
        assert head.lease is not None
        if self.plan.options.when_busy == "raise":
            raise ConversationBusy(self.name, head.lease.turn, head.lease.remaining)
        await self.engine.wait_until_free(self.name)

    async def _begin(self, head: Head, history: History, *, input_logged: bool) -> None:
        seals = await self._seals(history)
        items = [] if input_logged else self.plan.items
        if history.leading and head.items == sum(1 for _ in history.entries()):
            items = leading(items)
        events = [*seals, *items]
        requested, body, turn = await self._request(history, events)
        try:
            appended = await self.engine.writer.append(
                self.name,
                [*events, requested],
                expected=head.version,
                key=None if input_logged else self.plan.key,
                lease=Take(owner=self.owner, seconds=self.engine.lease, turn=turn),
                bodies=self.plan.bodies,
            )
        except anyio.get_cancelled_exc_class():
            await self._abandon()
            raise
        if appended.replayed:
            raise KeyTaken
        self.turn = turn
        self.hold.generation, self.hold.version = appended.generation, appended.version
        self._call = ModelCall(self.hold, self.plan, appended.last, body)
        self.engine.keep_lease(self.name, appended.generation)

    async def _abandon(self) -> None:
        """After a cancellation, end the turn if its opening was written all the same."""

        async def end() -> None:
            head, history = await self.engine.reader.fresh(self.name)
            if head.lease is not None and head.lease.owner == self.owner and history.open is not None:
                events = await interruption(self.engine, history, history.open, self.cause)
                await self.engine.writer.append(self.name, events, fence=head.generation, lease=Release())

        await self._bounded(end)

    async def _seals(self, history: History) -> Sequence[NewEvent]:
        """Return seals for calls that wait for an output which the input does not bring.

        Raises:
            CallsOpen: there are such calls, and they are not to be sealed.
        """
        brought = {one.link for one in self.plan.items if one.link is not None}
        waiting = [call for call in history.unanswered() if call.entry.reading.link not in brought]
        if waiting and self.plan.options.open_calls == "raise":
            raise CallsOpen(self.name, [open_call(call.entry.value(), call.entry.seq) for call in waiting])
        return await self.engine.seals(waiting, lambda _: _UNANSWERED)

    async def _request(self, history: History, events: Sequence[NewEvent]) -> tuple[NewEvent, Item, int]:
        """Choose the window with *events* at its end and encode it.

        Return the event that says so, the body, and the seq that names the turn.
        """
        plan = self.plan
        first = history.version + 1
        pending = [record(self.name, seq, Position(""), 0, one, first) for seq, one in enumerate(events, first)]
        history, manifest = await self.engine.reader.chosen(plan, history, pending)
        rendered = await self.engine.reader.rendered(history, manifest, plan.target)
        if not rendered:
            raise Invalid(f"{self.name}: there is nothing to send yet; pass an input, or append one first")
        self.window = Window(rendered, manifest, plan.target, plan.budget)
        body = plan.model.encode(self.window, plan.settings)
        said = ResponseRequested(
            adapter=plan.shape.adapter,
            encoder=plan.shape.encoder,
            target=plan.target,
            settings=plan.settings_digest,
            manifest=manifest,
            digest=digest(canonical(body, "request")),
            key=plan.options.key,
        )
        turns = history.turns()
        return event(said), body, turns[-1] if turns else history.version

    # -- working

    async def work(self, emit: Emit) -> Result:
        """Call the model, run the tools that it asks for, and so on until it answers or has to wait.

        Raises:
            ResponseFailed: the model did not answer; its request and the failure are in the log.
            Fenced: somebody took the turn over.
        """
        try:
            return await self._rounds(emit)
        except (Fenced, ResponseFailed):
            raise
        except BaseException:
            await self._bounded(self._interrupt)
            raise
        finally:
            self.engine.drop_lease(self.name)

    async def _rounds(self, emit: Emit) -> Result:
        number = 0
        while True:
            number += 1
            call = self._call
            assert call is not None
            try:
                end = await call.receive(emit)
            except ModelFailure as failure:
                raise await self._failed(call, failure) from (failure.__cause__ or failure)
            status, reason, tools = await self._complete(call, end, emit, number)
            self._items += call.items
            if not tools:
                return self._result(status, reason)
            waiting = len(tools) < len(call.calls)
            await self._run(call, tools, emit, release=waiting)
            if waiting:
                return self._result("waiting", None)
            await self._again()

    async def _complete(
        self, call: ModelCall, end: Ending, emit: Emit, number: int
    ) -> tuple[Status, str | None, dict[str, Runs]]:
        """Log how the response ended, with what follows from it: tools to run, or the end of the turn."""
        self._usage += end.usage or Usage(requests=1)
        owed = call.owed()
        rounds = self.plan.options.rounds
        tools = {link: tool for link, item in owed.items() if (tool := self.plan.tool(item)) is not None}
        status: Status = "incomplete" if end.status == "incomplete" else "waiting" if owed else "completed"
        reason = end.reason
        more: list[NewEvent] = []
        lease: LeaseChange | None = Release()
        if status == "incomplete" and rounds:
            more, tools = await self._sealed(owed, _CUT_OFF), {}
        elif tools and rounds and number >= rounds:
            more, tools = await self._sealed(owed, _TOO_MANY), {}
            status, reason = "incomplete", "max_rounds"
        elif tools:
            more = [event(CallStarted(call_id=link), response=call.seq) for link in tools]
            lease = None
        await call.complete(end, more, lease, emit)
        if status == "incomplete" and rounds:
            call.calls.clear()
        return status, reason, tools

    async def _sealed(self, owed: Mapping[str, Mapping[str, Any]], words: str) -> list[NewEvent]:
        return await self.engine.intake.seals([(item, read(item).shape, words) for item in owed.values()])

    async def _failed(self, call: ModelCall, failure: ModelFailure) -> ResponseFailed:
        await call.fail(failure)
        call.calls.clear()
        return ResponseFailed(
            f"{self.plan.model.name}: {failure.message}",
            self._result("incomplete", failure.kind),
            code=failure.code,
            status_code=failure.status_code,
            retryable=failure.retryable,
        )

    async def _again(self) -> None:
        """Ask the model again, now that its calls have their outputs."""
        for attempt in range(_ATTEMPTS):
            head, history = await self.engine.reader.fresh(
                self.name, line=self.plan.line, tokens=self.plan.budget.context
            )
            requested, body, _ = await self._request(history, ())
            try:
                appended = await self.engine.writer.append(
                    self.name,
                    [requested],
                    expected=head.version,
                    fence=self.hold.generation,
                    bodies=self.plan.bodies,
                )
            except VersionConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self.hold.version = appended.version
            self._call = ModelCall(self.hold, self.plan, appended.last, body)
            return

    # -- tools

    async def _run(self, call: ModelCall, tools: Mapping[str, Runs], emit: Emit, *, release: bool) -> None:
        """Run calls at the same time; each output is logged when it is there. *release*: the last one ends the turn."""
        left = len(tools)

        async def one(link: str, tool: Runs) -> None:
            nonlocal left
            item, seq = call.calls[link]
            emit(StreamEvent(type="turnlog.call.started", call_id=link, seq=seq, response=call.seq))
            said = await tool.run(str(item["arguments"]), self._context(link, seq))
            output = {"type": "function_call_output", "call_id": link, "output": said}
            made = await self.engine.intake.item(output)
            left -= 1
            appended = await self.hold.append([made], Release() if release and left == 0 else None)
            del call.calls[link]
            self._items.append(output)
            emit(
                StreamEvent(type="turnlog.call.output", item=output, call_id=link, seq=appended.last, response=call.seq)
            )

        try:
            async with anyio.create_task_group() as group:
                for link, tool in tools.items():
                    group.start_soon(one, link, tool)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    def _context(self, link: str, seq: int) -> ToolContext:
        return ToolContext(
            conversation=self.name,
            call_id=link,
            turn=self.turn,
            attempt=1,
            deps=self.plan.options.deps,
            idempotency_key=digest(encode([self.name, seq, link]))[:32],
        )

    # -- ending

    def _result(self, status: Status, reason: str | None) -> Result:
        call = self._call
        assert call is not None
        return Result(
            status=status,
            output_text=text_of(call.items),
            items=self._items,
            usage=self._usage,
            turn=self.turn,
            version=self.hold.version,
            reason=reason,
            response_id=call.recorder.provider_id,
            open_calls=[open_call(item, seq) for item, seq in call.calls.values()],
            conversation=self.plan.conversation,
        )

    async def _interrupt(self) -> None:
        """Say in the log how far the turn came, and give the lease up."""
        call = self._call
        if call is None:
            return
        if call.ended and not call.calls:
            # Between two rounds there is nothing to seal: only the lease to give up.
            await self.hold.append([], Release())
            return
        _, history = await self.engine.reader.fresh(self.name)
        await self.hold.append(await interruption(self.engine, history, call.seq, self.cause, call), Release())

    async def _bounded(self, work: Callable[[], Any]) -> None:
        """Do what must be done although the turn is being cancelled, within bounds; if it fails, the lease runs out."""
        try:
            await finish(_within(_PATIENCE, work))
        except (StoreError, Fenced) as error:
            _log.warning("turnlog.turn.unsealed", conversation=self.name, error=type(error).__name__)


async def _within(seconds: float, work: Callable[[], Any]) -> None:
    with anyio.move_on_after(seconds):
        await work()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what went wrong, of several tasks: a cancellation only if there is nothing else."""
    found: list[BaseException] = list(_flat(errors))
    return next((error for error in found if isinstance(error, Exception)), found[0])


def _flat(errors: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error
