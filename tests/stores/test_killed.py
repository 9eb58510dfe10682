"""Processes that are killed while they erase, or bring a database forward: all or nothing, and then made whole."""

import random
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from pathlib import Path

import pytest

from forgetting import WAYS, forget, forgotten, plant, secrets
from log_writers import ended, go, started
from store_history import clock
from turnlog.engine.errors import NotFound
from turnlog.engine.log import Query
from turnlog.engine.stores.sqlite import SCHEMA_VERSION, SqliteStore
from turnlog.engine.testing.contract_feeding import all_of, follows
from turnlog.engine.testing.contract_kit import tombstone

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

NOTHING = 0, ["BEGIN TRANSACTION;", "COMMIT;"]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@asynccontextmanager
async def opened(db):
    store = await SqliteStore.open(db, clock=clock)
    try:
        yield store
    finally:
        await store.close()


def dump(db):
    """Return all that is in a database, seeing to it that it is sound."""
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("PRAGMA user_version").fetchone()[0], list(connection.iterdump())


# -- erasing


def found(db, words):
    """Return which words are in a database's files; they are read by another process, as SQLite's locks ask for."""
    files = sorted(map(str, db.parent.glob(f"{db.name}*")))
    content = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
    there = set(re.findall(rb"<[^<>]*>", content))
    return [word for word in words if word.encode() in there]


@pytest.mark.parametrize("way", WAYS)
async def test_killed_at_every_write_of_an_erasure(tmp_path, strace, victim, long, way):
    """Whichever write or flush is the last, of the transaction, of the sweep, or of what empties the log behind them.

    Whoever tries again comes to the end: nothing is left in any file, also not what was to be swept.
    """
    async with opened(tmp_path / "before.db") as store:
        await plant(store)
    assert found(tmp_path / "before.db", secrets(way)) == secrets(way)
    db, states = tmp_path / "log.db", set()
    for n in count(1, 1 if long else 3):
        shutil.copy(tmp_path / "before.db", db)
        done, was_killed = victim.kill(strace, n, what="forget", way=way, db=db)
        assert not done or found(db, secrets(way)) == [], f"killed at its write {n}"
        states.add((*await tried_again(db, way), bool(done)))
        if not was_killed:
            break
    assert n > 20, "it was not killed at its writes"
    before, unswept, swept, told = (False, False, False), (True, True, False), (True, False, False), (True, False, True)
    assert {before, told} <= states <= {before, unswept, swept, told}
    assert unswept in states or not long


async def tried_again(db, way):
    """Try again; return whether it had been done before, and whether that had yet to be swept."""
    async with opened(db) as store:
        state = await forgotten(store, way), await noted(store) == 1
        with suppress(NotFound):
            await forget(store, way)
        assert await forgotten(store, way)
        assert await noted(store) == 0
        assert found(db, secrets(way)) == []
        follows(await all_of(store))
    assert dump(db)[0] == SCHEMA_VERSION
    return state


async def noted(store):
    """Return how many erasures have still to sweep."""
    return await store._read(lambda db: db.execute("SELECT count(*) FROM counts WHERE conversation = 0").fetchone()[0])


# -- bringing a database forward


async def brought_forward(db):
    async with opened(db):
        pass
    return dump(db)


async def test_killed_at_every_write_of_a_migration(tmp_path, strace, victim, long):
    """Whichever write or flush is the last: it is of one schema or the other, and the next opening comes to the end."""
    golden = GOLDEN / f"schema-{SCHEMA_VERSION - 1}.db"
    shutil.copy(golden, tmp_path / "whole.db")
    before, after = dump(tmp_path / "whole.db"), await brought_forward(tmp_path / "whole.db")
    assert (before[0], after[0]) == (SCHEMA_VERSION - 1, SCHEMA_VERSION)
    db, seen = tmp_path / "log.db", set()
    for n in count(1, 1 if long else 5):
        shutil.copy(golden, db)
        done, was_killed = victim.kill(strace, n, what="open", db=db)
        left = dump(db)
        assert left in ((after,) if done else (before, after)), f"killed at its write {n}"
        seen.add(left[0])
        assert await brought_forward(db) == after, f"killed at its write {n}"
        if not was_killed:
            break
    assert n > 20, "it was not killed at its writes"
    assert seen == {before[0], after[0]}


async def test_killed_while_making_a_log(tmp_path, strace, victim, long):
    """What is left of a log that was being made is an empty file, or a log."""
    whole = await brought_forward(tmp_path / "whole.db")
    db = tmp_path / "log.db"
    for n in count(1, 1 if long else 5):
        done, was_killed = victim.kill(strace, n, what="open", db=db)
        assert dump(db) in ((whole,) if done else (NOTHING, whole)), f"killed at its write {n}"
        assert await brought_forward(db) == whole
        db.unlink()
        if not was_killed:
            break
    assert n > 10, "it was not killed at its writes"


# -- killed at random moments


def killed(db, name, lines, seconds):
    """Run a process that writes and forgets for ever, and kill it.

    Return the conversations that it told of, and how many words of each are to be gone.
    """
    process = started(db, "forget", name)
    go(process)
    said = [process.stdout.readline().split() for _ in range(lines)]
    time.sleep(seconds)
    process.kill()
    told = {}
    for conversation, *numbers in said + ended(process):
        told[conversation] = int(numbers[0]) if len(numbers) == 1 else 0
    return told


def words(name, number):
    """Return the words that are to be gone: the first so many of a conversation."""
    return [f"<{name}.{part}>" for part in range(number)]


async def left(store, name):
    """Return how many words of a conversation are gone: none, or all that were to be."""
    snapshot = await store.read(name, Query())
    if snapshot.head.deleted:
        return 6
    gone = [seq for seq, record in enumerate(snapshot.records[0], 1) if record.item == b"{}"]
    assert (gone, snapshot.head.version) in (([], 7), ([2, 3, 4], 8)), name
    return len(gone)


async def test_killed_at_any_moment_while_forgetting(db, seed, long):
    chance, gone = random.Random(seed), []
    for run in count():
        if run >= (100 if long else 4) and len(gone) > 100:
            break
        told = killed(db, f"run{run}", chance.choice([1, 5, 20]), chance.random() * 0.03)
        gone += [word for name, number in told.items() for word in words(name, number)]
        assert found(db, gone) == [], "it was told that they are gone"
        async with opened(db) as store:
            assert await noted(store) <= 1, "they are removed one after the other"
            gone += await forgotten_too(store, told)
            assert await noted(store) == 0
            follows(await all_of(store, limit=1000))
        assert found(db, gone) == []
    assert dump(db)[0] == SCHEMA_VERSION


async def forgotten_too(store, told):
    """Delete what a process was killed at, seeing to it that of each conversation all or nothing is gone."""
    for head in await store.heads(limit=3):  # those that it could not tell of
        told.setdefault(head.conversation, 0)
    for name, number in told.items():
        assert await left(store, name) >= number, name
    half = [name for name, number in told.items() if number == 0]
    for name in half:
        with suppress(NotFound):
            await store.delete(name, tombstone(), forks="refuse")
    return [word for name in half for word in words(name, 6)]
