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
from typing import Any, Literal

from .tables import (
    CALLS,
    CHAT_CALL,
    CHAT_CALLS,
    CHAT_HOLDS,
    CHAT_PARTS,
    CHAT_ROLES,
    CLIENT_MADE,
    FITS,
    FROM_MODEL,
    HOLDS,
    ITEMS,
    NAMES,
    OUTPUTS,
    PARAMETERS,
    PARTS,
    Field,
)

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

    >>> from turnlog.engine.testing.judge import refusals
    >>> output = {"type": "function_call_output", "call_id": "call_1", "output": "clear"}
    >>> for refusal in refusals("responses", {"model": "gpt-5", "input": [output]}):
    ...     print(refusal.status, refusal.rule, refusal)
    400 output-without-call No tool call found for function call output with call_id call_1.

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


# --- limits -----------------------------------------------------------------------------------------------------------

_LONGEST_ID = 64
_LONGEST_CHAT_ID = 40
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
    expected = " or ".join(NAMES.get(kind, f"'{kind}'") for kind in kinds if kind != "null")
    got = next((name for kind, name in NAMES.items() if _fits(value, kind)), "null" if value is None else "a number")
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return Refusal("wrong-type", message, param=param, code="invalid_type")


def _in_input(rule: str, message: str) -> Refusal:
    return Refusal(rule, message, param="input")


def _checked(where: str, value: _Json, fields: Mapping[str, Field], *, strict: bool) -> Iterator[Refusal]:
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
    return isinstance(value, FITS[kind]) if kind in FITS else value == kind


def _misfit(param: str, name: str, value: object, field: Field, *, strict: bool) -> Refusal:
    literals = [kind for kind in field.kinds if kind not in FITS]
    if field.kinds == ("never",) or (strict and value is None and not field.required):
        return _unknown(param)  # this is how the API words a field that a client dumped as null
    if field.kinds[0].endswith("*") and isinstance(value, str):
        message = f"Invalid '{param}': '{value}'. Expected an ID that begins with '{field.kinds[0][:-1]}'."
        return Refusal("id-prefix", message, param=param, code="invalid_value")
    if literals and isinstance(value, str):
        return _unsupported(param, value, literals, "role" if name == "role" else "invalid-value")
    return _wrong_type(param, value, ["str"] if literals else field.kinds)


def _parts(
    where: str, held: object, allowed: tuple[str, ...], table: Mapping[str, Mapping[str, Field]]
) -> Iterator[Refusal]:
    """Judge the parts of a content; Chat Completions tolerates keys that it does not know, Responses does not."""
    single = isinstance(held, dict)
    for i, part in enumerate([held] if single else held if isinstance(held, list) else ()):
        at = where if single else f"{where}[{i}]"
        if not isinstance(part, dict):
            yield _wrong_type(at, part, ["obj"])
        elif (kind := part.get("type", "untyped")) in allowed:
            yield from _checked(at, part, table[kind], strict=table is PARTS)
        elif "type" not in part:
            yield _missing(f"{at}.type")
        else:
            yield _unsupported(f"{at}.type", kind, allowed, "part-type")


def _parameters(api: Api, body: _Json) -> Iterator[Refusal]:
    yield from _checked("", body, PARAMETERS[api], strict=False)
    unnamed = api == "responses" and "model" not in body and not body.get("prompt")  # a template may name the model
    if unnamed or body.get("model") == "":
        yield _missing("model")
    if api == "responses" and body.get("background") is True and body.get("store") is False:
        message = "Background mode requires 'store' to be true."
        yield Refusal("background-not-stored", message, param="store", code="invalid_value")
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
        elif kind in CHAT_CALLS:
            holder = tool.get(kind) if nested else tool
            inside = f"{at}.{kind}" if nested else at
            yield from _named(inside, holder) if isinstance(holder, dict) else [_missing(inside, "tool-shape")]
        elif nested and not _VENDOR.fullmatch(kind):
            yield _unsupported(f"{at}.type", kind, CHAT_CALLS)
        elif kind == "namespace":
            yield from _tools(f"{at}.tools", tool.get("tools"), nested=False)


