"""An independent judge of request bodies: what would OpenAI's API refuse, and with which error?

The judge reads the decoded JSON body of a request to the Responses API, to its ``compact`` and ``input_tokens``
endpoints, or to Chat Completions. It shares no code with the builders of windows, so that the two can disagree.

Its rules come from OpenAI's API reference, from the request types of the ``openai`` package and from errors that
users of the API reported. Where these leave a question open the judge takes the body: a refusal is meant to be one
that the API would make too.

It does NOT check: whether a model, response, conversation, file or item exists; what one model can do and another
cannot (audio, roles, ranges of numbers); whether encrypted content is genuine; JSON Schemas, tool choices and the
content of files and images; anything that depends on state at the server beyond what a caller passes in.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ("Api", "Refusal", "judge", "refusals")

Api = Literal["responses", "chat", "compact", "input_tokens"]
_Json = dict[str, Any]
_Typed = tuple[str, _Json]  # an item with its type, also where the body leaves the type out


class Refusal(Exception):
    """One reason why the API would refuse a request.

    Attributes:
        status: The HTTP status of the answer.
        message: What the API would say, in the judge's words.
        type: The error's type.
        param: The place in the body, or None.
        code: The error's code, or None.
        rule: A short stable name of the rule that was broken.
    """

    def __init__(
        self,
        rule: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.type = kind

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def refusals(
    api: Api,
    body: object,
    *,
    window: int | None = None,
    count: Callable[[str], int] | None = None,
    born: Mapping[str, str] | None = None,
    stored: bool | None = None,
) -> list[Refusal]:
    """Return every reason to refuse the body, in order of discovery; an empty list means that it is taken.

    Any decoded JSON value may be given: the judge itself never fails on one, and never changes it.

    Args:
        api: The endpoint that the body is for.
        body: The decoded JSON body.
        window: The model's context window in tokens. The length is judged only when `count` is given as well.
        count: Counts the tokens of one text.
        born: The id of an item -> the id of the reasoning item that it was born with.
        stored: Whether the server kept the items that the body names by id; by default what the body's `store` says.
    """
    if not isinstance(body, dict):
        return [Refusal("body-type", "The body of the request must be a JSON object.", code="invalid_type")]
    found = list(_parameters(api, body))
    if api == "chat":
        found += _conversation(body.get("messages"))
    else:
        kept = body.get("store") is not False if stored is None else stored
        found += _responses(api, body, born or {}, stored=kept)
    found += _tools("tools", body.get("tools"), nested=api == "chat")
    if window is not None and count is not None:
        found += _overflow(api, body, window, count)
    return found


def judge(
    api: Api,
    body: object,
    *,
    window: int | None = None,
    count: Callable[[str], int] | None = None,
    born: Mapping[str, str] | None = None,
    stored: bool | None = None,
) -> None:
    """Raise the first reason to refuse the body; return when it is taken. The arguments are those of `refusals`.

    Raises:
        Refusal: The API would refuse the body.
    """
    for refusal in refusals(api, body, window=window, count=count, born=born, stored=stored):
        raise refusal


# --- tables ----------------------------------------------------------------------------------------------------------
# An entry is `type name=kinds optional?=kinds …`; a kind is one of _FITS or of _SETS, `x*` for an id that begins with
# x (where the prefix is known), or a literal.
# What may be null follows the types of the `openai` package, except where the API took what they do not allow.

_JSON = {"str": str, "bool": bool, "int": int, "list": list, "obj": dict, "null": type(None)}
_FITS: Mapping[str, type | tuple[type, ...]] = {"any": object, "never": (), **_JSON}
_NAMES = {"str": "a string", "bool": "a boolean", "int": "an integer", "list": "an array", "obj": "an object"}
_STATE = ("in_progress", "completed", "incomplete")
_SETS = {"STATE": _STATE, "HOSTED": (*_STATE, "searching", "interpreting", "generating", "calling", "failed")}


@dataclass(frozen=True, slots=True)
class _Field:
    kinds: tuple[str, ...]
    required: bool


def _table(text: str) -> dict[str, dict[str, _Field]]:
    table: dict[str, dict[str, _Field]] = {}
    for kind, *fields in filter(None, map(str.split, text.split(";"))):
        table[kind] = {}
        for name, kinds in (field.split("=") for field in fields):
            expanded = tuple(kind for part in kinds.split("|") for kind in _SETS.get(part, (part,)))
            table[kind][name.removesuffix("?")] = _Field(expanded, required=not name.endswith("?"))
    return table


# Against the package's types: a call was taken with a null status, an image with nothing but its id; agents that
# strip ids send reasoning without one; replayed custom calls carry the status that the API gave them.
_ITEMS = _table("""
message role=user|assistant|system|developer content=str|list id?=msg* status?=STATE
    phase?=commentary|final_answer|null;
