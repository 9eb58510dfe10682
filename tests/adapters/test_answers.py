"""What models answer, through both adapters and real HTTP: what the log then holds, and how the next turn goes."""

import json

import pytest

from turnlog import Invalid, ResponseFailed
from turnlog.engine.testing.server import Call, CustomCall, Item, Raw, Reason, Refuse, Reply, Text

pytestmark = pytest.mark.anyio

FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
CUSTOM = {"type": "custom", "name": "shell"}

START = ["user", "response.requested", "response.started"]


async def test_a_text(stage, api):
    async with stage("Hello there, how are you?", "Fine.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Hi")
        assert (result.status, result.output_text, result.reason) == ("completed", "Hello there, how are you?", None)
        assert result.usage.requests == 1
        assert result.usage.input_tokens > 0
        assert result.usage.output_tokens > 0
        assert result.response_id == ("resp_0001" if api == "responses" else "chatcmpl-0001")
        assert result.open_calls == []
        assert (result.turn, result.version) == (2, c.version)
        assert await s.kinds(c) == [*START, "message", "response.completed"]
        second = await c.respond(s.model(api), "And you?")
        assert second.output_text == "Fine."
        assert (await c.usage()).requests == 2
    key = "input" if api == "responses" else "messages"
    assert [one["role"] for one in s.bodies[1][key]] == ["user", "assistant", "user"]


async def test_a_refusal(stage, api):
    async with stage(Refuse("I will not."), "Fine.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Do it")
        assert (result.status, result.output_text) == ("completed", "")
        (item,) = result.items
        assert item["content"][-1] == {"type": "refusal", "refusal": "I will not."}
        await c.respond(s.model(api), "Then not")
    if api == "chat":
        assert s.bodies[1]["messages"][1]["content"] == [{"type": "refusal", "refusal": "I will not."}]
    else:
        assert s.bodies[1]["input"][1] == item


async def test_text_and_refusal_in_one_message(stage, api):
    async with stage(Reply(Text("Well, "), Refuse("no.")), "Fine.") as s:
        c = await s.engine.create()
        assert (await c.respond(s.model(api), "Do it")).output_text == "Well, "
        await c.respond(s.model(api), "Then not")


async def test_parallel_calls_are_left_to_the_caller(stage, api):
    calls = Reply(Call("look", {"at": "Köln"}, id="call_a"), Text("Looking."), Call("look", "{}", id="call_b"))
    async with stage(calls, "Both seen.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Look", tools=[FUNCTION])
        assert result.status == "waiting"
        assert [(call.call_id, call.name, call.arguments) for call in result.open_calls] == [
            ("call_a", "look", '{"at":"Köln"}'),
            ("call_b", "look", "{}"),
        ]
        outputs = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "seen"} for call in result.open_calls
        ]
        second = await c.respond(s.model(api), outputs, tools=[FUNCTION])
        assert (second.status, second.output_text, second.turn) == ("completed", "Both seen.", result.turn)
        assert await c.open_calls() == []


