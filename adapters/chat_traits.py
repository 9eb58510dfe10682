"""How backends that speak Chat Completions differ: one table, and what is written otherwise because of it. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from turnlog.engine.canonical import encode as encoded
from turnlog.engine.canonical import loads
from turnlog.engine.errors import Invalid
from turnlog.engine.forms import LONGEST_MESSAGE_ID, short

__all__ = ("TRAITS", "WRAPPED", "Traits", "named", "traits_of", "unwrapped", "wrapped", "written")

Thoughts: TypeAlias = Literal["never", "tool_turns", "always"]


class Traits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a backend takes; the defaults are OpenAI's own."""

    developer: bool = True
    """Whether it knows the role "developer"; else such messages go as "system"."""
    custom: bool = True
    """Whether it has custom tools; else they are functions of one text."""
    refusals: bool = True
    """Whether it takes parts that are refusals; else they go as text."""
    usage: bool = True
    """Whether it has to be asked for usage, by an option that others refuse."""
    functions: bool = False
    """Whether it knows only the old form of calls: `functions` and `function_call`, one a message."""
    thoughts: Thoughts = "never"
    """What of its own reasoning it wants back: none, that of turns in which tools were called, or all."""
    field: str | None = None
    """The field in which that goes back; None: the one in which it came."""
    objects: bool = False
    """Whether it reads the arguments of calls, which have to be JSON objects then; others go inside of one."""
    ids: int = LONGEST_MESSAGE_ID
    """Characters that the id of a call may have; 9: exactly so many letters and figures."""


_COMMON: Final = Traits(developer=False, custom=False, refusals=False, objects=True)
"""What nearly every compatible backend takes."""

TRAITS: Final[Mapping[str, Traits]] = {
    "openai": Traits(),
    "compatible": _COMMON,
    "deepseek": msgspec.structs.replace(_COMMON, thoughts="tool_turns", field="reasoning_content"),
    "legacy": msgspec.structs.replace(_COMMON, functions=True, usage=False),
    "mistral": msgspec.structs.replace(_COMMON, usage=False, ids=9),
    "ollama": _COMMON,
    "openrouter": _COMMON,
    "vllm": _COMMON,
}
"""Traits by name. `functions` means the form of calls before tools."""
_HOSTS: Final[Mapping[str, str]] = {
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "openrouter.ai": "openrouter",
}
"""Whose traits a backend has unless it is said, by its host; any other is taken for OpenAI's own kind."""

