"""Chat Completions messages and items, both ways. Pure.

An item has no place for everything that a Chat message may carry (a vendor's `cache_control`, the difference between an
absent and a null `content`). What does not fit is kept beside the item as its `extra`, as a short list of differences,
so that a recorded message is written back value for value, and a window for the backend that it came from says what
that backend understands.

Source: the message params of `POST /chat/completions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any, Final, NamedTuple

from .canonical import encode, plain
from .errors import InvalidItem
from .extras import apply, as_parts
from .forms import LONGEST_MESSAGE_ID, short
from .items import parts
from .window.render import Rendered, function_name

__all__ = ("Piece", "pieces", "to_items", "to_messages", "with_plain_calls")

_REASONING: Final = ("reasoning_content", "reasoning")
"""The fields in which compatible backends put what a model thought, in the order in which they are looked for."""
_CALLS: Final = ("function_call", "custom_tool_call")
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")


class Piece(NamedTuple):
    """One item made from a message, and what the item has no place for."""

    item: dict[str, Any]
    extra: dict[str, Any] | None


def to_items(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return Chat Completions messages as items that `Conversation.append` takes.

    Written as messages again, they say the same to the API, if not in the same form: a content of one text part is that
    text; an empty content is "", beside calls null; a refusal is the content's last part; what the assistant says in a
    row, under one name or none, is one message. What an item has no place for is left out: reasoning, what is a
    backend's own, and a name beside nothing but calls.

    >>> from turnlog.engine.messages import to_items
    >>> to_items([{"role": "tool", "tool_call_id": "call_1", "content": "clear"}])
    [{'type': 'function_call_output', 'call_id': 'call_1', 'output': 'clear'}]

    Raises:
        InvalidItem: a message without a role, or of a role that is none of Chat's; or one that would be lost: a call in
            the old form, `function_call`, or nothing but a reference to a backend's own audio.
    """
    made: list[dict[str, Any]] = []
    calls: dict[str, str] = {}
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        items = [piece.item for piece in pieces(message, path, calls)]
        _check_kept(message, items, path)
        made += items
    return made


def _check_kept(message: Mapping[str, Any], items: Sequence[Mapping[str, Any]], path: str) -> None:
    if message.get("role") != "assistant":
        return
    if isinstance(message.get("function_call"), Mapping):
        remedy = "write it as tool_calls with an id, and its output as a tool message with that id as tool_call_id"
        raise InvalidItem(f"{path}.function_call", f"this is the old form of a call; {remedy}")
    if isinstance(message.get("audio"), Mapping) and not any(item.get("content", "call") for item in items):
        raise InvalidItem(f"{path}.audio", "only its backend has this audio; pass its transcript as content")


# -- from messages


def pieces(message: Mapping[str, Any], path: str = "message", calls: dict[str, str] | None = None) -> list[Piece]:
    """Return one message as items, in order, each with what it has no place for; at least one.

    *calls* are the kinds of the calls that came before it, by id, so that an output is one of its call's kind; the
    message's own are added.

    Raises:
        InvalidItem: it has no role that Chat Completions knows.
    """
    message = plain(message, path)
    role = message.get("role")
    if calls is None:
        calls = {}
    if role == "tool":
        items = [_output(message, calls)]
    elif role == "assistant":
        items = _assistant_items(message)
        calls |= {item["call_id"]: item["type"] for item in items if "call_id" in item}
    elif role in ("user", "system", "developer"):
        items = [{"role": role, "content": _content_in(message.get("content"), "input_text"), **_name(message)}]
    else:
        raise InvalidItem(f"{path}.role", f"{role!r} is none of user, assistant, system, developer, tool")
    made = [Piece(item, {"field": item.pop("_field")} if "_field" in item else None) for item in items]
    again = _message([Rendered(0, 0, piece.item, piece.extra) for piece in made], recorded=True)
    extra = _difference(message, again)
    if extra:
        made[0] = Piece(made[0].item, {**(made[0].extra or {}), **extra})
    return made