async def test_a_custom_call(stage, api):
    async with stage(CustomCall("shell", "ls -l", id="call_c"), "Listed.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "List", tools=[CUSTOM])
        (call,) = result.open_calls
        assert (call.call_id, call.name, call.arguments) == ("call_c", "shell", "ls -l")
        await c.append({"type": "custom_tool_call_output", "call_id": "call_c", "output": "total 0"})
        assert (await c.respond(s.model(api), tools=[CUSTOM])).output_text == "Listed."


async def test_reasoning_goes_back_as_it_came(stage):
    async with stage(Reply(Reason("Hm", content="raw"), "Four."), Reply(Reason(), "Five."), "Six.") as s:
        c = await s.engine.create()
        first = await c.respond(s.model("responses"), "2 + 2?")
        assert [item["type"] for item in first.items] == ["reasoning", "message"]
        assert first.items[0]["encrypted_content"]
        await c.respond(s.model("responses"), "And 1?")
        await c.respond(s.model("responses"), "And 1?")
    assert s.bodies[0]["include"] == ["reasoning.encrypted_content"]
    assert s.bodies[1]["input"][1:3] == list(first.items)
    assert [one.get("type", one.get("role")) for one in s.bodies[2]["input"]] == [
        "user", "reasoning", "message", "user", "reasoning", "message", "user",
    ]  # fmt: skip


async def test_reasoning_is_kept_from_another_backend(stage):
    async with stage(Reply(Reason("Hm"), "Four."), "Five.") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "2 + 2?")
        await c.respond(s.model("responses", backend="elsewhere"), "And 1?")
    assert s.bodies[1]["input"] == [
        {"content": "2 + 2?", "role": "user"},
        {"content": "Four.", "role": "assistant", "type": "message"},
        {"content": "And 1?", "role": "user"},
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_chat_backends_that_think_aloud(stage, field):
    think = Reply(Reason(content="Two and two"), "Four.", reasoning_field=field)
    async with stage(think, "Five.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model("chat"), "2 + 2?")
        assert [item["type"] for item in result.items] == ["reasoning", "message"]
        assert result.items[0]["content"] == [{"type": "reasoning_text", "text": "Two and two"}]
        await c.respond(s.model("chat"), "And 1?")


async def test_only_a_thought(stage, api):
    async with stage(Reply(Reason(content="Hm"), status="incomplete"), "Four.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "2 + 2?")
        assert (result.status, result.reason) == ("incomplete", "max_output_tokens")
        assert [item["type"] for item in result.items] == ["reasoning"]
        assert (await c.respond(s.model(api), "Go on")).output_text == "Four."


async def test_only_a_thought_that_counts_as_complete(stage, api):
    async with stage(Reply(Reason(content="Hm")), "Four.") as s:
        c = await s.engine.create()
        assert (await c.respond(s.model(api), "2 + 2?")).status == "completed"
        assert (await c.respond(s.model(api), "Go on")).output_text == "Four."


async def test_nothing_at_all(stage, api):
    async with stage(Reply(), "Something.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Say nothing")
        assert (result.status, result.output_text) == ("completed", "")
        assert (await c.respond(s.model(api), "Say something")).output_text == "Something."


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
async def test_incomplete(stage, api, reason):
    async with stage(Reply("Half of", status="incomplete", reason=reason), "the rest") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Tell")
        assert (result.status, result.reason, result.output_text) == ("incomplete", reason, "Half of")
        assert [(call.status, call.error) async for call in c.responses()] == [("incomplete", None)]
        assert (await c.respond(s.model(api), "Go on")).output_text == "the rest"


async def test_an_item_of_an_unknown_kind_is_kept_and_sent_back(stage):
    strange = {"type": "acme:vision", "id": "v_1", "seen": [1, {"deep": None}]}
    async with stage(Reply("Look", Item(strange), "seen"), "ok") as s:
        c = await s.engine.create()
        result = await c.respond(s.model("responses"), "Look")
        assert result.items[1] == strange
        await c.respond(s.model("responses"), "And?")
    assert strange in s.bodies[1]["input"]


async def test_hosted_items_are_passed_through(stage):
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q", "sources": []},
    }
    async with stage(Reply(Item(search), "Found."), "ok") as s:
        c = await s.engine.create()
        result = await c.respond(s.model("responses"), "Search", tools=[{"type": "web_search"}])
        assert (result.status, result.items[0]) == ("completed", search)
        await c.respond(s.model("responses"), "And?", tools=[{"type": "web_search"}])
    assert search in s.bodies[1]["input"]
    assert s.bodies[1]["tools"] == [{"type": "web_search"}]


# -- answers in one piece, although a stream was asked for


def response(**more):
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Whole.", "annotations": []}],
    }
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    return {"id": "resp_1", "model": "m", "status": "completed", "output": [message], "usage": usage, **more}


def completion(message, finish_reason="stop", **more):
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": usage, **more}


def whole(body, **more):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Raw(content, content_type="application/json", **more)


def plain(api):
    return response() if api == "responses" else completion({"content": "Whole."})


async def test_json_where_a_stream_was_asked_for(stage, api):
    async with stage(whole(plain(api)), "Streamed.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Hi")
        assert (result.status, result.output_text) == ("completed", "Whole.")
        assert (result.usage.input_tokens, result.usage.output_tokens) == (7, 3)
        assert await s.kinds(c) == [*START, "message", "response.completed"]
        assert (await c.respond(s.model(api), "Hi")).output_text == "Streamed."


async def test_json_with_calls(stage):
    calls = [
        {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "call_b", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
        {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}},
    ]
    async with stage(whole(completion({"content": None, "tool_calls": calls}, "tool_calls"))) as s:
        c = await s.engine.create()
        result = await c.respond(s.model("chat"), "Hi", tools=[FUNCTION, CUSTOM])
        assert [(call.call_id, call.arguments) for call in result.open_calls] == [
            ("call_a", "{}"),
            ("call_b", "ls"),
            ("call_chatcmpl1_2", '{"at":1}'),
        ]


async def test_json_that_is_incomplete(stage, api):
    body = (
        response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
        if api == "responses"
        else completion({"content": "Whole."}, "length")
    )
    async with stage(whole(body)) as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Hi")
        assert (result.status, result.reason) == ("incomplete", "max_output_tokens")


async def test_json_that_says_it_failed(stage):
    failed = response(status="failed", output=[], error={"code": "server_error", "message": "Oh"})
    async with stage(whole(failed), "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed, match="Oh") as raised:
            await c.respond(s.model("responses"), "Hi")
        assert (raised.value.code, raised.value.retryable) == ("server_error", True)
        assert (await c.respond(s.model("responses"))).output_text == "Again."


# -- what JSON cannot carry


@pytest.mark.parametrize("streamed", [True, False])
async def test_lone_surrogates_are_replaced_and_said_so(stage, api, streamed):
    text = Raw(b"") if not streamed else None
    if api == "responses":
        body = json.dumps(response()).replace("Whole.", "W\\ud83dx").encode()
        event = b'{"type":"response.completed","response":%s}' % body
    else:
        body = json.dumps(completion({"content": "Whole."})).replace("Whole.", "W\\ud83dx").encode()
        event = body.replace(b'"message"', b'"delta"')
    text = Raw(b"data: %s\n\n" % event) if streamed else whole(body)
    async with stage(text, "Fine.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Hi")
        assert result.output_text == "W\ufffdx"
        events = [event async for event in c.events() if event.type == "item.appended"]
        assert ["surrogate" in one for one in events[1].data["repaired"]] == [True]
        assert (await c.respond(s.model(api), "Hi")).output_text == "Fine."


async def test_repairs_are_said_of_the_item_that_they_were_made_in(stage):
    body = response()
    body["output"] = [dict(body["output"][0], id="msg_0"), dict(body["output"][0], score="NAN")]
    content = json.dumps(body).replace('"NAN"', "NaN").encode()
    async with stage(whole(content)) as s:
        c = await s.engine.create()
        result = await c.respond(s.model("responses"), "Hi")
        assert result.items[1]["score"] is None
        events = [event async for event in c.events() if event.type == "item.appended"]
        assert [event.data.get("repaired", []) != [] for event in events] == [False, False, True]


async def test_nan_in_usage(stage, api):
    body = json.dumps(plain(api)).replace(": 7", ": NaN").encode()
    async with stage(whole(body)) as s:
        c = await s.engine.create()
        assert (await c.respond(s.model(api), "Hi")).usage.input_tokens == 0


async def test_usage_of_any_shape(stage, api):
    for usage in (False, {}, {"input_tokens": "many", "prompt_tokens": None}, {"input_tokens": -3}):
        async with stage(Reply("ok", usage=usage)) as s:
            c = await s.engine.create()
            result = await c.respond(s.model(api), "Hi")
            assert (result.usage.input_tokens, result.usage.requests) == (0, 1)


async def test_usage_with_details(stage, api):
    usage = (
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 80},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 15},
            "total_tokens": 120,
        }
        if api == "responses"
        else {
            "prompt_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 80},
            "completion_tokens": 20,
            "completion_tokens_details": {"reasoning_tokens": 15},
            "total_tokens": 120,
        }
    )
    async with stage(Reply("ok", usage=usage)) as s:
        c = await s.engine.create()
        said = (await c.respond(s.model(api), "Hi")).usage
        assert (said.input_tokens, said.cached_tokens, said.output_tokens, said.reasoning_tokens) == (100, 80, 20, 15)
        assert await c.usage() == said


