"""What a provider gives and does not take back: the log keeps it as it came, and the next turn goes all the same."""

import json

import pytest

from turnlog import Budget
from turnlog.adapters.conversations import Conversations
from turnlog.engine.events import ItemAppended, Origin
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Raw

pytestmark = pytest.mark.anyio

MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hi", "annotations": []}],
}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}
TEXT = MESSAGE["content"][0]
PUT_RIGHT = {
    "content null": ({**MESSAGE, "content": None}, ""),
    "content a number": ({**MESSAGE, "content": 7}, ""),
    "content missing": ({key: value for key, value in MESSAGE.items() if key != "content"}, ""),
    "a part null": ({**MESSAGE, "content": [None, TEXT]}, "hi"),
    "a part a text": ({**MESSAGE, "content": ["hi", TEXT]}, "hi"),
    "a part of another kind": ({**MESSAGE, "content": [{"type": "text", "text": "hi"}]}, "hi"),
    "a part unknown": ({**MESSAGE, "content": [{"type": "hologram", "beam": 1}, TEXT]}, "hi"),
    "a text a number": ({**MESSAGE, "content": [{**TEXT, "text": 7}]}, "7"),
    "a text null": ({**MESSAGE, "content": [{**TEXT, "text": None}]}, ""),
    "annotations a text": ({**MESSAGE, "content": [{**TEXT, "annotations": "x"}]}, "hi"),
    "status unknown": ({**MESSAGE, "status": "weird"}, "hi"),
    "status a number": ({**MESSAGE, "status": 7}, "hi"),
    "phase unknown": ({**MESSAGE, "phase": "musing"}, "hi"),
}
OTHERS = {
    "summary a text": ({**REASONING, "summary": "x"}, "summary", []),
    "thoughts a text": ({**REASONING, "content": "x"}, "content", None),
    "a summary part null": ({**REASONING, "summary": [None]}, "summary", []),
    "a call's status": ({**CALL, "status": "weird"}, "status", None),
    "a call's caller": ({**CALL, "caller": "me"}, "caller", None),
    "a call's namespace": ({**CALL, "namespace": 7}, "namespace", None),
}
SAID = "put right where the API would refuse it"


def stream(*items):
    """An answer of these very items."""
    events = [{"type": "response.created", "response": {"id": "resp_x"}}]
    events += [
        {"type": "response.output_item.done", "output_index": index, "item": item} for index, item in enumerate(items)
    ]
    events.append({"type": "response.completed", "response": {"id": "resp_x", "status": "completed", "output": []}})
    return Raw(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))


async def last(c):
    return [one async for one in c.responses()][-1]


async def logged(c):
    return [one.item async for one in c.items()]


@pytest.mark.parametrize(("item", "text"), PUT_RIGHT.values(), ids=PUT_RIGHT)
async def test_an_odd_message_is_kept_and_sent_put_right(stage, item, text):
    async with stage(stream(item), "two", "three", "four") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        assert await logged(c) == [{"role": "user", "content": "1"}, item]
        await c.respond(s.model("responses"), "2")
        sent = s.bodies[1]["input"][1]
        assert (sent["id"], sent["status"]) == ("msg_1", "completed")
        assert [(part["type"], part["text"]) for part in sent["content"]] == ([("output_text", text)] if text else [])
        call = await last(c)
        assert call.manifest.why(5).fate == "kept"
        assert call.manifest.why(5).rule == f"it fits, {SAID}"
        # So it is through the other door, for another backend, and where the server holds the rest.
        await c.respond(s.model("chat"), "3")
        await c.respond(s.model("responses", backend="elsewhere"), "4")
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_parts_of_a_backend_s_own_go_back_to_it(stage):
    thinking = {"type": "thinking", "thinking": "hm"}
    async with stage() as s:
        c = await s.engine.create()
        model = s.model("chat")
        origin = Origin("chat", model.backend, model.name)
        said = {"type": "message", "role": "assistant", "content": [thinking, {"type": "output_text", "text": "hi"}]}
        made = await s.engine.intake.item(said, said=ItemAppended(origin=origin))
        await s.engine.writer.append(c.id, [made])
        window = await c.window(model=model)
        assert window.messages[0]["content"] == [thinking, {"type": "text", "text": "hi"}]
        other = await c.window(model=s.model("responses"))
        assert other.items[0]["content"] == "hi"
        assert other.manifest.why(2).rule == f"it fits, {SAID}"


