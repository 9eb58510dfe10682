"""Idempotency keys of turns: what became of a key that came before, on whatever worker.

All of it is read from the log: which calls were run as tools, and whether a limit ended the turn, is written there, so
that a caller may come back with other tools or another model and still gets what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from ..blobs import whole
from ..codec import ITEM, body, item_of
from ..errors import KeyReused, NotFound
from ..events import SEAL, CallStarted, Record, ResponseCompleted, ResponseRequested, ResponseStarted, Usage
from ..items import read, reading
from ..log import Head, KeyUse, Query, Store
from ..model import StreamEvent
from .outcome import CUT_OFF, TOO_MANY, Result, Status, open_call, text_of
from .places import turn_at, turn_end

if TYPE_CHECKING:
    from ..engine import Engine
    from .plan import Plan

__all__ = ("Known", "known")

State: TypeAlias = Literal["done", "running", "again"]


class Known(msgspec.Struct, frozen=True):
    """What a key stands for: a turn that is done, or is running, or has to be tried again."""

    state: State
    attempt: int = 0
    """The seq of the last request made for it, 0 for none."""
    result: Result | None = None
    events: Sequence[StreamEvent] = ()
    """Of a turn that is done: what a stream of it shows."""


async def known(engine: Engine, plan: Plan) -> Known | None:
    """Return what became of a plan's key; None when it is new.

    Raises:
        KeyReused: it named other input.
    """
    key = plan.key
    if key is None:
        return None
    name = plan.conversation.id
    use = await engine.store.key(name, key.name)
    if use is None:
        return None
    if use.digest != key.digest:
        raise KeyReused(name, key.name)
    mark = f"key:{key.name}"
    snapshot = await engine.store.read(
        name, Query(mark=mark, reverse=True, limit=1), Query(mark="request", reverse=True, limit=1)
    )
    if snapshot is None:
        return Known("again")
    if not snapshot.records[0]:
        # Its turn may be running the calls that an earlier one has left, before it asks.
        going = await _is_held(engine.store, snapshot.head, use.last)
        return Known("running" if going else "again")
    last, latest = (records[0].seq for records in snapshot.records)
    if await _is_running(engine.store, snapshot.head, last, latest):
        return Known("running", last)
    attempt, number = await _attempt(engine.store, name, use, mark, last)
    outcome = attempt.outcome()
    if outcome is None:
        return Known("again", last)
    return Known("done", last, attempt.result(plan, *outcome, turn=number), list(attempt.events()))


async def _is_running(store: Store, head: Head, last: int, latest: int) -> bool:
    """Return whether the turn of a key's last request is being worked on, by whomever."""
    lease = head.lease
    if lease is None or lease.remaining <= 0:
        return False
    return last == latest or await _is_held(store, head, last)


async def _is_held(store: Store, head: Head, seq: int) -> bool:
    """Return whether the turn in which an event stands holds the lease."""
    lease = head.lease
    return lease is not None and lease.remaining > 0 and lease.turn == await turn_at(store, head.conversation, seq)


async def _attempt(store: Store, name: str, use: KeyUse, mark: str, last: int) -> tuple[_Attempt, int]:
    """Return the attempt that stands for a key, and its turn: its own last, or a later one that answered that turn."""
    following = await store.read(name, Query(mark="request", after=last, limit=1))
    before = following.records[0][0].seq if following and following.records[0] else None
    turn = await store.read(name, Query(after=use.first - 1, before=before), Query(mark=mark, before=before))
    if turn is None:
        raise NotFound(f"conversation {name}")
    records = [await whole(store, record) for record in turn.records[0]]
    own = _Attempt(records, [record.seq for record in turn.records[1]])
    number = await turn_at(store, name, own.rounds[0])
    if own.outcome() is not None:
        return own, number
    return await _others(store, name, last, number) or own, number


async def _others(store: Store, name: str, last: int, turn: int) -> _Attempt | None:
    """Return the first attempt behind a key's own last one that has answered the same turn; None: there is none."""
    end = await turn_end(store, name, turn)
    snapshot = await store.read(name, Query(after=last, before=end), Query(mark="request", after=last, before=end))
    records, requests = snapshot.records if snapshot else ((), ())
    records = [await whole(store, record) for record in records]
    seqs = [record.seq for record in requests]
    for index in range(len(seqs)):
        before = seqs[index + 1] if index + 1 < len(seqs) else None
        made = _Attempt([one for one in records if before is None or one.seq < before], seqs[: index + 1])
        if made.outcome() is not None:
            return made
    return None


_COMPLETED = "response.completed"
_ENDS = frozenset({_COMPLETED, "response.failed", "response.interrupted"})


