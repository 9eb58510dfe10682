"""What the SQLite store costs, counted: hops, commits, flushes, query plans, steps, bytes."""

import math
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import aiosqlite
import anyio
import pytest

from turnlog.engine.codec import event
from turnlog.engine.events import ItemAppended, ResponseCompleted, Usage
from turnlog.engine.items import accept, read
from turnlog.engine.log import Append, Erasure, Fork, Key, Query
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.stores.sqlite_reading import found
from turnlog.engine.stores.statements import script, statements
from turnlog.engine.testing.contract_kit import created, item, started, tombstone

SQL = statements("sqlite_queries.sql")
SCHEMA = script("sqlite_schema.sql")


@pytest.fixture
async def store(db):
    opened = await SqliteStore.open(db)
    await started(opened, "c", "one", "two")
    yield opened
    await opened.close()


# -- hops and commits


@pytest.fixture
def hops(monkeypatch):
    """Count the functions that are handed to connections' threads."""
    counted = Counter()
    execute = aiosqlite.Connection._execute

    async def counting(self, work, *args, **kwargs):
        counted["hops"] += 1
        return await execute(self, work, *args, **kwargs)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counting)
    return counted


@pytest.mark.anyio
@pytest.mark.parametrize(
    "verb",
    [
        "append",
        "fork",
        "read",
        "key",
        "keys",
        "body",
        "heads",
        "found",
        "forks",
        "erase",
        "delete",
        "collect",
        "feed",
        "end",
        "stand",
        "ack",
        "resign",
        "renew",
    ],
)
async def test_every_verb_is_one_hop(store, hops, verb):
    about = {"a": 1, "b": "two"}
    await store.append("d", [created(about), item("x")], fork=Fork("c", 2))
    erasure = Append(conversation="d", events=[item("e")], erasures=[Erasure(seq=2), Erasure(seq=4)])
    calls = {
        "append": lambda: store.append("c", [item("a"), item("b", marks=("m",))], expected=3, key=Key("k", "d")),
        "fork": lambda: store.append("e", [created(), item("a")], fork=Fork("d", 3), key=Key("k", "d")),
        "found": lambda: store.heads(where=about),
        "forks": lambda: store.forks("c"),
        "erase": lambda: store.erase([erasure]),
        "delete": lambda: store.delete("c", tombstone(), forks="keep"),
        "collect": lambda: store.collect(0.0),
        "feed": lambda: store.feed(None, 10),
        "end": store.end,
        "stand": lambda: store.stand("search", "one", 1.0),
        "ack": lambda: store.ack("search", "one", "1"),
        "resign": lambda: store.resign("search", "one"),
        "read": lambda: store.read("c", Query(), Query(mark="m"), Query(link="l"), Query(reverse=True, limit=1)),
        "key": lambda: store.key("c", "k"),
        "keys": lambda: store.keys("c"),
        "body": lambda: store.body("00" * 32),
        "heads": store.heads,
        "renew": lambda: store.renew("c", 1, 1.0),
    }
    await store.read("c")
    hops.clear()
    await calls[verb]()
    assert hops["hops"] == 1


async def traced(store):
    """Let the writer note its statements, by their first word."""
    said = Counter()

    def note(statement):
        said[statement.split()[0]] += 1

    await store._writer.run(lambda db: db.set_trace_callback(note))
    return said


@pytest.mark.anyio
async def test_an_append_alone_is_one_transaction(store):
    said = await traced(store)
    for number in range(10):
        await store.append("c", [item(str(number)), item("b")], key=Key(str(number), "d"))
    assert (said["BEGIN"], said["COMMIT"], said["ROLLBACK"]) == (10, 10, 0)


@pytest.mark.anyio
async def test_a_hundred_appends_at_once_are_few_transactions(store, hops):
    said = await traced(store)
    hops.clear()
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(store.append, "c", [item(str(number))])
    assert said["COMMIT"] == said["BEGIN"] == hops["hops"] <= 3
    assert said["INSERT"] <= 20, "rows are written together"


@pytest.mark.anyio
async def test_a_busy_writer_gathers_whoever_comes(store):
    said = await traced(store)

    async def worker(number):
        for _ in range(10):
            await store.append("c", [item(str(number))])

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(worker, number)
    assert said["COMMIT"] <= 30, "500 appends of 50 tasks"