# --- Responses -------------------------------------------------------------------------------------------------------


def _responses(api: Api, body: _Json, born: Mapping[str, str], *, stored: bool) -> Iterator[Refusal]:
    state = body.get("previous_response_id") is not None or body.get("conversation") is not None
    given = body.get("input")
    yield from _before(api, body, given, state=state)
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
    if not state:
        yield from _programs(items)
    yield from _reasoning(items)
    if not state:
        yield from _births(items, born)


def _before(api: Api, body: _Json, given: object, *, state: bool) -> Iterator[Refusal]:
    """Judge what the input is added to: a response or a conversation at the server, or nothing."""
    previous, conversation = body.get("previous_response_id"), body.get("conversation")
    if previous is not None and conversation is not None:
        message = "Only one of 'previous_response_id' and 'conversation' can be given: they are mutually exclusive."
        yield Refusal("two-states", message, param="previous_response_id", code="mutually_exclusive_parameters")
    if isinstance(conversation, dict) and not isinstance(conversation.get("id"), str):
        yield _missing("conversation.id")
    if given in (None, "", []) and not state and not body.get("prompt") and api != "input_tokens":
        message = "One of 'input', 'previous_response_id', 'conversation' or 'prompt' must be provided."
        yield Refusal("nothing-to-answer", message, param="input", code="missing_required_parameter")


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
    if kind not in ITEMS:
        if kind and not _VENDOR.fullmatch(kind):
            yield _unsupported(f"{where}.type", kind, ITEMS, "item-type")
        return
    yield from _checked(where, item, ITEMS[kind], strict=True)
    if kind != "local_shell_call_output":  # its id is the call's
        yield from _identity(f"{where}.id", item.get("id"))
    yield from _length(f"{where}.call_id", item.get("call_id"), _LONGEST_ID)
    said = kind == "message" and item.get("role") == "assistant"
    for name, allowed in ({"content": FROM_MODEL} if said else HOLDS.get(kind, {})).items():
        yield from _parts(f"{where}.{name}", item.get(name), allowed, PARTS)
    yield from _particular(where, kind, item, last=last)
    looked_up = kind in ("reasoning", "item_reference") and not item.get("encrypted_content")
    if looked_up and not stored and isinstance(item.get("id"), str):
        message = f"Item with id '{item['id']}' not found. Items are not persisted when `store` is set to false."
        yield Refusal("not-persisted", message, param="input", status=404)


def _particular(where: str, kind: str, item: _Json, *, last: bool) -> Iterator[Refusal]:
    """Judge what only one kind has."""
    if kind in ("function_call", "custom_tool_call") and isinstance(item.get("name"), str):
        yield from _name(f"{where}.name", item["name"])
    if kind in ("additional_tools", "tool_search_output"):
        yield from _tools(f"{where}.tools", item.get("tools"), nested=False)
    if kind == "compaction_trigger" and not last:
        message = f"Invalid '{where}': a 'compaction_trigger' must be the last item of the input."
        yield Refusal("trigger-not-last", message, param=where, code="invalid_value")


def _identity(param: str, value: object) -> Iterator[Refusal]:
    if not isinstance(value, str):
        return
    if len(value) > _LONGEST_ID:
        yield from _length(param, value, _LONGEST_ID)
    elif not _ID.fullmatch(value):
        message = f"Invalid '{param}': '{value}'. Expected an ID of letters, numbers, underscores or dashes only."
        yield Refusal("id-characters", message, param=param, code="invalid_value")