# -- Chat backends that do it their own way


def chunks(*deltas, finish="stop", **more):
    events = [{"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if finish:
        events.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **more})
    return Raw(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n")


async def calls_of(stage, *fragments):
    async with stage(chunks(*({"tool_calls": [one]} for one in fragments), finish="tool_calls"), "ok") as s:
        c = await s.engine.create()
        result = await c.respond(s.model("chat"), "Hi", tools=[FUNCTION])
        outputs = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "x"} for call in result.open_calls
        ]
        await c.respond(s.model("chat"), outputs, tools=[FUNCTION])
    return [(call.call_id, call.name, call.arguments) for call in result.open_calls], s.bodies[1]["messages"]


async def test_calls_that_are_all_numbered_0(stage):
    calls, _ = await calls_of(
        stage,
        {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 0, "id": "b", "function": {"name": "look", "arguments": "{}"}},
    )
    assert calls == [("a", "look", '{"x":1}'), ("b", "look", "{}")]


async def test_calls_whose_id_changes_with_every_fragment(stage):
    calls, _ = await calls_of(
        stage,
        {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x"'}},
        {"index": 0, "id": "a2", "function": {"arguments": ":1}"}},
        {"index": 1, "id": "b", "function": {"name": "look", "arguments": "{}"}},
    )
    assert calls == [("a", "look", '{"x":1}'), ("b", "look", "{}")]


async def test_calls_without_ids_get_one_of_their_answer(stage):
    calls, _ = await calls_of(stage, {"index": 0, "id": "", "function": {"name": "look", "arguments": "{}"}})
    assert calls == [("call_c1_0", "look", "{}")]


async def test_signatures_of_calls_go_back(stage):
    signature = {"google": {"thought_signature": "c2ln"}}
    _, messages = await calls_of(
        stage,
        {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}},
        {"index": 1, "id": "b", "function": {"name": "look", "arguments": "{}"}, "extra_content": signature},
    )
    assert [call.get("extra_content") for call in messages[1]["tool_calls"]] == [None, signature]


