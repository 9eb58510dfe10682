"""Appends that wait behind a commit of SQLite: when it fails, when others write meanwhile, when the process ends."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
import pytest

from turnlog.engine.errors import CorruptLog, Invalid, StoreError
from turnlog.engine.log import Appended
from turnlog.engine.stores.sqlite import SCHEMA_VERSION, SqliteStore
from turnlog.engine.testing.contract_kit import created, item, started, texts_of

pytestmark = pytest.mark.anyio


class Gate:
    """A clock at which the writer's thread waits, once for each commit."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.opened.set()
        self.fails = []

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(30)
        if self.fails:
            raise self.fails.pop()
        return datetime(2030, 1, 2, tzinfo=UTC)

    def close(self):
        self.reached.clear()
        self.opened.clear()


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
async def store(db, gate):
    store = await SqliteStore.open(db, clock=gate)
    await started(store, "c")
    yield store
    gate.opened.set()
    await store.close()


async def queued(store, gate, *texts):
    """Begin a commit for the first, and let the others wait behind it in the writer's thread."""
    gate.close()
    tasks = []
    for text in texts:
        tasks.append(asyncio.ensure_future(store.append("c", [item(text)])))
        while not gate.reached.is_set():
            await anyio.sleep(0.001)
    while len(store._batcher._commits) < 2:
        await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    return tasks


async def told(tasks):
    return await asyncio.gather(*tasks, return_exceptions=True)


# -- commits that fail


async def test_a_commit_behind_one_that_failed_goes_to_another_connection(store, gate):
    # This connection has no room for either, another has.
    writer = store._writer
    await writer.run(lambda db: db.execute("PRAGMA max_page_count = 40").fetchone())
    tasks = await queued(store, gate, "a" * 1_000_000, "b" * 1_000_000)
    gate.opened.set()
    full, written = await told(tasks)
    assert "the disk is full" in str(full)
    assert isinstance(written, Appended), written
    assert store._writer is not writer
    assert await texts_of(store) == ["b" * 1_000_000]


async def test_when_the_clock_fails_its_batch_is_told_and_the_next_is_written(store, gate):
    error = LookupError("a clock that fails")
    gate.fails.append(error)
    tasks = await queued(store, gate, "a", "b", "c")
    gate.opened.set()
    first, *others = await told(tasks)
    assert first is error
    assert all(isinstance(outcome, Appended) for outcome in others)
    assert await texts_of(store) == ["b", "c"]


async def test_a_schema_that_changes_while_appends_are_queued_is_refused_by_each(store, gate, db):
    tasks = await queued(store, gate, "a", "b")
    newer = sqlite3.connect(db)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    gate.opened.set()
    for refused in await told(tasks):
        assert isinstance(refused, StoreError)
        assert f"and is {SCHEMA_VERSION + 1} now" in str(refused)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    newer.close()
    assert await texts_of(store) == []
    await store.append("c", [item("c")])


BROKEN = {"refs": (5,)}
"""What nothing checks for: an error of no kind that is known."""


@pytest.mark.parametrize(
    ("columns", "kind"), [({"refs": ("zz",)}, Invalid), (BROKEN, TypeError)], ids=["cannot be stored", "broken"]
)
async def test_nobody_pays_for_the_append_of_another(store, gate, columns, kind):
    gate.close()
    given = [item("a"), item("b", **columns), item("c"), item("d", **BROKEN), item("e")]
    tasks = [asyncio.ensure_future(store.append("c", [each])) for each in given]
    await anyio.lowlevel.checkpoint()
    gate.opened.set()
    outcomes = [type(outcome) for outcome in await told(tasks)]
    assert outcomes == [Appended, kind, Appended, TypeError, Appended]
    assert await texts_of(store) == ["a", "c", "e"]