WRAPPED: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The parameters of a function that stands for a custom tool; by them it is known again."""


def named(name: object, host: str | None) -> Traits:
    """Return traits by name, else by a host.

    Raises:
        Invalid: there are none of that name.
    """
    if name is None:
        name = _HOSTS.get(host or "", "openai")
    found = TRAITS.get(name) if isinstance(name, str) else None
    if found is None:
        raise Invalid(f"traits={name!r:.100}: one of {', '.join(sorted(TRAITS))} is needed")
    return found


def traits_of(settings: Mapping[str, Any]) -> Traits:
    """Return the traits that a request was made with: its settings hold them, whatever the table says today."""
    return msgspec.convert(settings.get("traits") or {}, Traits)


# -- messages


def written(messages: Sequence[dict[str, Any]], traits: Traits) -> list[dict[str, Any]]:
    """Return messages as a backend takes them."""
    made = [_message(message, traits) for message in messages]
    return list(_old_form(made)) if traits.functions else made


def _message(message: dict[str, Any], traits: Traits) -> dict[str, Any]:
    if message["role"] == "developer" and not traits.developer:
        message = {**message, "role": "system"}
    if message["role"] == "tool":
        return {**message, "tool_call_id": call_id(message.get("tool_call_id"), traits)}
    if message["role"] != "assistant":
        return message
    if not traits.refusals and isinstance(message.get("content"), list):
        message = {**message, "content": [_as_text(part) for part in message["content"]]}
    if traits.field is not None:
        message = {(traits.field if key in _THOUGHTS else key): value for key, value in message.items()}
    if message.get("tool_calls"):
        message = {**message, "tool_calls": [_call(call, traits) for call in message["tool_calls"]]}
    return message


_THOUGHTS: Final = ("reasoning_content", "reasoning")


def _as_text(part: Any) -> Any:
    refused = isinstance(part, dict) and part.get("type") == "refusal"
    return {"type": "text", "text": part.get("refusal")} if refused else part


def _call(call: dict[str, Any], traits: Traits) -> dict[str, Any]:
    call = {**call, "id": call_id(call.get("id"), traits)}
    custom, function = call.get("custom"), call.get("function")
    if call.get("type") != "custom" or traits.custom or not isinstance(custom, dict):
        if traits.objects and isinstance(function, dict):
            return {**call, "function": {**function, "arguments": _object(function.get("arguments"))}}
        return call
    arguments = encoded({"input": custom.get("input")}).decode()
    rest = {key: value for key, value in call.items() if key != "custom"}
    return {**rest, "type": "function", "function": {"name": custom.get("name"), "arguments": arguments}}


def _object(arguments: Any) -> Any:
    """Return a call's arguments as a JSON object: as they are where they are one, and none at all as an empty one."""
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return "{}"
    try:
        made = loads(arguments.encode())
    except ValueError:
        made = None
    return arguments if isinstance(made, dict) else encoded({"input": arguments}).decode()


def call_id(value: Any, traits: Traits) -> Any:
    """Return the id of a call as a backend takes it: the same for the call and for its output, whoever made it."""
    if not isinstance(value, str):
        return value
    if traits.ids != _EXACT:
        return short(value, traits.ids)
    if _ALONE.fullmatch(value) is not None:
        return value
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in hashlib.sha256(value.encode()).digest()[:_EXACT])


_EXACT: Final = 9
_LETTERS: Final = string.ascii_letters + string.digits
_ALONE: Final = re.compile(r"[a-zA-Z0-9]{9}")


def _old_form(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield messages with each call in a message of its own, and its output right behind it."""
    outputs = {message.get("tool_call_id"): message for message in messages if message["role"] == "tool"}
    for message in messages:
        if message["role"] == "tool":
            continue
        calls = message.get("tool_calls") or ()
        if not calls:
            yield message
        for at, call in enumerate(calls):
            function = call.get("function", {})
            rest = {key: value for key, value in message.items() if key != "tool_calls"} if not at else {}
            yield {"role": "assistant", "content": None, **rest, "function_call": function}
            output = outputs.get(call.get("id"))
            if output is not None:
                yield {"role": "function", "name": function.get("name"), "content": _plain(output.get("content"))}


def _plain(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


# -- tools


def wrapped(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a custom tool, in Chat's shape, as a function of one text; a grammar goes into its description."""
    custom = tool["custom"]
    said = [custom["description"]] if isinstance(custom.get("description"), str) else []
    form = custom.get("format")
    if isinstance(form, Mapping) and form.get("type") == "grammar":
        grammar = form.get("grammar") or {}
        said.append(f"The input follows this {grammar.get('syntax')} grammar:\n{grammar.get('definition')}")
    about = {"description": "\n\n".join(said)} if said else {}
    return {"type": "function", "function": {"name": custom["name"], **about, "parameters": dict(WRAPPED)}}


def unwrapped(body: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the functions in a request's body that stand for custom tools."""
    return frozenset(
        function["name"]
        for function in _functions(body)
        if function.get("parameters") == WRAPPED and isinstance(function.get("name"), str)
    )


def _functions(body: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    tools = body.get("tools")
    found = [tool.get("function") for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    old = body.get("functions")
    return [one for one in [*found, *(old if isinstance(old, list) else ())] if isinstance(one, Mapping)]