@pytest.mark.anyio
async def test_losers_alone_write_nothing(store, db):
    before = db.with_name("log.db-wal").stat().st_size
    for _ in range(5):
        with pytest.raises(LookupError):
            await store.append("nowhere", [item("x")])
    assert db.with_name("log.db-wal").stat().st_size == before


FLUSHES = """
import sys
import anyio
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import created, item

async def main(path, durability, alone, together):
    store = await SqliteStore.open(path, durability=durability)
    await store.append("c", [created()])
    for number in range(alone):
        await store.append("c", [item("x"), item("y")])
    async with anyio.create_task_group() as group:
        for number in range(together):
            group.start_soon(store.append, "c", [item("x")])
    await store.close()

anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


def flushes(folder, durability, alone, together):
    """Return how often a process that appends has flushed, as the operating system saw it."""
    path, log = folder / f"{durability}{alone}-{together}.db", folder / "strace"
    command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", log, sys.executable, "-c", FLUSHES]
    subprocess.run([*command, path, durability, str(alone), str(together)], check=True, capture_output=True)
    return len(re.findall(r"\bf(?:data)?sync\(", log.read_text()))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here to count flushes")
def test_an_append_is_one_flush_and_a_crowd_shares_it(tmp_path):
    try:
        idle = flushes(tmp_path, "full", 0, 0)
    except subprocess.CalledProcessError as refused:
        pytest.skip(f"strace may not trace here: {refused.stderr.decode()[:200]}")
    assert flushes(tmp_path, "full", 20, 0) - idle == 20
    assert flushes(tmp_path, "full", 0, 100) - idle <= 3
    assert flushes(tmp_path, "normal", 20, 100) <= idle


# -- plans and steps


@pytest.fixture
def schema(tmp_path):
    import sqlite3

    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


BY_ID = "SEARCH c USING INDEX sqlite_autoindex_conversations_1 (id=?)"
BY_KEY = "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)"
ABOUT = "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)"
OF_HEAD = ["SEARCH conversations USING INTEGER PRIMARY KEY (rowid=?)"]
OF_ID = ["SEARCH conversations USING INDEX sqlite_autoindex_conversations_1 (id=?)"]
LISTED = "SEARCH c USING INDEX conversations_{0} (({0},id){1}(?,?))"
WITH_FACET = "SEARCH f USING PRIMARY KEY (facet=? AND (time,id){}(?,?))"
ONE_FACET = "SEARCH facets USING PRIMARY KEY (facet=? AND time=? AND id=?)"
ALSO = ["CORRELATED SCALAR SUBQUERY 1", "SEARCH o USING PRIMARY KEY (facet=? AND time=? AND id=?)"]
BY_SEQ = ["SEARCH events USING INDEX events_seq (conversation=? AND seq>? AND seq<?)"]
OF_LINK = [
    "SEARCH e USING INDEX events_link (conversation=? AND <expr>=? AND seq>? AND seq<?)",
    "CORRELATED SCALAR SUBQUERY 2",
    "SEARCH o USING INDEX events_link (conversation=? AND <expr>=? AND seq<?)",
]
BY_LINK = ["SEARCH events USING INDEX events_link (conversation=? AND <expr>=? AND seq>? AND seq<?)"]
ONE_MARK = "SEARCH marks USING PRIMARY KEY (conversation=? AND mark=?)"
BY_MARK = [
    "SEARCH m USING PRIMARY KEY (conversation=? AND mark=? AND seq>? AND seq<?)",
    "SEARCH e USING INDEX events_seq (conversation=? AND seq=?)",
]
OF_KEYS = "SEARCH keys USING PRIMARY KEY (conversation=? AND name=?)"
OF_REFS = ["SEARCH refs USING PRIMARY KEY (conversation=? AND seq>? AND seq<?)"]
OF_BODIES = "SEARCH bodies USING INDEX sqlite_autoindex_bodies_1 (digest=?)"
BY_ROW = {name: [f"SEARCH {name} USING INTEGER PRIMARY KEY (rowid=?)"] for name in ("events", "bodies")}
UNUSED = "SEARCH refs USING COVERING INDEX refs_digest (digest=?)"
OF_READERS = ["SEARCH readers USING PRIMARY KEY (name=?)"]
PLANS = {
    "head": [BY_ID, ABOUT],
    "head_of_key": [BY_KEY, ABOUT],
    "heads_updated_falling": [LISTED.format("updated", "<"), ABOUT],
    "heads_created_falling": [LISTED.format("created", "<"), ABOUT],
    "heads_created_rising": [LISTED.format("created", ">"), ABOUT],
    "found_falling": [WITH_FACET.format("<"), BY_ID, *ALSO, ABOUT],
    "found_rising": [WITH_FACET.format(">"), BY_ID, *ALSO, ABOUT],
    "facet_size": ["SEARCH facets USING PRIMARY KEY (facet=?)"],
    "lineage": [BY_KEY, BY_KEY],
    "sharers": [
        "SEARCH conversations USING INDEX conversations_origin (origin=?)",
        "SEARCH c USING COVERING INDEX conversations_origin (origin=?)",
        BY_KEY,
    ],
    "update_head": OF_HEAD,
    "renew": OF_ID,
    "overwrite_metadata": ["SEARCH metadata USING INTEGER PRIMARY KEY (rowid=?)"],
    "update_facet": [ONE_FACET],
    "delete_facet": [ONE_FACET],
    "counted": ["SEARCH counts USING PRIMARY KEY (conversation=? AND seq<?)"],
    "items_between": BY_SEQ,
    "key": [OF_KEYS],
    "keys_of": [
        "SEARCH keys USING PRIMARY KEY (conversation=? AND name>?)",
        "SCALAR SUBQUERY 1",
        OF_ID[0].replace("INDEX", "COVERING INDEX"),
    ],
    "key_of": [OF_KEYS, "SCALAR SUBQUERY 1", OF_ID[0].replace("INDEX", "COVERING INDEX")],
    "body": [OF_BODIES],
    "rising": BY_SEQ,
    "falling": BY_SEQ,
    "latest": BY_SEQ,
    "linked_to": OF_LINK,
    "linked_rising": BY_LINK,
    "linked_falling": BY_LINK,
    "marks_there": ["SCAN json_each VIRTUAL TABLE INDEX 1:", "CORRELATED SCALAR SUBQUERY 1", ONE_MARK],
    "marked_rising": BY_MARK,
    "marked_falling": BY_MARK,
    "fed": ["SEARCH e USING INTEGER PRIMARY KEY (rowid>?)", BY_KEY, ABOUT],
    "end": ["SEARCH events"],
    "reader": OF_READERS,
    "stand": [],
    "ack": [*OF_READERS, "SCALAR SUBQUERY 1", "SEARCH events"],
    "resign": OF_READERS,
    "overwrite_event": ["SEARCH events USING INDEX events_seq (conversation=? AND seq=?)"],
    "tombstone": OF_HEAD,
    "blank_events": BY_SEQ,
    "delete_events": BY_SEQ,
    "delete_marks": ["SEARCH marks USING PRIMARY KEY (conversation=?)"],
    "delete_counts": ["SEARCH counts USING PRIMARY KEY (conversation=? AND seq>? AND seq<?)"],
    "delete_keys": ["SEARCH keys USING PRIMARY KEY (conversation=?)"],
    "referred": OF_REFS,
    "delete_refs": OF_REFS,
    "blank_body": [OF_BODIES, "SCALAR SUBQUERY 1", UNUSED],
    "delete_body": [OF_BODIES, "SCALAR SUBQUERY 1", UNUSED],
    "unused_bodies": ["SEARCH refs USING PRIMARY KEY (conversation=? AND seq<?)"],
    "forget_unused": ["SEARCH refs USING PRIMARY KEY (conversation=? AND seq<?)"],
    **{f"{verb}_{name}": plan for name, plan in BY_ROW.items() for verb in ("content_of", "fill", "restore")},
}
AROUND = re.compile(r"CO-ROUTINE|SETUP|RECURSIVE STEP|SCAN (CONSTANT ROW|line|s|w|\(subquery-1\))$")
"""What a plan says of rows that the statement itself has gathered."""


def test_every_statement_has_a_plan():
    assert {name for name in SQL if not name.startswith(("insert_", "advance_")) and name != "also"} == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_every_statement_finds_its_rows_by_index_and_in_order(schema, name):
    statement = SQL[name]
    if name.startswith("found_"):
        statement = found(name.removeprefix("found_"), 1)
    values = dict.fromkeys(re.findall(r":(\w+)", statement)) or [None] * statement.count("?")
    steps = [row[3].removesuffix(" LEFT-JOIN") for row in schema.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    # No scan of a table, no sorting in a temporary one.
    assert [step for step in steps if not AROUND.match(step)] == PLANS[name]


@pytest.mark.anyio
async def test_the_cost_of_a_read_does_not_grow_with_the_log(db):
    store = await SqliteStore.open(db)

    async def steps(name):
        """Return how many steps of SQLite's machine the reads of a turn take."""
        counted = Counter()

        def step():
            counted["steps"] += 1

        reader = store._free[-1]
        await reader.run(lambda db: db.set_progress_handler(step, 1))
        await store.read(
            name,
            Query(mark="pin", limit=1),
            Query(mark="request", reverse=True, limit=1),
            Query(link="call_7", limit=2),
            Query(reverse=True, limit=20),
            Query(reverse=True, tokens=100),
            Query(after=50, before=60),
        )
        await store.heads(limit=5)
        await reader.run(lambda db: db.set_progress_handler(None, 1))
        return counted["steps"]

    async def grown(name, size):
        for start in range(0, size, 100):
            await store.append(
                name, [item(str(n), link=f"call_{n}", tokens=10, marks=("request",)) for n in range(start, start + 100)]
            )

    for name in ("small", "large"):
        await store.append(name, [created(), item("system", marks=("pin",))])
    await grown("small", 100)
    await steps("small")  # the first time, statements are compiled
    small = await steps("small")
    await grown("large", 5_000)
    assert await steps("large") == pytest.approx(small, rel=0.02)
    await store.close()


