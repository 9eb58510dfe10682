"""What is erased is gone from the SQLite store's files: their bytes are searched for it."""

import random
import re
import sqlite3
import subprocess
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from itertools import chain

import anyio
import pytest

from turnlog import open_engine
from turnlog.engine.errors import NotFound, StoreError
from turnlog.engine.log import Append, Erasure, Key, Query
from turnlog.engine.stores import sqlite_sweeping
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.stores.sqlite_sweeping import Sweep
from turnlog.engine.testing.cancelling import HOW, everywhere
from turnlog.engine.testing.contract_kit import (
    body,
    created,
    forked,
    head_of,
    item,
    other,
    patched,
    records_of,
    started,
    text_of,
    tombstone,
)

pytestmark = pytest.mark.anyio

LEFT = {"item": b"{}", "flags": 128}


@asynccontextmanager
async def opened(db, **options):
    store = await SqliteStore.open(db, **options)
    try:
        yield store
    finally:
        await store.close()


def bytes_of(db):
    """Return all that is in a database's files; read by another process, for SQLite's locks are lost with a handle."""
    files = sorted(map(str, db.parent.glob(f"{db.name}*")))
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def found(db, *words):
    """Return which words are in a database's files."""
    content = bytes_of(db)
    return {word for word in words if word.encode() in content}


def erasure(name, *seqs, **left):
    erasures = [Erasure(seq=seq, **LEFT | left) for seq in seqs]
    return Append(conversation=name, events=[other("item.erased", list(seqs))], erasures=erasures)


@contextmanager
def reading(db):
    """Let another program read the database, as of one moment."""
    with closing(sqlite3.connect(db, isolation_level=None)) as stranger:
        stranger.execute("BEGIN")
        stranger.execute("SELECT count(*) FROM events").fetchone()
        yield


async def whole(store):
    def check(db):
        return db.execute("PRAGMA integrity_check").fetchone()[0]

    assert await store._writer.run(check) == "ok"


# -- the bytes


@pytest.mark.parametrize("size", [0, 3_000, 100_000])
async def test_what_is_erased_is_in_no_file(db, size):
    async with opened(db) as store:
        secret = [f"secret{number}" for number in range(4)]
        blobs = dict(body(f"{word} of a body {'x' * size}") for word in secret)
        events = [item(word + "x" * size, refs=(digest,)) for word, digest in zip(secret, blobs, strict=True)]
        await store.append("c", [created(), *events], bodies=blobs)
        await store.append("c", [other("response.interrupted", {"partial": "secret5"}), item("public")])
        assert found(db, *secret, "secret5") == {*secret, "secret5"}
        result = await store.erase([erasure("c", 2, 3), erasure("c", 6, item=None, data=b"null")])
        assert (dict(result.versions), result.bodies, result.left) == ({"c": 9}, 2, ())
        assert found(db, *secret, "secret5", "public") == {"secret2", "secret3", "public"}
        assert db.with_name("log.db-wal").stat().st_size == 0
        await whole(store)
    assert found(db, *secret, "secret5", "public") == {"secret2", "secret3", "public"}


@pytest.mark.parametrize("size", [0, 3_000, 100_000])
async def test_what_is_deleted_is_in_no_file(db, size):
    async with opened(db) as store:
        about = {"name": "secret0", "more": {"deep": "secret1"}}
        blob = body("secret2" + "x" * size)
        await store.append("c", [created(about), patched(name="secret3", long="x" * size)], bodies=dict([blob]))
        await store.append("c", [item("secret4" + "x" * size)], key=Key("secret5", "d"))
        await store.append("d", [created({"name": "public0"}), item("public1")], bodies=dict([body("public2")]))
        await store.append("c", [item("secret6" * 100, marks=("secret7",), link="secret8")])
        result = await store.delete("c", tombstone(), forks="refuse")
        assert (result.bodies, result.left) == (1, ())
        public = {f"public{number}" for number in range(3)}
        assert found(db, *(f"secret{number}" for number in range(9)), *public) == public
        await whole(store)


async def test_what_forks_share_goes_with_the_last_of_them(db):
    async with opened(db) as store:
        await store.append("c", [created({"about": "secret0"}), *(item(f"secret{number}") for number in range(1, 4))])
        await forked(store, "d", "c", 3, "public")
        await store.delete("c", tombstone(), forks="keep")
        assert found(db, *(f"secret{number}" for number in range(4))) == {"secret0", "secret1", "secret2"}
        await store.erase([erasure("d", 2)])
        assert found(db, *(f"secret{number}" for number in range(4))) == {"secret0", "secret2"}
        await store.delete("d", tombstone(), forks="refuse")
        assert found(db, *(f"secret{number}" for number in range(4)), "public") == set()