@pytest.mark.parametrize(("item", "field", "value"), OTHERS.values(), ids=OTHERS)
async def test_other_odd_items_are_put_right_too(stage, item, field, value):
    async with stage(stream(item, MESSAGE), "two") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        assert (await logged(c))[1] == item
        await c.respond(s.model("responses"), "2", open_calls="seal")
        (sent,) = (one for one in s.bodies[1]["input"] if one.get("type") == item["type"])
        assert sent.get(field) == value


async def test_the_same_is_done_with_what_a_conversation_at_the_server_holds(stage):
    items = [{**MESSAGE, "id": f"msg_{n}", **odd} for n, odd in enumerate(({"content": None}, {"status": "weird"}))]
    async with stage("one", "two") as s:
        first = await s.engine.create()
        await first.respond(s.model("responses", state="conversation"), "Hi")
        s.server.kept.threads["conv_0001"].items.extend(items)
        c = await s.engine.create()
        assert await Conversations(s.client).attach(c, "conv_0001") == 4
        assert (await logged(c))[2:] == items
        await c.respond(s.model("responses"), "2")
        assert [one.get("status") for one in s.bodies[1]["input"]][2:] == ["completed", "completed", None]


async def test_what_is_nested_deeply_can_be_sent_again(stage):
    deep = json.loads("[" * 150 + "]" * 150)
    item = {"type": "acme:note", "id": "note_1", "deep": deep}
    async with stage(stream(item, MESSAGE), "two") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        await c.respond(s.model("responses"), "2")
        assert s.bodies[1]["input"][1] == (await logged(c))[1]
        assert (await verify(s.engine.store, c.id)).verified == 2


async def test_what_a_caller_nests_as_deeply_as_may_be_can_be_sent(stage, api):
    deep = json.loads("[" * 99 + "]" * 99)
    async with stage("one") as s:
        c = await s.engine.create()
        await c.append({"role": "user", "content": "Hi", "more": deep} if api == "chat" else {"type": "a:b", "x": deep})
        assert (await c.respond(s.model(api), "1")).output_text == "one"


# -- fields that a kind has not

OWN = {"timestamp": 7, "metadata": {"of": "app"}}
NEW = {**MESSAGE, "mood": {"of": "a later day"}, "content": [{**TEXT, "tone": "warm"}]}


def trimmed(what):
    return f"it fits, without {what}, which this API does not take"


async def test_fields_of_a_caller_s_own_are_kept_and_not_sent(stage, api):
    said = {"role": "user", "content": [{"type": "input_text", "text": "Hi", "lang": "en"}], **OWN}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "clear", "took": 3}
    async with stage("one", "two") as s:
        c = await s.engine.create()
        await c.append(said, {**CALL, "created_at": 7}, output)
        await c.respond(s.model(api), {"role": "user", "content": "Well?", **OWN})
        kept = [said, {**CALL, "created_at": 7}, output, {"role": "user", "content": "Well?", **OWN}]
        assert (await logged(c))[:4] == kept
        names = ("timestamp", "metadata", "lang", "created_at", "took")
        assert not any(f'"{name}"' in json.dumps(s.bodies[0]) for name in names)
        manifest = (await last(c)).manifest
        assert [manifest.why(seq).rule for seq in range(2, 6)] == [
            trimmed("metadata, timestamp, content.lang"),
            trimmed("created_at"),
            trimmed("took"),
            trimmed("metadata, timestamp"),
        ]
        assert manifest.trimmed == ((2, 5),)
        assert (await verify(s.engine.store, c.id)).verified == 1
        # What was sent is remembered for the next window, without them too.
        await c.respond(s.model(api), "And now?")
        assert not any(f'"{name}"' in json.dumps(s.bodies[1]) for name in names)


async def test_a_field_that_a_later_api_gives_goes_back_to_it_and_nowhere_else(stage):
    async with stage(stream(NEW), "two") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        elsewhere = s.model("responses", backend="elsewhere")
        await c.respond(elsewhere, "2")
        assert s.bodies[1]["input"][1] == {"type": "message", "role": "assistant", "content": "hi"}
        assert (await last(c)).manifest.why(5).rule == trimmed("mood, content.tone")
        window = await c.window(model=s.model("responses"))
        assert window.items[1] == NEW
        assert window.manifest.why(5).rule == "it fits"
        assert (await c.window(model=s.model("chat"))).messages[1] == {"role": "assistant", "content": "hi"}
        assert (await verify(s.engine.store, c.id)).verified == 2


