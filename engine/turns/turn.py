"""A turn's life: the lease, one model call after another, the tools between them, and how it ends.

Opening appends the input and the request at one exact version and takes the lease; every later append carries the
lease's generation as its fence. Whatever ends the turn gives the lease up in the same append. What a worker that died
left behind is sealed by whoever responds next; reading never seals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import anyio

from ..canonical import canonical, digest, encode
from ..codec import event
from ..errors import (
    AlreadyAnswered,
    CallsOpen,
    ConversationBusy,
    Invalid,
    NotFound,
    ResponseFailed,
    VersionConflict,
)
from ..events import SEAL, CallStarted, NewEvent, Record, ResponseRequested, Usage
from ..history import History
from ..ids import Position, ulid
from ..intake import leading
from ..items import Item, reading
from ..log import Appended, Head, Query, Release, Snapshot, Store, Take, record
from ..logs import Log
from ..model import Ending, ModelFailure, StreamEvent, keyed
from ..shield import finish
from ..tools import Runs, ToolContext
from ..window.window import Window
from ..writer import HASTY
from .call import Emit, Hold, ModelCall, interruption, seals
from .outcome import CUT_OFF, TOO_MANY, UNANSWERED, Result, Status, open_call, text_of
from .places import turn_at

if TYPE_CHECKING:
    from ..engine import Engine
    from .plan import Plan

__all__ = ("KeyTaken", "Turn", "answers_to", "check_answers")

_log = Log("turnlog.turn")

_ATTEMPTS: Final = 8
_PATIENCE: Final = 10.0
"""Seconds that sealing a cancelled turn may take; after that the lease runs out by itself."""


class KeyTaken(Exception):
    """Somebody with the same key was first."""


def _links(events: Sequence[NewEvent]) -> list[str]:
    """Return the links of outputs."""
    return list(dict.fromkeys(one.link for one in events if _is_output(one) and one.link is not None))


async def answers_to(store: Store, name: str, events: Sequence[NewEvent]) -> Snapshot:
    """Return a conversation's head, and what it has for the calls that outputs among *events* are for; in one read.

    Raises:
        NotFound: there is no such conversation.
    """
    snapshot = await store.read(name, *(Query(link=link) for link in _links(events)))
    if snapshot is None or snapshot.head.deleted:
        raise NotFound(f"conversation {name}", deleted=snapshot is not None)
    return snapshot


def check_answers(name: str, events: Sequence[NewEvent], there: Snapshot) -> None:
    """See to it that outputs are the first for their calls; a seal counts for none.

    Raises:
        AlreadyAnswered: one of them is not.
        Invalid: two of them are for one call.
    """
    links = _links(events)
    answers: dict[str, Record | NewEvent | None] = dict(zip(links, map(_answer, there.records), strict=True))
    for one in events:
        if one.link is None or one.link not in answers:
            continue
        answer = answers[one.link]
        if not _is_output(one):
            answers[one.link] = None  # the call is made anew
        elif isinstance(answer, Record):
            raise AlreadyAnswered(name, one.link, answer.seq)
        elif answer is not None:
            raise Invalid(f"{name}: two outputs for call {one.link}; a call has one")
        else:
            answers[one.link] = one


def _is_output(one: NewEvent | Record) -> bool:
    return one.link is not None and reading(one.shape or "", one.link).is_output


def _answer(records: Sequence[Record]) -> Record | None:
    """Return the output that the last call among records of one link has; a seal is none."""
    answer = None
    for entry in records:
        if not _is_output(entry):
            answer = None
        elif answer is None and not entry.flags & SEAL:
            answer = entry
    return answer


class _Next(NamedTuple):
    """What follows from the end of a response: tools to run, or the end of the turn."""

    status: Status
    reason: str | None = None
    sealing: str = ""
    """Why its calls will get no output, where the turn ends without them."""
    tools: Mapping[str, Runs] = MappingProxyType({})
    """What answers its calls here, by link."""


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
        self.cause: Literal["cancelled", "left", "crashed"] = "cancelled"
        """What an interruption will be put down to."""
        self.window: Window | None = None
        self._call: ModelCall | None = None
        self._items: dict[int, dict[str, Any]] = {}
        """What the model made and its tools returned, by seq: appends at the same time may return in any order."""
        self._usage = Usage()

    # -- opening

    async def open(self, *, attempt: int | None = None) -> None:
        """Append the input and the request, and take the lease. Everything that can be refused is refused here.

        *attempt* is for a key whose input is in the log already: the last request that was made for it, 0 for none.

        Raises:
            VersionConflict, ConversationBusy, CallsOpen, AlreadyAnswered, BudgetExceeded, Invalid, NotFound,
            StoreError: see `Conversation.run`.
            KeyTaken: another worker has opened a turn with the same key.
        """
        # An input that is logged already was logged at the version that its caller expected.
        expected: int | None = None if attempt is not None else self.plan.expected
        conflicts = 0
        while True:
            try:
                async with self.engine.writer.quiet(self.name, needed=conflicts >= HASTY) as quiet:
                    expected = await self._try(expected, attempt, quiet=quiet)
                if self.hold.held:
                    return
            except ConversationBusy:
                if self.plan.options.when_busy == "raise":
                    raise
                await self.engine.wait_until_free(self.name)
                conflicts = 0
            except VersionConflict:
                conflicts += 1
                if expected is not None or conflicts == _ATTEMPTS:
                    raise

    async def _try(self, expected: int | None, attempt: int | None, *, quiet: bool) -> int | None:
        """Open the turn; or seal what a worker that is gone has left, and return the version to expect after that.

        Raises:
            ConversationBusy: a turn is running.
            VersionConflict: somebody was faster, or the version is not the one that the caller expects.
        """
        head, history = await self.engine.reader.fresh(self.name, line=self.plan.line, tokens=self.plan.budget.context)
        if expected is not None and expected != head.version:
            raise VersionConflict(self.name, expected, head.version)
        if head.lease is not None and head.lease.remaining > 0:
            raise ConversationBusy(self.name, head.lease.turn, head.lease.remaining)
        if head.lease is not None or history.open is not None:
            version = await self.engine.take_over(self.name, head, history, quiet=quiet)
            return None if expected is None else version
        await self._begin(head, history, attempt, quiet=quiet)
        return expected

    async def _begin(self, head: Head, history: History, attempt: int | None, *, quiet: bool) -> None:
        if attempt is not None and await self._last_attempt() != attempt:
            raise KeyTaken
        sealing = await self._seals(history)
        items = self.plan.items if attempt is None else []
        if any(map(_is_output, items)):
            check_answers(self.name, items, await answers_to(self.engine.store, self.name, items))
        if history.leading and head.items == sum(1 for _ in history.entries()):
            items = leading(items)
        events = [*sealing, *items]
        requested, body, turn = await self._request(history, events)

        async def begin() -> None:
            appended = await self.engine.writer.append(
                self.name,
                [*events, requested],
                expected=head.version,
                key=self.plan.key if attempt is None else None,
                lease=Take(owner=self.owner, seconds=self.engine.lease, turn=turn),
                bodies=self.plan.bodies,
                quiet=quiet,
            )
            if appended.replayed:
                raise KeyTaken
            self.turn = turn
            self.hold.taken(appended)
            self._call = ModelCall(self.hold, self.plan, appended.last, body)

        try:
            await finish(begin())
        except BaseException:
            if self.hold.held:  # cancelled, although the turn is open by now
                await self._bounded(self._interrupt)
                self.hold.dropped()
            raise

    async def _last_attempt(self) -> int:
        """Return the seq of the last request that was made for the plan's key, 0 for none."""
        snapshot = await self.engine.store.read(
            self.name, Query(mark=f"key:{self.plan.options.key}", reverse=True, limit=1)
        )
        records = snapshot.records[0] if snapshot else ()
        return records[0].seq if records else 0

    async def _seals(self, history: History) -> Sequence[NewEvent]:
        """Return seals for calls that wait for an output which the input does not bring.

        Raises:
            CallsOpen: there are such calls, and they are not to be sealed.
        """
        brought = {one.link for one in self.plan.items if one.link is not None}
        waiting = [call for call in history.unanswered() if call.entry.reading.link not in brought]
        if waiting and self.plan.options.open_calls == "raise":
            raise CallsOpen(self.name, [open_call(call.entry.value(), call.entry.seq) for call in waiting])
        return await seals(self.engine, ((call.entry.value(), UNANSWERED) for call in waiting))

    async def _request(self, history: History, events: Sequence[NewEvent]) -> tuple[NewEvent, Item, int]:
        """Choose the window with *events* at its end and encode it.

        Return the event that says so, the body, and the seq that names the turn.
        """
        plan = self.plan
        first = history.version + 1
        pending = [record(self.name, seq, Position(""), 0, one, first) for seq, one in enumerate(events, first)]
        history, manifest = await self.engine.reader.chosen(plan, history, pending)
        rendered = await self.engine.reader.rendered(history, manifest, plan.target, plan.blobs)
        if not rendered:
            raise Invalid(f"{self.name}: there is nothing to send yet; pass an input, or append one first")
        self.window = Window(rendered, manifest, plan.target, plan.budget)
        cache_key = self._cache_key(history)
        body = plan.model.encode(self.window, keyed(plan.settings, cache_key))
        said = ResponseRequested(
            adapter=plan.shape.adapter,
            encoder=plan.shape.encoder,
            target=plan.target,
            settings=plan.settings_digest,
            manifest=manifest,
            digest=digest(canonical(body, "request")),
            cache_key=cache_key,
            key=plan.options.key,
        )
        turn = history.last_turn() or await turn_at(self.engine.store, self.name, first)
        return event(said), body, turn or history.version

    def _cache_key(self, history: History) -> str | None:
        """Return whose requests share a prompt cache with the next one; None where nobody wants to know.

        It is the one of the line's last request, for its beginning is what may be cached: so a fork goes on with its
        parent's.
        """
        if not self.plan.shape.takes_cache_key or "prompt_cache_key" in self.plan.settings.get("params", {}):
            return None
        return history.cache_key(self.plan.line) or self.name

    # -- working

    async def work(self, emit: Emit) -> Result:
        """Call the model, run the tools that it asks for, and so on until it answers or has to wait.

        Raises:
            ResponseFailed: the model did not answer; its request and the failure are in the log.
            Fenced: somebody took the turn over.
        """
        try:
            return await self._rounds(emit)
        except BaseException as error:
            if isinstance(error, Exception):
                self.cause = "crashed"
            await self._bounded(self._interrupt)
            raise
        finally:
            self.hold.dropped()

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
            then = await self._complete(call, end, emit, number)
            if not then.tools:
                return self._result(then.status, then.reason)
            waiting = len(then.tools) < len(call.calls)
            await self._run(call, then.tools, emit, release=waiting)
            if waiting:
                return self._result("waiting", None)
            await self._again()

    async def _complete(self, call: ModelCall, end: Ending, emit: Emit, number: int) -> _Next:
        """Log how the response ended, with what follows from it."""
        owed = call.owed()
        then = self._next(end, owed, number)
        more = [event(CallStarted(call_id=link), response=call.seq) for link in then.tools]
        if then.sealing:
            more = await seals(self.engine, ((item, then.sealing) for item in owed.values()))
        await call.complete(end, more, None if then.tools else Release(), emit, reason=then.reason)
        self._usage += end.usage or Usage(requests=1)
        self._items |= call.items
        for one in more:
            if one.flags & SEAL and one.link is not None:
                del call.calls[one.link]
        return then

    def _next(self, end: Ending, owed: Mapping[str, Mapping[str, Any]], number: int) -> _Next:
        """Return what follows from the end of the turn's response *number*, which owes outputs for some calls."""
        rounds = self.plan.options.rounds
        if end.status == "incomplete":
            return _Next("incomplete", end.reason, sealing=CUT_OFF if rounds else "")
        tools = {link: tool for link, item in owed.items() if (tool := self.plan.tool(item)) is not None}
        if tools and rounds and number >= rounds:
            return _Next("incomplete", "max_rounds", sealing=TOO_MANY)
        return _Next("waiting" if owed else "completed", tools=tools)

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
            try:
                async with self.engine.writer.quiet(self.name, needed=attempt >= HASTY) as quiet:
                    await self._next_request(quiet=quiet)
            except VersionConflict:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    async def _next_request(self, *, quiet: bool) -> None:
        head, history = await self.engine.reader.fresh(self.name, line=self.plan.line, tokens=self.plan.budget.context)
        requested, body, _ = await self._request(history, ())

        def requests(appended: Appended) -> None:
            self._call = ModelCall(self.hold, self.plan, appended.last, body)

        await self.hold.append([requested], then=requests, expected=head.version, bodies=self.plan.bodies, quiet=quiet)

    # -- tools

    async def _run(self, call: ModelCall, tools: Mapping[str, Runs], emit: Emit, *, release: bool) -> None:
        """Run calls at the same time; each output is logged when it is there. *release*: the last one ends the turn."""
        left = len(tools)

        async def one(link: str, tool: Runs) -> None:
            item, seq = call.calls[link]
            emit(StreamEvent(type="turnlog.call.started", call_id=link, seq=seq, response=call.seq))
            arguments = item.get("arguments", "")
            given = arguments if isinstance(arguments, str) else encode(arguments).decode()
            said = await tool.run(given, self._context(link, seq))
            # What a tool returned is not lost, even if the turn is cancelled right now.
            await finish(answer(link, {"type": "function_call_output", "call_id": link, "output": said}))

        async def answer(link: str, output: dict[str, Any]) -> None:
            nonlocal left
            made = await self.engine.intake.item(output)

            def answered(appended: Appended) -> None:
                del call.calls[link]
                self._items[appended.last] = output
                emit(
                    StreamEvent(
                        type="turnlog.call.output", item=output, call_id=link, seq=appended.last, response=call.seq
                    )
                )

            left -= 1
            await self.hold.append([made], Release() if release and left == 0 else None, then=answered)

        failed: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                for link, tool in tools.items():
                    group.start_soon(one, link, tool)
        except BaseExceptionGroup as errors:
            failed = _first(errors)
        if failed is not None:
            raise failed

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
            output_text=text_of(list(call.items.values())),
            items=[self._items[seq] for seq in sorted(self._items)],
            usage=self._usage,
            turn=self.turn,
            version=self.hold.version,
            reason=reason,
            response_id=call.recorder.provider_id,
            open_calls=[open_call(item, seq) for item, seq in call.calls.values()],
            conversation=self.plan.conversation,
        )

    def left(self) -> None:
        """Learn that whoever watched has left: an interruption will be put down to it."""
        self.cause = "left"

    def interrupted(self) -> ResponseFailed:
        """Return what whoever watches an interrupted turn is told."""
        words = {"left": "its stream was closed before its end", "cancelled": "it was cancelled"}
        return ResponseFailed(
            f"{self.name}: turn {self.turn} was interrupted: {words.get(self.cause, 'it broke off')}",
            self._result("incomplete", "interrupted"),
            code="interrupted",
            retryable=True,
        )

    async def _interrupt(self) -> None:
        """Say in the log how far the turn came, and give the lease up."""
        call = self._call
        if call is None or not self.hold.held:
            return
        # Between two rounds too, where nothing is to be sealed: else the next attempt would count as the rest of this.
        _, history = await self.engine.reader.fresh(self.name)
        await self.hold.append(await interruption(self.engine, history, call.seq, self.cause, call), Release())

    async def _bounded(self, work: Callable[[], Any]) -> None:
        """Do what must be done although the turn is being cancelled, within bounds; if it fails, the lease runs out."""
        error = await finish(_within(_PATIENCE, work))
        if error is not None:
            _log.warning("turnlog.turn.unsealed", conversation=self.name, error=error)


async def _within(seconds: float, work: Callable[[], Any]) -> str | None:
    """Return the name of what went wrong, if something did."""
    try:
        with anyio.fail_after(seconds):
            await work()
    except Exception as error:  # noqa: BLE001 - what ends the turn is told to the caller, not this
        return type(error).__name__
    return None


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