async def test_fields_without_a_place_are_kept(stage):
    deltas = (
        {"role": "assistant", "audio": {"id": "au_1", "data": "AA"}},
        {"audio": {"data": "BB", "transcript": "Hel"}},
        {"audio": {"transcript": "lo"}, "reasoning_details": [{"i": 0}]},
        {"content": "Hello", "reasoning_details": [{"i": 1}], "annotations": []},
    )
    async with stage(chunks(*deltas), "ok") as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("chat"), "Hi")).output_text == "Hello"
        events = [event async for event in c.events() if event.type == "item.appended"]
        assert events[1].data["extra"]["set"] == [
            [["audio"], {"id": "au_1", "data": "AABB", "transcript": "Hello"}],
            [["reasoning_details"], [{"i": 0}, {"i": 1}]],
        ]
        await c.respond(s.model("chat"), "And?")
    # What the backend wants back is sent back; the rest is for the log.
    assert s.bodies[1]["messages"][1] == {
        "role": "assistant",
        "content": "Hello",
        "reasoning_details": [{"i": 0}, {"i": 1}],
    }


async def test_content_in_parts_and_other_choices(stage):
    body = completion({"content": [{"type": "text", "text": "One"}, {"type": "text", "text": " two"}]})
    body["choices"].append({"index": 1, "message": {"content": "another"}, "finish_reason": "stop"})
    async with stage(whole(body)) as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("chat"), "Hi")).output_text == "One two"


# -- server-sent events of any style


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
async def test_any_style_of_events(stage, newline):
    done = json.dumps({"type": "response.completed", "response": response()}).encode()
    lines = [
        b"\xef\xbb\xbf: a comment",
        b"event: response.created",
        b"id: 7",
        b'data: {"type":"response.created",',
        b'data:"response":{"id":"resp_9"}}',
        b"",
        b"data",
        b"",
        b"data: ",
        b"",
        b'data: {"type":"acme.unknown","delta":7}',
        b"",
        b'data: {"no":"type"}',
        b"",
        b": keep-alive",
        b"",
        b"data: " + done,
    ]
    async with stage(Raw(newline.join(lines)), "Next.") as s:
        c = await s.engine.create()
        async with c.stream(s.model("responses"), "Hi") as stream:
            types = [event.type async for event in stream]
            result = await stream.result()
        assert types == ["response.created", "acme.unknown", "response.output_item.done", "response.completed"]
        assert (result.output_text, result.response_id) == ("Whole.", "resp_9")
        assert (await c.respond(s.model("responses"), "Hi")).output_text == "Next."


