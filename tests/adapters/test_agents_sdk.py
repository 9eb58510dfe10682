"""`TurnlogSession` under the real Agents SDK, beside the SDK's own session, and from several threads."""

import asyncio
import contextlib
import threading
from typing import NamedTuple

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from openai import AsyncOpenAI

from turnlog import Budget, Engine, Invalid, open_engine
from turnlog.adapters.agents_sdk import TurnlogSession, named
from turnlog.adapters.responses import Responses
from turnlog.engine.errors import StoreError
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.server import Call, Reason, Reply, ScriptedServer, Text, scripted_server

agents = pytest.importorskip("agents")

pytestmark = pytest.mark.anyio

QUIET = agents.RunConfig(tracing_disabled=True)
LONG = "and then this happened, at some length, " * 12


@agents.function_tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word like others"


def agent(s, **more):
    model = agents.OpenAIResponsesModel(model="gpt-4o-mini", openai_client=s.client)
    return agents.Agent(name="Ada", instructions="Be brief.", model=model, tools=[look_up], **more)


@contextlib.asynccontextmanager
async def served(engine, *script, **options):
    """A scripted server, which the SDK calls itself."""
    async with scripted_server(script, **options) as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client:
            yield Served(engine, server, client)


class Served(NamedTuple):
    engine: Engine
    server: ScriptedServer
    client: AsyncOpenAI

    @property
    def bodies(self):
        return [received.body for received in self.server.requests]


