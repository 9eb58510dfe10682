"""Followers: everything once, in order, from where they were."""

import anyio
import pytest

from turnlog import Conflict, Invalid, open_engine

pytestmark = pytest.mark.anyio


async def taken(engine, most, **options):
    """Return so many events of a follower, and acknowledge them."""
    seen = []
    async with engine.follow(**options) as batches:
        with anyio.fail_after(10):
            async for batch in batches:
                seen += batch
                if options.get("name"):
                    await batches.ack(batch[-1].position)
                if len(seen) >= most:
                    return seen
    return seen


async def test_catching_up_then_live(engine):
    c = await engine.create(metadata={"user": "ada"})
    await c.append("one")
    seen = []

    async def read():
        async with engine.follow(batch=2) as batches:
            async for batch in batches:
                assert len(batch) <= 2
                seen.extend(batch)
                if len(seen) >= 5:
                    return

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.sleep(0.05)
            await c.append("two", "three")
            await (await engine.create()).refresh()
    assert [event.seq for event in seen if event.conversation == c.id] == [1, 2, 3, 4]
    assert all(event.metadata == {"user": "ada"} for event in seen[:4])


async def test_a_name_goes_on_from_its_place(engine):
    c = await engine.create()
    await c.append("one", "two")
    assert [event.seq for event in await taken(engine, 1, name="n", batch=1)] == [1]
    assert [event.seq for event in await taken(engine, 2, name="n")] == [2, 3]
    assert [event.seq for event in await taken(engine, 3, name="another")] == [1, 2, 3]
    # What was not acknowledged comes again.
    await c.append("three")
    async with engine.follow(name="n") as batches:
        assert [event.seq for event in await anext(aiter(batches))] == [4]
    assert [event.seq for event in await taken(engine, 1, name="n")] == [4]


async def test_from_the_end_and_from_a_position(engine):
    c = await engine.create()
    await c.append("one", "two")
    all_ = await taken(engine, 3)
    assert [event.seq for event in await taken(engine, 1, after=all_[1].position)] == [3]
    async with engine.follow(after="end") as batches, engine.follow(after="end", name="n") as named:
        await c.append("three")
        for reading in (aiter(batches), aiter(named)):
            with anyio.fail_after(10):
                assert [event.seq for event in await anext(reading)] == [4]


async def test_one_reads_under_a_name_and_others_stand_by(db):
    async with open_engine(db, lease=0.5) as one, open_engine(db, lease=0.5) as other:
        c = await one.create()
        await c.append("first")
        seen = []

        async def stand_by():
            async with other.follow(name="n") as batches:
                async for batch in batches:
                    seen.extend(event.seq for event in batch)
                    return

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                async with one.follow(name="n") as batches:
                    first = await anext(aiter(batches))
                    group.start_soon(stand_by)
                    await anyio.sleep(0.8)  # longer than the lease: it is kept
                    assert seen == []
                    await batches.ack(first[0].position)
        assert seen == [2]


async def test_who_was_overtaken_cannot_acknowledge(db):
    async with open_engine(db, lease=0.3) as one, open_engine(db) as other:
        await (await one.create()).append("first")
        async with one.follow(name="n") as slow:
            batch = await anext(aiter(slow))
            one.followers.clear()  # nobody keeps its name for it, as in a process that hangs
            await anyio.sleep(0.4)
            assert len(await taken(other, 2, name="n")) == 2
            with pytest.raises(Conflict, match="somebody else"):
                await slow.ack(batch[-1].position)


async def test_what_another_process_appends_is_noticed(db):
    async with open_engine(db) as one, open_engine(db) as other, one.follow() as batches:
        async with anyio.create_task_group() as group:
            group.start_soon(other.create)
            with anyio.fail_after(5):
                assert (await anext(aiter(batches)))[0].type == "conversation.created"


async def test_wrong_arguments(engine):
    for options, words in [({"name": ""}, "name"), ({"batch": 0}, "batch"), ({"name": "x" * 300}, "name")]:
        with pytest.raises(Invalid, match=words):
            async with engine.follow(**options):
                pass
    async with engine.follow() as batches:
        with pytest.raises(Invalid, match="without a name"):
            await batches.ack("1")


async def test_a_conversation_is_followed(engine):
    c = await engine.create()
    seen = []

    async def read():
        async for event in c.events(follow=True):
            seen.append(event.seq)
            if event.seq == 3:
                return

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await c.append("one")
            await anyio.sleep(0.05)
            await c.append("two")
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("position", [5, "middle", "", "99999", b"1"])
async def test_a_position_that_is_none(engine, position):
    c = await engine.create()
    await c.append("one")
    says = r"use one that its feed gave, such as batch\[-1\]\.position"
    with pytest.raises(Invalid, match=says):
        async with engine.follow(after=position):
            pass
    async with engine.follow(name="n") as batches:
        batch = await anext(aiter(batches))
        for wrong in (position, batch[-1]):
            with pytest.raises(Invalid, match=says):
                await batches.ack(wrong)
        await batches.ack(batch[-1].position)
    await c.append("two")
    assert [event.seq for event in await taken(engine, 1, name="n")] == [3]
