"""Listings: every page, both ways, and which turn each entry stands in."""

import random
from bisect import bisect_right
from contextlib import suppress
from itertools import pairwise, product
from types import SimpleNamespace

import pytest

from turnlog import Budget, Invalid, NotFound, ResponseFailed, StreamEvent
from turnlog.adapters.responses import Responses
from turnlog.engine.errors import AlreadyAnswered
from turnlog.engine.history import History
from turnlog.engine.log import Query
from turnlog.engine.model import ModelFailure
from turnlog.engine.testing.server import Call, Fail, Reply
from turnlog.engine.turns.places import turn_at, turn_end, turns_of

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}
THREE = (Reply("one"), Fail(400, code="no_good"), Reply("x", status="incomplete"))


async def look() -> str:
    return "seen"


def output(call_id):
    return {"type": "function_call_output", "call_id": call_id, "output": "x"}


async def records_of(c):
    return list((await c._engine.store.read(c.id, Query())).records[0])


async def by_the_fold(c):
    """Return the turn of every item and request, as the fold of the whole log tells it."""
    records = await records_of(c)
    history = History(c.id)
    history.extend(records)
    starts = history.turns()

    def at(place):
        index = bisect_right(starts, place) - 1
        return starts[index] if index >= 0 else 0

    turns = {record.seq: at(record.seq) for record in records if record.item is not None}
    for group in history:
        turns |= {entry.seq: at(group.at) for entry in group.entries}
    requests = {record.seq: at(record.seq) for record in records if record.kind == "response.requested"}
    return turns, requests, starts


def in_order(turns, order):
    """Return pairs of seq and turn as a listing has them."""
    return sorted(turns.items(), reverse=order == "desc")


async def agree(c, sizes=(1, 3, 1000)):
    """See to it that listings tell the same turns as the fold, both ways and in pages of any size."""
    store = c._engine.store
    turns, requests, starts = await by_the_fold(c)
    for order, limit in product(("asc", "desc"), sizes):
        entries = [(entry.seq, entry.turn) async for entry in c.items(order=order, limit=limit)]
        assert entries == in_order(turns, order)
        calls = [(call.seq, call.turn) async for call in c.responses(order=order, limit=limit)]
        assert calls == in_order(requests, order)
        for turn in [*starts, 1]:
            mine = [(call.seq, call.turn) async for call in c.responses(turn=turn, order=order, limit=limit)]
            assert mine == [(seq, number) for seq, number in in_order(requests, order) if number == turn]
    assert {seq: await turn_at(store, c.id, seq) for seq in requests} == requests
    assert [(start, await turn_end(store, c.id, start)) for start in starts] == list(pairwise([*starts, None]))
    return turns


# -- turns


async def test_turns_of_an_ordinary_conversation(stage, api):
    async with stage("one", Call("look"), "two", "three") as s:
        c = await s.engine.create()
        await c.append({"role": "system", "content": "Be brief."})
        await c.respond(s.model(api), "1")
        await c.append("before", {"role": "developer", "content": "d"})
        result = await c.run(s.model(api), "2", tools=[look])
        await c.respond(s.model(api), "3")
        turns = await agree(c)
        assert list(turns.values()) == [0, 3, 3, 8, 8, 8, 8, 8, 8, 21, 21]
        assert result.turn == 8


async def test_a_developers_message_waits_for_a_user(stage, api):
    async with stage("one", "two") as s:
        c = await s.engine.create()
        first = await c.respond(s.model(api), "1")
        appended = await c.append({"role": "developer", "content": "d"})
        assert (await agree(c))[appended.first] == first.turn
        second = await c.respond(s.model(api), "2")
        assert (await agree(c))[appended.first] == second.turn == appended.first


async def test_failed_responses_without_items_part_no_turns(stage, api):
    async with stage(Fail(500), "one") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed, match="500"):
            await c.respond(s.model(api), "1")
        result = await c.respond(s.model(api), "2")
        turns = await agree(c)
        assert set(turns.values()) == {2}
        assert result.turn == 2


async def test_a_late_output_belongs_to_its_call(stage, api):
    async with stage(Call("ask", id="call_a"), "two") as s:
        c = await s.engine.create()
        first = await c.run(s.model(api), "1", tools=[SCHEMA])
        await c.run(s.model(api), "2", tools=[SCHEMA], open_calls="seal")
        for number in range(400):
            await c.append(f"note {number}")
        late = await c.append(output("call_a"))
        (entry,) = [entry async for entry in c.items(after=late.first - 1)]
        assert entry.turn == first.turn
        assert (await agree(c, sizes=(7, 1000)))[late.first] == first.turn


