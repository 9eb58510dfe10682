"""Calls that wait: for a person's decision, or for the client's output, for as long as it takes."""

import anyio
import pytest

from turnlog import Budget, Conflict, ConversationBusy, Invalid, NotFound, ToolContext, open_engine, tool
from turnlog.engine.errors import AlreadyAnswered, AlreadyDecided, CallsOpen, KeyReused
from turnlog.engine.testing.server import Call, CustomCall, Item, Reply
from turnlog.engine.turns.outcome import ELSEWHERE, TOO_MANY, UNANSWERED

pytestmark = pytest.mark.anyio

ASK = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}


class Shop:
    """Tools that remember what was done."""

    def __init__(self):
        self.done = []
        self.tools = [self.look, tool(approval=lambda args: args["amount"] > 100)(self.refund), ASK]

    async def look(self, at: str = "here") -> str:
        self.done.append(at)
        return f"seen {at}"

    async def refund(self, ctx: ToolContext, order: str, amount: float) -> str:
        self.done.append((order, ctx.attempt, ctx.idempotency_key))
        return f"{order} refunded"


def refund(order="A1", amount=200, id="call_r"):
    return Call("refund", {"order": order, "amount": amount}, id=id)


async def outputs(c):
    return {
        entry.item["call_id"]: entry.item["output"]
        async for entry in c.items()
        if entry.item["type" if "type" in entry.item else "role"].endswith("_output")
    }


# -- decisions


def named(calls):
    return [(call.call_id, call.name, call.needs, call.state, call.arguments) for call in calls]


async def test_days_later_in_another_process(stage_for, api, db):
    """The first engine is closed before anybody decides, and the tools are made anew."""
    calls = Reply(Call("look", id="call_l"), refund(), refund("B2", 7, "call_s"))
    shop, late = Shop(), Shop()
    waiting = ("call_r", "refund", "approval", "waiting", '{"order":"A1","amount":200}')
    async with open_engine(db) as watching, stage_for(calls, "All done.", engine=watching) as s:
        async with open_engine(db) as engine:
            c = await engine.create(id="c")
            result = await c.run(s.model(api), "Refund them", tools=shop.tools)
            assert (result.status, result.output_text) == ("waiting", "")
            assert named(result.open_calls) == [waiting]
            assert len(shop.done) == 2
            assert result.open_calls == await c.open_calls()
            assert not (await engine.list()).data[0].busy
        async with open_engine(db) as engine:
            c = await engine.get("c")
            assert named(await c.open_calls()) == [waiting]
            decided = await c.decide("call_r", approve=True, by="ada", reason="policy 7")
            assert (decided.last, decided.version, decided.replayed) == (c.version, c.version, False)
            assert named(await c.open_calls())[0][2:4] == ("output", "approved")
            second = await c.run(s.model(api), tools=late.tools)
            assert (second.status, second.output_text, second.turn) == ("completed", "All done.", result.turn)
            assert late.done[0][:2] == ("A1", 1)
            assert (await outputs(c))["call_r"] == second.items[0]["output"] == "A1 refunded"
            (said,) = [event.data async for event in c.events() if event.type == "call.decided"]
            assert said == {"call_id": "call_r", "approve": True, "by": "ada", "reason": "policy 7"}