function_call call_id=str name=str arguments=str id?=fc* namespace?=str caller?=obj|null async?=bool
    status?=STATE|null;
function_call_output output=str|list call_id?=str|null name?=str|null namespace?=str|null id?=str|null
    caller?=obj|null status?=STATE|null;
custom_tool_call call_id=str name=str input=str id?=ctc* namespace?=str caller?=obj|null async?=bool status?=STATE;
custom_tool_call_output call_id=str output=str|list id?=str caller?=obj|null status?=STATE;
computer_call id=str call_id=str pending_safety_checks=list status=STATE action?=obj actions?=list;
computer_call_output call_id=str output=obj id?=str|null acknowledged_safety_checks?=list|null status?=STATE|null;
local_shell_call id=str call_id=str action=obj status=STATE;
local_shell_call_output id=str output=str status?=STATE|null;
shell_call call_id=str action=obj id?=str|null environment?=obj|null caller?=obj|null status?=STATE|null;
shell_call_output call_id=str output=list id?=str|null max_output_length?=int|null caller?=obj|null status?=STATE|null;
apply_patch_call call_id=str operation=obj status=in_progress|completed id?=str|null caller?=obj|null;
apply_patch_call_output call_id=str status=completed|failed output?=str|null id?=str|null caller?=obj|null;
tool_search_call arguments=any id?=tsc*|null call_id?=str|null execution?=server|client status?=STATE|null;
tool_search_output tools=list id?=tso*|null call_id?=str|null execution?=server|client status?=STATE|null;
additional_tools role=developer tools=list id?=str|null;
configuration_update id?=str|null reasoning?=obj text?=obj;
reasoning summary=list id?=rs* content?=list encrypted_content?=str|null status?=STATE;
compaction encrypted_content=str id?=cmp*|null;
compaction_trigger id?=str|null;
item_reference id=str;
program id=str call_id=str code=str fingerprint=str;
program_output id=str call_id=str result=str status=completed|incomplete;
file_search_call id=fs* queries=list status=HOSTED results?=list|null;
web_search_call id=ws* action=obj status=HOSTED;
code_interpreter_call id=ci* container_id=str status=HOSTED code?=str|null outputs?=list|null;
image_generation_call id=ig* status?=HOSTED result?=str|null error?=obj action?=str|null background?=str|null
    output_format?=str|null quality?=str|null revised_prompt?=str|null size?=str|null svg_usage?=obj;
mcp_list_tools id=mcpl* server_label=str tools=list error?=any;
mcp_approval_request id=str name=str arguments=str server_label=str;
mcp_approval_response approval_request_id=str approve=bool reason?=str|null id?=str|null;
mcp_call id=mcp* name=str arguments=str server_label=str approval_request_id?=str|null output?=str|null error?=any
    status?=HOSTED;
""")
_CLIENT_MADE = frozenset({"configuration_update", "compaction_trigger", "mcp_approval_response"}) | {
    kind for kind in _ITEMS if kind.endswith("_call_output")
}

_PARTS = _table("""
input_text text=str prompt_cache_breakpoint?=obj|null;
input_image detail?=str|null file_id?=str|null image_url?=str|null prompt_cache_breakpoint?=obj|null;
input_file detail?=str|null file_id?=str|null file_data?=str|null file_url?=str|null filename?=str|null
    prompt_cache_breakpoint?=obj|null;
