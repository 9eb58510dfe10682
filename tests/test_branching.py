"""Forks and rewinds: what is alive, what is shared, and where a conversation may be cut."""

import random
from itertools import permutations

import pytest

from turnlog import Budget, Conflict, ConversationBusy, Invalid, NotFound
from turnlog.engine.errors import AlreadyAnswered, KeyReused, VersionConflict
from turnlog.engine.log import Query
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Reply

pytestmark = pytest.mark.anyio

ASK = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}


async def look(at: str = "here") -> str:
    return f"seen {at}"


def text_of(item):
    content = item.get("content", item.get("output", item.get("arguments", "")))
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def texts(c, **options):
    return [text_of(entry.item) async for entry in c.items(**options)]


def sent(body):
    return [text_of(item) for item in body.get("input", body.get("messages"))]


async def listed(c, **options):
    return [(turn.seq, turn.number, turn.status, turn.alive, turn.replaces) async for turn in c.turns(**options)]


# -- rewinding


async def test_a_turn_is_regenerated(stage, api):
    async with stage("Hello.", "one", "two") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Hi")
        await c.run(s.model(api), "A number?")
        turn = (await c.turns()).data[1]
        await c.rewind(to=turn.seq, expected=c.version)
        result = await c.run(s.model(api))
        assert (result.output_text, result.turn) == ("two", turn.seq)
        assert sent(s.bodies[2]) == sent(s.bodies[1])
        assert await texts(c) == ["Hi", "Hello.", "A number?", "two"]
        assert await texts(c, abandoned=True) == ["Hi", "Hello.", "A number?", "one", "two"]


async def test_a_turn_is_edited_and_the_edit_undone(stage, api):
    async with stage("Hello.", "one", "two", "three") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Hi")
        await c.run(s.model(api), "A number?")
        tip = c.version
        old = [turn async for turn in c.turns()][1].seq
        await c.rewind(to=old - 1)
        await c.run(s.model(api), "A word?")
        new = [turn async for turn in c.turns()][1]
        assert (new.replaces, new.alive, new.status) == (old, True, "completed")
        assert sent(s.bodies[2]) == ["Hi", "Hello.", "A word?"]
        assert [one[:4:3] for one in await listed(c, abandoned=True)] == [(2, True), (old, False), (new.seq, True)]
        await c.rewind(to=tip)
        assert await texts(c) == ["Hi", "Hello.", "A number?", "one"]
        assert await listed(c) == [(2, 1, "completed", True, None), (old, 2, "completed", True, None)]
        await c.run(s.model(api), "And?")
        assert sent(s.bodies[3]) == ["Hi", "Hello.", "A number?", "one", "And?"]


async def test_rewinding_to_before_a_rewind_undoes_it(engine):
    c = await engine.create()
    await c.append("one", "two", "three")
    first = await c.rewind(2)
    await c.append("other")
    assert await texts(c) == ["one", "other"]
    await c.rewind(first.first - 1)
    assert await texts(c) == ["one", "two", "three"]
    assert [entry.alive for entry in (await c.items(abandoned=True)).data] == [True, True, True, False]


async def test_a_running_turn_is_not_rewound(stage, api):
    async with stage(Reply("a long one " * 20, delay=0.01), "Next.") as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go") as stream:
            await anext(aiter(stream))
            with pytest.raises(ConversationBusy):
                await c.rewind(1)
            await c.append("meanwhile")
            with pytest.raises(ConversationBusy):
                await s.engine.delete(c.id)


async def test_a_key_rewinds_once(engine):
    c = await engine.create()
    await c.append("one", "two")
    first = await c.rewind(2, key="k")
    again = await c.rewind(2, key="k")
    assert (first.version, first.replayed) == (again.version, not again.replayed)
    with pytest.raises(KeyReused):
        await c.rewind(1, key="k")
    with pytest.raises(VersionConflict):
        await c.rewind(1, expected=2)


