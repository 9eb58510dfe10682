"""Compacting by policy: before the request that would overflow, within the turn; and by the server itself."""

import anyio
import pytest

from turnlog import Budget, Invalid, open_engine
from turnlog.engine.replay import verify
from turnlog.engine.summaries import HEADER
from turnlog.engine.testing.server import Call, Fail, Item, Reason, Reply, Text
from turnlog.engine.window.policies import Compacting, OldestTurns

pytestmark = pytest.mark.anyio

LONG = "and then this happened, at some length, " * 12
SMALL = Budget(1500)
AUTO = {"responses": "remote", "chat": "summary"}
NO = Fail(500, headers={"x-should-retry": "false"})


@pytest.fixture
async def engine():
    async with open_engine(":memory:", lease=5.0) as opened:
        yield opened


def is_summary(received):
    said = received.body["input" if received.api != "chat" else "messages"]
    return received.api != "compact" and "Sum up the conversation above." in str(said[-1])


def script(received):
    """Answer at length; sum up in a word."""
    if received.api == "compact":
        return "what was said"
    return "In short." if is_summary(received) else Reply(Reason("Hm"), Text(f"answer {received.number}: {LONG}"))


def spoken(body):
    said = body["input" if "input" in body else "messages"]
    return [one.get("content", one.get("type")) for one in said if "role" in one]


async def asked(c):
    return [entry.item["content"] async for entry in c.items() if entry.item.get("role") == "user"]


async def purposes(c):
    return [call.purpose async for call in c.responses()]


@pytest.mark.parametrize("method", ["auto", "summary", "extract"])
async def test_a_conversation_that_goes_on_and_on(stage, api, method):
    """No request is cut, and what was said first is still there in short."""
    policy = Compacting(method)
    async with stage(script, windows={"gpt-4o-mini": 1500}) as s:
        c = await s.engine.create()
        for number in range(20):
            await c.respond(s.model(api, budget=SMALL), f"question {number}", policy=policy)
        calls = [call async for call in c.responses(limit=100)]
        assert all(call.manifest.cut <= call.manifest.base for call in calls if call.purpose == "answer")
        assert max(call.manifest.tokens for call in calls) <= 1500
        methods = [event.data["method"] async for event in c.events() if event.type == "context.compacted"]
        kind = AUTO[api] if method == "auto" else method
        assert methods == [kind] * max(len(methods), 2)
        # What is long for one request is summed up in parts.
        fewest = 0 if kind == "extract" else len(methods)
        assert fewest <= (await purposes(c)).count("compaction") <= 2 * fewest
        assert await asked(c) == [f"question {number}" for number in range(20)]
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_the_input_is_there_before_and_the_stream_is_told(stage, api):
    """Opening a stream does not wait for the compaction: the input is logged, and what follows is in the stream."""
    policy = Compacting("summary", at=0.3)
    async with stage(script) as s:
        c = await s.engine.create()
        for number in range(7):
            await c.respond(s.model(api, budget=SMALL), f"question {number}")
        async with c.stream(s.model(api, budget=SMALL), "And now?", policy=policy) as stream:
            assert [entry.item.get("content") async for entry in c.items()][-1] == "And now?"
            seen = [event.type async for event in stream]
            result = await stream.result()
        assert seen[0] == "turnlog.context.compacted"
        assert (result.usage.requests, await purposes(c)) == (2, ["answer"] * 7 + ["compaction", "answer"])
        assert spoken(s.bodies[8])[:2] == [HEADER, "In short."]
        assert spoken(s.bodies[8])[-1] == "And now?"


async def test_in_the_middle_of_a_turn(stage, api):
    """A turn of many rounds is compacted as it goes; what it was asked stays word for word."""
    rounds = 24

    async def look(at: int) -> str:
        return f"seen {at}: {LONG}"

    def answer(received):
        if is_summary(received):
            return "In short: looked around."
        asked = sum(1 for one in calls if not is_summary(one))
        calls.append(received)
        return Call("look", {"at": asked}) if asked < rounds else "All seen."

    calls = []
    async with stage(answer, windows={"gpt-4o-mini": 1500}) as s:
        c = await s.engine.create()
        policy = Compacting("summary")
        model = s.model(api, budget=SMALL)
        result = await c.run(model, "Look everywhere, twice.", tools=[look], policy=policy, max_rounds=30)
        assert (result.status, result.output_text) == ("completed", "All seen.")
        answers = [body for body in s.bodies if "Sum up" not in str(body)]
        assert all("Look everywhere, twice." in spoken(body) for body in answers)
        assert (await purposes(c)).count("compaction") >= 2
        assert [call.turn async for call in c.responses(limit=100)] == [result.turn] * len(s.bodies)
        assert [turn.status async for turn in c.turns()] == ["completed"]
        assert (await verify(s.engine.store, c.id)).diverged == []


