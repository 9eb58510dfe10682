"""Background responses: polled where their stream breaks, resumed by whoever comes after a crash, stopped when nobody
waits."""

import json

import anyio
import pytest

from turnlog import ResponseFailed, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine.errors import CallsOpen
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Fail, Hang, Raw, Reason, Reply, Text

pytestmark = pytest.mark.anyio

BACKGROUND = {"background": True}
SHORT = 0.3
"""Seconds of a lease that nobody renews."""


async def look() -> str:
    return "blue"


class Gate:
    """A script that answers when it is told to."""

    def __init__(self, *answers):
        self.opened = anyio.Event()
        self._answers = iter(answers)

    async def __call__(self, received):
        await self.opened.wait()
        return next(self._answers)


async def begun(c):
    """Wait until a response has started."""
    while not [one async for one in c.events() if one.type == "response.started"]:
        await anyio.sleep(0.01)


async def dead(engine, c, model, *args, **options):
    """Let a worker begin a background response and die: its lease runs out, and nothing of it is written any more."""
    scope = anyio.CancelScope()

    async def work():
        with scope:
            await c.run(model, *args, **options)

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await begun(c)
        engine.writer.append = refuse
        model.cancel = refuse
        scope.cancel()
    while (head := await engine.reader.head(c.id)).lease is not None and head.lease.remaining > 0:
        await anyio.sleep(0.02)


async def refuse(*args, **options):
    raise ConnectionError("this worker is dead")


async def test_it_is_streamed_like_any_other(stage):
    async with stage(Reply(Reason("why"), "Hello")) as s:
        c = await s.engine.create()
        async with c.stream(s.model("responses", params=BACKGROUND), "Hi") as stream:
            seen = [event.type async for event in stream]
        assert seen[:3] == ["response.created", "response.queued", "response.in_progress"]
        assert (await stream.result()).output_text == "Hello"
        assert (s.bodies[0]["background"], s.bodies[0]["store"]) == (True, True)
        kinds = await s.kinds(c)
        assert kinds[:3] == ["user", "response.requested", "response.started"]
        assert s.server.visits == []
        assert (await verify(s.engine.store, c.id)).verified == 1


@pytest.mark.parametrize("cut", [1, 3, 5, 9, 14])
async def test_where_its_stream_breaks_it_is_polled(stage, cut):
    answer = Reply(Reason("why"), Text("Let me look."), Call("look"), cut_after=cut)
    async with stage(answer, "It is blue.") as s:
        c = await s.engine.create()
        result = await c.run(s.model("responses"), "Look", tools=[look], params=BACKGROUND)
        assert result.output_text == "It is blue."
        items = [entry.item async for entry in c.items()]
        assert [item.get("type", item.get("role")) for item in items] == [
            *("user", "reasoning", "message", "function_call", "function_call_output", "message")
        ]
        assert {visit.method for visit in s.server.visits} == {"GET"}
        assert "response.failed" not in await s.kinds(c)


async def test_a_stream_that_breaks_before_its_id_is_known_fails(stage):
    async with stage(Reply("Hello", cut_after=0)) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model("responses"), "Hi", params=BACKGROUND)
        assert raised.value.result.reason == "stream"


async def test_it_is_not_asked_for_twice_by_the_client(stage):
    async with stage(Fail(500, headers={"retry-after-ms": "1"}), client={"max_retries": 2}) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await c.respond(s.model("responses"), "Hi", params=BACKGROUND)
        assert len(s.bodies) == 1


async def test_nobody_waits_so_the_server_is_told_to_stop(stage):
    gate = Gate("Never")
    async with stage(gate) as s:
        c = await s.engine.create()
        stream = await c.stream(s.model("responses"), "Hi", params=BACKGROUND)
        assert (await anext(aiter(stream))).type == "response.created"
        await begun(c)
        await stream.aclose()
        assert [(visit.method, visit.path) for visit in s.server.visits] == [("POST", "/responses/resp_0001/cancel")]
        assert (await s.client.responses.retrieve("resp_0001")).status == "cancelled"
        assert (await s.kinds(c))[-1] == "response.interrupted"


