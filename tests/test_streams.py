"""Streams: what they show and when, who may read and close them where, and what becomes of the turn."""

import asyncio
import contextlib
import gc

import anyio
import pytest

from turnlog import ConversationBusy, Invalid, NotFound, ResponseFailed, StoreError, open_engine
from turnlog.engine.errors import CallsOpen, VersionConflict
from turnlog.engine.log import Query
from turnlog.engine.testing.server import Call, Fail, Hang, Reason, Refuse, Reply, Text

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}
LONG = Reply("A rather long answer, in many pieces.", delay=0.02)
ALL_KINDS = Reply(Reason("Hm"), Text("Well, I see."), Refuse("No."), Call("look", {"at": "a"}, id="call_a"))


async def look(at: str = "here") -> str:
    return f"seen {at}"


async def settled(c):
    """Wait until the conversation's turn is over."""
    while (await c._engine.store.read(c.id)).head.lease is not None:
        await anyio.sleep(0.01)
    await c.refresh()


async def statuses(c):
    return [call.status async for call in c.responses()]


# -- what they show


async def watched(s, api):
    """Stream a turn of two responses; return the conversation, the events, and the result."""
    c = await s.engine.create()
    async with c.stream(s.model(api), "Look", tools=[look]) as stream:
        return c, [event async for event in stream], await stream.result()


def types(events):
    return [event.type.removeprefix("response.") for event in events]


async def test_events_of_responses_in_order(stage):
    async with stage(ALL_KINDS, "Done.") as s:
        _, events, result = await watched(s, "responses")
        assert [name for name in types(events) if "part" not in name and not name.endswith("text.done")] == [
            "created", "in_progress",
            "output_item.added", "reasoning_summary_text.delta",
            # Reasoning is passed on with what it led to.
            "output_item.added", "output_text.delta", "output_text.delta", "output_item.done", "output_item.done",
            "output_item.added", "refusal.delta", "refusal.done", "output_item.done",
            "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
            "function_call_arguments.done", "output_item.done", "completed",
            "turnlog.call.started", "turnlog.call.output",
            "created", "in_progress", "output_item.added", "output_text.delta", "output_item.done", "completed",
        ]  # fmt: skip
        assert result.output_text == "Done."


async def test_events_of_responses_carry_what_came(stage):
    async with stage(ALL_KINDS, "Done.") as s:
        _, events, _ = await watched(s, "responses")
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == "Well, I see.Done."
        created = next(event for event in events if event.type == "response.created")
        assert created.raw["response"]["id"] == "resp_0001"
        assert events[-1].raw["response"]["usage"]


async def test_events_of_responses_carry_what_was_logged(stage):
    async with stage(ALL_KINDS, "Done.") as s:
        c, events, result = await watched(s, "responses")
        done = [event for event in events if event.item is not None]
        entries = {entry.seq: entry.item async for entry in c.items()}
        assert [event.item for event in done] == [entries[event.seq] for event in done] == list(result.items)
        assert [event.call_id for event in done] == [None, None, None, "call_a", "call_a", None]
        assert sorted({event.response for event in events}) == [call.seq async for call in c.responses()]


async def test_events_of_chat_in_order(stage):
    answer = Reply(Reason(content="Hm"), Text("Well, I see."), Call("look", {"at": "a"}, id="call_a"))
    async with stage(answer, "Done.") as s:
        _, events, result = await watched(s, "chat")
        assert types(events) == [
            "created", "output_item.added", "reasoning_text.delta", "output_item.added", "output_text.delta",
            "output_text.delta", "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
            *["output_item.done"] * 3, "completed", "turnlog.call.started", "turnlog.call.output",
            "created", "output_item.added", "output_text.delta", "output_item.done", "completed",
        ]  # fmt: skip
        assert [event.item for event in events if event.item is not None] == list(result.items)
        assert [event.raw["output_index"] for event in events[1:12]] == [0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 2]


async def test_items_are_durable_when_they_are_passed_on(stage, api):
    answer = Reply(Reason(), "One.", "Two.", Call("look"))
    async with stage(answer, "Done.") as s:
        c = await s.engine.create()
        seen = 0
        async with c.stream(s.model(api), "Look", tools=[look]) as stream:
            async for event in stream:
                if event.seq is None:
                    continue
                found = await s.engine.store.read(c.id, Query(after=event.seq - 1, limit=1))
                (record,) = found.records[0]
                assert record.item is not None
                assert event.item is None or event.item == (await anext(c.items(after=event.seq - 1).__aiter__())).item
                seen += 1
        assert seen == (7 if api == "responses" else 5)


