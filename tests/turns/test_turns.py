"""A turn's life: what it returns, what it writes, in how many flushes, and what others may do meanwhile."""

from datetime import UTC, datetime

import anyio
import pytest

from turnlog import BudgetExceeded, Conversation, ConversationBusy, Invalid, NotFound, open_engine
from turnlog.engine.errors import AlreadyAnswered, CallsOpen, UnknownModel, VersionConflict
from turnlog.engine.ids import NO_STREAM
from turnlog.engine.log import Head
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Item, Reason, Reply, Text
from turnlog.engine.turns.outcome import TOO_MANY, UNANSWERED
from turnlog.engine.window.budget import Budget

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}


async def look(at: str = "here") -> str:
    return f"seen {at}"


def output(call_id, text="given"):
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def given(body):
    return [one.get("type", one.get("role")) for one in body["input" if "input" in body else "messages"]]


class Gate:
    """Holds an answer back until it is opened."""

    def __init__(self, *answers):
        self.asked = anyio.Event()
        self.open = anyio.Event()
        self.answers = list(answers)

    async def __call__(self, received):
        answer = self.answers.pop(0)
        self.asked.set()
        await self.open.wait()
        return answer


# -- what comes of it


async def test_a_run_with_tools(stage, api):
    calls = Reply(Call("look", {"at": "a"}, id="call_a"), Call("look", {"at": "b"}, id="call_b"))
    async with stage(calls, Call("look", id="call_c"), "All seen.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Look", tools=[look])
        assert (result.status, result.output_text, result.reason) == ("completed", "All seen.", None)
        assert [item["type"] for item in result.items] == [
            *["function_call"] * 2, *["function_call_output"] * 2, "function_call", "function_call_output", "message",
        ]  # fmt: skip
        assert {item["output"] for item in result.items if "output" in item} == {"seen a", "seen b", "seen here"}
        assert (result.usage.requests, result.turn, result.version) == (3, 2, c.version)
        assert [call.turn async for call in c.responses()] == [2, 2, 2]
        assert await s.kinds(c) == [
            "user", "response.requested", "response.started", "function_call", "function_call", "response.completed",
            "call.started", "call.started", "function_call_output", "function_call_output",
            "response.requested", "response.started", "function_call", "response.completed", "call.started",
            "function_call_output",
            "response.requested", "response.started", "message", "response.completed",
        ]  # fmt: skip


async def test_respond_runs_no_tools(stage, api):
    async with stage(Call("look", id="call_a")) as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Look", tools=[look])
        assert (result.status, [call.call_id for call in result.open_calls]) == ("waiting", ["call_a"])
        assert [call.state for call in await c.open_calls()] == ["waiting"]


async def test_calls_that_the_client_answers_beside_those_that_are_run(stage, api):
    calls = Reply(Call("ask", id="call_a"), Call("look", id="call_b"), Call("ask", id="call_c"))
    async with stage(calls, "Done.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Look and ask", tools=[look, SCHEMA])
        assert result.status == "waiting"
        assert [call.call_id for call in result.open_calls] == ["call_a", "call_c"]
        assert [item.get("output") for item in result.items][-1] == "seen here"
        assert result.version == c.version
        (info,) = [info async for info in s.engine.list()]
        assert not info.busy
        await c.append(output("call_a"))
        second = await c.run(s.model(api), output("call_c"), tools=[look, SCHEMA])
        assert (second.status, second.output_text, second.turn) == ("completed", "Done.", result.turn)


async def test_the_calls_of_the_last_round_are_sealed(stage, api):
    loop = Reply("Again.", Call("look"))
    async with stage(loop, loop, "Enough.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Look", tools=[look], max_rounds=2)
        assert (result.status, result.reason, result.open_calls) == ("incomplete", "max_rounds", [])
        assert (result.usage.requests, result.version, result.output_text) == (2, c.version, "Again.")
        entries = [entry async for entry in c.items()]
        assert entries[-1].item["output"] == TOO_MANY
        assert (await c.run(s.model(api), "Go on", tools=[look])).output_text == "Enough."