async def test_looking_for_it_may_fail_for_a_while(stage):
    on = iter([Fail(503), Hang(0), Fail(429), None])
    async with stage(Reply("Hello", cut_after=3), trouble=lambda _: next(on)) as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("responses"), "Hi", params=BACKGROUND)).output_text == "Hello"
        assert len(s.server.visits) == 4


async def test_a_server_that_streams_although_it_was_only_looked_at(stage):
    done = {"id": "resp_0001", "status": "completed", "output": [{"role": "assistant", "content": "Hi."}]}
    events = [{"type": "response.created", "response": done}, {"type": "response.completed", "response": done}]
    streamed = Raw(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events))
    async with stage(Reply("Hello", cut_after=3), trouble=lambda _: streamed) as s:
        c = await s.engine.create()
        assert (await c.respond(s.model("responses"), "Hi", params=BACKGROUND)).output_text == "Hi."


async def test_looks_travel_as_the_request_did(stage):
    async with stage(Reply("Hello", cut_after=3)) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "Hi", params={**BACKGROUND, "extra_query": {"tenant": "7"}})
        assert {visit.query.get("tenant") for visit in s.server.visits} == {"7"}


async def test_it_is_not_looked_for_for_ever(stage):
    async with stage(Reply("Hello", cut_after=3), trouble=lambda _: Fail(503, message="No.")) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed, match=r"No\."):
            await c.respond(s.model("responses"), "Hi", params=BACKGROUND)
        assert len(s.server.visits) == 7  # the last one tells it to stop


@pytest.mark.parametrize("trouble", ["cancelled", "failed"])
async def test_what_becomes_of_it_elsewhere(stage, trouble):
    failed = Reply(status="failed", error={"code": "server_error", "message": "Something broke."})
    gate = Gate(failed, "Again.")
    async with stage(gate) as s:
        c = await s.engine.create()

        async def meddle():
            await begun(c)
            if trouble == "cancelled":
                await s.client.responses.cancel("resp_0001")
            gate.opened.set()

        async with anyio.create_task_group() as group:
            group.start_soon(meddle)
            with pytest.raises(ResponseFailed) as raised:
                await c.respond(s.model("responses"), "Hi", params=BACKGROUND)
        assert raised.value.code == ("cancelled" if trouble == "cancelled" else "server_error")
        assert raised.value.retryable


@pytest.fixture
async def two(db, stage_for):
    """Two engines on one database, the first with a short lease, and a scripted server."""
    async with open_engine(db, lease=SHORT) as first, open_engine(db) as second:

        def opened(*script, **options):
            return stage_for(*script, engine=second, **options)

        yield first, second, opened


async def test_after_a_crash_whoever_comes_waits_for_it_and_the_turn_goes_on(two):
    first, second, opened = two
    gate = Gate(Reply(Reason("why"), "Let me look.", Call("look")), "It is blue.")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "Look", tools=[look], params=BACKGROUND, key="k")
        gate.opened.set()
        again = await second.get("ada")
        result = await again.run(s.model("responses"), "Look", tools=[look], params=BACKGROUND, key="k")
        assert (result.output_text, result.replayed, result.turn) == ("It is blue.", False, 2)
        assert len(s.bodies) == 2
        kinds = await s.kinds(again)
        assert kinds.count("user") == 1
        assert "response.interrupted" not in kinds
        assert (await verify(second.store, "ada")).verified == 2
        replayed = await again.run(s.model("responses"), "Look", tools=[look], key="k")
        assert (replayed.replayed, replayed.items) == (True, result.items)


async def test_without_a_key_too(two):
    first, second, opened = two
    gate = Gate("Hello")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "Hi", params=BACKGROUND)
        gate.opened.set()
        async with (await second.get("ada")).stream(s.model("responses")) as stream:
            seen = [event async for event in stream]
        assert seen[-1].type == "response.completed"
        assert [event.item["content"][0]["text"] for event in seen if event.item] == ["Hello"]
        assert (await stream.result()).output_text == "Hello"
        assert len(s.bodies) == 1


