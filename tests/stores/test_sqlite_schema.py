"""Schemas of the SQLite store: golden databases of every version, bringing them forward, and who is refused."""

import re
import shutil
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog import open_engine
from turnlog.engine.canonical import canonical
from turnlog.engine.errors import Invalid, StoreError
from turnlog.engine.events import ERASED
from turnlog.engine.ids import NO_STREAM, system_clock
from turnlog.engine.log import Append, Key, Query, Take
from turnlog.engine.replay import verify
from turnlog.engine.stores import sqlite_schema
from turnlog.engine.stores.sqlite import SCHEMA_VERSION, SqliteStore, migration_sql, stored_version
from turnlog.engine.stores.sqlite_facets import facets
from turnlog.engine.stores.statements import script
from turnlog.engine.testing.contract_kit import created, forked, head_of, item, other, records_of, started, tombstone

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = range(1, SCHEMA_VERSION + 1)


@pytest.fixture
def golden(db):
    """Return a copy of the golden database of schema 1."""
    return copied(1, db)


def copied(version, db):
    shutil.copyfile(GOLDEN / f"schema-{version}.db", db)
    return db


@asynccontextmanager
async def opened(db):
    store = await SqliteStore.open(db)
    try:
        yield store
    finally:
        await store.close()


def rows(db, statement):
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(statement).fetchall()


def schema_of(db):
    """Return what a database is made of, without comments and how it is set out."""
    made = rows(db, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    plain = [(kind, name, re.sub(r"\s+", " ", re.sub(r"--.*", "", sql)).replace('"', "")) for kind, name, sql in made]
    return [(kind, name, re.sub(r" ?([(),]) ?", r"\1", sql)) for kind, name, sql in plain]


def content_of(db):
    """Return all that is in the tables that every schema has."""
    return {
        "conversations": rows(
            db,
            "SELECT key, id, version, created, updated, last_item, items, generation, owner, turn FROM conversations",
        ),
        **{table: rows(db, f"SELECT * FROM {table}") for table in ("events", "marks", "keys", "bodies")},
    }


# -- golden databases


def test_there_is_a_golden_database_of_every_schema():
    assert {path.name for path in GOLDEN.glob("schema-*.db")} == {f"schema-{version}.db" for version in VERSIONS}
    for version in VERSIONS:
        assert rows(GOLDEN / f"schema-{version}.db", "PRAGMA user_version") == [(version,)]
        assert (GOLDEN / f"schema-{version}.db").stat().st_size < 200_000


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_golden_database_is_read_verified_and_appended_to(db, version):
    copied(version, db)
    before = content_of(db)
    async with opened(db) as store:
        assert content_of(db) == before

        heads = {head.conversation: head for head in await store.heads(order="created")}
        assert heads.keys() >= {"talk", "french", "empty", "leased"}
        for name, head in heads.items():
            assert [record.seq for record in await records_of(store, name)] == list(range(1, head.version + 1))
            report = await verify(store, name)
            assert report.diverged == []
            assert report.verified + report.erased == report.responses
        assert (await verify(store, "talk")).verified == 4
        await its_lease_is_taken_over(store, heads["leased"])
        assert await store.key("talk", "first") is not None
        assert (await store.append("talk", [item("x")])).version == heads["talk"].version + 1
        await forked(store, "fork of french", "french", 100, "own")
        fork = await head_of(store, "fork of french")
        counted = [record.seq for record in (await records_of(store, "french"))[:100] if record.kind == "item.appended"]
        assert (fork.items, fork.last_item) == (len(counted) + 1, 102)
        await store.delete("fork of french", tombstone(), forks="refuse")
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]


async def its_lease_is_taken_over(store, head):
    lease = head.lease
    assert (head.generation, lease.owner, lease.turn, lease.remaining < 0) == (1, "golden:1", 1, True)
    assert (await store.append("leased", [item("on")], lease=Take(owner="o", seconds=1.0, turn=-1))).generation == 2


async def test_conversations_of_schema_1_are_found_by_their_metadata(golden):
    async with opened(golden) as store:

        async def found(**where):
            return [head.conversation for head in await store.heads(order="created", where=where)]

        assert await found(user="ada") == ["french", "leased"]
        assert await found(user="ada", n=1) == ["leased"]
        assert await found(n=2) == await found(x=1.5, ok=True, none=None, long="é" * 300) == ["talk"]
        assert await found(n="2") == await found(ok=1) == await found(tags="a") == []


async def test_settings_of_schema_1_go_with_their_conversations(golden):
    async with opened(golden) as store:
        digests = [row[0].hex() for row in rows(golden, "SELECT digest FROM bodies")]
        assert len(digests) == 3
        assert await store.collect(0.0) == 0
        assert (await store.delete("french", tombstone(), forks="refuse")).bodies == 1
        assert (await store.delete("talk", tombstone(), forks="refuse")).bodies == 2
        assert [await store.body(digest) for digest in digests] == [None] * 3


