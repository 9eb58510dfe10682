"""Steps of generated conversations: what somebody did, in terms loose enough that any list of steps makes a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from ..events import Target
from ..window.budget import Budget

__all__ = (
    "BUDGETS",
    "PNG",
    "TARGETS",
    "Again",
    "Aside",
    "Compact",
    "Erase",
    "Fork",
    "Note",
    "Output",
    "Part",
    "PartKind",
    "Respond",
    "Rewind",
    "Say",
    "Step",
    "Undo",
    "item_of",
    "words",
)

TARGETS: Final = (
    Target(api="responses", backend="a", model="m"),
    Target(api="responses", backend="a", model="n"),
    Target(api="responses", backend="b", model="m"),
    Target(api="chat", backend="a", model="m"),
    Target(api="chat", backend="c", model="q"),
    Target(api="chat", backend="c", model="q", thoughts="tool_turns"),
    Target(api="chat", backend="c", model="r", thoughts="always"),
)
"""Whom windows are made for: both APIs, other models and backends than the one before, some that want thoughts back."""
BUDGETS: Final = (Budget(150), Budget(400, 40), Budget(1000), Budget(2500), Budget(20_000))
"""From hardly more than an input takes to more than a generated conversation has."""
PNG: Final = "data:image/png;base64,iVBORw0KGgo="
_WORDS: Final = (
    *("the", "quick", "brown", "fox", "🦊", "jumps", "over", "12,345", "lazy", "dogs", "and", "“naïve”", "cafés;"),
    *("東京", "is", "far,", "isn't", "it?", "def", "f(x):\n   ", "return", "x", "**", "2", "#", "ok\n"),
)


def words(size: int, start: int = 0) -> str:
    """Return a text of so many words, of prose, code and other scripts."""
    return " ".join(_WORDS[(start + at) % len(_WORDS)] for at in range(size))


@dataclass(frozen=True, slots=True)
class Say:
    """A caller appends items, in one append."""

    items: tuple[Mapping[str, Any], ...]
    pinned: bool = False


PartKind: TypeAlias = Literal[
    "thought",
    "secret",
    "message",
    "refusal",
    "call",
    "custom",
    "computer",
    "web_search",
    "image",
    "mcp",
    "mcp_list",
    "approval",
    "file_search",
    "code",
    "local_shell",
    "shell",
    "patch",
    "tool_search",
    "found",
    "program",
    "program_output",
    "called",
    "note",
    "compaction",
]


@dataclass(frozen=True, slots=True)
class Part:
    """One item of an answer: its kind, and how long it is."""

    kind: PartKind
    size: int = 3
    repeated: bool = False
    """Whether it comes under ids that others have had, as some backends give them: its own, and that of a call."""


@dataclass(frozen=True, slots=True)
class Respond:
    """A model is called: its window is chosen and logged, then comes its answer, and how that ended."""

    target: int = 0
    budget: int = 4
    parts: tuple[Part, ...] = (Part("message"),)
    end: Literal["completed", "incomplete", "failed", "interrupted", "crashed"] = "completed"
    meanwhile: tuple[int, ...] = ()
    """Before which items of the answer somebody else appends a message."""
    early: tuple[int, ...] = ()
    """Behind which calls of the answer an output comes at once, while the answer is still under way."""
    partial: int = 0
    """Words of an unfinished message, when it was interrupted."""
    ratio: float = 1.0
    """What the API reports as input, by what was counted."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output for the n-th call from the end, or a seal that says that there is none."""

    call: int = 0
    size: int = 3
    sealed: bool = False
    shape: Literal["text", "parts", "image"] = "text"


@dataclass(frozen=True, slots=True)
class Again:
    """A caller appends the items of the n-th response from the end, as SDK users do with `response.output`."""

    response: int = 0


@dataclass(frozen=True, slots=True)
class Aside:
    """A model call beside the conversation."""

    target: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """An event without an item."""


@dataclass(frozen=True, slots=True)
class Compact:
    """A compaction up to the n-th place from the end at which no group is cut."""

    place: int = 0
    method: Literal["remote", "server", "summary", "extract"] = "remote"
    readable: bool = True
    """Whether there is something for those who cannot read an opaque item of it."""


@dataclass(frozen=True, slots=True)
class Undo:
    """The n-th compaction from the end counts no more."""

    compaction: int = 0


@dataclass(frozen=True, slots=True)
class Rewind:
    """The conversation goes on from the n-th place from the end at which no group is cut, on any branch."""

    place: int = 0


@dataclass(frozen=True, slots=True)
class Fork:
    """What follows is written into a fork, made at the n-th place from the end at which no group is cut."""

    place: int = 0


@dataclass(frozen=True, slots=True)
class Erase:
    """The content of the n-th item from the end is overwritten."""

    item: int = 0


Step: TypeAlias = Say | Respond | Output | Again | Aside | Note | Compact | Undo | Rewind | Fork | Erase


# -- what models make


def item_of(part: Part, number: int, api: str) -> dict[str, Any]:
    """Return a part of an answer as the item that a model of an API makes; *number* is in its ids."""
    kind = part.kind
    if api == "chat" and kind not in _CHAT:
        kind = "message"
    if api != "chat" and kind == "thought":
        kind = "secret"  # a stateless API gives no other reasoning
    item: dict[str, Any] = _MADE[kind](str(number), part)
    if part.repeated:
        item["id"] = f"{item['id'].partition('_')[0]}_0"
    if api == "chat":
        item = {key: value for key, value in item.items() if key not in ("id", "status")}
        if kind == "message":
            item["content"] = words(part.size)
    return item