output_text text=str annotations?=list logprobs?=list;
refusal refusal=str;
summary_text text=str;
reasoning_text text=str;
computer_screenshot file_id?=str|null image_url?=str|null detail?=str|null prompt_cache_breakpoint?=obj|null;
untyped stdout=str stderr=str outcome=obj;
""")
_FROM_CLIENT = ("input_text", "input_image", "input_file")
_FROM_MODEL = ("output_text", "refusal")
_HOLDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "message": {"content": _FROM_CLIENT},  # an assistant's excepted
    "function_call_output": {"output": _FROM_CLIENT},
    "custom_tool_call_output": {"output": _FROM_CLIENT},
    "computer_call_output": {"output": ("computer_screenshot",)},
    "shell_call_output": {"output": ("untyped",)},
    "reasoning": {"summary": ("summary_text",), "content": ("reasoning_text",)},
}

# output -> its call, the key that names the call, the key by which the output names it
_OUTPUTS = {
    "function_call_output": ("function_call", "call_id", "call_id"),
    "custom_tool_call_output": ("custom_tool_call", "call_id", "call_id"),
    "computer_call_output": ("computer_call", "call_id", "call_id"),
    "local_shell_call_output": ("local_shell_call", "call_id", "id"),
    "shell_call_output": ("shell_call", "call_id", "call_id"),
    "apply_patch_call_output": ("apply_patch_call", "call_id", "call_id"),
    "tool_search_output": ("tool_search_call", "call_id", "call_id"),
    "mcp_approval_response": ("mcp_approval_request", "id", "approval_request_id"),
}
_CALLS = {call: link for call, link, _ in _OUTPUTS.values()}

_CHAT_PARTS = _table(
    "text text=str; image_url image_url=obj; input_audio input_audio=obj; file file=obj; refusal refusal=str;"
)
_CHAT_CALLS = _table("function name=str arguments=str; custom name=str input=str;")
_CHAT_CALL = _table("tool_call id=str type=function|custom;")["tool_call"]
_CHAT_ROLES = _table("""
developer content=str|list;
system content=str|list;
user content=str|list;
assistant content?=str|list|null refusal?=str|null audio?=obj|null function_call?=obj|null tool_calls?=list|null;
tool tool_call_id=str content=str|list;
function name=str content=str|null;
""")
_CHAT_HOLDS: Mapping[str, tuple[str, ...]] = {
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
}

_PARAMETERS = _table("""
responses model?=str instructions?=str|null previous_response_id?=str|null conversation?=str|obj|null
    input?=str|list|null prompt?=obj|null store?=bool|null stream?=bool|null background?=bool|null include?=list|null
    tools?=list|null metadata?=obj|null truncation?=auto|disabled|null stream_options?=obj|null
    context_management?=list|null
    messages?=never functions?=never function_call?=never max_tokens?=never max_completion_tokens?=never
    response_format?=never reasoning_effort?=never n?=never stop?=never seed?=never modalities?=never;
compact model=str|null instructions?=str|null previous_response_id?=str|null conversation?=str|obj|null
    input?=str|list|null
    messages?=never store?=never stream?=never stream_options?=never background?=never include?=never
    max_output_tokens?=never metadata?=never tools?=never tool_choice?=never text?=never reasoning?=never
    truncation?=never;
input_tokens model?=str|null instructions?=str|null previous_response_id?=str|null conversation?=str|obj|null
    input?=str|list|null tools?=list|null truncation?=auto|disabled|null
    messages?=never store?=never stream?=never stream_options?=never background?=never include?=never
    max_output_tokens?=never metadata?=never;
chat model=str messages=list tools?=list|null metadata?=obj|null stream?=bool|null
    input?=never instructions?=never previous_response_id?=never conversation?=never max_output_tokens?=never
    max_tool_calls?=never truncation?=never include?=never background?=never context_management?=never;
