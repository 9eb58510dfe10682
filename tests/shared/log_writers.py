"""Processes that append to a log (`appender.py` of the store tests), and what they leave there."""

import re
from contextlib import asynccontextmanager
from pathlib import Path

from forking import Process
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import records_of, text_of

APPENDER = Path(__file__).parents[1] / "stores" / "appender.py"
WORD = re.compile(r"(\S+) (\d)/(\d)")


def started(db, mode, name, *, times=0, durability="full", clock=0.0):
    """Start a process; its clock is so many seconds off."""
    return Process(APPENDER, str(db), mode, name, str(times), durability, str(clock))


def go(*processes):
    """Let processes open the log and begin, at once, when all of them are ready."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def run_together(log, mode, processes, times, clocks=(0.0,)):
    """Let processes append at the same time; return the lines that they said."""
    running = [
        started(log, mode, f"p{number}", times=times, clock=clocks[number % len(clocks)]) for number in range(processes)
    ]
    go(*running)
    lines = [line for process in running for line in ended(process)]
    assert all(process.returncode == 0 for process in running)
    return lines


@asynccontextmanager
async def opened(log):
    """Open a log: a path, or the url of a PostgreSQL server, "#" and a schema."""
    url, _, schema = str(log).partition("#")
    store = await (PostgresStore.open(url, schema=schema) if schema else SqliteStore.open(url))
    try:
        yield store
    finally:
        await store.close()


def ended(process):
    """Wait for a process; return the lines that it said to their end."""
    lines = process.stdout.read().splitlines(keepends=True)
    process.wait()
    return [line.split() for line in lines if line.endswith("\n")]


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