@pytest.mark.parametrize(
    "broken", [NO, "", "Error: overloaded", f"Summary: {LONG * 20}"], ids=["fails", "empty", "error", "long"]
)
async def test_what_fails_is_not_tried_at_every_turn(stage, api, broken):
    """The window is cut as it would have been; a compaction is tried again when the next cut is due, not before."""
    policy = Compacting("summary")

    def answer(received):
        return broken if is_summary(received) else script(received)

    async with stage(answer, windows={"gpt-4o-mini": 1500}) as s:
        c = await s.engine.create()
        for number in range(24):
            result = await c.respond(s.model(api, budget=SMALL), f"question {number}", policy=policy)
            assert result.status == "completed"
        calls = [call async for call in c.responses(limit=100)]
        cuts = {call.manifest.cut for call in calls if call.purpose == "answer"} - {0}
        tried = sum(call.purpose == "compaction" for call in calls)
        assert len(cuts) >= 2
        assert tried <= len(cuts) + 1
        assert (await c.window(SMALL, api=api)).manifest.base == 0
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_by_another_model(stage, api):
    other = "responses" if api == "chat" else "chat"
    async with stage(script) as s:
        c = await s.engine.create()
        policy = Compacting("summary", model=s.model(other, "gpt-4.1-nano"), instructions="Keep all names.")
        for number in range(11):
            await c.respond(s.model(api, budget=SMALL), f"question {number}", policy=policy)
        asked = [one for one in s.server.requests if is_summary(one)]
        assert {(one.api, one.body["model"]) for one in asked} == {(other, "gpt-4.1-nano")}
        assert all("Keep all names." in str(one.body) for one in asked)


async def test_of_an_engine(stage_for, api, db):
    async with open_engine(db, policy=Compacting(), budget=SMALL) as engine, stage_for(script, engine=engine) as s:
        c = await engine.create()
        for number in range(11):
            await c.run(s.model(api), f"question {number}", instructions="Be brief.")
        assert "compaction" in await purposes(c)
        for one in s.server.requests:
            asked = one.api == "compact" or not is_summary(one)
            assert ("Be brief." in str(one.body)) == asked


async def test_after_a_crash_or_a_conflict_the_turn_opens_as_usual(stage, api):
    """Several at once: each turn finds the conversation as the one before has left it."""
    policy = Compacting("summary")
    async with stage(script) as s:
        c = await s.engine.create()

        async def ask(number):
            await c.respond(s.model(api, budget=SMALL), f"question {number}", policy=policy, when_busy="wait")

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(ask, number)
        assert (await purposes(c)).count("answer") == 8
        assert (await verify(s.engine.store, c.id)).diverged == []


@pytest.mark.parametrize("arguments", [
    {"method": "zip"}, {"at": 0}, {"at": 2}, {"at": "0.5"}, {"at": True}, {"then": "oldest"},
])  # fmt: skip
def test_arguments_are_checked(arguments):
    with pytest.raises(Invalid, match=next(iter(arguments))):
        Compacting(**arguments)
    assert Compacting(then=OldestTurns()).name == "compacting+oldest-turns"


# -- by the server itself

OPAQUE = {"type": "compaction", "id": "cmp_1", "encrypted_content": "opaque " * 8}