async def test_a_reader_that_lags(stage, api):
    """Nothing waits for it, and nothing is lost."""
    async with stage(Reply("x" * 800), "Next.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go") as stream:
            await settled(c)
            assert (await c.respond(s.model(api), "And?")).output_text == "Next."
            texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            assert len(texts) == 100
            assert (await stream.result()).output_text == "x" * 800


# -- refused on opening


async def test_refusals_come_on_opening(stage, api, db):
    async with stage(Call("ask"), "x") as s:
        c = await s.engine.create()
        refused = [
            (Invalid, {"params": {"model": "x"}}),
            (Invalid, {"tools": [{"name": "x"}]}),
            (VersionConflict, {"expected": 99}),
        ]
        for error, options in refused:
            with pytest.raises(error):
                await c.stream(s.model(api), "Hi", **options)
            with pytest.raises(error):
                async with c.stream(s.model(api), "Hi", **options):
                    pytest.fail("it was opened")
        for rounds in (0, "2"):
            with pytest.raises(Invalid):
                c.stream(s.model(api), "Hi", max_rounds=rounds)
        assert (await c.refresh()).version == 1
        await c.run(s.model(api), "Ask", tools=[SCHEMA])
        with pytest.raises(CallsOpen):
            await c.stream(s.model(api), "Hi")
        with pytest.raises(NotFound):
            await (await s.engine.get("other")).stream(s.model(api), "Hi")


async def test_what_is_opened_is_durable(stage, api):
    async with stage(LONG) as s:
        c = await s.engine.create()
        stream = await c.stream(s.model(api), "Go")
        assert await s.kinds(c) == ["user", "response.requested"]
        with pytest.raises(ConversationBusy):
            await c.respond(s.model(api), "Me too")
        await stream.aclose()


# -- who reads, and where


async def test_result_after_part_of_it(stage, api):
    async with stage("A rather long answer.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go") as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
            result = await stream.result()
            assert result.output_text == "A rather long answer."
            assert await stream.result() == result
            assert [event async for event in stream] == []
        assert await statuses(c) == ["completed"]


async def test_opened_read_and_closed_in_three_tasks(stage, api):
    async with stage("One two three four.", LONG, "Last.") as s:
        c = await s.engine.create()
        for asked in range(2):

            async def opening():
                return await c.stream(s.model(api), "Go")

            stream = await asyncio.create_task(opening())
            seen = []

            async def read(stream=stream, seen=seen):
                async for event in stream:
                    seen.append(event)

            reader = asyncio.create_task(read())
            if asked == 0:
                await reader
                await asyncio.create_task(stream.aclose())
            else:
                while not seen:
                    await anyio.sleep(0.01)
                await asyncio.create_task(stream.aclose())
                with pytest.raises(ResponseFailed) as raised:
                    await reader
                assert (raised.value.code, raised.value.retryable) == ("interrupted", True)
                assert raised.value.result.reason == "interrupted"
        assert await statuses(c) == ["completed", "interrupted"]
        assert (await c.respond(s.model(api), "And?")).output_text == "Last."


async def test_two_readers_share_it(stage, api):
    async with stage(Reply("One two three four.", delay=0.001)) as s:
        c = await s.engine.create()
        seen = []

        async def read(stream):
            seen.extend([event.delta async for event in stream])

        async with c.stream(s.model(api), "Go") as stream, anyio.create_task_group() as group:
            group.start_soon(read, stream)
            group.start_soon(read, stream)
            group.start_soon(stream.result)
        assert await statuses(c) == ["completed"]


async def test_anext_and_aiter(stage, api):
    async with stage("Hi.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go") as stream:
            assert aiter(stream) is stream
            assert (await anext(stream)).type == "response.created"
            while await anext(stream, None) is not None:
                pass
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


# -- leaving