async def test_an_item_that_its_own_event_did_not_bring(stage):
    events = [
        {"type": "response.output_item.done", "output_index": 0, "item": None},
        {"type": "response.completed", "response": response()},
    ]
    content = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    async with stage(Raw(content)) as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("responses"), "Hi")).output_text == "Whole."


async def test_the_connection_is_used_again(stage, api):
    async with stage("one", Reply("two", delay=0.01), whole(plain(api)), "four") as s:
        c = await s.engine.create()
        seen = set()
        for _ in range(4):
            await c.respond(s.model(api), "Hi")
            seen |= set(s.client._client._transport._pool.connections)
        assert len(seen) == 1


OWNED = (
    "model input messages instructions tools stream store previous_response_id conversation truncation "
    "context_management"
)


@pytest.mark.parametrize("name", OWNED.split())
async def test_owned_params_are_refused_by_name(stage, api, name):
    async with stage() as s:
        c = await s.engine.create()
        for params in ({name: 1}, {"extra_body": {name: 1}}):
            with pytest.raises(Invalid, match=name):
                s.model(api, params=params)
            with pytest.raises(Invalid, match=name):
                await c.respond(s.model(api), "Hi", params=params)
        assert c.version == 1
    assert s.bodies == []


# -- calls whose ids are none


@pytest.mark.parametrize("given", [{}, {"call_id": None}, {"call_id": ""}, {"call_id": 7}, {"call_id": ["x"]}], ids=str)
@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
async def test_a_call_without_an_id_is_given_one(stage, kind, given):
    says = {"input": "ls"} if kind == "custom_tool_call" else {"arguments": "{}"}
    call = {"type": kind, "id": "fc_1" if kind == "function_call" else "ctc_1", "name": "look", **says, **given}
    body = response(
        output=[call, {**call, "id": f"{call['id']}b"} | ({"call_id": 8} if given.get("call_id") == 7 else {})]
    )
    async with stage(whole(body), "Both seen.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model("responses"), "Look")
        ids = [one.call_id for one in result.open_calls]
        assert len(set(ids)) == 2
        assert ids == ["7", "8"] if given.get("call_id") == 7 else all(one.startswith("call_") for one in ids)
        events = [event async for event in c.events() if event.item and event.item.get("type") == kind]
        assert events[0].data["repaired"] == [f"$.call_id: no id that can be used; {ids[0]} was given"]
        await c.respond(
            s.model("responses"), [{"type": f"{kind}_output", "call_id": one, "output": "x"} for one in ids]
        )
    assert [item["call_id"] for item in s.bodies[1]["input"][1:]] == [*ids, *ids]


async def test_a_tool_is_run_although_its_call_has_no_id(stage):
    async def look() -> str:
        return "blue"

    body = response(output=[{"type": "function_call", "id": "fc_1", "name": "look", "arguments": "{}"}])
    async with stage(whole(body), "It is blue.") as s:
        c = await s.engine.create()
        assert (await c.run(s.model("responses"), "Look", tools=[look])).output_text == "It is blue."


async def test_a_call_in_chat_whose_id_is_a_number(stage):
    async def look() -> str:
        return "blue"

    deltas = [
        {"tool_calls": [{"index": 0, "id": 7, "function": {"name": "look", "arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "id": 7, "function": {"arguments": "}"}}]},
    ]
    async with stage(chunks(*deltas, finish="tool_calls"), "It is blue.") as s:
        c = await s.engine.create()
        assert (await c.run(s.model("chat"), "Look", tools=[look])).output_text == "It is blue."
    assert s.bodies[1]["messages"][-1] == {"role": "tool", "tool_call_id": "7", "content": "blue"}


@pytest.mark.parametrize("content", [7, 1.5, True])
async def test_content_in_chat_that_is_no_text_but_could_be_one(stage, content):
    async with stage(chunks({"content": "n = "}, {"content": content}), "Fine.") as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("chat"), "Hi")).output_text == f"n = {json.dumps(content)}"
        await c.respond(s.model("chat"), "More")


async def test_parts_in_chat_that_are_none_stay_in_the_log(stage):
    odd = [{"text": 7}, ["nested"], {"type": 7}]
    async with stage(chunks({"content": [*odd, {"type": "text", "text": "Hi"}]}), "Fine.") as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("chat"), "Hi")).output_text == "Hi"
        events = [event async for event in c.events() if event.type == "item.appended"]
        assert [value for _, value in events[1].data["extra"]["set"]] == odd
        await c.respond(s.model("chat"), "More")
    assert s.bodies[1]["messages"][1]["content"] == "Hi"