def _name(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of who says a message, for those APIs that tell participants of one role apart."""
    name = holder.get("name")
    return {"name": name} if isinstance(name, str) and name else {}


def _output(message: Mapping[str, Any], calls: Mapping[str, str]) -> dict[str, Any]:
    content = _content_in(message.get("content"), "input_text")
    given = message.get("tool_call_id")
    call_id = given if isinstance(given, str) else ""
    return {"type": f"{calls.get(call_id, 'function_call')}_output", "call_id": call_id, "output": content}


def _assistant_items(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    field = next((name for name in _REASONING if isinstance(message.get(name), str) and message[name]), None)
    if field is not None:
        thought = {"type": "reasoning_text", "text": message[field]}
        items.append({"type": "reasoning", "summary": [], "content": [thought], "_field": field})
    content = _content_in(message.get("content"), "output_text")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        said = content if isinstance(content, list) else [{"type": "output_text", "text": content}] if content else []
        content = [*said, {"type": "refusal", "refusal": refusal}]
    given = message.get("tool_calls")
    calls = [
        _call(call, at) for at, call in enumerate(given if isinstance(given, list) else ()) if isinstance(call, dict)
    ]
    if content or not (calls or items):
        items.append({"type": "message", "role": "assistant", "content": content, **_name(message)})
    return items + calls


def _call(call: Mapping[str, Any], index: int) -> dict[str, Any]:
    call_id = call.get("id")
    made: dict[str, Any] = {"call_id": call_id if isinstance(call_id, str) and call_id else f"call_{index}"}
    custom = call.get("custom")
    if isinstance(custom, dict) and call.get("type") != "function":
        return {
            "type": "custom_tool_call",
            **made,
            "name": _text(custom.get("name")),
            "input": _text(custom.get("input")),
        }
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return {
        "type": "function_call",
        **made,
        "name": _text(function.get("name")),
        "arguments": _text(function.get("arguments")),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else encode(value).decode()


def _content_in(content: Any, text_type: str) -> str | list[dict[str, Any]]:
    """Return a content as an item has it; what is neither a text nor a list of parts stays in the message's extra."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    return [
        _part_in(part, text_type)
        if isinstance(part, dict) and isinstance(part.get("type"), str)
        else {"type": text_type, "text": _text(part)}
        for part in content
    ]


