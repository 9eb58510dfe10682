"""Processes that follow one log under one name: one reads, the others stand by, and one takes over from a dead one."""

import random
import select
import subprocess
import sys
from pathlib import Path

import pytest

from turnlog import open_engine
from turnlog.engine.stores.postgres import PostgresStore  # noqa: F401 - importing it would block the event loop
from turnlog.engine.testing.contract_kit import created, item

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

READER = Path(__file__).with_name("reader.py")
NAMES = ("a", "b", "c")
LEASE = 2.0


class Reader:
    """A process that follows."""

    def __init__(self, log, name):
        command = [sys.executable, str(READER), log, name, str(LEASE)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.seen = []
        self.acknowledged = []
        self._rest = b""
        assert self.line() == ["ready"]

    def line(self):
        """Return the next line that it says."""
        return self.process.stdout.readline().decode().split()

    def read(self):
        """Take the next line in; return whether there was one."""
        word, *said = self.line() or ("",)
        if word == "seen":
            self.seen.append((said[0], int(said[1])))
        elif word:
            self.acknowledged += self.seen[len(self.acknowledged) : len(self.acknowledged) + int(said[0])]
        return bool(word)

    def silent(self):
        """Return whether it has said nothing yet."""
        return not self.seen and not select.select([self.process.stdout], [], [], 0)[0]

    def kill(self):
        self.process.kill()
        while self.read():
            pass
        self.close()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


async def grown(engine, events):
    """Append so many events to each conversation."""
    for number in range(events):
        for name in NAMES:
            await engine.store.append(name, [item(f"{name} {number}")])


def first_of(readers):
    """Wait until one of some readers says something; return it, and the others."""
    ready = []
    while not ready:
        ready = select.select([reader.process.stdout for reader in readers], [], [], 1.0)[0]
    readers = sorted(readers, key=lambda reader: reader.process.stdout is not ready[0])
    return readers[0], readers[1:]


def read_to_the_end(reader, missing):
    """Let a reader see what is missing, and acknowledge it."""
    while not missing <= set(reader.seen) or len(reader.acknowledged) < len(reader.seen):
        assert reader.read()
    reader.close()


async def test_whoever_stands_by_takes_over_from_a_reader_that_was_killed(log, seed, long):
    """Nothing is lost; what was acknowledged does not come again, and at most a batch that was not comes twice."""
    chance = random.Random(seed)
    url, _, schema = log.partition("#")
    async with open_engine(url, schema=schema or None) as engine:
        for name in NAMES:
            await engine.store.append(name, [created()])
        await grown(engine, 20)
        active = Reader(log, "search")
        active.read()
        others, before = [Reader(log, "search") for _ in range(5 if long else 1)], []
        while others:
            for _ in range(chance.randrange(4, 12)):
                active.read()
            assert all(reader.silent() for reader in others), "one reads under a name"
            active.kill()
            before.append(active)
            await grown(engine, 10)
            active, others = first_of(others)
        everything = {(name, seq) for name in NAMES for seq in range(1, await version(engine, name) + 1)}
        read_to_the_end(active, everything.difference(*(reader.seen for reader in before)))
        check([*before, active], everything)
        async with engine.follow(name="search") as batches:
            await grown(engine, 1)
            assert {event.seq for event in await anext(aiter(batches))} <= {await version(engine, "a")}


async def version(engine, name):
    return (await engine.get(name)).version


def check(readers, everything):
    """See to it that readers, one after the other, saw everything, in order, and nothing again that was dealt with."""
    dealt_with = set()
    for reader in readers:
        assert not dealt_with & set(reader.seen)
        assert len(set(reader.seen)) == len(reader.seen)
        for name in NAMES:
            seqs = [seq for conversation, seq in reader.seen if conversation == name]
            assert seqs == list(range(min(seqs, default=0), max(seqs, default=-1) + 1))
        assert len(reader.seen) - len(reader.acknowledged) <= 3
        dealt_with |= set(reader.acknowledged)
    assert {one for reader in readers for one in reader.seen} == everything
