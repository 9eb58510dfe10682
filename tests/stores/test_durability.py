"""Writers that are killed at any moment, and power that fails at any moment: what was acknowledged is there."""

import random
import shutil
import sqlite3
import time
from itertools import count

import pytest

from log_writers import ended, found, go, started
from power_cut import CALLS, Disk, nothing, ops, some
from store_history import HISTORY, clock, look, looks, make
from turnlog.engine.log import KeyUse
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_feeding import all_of, follows
from turnlog.engine.testing.contract_kit import together

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

DURABILITIES = ("full", "normal")


# -- killed at random moments


def killed(db, durability, name, chance):
    """Run a process that appends for ever, kill it, and return all that it said was acknowledged."""
    process = started(db, "crash", name, durability=durability)
    go(process)
    lines = [process.stdout.readline().split() for _ in range(chance.choice([0, 1, 5, 20, 60]))]
    time.sleep(chance.random() * 0.02)
    process.kill()
    return lines + ended(process)


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_killed_process_loses_nothing_that_it_acknowledged(db, durability, seed, long):
    chance = random.Random(seed)
    told = {}
    for run in range((200 if long else 20) if durability == "full" else (50 if long else 5)):
        for conversation, first, last, word in killed(db, durability, f"run{run}", chance):
            told.setdefault(conversation, {})[word] = (int(first), int(last))

        store = await SqliteStore.open(db)
        for conversation, words in told.items():
            there = await found(store, conversation)
            for word, (first, last) in words.items():
                assert there[word] == list(range(first, last + 1))
            word, (first, last) = chance.choice(list(words.items()))
            assert await store.key(conversation, word) == KeyUse("d", first, last)
        fed = await all_of(store, limit=1000)
        follows(fed)
        assert len(fed) == sum([head.version for head in await store.heads()])
        await store.close()
    assert sum(map(len, told.values())) > 50


# -- killed at every system call


async def built(db, upto):
    """Make a log as it is before one of the lists of calls."""
    store = await SqliteStore.open(db, clock=clock)
    for calls in HISTORY[:upto]:
        await make(store, calls, together)
    await store.close()


async def seen(db):
    """Return what a log looks like, seeing to it that the database is sound, and that it goes on."""
    store = await SqliteStore.open(db, clock=clock)
    try:
        looked = await look(store)
        await make(store, [lambda store: store.renew("nobody", 1, 1.0)], together)
    finally:
        await store.close()
    connection = sqlite3.connect(db)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return looked


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_killed_at_every_write(tmp_path, strace, victim, seed, long, durability):
    """Whichever write or flush of a call is the last, or of the close behind it: the log is as before or after it."""
    states, ends = await looks()
    step = 1 if long or durability == "full" else 4
    for number in range(len(HISTORY)) if long else (2,):
        await built(tmp_path / "before.db", number)
        before, after = ends[number - 1] if number else 0, ends[number]
        for n in count(1, step):
            db = tmp_path / "log.db"
            shutil.copy(tmp_path / "before.db", db)
            done, was_killed = victim.kill(strace, n, db=db, durability=durability, first=number, last=number)
            first = after if done else before
            assert await seen(db) in states[first : after + 1], f"list {number}, killed at its write {n}"
            if not was_killed:
                break
        assert n > 10, "it was not killed at its writes"
        (tmp_path / "before.db").unlink()


# -- power cuts

# By the number of the list that erases or deletes them.
GONE = {
    10: {b"first 0 x", b"with bodies"},
    13: {b"a long turn"},
    15: {b"first 1 x"},
    17: {b"meanwhile", b"fork 1 x"},
    18: {b"fork of a fork", b"fork 0 x"},
}
WORDS = set().union(*GONE.values())


async def traced(folder, strace, victim, durability):
    """Let a process make all calls; return the files as they were before, and the system calls that followed."""
    db = folder / "log.db"
    await built(db, 0)
    files = {}

    def ready():
        files.update({str(path): path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")})

    traces = folder.with_name(f"{folder.name}-traces")
    traces.mkdir()
    tracer = [strace, "-ff", "-y", "-xx", "-s", "99999999", "--absolute-timestamps=format:unix,precision:ns"]
    tracer += ["-o", str(traces / "trace"), "-e", f"trace={','.join(CALLS)}"]
    order = {"first": 0, "last": len(HISTORY) - 1, "pages": 8, "db": db, "durability": durability}
    done, code = victim.run(tracer, ready=ready, **order)
    assert (len(done), code) == (len(HISTORY), 0)
    return files, [op for op in ops(traces, "trace", folder) if not op.path.endswith("-shm")]


async def after_the_cut(folder, files):
    """Return what the log looks like that is left on a disk."""
    folder.mkdir()
    for path, content in files.items():
        (folder / path).write_bytes(content)
    looked = await seen(folder / "log.db")
    shutil.rmtree(folder)
    return looked


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_the_power_fails_anywhere(tmp_path, strace, victim, seed, long, durability):
    """Whenever the power fails and whatever of the unflushed writes is lost, the log is as after some call.

    With "full" that is the last one that was acknowledged, or a later one; with "normal" some may be lost, but nothing
    that was there before an erasure. What an acknowledged erasure or deletion has erased is in no file.
    """
    chance = random.Random(seed)
    states, ends = await looks()
    folder = tmp_path / "disk"
    folder.mkdir()
    files, calls = await traced(folder, strace, victim, durability)
    shutil.rmtree(folder)
    places = {*chance.sample(range(len(calls)), 100 if long else 10)}
    disk, done, lost, kept, gone, there = Disk(str(folder), files), -1, 0, 0, set(), set()
    for place, op in enumerate(calls):
        disk.do(op)
        said = op.what == "said" and b"done" in op.data
        done += said
        acknowledged = ends[done] if done >= 0 else 0
        if done in GONE:
            gone.update(GONE[done])
            kept = acknowledged
        latest = ends[min(done + 1, len(ends) - 1)]
        for left in (nothing, some(chance), some(chance)) if place in places else (nothing,) * said:
            on_disk = disk.left(left)
            words = {word for word in WORDS if any(word in content for content in on_disk.values())}
            assert words & gone == set()
            there |= words
            looked = await after_the_cut(folder, on_disk)
            first = acknowledged if durability == "full" else kept
            assert looked in states[first : latest + 1], f"the power failed after system call {place} of {len(calls)}"
            lost += looked not in states[acknowledged : latest + 1]
    assert (lost > 0) == (durability == "normal"), "what is not flushed is lost, or nothing was simulated"
    assert gone == there == WORDS
