"""Idempotency keys of exported conversations: used up where they are imported, each for the events it stands for."""

import pytest

from pg_server import pg_url, schema  # noqa: F401 - fixtures
from server_talk import serving
from turnlog import Engine, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine import portable
from turnlog.engine.canonical import encode, parse
from turnlog.engine.errors import Conflict, Invalid, KeyReused, StoreError
from turnlog.engine.ids import ANY
from turnlog.engine.log import Fork, Key, KeyUse
from turnlog.engine.portable import Package, dump, restore
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_keys import ODD
from turnlog.engine.testing.contract_kit import created, item, texts_of
from turnlog.engine.turns.crew import Crew

pytestmark = pytest.mark.anyio


async def lines_of(store, name="c"):
    return [line async for line, _ in dump(store, name)]


def packages(lines):
    """Return what lines of bytes say, as packages."""
    found = []
    for line in lines:
        value = parse(line, wrapped=1)
        if "turnlog" in value:
            found.append(Package(value))
        else:
            found[-1].add(value)
    return found


async def imported(store, lines):
    """Import lines; return how many events there were to append."""
    return sum([await restore(store, package) for package in packages(lines)])


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request, tmp_path):
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "sqlite":
        opened = await SqliteStore.open(tmp_path / "to.db")
    else:
        opened = await PostgresStore.open(request.getfixturevalue("pg_url"), schema=request.getfixturevalue("schema"))
    yield opened
    await opened.close()


async def keyed():
    """Return a store with a conversation whose appends have keys, and what they were used for."""
    store = MemoryStore()
    await store.append("c", [created()], key=Key("create", "d"))
    used = {"create": KeyUse("d", 1, 1)}
    for number, name in enumerate(ODD):
        events = [item(f"{number} {part}") for part in range(number % 3 + 1)]
        appended = await store.append("c", events, key=Key(name, str(number)))
        used[name] = KeyUse(str(number), appended.first, appended.last)
    appended = await store.append("c", [], key=Key("of nothing", "d"))
    used["of nothing"] = KeyUse("d", appended.first, appended.last)
    await store.append("c", [item("without a key")])
    return store, used


async def test_keys_come_along(store, monkeypatch):
    monkeypatch.setattr(portable, "_PAGE", 3)
    first, used = await keyed()
    lines = await lines_of(first)
    await imported(store, lines)
    assert await store.keys("c") == used
    assert sorted(await lines_of(store)) == sorted(lines), "a store may list keys in another order"
    assert await imported(store, lines) == 0
    assert await store.keys("c") == used


async def test_who_repeats_an_append_behind_an_import_appends_nothing(store):
    async with serving("Hello.", "Again.") as (server, client):
        model = Responses(client, "gpt-4o-mini")
        async with open_engine(":memory:") as engine:
            c = await engine.create(key="made by a form", metadata={"who": "ada"})
            await c.append("One", "Two", key="webhook 1")
            said = await c.respond(model, "Three", key="webhook 2")
            fork = await c.fork(key="forked by a form")
            lines = [*await lines_of(engine.store, c.id), *await lines_of(engine.store, fork.id)]
            ids = c.id, fork.id, c.version, fork.version
        await imported(store, lines)
        engine = Engine(store, Crew(), lease=60.0, budget=None, policy=None, ids=None)
        c = await engine.create(key="made by a form", metadata={"who": "ada"})
        assert (await c.append("One", "Two", key="webhook 1")).replayed
        again = await c.respond(model, "Three", key="webhook 2")
        assert (again.output_text, again.replayed) == (said.output_text, True)
        fork = await c.fork(key="forked by a form")
        assert (c.id, fork.id, c.version, fork.version) == ids
        with pytest.raises(KeyReused):
            await c.append("Else", key="webhook 1")
        assert len(server.requests) == 1


async def test_an_import_that_was_stopped_goes_on_with_its_keys(store, monkeypatch):
    monkeypatch.setattr(portable, "_BATCH", 2)
    first, used = await keyed()
    lines = await lines_of(first)
    append, batches = store.append, []

    async def failing(name, events, **more):
        if batches and len(events):
            raise StoreError("the disk is full")
        batches.append(len(events))
        return await append(name, events, **more)

    whole = packages(lines)[0].version
    for done in range(2, whole, 2):
        batches.clear()
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="full"):
            patch.setattr(store, "append", failing)
            await imported(store, lines)
        # What has come is as if it had been appended here.
        assert await store.keys("c") == {name: use for name, use in used.items() if use.last <= done}
    await imported(store, lines)
    assert await store.keys("c") == used
    assert await texts_of(store) == await texts_of(first)


def older(lines):
    """Return an export as it was before there were keys in it."""
    kept = [line for line in lines if b'"key"' not in line and b'"keys"' not in line]
    return [line.replace(b'"format":2', b'"format":1') for line in kept]