@pytest.mark.parametrize("how", ["break", "raise", "aclose"])
async def test_leaving_early_cancels(stage, api, how):
    async with stage(LONG, "Next.") as s:
        c = await s.engine.create()
        try:
            async with c.stream(s.model(api), "Go") as stream:
                async for event in stream:
                    if event.delta:
                        if how == "raise":
                            raise LookupError("in the reader")
                        if how == "aclose":
                            await stream.aclose()
                        break
        except LookupError:
            assert how == "raise"
        # On leaving it is over: the end is in the log, the lease is given up.
        kinds = await s.kinds(c)
        assert kinds[-1] == "response.interrupted"
        (last,) = [event async for event in c.events(after=len(kinds))]
        assert last.data["cause"] == "left"
        assert last.item["content"][0]["text"] == event.delta
        (info,) = [info async for info in s.engine.list()]
        assert not info.busy
        with pytest.raises(ResponseFailed, match="closed before its end"):
            await stream.result()
        await stream.aclose()
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."
        # The half that was said is part of the history.
        assert event.delta in str(s.bodies[1])


async def test_leaving_early_lets_it_finish(stage, api):
    async with stage(LONG, "Next.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go", on_leave="finish") as stream:
            async for event in stream:
                if event.delta:
                    break
        assert (await s.kinds(c))[-1] != "response.completed"
        await settled(c)
        assert await statuses(c) == ["completed"]
        assert (await stream.result()).output_text == LONG.parts[0].text
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."


@pytest.mark.parametrize("watched", [False, True])
async def test_closing_the_engine_waits_for_what_is_to_finish(stage_for, db, watched):
    """Whether its reader has left or not; a turn whose reader matters is cancelled at once."""
    async with open_engine(db) as watching, stage_for(LONG, Hang(30), engine=watching) as s:
        async with open_engine(db) as engine:
            c, other = await engine.create(), await engine.create()
            stream = await c.stream(s.model("responses"), "Go", on_leave="finish")
            async for event in stream:
                if event.delta:
                    break
            if not watched:
                await stream.aclose()
            doomed = await other.stream(s.model("responses"), "Go")
        assert (await stream.result()).output_text == LONG.parts[0].text
        assert await statuses(await watching.get(c.id)) == ["completed"]
        assert await statuses(await watching.get(other.id)) == ["interrupted"]
        await doomed.aclose()


@pytest.mark.parametrize("left", ["late", "by an exception"])
async def test_closing_the_engine_waits_no_longer_than_it_was_told(stage_for, db, left):
    async with open_engine(db) as watching, stage_for(Hang(30), engine=watching) as s:
        with contextlib.suppress(LookupError):
            async with open_engine(db, grace=0.05 if left == "late" else 60) as engine:
                c = await engine.create()
                stream = await c.stream(s.model("responses"), "Go", on_leave="finish")
                await stream.aclose()
                if left != "late":
                    raise LookupError
        assert await statuses(await watching.get(c.id)) == ["interrupted"]


async def test_what_is_no_grace():
    for wrong in (-1, "soon", None, True):
        with pytest.raises(Invalid, match="grace"):
            open_engine(":memory:", grace=wrong)


async def test_leaving_while_a_tool_runs(stage, api):
    running, stopped = anyio.Event(), []

    async def slow() -> str:
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(1)

    async with stage(Call("slow"), "Next.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go", tools=[slow]):
            await running.wait()
        assert stopped == [1]
        assert (await s.kinds(c))[-2:] == ["response.interrupted", "function_call_output"]
        assert (await c.run(s.model(api), "Go on", tools=[slow])).output_text == "Next."


async def test_leaving_at_once(stage, api):
    async with stage(LONG, LONG, "Next.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go"):
            pass
        stream = await c.stream(s.model(api), "Go")
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(stream.aclose)
        assert await statuses(c) == ["interrupted", "interrupted"]
        assert (await c.respond(s.model(api), "Go on")).output_text in (LONG.parts[0].text, "Next.")


async def test_a_reader_that_is_cancelled(stage, api):
    async with stage(LONG, "Next.") as s:
        c = await s.engine.create()

        async def read():
            async with c.stream(s.model(api), "Go") as stream:
                async for event in stream:
                    if event.delta:
                        group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
        assert await statuses(c) == ["interrupted"]
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."


