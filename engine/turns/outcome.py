"""What a turn is asked, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from ..errors import ResponseFailed
from ..events import Usage
from ..history import OpenCall
from ..ids import ANY, Expected
from ..items import Item, parts, read
from ..model import ModelFailure
from ..tools import Tools
from ..window.budget import Budget
from ..window.policies import Policy

if TYPE_CHECKING:
    from ..conversation import Conversation

__all__ = (
    "CUT_OFF",
    "ELSEWHERE",
    "NEVER_RAN",
    "TOO_MANY",
    "UNANSWERED",
    "UNKNOWN",
    "Options",
    "Result",
    "Status",
    "WhenBusy",
    "failed",
    "open_call",
    "text_of",
)

NEVER_RAN: Final = "[interrupted before this call was started: it never ran]"
UNKNOWN: Final = "[interrupted while this call was running: whether it took effect is unknown]"
ELSEWHERE: Final = (
    "[not run here: this call was made before the conversation was forked, and is left to the one it was forked from]"
)
UNANSWERED: Final = "[no output was given: the conversation went on without it]"
TOO_MANY: Final = "[not run: the turn reached its limit of model calls]"
CUT_OFF: Final = "[not run: the answer was cut off]"
"""What a seal says of its call. Logs are full of these words: they are told from one another by them."""

Status: TypeAlias = Literal["completed", "incomplete", "waiting"]
"""completed; incomplete: a limit ended it (see `reason`); waiting: calls are open. Failures are raised."""
WhenBusy: TypeAlias = Literal["raise", "wait"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of respond, run and stream."""

    instructions: str | None = None
    tools: Tools = ()
    params: Mapping[str, object] | None = None
    budget: Budget | None = None
    policy: Policy | None = None
    key: str | None = None
    expected: Expected = ANY
    when_busy: WhenBusy = "raise"
    open_calls: Literal["raise", "seal"] = "raise"
    rounds: int | None = None
    """Model calls at most; None: one, and tools are declared but not executed."""
    deps: object = None
    aside: bool = False
    """Whether it is a call beside the conversation."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of respond, run or stream."""

    status: Status
    output_text: str
    """The text of the last answer's messages."""
    items: Sequence[Item] = ()
    """What the model made and its tools returned, in order."""
    usage: Usage = msgspec.field(default_factory=Usage)
    """Summed over the model calls that were made here."""
    turn: int
    """The seq that names the turn."""
    version: int
    """The conversation's version right after."""
    reason: str | None = None
    """Why it is incomplete: max_output_tokens, content_filter, max_rounds, …"""
    response_id: str | None = None
    """What the provider called the last response."""
    open_calls: Sequence[OpenCall] = ()
    replayed: bool = False
    """Whether an earlier attempt with the same key had done it all."""
    conversation: Conversation


def text_of(items: Sequence[Item]) -> str:
    """Return the text of the assistant's messages among items."""
    return "".join(
        str(part["text"])
        for item in items
        if read(item).shape == "assistant"
        for part in parts(item)
        if isinstance(part.get("text"), str)
    )


def failed(model: str, failure: ModelFailure, result: Result) -> ResponseFailed:
    """Return what to raise where a model did not answer."""
    return ResponseFailed(
        f"{model}: {failure.message}",
        result,
        code=failure.code,
        status_code=failure.status_code,
        retryable=failure.retryable,
    )


def open_call(
    item: Mapping[str, Any],
    seq: int,
    *,
    needs: Literal["output", "approval"] = "output",
    state: Literal["waiting", "approved", "running", "unknown"] = "waiting",
) -> OpenCall:
    """Return a call whose output is owed."""
    shape = read(item)
    arguments = item.get("arguments", item.get("input", ""))
    return OpenCall(
        call_id=shape.link or "",
        name=str(item.get("name") or shape.shape),
        arguments=arguments if isinstance(arguments, str) else "",
        seq=seq,
        needs="approval" if shape.shape == "mcp_approval_request" else needs,
        state=state,
    )
