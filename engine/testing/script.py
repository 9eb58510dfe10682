"""What a scripted server answers: parts, replies, failures, and the script that orders them.

Values only, all immutable; nothing here knows HTTP. A part becomes one output item on the Responses API, and a
share of the one assistant message on Chat Completions. Every part has a `text`, which is what the model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = (
    "Answer",
    "Api",
    "Call",
    "CustomCall",
    "Entry",
    "Fail",
    "Hang",
    "Item",
    "Part",
    "Raw",
    "Reason",
    "Received",
    "Refuse",
    "Reply",
    "Script",
    "Status",
    "Text",
    "as_answer",
)

Api: TypeAlias = Literal["responses", "chat", "compact"]
Status: TypeAlias = Literal["completed", "incomplete", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request that reached an endpoint of the server, whatever was answered to it.

    *headers* are found in any case. *body* is the decoded JSON, or None where *content* is not JSON. *number* counts
    the requests to the endpoints in the order of their arrival; ids of the answer are made from it. *context* are the
    items that the server itself has put before the input: those of a previous response, or of a conversation.
    """

    path: str
    api: Api
    headers: Mapping[str, str]
    content: bytes
    body: Any
    number: int
    context: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """An assistant message of one text.

    *phase* is sent on the Responses API only. On Chat Completions the texts of a reply are joined without a
    separator.
    """

    text: str
    phase: Literal["commentary", "final_answer"] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Refuse:
    """An assistant message that is a refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function call.

    *arguments* is a mapping, sent as compact JSON, or the very string to send, which need not be JSON. *id* is the
    id that pairs the call with its output; None makes one from the request's number and the place of the part.

    >>> Call("weather", {"city": "Paris"}).text
    '{"city":"Paris"}'
    """

    name: str
    arguments: Mapping[str, Any] | str = "{}"
    id: str | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The arguments as they are sent."""
        return self.arguments if isinstance(self.arguments, str) else _compact(self.arguments)


@dataclass(frozen=True, slots=True)
class CustomCall:
    """A call of a custom tool, whose input is plain text; *id* as in `Call`."""

    name: str
    input: str = ""
    id: str | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The input as it is sent."""
        return self.input


@dataclass(frozen=True, slots=True)
class Reason:
    """A reasoning item.

    *summary* is the text of its one summary part, none when empty; *content* is raw reasoning text. *encrypted* is
    the opaque payload: True makes one from the item's id, None leaves it out. Chat Completions carries only text:
    *content*, or *summary* where there is none.
    """

    summary: str = ""
    encrypted: str | Literal[True] | None = field(default=True, kw_only=True)
    content: str | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The text a Chat Completions answer shows."""
        return self.summary if self.content is None else self.content


@dataclass(frozen=True, slots=True)
class Item:
    """An output item of the Responses API, sent verbatim.

    In a stream it is whole in `response.output_item.added` already, and has no deltas. Chat Completions answers HTTP
    500, because it has no place for items.
    """

    item: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The item as JSON."""
        return _compact(self.item)


Part: TypeAlias = Text | Refuse | Call | CustomCall | Reason | Item
_PARTS = (Text, Refuse, Call, CustomCall, Reason, Item)