async def test_bodies_of_schema_1_that_nothing_refers_to_are_collected(golden):
    with closing(sqlite3.connect(golden)) as connection:
        connection.execute("INSERT INTO bodies VALUES (x'00', x'01')")
        connection.commit()
    async with opened(golden) as store:
        assert await store.collect() == 0
        assert await store.body("00") == b"\x01"
        assert await store.collect(-1.0) == 1
        assert await store.body("00") is None


async def test_forks_and_what_was_deleted_are_in_the_golden_database_of_schema_2(db):
    async with opened(copied(2, db)) as store:
        found = {head.conversation: head.parent for head in await store.heads(where={"user": "ada"})}
        assert found == {"french": None, "leased": None, "forked": ("talk", 3), "nested": ("forked", 2)}
        assert [head.conversation for head in await store.forks("talk")] == ["forked", "nested"]
        assert (await head_of(store, "gone")).deleted
        assert [record.flags & ERASED for record in await records_of(store, "french")][9] == ERASED
        standing = await store.stand("search", "two", 1.0)
        assert len(await store.feed(None, 5)) == 5
        assert (await store.feed(None, 5))[-1].record.position == standing.position


# -- bringing forward


def test_what_is_brought_forward_is_what_is_made_anew(golden, tmp_path):
    new = tmp_path / "new.db"
    for path in (golden, new):
        anyio.run(make, path)
    assert schema_of(golden) == schema_of(new)
    for pragma in ("user_version", "application_id", "journal_mode", "page_size"):
        assert rows(golden, f"PRAGMA {pragma}") == rows(new, f"PRAGMA {pragma}")


async def make(path):
    await (await SqliteStore.open(path)).close()


@pytest.mark.parametrize("version", range(SCHEMA_VERSION + 1))
def test_the_printed_script_does_the_same(tmp_path, version):
    by_hand, by_us = tmp_path / "hand.db", tmp_path / "us.db"
    for path in (by_hand, by_us):
        if version:
            copied(version, path)
    with closing(sqlite3.connect(by_hand, isolation_level=None)) as connection:
        connection.executescript(migration_sql(version))
    anyio.run(make, by_us)
    with closing(sqlite3.connect(by_hand)) as one, closing(sqlite3.connect(by_us)) as two:
        assert list(one.iterdump()) == list(two.iterdump())
    assert stored_version(by_hand) == stored_version(by_us) == SCHEMA_VERSION


@pytest.mark.parametrize("version", [-1, SCHEMA_VERSION + 1])
def test_there_is_no_script_for_what_is_not_known(version):
    with pytest.raises(
        Invalid, match=rf"schema {version}: this turnlog knows 0 \(an empty database\) to {SCHEMA_VERSION}"
    ):
        migration_sql(version)


async def test_without_migrate_an_older_schema_is_refused(golden):
    content = golden.read_bytes()
    with pytest.raises(StoreError, match=r"its schema is 1, this turnlog works with 2, .* run `turnlog migrate`"):
        await SqliteStore.open(golden, migrate=False)
    assert golden.read_bytes() == content
    await make(golden)
    await (await SqliteStore.open(golden, migrate=False)).close()


