"""The forms in which APIs take items: what of one they would refuse, and what has no place in Chat Completions. Pure.

Providers, and what stands between, give items that they do not take themselves: no content, a part that is nothing, a
status of their own. The log keeps these as they came. Intake flags them, windows send them put right, and their
manifests say so.

Source: the input item union of `POST /responses`; the message parameters of `POST /chat/completions`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from operator import is_not
from typing import Any, Final, NamedTuple

from .canonical import encode
from .items import ROLES, Item, content_of, parts

__all__ = (
    "LONGEST_ID",
    "LONGEST_MESSAGE_ID",
    "mended",
    "says_more",
    "short",
    "texts_only",
    "unplaced",
    "with_short_id",
)

LONGEST_ID: Final = 64
"""Characters that the Responses API takes of the id of a call."""
LONGEST_MESSAGE_ID: Final = 40
"""The same of Chat Completions."""


class _Field(NamedTuple):
    """What a field may hold; None is always left to others."""

    fits: Callable[[Any], bool]
    instead: Any = None
    """What it holds else; None: it goes."""
    needed: bool = False
    """Whether it has to be there, and may not be null."""


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_STATES: Final = ("in_progress", "completed", "incomplete")
_STATUS: Final = _Field(_one_of(*_STATES))
_GOING: Final = ("searching", "interpreting", "generating", "calling", "failed")
_HOSTED: Final = {"status": _Field(_one_of(*_STATES, *_GOING), instead="completed")}
_WITH_STATUS: Final = (
    "code_interpreter_call",
    "file_search_call",
    "image_generation_call",
    "mcp_call",
    "web_search_call",
)
_SAYING: Final = {"content": _Field(_is(str, list), instead="", needed=True), "status": _STATUS}
_OUTPUT: Final = {"output": _Field(_is(str, list), instead="", needed=True), "status": _STATUS}
_CALL: Final = {
    "status": _STATUS,
    "namespace": _Field(_is(str)),
    "caller": _Field(_is(dict)),
    "async": _Field(_is(bool)),
}
_FIELDS: Final[Mapping[str, Mapping[str, _Field]]] = {
    "assistant": {
        "content": _Field(_is(str, list), instead=[], needed=True),
        "status": _Field(_one_of(*_STATES), instead="completed"),
        "phase": _Field(_one_of("commentary", "final_answer")),
    },
    **dict.fromkeys(("user", "system", "developer"), _SAYING),
    "reasoning": {
        "summary": _Field(_is(list), instead=[], needed=True),
        "content": _Field(_is(list)),
        "status": _STATUS,
    },
    "function_call": _CALL,
    "custom_tool_call": _CALL,
    **dict.fromkeys(("function_call_output", "custom_tool_call_output"), _OUTPUT),
    **dict.fromkeys(_WITH_STATUS, _HOSTED),
}
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(ROLES, ("content",)),
    **dict.fromkeys(("function_call_output", "custom_tool_call_output"), ("output",)),
    "reasoning": ("summary", "content"),
}
"""Where kinds have their parts."""
_TEXTS: Final = {"refusal": "refusal"} | dict.fromkeys(
    ("input_text", "output_text", "summary_text", "reasoning_text", "text"), "text"
)
"""Where parts have their text."""
_LISTS: Final = ("annotations", "logprobs")
_SPOKEN: Final = ("output_text", "refusal")


def mended(item: Any, shape: str, *, chat: bool = False) -> Any:
    """Return an item with what an API would refuse put right; the same object where there is nothing.

    For *chat*, parts of any type are left alone: which of them go, `turnlog.engine.messages` knows.

    >>> said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "weird", "content": [None]}
    >>> mended(said, "assistant")
    {'type': 'message', 'id': 'msg_1', 'role': 'assistant', 'status': 'completed', 'content': []}
    """
    changed: dict[str, Any] = {}
    for name, field in _FIELDS.get(shape, {}).items():
        value = item.get(name)
        if field.needed if value is None else not field.fits(value):
            changed[name] = field.instead
    for name in _PARTS.get(shape, ()):
        value = item.get(name)
        if isinstance(value, list):
            made = [_part(part, shape, chat=chat) for part in value]
            if any(map(is_not, made, value)) or None in value:
                changed[name] = [part for part in made if part is not None]
    if not changed:
        return item
    return {key: value for key, value in {**item, **changed}.items() if value is not None or key not in changed}


def _part(part: Any, shape: str, *, chat: bool) -> Any:
    """Return a part as an API takes it, the same object where it is one; None where nothing is left of it."""
    if not isinstance(part, dict):
        return None
    kind = part.get("type")
    spoken = shape == "assistant" and not (chat and isinstance(kind, str))
    field = _TEXTS.get(kind) if isinstance(kind, str) else None
    if field is not None:
        return _text(part, field, spoken=spoken)
    if not spoken:
        return part  # of a user's parts `render` names those that it does not know
    told = part.get("text")
    return {"type": "output_text", "text": told} if isinstance(told, str) else None


def _text(part: dict[str, Any], field: str, *, spoken: bool) -> dict[str, Any] | None:
    text = part.get(field)
    if text is None:
        return None
    if not isinstance(text, str):
        part = {**part, field: encode(text).decode()}
    if spoken and part["type"] not in _SPOKEN:
        part = {**part, "type": "output_text"}
    odd = [name for name in _LISTS if (found := part.get(name)) is not None and not isinstance(found, list)]
    return {key: value for key, value in part.items() if key not in odd} if odd else part


def short(name: str, longest: int) -> str:
    """Return an id of so many characters at most: the same for the same, and another for another."""
    return name if len(name) <= longest else f"call_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def with_short_id(item: dict[str, Any]) -> dict[str, Any]:
    """Return a call or an output under an id that the Responses API takes; other backends give longer ones."""
    name = item.get("call_id")
    return {**item, "call_id": short(name, LONGEST_ID)} if isinstance(name, str) and len(name) > LONGEST_ID else item


# -- Chat Completions


def unplaced(item: Item, shape: str) -> Iterator[str]:
    """Name what of an item has no place in a Chat Completions message, although the item has.

    >>> list(unplaced({"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}, "user"))
    ['an image by file id']
    """
    if shape not in _SAID:
        return
    for name in _SAID[shape]:
        if item.get(name):
            yield f"its {name}"
    if (shape in ROLES or shape.endswith("_output")) and not isinstance(content_of(item), str):
        seen: set[str] = set()
        for part in parts(item):
            said = part.get("type")
            if not isinstance(said, str) or said not in _TEXTS:
                seen.update(_of_part(part, said, shape))
            elif part.get("annotations"):
                seen.add("annotations")
        yield from sorted(seen)


_SAID: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("user", "system", "developer"), ()),
    "assistant": ("phase",),
    "function_call": ("namespace", "caller"),
    "custom_tool_call": ("namespace", "caller"),
    "function_call_output": ("namespace",),
    "custom_tool_call_output": (),
}
"""Kinds that Chat Completions has, with their fields that it has not."""
_TEXTS_ONLY: Final = ("system", "developer")
"""Roles of which Chat Completions takes nothing but texts; of what others may not say, messages are made so."""
_LEFT_OUT: Final = "[{} left out: this API takes none here]"
_NAMES: Final = {"input_image": "an image", "input_file": "a file", "input_audio": "audio"}


def says_more(item: Item, shape: str) -> bool:
    """Return whether a message of a role that Chat Completions takes texts of holds something else."""
    return shape in _TEXTS_ONLY and any(part.get("type") not in _TEXTS for part in parts(item))


def texts_only(item: dict[str, Any]) -> dict[str, Any]:
    """Return such a message with everything else named in its place.

    >>> texts_only({"role": "system", "content": [{"type": "input_image", "file_id": "file_1"}]})["content"]
    [{'type': 'input_text', 'text': '[input_image left out: this API takes none here]'}]
    """
    made = [
        part if part.get("type") in _TEXTS else {"type": "input_text", "text": _LEFT_OUT.format(part.get("type"))}
        for part in parts(item)
    ]
    return {**item, "content": made}


def _of_part(part: Mapping[str, Any], said: Any, shape: str) -> Iterator[str]:
    """Name what of a part that is no text has no place."""
    kind = said if isinstance(said, str) else ""
    name = _NAMES.get(kind, f"a part of the type {said!s:.60}")
    if shape.endswith("_output") or shape in ("assistant", *_TEXTS_ONLY):
        yield name
    elif kind == "input_image" and not isinstance(part.get("image_url"), str):
        yield f"{name} by file id"
    elif kind == "input_image" and part.get("detail") == "original":
        yield 'an image\'s detail "original"'
    elif kind == "input_file" and "file_url" in part:
        yield f"{name} by URL"
    elif kind not in ("input_image", "input_file", "input_audio", "image_url", "file"):
        yield name
