"""The scripted server, driven by openai's own client over loopback."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from itertools import pairwise

import anyio
import anyio.lowlevel
import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from turnlog.engine.testing.server import (
    Call,
    CustomCall,
    Fail,
    Hang,
    Item,
    Raw,
    Reason,
    Refuse,
    Reply,
    Text,
    scripted_server,
)

MODEL = "gpt-test"
TEXT = "Grüße aus Köln, all is well. 🙂"
ALL = (
    Reason("Weighing the matter", content="raw thoughts of it"),
    Text(TEXT, phase="commentary"),
    Refuse("No, I will not do that"),
    Call("get_weather", {"city": "Köln", "days": 2}),
    Text("Done, finally."),
    Call("broken", '{"city": "Kö', id="call_mine"),
    CustomCall("shell", "ls -l | wc"),
)
PARTS = {
    "text": Text(TEXT),
    "phase": Text(TEXT, phase="final_answer"),
    "empty text": Text(""),
    "refusal": Refuse("I cannot do that"),
    "call": Call("get_weather", {"city": "Paris"}),
    "call without arguments": Call("now"),
    "call with broken arguments": Call("now", '{"a": '),
    "custom call": CustomCall("shell", "ls -l"),
    "reasoning": Reason("Thinking it over"),
    "reasoning text": Reason(content="Thinking it over, in the raw"),
    "reasoning of both": Reason("In short", content="At length and in detail", encrypted="opaque"),
    "reasoning with nothing": Reason(encrypted=None),
}
each_answer = pytest.mark.parametrize("answer", [Reply(*ALL), *map(Reply, PARTS.values())], ids=["all", *PARTS])


@pytest.fixture
def anyio_backend():
    return "asyncio"


without_uvloop = pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
each_loop = pytest.mark.parametrize(
    "anyio_backend",
    ["asyncio", pytest.param(("asyncio", {"use_uvloop": True}), marks=without_uvloop)],
    ids=["asyncio", "uvloop"],
)


@asynccontextmanager
async def connected(server, **options):
    options = {"api_key": "test", "max_retries": 0, "timeout": 20.0, **options}
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with AsyncOpenAI(base_url=server.base_url, http_client=transport, **options) as client:
        yield client


@asynccontextmanager
async def serving(*script, **options):
    async with scripted_server(script, **options) as server, connected(server) as client:
        yield server, client


def ask(client, **more):
    return client.responses.create(model=MODEL, input="Hi", **more)


def chat(client, **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], **more)


async def drain(stream, seen):
    async for event in stream:
        seen.append(event)


async def response_events(answer, **more):
    async with serving(answer) as (_, client):
        return [event.to_dict() async for event in await ask(client, stream=True, **more)]


async def chat_chunks(answer, **more):
    async with serving(answer) as (_, client):
        return [chunk.to_dict() async for chunk in await chat(client, stream=True, **more)]


async def response_json(answer, **more):
    async with serving(answer) as (_, client):
        return (await ask(client, **more)).to_dict()


async def chat_json(answer, **more):
    async with serving(answer) as (_, client):
        return (await chat(client, **more)).to_dict()


async def raw_text(answer, create):
    async with serving(answer) as (_, client), create(client) as response:
        return await response.text()


def types(events):
    """The types of the events, a run of deltas counting once."""
    names = [event["type"] for event in events]
    return names[:1] + [name for before, name in pairwise(names) if name != before]


# Responses


@pytest.mark.anyio
async def test_a_response_has_every_part_as_an_item():
    response = await response_json(Reply(*ALL))

    opaque = response["output"][0].pop("encrypted_content")
    text = {"annotations": [], "logprobs": [], "type": "output_text"}
    assert response["output"] == [
        {
            "id": "rs_0001_0",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Weighing the matter"}],
            "content": [{"type": "reasoning_text", "text": "raw thoughts of it"}],
        },
        {
            "id": "msg_0001_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "phase": "commentary",
            "content": [{**text, "text": TEXT}],
        },
        {
            "id": "msg_0001_2",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "No, I will not do that"}],
        },
        {
            "id": "fc_0001_3",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_0001_3",
            "name": "get_weather",
            "arguments": '{"city":"Köln","days":2}',
        },
        {
            "id": "msg_0001_4",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{**text, "text": "Done, finally."}],
        },
        {
            "id": "fc_0001_5",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_mine",
            "name": "broken",
            "arguments": '{"city": "Kö',
        },
        {
            "id": "ctc_0001_6",
            "type": "custom_tool_call",
            "call_id": "call_0001_6",
            "name": "shell",
            "input": "ls -l | wc",
        },
    ]
    assert len(opaque) > 40
    assert response["status"] == "completed"
    assert response["error"] is response["incomplete_details"] is None


MESSAGE = ["response.output_item.added", "response.content_part.added"]
ENDED = ["response.content_part.done", "response.output_item.done"]
SUMMARY = "response.reasoning_summary_"
ORDER = {
    "text": [*MESSAGE, "response.output_text.delta", "response.output_text.done", *ENDED],
    "empty text": [*MESSAGE, "response.output_text.done", *ENDED],
    "refusal": [*MESSAGE, "response.refusal.delta", "response.refusal.done", *ENDED],
    "call": [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ],
    "custom call": [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ],
    "reasoning of both": [
        "response.output_item.added",
        *(f"{SUMMARY}{name}" for name in ("part.added", "text.delta", "text.done", "part.done")),
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        *ENDED,
    ],
    "reasoning with nothing": ["response.output_item.added", "response.output_item.done"],
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ORDER)
async def test_the_events_of_a_part_come_in_openais_order(name):
    events = await response_events(Reply(PARTS[name], chunk=4))

    assert types(events) == ["response.created", "response.in_progress", *ORDER[name], "response.completed"]


@pytest.mark.anyio
async def test_items_follow_each_other_with_their_own_indexes():
    events = await response_events(Reply(*ALL))

    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [*range(7)]
    indexes = [event["output_index"] for event in events if "output_index" in event]
    assert indexes == sorted(indexes)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]


@pytest.mark.anyio
async def test_items_begin_in_progress_and_end_completed():
    events = await response_events(Reply(*ALL))

    def states(kind):
        items = [event["item"] for event in events if event["type"] == f"response.output_item.{kind}"]
        return [item["status"] for item in items if "status" in item]

    assert states("added") == ["in_progress"] * 5
    assert states("done") == ["completed"] * 5


def folded(events):
    """What a client that trusts only the deltas knows of the output."""
    items = {}
    keys = {
        "response.output_text.delta": "content",
        "response.refusal.delta": "content",
        "response.reasoning_text.delta": "content",
        "response.reasoning_summary_text.delta": "summary",
        "response.function_call_arguments.delta": "arguments",
        "response.custom_tool_call_input.delta": "input",
    }
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                items[event["output_index"]] = {key: value for key, value in event["item"].items() if key != "status"}
            case "response.content_part.added":
                items[event["output_index"]]["content"].append(event["part"])
            case "response.reasoning_summary_part.added":
                items[event["output_index"]]["summary"].append(event["part"])
            case kind if kind in keys:
                assert event["item_id"] == items[event["output_index"]]["id"]
                _add(items[event["output_index"]], keys[kind], event)
    return [items[index] for index in sorted(items)]


def _add(item, key, event):
    if key in ("arguments", "input"):
        item[key] += event["delta"]
        return
    part = item[key][event["summary_index" if key == "summary" else "content_index"]]
    part["refusal" if part["type"] == "refusal" else "text"] += event["delta"]


@pytest.mark.anyio
@each_answer
async def test_deltas_add_up_to_the_items_of_the_json_answer(answer):
    response = await response_json(answer)
    events = await response_events(answer)

    expected = [{key: value for key, value in item.items() if key != "status"} for item in response["output"]]
    got = folded(events)
    for mine, theirs in zip(got, expected, strict=True):
        mine.pop("encrypted_content", None)
        theirs.pop("encrypted_content", None)
    assert got == expected


@pytest.mark.anyio
@each_answer
async def test_the_last_event_and_the_done_items_are_the_json_answer(answer):
    response = await response_json(answer)
    events = await response_events(answer)

    assert events[-1]["response"] == response
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == response["output"]


@pytest.mark.anyio
@each_answer
async def test_the_stream_helper_builds_the_json_answer(answer):
    response = await response_json(answer)
    async with serving(answer) as (_, client), client.responses.stream(model=MODEL, input="Hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.id == response["id"]
    assert [_unparsed(item.to_dict()) for item in final.output] == response["output"]
    assert final.usage.to_dict() == response["usage"]


def _unparsed(item):
    item.pop("parsed_arguments", None)
    for part in item.get("content", ()):
        part.pop("parsed", None)
    return item


@pytest.mark.anyio
async def test_done_events_repeat_the_whole_text():
    events = {event["type"]: event for event in await response_events(Reply(*ALL[:4], CustomCall("shell", "ls")))}

    assert events["response.output_text.done"]["text"] == TEXT
    assert events["response.output_text.done"]["logprobs"] == []
    assert events["response.output_text.delta"]["logprobs"] == []
    assert events["response.refusal.done"]["refusal"] == "No, I will not do that"
    assert events["response.reasoning_summary_text.done"]["text"] == "Weighing the matter"
    assert events["response.reasoning_summary_part.done"]["part"]["text"] == "Weighing the matter"
    assert events["response.reasoning_text.done"]["text"] == "raw thoughts of it"
    assert events["response.function_call_arguments.done"]["arguments"] == '{"city":"Köln","days":2}'
    assert events["response.custom_tool_call_input.done"]["input"] == "ls"


@pytest.mark.anyio
async def test_encrypted_content_is_whole_only_in_the_finished_item():
    events = await response_events(Reply(Reason("why", encrypted="0123456789"), Reason("how"), "so"))

    added, _, _ = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done, other, _ = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert added["encrypted_content"] == "01234"
    assert done["encrypted_content"] == "0123456789"
    assert done["encrypted_content"] != other["encrypted_content"]
    assert [done, other] == events[-1]["response"]["output"][:2]


@pytest.mark.anyio
async def test_encrypted_content_can_be_left_out():
    response = await response_json(Reply(Reason("why", encrypted=None), "so"))

    assert "encrypted_content" not in response["output"][0]


@pytest.mark.anyio
async def test_the_opening_events_carry_an_empty_response_in_progress():
    created, progress, *_, completed = await response_events(Reply(*ALL))

    for event in (created, progress):
        response = event["response"]
        assert response["status"] == "in_progress"
        assert response["output"] == []
        assert response["usage"] is response["completed_at"] is None
    different = {key for key, value in completed["response"].items() if created["response"][key] != value}
    assert different == {"status", "output", "usage", "completed_at"}


@pytest.mark.anyio
async def test_frames_name_their_event_and_are_one_line_of_json():
    frames = await raw_text(Reply(*ALL, "line\nbreak\r\u2028"), lambda client: _streaming(client.responses, input="Hi"))

    assert frames.endswith("\n\n")
    for frame in frames.removesuffix("\n\n").split("\n\n"):
        event, data = frame.split("\n")
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def _streaming(resource, **more):
    return resource.with_streaming_response.create(model=MODEL, stream=True, **more)


@pytest.mark.anyio
async def test_chunk_is_the_length_of_a_delta():
    events = await response_events(Reply("0123456789", chunk=4))
    usual = await response_events(Reply("0123456789"))

    deltas = [[event["delta"] for event in run if "delta" in event] for run in (events, usual)]
    assert deltas == [["0123", "4567", "89"], ["01234567", "89"]]


@pytest.mark.anyio
async def test_a_lone_surrogate_arrives():
    response = await response_json(Reply("half \ud83d of it"))

    assert response["output"][0]["content"][0]["text"] == "half \ud83d of it"


@pytest.mark.anyio
@pytest.mark.parametrize("reason", [None, "max_output_tokens", "content_filter"])
async def test_an_incomplete_reply_says_why_and_marks_its_last_item(reason):
    reply = Reply("one", "two", status="incomplete", reason=reason)
    response = await response_json(reply)
    events = await response_events(reply)

    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": reason or "max_output_tokens"}
    assert response["completed_at"] is None
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"] == response
    assert types(events).count("response.completed") == 0


@pytest.mark.anyio
async def test_a_failed_reply_is_a_failed_response():
    reply = Reply("half of", status="failed", error={"code": "rate_limit_exceeded", "message": "Slow down."})
    response = await response_json(reply)
    events = await response_events(reply)

    assert response["status"] == "failed"
    assert response["error"] == {"code": "rate_limit_exceeded", "message": "Slow down."}
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"] == response
    assert "error" not in types(events)


@pytest.mark.anyio
async def test_a_failed_reply_needs_no_error():
    response = await response_json(Reply(status="failed"))

    assert response["error"]["code"] == "server_error"
    assert response["output"] == []


@pytest.mark.anyio
async def test_a_nested_error_event_makes_the_client_raise():
    error = {"code": "context_length_exceeded", "message": "Too long."}
    async with serving(Reply("half", status="failed", error=error, as_event="error_nested")) as (_, client):
        stream = await ask(client, stream=True)
        seen = []
        with pytest.raises(openai.APIError, match=r"Too long\.") as caught:
            await drain(stream, seen)

    assert seen[-1].type == "response.output_item.done"
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.type == "server_error"


@pytest.mark.anyio
async def test_a_flat_error_event_is_yielded_before_the_end():
    error = {"code": "context_length_exceeded", "message": "Too long."}
    events = await response_events(Reply("half", status="failed", error=error, as_event="error_flat"))

    assert types(events)[-2:] == ["error", "response.failed"]
    assert events[-2] == {**error, "type": "error", "param": None, "sequence_number": len(events) - 2}


@pytest.mark.anyio
async def test_the_response_echoes_the_request():
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    sent = {
        "instructions": "Be brief.",
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "metadata": {"user": "7"},
        "store": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "truncation": "auto",
        "max_output_tokens": 100,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "text"}},
        "previous_response_id": "resp_before",
    }
    response = await response_json("yes", **sent)

    assert {key: response[key] for key in sent} == sent
    assert response["model"] == MODEL
    assert response["object"] == "response"


@pytest.mark.anyio
async def test_the_response_has_the_defaults_of_what_was_not_sent():
    response = await response_json("yes")

    assert response["store"] is response["parallel_tool_calls"] is True
    assert response["tools"] == []
    assert response["metadata"] == {}
    assert response["tool_choice"] == "auto"
    assert response["truncation"] == "disabled"
    assert response["temperature"] == response["top_p"] == 1.0
    assert response["instructions"] is response["previous_response_id"] is None
    assert "conversation" not in response


@pytest.mark.anyio
@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
async def test_a_conversation_is_named_in_the_response(conversation):
    response = await response_json("yes", conversation=conversation)

    assert response["conversation"] == {"id": "conv_1"}


@pytest.mark.anyio
async def test_an_item_is_sent_verbatim():
    item = {"id": "cmp_1", "type": "compaction", "encrypted_content": "opaque", "created_by": "me"}
    response = await response_json(Reply(Item(item), "so"))
    events = await response_events(Reply(Item(item), "so"))

    assert response["output"][0] == item
    assert types(events)[2:4] == ["response.output_item.added", "response.output_item.done"]
    assert events[2]["item"] == events[3]["item"] == item


@pytest.mark.anyio
async def test_usage_is_computed_given_or_absent():
    computed = await response_json(Reply(Reason("12345678"), "1234567", usage=None), instructions="x" * 4000)
    given = {**computed["usage"], "input_tokens": 7, "output_tokens_details": {"reasoning_tokens": 3}}

    usage = computed["usage"]
    assert 1000 <= usage["input_tokens"] <= 1050
    assert usage["output_tokens"] == 4
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2}
    assert usage["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + 4
    assert (await response_json(Reply("x", usage=given)))["usage"] == given
    assert (await response_json(Reply("x", usage=False)))["usage"] is None


@pytest.mark.anyio
async def test_usage_is_counted_by_the_counter_given():
    async with serving("four", count=lambda _: 100) as (_, client):
        response = await ask(client)

    assert (response.usage.input_tokens, response.usage.output_tokens) == (100, 100)


# Chat Completions


@pytest.mark.anyio
async def test_a_completion_is_one_message_of_all_parts():
    completion = await chat_json(Reply(*ALL))

    (choice,) = completion["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": f"{TEXT}Done, finally.",
        "refusal": "No, I will not do that",
        "reasoning_content": "raw thoughts of it",
        "tool_calls": [
            {
                "id": "call_0001_3",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"Köln","days":2}'},
            },
            {"id": "call_mine", "type": "function", "function": {"name": "broken", "arguments": '{"city": "Kö'}},
            {"id": "call_0001_6", "type": "custom", "custom": {"name": "shell", "input": "ls -l | wc"}},
        ],
    }


def joined(chunks):
    """The message that the deltas add up to."""
    message, calls = {}, {}
    for delta in (choice["delta"] for chunk in chunks for choice in chunk["choices"]):
        for key, value in delta.items():
            if key != "tool_calls":
                message[key] = value if message.get(key) is None else message[key] + value
        for call in delta.get("tool_calls", ()):
            _join_call(calls, call)
    return message | ({"tool_calls": [calls[index] for index in sorted(calls)]} if calls else {})


def _join_call(calls, fragment):
    index = fragment["index"]
    if index not in calls:
        calls[index] = {key: value for key, value in fragment.items() if key != "index"}
        return
    assert fragment.keys() == {"index", calls[index]["type"]}
    ((key, text),) = fragment[calls[index]["type"]].items()
    calls[index][calls[index]["type"]][key] += text


@pytest.mark.anyio
@each_answer
async def test_chunks_add_up_to_the_json_completion(answer):
    completion = await chat_json(answer)
    chunks = await chat_chunks(answer, stream_options={"include_usage": True})

    (choice,) = completion["choices"]
    assert joined(chunks) == choice["message"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        choice["finish_reason"]
    ]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert [chunk[key] for key in ("id", "created", "model")] == [
            completion[key] for key in ("id", "created", "model")
        ]
    assert chunks[-1]["usage"] == completion["usage"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", [name for name in PARTS if name != "custom call"]
)  # openai's chat helper cannot end a stream with one
async def test_the_chat_helper_builds_the_json_completion(name):
    part = PARTS[name]
    completion = await chat_json(Reply(part))
    messages = [{"role": "user", "content": "Hi"}]
    async with (
        serving(Reply(part)) as (_, client),
        client.chat.completions.stream(
            model=MODEL, messages=messages, stream_options={"include_usage": True}
        ) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = (await stream.get_final_completion()).to_dict()

    message = {key: value for key, value in final["choices"][0]["message"].items() if value is not None}
    for call in message.get("tool_calls", ()):
        call.pop("index")
        call["function"].pop("parsed_arguments", None)
    expected = completion["choices"][0]["message"]
    assert message == {key: value for key, value in expected.items() if value is not None}
    assert final["choices"][0]["finish_reason"] == completion["choices"][0]["finish_reason"]
    assert final["usage"] == completion["usage"]
    assert "chunk" in kinds


@pytest.mark.anyio
async def test_the_role_comes_once_and_the_end_is_marked():
    chunks = await chat_chunks("Hello there, you")
    text = await raw_text("Hello", lambda client: _streaming(client.chat.completions, messages=[_user("Hi")]))

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert deltas[1:] == [{"content": "Hello th"}, {"content": "ere, you"}, {}]
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert "event:" not in text


def _user(text):
    return {"role": "user", "content": text}


@pytest.mark.anyio
async def test_a_stream_has_usage_only_where_it_was_asked_for():
    without = await chat_chunks("Hello")
    asked = await chat_chunks("Hello", stream_options={"include_usage": True})
    refused = await chat_chunks(Reply("Hello", usage=False), stream_options={"include_usage": True})
    declined = await chat_chunks("Hello", stream_options={"include_usage": False})

    assert all("usage" not in chunk for chunk in without + refused + declined)
    assert all(chunk["choices"] for chunk in without + refused + declined)
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.anyio
async def test_chat_usage_is_computed_given_or_absent():
    usage = (await chat_json(Reply(Reason("12345678"), "1234567")))["usage"]
    given = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}

    assert usage["completion_tokens"] == 4
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert (await chat_json(Reply("x", usage=given)))["usage"] == given
    assert "usage" not in await chat_json(Reply("x", usage=False))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("x"), "stop"),
        (Reply(Refuse("x")), "stop"),
        (Reply("x", Call("f")), "tool_calls"),
        (Reply(CustomCall("f")), "tool_calls"),
        (Reply(Call("f"), status="incomplete"), "length"),
        (Reply("x", status="incomplete", reason="max_output_tokens"), "length"),
        (Reply("x", status="incomplete", reason="content_filter"), "content_filter"),
    ],
)
async def test_finish_reason_follows_from_the_reply(reply, reason):
    completion = await chat_json(reply)
    chunks = await chat_chunks(reply)

    assert completion["choices"][0]["finish_reason"] == reason
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.anyio
@pytest.mark.parametrize(("field", "keys"), [("reasoning", {"reasoning"}), (None, set())])
async def test_reasoning_goes_under_the_name_asked_for(field, keys):
    reply = Reply(Reason("Thinking, still"), "x", reasoning_field=field)
    message = (await chat_json(reply))["choices"][0]["message"]
    streamed = joined(await chat_chunks(reply))

    assert message == streamed
    assert message.keys() - {"role", "content", "refusal"} == keys
    assert all(message[key] == "Thinking, still" for key in keys)


@pytest.mark.anyio
async def test_a_failed_reply_ends_a_chat_stream_with_an_error():
    error = {"code": "overloaded", "message": "Try later."}
    async with serving(Reply("half", status="failed", error=error)) as (_, client):
        stream = await chat(client, stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="Try later") as caught:
            await drain(stream, seen)

    assert [chunk.choices[0].delta.content for chunk in seen] == ["", "half"]
    assert caught.value.code == "overloaded"


@pytest.mark.anyio
async def test_a_failed_reply_is_an_http_error_of_chat():
    error = {"code": "overloaded", "message": "Try later."}
    async with serving(Reply("half", status="failed", error=error)) as (_, client):
        with pytest.raises(openai.InternalServerError, match="Try later") as caught:
            await chat(client)

    assert caught.value.code == "overloaded"


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_chat_has_no_place_for_items(stream):
    async with serving(Reply("x", Item({"type": "compaction", "encrypted_content": "x"}))) as (_, client):
        with pytest.raises(openai.InternalServerError, match=r"Item of type 'compaction'.*only the Responses API"):
            await chat(client, stream=stream)


# The script


@pytest.mark.anyio
async def test_entries_are_taken_in_order_whichever_the_api():
    async with serving("one", Text("two"), Reply("three")) as (server, client):
        first = await ask(client)
        second = await chat(client)
        third = await ask(client)

    assert [first.output_text, second.choices[0].message.content, third.output_text] == ["one", "two", "three"]
    assert [(r.number, r.api, r.path) for r in server.requests] == [
        (1, "responses", "/v1/responses"),
        (2, "chat", "/v1/chat/completions"),
        (3, "responses", "/v1/responses"),
    ]
    assert server.requests[0].body == json.loads(server.requests[0].content) == {"model": MODEL, "input": "Hi"}
    assert server.requests[0].headers["Authorization"] == "Bearer test"


@pytest.mark.anyio
async def test_a_script_that_is_used_up_says_so_and_is_not_retried():
    async with scripted_server(["one", "two"]) as server, connected(server, max_retries=2) as client:
        await ask(client)
        await ask(client)
        with pytest.raises(openai.InternalServerError, match="used up: it had 2 answers, and this is request 3"):
            await ask(client)

    assert len(server.requests) == 3


@pytest.mark.anyio
async def test_a_script_can_be_a_function():
    def script(received):
        return f"{received.number} {received.api} {received.body['model']}"

    async with scripted_server(script) as server, connected(server) as client:
        said = [(await ask(client)).output_text, (await chat(client)).choices[0].message.content]

    assert said == [f"1 responses {MODEL}", f"2 chat {MODEL}"]


@pytest.mark.anyio
async def test_a_script_can_wait():
    release = anyio.Event()

    async def script(received):
        if received.number == 1:
            await release.wait()
        else:
            release.set()
        return Reply(f"{received.number}")

    said = []

    async def one(client):
        said.append((await ask(client)).output_text)

    async with scripted_server(script) as server, connected(server) as client, anyio.create_task_group() as group:
        group.start_soon(one, client)
        group.start_soon(one, client)

    assert sorted(said) == ["1", "2"]


def _raises(received):
    raise AssertionError(f"request {received.number} is wrong")


async def _raises_later(received):
    _raises(received)


@pytest.mark.anyio
@pytest.mark.parametrize("script", [_raises, _raises_later])
async def test_what_a_script_raises_is_told_to_the_client(script):
    async with scripted_server(script) as server, connected(server, max_retries=2) as client:
        with pytest.raises(openai.InternalServerError, match="AssertionError: request 1 is wrong"):
            await ask(client)

    assert len(server.requests) == 1


@pytest.mark.anyio
async def test_a_function_that_answers_nothing_is_told():
    async with scripted_server(lambda _: None) as server, connected(server) as client:
        with pytest.raises(openai.InternalServerError, match="not with None"):
            await ask(client)


@pytest.mark.parametrize("script", ["Hello", b"Hello", 7, [7], [None], Text("Hello"), Reply("Hello")])
def test_a_script_that_is_none_is_refused_at_once(script):
    with pytest.raises(TypeError, match="script"):
        scripted_server(script)


@pytest.mark.parametrize(
    "options",
    [
        {"status": "done"},
        {"reason": "content_filter"},
        {"error": {"code": "x", "message": "x"}},
        {"as_event": "error_flat"},
        {"as_event": "other", "status": "failed"},
        {"delay": -1},
        {"cut_after": -1},
        {"chunk": 0},
    ],
)
def test_a_reply_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="Reply"):
        Reply("x", **options)


def test_a_reply_holds_parts_only():
    with pytest.raises(TypeError, match="not 7"):
        Reply(7)


@pytest.mark.anyio
async def test_the_same_requests_get_the_same_bytes():
    async def run():
        async with serving(*[Reply(*ALL)] * 4) as (_, client):
            return [
                (await ask(client)).to_json(),
                (await chat(client)).to_json(),
                [event.to_json() async for event in await ask(client, stream=True)],
                [event.to_json() async for event in await chat(client, stream=True)],
            ]

    assert await run() == await run()


@pytest.mark.anyio
async def test_ids_do_not_repeat_between_requests_or_after_another_server():
    ids = []
    for first in (1, 3):
        async with serving("a", Call("f"), first=first) as (server, client):
            for _ in range(2):
                response = await ask(client)
                ids += [response.id, response.output[0].id, getattr(response.output[0], "call_id", response.id + "x")]
        assert [r.number for r in server.requests] == [first, first + 1]

    assert len(set(ids)) == len(ids)


# Failures


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (409, openai.ConflictError, "invalid_request_error"),
        (429, openai.RateLimitError, "rate_limit_error"),
        (503, openai.InternalServerError, "server_error"),
    ],
)
async def test_fail_is_an_http_error(status, error, kind):
    fail = Fail(status, code="some_code", message="It failed.", param="input", headers={"Retry-After": "1"})
    async with serving(fail, Fail(status, type="my_type")) as (_, client):
        with pytest.raises(error, match=r"It failed\.") as caught:
            await ask(client, stream=True)
        with pytest.raises(error) as other:
            await chat(client)

    failed = caught.value
    assert (failed.code, failed.param, failed.type) == ("some_code", "input", kind)
    assert failed.response.headers["retry-after"] == "1"
    assert failed.request_id == "req_0001"
    assert (other.value.code, other.value.type) == (None, "my_type")


@pytest.mark.anyio
async def test_the_client_retries_what_it_would_retry():
    fail = Fail(500, headers={"retry-after-ms": "1"})
    async with scripted_server([fail, "again"]) as server, connected(server, max_retries=1) as client:
        response = await ask(client)

    assert response.output_text == "again"
    assert [r.headers["x-stainless-retry-count"] for r in server.requests] == ["0", "1"]


@pytest.mark.anyio
@pytest.mark.parametrize("create", [ask, chat])
@pytest.mark.parametrize("n", [0, 1, 3, 6])
async def test_a_cut_stream_has_that_many_events_and_no_end(create, n):
    async with serving(Reply("Hello there, you two", cut_after=n, chunk=4)) as (_, client):
        stream = await create(client, stream=True)
        events = []
        with pytest.raises(openai.APIConnectionError):
            await drain(stream, events)

    assert len(events) == n


@pytest.mark.anyio
@pytest.mark.parametrize("create", [ask, chat])
async def test_a_cut_answer_is_half_of_it(create):
    async with serving(Reply("Hello there, you two", cut_after=1)) as (_, client):
        with pytest.raises(openai.APIConnectionError):
            await create(client)


@pytest.mark.anyio
async def test_the_server_goes_on_after_a_cut():
    async with serving(Reply("x", cut_after=2), "whole") as (_, client):
        with pytest.raises(openai.APIConnectionError):
            [event async for event in await ask(client, stream=True)]

        assert (await ask(client)).output_text == "whole"


@pytest.mark.anyio
async def test_a_delay_changes_nothing_else():
    async with serving(Reply("Hello", delay=0.01), Reply("Hello", delay=0.01)) as (_, client):
        events = [event async for event in await ask(client, stream=True)]
        response = await ask(client)

    assert events[-1].response.output_text == "Hello"
    assert response.output_text == "Hello"


@pytest.mark.anyio
async def test_hang_outlasts_the_client():
    async with serving(Hang(60), "next") as (_, client):
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.2)

        assert (await ask(client)).output_text == "next"


@pytest.mark.anyio
async def test_hang_closes_without_an_answer():
    async with serving(Hang(0), "next") as (_, client):
        with pytest.raises(openai.APIConnectionError) as caught:
            await ask(client)

        assert not isinstance(caught.value, openai.APITimeoutError)
        assert (await ask(client)).output_text == "next"


@pytest.mark.anyio
async def test_raw_is_sent_as_it_is():
    async with serving(Raw(b"data: {nonsense\n\n"), Raw(b"<html>", status=502, content_type="text/html"), Raw(b"")) as (
        _,
        client,
    ):
        stream = await ask(client, stream=True)
        with pytest.raises(json.JSONDecodeError):
            [event async for event in stream]
        with pytest.raises(openai.InternalServerError) as caught:
            await chat(client)
        empty = [event async for event in await ask(client, stream=True)]

    assert caught.value.response.text == "<html>"
    assert caught.value.response.headers["content-type"] == "text/html"
    assert empty == []


# The judge and the door


ORPHAN = [_user("Hi"), {"type": "function_call_output", "call_id": "call_none", "output": "1"}]


@pytest.mark.anyio
async def test_a_refused_request_consumes_nothing():
    async with serving("answer") as (server, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input=ORPHAN, stream=True)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "tool", "tool_call_id": "call_none", "content": "1"}]
            )
        response = await ask(client)

    first, _ = server.refused
    assert response.output_text == "answer"
    assert caught.value.response.json() == first.body()
    assert caught.value.response.headers["x-request-id"] == "req_0001"
    assert [r.number for r in server.requests] == [1, 2, 3]
    assert repr(server) == f"ScriptedServer({server.url}, 3 requests, 2 refused)"


@pytest.mark.anyio
async def test_the_judge_can_be_dismissed():
    async with serving("answer", judge=False) as (server, client):
        response = await client.responses.create(model=MODEL, input=ORPHAN)

    assert response.output_text == "answer"
    assert server.refused == []


@pytest.mark.anyio
@pytest.mark.parametrize("count", [None, len])
async def test_a_window_refuses_what_is_too_long(count):
    async with serving("answer", windows={MODEL: 100}, count=count) as (server, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="word " * 1000)
        response = await ask(client)
        assert len(server.refused) == 1

    assert caught.value.code == "context_length_exceeded"
    assert response.output_text == "answer"


@pytest.mark.anyio
async def test_an_answer_of_every_part_can_be_sent_back():
    async with serving(Reply(*ALL[:4]), "next") as (server, client):
        first = await ask(client)
        outputs = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "1"}
            for item in first.output
            if item.type == "function_call"
        ]
        items = [item.to_dict(exclude_unset=True) for item in first.output]
        second = await client.responses.create(model=MODEL, input=[_user("Hi"), *items, *outputs], store=False)

    assert second.output_text == "next"
    assert server.refused == []


@pytest.mark.anyio
async def test_an_item_is_not_taken_back_without_the_reasoning_before_it():
    async with serving(Reply(Reason("why"), "so", "and so"), "next") as (server, client):
        _, message, other = (await ask(client)).output
        with pytest.raises(openai.BadRequestError, match="reasoning"):
            await client.responses.create(model=MODEL, input=[_user("Hi"), message.to_dict(), _user("Go on")])
        await client.responses.create(model=MODEL, input=[_user("Hi"), other.to_dict(), _user("Go on")])

    assert len(server.refused) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"{nonsense", b"[]", b"", b"\xff\xfe\xfd"])
async def test_what_is_no_json_object_is_refused(content):
    async with serving("answer") as (server, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post("/responses", content=content, cast_to=object)

    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id == "req_0001"
    assert server.requests[0].content == content
    assert server.refused == []


@pytest.mark.anyio
async def test_only_the_given_key_opens():
    async with scripted_server(["answer"], api_key="right") as server:
        async with connected(server, api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await ask(client)
        async with connected(server, api_key="right") as client:
            assert (await ask(client)).output_text == "answer"

    assert caught.value.code == "invalid_api_key"


@pytest.mark.anyio
async def test_other_paths_and_methods_are_not_found():
    async with serving("answer") as (server, client):
        with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(GET /v1/models\)") as caught:
            await client.models.list()
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_1")
        with pytest.raises(openai.NotFoundError):
            await client.post("/responses/", body={}, cast_to=object)
        with pytest.raises(openai.APIStatusError) as wrong:
            await client.get("/responses", cast_to=object)

    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id == "req_elsewhere_0001"
    assert wrong.value.status_code == 405
    assert server.requests == []


@pytest.mark.anyio
async def test_every_answer_has_a_request_id():
    async with serving("answer", "stream") as (_, client):
        response = await ask(client)
        async with client.responses.stream(model=MODEL, input="Hi") as stream:
            streamed = stream._response.headers["x-request-id"]

    assert response._request_id == "req_0001"
    assert streamed == "req_0002"


# The life of the server


@pytest.mark.anyio
@each_loop
async def test_leaving_ends_open_streams_hanging_requests_and_waiting_scripts():
    entered = anyio.Event()

    async def script(received):
        if received.number == 3:
            entered.set()
            await anyio.sleep_forever()
        return Hang(3600) if received.number == 2 else Reply("Hello", delay=3600)

    before = asyncio.all_tasks()
    ended = []

    async def lost(awaitable):
        with pytest.raises(openai.APIConnectionError):
            await awaitable
        ended.append(True)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            async with scripted_server(script) as server:
                clients = connected(server)
                client = await clients.__aenter__()
                stream = aiter(await ask(client, stream=True))
                await anext(stream)
                group.start_soon(lost, ask(client))
                group.start_soon(lost, chat(client))
                await entered.wait()
            server_tasks = asyncio.all_tasks() - before
            with pytest.raises(openai.APIConnectionError):
                await anext(stream)
        await clients.__aexit__(None, None, None)

    assert ended == [True, True]
    assert asyncio.all_tasks() == before
    assert len(server_tasks) <= 2


@pytest.mark.anyio
@each_loop
async def test_leaving_does_not_wait_for_a_client_that_reads_nothing():
    before = asyncio.all_tasks()
    sent = anyio.Event()

    def script(_):
        sent.set()
        return Reply("x" * 50_000_000, chunk=1_000_000)

    content = b'{"model": "gpt-test", "input": "Hi", "stream": true}'
    head = b"POST /v1/responses HTTP/1.1\r\nhost: server\r\ncontent-length: %d\r\n\r\n" % len(content)
    with anyio.fail_after(10), socket.socket() as idle:
        async with scripted_server(script) as server:
            idle.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(idle, ("127.0.0.1", int(server.url.rpartition(":")[2])))
            await loop.sock_sendall(idle, head + content)
            await sent.wait()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        assert asyncio.all_tasks() == before


@pytest.mark.anyio
async def test_leaving_by_an_exception_closes_too():
    with pytest.raises(ZeroDivisionError):
        async with serving(Hang(3600)) as (server, _):
            raise ZeroDivisionError
    async with connected(server) as client:
        with pytest.raises(openai.APIConnectionError):
            await ask(client)


@pytest.mark.anyio
async def test_a_cancelled_test_leaves_no_request_behind():
    before = asyncio.all_tasks()
    scope = anyio.CancelScope()

    async def script(_):
        scope.cancel()
        await anyio.sleep_forever()

    async with AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="test", max_retries=0) as client:
        with scope:
            async with scripted_server(script) as server:
                await ask(client.with_options(base_url=server.base_url))
        left = asyncio.all_tasks() - before

    assert scope.cancelled_caught
    assert left == set()


def taken_next():
    with ExitStack() as stack:
        return [stack.enter_context(socket.socket()).fileno() for _ in range(8)]


@pytest.mark.anyio
@each_loop
@pytest.mark.parametrize("turns", range(8))
async def test_connections_that_are_being_accepted_are_closed(turns, anyio_backend):
    before = asyncio.all_tasks()
    with anyio.fail_after(10), ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        free = taken_next()
        async with scripted_server(["x"]) as server:
            for one in sockets:
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        assert asyncio.all_tasks() == before
        if anyio_backend == "asyncio":  # uvloop closes what it let go in its own time
            assert taken_next() == free
        for one in sockets:
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(one, 1) == b""


@pytest.mark.anyio
async def test_a_client_that_leaves_frees_the_script():
    freed = anyio.Event()

    async def script(_):
        try:
            await anyio.sleep_forever()
        finally:
            freed.set()

    async with scripted_server(script) as server, connected(server) as client:
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.2)
        with anyio.fail_after(10):
            await freed.wait()


@pytest.mark.anyio
async def test_fifty_requests_at_once_each_get_their_own_answer():
    answers = {}

    async def one(client, index):
        if index % 2:
            stream = await client.responses.create(model=MODEL, input=f"{index}", stream=True)
            answers[index] = "".join([event.delta async for event in stream if event.type.endswith("text.delta")])
        else:
            said = await client.chat.completions.create(model=MODEL, messages=[_user(f"{index}")])
            answers[index] = said.choices[0].message.content

    def script(received):
        asked = received.body.get("input") or received.body["messages"][0]["content"]
        return Reply(f"this is the answer to {asked}")

    async with scripted_server(script) as server, connected(server) as client, anyio.create_task_group() as group:
        for index in range(50):
            group.start_soon(one, client, index)

    assert answers == {index: f"this is the answer to {index}" for index in range(50)}
    assert [r.number for r in server.requests] == [*range(1, 51)]


@pytest.mark.anyio
async def test_a_sequence_is_shared_out_among_parallel_requests():
    said = []

    async def one(client):
        said.append((await ask(client)).output_text)

    async with serving(*map(str, range(50))) as (_, client), anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(one, client)

    assert sorted(said, key=int) == [*map(str, range(50))]


@pytest.mark.anyio
async def test_it_takes_a_port_of_loopback_and_gives_it_back():
    async with scripted_server(["x"]) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with scripted_server(["x"], port=port):
                pass
    async with scripted_server(["again"], port=port) as second, connected(second) as client:
        assert (await ask(client)).output_text == "again"

    assert second.url == server.url == f"http://127.0.0.1:{port}"
    assert second.base_url == f"{second.url}/v1"


@pytest.mark.anyio
async def test_it_leaves_signals_and_the_console_alone(capfd, caplog):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with serving("x", Reply("x", cut_after=1), Hang(3600)) as (_, client):
        during = {number: signal.getsignal(number) for number in before}
        await ask(client)
        with pytest.raises(openai.APIConnectionError):
            [event async for event in await ask(client, stream=True)]
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.1)

    assert during == before
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "turnlog"))] == []


@pytest.mark.anyio
async def test_two_servers_run_side_by_side():
    async with serving("left") as (one, left), serving("right") as (other, right):
        said = [(await ask(left)).output_text, (await ask(right)).output_text]

    assert said == ["left", "right"]
    assert one.url != other.url


@pytest.mark.parametrize("absent", ["starlette", "uvicorn"])
def test_without_the_extra_the_import_names_it(absent):
    code = f"import sys; sys.modules[{absent!r}] = None; import turnlog.engine.testing.server"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert "ImportError: " in done.stderr
    assert 'pip install "turnlog[testing]"' in done.stderr
