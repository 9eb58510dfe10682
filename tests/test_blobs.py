"""Blobs: large content stands out of line, and nobody notices."""

import msgspec
import pytest

from turnlog import Budget, open_engine
from turnlog.engine.blobs import LIMIT, packed
from turnlog.engine.canonical import canonical
from turnlog.engine.log import Query
from turnlog.engine.portable import Package, dump, restore
from turnlog.engine.replay import verify
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.server import Call

pytestmark = pytest.mark.anyio

LONG = "a line of a long file, over and over; " * 4000
IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 20_000
PICTURE = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}


async def read_file() -> str:
    return LONG


async def rows(engine, c):
    return (await engine.store.read(c.id, Query())).records[0]


async def bodies(engine, c):
    return {name for record in await rows(engine, c) for name in digests(record)}


def digests(record):
    said = msgspec.json.decode(record.data or b"{}")
    return [digest for _, digest in said.get("blobs", [])]


async def test_what_is_sent_and_listed_is_whole(stage, api):
    async with stage(Call("read_file"), "Done.", "A picture.") as s:
        c = await s.engine.create()
        await c.run(s.model(api, budget=Budget(200_000)), "Read it", tools=[read_file])
        await c.run(s.model(api, budget=Budget(200_000)), PICTURE)
        assert LONG in str(s.bodies[1])
        assert IMAGE in str(s.bodies[2])
        entries = [entry.item async for entry in c.items()]
        assert any(item.get("output") == LONG for item in entries)
        assert PICTURE in entries
        assert all(len(record.item or b"") < 4000 for record in await rows(s.engine, c))
        report = await verify(s.engine.store, c.id)
        assert report.verified == report.responses == 3


async def test_an_excerpt_is_of_the_whole(stage, api):
    async with stage(Call("read_file"), "Done.", "On.") as s:
        c = await s.engine.create()
        await c.run(s.model(api, budget=Budget(200_000)), "Read it", tools=[read_file])
        small = s.model(api, budget=Budget(2_000))
        await c.run(small, "And?")
        text = str(s.bodies[2])
        assert LONG[:800] in text
        assert LONG[-400:] in text
        assert f"of {len(LONG):,} characters left out" in text


async def test_the_same_content_is_stored_once_and_goes_with_the_last_that_has_it(engine):
    c, other = await engine.create(), await engine.create()
    await c.append(PICTURE, PICTURE)
    await other.append(PICTURE)
    (name,) = await bodies(engine, c) | await bodies(engine, other)
    assert await engine.store.body(name) == canonical(IMAGE)
    assert (await c.erase(2, reason="x")).blobs == 0
    assert (await engine.delete(other.id)).blobs == 0
    assert await engine.store.body(name) is not None
    assert (await c.erase(3, reason="x")).blobs == 1
    assert await engine.store.body(name) is None


async def test_a_key_is_of_the_whole(engine):
    c = await engine.create()
    changed = LONG + "!"
    first = await c.append(LONG, key="k")
    assert (await c.append(LONG, key="k")).replayed
    with pytest.raises(Exception, match="used for other input"):
        await c.append(changed, key="k")
    assert first.last == c.version


async def test_export_and_import(engine):
    c = await engine.create()
    await c.append(PICTURE, LONG)
    twin = await c.fork(at=2)
    await twin.append("own", LONG)
    other = MemoryStore()
    lines = [msgspec.json.decode(line) async for line, _ in dump(engine.store, twin.id)]
    package = None
    for line in lines:
        if "turnlog" in line:
            if package is not None:
                await restore(other, package)
            package = Package(line)
        else:
            package.add(line)
    assert await restore(other, package) > 0
    assert await restore(other, package) == 0

    async def told(store):
        return [(one.seq, one.item, one.data, one.sum) for one in (await store.read(twin.id, Query())).records[0]]

    assert await told(other) == await told(engine.store)
    for name in await bodies(engine, twin):
        assert await other.body(name) == await engine.store.body(name)


async def test_another_counter_counts_the_whole(stage, api):
    async with stage("Fine.") as s:
        c = await s.engine.create()
        await c.append(LONG)
        model = s.model(api, budget=Budget(2_000_000), count=len)
        window = await c.window(model=model)
        assert window.manifest.weights[2] >= len(LONG)
        await c.run(model)


async def test_a_database_keeps_it(db):
    async with open_engine(db) as engine:
        c = await engine.create()
        await c.append(PICTURE)
    async with open_engine(db) as engine:
        c = await engine.get(c.id)
        assert [entry.item async for entry in c.items()] == [PICTURE]


def test_short_strings_stay():
    item = {"type": "x", "text": "a" * LIMIT, "parts": [{"data": "b" * (LIMIT + 1)}]}
    stub, blobs, contents = packed(item)
    assert stub["text"] == item["text"]
    assert [blob.path for blob in blobs] == [("parts", 0, "data")]
    assert len(contents) == 1
