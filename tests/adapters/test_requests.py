"""What is sent: parameters, tools, instructions, and items of every kind, to both APIs."""

import json

import pytest

from turnlog import Budget, Invalid
from turnlog.engine.canonical import canonical, digest
from turnlog.engine.errors import InvalidItem, UnknownModel
from turnlog.engine.model import merged, target_of
from turnlog.engine.testing.server import Call, Text

pytestmark = pytest.mark.anyio

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def given(body):
    return body["input" if "input" in body else "messages"]


async def test_the_smallest_request(stage):
    async with stage("ok", "ok") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "Hi")
        d = await s.engine.create()
        await d.respond(s.model("chat"), "Hi")
    assert s.bodies == [
        {
            "model": "gpt-4o-mini",
            "input": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "store": False,
            "include": ["reasoning.encrypted_content"],
        },
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ]


async def test_the_digest_is_of_what_the_server_received(stage, api):
    async with stage("ok") as s:
        c = await s.engine.create()
        await c.respond(s.model(api, params={"temperature": 1.0, "top_p": 0.1}), "Grüße 🙂 \u2028")
        (call,) = [call async for call in c.responses()]
        (received,) = s.server.requests
        assert call.digest == digest(canonical(json.loads(received.content)))
        assert (await call.request()) == received.body
        assert (call.adapter, call.model, call.backend) == (api, "gpt-4o-mini", s.server.base_url.split("/")[2])


# -- parameters


async def test_parameters_of_the_call_win(stage, api):
    async with stage("ok", "ok", judge=False) as s:
        model = s.model(api, params={"temperature": 0.5, "extra_body": {"seed": 7, "vendor": {"a": None}}})
        c = await s.engine.create()
        await c.respond(model, "Hi", params={"temperature": 0, "seed": 8, "extra_body": {"timeout": 3}})
        await c.respond(model, "Hi")
    first, second = s.bodies
    assert (first["temperature"], first["seed"], first["vendor"], first["timeout"]) == (0, 8, {"a": None}, 3)
    assert (second["temperature"], second["seed"]) == (0.5, 7)
    assert "extra_body" not in first
    assert "timeout" not in second


async def test_how_a_request_travels_is_not_logged(stage, api):
    async with stage("ok") as s:
        c = await s.engine.create()
        params = {
            "extra_headers": {"x-tenant": "acme"},
            "extra_query": {"api-version": "7"},
            "timeout": 9,
            "user": "u",
        }
        await c.respond(s.model(api), "Hi", params=params)
        (received,) = s.server.requests
        assert received.headers["x-tenant"] == "acme"
        assert received.body["user"] == "u"
        log = b"".join([repr(event).encode() async for event in c.events()])
        for word in (b"x-tenant", b"acme", b"api-version", b"sk-secret"):
            assert word not in log
            assert word not in received.content
        (call,) = [call async for call in c.responses()]
        assert await call.request() == received.body


