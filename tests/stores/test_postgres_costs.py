"""What the PostgreSQL store costs, counted: round trips, transactions, connections, query plans."""

import hashlib
import json
import re
from collections import Counter
from functools import partial

import pytest
from psycopg import AsyncConnection, AsyncPipeline

from pg_talk import opened, rows, stranger
from turnlog.engine.log import Fork, Key, KeyUse, Query, Take
from turnlog.engine.stores import postgres_reading
from turnlog.engine.stores.postgres_rows import having, sql_for
from turnlog.engine.testing.contract_kit import body, created, forked, item, patched, started, together

pytestmark = pytest.mark.anyio


# -- round trips


@pytest.fixture
def trips(monkeypatch):
    """Count the times that a store waits for the server: pipelines, and statements outside of one."""
    counted = Counter()
    wait = AsyncConnection.wait

    async def counting(self, *args, **kwargs):
        counted["waits"] += self._pipeline is None
        return await wait(self, *args, **kwargs)

    monkeypatch.setattr(AsyncConnection, "wait", counting)
    ended = AsyncPipeline.__aexit__

    async def ending(self, *args):
        counted["waits"] += self.level == 1
        return await ended(self, *args)

    monkeypatch.setattr(AsyncPipeline, "__aexit__", ending)
    return counted


async def test_round_trips(pg_url, schema, trips):
    async with opened(pg_url, schema) as store:
        store._news.say = lambda: None
        await started(store, "c", "one", "two")
        digest, data = body("settings")
        await store.append("c", [item("x")], bodies={digest: data})
        await forked(store, "d", "c", 3, "three")
        await store.stand("name", "o", 60.0)
        calls = {
            "append": (
                2,
                lambda: store.append("c", [item("a"), item("b", marks=("m",))], expected=4, key=Key("k", "d")),
            ),
            "append again": (2, lambda: store.append("c", [item("a")], expected=4, key=Key("k", "d"))),
            "append with a body that is known": (2, lambda: store.append("c", [item("x")], bodies={digest: data})),
            "append with a new body": (3, lambda: store.append("c", [item("x")], bodies=dict([body("new")]))),
            "create": (2, lambda: store.append("new", [created({"a": 1}), item("x")])),
            "take": (2, lambda: store.append("c", [item("x")], lease=Take(owner="o", seconds=0.0, turn=-1))),
            "patch": (2, lambda: store.append("c", [patched(a=1)])),
            "fork": (3, lambda: store.append("e", [created()], fork=Fork("c", 3))),
            "read": (1, lambda: store.read("c", Query(), Query(mark="m"), Query(link="l"), Query(tokens=5))),
            "head": (1, lambda: store.read("c")),
            "read a fork": (3, lambda: store.read("d", Query(), Query(mark="m"))),
            "read a fork again": (1, lambda: store.read("d", Query(reverse=True, tokens=10))),
            "append keys": (2, lambda: store.append("c", [], uses={"l": KeyUse("d", 1, 1), "m": KeyUse("d", 2, 3)})),
            "key": (1, lambda: store.key("c", "k")),
            "keys": (1, lambda: store.keys("c")),
            "body": (1, lambda: store.body(digest)),
            "heads": (1, store.heads),
            "heads where": (1, lambda: store.heads(where={"a": 1})),
            "renew": (1, lambda: store.renew("c", 1, 1.0)),
            "feed": (1, lambda: store.feed(None, 10)),
            "ack": (1, lambda: store.ack("name", "o", "1.1")),
        }
        found = {}
        for name, (_, call) in calls.items():
            trips.clear()
            await call()
            found[name] = trips["waits"]
        assert found == {name: expected for name, (expected, _) in calls.items()}


async def transactions(url):
    """Return how many transactions have written something by now, this one with them."""
    return (await rows(url, "SELECT pg_current_xact_id()::text::bigint"))[0][0]


