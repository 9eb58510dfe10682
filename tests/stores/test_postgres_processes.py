"""Processes that share a PostgreSQL log: killed while they append, and followed while they do."""

import random
from collections import defaultdict
from functools import partial

import anyio
import pytest

from log_writers import ended, found, go, started
from pg_server import programs_or_skip, serving
from pg_talk import opened, rows
from turnlog.engine.log import KeyUse
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.testing.contract_kit import At, created, head_of, item, together
from turnlog.engine.testing.processes import in_processes

pytestmark = pytest.mark.anyio


def run(log, name, acknowledged):
    """Run a process until some appends were acknowledged, kill it, and return all that it acknowledged."""
    process = started(log, "crash", name)
    go(process)
    lines = [process.stdout.readline().split() for _ in range(acknowledged)]
    process.kill()
    return lines + ended(process)


@pytest.mark.timeout(600)
async def test_a_killed_process_loses_nothing_that_it_acknowledged(pg_url, schema, seed, long):
    chance = random.Random(seed)
    log = f"{pg_url}#{schema}"
    async with opened(pg_url, schema) as store:
        told = {}
        for number in range(100 if long else 6):
            killed = [partial(run, log, f"run{number}.{each}", chance.choice([1, 5, 20, 60])) for each in range(2)]
            for lines in await together(*(partial(anyio.to_thread.run_sync, one) for one in killed)):
                for conversation, first, last, word in lines:
                    told.setdefault(conversation, {})[word] = (int(first), int(last))
            fed = await _fed(store)
            for conversation, words in told.items():
                there = await found(store, conversation)
                for word, (first, last) in words.items():
                    assert there[word] == list(range(first, last + 1))
                word, (first, last) = chance.choice(list(words.items()))
                assert await store.key(conversation, word) == KeyUse("d", first, last)
                version = (await head_of(store, conversation)).version
                assert fed[conversation] == list(range(1, version + 1))
        assert sum(map(len, told.values())) > 50


def until_the_server_dies(running, name, durability, lines):
    """Let two processes append until the server is killed; return what was acknowledged."""
    writers = [started(f"{running.url}#t", "crash", f"{name}.{n}", durability=durability) for n in range(2)]
    go(*writers)
    said = [writer.stdout.readline().split() for writer in writers for _ in range(lines)]
    running.kill()
    for writer in writers:
        writer.kill()
        said += ended(writer)
    return said


async def lost(store, conversation, words):
    """Return which appends are not there, seeing to it that they were the last ones, and that none is there in part."""
    there = await found(store, conversation)
    last = max((seq for seqs in there.values() for seq in seqs), default=1)
    gone = {word for word, seqs in words.items() if there.get(word) != seqs}
    assert all(words[word][0] > last for word in gone)
    return gone


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_server_that_is_killed_loses_nothing_that_was_acknowledged(durability, seed, long):
    """With "normal" it may lose the last appends, never a part of one, nor one that others came behind."""
    if durability == "normal" and not long:
        pytest.skip("it runs with --long")
    chance, told = random.Random(seed), defaultdict(dict)
    with serving(programs_or_skip()) as running:
        for number in range(5 if long else 1):
            lines = until_the_server_dies(running, f"run{number}", durability, chance.randrange(5, 40))
            for conversation, first, last, word in lines:
                told[conversation][word] = list(range(int(first), int(last) + 1))
            running.start()
            async with opened(running.url, "t") as store:
                for conversation, words in told.items():
                    gone = await lost(store, conversation, words)
                    assert gone == set() or durability == "normal"
                    told[conversation] = {word: words[word] for word in words.keys() - gone}


async def _fed(store):
    """Wait until nobody who was killed is left on the server; return the seqs of the feed by conversation."""
    left = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
    while await rows(store._link.url, left) != [(0,)]:
        await anyio.sleep(0.01)
    seqs, after = {}, None
    while page := await store.feed(after, 1000):
        after = page[-1].record.position
        for one in page:
            seqs.setdefault(one.record.conversation, []).append(one.record.seq)
    return seqs


async def append_some(store, process, times):
    """Append to conversations that all processes append to."""
    for number in range(times):
        await store.append(f"c{number % 3}", [item(f"{process}.{number}")])


async def test_backends_that_are_ended_under_many_processes_lose_and_double_nothing(pg_url, schema, long):
    times, processes = (200 if long else 40), 3
    async with opened(pg_url, schema) as store:
        for number in range(3):
            await store.append(f"c{number}", [created()])
        done = False

        async def end_some():
            while not done:
                # What a commit was cut off from is found out; what was not committed is made again.
                await rows(
                    pg_url,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query ~ '^(BEGIN|INSERT|COMMIT)' ORDER BY random() LIMIT 1",
                )
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as group:
            group.start_soon(end_some)
            arguments = [(number, times) for number in range(processes)]
            await in_processes(At(PostgresStore.open, pg_url, schema=schema), append_some, arguments)
            done = True
        fed = await _fed(store)
        texts = [item(f"{process}.{number}").item for process in range(processes) for number in range(times)]
        written = [
            record.record.item for record in await store.feed(None, 10_000) if record.record.kind == "item.appended"
        ]
        assert sorted(written) == sorted(texts)
        assert {name: seqs == list(range(1, len(seqs) + 1)) for name, seqs in fed.items()} == dict.fromkeys(fed, True)