async def test_a_refusal_is_an_output_that_says_so(stage, api):
    shop = Shop()
    async with stage(Reply(refund(id="one"), refund(id="two")), "A pity.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools)
        await c.decide("one", approve=False, by="ada", reason="too late")
        await c.decide("two", approve=False, by="ada")
        assert await c.open_calls() == []
        result = await c.run(s.model(api), tools=shop.tools)
        assert (result.output_text, shop.done) == ("A pity.", [])
        assert await outputs(c) == {
            "one": "[not run: a person refused this call: too late]",
            "two": "[not run: a person refused this call]",
        }
        assert "ada" not in str(s.bodies[1])


@pytest.mark.parametrize("approve", [True, False])
async def test_the_same_decision_again_changes_nothing(stage, api, approve):
    shop = Shop()
    async with stage(refund(), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools)
        first = await c.decide("call_r", approve=approve, by="ada")
        for _ in range(2):
            again = await c.decide("call_r", approve=approve, by="bob", reason="me too")
            assert (again.last, again.replayed) == (first.first, True)
            with pytest.raises(AlreadyDecided) as raised:
                await c.decide("call_r", approve=not approve, by="bob")
            assert raised.value.seq == first.first
            assert isinstance(raised.value, Conflict)
            if _ == 0:
                await c.run(s.model(api), tools=shop.tools)
        assert len(shop.done) == approve


async def test_what_cannot_be_decided(stage, api):
    shop = Shop()
    async with stage(Reply(refund(), Call("look", id="call_l")), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools)
        before = c.version
        with pytest.raises(NotFound, match="call call_x: not found"):
            await c.decide("call_x", approve=True, by="ada")
        with pytest.raises(AlreadyAnswered):
            await c.decide("call_l", approve=True, by="ada")
        for wrong in ({"approve": 1}, {"approve": None}, {"by": ""}, {"by": None}, {"reason": 3}):
            with pytest.raises(Invalid, match=next(iter(wrong))):
                await c.decide("call_r", **{"approve": True, "by": "ada", **wrong})
        for wrong in ("", None, 7):
            with pytest.raises(Invalid, match="call_id"):
                await c.decide(wrong, approve=True, by="ada")
        assert (await c.refresh()).version == before
        await c.answer("call_r", "done by hand")
        with pytest.raises(AlreadyAnswered):
            await c.decide("call_r", approve=True, by="ada")
        assert (await c.run(s.model(api), tools=shop.tools)).output_text == "Done."
        assert shop.done == ["here"]


async def test_nothing_runs_before_all_have_been_decided(stage, api):
    shop = Shop()
    async with stage(Reply(refund("A", id="a"), refund("B", id="b")), "Done.", "Sealed.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund them", tools=shop.tools)
        await c.decide("a", approve=True, by="ada")
        before = c.version
        with pytest.raises(CallsOpen) as raised:
            await c.run(s.model(api), "Well?", tools=shop.tools)
        assert [(call.call_id, call.needs) for call in raised.value.calls] == [("b", "approval")]
        assert ((await c.refresh()).version, shop.done) == (before, [])
        await c.run(s.model(api), "Well?", tools=shop.tools, open_calls="seal")
        assert await outputs(c) == {"a": "A refunded", "b": UNANSWERED}
        assert [order for order, *_ in shop.done] == ["A"]


async def test_much_may_be_said_while_a_call_waits(stage, api):
    """However much stands behind it: the call, its decision and its attempts are found."""
    shop = Shop()
    async with stage(refund(), "Title", "Done.") as s:
        c = await s.engine.create()
        small = s.model(api, budget=Budget(700))
        await c.run(small, "Refund it", tools=shop.tools)
        said = {"role": "assistant", "content": "By the way, " + "word " * 150}
        for _ in range(6):
            await c.append(said)
        await c.respond(s.model(api), "A title?", aside=True)
        await c.decide("call_r", approve=True, by="ada")
        for _ in range(6):
            await c.append(said)
        # As another process does, which knows nothing of it yet.
        s.engine.reader.forget(c.id)
        assert [(call.call_id, call.needs) for call in await c.open_calls()] == [("call_r", "output")]
        s.engine.reader.forget(c.id)
        assert (await c.run(small, tools=shop.tools)).output_text == "Done."
        assert len(shop.done) == 1


async def test_who_has_not_the_tool_does_not_answer_for_it(stage, api):
    shop = Shop()
    async with stage(refund(), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools)
        await c.decide("call_r", approve=True, by="ada")
        for ask in (c.respond, c.run):
            with pytest.raises(CallsOpen):
                await ask(s.model(api), tools=[shop.look])
        assert (await c.run(s.model(api), tools=shop.tools)).output_text == "Done."


async def test_a_call_that_was_only_declared_can_be_decided_on_and_run(stage, api):
    """`respond` runs nothing; whoever runs the turn on asks for the approval that the tool wants."""
    shop = Shop()
    async with stage(Reply(refund(), Call("look", id="call_l")), "Done.") as s:
        c = await s.engine.create()
        result = await c.respond(s.model(api), "Refund it", tools=shop.tools)
        assert {call.needs for call in result.open_calls} == {"output"}
        with pytest.raises(CallsOpen) as raised:
            await c.run(s.model(api), tools=shop.tools)
        assert [(call.call_id, call.needs) for call in raised.value.calls] == [("call_r", "approval")]
        await c.decide("call_r", approve=True, by="ada")
        assert (await c.run(s.model(api), tools=shop.tools)).output_text == "Done."
        assert await outputs(c) == {"call_r": "A1 refunded", "call_l": "seen here"}


async def test_a_stream_goes_on_after_a_decision(stage, api):
    shop = Shop()
    async with stage(refund(), "Done.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Refund it", tools=shop.tools) as stream:
            waiting = await stream.result()
        assert [call.needs for call in waiting.open_calls] == ["approval"]
        await c.decide("call_r", approve=True, by="ada")
        async with c.stream(s.model(api), tools=shop.tools) as stream:
            seen = [(event.type, event.call_id, event.response) async for event in stream]
            assert (await stream.result()).output_text == "Done."
        assert seen[:2] == [
            ("turnlog.call.started", "call_r", waiting.turn + 1),
            ("turnlog.call.output", "call_r", waiting.turn + 1),
        ]


async def test_a_key_names_the_input_that_comes_while_a_call_is_run(stage, api):
    """The input is logged before the model is asked, so a retry with its key joins the turn, and does not start one."""
    running, go = anyio.Event(), anyio.Event()

    @tool(approval=True)
    async def act() -> str:
        running.set()
        await go.wait()
        return "acted"

    results = []
    async with stage(Call("act", id="a"), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Act", tools=[act])
        await c.decide("a", approve=True, by="ada")

        async def ask():
            results.append(await c.run(s.model(api), "And hurry", tools=[act], key="k"))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await running.wait()
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            go.set()
        assert [result.output_text for result in results] == ["Done.", "Done."]
        assert sorted(result.replayed for result in results) == [False, True]
        texts = [entry.item.get("content") async for entry in c.items()]
        assert texts.count("And hurry") == 1
        assert len(s.bodies) == 2
        # The output stands with its call, before what came meanwhile.
        given = s.bodies[1]["input" if api == "responses" else "messages"]
        assert [one.get("role", one.get("type")) for one in given][-1] == "user"


async def test_a_key_gives_what_its_turn_has_come_to(stage, api):
    shop = Shop()
    async with stage(refund(), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools, key="k")
        for _ in range(2):
            again = await c.run(s.model(api), "Refund it", tools=shop.tools, key="k")
            assert (again.status, again.replayed) == ("waiting", True)
            assert [(call.call_id, call.needs) for call in again.open_calls] == [("call_r", "approval")]
        await c.decide("call_r", approve=True, by="ada")
        await c.run(s.model(api), tools=shop.tools)
        done = await c.run(s.model(api), "Refund it", tools=shop.tools, key="k")
        assert (done.status, done.output_text, done.replayed) == ("completed", "Done.", True)
        assert len(shop.done) == 1


async def test_a_replay_gives_what_was_returned(stage, api):
    """The outputs of calls that a turn has run for an earlier one are among its items, then and later."""
    shop = Shop()
    async with stage(Reply(refund(), Call("look", id="call_l")), "Done.") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Refund it", tools=shop.tools)
        await c.decide("call_r", approve=True, by="ada")
        first = await c.run(s.model(api), "And hurry", tools=shop.tools, key="k")
        again = await c.run(s.model(api), "And hurry", tools=shop.tools, key="k")
        assert again.replayed
        assert (again.items, again.version, again.usage, again.turn) == (
            first.items, first.version, first.usage, first.turn,
        )  # fmt: skip
        assert len(first.items) == 3


async def test_the_last_round_leaves_what_waits_for_a_person(stage, api):
    shop = Shop()
    async with stage(refund(), Reply(refund(id="more"), Call("look", id="call_l"))) as s:
        c = await s.engine.create()
        first = await c.run(s.model(api), "Refund it", tools=shop.tools, max_rounds=1)
        assert first.status == "waiting"
        await c.decide("call_r", approve=True, by="ada")
        second = await c.run(s.model(api), tools=shop.tools, max_rounds=1)
        assert (second.status, second.reason, second.open_calls) == ("incomplete", "max_rounds", [])
        assert await outputs(c) == {"call_r": "A1 refunded", "more": TOO_MANY, "call_l": TOO_MANY}


async def test_a_decision_can_be_undone_by_a_rewind(stage, api):
    shop = Shop()
    async with stage(refund(), "Done.") as s:
        c = await s.engine.create()
        waiting = await c.run(s.model(api), "Refund it", tools=shop.tools)
        await c.decide("call_r", approve=True, by="ada")
        await c.rewind(to=waiting.version)
        assert [call.needs for call in await c.open_calls()] == ["approval"]
        await c.decide("call_r", approve=False, by="ada")
        assert (await c.run(s.model(api), tools=shop.tools)).output_text == "Done."
        assert shop.done == []


async def test_an_approval_that_a_provider_asks_for(stage):
    request = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "drop", "arguments": "{}", "server_label": "db"}
    more = {**request, "id": "mcpr_2"}
    async with stage(Reply(Item(request), Item(more)), "Done.") as s:
        c = await s.engine.create()
        mcp = {"type": "mcp", "server_label": "db", "server_url": "http://db"}
        result = await c.run(s.model("responses"), "Drop it", tools=[mcp])
        assert [(call.call_id, call.needs) for call in result.open_calls] == [
            ("mcpr_1", "approval"), ("mcpr_2", "approval"),
        ]  # fmt: skip
        with pytest.raises(Invalid, match="decide"):
            await c.answer("mcpr_1", "yes")
        await c.decide("mcpr_1", approve=True, by="ada")
        await c.decide("mcpr_2", approve=False, by="ada", reason="no")
        assert (await c.run(s.model("responses"), tools=[mcp])).output_text == "Done."
        said = [item for item in s.bodies[1]["input"] if item.get("type") == "mcp_approval_response"]
        assert [(item["approval_request_id"], item["approve"], item.get("reason")) for item in said] == [
            ("mcpr_1", True, None), ("mcpr_2", False, "no"),
        ]  # fmt: skip


# -- answers


async def test_answers_of_the_client(stage, api):
    async with stage(Reply(Call("ask", id="a"), CustomCall("shell", "ls", id="b")), "Thanks.") as s:
        c = await s.engine.create()
        tools = [ASK, {"type": "custom", "name": "shell"}]
        result = await c.run(s.model(api), "Ask", tools=tools)
        assert [call.call_id for call in result.open_calls] == ["a", "b"]
        first = await c.answer("a", "yes", key="k")
        again = await c.answer("a", "yes", key="k")
        assert (again.first, again.replayed) == (first.first, True)
        with pytest.raises(KeyReused):
            await c.answer("a", "no", key="k")
        version = c.version
        for key in (None, "another"):
            alike = await c.answer("a", "yes", key=key)
            assert (alike.first, alike.version, alike.replayed) == (first.first, first.first, True)
        with pytest.raises(AlreadyAnswered) as raised:
            await c.answer("a", "no")
        assert raised.value.seq == first.first
        assert (await c.refresh()).version == version
        text = [{"type": "input_text", "text": "a file" * 40_000}]  # which stands out of line
        await c.answer("b", text)
        assert (await c.answer("b", text)).replayed
        with pytest.raises(AlreadyAnswered):
            await c.answer("b", [{**text[0], "text": text[0]["text"][:-1] + "."}])
        done = await c.run(s.model(api), tools=tools)
        assert (done.output_text, done.turn) == ("Thanks.", result.turn)
        kinds = [entry.item["type"] async for entry in c.items() if "call_id" in entry.item]
        assert kinds[-2:] == ["function_call_output", "custom_tool_call_output"]
        with pytest.raises(NotFound):
            await c.answer("gone", "x")
        for wrong in (None, 7, {"type": "x"}, [1]):
            with pytest.raises(Invalid):
                await c.answer("b", wrong)


async def test_a_call_that_runs_here_is_not_the_clients_to_answer(stage, api):
    running, go = anyio.Event(), anyio.Event()

    async def slow() -> str:
        running.set()
        await go.wait()
        return "done"

    async with stage(Reply(Call("slow", id="a"), Call("ask", id="b")), "Fine.") as s:
        c = await s.engine.create()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: c.run(s.model(api), "Go", tools=[slow, ASK]))
            await running.wait()
            with pytest.raises(ConversationBusy):
                await c.answer("a", "mine")
            with pytest.raises(AlreadyDecided):
                await c.decide("a", approve=False, by="ada")
            await c.answer("b", "meanwhile")
            go.set()
        assert await outputs(c) == {"a": "done", "b": "meanwhile"}
        assert (await c.run(s.model(api), tools=[slow, ASK])).output_text == "Fine."