# -- ends of Chat streams


async def test_a_text_without_a_finish_reason_is_incomplete(stage):
    async with stage(chunks({"content": "Half of"}, finish=None), "the rest.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model("chat"), "Hi")
        assert (result.status, result.reason, result.output_text) == ("incomplete", None, "Half of")
        assert (await c.respond(s.model("chat"), "Go on")).output_text == "the rest."


async def test_a_call_without_a_finish_reason_is_not_run(stage):
    """What was cut off may be the rest of its arguments."""

    async def look() -> str:
        raise AssertionError

    call = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    async with stage(chunks({"tool_calls": [call]}, finish=None), "Well.") as s:
        c = await s.engine.create()
        result = await c.run(s.model("chat"), "Hi", tools=[look])
        assert (result.status, result.open_calls) == ("incomplete", [])
        assert (await c.run(s.model("chat"), "Go on", tools=[look])).output_text == "Well."


async def test_a_chat_stream_without_anything_in_it_is_a_fault(stage):
    async with stage(Raw(b"data: [DONE]\n\n"), chunks({"role": "assistant"}, finish=None), "There.") as s:
        c = await s.engine.create()
        for _ in range(2):
            with pytest.raises(ResponseFailed, match="the answer is empty") as raised:
                await c.respond(s.model("chat"), "Hi")
            assert raised.value.retryable


# -- characters that were cut in two

PAIR = json.loads('"\\ud83d\\ude00"'), "\\ud83d", "\\ude00"


def halves(field, *texts):
    """Chunks of a Chat answer with texts as they stand in JSON."""
    made = [b'data: {"choices":[{"index":0,"delta":' + (field % text).encode() + b"}]}" for text in texts]
    return Raw(b"\n\n".join([*made, b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}', b"data: [DONE]\n\n"]))


FIELDS = {
    "content": '{"content":"%s"}',
    "a part": '{"content":[{"type":"text","text":"%s"}]}',
    "refusal": '{"refusal":"%s"}',
    "reasoning": '{"reasoning_content":"%s"}',
    "arguments": '{"tool_calls":[{"index":0,"id":"a","function":{"name":"look","arguments":"%s"}}]}',
}


async def texts_of(stage, raw):
    async with stage(raw, "Fine.", "Fine.") as s:
        c = await s.engine.create()
        async with c.stream(s.model("chat"), "Hi") as stream:
            deltas = [event.delta async for event in stream if event.delta and event.delta != "Fine."]
            result = await stream.result()
        item = result.items[0]
        events = [event async for event in c.events() if event.type == "item.appended"]
        await c.respond(s.model("chat"), "More", open_calls="seal")
    content = item.get("arguments", item.get("content"))
    said = content if isinstance(content, str) else next(text for text in content[0].values() if "a" in text[:1])
    return deltas, said, events[1].data.get("repaired", [])


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
async def test_a_character_that_two_chunks_share_is_joined(stage, field):
    whole, high, low = PAIR
    deltas, said, repaired = await texts_of(stage, halves(field, f"a{high}", f"{low}b", high, low))
    assert ("".join(deltas), said, repaired) == (f"a{whole}b{whole}", f"a{whole}b{whole}", [])


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
async def test_half_a_character_that_nothing_joins_is_replaced(stage, field):
    _, high, low = PAIR
    deltas, said, repaired = await texts_of(stage, halves(field, f"a{high}", f"b{low}c", high))
    assert said == "a\ufffdb\ufffdc\ufffd"
    assert said.startswith("".join(deltas))
    assert len(repaired) == 3
    assert all("a lone surrogate became U+FFFD" in one for one in repaired)


async def test_an_answer_in_one_piece_counts_whatever_it_is_called(stage, api):
    body = json.dumps(plain(api)).encode()
    async with stage(Raw(body, content_type="text/plain"), Raw(b"\n" + body), "Next.") as s:
        c = await s.engine.create()
        for _ in range(2):
            assert (await c.respond(s.model(api), "Hi")).output_text == "Whole."