DAMAGE = {
    "version": ("conversations SET version = 1 WHERE id = 'd'", "events behind its version are there already"),
    "number": ("conversations SET items = 'x' WHERE id = 'd'", "no number is stored under items, but 'x'"),
    "shape": (
        "events SET shape = x'00ff' WHERE link = 'call'",
        "its rows cannot be worked with (JSON cannot hold BLOB",
    ),
    "seq": (
        "events SET seq = 'x' WHERE link = 'call'",
        "no numbers are stored of call call, but {'seq': 'x', 'flags': 0}",
    ),
    "mark": (
        "marks SET seq = 3 WHERE mark = 'm'",
        "rows that are to be new are there already (UNIQUE constraint failed",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_nobody_pays_for_a_conversation_that_is_damaged(store, gate, db, damage):
    await store.append("d", [created(), item("x", shape="function_call", link="call", marks=("m",))])
    statement, says = DAMAGE[damage]
    with closing(sqlite3.connect(db, isolation_level=None)) as stranger:
        assert stranger.execute(f"UPDATE {statement}").rowcount == 1
    writer = store._writer
    gate.close()
    output = item("y", shape="function_call_output", link="call", marks=("m",))
    attempts = [store.append("c", [item("x")]), store.append("d", [output], answers=["call"])]
    tasks = [asyncio.ensure_future(attempt) for attempt in [*attempts, store.append("c", [item("x")])]]
    await anyio.lowlevel.checkpoint()
    gate.opened.set()
    first, damaged, last = await told(tasks)
    assert (first.version, last.version) == (2, 3)
    assert isinstance(damaged, CorruptLog)
    assert str(damaged).startswith(f"conversation d: {says}")
    assert str(damaged).endswith("it was changed after it was written: restore the database from a backup")
    assert (await store.append("c", [item("x")])).version == 4
    assert store._writer is writer


# -- the end


async def test_closing_writes_what_waits_and_is_not_held_up_by_those_who_go_on(store, gate):
    refused = []

    async def go_on(number):
        try:
            while True:
                await store.append("c", [item(str(number))])
        except StoreError as error:
            refused.append(str(error))

    await queued(store, gate, "a", "b", "c")
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(go_on, number)
        await anyio.lowlevel.checkpoint()
        group.start_soon(store.close)
        await anyio.lowlevel.checkpoint()
        gate.opened.set()
    assert refused == [f"{store.path}: the store is closed"] * 5
    again = await SqliteStore.open(store.path)
    assert sorted(await texts_of(again)) == sorted(["a", "b", "c", *"01234"])
    await again.close()


async def test_whoever_appends_while_an_event_loop_ends_is_written(store, gate):
    tasks = await queued(store, gate, "a", "b")
    for commit in list(store._batcher._commits):
        commit.cancel()
    with anyio.fail_after(10):
        (stopped,) = await told(tasks[:1])
    late = []
    for text in "cde":
        late.append(asyncio.ensure_future(store.append("c", [item(text)])))
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
    gate.opened.set()
    with anyio.fail_after(10):
        others = await told(tasks[1:] + late)
    assert "the writer was stopped" in str(stopped)
    assert all(isinstance(outcome, Appended) for outcome in others), others
    assert await texts_of(store) == list("abcde")


ABANDONED = """
import asyncio, sys
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import created, item

async def main():
    global store, tasks
    store = await SqliteStore.open(sys.argv[1])
    await store.append("c", [created(), item("told")])
    tasks = [asyncio.ensure_future(store.append("c", [item("not told")])) for _ in range(5)]
    await asyncio.sleep(0)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
print("ended", flush=True)
"""


async def test_a_process_that_does_not_close_its_store_ends(db):
    # It would be waited for as long as the store's threads run.
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", ABANDONED, str(db)], capture_output=True, text=True, timeout=60, check=True
        )
    )
    assert done.stdout == "ended\n"
    store = await SqliteStore.open(db)
    texts = await texts_of(store)
    assert texts[0] == "told"
    assert len(texts) in (1, 6)
    await store.close()
