"""Calls beside the conversation: logged with usage, in no later window, without a lease."""

import anyio
import pytest

from turnlog import BudgetExceeded, Invalid, ResponseFailed, open_engine
from turnlog.engine.errors import KeyReused, VersionConflict
from turnlog.engine.log import Head
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text
from turnlog.engine.window.budget import Budget

pytestmark = pytest.mark.anyio

ASK = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}
TITLE = "Give this a title of four words."


def given(body):
    """Return the texts and types of what a request sent."""
    said = body["input" if "input" in body else "messages"]
    return [one.get("content") or one.get("type") or one["role"] for one in said]


async def transcript(c):
    return [entry.item.get("content", entry.item.get("type")) async for entry in c.items()]


async def figures(s):
    (info,) = (await s.engine.list()).data
    return info.last_item, info.items, info.updated


async def test_a_title(stage, api):
    async with stage("Who's there?", Reply(Reason(), "Orange, a knock knock joke"), "Orange who?") as s:
        c = await s.engine.create()
        model = s.model(api)
        await c.respond(model, "knock knock.")
        before = await figures(s)
        result = await c.respond(model, TITLE, aside=True)
        assert (result.status, result.output_text) == ("completed", "Orange, a knock knock joke")
        assert (result.turn, result.version, result.usage.requests) == (2, c.version, 1)
        assert given(s.bodies[1])[-1] == TITLE
        # Nothing of it is in the transcript, nor makes the conversation unread.
        assert await figures(s) == before
        assert [entry.item["role"] async for entry in c.items()] == ["user", "assistant"]
        await c.respond(model, "Orange.")
        assert TITLE not in given(s.bodies[2])
        assert "joke" not in str(given(s.bodies[2]))
        assert len(given(s.bodies[2])) == 3


async def test_a_title_is_a_call_of_its_own(stage, api):
    async with stage("Who's there?", Reply(Reason(), "Orange, a knock knock joke"), "Orange who?") as s:
        c = await s.engine.create()
        model = s.model(api)
        for text, aside in (("knock knock.", False), (TITLE, True), ("Orange.", False)):
            await c.respond(model, text, aside=aside)
        calls = [call async for call in c.responses()]
        assert [(call.purpose, call.status) for call in calls] == [
            ("answer", "completed"), ("aside", "completed"), ("answer", "completed"),
        ]  # fmt: skip
        assert calls[0].turn == calls[1].turn == 2
        assert calls[2].manifest.why(calls[1].seq - 1).fate == "aside"
        assert (await c.usage()).requests == 3
        assert [turn.status async for turn in c.turns()] == ["completed", "completed"]
        report = await verify(s.engine.store, c.id)
        assert (report.verified, report.diverged) == (3, [])


async def test_beside_a_turn_that_runs(stage, api):
    """It waits for nobody, writes between the turn's events, and does not end the turn's lease."""
    running, go = anyio.Event(), anyio.Event()

    async def slow() -> str:
        running.set()
        await go.wait()
        return "done"

    async with stage(Reply(Call("slow", id="a"), Call("ask", id="b")), "A title", "Fine.") as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.run(s.model(api), "Go", tools=[slow, ASK]))
            await running.wait()
            result = await c.respond(s.model(api), TITLE, aside=True)
            assert (await s.engine.list()).data[0].busy
            go.set()
        assert result.output_text == "A title"
        # What is under way is sent with words that say so.
        assert "no output has been recorded" in str(s.bodies[1])
        await c.answer("b", "yes")
        assert (await c.run(s.model(api), tools=[slow, ASK])).output_text == "Fine."
        assert [call.purpose async for call in c.responses()] == ["answer", "aside", "answer"]
        assert given(s.bodies[2])[0] == "Go"
        assert TITLE not in str(s.bodies[2])


async def test_before_anything_else(stage, api):
    """What it says counts for nothing: the first system message still leads."""
    async with stage("42", "Hello!") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), ["Count.", {"role": "system", "content": "Only digits."}], aside=True)
        assert (result.output_text, result.turn) == ("42", 0)
        await c.append({"role": "system", "content": "Be brief."}, "Hi")
        await c.respond(s.model(api))
        window = await c.window(Budget(1000))
        assert [verdict.fate for verdict in window.explain()][7:9] == ["pinned", "kept"]
        assert given(s.bodies[1]) == ["Be brief.", "Hi"]