@pytest.mark.anyio
async def test_the_cost_of_an_output_does_not_grow_with_the_calls_of_its_id(db):
    """Some backends give all their first calls the same one."""
    store = await SqliteStore.open(db)
    pair = [item("call", shape="function_call", link="x"), item("output", shape="function_call_output", link="x")]

    async def steps():
        """Return how many steps of SQLite's machine the append of an output takes."""
        counted = Counter()

        def step():
            counted["steps"] += 1

        await store.append("c", [pair[0]])
        await store._writer.run(lambda db: db.set_progress_handler(step, 1))
        await store.append("c", [pair[1]], answers=["x"])
        await store._writer.run(lambda db: db.set_progress_handler(None, 1))
        return counted["steps"]

    await store.append("c", [created(), *pair * 50])
    await steps()  # the first time, statements are compiled
    few = await steps()
    for _ in range(20):
        await store.append("c", pair * 100)
    assert await steps() == pytest.approx(few, rel=0.1)
    await store.close()


# -- bytes


WORDS = "Paris in May, seventeen degrees, light rain from the west, wind 12 km/h. " * 100


def turn(sizes, number):
    """Return the items of an ordinary turn, 700 bytes each on average and of very different sizes."""
    call = f"call_{number:024d}"

    def words(median):
        return WORDS[: int(sizes.lognormvariate(math.log(median), 0.6))]

    return [
        {"role": "user", "content": words(200)},
        {
            "type": "function_call",
            "id": f"fc_{number:048d}",
            "call_id": call,
            "name": "weather",
            "arguments": '{"city": "Paris", "days": 3}',
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": call, "output": words(1200)},
        {
            "type": "message",
            "id": f"msg_{number:048d}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": words(450)}],
        },
    ]


@pytest.mark.anyio
async def test_items_take_little_more_room_than_their_json(db):
    store = await SqliteStore.open(db, durability="normal")
    sizes = random.Random(1)
    written = 0
    for conversation in range(10):
        name = f"cv_{conversation:026d}"
        await store.append(name, [created()])
        for number in range(300):
            made = []
            for given in turn(sizes, number):
                value, data = accept(given, "$")
                written += len(data)
                made.append(event(ItemAppended(), item=data, form=read(value), tokens=len(data) // 4, response=number))
            await store.append(name, made)
    await store.close()
    assert 650 < written / 12_000 < 750
    assert db.stat().st_size <= 1.3 * written, db.stat().st_size / written


@pytest.mark.anyio
async def test_the_write_ahead_log_is_emptied_again_and_again(db):
    store = await SqliteStore.open(db, durability="normal")
    await store.append("c", [created()])
    for _ in range(120):
        await store.append("c", [item("x" * 200_000), event(ResponseCompleted(usage=Usage(1, 2, 3, 4, 5)))])
    assert db.with_name("log.db-wal").stat().st_size < 10_000_000
    assert db.stat().st_size > 16_000_000
    await store.close()