@pytest.mark.parametrize("on_leave", ["cancel", "finish"])
async def test_a_stream_that_is_dropped(stage, api, on_leave):
    async with stage(LONG, "Next.") as s:
        c = await s.engine.create()

        async def drop():
            stream = await c.stream(s.model(api), "Go", on_leave=on_leave)
            async for event in stream:
                if event.delta:
                    return

        if on_leave == "cancel":
            with pytest.warns(ResourceWarning, match="dropped without aclose"):
                await drop()
                gc.collect()
        else:
            await drop()
            gc.collect()
        await settled(c)
        assert await statuses(c) == [{"cancel": "interrupted", "finish": "completed"}[on_leave]]
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."


async def test_a_stream_that_is_dropped_after_its_end(stage, api):
    async with stage("Hi.") as s:
        c = await s.engine.create()
        stream = await c.stream(s.model(api), "Go")
        await stream.result()
        del stream
        gc.collect()


# -- failures


async def test_a_failure_comes_after_the_last_event(stage, api):
    async with stage(Fail(500), "Next.") as s:
        c = await s.engine.create()
        stream = await c.stream(s.model(api), "Go")
        for _ in range(2):
            with pytest.raises(ResponseFailed) as raised:
                async for _ in stream:
                    pass
        assert raised.value.status_code == 500
        assert type(raised.value.__cause__).__name__ == "InternalServerError"
        await stream.aclose()
        assert (await c.respond(s.model(api))).output_text == "Next."


# -- the engine


@pytest.mark.parametrize("on_leave", ["cancel", "finish"])
async def test_the_engine_is_closed_meanwhile(stage_for, api, db, on_leave):
    outcomes = []

    async def read(stream):
        try:
            outcomes.append(await stream.result())
        except ResponseFailed as failed:
            outcomes.append(failed)

    async with open_engine(db) as again, stage_for(LONG, "Next.", engine=again) as s:
        async with anyio.create_task_group() as group, open_engine(db, grace=0) as engine:
            c = await engine.create()
            stream = await c.stream(s.model(api), "Go", on_leave=on_leave)
            group.start_soon(read, stream)
            while not s.bodies:
                await anyio.sleep(0.01)
        assert outcomes[0].code == "interrupted"
        await stream.aclose()
        with pytest.raises(StoreError, match="closed"):
            await c.append("Hi")
        with pytest.raises(StoreError, match="closed"):
            await c.stream(s.model(api), "Go")
        c = await again.get(c.id)
        assert await statuses(c) == ["interrupted"]
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."


async def test_the_engine_is_closed_before_the_turn_has_begun(stage_for, api, db):
    async with open_engine(db) as again, stage_for("Next.", "Next.", engine=again) as s:
        async with open_engine(db) as engine:
            c = await engine.create()
            stream = await c.stream(s.model(api), "Go")
        with pytest.raises(ResponseFailed):
            await stream.result()
        await stream.aclose()
        c = await again.get(c.id)
        assert await statuses(c) == ["interrupted"]
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."


async def test_the_engine_is_entered_and_left_in_different_tasks(stage_for, api, db):
    """As test fixtures and application servers do."""
    opened = open_engine(db)
    engine = await asyncio.create_task(opened.__aenter__())
    async with open_engine(db) as again, stage_for("Hi.", LONG, engine=again) as s:
        c = await engine.create()
        async with asyncio.timeout(5):
            async with c.stream(s.model(api), "Go") as stream:
                assert (await stream.result()).output_text == "Hi."
            stream = await asyncio.create_task(_open(c, s.model(api)))
        await asyncio.create_task(opened.__aexit__(None, None, None))
        with pytest.raises(ResponseFailed):
            await stream.result()
        assert await statuses(await again.get(c.id)) == ["completed", "interrupted"]
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("turnlog")]
    assert left == []


async def _open(c, model):
    return await c.stream(model, "Go")


async def test_a_stream_is_read_in_its_own_loop(stage, api):
    async with stage("Hi.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go") as stream:

            def elsewhere():
                async def read():
                    with pytest.raises(Invalid, match="another event loop"):
                        await anext(stream)
                    with pytest.raises(Invalid, match="another event loop"):
                        await c.append("Hi")

                asyncio.run(read())

            await asyncio.to_thread(elsewhere)
            await stream.result()
