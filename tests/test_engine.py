"""Opening an engine: what is refused says which argument or file it is, and what to do instead."""

import asyncio
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from ordinary_user import mode, ordinary_folder
from server_talk import serving
from turnlog import Budget, Invalid, NotFound, StoreError, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


# -- urls


@pytest.mark.parametrize("kind", ["text", "path", "url", "relative", "relative url", "dots and signs"])
async def test_ways_to_name_a_file(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("a b?#%20.db" if kind == "dots and signs" else "log.db")
    urls = {"path": path, "url": f"sqlite:///{path}", "relative": "log.db", "relative url": "sqlite:///log.db"}
    async with open_engine(urls.get(kind, str(path))) as engine:
        await engine.create(id="ada")
    assert path.is_file()
    async with open_engine(path, migrate=False) as engine:
        assert (await engine.get("ada")).version == 1


@pytest.mark.parametrize("url", [":memory:", "sqlite://", "sqlite:///:memory:"])
async def test_ways_to_name_a_log_in_memory(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    async with open_engine(url) as engine:
        await engine.create(id="ada")
        assert isinstance(engine.store, MemoryStore)
    async with open_engine(url) as engine:
        with pytest.raises(NotFound):
            await engine.get("ada")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            "mysql://ada:s3cr3t@db/chat",
            "open_engine('mysql://…'): there is no store for mysql; pass a path, sqlite:///",
        ),
        ("sqlite+aiosqlite:///log.db", "no store for sqlite+aiosqlite"),
        ("file:///log.db", "no store for file"),
        ("file:log.db", "open_engine('file:…'): this is neither a path nor an url that is known here; pass the path"),
        ("file:/tmp/log.db?mode=ro", "pass the path alone, sqlite:///path or postgresql://…"),
        ("sqlite:log.db", "open_engine('sqlite:…'): this is neither a path nor an url"),
        ("sqlite:/log.db", "open_engine('sqlite:…'): this is neither a path nor an url"),
        ("postgresql:ada:s3cr3t@db/chat", "open_engine('postgresql:…'): this is neither a path nor an url"),
        ("sqlite://log.db", "sqlite:///path is needed, with three slashes"),
        ("sqlite:///log.db?mode=ro", "with three slashes and without parameters"),
        ("", "open_engine(''): a path, sqlite:///path, postgresql://… or :memory: is needed"),
        (None, "open_engine(None): a path, sqlite:///path, postgresql://… or :memory: is needed"),
        (b"log.db", "open_engine(b'log.db'): a path"),
        (7, "open_engine(7): a path"),
    ],
)
def test_urls_that_name_no_store(tmp_path, monkeypatch, url, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid) as raised:
        open_engine(url)
    assert says in str(raised.value)
    assert "s3cr3t" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"durability": "none"}, "durability='none': full or normal is needed"),
        ({"durability": None}, "durability=None: full or normal"),
        ({"migrate": "no"}, "migrate='no': True or False is needed"),
        ({"lease": 0}, "lease=0: seconds are needed, 0.1 to 86400"),
        ({"lease": 10**6}, "lease=1000000: seconds are needed"),
        ({"lease": float("nan")}, "lease=nan: seconds are needed"),
        ({"lease": "60"}, "lease='60': seconds are needed"),
        ({"lease": True}, "lease=True: seconds are needed"),
        ({"budget": 8000}, "budget=8000: Budget(context=…) is needed"),
        ({"policy": "oldest"}, "policy='oldest': a policy is needed, such as OldestTurns()"),
        ({"clock": BEGUN}, "clock=datetime.datetime(2026, 1, 1, 0, 0"),
        ({"ids": "cv_1"}, "ids='cv_1': a function is needed"),
    ],
)
def test_arguments_that_are_refused(db, argument, says):
    with pytest.raises(Invalid) as raised:
        open_engine(db, **argument)
    assert says in str(raised.value)
    assert not db.exists()


async def test_a_number_is_no_budget_for_a_call_either(engine):
    c = await engine.create()
    await c.append("Hi")
    for attempt in (
        c.window(8000),
        c.respond(Responses(SimpleNamespace(responses=None), "gpt-4o-mini", backend="x"), "Hi", budget=8000),
    ):
        with pytest.raises(Invalid, match="budget=8000: Budget"):
            await attempt
    assert (await c.refresh()).version == 2


async def test_what_open_engine_returned_opens_once(db):
    for url in (":memory:", db):
        opening = open_engine(url)
        async with opening as engine:
            with pytest.raises(Invalid, match="call open_engine"):
                await opening.__aenter__()
            await engine.create(id="ada")
        with pytest.raises(Invalid, match="this opens a log once: call open_engine"):
            async with opening:
                pass


# -- files