async def test_an_export_without_keys_is_still_read_and_one_with_keys_completes_it(store):
    first, used = await keyed()
    lines = await lines_of(first)
    events = packages(lines)[0].version
    assert await imported(store, older(lines)) == events
    assert await store.keys("c") == {}
    assert await imported(store, lines) == 0
    assert await store.keys("c") == used
    assert await imported(store, older(lines)) == 0
    assert await store.keys("c") == used


async def test_a_key_that_stands_for_something_else_there_is_a_conflict(store):
    first, _ = await keyed()
    lines = await lines_of(first)
    await imported(store, older(lines))
    again = await store.append("c", [item("0 0")], key=Key("k", "0"))
    said = f"key 'k' stands for the events from {again.first} to {again.last} here, and for others in the file"
    with pytest.raises(Conflict, match=said):
        await imported(store, lines)
    assert await store.keys("c") == {"k": KeyUse("0", again.first, again.last)}


async def test_a_fork_brings_its_own_keys_and_its_parents_for_what_it_shares(store):
    first = MemoryStore()
    await first.append("c", [created()], key=Key("create", "c"))
    await first.append("c", [item("one")], key=Key("one", "c"))
    await first.append("c", [item("two"), item("three")], key=Key("cut through", "c"))
    await first.append("c", [item("four")], key=Key("behind", "c"))
    await first.append("d", [created()], key=Key("fork", "d"), fork=Fork("c", 3))
    await first.append("d", [item("other")], key=Key("behind", "d"))
    lines, parent = await lines_of(first, "d"), await lines_of(first, "c")
    await imported(store, lines)
    assert await store.keys("d") == {"fork": KeyUse("d", 4, 4), "behind": KeyUse("d", 5, 5)}
    assert await store.keys("c") == {"create": KeyUse("c", 1, 1), "one": KeyUse("c", 2, 2)}
    # The parent, whole, completes it; the fork's part again changes nothing.
    await imported(store, parent)
    assert await store.keys("c") == await first.keys("c")
    assert await imported(store, lines) == 0
    assert await store.keys("c") == await first.keys("c")
    assert await texts_of(store, "d") == ["one", "two", "other"]


async def test_what_is_used_meanwhile_is_not_in_it():
    store, used = await keyed()
    lines = []
    async for line, _ in dump(store, "c"):
        lines.append(line)
        await store.append("c", [item("more")], key=Key(f"later {len(lines)}", "d"))
    (package,) = packages(lines)
    assert package.uses == used


async def test_a_deleted_parent_has_no_keys_to_bring(store):
    async with open_engine(":memory:") as engine:
        c = await engine.create(id="c", key="create")
        await c.append("one", key="one")
        await c.fork(id="d")
        await engine.delete("c", forks="keep")
        lines = await lines_of(engine.store, "d")
    await imported(store, lines)
    assert await store.keys("c") == {}
    assert (await store.append("c", [item("one")], expected=ANY, key=Key("one", "d"))).replayed is False


# -- damaged


def key(**changes):
    value = {"key": "k", "digest": "d", "first": 2, "last": 2, **changes}
    return encode({name: part for name, part in value.items() if part is not None})


COUNTED = encode({"keys": 1})
DAMAGE = {
    "a key missing": ([COUNTED], "$.keys: 0 keys are here, 1 were exported; the file is not whole, export it again"),
    "a key too many": ([key(), key(key="l"), COUNTED], "$.keys: 2 keys are here, 1 were exported"),
    "a key twice": ([key(), key(), encode({"keys": 2})], "$.key: 'k' comes twice; the file was changed, export it"),
    "no number of keys": ([], "$.keys: 0 keys are here, the line that counts them is missing; the file is not whole"),
    "a number that is none": ([key(), encode({"keys": "1"})], "$.keys: 1 keys are here, '1' were exported"),
    "a name that is none": ([key(key=7), COUNTED], "key 7: a text of 1 to 255 characters is needed"),
    "a long name": ([key(key="k" * 256), COUNTED], "a text of 1 to 255 characters is needed"),
    "no digest": ([key(digest=None), COUNTED], "$.digest: None is no text"),
    "no first": ([key(first=None), COUNTED], "$.first: None is no whole number"),
    "a first that is no number": ([key(first="2"), COUNTED], "$.first: '2' is no whole number"),
    "a first before all": ([key(first=0), COUNTED], "$.first: 0 is no whole number that can stand here"),
    "a last behind all": ([key(last=9), COUNTED], "key 'k' cannot stand for the events from 2 to 9; the file was"),
    "a last before the first": ([key(first=3, last=1), COUNTED], "key 'k' cannot stand for the events from 3 to 1"),
    "a key behind the events": ([encode({"keys": 0})], "$.seq: None: event 1 is expected here"),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_damaged_keys_are_refused_and_nothing_is_written(name):
    first, second = MemoryStore(), MemoryStore()
    await first.append("c", [created(), item("one")])
    header, _, *events = await lines_of(first)
    keys, says = DAMAGE[name]
    behind = [key()] if "behind the events" in name else []
    with pytest.raises(Invalid) as raised:
        await imported(second, [header, *keys, *behind, *events])
    assert says in str(raised.value)
    assert await second.read("c") is None
