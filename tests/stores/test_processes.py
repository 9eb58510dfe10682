"""Processes that are killed, and processes that share a log."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from turnlog.engine.log import KeyUse, Query
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import item, records_of, text_of

pytestmark = pytest.mark.anyio

APPENDER = Path(__file__).with_name("appender.py")
WORD = re.compile(r"(\S+) (\d)/(\d)")


def started(db, *arguments):
    """Start a process that is ready to open the log."""
    process = subprocess.Popen(
        [sys.executable, str(APPENDER), str(db), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process):
    """Wait for a process; return the lines that it said to their end."""
    lines = process.stdout.read().splitlines(keepends=True)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return [line.split() for line in lines if line.endswith("\n")]


def killed(db, name, acknowledged):
    """Run a process until some appends were acknowledged, kill it, and return all that it acknowledged."""
    process = started(db, "crash", name)
    go(process)
    lines = [process.stdout.readline().split() for _ in range(acknowledged)]
    process.kill()
    return lines + ended(process)


async def found(store, name):
    """Return where each append of a conversation stands, seeing to it that none is there in part."""
    appends = {}
    for record in (await records_of(store, name))[1:] if await store.read(name) else ():
        word, part, of = WORD.match(text_of(record)).groups()
        appends.setdefault(word, []).append((record.seq, int(part), int(of)))
    for parts in appends.values():
        first, _, of = parts[0]
        assert parts == [(first + number, number + 1, of) for number in range(of)]
    return {word: [seq for seq, _, _ in parts] for word, parts in appends.items()}


@pytest.mark.timeout(600)
async def test_a_killed_process_loses_nothing_that_it_acknowledged(db, seed, long):
    chance = random.Random(seed)
    told = {}
    for run in range(200 if long else 20):
        for conversation, first, last, word in killed(db, f"run{run}", chance.choice([0, 1, 5, 20, 60])):
            told.setdefault(conversation, {})[word] = (int(first), int(last))

        store = await SqliteStore.open(db)
        for conversation, words in told.items():
            there = await found(store, conversation)
            for word, (first, last) in words.items():
                assert there[word] == list(range(first, last + 1))
            word, (first, last) = chance.choice(list(words.items()))
            assert await store.key(conversation, word) == KeyUse("d", first, last)
        await store.close()
    assert sum(map(len, told.values())) > 100


async def together(db, mode, processes, times):
    """Let processes append at the same time; return the lines that they said."""
    running = [started(db, mode, f"p{number}", str(times)) for number in range(processes)]
    for process in running:
        go(process)
    lines = [line for process in running for line in ended(process)]
    assert all(process.returncode == 0 for process in running)
    return lines


@pytest.mark.parametrize("mode", ["any", "exact"])
async def test_eight_processes_append_to_one_conversation(db, mode, long):
    times = 200 if long else 20

    lines = await together(db, mode, 8, times)

    assert sorted(int(first) for _, first, _, _ in lines) == list(range(2, 8 * times + 2))
    store = await SqliteStore.open(db)
    there = await found(store, "c")
    assert there == {word: [int(first)] for _, first, _, word in lines}
    numbers = [int(word.rpartition(".")[2]) for word in there if word.startswith("p0.")]
    assert numbers == sorted(numbers), "each process' appends are in the order of its own making"
    await store.close()


async def test_processes_that_make_the_same_log_at_once_make_one(tmp_path, long):
    for run in range(20 if long else 2):
        db = tmp_path / f"{run}.db"
        lines = await together(db, "any", 8, 1)
        assert sorted(int(first) for _, first, _, _ in lines) == list(range(2, 10))


async def test_a_reader_sees_what_another_process_appends(db):
    store = await SqliteStore.open(db)
    process = started(db, "any", "other", "5")
    go(process)
    lines = ended(process)
    assert list(await found(store, "c")) == [word for *_, word in lines]
    assert (await store.append("c", [item("own 1/1")], expected=6)).version == 7
    snapshot = await store.read("c", Query(after=6))
    assert [text_of(record) for record in snapshot.records[0]] == ["own 1/1"]
    await store.close()
