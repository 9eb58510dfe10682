"""Keys: what a caller gets who comes back, on whatever worker, whatever became of the first attempt."""

import anyio
import pytest

from turnlog import ConversationBusy, ResponseFailed, open_engine
from turnlog.engine.errors import CallsOpen, KeyReused, VersionConflict
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}
COUNTED = ("status", "output_text", "items", "usage", "turn", "version", "reason", "response_id", "open_calls")


async def look(at: str = "here") -> str:
    return f"seen {at}"


def same(one, other):
    for name in COUNTED:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (list(mine) == list(theirs)) if name in ("items", "open_calls") else mine == theirs, name


async def twice(s, api, *, tools=(), other=None, before=None, **options):
    """Run a turn under a key, and again under it, perhaps with other tools; return the first result."""
    c = await s.engine.create()
    if before is not None:
        await c.append(*before)
    first = await c.run(s.model(api), "Go", tools=tools, key="k", **options)
    asked = len(s.bodies)
    assert not first.replayed
    for again in (tools, tools if other is None else other):
        second = await c.run(s.model(api), "Go", tools=again, key="k", **options)
        assert second.replayed
        assert second.conversation is c
        same(first, second)
    third = await (await s.engine.get(c.id)).respond(s.model(api), "Go", key="k")
    same(first, third)
    assert len(s.bodies) == asked
    assert (await c.refresh()).version == first.version
    return first


# -- done


async def test_done(stage, api):
    async with stage(Reply(Reason(content="hm"), "Done.")) as s:
        await twice(s, api)


async def test_done_with_tools(stage, api):
    calls = Reply(Text("Let me see."), Call("look", {"at": "a"}), Call("look", {"at": "b"}), Call("gone"))
    async with stage(calls, Call("look"), "Done.") as s:
        first = await twice(s, api, tools=[look], other=[])
        assert first.usage.requests == 3


async def test_done_in_the_middle_of_a_run_of_input(stage, api):
    async with stage("Done.") as s:
        first = await twice(s, api, before=["One thing first."])
        assert first.turn == 2


async def test_waiting(stage, api):
    async with stage(Reply(Call("ask", id="call_a"), Call("look", id="call_b"))) as s:
        first = await twice(s, api, tools=[look, SCHEMA], other=[SCHEMA])
        assert [call.call_id for call in first.open_calls] == ["call_a"]


async def test_waiting_and_answered_since(stage, api):
    """The outcome stays what it was, whatever came later."""
    async with stage(Call("ask", id="call_a"), "Thanks.", "And on.") as s:
        c = await s.engine.create()
        first = await c.run(s.model(api), "Go", tools=[SCHEMA], key="k")
        output = {"type": "function_call_output", "call_id": "call_a", "output": "x"}
        await c.append(output, "and more")
        same(first, await c.run(s.model(api), "Go", tools=[SCHEMA], key="k"))
        await c.run(s.model(api), tools=[SCHEMA], key="other")
        same(first, await c.run(s.model(api), "Go", tools=[SCHEMA], key="k"))


async def test_waiting_and_sealed_since(stage, api):
    async with stage(Call("ask", id="call_a"), "Without.") as s:
        c = await s.engine.create()
        first = await c.run(s.model(api), "Go", tools=[SCHEMA], key="k")
        await c.run(s.model(api), "Go on", tools=[SCHEMA], open_calls="seal")
        same(first, await c.run(s.model(api), "Go", tools=[SCHEMA], key="k"))


async def test_incomplete(stage, api):
    async with stage(Reply("Half", Call("look"), status="incomplete")) as s:
        first = await twice(s, api, tools=[look])
        assert (first.status, first.reason) == ("incomplete", "max_output_tokens")


async def test_max_rounds(stage, api):
    async with stage(*[Reply("Again.", Call("look"), Call("ask"))] * 2) as s:
        first = await twice(s, api, tools=[look, SCHEMA], max_rounds=1)
        assert (first.status, first.reason) == ("incomplete", "max_rounds")