""")

_LONGEST_ID = 64
_ID = re.compile(r"[A-Za-z0-9_-]+")
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_VENDOR = re.compile(r"[^\s:]+:[^\s:]+")
_METADATA = (16, 64, 512)  # pairs, characters of a key, characters of a value
_TOKENS_PER_MESSAGE = 3
_READ = frozenset(
    {"content", "text", "refusal", "arguments", "input", "output", "stdout", "stderr", "name", "description"}
)
_UNREAD = ("reasoning", "tool_search_output", "mcp_list_tools", "file_search_call")  # the server may drop them


# --- the words of the errors -----------------------------------------------------------------------------------------


def _missing(param: str, rule: str = "missing-parameter") -> Refusal:
    return Refusal(rule, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def _absent(param: str, value: object) -> Refusal:
    return _missing(param) if value is None else _wrong_type(param, value, ["str"])


def _unknown(param: str) -> Refusal:
    return Refusal("unknown-parameter", f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def _unsupported(param: str, value: object, supported: Iterable[str], rule: str = "invalid-value") -> Refusal:
    listed = ", ".join(f"'{name}'" for name in supported)
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return Refusal(rule, message, param=param, code="invalid_value")


def _wrong_type(param: str, value: object, kinds: Iterable[str]) -> Refusal:
    expected = " or ".join(_NAMES.get(kind, f"'{kind}'") for kind in kinds if kind != "null")
    got = next((name for kind, name in _NAMES.items() if _fits(value, kind)), "null" if value is None else "a number")
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return Refusal("wrong-type", message, param=param, code="invalid_type")


def _in_input(rule: str, message: str) -> Refusal:
    return Refusal(rule, message, param="input")


def _checked(where: str, value: _Json, fields: Mapping[str, _Field], *, strict: bool) -> Iterator[Refusal]:
    """Hold an object against its fields; `strict` refuses other keys, and nulls in optional fields."""
    if strict:
        yield from (_unknown(f"{where}.{name}") for name in value if name not in fields and name != "type")
    for name, field in fields.items():
        param = f"{where}.{name}" if where else name
        if name not in value:
            if field.required:
                yield _missing(param)
        elif not any(_fits(value[name], kind) for kind in field.kinds):
            yield _misfit(param, name, value[name], field, strict=strict)


def _fits(value: object, kind: str) -> bool:
    if kind.endswith("*"):
        return isinstance(value, str) and value.startswith(kind[:-1])
    return isinstance(value, _FITS[kind]) if kind in _FITS else value == kind


def _misfit(param: str, name: str, value: object, field: _Field, *, strict: bool) -> Refusal:
    literals = [kind for kind in field.kinds if kind not in _FITS]
    if field.kinds == ("never",) or (strict and value is None and not field.required):
        return _unknown(param)  # this is how the API words a field that a client dumped as null
    if field.kinds[0].endswith("*") and isinstance(value, str):
        message = f"Invalid '{param}': '{value}'. Expected an ID that begins with '{field.kinds[0][:-1]}'."
        return Refusal("id-prefix", message, param=param, code="invalid_value")
    if literals and isinstance(value, str):
        return _unsupported(param, value, literals, "role" if name == "role" else "invalid-value")
    return _wrong_type(param, value, ["str"] if literals else field.kinds)


def _parts(
    where: str, held: object, allowed: tuple[str, ...], table: Mapping[str, Mapping[str, _Field]]
) -> Iterator[Refusal]:
    """Judge the parts of a content; Chat Completions tolerates keys that it does not know, Responses does not."""
    single = isinstance(held, dict)
    for i, part in enumerate([held] if single else held if isinstance(held, list) else ()):
        at = where if single else f"{where}[{i}]"
        if not isinstance(part, dict):
            yield _wrong_type(at, part, ["obj"])
        elif (kind := part.get("type", "untyped")) in allowed:
            yield from _checked(at, part, table[kind], strict=table is _PARTS)
        elif "type" not in part:
            yield _missing(f"{at}.type")
        else:
            yield _unsupported(f"{at}.type", kind, allowed, "part-type")


def _parameters(api: Api, body: _Json) -> Iterator[Refusal]:
    yield from _checked("", body, _PARAMETERS[api], strict=False)
    unnamed = api == "responses" and "model" not in body and not body.get("prompt")  # a template may name the model
    if unnamed or body.get("model") == "":
        yield _missing("model")
    options = body.get("stream_options")
    if api == "responses" and isinstance(options, dict) and "include_usage" in options:
        yield _unknown("stream_options.include_usage")
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        yield from _metadata(metadata)


def _metadata(metadata: _Json) -> Iterator[Refusal]:
    pairs, key_length, value_length = _METADATA
    for key, value in metadata.items():
        if not isinstance(value, str):
            yield _wrong_type(f"metadata.{key}", value, ["str"])
    texts = [(key, value) for key, value in metadata.items() if isinstance(value, str)]
    if len(metadata) > pairs or any(len(key) > key_length or len(value) > value_length for key, value in texts):
        message = (
            f"Invalid 'metadata': at most {pairs} pairs of {key_length} and {value_length} characters are allowed."
        )
        yield Refusal("metadata-limit", message, param="metadata", code="invalid_value")


def _named(where: str, holder: _Json) -> Iterator[Refusal]:
    if "name" not in holder:
        yield _missing(f"{where}.name", "tool-shape")
    else:
        yield from _name(f"{where}.name", holder["name"])
    if not isinstance(holder.get("parameters"), dict | None):
        yield _wrong_type(f"{where}.parameters", holder["parameters"], ["obj"])


def _name(param: str, name: object) -> Iterator[Refusal]:
    if not isinstance(name, str):
        yield _wrong_type(param, name, ["str"])
    elif not _FUNCTION_NAME.fullmatch(name):
        message = f"Invalid '{param}': the name does not match the pattern '^{_FUNCTION_NAME.pattern}$'."
        yield Refusal("function-name", message, param=param, code="invalid_value")


def _tools(where: str, tools: object, *, nested: bool) -> Iterator[Refusal]:
    """Judge definitions of tools: Chat Completions nests a function's under its type, Responses has them flat."""
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        at = f"{where}[{i}]"
        if not isinstance(tool, dict):
            yield _wrong_type(at, tool, ["obj"])
        elif not isinstance(kind := tool.get("type"), str):
            yield _absent(f"{at}.type", kind)
        elif kind in _CHAT_CALLS:
            holder = tool.get(kind) if nested else tool
            inside = f"{at}.{kind}" if nested else at
            yield from _named(inside, holder) if isinstance(holder, dict) else [_missing(inside, "tool-shape")]
        elif nested and not _VENDOR.fullmatch(kind):
            yield _unsupported(f"{at}.type", kind, _CHAT_CALLS)
        elif kind == "namespace":
            yield from _tools(f"{at}.tools", tool.get("tools"), nested=False)