async def test_calls_of_other_kinds_are_answered_with_items(stage):
    computer = {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "call_cu",
        "action": {"type": "screenshot"},
        "pending_safety_checks": [],
        "status": "completed",
    }
    async with stage(Reply(Item(computer))) as s:
        c = await s.engine.create()
        await c.run(s.model("responses"), "Look", tools=[{"type": "computer_use_preview"}])
        with pytest.raises(Invalid, match="append its computer_call_output"):
            await c.answer("call_cu", "seen")
        with pytest.raises(Invalid, match="cannot be refused in words"):
            await c.decide("call_cu", approve=False, by="ada")


@pytest.mark.parametrize("link", ["call_s", None])
async def test_a_search_is_answered_with_what_it_found(stage, link):
    search = {"type": "tool_search_call", "call_id": link, "execution": "client", "arguments": {}}
    async with stage(Reply(Item(search))) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "Look")
        [call] = await c.open_calls()
        with pytest.raises(Invalid, match="append its tool_search_output as an item"):
            await c.answer(call.call_id, "found")
        await c.append({"type": "tool_search_output", "call_id": link, "execution": "client", "tools": []})
        assert await c.open_calls() == []


async def test_an_approved_call_whose_tool_is_not_given(stage, api):
    """It is told from one that the client executes; either is answered, or sealed."""
    shop = Shop()
    async with stage(Reply(refund(), Call("ask", {}, id="a")), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools)
        await c.decide("call_r", approve=True, by="ada")
        assert [(call.call_id, call.needs, call.state) for call in await c.open_calls()] == [
            ("call_r", "output", "approved"),
            ("a", "output", "waiting"),
        ]
        with pytest.raises(
            CallsOpen, match=r"pass the tool of what a person has approved in tools= \(refund\)"
        ) as raised:
            await c.run(s.model(api), tools=[ASK])
        assert [call.state for call in raised.value.calls] == ["approved", "waiting"]
        assert "decide(" not in str(raised.value)
        await c.answer("a", "yes")
        with pytest.raises(CallsOpen, match="tools="):
            await c.run(s.model(api))
        assert (await c.run(s.model(api), tools=shop.tools)).output_text == "Done."
        assert len(shop.done) == 1