@dataclass(frozen=True, slots=True, init=False)
class Reply:
    """One answer of the model: parts in their order, and how they are sent.

    *status*: `incomplete` has *reason* (`max_output_tokens` unless given; on Chat Completions a finish reason),
    `failed` has *error* (`code` and `message`; a Responses stream ends with `response.failed`, a Responses answer
    has status `failed`, a Chat stream ends with an error, and a Chat answer is HTTP 500). *as_event* puts an `error`
    event before `response.failed`: nested in an `error` key, or flat.

    *usage*: None computes it from the number of characters, a mapping is sent verbatim, False sends none.
    *reasoning_field* names the field of Chat Completions that carries `Reason`; None leaves reasoning out.

    *delay* is in seconds: between the events of a stream, or before an answer that is not streamed. *cut_after*
    closes the connection without an end after that many events, or half way through an answer that is not streamed.
    *chunk* is the length of a delta in characters, 8 unless given.

    Raises:
        TypeError: a part is neither a part nor a string.
        ValueError: a status, a number or a combination is outside of the above.
    """

    parts: tuple[Part, ...]
    status: Status
    reason: str | None
    usage: Mapping[str, Any] | Literal[False] | None
    error: Mapping[str, Any] | None
    as_event: Literal["failed", "error_nested", "error_flat"]
    reasoning_field: Literal["reasoning_content", "reasoning"] | None
    delay: float
    cut_after: int | None
    chunk: int

    def __init__(
        self,
        *parts: Part | str,
        status: Status = "completed",
        reason: str | None = None,
        usage: Mapping[str, Any] | Literal[False] | None = None,
        error: Mapping[str, Any] | None = None,
        as_event: Literal["failed", "error_nested", "error_flat"] = "failed",
        reasoning_field: Literal["reasoning_content", "reasoning"] | None = "reasoning_content",
        delay: float = 0.0,
        cut_after: int | None = None,
        chunk: int | None = None,
    ) -> None:
        _check_status(status, reason, error, as_event)
        _check_pace(delay, cut_after, chunk)
        given = {
            "parts": tuple(map(_part, parts)),
            "status": status,
            "reason": reason,
            "usage": usage,
            "error": error,
            "as_event": as_event,
            "reasoning_field": reasoning_field,
            "delay": delay,
            "cut_after": cut_after,
            "chunk": 8 if chunk is None else chunk,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Fail:
    """An HTTP error with a body in OpenAI's shape.

    *type* is the error's type; None takes the one usual for the status. *headers* are added to the answer, such as
    `retry-after` in seconds or `x-should-retry`, which openai's client obeys.
    """

    status: int
    code: str | None = field(default=None, kw_only=True)
    message: str = field(default="A scripted failure.", kw_only=True)
    type: str | None = field(default=None, kw_only=True)
    param: str | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class Hang:
    """Takes the request, sends nothing for *seconds*, then closes the connection without an answer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer of these very bytes, for what no correct server sends."""

    content: bytes
    status: int = field(default=200, kw_only=True)
    content_type: str = field(default="text/event-stream", kw_only=True)


Answer: TypeAlias = Reply | Fail | Hang | Raw
Entry: TypeAlias = Answer | Part | str
Script: TypeAlias = Sequence[Entry] | Callable[[Received], Entry | Awaitable[Entry]]


def as_answer(entry: object) -> Answer:
    """An entry of a script as an answer: a part or a string becomes the reply that has only it.

    >>> as_answer("Hello").parts
    (Text(text='Hello', phase=None),)

    Raises:
        TypeError: the entry is none of those.
    """
    if isinstance(entry, (Reply, Fail, Hang, Raw)):
        return entry
    if isinstance(entry, (str, *_PARTS)):
        return Reply(entry)
    raise TypeError(f"A script answers with a Reply, Fail, Hang, Raw, a part or a string, not with {entry!r}.")


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _part(part: object) -> Part:
    if isinstance(part, str):
        return Text(part)
    if isinstance(part, _PARTS):
        return part
    raise TypeError(f"A Reply holds Text, Refuse, Call, CustomCall, Reason, Item or strings, not {part!r}.")


def _check_status(status: str, reason: str | None, error: object, as_event: str) -> None:
    if status not in ("completed", "incomplete", "failed"):
        raise ValueError(f"Reply(status={status!r}): use 'completed', 'incomplete' or 'failed'.")
    if reason is not None and status != "incomplete":
        raise ValueError(f"Reply(reason={reason!r}) needs status='incomplete'.")
    if (error is not None or as_event != "failed") and status != "failed":
        raise ValueError("Reply(error=…) and Reply(as_event=…) need status='failed'.")
    if as_event not in ("failed", "error_nested", "error_flat"):
        raise ValueError(f"Reply(as_event={as_event!r}): use 'failed', 'error_nested' or 'error_flat'.")


def _check_pace(delay: float, cut_after: int | None, chunk: int | None) -> None:
    if delay < 0 or (cut_after is not None and cut_after < 0):
        raise ValueError("Reply(delay=…) and Reply(cut_after=…) cannot be negative.")
    if chunk is not None and chunk < 1:
        raise ValueError("Reply(chunk=…) is at least one character.")
