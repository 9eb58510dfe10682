"""Processes that append to a log and say what was acknowledged, for the tests of crashes and of many processes.

They are started by `log_writers`, with

    PATH MODE NAME TIMES DURABILITY CLOCK     (or, for PATH, a PostgreSQL url, "#" and a schema)

    crash    append for ever, several tasks at a time, until killed
    any      append TIMES times at whatever version
    exact    append TIMES times at the exact version, reading on after each conflict
    forget   create conversations and erase half of each, or delete it, for ever, several tasks at a time, until killed

Its clock is CLOCK seconds off. It says "ready" and waits for a line before it opens the log. Each acknowledged append
is one line: conversation, first and last seq, and the word that its events say; of what was forgotten there is
another: conversation, and how many of its words are to be gone.
"""

import hashlib
import os
import random
import sys
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count

import anyio

from turnlog.engine.errors import VersionConflict
from turnlog.engine.ids import system_clock
from turnlog.engine.log import Append, Erasure, Key
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import created, item, other, tombstone


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def create(store, name):
    with suppress(VersionConflict):
        await store.append(name, [created()])


async def append_for_ever(store, name, task):
    for number in count():
        word = f"{name}.{task}.{number}"
        parts = random.randrange(1, 4)
        conversation = f"c{(task + number) % 2}"
        events = [item(f"{word} {part + 1}/{parts}" + "x" * random.randrange(2000)) for part in range(parts)]
        appended = await store.append(conversation, events, key=Key(word, "d"))
        say(conversation, appended.first, appended.last, word)


async def append_at_any_version(store, name, number):
    appended = await store.append("c", [item(f"{name}.{number} 1/1")])
    say("c", appended.first, appended.last, f"{name}.{number}")


async def append_at_the_exact_version(store, name, number):
    while True:
        snapshot = await store.read("c")
        try:
            appended = await store.append("c", [item(f"{name}.{number} 1/1")], expected=snapshot.head.version)
        except VersionConflict:
            continue
        say("c", appended.first, appended.last, f"{name}.{number}")
        return


async def forget_for_ever(store, name, task):
    for number in count(task, 3):
        conversation = f"{name}.{number}"
        words = [f"<{conversation}.{part}>" for part in range(6)]
        bodies = {hashlib.sha256(body).hexdigest(): body for body in (f'"{word * 100}"'.encode() for word in words)}
        said = [item(word * random.randrange(1, 60), refs=(body,)) for word, body in zip(words, bodies, strict=True)]
        appended = await store.append(conversation, [created(), *said], bodies=bodies)
        say(conversation, appended.first, appended.last, conversation)
        if number % 2:
            await store.delete(conversation, tombstone(), forks="refuse")
        else:
            erasures = [Erasure(seq=seq, item=b"{}", flags=128) for seq in (2, 3, 4)]
            await store.erase([Append(conversation=conversation, events=[other("item.erased")], erasures=erasures)])
        say(conversation, 6 if number % 2 else 3)


async def main(path, mode, name, times, durability, clock):
    url, _, schema = path.partition("#")
    open_ = partial(PostgresStore.open, url, schema=schema) if schema else partial(SqliteStore.open, path)
    store = await open_(durability=durability, clock=lambda: system_clock() + timedelta(seconds=float(clock)))
    try:
        await write(store, mode, name, int(times))
    finally:  # or its threads outlive whoever was to hear of it
        await store.close()


async def write(store, mode, name, times):
    if mode == "crash":
        for conversation in ("c0", "c1"):
            await create(store, conversation)
        async with anyio.create_task_group() as group:
            for task in range(5):
                group.start_soon(append_for_ever, store, name, task)
    if mode == "forget":
        async with anyio.create_task_group() as group:
            for task in range(3):
                group.start_soon(forget_for_ever, store, name, task)
    await create(store, "c")
    append = append_at_any_version if mode == "any" else append_at_the_exact_version
    for number in range(times):
        await append(store, name, number)


def work(*arguments):
    say("ready")
    sys.stdin.readline()
    anyio.run(main, *arguments)
