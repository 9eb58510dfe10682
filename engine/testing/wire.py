"""A scripted reply on the wire: the JSON bodies and the event streams of both APIs.

Pure functions of the reply and the request. Ids and times are made from the request's number, so that the same
requests in the same order get the same bytes; of each API the answer that is not streamed is what its stream adds
up to.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from .script import Call, CustomCall, Item, Part, Reason, Received, Refuse, Reply, Text

__all__ = (
    "JSON",
    "Count",
    "births_of",
    "body_of",
    "encoded",
    "events_of",
    "frames_of",
    "named_frame",
    "response_id",
    "rough",
)

JSON: TypeAlias = dict[str, Any]
Count: TypeAlias = Callable[[str], int]

_MIDNIGHT = 1_767_225_600  # the start of 2026, in Unix seconds: a clock would make runs differ
_RESPONSE_DEFAULTS: JSON = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def rough(text: str) -> int:
    """The tokens of *text* where nobody counts them: a quarter of its characters, rounded up."""
    return -(-len(text) // 4)


def body_of(answer: Reply, received: Received, *, count: Count = rough) -> JSON:
    """The JSON body that answers *received*, of the API that it was sent to.

    A failed reply is a response of status `failed`; Chat Completions has no such body, so there it is the error body.

    Raises:
        ValueError: the reply has an `Item`, and the request came by Chat Completions.
    """
    if received.api == "responses":
        return _response(answer, received, count)
    if received.api == "compact":
        return _compacted(answer, received, count)
    completion = _completion(answer, received, count)
    return {"error": _error(answer)} if answer.status == "failed" else completion


def frames_of(answer: Reply, received: Received, *, count: Count = rough) -> list[bytes]:
    """The server-sent events that answer *received*, of the API that it was sent to, one an element.

    Raises:
        ValueError: the reply has an `Item`, and the request came by Chat Completions.
    """
    if received.api == "responses":
        events = events_of(answer, received, count=count)
        return [named_frame({**event, "sequence_number": number}) for number, event in enumerate(events)]
    chunks = _chunks(answer, received, _completion(answer, received, count))
    return [*map(_frame, chunks), b"data: [DONE]\n\n"]


def events_of(answer: Reply, received: Received, *, count: Count = rough) -> Iterator[JSON]:
    """The events of the Responses API that answer *received*, without their numbers in the sequence."""
    return _response_events(answer, _response(answer, received, count))


def births_of(answer: Reply, received: Received) -> dict[str, str]:
    """The ids of the items that follow reasoning in the answer, each with the id of that reasoning.

    The real API takes such an item back only together with its reasoning.
    """
    items = _items(answer, received.number) if received.api == "responses" else []
    named = ((before, item) for before, item in pairwise(items) if "id" in before and "id" in item)
    return {item["id"]: before["id"] for before, item in named if _reasons(before) and not _reasons(item)}


def encoded(body: object) -> bytes:
    """*body* as compact JSON in UTF-8."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8; a server that sends one escapes it
        return json.dumps(body, separators=(",", ":")).encode()


def response_id(received: Received) -> str:
    """Return the id of the response that answers *received*."""
    return f"resp_{received.number:04d}"


def _frame(body: JSON) -> bytes:
    return b"data: " + encoded(body) + b"\n\n"


def named_frame(event: JSON) -> bytes:
    """An event of the Responses API as a server-sent event, which bears its name."""
    return f"event: {event['type']}\n".encode() + _frame(event)


def _id(prefix: str, number: int, index: int) -> str:
    return f"{prefix}_{number:04d}_{index}"


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _error(answer: Reply) -> JSON:
    given = {"code": "server_error", "message": "The scripted reply failed.", **(answer.error or {})}
    return {"type": "server_error", "param": None, **given}


# Usage


@dataclass(frozen=True, slots=True)
class _Usage:
    read: int
    written: int
    reasoned: int


def _usage(answer: Reply, received: Received, count: Count) -> _Usage:
    prompt = {key: received.body[key] for key in ("instructions", "input", "messages", "tools") if key in received.body}
    if received.context:
        prompt["context"] = list(received.context)
    return _Usage(
        read=count(json.dumps(prompt, ensure_ascii=False)),
        written=sum(count(part.text) for part in answer.parts),
        reasoned=sum(count(part.text) for part in answer.parts if isinstance(part, Reason)),
    )