def _item(chance, number, calls):
    kind = chance.choice(["user", "user", "assistant", "call", "output", "stray", "system", "developer", "unknown"])
    if kind == "output" and not calls:
        kind = "user"
    match kind:
        case "call":
            calls.append(f"call_{chance.randrange(4)}")
            return {"type": "function_call", "call_id": calls[-1], "name": "ask", "arguments": "{}"}
        case "output":
            return output(calls.pop(chance.randrange(len(calls))))
        case "stray":
            return output(f"stray_{number}")
        case "unknown":
            return {"type": "acme:thing", "number": number}
        case _:
            return {"role": kind, "content": f"text {number}"}


@pytest.mark.parametrize("run", range(6))
async def test_any_log(engine, seed, long, run):
    """Random logs: imported runs, pinned items, responses that fail or say nothing, notes in the middle."""

    class Scripted(Responses):
        async def send(self, request):
            for _ in range(chance.randrange(3)):
                await c.append(_item(chance, chance.random(), []))
            yield StreamEvent(type="response.created", raw={"response": {"id": "r"}})
            for index in range(chance.randrange(4)):
                if chance.random() < 0.3:
                    await c.append("a note in the middle")
                item = {"role": "assistant", "type": "message", "content": "said"}
                raw = {"output_index": index, "item": item}
                yield StreamEvent(type="response.output_item.done", item=item, raw=raw)
            if chance.random() < 0.3:
                raise ModelFailure("model", "no")
            yield StreamEvent(type="response.completed", raw={"response": {}})

    chance = random.Random(seed * 1000 + run)
    model = Scripted(SimpleNamespace(responses=None), "gpt-4o-mini", budget=Budget(context=1_000_000))
    for _ in range(20 if long else 4):
        c = await engine.create()
        calls = []
        for number in range(chance.randrange(4, 24)):
            if chance.random() < 0.3:
                with suppress(ResponseFailed, Invalid):  # Invalid: there is nothing to send yet
                    await c.respond(model, chance.choice([None, "asked"]), open_calls="seal")
                calls.clear()
            else:
                items = [_item(chance, number, calls) for _ in range(chance.randrange(1, 4))]
                with suppress(Invalid, AlreadyAnswered):  # two outputs for one call
                    outputs = any("output" in item for item in items)
                    await c.append(*items, pinned=chance.random() < 0.1 and not outputs)
        await agree(c, sizes=(2, 1000))


async def test_what_is_pinned_and_unknown_ends_a_run_of_input(engine):
    """It may be the answer of an example."""
    c = await engine.create()
    await c.append("one", {"type": "acme:thing"}, "two")
    assert await agree(c) == {2: 2, 3: 2, 4: 2}
    await c.append({"type": "acme:thing"}, pinned=True)
    await c.append("three")
    assert await agree(c) == {2: 2, 3: 2, 4: 2, 5: 2, 6: 6}


async def test_turns_of_nothing(engine):
    c = await engine.create()
    assert await turns_of(engine.store, c.id, []) == {}
    assert await turn_at(engine.store, c.id, 1) == 0
    assert (await c.items()).data == []
    assert (await c.responses()).data == []
    assert await c.open_calls() == []
    assert (await c.usage()).requests == 0


# -- pages


async def notes(engine):
    """Return a conversation of 25 items, whose seqs are 2 to 26."""
    c = await engine.create()
    await c.append(*[f"text {number}" for number in range(25)], meta={"by": "me"})
    return c


def seqs(page):
    return [entry.seq for entry in page.data]


async def test_pages_of_items(engine):
    c = await notes(engine)
    page = await c.items(limit=10)
    assert [entry.item["content"] for entry in page.data] == [f"text {number}" for number in range(10)]
    assert page.data[0].meta == {"by": "me"}
    assert (page.has_more, page.next) == (True, "11")
    page = await c.items(after=int(page.next), limit=15)
    assert (seqs(page), page.has_more, page.next) == (list(range(12, 27)), False, None)


async def test_pages_of_items_from_the_end(engine):
    c = await notes(engine)
    page = await c.items(order="desc", limit=10)
    assert seqs(page) == list(range(26, 16, -1))
    page = await c.items(order="desc", before=int(page.next), limit=10)
    assert seqs(page) == list(range(16, 6, -1))


async def test_items_between_two_others(engine):
    c = await notes(engine)
    assert [entry.seq async for entry in c.items(after=5, before=9)] == [6, 7, 8]
    assert [entry.seq async for entry in c.items(after=5, before=9, order="desc", limit=1)] == [8, 7, 6]


async def test_what_is_added_meanwhile_neither_repeats_nor_hides_an_item(engine):
    c = await notes(engine)
    seen = []
    async for entry in c.items(limit=5):
        seen.append(entry.seq)
        if len(seen) % 5 == 0 and len(seen) < 40:
            await c.append("more")
    assert seen == sorted(set(seen))
    assert seen[:25] == list(range(2, 27))


