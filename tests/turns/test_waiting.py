"""Which calls wait for their outputs: the same for whoever reads the log, and nothing that is no part of it."""

import pytest

from instant_model import Instant
from turnlog import Budget, NotFound, ResponseFailed, open_engine, tool
from turnlog.engine.errors import AlreadyAnswered
from turnlog.engine.model import ModelFailure
from turnlog.engine.replay import verify

pytestmark = pytest.mark.anyio

CALL = {"type": "function_call", "call_id": "call_0", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_0", "output": "clear"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


def call(number):
    return CALL | {"call_id": f"call_{number}"}


def output(number):
    return OUTPUT | {"call_id": f"call_{number}"}


async def waiting(c):
    return [(one.call_id, one.seq, one.state) for one in await c.open_calls()]


async def seen_anew(path):
    """Return what waits in the conversation for an engine that knows nothing of it yet."""
    async with open_engine(path) as engine:
        return await waiting(await engine.get("c"))


# -- what a caller appended


async def test_of_calls_that_a_caller_appended_those_without_outputs_wait(db):
    async with open_engine(db) as engine:
        c = await engine.create(id="c")
        await c.append("Look", call(0), call(1), call(2))
        for number, left in [(1, [0, 2]), (0, [2]), (2, [])]:
            await c.append(output(number))
            expected = [(f"call_{one}", 3 + one, "waiting") for one in left]
            assert await waiting(c) == expected
            assert await seen_anew(db) == expected


@pytest.mark.parametrize("messages", [1, 40, 300])
async def test_a_call_waits_while_the_answer_that_it_is_part_of_is_the_last(db, messages):
    """And among the latest events: to look for it further back would take ever longer."""
    async with open_engine(db) as engine:
        c = await engine.create(id="c")
        await c.append("Look", call(0), {"role": "assistant", "content": "One moment."})
        await c.append(*[f"And {number}?" for number in range(messages)])
        expected = [("call_0", 3, "waiting")] if messages < 200 else []
        assert await waiting(c) == await seen_anew(db) == expected
        await c.append({"role": "assistant", "content": "Never mind."})
        assert await waiting(c) == await seen_anew(db) == []
        result = await c.run(Instant(answer="Fine."), "Go on")
        assert result.output_text == "Fine."


# -- calls of a model


async def test_a_call_of_a_response_that_failed_is_not_waited_for(db):
    """Nor is its tool run, though a pinned example has its id, and is all that is still loaded of that time."""
    ran = []

    @tool(name="look")
    async def look() -> str:
        ran.append(1)
        return "seen"

    class Breaks(Instant):
        async def send(self, request):
            async for said in super().send(request):
                yield said
                if said.raw.get("output_index") == 1:
                    raise ModelFailure("stream", "broke off")

    budget = Budget(400)
    async with open_engine(db) as engine:
        c = await engine.create(id="c")
        await c.append("Example", CALL, OUTPUT, pinned=True)
        made = [CALL, {"type": "message", "role": "assistant", "content": "Lo"}]
        with pytest.raises(ResponseFailed):
            await c.run(Breaks("chat", made, budget=budget), "Look.", tools=[look])
        long = Instant("chat", "Fine. " + "word " * 200, budget=budget)
        for _ in range(3):
            await c.run(long, "And now? " + "word " * 100, tools=[look])
        assert await waiting(c) == []
    assert await seen_anew(db) == []
    async with open_engine(db) as engine:
        await (await engine.get("c")).run(long, "Go on", tools=[look])
    assert ran == []


async def test_what_a_person_decided_is_known_however_little_is_loaded(db):
    @tool(name="look", approval=True)
    async def look() -> str:
        return "seen"

    async with open_engine(db) as engine:
        c = await engine.create(id="c")
        await c.append("Example", CALL, pinned=True)
        await c.decide("call_0", approve=True, by="ada")
        for _ in range(5):
            await c.append("word " * 150)
        expected = [("call_0", 3, "approved")]
        assert await waiting(c) == expected
    assert await seen_anew(db) == expected
    async with open_engine(db) as engine:
        c = await engine.get("c")
        assert await waiting(c) == expected
        assert (await c.run(Instant("chat", "Fine."), "Go", tools=[look])).status == "completed"
        assert "seen" in str([entry.item async for entry in c.items()])


# -- what is said aside


async def test_outputs_that_are_said_aside_answer_nothing(engine):
    c = await engine.create()
    await c.run(Instant("chat", [CALL]), "Go", tools=[LOOK])
    await c.respond(Instant("chat", "A title."), ["like", CALL, OUTPUT, "Title?"], aside=True)
    assert [one.call_id for one in await c.open_calls()] == ["call_0"]
    await c.answer("call_0", "mine")
    assert await waiting(c) == []
    assert (await c.run(Instant("chat", "Fine."), "On")).output_text == "Fine."


async def test_a_call_that_is_made_aside_lets_no_second_output_in(engine):
    c = await engine.create()
    await c.append("Hi", CALL, OUTPUT)
    await c.respond(Instant("chat", [CALL]), "x", tools=[LOOK], aside=True)
    with pytest.raises(AlreadyAnswered):
        await c.append(OUTPUT)


async def test_a_decision_is_on_the_conversations_own_call(engine):
    @tool(name="look", approval=True)
    async def look() -> str:
        return "seen"

    c = await engine.create()
    await c.run(Instant("chat", [CALL]), "Go", tools=[look])
    await c.respond(Instant("chat", [CALL]), "x", tools=[look], aside=True)
    await c.decide("call_0", approve=True, by="ada")
    assert (await c.run(Instant("chat", "Fine."), tools=[look])).output_text == "Fine."
    assert "seen" in str([entry.item async for entry in c.items()])
    assert (await verify(engine.store, c.id)).diverged == []


# -- what was erased


async def test_a_call_that_was_erased_can_be_neither_answered_nor_decided(engine):
    c = await engine.create()
    result = await c.run(Instant("chat", [CALL]), "Go", tools=[LOOK])
    await c.erase(result.open_calls[0].seq, reason="x")
    for asked in (c.answer("call_0", "late"), c.decide("call_0", approve=False, by="ada")):
        with pytest.raises(NotFound) as raised:
            await asked
        assert raised.value.deleted
