"""Backends that speak Chat Completions, each in its own way: what is sent to them, and how their answers are read."""

import json

import pytest

from turnlog import Budget, Invalid, ResponseFailed
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.chat_traits import TRAITS, WRAPPED, Traits, call_id, named
from turnlog.engine.replay import verify
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.server import Call, CustomCall, Raw, Reason, Refuse, Reply, Text

pytestmark = pytest.mark.anyio

CUSTOM = {"type": "custom", "name": "shell", "description": "Runs a command."}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


def chat(s, traits="compatible", **options):
    return ChatCompletions(s.client, "gpt-4o-mini", traits=traits, **options)


async def look() -> str:
    return "blue"


def chunks(*deltas, finish="stop", usage=True):
    """A stream of one choice, as bytes."""
    events = [{"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        events.append({"id": "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
    return Raw(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n")


# -- the table


def test_every_name_has_its_traits():
    assert TRAITS["openai"] == Traits()
    assert {"deepseek", "vllm", "ollama", "mistral", "openrouter", "compatible", "legacy"} < set(TRAITS)
    assert named(None, "api.deepseek.com") is TRAITS["deepseek"]
    assert named(None, "127.0.0.1") is named(None, None) is TRAITS["openai"]
    assert named("vllm", "api.deepseek.com") is TRAITS["vllm"]


@pytest.mark.parametrize("name", ["no such", 4, Traits()])
async def test_traits_are_named(stage, name):
    async with stage() as s:
        with pytest.raises(Invalid, match=r"one of compatible, deepseek, .*vllm is needed"):
            chat(s, name)


async def test_a_recorded_request_keeps_the_traits_that_it_was_made_with(stage, monkeypatch):
    async with stage("One.") as s:
        c = await s.engine.create()
        await c.respond(chat(s, "mistral"), [{"role": "developer", "content": "Be brief."}, "Hi"])
        monkeypatch.setitem(TRAITS, "mistral", Traits())
        assert (await verify(s.engine.store, c.id)).verified == 1


# -- roles and parts


@pytest.mark.parametrize(("traits", "role"), [("openai", "developer"), ("compatible", "system"), ("vllm", "system")])
async def test_the_developer_speaks_as_who_is_known(stage, traits, role):
    async with stage("One.") as s:
        c = await s.engine.create()
        await c.respond(chat(s, traits), [{"role": "developer", "content": "Be brief."}, "Hi"], instructions="Answer.")
        assert [message["role"] for message in s.bodies[0]["messages"]] == ["system", role, "user"]


@pytest.mark.parametrize(("traits", "kind"), [("openai", "refusal"), ("compatible", "text")])
async def test_a_refusal_goes_as_what_is_taken(stage, traits, kind):
    async with stage(Refuse("I will not."), "Fine.") as s:
        c = await s.engine.create()
        await c.respond(chat(s, traits), "Do it")
        await c.respond(chat(s, traits), "Then not")
        (part,) = s.bodies[1]["messages"][1]["content"]
        assert (part["type"], part[kind]) == (kind, "I will not.")


@pytest.mark.parametrize(("traits", "asked"), [("openai", True), ("compatible", True), ("mistral", False)])
async def test_usage_is_asked_for_where_it_must_be(stage, traits, asked):
    async with stage("One.", "Two.") as s:
        c = await s.engine.create()
        await c.respond(chat(s, traits), "1")
        assert ("stream_options" in s.bodies[0]) == asked
        await c.respond(chat(s, traits, params={"stream_options": {"include_usage": False}}), "2")
        assert s.bodies[1]["stream_options"] == {"include_usage": False}


# -- custom tools


async def test_custom_tools_are_the_backends_own_where_it_has_them(stage):
    async with stage(CustomCall("shell", "ls -l", id="call_1"), "Done.") as s:
        c = await s.engine.create()
        await c.respond(chat(s, "openai"), "List", tools=[CUSTOM])
        await c.append({"type": "custom_tool_call_output", "call_id": "call_1", "output": "a b"})
        await c.respond(chat(s, "openai"), tools=[CUSTOM])
        assert s.bodies[1]["messages"][1]["tool_calls"][0]["custom"] == {"name": "shell", "input": "ls -l"}


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "ls"'}


@pytest.mark.parametrize("streamed", [True, False])
async def test_elsewhere_they_are_functions_of_one_text(stage, streamed):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "shell", "arguments": '{"input": "ls -l \\u00fc"}'},
    }
    if streamed:
        first = {**call, "index": 0, "function": {"name": "shell", "arguments": '{"input": "ls '}}
        rest = {"index": 0, "function": {"arguments": '-l \\u00fc"}'}}
        answer = chunks({"tool_calls": [first]}, {"tool_calls": [rest]}, finish="tool_calls")
    else:
        body = {"id": "x", "choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
        answer = Raw(json.dumps(body).encode(), content_type="application/json")
    async with stage(answer, "Done.", "Native.") as s:
        c = await s.engine.create()
        tools = [{**CUSTOM, "format": GRAMMAR}, LOOK]
        async with c.stream(chat(s), "List", tools=tools) as stream:
            seen = [event async for event in stream]
            result = await stream.result()
        assert [(one.name, one.arguments) for one in result.open_calls] == [("shell", "ls -l ü")]
        assert result.items[0]["type"] == "custom_tool_call"
        assert not [event for event in seen if event.delta]  # the JSON around it is nobody's business
        shell, other = s.bodies[0]["tools"]
        assert shell["function"]["parameters"] == WRAPPED
        assert "Runs a command." in shell["function"]["description"]
        assert 'start: "ls"' in shell["function"]["description"]
        assert other["function"]["name"] == "look"
        await c.append({"type": "custom_tool_call_output", "call_id": "call_1", "output": "a b"})
        await c.respond(chat(s), tools=tools)
        sent, output = s.bodies[1]["messages"][1:]
        assert sent["tool_calls"][0]["function"] == {"name": "shell", "arguments": '{"input":"ls -l ü"}'}
        assert (output["tool_call_id"], output["content"]) == ("call_1", "a b")
        # The log has the call as it was meant: OpenAI gets it as its own.
        await c.respond(chat(s, "openai"), "And now?", tools=[CUSTOM])
        assert s.bodies[2]["messages"][1]["tool_calls"][0]["custom"] == {"name": "shell", "input": "ls -l ü"}


@pytest.mark.parametrize("arguments", ["ls -l", '{"command": "ls"}', "[1]", '{"input": 4}'])
async def test_what_is_no_such_input_is_taken_as_it_is(stage, arguments):
    call = {"index": 0, "id": "call_1", "function": {"name": "shell", "arguments": arguments}}
    async with stage(chunks({"tool_calls": [call]})) as s:
        c = await s.engine.create()
        result = await c.respond(chat(s), "List", tools=[CUSTOM])
        assert result.items[0]["input"] == arguments


# -- the old form of calls


@pytest.mark.parametrize("streamed", [True, False])
async def test_calls_in_the_old_form_are_calls(stage, streamed):
    said = {"name": "look", "arguments": '{"at": "the sea"}'}
    if streamed:
        pieces = {"name": "look", "arguments": '{"at": '}, {"arguments": '"the sea"}'}
        answer = chunks(*({"function_call": piece} for piece in pieces), finish="function_call")
    else:
        body = {"id": "x", "choices": [{"message": {"function_call": said}, "finish_reason": "function_call"}]}
        answer = Raw(json.dumps(body).encode(), content_type="application/json")
    async with stage(answer, "Blue.", "Fine.") as s:
        c = await s.engine.create()
        seen = []

        async def look(at: str) -> str:
            seen.append(at)
            return "blue"

        assert (await c.run(chat(s, "legacy"), "Look", tools=[look])).output_text == "Blue."
        assert seen == ["the sea"]
        first, second = s.bodies[:2]
        assert "tools" not in first
        assert first["functions"][0]["name"] == "look"
        assert second["messages"][1:] == [
            {"role": "assistant", "content": None, "function_call": said},
            {"role": "function", "name": "look", "content": "blue"},
        ]
        # Whoever knows tools gets it as such.
        await c.respond(chat(s, "openai"), "More")
        assert s.bodies[2]["messages"][1]["tool_calls"][0]["function"] == said


async def test_several_calls_in_the_old_form_are_messages_in_a_row(stage):
    calls = Reply(Text("Both."), Call("look", id="call_a"), Call("look", id="call_b"))
    async with stage(calls, "Blue.") as s:
        c = await s.engine.create()
        await c.run(s.model("responses"), "Look", tools=[look])
        async with stage("Done.") as other:
            other.check = s.check
            await c.respond(chat(other, "legacy"), "Sure?")
            roles = [(one["role"], "function_call" in one, one["content"]) for one in other.bodies[0]["messages"]]
            other.check = nothing
        assert roles == [
            ("user", False, "Look"),
            ("assistant", True, "Both."),
            ("function", False, "blue"),
            ("assistant", True, None),
            ("function", False, "blue"),
            ("assistant", False, "Blue."),
            ("user", False, "Sure?"),
        ]
        s.check = nothing


async def nothing():
    pass


# -- ids of calls


LONG = "codex_mcp__google_calendar.search_events_exec-" + "0" * 40


@pytest.mark.parametrize(("traits", "longest"), [("openai", 40), ("compatible", 40), ("mistral", 9)])
async def test_long_ids_of_calls_are_shortened_alike(stage, api, traits, longest):
    async with stage(Reply(Call("look", id=LONG), Call("look", id=LONG + "1")), "Blue.", "Fine.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Look", tools=[look])
        await c.respond(chat(s, traits), "Sure?")
        _, called, *outputs = s.bodies[2]["messages"][:4]
        ids = [call["id"] for call in called["tool_calls"]]
        assert [output["tool_call_id"] for output in outputs] == ids
        assert len(set(ids)) == 2
        assert all(0 < len(name) <= longest for name in ids)
        assert all(name.isalnum() for name in ids) or longest > 9
        logged = [entry.item["call_id"] async for entry in c.items() if "call_id" in entry.item]
        assert logged[0] == LONG


async def test_the_responses_api_takes_longer_ones(stage):
    async with stage(Reply(Call("look", id="c" * 60), Call("look", id="c" * 70)), "Blue.", "Fine.") as s:
        c = await s.engine.create()
        await c.run(s.model("chat"), "Look", tools=[look])
        await c.respond(s.model("responses"), "Sure?")
        ids = [item["call_id"] for item in s.bodies[2]["input"] if "call_id" in item]
        assert ids[0] == ids[2] == "c" * 60
        assert ids[1] == ids[3] != "c" * 70
        assert len(ids[1]) <= 64


async def test_what_a_window_shows_is_what_is_sent_and_can_be_sent_by_anybody(stage):
    async with stage(Reply(Call("look", id="c" * 60), Call("look", id="c" * 70)), "Blue.", "Fine.", "Fine.") as s:
        c = await s.engine.create()
        await c.run(s.model("chat"), "Look", tools=[look])
        await c.respond(s.model("responses"), "Sure?")
        await c.respond(s.model("chat"), "Quite sure?")
        for api, body in zip(("responses", "chat"), s.bodies[2:], strict=True):
            window = await c.window(model=s.model(api), at=(await all_calls(c))[-2 if api == "responses" else -1].seq)
            name, shown = ("input", window.items) if api == "responses" else ("messages", window.messages)
            assert shown == body[name]
            assert refusals(api, {"model": "gpt-4o-mini", name: shown}) == []
        assert [entry.item["call_id"] async for entry in c.items() if "call_id" in entry.item][:2] == [
            "c" * 60,
            "c" * 70,
        ]


async def test_names_that_only_one_backend_takes_are_shown_as_openai_takes_them(stage):
    async with stage() as s:
        c = await s.engine.create()
        call = {"type": "function_call", "call_id": "d" * 50, "name": "files.read", "arguments": "{}"}
        await c.append("Read", call, {"type": "function_call_output", "call_id": "d" * 50, "output": "x"})
        window = await c.window(Budget(1_000))
        _, called, answered = window.messages
        assert called["tool_calls"][0]["function"]["name"] == "files_read"
        assert called["tool_calls"][0]["id"] == answered["tool_call_id"]
        assert refusals("chat", {"model": "gpt-4o", "messages": window.messages}) == []
        assert refusals("responses", {"model": "gpt-4o", "input": window.items}) == []


async def all_calls(c):
    return [call async for call in c.responses()]


def test_an_id_that_fits_stays():
    for traits, name in ((TRAITS["openai"], "x" * 40), (TRAITS["mistral"], "abcDEF123"), (TRAITS["openai"], "")):
        assert call_id(name, traits) == name
    assert call_id(None, TRAITS["openai"]) is None
    assert call_id("call_0fyp", TRAITS["mistral"]) != "call_0fyp"


# -- thoughts


def thoughts(body):
    """What each assistant's message of a body says that it thought."""
    return [
        message.get("reasoning_content", message.get("reasoning"))
        for message in body["messages"]
        if message["role"] == "assistant"
    ]


THINKING = (
    Reply(Reason(content="A greeting."), "Hello."),
    Reply(Reason(content="I must look."), Call("look", id="call_1")),
    Reply(Reason(content="It is blue."), "Blue."),
    "Fine.",
)


async def thought(s, traits, **options):
    c = await s.engine.create()
    model = chat(s, traits, **options)
    await c.respond(model, "Hi")
    await c.run(model, "Look", tools=[look])
    return c, model


@pytest.mark.parametrize(
    ("traits", "expected"),
    [("openai", [None, None, None]), ("deepseek", [None, "I must look.", "It is blue."])],
)
async def test_thoughts_go_back_where_they_are_wanted(stage, traits, expected):
    async with stage(*THINKING) as s:
        c, model = await thought(s, traits)
        await c.respond(model, "Sure?")
        assert thoughts(s.bodies[2]) == expected[:2]
        assert thoughts(s.bodies[3]) == expected
        assert "reasoning" not in {key for message in s.bodies[3]["messages"] for key in message}
        manifest = (await c.response([e.seq async for e in c.events() if e.type == "response.requested"][-1])).manifest
        fates = {manifest.why(entry.seq).rule async for entry in c.items() if entry.item.get("type") == "reasoning"}
        wanted = "its backend wants thoughts back only where tools were called"
        assert fates == ({"it fits", wanted} if traits == "deepseek" else {"Chat Completions has no reasoning"})
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_all_thoughts_go_back_where_all_are_wanted(stage, monkeypatch):
    monkeypatch.setitem(TRAITS, "all", Traits(thoughts="always", field="reasoning"))
    async with stage(*THINKING) as s:
        c, model = await thought(s, "all")
        await c.respond(model, "Sure?")
        assert thoughts(s.bodies[3]) == ["A greeting.", "I must look.", "It is blue."]
        assert "reasoning_content" not in {key for message in s.bodies[3]["messages"] for key in message}


async def test_thoughts_go_to_nobody_else(stage):
    async with stage(*THINKING, "Five.", "Six.") as s:
        c, _ = await thought(s, "deepseek")
        await c.respond(chat(s, "deepseek", backend="elsewhere"), "Sure?")
        assert thoughts(s.bodies[3]) == [None, None, None]
        await c.respond(ChatCompletions(s.client, "gpt-4o", traits="deepseek"), "Sure?")
        assert thoughts(s.bodies[4]) == [None, None, None, None]
        await c.respond(s.model("responses"), "Sure?")
        assert [item for item in s.bodies[5]["input"] if item.get("type") == "reasoning"] == []


async def test_thoughts_of_the_responses_api_are_no_thoughts_of_chat(stage):
    async with stage(Reply(Reason("why", content="in full"), Call("look", id="call_1")), "Blue.", "Fine.") as s:
        c = await s.engine.create()
        await c.run(s.model("responses"), "Look", tools=[look])
        await c.respond(chat(s, "deepseek"), "Sure?")
        assert thoughts(s.bodies[2]) == [None, None]


async def test_a_thought_alone_is_not_sent(stage):
    async with stage(Reply(Reason(content="Hm"), status="incomplete"), "Fine.") as s:
        c = await s.engine.create()
        await c.respond(chat(s, "deepseek"), "Hi")
        await c.respond(chat(s, "deepseek"), "Go on")
        assert [message["role"] for message in s.bodies[1]["messages"]] == ["user", "user"]


async def test_thoughts_take_room_only_where_they_are_sent(stage):
    async with stage(Reply(Reason(content="Hm. " * 200), Call("look", id="call_1")), "Blue.", "x", "y") as s:
        c = await s.engine.create()
        await c.run(chat(s, "deepseek"), "Look", tools=[look])
        windows = [await c.window(Budget(10_000), api="chat", model=chat(s, name)) for name in ("deepseek", "openai")]
        assert windows[0].tokens.total > windows[1].tokens.total + 300


# -- ends and usage


ENDS = {
    "stop": ("completed", None),
    "end_turn": ("completed", None),
    "eos": ("completed", None),
    "tool_use": ("completed", None),
    "STOP": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "MAX_TOKENS": ("incomplete", "max_output_tokens"),
    "model_length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "SAFETY": ("incomplete", "content_filter"),
    1: ("completed", None),
    None: ("incomplete", None),
}


@pytest.mark.parametrize("finish", ENDS)
async def test_backends_have_many_words_for_an_end(stage, finish):
    async with stage(chunks({"content": "Hi"}, finish=finish)) as s:
        c = await s.engine.create()
        result = await c.respond(chat(s), "Hi")
        assert (result.status, result.reason) == ENDS[finish]
        assert result.output_text == "Hi"


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
async def test_a_backend_that_gives_up_has_failed(stage, finish):
    async with stage(chunks({"content": "Hi"}, finish=finish), "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed, match="gave up") as raised:
            await c.respond(chat(s), "Hi")
        assert (raised.value.code, raised.value.retryable) == (finish, True)
        assert (await c.respond(chat(s))).output_text == "Again."


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


@pytest.mark.parametrize(
    "places",
    [[{"usage": USAGE}], [{"x_groq": {"usage": USAGE}}], [{"usage": {"prompt_tokens": 7}}, {"usage": USAGE}, {}]],
    ids=["of its own", "groq", "in every chunk"],
)
async def test_usage_wherever_it_stands(stage, places):
    events = [{"id": "x", "choices": [{"index": 0, "delta": {"content": "Hi"}}], **place} for place in places]
    events.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    data = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
    async with stage(Raw(data)) as s:
        c = await s.engine.create()
        usage = (await c.respond(chat(s), "Hi")).usage
        assert (usage.input_tokens, usage.output_tokens) == (7, 2)


async def test_a_backend_that_tells_no_usage(stage):
    async with stage(chunks({"content": "Hi"}, usage=False)) as s:
        c = await s.engine.create()
        assert (await c.respond(chat(s), "Hi")).usage.requests == 1


ARGUMENTS = {
    "": "{}",
    "  ": "{}",
    '{"a":': '{"input":"{\\"a\\":"}',
    "rain": '{"input":"rain"}',
    "[1]": '{"input":"[1]"}',
    "null": '{"input":"null"}',
    '{"a": NaN}': '{"input":"{\\"a\\": NaN}"}',
    '{"a": 1}': '{"a": 1}',
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("traits", [None, "compatible", "deepseek", "legacy", "mistral", "vllm"])
async def test_arguments_that_are_no_object_are_put_into_one_for_backends_that_read_them(stage, traits, arguments):
    call = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": arguments}}
    async with stage(chunks({"tool_calls": [call]}, finish="tool_calls"), "Seen.") as s:
        c = await s.engine.create()
        model = chat(s, traits=traits)
        result = await c.respond(model, "Look", tools=[LOOK])
        assert result.items[0]["arguments"] == arguments
        await c.answer("call_1", "seen")
        await c.respond(model, tools=[LOOK])
        assert (await verify(s.engine.store, c.id)).verified == 2
    said = s.bodies[1]["messages"][1]
    function = said["function_call"] if traits == "legacy" else said["tool_calls"][0]["function"]
    assert function["arguments"] == (ARGUMENTS[arguments] if traits else arguments)
