"""The fields of items and of their parts: what a request needs of each kind, and what it takes beside that. Pure.

What a kind does not have goes nowhere but back to the backend that gave it, and what it needs no caller may leave out.
Ids and statuses that a provider gives are not needed here: windows see to these.

Source: the input item union of `POST /responses`, with the content parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ("FIELDS", "OUTPUT_ONLY", "Fields", "Wanting", "surplus", "trimmed", "wanting")

_Form: TypeAlias = type | tuple[type, ...] | frozenset[str]
"""What a field holds: a value of these types, or one of these words."""


class Fields(NamedTuple):
    """What an item or a part of one kind is made of, beside its type."""

    needs: Mapping[str, _Form]
    has: Mapping[str, _Form]
    """What it may have beside that; null is nothing."""


class Wanting(NamedTuple):
    """A field that an item needs, and has not, or not in the form that it has to have."""

    path: str
    needs: str
    """What is needed, in words."""


OUTPUT_ONLY: Final = frozenset({"created_by", "parsed", "parsed_arguments", "provider_data"})
"""Fields that the API gives on stored items, or that clients add, and refuses on input."""
_NAMES: Final[Mapping[type, str]] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a whole number",
    object: "any value",
}

_STATUS: Final = frozenset({"in_progress", "completed", "incomplete"})
_GOING: Final = _STATUS | {"searching", "interpreting", "generating", "calling", "failed"}
_ROLES: Final = ("user", "system", "developer", "assistant")
_SAID: Final = (str, list)
_AT_MOST: Final[Mapping[str, _Form]] = {"id": str, "status": _STATUS, "caller": dict}
"""What all calls may have, and their outputs."""
_SAYS: Final[Mapping[str, _Form]] = {
    "id": str,
    "status": _STATUS,
    "name": str,
    "phase": frozenset({"commentary", "final_answer"}),
}
_CALL: Final[Mapping[str, _Form]] = {**_AT_MOST, "namespace": str, "async": bool}
_FOUND: Final[Mapping[str, _Form]] = {
    "id": str,
    "call_id": str,
    "execution": frozenset({"server", "client"}),
    "status": _STATUS,
}
_MADE: Final = ("action", "background", "output_format", "quality", "result", "revised_prompt", "size")

FIELDS: Final[Mapping[str, Fields]] = {
    **dict.fromkeys(_ROLES, Fields({"role": frozenset(_ROLES), "content": _SAID}, _SAYS)),
    "reasoning": Fields({"summary": list}, {"id": str, "content": list, "encrypted_content": str, "status": _STATUS}),
    "compaction": Fields({"encrypted_content": str}, {"id": str}),
    "function_call": Fields({"call_id": str, "name": str, "arguments": str}, _CALL),
    "function_call_output": Fields({"call_id": str, "output": _SAID}, {**_AT_MOST, "name": str, "namespace": str}),
    "custom_tool_call": Fields({"call_id": str, "name": str, "input": str}, _CALL),
    "custom_tool_call_output": Fields({"call_id": str, "output": _SAID}, _AT_MOST),
    "computer_call": Fields(
        {"call_id": str, "pending_safety_checks": list}, {"id": str, "status": _STATUS, "action": dict, "actions": list}
    ),
    "computer_call_output": Fields(
        {"call_id": str, "output": dict}, {"id": str, "status": _STATUS, "acknowledged_safety_checks": list}
    ),
    "local_shell_call": Fields({"call_id": str, "action": dict}, {"id": str, "status": _STATUS}),
    "local_shell_call_output": Fields({"id": str, "output": str}, {"status": _STATUS}),
    "shell_call": Fields({"call_id": str, "action": dict}, {**_AT_MOST, "environment": dict}),
    "shell_call_output": Fields({"call_id": str, "output": list}, {**_AT_MOST, "max_output_length": int}),
    "apply_patch_call": Fields(
        {"call_id": str, "operation": dict, "status": frozenset({"in_progress", "completed"})},
        {"id": str, "caller": dict},
    ),
    "apply_patch_call_output": Fields(
        {"call_id": str, "status": frozenset({"completed", "failed"})}, {"id": str, "caller": dict, "output": str}
    ),
    "tool_search_call": Fields({"arguments": object}, _FOUND),
    "tool_search_output": Fields({"tools": list}, _FOUND),
    "additional_tools": Fields({"role": frozenset({"developer"}), "tools": list}, {"id": str}),
    "configuration_update": Fields({}, {"id": str, "reasoning": dict, "text": dict}),
    "program": Fields({"call_id": str, "code": str, "fingerprint": str}, {"id": str}),
    "program_output": Fields(
        {"call_id": str, "result": str, "status": frozenset({"completed", "incomplete"})}, {"id": str}
    ),
    "file_search_call": Fields({"queries": list}, {"id": str, "status": _GOING, "results": list}),
    # Earlier answers name no action.
    "web_search_call": Fields({}, {"id": str, "status": _GOING, "action": dict}),
    "code_interpreter_call": Fields({"container_id": str}, {"id": str, "status": _GOING, "code": str, "outputs": list}),
    "image_generation_call": Fields(
        {}, {"id": str, "status": _GOING, "error": dict, "svg_usage": dict, **dict.fromkeys(_MADE, str)}
    ),
    "mcp_list_tools": Fields({"server_label": str, "tools": list}, {"id": str, "error": object}),
    "mcp_approval_request": Fields({"id": str, "name": str, "arguments": str, "server_label": str}, {}),
    "mcp_approval_response": Fields({"approval_request_id": str, "approve": bool}, {"id": str, "reason": str}),
    "mcp_call": Fields(
        {"name": str, "arguments": str, "server_label": str},
        {"id": str, "approval_request_id": str, "output": str, "error": object, "status": _GOING},
    ),
}
"""By an item's shape. A kind that is not here is unknown: all that it has is its own."""

