"""The SQLite store beyond the contract: its file, its connections, and callers who go away."""

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from turnlog.engine.errors import Invalid, StoreError
from turnlog.engine.log import Key, Query
from turnlog.engine.stores.sqlite import SCHEMA_VERSION, SqliteStore
from turnlog.engine.stores.statements import script
from turnlog.engine.testing.cancelling import HOW, everywhere
from turnlog.engine.testing.contract_kit import created, item, records_of, started

pytestmark = pytest.mark.anyio

SCHEMA = script("sqlite_schema.sql")


async def opened(path, **options):
    store = await SqliteStore.open(path, **options)
    await started(store, "c", "one", "two")
    return store


def open_files(db):
    """Return how many times this process has files of a database open."""
    found = 0
    for number in Path("/proc/self/fd").iterdir():
        try:
            found += str(number.readlink()).startswith(str(db))
        except OSError:
            continue
    return found


def workers():
    """Return how many threads of connections there are."""
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


async def left(db, threads):
    """See to it that no file of a database stays open, and that no more threads run than there were before."""
    assert open_files(db) == 0
    with anyio.fail_after(5):
        while workers() > threads:
            await anyio.sleep(0.001)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# -- the file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_the_files_are_for_their_owner_only(db, umask):
    before = os.umask(umask)
    try:
        store = await opened(db)
        found = {path.name: mode(path) for path in db.parent.iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert set(found) == {"log.db", "log.db-wal", "log.db-shm"}
    assert all(each & 0o177 == 0 for each in found.values())


async def test_a_file_that_is_there_keeps_its_mode(db):
    db.touch()
    db.chmod(0o660)
    store = await opened(db)
    assert mode(db) == mode(db.with_name("log.db-wal")) == 0o660
    await store.close()


async def test_the_database_says_whose_it_is(db):
    await (await opened(db)).close()
    with sqlite3.connect(db) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"turn", "big"),)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_the_schema_is_what_its_file_says(db):
    await (await opened(db)).close()
    of = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    there, told = sqlite3.connect(db), sqlite3.connect(":memory:")
    told.executescript(SCHEMA)
    assert there.execute(of).fetchall() == told.execute(of).fetchall()
    there.close()
    told.close()


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_durability_is_how_the_log_is_flushed(db, durability, level):
    store = await opened(db, durability=durability)
    found = await store._writer.run(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
        ]
    )
    assert found == [level, "wal"]
    await store.close()


async def test_opening_and_reading_write_nothing(db):
    await (await opened(db)).close()
    content, changed = db.read_bytes(), db.stat().st_mtime_ns

    store = await SqliteStore.open(db, migrate=False)
    assert len(await records_of(store)) == 3
    assert len(await store.heads()) == 1
    assert await store.key("c", "k") is None
    assert await store.body("00") is None
    wal = db.with_name("log.db-wal")
    assert not wal.exists() or wal.stat().st_size == 0
    await store.close()
    assert (db.read_bytes(), db.stat().st_mtime_ns) == (content, changed)
    assert [path.name for path in db.parent.iterdir()] == ["log.db"]


async def test_a_path_may_have_any_name(tmp_path):
    for name in ("a b.db", "a?b#c%41.db", "ключ 😀.db", "file:x.db", "?mode=ro", "\udcff.db"):
        path = tmp_path / name
        for given in (path, str(path)):
            store = await SqliteStore.open(given)
            if given is path:
                await started(store)
            assert len(await records_of(store)) == 1
            await store.close()
        assert path.stat().st_size > 0
    assert len(list(tmp_path.iterdir())) == 6


