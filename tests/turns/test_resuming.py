"""Calls that a killed process has left: what never ran is run, what may have taken effect is told so, or run again."""

import json
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from forking import Process
from log_checks import whole_log
from turnlog import ToolContext, open_engine, tool
from turnlog.engine.errors import CallsOpen
from turnlog.engine.testing.server import Call, Reply, Text
from turnlog.engine.turns.outcome import NEVER_RAN, UNKNOWN

pytestmark = pytest.mark.anyio

LEASE = 0.4
CALLS = Reply(Call("quick", id="q"), Call("risky", id="r"), Call("safe", id="s"))


class Tools:
    """Tools of the names that the worker's have, which come to an end."""

    def __init__(self):
        self.seen = {}
        self.all = [self.quick, self.risky, tool(rerun_safe=True)(self.safe)]

    def saw(self, ctx):
        self.seen[ctx.call_id] = ctx.attempt, ctx.idempotency_key

    async def quick(self, ctx: ToolContext) -> str:
        self.saw(ctx)
        return "quick"

    async def risky(self, ctx: ToolContext) -> str:
        self.saw(ctx)
        return "risky"

    async def safe(self, ctx: ToolContext) -> str:
        self.saw(ctx)
        return "safe"


class Worker:
    """A process, and what it has said of its calls by their ids."""

    def __init__(self, process):
        self.process = process
        self.said = {}

    async def line(self):
        return await anyio.to_thread.run_sync(self.process.stdout.readline)

    async def until(self, *links):
        while not self.said.keys() >= set(links):
            _, link, attempt, key = json.loads(await self.line())
            self.said[link] = attempt, key

    def kill(self):
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def worker(s, db, api, **more):
    order = {"url": s.server.base_url, "db": str(db), "lease": LEASE, "api": api, **more}
    made = Worker(Process(Path(__file__).with_name("tool_worker.py"), order))
    try:
        yield made
    finally:
        if made.process.returncode is None:
            made.kill()


async def outputs(c):
    return {entry.item["call_id"]: entry.item["output"] async for entry in c.items() if "output" in entry.item}


async def logged(c, shape):
    """Wait until the log has an item of a shape."""
    while not [entry async for entry in c.items() if entry.item.get("type") == shape]:
        await anyio.sleep(0.01)


async def test_what_was_running_when_its_worker_was_killed(stage_for, api, db):
    async with open_engine(db, lease=LEASE) as engine, stage_for(CALLS, "Done.", engine=engine) as s:
        c = await engine.create(id="c")
        async with worker(s, db, api, text="Go") as first:
            await first.until("q", "r", "s")
            await logged(c, "function_call_output")
            first.kill()
        tools = Tools()
        result = await c.run(s.model(api), tools=tools.all, when_busy="wait")
        assert (result.status, result.output_text) == ("completed", "Done.")
        assert await outputs(c) == {"q": "quick", "r": UNKNOWN, "s": "safe"}
        # The same key as before, so that what it does elsewhere can be told from a second call.
        assert tools.seen == {"s": (2, first.said["s"][1])}
        assert first.said["s"][0] == 1
        assert [item["output"] for item in result.items if "output" in item] == ["safe"]
        await whole_log(c)


async def test_killed_again_and_again(stage_for, api, db):
    async with open_engine(db, lease=LEASE) as engine, stage_for(CALLS, "Done.", engine=engine) as s:
        c = await engine.create(id="c")
        keys = set()
        for attempt in (1, 2, 3):
            async with worker(s, db, api, text="Go", key="k") as one:
                await one.until("s")
                assert one.said["s"][0] == attempt
                keys.add(one.said["s"][1])
                one.kill()
            while (await engine.list()).data[0].busy:
                await anyio.sleep(0.05)
        tools = Tools()
        result = await c.run(s.model(api), "Go", tools=tools.all, key="k", when_busy="wait")
        assert (result.output_text, result.replayed, len(keys)) == ("Done.", False, 1)
        assert tools.seen["s"][0] == 4
        assert [entry.item.get("content") async for entry in c.items()].count("Go") == 1
        assert (await c.run(s.model(api), "Go", key="k")).replayed
        await whole_log(c)


