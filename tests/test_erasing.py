"""Erasing: the content is gone wherever it stood, and the conversation goes on."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from turnlog import Budget, Invalid, NotFound, StoreError, open_engine, tool
from turnlog.engine.canonical import loads
from turnlog.engine.codec import event
from turnlog.engine.errors import CallsOpen
from turnlog.engine.events import ContextCompacted, StandIn
from turnlog.engine.log import Query
from turnlog.engine.portable import Package, dump, restore
from turnlog.engine.replay import verify
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.server import Call

pytestmark = pytest.mark.anyio


async def look(at: str = "here") -> str:
    return f"seen {at}"


async def shapes(c):
    return {entry.seq: (entry.item.get("type", entry.item.get("role")), entry.erased) async for entry in c.items()}


def body_of(window, api):
    if api == "chat":
        return {"model": "m", "messages": window.messages}
    return {"model": "m", "input": window.items, "store": False}


async def test_an_erased_item_is_gone_and_the_next_turn_works(stage, api):
    async with stage("Hello.", "Fine.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "My word is xyzzy")
        before = (await verify(s.engine.store, c.id)).verified
        receipt = await c.erase(2, reason="GDPR 17")
        assert (list(receipt.seqs), list(receipt.left), list(receipt.derived)) == ([2], [], [])
        records = (await s.engine.store.read(c.id, Query())).records[0]
        assert b"xyzzy" not in b"".join((one.item or b"") + (one.data or b"") for one in records)
        entry = (await c.items()).data[0]
        assert (entry.seq, entry.erased, entry.item) == (2, True, {})
        report = await verify(s.engine.store, c.id)
        assert (before, report.verified, report.erased, report.diverged) == (1, 0, 1, [])
        with pytest.raises(NotFound) as raised:
            await (await c.responses()).data[0].request()
        assert raised.value.deleted
        await c.run(s.model(api), "How are you?")
        assert "xyzzy" not in str(s.bodies[1])
        window = await c.window(model=s.model(api))
        assert (window.manifest.why(2).fate, window.manifest.why(2).rule) == ("erased", "erased")


@pytest.mark.parametrize("what", ["call", "output", "both"])
async def test_what_is_left_of_a_call_is_valid(stage, api, what):
    async with stage(Call("look"), "Done.", "On.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Go", tools=[look])
        seqs = {event.item["type"]: event.seq async for event in c.events() if event.item and "type" in event.item}
        call, output = seqs["function_call"], seqs["function_call_output"]
        await c.erase(*{"call": [call], "output": [output], "both": [call, output]}[what], reason="x")
        for kind in ("responses", "chat"):
            window = await c.window(Budget(5000), api=kind)
            assert refusals(kind, body_of(window, kind)) == []
        assert (await c.run(s.model(api), "And?")).output_text == "On."


async def test_an_erased_open_call_is_not_waited_for(stage, api):
    async with stage(Call("ask"), "On.") as s:
        c = await s.engine.create()
        tool = {"type": "function", "name": "ask", "parameters": {"type": "object", "properties": {}}}
        await c.run(s.model(api), "Go", tools=[tool])
        with pytest.raises(CallsOpen):
            await c.run(s.model(api), "And?")
        (call,) = await c.open_calls()
        await c.erase(call.seq, reason="x")
        assert list(await c.open_calls()) == []
        assert (await c.run(s.model(api), "And?")).output_text == "On."


async def test_forks_are_reached_and_compactions_are_void(engine):
    c = await engine.create()
    await c.append("secret", "two", "three")
    twin = await c.fork()
    deep = await twin.fork(at=2)
    summary = {"type": "message", "role": "user", "content": "they spoke of a secret"}
    said = event(ContextCompacted(first=2, last=3, stand_in=[StandIn(item=summary)], method="summary"), tokens=10)
    await engine.writer.append(twin.id, [said])
    await twin.refresh()
    assert "spoke" in str((await twin.window(Budget(500))).items)
    receipt = await c.erase(2, reason="x")
    assert sorted(receipt.forks) == sorted([twin.id, deep.id])
    assert list(receipt.derived) == [f"{twin.id}/{twin.version}"]
    for one in (c, twin, deep):
        window = await one.window(Budget(500))
        assert "secret" not in str(window.items)
        assert window.manifest.base == 0
        kinds = [event.type async for event in one.events()]
        assert kinds[-1] == "item.erased"
    assert [item["content"] for item in (await twin.window(Budget(500))).items] == ["two", "three"]


async def test_erasing_in_a_fork_reaches_the_parent(engine):
    c = await engine.create()
    await c.append("secret", "two")
    twin = await c.fork()
    await twin.append("own")
    receipt = await twin.erase(2, 5, reason="x")
    assert list(receipt.forks) == [c.id]
    assert [entry.erased async for entry in c.items()] == [True, False]
    assert [entry.erased async for entry in twin.items()] == [True, False, True]


async def test_what_cannot_be_erased(engine):
    c = await engine.create()
    await c.append("one")
    await c.rewind(1)
    for seqs, words in [((), "at least one"), ((3,), "holds no content"), ((9,), "no seq 9"), ((0,), "seq=0")]:
        with pytest.raises(Invalid, match=words):
            await c.erase(*seqs, reason="x")
    await c.erase(2, reason="x")
    await c.erase(2, reason="again")
    with pytest.raises(NotFound):
        await (await engine.create()).refresh() and await c._engine.get("nobody")


# -- somebody else is faster


def meddling(engine, monkeypatch, *meddlers):
    """Let something happen just before each of the store's erasures, the last of it before all that follow."""
    erase, todo = engine.store.erase, list(meddlers)

    async def overtaken(appends):
        await (todo.pop(0) if len(todo) > 1 else todo[0])()
        return await erase(appends)

    monkeypatch.setattr(engine.store, "erase", overtaken)


