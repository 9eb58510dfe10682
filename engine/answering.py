"""What callers and people say to calls that wait: the output of one, or whether it may be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .answers import LATEST, first_outputs, standing
from .checks import switch
from .codec import body, event
from .errors import AlreadyAnswered, AlreadyDecided, ConversationBusy, Invalid, NotFound, VersionConflict
from .events import ASIDE, ERASED, CallDecided, HistoryRewound, NewEvent, Record
from .history import alive, segments
from .intake import content_digest
from .items import KINDS, reading
from .log import Appended, Head, Query, Store
from .paths import Along, paths_of
from .writer import HASTY

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("answered", "check_answers", "decide", "output_for")

_ATTEMPTS: Final = 8
_OUTPUTS: Final = {kind.answers: kind.tag for kind in KINDS.values() if kind.answers}
"""The kinds of outputs by the kinds of their calls."""
_TOLD: Final = ("function_call", "custom_tool_call")
"""Calls whose output is a text or a list of parts."""
_APPROVAL: Final = "mcp_approval_request"


class _Call(NamedTuple):
    """The latest call of one id, and what has been said to it."""

    head: Head
    record: Record
    outputs: Sequence[Record]
    decision: Record | None
    started: bool
    """Whether its tool has begun to run, and nothing is known of what came of it."""

    @property
    def kind(self) -> str:
        """Of which kind it is."""
        return self.record.shape or ""

    @property
    def response(self) -> int:
        """What names the response that it is part of."""
        return self.record.seq if self.record.response is None else self.record.response


async def _found(engine: Engine, name: str, call_id: object) -> _Call:
    """Return a call.

    Raises:
        Invalid: *call_id* is no text.
        NotFound: there is no call of that id on the path, or it was erased.
    """
    if not isinstance(call_id, str) or not call_id:
        raise Invalid(
            f"call_id={call_id!r:.100}: the id of a call is needed, as open_calls() gives it; "
            f"for a search that has none, append its {_OUTPUTS['tool_search_call']} as an item"
        )
    paths = await paths_of(engine.store, name)
    along = Along(engine.store, paths.alive)
    latest = Query(link=call_id, reverse=True, limit=LATEST)
    snapshot = await along.read(name, latest, Query(mark=f"decided:{call_id}"))
    said, decisions = snapshot.records if snapshot else ((), ())
    linked = [one for one in reversed(said) if not one.flags & ASIDE]
    calls = [one for one in linked if reading(one.shape or "", one.link).is_call]
    if not calls:
        raise NotFound(f"conversation {name}, call {call_id}")
    call = calls[-1]
    if call.flags & ERASED:
        raise NotFound(f"conversation {name}, call {call_id}", deleted=True)
    place = call.seq if call.response is None else call.response
    outputs = [one for one in linked if one.seq > call.seq and _answers(one) == call.shape]
    decision = _latest(decisions, place, paths.head.parent if not outputs else None)
    _, history = await engine.reader.fresh(name)
    started = any(one.entry.seq == call.seq and history.attempts(one) for one in history.unanswered())
    return _Call(paths.head, call, outputs, decision, started)


def _latest(decisions: Sequence[Record], place: int, parent: tuple[str, int] | None) -> Record | None:
    """Return what was decided on a call of a response; in a fork what was decided there, not by its *parent*."""
    since = parent[1] if parent else 0
    return next((one for one in reversed(decisions) if one.response == place and one.seq > since), None)


def _answers(output: Record) -> str | None:
    form = reading(output.shape or "", output.link)
    return form.kind.answers if form.is_output and form.kind is not None else None


async def check_answers(store: Store, name: str, events: Sequence[NewEvent]) -> None:
    """See to it that outputs are the first for their calls; what a rewind has left stands no more.

    Raises:
        AlreadyAnswered: one of them is not.
        Invalid: two of them are for one call.
    """
    links = first_outputs(name, events)
    snapshot = await store.read(name, Query(mark="rewind"), *(Query(link=link) for link in links)) if links else None
    if snapshot is None:
        return
    rewinds, *found = snapshot.records
    moves = [(record.seq, said.to) for record in rewinds if isinstance(said := body(record), HistoryRewound)]
    path = segments(moves, snapshot.head.version)
    for link, records in zip(links, found, strict=True):
        seq = standing(link, [(one.seq, one.shape, one.flags) for one in records if alive(path, one.seq)])
        if seq is not None:
            raise AlreadyAnswered(name, link, seq)


async def output_for(engine: Engine, name: str, call_id: str, output: object) -> dict[str, Any]:
    """Return the item that answers a call; see `Conversation.answer`."""
    call = await _found(engine, name, call_id)
    kind = call.kind
    if kind == _APPROVAL:
        raise Invalid(f"{name}: call {call_id} asks for approval: decide({call_id!r}, approve=…, by=…) answers it")
    if kind not in _TOLD:
        raise Invalid(f"{name}: call {call_id} is not a function's ({kind}); append its {_OUTPUTS[kind]} as an item")
    lease = call.head.lease
    if call.started and lease is not None and lease.remaining > 0:
        raise ConversationBusy(name, lease.turn, lease.remaining)
    said = output if isinstance(output, str) else list(output) if isinstance(output, Sequence) else output
    return {"type": f"{kind}_output", "call_id": call_id, "output": said}


async def answered(engine: Engine, name: str, item: Mapping[str, Any], error: AlreadyAnswered) -> Appended:
    """Return an earlier output, if it is the same.

    Raises:
        AlreadyAnswered: it is not.
    """
    call = await _found(engine, name, error.call_id)
    given = await engine.intake.caller([item])
    for record in call.outputs:
        if record.seq == error.seq and content_digest([record]) == content_digest(given):
            return Appended(first=record.seq, last=record.seq, version=record.seq, replayed=True)
    raise error


async def decide(engine: Engine, name: str, call_id: str, *, approve: bool, by: str, reason: str) -> Appended:
    """Log a person's decision on a call; see `Conversation.decide`."""
    _check(approve, by, reason)
    said = CallDecided(call_id=call_id, approve=approve, by=by, reason=reason)
    for attempt in range(_ATTEMPTS):
        try:
            async with engine.writer.quiet(name, needed=attempt >= HASTY) as quiet:
                call = await _found(engine, name, call_id)
                if call.decision is not None:
                    return _again(name, call.decision, said)
                _check_open(name, call)
                events = [event(said, response=call.response), *await _consequences(engine, name, call, said)]
                return await engine.writer.append(name, events, expected=call.head.version, quiet=quiet)
        except VersionConflict:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _check(approve: object, by: object, reason: object) -> None:
    switch("approve", approve)
    if not isinstance(by, str) or not by:
        raise Invalid(f"by={by!r:.100}: who decides is needed, a text")
    if not isinstance(reason, str):
        raise Invalid(f"reason={reason!r:.100}: a text is needed")