async def test_other_input_waits_for_its_end(two):
    first, second, opened = two
    gate = Gate("One.", "Two.")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "1", params=BACKGROUND)
        gate.opened.set()
        again = await second.get("ada")
        assert (await again.run(s.model("responses"), "2")).output_text == "Two."
        assert await s.kinds(again) == [
            *("user", "response.requested", "response.started", "message", "response.completed"),
            *("user", "response.requested", "response.started", "message", "response.completed"),
        ]
        assert len(s.bodies[1]["input"]) == 3


async def test_its_calls_are_the_clients_where_their_tools_are_not_here(two):
    first, second, opened = two
    gate = Gate(Call("look"), "Two.")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "1", tools=[look], params=BACKGROUND)
        gate.opened.set()
        again = await second.get("ada")
        with pytest.raises(CallsOpen):
            await again.run(s.model("responses"), "2")
        assert (await again.run(s.model("responses"), "2", open_calls="seal")).output_text == "Two."


@pytest.mark.parametrize("trouble", ["gone", "failed", "cancelled"])
async def test_one_that_came_to_nothing_is_logged_as_failed(two, trouble):
    first, second, opened = two
    gate = Gate(Reply(status="failed"), "Again.")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "1", params=BACKGROUND)
        if trouble == "gone":
            s.server.kept.forget("resp_0001")
        elif trouble == "cancelled":
            await s.client.responses.cancel("resp_0001")
        gate.opened.set()
        again = await second.get("ada")
        with pytest.raises(ResponseFailed):
            await again.run(s.model("responses"))
        assert (await s.kinds(again))[-1] == "response.failed"


async def test_what_the_dead_worker_had_logged_is_not_logged_again(two):
    """Its stream had brought some items before it died."""
    first, second, opened = two
    more = anyio.Event()

    async def script(received):
        if received.number == 1:
            return Reply(Text("One, "), Text("two, "), Text("three."), delay=0.02)
        return "Again."

    async with opened(script) as s:
        c = await first.create(id="ada")
        model = s.model("responses")
        scope = anyio.CancelScope()

        async def work():
            with scope:
                async with c.stream(model, "Count", params=BACKGROUND) as stream:
                    async for event in stream:
                        if event.type == "response.output_item.done":
                            first.writer.append = refuse
                            model.cancel = refuse
                            more.set()

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await more.wait()
            scope.cancel()
        while (head := await first.reader.head(c.id)).lease is not None and head.lease.remaining > 0:
            await anyio.sleep(0.02)
        again = await second.get("ada")
        assert "message" in await s.kinds(again)
        result = await again.run(s.model("responses"))
        assert [entry.item["content"][0]["text"] async for entry in again.items(order="asc") if entry.seq > 2] == [
            *("One, ", "two, ", "three.")
        ]
        assert result.status == "completed"
        assert len(s.bodies) == 1


async def test_another_backend_cannot_be_asked_for_it(two):
    first, second, opened = two
    gate = Gate("Lost.", "Again.")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "1", params=BACKGROUND)
        gate.opened.set()
        again = await second.get("ada")
        elsewhere = Responses(s.client, "gpt-4o-mini", backend="elsewhere")
        assert (await again.run(elsewhere)).output_text == "Again."
        assert "response.interrupted" in await s.kinds(again)


async def test_who_gives_up_waiting_leaves_it_to_the_next(two):
    first, second, opened = two
    gate = Gate("One.", "Two.")
    async with opened(gate) as s:
        c = await first.create(id="ada")
        await dead(first, c, s.model("responses"), "1", params=BACKGROUND)
        again = await second.get("ada")
        with anyio.move_on_after(0.3):
            await again.run(s.model("responses"), "2")
        assert [visit.method for visit in s.server.visits if visit.method == "POST"] == []
        gate.opened.set()
        assert (await again.run(s.model("responses"), "2")).output_text == "Two."