async def test_an_answer_to_a_call(stage, api):
    async with stage(Call("ask", id="call_a"), "Thanks.") as s:
        c = await s.engine.create()
        asked = await c.run(s.model(api), "Go", tools=[SCHEMA])
        output = {"type": "function_call_output", "call_id": "call_a", "output": "x"}
        first = await c.run(s.model(api), output, tools=[SCHEMA], key="k")
        assert first.turn == asked.turn
        same(first, await c.run(s.model(api), output, tools=[SCHEMA], key="k"))


async def test_no_input(stage, api):
    async with stage("Done.", "Other.") as s:
        c = await s.engine.create()
        await c.append("Hi")
        first = await c.respond(s.model(api), key="k")
        same(first, await c.respond(s.model(api), key="k"))
        assert (await c.respond(s.model(api), key="l")).output_text == "Other."


async def test_other_turns_in_between(stage, api):
    async with stage("one", "two", "three") as s:
        c = await s.engine.create()
        results = [await c.respond(s.model(api), text, key=text) for text in "abc"]
        for text, result in zip("abc", results, strict=True):
            same(result, await c.respond(s.model(api), text, key=text))


async def test_a_stream_shows_what_there_was(stage, api):
    calls = Reply(Text("Let me see."), Call("look", {"at": "a"}))
    async with stage(calls, "Done.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go", tools=[look], key="k") as stream:
            shown = [event async for event in stream]
            first = await stream.result()
        async with c.stream(s.model(api), "Go", tools=[look], key="k") as stream:
            again = [event async for event in stream]
            same(first, await stream.result())
        same(first, await c.run(s.model(api), "Go", tools=[look], key="k"))
    kinds = ("response.output_item.done", "turnlog.call.output", "response.completed")
    for events in (shown, again):
        assert [event.type for event in events if event.type in kinds] == [
            *[kinds[0]] * 2, kinds[2], kinds[1], kinds[0], kinds[2],
        ]  # fmt: skip
    for name in ("item", "seq", "call_id", "response"):
        assert [getattr(event, name) for event in shown if event.item] == [
            getattr(event, name) for event in again if event.item
        ]
    texts = ["".join(event.delta for event in events if event.type.endswith("text.delta")) for events in (shown, again)]
    assert texts == ["Let me see.Done."] * 2


# -- other content


async def test_other_input_under_a_key(stage, api):
    async with stage("one", "two") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Hi", key="k")
        for call in (
            c.respond(s.model(api), "Ho", key="k"),
            c.respond(s.model(api), key="k"),
            c.run(s.model(api), ["Hi", "Hi"], key="k"),
            c.append("Ho", key="k"),
        ):
            with pytest.raises(KeyReused) as raised:
                await call
            assert raised.value.key == "k"
        with pytest.raises(KeyReused):
            await c.stream(s.model(api), "Ho", key="k")
        d = await s.engine.create()
        assert (await d.respond(s.model(api), "Ho", key="k")).output_text == "two"


async def test_only_the_items_are_compared(stage, api):
    async with stage("one") as s:
        c = await s.engine.create()
        first = await c.respond(s.model(api), "Hi", key="k", instructions="Be brief.")
        item = {"content": "Hi", "role": "user"}
        same(first, await c.respond(s.model(api, "gpt-4.1"), item, key="k", params={"temperature": 0}))


async def test_keys_of_appends_and_of_turns(stage, api):
    async with stage("one") as s:
        c = await s.engine.create()
        appended = await c.append("Hi", key="k")
        result = await c.respond(s.model(api), "Hi", key="k")
        assert not result.replayed
        assert [entry.seq async for entry in c.items()] == [2, 5]
        same(result, await c.respond(s.model(api), "Hi", key="k"))
        again = await c.append("Hi", key="k")
        assert (again.first, again.last, again.version, again.replayed) == (2, 2, appended.version, True)
        other = await c.append("Ho", key="l")
        assert not other.replayed
        assert (await c.append("Ho", key="l", expected=1)).replayed
        with pytest.raises(KeyReused):
            await c.respond(s.model(api), "Hi", key="l")