# -- forks


async def approved_and_forked(s, api, shop):
    """Let a refund be approved; return the conversation, and a fork in which nothing is to be run."""
    c = await s.engine.create()
    await c.run(s.model(api), "Refund it", tools=shop.tools)
    await c.decide("call_r", approve=True, by="ada")
    fork = await c.fork()
    assert named(await fork.open_calls())[0][2:4] == ("approval", "waiting")
    assert (await c.run(s.model(api), tools=shop.tools)).output_text == "Done."
    with pytest.raises(CallsOpen) as raised:
        await fork.run(s.model(api), tools=shop.tools)
    assert [call.needs for call in raised.value.calls] == ["approval"]
    assert len(shop.done) == 1
    return c, fork


async def test_one_approval_is_one_refund(stage, api):
    """The fork goes on without it."""
    shop = Shop()
    async with stage(refund(), "Done.", "Sealed.") as s:
        c, fork = await approved_and_forked(s, api, shop)
        sealed = await fork.run(s.model(api), "Well?", tools=shop.tools, open_calls="seal")
        assert (sealed.output_text, len(shop.done)) == ("Sealed.", 1)
        assert (await outputs(fork))["call_r"] == UNANSWERED
        assert (await outputs(c))["call_r"] == "A1 refunded"


async def test_in_a_fork_a_call_is_decided_on_anew(stage, api):
    """It is run there under a key of the fork's own."""
    shop = Shop()
    async with stage(refund(), "Done.", "Done here, too.") as s:
        _, fork = await approved_and_forked(s, api, shop)
        assert [(await fork.decide("call_r", approve=True, by="bob")).replayed for _ in range(2)] == [False, True]
        assert named(await fork.open_calls())[0][2:4] == ("output", "approved")
        assert (await fork.run(s.model(api), tools=shop.tools)).output_text == "Done here, too."
        assert len({key for _, _, key in shop.done}) == 2


