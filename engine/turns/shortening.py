"""Shortening: when a conversation is compacted, in which ways, and what becomes of it when that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..codec import event
from ..compaction import Compacted
from ..errors import (
    BudgetExceeded,
    Conflict,
    ConversationBusy,
    Invalid,
    ResponseFailed,
    VersionConflict,
)
from ..events import CompactionUndone, Target, Usage
from ..ids import Expected, version_of
from ..items import read
from ..kept import stateless
from ..log import Appended, Break, LeaseChange
from ..logs import Log
from ..model import Model, StreamEvent, merged, settings_of, shape_of, target_of
from ..summaries import UNFIT
from ..tools import Toolbox
from ..window.budget import Budget, accepted, known
from ..window.policies import Compacting
from ..writer import HASTY
from .call import Emit, Hold, ModelCall
from .compacting import Compactor, Method, RemotePlan
from .errands import Declined
from .material import gather, gather_all
from .outcome import Options, Result, failed
from .places import turn_at
from .plan import Plan, budget_for, one_of, view

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..engine import Engine
    from .asking import Chosen

__all__ = ("by_hand", "is_due", "shorten", "take_in", "undo")

_log = Log("turnlog.compaction")
_ATTEMPTS: Final = 8
_METHODS: Final = ("auto", "remote", "summary", "extract")
_ELSEWHERE: Final = frozenset({404, 405, 501})
"""Statuses of a server that has no such service."""
_NOT_FOR_SUMMARIES: Final = frozenset(
    {"background", "functions", "parallel_tool_calls", "response_format", "stop", "text", "tool_choice"}
)
"""Parameters that shape answers, and would shape a summary."""


def _ways(model: Model | None, method: str) -> list[Method]:
    """Return the ways to try, the next one only where the one before gives nothing that is of use.

    Raises:
        Invalid: the model cannot, or none is given.
    """
    able = model is not None and callable(getattr(model, "compact", None))
    match one_of("method", method, _METHODS):
        case "auto":
            return ["remote", "summary"] if able else ["extract"] if model is None else ["summary"]
        case "remote" if not able:
            raise Invalid(f"method='remote': {_named(model)} has no service for it; Responses(…) has, or try 'summary'")
        case "summary" if model is None:
            raise Invalid("method='summary': a model is needed to write it; pass one, or try 'extract'")
        case "remote":
            return ["remote"]
        case "summary":
            return ["summary"]
    return ["extract"]


def _named(model: Model | None) -> str:
    return "no model" if model is None else model.name


async def _planned(
    engine: Engine,
    conversation: Conversation,
    model: Model,
    method: Method,
    instructions: str | None,
    budget: Budget | None,
) -> Plan | None:
    """Return the plan of the requests of one way; None where there will be none."""
    if method == "extract":
        return None
    shape = shape_of(model)
    params, transport = merged(shape.params, None)
    if method == "summary":
        params = {key: value for key, value in params.items() if key not in _NOT_FOR_SUMMARIES}
    settings: dict[str, Any] = {**settings_of(model, params, instructions, ()), "state": "stateless"}
    if method == "remote":
        settings["purpose"] = "compaction"
    common = await view(engine, model, budget, None, settings, shape)
    common["target"] = stateless(common["target"])
    return (RemotePlan if method == "remote" else Plan)(
        conversation=conversation,
        model=model,
        options=Options(instructions=instructions, budget=budget),
        items=[],
        toolbox=Toolbox(()),
        settings=settings,
        transport=transport,
        **common,
    )


def _goes_on(declined: Declined) -> bool:
    """Return whether the next way is tried: what came was of no use, or there is no such service; not if it failed."""
    return declined.reason in UNFIT if declined.failure is None else _is_missing(declined)


def _is_missing(declined: Declined) -> bool:
    """Return whether a server has no such service."""
    if declined.failure is None:
        return declined.reason in ("empty", "no_compaction")
    return declined.failure.status_code in _ELSEWHERE


# -- by hand


async def by_hand(
    conversation: Conversation,
    engine: Engine,
    model: Model | None,
    *,
    method: str,
    instructions: str | None,
    budget: Budget | None,
    expected: Expected,
) -> Compacted:
    """Compact a conversation; see `Conversation.compact`."""
    ways = _ways(model, method)
    accepted(budget)
    exact = version_of(expected)
    plans: Mapping[Method, Plan | None] = {
        way: None if model is None else await _planned(engine, conversation, model, way, instructions, budget)
        for way in ways
    }
    for attempt in range(_ATTEMPTS):
        try:
            return await _once(conversation, engine, model, ways, plans, budget, exact)
        except VersionConflict:
            if exact is not None or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _once(
    conversation: Conversation,
    engine: Engine,
    model: Model | None,
    ways: Sequence[Method],
    plans: Mapping[Method, Plan | None],
    budget: Budget | None,
    exact: int | None,
) -> Compacted:
    name = conversation.id
    version, latest = await _settled(engine, name, exact)
    exact = None if exact is None else version
    target = stateless(target_of(model)) if model is not None else latest
    material = await gather(engine, name, version, target, _room(engine, model, latest, budget))
    if material is None:
        raise Conflict(f"{name}: there is nothing to compact: nothing has been answered since the last compaction")
    for way in ways:
        try:
            return await Compactor(engine, material, way, plans[way], expected=exact).compact()
        except Declined as declined:
            if way == ways[-1] or not _goes_on(declined):
                raise await _error(conversation, engine, model, way, declined) from declined.failure
        except BudgetExceeded:
            if way == ways[-1]:
                raise
        exact = None  # the failed request is in the log
    raise AssertionError("unreachable")


async def _settled(engine: Engine, name: str, exact: int | None) -> tuple[int, Target]:
    """See to it that no turn runs or has broken off; return the version, and whom the last request was for."""
    while True:
        head, history = await engine.reader.fresh(name)
        if exact is not None and exact != head.version:
            raise VersionConflict(name, exact, head.version)
        if head.lease is not None and head.lease.remaining > 0:
            raise ConversationBusy(name, head.lease.turn, head.lease.remaining)
        if head.lease is None and history.open is None:
            return head.version, history.last_target() or Target(api="responses")
        version = await engine.take_over(name, head, history)
        exact = None if exact is None else version


def _room(engine: Engine, model: Model | None, latest: Target, budget: Budget | None) -> int | None:
    """Return what windows have, as far as it is known."""
    found = budget_for(engine, model, budget) if model is not None else budget or engine.budget or known(latest.model)
    return None if found is None else found.context - found.reserve


async def _error(
    conversation: Conversation, engine: Engine, model: Model | None, way: Method, declined: Declined
) -> Exception:
    """Return what to raise where nothing was compacted."""
    name = conversation.id
    head = await engine.reader.head(name)
    conversation.saw(head.version)
    if model is None or way == "extract" or (declined.failure is None and declined.reason not in UNFIT):
        return Conflict(f"{name}: nothing was compacted: {declined}")
    result = Result(
        status="incomplete",
        output_text="",
        turn=await turn_at(engine.store, name, head.version),
        version=head.version,
        reason=declined.reason,
        conversation=conversation,
    )
    if declined.failure is not None:
        return failed(model.name, declined.failure, result)
    return ResponseFailed(
        f"{model.name}: its {way} cannot be used: {declined}; nothing has changed",
        result,
        code=f"compaction_{declined.reason}",
        retryable=True,
    )


async def undo(engine: Engine, name: str, seq: int | None) -> Appended:
    """Let a compaction count no more; see `Conversation.undo_compaction`."""
    for attempt in range(_ATTEMPTS):
        try:
            async with engine.writer.quiet(name, needed=attempt >= HASTY) as quiet:
                head, history = await engine.reader.fresh(name)
                base = history.base[0].seq if history.base else None
                if base is None or (seq is not None and seq != base):
                    there = "windows start from none" if base is None else f"windows start from the one at {base}"
                    asked = "" if seq is None else f"{seq} is no compaction that counts; "
                    raise Invalid(f"{name}: {asked}{there}")
                said = [event(CompactionUndone(seq=base))]
                return await engine.writer.append(name, said, expected=head.version, lease=Break(), quiet=quiet)
        except VersionConflict:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


# -- by policy


def is_due(plan: Plan, chosen: Chosen) -> bool:
    """Return whether a turn compacts before it sends a window."""
    policy = plan.policy
    if not isinstance(policy, Compacting):
        return False
    history, manifest = chosen
    base = history.base[0].seq if history.base else 0
    last = history.previous(plan.line)
    tried = history.compacting is not None and history.compacting > base
    return policy.is_due(manifest, last[1] if last else None, tried=tried)


async def shorten(plan: Plan, hold: Hold, emit: Emit) -> Usage:
    """Compact within a turn, if it can be done; return what that took. Whatever goes wrong, the turn goes on."""
    policy, engine, name = plan.policy, plan.engine, hold.name
    assert isinstance(policy, Compacting)
    model: Model = policy.model or plan.model
    room = plan.budget.context - plan.reserve
    head = await engine.reader.head(name)
    material = await gather(engine, name, head.version, stateless(plan.target), room, least=room // 4)
    used = Usage()
    if material is None:
        return used
    for way in _tried(engine, model, policy.method):
        instructions = policy.instructions or (plan.options.instructions if way == "remote" else None)
        budget = plan.options.budget if model is plan.model else None
        side = await _planned(engine, plan.conversation, model, way, instructions, budget)
        compactor = Compactor(engine, material, way, side, hold)
        try:
            made = await compactor.compact()
        except (Declined, BudgetExceeded) as error:
            used += compactor.errands.usage
            _tell_failed(emit, name, way, error)
            if isinstance(error, Declined) and way == "remote" and _is_missing(error):
                engine.unserved.add((model.backend, model.name))
            if isinstance(error, Declined) and not _goes_on(error):
                break
        else:
            _tell(emit, made)
            return used + compactor.errands.usage
    return used


def _tried(engine: Engine, model: Model, method: str) -> list[Method]:
    """Return the ways to try; not again that of a service which turned out not to be there."""
    ways = _ways(model, method)
    return ways[1:] if len(ways) > 1 and (model.backend, model.name) in engine.unserved else ways


async def take_in(plan: Plan, hold: Hold, call: ModelCall, last: LeaseChange | None, emit: Emit) -> None:
    """Let the compaction item that a server has put into an answer stand for what it was sent.

    *last* is what becomes of the lease, whether that can be done or not.
    """
    opaque = max(seq for seq, item in call.items.items() if read(item).shape == "compaction")
    room = plan.budget.context - plan.reserve
    material = await gather_all(plan.engine, hold.name, call.seq - 1, stateless(plan.target), room)
    try:
        made = await Compactor(plan.engine, material, "server", plan, hold, opaque=opaque, last=last).compact()
    except Declined as error:
        _tell_failed(emit, hold.name, "server", error)
        await hold.append([], last)
    else:
        _tell(emit, made)


def _tell_failed(emit: Emit, name: str, way: Method, error: Declined | BudgetExceeded) -> None:
    """Say that nothing was compacted, to whoever watches and to the logs: the turn goes on without."""
    _log.warning("turnlog.compaction.failed", conversation=name, method=way, error=str(error))
    reason = error.reason if isinstance(error, Declined) else "too_long"
    raw = {"type": "turnlog.compaction.failed", "method": way, "reason": reason, "message": str(error)}
    emit(StreamEvent(type="turnlog.compaction.failed", raw=raw))


def _tell(emit: Emit, made: Compacted) -> None:
    raw = {"type": "turnlog.context.compacted", **msgspec.to_builtins(made)}
    emit(StreamEvent(type="turnlog.context.compacted", seq=made.seq, raw=raw))