async def test_whoever_appends_all_the_time_does_not_keep_an_erasure_off(engine, monkeypatch):
    c = await engine.create()
    await c.append("secret")
    twin = await c.fork()

    async def append():
        await c.append("more")
        await twin.append("more")

    meddling(engine, monkeypatch, append)
    receipt = await c.erase(2, reason="x")
    assert list(receipt.forks) == [twin.id]
    assert [entry.erased async for entry in c.items()] == [True, False]


async def test_what_was_compacted_or_forked_in_between_is_reached(engine, monkeypatch):
    c = await engine.create()
    await c.append("secret", "two")
    twins = []

    async def quote():
        summary = {"type": "message", "role": "user", "content": "they spoke of a secret"}
        said = event(ContextCompacted(first=2, last=3, stand_in=[StandIn(item=summary)], method="summary"), tokens=10)
        await engine.writer.append(c.id, [said])
        twins.append(await c.fork())
        assert "spoke" in str((await twins[0].window(Budget(500))).items)

    async def nothing():
        pass

    meddling(engine, monkeypatch, quote, nothing)
    receipt = await c.erase(2, reason="x")
    assert (list(receipt.derived), list(receipt.forks)) == ([f"{c.id}/4"], [twins[0].id])
    for one in (c, *twins):
        assert [item["content"] for item in (await one.window(Budget(500))).items] == ["two"]
    kinds = [one.type async for one in c.events()]
    assert kinds.count("item.erased") == 2


async def test_a_fork_that_was_deleted_in_between_is_not_missed(engine, monkeypatch):
    c = await engine.create()
    await c.append("secret")
    twin = await c.fork()

    async def gone():
        with suppress(NotFound):
            await engine.delete(twin.id)

    meddling(engine, monkeypatch, gone)
    assert list((await c.erase(2, reason="x")).forks) == []


async def test_metadata_that_was_set_in_between_stays(engine, monkeypatch):
    c = await engine.create(metadata={"user": "ada"})

    async def update():
        await c.update_metadata({"user": "bob"})

    async def nothing():
        pass

    meddling(engine, monkeypatch, update, nothing)
    await c.erase(1, reason="x")
    assert c.metadata == {"user": "bob"}


@pytest.mark.parametrize("what", ["the summary", "the question"])
async def test_a_compaction_of_which_nothing_is_left_is_void(stage, api, what):
    """Else windows would begin with nothing in the place of all that was compacted."""
    told = "They spoke of words, of rain and of little else, at great length. " * 3
    async with stage(*["word " * 100] * 3, told, "Fine.") as s:
        c = await s.engine.create()
        for number in range(3):
            await c.run(s.model(api), f"question {number} " + "word " * 100)
        made = await c.compact(s.model(api), method="summary")
        (summary,) = [one.seq async for one in c.events() if one.item and "They spoke" in str(one.item)]
        (request,) = [call.seq async for call in c.responses() if call.purpose == "compaction"]
        receipt = await c.erase(summary if what == "the summary" else request - 1, reason="x")
        assert f"{c.id}/{made.seq}" in receipt.derived
        assert (await c.window(model=s.model(api))).manifest.base == 0
        await c.run(s.model(api), "Go on")
        assert "question 0" in str(s.bodies[-1])
        assert await (await c.responses()).data[-1].request() == s.bodies[-1]