async def test_include_and_stream_options_are_added_to(stage):
    async with stage("ok", "ok", "ok", "ok") as s:
        c = await s.engine.create()
        included = ["message.output_text.logprobs"]
        await c.respond(s.model("responses"), "Hi", params={"include": included})
        await c.respond(s.model("responses"), "Hi", params={"include": ["reasoning.encrypted_content"]})
        await c.respond(s.model("chat"), "Hi", params={"stream_options": {"include_obfuscation": False}})
        await c.respond(s.model("chat"), "Hi", params={"stream_options": {"include_usage": False}})
    assert s.bodies[0]["include"] == [*included, "reasoning.encrypted_content"]
    assert s.bodies[1]["include"] == ["reasoning.encrypted_content"]
    assert s.bodies[2]["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert s.bodies[3]["stream_options"] == {"include_usage": False}


@pytest.mark.parametrize(
    "params",
    [
        {"n": 2},
        {"extra_body": {"n": 2}},
        {"extra_body": [1]},
        [("temperature", 1)],
        {"temperature": float("nan")},
        {"stop": object()},
        {"stop": "\ud800"},
    ],
)
async def test_parameters_that_cannot_be_used(stage, api, params):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(Invalid):
            await c.respond(s.model(api), "Hi", params=params)
        assert c.version == 1


def test_one_answer_may_be_asked_for():
    assert merged({"n": 1, "timeout": 3}, {"timeout": 4}) == ({"n": 1}, {"timeout": 4})


async def test_adapters_are_cheap_and_say_who_they_are(stage, api):
    async with stage() as s:
        model = s.model(api, backend="eu")
        assert "gpt-4o-mini" in repr(model)
        assert "eu" in repr(model)
        target = target_of(model)
        assert (target.api, target.backend, target.model, target.state) == (api, "eu", "gpt-4o-mini", "stateless")
        if api == "responses":
            with pytest.raises(Invalid, match="state='other': stateless, chained or conversation is needed"):
                s.model(api, state="other")
            assert "state='chained'" in repr(s.model(api, state="chained"))
        for stall in (0, -1.0, "5", True, float("nan")):
            with pytest.raises(Invalid, match="stall"):
                s.model(api, stall=stall)


# -- instructions


async def test_instructions_are_no_part_of_the_history(stage, api):
    async with stage("ok", "ok") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Hi", instructions="Be brief.")
        await c.respond(s.model(api), "Hi")
    if api == "responses":
        assert [body.get("instructions") for body in s.bodies] == ["Be brief.", None]
    else:
        assert s.bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [one["role"] for one in given(s.bodies[1])] == ["user", "assistant", "user"]


async def test_instructions_are_a_text(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        for instructions in (7, "\ud800"):
            with pytest.raises(Invalid):
                await c.respond(s.model(api), "Hi", instructions=instructions)


# -- tools

FUNCTION = {
    "type": "function",
    "name": "look",
    "description": "Look",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": True,
}
CUSTOM = {"type": "custom", "name": "shell", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}


async def test_tools_in_each_apis_shape(stage):
    async def find(query: str) -> str:
        """Find things."""

    async with stage("ok", "ok") as s:
        c = await s.engine.create()
        for api in ("responses", "chat"):
            await c.respond(s.model(api), "Hi", tools=[FUNCTION, CUSTOM, find])
    flat, nested = (body["tools"] for body in s.bodies)
    schema = {
        "type": "function",
        "name": "find",
        "description": "Find things.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
            "additionalProperties": False,
        },
        "strict": False,
    }
    assert flat == [FUNCTION, CUSTOM, schema]
    assert nested == [
        {"type": "function", "function": {key: value for key, value in FUNCTION.items() if key != "type"}},
        {
            "type": "custom",
            "custom": {
                "name": "shell",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}},
            },
        },
        {"type": "function", "function": {key: value for key, value in schema.items() if key != "type"}},
    ]


async def test_a_hosted_tool_is_not_dropped_on_chat(stage):
    async with stage("ok") as s:
        c = await s.engine.create()
        with pytest.raises(Invalid, match="web_search"):
            await c.respond(s.model("chat"), "Hi", tools=[{"type": "web_search"}])
        with pytest.raises(Invalid, match="web_search"):
            async with c.stream(s.model("chat"), "Hi", tools=[{"type": "web_search"}]):
                pass
        assert c.version == 1
        await c.respond(s.model("responses"), "Hi", tools=[{"type": "web_search"}])


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "look", "parameters": {}}},
        {"name": "look"},
        {"type": 7},
        {"type": "function", "name": "look", "parameters": {"x": float("inf")}},
    ],
)
async def test_tools_that_are_none(stage, api, tool):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(Invalid):
            await c.respond(s.model(api), "Hi", tools=[tool])


# -- items


async def test_images_files_and_audio_are_passed_through(stage, api):
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
    ]
    async with stage("A pixel.", "Still.") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), {"role": "user", "content": parts})
        await c.respond(s.model(api), "Sure?")
    expected = (
        parts
        if api == "responses"
        else [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
            {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}},
        ]
    )
    assert [given(body)[0]["content"] for body in s.bodies] == [expected, expected]


async def test_audio_goes_to_chat(stage):
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    async with stage("A bell.") as s:
        c = await s.engine.create()
        await c.respond(s.model("chat"), {"role": "user", "content": [sound]})
    assert given(s.bodies[0])[0]["content"] == [sound]