async def test_metadata_leaves_nothing_behind_however_it_grows(db, seed):
    chance = random.Random(seed)
    async with opened(db, durability="normal") as store:
        names = [f"c{number}" for number in range(60)]
        for name in names:
            await store.append(name, [created({"who": f"<{name}>"})])
        for _ in range(10):
            for name in chance.sample(names, 30):
                await store.append(name, [patched(who=f"<{name}>" * chance.randrange(1, 60))])
        for name in names[::2]:
            await store.delete(name, tombstone(), forks="refuse")
        assert found(db, *(f"<{name}>" for name in names)) == {f"<{name}>" for name in names[1::2]}


async def test_erased_metadata_is_in_no_file(db):
    async with open_engine(db) as engine:
        c = await engine.create(metadata={"user": "secret0", "more": {"long": "secret1" * 5_000}})
        await c.update_metadata({"user": "secret2", "more": None})
        await c.append("public")
        await c.erase(1, 2, reason="asked to")
        assert found(db, *(f"secret{number}" for number in range(3)), "public") == {"public"}
        await whole(engine.store)


class Garden:
    """Conversations in which every event has a word of its own, and which of the words are to be gone."""

    def __init__(self, store, chance):
        self.store = store
        self.chance = chance
        self.words = {}
        self.gone = set()
        self.number = 0

    def word(self):
        self.number += 1
        return f"<{self.number}>"

    async def grow(self, name):
        words = [self.word() for _ in range(self.chance.randrange(1, 5))]
        sizes = [int(self.chance.lognormvariate(5, 1.5)) for _ in words]
        events = [item(word + word * (size // len(word))) for word, size in zip(words, sizes, strict=True)]
        if name not in self.words:
            events.insert(0, created())
        about = self.word()
        blobs = dict([body(about * self.chance.randrange(1, 200))]) if self.chance.random() < 0.2 else {}
        if blobs:
            extra = [item("with a body", refs=tuple(blobs))]
            words.append(about)
            events += extra
        appended = await self.store.append(name, events, bodies=blobs)
        first = appended.last - len(words) + 1
        self.words.setdefault(name, {}).update(dict(enumerate(words, first)))

    async def erase(self, name):
        seqs = self.chance.sample(sorted(self.words[name]), min(3, len(self.words[name])))
        left = b'{"left":"' + b"-" * self.chance.randrange(100) + b'"}'
        result = await self.store.erase([erasure(name, *seqs, item=left)])
        assert result.left == ()
        self.gone |= {self.words[name].pop(seq) for seq in seqs}

    async def delete(self, name):
        assert (await self.store.delete(name, tombstone(), forks="refuse")).left == ()
        self.gone |= set(self.words.pop(name).values())

    async def check(self, db):
        content = bytes_of(db)
        assert {word for word in self.gone if word.encode() in content} == set()
        alive = {word for words in self.words.values() for word in words.values()}
        assert {word for word in alive if word.encode() not in content} == set()
        await whole(self.store)
        for name, words in self.words.items():
            for record in await records_of(self.store, name):
                word = words.get(record.seq)
                assert word is None or text_of(record).startswith((word, "with a body"))


async def gardened(db, seed, rounds):
    """Append, erase and delete at random; return the words that are to be gone."""
    async with opened(db, durability="normal") as store:
        garden = Garden(store, random.Random(seed))
        for number in range(rounds):
            for _ in range(60):
                await garden.grow(f"c{number}.{garden.chance.randrange(12)}")
            for name in garden.chance.sample(sorted(garden.words), min(4, len(garden.words))):
                await garden.delete(name)
            for name in garden.chance.sample(sorted(garden.words), min(4, len(garden.words))):
                if garden.words[name]:
                    await garden.erase(name)
            yield garden


async def test_among_others_what_is_erased_is_in_no_file(db, seed, long):
    async for garden in gardened(db, seed, 15 if long else 6):
        await garden.check(db)


async def test_without_sweeping_copies_would_stay(db, monkeypatch):
    monkeypatch.setattr(Sweep, "sweep", lambda _: None)
    left = set()
    async for garden in gardened(db, 1, 6):
        content = bytes_of(db)
        left |= {word for word in garden.gone if word.encode() in content}
    if not left:
        pytest.skip("this SQLite leaves no copies; if all do so, sweeping can go")


def unswept(db):
    """Return how many pages of rows in a closed database have a garden's words in their unused middle."""
    content = bytes_of(db)
    pages = [content[start : start + 8192] for start in range(8192, len(content), 8192)]
    short = sqlite_sweeping._short
    middles = [page[8 + 2 * short(page, 3) : short(page, 5)] for page in pages if page[0] == sqlite_sweeping._LEAF]
    return sum(re.search(rb"<\d+>", middle) is not None for middle in middles)


async def planted(store):
    """Return a garden of conversations that stand between one another."""
    garden = Garden(store, random.Random(15))
    for _ in range(600):
        await garden.grow(f"c{garden.chance.randrange(40)}")
    return garden


async def test_what_an_erasure_that_was_killed_left_unswept_is_made_up_for(db, monkeypatch):
    async with opened(db, durability="normal") as store:
        garden = await planted(store)
        with monkeypatch.context() as killed:
            killed.setattr(Sweep, "sweep", lambda _: None)
            for name in garden.chance.sample(sorted(garden.words), 20):
                await garden.delete(name)
    # The log that says which pages were written is gone.
    assert unswept(db)
    async with opened(db, durability="normal") as store:
        garden.store = store
        await store.append(next(iter(garden.words)), [item("appends do not touch it")])
        for name in garden.chance.sample(sorted(garden.words), 6):
            await garden.erase(name)
        await garden.check(db)
    assert unswept(db) == 0


async def test_whoever_deletes_again_makes_up_for_it(db, monkeypatch):
    async with opened(db, durability="normal") as store:
        garden = await planted(store)
        first, *others = garden.chance.sample(sorted(garden.words), 20)
        with monkeypatch.context() as killed:
            killed.setattr(Sweep, "sweep", lambda _: None)
            for name in (*others, first):
                await garden.delete(name)
        with pytest.raises(NotFound) as again:
            await store.delete(first, tombstone(), forks="refuse")
        assert again.value.deleted
        await garden.check(db)
    assert unswept(db) == 0


async def test_the_log_is_not_begun_anew_between_a_deletion_and_its_sweep(db, monkeypatch):
    sweep = Sweep.sweep

    def late(own):
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            # What was written is brought into the database, and the log could be used from its beginning.
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            for statement in ("CREATE TABLE another (x)", "DROP TABLE another"):
                other.execute(statement)
        sweep(own)

    monkeypatch.setattr(Sweep, "sweep", late)
    async with opened(db, durability="normal") as store:
        garden = await planted(store)
        for name in garden.chance.sample(sorted(garden.words), 20):
            await garden.delete(name)
        await garden.check(db)
    assert unswept(db) == 0


async def test_processes_erase_one_after_the_other(db, monkeypatch):
    """Else one would take the other, which has yet to sweep, for dead."""
    sweep, begun, go_on = Sweep.sweep, threading.Event(), threading.Event()

    def late(own):
        begun.set()
        assert go_on.wait(30)
        sweep(own)

    async with opened(db) as one, opened(db) as other, opened(db, patience=0.05) as hasty:
        for name in "cd":
            await started(one, name, "secret")
        await other.collect()
        said = []
        await other._writer.run(lambda db: db.set_trace_callback(said.append))
        monkeypatch.setattr(Sweep, "sweep", late)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(one.delete, "c", tombstone(), forks="refuse"))
            while not begun.is_set():
                await anyio.sleep(0.001)
            with pytest.raises(StoreError, match="another process is still erasing; try again") as refused:
                await hasty.delete("d", tombstone(), forks="refuse")
            assert refused.value.retryable
            group.start_soon(partial(other.delete, "d", tombstone(), forks="refuse"))
            await anyio.sleep(0.05)
            assert said == []
            go_on.set()
        assert "COMMIT" in said
        assert "VACUUM" not in said
    assert found(db, "secret") == set()


@pytest.mark.parametrize("size", [512, 4096, 65536])
async def test_pages_of_any_size_are_swept(db, size):
    with closing(sqlite3.connect(db)) as connection:
        connection.execute(f"PRAGMA page_size = {size}")
        connection.executescript("CREATE TABLE t (x); DROP TABLE t;")
    async for garden in gardened(db, 2, 3):
        await garden.check(db)
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (size,)


# -- what cannot be reached


async def test_a_log_that_somebody_reads_is_named(db):
    async with opened(db, patience=0.3) as store:
        await started(store, "c", "secret1", "secret2")
        with reading(db):
            await store.append("c", [item("public")])
            result = await store.erase([erasure("c", 2)])
            (left,) = result.left
            assert left.startswith(f"{db}-wal, the write-ahead log: a program or a backup is reading what it holds;")
            assert text_of((await records_of(store))[2]) == "secret2"
            assert (await records_of(store))[1].item == b"{}"
            assert found(db, "secret1") == {"secret1"}
            (left,) = (await store.delete("c", tombstone(), forks="refuse")).left
        await started(store, "d", "secret3")
        assert (await store.erase([erasure("d", 2)])).left == ()
        assert found(db, "secret1", "secret2", "secret3", "public") == set()


async def test_what_is_left_is_gone_when_the_log_is_closed(db):
    async with opened(db, patience=0.1) as store:
        await started(store, "c", "secret")
        with reading(db):
            await store.append("c", [item("public")])
            assert len((await store.erase([erasure("c", 2)])).left) == 1
    assert found(db, "secret", "public") == {"public"}


async def test_readers_of_the_same_store_are_waited_for(db):
    async with opened(db) as store:
        await started(store, "c", *(f"secret{number}" for number in range(50)))
        ended = []

        async def read():
            while not ended:
                await store.read("c", Query())

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(read)
            for seq in range(2, 12):
                assert (await store.erase([erasure("c", seq)])).left == ()
            ended.append(True)
        assert len(found(db, *(f"secret{number:02}" for number in range(10, 50)))) == 40
        assert found(db, *(f'"secret{number}"' for number in range(10))) == set()


async def test_what_cannot_be_swept_is_named(db, monkeypatch):
    def broken(_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite_sweeping, "_rows", broken)
    async with opened(db) as store:
        await started(store, "c", "secret", "two")
        (left,) = (await store.erase([erasure("c", 2)])).left
        assert left.startswith(f"{db}: unused parts of it may hold copies, for it could not be swept (disk I/O error);")
        assert found(db, "secret") == set()


# -- all or nothing


async def test_an_erasure_that_fails_changes_nothing(db):
    async with opened(db) as store:
        blob = body("public3")
        await store.append("c", [created(), item("public1", refs=(blob[0],)), item("public2")], bodies=dict([blob]))
        before = await store.read("c", Query())
        for wrong in (erasure("c", 9), erasure("nowhere", 1), erasure("c", 2, flags=2**70)):
            with pytest.raises((NotFound, ValueError)):
                await store.erase([erasure("c", 2), wrong])
            assert await store.read("c", Query()) == before
        await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 30").fetchone())
        with pytest.raises(StoreError, match="the disk is full"):
            await store.erase([erasure("c", 2), erasure("c", 3, item=b"x" * 1_000_000)])
        assert await store.read("c", Query()) == before
        assert await store.body(blob[0]) == blob[1]
        assert (await store.erase([erasure("c", 2)])).bodies == 1


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("verb", ["erase", "delete", "collect"])
async def test_whoever_is_cancelled_while_erasing_has_erased_all_or_nothing(db, how, verb):
    names = iter(range(1000))
    made = []

    async def call():
        name = f"c{next(names)}"
        made.append(name)
        await started(store, name, "secret", "two")
        match verb:
            case "erase":
                return await store.erase([erasure(name, 2, 3)])
            case "delete":
                return await store.delete(name, tombstone(), forks="refuse")
            case _:
                return await store.collect(0.0)

    async with opened(db, durability="normal") as store:
        async for _ in everywhere(call, how):
            for name in made:
                snapshot = await store.read(name, Query())
                if snapshot is None or snapshot.head.deleted or len(snapshot.records[0]) < 4:
                    continue
                assert [record.item for record in snapshot.records[0]][1:] == [b"{}", b"{}", None]
            made.clear()
        await whole(store)


async def test_erasing_and_appending_take_turns(db):
    async with opened(db, durability="normal") as store:
        for name in "cd":
            await started(store, name, *(f"{name} {number}" for number in range(20)))

        async def append(name):
            for number in range(30):
                await store.append(name, [item(f"more {number}")])

        async def erase(name):
            for seq in range(2, 12):
                assert (await store.erase([erasure(name, seq)])).left == ()

        async with anyio.create_task_group() as group:
            for name in "cd":
                group.start_soon(append, name)
                group.start_soon(erase, name)
        for name in "cd":
            assert (await head_of(store, name)).version == 21 + 30 + 10
            assert [record.item for record in (await records_of(store, name))[1:11]] == [b"{}"] * 10
    said = {number: [f'"c {number}"', f'"d {number}"'] for number in range(20)}
    assert found(db, *chain(*said.values())) == {*chain(*list(said.values())[10:])}
