"""A turn's life: the lease, one model call after another, the tools between them, and how it ends.

Opening appends the input and the request at one exact version and takes the lease; every later append carries the
lease's generation as its fence. Whatever ends the turn gives the lease up in the same append. What a worker that died
left behind is sealed by whoever responds next; reading never seals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..answering import check_answers
from ..codec import event
from ..errors import (
    CallsOpen,
    ConversationBusy,
    Invalid,
    ResponseFailed,
    VersionConflict,
)
from ..events import SEAL, CallStarted, NewEvent, Usage
from ..history import History
from ..ids import ulid
from ..intake import leading, shifted
from ..log import Appended, Head, Query, Release, Take
from ..logs import Log
from ..model import Ending, ModelFailure, StreamEvent
from ..shield import bounded, finish
from ..tools import Runs
from ..writer import HASTY
from .asking import Asking
from .call import Emit, Hold, ModelCall
from .jobs import Job, Worked, arguments_of, owed, run, starts, will_run
from .outcome import CUT_OFF, TOO_MANY, Result, Status, failed, open_call, text_of
from .places import turn_at
from .requests import Asked, ahead_of
from .resuming import resumable, see_out
from .sealing import interruption, seals
from .shortening import is_due, shorten, take_in

if TYPE_CHECKING:
    from ..engine import Engine
    from .plan import Plan

__all__ = ("KeyTaken", "Turn")

_log = Log("turnlog.turn")

_ATTEMPTS: Final = 8
_PATIENCE: Final = 10.0
"""Seconds that sealing a cancelled turn may take; after that the lease runs out by itself."""


class KeyTaken(Exception):
    """Somebody with the same key was first."""


class _Next(NamedTuple):
    """What follows from the end of a response: tools to run, or the end of the turn."""

    status: Status
    reason: str | None = None
    sealing: str = ""
    """Why its calls will get no output, where the turn ends without them."""
    tools: Mapping[str, Runs] = MappingProxyType({})
    """What answers its calls here, by link."""
    held: frozenset[str] = frozenset()
    """Its calls that a person has to decide on first."""


class _Opening(NamedTuple):
    """What a turn begins with."""

    events: Sequence[NewEvent]
    turn: int
    """The seq that names it."""
    jobs: Mapping[str, Job]
    """Calls that are run before the model is asked."""
    asked: Asked | None = None
    """Its first request; None: something comes before that."""


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
        self.asking = Asking(engine, plan)
        self._call: ModelCall | None = None
        self._jobs: Mapping[str, Job] = MappingProxyType({})
        """Calls that an earlier turn has left and this one runs first."""
        self._held: frozenset[str] = frozenset()
        """Calls of the last response that a person has to decide on."""
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
        if await self._resumed(head, history, attempt):
            return None if expected is None else self.hold.version
        if head.lease is not None or history.open is not None:
            spare = partial(will_run, history, self.plan)
            version = await self.engine.take_over(self.name, head, history, quiet=quiet, spare=spare)
            return None if expected is None else version
        await self._begin(head, history, attempt, quiet=quiet)
        return expected

    async def _begin(self, head: Head, history: History, attempt: int | None, *, quiet: bool) -> None:
        if attempt is not None and await self._last_attempt() != attempt:
            raise KeyTaken
        opening = await self._opening(head, history, attempt)

        async def begin() -> None:
            appended = await self.engine.writer.append(
                self.name,
                opening.events,
                expected=head.version,
                key=self.plan.key if attempt is None else None,
                lease=Take(owner=self.owner, seconds=self.engine.lease, turn=opening.turn),
                bodies=self.plan.bodies,
                quiet=quiet,
            )
            if appended.replayed:
                raise KeyTaken
            self.turn, self._jobs = opening.turn, opening.jobs
            self.hold.taken(appended)
            if opening.asked:
                self._asked(opening.asked, appended)

        try:
            await finish(begin())
        except BaseException:
            if self.hold.held:  # cancelled, although the turn is open by now
                await self._bounded(self._interrupt)
                self.hold.dropped()
            raise

    async def _opening(self, head: Head, history: History, attempt: int | None) -> _Opening:
        """Return what the turn begins with: the input, and its first request, unless something comes before that."""
        items = self.plan.items if attempt is None else []
        jobs, sealing = await self._owed(history)
        await check_answers(self.engine.store, self.name, items)
        if history.leading and head.items == sum(1 for _ in history.entries()):
            items = leading(items)
        events = [*sealing, *shifted(items, len(sealing)), *starts(jobs)]
        ahead = ahead_of(history, events)
        chosen = None if jobs else await self.asking.choose(history, ahead)
        if chosen is None or is_due(self.plan, chosen):
            turn = await self._turn(history.ahead(ahead), history.version + 1)
            return _Opening(events, turn, jobs)
        asked = await self.asking.request(chosen)
        turn = await self._turn(asked.history, history.version + 1)
        return _Opening([*events, *asked.attached, asked.event], turn, jobs, asked)

    async def _last_attempt(self) -> int:
        """Return the seq of the last request that was made for the plan's key, 0 for none."""
        snapshot = await self.engine.store.read(
            self.name, Query(mark=f"key:{self.plan.options.key}", reverse=True, limit=1)
        )
        records = snapshot.records[0] if snapshot else ()
        return records[0].seq if records else 0

    async def _owed(self, history: History) -> tuple[Mapping[str, Job], Sequence[NewEvent]]:
        """Return the open calls that this turn runs, and seals for those that get no output.

        Raises:
            CallsOpen: some wait for somebody else, and they are not to be sealed.
        """
        found = owed(history, self.plan, (one.link for one in self.plan.items if one.link is not None))
        if found.waiting and self.plan.options.open_calls == "raise":
            raise CallsOpen(self.name, found.waiting)
        return found.jobs, await seals(self.engine, found.sealed)

    async def _turn(self, history: History, first: int) -> int:
        """Return the seq that names the turn at the end of a history, in which what begins at *first* stands."""
        return history.last_turn() or await turn_at(self.engine.store, self.name, first) or history.version

    def _asked(self, asked: Asked, appended: Appended) -> None:
        """Learn that a request is in the log."""
        self.asking.logged()
        self._call = ModelCall(self.hold, self.plan, appended.last, asked.body, broken=asked.broken)

    async def _resumed(self, head: Head, history: History, attempt: int | None) -> bool:
        """See to a background response that a worker which is gone has left; return whether there was one.

        Where nothing is to be appended, the turn goes on as this one; else it has to end first.
        """
        found = resumable(history, self.plan)
        if found is None:
            return False
        goes_on = not self.plan.items if attempt is None else attempt == found.response
        turn = await self._turn(history, found.response)
        lease = Take(owner=self.owner, seconds=self.engine.lease, turn=turn)
        self.hold.taken(await self.engine.writer.append(self.name, [], expected=head.version, lease=lease))
        self._call = ModelCall(self.hold, self.plan, found.response, None, resumed=found.resumed())
        self.turn = turn
        if not goes_on:
            await see_out(self._call)
            self._call = None
        return True

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
        if self._call is None:
            await self._run(self._jobs, emit, release=False)
            await self._again(emit)
        number = 0
        while True:
            number += 1
            call = self._call
            assert call is not None
            try:
                end = await call.receive(emit)
            except ModelFailure as failure:
                if await self._mended(call, failure, emit):
                    number -= 1
                    continue
                raise await self._failed(call, failure) from (failure.__cause__ or failure)
            self.asking.answered()
            then = await self._complete(call, end, emit, number)
            if not then.tools:
                return self._result(then.status, then.reason)
            waiting = len(then.tools) < len(call.calls)
            jobs = {link: Job(*call.calls[link], call.seq, tool) for link, tool in then.tools.items()}
            await self._run(jobs, emit, release=waiting)
            if waiting:
                return self._result("waiting", None)
            await self._again(emit)

    async def _complete(self, call: ModelCall, end: Ending, emit: Emit, number: int) -> _Next:
        """Log how the response ended, with what follows from it."""
        calls = call.owed()
        then = self._next(end, calls, number)
        more = [event(CallStarted(call_id=link), response=call.seq) for link in then.tools]
        if then.sealing:
            more = await seals(self.engine, ((item, then.sealing) for item in calls.values()))
        last = None if then.tools else Release()
        compacted = call.compacts()
        lease = None if compacted else last
        await call.complete(end, more, lease, emit, reason=then.reason, approvals=sorted(then.held))
        if compacted:
            await take_in(self.plan, self.hold, call, last, emit)
        self._held = then.held
        self._usage += end.usage or Usage(requests=1)
        self._items |= call.items
        for one in more:
            if one.flags & SEAL and one.link is not None:
                del call.calls[one.link]
        return then

    def _next(self, end: Ending, calls: Mapping[str, Mapping[str, Any]], number: int) -> _Next:
        """Return what follows from the end of the turn's response *number*, with *calls* that need outputs."""
        rounds = self.plan.options.rounds
        if end.status == "incomplete":
            return _Next("incomplete", end.reason, sealing=CUT_OFF if rounds else "")
        tools = {link: tool for link, item in calls.items() if (tool := self.plan.tool(item)) is not None}
        held = frozenset(link for link, tool in tools.items() if tool.needs_approval(arguments_of(calls[link])))
        tools = {link: tool for link, tool in tools.items() if link not in held}
        if tools and rounds and number >= rounds:
            return _Next("incomplete", "max_rounds", sealing=TOO_MANY)
        return _Next("waiting" if calls else "completed", tools=tools, held=held)

    async def _failed(self, call: ModelCall, failure: ModelFailure) -> ResponseFailed:
        if call.ended:
            await self.hold.append([], Release())
        else:
            await call.fail(failure)
        call.calls.clear()
        return failed(self.plan.model.name, failure, self._result("incomplete", failure.kind))

    async def _mended(self, call: ModelCall, failure: ModelFailure, emit: Emit) -> bool:
        """Make a request that failed again, in another way, once; return whether that could be done."""
        mending = self.asking.mend(call, failure)
        if mending is None:
            return False
        before = call.failed(failure)
        try:
            if mending.events:  # they change the path, so that its history has to be read anew
                await self.hold.append([*before, *mending.events], then=lambda _: call.over(failure))
                before = []
            await self._again(emit, before, retry_of=call.seq)
        except Invalid:
            return False  # nothing shorter is left
        if before:
            call.over(failure)
        assert self._call is not None
        raw = {"type": "turnlog.response.retried", "retry_of": call.seq, "way": mending.way}
        emit(StreamEvent(type="turnlog.response.retried", response=self._call.seq, raw=raw))
        return True

    async def _again(self, emit: Emit, before: Sequence[NewEvent] = (), retry_of: int | None = None) -> None:
        """Ask the model again, now that its calls have their outputs; *before* is logged with the request."""
        tidied = retry_of is not None
        conflicts = 0
        while True:
            try:
                async with self.engine.writer.quiet(self.name, needed=conflicts >= HASTY) as quiet:
                    if await self._next_request(before, retry_of, tidied=tidied, quiet=quiet):
                        return
            except VersionConflict:
                conflicts += 1
                if conflicts == _ATTEMPTS:
                    raise
            else:
                tidied = True  # once for each request, whatever comes of it
                self._usage += await shorten(self.plan, self.hold, emit)

    async def _next_request(
        self, before: Sequence[NewEvent], retry_of: int | None, *, tidied: bool, quiet: bool
    ) -> bool:
        """Log the next request; return whether that was done, rather than that a compaction is due first."""
        head, history = await self.engine.reader.fresh(self.name, line=self.plan.line, tokens=self.plan.budget.context)
        chosen = await self.asking.choose(history, ahead_of(history, before))
        if not tidied and is_due(self.plan, chosen):
            return False
        asked = await self.asking.request(chosen, retry_of=retry_of)
        await self.hold.append(
            [*before, *asked.attached, asked.event],
            then=partial(self._asked, asked),
            expected=head.version,
            bodies=self.plan.bodies,
            quiet=quiet,
        )
        return True

    async def _run(self, jobs: Mapping[str, Job], emit: Emit, *, release: bool) -> None:
        """Run calls; the last output ends the turn, if it is to be released."""

        def done(worked: Worked) -> None:
            self._items[worked.seq] = worked.output
            if self._call is not None:
                self._call.calls.pop(worked.link, None)

        await run(self.hold, self.plan, jobs, emit, done, turn=self.turn, release=release)

    # -- ending

    def _result(self, status: Status, reason: str | None) -> Result:
        call = self._call
        calls = call.calls if call else {}
        return Result(
            status=status,
            output_text=text_of(list(call.items.values())) if call else "",
            items=[self._items[seq] for seq in sorted(self._items)],
            usage=self._usage,
            turn=self.turn,
            version=self.hold.version,
            reason=reason,
            response_id=call.recorder.provider_id if call else None,
            open_calls=[
                open_call(item, seq, needs="approval" if link in self._held else "output")
                for link, (item, seq) in calls.items()
            ],
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
        if not self.hold.held:
            return
        # Between two rounds too, where nothing is to be sealed: else the next attempt would count as the rest of this.
        _, history = await self.engine.reader.fresh(self.name)
        ended = [call.seq] if call else sorted({job.response for job in self._jobs.values()})
        said = [await interruption(self.engine, history, seq, self.cause, call) for seq in ended]
        await self.hold.append([one for some in said for one in some], Release())
        if call is not None:
            await call.stop()

    async def _bounded(self, work: Callable[[], Any]) -> None:
        """Do what must be done although the turn is being cancelled, within bounds; if it fails, the lease runs out."""
        error = await finish(bounded(_PATIENCE, work))
        if error is not None:
            _log.warning("turnlog.turn.unsealed", conversation=self.name, error=error)