async def test_decisions_that_came_with_an_output_stand_in_a_fork(stage, api):
    shop = Shop()
    async with stage(refund()) as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Refund it", tools=shop.tools)
        await c.decide("call_r", approve=False, by="ada")
        fork = await c.fork()
        assert (await fork.decide("call_r", approve=False, by="ada")).replayed
        with pytest.raises(AlreadyDecided):
            await fork.decide("call_r", approve=True, by="ada")


@pytest.mark.parametrize("safe", [False, True])
async def test_calls_that_need_nobody_are_the_parents_too(stage, api, safe):
    """Those that may be run again are; of others the model is told whose they are."""
    done = []

    @tool(rerun_safe=safe)
    async def ask() -> str:
        done.append("asked")
        return "yes"

    async with stage(Call("ask", {}, id="a"), "In the fork.", "In the parent.") as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Ask", tools=[ask])
        fork = await c.fork()
        assert (await fork.run(s.model(api), "And?", tools=[ask])).output_text == "In the fork."
        assert (await outputs(fork))["a"] == ("yes" if safe else ELSEWHERE)
        assert (await c.run(s.model(api), tools=[ask])).output_text == "In the parent."
        assert (await outputs(c))["a"] == "yes"
        assert len(done) == 1 + safe


async def test_a_call_for_the_client_can_be_answered_in_a_fork(stage, api):
    async with stage(Call("ask", {}, id="a"), "Thanks.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Ask", tools=[ASK])
        fork = await c.fork()
        assert named(await fork.open_calls())[0][2:4] == ("output", "waiting")
        await fork.answer("a", "yes")
        assert (await fork.run(s.model(api), tools=[ASK])).output_text == "Thanks."


async def test_a_call_that_the_parent_is_running_is_left_to_it(stage, api):
    begun, go = anyio.Event(), anyio.Event()

    async def slow() -> str:
        begun.set()
        await go.wait()
        return "done"

    async with stage(lambda r: Call("slow", {}, id="a") if r.number == 1 else "Told.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go", tools=[slow]) as stream:
            await begun.wait()
            fork = await c.fork()
            assert (await fork.run(s.model(api), "And?", tools=[slow])).output_text == "Told."
            assert (await outputs(fork))["a"] == ELSEWHERE
            go.set()
            assert (await stream.result()).output_text == "Told."
        assert (await outputs(c))["a"] == "done"