def question(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def call(number):
    return {"type": "function_call", "call_id": f"call_{number}", "name": "look_up", "arguments": "{}"}


def output(number):
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": f"found {number}"}


def shapes(items):
    return [item.get("role") or item["type"] for item in items]


# -- under the runner


async def test_a_run_goes_on_from_the_one_before(engine):
    async with served(engine, Reply(Reason("Hm"), Call("look_up", {"word": "sky"})), "Blue.", "Above.") as s:
        session = TurnlogSession(s.engine, "ada")
        result = await agents.Runner.run(agent(s), "What is the sky?", session=session, run_config=QUIET)
        assert result.final_output == "Blue."
        await agents.Runner.run(agent(s), "And where?", session=session, run_config=QUIET)
        assert shapes(s.bodies[2]["input"]) == [
            "user", "reasoning", "function_call", "function_call_output", "assistant", "user",
        ]  # fmt: skip
        c = await s.engine.get("ada")
        assert shapes([entry.item async for entry in c.items()]) == [*shapes(s.bodies[2]["input"]), "assistant"]


async def test_a_streamed_run(engine):
    async with served(engine, Reply(Call("look_up", {"word": "sky"})), "Blue.") as s:
        session = TurnlogSession(s.engine, "ada")
        run = agents.Runner.run_streamed(agent(s), "What is the sky?", session=session, run_config=QUIET)
        async for _ in run.stream_events():
            pass
        assert shapes(await session.get_items()) == ["user", "function_call", "function_call_output", "assistant"]


async def test_a_run_that_waits_for_approval_is_resumed(engine):
    @agents.function_tool(needs_approval=True)
    def pay(order: str) -> str:
        """Pay."""
        return f"paid {order}"

    async with served(engine, Reply(Call("pay", {"order": "A1"})), "Done.") as s:
        session = TurnlogSession(s.engine, "ada")
        ada = agent(s)
        ada.tools = [pay]
        waiting = await agents.Runner.run(ada, "Pay A1", session=session, run_config=QUIET)
        state = waiting.to_state()
        state.approve(waiting.interruptions[0])
        done = await agents.Runner.run(ada, state, session=session, run_config=QUIET)
        assert done.final_output == "Done."
        items = await session.get_items()
        assert shapes(items) == ["user", "function_call", "function_call_output", "assistant"]
        assert items[2]["output"] == "paid A1"


async def test_settings_of_the_session_and_of_the_run(engine):
    async with served(engine, "One.", "Two.", "Three.", "Four.") as s:
        session = TurnlogSession(s.engine, "ada", session_settings={"limit": 2})
        for text in ("1", "2", "3"):
            await agents.Runner.run(agent(s), text, session=session, run_config=QUIET)
        assert [str(item["content"]) for item in s.bodies[2]["input"] if item["role"] == "user"] == ["2", "3"]
        config = agents.RunConfig(tracing_disabled=True, session_settings=agents.SessionSettings(limit=1))
        await agents.Runner.run(agent(s), "4", session=session, run_config=config)
        assert len(s.bodies[3]["input"]) == 2
        assert len(await session.get_items(limit=100)) == 8


async def test_with_a_budget_runs_begin_with_a_window(engine):
    budget = Budget(800)
    async with served(
        engine, *[f"answer {number}: {LONG}" for number in range(9)], windows={"gpt-4o-mini": 1_000}
    ) as s:
        session = TurnlogSession(s.engine, "ada", budget=budget)
        for number in range(9):
            await agents.Runner.run(agent(s), f"question {number}", session=session, run_config=QUIET)
            items = await session.get_items()
            assert list(refusals("responses", {"model": "m", "input": items, "store": False})) == []
        c = await s.engine.get("ada")
        assert len([entry async for entry in c.items()]) == 18
        assert len(await session.get_items()) < 18


async def test_it_is_compacted_when_its_window_has_filled(engine):
    async with served(engine, *[f"answer {number}: {LONG}" for number in range(9)]) as s:
        session = TurnlogSession(s.engine, "ada", budget=Budget(800), compact=True)
        for number in range(9):
            await agents.Runner.run(agent(s), f"question {number}", session=session, run_config=QUIET)
        c = await s.engine.get("ada")
        assert "context.compacted" in [event.type async for event in c.events()]
        assert "left out" in str((await session.get_items())[0])
        await session.run_compaction({"force": True})  # there may be nothing to be done
        assert len([entry async for entry in c.items()]) == 18


# -- beside the SDK's own session


class Both:
    """The same done to a session of the SDK's and to one of ours."""

    def __init__(self, engine, number):
        self.ours = TurnlogSession(engine, f"s{number}")
        self.theirs = agents.SQLiteSession(f"s{number}")

    async def do(self, verb, *arguments):
        results = [await getattr(one, verb)(*arguments) for one in (self.ours, self.theirs)]
        assert results[0] == results[1], verb


ITEMS = st.lists(
    st.one_of(
        st.sampled_from(["a", "b"]).map(question), st.just(answer("fine")), st.just({"type": "mystery", "id": "m1"})
    ),
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add_items"), ITEMS),
        st.just(("add_items", "call")),
        st.just(("pop_item",)),
        st.just(("clear_session",)),
        st.just(("get_items",)),
        st.integers(0, 8).map(lambda limit: ("get_items", limit)),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(STEPS)
@example([("add_items", [question("a"), answer("b"), answer("c")]), ("pop_item",), ("pop_item",), ("get_items",)])
@example([("add_items", "call"), ("pop_item",), ("pop_item",), ("pop_item",)])
def test_it_does_what_the_sdks_own_session_does(steps):
    async def compare():
        async with open_engine(":memory:") as engine:
            both, number = Both(engine, 0), 0
            for verb, *arguments in steps:
                if arguments == ["call"]:
                    number += 1
                    await both.do(verb, [call(number), output(number), answer("so")])
                    continue
                if verb == "get_items" and arguments and await torn(both.theirs, *arguments):
                    continue
                await both.do(verb, *arguments)
            await both.do("get_items")

    anyio.run(compare)


async def torn(session, limit):
    """Whether a limit leaves an output without its call: the SDK's session does, ours does not."""
    items = await session.get_items(limit)
    calls = {item.get("call_id") for item in items if item.get("type") == "function_call"}
    return any(item.get("type") == "function_call_output" and item["call_id"] not in calls for item in items)


async def test_an_output_whose_call_is_beyond_the_limit_is_left_out(engine):
    session = TurnlogSession(engine, "ada")
    await session.add_items([question("a"), call(1), output(1), answer("so")])
    assert shapes(await session.get_items(2)) == ["assistant"]
    assert shapes(await session.get_items(3)) == ["function_call", "function_call_output", "assistant"]
    assert await session.get_items(0) == []


async def test_an_output_that_is_taken_back_may_be_given_anew(engine):
    session = TurnlogSession(engine, "ada")
    await session.add_items([question("a"), call(1), output(1)])
    assert await session.pop_item() == output(1)
    assert shapes(await session.get_items()) == ["user", "function_call"]
    await session.add_items([{**output(1), "output": "otherwise"}])
    assert (await session.get_items())[-1]["output"] == "otherwise"


async def test_the_first_output_stands(engine):
    session = TurnlogSession(engine, "ada")
    await session.add_items([call(1), output(1)])
    await session.add_items([{**output(1), "output": "again"}, answer("so")])
    assert await session.get_items() == [call(1), output(1), answer("so")]


async def test_what_was_taken_back_stays_in_the_log(engine):
    session = TurnlogSession(engine, "ada")
    await session.add_items([question("a"), answer("b")])
    await session.clear_session()
    assert await session.get_items() == []
    assert await session.pop_item() is None
    c = await engine.get("ada")
    assert len([entry async for entry in c.items(abandoned=True)]) == 2


async def test_an_answer_of_a_turn_is_taken_back_whole(engine):
    async with served(engine, "Hello.") as s:
        c = await s.engine.create(id="ada")
        await c.respond(Responses(s.client, "gpt-4o-mini"), "Hi")
        session = TurnlogSession(s.engine, "ada")
        assert shapes([await session.pop_item()]) == ["assistant"]
        assert shapes(await session.get_items()) == ["user"]


async def test_what_is_said_again_can_be_taken_back_like_the_rest(engine):
    """An output of the SDK's for a call of a turn of ours stands or falls with the whole answer."""
    async with served(engine, Reply(Text("Let me see."), Call("look_up", id="call_1"))) as s:
        c = await s.engine.create(id="ada")
        tools = [{"type": "function", "name": "look_up", "parameters": {}}]
        first = await c.respond(Responses(s.client, "gpt-4o-mini"), "Hi", tools=tools)
        session = TurnlogSession(s.engine, "ada")
        await session.add_items([output(1)])
        assert await session.pop_item() == output(1)
        assert [entry.response async for entry in c.items()] == [None, first.version + 3, first.version + 3]
        left = []
        while (item := await session.pop_item()) is not None:
            left += shapes([item])
        assert left == ["function_call", "assistant", "user"]


# -- wherever it is used


async def test_one_session_from_several_threads_and_loops(engine):
    session = TurnlogSession(engine, "ada")

    async def talk(number):
        for turn in range(5):
            await session.add_items([question(f"{number}.{turn}"), answer("so")])
        return await session.get_items()

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(anyio.to_thread.run_sync, lambda number=number: asyncio.run(talk(number)))
        group.start_soon(talk, 6)
    items = await session.get_items()
    assert len(items) == 70
    assert shapes(items) == ["user", "assistant"] * 35
    for number in range(7):
        own = [item["content"] for item in items[::2] if item["content"].startswith(f"{number}.")]
        assert own == [f"{number}.{turn}" for turn in range(5)]


def test_a_session_that_opens_its_database_itself(db):
    with TurnlogSession(db, "ada") as session:
        asyncio.run(session.add_items([question("a")]))
        asyncio.run(session.add_items([answer("b")]))
        threads = [threading.Thread(target=asyncio.run, args=(session.add_items([question("c")]),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(asyncio.run(session.get_items())) == 6
    assert threading.active_count() < 20
    again = TurnlogSession(str(db), "ada")
    assert len(asyncio.run(again.get_items(limit=2))) == 2
    again.close()
    again.close()


def test_a_run_without_a_loop(db):
    """`Runner.run_sync` brings a loop of its own."""

    class Echo(agents.Model):
        async def get_response(self, system_instructions, input, *rest, **more):
            said = agents.items.ResponseOutputMessage(
                id="msg_1",
                type="message",
                role="assistant",
                status="completed",
                content=[{"type": "output_text", "text": f"{len(input)} items", "annotations": []}],
            )
            return agents.ModelResponse(output=[said], usage=agents.Usage(), response_id=None)

        def stream_response(self, *rest, **more):
            raise NotImplementedError

    ada = agents.Agent(name="Ada", model=Echo())
    loop = asyncio.new_event_loop()  # which it would leave open
    asyncio.set_event_loop(loop)
    with TurnlogSession(db, "ada") as session, contextlib.closing(loop):
        told = [agents.Runner.run_sync(ada, "Hi", session=session, run_config=QUIET).final_output for _ in range(3)]
    assert told == ["1 items", "3 items", "5 items"]


async def test_an_engine_whose_loop_is_gone():
    kept = []

    async def make():
        async with open_engine(":memory:") as engine:
            kept.append(TurnlogSession(engine, "ada"))
            await kept[0].add_items([question("a")])

    await anyio.to_thread.run_sync(anyio.run, make)
    with pytest.raises(StoreError, match="event loop of this session's engine is closed"):
        await kept[0].get_items()


@pytest.mark.parametrize("name", ["ada@example.org", "a" * 65, "ä"])
async def test_a_name_that_no_conversation_can_have(engine, name):
    await TurnlogSession(engine, name).add_items([question("a")])
    c = await engine.get(named(name))
    assert (await c.refresh()).metadata == {"session": name}


async def test_wrong_arguments(engine):
    with pytest.raises(Invalid, match="an engine is needed"):
        TurnlogSession(7, "ada")
    with pytest.raises(Invalid, match="a text is needed"):
        TurnlogSession(engine, "")
    with pytest.raises(Invalid, match=r"^compact='no': True or False is needed"):
        TurnlogSession(engine, "ada", budget=Budget(800), compact="no")
    with pytest.raises(Invalid, match="a budget is needed"):
        TurnlogSession(engine, "ada", compact=True)
    with pytest.raises(Invalid, match="limit=-1"):
        await TurnlogSession(engine, "ada").get_items(-1)
