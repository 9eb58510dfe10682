"""Workers that die or seem to: their turns are taken over, and if they come back they write nothing."""

import anyio
import anyio.lowlevel
import pytest

from turnlog import ConversationBusy, open_engine
from turnlog.engine.errors import CallsOpen, Fenced
from turnlog.engine.testing.server import Call, Reply, Text
from turnlog.engine.turns.outcome import NEVER_RAN, UNKNOWN

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}


class Slow:
    """A tool that runs until it is let go."""

    def __init__(self):
        self.running, self.done = anyio.Event(), anyio.Event()

    async def slow(self) -> str:
        self.running.set()
        await self.done.wait()
        return "done"


class Worker:
    """A turn in a worker of its own."""

    def __init__(self, conversation, model, text="Go", **options):
        self.conversation = conversation
        self.ask = lambda: conversation.run(model, text, **options)
        self.result = self.error = None

    async def __call__(self):
        try:
            self.result = await self.ask()
        except Exception as error:
            self.error = error

    def falls_silent(self):
        """Stop renewing the lease, as a process does that is stopped or cut off."""
        engine = self.conversation._engine
        for name, generation in list(engine._leases.items()):
            engine.drop_lease(name, generation)


@pytest.fixture
async def two(db):
    """Two workers on one database, with a short lease."""
    async with open_engine(db, lease=0.8) as one, open_engine(db, lease=0.8) as two:
        yield one, two


async def outputs(conversation):
    return [entry.item["output"] async for entry in conversation.items() if "output" in entry.item]


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_worker_thought_dead_comes_back(stage_for, two, key):
    one, other = two
    tool = Slow()
    async with stage_for(Call("slow"), "Instead.", engine=one) as s:
        worker = Worker(await one.create(), s.model("responses"), tools=[tool.slow], key=key)
        c = await other.get(worker.conversation.id)
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await tool.running.wait()
            with pytest.raises(ConversationBusy):
                await c.run(s.model("responses"), "Other", tools=[tool.slow])
            worker.falls_silent()
            text = "Go" if key else "Instead"
            result = await c.run(s.model("responses"), text, tools=[tool.slow], key=key, when_busy="wait")
            version = result.version
            tool.done.set()
        assert (result.output_text, result.replayed) == ("Instead.", False)
        assert isinstance(worker.error, Fenced)
        assert worker.error.generation > worker.error.fence
        assert (await c.refresh()).version == version
        assert await outputs(c) == [UNKNOWN]
        assert [call.status async for call in c.responses()] == ["completed", "completed"]
        interrupted = [event.data async for event in c.events() if event.type == "response.interrupted"]
        assert [said["cause"] for said in interrupted] == ["crashed"]
        users = [entry async for entry in c.items() if entry.item.get("role") == "user"]
        assert len(users) == (1 if key else 2)


async def test_a_worker_dies_while_the_model_speaks(stage_for, api, two):
    one, other = two
    answer = Reply(Text("First."), Call("ask"), Text("a long and slow end of it"), delay=0.05)
    async with stage_for(answer, "Instead.", engine=one) as s:
        worker = Worker(await one.create(), s.model(api))
        c = await other.get(worker.conversation.id)
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            while not s.bodies or (api == "responses" and (await c.refresh()).version < 6):
                await anyio.sleep(0.01)
            worker.falls_silent()
            await c.take_over()
            sealed = await outputs(c)
            result = await c.run(s.model(api), "Go on")
        assert isinstance(worker.error, Fenced)
        assert result.output_text == "Instead."
        assert sealed == ([NEVER_RAN] if api == "responses" else [])
        assert [call.status async for call in c.responses()] == ["interrupted", "completed"]
        (info,) = [info async for info in other.list()]
        assert not info.busy


async def test_take_over_does_it_at_once(stage_for, two):
    one, other = two
    tool = Slow()
    async with stage_for(Call("slow"), "Instead.", engine=one) as s:
        worker = Worker(await one.create(), s.model("responses"), tools=[tool.slow])
        c = await other.get(worker.conversation.id)
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await tool.running.wait()
            assert [call.state for call in await c.open_calls()] == ["running"]
            await c.take_over()
            assert await c.open_calls() == []
            before = c.version
            await c.take_over()
            assert c.version == before
            tool.done.set()
        assert isinstance(worker.error, Fenced)
        assert (await c.refresh()).version == before
        assert await outputs(c) == [UNKNOWN]
        assert (await c.run(s.model("responses"))).output_text == "Instead."