class _Attempt:
    """The latest attempt at a key's turn, as the log tells it."""

    def __init__(self, records: Sequence[Record], requests: Sequence[int]) -> None:
        self.last = requests[-1]
        ends = {record.response: record for record in records if record.kind in _ENDS}
        self.end = ends.get(self.last)
        begin = _begin(records, requests, ends)
        self.rounds = [seq for seq in requests if seq > begin]
        self._rounds = set(self.rounds)
        since = ends[begin].seq if begin in ends else begin
        self.tools = _started(records, since)
        """Links of the calls that the turn itself answered; later outputs came from the client."""
        self.owed = {record.link: record for record in records if record.response == self.last and _is_call(record)}
        self._held = _held_by(self.end)
        self.records = [record for record in records if record.seq > begin and self._is_own(record)]
        self.sealed = {
            record.link: record.seq for record in records if record.link in self.owed and _is_own_seal(record)
        }
        self.answered = {record.link for record in self.records if record.seq > self.last and _is_output(record)}

    def _is_own(self, record: Record) -> bool:
        if record.response in self._rounds:
            return True
        return record.link in self.tools and _is_output(record) and not record.flags & SEAL

    def outcome(self) -> tuple[Status, str | None] | None:
        """Return the attempt's outcome, None when it came to none."""
        said = body(self.end) if self.end is not None else None
        if not isinstance(said, ResponseCompleted):
            return None
        if said.status == "incomplete" or said.reason is not None:
            return "incomplete", said.reason
        tools = self.tools & self.owed.keys()
        if tools and (not tools <= self.answered or tools == self.owed.keys()):
            return None  # they were running, or the model was about to be told what they returned
        return "waiting" if self.owed else "completed", None

    def result(self, plan: Plan, status: Status, reason: str | None, *, turn: int) -> Result:
        """Return the outcome as it was returned then."""
        items: list[dict[str, Any]] = []
        last: list[dict[str, Any]] = []
        usage = Usage()
        provider: str | None = None
        for record in self.records:
            said = body(record)
            if record.kind == ITEM:
                items.append(_item(record))
                if record.response == self.last:
                    last.append(items[-1])
            elif isinstance(said, ResponseCompleted):
                usage += said.usage or Usage(requests=1)
            elif isinstance(said, ResponseStarted) and record.response == self.last:
                provider = said.id
        answered = self.answered | self.sealed.keys()
        waiting = [
            open_call(_item(call), call.seq, needs="approval" if link in self._held else "output")
            for link, call in self.owed.items()
            if link not in answered
        ]
        return Result(
            status=status,
            output_text=text_of(last),
            items=items,
            usage=usage,
            turn=turn,
            version=max(self.records[-1].seq, *self.sealed.values(), 0),
            reason=reason,
            response_id=provider,
            open_calls=waiting,
            replayed=True,
            conversation=plan.conversation,
        )

    def events(self) -> Iterator[StreamEvent]:
        """Yield what a stream shows of a turn that is done: its texts, each in one piece, and its items."""
        response = 0
        for record in self.records:
            response = record.response or response
            said = body(record)
            if isinstance(said, ResponseCompleted):
                yield StreamEvent(type=f"response.{said.status}", response=response)
            elif record.kind == ITEM:
                item = _item(record)
                text = text_of([item])
                if text:
                    yield StreamEvent(type="response.output_text.delta", delta=text, response=response)
                kind = "turnlog.call.output" if _is_output(record) else "response.output_item.done"
                yield StreamEvent(type=kind, item=item, seq=record.seq, call_id=read(item).link, response=response)


def _begin(records: Sequence[Record], requests: Sequence[int], ends: Mapping[int | None, Record]) -> int:
    """Return the request behind which the latest attempt begins, 0 for the first attempt.

    An attempt has one request a round; an earlier one ended with a round that did not complete. A request that was made
    again, in another way, by the same attempt ended nothing.
    """
    again = {asked.retry_of for one in records if isinstance(asked := body(one), ResponseRequested)}
    done = again | {seq for seq, end in ends.items() if end.kind == _COMPLETED}
    return max((seq for seq in requests[:-1] if seq not in done), default=0)


def _started(records: Sequence[Record], since: int) -> set[str]:
    """Return the calls that were run behind a seq: an attempt may begin with those that another one has left."""
    return {told.call_id for one in records if one.seq > since and isinstance(told := body(one), CallStarted)}


def _held_by(end: Record | None) -> set[str]:
    """Return the calls that a person has to decide on."""
    said = body(end) if end is not None else None
    return set(said.approvals) if isinstance(said, ResponseCompleted) else set()


def _is_call(record: Record) -> bool:
    return record.link is not None and reading(record.shape or "", record.link).is_call


def _is_output(record: Record) -> bool:
    return record.link is not None and reading(record.shape or "", record.link).is_output


def _is_own_seal(record: Record) -> bool:
    """Return whether the turn sealed a call itself, rather than one that came later."""
    return bool(record.flags & SEAL) and _item(record).get("output") in (CUT_OFF, TOO_MANY)


def _item(record: Record) -> dict[str, Any]:
    """Return an item, an empty one where it was erased."""
    return item_of(record) or {}