async def test_many_appends_are_few_transactions(pg_url, schema):
    async with opened(pg_url, schema) as store:
        store._news.say = lambda: None
        await started(store)
        before = await transactions(pg_url)
        await together(*(partial(store.append, "c", [item(str(number))]) for number in range(100)))
        assert await transactions(pg_url) - before <= 1 + 3
        before = await transactions(pg_url)
        await together(*(partial(started, store, f"c{number}") for number in range(100)))
        assert await transactions(pg_url) - before <= 1 + 3 * 4, "four lanes"
        before = await transactions(pg_url)
        await together(*(partial(store.read, f"c{number}", Query()) for number in range(100)))
        assert await transactions(pg_url) - before == 1, "reading writes nothing"


async def test_few_connections_are_used(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        for _ in range(3):
            reads = [partial(store.read, "c", Query()) for _ in range(50)]
            appends = [partial(store.append, f"c{number % 7}", [item("x")]) for number in range(50)]
            await together(*reads, *appends)
        ((used,),) = await rows(
            pg_url,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        assert used <= 10


# -- plans


FILL = """
SET search_path = "{schema}";
INSERT INTO conversations (id, version, created, updated, last_item, items, generation, place, deleted, metadata,
    parent, fork_at)
SELECT 'c' || n, 5, n, n * 7 % 20000, 5, 4, 0, n, n % 50 = 0, '{{}}', CASE WHEN n % 10 = 1 THEN 'c0' END,
    CASE WHEN n % 10 = 1 THEN 0 END
FROM generate_series(0, 19999) AS n;
UPDATE conversations SET version = 10000 WHERE id = 'c0';
INSERT INTO spans SELECT 'c' || n, 'c' || n / 20 * 10, 1, 3 FROM generate_series(1, 19999, 10) AS n;
INSERT INTO fields SELECT 'c' || n, decode(md5((n % 2000)::text), 'hex') FROM generate_series(0, 19999) AS n;
INSERT INTO fields SELECT 'c' || n, decode(md5('all'), 'hex') FROM generate_series(0, 19999) AS n;
INSERT INTO events (conversation, seq, place, time, kind, schema, shape, link, tokens, flags, sum, items, item)
SELECT 'c' || n, s, n * 5 + s, 0, CASE WHEN s = 1 THEN 'conversation.created' END, 1, 'user',
    CASE WHEN s > 3 THEN 'call_' || md5((n * 10 + s)::text) END, 10, 0, 0, s, decode(repeat('ab', 100), 'hex')
FROM generate_series(1, 19999) AS n, generate_series(1, 5) AS s;
INSERT INTO events (conversation, seq, place, time, kind, schema, shape, link, tokens, flags, sum, items, item)
SELECT 'c0', s, 100000 + s, 0, NULL, 1, 'user', 'call_' || md5(s::text), 10, 0, 0, s, decode(repeat('ab', 100), 'hex')
FROM generate_series(1, 10000) AS s;
INSERT INTO marks SELECT 'c0', CASE WHEN s % 100 = 1 THEN 'base' ELSE 'request' END, s
FROM generate_series(1, 10000, 4) AS s;
INSERT INTO marks SELECT 'c' || n, 'request', 2 FROM generate_series(1, 19999) AS n;
INSERT INTO keys SELECT 'c' || n, 'k' || s, 'd', s, s FROM generate_series(0, 19999) AS n, generate_series(1, 2) AS s;
INSERT INTO keys SELECT 'c0', 'key ' || s, 'd', s, s FROM generate_series(1, 5000) AS s;
INSERT INTO bodies (digest, body) SELECT sha256(n::text::bytea), 'x' FROM generate_series(0, 19999) AS n;
INSERT INTO refs SELECT 'c' || n, 0, sha256(n::text::bytea) FROM generate_series(0, 19999) AS n;
INSERT INTO refs SELECT 'c' || n, 2, sha256((n % 100)::text::bytea) FROM generate_series(0, 19999) AS n;
ANALYZE;
"""

ONE = {"id": "c0", "owner": "c0", "first": 500, "last": 2**62, "limit": 20}
HEADS = {"time": 2**63 - 1, "id": "~", "limit": 50}
RARE, ALL = (hashlib.md5(word).digest() for word in (b"7", b"all"))
WHERE = {"f0": ALL, "f1": RARE}
TEN = [f"c{number}" for number in range(10)]
DIGESTS = [bytes([number]) * 32 for number in range(10)]
NEW = {
    "id": TEN,
    "version": [6] * 10,
    "created": [1] * 10,
    "updated": [1] * 10,
    "last_item": [1] * 10,
    "items": [1] * 10,
    "metadata": [b"{}"] * 10,
    "generation": [0] * 10,
    "owner": [None] * 10,
    "turn": [None] * 10,
    "expires": [None] * 10,
    "parent": [None] * 10,
    "fork_at": [None] * 10,
    "deleted": [False] * 10,
    "place": [1] * 10,
}
VALUES = {
    "lock": {"ids": TEN},
    "used_keys": {"conversations": TEN, "names": ["k1"] * 10},
    "linked_to": {"conversations": TEN, "links": TEN},
    "held_bodies": {"conversations": TEN, "digests": DIGESTS},
    "trunk": {"parent": "c0", "at": 9_000},
    "update_heads": NEW,
    "delete_fields": {"conversation": TEN, "field": DIGESTS},
    "hold_bodies": {"digests": DIGESTS},
    "insert_spans": {"id": "new", "parent": "c1", "at": 3},
    "renew": {"id": "c0", "generation": 1, "seconds": 1.0, "version": 1},
    "erase_events": {
        "conversation": TEN,
        "seq": [2] * 10,
        "item": [b"{}"] * 10,
        "data": [None] * 10,
        "flags": [0] * 10,
        "sum": [0] * 10,
    },
    "let_go": {"conversation": TEN, "seq": [2] * 10},
    "lock_bodies": {"digests": DIGESTS},
    "drop_bodies": {"digests": DIGESTS},
    "delete_keys": {"id": "c0"},
    "delete_spans": {"id": "c1"},
    "shared": {"id": "c0"},
    "delete_events": {"id": "c7", "after": 0, "before": 5},
    "delete_marks": {"id": "c7", "after": 0, "before": 5},
    "delete_refs": {"id": "c7", "after": 0, "before": 5},
    "head": {"id": "c0"},
    "heads_updated_falling": HEADS,
    "heads_created_falling": HEADS,
    "heads_created_rising": HEADS | {"time": -(2**63), "id": ""},
    "found_updated_falling": HEADS | WHERE,
    "found_created_falling": HEADS | WHERE,
    "found_created_rising": HEADS | WHERE | {"time": -(2**63), "id": ""},
    "forks": {"id": "c0"},
    "spans": {"ids": ["c1", "c11"]},
    "key": {"id": "c0", "name": "k"},
    "keys": {"id": "c0", "after": "k", "limit": 100},
    "body": {"digest": DIGESTS[0]},
    "rising": ONE,
    "falling": ONE,
    "linked_rising": ONE | {"word": "call_0123456789abcdef"},
    "linked_falling": ONE | {"word": "call_0123456789abcdef"},
    "marked_rising": ONE | {"word": "request"},
    "marked_falling": ONE | {"word": "request"},
    "feed": {"place": 50_000, "number": 0, "limit": 100},
    "feed_end": {},
    "beyond": {"place": 50_000, "number": 0},
}
NO_PLAN = {"having", "settings", "moment", "version", "fate", "stand", "ack", "resign", "vacuum", "hint"}
"""They look at no table, or at one of a few rows, or are a part of others."""
WHOLE = {"note_unused", "note_used", "unused_bodies"}
"""Collecting looks at all bodies."""
SORTED = {
    *("lock", "hold_bodies", "lock_bodies", "spans", "shared", "forks"),
    *("found_updated_falling", "found_created_falling", "found_created_rising"),
}
"""They order the few rows that they have found by index."""


@pytest.fixture(scope="module")
async def filled(pg_url):
    """The name of a schema with many rows."""
    schema = "many rows"
    async with opened(pg_url, schema):
        pass
    await rows(pg_url, FILL.format(schema=schema))
    return schema


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


def steps(plan):
    """Yield the steps of a plan: what is done, and to which table."""
    yield plan["Node Type"], plan.get("Relation Name")
    for part in plan.get("Plans", ()):
        yield from steps(part)


async def planned(url, schema, name, values, *, general):
    """Return the steps of a statement, as it is planned for these values, or for any."""
    statement = having(sql_for(schema), name, 2).rstrip(b";")
    async with stranger(url) as connection:
        if not general:
            cursor = await connection.execute(b"EXPLAIN (FORMAT JSON) " + statement, values)
        else:
            names = [name for name in values if f"%({name})" in statement.decode()]
            text = re.sub(r"%\((\w+)\)[sb]", lambda found: f"${names.index(found[1]) + 1}", statement.decode())
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            await connection.execute(f"PREPARE general AS {text.replace('%%', '%')}".encode())
            nothing = f"({', '.join(['NULL'] * len(names))})" if names else ""
            cursor = await connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE general{nothing}".encode())
        ((plan,),) = await cursor.fetchall()
        plan = json.loads(plan) if isinstance(plan, str) else plan
        return list(steps(plan[0]["Plan"]))


def test_every_statement_has_a_plan():
    inserts = {name for name in sql_for("x") if name.startswith("insert_")} - set(VALUES)
    assert set(sql_for("x")) == set(VALUES) | NO_PLAN | WHOLE | inserts


@pytest.mark.parametrize("general", [False, True], ids=["these", "any"])
@pytest.mark.parametrize("name", VALUES)
async def test_every_statement_finds_its_rows_by_index(pg_url, filled, name, general):
    found = await planned(pg_url, filled, name, VALUES[name], general=general)
    for step, table in found:
        assert step != "Seq Scan" or table == "schema_version", found
        assert name in SORTED or "Sort" not in step, found


async def test_what_is_common_is_found_along_the_order(pg_url, filled):
    async with stranger(pg_url) as connection:
        statement = b"EXPLAIN (ANALYZE, FORMAT JSON) " + having(sql_for(filled), "found_updated_falling", 1)
        ((found,),) = await (await connection.execute(statement.rstrip(b";"), HEADS | {"f0": ALL})).fetchall()
        plan = list(steps(found[0]["Plan"]))
        assert not any("Sort" in step for step, _ in plan), plan


async def test_the_cost_of_a_read_does_not_grow_with_the_log(pg_url, schema):
    async with opened(pg_url, schema) as store:
        events = [item(str(n), link=f"call_{n}", tokens=10, marks=("request",)) for n in range(100)]
        for name, times in (("small", 2), ("large", 60)):
            await store.append(name, [created(), item("system", marks=("pin",))])
            for _ in range(times):
                await store.append(name, events)
        await rows(pg_url, f'VACUUM ANALYZE "{schema}".events, "{schema}".marks')
        small, large = [await pages(pg_url, schema, name) for name in ("small", "large")]
        assert large <= small * 1.7, "an index of two levels has become one of three at most"


async def pages(url, schema, name):
    """Return how many pages of the tables the reads of a turn look at."""
    queries = (
        Query(mark="pin", limit=1),
        Query(mark="request", reverse=True, limit=1),
        Query(link="call_7", limit=2),
        Query(reverse=True, limit=20),
        Query(reverse=True, tokens=100),
        Query(after=50, before=60),
    )
    looked = 0
    async with stranger(url) as connection:
        for query in queries:
            (span,) = postgres_reading._parts(query, [(name, 1, 2**62)])
            statement, values = postgres_reading._statement(query, span, postgres_reading._chunk(query))
            explained = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql_for(schema)[statement].rstrip(b";")
            ((found,),) = await (await connection.execute(explained, values)).fetchall()
            looked += found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"]
    return looked
