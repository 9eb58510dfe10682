"""What the scripted server answers as the Responses API: items, states, errors, usage, what it echoes."""

import openai
import pytest

from server_talk import ALL, MODEL, TEXT, ask, drain, response_events, response_json, serving, types
from turnlog.engine.testing.server import Item, Reason, Reply

pytestmark = pytest.mark.anyio


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


async def test_encrypted_content_can_be_left_out():
    response = await response_json(Reply(Reason("why", encrypted=None), "so"))

    assert "encrypted_content" not in response["output"][0]


async def test_a_lone_surrogate_arrives():
    response = await response_json(Reply("half \ud83d of it"))

    assert response["output"][0]["content"][0]["text"] == "half \ud83d of it"


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


async def test_a_failed_reply_is_a_failed_response():
    reply = Reply("half of", status="failed", error={"code": "rate_limit_exceeded", "message": "Slow down."})
    response = await response_json(reply)
    events = await response_events(reply)

    assert response["status"] == "failed"
    assert response["error"] == {"code": "rate_limit_exceeded", "message": "Slow down."}
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"] == response
    assert "error" not in types(events)


async def test_a_failed_reply_needs_no_error():
    response = await response_json(Reply(status="failed"))

    assert response["error"]["code"] == "server_error"
    assert response["output"] == []


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


async def test_a_flat_error_event_is_yielded_before_the_end():
    error = {"code": "context_length_exceeded", "message": "Too long."}
    events = await response_events(Reply("half", status="failed", error=error, as_event="error_flat"))

    assert types(events)[-2:] == ["error", "response.failed"]
    assert events[-2] == {**error, "type": "error", "param": None, "sequence_number": len(events) - 2}


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
    }
    async with serving("before", "yes") as (_, client):
        sent["previous_response_id"] = (await ask(client)).id
        response = (await ask(client, **sent)).to_dict()

    assert {key: response[key] for key in sent} == sent
    assert response["model"] == MODEL
    assert response["object"] == "response"


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


@pytest.mark.parametrize("name", [lambda name: name, lambda name: {"id": name}], ids=["text", "object"])
async def test_a_conversation_is_named_in_the_response(name):
    async with serving("yes") as (_, client):
        made = (await client.conversations.create()).id
        response = (await ask(client, conversation=name(made))).to_dict()

    assert response["conversation"] == {"id": made}


async def test_an_item_is_sent_verbatim():
    item = {"id": "cmp_1", "type": "compaction", "encrypted_content": "opaque", "created_by": "me"}
    response = await response_json(Reply(Item(item), "so"))
    events = await response_events(Reply(Item(item), "so"))

    assert response["output"][0] == item
    assert types(events)[2:4] == ["response.output_item.added", "response.output_item.done"]
    assert events[2]["item"] == events[3]["item"] == item


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


async def test_usage_is_counted_by_the_counter_given():
    async with serving("four", count=lambda _: 100) as (_, client):
        response = await ask(client)

    assert (response.usage.input_tokens, response.usage.output_tokens) == (100, 100)