# --- Responses -------------------------------------------------------------------------------------------------------


def _responses(api: Api, body: _Json, born: Mapping[str, str], *, stored: bool) -> Iterator[Refusal]:
    previous, conversation, given = (body.get(name) for name in ("previous_response_id", "conversation", "input"))
    if previous is not None and conversation is not None:
        message = "Only one of 'previous_response_id' and 'conversation' can be given: they are mutually exclusive."
        yield Refusal("two-states", message, param="previous_response_id", code="mutually_exclusive_parameters")
    if isinstance(conversation, dict) and not isinstance(conversation.get("id"), str):
        yield _missing("conversation.id")
    state = previous is not None or conversation is not None
    if given in (None, "", []) and not state and not body.get("prompt") and api != "input_tokens":
        message = "One of 'input', 'previous_response_id', 'conversation' or 'prompt' must be provided."
        yield Refusal("nothing-to-answer", message, param="input", code="missing_required_parameter")
    if not isinstance(given, list):
        return
    items: list[_Typed] = []
    for i, item in enumerate(given):
        if not isinstance(item, dict):
            yield _wrong_type(f"input[{i}]", item, ["obj"])
            continue
        items.append((_kind(item), item))
        yield from _item(f"input[{i}]", *items[-1], last=i == len(given) - 1, stored=stored)
    yield from _duplicates(items)
    # A reference may stand for the call of an output.
    yield from _pairs(items, elsewhere=state or any(kind == "item_reference" for kind, _ in items))
    yield from _reasoning(items)
    if not state:
        yield from _births(items, born)