@pytest.mark.parametrize("runs", [True, False])
async def test_a_call_of_an_answer_that_broke_off(stage_for, db, runs):
    """It never ran: whoever runs the turn on runs it; who only asks the model, tells it so."""
    answer = Reply(Call("quick", id="q"), Call("risky", id="r"), Text("and then " * 50), delay=0.05)
    async with open_engine(db, lease=LEASE) as engine, stage_for(answer, "Done.", engine=engine) as s:
        c = await engine.create(id="c")
        async with worker(s, db, "responses", text="Go") as first:
            await logged(c, "function_call")
            while len([entry async for entry in c.items()]) < 3:
                await anyio.sleep(0.01)
            first.kill()
        tools = Tools()
        options = {"tools": tools.all, "when_busy": "wait"}
        result = await (c.run if runs else c.respond)(s.model("responses"), **options)
        assert result.output_text == "Done."
        assert await outputs(c) == ({"q": "quick", "r": "risky"} if runs else {"q": NEVER_RAN, "r": NEVER_RAN})
        assert {attempt for attempt, _ in tools.seen.values()} == ({1} if runs else set())
        await whole_log(c)


async def test_what_was_approved_is_run_by_whoever_comes_next(stage_for, api, db):
    async with open_engine(db, lease=LEASE) as engine, stage_for(Call("risky", id="r"), "Done.", engine=engine) as s:
        c = await engine.create(id="c")
        async with worker(s, db, api, text="Go", approval=True) as first:
            assert (await first.line()) == "done\n"
        assert [(call.needs, call.state) for call in await c.open_calls()] == [("approval", "waiting")]
        await c.decide("r", approve=True, by="ada")
        async with worker(s, db, api, approval=True) as second:
            await second.until("r")
            second.kill()
        while (await c.open_calls())[0].state == "running":
            await anyio.sleep(0.05)
        assert [(call.needs, call.state) for call in await c.open_calls()] == [("output", "unknown")]
        tools = Tools()
        result = await c.run(s.model(api), tools=tools.all, when_busy="wait")
        assert (result.output_text, tools.seen) == ("Done.", {})
        assert await outputs(c) == {"r": UNKNOWN}
        await whole_log(c)


async def test_what_waits_for_a_person_is_not_sealed_by_a_crash(stage_for, api, db):
    calls = Reply(Call("risky", id="r"), Call("safe", id="s"))
    async with open_engine(db, lease=LEASE) as engine, stage_for(calls, "Done.", engine=engine) as s:
        c = await engine.create(id="c")
        async with worker(s, db, api, text="Go", approval=True) as first:
            await first.until("s")
            first.kill()
        tools = Tools()
        with pytest.raises(CallsOpen) as raised:
            await c.run(s.model(api), tools=tools.all, when_busy="wait")
        assert [(call.call_id, call.needs) for call in raised.value.calls] == [("r", "approval")]
        await c.decide("r", approve=True, by="ada")
        assert (await c.run(s.model(api), tools=tools.all)).output_text == "Done."
        assert await outputs(c) == {"r": "risky", "s": "safe"}
        assert {link: attempt for link, (attempt, _) in tools.seen.items()} == {"r": 1, "s": 2}
        await whole_log(c)


async def test_ids_that_come_back_are_other_calls(stage_for, api, db):
    """Some backends give every first call the same id: that an earlier one ran says nothing of this one."""
    async with open_engine(db, lease=LEASE) as engine:
        async with stage_for(Call("risky", id="r"), "Once.", Call("risky", id="r"), "Twice.", engine=engine) as s:
            c = await engine.create()
            tools = Tools()
            await c.run(s.model(api), "Go", tools=tools.all)
            key = tools.seen["r"][1]
            await c.respond(s.model(api), "Again", tools=tools.all)
            assert [call.state for call in await c.open_calls()] == ["waiting"]
            assert (await c.run(s.model(api), tools=tools.all)).output_text == "Twice."
            assert tools.seen["r"][0] == 1
            assert tools.seen["r"][1] != key


@pytest.mark.parametrize("cause", ["cancelled", "left"])
async def test_a_turn_that_is_cancelled_while_it_runs_what_was_left(stage_for, api, db, cause):
    running = anyio.Event()

    async def slow() -> str:
        running.set()
        await anyio.sleep_forever()

    async with open_engine(db, lease=LEASE) as engine, stage_for(Call("slow", id="a"), "Done.", engine=engine) as s:
        c = await engine.create()
        await c.respond(s.model(api), "Go", tools=[slow])
        if cause == "left":
            async with c.stream(s.model(api), tools=[slow]):
                await running.wait()
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: c.run(s.model(api), tools=[slow]))
                await running.wait()
                group.cancel_scope.cancel()
        assert await outputs(c) == {"a": UNKNOWN}
        events = await whole_log(c)
        assert [event.data["cause"] for event in events if event.type == "response.interrupted"] == [cause]
        assert (await c.run(s.model(api), tools=[slow])).output_text == "Done."