_BREAK: Final[Mapping[str, _Form]] = {"prompt_cache_breakpoint": dict}
_DETAIL: Final = frozenset({"auto", "high", "low", "original"})
_PICTURE: Final[Mapping[str, _Form]] = {"detail": _DETAIL, "file_id": str, "image_url": str, **_BREAK}
_PARTS: Final[Mapping[str, Fields]] = {
    "input_text": Fields({"text": str}, _BREAK),
    "input_image": Fields({}, _PICTURE),
    "input_file": Fields(
        {},
        {
            "detail": _DETAIL - {"original"},
            **dict.fromkeys(("file_id", "file_data", "file_url", "filename"), str),
            **_BREAK,
        },
    ),
    "output_text": Fields({"text": str}, {"annotations": list, "logprobs": list}),
    "refusal": Fields({"refusal": str}, {}),
    "summary_text": Fields({"text": str}, {}),
    "reasoning_text": Fields({"text": str}, {}),
    "computer_screenshot": Fields({}, _PICTURE),
    "": Fields({"stdout": str, "stderr": str, "outcome": dict}, {}),
}
"""By a part's type; of a shell's output it has none."""
_HOLDS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(_ROLES, ("content",)),
    **dict.fromkeys(
        ("function_call_output", "custom_tool_call_output", "computer_call_output", "shell_call_output"), ("output",)
    ),
    "reasoning": ("summary", "content"),
}
"""Where kinds have their parts."""
_ONLY: Final[Mapping[tuple[str, str], str]] = {
    ("computer_call_output", "output"): "computer_screenshot",
    ("shell_call_output", "output"): "",
    ("reasoning", "summary"): "summary_text",
    ("reasoning", "content"): "reasoning_text",
}
"""Where no parts of another type can be; elsewhere these are named in their place."""
_SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "input_image": ("image_url", "file_id"),
    "input_file": ("file_id", "file_data", "file_url"),
}
"""Where parts have what they show: in one of these."""


def wanting(item: Mapping[str, Any], shape: str) -> Iterator[Wanting]:
    """Yield what an item of a known kind needs and does not have.

    >>> [one] = wanting({"type": "shell_call", "call_id": "call_1"}, "shell_call")
    >>> one.path, one.needs
    ('action', 'a shell_call needs an action, an object')
    """
    fields = FIELDS.get(shape)
    if fields is None:
        return
    for name, form in fields.needs.items():
        if name not in item or not _fits(item[name], form):
            yield Wanting(name, f"{_a(shape)} needs {_a(name)}, {_told(form)}")
    for name in _HOLDS.get(shape, ()):
        for place, part in _parts(item, name):
            yield from _wanting_part(part, place, name, _ONLY.get((shape, name)))


