"""Compactions that come to nothing: nothing is lost, nothing loops, and the next turn works."""

import asyncio
import json
import sys

import anyio
import pytest

from turnlog import Budget, BudgetExceeded, Conflict, ConversationBusy, ResponseFailed, StoreError, open_engine
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Fail, Hang, Item, Raw, Reason, Refuse, Reply, Text

pytestmark = pytest.mark.anyio

LONG = "and then this happened, at some length, " * 12
NO = Fail(500, headers={"x-should-retry": "false"})
PAGE = "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"


@pytest.fixture
async def engine():
    """What fails has nothing to do with the store."""
    async with open_engine(":memory:", lease=5.0) as opened:
        yield opened


def answers(turns=3):
    return [Reply(Reason("Hm"), Text(f"answer {number}: {LONG}")) for number in range(turns)]


async def told(s, api, turns=3):
    c = await s.engine.create()
    for number in range(turns):
        await c.respond(s.model(api), f"question {number}")
    return c


async def items(c):
    return [entry.item async for entry in c.items()]


async def it_is_as_before(s, c, api, window, transcript):
    """See to it that windows and the transcript are what they were, and that the next turn works."""
    assert (await c.window(Budget(100_000), api=api)).items == window.items
    assert await items(c) == transcript
    head = (await s.engine.store.read(c.id)).head
    assert head.lease is None or head.lease.remaining <= 0
    assert (await c.respond(s.model(api), "Where were we?")).output_text == "Fine."
    assert (await verify(s.engine.store, c.id)).diverged == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("", "compaction_empty"),
        ("  \n ", "compaction_empty"),
        (Reply(), "compaction_empty"),
        (Reply(Reason("Only a thought")), "compaction_empty"),
        (Refuse("I cannot do that."), "compaction_refused"),
        (Call("look"), "compaction_called"),
        (Reply(Text("In sh"), status="incomplete"), "compaction_cut_off"),
        ('{"error": {"message": "context length exceeded"}}', "compaction_error"),
        ("Error: upstream request timed out", "compaction_error"),
        ("**Internal Server Error**", "compaction_error"),
        (PAGE, "compaction_error"),
        ("litellm.RateLimitError: too many", "compaction_error"),
        ("You exceeded your current quota, please check your plan and billing details.", "compaction_error"),
        ("I'm sorry, but I can't assist with that.", "compaction_refused"),
        (f"Summary: {LONG * 4}", "compaction_not_shorter"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_summary_that_is_none(stage, api, answer, code):
    async with stage(*answers(), answer, "Fine.") as s:
        c = await told(s, api)
        window, transcript = await c.window(Budget(100_000), api=api), await items(c)
        with pytest.raises(ResponseFailed) as raised:
            await c.compact(s.model(api), method="summary")
        assert raised.value.code == code
        assert (raised.value.result.version, raised.value.result.conversation) == (c.version, c)
        last = [call async for call in c.responses()][-1]
        assert (last.purpose, last.usage is not None) == ("compaction", True)
        (end,) = [event.data async for event in c.events(after=last.seq) if event.type == "response.completed"]
        assert end["reason"] == code.removeprefix("compaction_")
        await it_is_as_before(s, c, api, window, transcript)


async def test_a_summary_that_is_too_short_for_what_it_stands_for(stage, api):
    async with stage(*answers(24), "Jokes.", "Jokes were told, and each of them was explained in a few words.") as s:
        c = await told(s, api, 24)
        with pytest.raises(ResponseFailed, match="too short for what it would stand for") as raised:
            await c.compact(s.model(api), method="summary")
        assert raised.value.code == "compaction_too_short"
        assert (await c.compact(s.model(api), method="summary")).method == "summary"


@pytest.mark.parametrize(
    "answer",
    [NO, Fail(429, code="rate_limit_exceeded"), Fail(400, code="context_length_exceeded"), Raw(b"no events"),
     Reply("cut", cut_after=2), Reply(status="failed", error={"code": "server_error", "message": "no"})],
    ids=str,
)  # fmt: skip
async def test_a_model_that_fails(stage, api, answer):
    async with stage(*answers(), answer, "Fine.") as s:
        c = await told(s, api)
        window, transcript = await c.window(Budget(100_000), api=api), await items(c)
        with pytest.raises(ResponseFailed) as raised:
            await c.compact(s.model(api), method="summary")
        assert raised.value.result.reason is not None
        assert [call.status async for call in c.responses()][-1] == "failed"
        await it_is_as_before(s, c, api, window, transcript)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Reply(), "compaction_no_compaction"),
        (Reply(Call("look")), "compaction_no_compaction"),
        (NO, None),
        (Raw(b'{"output": 7}', content_type="application/json"), None),
        (Raw(b"not JSON", content_type="application/json"), None),
        (Raw(b'{"output": []}', content_type="application/json"), "compaction_empty"),
    ],
    ids=str,
)
async def test_a_service_that_fails(stage, answer, code):
    async with stage(*answers(), answer, "Fine.") as s:
        c = await told(s, "responses")
        window, transcript = await c.window(Budget(100_000)), await items(c)
        with pytest.raises(ResponseFailed) as raised:
            await c.compact(s.model("responses"), method="remote")
        assert raised.value.code == code or code is None
        await it_is_as_before(s, c, "responses", window, transcript)


