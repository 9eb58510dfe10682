"""Writers that are killed at any moment, and power that fails at any moment: what was acknowledged is there."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from log_writers import ended, found, go, started
from power_cut import CALLS, Disk, nothing, ops, some
from store_history import HISTORY, clock, look, looks, make
from turnlog.engine.log import KeyUse
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_feeding import all_of, follows
from turnlog.engine.testing.contract_kit import together

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

VICTIM = Path(__file__).with_name("victim.py")
WRITES = "write,pwrite64,pwritev,fsync,fdatasync,ftruncate,fallocate,unlink,rename"
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


@pytest.fixture(scope="module")
def strace():
    """Return the system-call tracer; without it, or without the right to use it, skip."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed")
    with subprocess.Popen(["sleep", "60"]) as process:
        attached = subprocess.Popen([path, "-f", "-p", str(process.pid)], stderr=subprocess.PIPE, text=True)
        said = attached.stderr.readline()
        attached.terminate()
        attached.communicate()
        process.kill()
    if "attached" not in said:
        pytest.skip(f"strace may not be used here: {said.strip()}")
    return path


class Victim:
    """A process that forks one for each order."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(VICTIM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().split()

    def run(self, tracer, *, ready=lambda: None, **order):
        """Give an order, have the child traced, and return the lists that it said were done, and its exit code.

        *ready* is called before it begins.
        """
        self.tell(json.dumps({"pages": 0, **order}, default=str))
        word, pid = self.hear()
        assert word == "ready"
        ready()
        with subprocess.Popen([*tracer, "-p", pid], stderr=subprocess.PIPE, text=True) as attached:
            assert "attached" in attached.stderr.readline()
            self.tell("go")
            done = []
            while (said := self.hear())[0] != "ended":
                done.append(said)
        return [int(number) for word, *number in done if word == "done" for number in number], int(said[1])


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture(scope="module")
def victim():
    started = Victim()
    yield started
    started.process.stdin.close()
    started.process.wait()
    started.process.stdout.close()


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
            tracer = [strace, "-f", "-o", "/dev/null", "-e", f"trace={WRITES}"]
            tracer += ["-e", f"inject={WRITES}:signal=KILL:when={n}"]
            done, code = victim.run(tracer, db=db, durability=durability, first=number, last=number)
            first = after if done else before
            assert await seen(db) in states[first : after + 1], f"list {number}, killed at its write {n}"
            if code == 0:
                break
            assert code == -signal.SIGKILL
        assert n > 10, "it was not killed at its writes"
        (tmp_path / "before.db").unlink()


# -- power cuts


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

    With "full" that is the last one that was acknowledged, or a later one; with "normal" some may be lost.
    """
    chance = random.Random(seed)
    states, ends = await looks()
    folder = tmp_path / "disk"
    folder.mkdir()
    files, calls = await traced(folder, strace, victim, durability)
    shutil.rmtree(folder)
    places = {*chance.sample(range(len(calls)), 100 if long else 10)}
    disk, done, lost = Disk(str(folder), files), -1, 0
    for place, op in enumerate(calls):
        disk.do(op)
        said = op.what == "said" and b"done" in op.data
        done += said
        acknowledged = ends[done] if done >= 0 else 0
        latest = ends[min(done + 1, len(ends) - 1)]
        for left in (nothing, some(chance), some(chance)) if place in places else (nothing,) * said:
            looked = await after_the_cut(folder, disk.left(left))
            first = acknowledged if durability == "full" else 0
            assert looked in states[first : latest + 1], f"the power failed after system call {place} of {len(calls)}"
            lost += looked not in states[acknowledged : latest + 1]
    assert (lost > 0) == (durability == "normal"), "what is not flushed is lost, or nothing was simulated"