# Responses


def _response(answer: Reply, received: Received, count: Count) -> JSON:
    body, created = received.body, _MIDNIGHT + received.number
    echoed = {key: default if body.get(key) is None else body[key] for key, default in _RESPONSE_DEFAULTS.items()}
    error = _error(answer)
    response: JSON = {
        "id": response_id(received),
        "object": "response",
        "created_at": created,
        "completed_at": created if answer.status == "completed" else None,
        "status": answer.status,
        "error": {"code": error["code"], "message": error["message"]} if answer.status == "failed" else None,
        "incomplete_details": {"reason": answer.reason or "max_output_tokens"}
        if answer.status == "incomplete"
        else None,
        "model": body.get("model"),
        "output": _items(answer, received.number),
        "usage": _response_usage(answer, received, count),
        **echoed,
    }
    if (conversation := body.get("conversation")) is not None:
        response["conversation"] = {"id": conversation} if isinstance(conversation, str) else conversation
    return response


def _response_usage(answer: Reply, received: Received, count: Count) -> JSON | None:
    if answer.usage is False:
        return None
    if answer.usage is not None:
        return dict(answer.usage)
    usage = _usage(answer, received, count)
    return {
        "input_tokens": usage.read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.written,
        "output_tokens_details": {"reasoning_tokens": usage.reasoned},
        "total_tokens": usage.read + usage.written,
    }


def _items(answer: Reply, number: int) -> list[JSON]:
    last = len(answer.parts) - 1
    return [
        _item(part, number, index, "completed" if index < last or answer.status == "completed" else "incomplete")
        for index, part in enumerate(answer.parts)
    ]