def _wanting_part(part: Any, place: str, field: str, only: str | None) -> Iterator[Wanting]:
    kind = _kind(part)
    if kind is None:
        yield Wanting(place, f"{_a(field)} part is an object with a type")
        return
    if only is not None and kind != only:
        what = f"of the type {only}" if only else "an object with stdout, stderr and outcome"
        yield Wanting(place, f"{_a(field)} part here is {what}")
        return
    for name, form in _PARTS[kind].needs.items() if kind in _PARTS else ():
        if not _fits(part.get(name), form):
            yield Wanting(f"{place}.{name}", f"{_a(kind or 'part')} needs {_a(name)}, {_told(form)}")
    sources = _SOURCES.get(kind, ())
    if sources and not any(isinstance(part.get(name), str) for name in sources):
        yield Wanting(f"{place}.{sources[0]}", f"{_a(kind)} needs one of {', '.join(sources)}, a string")


def surplus(item: Mapping[str, Any], shape: str) -> Iterator[str]:
    """Name what an item of a known kind has, and its kind has not, or not in that form; parts with where they stand.

    >>> said = {"role": "user", "content": [{"type": "input_text", "text": "Hi", "lang": "en"}], "timestamp": 7}
    >>> list(surplus(said, "user"))
    ['timestamp', 'content.lang']
    """
    fields = FIELDS.get(shape)
    if fields is None:
        return
    yield from _more(item, fields)
    seen: set[str] = set()
    for name in _HOLDS.get(shape, ()):
        for _, part in _parts(item, name):
            known = _known(part)
            if known is not None:
                seen.update(f"{name}.{one}" for one in _more(part, known))
    yield from sorted(seen)


def trimmed(item: dict[str, Any], shape: str) -> dict[str, Any]:
    """Return an item without its surplus.

    >>> trimmed({"role": "user", "content": "Hi", "timestamp": 7}, "user")
    {'role': 'user', 'content': 'Hi'}
    """
    fields = FIELDS.get(shape)
    if fields is None:
        return item
    made = _less(item, fields)
    for name in _HOLDS.get(shape, ()):
        held = made.get(name)
        if isinstance(held, list):
            made[name] = [_trimmed_part(part) for part in held]
        elif isinstance(held, dict):
            made[name] = _trimmed_part(held)
    return made


def _trimmed_part(part: Any) -> Any:
    known = _known(part)
    return part if known is None else _less(part, known)


def _less(value: dict[str, Any], fields: Fields) -> dict[str, Any]:
    gone = set(_more(value, fields))
    return {name: one for name, one in value.items() if name not in gone}


def _more(value: Mapping[str, Any], fields: Fields) -> Iterator[str]:
    for name, one in value.items():
        if name == "type" or name in fields.needs or name in OUTPUT_ONLY:
            continue
        form = fields.has.get(name)
        # An id in another form is left out by its own rule.
        if form is None or (one is not None and name != "id" and not _fits(one, form)):
            yield name


def _parts(item: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    held = item.get(name)
    if isinstance(held, dict):
        yield name, held
    elif isinstance(held, list):
        yield from ((f"{name}[{index}]", part) for index, part in enumerate(held))


def _kind(part: Any) -> str | None:
    """Return a part's type, "" for the only one that has none, None where it should have one."""
    if not isinstance(part, dict):
        return None
    kind = part.get("type", "" if "outcome" in part or "stdout" in part else None)
    return kind if isinstance(kind, str) else None


def _known(part: Any) -> Fields | None:
    kind = _kind(part)
    return None if kind is None else _PARTS.get(kind)


def _fits(value: Any, form: _Form) -> bool:
    if isinstance(form, frozenset):
        return isinstance(value, str) and value in form
    return isinstance(value, form) and not (form is int and isinstance(value, bool))


def _told(form: _Form) -> str:
    if isinstance(form, frozenset):
        return " or ".join(sorted(form))
    return "a string or a list of parts" if isinstance(form, tuple) else _NAMES[form]


def _a(name: str) -> str:
    return f"{'an' if name.startswith(('a', 'e', 'i', 'o', 'mcp_')) else 'a'} {name}"
