"""Processes that share a log: nothing lost, doubled or out of order, and nobody refused who would have been served."""

import sqlite3
import threading
import time
from contextlib import contextmanager
from functools import partial

import anyio
import pytest

from log_writers import ended, found, go, opened, run_together, started
from turnlog.engine.log import Query
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import (
    At,
    created,
    forked,
    head_of,
    item,
    records_of,
    text_of,
    texts_of,
    together,
    tombstone,
)
from turnlog.engine.testing.processes import in_processes

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

YEAR = 365 * 86_400.0


def in_their_own_order(there, times):
    """See to it that each process' appends are in the order of its own making."""
    for process in range(8):
        numbers = [int(word.rpartition(".")[2]) for word in there if word.startswith(f"p{process}.")]
        assert numbers == list(range(times))


@pytest.mark.parametrize("mode", ["any", "exact"])
async def test_eight_processes_append_to_one_conversation(log, mode, long):
    """Their clocks disagree by years: only times show it, never an order."""
    if "#" in log and mode == "any" and not long:
        pytest.skip("it runs with --long")
    times = 200 if long else 20

    lines = run_together(log, mode, 8, times, [0.0, YEAR, -YEAR, 60.0])

    assert sorted(int(first) for _, first, _, _ in lines) == list(range(2, 8 * times + 2))
    async with opened(log) as store:
        there = await found(store, "c")
        assert there == {word: [int(first)] for _, first, _, word in lines}
        in_their_own_order(there, times)
        written = [record.time for record in await records_of(store)]
        assert max(written) - min(written) > 1.9 * YEAR * 1_000_000
        fed = await store.feed(None, 8 * times + 1)
        assert [one.record.seq for one in fed] == list(range(1, 8 * times + 2))


async def test_processes_that_make_the_same_log_at_once_make_one(tmp_path, long):
    for run in range(20 if long else 2):
        db = tmp_path / f"{run}.db"
        lines = run_together(db, "any", 8, 1)
        assert sorted(int(first) for _, first, _, _ in lines) == list(range(2, 10))


async def test_a_reader_sees_what_another_process_appends(db):
    store = await SqliteStore.open(db)
    process = started(db, "any", "other", times=5)
    go(process)
    lines = ended(process)
    assert list(await found(store, "c")) == [word for *_, word in lines]
    assert (await store.append("c", [item("own 1/1")], expected=6)).version == 7
    snapshot = await store.read("c", Query(after=6))
    assert [text_of(record) for record in snapshot.records[0]] == ["own 1/1"]
    await store.close()


# -- locks


@contextmanager
def stranger(db):
    """Let somebody lock the database again and again, each time for a moment."""
    stop = threading.Event()
    locks = []

    def lock():
        connection = sqlite3.connect(db, isolation_level=None, timeout=30)
        while not stop.wait(0.002):
            for statement in ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
                connection.execute(statement)
                time.sleep(0.01)
                connection.execute("ROLLBACK")
                locks.append(statement)
        connection.close()

    thread = threading.Thread(target=lock)
    thread.start()
    try:
        yield locks
    finally:
        stop.set()
        thread.join()


async def everything(store, name):
    """Do a little of everything that a store does."""
    await store.append(name, [created({"v": 1}), item("one"), item("two")])
    await forked(store, f"{name}.fork", name, 2, "three")
    await store.heads(where={"v": 1})
    await store.renew(name, 1, 1.0)
    await store.stand(name, "owner", 60.0)
    await store.ack(name, "owner", await store.end())
    await store.delete(name, tombstone(), forks="keep")
    await store.collect()
    assert await texts_of(store, f"{name}.fork") == ["one", "three"]


async def openings(store, process, times):
    """Open and close the log again and again beside the opening that is given, and use each."""
    for number in range(times):
        other = await SqliteStore.open(store.path)
        try:
            await everything(other, f"c{process}.{number}")
        finally:
            await other.close()
    return process


async def test_nobody_is_refused_for_a_lock_who_would_have_been_served(db, long):
    """Openings, closings, appends, erasures and a stranger's locks at once: everybody is served."""
    store = await SqliteStore.open(db)
    times = 30 if long else 4
    with stranger(db) as locks:
        results = await together(
            *(partial(openings, store, f"task{task}", times) for task in range(4)),
            partial(in_processes, At(SqliteStore.open, db), openings, [(process, times) for process in range(3)]),
        )
    assert results == [*(f"task{task}" for task in range(4)), [0, 1, 2]]
    assert len(locks) > 10
    assert len(await store.heads(limit=1000)) == 7 * times
    await store.close()


async def test_many_handles_are_served_one_after_the_other(db, long):
    """Handles that all want to write at once, each with little patience, are all served."""
    stores = [await SqliteStore.open(db, patience=10.0) for _ in range(8)]
    await stores[0].append("c", [created()])
    appends = [
        partial(store.append, "c", [item(f"{number}")]) for number in range(50 if long else 10) for store in stores
    ]
    results = await together(*appends)
    assert not [result for result in results if isinstance(result, Exception)]
    assert (await head_of(stores[0])).version == len(appends) + 1
    async with anyio.create_task_group() as group:
        for store in stores:
            group.start_soon(store.close)