def _item(part: Part, number: int, index: int, status: str) -> JSON:
    made = _id("call", number, index)
    match part:
        case Text():
            content = {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
            phase = {"phase": part.phase} if part.phase else {}
            return _message(_id("msg", number, index), status, content) | phase
        case Refuse():
            return _message(_id("msg", number, index), status, {"type": "refusal", "refusal": part.text})
        case Call():
            called = {"call_id": part.id or made, "name": part.name, "arguments": part.text}
            return {"id": _id("fc", number, index), "type": "function_call", "status": status, **called}
        case CustomCall():
            called = {"call_id": part.id or made, "name": part.name, "input": part.text}
            return {"id": _id("ctc", number, index), "type": "custom_tool_call", **called}
        case Reason():
            return _reasoning(part, _id("rs", number, index))
        case Item():
            return dict(part.item)


def _message(item_id: str, status: str, content: JSON) -> JSON:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": [content]}


def _reasons(item: JSON) -> bool:
    return item.get("type") == "reasoning"


def _reasoning(part: Reason, item_id: str) -> JSON:
    item: JSON = {"id": item_id, "type": "reasoning", "summary": []}
    if part.summary:
        item["summary"] = [{"type": "summary_text", "text": part.summary}]
    if part.content is not None:
        item["content"] = [{"type": "reasoning_text", "text": part.content}]
    if part.encrypted is True:
        item["encrypted_content"] = base64.urlsafe_b64encode(hashlib.sha512(item_id.encode()).digest()).decode()
    elif part.encrypted is not None:
        item["encrypted_content"] = part.encrypted
    return item


def _response_events(answer: Reply, response: JSON) -> Iterator[JSON]:
    unfinished = {"completed_at": None, "status": "in_progress", "error": None, "incomplete_details": None}
    opened = {**response, **unfinished, "output": [], "usage": None}
    if response["background"] is True:
        queued = {**opened, "status": "queued"}
        yield {"type": "response.created", "response": queued}
        yield {"type": "response.queued", "response": queued}
    else:
        yield {"type": "response.created", "response": opened}
    yield {"type": "response.in_progress", "response": opened}
    for index, (part, item) in enumerate(zip(answer.parts, response["output"], strict=True)):
        yield {"type": "response.output_item.added", "output_index": index, "item": _begun(part, item)}
        yield from _content_events(part, item, {"item_id": item.get("id"), "output_index": index}, answer.chunk)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    if answer.as_event != "failed":
        error = _error(answer)
        flat = {key: error[key] for key in ("code", "message", "param")}
        yield {"type": "error", **({"error": error} if answer.as_event == "error_nested" else flat)}
    yield {"type": f"response.{answer.status}", "response": response}


def _begun(part: Part, item: JSON) -> JSON:
    match part:
        case Text() | Refuse():
            return {**item, "status": "in_progress", "content": []}
        case Call():
            return {**item, "status": "in_progress", "arguments": ""}
        case CustomCall():
            return {**item, "input": ""}
        case Reason():
            return {**item, "summary": []} | _hollow_reasoning(item)
        case Item():
            return item


def _hollow_reasoning(item: JSON) -> JSON:
    hollow: JSON = {"content": []} if "content" in item else {}
    if "encrypted_content" in item:  # only the finished item has all of it: who keeps this copy loses the reasoning
        hollow["encrypted_content"] = item["encrypted_content"][: len(item["encrypted_content"]) // 2]
    return hollow


def _content_events(part: Part, item: JSON, at: JSON, size: int) -> Iterator[JSON]:
    match part:
        case Text() | Refuse():
            yield from _part_events(item["content"][0], {**at, "content_index": 0}, size)
        case Call():
            yield from _call_events("response.function_call_arguments", "arguments", item, at, size)
        case CustomCall():
            yield from _call_events("response.custom_tool_call_input", "input", item, at, size)
        case Reason():
            for index, summary in enumerate(item["summary"]):
                yield from _part_events(summary, {**at, "summary_index": index}, size)
            for index, content in enumerate(item.get("content", ())):
                yield from _part_events(content, {**at, "content_index": index}, size)
        case Item():
            return


def _part_events(part: JSON, at: JSON, size: int) -> Iterator[JSON]:
    summary = part["type"] == "summary_text"
    frame = "response.reasoning_summary_part" if summary else "response.content_part"
    name = "response.reasoning_summary_text" if summary else f"response.{part['type']}"
    key = "refusal" if part["type"] == "refusal" else "text"
    also: JSON = {"logprobs": []} if part["type"] == "output_text" else {}
    yield {"type": f"{frame}.added", **at, "part": {**part, key: ""}}
    for delta in _pieces(part[key], size):
        yield {"type": f"{name}.delta", **at, "delta": delta, **also}
    yield {"type": f"{name}.done", **at, key: part[key], **also}
    yield {"type": f"{frame}.done", **at, "part": part}


def _call_events(name: str, key: str, item: JSON, at: JSON, size: int) -> Iterator[JSON]:
    for delta in _pieces(item[key], size):
        yield {"type": f"{name}.delta", **at, "delta": delta}
    yield {"type": f"{name}.done", **at, key: item[key]}


# Compaction


def _compacted(answer: Reply, received: Received, count: Count) -> JSON:
    """The user messages, word for word, then what the reply has: a text is what a compaction item encrypts."""
    given = received.body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
    users = [item for item in [*received.context, *items] if isinstance(item, dict) and item.get("role") == "user"]
    users = [_listed(user, _id("msg", received.number, 900 + at)) for at, user in enumerate(users)]
    return {
        "id": response_id(received),
        "object": "response.compaction",
        "created_at": _MIDNIGHT + received.number,
        "output": [*users, *(_compaction(part, received.number, at) for at, part in enumerate(answer.parts))],
        "usage": _response_usage(answer, received, count),
    }


def _listed(user: JSON, item_id: str) -> JSON:
    """A user's message as the API gives it back: with an id, and its content as a list."""
    content = user.get("content")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    return {"id": item_id, **user, "type": "message", "status": "completed", "content": parts}


def _compaction(part: Part, number: int, index: int) -> JSON:
    if isinstance(part, Text):
        opaque = base64.urlsafe_b64encode(part.text.encode()).decode()
        return {"id": _id("cmp", number, index), "type": "compaction", "encrypted_content": opaque}
    return _item(part, number, index, "completed")


# Chat Completions


def _completion(answer: Reply, received: Received, count: Count) -> JSON:
    completion: JSON = {
        "id": f"chatcmpl-{received.number:04d}",
        "object": "chat.completion",
        "created": _MIDNIGHT + received.number,
        "model": received.body.get("model"),
        "service_tier": "default",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": _chat_message(answer, received.number),
                "logprobs": None,
                "finish_reason": _finish_reason(answer),
            }
        ],
    }
    if (usage := _chat_usage(answer, received, count)) is not None:
        completion["usage"] = usage
    return completion


