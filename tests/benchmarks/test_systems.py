"""Every system that is installed gives the same window, keeps what it was given, and is counted alike."""

import hashlib

import pytest

from benchmarks import tasks
from benchmarks.measures.windows import walked
from benchmarks.systems import PACKAGES, missing, systems_of
from benchmarks.workload import items, text
from turnlog.engine.vocabulary import load

pytestmark = pytest.mark.anyio


@pytest.fixture(params=PACKAGES, ids=[package.name for package in PACKAGES])
def package(request):
    reason = missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


async def test_windows_are_those_of_the_walk_also_when_opened_again(package, tmp_path):
    count = (await load()).count
    for kind in systems_of(package):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        for number in range(2):
            async with kind(folder, count) as system:
                await system.begin("c")
                if number == 0:
                    await system.seed("c", items(80))
                await system.append("c", items(20, 20 + 5 * number))
                length = 100 + 20 * number
                for way in system.ways:
                    found = await system.window("c", 4_000, way)
                    texts = [system.text(item) for item in found.items]
                    whole = hashlib.sha256("\n".join(texts).encode()).hexdigest()
                    if "oldest-turns" in way:
                        assert texts == [text(item) for item in items(length)][-len(texts) :]
                    else:
                        assert (len(texts), whole) == walked(length, 4_000, count), (kind.name, way)
                assert "FULL" in await system.durability() or "fdatasync" in await system.durability()
        assert system.bytes() > 0


@pytest.mark.parametrize("name", ["turnlog", "bare"])
async def test_durability_is_what_its_own_connection_says(name, tmp_path):
    kind = systems_of(next(one for one in PACKAGES if one.name == name))[0]
    async with kind(tmp_path, (await load()).count) as system:
        sql = "PRAGMA synchronous = NORMAL"
        if name == "turnlog":
            await system.engine.store._writer.run(lambda db: db.execute(sql))
        else:
            await system._run(lambda: system._db.execute(sql))
        assert await system.durability() == "SQLite wal, synchronous=NORMAL"


async def test_a_process_is_as_large_as_it_comes_to_be_and_not_as_it_was(tmp_path):
    block = b"x" * 64_000_000
    del block
    tasks.most_from_now_on()
    before, most = tasks.memory()
    assert most - before < 1_000_000
    block = b"x" * 64_000_000
    assert tasks.memory()[1] - before > 60_000_000
    del block


async def test_rows_are_counted(tmp_path):
    ours = systems_of(next(one for one in PACKAGES if one.name == "turnlog"))[0]
    async with ours(tmp_path, (await load()).count) as system:
        await system.begin("c")
        await system.seed("c", items(200))
        found = await system.window("c", 2_000, "live")
        assert await system.rows("c", 2_000, "live") == 0
        assert await system.rows("c", 2_000, "cold") > len(found.items)