def _kind(item: _Json) -> str:
    """Return an item's type; messages and references may leave it out."""
    kind = item.get("type")
    if kind is None and ("role" in item or "content" in item):
        return "message"
    if kind is None and "id" in item:
        return "item_reference"
    return kind if isinstance(kind, str) else ""


def _item(where: str, kind: str, item: _Json, *, last: bool, stored: bool) -> Iterator[Refusal]:
    if not kind:
        yield _absent(f"{where}.type", item.get("type"))
    if kind not in _ITEMS:
        if kind and not _VENDOR.fullmatch(kind):
            yield _unsupported(f"{where}.type", kind, _ITEMS, "item-type")
        return
    yield from _checked(where, item, _ITEMS[kind], strict=True)
    if kind != "local_shell_call_output":  # its id is the call's
        yield from _identity(f"{where}.id", item.get("id"))
    said = kind == "message" and item.get("role") == "assistant"
    for name, allowed in ({"content": _FROM_MODEL} if said else _HOLDS.get(kind, {})).items():
        yield from _parts(f"{where}.{name}", item.get(name), allowed, _PARTS)
    if kind in ("function_call", "custom_tool_call") and isinstance(item.get("name"), str):
        yield from _name(f"{where}.name", item["name"])
    if kind in ("additional_tools", "tool_search_output"):
        yield from _tools(f"{where}.tools", item.get("tools"), nested=False)
    if kind == "compaction_trigger" and not last:
        message = f"Invalid '{where}': a 'compaction_trigger' must be the last item of the input."
        yield Refusal("trigger-not-last", message, param=where, code="invalid_value")
    looked_up = kind in ("reasoning", "item_reference") and not item.get("encrypted_content")
    if looked_up and not stored and isinstance(item.get("id"), str):
        message = f"Item with id '{item['id']}' not found. Items are not persisted when `store` is set to false."
        yield Refusal("not-persisted", message, param="input", status=404)


def _identity(param: str, value: object) -> Iterator[Refusal]:
    if not isinstance(value, str):
        return
    if len(value) > _LONGEST_ID:
        message = f"Invalid '{param}': string too long. At most {_LONGEST_ID} characters are allowed, got {len(value)}."
        yield Refusal("id-length", message, param=param, code="string_above_max_length")
    elif not _ID.fullmatch(value):
        message = f"Invalid '{param}': '{value}'. Expected an ID of letters, numbers, underscores or dashes only."
        yield Refusal("id-characters", message, param=param, code="invalid_value")


def _duplicates(items: Iterable[_Typed]) -> Iterator[Refusal]:
    seen: set[str] = set()
    for kind, item in items:
        name = item.get("id")
        if not isinstance(name, str) or kind == "local_shell_call_output":
            continue
        if name in seen:
            yield _in_input("duplicate-id", f"Duplicate item found with id {name}. Remove it and try again.")
        seen.add(name)


def _owes(kind: str, call: _Json) -> bool:
    """Say whether the client has to answer a call; where that cannot be known, it has not."""
    if kind == "tool_search_call":
        return call.get("execution") == "client"
    environment = call.get("environment")
    hosted = isinstance(environment, dict) and environment.get("type") == "container_reference"
    return kind != "mcp_approval_request" and not hosted and call.get("async") is not True