def _length(param: str, value: object, longest: int) -> Iterator[Refusal]:
    if isinstance(value, str) and len(value) > longest:
        message = f"Invalid '{param}': string too long. At most {longest} characters are allowed, got {len(value)}."
        yield Refusal("id-length", message, param=param, code="string_above_max_length")


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
        call, _, name = OUTPUTS.get(kind, (kind, "", CALLS.get(kind, "")))
        link = item.get(name)
        if call not in CALLS or not (isinstance(link, str) or (link is None and call == "tool_search_call")):
            continue  # not of a pair, or its link was refused with its field
        key = (call, link)
        if kind in CALLS:
            waiting.setdefault(key, deque()).append(item)
            continue
        if kind == "function_call_output" and not waiting.get(key) and waiting.get(("tool_search_call", link)):
            key = ("tool_search_call", link)  # the API takes a plain output as the answer to a client's search
        if queue := waiting.get(key):
            queue.popleft()
        else:
            yield from _unpaired(kind, item, name, again=key in answered, elsewhere=elsewhere)
        answered.add(key)
    for (kind, link), queue in waiting.items():
        for _ in (call for call in queue if _owes(kind, call)):
            yield _in_input("call-without-output", f"No tool output found for {kind.replace('_', ' ')} {link}.")


def _unpaired(kind: str, output: _Json, name: str, *, again: bool, elsewhere: bool) -> Iterator[Refusal]:
    """Judge an output that no call is waiting for; a search that was the server's own has none."""
    if kind == "tool_search_output" and output.get("execution") != "client":
        return
    words = f"{kind.replace('_', ' ')} with {name} {output.get(name)}"
    if again:
        yield _in_input("duplicate-output", f"Duplicate tool output: there is another {words}.")
    elif not elsewhere:
        yield _in_input("output-without-call", f"No tool call found for {words}.")


def _programs(items: Iterable[_Typed]) -> Iterator[Refusal]:
    """Refuse what names a program that does not stand before it: its output, and what it called."""
    programs = set()
    for kind, item in items:
        caller = item.get("caller")
        if kind == "program":
            programs.add(item.get("call_id"))
        elif kind == "program_output" and item.get("call_id") not in programs:
            yield _in_input("output-without-call", f"No program found for program output {item.get('call_id')}.")
        elif isinstance(caller, dict) and caller.get("type") == "program" and caller.get("caller_id") not in programs:
            yield _in_input("called-without-caller", f"No program found that called {item.get('call_id')}.")


def _reasoning(items: list[_Typed]) -> Iterator[Refusal]:
    """Refuse reasoning that no item of the model follows, other reasoning aside."""
    for i, (kind, item) in enumerate(items):
        if kind == "reasoning":
            rest = (items[j] for j in range(i + 1, len(items)) if items[j][0] != "reasoning")
            if not _follows(item, next(rest, None)):
                words = f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
                yield _in_input("reasoning-without-follower", words)


def _follows(reasoning: _Json, follower: _Typed | None) -> bool:
    if follower is None or follower[0] in CLIENT_MADE:
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
    if role not in CHAT_ROLES:
        yield _unsupported(f"{where}.role", role, CHAT_ROLES, "role")
        return
    yield from _checked(where, message, CHAT_ROLES[role], strict=False)
    yield from _length(f"{where}.tool_call_id", message.get("tool_call_id"), _LONGEST_CHAT_ID)
    content = message.get("content")
    yield from _parts(f"{where}.content", content, CHAT_HOLDS.get(role, ("text",)), CHAT_PARTS)
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
    yield from _checked(where, call, CHAT_CALL, strict=False)
    yield from _length(f"{where}.id", call.get("id"), _LONGEST_CHAT_ID)
    kind = call.get("type")
    if not isinstance(kind, str) or kind not in CHAT_CALLS:
        return
    inner = call.get(kind)
    if not isinstance(inner, dict):
        yield _missing(f"{where}.{kind}")
        return
    yield from _checked(f"{where}.{kind}", inner, CHAT_CALLS[kind], strict=False)
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