async def test_appends_at_once_under_one_key(engine):
    c = await engine.create()
    made = []

    async def append():
        # A system message makes it read what is there first.
        made.append(await c.append({"role": "system", "content": "Be brief."}, key="k"))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(append)
    assert [one.replayed for one in made].count(False) == 1
    assert (await c.refresh()).version == 2


# -- running


class Gate:
    def __init__(self, *answers):
        self.asked = anyio.Event()
        self.open = anyio.Event()
        self.answers = list(answers)

    async def __call__(self, received):
        answer = self.answers.pop(0)
        self.asked.set()
        await self.open.wait()
        return answer


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_running_is_joined(stage_for, api, db, elsewhere):
    gate = Gate(Call("look"), "Done.")
    async with open_engine(db) as engine, open_engine(db) as another:
        other = another if elsewhere else engine
        async with stage_for(gate, engine=engine) as s:
            c = await engine.create()
            d = await other.get(c.id)
            results = []

            async def ask(conversation, **options):
                results.append(await conversation.run(s.model(api), "Go", tools=[look], key="k", **options))

            async def watch():
                async with d.stream(s.model(api), "Go", tools=[look], key="k") as stream:
                    results.append(await stream.result())

            async with anyio.create_task_group() as group:
                group.start_soon(ask, c)
                await gate.asked.wait()
                group.start_soon(ask, d)
                group.start_soon(lambda: ask(d, when_busy="wait", expected=1))
                group.start_soon(watch)
                await anyio.sleep(0.05)
                assert results == []
                gate.open.set()
            assert sorted(result.replayed for result in results) == [False, True, True, True]
            for result in results:
                same(results[0], result)
            assert len(s.bodies) == 2


@pytest.mark.parametrize("when_busy", ["raise", "wait"])
async def test_the_first_of_many_answers_for_all(stage_for, api, db, when_busy):
    """All at once, on two workers: nobody is refused, and the model is asked once."""
    async with open_engine(db) as engine, open_engine(db) as another:
        async with stage_for(Call("look"), "Done.", engine=engine) as s:
            c = await engine.create()
            results = []

            async def ask(owner):
                conversation = await owner.get(c.id)
                options = {"tools": [look], "key": "k", "when_busy": when_busy, "expected": 1}
                results.append(await conversation.run(s.model(api), "Go", **options))

            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(ask, (engine, another)[number % 2])
            assert [result.replayed for result in results].count(False) == 1
            for result in results:
                same(results[0], result)
            assert len(s.bodies) == 2


async def test_another_turn_is_not_joined(stage, api):
    gate = Gate("one", "two")
    async with stage(gate) as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.respond(s.model(api), "1", key="one"))
            await gate.asked.wait()
            with pytest.raises(ConversationBusy):
                await c.respond(s.model(api), "2", key="two")
            with pytest.raises(KeyReused):
                await c.respond(s.model(api), "2", key="one")
            gate.open.set()
        with pytest.raises(VersionConflict):
            await c.respond(s.model(api), "2", key="two", expected=1)
        assert (await c.respond(s.model(api), "2", key="two")).output_text == "two"


async def test_whoever_joins_a_turn_that_fails_tries_again(stage, api):
    gate = Gate(Fail(500), "Done.")
    async with stage(gate) as s:
        c = await s.engine.create()
        outcomes = []

        async def ask():
            try:
                outcomes.append(await c.respond(s.model(api), "Go", key="k"))
            except ResponseFailed:
                outcomes.append("failed")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await gate.asked.wait()
            group.start_soon(ask)
            await anyio.sleep(0.03)
            gate.open.set()
        assert outcomes[0] == "failed"
        assert (outcomes[1].output_text, outcomes[1].replayed) == ("Done.", False)
        assert [entry.item["role"] async for entry in c.items()] == ["user", "assistant"]


