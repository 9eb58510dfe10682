"""Processes that append to a log (`appender.py` of the store tests), and what they leave there."""

import re
import subprocess
import sys
from pathlib import Path

from turnlog.engine.testing.contract_kit import records_of, text_of

APPENDER = Path(__file__).parents[1] / "stores" / "appender.py"
WORD = re.compile(r"(\S+) (\d)/(\d)")


def started(db, mode, name, *, times=0, durability="full", clock=0.0):
    """Start a process; its clock is so many seconds off."""
    arguments = [str(db), mode, name, str(times), durability, str(clock)]
    return subprocess.Popen(
        [sys.executable, str(APPENDER), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def go(*processes):
    """Let processes open the log and begin, at once, when all of them are ready."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


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