async def test_an_answer_that_was_cut_off_runs_nothing(stage, api):
    ran = []

    async def act() -> None:
        ran.append(1)

    cut = Reply(Call("act", id="call_a"), Call("ask", '{"half', id="call_b"), status="incomplete")
    async with stage(cut, "Short.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Act", tools=[act, SCHEMA])
        assert (result.status, result.reason, result.open_calls) == ("incomplete", "max_output_tokens", [])
        assert not ran
        assert (await c.run(s.model(api), "Shorter", tools=[act, SCHEMA])).output_text == "Short."


async def test_an_answer_that_was_cut_off_with_calls_that_no_seal_fits(stage):
    computer = {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "call_cu",
        "action": {"type": "screenshot"},
        "pending_safety_checks": [],
        "status": "completed",
    }
    async with stage(Reply(Item(computer), Call("look", id="call_a"), status="incomplete"), "Fine.") as s:
        c = await s.engine.create()
        result = await c.run(s.model("responses"), "Look", tools=[look, {"type": "computer_use_preview"}])
        assert (result.status, [call.call_id for call in result.open_calls]) == ("incomplete", ["call_cu"])
        with pytest.raises(CallsOpen):
            await c.run(s.model("responses"), "Go on", tools=[look])
        await c.run(s.model("responses"), "Go on", tools=[look], open_calls="seal")