async def test_what_an_extract_quotes_goes_without_them_too(stage):
    async with stage(*["said"] * 4) as s:
        c = await s.engine.create()
        for number in range(3):
            await c.respond(s.model("responses"), {"role": "user", "content": f"{number} " + "word " * 200, **OWN})
        await c.compact(method="extract", budget=Budget(2_000))
        await c.respond(s.model("responses"), "Well?")
        assert len(s.bodies[-1]["input"]) > 2
        assert not any("timestamp" in item for item in s.bodies[-1]["input"])
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_what_lacks_what_its_kind_needs_goes_only_to_whom_it_came_from(stage):
    call = {"type": "shell_call", "id": "sh_1", "call_id": "call_1"}
    async with stage(stream(call), "two") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        await c.append({"type": "shell_call_output", "call_id": "call_1", "output": []})
        window = await c.window(model=s.model("responses", backend="elsewhere"))
        assert [item.get("type") for item in window.items] == [None]
        assert window.manifest.why(5).rule == "the API would refuse it: a shell_call needs an action, an object"
        assert (await c.window(model=s.model("responses"))).items[1] == call


# -- what Chat Completions has no place for

LEFT = {
    "an image by file id": {"type": "input_image", "file_id": "file_1", "detail": "auto"},
    "a file by URL": {"type": "input_file", "file_url": "https://example.org/a.pdf"},
    'an image\'s detail "original"': {"type": "input_image", "image_url": "https://x.org/y.png", "detail": "original"},
    "a part of the type hologram": {"type": "hologram", "beam": 1},
}
TAKEN = (
    {"type": "input_text", "text": "Hi"},
    {"type": "input_image", "image_url": "https://x.org/y.png", "detail": "high"},
    {"type": "input_file", "file_id": "file_9"},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
)


def without(what):
    return f"it fits, without {what}, which Chat Completions has no place for"


@pytest.mark.parametrize(("what", "part"), LEFT.items(), ids=LEFT)
async def test_a_part_that_chat_completions_cannot_carry_is_in_the_manifest(stage, what, part):
    async with stage("one") as s:
        c = await s.engine.create()
        await c.append({"role": "user", "content": [{"type": "input_text", "text": "Look"}, part]})
        await c.respond(s.model("chat"))
        call = await last(c)
        assert (call.manifest.why(2).fate, call.manifest.why(2).rule) == ("kept", without(what))
        window = await c.window(model=s.model("responses"))
        assert window.manifest.why(2).rule == "it fits"


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_of_those_who_may_only_write_a_picture_is_named(stage, role):
    picture = {"type": "input_image", "image_url": "https://x.org/y.png"}
    said = {"role": role, "content": [{"type": "input_text", "text": "See"}, picture]}
    async with stage("one", "two") as s:
        c = await s.engine.create()
        await c.append(said)
        await c.respond(s.model("chat"), "Hi")
        named = "[input_image left out: this API takes none here]"
        shown = [{"type": "text", "text": text} for text in ("See", named)]
        assert s.bodies[0]["messages"][0] == {"role": role, "content": shown}
        assert (
            (await last(c)).manifest.why(2).rule.endswith("without an image, which Chat Completions has no place for")
        )
        await c.respond(s.model("responses"), "Hi")
        assert s.bodies[1]["input"][0] == said
        assert (await verify(s.engine.store, c.id)).verified == 2


async def test_what_chat_completions_can_carry_is_kept(stage):
    async with stage("one") as s:
        c = await s.engine.create()
        await c.append({"role": "user", "content": list(TAKEN)})
        await c.respond(s.model("chat"))
        assert (await last(c)).manifest.why(2).rule == "it fits"


async def test_fields_and_outputs_that_chat_completions_cannot_carry_are_in_the_manifest(stage):
    cited = {**TEXT, "annotations": [{"type": "url_citation", "url": "u", "title": "t"}]}
    image = {"type": "input_image", "image_url": "https://x.org/y.png"}
    async with stage("one") as s:
        c = await s.engine.create()
        await c.append(
            "Hi",
            {**MESSAGE, "phase": "commentary", "content": [cited]},
            {**CALL, "namespace": "ns"},
            {
                "type": "function_call_output",
                "call_id": "call_1",
                "output": [{"type": "input_text", "text": "out"}, image, {"type": "input_file", "file_id": "f"}],
            },
        )
        await c.respond(s.model("chat"))
        manifest = (await last(c)).manifest
        rules = [manifest.why(seq).rule for seq in range(2, 6)]
    assert rules == [
        "it fits",
        without("its phase, annotations"),
        without("its namespace"),
        without("a file, an image"),
    ]