MISSING = [Fail(404), Fail(405), Fail(501, headers={"x-should-retry": "false"}), Reply()]


@pytest.mark.parametrize("answer", MISSING, ids=["404", "405", "501", "nothing"])
async def test_where_there_is_no_such_service_a_summary_is_made(stage, answer):
    async with stage(*answers(), answer, "In short.", "Fine.") as s:
        c = await told(s, "responses")
        assert (await c.compact(s.model("responses"))).method == "summary"
        assert [one.path for one in s.server.requests[3:]] == ["/v1/responses/compact", "/v1/responses"]


def repeated(number):
    """Return a message as the service gives it back."""
    content = [{"type": "input_text", "text": LONG}]
    said = {"type": "message", "id": f"msg_{number}", "role": "user", "status": "completed", "content": content}
    return Item(said)


OPAQUE = Item({"type": "compaction", "id": "cmp_1", "encrypted_content": "x"})
USELESS = [Reply(*map(repeated, range(9)), OPAQUE), Reply(repeated(1))]


@pytest.mark.parametrize("answer", USELESS, ids=["no shorter", "nothing opaque"])
async def test_where_the_service_is_of_no_use_a_summary_is_made(stage, answer):
    async with stage(*answers(), answer, "In short.", "Fine.") as s:
        c = await told(s, "responses")
        assert (await c.compact(s.model("responses"))).method == "summary"
        assert [one.path for one in s.server.requests[3:]] == ["/v1/responses/compact", "/v1/responses"]


async def test_what_does_not_fit_the_service_is_summed_up_in_parts(stage):
    async with stage(lambda received: answers(8)[received.number - 1] if received.number < 9 else "Short.") as s:
        c = await told(s, "responses", 8)
        small = s.model("responses", budget=Budget(1200))
        with pytest.raises(BudgetExceeded):
            await c.compact(small, method="remote")
        assert (await c.compact(small)).method == "summary"
        assert len(s.bodies) > 9


@pytest.mark.parametrize("words", [3_000, 60_000], ids=["in the row", "out of line"])
async def test_a_message_that_no_part_has_room_for(stage, api, words):
    """Its beginning and its end are summed up, and what is erased of it is erased there, too."""
    begun = f"It begins here. {'word ' * words}It ends there."
    summary = "Many words were said, and nearly all of them were the same one. " * 5

    def script(received):
        return summary if "Sum up the conversation" in str(received.body) else "Fine."

    async with stage(script) as s:
        c = await s.engine.create()
        await c.append(begun, {"role": "assistant", "content": "I see."})
        await c.respond(s.model(api, budget=Budget(400_000)), "Go on")
        transcript = await items(c)
        small = s.model(api, budget=Budget(1000))
        made = await c.compact(small, method="summary")
        assert made.method == "summary"
        asked = str(s.bodies[1])
        assert "It begins here. word" in asked
        assert "characters are left out" in asked
        assert "word It ends there." in asked
        (call,) = [one async for one in c.responses() if one.purpose == "compaction" and one.manifest.told]
        why = call.manifest.why(2)
        assert (why.fate, why.rule) == (
            "dropped",
            "it is too long for any request: an excerpt of what it says is in the question",
        )
        assert call.manifest.why(3).rule == "another part has it"
        assert await items(c) == transcript
        assert (await c.respond(small, "And?")).output_text == "Fine."
        assert (await verify(s.engine.store, c.id)).diverged == []
        await c.erase(2, reason="asked to")
        assert "It begins here" not in str([event async for event in c.events()])