def _part_in(part: dict[str, Any], text_type: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        made = {"type": text_type, "text": part["text"]}
        if "prompt_cache_breakpoint" in part:
            made["prompt_cache_breakpoint"] = part["prompt_cache_breakpoint"]
        return made
    image = part.get("image_url")
    if kind == "image_url" and isinstance(image, dict) and isinstance(image.get("url"), str):
        detail = {"detail": image["detail"]} if isinstance(image.get("detail"), str) else {}
        return {"type": "input_image", "image_url": image["url"], **detail}
    file = part.get("file")
    if kind == "file" and isinstance(file, dict):
        return {"type": "input_file", **{key: file[key] for key in ("file_data", "file_id", "filename") if key in file}}
    return part


# -- to messages


def to_messages(rendered: Sequence[Rendered], *, recorded: bool = False, apart: bool = True) -> list[dict[str, Any]]:
    """Return a window's items as Chat messages: one for each response, its tool messages right behind it.

    A message has one name, so where a response says something under several, each change of the name begins a message.
    *apart* is false for requests of a day when it did not. *recorded* writes requests back as they were, with the
    differences that mean nothing.

    >>> call = {"type": "function_call", "call_id": "call_1", "name": "now", "arguments": "{}"}
    >>> said = {"role": "assistant", "content": "Let me look."}
    >>> (message,) = to_messages([Rendered(3, 2, said), Rendered(4, 2, call)])
    >>> message["content"], message["tool_calls"]
    ('Let me look.', [{'id': 'call_1', 'type': 'function', 'function': {'name': 'now', 'arguments': '{}'}}])
    """
    messages: list[dict[str, Any]] = []
    for response, run in groupby(rendered, key=_owner):
        if response is None:
            messages += [_message([one], recorded=recorded) for one in run]
            continue
        group = list(run)
        messages += [_message(part, recorded=recorded) for part in (_by_name(group) if apart else [group])]
    return messages


def _by_name(group: list[Rendered]) -> list[list[Rendered]]:
    """Return what one response said in parts that have one name each; its calls are in the last, before the outputs."""
    names = [_name(one.item) for one in group if _says(one)]
    if all(name == names[0] for name in names):
        return [group]
    made: list[list[Rendered]] = []
    before: list[Rendered] = []
    calls: list[Rendered] = []
    for one in group:
        if _says(one):
            if not made or _name(made[-1][-1].item) != _name(one.item):
                made.append([])
            made[-1] += [*before, one]
            before = []
        elif one.item.get("type") in _CALLS:
            calls.append(one)
        else:
            before.append(one)
    made[-1] += [*before, *calls]
    return made


def _says(one: Rendered) -> bool:
    return bool(one.item.get("type", "message") == "message")


def _owner(one: Rendered) -> object:
    """Name the message that an item goes into: None for one of its own."""
    if one.response is not None:
        return one.response
    return "calls" if one.item.get("type") in _CALLS else None


def _message(group: list[Rendered], *, recorded: bool) -> dict[str, Any]:
    first = group[0]
    item = first.item
    role = item.get("role")
    if item.get("type") in _OUTPUTS:
        content = _content_out(item.get("output"), home=recorded or first.home, texts_only=True)
        message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
    elif role in ("user", "system", "developer"):
        message = {"role": role, "content": _content_out(item.get("content"), home=recorded or first.home)}
        message |= _name(item)
    else:
        message = _assistant(group, recorded)
    for one in group:
        if one.extra and (recorded or one.home):
            apply(message, one.extra, recorded=recorded)
    return message


def _assistant(group: Sequence[Rendered], recorded: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    contents: list[Any] = []
    calls: list[dict[str, Any]] = []
    for one in group:
        item = one.item
        match item.get("type", "message"):
            case "message":
                contents.append(_content_out(item.get("content"), home=recorded or one.home, spoken=True))
                message |= _name(item)
            case "function_call" | "custom_tool_call":
                calls.append(_call_out(item))
            case "reasoning" if one.extra and "field" in one.extra and (recorded or one.home):
                message[one.extra["field"]] = "".join(str(part.get("text", "")) for part in parts(item))
            case _:
                pass
    if contents:
        message["content"] = contents[0] if len(contents) == 1 else list(chain(*map(as_parts, contents)))
    if calls:
        message.setdefault("content", None)
        message["tool_calls"] = calls
    return message


def _call_out(item: Mapping[str, Any]) -> dict[str, Any]:
    kind, text = ("custom", "input") if item["type"] == "custom_tool_call" else ("function", "arguments")
    return {"id": item["call_id"], "type": kind, kind: {"name": item["name"], text: item[text]}}


def _content_out(content: Any, *, home: bool, spoken: bool = False, texts_only: bool = False) -> Any:
    if not isinstance(content, list):
        return content
    made = list(_parts_out(content, home, spoken, texts_only))
    if home:
        return made
    if all(set(part) == {"type", "text"} for part in made) and len(made) < 2:
        # Every backend takes a string; some take nothing else.
        return made[0]["text"] if made else ""
    return made


def _parts_out(content: list[Any], home: bool, spoken: bool, texts_only: bool) -> Iterator[Any]:
    for part in content:
        made = _part_out(part) if isinstance(part, dict) else part
        kind = made.get("type") if isinstance(made, dict) else None
        if kind == "text" or home or (kind == "refusal" and spoken):
            yield made
        elif spoken:
            continue
        elif texts_only or kind not in ("image_url", "file", "input_audio"):
            yield {"type": "text", "text": f"[{part.get('type')} left out: this API takes none here]"}
        else:
            yield made


def _part_out(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text" if isinstance(part.get("text"), str):
            made = {"type": "text", "text": part["text"]}
            if "prompt_cache_breakpoint" in part:
                made["prompt_cache_breakpoint"] = part["prompt_cache_breakpoint"]
            return made
        case "input_image" if isinstance(part.get("image_url"), str):
            detail = part.get("detail")
            image = {"url": part["image_url"]}
            # Chat Completions has no "original": high is the nearest that it has.
            return {
                "type": "image_url",
                "image_url": image | ({"detail": "high" if detail == "original" else detail} if detail else {}),
            }
        case "input_file" if "file_url" not in part:
            return {
                "type": "file",
                "file": {key: part[key] for key in ("file_data", "file_id", "filename") if key in part},
            }
        case _:
            return part


def with_plain_calls(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose calls have ids and names that OpenAI takes, and so has what answers them.

    >>> with_plain_calls({"role": "tool", "tool_call_id": "x" * 50, "content": "clear"})["tool_call_id"]
    'call_77cf12060d47183ea8c40345e7389e7e'
    """
    if isinstance(message.get("tool_call_id"), str):
        return {**message, "tool_call_id": short(message["tool_call_id"], LONGEST_MESSAGE_ID)}
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_plain_call(call) for call in message["tool_calls"]]}


def _plain_call(call: dict[str, Any]) -> dict[str, Any]:
    kind = call["type"]
    return {
        **call,
        "id": short(call["id"], LONGEST_MESSAGE_ID),
        kind: {**call[kind], "name": function_name(call[kind]["name"])},
    }


# -- what an item has no place for


def _difference(message: Any, again: Any) -> dict[str, Any]:
    """Return what makes *again* into *message*: values to set and keys to take away, by path."""
    changes: list[tuple[list[Any], Any]] = []
    gone: list[list[Any]] = []
    _compare(message, again, [], changes, gone)
    return ({"set": changes} if changes else {}) | ({"unset": gone} if gone else {})


def _compare(
    here: Any, there: Any, path: list[Any], changes: list[tuple[list[Any], Any]], gone: list[list[Any]]
) -> None:
    if isinstance(here, dict) and isinstance(there, dict):
        for key, value in here.items():
            if key in there:
                _compare(value, there[key], [*path, key], changes, gone)
            else:
                changes.append(([*path, key], value))
        gone.extend([*path, key] for key in there if key not in here)
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for index, value in enumerate(here):
            _compare(value, there[index], [*path, index], changes, gone)
    elif encode(here) != encode(there):
        changes.append((path, here))
