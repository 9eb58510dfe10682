"""What the engine costs, counted and not timed: flushes, statements, rows, hops, tokenisations, bytes.

Each figure is what the operation costs today, at most: an engine that does with less passes, one that needs more fails.
"""

import json
import subprocess
import sys
from collections import Counter

import aiosqlite
import anyio.to_thread
import pytest

from benchmarks.disk import preloaded
from benchmarks.inside import Told
from benchmarks.systems.ours import Counting
from benchmarks.workload import items, size, turn
from turnlog import Budget, open_engine
from turnlog.engine.reader import Reader
from turnlog.engine.vocabulary import Vocabulary, load

pytestmark = pytest.mark.anyio

BUDGET = Budget(8_000)


@pytest.fixture
async def engine(db):
    async with open_engine(db, budget=BUDGET) as opened:
        yield opened


@pytest.fixture
async def long(engine):
    """A conversation of a hundred turns, of which the engine knows nothing yet."""
    conversation = await engine.create(id="long")
    await conversation.append(*items(400))
    engine.reader.forget("long")
    return conversation


async def answered(conversation, number):
    """Hold a turn of two model calls, as a service does."""
    model = Told(BUDGET.context)
    user, call, output, answer = turn(number)
    model.answer = call
    await conversation.respond(model, user)
    model.answer = answer
    await conversation.respond(model, output)


# -- flushes

FLUSHES = """
import json, sys
import anyio
from benchmarks.disk import flush_takes, flushed
from benchmarks.inside import Told
from benchmarks.workload import items, turn
from turnlog import Budget, open_engine

async def main(path):
    flush_takes(1000)
    told = {}
    async with open_engine(path) as engine:
        async def counted(name, work):
            before = flushed()
            await work()
            told[name] = flushed() - before

        c = await engine.create()
        await c.append("the first")
        user, call, output, answer = turn(1)
        model = Told(8_000)
        await counted("append", lambda: c.append("one"))
        await counted("append of a turn", lambda: c.append(*turn(2)))
        await counted("window", lambda: c.window(Budget(8_000)))
        model.answer = call
        await counted("respond", lambda: c.respond(model, user))
        model.answer = answer
        await counted("respond to an output", lambda: c.respond(model, output))

        class Twice(Told):
            def encode(self, window, settings):
                self.answer = answer if window.items[-1].get("type") == "function_call_output" else turn(3)[1]
                return super().encode(window, settings)

        async def run():
            await c.run(Twice(8_000), "look it up", tools=[look_up])

        async def look_up(place: str, turn: int = 0, days: int = 0, about: str = "") -> str:
            return "found"

        await counted("run with a tool", run)
        crowd = [await engine.create() for _ in range(100)]

        async def all_at_once():
            async with anyio.create_task_group() as group:
                for one in crowd:
                    group.start_soon(one.append, "hello")

        await counted("a hundred appends at once", all_at_once)
    print(json.dumps(told))

anyio.run(main, sys.argv[1])
"""


@pytest.fixture(scope="module")
def flushes(tmp_path_factory):
    with preloaded() as (environment, hindrance):
        if hindrance:
            pytest.skip(hindrance)
        path = tmp_path_factory.mktemp("flushes") / "log.db"
        command = [sys.executable, "-c", FLUSHES, str(path)]
        root = {**environment, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, env=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("append", 1),
        ("append of a turn", 1),
        ("window", 0),
        ("respond", 2),
        ("respond to an output", 2),
        ("run with a tool", 5),
        ("a hundred appends at once", 3),
    ],
)
def test_flushes(flushes, what, most):
    assert flushes[what] <= most
    assert flushes[what] > 0 or what == "window", "what is acknowledged is on the disk"


# -- hops and statements


@pytest.fixture
def hops(monkeypatch):
    """Count what is handed to threads: to those of connections, and to workers."""
    counted = Counter()
    execute, worker = aiosqlite.Connection._execute, anyio.to_thread.run_sync

    async def executing(self, work, *args, **kwargs):
        counted["hops"] += 1
        return await execute(self, work, *args, **kwargs)

    async def working(work, *args, **kwargs):
        counted["hops"] += 1
        return await worker(work, *args, **kwargs)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", executing)
    monkeypatch.setattr(anyio.to_thread, "run_sync", working)
    return counted


