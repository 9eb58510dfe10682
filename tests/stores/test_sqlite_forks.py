"""What forks, and finding conversations by their metadata, cost in the SQLite store: counted, not timed."""

import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from itertools import pairwise

import pytest

from turnlog.engine.log import Query
from turnlog.engine.stores import sqlite_reading
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import created, forked, head_of, item, other, records_of, started, texts_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(db):
    opened = await SqliteStore.open(db, durability="normal")
    yield opened
    await opened.close()


async def grown(store, name, size):
    """Create a conversation of so many events, every fifth of them no item."""
    await store.append(name, [created()])
    for start in range(1, size, 100):
        numbers = range(start, min(size, start + 100))
        events = [item(str(n), link=f"call_{n}", tokens=10, marks=("m",)) if n % 5 else other("x") for n in numbers]
        await store.append(name, events)


@asynccontextmanager
async def counted(connection):
    """Count a connection's statements, the rows that it changes, and the steps of SQLite's machine."""
    counts = Counter()

    def step():
        counts["steps"] += 1

    def begin(db):
        counts["rows"] -= db.total_changes
        db.set_trace_callback(lambda statement: counts.update({statement.split()[0]: 1}))
        db.set_progress_handler(step, 1)

    def end(db):
        db.set_trace_callback(None)
        db.set_progress_handler(None, 1)
        counts["rows"] += db.total_changes

    await connection.run(begin)
    yield counts
    await connection.run(end)


async def fork_of(store, name, parent, at):
    async with counted(store._writer) as counts:
        await forked(store, name, parent, at)
    return counts


# -- forks


async def test_a_fork_costs_the_same_whatever_it_shares(store):
    for name, size in (("small", 200), ("large", 4_000)):
        await grown(store, name, size)
    await fork_of(store, "first", "small", 100)  # the first time, statements are compiled
    small = await fork_of(store, "of small", "small", 190)
    large = await fork_of(store, "of large", "large", 3_900)
    steps = [counts.pop("steps") for counts in (small, large)]
    assert small == large
    assert small["rows"] <= 4, "the row of the fork, twice, its first event, and its count"
    assert max(steps) < 64 * 15, "no more than 64 events are counted"


@pytest.mark.parametrize("at", [1, 63, 64, 65, 100, 127, 128, 129, 333])
async def test_what_is_shared_is_counted_right(store, at):
    await grown(store, "c", 400)
    await forked(store, "d", "c", at)
    items = [record.seq for record in (await records_of(store, "c"))[:at] if record.kind == "item.appended"]
    head = await head_of(store, "d")
    assert (head.items, head.last_item) == (len(items), items[-1] if items else 0)


async def test_a_fork_costs_the_same_at_any_depth(store):
    await grown(store, "c0", 100)
    found = [await fork_of(store, f"c{depth}", f"c{depth - 1}", 99 + depth) for depth in range(1, 30)]
    for counts in found:
        assert counts.pop("steps") < 64 * 20
        assert counts.pop("rows") <= 5
    # One row and one statement more, where the fork's first event is one of those that are counted.
    assert {sum(counts.values()) - sum(found[1].values()) for counts in found[1:]} <= {0, 1}


async def test_forks_that_share_the_same_are_of_the_same_origin(store):
    await grown(store, "c", 10)
    for depth in range(1, 50):
        await forked(store, f"c{depth}", "c" if depth == 1 else f"c{depth - 1}", 5)
    found = await store._read(lambda db: sqlite_reading.lineage(db, sqlite_reading.known(db, "c49", 0.0)))
    assert [(first, last) for _, first, last in found] == [(6, 6), (1, 5)]


async def test_reading_a_fork_costs_the_same_whatever_it_shares(store):
    found = []
    for name, size in (("small", 200), ("large", 4_000)):
        await grown(store, name, size)
        await forked(store, f"of {name}", name, size, "own")
    for name in ("small", "small", "large"):
        async with counted(store._free[-1]) as counts:
            await store.read(
                f"of {name}",
                Query(reverse=True, limit=20),
                Query(reverse=True, tokens=100),
                Query(mark="m", limit=5),
                Query(link="call_7"),
                Query(after=50, before=60),
            )
        found.append(counts)
    _, small, large = found
    # A lineage is read once by each connection.
    assert large["WITH"] == small["WITH"] + 1
    assert large["SELECT"] == small["SELECT"]
    assert large["steps"] == pytest.approx(small["steps"], rel=0.1)


async def test_lineages_are_remembered_and_not_for_ever(store, monkeypatch):
    monkeypatch.setattr(sqlite_reading, "_REMEMBERED", 3)
    await grown(store, "c", 5)
    for number in range(8):
        await forked(store, f"d{number}", "c", 3)
    for _ in range(2):
        for number in range(8):
            assert len(await records_of(store, f"d{number}")) == 4
    sizes = [await connection.run(lambda db: len(db.lineages)) for connection in store._free]
    assert max(sizes) <= 3


