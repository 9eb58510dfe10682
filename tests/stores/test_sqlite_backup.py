"""Copies of a SQLite log while it is in use."""

import os
import resource
import sqlite3
import stat
from contextlib import closing

import anyio
import pytest

from turnlog.engine.errors import Invalid, StoreError
from turnlog.engine.stores import sqlite_copying
from turnlog.engine.stores.sqlite import SqliteStore, copied
from turnlog.engine.testing.cancelling import HOW, everywhere
from turnlog.engine.testing.contract_kit import body, created, forked, item, records_of, started

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(db):
    opened = await SqliteStore.open(db, durability="normal")
    yield opened
    await opened.close()


async def names_of(path):
    """Return the names and versions of all conversations in a log, seeing to it that each is whole."""
    log = await SqliteStore.open(path, migrate=False)
    try:
        for head in await log.heads():
            await records_of(log, head.conversation)
        return {head.conversation: head.version for head in await log.heads()}
    finally:
        await log.close()


async def test_a_backup_is_the_log_as_it_is(store, tmp_path):
    blob = body("a body")
    await store.append("c", [created({"a": 1}), item("x" * 50_000, refs=(blob[0],))], bodies=dict([blob]))
    await forked(store, "d", "c", 2, "own")
    before = os.umask(0)
    try:
        await store.backup(tmp_path / "copy.db")
    finally:
        os.umask(before)
    assert {path.name for path in tmp_path.iterdir()} >= {"copy.db", "log.db"}
    assert not list(tmp_path.glob("copy.db?*"))
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    await store.append("c", [item("later")])
    assert await names_of(tmp_path / "copy.db") == {"c": 2, "d": 4}
    copy = await SqliteStore.open(tmp_path / "copy.db")
    assert await copy.body(blob[0]) == blob[1]
    assert [head.conversation for head in await copy.heads(where={"a": 1})] == ["c"]
    assert (await copy.append("d", [item("on")])).version == 5
    await copy.close()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_backup_while_others_append_is_of_one_moment(store, tmp_path):
    for name in "cd":
        await started(store, name, "x" * 100_000)
    done = []

    async def append():
        # Both or neither: one append after the other, so that c is ahead by one at most.
        while len(done) < 5:
            for name in "cd":
                await store.append(name, [item("x" * 20_000)])

    async def backup():
        for number in range(5):
            await store.backup(tmp_path / f"{number}.db")
            done.append(number)

    async with anyio.create_task_group() as group:
        group.start_soon(append)
        group.start_soon(backup)
    versions = [await names_of(tmp_path / f"{number}.db") for number in range(5)]
    assert all(each["c"] - each["d"] in (0, 1) for each in versions)
    assert [each["c"] for each in versions] == sorted(each["c"] for each in versions)
    assert versions[0]["c"] < (await store.read("c")).head.version


async def test_a_backup_overwrites_nothing(store, tmp_path, db):
    await started(store)
    (tmp_path / "mine").write_text("mine")
    for path in (tmp_path / "mine", db, tmp_path):
        with pytest.raises(Invalid, match="there is a file already; choose another name, or move it away first"):
            await store.backup(path)
    assert (tmp_path / "mine").read_text() == "mine"
    assert len(await records_of(store)) == 1
    await store.backup(tmp_path / "copy.db")
    with pytest.raises(Invalid):
        await store.backup(tmp_path / "copy.db")
    assert await names_of(tmp_path / "copy.db") == {"c": 1}


async def test_of_two_backups_to_one_name_one_is_refused(store, tmp_path):
    await started(store, "c", "x" * 1_000_000)
    results = []

    async def backup():
        try:
            results.append(await store.backup(tmp_path / "copy.db"))
        except Invalid as refused:
            results.append(type(refused))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(backup)
    assert sorted(results, key=str) == [Invalid, Invalid, None]
    assert await names_of(tmp_path / "copy.db") == {"c": 2}


async def test_where_no_backup_can_be_written(store, tmp_path):
    await started(store)
    for path, words in (
        (tmp_path / "no" / "copy.db", "cannot be written: No such file or directory"),
        (tmp_path / ("x" * 300), "cannot be written: File name too long"),
    ):
        with pytest.raises(Invalid, match=words):
            await store.backup(path)
    assert len(await records_of(store)) == 1


async def test_a_backup_that_fails_leaves_nothing(store, tmp_path, db):
    await started(store, "c", *("x" * 50_000 for _ in range(20)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"copy\.db: a file would have grown beyond the 200,000 bytes"):
            await store.backup(tmp_path / "copy.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("copy.db*"))
    await store.backup(tmp_path / "copy.db")
    assert await names_of(tmp_path / "copy.db") == {"c": 21}


async def test_there_must_be_a_log_to_back_up(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no database at all" * 100)
    for name, words in (
        ("empty", "there is no log in it"),
        ("text", "this is no SQLite database"),
        ("missing", "cannot be opened; check that it is there"),
    ):
        with pytest.raises(StoreError, match=words):
            await copied(tmp_path / name, tmp_path / "copy.db")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "text"}


@pytest.mark.parametrize("how", HOW)
async def test_a_cancelled_backup_leaves_nothing_or_all(store, tmp_path, how, monkeypatch):
    monkeypatch.setattr(sqlite_copying, "_PAGES", 1)
    await started(store, "c", *("x" * 50_000 for _ in range(40)))
    target = tmp_path / "copy.db"
    async for attempt in everywhere(lambda: store.backup(target), how):
        assert not list(tmp_path.glob("copy.db?*"))
        if target.exists():
            assert await names_of(target) == {"c": 41}
            target.unlink()
        assert attempt is not None
    await store.append("c", [item("on")])


async def test_a_closed_store_makes_no_backup(db, tmp_path):
    store = await SqliteStore.open(db)
    await store.close()
    with pytest.raises(StoreError, match="the store is closed"):
        await store.backup(tmp_path / "copy.db")
