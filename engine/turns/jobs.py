"""Jobs: calls that are run here. Which of the open ones a turn runs when it opens, and how several run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import anyio

from ..canonical import digest, encode
from ..codec import event
from ..events import CallStarted, NewEvent
from ..groups import Call
from ..history import History, OpenCall
from ..log import Appended, Release
from ..model import StreamEvent
from ..shield import finish
from ..tools import Runs, ToolContext
from .outcome import ELSEWHERE, UNANSWERED, UNKNOWN, open_call

if TYPE_CHECKING:
    from .call import Emit, Hold
    from .plan import Plan

__all__ = ("Job", "Owed", "Worked", "arguments_of", "owed", "run", "starts", "will_run")

_OUTPUT: Final = "function_call_output"


class Job(NamedTuple):
    """A call that is run here."""

    item: Mapping[str, Any]
    seq: int
    response: int
    """What names the response that it is part of."""
    tool: Runs
    attempt: int = 1


def arguments_of(item: Mapping[str, Any]) -> str:
    """Return a call's arguments as the JSON text that they should be; some backends give objects."""
    given = item.get("arguments", "")
    return given if isinstance(given, str) else encode(given).decode()


# -- opening


class Owed(NamedTuple):
    """What becomes of the open calls when a turn opens."""

    jobs: Mapping[str, Job]
    """Those that are run, by link."""
    sealed: list[tuple[Mapping[str, Any], str]]
    """Those that get an output in words at once."""
    waiting: list[OpenCall]
    """Those that wait for somebody else."""


def will_run(history: History, plan: Plan, call: Call) -> bool:
    """Return whether a turn runs an open call: its tool is here, nobody has to agree first, and it may be run.

    A call that was started may have taken effect, and one that was made before a fork is its parent's: only a tool that
    says so is run again, or what a person has agreed to in the fork.
    """
    item: Mapping[str, Any] = call.entry.value()
    tool = plan.own_tool(item)
    if tool is None or (history.attempts(call) and not tool.rerun_safe):
        return False
    if history.is_approved(call):
        return True
    return not _asks(history, tool, call) and (tool.rerun_safe or not history.is_inherited(call))


def _asks(history: History, tool: Runs, call: Call) -> bool:
    """Return whether a person must agree to a call of a tool."""
    return history.needs(call) == "approval" or tool.needs_approval(arguments_of(call.entry.value()))


def owed(history: History, plan: Plan, brought: Iterable[str]) -> Owed:
    """Return what becomes of the open calls, but for those whose outputs are *brought* by the input."""
    found, brought = Owed({}, [], []), frozenset(brought)
    jobs: dict[str, Job] = {}
    for call in history.unanswered():
        item, link = call.entry.value(), call.entry.reading.link or ""
        attempts = history.attempts(call)
        tool = plan.own_tool(item)
        if link in brought:
            continue
        if tool is not None and will_run(history, plan, call):
            jobs[link] = Job(item, call.entry.seq, call.at, tool, attempts + 1)
        elif attempts or (tool is not None and not _asks(history, tool, call)):
            found.sealed.append((item, ELSEWHERE if history.is_inherited(call) else UNKNOWN))
        else:
            needs = "approval" if tool is not None else history.needs(call)
            state: Literal["waiting", "approved"] = "approved" if history.is_approved(call) else "waiting"
            found.waiting.append(open_call(item, call.entry.seq, needs=needs, state=state))
            found.sealed.append((item, UNANSWERED))
    return found._replace(jobs=jobs)


def starts(jobs: Mapping[str, Job]) -> list[NewEvent]:
    """Return the events that say that calls are about to run."""
    return [event(CallStarted(call_id=link), response=job.response) for link, job in jobs.items()]


# -- running


class Worked(NamedTuple):
    """An output in the log."""

    link: str
    seq: int
    output: dict[str, Any]


async def run(
    hold: Hold,
    plan: Plan,
    jobs: Mapping[str, Job],
    emit: Emit,
    done: Callable[[Worked], None],
    *,
    turn: int,
    release: bool,
) -> None:
    """Run calls at the same time; each output is logged when it is there. *release*: the last one ends the turn."""
    left = len(jobs)

    async def one(link: str, job: Job) -> None:
        emit(StreamEvent(type="turnlog.call.started", call_id=link, seq=job.seq, response=job.response))
        said = await job.tool.run(arguments_of(job.item), context(link, job))
        # What a tool returned is not lost, even if the turn is cancelled right now.
        await finish(answer(link, job, {"type": _OUTPUT, "call_id": link, "output": said}))

    def context(link: str, job: Job) -> ToolContext:
        return ToolContext(
            conversation=hold.name,
            call_id=link,
            turn=turn,
            attempt=job.attempt,
            deps=plan.options.deps,
            idempotency_key=digest(encode([hold.name, job.seq, link]))[:32],
        )

    async def answer(link: str, job: Job, output: dict[str, Any]) -> None:
        nonlocal left
        made = await hold.engine.intake.item(output)

        def answered(appended: Appended) -> None:
            done(Worked(link, appended.last, output))
            kind = "turnlog.call.output"
            emit(StreamEvent(type=kind, item=output, call_id=link, seq=appended.last, response=job.response))

        left -= 1
        await hold.append([made], Release() if release and left == 0 else None, then=answered)

    failed: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            for link, job in jobs.items():
                group.start_soon(one, link, job)
    except BaseExceptionGroup as errors:
        failed = _first(errors)
    if failed is not None:
        raise failed


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