def _pairs(items: Iterable[_Typed], *, elsewhere: bool) -> Iterator[Refusal]:
    """Match calls and outputs by kind and link, wherever they stand, as long as the call comes first.

    Anonymous tool searches are matched in order. With `elsewhere` an output's call may be out of sight.
    """
    waiting: dict[tuple[str, str | None], deque[_Json]] = {}
    answered: set[tuple[str, str | None]] = set()
    for kind, item in items:
        call, _, name = _OUTPUTS.get(kind, (kind, "", _CALLS.get(kind, "")))
        link = item.get(name)
        if call not in _CALLS or not (isinstance(link, str) or (link is None and call == "tool_search_call")):
            continue  # not of a pair, or its link was refused with its field
        key = (call, link)
        if kind in _CALLS:
            waiting.setdefault(key, deque()).append(item)
            continue
        if kind == "function_call_output" and not waiting.get(key) and waiting.get(("tool_search_call", link)):
            key = ("tool_search_call", link)  # the API takes a plain output as the answer to a client's search
        words = f"{kind.replace('_', ' ')} with {name} {link}"
        if queue := waiting.get(key):
            queue.popleft()
        elif kind == "tool_search_output" and item.get("execution") != "client":
            pass  # the server's own
        elif key in answered:
            yield _in_input("duplicate-output", f"Duplicate tool output: there is another {words}.")
        elif not elsewhere:
            yield _in_input("output-without-call", f"No tool call found for {words}.")
        answered.add(key)
    for (kind, link), queue in waiting.items():
        for _ in (call for call in queue if _owes(kind, call)):
            yield _in_input("call-without-output", f"No tool output found for {kind.replace('_', ' ')} {link}.")


def _reasoning(items: list[_Typed]) -> Iterator[Refusal]:
    """Refuse reasoning that no item of the model follows, other reasoning aside."""
    for i, (kind, item) in enumerate(items):
        if kind == "reasoning":
            rest = (items[j] for j in range(i + 1, len(items)) if items[j][0] != "reasoning")
            if not _follows(item, next(rest, None)):
                words = f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
                yield _in_input("reasoning-without-follower", words)


def _follows(reasoning: _Json, follower: _Typed | None) -> bool:
    if follower is None or follower[0] in _CLIENT_MADE:
        return False
    kind, item = follower
    if kind == "tool_search_output":
        return item.get("execution") != "client"
    # A message that lost its id is not recognised as the one that the reasoning belongs to; where the reasoning has
    # no id either, nothing is looked up.
    return kind != "message" or (item.get("role") == "assistant" and ("id" in item or "id" not in reasoning))


def _births(items: list[_Typed], born: Mapping[str, str]) -> Iterator[Refusal]:
    present = {item["id"] for _, item in items if isinstance(item.get("id"), str)}
    for kind, item in items:
        name = item.get("id")
        if isinstance(name, str) and born.get(name, name) not in present:
            words = f"Item '{name}' of type '{kind}' was provided without its required 'reasoning' item"
            yield _in_input("item-without-reasoning", f"{words}: '{born[name]}'.")


# --- Chat Completions ------------------------------------------------------------------------------------------------


def _empty(param: str) -> Refusal:
    message = f"Invalid '{param}': empty array. Expected at least one element."
    return Refusal("empty-array", message, param=param, code="empty_array")


def _conversation(messages: object) -> Iterator[Refusal]:
    if not isinstance(messages, list):
        return
    if not messages:
        yield _empty("messages")
    taken: list[tuple[int, _Json]] = []
    for i, message in enumerate(messages):
        if isinstance(message, dict):
            taken.append((i, message))
            yield from _message(f"messages[{i}]", message, i)
        else:
            yield _wrong_type(f"messages[{i}]", message, ["obj"])
    yield from _answers(taken)


def _message(where: str, message: _Json, i: int) -> Iterator[Refusal]:
    role = message.get("role")
    if not isinstance(role, str):
        yield _absent(f"{where}.role", role)
        return
    if role not in _CHAT_ROLES:
        yield _unsupported(f"{where}.role", role, _CHAT_ROLES, "role")
        return
    yield from _checked(where, message, _CHAT_ROLES[role], strict=False)
    content = message.get("content")
    yield from _parts(f"{where}.content", content, _CHAT_HOLDS.get(role, ("text",)), _CHAT_PARTS)
    calls = message.get("tool_calls")
    if role != "assistant":
        if calls is not None:
            yield _unknown(f"{where}.tool_calls")
        return
    if calls == []:
        yield _empty(f"{where}.tool_calls")
    for j, call in enumerate(calls if isinstance(calls, list) else ()):
        yield from _tool_call(f"{where}.tool_calls[{j}]", call)
    if content is None and not any(message.get(name) for name in ("tool_calls", "function_call", "audio", "refusal")):
        text = "Invalid value for 'content': expected a string, got null."
        yield Refusal("content-missing", text, param=f"messages.[{i}].content")