def _chat_usage(answer: Reply, received: Received, count: Count) -> JSON | None:
    if answer.usage is False:
        return None
    if answer.usage is not None:
        return dict(answer.usage)
    usage = _usage(answer, received, count)
    predicted = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return {
        "prompt_tokens": usage.read,
        "completion_tokens": usage.written,
        "total_tokens": usage.read + usage.written,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoned, "audio_tokens": 0, **predicted},
    }


def _finish_reason(answer: Reply) -> str:
    if answer.status == "incomplete":
        return "content_filter" if answer.reason == "content_filter" else "length"
    return "tool_calls" if any(isinstance(part, Call | CustomCall) for part in answer.parts) else "stop"


def _chat_message(answer: Reply, number: int) -> JSON:
    message: JSON = {"role": "assistant", "content": None, "refusal": None}
    for index, part in enumerate(answer.parts):
        match part:
            case Text() | Refuse() | Reason():
                if key := _chat_field(part, answer):
                    message[key] = (message.get(key) or "") + part.text
            case Call() | CustomCall():
                message.setdefault("tool_calls", []).append(_tool_call(part, _id("call", number, index)))
            case Item():
                raise ValueError(
                    f"The scripted reply has an Item of type {part.item.get('type')!r}, which only the Responses API "
                    "can carry; on Chat Completions use Text, Refuse, Call, CustomCall or Reason."
                )
    return message


def _chat_field(part: Text | Refuse | Reason, answer: Reply) -> str | None:
    match part:
        case Text():
            return "content"
        case Refuse():
            return "refusal"
        case Reason():
            return answer.reasoning_field if part.text else None


def _tool_call(part: Call | CustomCall, made: str) -> JSON:
    if isinstance(part, Call):
        return {"id": part.id or made, "type": "function", "function": {"name": part.name, "arguments": part.text}}
    return {"id": part.id or made, "type": "custom", "custom": {"name": part.name, "input": part.text}}


def _chunks(answer: Reply, received: Received, completion: JSON) -> Iterator[JSON]:
    metered = (received.body.get("stream_options") or {}).get("include_usage") is True and "usage" in completion
    chunk: JSON = {key: value for key, value in completion.items() if key not in ("choices", "usage")}
    chunk["object"] = "chat.completion.chunk"
    if metered:
        chunk["usage"] = None
    (choice,) = completion["choices"]
    for delta in _deltas(answer, choice["message"]):
        yield {**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
    if answer.status == "failed":
        yield {"error": _error(answer)}
        return
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
    yield {**chunk, "choices": [last]}
    if metered:
        yield {**chunk, "choices": [], "usage": completion["usage"]}


def _deltas(answer: Reply, message: JSON) -> Iterator[JSON]:
    yield {"role": "assistant", **{key: None if message[key] is None else "" for key in ("content", "refusal")}}
    tools = iter(enumerate(message.get("tool_calls", ())))
    for part in answer.parts:
        match part:
            case Text() | Refuse() | Reason():
                if key := _chat_field(part, answer):
                    yield from ({key: piece} for piece in _pieces(part.text, answer.chunk))
            case Call() | CustomCall():
                yield from _tool_deltas(*next(tools), answer.chunk)
            case Item():
                continue  # refused when the message was built


def _tool_deltas(index: int, call: JSON, size: int) -> Iterator[JSON]:
    kind = call["type"]
    key = "arguments" if kind == "function" else "input"
    yield {"tool_calls": [{"index": index, **call, kind: {**call[kind], key: ""}}]}
    for piece in _pieces(call[kind][key], size):
        yield {"tool_calls": [{"index": index, kind: {key: piece}}]}