async def traced(engine):
    """Let every connection note its statements."""
    said = Counter()

    def note(statement):
        said["statements"] += 1
        said[statement.split()[0]] += 1

    for connection in (engine.store._writer, *engine.store._free):
        await connection.run(lambda db: db.set_trace_callback(note))
    return said


async def cold(conversation, number):
    conversation._engine.reader.forget(conversation.id)
    await conversation.window(BUDGET)


OPERATIONS = {
    "append": (lambda c, number: c.append(turn(number)[0]), 1, 5),
    "append of a turn": (lambda c, number: c.append(*turn(number)), 1, 5),
    "append of an output": (lambda c, number: c.append(turn(number)[2]), 1, 6),
    "window, cold": (cold, 1, 6),
    "window, live": (lambda c, _: c.window(BUDGET), 1, 4),
    "turn of two calls": (answered, 7, 42),
}
"""Each with its hops and statements."""


@pytest.mark.parametrize("what", OPERATIONS)
async def test_hops_and_statements(engine, long, hops, what):
    work, most_hops, most_statements = OPERATIONS[what]
    await work(long, 1_000)  # connections are open, and the history is live
    said = await traced(engine)
    hops.clear()
    said.clear()
    await work(long, 1_001)
    assert 0 < hops["hops"] <= most_hops
    assert 0 < said["statements"] <= most_statements


# -- rows


async def test_rows_of_a_window(engine, long):
    counting = Counting(engine.store)
    engine.reader = Reader(counting, engine.intake)
    window = await long.window(BUDGET)
    # The default policy keeps half of what it reads, and no request says where the last cut was.
    assert counting.rows <= 2.5 * len(window.items)
    before = counting.rows
    await long.window(BUDGET)
    assert counting.rows == before


async def test_a_turn_reads_nothing_that_it_has_just_written(engine, long):
    await answered(long, 1_000)
    counting = Counting(engine.store)
    engine.reader._store = counting
    await answered(long, 1_001)
    assert counting.rows == 0


# -- tokenisations


async def test_a_text_is_counted_once_in_its_life(engine, long, monkeypatch):
    exact = await load()
    counted = Counter()

    def count(text):
        counted[text] += 1
        return exact.count(text)

    counting = Vocabulary(exact.name, count, exact=True, source="test")
    monkeypatch.setattr(engine.intake, "_vocabulary", counting)
    conversation = await engine.create()
    user, call, output, answer = made = turn(5)
    texts = {user["content"], call["name"], call["arguments"], output["output"], answer["content"][0]["text"]}
    await conversation.append(*made)
    assert {text: number for text, number in counted.items() if text} == dict.fromkeys(texts, 1)
    counted.clear()
    await conversation.window(BUDGET)
    await long.window(BUDGET)
    await conversation.append("more")
    await conversation.window(BUDGET)
    assert counted == {"more": 1}
    counted.clear()
    await answered(conversation, 6)
    assert sum(number for text, number in counted.items() if text) == len(texts)


# -- bytes


async def test_turns_take_little_more_room_than_their_json(db):
    written = 0
    async with open_engine(db, durability="normal") as engine:
        for number in range(20):
            conversation = await engine.create()
            for at in range(number * 50, number * 50 + 50):
                await conversation.append(*turn(at))
                written += sum(map(size, turn(at)))
    assert db.stat().st_size <= 1.3 * written, db.stat().st_size / written


async def test_what_is_logged_of_requests_takes_no_more_than_their_items(db):
    written = 0
    async with open_engine(db, durability="normal", budget=BUDGET) as engine:
        conversation = await engine.create()
        for number in range(200):
            await answered(conversation, number)
            written += sum(map(size, turn(number)))
    # Of two requests and their answers in each turn, with the manifest of a window of some fifty items each.
    assert db.stat().st_size <= 2.2 * written, db.stat().st_size / written