async def test_outputs_with_images(stage, api):
    image = {"type": "input_image", "image_url": PIXEL}
    output = {"type": "function_call_output", "call_id": "call_a", "output": [image]}
    async with stage(Call("look", id="call_a"), "A pixel.") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Look", tools=[FUNCTION])
        await c.respond(s.model(api), output, tools=[FUNCTION])
    sent = given(s.bodies[1])[-1]
    if api == "responses":
        assert sent == output
    else:
        assert sent["role"] == "tool"
        assert "input_image" in json.dumps(sent["content"])


async def test_what_the_model_said_is_sent_back_as_it_was(stage):
    """Ids, phases, annotations: value for value."""
    async with stage(Text("First.", phase="commentary"), "Second.") as s:
        c = await s.engine.create()
        first = await c.respond(s.model("responses"), "Hi")
        await c.respond(s.model("responses"), "And?")
    assert s.bodies[1]["input"][1] == first.items[0]
    assert first.items[0]["phase"] == "commentary"
    assert first.items[0]["id"].startswith("msg_")


async def test_objects_of_the_sdk(stage, api):
    async with stage("One.", "Two.") as s:
        response = await s.client.responses.create(model="gpt-4o-mini", input="Hi", store=False)
        s.server.requests.clear()  # that request is none of ours
        c = await s.engine.create()
        await c.append("Hi", *response.output)
        await c.respond(s.model(api), "And?")
    assert [one["role"] for one in given(s.bodies[0])] == ["user", "assistant", "user"]


async def test_from_one_api_to_the_other_and_back(stage):
    async with stage("One.", "Two.", Call("look", id="call_a"), "Four.", "Five.") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        await c.respond(s.model("chat"), "2")
        await c.respond(s.model("responses"), "3", tools=[FUNCTION])
        output = {"type": "function_call_output", "call_id": "call_a", "output": "seen"}
        await c.respond(s.model("chat"), output, tools=[FUNCTION])
        await c.respond(s.model("responses"), "4", tools=[FUNCTION])
    assert [one.get("type", one.get("role")) for one in s.bodies[4]["input"]] == [
        "user", "message", "user", "message", "user", "function_call", "function_call_output", "message", "user",
    ]  # fmt: skip


# -- budgets


async def test_an_unknown_model_says_what_to_write(stage, api):
    async with stage("ok", "ok") as s:
        c = await s.engine.create()
        with pytest.raises(UnknownModel, match=r"acme-7b: context window unknown. Pass Budget\(context=…\)"):
            await c.respond(s.model(api, "acme-7b"), "Hi")
        await c.respond(s.model(api, "acme-7b", budget=Budget(context=8192)), "Hi")
        await c.respond(s.model(api, "acme-7b"), "Hi", budget=Budget(context=8192))


async def test_a_tokenizer_of_the_models_own(stage, api):
    async with stage("ok", "ok") as s:
        c = await s.engine.create()
        model = s.model(api, "acme-7b", budget=Budget(context=8192), count=len)
        await c.respond(model, "Hello there")
        await c.respond(model, "And?")
        calls = [call async for call in c.responses()]
        assert calls[0].manifest.tokens >= len("Hello there")


async def test_the_name_of_a_participant_goes_where_there_is_a_field_for_it(stage, api):
    said = [
        {"role": "system", "content": "Be brief.", "name": "guide"},
        {"role": "user", "content": "Hi", "name": "ada"},
        {"type": "message", "role": "assistant", "content": "Hello!", "name": "bot"},
        {"role": "user", "content": [{"type": "input_text", "text": "What is up?"}], "name": "bob"},
    ]
    async with stage("ok") as s:
        c = await s.engine.create()
        await c.append(*said[:3])
        await c.respond(s.model(api), said[3])
        items = [entry.item async for entry in c.items()]
    assert items[:4] == said
    sent = s.bodies[0]["messages" if api == "chat" else "input"]
    assert [one.get("name") for one in sent] == (["guide", "ada", "bot", "bob"] if api == "chat" else [None] * 4)


async def test_the_deepest_item_that_is_taken_can_be_sent(stage, api):
    deep = "bottom"
    for _ in range(97):
        deep = [deep]
    item = {"type": "acme:deep", "value": deep} if api == "responses" else {"role": "user", "content": "Hi"}
    async with stage("ok") as s:
        c = await s.engine.create()
        await c.append("Hi", item)
        await c.respond(s.model(api))
        with pytest.raises(InvalidItem, match="100 levels"):
            await c.append({"type": "acme:deep", "value": [[[deep]]]})
