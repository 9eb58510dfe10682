"""Workers killed at any moment: the log opens, reading it seals nothing, and whoever comes next goes on."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import pytest

from log_checks import whole_log
from turnlog import Budget, open_engine
from turnlog.engine.testing.server import Call, Reason, Reply, Text

pytestmark = pytest.mark.anyio

LEASE = 0.3


async def look(at: str) -> str:
    return f"seen {at}"


def script(chance):
    def answer(received):
        given = received.body["input" if received.api == "responses" else "messages"]
        delay = chance.random() / 500
        if given[-1].get("type") == "function_call_output" or given[-1].get("role") == "tool":
            return Reply("Done, and this is the end of it.", delay=delay)
        calls = [Call("look", {"at": place}) for place in "abc"[: chance.randrange(4)]]
        return Reply(Reason("Hm", content="Hm"), Text("Let me see."), *calls, delay=delay)

    return answer


@asynccontextmanager
async def worker():
    """A process that forks one to be killed for each order."""
    path = Path(__file__).with_name("worker.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )

    async def order(**what):
        process.stdin.write(json.dumps(what).encode() + b"\n")
        return int(await process.stdout.readline())

    async def ended():
        return int(await process.stdout.readline())

    try:
        yield order, ended
    finally:
        process.stdin.close()
        await process.wait()


async def killed(pid, ended):
    with suppress(ProcessLookupError):  # it was done
        os.kill(pid, signal.SIGKILL)
    assert await ended() in (-signal.SIGKILL, 0)


async def read(engine, name):
    """Read a conversation in every way, and see to it that nothing was written by it."""
    c = await engine.get(name)
    before = c.version
    events = [event async for event in c.events()]
    assert [event.seq for event in events] == list(range(1, before + 1))
    entries = [entry async for entry in c.items()]
    calls = [call async for call in c.responses()]
    for call in calls:
        assert await call.request()
    if entries:
        await c.window(Budget(context=100_000))
    await c.open_calls()
    await c.usage()
    assert (await c.refresh()).version == before
    assert [call.status for call in calls[:-1]].count("open") == 0
    return c


async def go_on(s, name, api):
    """Have a conversation's next turn, and see to it that all before it was mended."""
    c = await s.engine.get(name)
    result = await c.run(s.model(api), "And now?", tools=[look], when_busy="wait")
    assert result.status == "completed"
    events = await whole_log(c)
    # Each input is there at most once, though its key came before.
    texts = [event.item["content"] for event in events if event.item and event.item.get("role") == "user"]
    keyed = [text for text in texts if text.startswith("Go ")]
    assert len(keyed) == len(set(keyed))


async def test_killed_at_any_moment(stage_for, db, seed, long):
    chance = random.Random(seed)
    async with open_engine(db, lease=LEASE) as engine, stage_for(script(chance), engine=engine) as s:
        async with worker() as (order, ended):
            for kill in range(200 if long else 20):
                # The same conversations again and again, so that wounds add up; new ones now and then.
                names = {f"{api}-{kill // 5}-{n}": api for n in range(2) for api in ("responses", "chat")}
                pid = await order(url=s.server.base_url, db=str(db), lease=LEASE, conversations=names, turns=3)
                await anyio.sleep(chance.random() * 0.35)
                await killed(pid, ended)
                begun = {info.id async for info in engine.list()} & names.keys()
                for name in begun:
                    await read(engine, name)
                async with anyio.create_task_group() as group:
                    for name in begun:
                        group.start_soon(go_on, s, name, names[name])
        crashed = 0
        async for info in engine.list():
            async for event in (await engine.get(info.id)).events():
                crashed += event.type == "response.interrupted" and event.data["cause"] == "crashed"
        assert crashed, "the kills came when nothing was going on"


async def test_the_same_key_after_a_crash(stage_for, db, seed):
    """A worker that does all its turns under keys is killed over and over; in the end each was done once."""
    chance = random.Random(seed)
    async with open_engine(db, lease=LEASE) as engine, stage_for(script(chance), engine=engine) as s:
        async with worker() as (order, ended):
            for wait in (0.1, 0.2, 0.3, 0.5, None):
                names = {"one": "responses", "two": "chat"}
                pid = await order(url=s.server.base_url, db=str(db), lease=LEASE, conversations=names, turns=2)
                if wait is None:
                    assert await ended() == 0
                    break
                await anyio.sleep(wait)
                await killed(pid, ended)
                await anyio.sleep(LEASE)
        for name in names:
            c = await engine.get(name)
            texts = [entry.item["content"] async for entry in c.items() if entry.item.get("role") == "user"]
            assert [texts.count(f"Go {number}") for number in range(2)] == [1, 1]


def stopped(pid):
    """Stop a process, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != "T":
        assert state != "Z", "it has ended"
        time.sleep(0.001)


def free(db):
    """Return whether nobody keeps the database locked."""
    with (
        closing(sqlite3.connect(db, timeout=0, isolation_level=None)) as connection,
        suppress(sqlite3.OperationalError),
    ):
        connection.execute("BEGIN IMMEDIATE")
        return True
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process has stopped is read in /proc")
async def test_a_process_that_was_stopped_comes_back_and_is_refused(stage_for, db, api):
    """It was thought dead: another has taken its turn over. It writes nothing more, and ends with an error."""
    answer = Reply("a long and slow answer " * 10, delay=0.02)
    async with (
        open_engine(db, lease=LEASE) as engine,
        stage_for(lambda _: answer, engine=engine) as s,
        worker() as (order, ended),
    ):
        c = await engine.create(id="one")
        pid = await order(url=s.server.base_url, db=str(db), lease=LEASE, conversations={"one": api}, turns=1)
        while True:
            await anyio.sleep(0.02)
            stopped(pid)
            if (await engine.store.read("one")).head.lease is not None and free(db):
                break
            os.kill(pid, signal.SIGCONT)
        result = await c.run(s.model(api), "And now?", when_busy="wait")
        events = await whole_log(c)
        os.kill(pid, signal.SIGCONT)
        assert await ended() == 1
        assert [event async for event in c.events()] == events
        assert (result.status, result.version) == ("completed", len(events))
        assert [event.data["cause"] for event in events if event.type == "response.interrupted"] == ["crashed"]