# -- again


async def test_failed_is_tried_again_without_the_input(stage, api):
    async with stage(Fail(500), Fail(429), "Done.") as s:
        c = await s.engine.create()
        for _ in range(2):
            with pytest.raises(ResponseFailed):
                await c.respond(s.model(api), "Go", key="k", expected=1)
        # What the caller expected was so when the input was appended.
        result = await c.respond(s.model(api), "Go", key="k", expected=1)
        assert (result.output_text, result.replayed, result.turn) == ("Done.", False, 2)
        assert [entry.item["role"] async for entry in c.items()] == ["user", "assistant"]
        same(result, await c.respond(s.model(api), "Go", key="k", expected=1))
        assert result.usage.requests == 1


async def test_failed_in_the_second_round(stage, api):
    calls = Call("look", id="call_a")
    async with stage(calls, Fail(500), "Done.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await c.run(s.model(api), "Go", tools=[look], key="k")
        result = await c.run(s.model(api), "Go", tools=[look], key="k")
        assert [item["type"] for item in result.items] == ["message"]
        same(result, await c.run(s.model(api), "Go", tools=[look], key="k"))


async def test_two_workers_try_a_failed_turn_again(stage_for, api, db):
    async with open_engine(db) as engine, open_engine(db) as another:
        async with stage_for(Fail(500), "Done.", engine=engine) as s:
            c = await engine.create()
            with pytest.raises(ResponseFailed):
                await c.respond(s.model(api), "Go", key="k")
            results = []

            async def ask(owner, when_busy):
                conversation = await owner.get(c.id)
                results.append(await conversation.respond(s.model(api), "Go", key="k", when_busy=when_busy))

            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(ask, (engine, another)[number % 2], ("raise", "wait")[number // 3])
            assert [result.replayed for result in results].count(False) == 1
            for result in results:
                same(results[0], result)
            assert len(s.bodies) == 2


async def test_cancelled_is_tried_again(stage, api):
    gate = Gate("Never read.", "Done.")
    async with stage(gate) as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.respond(s.model(api), "Go", key="k"))
            await gate.asked.wait()
            group.cancel_scope.cancel()
        gate.open.set()
        result = await c.respond(s.model(api), "Go", key="k")
        assert (result.output_text, result.replayed) == ("Done.", False)
        assert [call.status async for call in c.responses()] == ["interrupted", "completed"]
        same(result, await c.respond(s.model(api), "Go", key="k"))


async def test_open_calls_of_another_turn_are_still_refused(stage, api):
    async with stage(Call("ask"), "x") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Go", tools=[SCHEMA], key="k")
        with pytest.raises(CallsOpen):
            await c.run(s.model(api), "Go on", tools=[SCHEMA], key="l")
        result = await c.run(s.model(api), "Go on", tools=[SCHEMA], key="l", open_calls="seal")
        assert result.output_text == "x"


async def test_an_answer_without_the_key_counts(stage, api):
    """The input failed, was answered by a call without the key, and then its sender tries again."""
    async with stage(Fail(500), Call("look"), "Done.", "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await c.run(s.model(api), "Go", tools=[look], key="k")
        first = await c.run(s.model(api), tools=[look])
        again = await c.run(s.model(api), "Go", tools=[look], key="k")
        assert (again.output_text, again.replayed, again.turn) == ("Done.", True, first.turn)
        assert [item["type"] for item in again.items] == [item["type"] for item in first.items]
        await c.run(s.model(api))  # answered once more, on purpose: the first answer stands for the key
        assert (await c.run(s.model(api), "Go", tools=[look], key="k")).output_text == "Done."
