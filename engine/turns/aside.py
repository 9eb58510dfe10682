"""A model call beside the conversation: a title, a check. It takes no lease, and runs whatever else does.

Its input and output are logged, and enter no later window. Calls that come back are the answer's own: nobody owes them
an output.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from ..blobs import whole
from ..canonical import canonical, digest
from ..codec import ITEM, body, item_of
from ..errors import Invalid, KeyReused, ResponseFailed, VersionConflict
from ..events import NewEvent, Record, ResponseCompleted, ResponseStarted, Usage
from ..history import ENDS
from ..intake import content_digest
from ..items import KINDS, reading
from ..log import Appended, Key, Query
from ..model import Ending, ModelFailure
from ..writer import HASTY
from .outcome import Result, Status, failed, text_of
from .places import turn_at
from .requests import Asked, ahead_of, ask
from .side import Beside, SideCall, beside

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ("aside",)

_ATTEMPTS: Final = 8
_PAGE: Final = 64


async def aside(plan: Plan) -> Result:
    """Call the model beside the conversation; see `Conversation.respond`.

    Raises:
        Invalid: an output without its call, an input that does not fit, or nothing to send; nothing was written.
        VersionConflict, KeyReused, NotFound, StoreError: nothing was written.
        ResponseFailed: the model did not answer.
    """
    _check(plan.items)
    key = _key(plan)
    before = await _before(plan, key) if key is not None else None
    if isinstance(before, Result):
        return before
    call, turn = await _open(plan, key if before is None else None)
    cause: Literal["cancelled", "crashed"] = "cancelled"
    try:
        return await _answer(plan, call, turn)
    except BaseException as error:
        if isinstance(error, Exception):
            cause = "crashed"
        await call.break_off(cause)
        raise


def _check(items: Sequence[NewEvent]) -> None:
    """See to it that every output has its call in the input: it would answer one of the conversation's otherwise."""
    calls = {(one.shape, one.link) for one in items if reading(one.shape or "", one.link).is_call}
    for one in items:
        form = reading(one.shape or "", one.link)
        if form.is_output and (KINDS[form.shape].answers, one.link) not in calls:
            raise Invalid(f"input: an aside answers no call: {one.link}; answer it in the conversation")


def _key(plan: Plan) -> Key | None:
    name = plan.options.key
    return None if name is None else Key(name, digest(canonical(["aside", content_digest(plan.items)])))


async def _open(plan: Plan, key: Key | None) -> tuple[SideCall, int]:
    """Append the input and the request; return the call, and the turn that it was made in."""
    for attempt in range(_ATTEMPTS):
        try:
            async with plan.engine.writer.quiet(plan.conversation.id, needed=attempt >= HASTY) as quiet:
                return await _try(plan, key, quiet=quiet)
        except VersionConflict:
            if plan.expected is not None or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _try(plan: Plan, key: Key | None, *, quiet: bool) -> tuple[SideCall, int]:
    engine, name = plan.engine, plan.conversation.id
    head, history = await engine.reader.fresh(name, line=plan.line, tokens=plan.budget.context)
    if plan.expected not in (None, head.version):
        raise VersionConflict(name, plan.expected or 0, head.version)
    asked = await ask(plan, history, ahead_of(history, plan.items), purpose="aside")
    turn = history.last_turn() or await turn_at(engine.store, name, head.version)
    return await _begun(plan, asked, key, head.version, quiet=quiet), turn


async def _begun(plan: Plan, asked: Asked, key: Key | None, version: int, *, quiet: bool) -> SideCall:
    hold = Beside(plan.engine, plan.conversation.id)
    made: list[SideCall] = []

    def begun(appended: Appended) -> None:
        made.append(SideCall(hold, plan, appended.last, asked.body))

    events = [*map(beside, plan.items), asked.event]
    more: dict[str, Any] = {"expected": version, "key": key, "bodies": plan.bodies, "quiet": quiet}
    await hold.append(events, then=begun, **more)
    return made[0]


async def _answer(plan: Plan, call: SideCall, turn: int) -> Result:
    try:
        end = await call.receive(lambda _: None)
    except ModelFailure as failure:
        await call.fail(failure)
        raise _failed(plan, call, turn, failure) from (failure.__cause__ or failure)
    await call.complete(end, [], None, lambda _: None, reason=end.reason)
    return _result(plan, call, turn, end)


def _failed(plan: Plan, call: SideCall, turn: int, failure: ModelFailure) -> ResponseFailed:
    return failed(plan.model.name, failure, _result(plan, call, turn, Ending("failed", failure.kind)))


def _result(plan: Plan, call: SideCall, turn: int, end: Ending) -> Result:
    items = [call.items[seq] for seq in sorted(call.items)]
    return Result(
        status="completed" if end.status == "completed" else "incomplete",
        output_text=text_of(items),
        items=items,
        usage=Usage() if end.status == "failed" else end.usage or Usage(requests=1),
        turn=turn,
        version=call.hold.version,
        reason=end.reason,
        response_id=call.recorder.provider_id,
        conversation=plan.conversation,
    )


# -- keys


async def _before(plan: Plan, key: Key) -> Result | bool | None:
    """Return what the key's latest attempt came to; True when it came to nothing, None when the key is new.

    Raises:
        KeyReused: it named other input, or a turn.
    """
    store, name = plan.engine.store, plan.conversation.id
    use = await store.key(name, key.name)
    if use is None:
        return None
    if use.digest != key.digest:
        raise KeyReused(name, key.name)
    snapshot = await store.read(name, Query(mark=f"key:{key.name}", reverse=True, limit=1))
    requests = snapshot.records[0] if snapshot else ()
    if not requests:
        return True
    records = [await whole(store, record) async for record in _of(plan, requests[0])]
    said = body(records[-1]) if records else None
    if not isinstance(said, ResponseCompleted):
        return True
    return await _replayed(plan, requests[0].seq, records, said)


async def _of(plan: Plan, request: Record) -> AsyncIterator[Record]:
    """Yield what came of a request, up to its end."""
    store, name, after = plan.engine.store, plan.conversation.id, request.seq
    while True:
        snapshot = await store.read(name, Query(after=after, limit=_PAGE))
        page = snapshot.records[0] if snapshot else []
        for record in page:
            if record.response == request.seq:
                yield record
                if record.kind in ENDS:
                    return
        if len(page) < _PAGE:
            return
        after = page[-1].seq


async def _replayed(plan: Plan, seq: int, records: Sequence[Record], end: ResponseCompleted) -> Result:
    items = [item_of(record) or {} for record in records if record.kind == ITEM]
    started = (said for record in records if isinstance(said := body(record), ResponseStarted))
    status: Status = end.status
    return Result(
        status=status,
        output_text=text_of(items),
        items=items,
        usage=end.usage or Usage(requests=1),
        turn=await turn_at(plan.engine.store, plan.conversation.id, seq),
        version=records[-1].seq,
        reason=end.reason,
        response_id=next((said.id for said in started), None),
        replayed=True,
        conversation=plan.conversation,
    )
