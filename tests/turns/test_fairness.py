"""Many at once: whoever was told to wait is served, however busy a conversation is."""

import anyio
import anyio.lowlevel
import pytest

from turnlog import Budget, StoreError, open_engine
from turnlog.engine.testing.server import Call, Reply

pytestmark = pytest.mark.anyio


async def look(at: str = "here") -> str:
    return f"seen {at}"


def script(request):
    return "Done." if request.number % 3 == 0 else Call("look")


async def test_everybody_who_waits_is_served(stage, api):
    async with stage(script) as s:
        c = await s.engine.create()
        results = []

        async def ask(number):
            results.append(await c.run(s.model(api), f"Go {number}", tools=[look], when_busy="wait"))

        async with anyio.create_task_group() as group:
            for number in range(25):
                group.start_soon(ask, number)
        assert [result.status for result in results] == ["completed"] * 25


async def test_a_stream_of_appends_does_not_hold_a_turn_up(stage, api):
    async with stage(script) as s:
        c = await s.engine.create()
        over = anyio.Event()

        async def write(most=5000):
            # An end all the same: what is said in a turn that others hold up has to fit its window.
            for number in range(most):
                await c.append(f"By the way, {number}")
                await anyio.lowlevel.checkpoint()
                if over.is_set():
                    break

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for number in range(4):
                result = await c.run(s.model(api, budget=Budget(200_000)), f"Go {number}", tools=[look])
                assert result.status == "completed"
            over.set()


async def test_an_engine_that_closes_ends_what_runs(stage_for, api, db):
    """The turn's end is in the log, its lease is given up, and the caller is told."""
    raised = []

    async def ask(c, s):
        try:
            await c.run(s.model(api), "Go")
        except StoreError as error:
            raised.append(str(error))

    async with open_engine(db) as again, stage_for(Reply("slowly " * 50, delay=0.02), "On.", engine=again) as s:
        async with anyio.create_task_group() as group:
            async with open_engine(db) as engine:
                c = await engine.create()
                group.start_soon(ask, c, s)
                while not s.bodies:
                    await anyio.sleep(0.01)
        assert "closed while the turn ran" in raised[0]
        c = await again.get(c.id)
        assert (await s.kinds(c))[-1] == "response.interrupted"
        assert not (await again.list()).data[0].busy
        assert (await c.run(s.model(api), "And?")).output_text == "On."


@pytest.mark.parametrize("name", ["multi_tool_use.parallel", "", "x" * 80, "größe"])
async def test_a_name_that_the_model_made_up(stage, api, name):
    async with stage(Call(name, {}), "Sorry.", "Fine.") as s:
        c = await s.engine.create()
        assert (await c.respond(s.model(api), "Go")).status == "waiting"
        assert (await c.respond(s.model(api), "Hm?", open_calls="seal")).output_text == "Sorry."
        assert (await c.run(s.model(api), "And?", tools=[look])).output_text == "Fine."
