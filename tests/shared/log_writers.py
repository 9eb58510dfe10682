"""Processes that append to a log (`appender.py` of the store tests), and what they leave there."""

import atexit
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from threading import Lock

from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import records_of, text_of

APPENDER = Path(__file__).parents[1] / "stores" / "appender.py"
WORD = re.compile(r"(\S+) (\d)/(\d)")


class Forking:
    """The process that forks the others."""

    def __init__(self):
        self.door, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, str(APPENDER)], stdin=theirs)
        theirs.close()
        self.turn = Lock()

    def ask(self, what, files=()):
        with self.turn:
            socket.send_fds(self.door, [json.dumps(what).encode()], files)
            return json.loads(self.door.recv(1024))

    def end(self):
        self.door.close()
        self.process.wait()


@cache
def forking():
    one = Forking()
    atexit.register(one.end)
    return one


class Process:
    """A process that appends."""

    def __init__(self, *arguments):
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stdin, self.stdout = os.fdopen(self.stdin, "w"), os.fdopen(self.stdout)
        self.pid = forking().ask(arguments, (stdin, stdout))
        os.close(stdin)
        os.close(stdout)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        """Wait for its end, until which its number is nobody else's; return its exit code."""
        self.returncode = forking().ask(self.pid)
        return self.returncode


def started(db, mode, name, *, times=0, durability="full", clock=0.0):
    """Start a process; its clock is so many seconds off."""
    return Process(str(db), mode, name, str(times), durability, str(clock))


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
    process.stdin.close()
    process.stdout.close()
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
