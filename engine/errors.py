"""The errors turnlog raises: one short tree, cut by what the caller does about it.

Invalid      the input is wrong: mend it (over HTTP 422, a budget 413)
NotFound     there is nothing of that name (404, once deleted 410)
Conflict     somebody else was first: read again, wait, or choose another key (409)
ResponseFailed  the model did not answer; the input is in the log (502)
StoreError   the store cannot serve now (503)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .history import OpenCall
    from .turns.outcome import Result

__all__ = (
    "AlreadyAnswered",
    "AlreadyDecided",
    "BudgetExceeded",
    "CallsOpen",
    "Conflict",
    "ConversationBusy",
    "CorruptLog",
    "Fenced",
    "Invalid",
    "InvalidItem",
    "KeyReused",
    "NotFound",
    "ResponseFailed",
    "StoreError",
    "TurnlogError",
    "UnknownModel",
    "VersionConflict",
)


class TurnlogError(Exception):
    """The root of every error that turnlog raises on purpose. They can be copied and pickled, fields and all."""

    def __reduce__(self) -> tuple[Callable[..., TurnlogError], tuple[Any, ...], dict[str, Any]]:
        # The default would call the class with the finished message, which is not what its __init__ takes.
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[TurnlogError], args: tuple[Any, ...]) -> TurnlogError:
    return kind.__new__(kind, *args)


class Invalid(TurnlogError, ValueError):
    """The caller's input is wrong; the message names it and the remedy. Nothing was written."""


class InvalidItem(Invalid):
    """An item cannot be logged: `path` says where in the input, as a JSON path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class UnknownModel(Invalid):
    """A model's context window is not known, so no window can be cut for it."""

    def __init__(self, model: str, adapter: str) -> None:
        line = f'{adapter}(client, "{model}", budget=Budget(context=32_768, reserve=4_096))'
        if adapter == "window":
            line = "window(Budget(context=32_768, reserve=4_096))"
        super().__init__(
            f"{model}: context window unknown. Pass Budget(context=…) to {adapter}(...) or to this call, such as {line}"
        )
        self.model = model


class BudgetExceeded(Invalid):
    """What must be sent (pinned items, the turn's input, its last group) does not fit the budget."""

    def __init__(
        self,
        needed: int,
        available: int,
        what: str = "the pinned items, this turn's input and its last group",
        *,
        refused: int = 0,
    ) -> None:
        remedy = "Shorten the input, raise Budget(context=…), or lower its reserve."
        if refused:
            remedy = (
                f"Under this budget the server has refused {refused:,}. Shorten the input, or give the "
                "Budget(context=…) that the model really has."
            )
        super().__init__(f"{what} need {needed:,} tokens and {available:,} are available. {remedy}")
        self.needed = needed
        self.available = available


class NotFound(TurnlogError, LookupError):
    """There is no such thing in the store; `deleted` says whether there once was."""

    def __init__(self, what: str, *, deleted: bool = False) -> None:
        super().__init__(f"{what}: {'deleted' if deleted else 'not found'}")
        self.deleted = deleted


class Conflict(TurnlogError):
    """The conversation is not in the state that the call expected. Nothing was written."""


class VersionConflict(Conflict):
    """An append expected another version; read on and decide again. Or what was to be `created` is there already.

    >>> str(VersionConflict("ada", expected=4, actual=6))
    'ada: expected version 4, it is 6; read on and decide again'
    """

    def __init__(
        self, conversation: str, expected: int, actual: int, *, created: Literal["taken", "deleted"] | None = None
    ) -> None:
        told = f"expected version {expected}, it is {actual}; read on and decide again"
        if created == "taken":
            told = f"there is a conversation of this id already, at version {actual}; get it, or choose another id"
        elif created == "deleted":
            told = "the conversation of this id was deleted, and its id is never used again; choose another id or key"
        super().__init__(f"{conversation}: {told}")
        self.conversation = conversation
        self.expected = expected
        self.actual = actual


class ConversationBusy(Conflict):
    """Another turn is running; wait `retry_after` seconds, or call with when_busy="wait".

    These are whole seconds, rounded up, one at least: what an HTTP header Retry-After takes.
    """

    def __init__(self, conversation: str, turn: int, retry_after: float) -> None:
        seconds = max(1, ceil(retry_after))
        super().__init__(
            f'{conversation}: turn {turn} is running. Try again in {seconds} s, or pass when_busy="wait".',
        )
        self.conversation = conversation
        self.turn = turn
        self.retry_after = seconds


class KeyReused(Conflict):
    """An idempotency key came back with other content."""

    def __init__(self, conversation: str, key: str) -> None:
        super().__init__(
            f"{conversation}: key {key!r} was used for other input. A key names one input: choose a new one."
        )
        self.conversation = conversation
        self.key = key


def _ways_on(calls: Sequence[OpenCall]) -> str:
    """Return what can be done about calls that wait."""
    ways: list[str] = []
    approved = ", ".join(call.name for call in calls if call.state == "approved")
    if approved:
        ways.append(f"pass the tool of what a person has approved in tools= ({approved})")
    if any(call.needs == "approval" for call in calls):
        ways.append("give a person's decision with decide(call_id, …)")
    if any(call.needs == "output" for call in calls):
        ways.append("give the output with answer(call_id, …)")
    return ", or ".join(ways)


class CallsOpen(Conflict):
    """Calls of the last response wait for their outputs."""

    def __init__(self, conversation: str, calls: Sequence[OpenCall]) -> None:
        named = ", ".join(f"{call.name} ({call.call_id})" for call in calls)
        super().__init__(f'{conversation}: waiting for {named}: {_ways_on(calls)}, or pass open_calls="seal".')
        self.conversation = conversation
        self.calls = calls


class AlreadyAnswered(Conflict):
    """A call has its output; the first one stands."""

    def __init__(self, conversation: str, call_id: str, seq: int) -> None:
        call = f"call {call_id}" if call_id else "the search without an id"
        super().__init__(f"{conversation}: {call} was answered at {seq}; the first output stands.")
        self.conversation = conversation
        self.call_id = call_id
        self.seq = seq


class AlreadyDecided(Conflict):
    """A person has decided otherwise on a call, or it is too late to decide; what was decided stands."""

    def __init__(self, conversation: str, call_id: str, seq: int, why: str) -> None:
        super().__init__(f"{conversation}: call {call_id} {why} at {seq}; that stands.")
        self.conversation = conversation
        self.call_id = call_id
        self.seq = seq


class Fenced(Conflict):
    """The turn's lease passed to somebody else while this worker was away; its append was refused."""

    def __init__(self, conversation: str, fence: int, generation: int) -> None:
        super().__init__(
            f"{conversation}: this worker's lease (generation {fence}) was taken over (now {generation}); "
            "the turn goes on elsewhere.",
        )
        self.conversation = conversation
        self.fence = fence
        self.generation = generation


class ResponseFailed(TurnlogError):
    """The model's call failed after its request was logged; `__cause__` is the client's own error.

    The input stays in the log: `respond(model)` without input tries again where `retryable` says it may help.
    """

    def __init__(
        self,
        message: str,
        result: Result,
        *,
        code: str | None = None,
        status_code: int | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.result = result
        self.code = code
        self.status_code = status_code
        self.retryable = retryable


class StoreError(TurnlogError):
    """The store cannot do it: read-only, full, foreign, newer; `retryable` says whether waiting may help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class CorruptLog(StoreError):
    """A stored event is not what was written."""