async def test_limits_and_orders_are_checked(engine):
    c = await engine.create()
    for listing in (c.items, c.responses, engine.list):
        for limit in (0, -1, 1001, True, "5"):
            with pytest.raises(Invalid, match="limit"):
                listing(limit=limit)
        with pytest.raises(Invalid, match="order"):
            listing(order="up")


async def test_pages_of_responses(stage, api):
    async with stage(lambda received: "ok") as s:
        c = await s.engine.create()
        for number in range(7):
            await c.respond(s.model(api), f"{number}")
        page = await c.responses(limit=3)
        assert page.has_more
        assert [call.status for call in page.data] == ["completed"] * 3
        assert len([call async for call in c.responses(limit=3)]) == 7
        turns = [call.turn async for call in c.responses(order="desc", limit=2)]
        assert turns == sorted(set(turns), reverse=True)


async def three_calls(s, api):
    """Return a conversation with a response that is completed, one that failed, and one that is incomplete."""
    c = await s.engine.create(metadata={"who": "me"})
    await c.respond(s.model(api, backend="eu"), "1")
    with pytest.raises(ResponseFailed, match="400"):
        await c.respond(s.model(api), "2")
    await c.respond(s.model(api), "3")
    return c


async def test_what_a_call_tells(stage, api):
    async with stage(*THREE) as s:
        c = await three_calls(s, api)
        one, two, three = [call async for call in c.responses()]
        assert (one.status, one.purpose, one.adapter, one.model, one.backend, one.error) == (
            "completed", "answer", api, "gpt-4o-mini", "eu", None,
        )  # fmt: skip
        assert one.usage.input_tokens > 0
        assert one.response_id is not None
        assert one.manifest.why(2).fate == "kept"
        assert (two.status, two.usage, two.response_id) == ("failed", None, None)
        assert two.error.startswith("no_good: ")
        assert (three.status, three.turn) == ("incomplete", 7)


async def test_what_an_event_tells(stage, api):
    async with stage(*THREE) as s:
        c = await three_calls(s, api)
        events = [event async for event in c.events()]
        first, second, *_, last = events
        assert (first.type, first.metadata) == ("conversation.created", {"who": "me"})
        assert second.tokens > 0
        assert second.time <= last.time
        call = (await c.responses()).data[0]
        assert [event.seq for event in events if event.response == call.seq] == [4, 5, 6]
        assert [event.seq async for event in c.events(after=10)] == list(range(11, len(events) + 1))


async def test_one_response(stage, api):
    async with stage(Fail(500), Call("look"), "two", "three") as s:
        c = await s.engine.create(id="ada")
        with pytest.raises(ResponseFailed, match="500"):
            await c.respond(s.model(api), "1")
        await c.run(s.model(api), "1", tools=[look])
        await c.respond(s.model(api), "2")
        listed = [call async for call in c.responses()]
        assert [call.status for call in listed] == ["failed", "completed", "completed", "completed"]
        assert [await c.response(call.seq) for call in listed] == listed
        assert [await (await c.response(call.seq)).request() for call in listed] == s.bodies
        assert repr(listed[-1]) == f"<Call ada/{listed[-1].seq} of gpt-4o-mini, completed>"
        names = {call.seq for call in listed}
        for seq in {*range(1, c.version + 3), 2**62} - names:
            with pytest.raises(NotFound, match=f"ada, response {seq} .*seq of its response.requested"):
                await c.response(seq)
        for seq in (0, -1, 2**63, True, "4", None):
            with pytest.raises(Invalid, match="response="):
                await c.response(seq)


async def test_one_response_is_read_alone_however_long_the_log_is(stage, monkeypatch):
    async with stage(lambda received: "ok") as s:
        c = await s.engine.create()
        first = await c.respond(s.model("responses"), "0")
        costs, read = [], s.engine.store.read

        async def counting(*args):
            snapshot = await read(*args)
            costs.append(sum(map(len, snapshot.records)))
            return snapshot

        async def cost(seq):
            costs.clear()
            with monkeypatch.context() as patch:
                patch.setattr(s.engine.store, "read", counting)
                assert (await c.response(seq)).status == "completed"
            return len(costs)

        early = first.turn + 1
        alone = await cost(early)
        for number in range(30):
            await c.respond(s.model("responses"), f"{number}")
        latest = (await c.responses(order="desc", limit=1)).data[0].seq
        await c.append(*["a note"] * 3000)
        assert await cost(early) <= alone + 1
        assert await cost(latest) <= alone + 1
        assert max(costs) <= 500


async def test_a_conversation_that_is_not_there(engine):
    with pytest.raises(NotFound):
        await engine.get("nowhere")
    with pytest.raises(Invalid):
        await engine.get("no such id!")