async def test_what_no_request_held_takes_none_along(stage, api):
    """What a person decided is no part of a request, though it stands between what is."""
    async with stage(Call("look", id="a"), "Done.") as s:
        c = await s.engine.create()
        asked = {"tools": [tool(approval=True)(look)]}
        await c.run(s.model(api), "Look", **asked)
        decided = await c.decide("a", approve=True, by="ada@x", reason="she asked for it")
        await c.run(s.model(api), **asked)
        await c.erase(decided.first, reason="x")
        assert "ada@x" not in str([event async for event in c.events()])
        assert [await call.request() async for call in c.responses()] == s.bodies
        report = await verify(s.engine.store, c.id)
        assert (report.verified, report.erased) == (2, 0)


# -- metadata


async def test_metadata_is_erased_from_the_events_that_said_it_and_from_what_is_current(engine):
    c = await engine.create(metadata={"mail": "a@x", "about": {"name": "Ada", "age": 36}, "user": "u1"})
    await c.update_metadata({"mail": "b@x", "about": {"age": 37}, "user": None})
    await c.update_metadata({"mail": "c@x", "plan": "free"})
    receipt = await c.erase(1, 2, reason="asked to")
    assert (list(receipt.seqs), list(receipt.left)) == ([1, 2], [])
    assert (await c.refresh()).metadata == {"mail": "c@x", "plan": "free", "about": {}}
    assert [info.id async for info in engine.list(where={"mail": "c@x"})] == [c.id]
    held = b"".join(one.data or b"" for one in (await engine.store.read(c.id, Query())).records[0])
    for word in (b"a@x", b"b@x", b"Ada", b"36", b"37", b"u1"):
        assert word not in held
    assert c.version == 7  # two took it away, two say so
    await c.erase(1, 2, reason="again")
    assert (await c.refresh()).metadata == {"mail": "c@x", "plan": "free", "about": {}}


async def test_a_copy_of_what_was_erased_has_the_same_metadata(engine):
    c = await engine.create(metadata={"a": 1, "b": {"c": 2}, "d": True})
    await c.update_metadata({"a": None, "b": {"c": None, "e": 3}})
    await c.update_metadata({"d": 1})
    await c.erase(2, reason="x")
    assert c.metadata == {"b": {}, "d": 1}
    lines = [line async for line, _ in dump(engine.store, c.id, {})]
    async with open_engine(":memory:") as other:
        package = Package(loads(lines[0]))
        for line in lines[1:]:
            package.add(loads(line))
        await restore(other.store, package)
        assert (await other.get(c.id)).metadata == c.metadata


async def test_metadata_beside_a_compaction_and_a_request(stage, api):
    async with stage("Hello.", "On.") as s:
        c = await s.engine.create()
        await c.append("one")
        await c.update_metadata({"user": "ada"})
        await c.run(s.model(api), "two")
        summary = {"type": "message", "role": "user", "content": "one and two"}
        said = event(ContextCompacted(first=2, last=4, stand_in=[StandIn(item=summary)], method="summary"), tokens=10)
        await s.engine.writer.append(c.id, [said])
        receipt = await c.erase(3, reason="x")
        assert list(receipt.derived) == []
        assert "one and two" in str((await c.window(Budget(500))).items)
        assert (await verify(s.engine.store, c.id)).verified == 1
        assert [await call.request() async for call in c.responses()] == s.bodies
        await c.run(s.model(api), "three")
        assert c.metadata == {}


async def test_metadata_that_forks_copied_is_theirs_and_is_named(engine):
    c = await engine.create(metadata={"user": "ada"})
    await c.append("one")
    twin, other = await c.fork(), await c.fork(metadata={"user": "bob"})
    deep = await twin.fork(at=2)
    receipt = await c.erase(1, reason="x")
    assert sorted(receipt.forks) == sorted([twin.id, other.id, deep.id])
    (left,) = receipt.left
    assert twin.id in left
    assert deep.id in left
    assert other.id not in left
    users = [(await engine.get(one.id)).metadata.get("user") for one in (c, twin, other, deep)]
    assert users == [None, "ada", "bob", "ada"]
    receipt = await twin.erase(3, reason="x")
    assert ((await twin.refresh()).metadata, list(receipt.forks)) == ({}, [])
    assert (twin.id in receipt.left[0], deep.id in receipt.left[0]) == (False, True)
    (created,) = [one async for one in twin.events(after=2) if one.type == "conversation.created"]
    assert (created.data["parent"], created.data["at"], created.metadata) == (c.id, 2, None)
    assert list((await deep.erase(3, reason="x")).left) == []