async def test_by_the_server_within_a_request(stage):
    """The item that comes stands for all before its request: for its maker; others get what they can read."""
    answers = [Text(f"answer {number}: {LONG}") for number in range(2)]
    async with stage(*answers, Reply(Item(OPAQUE), Text("Done.")), "More.", "Else.") as s:
        c = await s.engine.create()
        policy = Compacting("server", at=0.5)
        model = s.model("responses", budget=SMALL)
        for number in range(2):
            await c.respond(model, f"question {number}", policy=policy)
        async with c.stream(model, "question 2", policy=policy) as stream:
            seen = [event.type async for event in stream]
        assert seen[-1] == "turnlog.context.compacted"
        assert s.bodies[0]["context_management"] == [{"type": "compaction", "compact_threshold": 750}]
        await c.respond(model, "question 3", policy=policy)
        kinds = [item.get("type", item.get("role")) for item in s.bodies[3]["input"]]
        assert kinds == ["compaction", "message", "user"]
        await c.respond(s.model("chat", budget=SMALL), "question 4", policy=policy)
        assert "opaque" not in str(s.bodies[4])
        assert "context_management" not in s.bodies[4]
        assert spoken(s.bodies[4])[0].startswith("[What was said up to here is left out")
        assert spoken(s.bodies[4])[-5:] == ["question 2", "Done.", "question 3", "More.", "question 4"]
        assert (await verify(s.engine.store, c.id)).diverged == []
        await c.undo_compaction()
        assert spoken({"input": (await c.window(model=model)).items})[0] == "question 0"


async def test_by_the_server_with_tools(stage):
    async def look() -> str:
        return "seen"

    calls = Reply(Call("look", id="a"), Item(OPAQUE), Call("look", id="b"))
    async with stage(Text(f"answer 0: {LONG}"), calls, "Done.") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "question 0")
        result = await c.run(s.model("responses"), "Look", tools=[look])
        assert result.output_text == "Done."
        kinds = [item.get("type", item.get("role")) for item in s.bodies[2]["input"]]
        assert kinds == ["compaction", *["function_call"] * 2, *["function_call_output"] * 2]


async def test_an_opaque_item_that_is_refused_later_is_left_out_once(stage):
    """The events that it covers stand in, and go on doing so."""
    refusal = Fail(400, code="invalid_encrypted_content", message="could not be verified")
    answers = [*(Text(f"answer {n}: {LONG}") for n in range(3)), "what was said", refusal, "Here.", "There."]
    async with stage(*answers) as s:
        c = await s.engine.create()
        for number in range(3):
            await c.respond(s.model("responses"), f"question {number}")
        made = await c.compact(s.model("responses"))
        result = await c.respond(s.model("responses"), "Where were we?")
        assert result.output_text == "Here."
        assert "compaction" in str(s.bodies[4])
        assert spoken(s.bodies[5])[0] == "question 0"
        undone = [event.data async for event in c.events() if event.type == "compaction.undone"]
        assert undone == [{"seq": made.seq}]
        await c.respond(s.model("responses"), "Go on")
        assert "cmp_" not in str(s.bodies[6])


async def test_a_service_that_is_not_there_is_asked_for_once(stage):
    """What it gives instead is a summary, each time."""

    def without(received):
        return Fail(404) if received.api == "compact" else script(received)

    async with stage(without) as s:
        c = await s.engine.create()
        for number in range(20):
            await c.respond(s.model("responses", budget=SMALL), f"question {number}", policy=Compacting())
        methods = [event.data["method"] async for event in c.events() if event.type == "context.compacted"]
        assert methods == ["summary"] * max(len(methods), 2)
        assert [received.api for received in s.server.requests].count("compact") == 1


async def test_a_compaction_that_comes_to_nothing_is_told(stage, api):
    """To whoever watches, in the logs, and in the log; the turn goes on."""

    def refusing(received):
        return "I'm sorry, but I can't assist with that." if is_summary(received) else script(received)

    told = []
    async with stage(refusing) as s:
        c = await s.engine.create()
        for number in range(14):
            policy = Compacting("summary")
            async with c.stream(s.model(api, budget=SMALL), f"question {number}", policy=policy) as stream:
                told += [event.raw async for event in stream if event.type == "turnlog.compaction.failed"]
                assert (await stream.result()).status == "completed"
        assert told
        assert {(one["method"], one["reason"], one["message"]) for one in told} == {
            ("summary", "refused", "the model refused")
        }
        ends = [event.data.get("reason") async for event in c.events() if event.type == "response.completed"]
        assert ends.count("refused") == len(told)


async def test_what_no_request_has_room_for_is_compacted_all_the_same(stage, api):
    async with stage(lambda received: "In short. " * 20 if is_summary(received) else script(received)) as s:
        c = await s.engine.create()
        await c.append("word " * 4000, {"role": "assistant", "content": "I see."})
        await c.respond(s.model(api, budget=SMALL), "And?", policy=Compacting("summary"))
        assert [event.type async for event in c.events()].count("context.compacted") == 1
        assert HEADER in str(s.bodies[-1])