async def test_calls_of_an_aside_are_its_own(stage, api):
    """A schema is a way to be answered in a form: nobody owes an output."""
    async with stage(Call("ask", {"mood": "good"}, id="a"), "Fine.") as s:
        c = await s.engine.create()
        await c.append("Hello")
        result = await c.respond(s.model(api), "What mood?", tools=[ASK], aside=True)
        assert (result.status, result.open_calls) == ("completed", ())
        assert result.items[0]["arguments"] == '{"mood":"good"}'
        assert await c.open_calls() == []
        assert (await c.run(s.model(api), "Go on", tools=[ASK])).output_text == "Fine."
        assert "mood" not in str(s.bodies[1])
        beside, answer = [call.seq async for call in c.responses()]
        # What is beside the conversation does not stand in the way of a cut.
        for seq in range(beside - 1, answer):
            assert (await c.fork(at=seq)).version == seq + 1


async def test_examples_with_calls_and_outputs(stage, api):
    pair = [
        {"type": "function_call", "call_id": "x", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "x", "output": "rain"},
    ]
    async with stage(Call("ask", id="a"), "Wet.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Hello", tools=[ASK])
        for wrong in ({**pair[1], "call_id": "a"}, pair[1]):
            with pytest.raises(Invalid, match="an aside answers no call"):
                await c.respond(s.model(api), ["Well?", wrong], aside=True)
        assert (await c.respond(s.model(api), ["Look", *pair, "So?"], aside=True)).output_text == "Wet."
        assert "rain" in str(s.bodies[1])
        assert [call.call_id for call in await c.open_calls()] == ["a"]


async def test_a_failure_and_a_cancellation_leave_the_conversation_as_it_is(stage, api):
    go = anyio.Event()

    async def script(received):
        if received.number == 1:
            return Fail(500, headers={"x-should-retry": "false"})
        if received.number == 2:
            go.set()
            return Reply(Text("a title that goes on and on " * 30), delay=0.02)
        return "Fine."

    async with stage(script) as s:
        c = await s.engine.create()
        await c.append("Hello")
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model(api), TITLE, aside=True)
        assert (raised.value.status_code, raised.value.result.usage.requests) == (500, 0)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.respond(s.model(api), TITLE, aside=True))
            await go.wait()
            await anyio.sleep(0.2)
            group.cancel_scope.cancel()
        assert [call.status async for call in c.responses()] == ["failed", "interrupted"]
        assert await transcript(c) == ["Hello"]
        assert (await c.respond(s.model(api))).output_text == "Fine."
        assert given(s.bodies[2]) == ["Hello"]


async def test_what_is_refused_writes_nothing(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(BudgetExceeded):
            await c.respond(s.model(api), "word " * 500, budget=Budget(context=100), aside=True)
        with pytest.raises(VersionConflict):
            await c.respond(s.model(api), TITLE, expected=7, aside=True)
        with pytest.raises(Invalid, match="nothing to send"):
            await c.respond(s.model(api), aside=True)
        assert (await c.refresh()).version == 1


async def test_keys(stage, api):
    async with stage(Fail(400), "A title", "Hello!", "Another") as s:
        c = await s.engine.create()
        await c.append("Hello")
        model = s.model(api)
        with pytest.raises(ResponseFailed):
            await c.respond(model, TITLE, key="t", aside=True)
        first = await c.respond(model, TITLE, key="t", aside=True)
        assert (first.output_text, first.replayed) == ("A title", False)
        await c.respond(model)
        again = await c.respond(model, TITLE, key="t", aside=True)
        assert (again.output_text, again.replayed, again.usage) == ("A title", True, first.usage)
        assert (again.items, again.version, again.turn, again.response_id) == (
            first.items, first.version, first.turn, first.response_id,
        )  # fmt: skip
        for other in ({"aside": True, "input": "Another title."}, {"input": TITLE}):
            with pytest.raises(KeyReused):
                await c.respond(model, key="t", **other)
        await c.append("Go on", key="a")
        with pytest.raises(KeyReused):
            await c.respond(model, "Go on", key="a", aside=True)
        assert len(s.bodies) == 3


async def test_many_at_once(stage_for, api, db):
    async with open_engine(db) as engine, stage_for(lambda received: f"title {received.number}", engine=engine) as s:
        c = await engine.create()
        await c.append("Hello")

        async def title():
            assert (await c.respond(s.model(api), TITLE, aside=True)).output_text.startswith("title")

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(title)
                group.start_soon(c.append, "And")
            group.start_soon(c.respond, s.model(api), "Answer me")
        assert len([call async for call in c.responses(limit=2)]) == 6
        head: Head = (await engine.store.read(c.id)).head
        assert (head.items, head.lease) == (8, None)