def foreign(path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.close()


def newer(path):
    anyio.run(make, path)
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()


def corrupt(path):
    anyio.run(make, path)
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\xa5" * (len(content) - 200))


async def make(path):
    async with open_engine(path) as engine:
        c = await engine.create(id="ada", metadata={"a": 1})
        await c.append("Hi")


UNUSABLE = {
    "foreign": (foreign, "this database belongs to another program; give turnlog a file of its own"),
    "newer": (newer, "schema 99 was made by a newer turnlog, this one knows 2; upgrade turnlog"),
    "corrupt": (corrupt, "the database file is damaged; restore it from a backup"),
    "text": (
        lambda path: path.write_text("notes " * 1000),
        "this is no SQLite database; give turnlog a file of its own",
    ),
    "folder": (Path.mkdir, "this is a folder; give turnlog a file in it"),
}


@pytest.mark.parametrize("migrate", [True, False])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_cannot_be_used_is_left_as_it_is(db, kind, migrate):
    damage, says = UNUSABLE[kind]
    damage(db)
    before = {path.name: path.read_bytes() for path in db.parent.iterdir() if path.is_file()}

    async def attempt():
        async with open_engine(db, migrate=migrate):
            raise AssertionError("it was opened")

    with pytest.raises(StoreError) as raised:
        anyio.run(attempt)
    assert str(db) in str(raised.value)
    assert says in str(raised.value)
    assert {path.name: path.read_bytes() for path in db.parent.iterdir() if path.is_file()} == before


async def test_an_empty_file_becomes_a_log(db):
    db.touch()
    with pytest.raises(StoreError, match="there is no log in it yet"):
        async with open_engine(db, migrate=False):
            pass
    await make(db)
    assert db.stat().st_size > 0


@pytest.fixture
def ordinary():
    with ordinary_folder() as folder:
        yield folder


async def test_a_read_only_log_is_read_and_not_written(ordinary):
    path = ordinary / "log.db"
    await make(path)
    with mode(path, 0o400):
        async with open_engine(path) as engine:
            c = await engine.get("ada")
            assert (c.metadata, [entry.seq async for entry in c.items()]) == ({"a": 1}, [2])
            assert len((await c.window(Budget(100))).items) == 1
            for attempt in (c.append("x"), engine.create(), c.update_metadata({"a": 2})):
                with pytest.raises(StoreError, match="the database is read-only; make it, the files beside it"):
                    await attempt
            assert (await c.refresh()).version == 2


async def test_a_read_only_folder_is_told(ordinary):
    with mode(ordinary, 0o500), pytest.raises(StoreError, match="check that this user may write there"):
        async with open_engine(ordinary / "new.db"):
            pass
    assert list(ordinary.iterdir()) == []


async def test_files_are_for_their_owner_only(db):
    before = os.umask(0)
    try:
        async with open_engine(db) as engine:
            await engine.create()
            assert {path.name for path in db.parent.iterdir()} == {"log.db", "log.db-wal", "log.db-shm"}
            assert {path.stat().st_mode & 0o777 for path in db.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)
    db.chmod(0o640)  # whoever gives others a look has their way
    await make(db)
    assert db.stat().st_mode & 0o777 == 0o640


# -- one event loop, and only while it is open


async def drain(listing):
    return [one async for one in listing]


async def enter(opening):
    async with opening:
        pass


def uses(engine, c, call, model):
    """Return everything that can be asked of an engine, a conversation and a recorded call, not begun."""
    return {
        "create": engine.create,
        "get": lambda: engine.get("ada"),
        "get_or_create": lambda: engine.get_or_create("ada"),
        "list": lambda: drain(engine.list()),
        "refresh": c.refresh,
        "append": lambda: c.append("x"),
        "update_metadata": lambda: c.update_metadata({"a": 1}),
        "respond": lambda: c.respond(model, "x"),
        "run": lambda: c.run(model, "x"),
        "stream": lambda: enter(c.stream(model, "x")),
        "take_over": c.take_over,
        "window": lambda: c.window(Budget(1000)),
        "events": lambda: drain(c.events()),
        "items": lambda: drain(c.items()),
        "responses": lambda: drain(c.responses()),
        "response": lambda: c.response(call.seq),
        "request": call.request,
        "open_calls": c.open_calls,
        "usage": c.usage,
    }


async def test_an_engine_is_used_in_its_own_loop_and_while_it_is_open(tmp_path):
    for url in (":memory:", tmp_path / "log.db"):
        async with serving("one") as (server, client):
            model = Responses(client, "gpt-4o-mini")
            async with open_engine(url) as engine:
                c = await engine.create(id="ada")
                await c.respond(model, "Hi")
                (call,) = [call async for call in c.responses()]
                for name, use in uses(engine, c, call, model).items():
                    with pytest.raises(
                        Invalid, match="belongs to another event loop: open one engine in each"
                    ) as raised:
                        await anyio.to_thread.run_sync(asyncio.run, use())
                    assert raised.value, name
                version = (await c.refresh()).version
            for name, use in uses(engine, c, call, model).items():
                with pytest.raises(StoreError, match="this engine is closed: use it inside of its `async with`"):
                    await use()
                assert name
            assert (version, len(server.requests)) == (6, 1)