async def test_bringing_forward_is_all_or_nothing(golden, monkeypatch):
    before, schema = content_of(golden), schema_of(golden)

    def broken(name):
        return script(name) + "\nINSERT INTO nowhere VALUES (1);\n"

    monkeypatch.setattr(sqlite_schema, "script", broken)
    with pytest.raises(StoreError, match="no such table: nowhere"):
        await SqliteStore.open(golden)
    assert (content_of(golden), schema_of(golden)) == (before, schema)
    assert rows(golden, "PRAGMA user_version") == [(1,)]
    monkeypatch.undo()
    await make(golden)
    assert rows(golden, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


async def test_of_many_that_bring_a_database_forward_one_does(golden):
    before, stores = content_of(golden), []

    async def opened():
        stores.append(await SqliteStore.open(golden))

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(opened)
    for number, store in enumerate(stores):
        assert (await store.append("talk", [item("x")])).version == 26 + number
    for store in stores:
        await store.close()
    after = content_of(golden)
    assert (after["bodies"], after["events"][: len(before["events"])]) == (before["bodies"], before["events"])


async def test_whoever_reads_meanwhile_reads_on(golden):
    with closing(sqlite3.connect(golden, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        count = reader.execute("SELECT count(*), max(expires) FROM events, conversations").fetchone()
        async with opened(golden) as store:
            await store.append("talk", [item("x")])
            assert reader.execute("SELECT count(*), max(expires) FROM events, conversations").fetchone() == count
            reader.execute("ROLLBACK")


async def test_whoever_writes_meanwhile_is_waited_for(golden):
    with closing(sqlite3.connect(golden, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE conversations SET generation = 7 WHERE id = 'empty'")
        threading.Timer(0.1, writer.execute, ["COMMIT"]).start()
        async with opened(golden) as store:
            assert (await head_of(store, "empty")).generation == 7


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["x" * 600, 'a"b\\', "é\n\x01", "\0", "a\0b", 10**400, -(10**400), 1e300, 5e-324, 0.1, -0.0]),
)


@given(st.lists(st.dictionaries(st.text(max_size=5), PLAIN | st.just({"a": 1}), max_size=4), max_size=5))
def test_what_metadata_is_found_by_is_computed_alike_in_sql(metadata):
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with closing(sqlite3.connect(GOLDEN / "schema-1.db")) as golden:
            golden.backup(connection)
        connection.execute("DELETE FROM conversations")
        for number, said in enumerate(metadata):
            connection.execute(
                "INSERT INTO conversations VALUES (NULL, ?, 1, ?, ?, 0, 0, ?, 0, NULL, NULL, NULL)",
                (str(number), number, number + 100, canonical(said)),
            )
        connection.executescript(script("sqlite_migrate_1.sql"))
        for number, said in enumerate(metadata):
            found = connection.execute("SELECT facet, time FROM facets WHERE id = ?", (str(number),)).fetchall()
            expected = facets(canonical(said))
            assert set(found) == {(each + by, number + 100 * by) for each in expected for by in (0, 1)}, said


# -- who is refused


# What the release of schema 1 does first in each of its verbs, and what it writes.
OLDER = """
SELECT key, version, created, updated, last_item, items, metadata, generation, owner, turn, expires
FROM conversations WHERE id = 'talk';
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires
FROM conversations WHERE (updated, id) < (1, '') ORDER BY updated DESC, id DESC LIMIT 1;
INSERT INTO conversations (id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires)
VALUES ('x', 0, 0, 0, 0, 0, '{}', 0, NULL, NULL, NULL);
UPDATE conversations SET version = 1, created = 1, updated = 1, last_item = 1, items = 1, metadata = '{}',
    generation = 1, owner = NULL, turn = NULL, expires = NULL WHERE key = 1;
UPDATE conversations SET expires = 1 WHERE id = 'talk' AND generation = 1 AND owner IS NOT NULL;
"""


async def test_the_release_before_is_refused_once_the_database_was_brought_forward(golden):
    with closing(sqlite3.connect(golden, isolation_level=None)) as older:
        for statement in OLDER.strip().split(";\n"):
            older.execute("BEGIN IMMEDIATE")
            older.execute(statement).fetchall()
            older.execute("ROLLBACK")
        await make(golden)
        before = content_of(golden)
        for statement in OLDER.strip().split(";\n"):
            with pytest.raises(sqlite3.OperationalError, match=r"no such column: (expires|metadata)|no column named"):
                older.execute(statement)
    assert content_of(golden) == before


def verbs(store):
    """Return every verb, as a function that calls it."""
    erasing = [Append(conversation="c", events=[other("item.erased")])]
    return {
        "append": lambda: store.append("c", [item("x")]),
        "create": lambda: store.append("new", [created({"a": 1})], expected=NO_STREAM, key=Key("k", "d")),
        "renew": lambda: store.renew("c", 0, 1.0),
        "read": lambda: store.read("c", Query()),
        "key": lambda: store.key("c", "k"),
        "body": lambda: store.body("00"),
        "heads": store.heads,
        "forks": lambda: store.forks("c"),
        "feed": lambda: store.feed(None, 5),
        "end": store.end,
        "erase": lambda: store.erase(erasing),
        "delete": lambda: store.delete("c", tombstone(), forks="keep"),
        "collect": store.collect,
        "stand": lambda: store.stand("search", "one", 1.0),
        "ack": lambda: store.ack("search", "one", "1"),
        "resign": lambda: store.resign("search", "one"),
    }


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
async def test_a_process_that_is_overtaken_is_refused_in_every_verb(db, version):
    async with opened(db) as store:
        await started(store, "c", "one")
        before = rows(db, "SELECT count(*), max(version) FROM events, conversations")
        with closing(sqlite3.connect(db)) as other_release:
            other_release.execute(f"PRAGMA user_version = {version}")
        for call in verbs(store).values():
            with pytest.raises(
                StoreError, match=f"its schema was {SCHEMA_VERSION} when it was opened, and is {version} now"
            ):
                await call()
        assert rows(db, "SELECT count(*), max(version) FROM events, conversations") == before
        with closing(sqlite3.connect(db)) as other_release:
            other_release.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for call in verbs(store).values():
            await call()


async def test_an_engine_says_what_it_was_refused(golden):
    async with open_engine(golden) as engine:
        conversation = await engine.get("talk")
        with closing(sqlite3.connect(golden)) as newer:
            newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(StoreError, match=f"works with schema {SCHEMA_VERSION + 1}"):
            await conversation.append("x")
    with pytest.raises(StoreError, match="was made by a newer turnlog"):
        async with open_engine(golden):
            pass


async def test_a_newer_release_that_is_faster_is_noticed(golden):
    store = SqliteStore(golden, durability="normal", clock=system_clock, patience=1.0)
    writer = await store._open_writer()
    with closing(sqlite3.connect(golden)) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="a newer turnlog has just migrated it"):
        await writer.run(sqlite_schema.migrate)
    await store.close()
    assert rows(golden, "SELECT count(*) FROM sqlite_master WHERE name = 'facets'") == [(0,)]