def _tool_call(where: str, call: object) -> Iterator[Refusal]:
    if not isinstance(call, dict):
        yield _wrong_type(where, call, ["obj"])
        return
    yield from _checked(where, call, _CHAT_CALL, strict=False)
    kind = call.get("type")
    if not isinstance(kind, str) or kind not in _CHAT_CALLS:
        return
    inner = call.get(kind)
    if not isinstance(inner, dict):
        yield _missing(f"{where}.{kind}")
        return
    yield from _checked(f"{where}.{kind}", inner, _CHAT_CALLS[kind], strict=False)
    if isinstance(inner.get("name"), str):
        yield from _name(f"{where}.{kind}.name", inner["name"])


def _answers(messages: Iterable[tuple[int, _Json]]) -> Iterator[Refusal]:
    """Refuse calls whose tool messages do not follow at once, and tool messages that answer no such call."""
    owner, waiting, answered = 0, list[str](), set[str]()
    for i, message in [*messages, (-1, {})]:  # the end is one more message that is no tool's
        name = message.get("tool_call_id")
        if message.get("role") != "tool":
            if waiting:
                words = "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                words += f"'tool_call_id'. The following did not have response messages: {', '.join(waiting)}"
                yield Refusal("tool-calls-unanswered", words, param=f"messages.[{owner}].role")
            calls = message.get("tool_calls") if message.get("role") == "assistant" else None
            named = [call.get("id") for call in (calls if isinstance(calls, list) else ()) if isinstance(call, dict)]
            owner, waiting, answered = i, [name for name in named if isinstance(name, str)], set()
        elif name in waiting:
            waiting.remove(name)
            answered.add(name)
        elif isinstance(name, str) and name in answered:
            words = f"Duplicate tool message: tool_call_id {name} was answered before."
            yield Refusal("duplicate-tool-message", words, param=f"messages.[{i}].role")
        elif isinstance(name, str):
            words = "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
            yield Refusal("tool-message-without-call", words, param=f"messages.[{i}].role")


def _overflow(api: Api, body: _Json, window: int, count: Callable[[str], int]) -> Iterator[Refusal]:
    """Refuse what cannot fit: images, files, encrypted content and hosted tools count as nothing."""
    if api == "input_tokens" or body.get("truncation") == "auto":
        return  # counting is not answering, and the server may drop items
    param = "messages" if api == "chat" else "input"
    given = body.get(param)
    entries = [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []
    compacted = max((i for i, entry in enumerate(entries) if entry.get("type") == "compaction"), default=0)
    kept = entries[compacted:]  # what a compaction replaced need not be read again
    read: list[tuple[str, object]] = [("content", body.get("instructions")), ("tools", body.get("tools"))]
    texts = _texts([*read, ("content", kept or given)])
    total = sum(map(count, texts)) + _TOKENS_PER_MESSAGE * sum("role" in entry for entry in kept)
    if total > window:
        message = f"The input exceeds the context window of this model: at least {total} tokens, at most {window} fit."
        yield Refusal("context-length", message, param=param, code="context_length_exceeded")


def _texts(stack: list[tuple[str, object]]) -> Iterator[str]:
    """Yield what the model reads of named values; of a schema the names and descriptions, as any rendering has them."""
    while stack:
        key, value = stack.pop()
        if isinstance(value, str) and key in _READ:
            yield value
        elif isinstance(value, list):
            stack += ((key, element) for element in value)
        elif isinstance(value, dict) and value.get("type") not in _UNREAD and not value.get("defer_loading"):
            if key == "properties":
                yield from map(str, value)
            stack += value.items()