async def test_calls_that_wait_for_the_client_are_not_sealed_by_time(stage_for, two):
    one, other = two
    tool = Slow()
    calls = Reply(Call("slow", id="call_s"), Call("ask", id="call_a"))
    async with stage_for(calls, "Thanks.", engine=one) as s:
        worker = Worker(await one.create(), s.model("responses"), tools=[tool.slow, SCHEMA])
        c = await other.get(worker.conversation.id)
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await tool.running.wait()
            worker.falls_silent()
            with pytest.raises(CallsOpen) as raised:
                await c.run(s.model("responses"), "Go on", tools=[SCHEMA], when_busy="wait")
            tool.done.set()
        assert [call.call_id for call in raised.value.calls] == ["call_a"]
        assert await outputs(c) == [UNKNOWN]
        await c.append({"type": "function_call_output", "call_id": "call_a", "output": "here"})
        assert (await c.run(s.model("responses"), tools=[SCHEMA])).output_text == "Thanks."


async def test_calls_of_a_worker_that_is_gone_are_told_apart(stage_for, two):
    one, other = two
    tool = Slow()
    async with stage_for(Call("slow"), engine=one) as s:
        worker = Worker(await one.create(), s.model("responses"), tools=[tool.slow])
        c = await other.get(worker.conversation.id)
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await tool.running.wait()
            worker.falls_silent()
            while [call.state for call in await c.open_calls()] == ["running"]:
                await anyio.sleep(0.05)
            # Reading has sealed nothing.
            assert [call.state for call in await c.open_calls()] == ["unknown"]
            before = (await c.refresh()).version
            await c.window(model=s.model("responses"))
            async for _ in c.items():
                pass
            async for _ in c.responses():
                pass
            assert (await c.refresh()).version == before
            group.cancel_scope.cancel()


async def test_a_lease_is_renewed_while_a_tool_runs(stage_for, db):
    async with open_engine(db, lease=0.8) as engine:
        tool = Slow()
        async with stage_for(Call("slow"), "Done.", engine=engine) as s:
            worker = Worker(await engine.create(), s.model("responses"), tools=[tool.slow])
            async with anyio.create_task_group() as group:
                group.start_soon(worker)
                await tool.running.wait()
                for _ in range(3):
                    await anyio.sleep(0.6)
                    with pytest.raises(ConversationBusy):
                        await worker.conversation.respond(s.model("responses"), "Other")
                tool.done.set()
            assert worker.result.output_text == "Done."
            assert not engine._leases


async def test_a_lease_is_renewed_while_the_model_is_silent(stage_for, db):
    asked, let_go = anyio.Event(), anyio.Event()

    async def script(received):
        asked.set()
        await let_go.wait()
        return "Done."

    async with open_engine(db, lease=0.8) as engine, stage_for(script, engine=engine) as s:
        worker = Worker(await engine.create(), s.model("responses"))
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await asked.wait()
            await anyio.sleep(1.2)
            with pytest.raises(ConversationBusy):
                await worker.conversation.respond(s.model("responses"), "Other")
            let_go.set()
        assert worker.result.output_text == "Done."


async def test_who_was_fenced_leaves_the_lease_of_the_next_alone(stage_for, db):
    """Both turns in one process: the end of the first must not stop the renewal of the second."""
    async with open_engine(db, lease=0.8) as engine:
        first, second = Slow(), Slow()
        async with stage_for(Call("slow"), Call("slow"), "Done.", engine=engine) as s:
            c = await engine.create()
            lost = Worker(c, s.model("responses"), tools=[first.slow])
            held = Worker(c, s.model("responses"), "Instead", tools=[second.slow])
            async with anyio.create_task_group() as group:
                group.start_soon(lost)
                await first.running.wait()
                await c.take_over()
                group.start_soon(held)
                await second.running.wait()
                first.done.set()
                await anyio.sleep(1.2)
                with pytest.raises(ConversationBusy):
                    await c.respond(s.model("responses"), "Other")
                second.done.set()
            assert isinstance(lost.error, Fenced)
            assert held.result.output_text == "Done."


async def test_many_take_over_at_once(stage_for, two):
    one, other = two
    tool = Slow()
    async with stage_for(lambda received: Call("slow") if received.number == 1 else "Instead.", engine=one) as s:
        worker = Worker(await one.create(), s.model("responses"), tools=[tool.slow])
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            await tool.running.wait()
            worker.falls_silent()
            async with anyio.create_task_group() as others:
                for number in range(6):
                    c = await (one, other)[number % 2].get(worker.conversation.id)
                    others.start_soon(Worker(c, s.model("responses"), f"Instead {number}", when_busy="wait"))
            tool.done.set()
        assert isinstance(worker.error, Fenced)
        kinds = await s.kinds(c)
        assert kinds.count("response.interrupted") == 1
        assert kinds.count("response.completed") == 7


async def test_taking_over_from_a_worker_that_goes_on_writing(stage_for, two):
    one, other = two
    async with stage_for(Reply(*[Text(f"Line {n}.") for n in range(30)]), "Instead.", engine=one) as s:
        worker = Worker(await one.create(), s.model("responses"))
        c = await other.get(worker.conversation.id)
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
            while not s.bodies:
                await anyio.lowlevel.checkpoint()
            await c.take_over()
        assert isinstance(worker.error, Fenced) or worker.result is not None
        assert (await c.respond(s.model("responses"), "And?")).output_text == "Instead."
