"""Idempotency keys of turns: what became of a key that came before, on whatever worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from .codec import ITEM, body, item_of
from .errors import KeyReused
from .events import PINNED, SEAL, Record, ResponseCompleted, ResponseStarted, Usage
from .items import reading
from .log import Query
from .outcome import Result, Status, open_call, text_of

if TYPE_CHECKING:
    from .engine import Engine
    from .plan import Plan

__all__ = ("Known", "known")

State: TypeAlias = Literal["done", "running", "again"]


class Known(msgspec.Struct, frozen=True):
    """What a key stands for: a turn that is done, or is running, or has to be tried again."""

    state: State
    result: Result | None = None


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
    snapshot = await engine.store.read(name, Query(mark=f"key:{key.name}", reverse=True, limit=1))
    if snapshot is None or not snapshot.records[0]:
        return Known("again")
    last = snapshot.records[0][0].seq
    later = await engine.store.read(name, Query(mark="request", after=last, limit=1))
    following = later.records[0][0].seq if later and later.records[0] else None
    turn = await engine.store.read(name, Query(after=use.first - 1, before=following), Query(mark=f"key:{key.name}"))
    if turn is None:
        return Known("again")
    lease = turn.head.lease
    working = lease is not None and lease.remaining > 0 and following is None
    return _Attempt(turn.records[0], [record.seq for record in turn.records[1]]).known(plan, working=working)


_COMPLETED = "response.completed"
_ENDS = frozenset({_COMPLETED, "response.failed", "response.interrupted"})


class _Attempt:
    """The latest attempt at a key's turn, as the log tells it."""

    def __init__(self, records: Sequence[Record], requests: Sequence[int]) -> None:
        self.records = records
        self.last = requests[-1]
        ends = {record.response: record for record in records if record.kind in _ENDS}
        self.end = ends.get(self.last)
        # An attempt has one request a round; an earlier one ended with a round that did not complete.
        begin = max((seq for seq in requests[:-1] if seq not in ends or ends[seq].kind != _COMPLETED), default=0)
        self.rounds = [seq for seq in requests if seq > begin]
        self.owed = {record.link: record for record in records if record.response == self.last and _is_call(record)}
        self.answers = {
            record.link: record
            for record in records
            if record.seq > self.last and record.link in self.owed and _is_output(record)
        }

    def known(self, plan: Plan, *, working: bool) -> Known:
        """Return what became of the attempt; *working* says whether its turn is held."""
        unfinished = Known("running" if working else "again")
        if self.end is None:
            return unfinished
        said = body(self.end)
        if not isinstance(said, ResponseCompleted):
            return Known("again")
        pending = [link for link in self.owed if link not in self.answers]
        sealed = bool(self.owed) and not pending and all(record.flags & SEAL for record in self.answers.values())
        if not sealed and self._goes_on(plan, pending):
            return unfinished
        status: Status = "completed"
        if said.status == "incomplete" or sealed:
            status = "incomplete"
        elif pending:
            status = "waiting"
        return Known("done", self._result(plan, status, said.reason or ("max_rounds" if sealed else None), pending))

    def _goes_on(self, plan: Plan, pending: Sequence[str | None]) -> bool:
        """Return whether tools were running, or the model was about to be told what they returned."""
        tools = {link for link, record in self.owed.items() if plan.runs(item_of(record))}
        return bool(tools) and (not pending or not tools.isdisjoint(pending))

    def _result(self, plan: Plan, status: Status, reason: str | None, pending: Sequence[str | None]) -> Result:
        items: list[dict[str, Any]] = []
        last: list[dict[str, Any]] = []
        links: set[str | None] = set()
        usage = Usage()
        provider: str | None = None
        version = self.last
        for record in self.records:
            mine = record.response in self.rounds
            if record.kind == ITEM and (mine or (record.link in links and _is_output(record))):
                items.append(item_of(record))
                links |= {record.link} - {None}
                if record.response == self.last:
                    last.append(items[-1])
            elif mine:
                said = body(record)
                if isinstance(said, ResponseCompleted):
                    usage += said.usage or Usage(requests=1)
                elif isinstance(said, ResponseStarted) and record.response == self.last:
                    provider = said.id
            else:
                continue
            version = record.seq
        return Result(
            status=status,
            output_text=text_of(last),
            items=items,
            usage=usage,
            turn=self._turn(),
            version=version,
            reason=reason,
            response_id=provider,
            open_calls=[open_call(item_of(self.owed[link]), self.owed[link].seq) for link in pending],
            replayed=True,
            conversation=plan.conversation,
        )

    def _turn(self) -> int:
        """Return the first input of the key's own append; a call's output has no other turn than its call's."""
        said = (
            record.seq
            for record in self.records
            if record.kind == ITEM
            and not record.flags & PINNED
            and reading(record.shape or "", record.link).maker == "input"
        )
        return next(said, self.rounds[0])


def _is_call(record: Record) -> bool:
    return record.link is not None and reading(record.shape or "", record.link).is_call


def _is_output(record: Record) -> bool:
    return record.link is not None and reading(record.shape or "", record.link).is_output