async def test_only_between_groups(stage, api):
    async with stage(Call("look"), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Go", tools=[look])
        events = [(event.seq, event.type) async for event in c.events()]
        request = next(seq for seq, kind in events if kind == "response.requested")
        output = max([event.seq async for event in c.events() if event.item and "output" in event.item])
        last = c.version
        allowed, nearest = [], set()
        for seq in range(1, c.version + 1):
            try:
                await c.fork(seq)
                allowed.append(seq)
            except Invalid as error:
                nearest.add(str(error).rsplit(" ", 1)[1])
        assert nearest <= {str(request - 1), str(output), str(last)}
        assert allowed == [1, request - 1, output, last]
        with pytest.raises(Invalid, match="no seq"):
            await c.fork(99)
        with pytest.raises(Invalid):
            await c.rewind(0)


# -- forks


async def test_a_fork_goes_its_own_way(stage, api):
    async with stage("Hello.", "one", "two", "three") as s:
        c = await s.engine.create(metadata={"user": "ada"})
        await c.run(s.model(api), "Hi")
        twin = await c.fork(metadata={"user": "bob"})
        await c.run(s.model(api), "For the parent")
        await twin.run(s.model(api), "For the fork")
        assert sent(s.bodies[1]) == ["Hi", "Hello.", "For the parent"]
        assert sent(s.bodies[2]) == ["Hi", "Hello.", "For the fork"]
        assert await texts(twin) == ["Hi", "Hello.", "For the fork", "two"]
        nested = await twin.fork(at=2)
        assert (await nested.run(s.model(api), "Deep")).output_text == "three"
        assert sent(s.bodies[3]) == ["Hi", "Deep"]
        assert nested.metadata == {"user": "bob"}
        for one in (c, twin, nested):
            report = await verify(s.engine.store, one.id)
            assert report.verified == report.responses > 0
        infos = {info.id: (info.parent, info.items) async for info in s.engine.list()}
        assert infos == {c.id: (None, 4), twin.id: ((c.id, 6), 4), nested.id: ((twin.id, 2), 3)}


async def test_a_fork_of_what_was_abandoned(engine):
    c = await engine.create()
    await c.append("one", "two", "three")
    await c.rewind(2)
    await c.append("other")
    assert await texts(await c.fork(at=4)) == ["one", "two", "three"]
    assert await texts(await c.fork()) == ["one", "other"]


async def test_a_fork_during_a_turn_begins_before_it(stage, api):
    async with stage(Reply("a long one " * 20, delay=0.01)) as s:
        c = await s.engine.create()
        async with c.stream(s.model(api), "Go") as stream:
            await anext(aiter(stream))
            assert await texts(await c.fork()) == ["Go"]


async def test_keys_of_forks(engine):
    c = await engine.create()
    await c.append("one")
    first = await c.fork(at=2, key="k")
    assert (await c.fork(at=2, key="k")).id == first.id
    for other in ({"at": 1}, {}, {"at": 2, "metadata": {}}):
        with pytest.raises(KeyReused):
            await c.fork(**other, key="k")
    with pytest.raises(VersionConflict):
        await c.fork(id=c.id)


async def test_a_key_stands_for_what_was_asked_not_for_what_the_parent_was(engine):
    c = await engine.create(metadata={"user": "ada"})
    await c.append("one")
    first = await c.fork(key="k")
    named = await c.fork(key="k", id="named")
    await c.append("two")
    await c.update_metadata({"user": "bob"})
    assert (await c.fork(key="k")).id == first.id
    again = await c.fork(key="k", id="named")
    assert (again.id, again.version, again.metadata) == ("named", named.version, {"user": "ada"})
    with pytest.raises(KeyReused):
        await c.fork(key="k", metadata={"user": "ada"})
    with pytest.raises(Invalid, match="at=0"):
        await c.fork(at=0, key="k")
    await engine.delete(c.id, forks="keep")
    assert (await c.fork(key="k")).id == first.id


# -- deleting


async def test_deleting(stage, api):
    async with stage("Hello.", "again") as s:
        c = await s.engine.create(id="a", metadata={"user": "ada"})
        await c.run(s.model(api), "Hi", key="k")
        with pytest.raises(NotFound):
            await s.engine.delete("nobody")
        s.gone = {call.digest async for call in c.responses()}
        receipt = await s.engine.delete("a", reason="asked to")
        assert list(receipt.seqs) == list(range(1, 7))
        assert receipt.blobs == 1  # the settings
        for attempt in (
            c.refresh,
            c.append("x"),
            c.run(s.model(api), "x"),
            s.engine.get("a"),
            s.engine.get_or_create("a"),
        ):
            with pytest.raises((NotFound, VersionConflict)) as raised:
                await (attempt() if callable(attempt) else attempt)
            assert getattr(raised.value, "deleted", True)
        with pytest.raises(Conflict):
            await s.engine.create(id="a")
        assert [info async for info in s.engine.list()] == []
        fed = await s.engine.store.feed(None, 100)
        assert [one.record.kind for one in fed] == ["conversation.deleted"]


@pytest.mark.parametrize("forks", ["refuse", "keep", "delete"])
async def test_deleting_what_has_forks(engine, forks):
    c = await engine.create()
    await c.append("one", "two", "three")
    twin = await c.fork(at=3)
    deep = await twin.fork(at=2)
    if forks == "refuse":
        with pytest.raises(Conflict, match=deep.id):
            await engine.delete(c.id)
        assert await texts(c) == ["one", "two", "three"]
        return
    receipt = await engine.delete(c.id, forks=forks)
    assert sorted(receipt.forks) == sorted([twin.id, deep.id])
    if forks == "delete":
        assert [info async for info in engine.list()] == []
        return
    assert (await texts(twin), await texts(deep)) == (["one", "two"], ["one"])
    await engine.delete(twin.id, forks="keep")
    assert await texts(deep) == ["one"]
    await engine.delete(deep.id)
    assert [one.record.kind for one in await engine.store.feed(None, 100)] == ["conversation.deleted"] * 3


@pytest.mark.parametrize("order", [*permutations(("root", "twin", "deep", "far"))], ids="-".join)
async def test_a_deletion_says_what_is_gone_and_who_still_has_the_rest(engine, order):
    root = await engine.create(id="root")
    await root.append("one", "two", "three")
    twin = await root.fork(at=3, id="twin")
    await twin.append("four")
    there = {"root": root, "twin": twin, "deep": await twin.fork(at=2, id="deep"), "far": await twin.fork(id="far")}
    for name in order:
        own = [record.position for record in (await engine.store.read(name, Query())).records[0]]
        receipt = await engine.delete(name, forks="keep")
        del there[name]
        left = {other: len({event.position async for event in c.events()} & set(own)) for other, c in there.items()}
        assert list(receipt.seqs) == list(range(max(left.values(), default=0) + 1, len(own) + 1))
        said = {last: words for last in left.values() for words in receipt.left if f"events 1 to {last}, " in words}
        assert len(said) == len(receipt.left)
        for other in there:
            assert [last for last, words in said.items() if other in words] == [left[other]] * (left[other] > 0)


# -- any history


async def test_every_version_can_be_gone_back_to(engine, seed, long):
    """Whatever was appended, left and taken up again: the path, the window, the turns and the forks of it agree."""
    chance = random.Random(seed)
    for _ in range(100 if long else 10):
        c = await engine.create()
        said: dict[int, list[str]] = {1: []}
        now: list[str] = []
        for step in range(chance.randrange(1, 30)):
            if chance.random() < 0.3:
                version = chance.choice(list(said))
                await c.rewind(version)
                now = list(said[version])
            else:
                role = chance.choice(["user", "user", "assistant", "developer"])
                await c.append({"role": role, "content": f"{role} {step}"})
                now.append(f"{role} {step}")
            said[c.version] = list(now)
            assert await texts(c) == now
        await agrees(c, now)
        version = chance.choice(list(said))
        twin = await c.fork(at=version)
        await agrees(twin, said[version])
        await twin.append("user of its own")
        await agrees(twin, [*said[version], "user of its own"])


async def agrees(c, said):
    """See to it that all that can be read of a conversation's path tells the same."""
    window = await c.window(Budget(100_000))
    assert sorted(map(text_of, window.items)) == sorted(said)
    assert await texts(c, order="desc") == said[::-1]
    entries = [entry async for entry in c.items(limit=2)]
    starts = [turn async for turn in c.turns(limit=2)]
    await what_was_left_is_listed_too(c, entries, starts)
    assert [turn.number for turn in starts] == list(range(1, len(starts) + 1))
    assert {entry.turn for entry in entries} - {0} == {turn.seq for turn in starts}
    for turn in starts:
        mine = [entry.seq for entry in entries if entry.turn == turn.seq]
        assert (turn.first, turn.last >= mine[-1]) == (mine[0], True)


async def what_was_left_is_listed_too(c, entries, starts):
    alive = [turn.seq for turn in starts]
    assert [turn.seq async for turn in c.turns(order="desc", limit=3)] == alive[::-1]
    everything = [entry.seq async for entry in c.items(abandoned=True) if entry.alive]
    assert everything == [entry.seq for entry in entries]
    assert [turn.seq async for turn in c.turns(abandoned=True) if turn.alive] == alive


async def test_after_a_rewind_a_call_may_be_answered_anew(engine):
    c = await engine.create()
    call = {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "found"}
    asked = await c.append("Look!", call)
    await c.append(output)
    await c.rewind(to=asked.version)
    again = await c.append({**output, "output": "otherwise"})
    with pytest.raises(AlreadyAnswered) as raised:
        await c.append(output)
    assert raised.value.seq == again.last