async def test_a_relative_path_is_meant_from_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = await SqliteStore.open("log.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await started(store)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(store.read, "c", Query())
    await store.close()
    assert (tmp_path / "log.db").stat().st_size > 0
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_the_clock_says_when(db):
    from datetime import UTC, datetime

    store = await SqliteStore.open(db, clock=lambda: datetime(2030, 1, 2, tzinfo=UTC))
    appended = await started(store)
    assert appended.time == 1_893_542_400_000_000
    await store.close()


@pytest.mark.parametrize("position", ["", "x", "-1", "1.5", "9" * 30])
async def test_a_position_of_another_store_is_refused(db, position):
    store = await opened(db)
    try:
        for call in (lambda: store.feed(position, 5), lambda: store.ack("search", "one", position)):
            with pytest.raises(
                Invalid, match="not a position of this store; use one that its feed gave, such as batch"
            ):
                await call()
    finally:
        await store.close()


# -- connections


async def test_closing_leaves_no_thread_and_no_file(db):
    threads = workers()
    store = await opened(db)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(store.read, "c", Query())
    assert 2 <= workers() - threads <= 5, "a writer and up to four readers"
    await store.close()
    await store.close()
    await left(db, threads)
    assert [path.name for path in db.parent.iterdir()] == ["log.db"]


async def test_closing_waits_for_reads_that_are_under_way(db):
    threads = workers()
    store = await opened(db)
    results = []

    async def read():
        try:
            results.append(await store.read("c", Query()))
        except StoreError as closed:
            results.append(closed)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(read)
        await anyio.lowlevel.checkpoint()
        await store.close()
        await left(db, threads)
    assert len(results) == 20
    refused = [str(result) for result in results if isinstance(result, StoreError)]
    assert set(refused) == {f"{db}: the store is closed"}
    assert all(result.head.version == 3 for result in results if not isinstance(result, StoreError))


@pytest.mark.parametrize("how", HOW)
async def test_whoever_is_cancelled_while_opening_leaves_nothing_open(db, how):
    threads = workers()
    async for attempt in everywhere(lambda: SqliteStore.open(db), how):
        if attempt.result is not None:
            await attempt.result.close()
        await left(db, threads)
    store = await opened(db)
    assert len(await records_of(store)) == 3
    await store.close()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "verb", ["append", "read", "heads", "forks", "key", "body", "feed", "end", "stand", "ack", "resign", "renew"]
)
async def test_whoever_is_cancelled_leaves_a_store_that_works(db, how, verb):
    threads = workers()
    store = await opened(db)
    calls = {
        "append": lambda: store.append("c", [item("x")]),
        "read": lambda: store.read("c", Query(), Query(reverse=True)),
        "heads": lambda: store.heads(where={"a": 1}),
        "forks": lambda: store.forks("c"),
        "key": lambda: store.key("c", "k"),
        "body": lambda: store.body("00"),
        "feed": lambda: store.feed(None, 5),
        "end": store.end,
        "stand": lambda: store.stand("search", "one", 1.0),
        "ack": lambda: store.ack("search", "one", "1"),
        "resign": lambda: store.resign("search", "one"),
        "renew": lambda: store.renew("c", 1, 1.0),
    }

    async def call():
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(store.read, "c")
            return await calls[verb]()

    async for _ in everywhere(call, how):
        assert await store.read("c") is not None
    for _ in range(2):
        await store.append("c", [item("y")])
        assert len(await records_of(store)) >= 3
    assert workers() - threads <= 5
    await store.close()
    await left(db, threads)


@pytest.mark.parametrize("how", HOW)
async def test_whoever_is_cancelled_at_the_very_first_append_leaves_a_store_that_works(tmp_path, how):
    # The writer is opened by it, which takes a few hops.
    numbers = iter(range(1000))
    async for _ in everywhere(lambda: first_append(tmp_path / f"{next(numbers)}.db"), how):
        pass
    for path in tmp_path.glob("*.db"):
        store = await SqliteStore.open(path)
        snapshot = await store.read("c", Query())
        assert snapshot is None or len(snapshot.records[0]) == 2
        await store.close()


async def first_append(path: Path):
    store = await SqliteStore.open(path)
    await store.close()
    store = await SqliteStore.open(path)
    try:
        await store.append("c", [created(), item("a")])
    finally:
        await store.close()


@pytest.mark.parametrize("how", HOW)
async def test_a_cancelled_close_closes(db, how):
    threads = workers()
    store = await opened(db)

    async def call():
        tasks = [asyncio.ensure_future(store.append("c", [item(str(number))])) for number in range(3)]
        await anyio.lowlevel.checkpoint()
        try:
            await store.close()
        finally:
            await asyncio.wait(tasks)
            for task in tasks:
                task.exception()

    async for _ in everywhere(call, how):
        await store.close()
        await left(db, threads)
        store = await SqliteStore.open(db)
        await records_of(store)
    await store.close()


async def test_one_store_is_read_and_written_by_many_tasks(db):
    store = await opened(db)
    done = []

    async def reader():
        while len(done) < 50:
            snapshot = await store.read("c", Query(), Query(reverse=True, limit=1))
            assert snapshot.records[1][0].seq == snapshot.head.version == len(snapshot.records[0])

    async def writer(number):
        for part in range(5):
            await store.append("c", [item(f"{number}.{part}")], key=Key(f"{number}.{part}", "d"))
            done.append(part)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(writer, number)
        for _ in range(6):
            group.start_soon(reader)
    assert len(await records_of(store)) == 53
    await store.close()