async def test_max_rounds_is_a_number(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        for rounds in (0, -1, True, 2.5, "3"):
            with pytest.raises(Invalid, match="max_rounds"):
                await c.run(s.model(api), "Hi", max_rounds=rounds)


async def test_arguments_are_checked(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        for options in (
            {"when_busy": "waits"},
            {"open_calls": "close"},
            {"expected": "latest"},
            {"expected": -1},
            {"expected": True},
            {"key": ""},
            {"key": 7},
            {"key": "k" * 256},
        ):
            with pytest.raises(Invalid, match=next(iter(options))):
                await c.respond(s.model(api), "Hi", **options)
        with pytest.raises(Invalid, match="on_leave"):
            c.stream(s.model(api), "Hi", on_leave="stay")
        with pytest.raises(Invalid, match="expected"):
            await c.append("Hi", expected="latest")
        assert c.version == 1


# -- open calls


async def test_open_calls_are_raised_or_sealed(stage, api):
    async with stage(Reply(Call("ask", id="call_a"), Call("ask", id="call_b")), "Without.", "Late.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Ask", tools=[SCHEMA])
        before = c.version
        for ask in (c.run, c.respond):
            with pytest.raises(CallsOpen) as raised:
                await ask(s.model(api), "Never mind", tools=[SCHEMA])
            assert [call.call_id for call in raised.value.calls] == ["call_a", "call_b"]
        with pytest.raises(CallsOpen) as raised:
            await c.run(s.model(api), output("call_b"), tools=[SCHEMA])
        assert [call.call_id for call in raised.value.calls] == ["call_a"]
        await c.refresh()
        assert c.version == before
        await c.run(s.model(api), "Never mind", tools=[SCHEMA], open_calls="seal")
        outputs = [entry.item["output"] async for entry in c.items() if "output" in entry.item]
        assert outputs == [UNANSWERED] * 2
        # A late output takes the place of a seal; a second one is refused.
        await c.append(output("call_a", "late"))
        await c.run(s.model(api), "Now?", tools=[SCHEMA])
    texts = {
        one.get("call_id", one.get("tool_call_id")): one.get("output", one.get("content"))
        for one in s.bodies[2]["input" if api == "responses" else "messages"]
        if one.get("type") == "function_call_output" or one.get("role") == "tool"
    }
    assert texts == {"call_a": "late", "call_b": UNANSWERED}


async def test_what_a_model_said_elsewhere_stands_for_itself_behind_a_seal(stage, api):
    """A response that is part of the input is named by its own first item, whatever is appended with it."""
    async with stage(Call("look", id="call_1"), "Fine.") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Look", tools=[SCHEMA])
        given = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Blue."}, "Sure?"]
        await c.respond(s.model(api), given, tools=[SCHEMA], open_calls="seal")
        (said,) = [entry async for entry in c.items() if entry.item.get("content") == "Blue."]
        assert said.response == said.seq
        assert (await verify(s.engine.store, c.id)).verified == 2


async def test_a_call_has_one_output(stage, api):
    async with stage(Call("ask", id="call_a"), "ok") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Ask", tools=[SCHEMA])
        twice = [output("call_a"), output("call_a", "other")]
        with pytest.raises(Invalid, match="two outputs"):
            await c.append(*twice)
        with pytest.raises(Invalid, match="two outputs"):
            await c.run(s.model(api), twice, tools=[SCHEMA])
        await c.append(twice[0])
        before = c.version
        for again in (c.append(twice[1]), c.run(s.model(api), twice[1], tools=[SCHEMA])):
            with pytest.raises(AlreadyAnswered) as raised:
                await again
            assert (raised.value.call_id, raised.value.seq) == ("call_a", before)
        await c.run(s.model(api), tools=[SCHEMA])
        assert [entry.item.get("output") async for entry in c.items()].count("given") == 1


async def test_a_call_that_is_made_again_has_an_output_again(stage, api):
    call = {"type": "function_call", "call_id": "c1", "name": "ask", "arguments": "{}"}
    async with stage("ok") as s:
        c = await s.engine.create()
        await c.append("Ask", call, output("c1", "one"), call, output("c1", "two"))
        for again in ([output("c1")], [call, output("c1"), output("c1")]):
            with pytest.raises((AlreadyAnswered, Invalid)):
                await c.append(*again)
        await c.run(s.model(api), "And?", tools=[SCHEMA])
    told = [one.get("output", one.get("content")) for one in s.bodies[0]["input" if api == "responses" else "messages"]]
    assert told.count("two") == 1


# -- what is refused


async def test_versions(stage, api):
    async with stage("one", "two") as s:
        c = await s.engine.create()
        first = await c.respond(s.model(api), "Hi", expected=1)
        for expected in (1, 0, NO_STREAM, 99):
            with pytest.raises(VersionConflict) as raised:
                await c.respond(s.model(api), "Hi", expected=expected)
            assert raised.value.actual == first.version
        await c.respond(s.model(api), "Hi", expected=first.version)


async def test_nothing_to_send(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(Invalid, match="nothing to send"):
            await c.respond(s.model(api))
        assert (await c.refresh()).version == 1


async def test_a_conversation_that_is_not_there(stage, api):
    async with stage() as s:
        c = Conversation(s.engine, Head(conversation="gone", version=1, created=0, updated=0, last_item=0, items=0))
        for call in (c.respond(s.model(api), "Hi"), c.append("Hi"), c.refresh(), c.take_over(), c.open_calls()):
            with pytest.raises(NotFound):
                await call
        for listing in (c.items(), c.responses()):
            with pytest.raises(NotFound):
                await listing


@pytest.mark.parametrize("limit", ["max_output_tokens", "max_completion_tokens", "max_tokens"])
async def test_an_output_limit_that_leaves_no_room_is_named(stage, api, limit):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(Invalid, match=rf"^params\['{limit}'\] = 900: nothing is left for the input of 800 tokens"):
            await c.run(s.model(api), "Hi", budget=Budget(context=800), params={limit: 900})
        assert (await c.refresh()).version == 1


@pytest.mark.parametrize("value", [b"Hi", bytearray(b"Hi")])
async def test_bytes_are_no_input(stage, api, value):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(Invalid, match=rf"^input\[0\]: a {type(value).__name__} is no item"):
            await c.run(s.model(api), value)


async def test_a_window_without_a_budget_fits_the_model_that_was_asked_last(stage, api):
    async with stage("Hello!") as s:
        c = await s.engine.create()
        with pytest.raises(UnknownModel, match=r"^no model was asked yet: context window unknown"):
            await c.window()
        await c.respond(s.model(api, "gpt-4o-mini"), "Hi")
        for other in ("responses", "chat"):
            window = await c.window(api=other)
            assert (window.budget, window.manifest.line != "") == (Budget(128_000), True)
            assert len(window.items if other == "responses" else window.messages) == 2


async def test_a_budget_that_is_exceeded_writes_nothing(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        with pytest.raises(BudgetExceeded) as raised:
            await c.run(s.model(api), "word " * 500, budget=Budget(context=100))
        assert raised.value.needed > raised.value.available
        assert (await c.refresh()).version == 1


async def test_a_budget_that_the_outputs_exceed(stage, api):
    async def tell() -> list[str]:
        return ["many words"] * 400

    calls = Reply(*[Call("tell", id=f"call_{n}") for n in range(30)])
    async with stage(calls, "Short.") as s:
        c = await s.engine.create()
        with pytest.raises(BudgetExceeded):
            await c.run(s.model(api), "Tell", tools=[tell], budget=Budget(context=1500))
        (info,) = [info async for info in s.engine.list()]
        assert not info.busy
        assert (await s.kinds(c))[-2:] == ["function_call_output", "response.interrupted"]
        assert (await c.run(s.model(api), tools=[tell])).output_text == "Short."


# -- others


async def test_what_others_append_comes_behind_the_response(stage, api):
    gate = Gate(Reply(Text("Looking."), Call("look", id="call_a")), "Seen it all.")
    async with stage(gate) as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.run(s.model(api), "Look", tools=[look]))
            await gate.asked.wait()
            appended = await c.append("By the way")
            assert appended.version > 3
            gate.open.set()
        kinds = await s.kinds(c)
        assert kinds[2] == "user"
        entries = [entry async for entry in c.items()]
        assert [entry.turn for entry in entries] == [2, 4, 2, 2, 2, 4]
    names = given(s.bodies[1])
    assert names == (
        ["user", "message", "function_call", "function_call_output", "user"]
        if api == "responses"
        else ["user", "assistant", "tool", "user"]
    )


async def test_a_second_turn_is_refused_or_waits(stage, api):
    gate = Gate("one", "two", "three")
    async with stage(gate) as s:
        c = await s.engine.create()
        done = []

        async def ask(text, when_busy):
            result = await c.respond(s.model(api), text, when_busy=when_busy)
            done.append(result.output_text)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "1", "raise")
            await gate.asked.wait()
            (info,) = [info async for info in s.engine.list()]
            assert info.busy
            for call in (c.respond(s.model(api), "2"), c.run(s.model(api), "2")):
                with pytest.raises(ConversationBusy) as raised:
                    await call
                assert raised.value.turn == 2
                assert 0 < raised.value.retry_after <= 5
            with pytest.raises(ConversationBusy):
                async with c.stream(s.model(api), "2"):
                    pass
            group.start_soon(ask, "2", "wait")
            group.start_soon(ask, "3", "wait")
            await anyio.wait_all_tasks_blocked()
            assert done == []
            gate.open.set()
        assert sorted(done) == ["one", "three", "two"]
        assert [call.status async for call in c.responses()] == ["completed"] * 3


async def test_many_turns_at_once_stand_one_behind_the_other(stage, api):
    async with stage(lambda received: f"answer {received.number}") as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(lambda n=number: c.respond(s.model(api), f"question {n}", when_busy="wait"))
        assert [entry.item["role"] async for entry in c.items()] == ["user", "assistant"] * 6


async def test_appends_and_turns_at_once(stage, api):
    async with stage(lambda received: "ok") as s:
        c = await s.engine.create()

        async def note(n):
            for m in range(5):
                await c.append(f"note {n}.{m}")

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(note, number)
                group.start_soon(lambda n=number: c.respond(s.model(api), f"question {n}", when_busy="wait"))
        texts = [entry.item["content"] async for entry in c.items() if entry.item["role"] == "user"]
        assert len(set(texts)) == len(texts) == 24


# -- flushes


async def test_flushes(stage_for, api, db):
    """Every append asks the clock once."""
    ticks = []

    def clock():
        ticks.append(1)
        return datetime.now(UTC)

    async with open_engine(db, clock=clock) as engine:
        async with stage_for("one", Call("look"), "two", Reply(Reason(), "th", "ree"), engine=engine) as s:
            c = await engine.create()
            ticks.clear()
            await c.respond(s.model(api), "1")
            assert len(ticks) == 2
            ticks.clear()
            await c.run(s.model(api), "2", tools=[look])
            # Input and request; the call, the end and that it starts; its output; the next request; the answer.
            assert len(ticks) == 5
            ticks.clear()
            # Each item that something follows has an append of its own; on Chat they all end together.
            await c.respond(s.model(api), "3")
            assert len(ticks) == (3 if api == "responses" else 2)


async def test_the_handle_learns_of_its_own_writes(stage, api):
    async with stage("ok") as s:
        c = await s.engine.create(metadata={"a": 1})
        other = await s.engine.get(c.id)
        result = await c.respond(s.model(api), "Hi")
        assert (c.version, other.version) == (result.version, 1)
        await c.update_metadata({"a": None, "b": {"c": 2}})
        assert (await other.refresh()).metadata == {"b": {"c": 2}}
        assert other.version == c.version
        assert repr(c) == f"<Conversation {c.id} at {c.version}>"
        for patch in ([1], "x", None):
            with pytest.raises(Invalid, match="patch"):
                await c.update_metadata(patch)


async def test_searches_of_one_answer_that_have_no_id_get_their_outputs_in_order(stage):
    search = {"type": "tool_search_call", "call_id": None, "execution": "client", "status": "completed"}
    both = [{**search, "id": f"tsc_{number}", "arguments": {"query": number}} for number in (1, 2)]
    found = {"type": "tool_search_output", "call_id": None, "execution": "client", "tools": []}
    async with stage(Reply(*map(Item, both)), "Found.", Reply(*map(Item, both)), "Found.") as s:
        c = await s.engine.create()
        model = s.model("responses")
        result = await c.respond(model, "Look")
        assert result.status == "waiting"
        assert len(await c.open_calls()) == 2
        await c.append(found)
        with pytest.raises(CallsOpen):
            await c.respond(model, "And?")
        await c.append(found)
        assert await c.open_calls() == []
        with pytest.raises(AlreadyAnswered):
            await c.append(found)
        assert (await c.respond(model)).output_text == "Found."
        calls, outputs = ["tool_search_call"] * 2, ["tool_search_output"] * 2
        assert given(s.bodies[-1]) == ["user", *calls, *outputs]
        # Or both at once.
        assert (await c.respond(model, "Again")).status == "waiting"
        assert (await c.respond(model, [found, found])).output_text == "Found."
        assert given(s.bodies[-1])[-4:] == [*calls, *outputs]


async def test_searches_that_have_no_id_wait_for_their_outputs_and_get_them_in_order(stage):
    search = {
        "type": "tool_search_call",
        "id": "tsc_1",
        "call_id": None,
        "execution": "client",
        "arguments": {"query": "weather"},
        "status": "completed",
    }
    found = {"type": "tool_search_output", "call_id": None, "execution": "client", "tools": []}
    again = {**search, "id": "tsc_2"}
    async with stage(Reply(Item(search)), Reply(Item(again)), "Found.") as s:
        c = await s.engine.create()
        model = s.model("responses")
        result = await c.respond(model, "Look")
        assert (result.status, [one.call_id for one in result.open_calls]) == ("waiting", [""])
        assert [one.seq for one in await c.open_calls()] == [result.open_calls[0].seq]
        with pytest.raises(CallsOpen):
            await c.respond(model, "And?")
        result = await c.respond(model, found)
        assert result.status == "waiting"
        await c.append(found)
        assert await c.open_calls() == []
        with pytest.raises(AlreadyAnswered):
            await c.append(found)
        result = await c.respond(model)
        assert (result.status, result.output_text) == ("completed", "Found.")
        pair = ["tool_search_call", "tool_search_output"]
        assert given(s.bodies[-1]) == ["user", *pair, *pair]