def _again(name: str, decision: Record, said: CallDecided) -> Appended:
    """Return an earlier decision, if it is the same.

    Raises:
        AlreadyDecided: it is not.
    """
    was = body(decision)
    if not isinstance(was, CallDecided) or was.approve != said.approve:
        approved = isinstance(was, CallDecided) and was.approve
        raise AlreadyDecided(name, said.call_id, decision.seq, "was approved" if approved else "was refused")
    return Appended(first=decision.seq, last=decision.seq, version=decision.seq, replayed=True)


def _check_open(name: str, call: _Call) -> None:
    link = call.record.link or ""
    if call.outputs:
        raise AlreadyAnswered(name, link, call.outputs[0].seq)
    if call.started:
        raise AlreadyDecided(name, link, call.record.seq, "has been started since it was made")


async def _consequences(engine: Engine, name: str, call: _Call, said: CallDecided) -> list[NewEvent]:
    """Return the outputs that a decision makes: of a call that is refused, and of one that asks for nothing else."""
    kind = call.kind
    if kind == _APPROVAL:
        answer = {"type": "mcp_approval_response", "approval_request_id": said.call_id, "approve": said.approve}
        return [await engine.intake.item(answer | ({"reason": said.reason} if said.reason else {}))]
    if said.approve:
        return []
    words = f"[not run: a person refused this call{f': {said.reason}' if said.reason else ''}]"
    if kind not in _TOLD:
        raise Invalid(f"{name}: a {kind} cannot be refused in words; append a {kind}_output that says so")
    output = {"type": f"{kind}_output", "call_id": said.call_id, "output": words}
    return [await engine.intake.item(output)]