_CHAT: Final = frozenset({"thought", "message", "refusal", "call", "custom"})


def _message(number: str, part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}


def _call_id(number: str, part: Part) -> str:
    return "call_0" if part.repeated else f"call_{number}"


def _program(part: Part) -> str:
    # Few, so that outputs and calls of a later answer are of a program that there is.
    return f"prog_{part.size % 3}"


_MADE: Final[Mapping[PartKind, Any]] = {
    "thought": lambda n, part: {
        "type": "reasoning",
        "id": f"rs_{n}",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": words(part.size)}],
    },
    "secret": lambda n, part: {
        "type": "reasoning",
        "id": f"rs_{n}",
        "summary": [{"type": "summary_text", "text": words(part.size)}],
        "encrypted_content": "gAAA" * 200,
    },
    "message": lambda n, part: _message(n, {"type": "output_text", "text": words(part.size), "annotations": []}),
    "refusal": lambda n, part: _message(n, {"type": "refusal", "refusal": words(part.size)}),
    "call": lambda n, part: {
        "type": "function_call",
        "id": f"fc_{n}",
        "call_id": _call_id(n, part),
        "name": "look",
        "arguments": f'{{"at": "{part.size}"}}',
        "status": "completed",
    },
    "custom": lambda n, part: {
        "type": "custom_tool_call",
        "id": f"ctc_{n}",
        "call_id": _call_id(n, part),
        "name": "shell",
        "input": words(part.size),
    },
    "computer": lambda n, part: {
        "type": "computer_call",
        "id": f"cu_{n}",
        "call_id": _call_id(n, part),
        "action": {"type": "screenshot"},
        "pending_safety_checks": [],
        "status": "completed",
    },
    "web_search": lambda n, part: {
        "type": "web_search_call",
        "id": f"ws_{n}",
        "status": "completed",
        "action": {"type": "search", "query": words(part.size)},
    },
    "image": lambda n, part: {
        "type": "image_generation_call",
        "id": f"ig_{n}",
        "status": "completed",
        "result": "iVBOR" * (1 + part.size),
    },
    "mcp": lambda n, part: {
        "type": "mcp_call",
        "id": f"mcp_{n}",
        "server_label": "s",
        "name": "find",
        "arguments": "{}",
        "output": words(part.size),
    },
    "mcp_list": lambda n, _: {"type": "mcp_list_tools", "id": f"mcpl_{n}", "server_label": "s", "tools": []},
    "approval": lambda n, _: {
        "type": "mcp_approval_request",
        "id": f"mcpr_{n}",
        "name": "find",
        "arguments": "{}",
        "server_label": "s",
    },
    "file_search": lambda n, part: {
        "type": "file_search_call",
        "id": f"fs_{n}",
        "status": "completed",
        "queries": [words(part.size)],
    },
    "code": lambda n, part: {
        "type": "code_interpreter_call",
        "id": f"ci_{n}",
        "container_id": "cntr_1",
        "status": "completed",
        "code": words(part.size),
    },
    "local_shell": lambda n, part: {
        "type": "local_shell_call",
        "id": f"lsh_{n}",
        "call_id": _call_id(n, part),
        "action": {"type": "exec", "command": ["ls"], "env": {}},
        "status": "completed",
    },
    "shell": lambda n, part: {
        "type": "shell_call",
        "id": f"sh_{n}",
        "call_id": _call_id(n, part),
        "action": {"commands": [words(part.size)]},
        "status": "completed",
    },
    "patch": lambda n, part: {
        "type": "apply_patch_call",
        "id": f"apc_{n}",
        "call_id": _call_id(n, part),
        "operation": {"type": "delete_file", "path": "x"},
        "status": "completed",
    },
    "tool_search": lambda n, part: {
        "type": "tool_search_call",
        "id": f"tsc_{n}",
        "call_id": None if part.repeated else f"call_{n}",
        "execution": "server" if part.repeated and part.size % 2 else "client",
        "arguments": {"query": words(part.size)},
        "status": "completed",
    },
    "found": lambda n, _: {
        "type": "tool_search_output",
        "id": f"tso_{n}",
        "call_id": None,
        "execution": "server",
        "tools": [],
        "status": "completed",
    },
    "program": lambda n, part: {
        "type": "program",
        "id": f"pr_{n}",
        "call_id": _program(part),
        "code": words(part.size),
        "fingerprint": "x" * 20,
    },
    "program_output": lambda n, part: {
        "type": "program_output",
        "id": f"po_{n}",
        "call_id": _program(part),
        "result": words(part.size),
        "status": "completed",
    },
    "called": lambda n, part: {
        "type": "function_call",
        "id": f"fc_{n}",
        "call_id": _call_id(n, part),
        "name": "look",
        "arguments": "{}",
        "status": "completed",
        "caller": {"type": "program", "caller_id": _program(part)},
    },
    "note": lambda n, part: {"type": "acme:thought", "id": f"at_{n}", "text": words(part.size)},
    "compaction": lambda n, _: {"type": "compaction", "id": f"cmp_{n}", "encrypted_content": "x" * 900},
}
