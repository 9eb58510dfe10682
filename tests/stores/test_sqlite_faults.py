"""Files and disks that SQLite cannot work with: a typed error with the remedy, nothing half-written, and then on."""

import resource
import sqlite3
import threading
from functools import partial

import anyio
import pytest

from ordinary_user import mode, ordinary_folder
from turnlog.engine.errors import CorruptLog, StoreError
from turnlog.engine.log import Append, Erasure, Key, Query, Take
from turnlog.engine.stores import sqlite_connection
from turnlog.engine.stores.sqlite import SCHEMA_VERSION, SqliteStore
from turnlog.engine.testing.contract_kit import (
    created,
    item,
    other,
    records_of,
    started,
    text_of,
    texts_of,
    together,
    tombstone,
)

pytestmark = pytest.mark.anyio


async def logged(path):
    """Make a log with three events and close it."""
    store = await SqliteStore.open(path)
    await started(store, "c", "one", "two")
    await store.close()


async def refused(attempt, *parts, retryable=False):
    """See to it that an attempt fails with a StoreError that has all parts."""
    with pytest.raises(StoreError) as error:
        await attempt
    for part in parts:
        assert str(part) in str(error.value)
    assert error.value.retryable == retryable
    return error.value


def whole(path):
    """See to it that a database is sound, and that nothing in it is half of an append."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = connection.execute(
        "SELECT c.version, count(e.seq), min(e.seq), max(e.seq) FROM conversations AS c JOIN events AS e"
        " ON e.conversation = c.key GROUP BY c.key"
    ).fetchall()
    for version, count, first, last in rows:
        assert (count, first, last) == (version, 1, version)
    for table in ("marks", "keys"):
        seq = "last" if table == "keys" else "seq"
        statement = (
            f"SELECT count(*) FROM {table} AS t WHERE NOT EXISTS"
            f" (SELECT 1 FROM events AS e WHERE e.conversation = t.conversation AND e.seq = t.{seq})"
        )
        assert connection.execute(statement).fetchone() == (0,)
    connection.close()
    return sum(version for version, *_ in rows)


# -- files that are no log


@pytest.mark.parametrize(
    "content",
    [b"hello", b"hello world " * 1000, b"\x00" * 8192, b"SQLite format 3\x00" + b"\x00" * 100, b"\xff" * 5000],
    ids=["short", "text", "zeros", "header", "ones"],
)
async def test_what_is_no_database(db, content):
    db.write_bytes(content)
    await refused(SqliteStore.open(db), db, "this is no SQLite database; give turnlog a file of its own")
    assert db.read_bytes() == content
    assert [path.name for path in db.parent.iterdir()] == ["log.db"]


async def test_the_database_of_another_program(db):
    other = sqlite3.connect(db)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    content = db.read_bytes()
    for migrate in (True, False):
        await refused(
            SqliteStore.open(db, migrate=migrate), db, "belongs to another program; give turnlog a file of its own"
        )
    assert db.read_bytes() == content


@pytest.mark.parametrize(("name", "value"), [("application_id", 77), ("user_version", 3)])
async def test_an_empty_database_that_another_program_has_marked(db, name, value):
    other = sqlite3.connect(db)
    other.execute(f"PRAGMA {name} = {value}")
    other.close()
    await refused(SqliteStore.open(db), db, "belongs to another program")


async def test_a_newer_schema(db):
    await logged(db)
    newer = sqlite3.connect(db)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    for migrate in (True, False):
        await refused(
            SqliteStore.open(db, migrate=migrate),
            db,
            f"schema {SCHEMA_VERSION + 1} was made by a newer turnlog, this one knows {SCHEMA_VERSION}; upgrade",
        )
    assert whole(db) == 3


async def test_without_migrate_nothing_is_made(db):
    await refused(SqliteStore.open(db, migrate=False), db, "there is no database; migrate=True makes one")
    assert not db.exists()
    db.touch()
    await refused(SqliteStore.open(db, migrate=False), db, "there is no log in it yet; the first that writes to it")
    assert db.stat().st_size == 0
    await logged(db)
    store = await SqliteStore.open(db, migrate=False)
    assert len(await records_of(store)) == 3
    await store.append("c", [item("three")])
    await store.close()


async def test_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "no" / "log.db"
    await refused(SqliteStore.open(path), path, "cannot be made: its folder is not there; make it first")
    path.parent.mkdir()
    await logged(path)
    assert whole(path) == 3


async def test_a_folder_in_the_place_of_a_file(tmp_path):
    await refused(SqliteStore.open(tmp_path), tmp_path, "this is a folder; give turnlog a file in it")


async def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    await refused(SqliteStore.open(tmp_path / "file" / "log.db"), "log.db", "Not a directory")


async def test_a_name_that_no_file_can_have(tmp_path):
    await refused(SqliteStore.open(f"{tmp_path}/a\x00b"), "no file can have this name")
    await refused(SqliteStore.open(tmp_path / ("x" * 300)), "xxx", "File name too long")


async def test_a_damaged_file(db):
    store = await SqliteStore.open(db)
    await store.append("c", [created(), *(item("x" * 500) for _ in range(500))])
    await store.close()
    with db.open("r+b") as file:
        for page in range(4, 40):
            file.seek(page * 8192)
            file.write(b"\xa5" * 8192)
    store = await SqliteStore.open(db)
    await refused(store.read("c", Query()), db, "the database file is damaged; restore it from a backup")
    assert (await store.read("c")).head.version == 501
    await store.close()


async def test_a_page_that_is_damaged_fails_only_those_who_need_it(db):
    store = await SqliteStore.open(db)
    await started(store, "c")
    await store.append("d", [created({"a": "x" * 50_000})])
    await store.close()
    content = db.read_bytes()
    with db.open("r+b") as file:
        for start in range(0, len(content), 8192):
            if content[start + 4 : start + 1000] == b"x" * 996:
                file.seek(start)
                file.write(b"\xff" * 4)  # where the next page of the metadata is
    store = await SqliteStore.open(db)
    appends = [partial(store.append, name, [item("x")]) for name in "cdc"]
    first, damaged, last = await together(*appends)
    assert (first.version, last.version) == (2, 3)
    assert isinstance(damaged, StoreError)
    assert "the database file is damaged; restore it from a backup" in str(damaged)
    assert (await store.append("c", [item("x")])).version == 4
    await store.close()


async def test_a_file_that_was_cut_short(db):
    await logged(db)
    with db.open("r+b") as file:
        file.truncate(3 * 8192)
    await refused(SqliteStore.open(db), db, "the database file is damaged; restore it from a backup")


async def test_tables_that_disagree_are_told_and_not_made_worse(db):
    # Not a state that turnlog leaves behind: somebody has changed the head.
    await logged(db)
    connection = sqlite3.connect(db)
    connection.execute("UPDATE conversations SET version = 2")
    connection.commit()
    connection.close()
    store = await SqliteStore.open(db)
    erasing = [Append(conversation="c", events=[other("x")], erasures=[Erasure(seq=2, item=b"{}")])]
    for attempt in (
        store.append("c", [item("x")]),
        store.erase(erasing),
        store.delete("c", tombstone(), forks="refuse"),
    ):
        error = await refused(attempt, "conversation c: events behind its version are there already", "from a backup")
        assert isinstance(error, CorruptLog)
    await store.append("d", [created()])
    await store.close()


# -- what may be read and not written


@pytest.fixture
def ordinary():
    with ordinary_folder() as folder:
        yield folder


async def test_a_read_only_file_is_read(ordinary):
    path = ordinary / "log.db"
    await logged(path)
    with mode(path, 0o400):
        store = await SqliteStore.open(path)
        assert len(await records_of(store)) == 3
        for _ in range(2):
            await refused(
                store.append("c", [item("x")]), path, "read-only; make it, the files beside it (-wal, -shm) and"
            )
            await refused(store.renew("c", 1, 1.0), path, "read-only; make it, the files beside it (-wal, -shm) and")
        assert len(await records_of(store)) == 3
    for beside in ordinary.iterdir():
        beside.chmod(0o600)
    assert (await store.append("c", [item("three")])).version == 4
    await store.close()
    assert whole(path) == 4


async def test_a_read_only_folder_is_told(ordinary):
    path = ordinary / "log.db"
    await logged(path)
    with mode(ordinary, 0o500):
        await refused(SqliteStore.open(path), path, "read-only; make it, the files beside it (-wal, -shm) and")
        new = ordinary / "new.db"
        await refused(SqliteStore.open(new), new, "cannot be opened: Permission denied; check that this user may write")
    await logged(ordinary / "new.db")
    store = await SqliteStore.open(path)
    assert (await store.append("c", [item("three")])).version == 4
    await store.close()
    assert whole(path) == 4


async def test_a_file_of_somebody_else_is_told(ordinary):
    path = ordinary / "log.db"
    await logged(path)
    with mode(path, 0):
        await refused(SqliteStore.open(path), path, "cannot be opened; check that it is there and that this user may")
    with mode(ordinary, 0):
        await refused(SqliteStore.open(path), path, "cannot be opened: Permission denied")
    store = await SqliteStore.open(path)
    assert len(await records_of(store)) == 3
    await store.close()


async def test_a_file_that_becomes_read_only_is_written_by_whoever_has_it_open(ordinary):
    path = ordinary / "log.db"
    store = await SqliteStore.open(path)
    await started(store, "c")
    with mode(path, 0o400):
        assert (await store.append("c", [item("x")])).version == 2
    await store.close()
    assert whole(path) == 2


# -- disks that are full


async def crowd(store, number, text):
    """Append at the same time; return what each append came to."""
    outcomes = []

    async def one(name):
        try:
            outcomes.append(await store.append("c", [item(text), item(name)], key=Key(name, "d")))
        except StoreError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        for index in range(number):
            group.start_soon(one, str(index))
    return outcomes


async def test_a_database_that_may_not_grow(db):
    store = await SqliteStore.open(db)
    await started(store, "c", "one")
    await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 40").fetchone())
    full = "the disk is full; free some space, then try again"

    await refused(store.append("c", [item("x" * 1_000_000)], key=Key("k", "d")), db, full, retryable=True)

    assert len(await records_of(store)) == 2
    assert await store.key("c", "k") is None
    # The writer was opened anew, so this one has room again.
    assert (await store.append("c", [item("two")], key=Key("k", "d"))).version == 3
    await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 40").fetchone())
    outcomes = await crowd(store, 20, "x" * 100_000)
    assert all(isinstance(outcome, StoreError) and full in str(outcome) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 20
    assert len(await records_of(store)) == 3
    assert all(not isinstance(outcome, StoreError) for outcome in await crowd(store, 20, "x"))
    await store.close()
    assert whole(db) == 43


async def test_a_write_that_the_system_refuses(db):
    store = await SqliteStore.open(db)
    await started(store, "c", "one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = db.with_name("log.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, before[1]))
    try:
        broken = await refused(
            store.append("c", [item("x" * 200_000)]),
            db,
            f"a file would have grown beyond the {size + 50_000:,} bytes that this process may write (ulimit -f)",
            retryable=True,
        )
        assert "SQLITE_IOERR_WRITE" in str(broken)
        assert len(await records_of(store)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (await store.append("c", [item("x" * 200_000)])).version == 3
    await store.close()
    assert whole(db) == 3


async def test_a_full_disk(small_disk):
    path = small_disk / "log.db"
    store = await SqliteStore.open(path)
    await started(store, "c", "one")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 300_000)
    versions = [2]

    async def fill():
        while True:
            versions.append((await store.append("c", [item("x" * 40_000), item("y")])).version)

    await refused(fill(), path, "the disk is full; free some space, then try again", retryable=True)
    assert len(await records_of(store)) == versions[-1]
    outcomes = await crowd(store, 5, "x" * 60_000)
    assert all(isinstance(outcome, StoreError) and outcome.retryable for outcome in outcomes)
    assert len(await records_of(store)) == versions[-1]

    ballast.unlink()
    assert (await store.append("c", [item("x" * 40_000), item("y")])).version == versions[-1] + 2
    await store.close()
    assert whole(path) == versions[-1] + 2


async def test_a_disk_that_is_full_from_the_beginning(small_disk):
    path = small_disk / "log.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_040_000)
    await refused(SqliteStore.open(path), path, "the disk", retryable=True)
    ballast.unlink()
    await logged(path)
    assert whole(path) == 3


# -- others at the same file


async def test_a_lock_that_a_stranger_holds(db):
    store = await SqliteStore.open(db, patience=0.02)
    await started(store, "c", "one")
    stranger = sqlite3.connect(db, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")

    busy = "another program keeps the database locked; close it, then try again"
    await refused(store.append("c", [item("x")], key=Key("k", "d")), db, busy, retryable=True)
    await refused(store.append("c", [], lease=Take(owner="o", seconds=60, turn=2)), db, busy, retryable=True)
    await refused(store.renew("c", 1, 60.0), db, busy, retryable=True)
    assert len(await records_of(store)) == 2

    stranger.execute("ROLLBACK")
    stranger.close()
    assert not (await store.append("c", [item("two")], key=Key("k", "d"))).replayed
    await store.close()
    assert whole(db) == 3


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_lock_on_a_log_that_is_still_to_be_made(db, lock):
    db.touch()
    stranger = sqlite3.connect(db, isolation_level=None)
    stranger.execute(f"BEGIN {lock}")
    busy = "another program keeps the database locked; close it, then try again"
    await refused(SqliteStore.open(db, patience=0.02), db, busy, retryable=True)
    async with anyio.create_task_group() as group:
        group.start_soon(logged, db)
        await anyio.sleep(0.05)
        stranger.execute("ROLLBACK")
    stranger.close()
    assert whole(db) == 3


async def test_a_lock_is_waited_for(db):
    store = await SqliteStore.open(db)
    await started(store, "c", "one")
    stranger = sqlite3.connect(db, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    async with anyio.create_task_group() as group:
        group.start_soon(store.append, "c", [item("two")])
        await anyio.sleep(0.05)
        assert len(await records_of(store)) == 2
        stranger.execute("COMMIT")
    stranger.close()
    assert [text_of(record) for record in (await records_of(store))[1:]] == ["one", "two"]
    await store.close()


async def test_a_file_that_is_moved_away_while_it_is_open(db):
    store = await SqliteStore.open(db)
    await started(store, "c", "one")
    away = db.with_name("away.db")
    db.rename(away)
    await refused(store.append("c", [item("x")]), db, "was moved or deleted while it was open; put it back")
    await refused(store.append("c", [item("x")]), db, "cannot be opened; check that it is there")
    assert not db.exists()
    away.rename(db)
    assert (await store.append("c", [item("two")])).version == 3
    await store.close()
    assert whole(db) == 3


async def test_a_file_that_is_replaced_while_it_is_open(db):
    store = await SqliteStore.open(db)
    await started(store, "c", "one")
    db.unlink()
    other = sqlite3.connect(db)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    for _ in range(2):
        await refused(store.append("c", [item("x")]), db)
    await store.close()


@pytest.mark.parametrize("log_kept", [False, True])
async def test_what_is_written_and_what_is_read_are_never_of_two_files(db, log_kept):
    store = await SqliteStore.open(db)
    await store.append("c", [created(), item("one")], lease=Take(owner="o", seconds=60, turn=-1))
    await store.stand("search", "o", 60.0)
    await store.backup(db.with_name("other.db"))
    await store.append("c", [item("two")])
    place = await store.end()
    mine = db.with_name("mine.db")
    mine.hardlink_to(db)
    db.with_name("other.db").replace(db)
    beside = (
        [] if log_kept else [(db.with_name(f"log.db{end}"), db.with_name(f"kept{end}")) for end in ("-wal", "-shm")]
    )
    for there, away in beside:
        there.rename(away)
    replaced = "the file was replaced by another while it was open; put it back, then try again, or restart"
    erasing = [Append(conversation="c", events=[other("x")], erasures=[Erasure(seq=2, item=b"{}")])]
    writing = [
        lambda: store.append("c", [item("lost")]),
        lambda: store.renew("c", 1, 1.0),
        lambda: store.ack("search", "o", place),
        lambda: store.erase(erasing),
    ]
    for first in range(len(writing)):
        for write in writing[first:] + writing[:first]:
            await refused(write(), db, replaced)
        await refused(store.backup(db.with_name("no.db")), db, replaced)
        assert await texts_of(store) == ["one", "two"]
    # More at once than have it open already.
    results = await together(*[partial(texts_of, store)] * 4)
    assert [result for result in results if not isinstance(result, StoreError)] == [["one", "two"]]
    mine.replace(db)
    for there, away in beside:
        away.rename(there)
    assert (await store.append("c", [item("three")])).version == 4
    assert await texts_of(store) == ["one", "two", "three"]
    await store.close()
    assert whole(db) == 4


async def test_a_connection_that_cannot_be_opened_leaves_no_thread_behind(db):
    """It would tell an event loop that it ends, which may be closed by then."""
    await logged(db)
    for _ in range(10):
        store = await SqliteStore.open(db)
        before = set(threading.enumerate())
        db.rename(db.with_name("away.db"))
        refusals = [one for one in await together(*[partial(texts_of, store)] * 2) if isinstance(one, StoreError)]
        assert len(refusals) == 1
        assert not [thread for thread in set(threading.enumerate()) - before if "connection" in thread.name]
        db.with_name("away.db").rename(db)
        await store.close()


def test_where_no_write_ahead_log_can_be_kept(db):
    connection = sqlite3.connect(":memory:", factory=sqlite_connection.Database)
    connection.path, connection.patience = db, 0.0
    with pytest.raises(StoreError, match="no write-ahead log can be kept beside it; put the database on a local disk"):
        sqlite_connection.prepare_writer(connection, "full")
    connection.close()