async def test_tools_that_no_part_has_room_for(stage, api):
    """A call with long arguments and its long output, in one group."""

    async def write(text: str) -> str:
        return f"written: {text}"

    story = f"Once upon a time, {LONG * 20} and they lived."
    summary = "A story was written, in which one thing happened after another. " * 2
    async with stage(Call("write", {"text": story}), "Written.", *[summary] * 3) as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Write", tools=[write])
        small = s.model(api, budget=Budget(1000))
        assert (await c.compact(small, method="summary")).method == "summary"
        assert any("call of write: {" in str(body) and "and they lived" in str(body) for body in s.bodies[2:])


async def test_where_there_is_no_room_even_for_that(stage, api):
    """It is named, and an extract can still be made."""
    async with stage("Hm.", "Fine.") as s:
        c = await s.engine.create()
        await c.append("word " * 3000, {"role": "assistant", "content": "I see."})
        await c.respond(s.model(api), "Go on")
        before = c.version
        with pytest.raises(BudgetExceeded, match="a group that is to be compacted, at 2, need"):
            await c.compact(s.model(api, budget=Budget(200)), method="summary")
        assert c.version == before
        made = await c.compact(method="extract", budget=Budget(1000))
        assert made.after <= 250 + 60
        assert (await c.respond(s.model(api), "And?", budget=Budget(1000))).output_text == "Fine."
        assert "[…]" in str(s.bodies[1])


async def test_nothing_to_gain(stage, api):
    async with stage("Hi!", "Fine.") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Hello")
        before = c.version
        with pytest.raises(Conflict, match="no shorter"):
            await c.compact()
        assert (await c.refresh()).version == before
        assert (await c.respond(s.model(api), "Hm")).output_text == "Fine."


async def test_cancelled(stage, api):
    asked = anyio.Event()

    async def script(received):
        if received.number == 4:
            asked.set()
            return Reply(Text("In short, " * 50), delay=0.05)
        return [*answers(), None, "Fine."][received.number - 1]

    async with stage(script) as s:
        c = await told(s, api)
        window, transcript = await c.window(Budget(100_000), api=api), await items(c)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.compact(s.model(api), method="summary"))
            await asked.wait()
            with pytest.raises(ConversationBusy):
                await c.respond(s.model(api), "Hurry")
            with pytest.raises(ConversationBusy):
                await c.compact()
            with pytest.raises(ConversationBusy):
                await c.rewind(to=1)
            await anyio.sleep(0.2)
            group.cancel_scope.cancel()
        assert [call.status async for call in c.responses()][-1] == "interrupted"
        await it_is_as_before(s, c, api, window, transcript)


async def test_others_may_append_meanwhile(stage, api):
    go = anyio.Event()
    asked = anyio.Event()

    async def script(received):
        if received.number == 4:
            asked.set()
            await go.wait()
            return "In short."
        return [*answers(), None, "Fine."][received.number - 1]

    async with stage(script) as s:
        c = await told(s, api)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.compact(s.model(api), method="summary"))
            await asked.wait()
            await c.append("By the way")
            go.set()
        await c.respond(s.model(api))
        assert "By the way" in str(s.bodies[4])
        assert (await c.window(Budget(1000), api=api)).manifest.base > 0


async def test_what_is_erased_meanwhile_is_in_no_stand_in(stage, api):
    go = anyio.Event()
    asked = anyio.Event()

    async def script(received):
        if received.number == 4:
            asked.set()
            await go.wait()
            return "In short: question 0 was asked."
        return [*answers(), None, "Fine."][received.number - 1]

    async with stage(script) as s:
        c = await told(s, api)
        with pytest.raises(Conflict, match=r"meanwhile there was a item\.erased"):
            async with anyio.create_task_group() as group:

                async def compact():
                    try:
                        await c.compact(s.model(api), method="summary")
                    except Conflict as error:
                        raised.append(error)

                raised = []
                group.start_soon(compact)
                await asked.wait()
                await c.erase(2, reason="asked to")
                go.set()
            raise raised[0]
        assert (await c.window(Budget(10_000), api=api)).manifest.base == 0