async def test_a_fork_that_has_the_key_of_another_since_the_database_was_put_back(store, tmp_path):
    for name in ("alice", "bob"):
        await started(store, name, f"of {name}", "more")
    await store.backup(tmp_path / "before.db")
    for parent in ("alice", "bob"):
        for name, at in (("f", 3), ("g", 4)):
            await forked(store, f"{name} of {parent}", parent if name == "f" else f"f of {parent}", at, "own", "more")
            assert (await texts_of(store, f"{name} of {parent}"))[0] == f"of {parent}"
        with closing(sqlite3.connect(tmp_path / "before.db")) as before, closing(sqlite3.connect(store.path)) as now:
            before.backup(now)


async def test_storage_is_linear_however_often_it_is_forked(store, db):
    await grown(store, "c", 2_000)

    async def size():
        await store._writer.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        return db.stat().st_size

    before, sizes = await size(), []
    for round_ in range(4):
        for number in range(100):
            parent = "c" if number % 2 else f"c{round_}.{number - 1}" if number else "c"
            await forked(store, f"c{round_}.{number}", parent, 1_900)
        sizes.append(await size())
    assert all(later - earlier < 100 * 1_000 for earlier, later in pairwise([before, *sizes]))


async def test_who_shares_is_found_without_looking_at_others(store):
    await grown(store, "c", 10)
    await grown(store, "other", 10)
    for number in range(5):
        await forked(store, f"d{number}", "c", 5)
    await store.forks("c")
    found = []
    for _ in range(2):
        async with counted(store._free[-1]) as counts:
            assert len(await store.forks("c")) == 5
        found.append(counts["steps"])
        for number in range(200):
            await forked(store, f"o{len(found)}.{number}", "other", 5)
    assert found[1] == pytest.approx(found[0], rel=0.02)


# -- metadata


async def test_finding_by_metadata_costs_the_same_however_many_others_there_are(store):
    for number in range(1_000):
        await store.append(f"c{number}", [created({"user": "ada", "open": True, "n": number % 2})])
    found = []

    async def steps():
        async with counted(store._free[-1]) as counts:
            for order in ("-updated", "-created", "created"):
                assert len(await store.heads(where={"user": "ada"}, order=order, limit=5)) == 5
                assert len(await store.heads(where={"open": True, "user": "ada", "n": 1}, order=order, limit=5)) == 5
        return counts["steps"]

    await steps()
    for _ in range(2):
        found.append(await steps())
        for number in range(1_000):
            await store.append(f"o{len(found)}.{number}", [created({"user": str(number % 7), "open": number % 2 == 1})])
    # To find the rarest of several values, up to a thousand of each are counted.
    assert found[1] == pytest.approx(found[0], rel=0.02)


async def test_the_rarest_value_leads(store):
    for number in range(600):
        await store.append(f"c{number:03}", [created({"open": True, "user": str(number % 200)})])
    async with counted(store._free[-1] if store._free else store._writer) as counts:
        found = [head.conversation for head in await store.heads(where={"open": True, "user": "7"}, order="created")]
    assert found == ["c007", "c207", "c407"]
    assert counts["steps"] < 6_000, "counting 600 and 3, and going along 3"


async def test_values_of_one_number_are_told_apart(store, monkeypatch):
    from turnlog.engine.stores import sqlite_facets

    monkeypatch.setattr(sqlite_facets, "facet", lambda name, _: 2 * len(name))
    monkeypatch.setattr(sqlite_reading, "facet", lambda name, _: 2 * len(name))
    sqlite_facets._facets.cache_clear()
    try:
        for number in range(30):
            await store.append(f"c{number:02}", [created({"a": number % 10, "b": 1})])
        for order in ("created", "-created", "-updated"):
            assert len(await store.heads(where={"a": 3}, order=order, limit=2)) == 2
            found = {head.conversation for head in await store.heads(where={"a": 3, "b": 1}, order=order)}
            assert found == {"c03", "c13", "c23"}
        await store.append("c03", [item("later")])
        assert (await store.heads(where={"a": 3}))[0].conversation == "c03"
    finally:
        sqlite_facets._facets.cache_clear()


async def test_an_append_writes_nothing_more_where_there_is_no_metadata(store):
    await store.append("plain", [created()])
    await store.append("about", [created({"a": 1, "b": 2, "c": [3]})])
    found = {}
    for name in ("plain", "about"):
        async with counted(store._writer) as counts:
            await store.append(name, [item("x")])
        found[name] = counts["rows"]
    assert found == {"plain": 2, "about": 2 + 2}, "the event and the head; two facets"