async def test_a_deletion_names_the_forks_that_keep_metadata(engine):
    c = await engine.create(metadata={"user": "ada"})
    await c.append("one")
    twin, other = await c.fork(), await c.fork(metadata={"user": "bob"})
    shared, copied = (await engine.delete(c.id, forks="keep")).left
    assert (twin.id in shared, other.id in shared) == (True, True)
    assert (twin.id in copied, other.id in copied) == (True, False)
    assert twin.metadata == {"user": "ada"}
    await twin.erase(1, reason="x")  # the events that it shares are its own now
    assert b"ada" not in ((await engine.store.read(twin.id, Query(before=2))).records[0][0].data or b"")
    (shared,) = (await engine.delete(twin.id)).left
    assert other.id in shared
    assert list((await engine.delete(other.id)).left) == []


@pytest.mark.parametrize("reason", ["", " ", "\n", None, 7])
async def test_a_reason_says_something(engine, reason):
    c = await engine.create()
    await c.append("one")
    with pytest.raises(Invalid, match="a text that says why is needed"):
        await c.erase(2, reason=reason)
    with pytest.raises(Invalid, match="a text that says why is needed"):
        engine.expire(timedelta(1), reason=reason)
    if reason:
        with pytest.raises(Invalid, match="a text that says why is needed"):
            await engine.delete(c.id, reason=reason)
    assert (await c.refresh()).version == 2


async def test_what_nothing_refers_to_is_collected(db):
    async with open_engine(db) as engine:
        await engine.create(metadata={"user": "ada"})
        await engine.store._write(unused)
        assert await engine.collect() == 0
        assert await engine.collect(timedelta(minutes=30)) == 1
        assert await engine.store.body("00") is None
        with pytest.raises(Invalid, match="age"):
            await engine.collect(timedelta(-1))


def unused(db):
    """Have a body that nothing has referred to for most of an hour."""
    since = (time.time() - 3000) * 1_000_000
    db.execute("INSERT INTO bodies VALUES (x'00', x'01')")
    db.execute("INSERT INTO refs VALUES (0, ?, x'00')", (int(since),))


async def test_deleting_again_says_that_it_is_gone(engine):
    c = await engine.create()
    twin = await c.fork()
    await engine.delete(c.id, forks="keep")
    for forks in ("refuse", "keep", "delete"):
        with pytest.raises(NotFound) as again:
            await engine.delete(c.id, forks=forks)
        assert again.value.deleted
    assert (await engine.get(twin.id)).version == 2
    with pytest.raises(NotFound) as never:
        await engine.delete("nobody")
    assert not never.value.deleted


async def test_a_deletion_that_was_cut_off_between_forks_is_gone_on_with(engine, monkeypatch):
    c = await engine.create()
    await c.append("secret")
    forks = [await c.fork() for _ in range(3)]
    delete, calls = engine.store.delete, []

    async def cut_off(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise StoreError("killed")
        return await delete(*args, **options)

    with monkeypatch.context() as cut:
        cut.setattr(engine.store, "delete", cut_off)
        with pytest.raises(StoreError):
            await engine.delete(c.id, forks="delete")
    assert len([info async for info in engine.list()]) == 2
    receipt = await engine.delete(c.id, forks="delete")
    assert set(receipt.forks) < {fork.id for fork in forks}
    assert [info async for info in engine.list()] == []
    assert {one.record.kind for one in await engine.store.feed(None, 100)} == {"conversation.deleted"}


async def test_what_is_old_expires(db):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with open_engine(":memory:", clock=lambda: now) as engine:
        old = await engine.create(metadata={"user": "ada"})
        await old.append("long ago")
        twin = await old.fork()
        kept = await engine.create(metadata={"user": "bob"})
        now += timedelta(days=100)
        await twin.append("today")
        new = await engine.create(metadata={"user": "ada"})
        gone = [receipt async for receipt in engine.expire(timedelta(days=90), where={"user": "ada"})]
        assert [(one.conversation, list(one.forks)) for one in gone] == [(old.id, [twin.id])]
        assert {info.id async for info in engine.list()} == {twin.id, kept.id, new.id}
        assert [entry.item["content"] async for entry in twin.items()] == ["long ago", "today"]
        with pytest.raises(Invalid, match="age"):
            engine.expire(timedelta(0))
