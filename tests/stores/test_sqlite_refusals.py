"""Every verb that writes, on a disk that refuses: a typed error, nothing done; and once the cause is gone, it is."""

import resource
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager

import pytest

from ordinary_user import mode, ordinary_folder
from turnlog.engine.errors import StoreError
from turnlog.engine.log import Append, Erasure, Fork, Key, Take
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import body, created, item, other, records_of, text_of, tombstone

pytestmark = pytest.mark.anyio

UNUSED = body("of nobody")
NEW = body("new")
LONG = "x" * 20_000


async def planted(store):
    """Write what the verbs are about; a turn runs, somebody reads the feed, and a body is of no use to anybody."""
    held = body("of d")
    await store.append("c", [created(), item("one"), item("two")], key=Key("k", "d"))
    await store.append("d", [created({"a": 1}), item(LONG, refs=(held[0],))], bodies=dict([held]))
    await store.append("busy", [created(), item("turn")], lease=Take(owner="o", seconds=600.0, turn=-1))
    await store.append("e", [created(), item("x", refs=(UNUSED[0],))], bodies=dict([UNUSED]))
    await store._writer.run(lambda db: db.execute("UPDATE refs SET conversation = 0, seq = 1 WHERE conversation = 4"))
    await store.stand("search", "o", 600.0)
    return (await store.feed(None, 2))[-1].record.position


def verbs(store, position):
    """Return every verb that writes, as a function that calls it; what each returns says that it was done."""
    erasing = [Append(conversation="c", events=[other("item.erased")], erasures=[Erasure(seq=2, item=b"{}")])]
    return {
        "append": lambda: store.append("c", [item(LONG), item("more")], key=Key("l", "d"), bodies=dict([NEW])),
        "create": lambda: store.append("new", [created({"b": 2}), item("first")]),
        "fork": lambda: store.append("f", [created(), item("own")], fork=Fork("d", 2)),
        "take": lambda: store.append("c", [item("turn")], lease=Take(owner="o", seconds=1.0, turn=-1)),
        "renew": lambda: store.renew("busy", 1, 1000.0),
        "erase": lambda: store.erase(erasing),
        "delete": lambda: store.delete("d", tombstone(), forks="keep"),
        "collect": store.collect,
        "stand": lambda: store.stand("mail", "o", 60.0),
        "ack": lambda: store.ack("search", "o", position),
        "resign": lambda: store.resign("search", "o"),
    }


def content(path):
    """Return all that is in a database, seeing to it that it is sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return list(connection.iterdump())


@asynccontextmanager
async def opened(path, **options):
    store = await SqliteStore.open(path, **options)
    try:
        yield store
    finally:
        await store.close()


async def refused(store, position, cause, words, *, retryable):
    """See to it that every verb is refused while there is a cause, changes nothing, and is done once that is gone."""
    before = content(store.path)
    for name in verbs(store, position):
        with cause():
            with pytest.raises(StoreError, match=words) as error:
                await verbs(store, position)[name]()
            assert error.value.retryable == retryable, name
            assert str(store.path) in str(error.value)
            assert len(await records_of(store, "c")) == 3, "reading goes on"
        assert content(store.path) == before, name
    for name, call in verbs(store, position).items():
        assert await call() not in (False, 0), name
    await are_done(store)


async def are_done(store):
    """See to it that all verbs have done what they are for."""
    records = await records_of(store, "c")
    assert ([record.seq for record in records], records[1].item) == ([1, 2, 3, 4, 5, 6, 7], b"{}")
    assert await store.key("c", "l") is not None
    assert await store.body(NEW[0]) == NEW[1]
    assert await store.body(UNUSED[0]) is None
    assert (await store.read("d")).head.deleted
    assert [text_of(record) for record in await records_of(store, "f") if record.item][-1] == "own"
    assert await store.stand("search", "another", 1.0) is not None
    content(store.path)


async def test_while_a_stranger_holds_a_lock(db):
    async with opened(db, patience=0.02) as store:
        position = await planted(store)

        @contextmanager
        def cause():
            with closing(sqlite3.connect(db, isolation_level=None)) as stranger:
                stranger.execute("BEGIN IMMEDIATE")
                yield

        words = "another program keeps the database locked; close it, then try again"
        await refused(store, position, cause, words, retryable=True)


@contextmanager
def no_larger(size):
    """Let no file become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_while_files_may_not_grow(db):
    async with opened(db) as store:
        position = await planted(store)
        words = (
            r"grown beyond the 1,000 bytes that this process may write \(ulimit -f\), or .* then try again \(SQLITE_IO"
        )
        await refused(store, position, lambda: no_larger(1_000), words, retryable=True)


async def test_while_the_disk_is_full(small_disk):
    async with opened(small_disk / "log.db") as store:
        position = await planted(store)
        await store._writer.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        ballast = small_disk / "ballast"

        @contextmanager
        def cause():
            with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            yield
            ballast.unlink()

        words = "the disk is full; free some space, then try again"
        await refused(store, position, cause, words, retryable=True)


async def test_while_it_is_read_only():
    with ordinary_folder() as folder:
        async with opened(folder / "log.db") as store:
            position = await planted(store)
        with mode(folder / "log.db", 0o400):
            before = content(folder / "log.db")
            async with opened(folder / "log.db") as store:
                for name, call in verbs(store, position).items():
                    with pytest.raises(StoreError, match="read-only; make it, the files beside it") as error:
                        await call()
                    assert not error.value.retryable, name
            assert content(folder / "log.db") == before
        for beside in folder.iterdir():
            beside.chmod(0o600)
        async with opened(folder / "log.db") as store:
            for call in verbs(store, position).values():
                await call()
            await are_done(store)


# -- what fails once it is decided


async def test_an_erasure_that_cannot_be_brought_into_the_file_is_told_and_made_up_for(db):
    async with opened(db, patience=0.1) as store:
        await planted(store)
        for number in range(20):
            await store.append("c", [item(f"{number}" + "x" * 30_000)])
        await store._writer.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        erasures = [Erasure(seq=seq, item=b"{}") for seq in (2, 22)]
        erasing = [Append(conversation="c", events=[other("item.erased")], erasures=erasures)]
        # The log has room; the file's end, where the last item is, may not be written.
        with no_larger(300_000):
            (left,) = (await store.erase(erasing)).left
        assert left.startswith(
            f"{db}-wal, the write-ahead log: it could not be written to (disk I/O error); once it can"
        )
        assert [record.seq for record in await records_of(store, "c") if record.item == b"{}"] == [2, 22]
        assert (await store.erase(erasing)).left == ()
        assert db.with_name("log.db-wal").stat().st_size == 0
    content(db)
