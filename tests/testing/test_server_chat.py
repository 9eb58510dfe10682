"""What the scripted server answers as Chat Completions, whole and streamed."""

import openai
import pytest

from server_talk import (
    ALL,
    MODEL,
    PARTS,
    TEXT,
    chat,
    chat_chunks,
    chat_json,
    drain,
    each_answer,
    raw_text,
    serving,
    streaming,
    user,
)
from turnlog.engine.testing.server import Call, CustomCall, Item, Reason, Refuse, Reply

pytestmark = pytest.mark.anyio


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


async def test_the_role_comes_once_and_the_end_is_marked():
    chunks = await chat_chunks("Hello there, you")
    text = await raw_text("Hello", lambda client: streaming(client.chat.completions, messages=[user("Hi")]))

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert deltas[1:] == [{"content": "Hello th"}, {"content": "ere, you"}, {}]
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert "event:" not in text


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


async def test_chat_usage_is_computed_given_or_absent():
    usage = (await chat_json(Reply(Reason("12345678"), "1234567")))["usage"]
    given = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}

    assert usage["completion_tokens"] == 4
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert (await chat_json(Reply("x", usage=given)))["usage"] == given
    assert "usage" not in await chat_json(Reply("x", usage=False))


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


@pytest.mark.parametrize(("field", "keys"), [("reasoning", {"reasoning"}), (None, set())])
async def test_reasoning_goes_under_the_name_asked_for(field, keys):
    reply = Reply(Reason("Thinking, still"), "x", reasoning_field=field)
    message = (await chat_json(reply))["choices"][0]["message"]
    streamed = joined(await chat_chunks(reply))

    assert message == streamed
    assert message.keys() - {"role", "content", "refusal"} == keys
    assert all(message[key] == "Thinking, still" for key in keys)


async def test_a_failed_reply_ends_a_chat_stream_with_an_error():
    error = {"code": "overloaded", "message": "Try later."}
    async with serving(Reply("half", status="failed", error=error)) as (_, client):
        stream = await chat(client, stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="Try later") as caught:
            await drain(stream, seen)

    assert [chunk.choices[0].delta.content for chunk in seen] == ["", "half"]
    assert caught.value.code == "overloaded"


async def test_a_failed_reply_is_an_http_error_of_chat():
    error = {"code": "overloaded", "message": "Try later."}
    async with serving(Reply("half", status="failed", error=error)) as (_, client):
        with pytest.raises(openai.InternalServerError, match="Try later") as caught:
            await chat(client)

    assert caught.value.code == "overloaded"


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_has_no_place_for_items(stream):
    async with serving(Reply("x", Item({"type": "compaction", "encrypted_content": "x"}))) as (_, client):
        with pytest.raises(openai.InternalServerError, match=r"Item of type 'compaction'.*only the Responses API"):
            await chat(client, stream=stream)
