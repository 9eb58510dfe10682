"""Turns cancelled wherever they wait: the log is whole, nobody holds the lease, and the next turn goes on."""

import anyio
import anyio.lowlevel
import pytest

from log_checks import whole_log
from turnlog.engine.testing.cancelling import HOW, cancelled_at, everywhere
from turnlog.engine.testing.server import Call, Reason, Reply, Text

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}


async def script(received):
    """Answer the first request of a conversation with calls, the next with text."""
    given = received.body["input" if received.api == "responses" else "messages"]
    if any(one.get("type") == "function_call_output" or one.get("role") == "tool" for one in given):
        return Reply("Done.")
    if given[-1]["content"] == "Go":
        return Reply(
            Reason("Hm", content="Hm"), Text("Let me see."), Call("look", {"at": "a"}), Call("look", {"at": "b"})
        )
    return Reply("Next.")


async def look(at: str) -> str:
    await anyio.lowlevel.checkpoint()
    return f"seen {at}"


async def whole(s, c):
    """See to it that the log of a conversation is whole, holds its input at most once, and nobody holds its lease."""
    events = await whole_log(c)
    asked = [event.seq for event in events if event.item and event.item.get("content") == "Go"]
    assert len(asked) <= 1
    assert not s.engine._leases


def methods(c, model):
    async def respond():
        return await c.respond(model, "Go")

    async def run():
        return await c.run(model, "Go", tools=[look])

    async def stream():
        async with c.stream(model, "Go", tools=[look]) as stream:
            async for _ in stream:
                pass
            return await stream.result()

    return {"respond": respond, "run": run, "stream": stream}


@pytest.mark.parametrize("method", ["respond", "run", "stream"])
@pytest.mark.parametrize("how", HOW)
async def test_cancelled_anywhere(stage, api, how, method):
    async with stage(script) as s:
        model = s.model(api)
        c = await s.engine.create()

        def work():
            return methods(c, model)[method]()

        n = 0
        async for attempt in everywhere(work, how):
            n += 1
            assert attempt.error is None
            if attempt.cancelled:
                await whole(s, c) if method != "respond" else None
            elif attempt.reached:
                # It was shielded, and came to its end.
                assert attempt.result is not None
            if not attempt.reached:
                assert attempt.result.status == ("waiting" if method == "respond" else "completed")
            after = await c.run(model, "And?", tools=[look], open_calls="seal")
            assert after.output_text in ("Next.", "Done.")
            await whole(s, c)
            c = await s.engine.create()
        assert n > 10


@pytest.mark.parametrize("how", HOW)
async def test_an_append_cancelled_anywhere(engine, how):
    """An append is there as a whole or not at all, and under its key it is made once; so is its conversation."""
    number = 0

    async def work():
        c = await engine.create(key=f"create {number}")
        return await c.append("One", {"role": "assistant", "content": "Two"}, key="append")

    async for attempt in everywhere(work, how):
        assert attempt.error is None
        begun = [info.version async for info in engine.list(order="-created", limit=1)]
        assert not begun or begun[0] in (1, 3)
        appended = await work()
        c = await engine.create(key=f"create {number}")
        assert (appended.first, appended.last, c.version) == (2, 3, 3)
        assert [entry.item["content"] async for entry in c.items()] == ["One", "Two"]
        assert (await c.append("More")).first == 4
        await whole_log(c)
        number += 1
    assert number > (3 if engine.store.durable else 0), "memory never waits"


@pytest.mark.parametrize("how", HOW)
async def test_a_key_makes_up_for_it(stage, api, how):
    """Whatever was cancelled where: under its key it is done once."""
    async with stage(script) as s:
        model = s.model(api)
        step = 3 if s.engine.store.durable else 5
        c = await s.engine.create()
        reached, n = True, 1
        while reached:
            key = f"key {n}"
            attempt = await cancelled_at(n, lambda c=c, key=key: c.run(model, "Go", tools=[look], key=key), how)
            reached = attempt.reached
            result = await c.run(model, "Go", tools=[look], key=key)
            assert result.status == "completed"
            await whole(s, c)
            c = await s.engine.create()
            n += step


async def test_what_was_finished_is_kept(stage, api):
    """Items that were finished and half a text are in the log; calls that nobody heard of need no output."""
    text, unfinished, logged = {
        "responses": ("A long, ", ["message"], ["message", "function_call", "message", "function_call_output"]),
        # On Chat a message is finished when all is.
        "chat": ("First.A long", ["message", "function_call"], ["message"]),
    }[api]
    answer = Reply(Text("First."), Call("look", {"at": "a"}), Text("A long, long end"), delay=0.03)
    async with stage(answer, "Next.") as s:
        c = await s.engine.create()
        stream = await c.stream(s.model(api), "Go", tools=[look])
        async for event in stream:
            if event.delta == "A long, ":
                break
        await stream.aclose()
        events = [event async for event in c.events()]
        assert [event.item["type"] for event in events if event.item and "type" in event.item] == logged
        interrupted = next(event for event in events if event.type == "response.interrupted")
        assert interrupted.item["content"][0]["text"].startswith(text)
        assert [item["type"] for item in interrupted.data["items"]] == unfinished
        assert (await c.run(s.model(api), "And?", tools=[look])).output_text == "Next."
        assert "A long, " in str(s.bodies[1])


async def test_what_a_tool_returned_is_kept(stage, api):
    """A tool has returned when the turn is cancelled: its output is logged, not a seal."""
    other = anyio.Event()

    async def fast() -> str:
        other.set()
        return "done"

    async def slow() -> str:
        await anyio.sleep_forever()

    async with stage(Reply(Call("fast", id="call_f"), Call("slow", id="call_s")), "Next.") as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.run(s.model(api), "Go", tools=[fast, slow]))
            await other.wait()
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        outputs = {entry.item["call_id"]: entry.item["output"] async for entry in c.items() if "output" in entry.item}
        assert outputs["call_f"] == "done"
        assert "unknown" in outputs["call_s"]
        assert (await c.run(s.model(api), "And?", tools=[fast, slow])).output_text == "Next."


async def test_a_turn_that_others_wait_for_is_cancelled(stage, api):
    asked = anyio.Event()

    async def slow(received):
        if received.number == 1:
            asked.set()
            await anyio.sleep_forever()
        return "Next."

    async with stage(slow) as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group, anyio.create_task_group() as first:
            first.start_soon(lambda: c.respond(s.model(api), "1"))
            await asked.wait()
            group.start_soon(lambda: c.respond(s.model(api), "2", when_busy="wait"))
            await anyio.sleep(0.03)
            first.cancel_scope.cancel()
        assert [call.status async for call in c.responses()] == ["interrupted", "completed"]


async def test_a_waiting_turn_is_cancelled(stage, api):
    asked, let_go = anyio.Event(), anyio.Event()

    async def slow(received):
        asked.set()
        await let_go.wait()
        return "Next."

    async with stage(slow) as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.respond(s.model(api), "1"))
            await asked.wait()
            with anyio.move_on_after(0.03) as scope:
                await c.respond(s.model(api), "2", when_busy="wait")
            assert scope.cancelled_caught
            let_go.set()
        assert [entry.item["role"] async for entry in c.items()] == ["user", "assistant"]