async def test_the_engine_is_closed_meanwhile(stage_for, db):
    asked = anyio.Event()

    async def script(received):
        if received.number == 4:
            asked.set()
            return Hang(30)
        return [*answers(), None, "Fine."][received.number - 1]

    async with open_engine(db, lease=5.0) as watching, stage_for(script, engine=watching) as s:
        c = await told(s, "responses")
        window, transcript = await c.window(Budget(100_000)), await items(c)
        raised = []

        async def compact(engine):
            try:
                await (await engine.get(c.id)).compact(s.model("responses"), method="summary")
            except StoreError as error:
                raised.append(error)

        async with anyio.create_task_group() as group:
            async with open_engine(db, lease=5.0) as engine:
                group.start_soon(compact, engine)
                await asked.wait()
        assert len(raised) == 1
        await it_is_as_before(s, c, "responses", window, transcript)


WORKER = """
import asyncio, json, sys
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from turnlog import Budget, open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.window.policies import Compacting

async def main(order):
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with AsyncOpenAI(base_url=order["url"], api_key="sk", max_retries=0, http_client=transport) as client:
        async with open_engine(order["db"], lease=0.4) as engine:
            model = (Responses if order["api"] == "responses" else ChatCompletions)(client, "gpt-4o-mini")
            c = await engine.get("c")
            if order["method"] == "policy":
                policy = Compacting("summary", at=0.1)
                await c.respond(model, "Where were we?", policy=policy, key="k", budget=Budget(1500))
            else:
                await c.compact(model, method=order["method"])
asyncio.run(main(json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("method", ["summary", "remote"])
async def test_killed_in_the_middle(stage_for, db, method):
    asked = anyio.Event()

    async def script(received):
        if received.number == 4:
            asked.set()
            if method == "remote":
                return Hang(30)
            return Reply(Text("In short, " * 80), delay=0.05)
        return [*answers(), None, "Fine.", "In short."][received.number - 1]

    async with open_engine(db, lease=0.4) as engine, stage_for(script, engine=engine) as s:
        c = await engine.create(id="c")
        for number in range(3):
            await c.respond(s.model("responses"), f"question {number}")
        window, transcript = await c.window(Budget(100_000)), await items(c)
        order = {"url": s.server.base_url, "db": str(db), "api": "responses", "method": method}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, json.dumps(order))
        await asked.wait()
        await anyio.sleep(0.3)
        process.kill()
        await process.wait()
        while (await engine.list()).data[0].busy:
            await anyio.sleep(0.05)
        await it_is_as_before(s, c, "responses", window, transcript)
        assert [call.status async for call in c.responses()] == ["completed"] * 3 + ["interrupted", "completed"]
        assert (await c.compact(s.model("responses"), method="summary")).method == "summary"


async def test_killed_in_the_middle_of_a_turns_compaction(stage_for, db):
    """The input is there, and the same key goes on with it."""
    asked = anyio.Event()

    async def script(received):
        if received.number == 5 and not asked.is_set():
            asked.set()
            return Hang(30)
        return [*answers(4), None, "Fine."][received.number - 1]

    async with open_engine(db, lease=0.4) as engine, stage_for(script, engine=engine) as s:
        c = await engine.create(id="c")
        for number in range(4):
            await c.respond(s.model("responses"), f"question {number}")
        order = {"url": s.server.base_url, "db": str(db), "api": "responses", "method": "policy"}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, json.dumps(order))
        await asked.wait()
        process.kill()
        await process.wait()
        result = await c.respond(s.model("responses"), "Where were we?", key="k", when_busy="wait")
        assert (result.output_text, result.replayed) == ("Fine.", False)
        asked_ = [item.get("content") for item in await items(c)]
        assert asked_.count("Where were we?") == 1
        calls = [(call.purpose, call.status) async for call in c.responses()]
        assert calls[-2:] == [("compaction", "interrupted"), ("answer", "completed")]
        assert (await c.respond(s.model("responses"), "Where were we?", key="k")).replayed
        assert (await verify(engine.store, c.id)).diverged == []


async def test_a_compaction_takes_over_from_who_is_gone(stage_for, db):
    """A turn that broke off is ended first; calls that wait are left alone, and their group is not covered."""
    schema = {"type": "function", "name": "ask", "parameters": {}}
    async with open_engine(db) as engine:
        async with stage_for(*answers(), Call("ask", id="a"), "In short.", "Fine.", engine=engine) as s:
            c = await told(s, "responses")
            await c.run(s.model("responses"), "Ask", tools=[schema])
            made = await c.compact(s.model("responses"), method="summary")
            assert [call.call_id for call in await c.open_calls()] == ["a"]
            assert made.covered[1] < (await c.open_calls())[0].seq
            await c.answer("a", "yes")
            assert (await c.run(s.model("responses"), tools=[schema])).output_text == "Fine."
