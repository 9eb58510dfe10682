"""Conversations as lines: what comes back is what was there, and what is damaged is refused whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_talk import serving
from turnlog import Budget, NotFound, StoreError, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine import portable
from turnlog.engine.canonical import encode, parse
from turnlog.engine.errors import Conflict, CorruptLog, Invalid, InvalidItem
from turnlog.engine.events import checksum
from turnlog.engine.listing import event_of
from turnlog.engine.log import Query
from turnlog.engine.portable import Package, dump, restore
from turnlog.engine.replay import verify
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import created, forked, item, started, tombstone
from turnlog.engine.testing.scribe import ENCODERS, Scribe
from turnlog.engine.testing.server import Call
from turnlog.engine.testing.strategies import conversations

pytestmark = pytest.mark.anyio


async def lines_of(store, name="c"):
    return [line async for line, _ in dump(store, name)]


def packed(lines):
    """Return what lines of bytes say, as a package."""
    header, *rest = [parse(line, wrapped=1) for line in lines]
    package = Package(header)
    for line in rest:
        package.add(line)
    return package


def values(records):
    """Return records without their positions, which are each store's own."""
    return [{name: getattr(one, name) for name in one.__struct_fields__ if name != "position"} for one in records]


async def kept(store, name="c"):
    snapshot = await store.read(name, Query())
    head = snapshot.head
    about = (head.version, head.created, head.updated, head.items, head.last_item, head.metadata, head.parent)
    return about, values(snapshot.records[0])


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    opened = MemoryStore() if request.param == "memory" else await SqliteStore.open(tmp_path / "to.db")
    yield opened
    await opened.close()


# -- there and back


@given(conversations(6))
async def test_generated_conversations_come_back_event_for_event(steps):
    first, second = MemoryStore(), MemoryStore()
    await Scribe(first).write(steps)
    names = await names_of(first)
    lines = await all_lines_of(first, names)
    for package in each(lines):
        assert await restore(second, package) == package.version - package.first + 1
    for name in names:
        assert await kept(second, name) == await kept(first, name)
        assert await verify(second, name, ENCODERS) == await verify(first, name, ENCODERS)
    assert await all_lines_of(second, names) == lines
    assert [await restore(second, package) for package in each(lines)] == [0] * len(names)


async def names_of(store):
    """Return the conversations of a store, forks behind their parents."""
    return [head.conversation for head in await store.heads(order="created", limit=1000)]


async def all_lines_of(store, names):
    """Return conversations as lines of one file."""
    written = {}
    return [line for name in names async for line, _ in dump(store, name, written)]


@settings(max_examples=20)
@given(steps=conversations(5))
async def test_between_stores_in_memory_and_on_a_disk(tmp_path_factory, steps):
    disk = await SqliteStore.open(tmp_path_factory.mktemp("logs") / "log.db")
    back = MemoryStore()
    await Scribe(disk).write(steps)
    ours = await names_of(disk)
    for package in each(await all_lines_of(disk, ours)):
        await restore(back, package)
    there = Scribe(MemoryStore(), "d")
    await there.write(steps)
    theirs = await names_of(there.store)
    for package in each(await all_lines_of(there.store, theirs)):
        await restore(disk, package)
    for name in ours:
        assert await kept(back, name) == await kept(disk, name)
    for name in theirs:
        assert await kept(disk, name) == await kept(there.store, name)
        assert await verify(disk, name, ENCODERS) == await verify(there.store, name, ENCODERS)
    await disk.close()


async def look() -> str:
    return "seen"


async def talked(engine, model):
    """Hold a conversation with a tool; return it."""
    c = await engine.create(id="c", metadata={"who": "ada"})
    await c.run(model, "Look", tools=[look], instructions="Be brief.")
    await c.update_metadata({"title": "x"})
    return c


async def test_a_conversation_goes_on_where_it_is_imported(store, tmp_path):
    path = tmp_path / "there.db"
    async with serving(Call("look"), "Seen.", "Still.") as (server, client):
        model = Responses(client, "gpt-4o-mini")
        async with open_engine(":memory:") as engine:
            c = await talked(engine, model)
            window = (await c.window(Budget(1000))).items
            await restore(store, packed(await lines_of(engine.store)))
        there = await SqliteStore.open(path)
        await restore(there, packed(await lines_of(store)))
        await there.close()
        async with open_engine(path) as engine:
            d = await engine.get("c")
            assert (d.version, d.metadata) == (c.version, {"who": "ada", "title": "x"})
            assert (await d.window(Budget(1000))).items == window
            # The settings have come along: without them no request could be rebuilt.
            assert [await call.request() async for call in d.responses()] == [one.body for one in server.requests]
            assert (await d.respond(model, "And?")).output_text == "Still."
            assert (await verify(engine.store, "c")).verified == 3


def deep(levels):
    return {"role": "user", "content": [], "deep": json.loads("[" * (levels - 1) + "]" * (levels - 1))}


async def test_the_deepest_item_that_can_be_appended_comes_back(store):
    async with open_engine(":memory:") as engine:
        c = await engine.create(id="c")
        await c.append(deep(100))
        with pytest.raises(InvalidItem, match="deeper than 100"):
            await c.append(deep(101))
        await restore(store, packed(await lines_of(engine.store)))
        assert await kept(store) == await kept(engine.store)


async def test_a_conversation_that_is_not_there(store):
    with pytest.raises(NotFound, match="conversation nobody"):
        await lines_of(store, "nobody")


async def test_what_is_appended_meanwhile_is_not_in_it(store, monkeypatch):
    monkeypatch.setattr(portable, "_PAGE", 3)
    await started(store, "c", "one", "two", "three")
    lines = []
    async for line, _ in dump(store, "c"):
        lines.append(line)
        await store.append("c", [item("more")])
    assert [parse(line).get("seq") for line in lines] == [None, None, 1, 2, 3, 4]
    assert packed(lines).version == 4


async def test_what_is_deleted_meanwhile_is_not_exported_in_part(store, monkeypatch):
    monkeypatch.setattr(portable, "_PAGE", 3)
    await started(store, "c", *"abcdefgh")
    with pytest.raises(NotFound, match="conversation c: deleted"):
        async for line, _ in dump(store, "c"):
            if b'"seq":2' in line:
                await store.delete("c", tombstone(), forks="refuse")


# -- again


async def exported(*texts):
    """Return the lines of a conversation with such messages."""
    first = MemoryStore()
    await started(first, "c", *texts)
    return await lines_of(first)


def shortened(lines, version):
    return [lines[0].replace(b'"version":%d' % (len(lines) - 2), b'"version":%d' % version), *lines[1 : version + 2]]


async def test_an_import_that_was_stopped_goes_on(store):
    lines = await exported("one", "two", "three")
    assert await restore(store, packed(shortened(lines, 2))) == 2
    assert await restore(store, packed(lines)) == 2
    assert await lines_of(store) == lines
    assert await restore(store, packed(shortened(lines, 2))) == 0
    assert await lines_of(store) == lines


async def test_an_import_is_appended_in_batches_and_goes_on_behind_the_last(store, monkeypatch):
    monkeypatch.setattr(portable, "_BATCH", 2)
    lines = await exported("one", "two", "three", "four")
    append, appended = store.append, []

    async def failing(name, events, **more):
        if len(appended) == 1:
            appended.append(0)
            raise StoreError("the disk is full")
        result = await append(name, events, **more)
        appended.append(result.version)

    monkeypatch.setattr(store, "append", failing)
    with pytest.raises(StoreError, match="full"):
        await restore(store, packed(lines))
    assert await restore(store, packed(lines)) == 3
    assert appended == [2, 0, 4, 5]
    assert await lines_of(store) == lines


@pytest.mark.parametrize("longer", [0, 2])
async def test_another_conversation_of_that_id_is_a_conflict(store, longer):
    lines = await exported("one", "two")
    await store.append("c", [created({"other": True}), *[item("x")] * longer])
    before = await kept(store)
    told = "conversation c: event 1 is another one here; to import it beside, change the id in its first line"
    with pytest.raises(Conflict, match=told):
        await restore(store, packed(lines))
    assert await kept(store) == before
    beside = [lines[0].replace(b'"id":"c"', b'"id":"d"'), *lines[1:]]
    assert await restore(store, packed(beside)) == 3


OTHERWISE = {"kind": "acme:note", "time": 7, "item": {"role": "user", "content": "x"}, "data": {"meta": 1}}


@pytest.mark.parametrize("field", OTHERWISE)
async def test_a_conversation_that_went_another_way_is_a_conflict(store, field):
    lines = await exported("one", "two")
    await restore(store, packed(lines))
    changed(EVENTS + 3, **{field: OTHERWISE[field]})(lines)
    with pytest.raises(Conflict, match="event 3 is another one here"):
        await restore(store, packed(lines))


# -- forks


async def family():
    """Return a store with a conversation, forks of it at any depth, and one that has nothing to do with them."""
    first = MemoryStore()
    await started(first, "c", "one", "two", "three")
    await forked(first, "d", "c", 3, "four", "five")
    await forked(first, "e", "d", 5, "six")
    await forked(first, "f", "e", 2)
    await started(first, "g", "else")
    return first


def each(lines):
    """Return what lines say, as packages."""
    headers = [number for number, line in enumerate(lines) if b'"turnlog"' in line]
    return [packed(lines[begin:end]) for begin, end in zip(headers, [*headers[1:], len(lines)], strict=True)]


@pytest.mark.parametrize("names", ["cdefg", "gfedc", "fecdg", "ec"])
async def test_what_forks_share_is_written_once(store, names):
    first = await family()
    lines = await all_lines_of(first, names)
    for package in each(lines):
        await restore(store, package)
    for name in names:
        found = [(await place.read(name, Query())).records[0] for place in (store, first)]
        assert values(found[0]) == values(found[1])
    if names == "cdefg":
        own = [(package.id, package.version - package.first + 1) for package in each(lines)]
        assert own == [("c", 4), ("d", 3), ("e", 2), ("f", 1), ("g", 2)]
        parents = [(await store.read(name)).head.parent for name in names]
        assert parents == [None, ("c", 3), ("d", 5), ("e", 2), None], (
            "also one that shares no event of its parent's own"
        )
    assert [await restore(store, package) for package in each(lines)] == [0] * len(each(lines))


async def test_a_fork_without_its_parent_is_a_conflict(store):
    first = await family()
    whole, fork = each(await lines_of(first, "d"))
    with pytest.raises(Conflict, match="conversation d: it is a fork of c at 3, which is not here up to there"):
        await restore(store, fork)
    await started(store, "c")
    with pytest.raises(Conflict, match="which is not here up to there"):
        await restore(store, fork)
    await store.delete("c", tombstone(), forks="refuse")
    with pytest.raises(Conflict, match="conversation d: it is a fork of c at 3, which was deleted here"):
        await restore(store, fork)
    assert await store.read("d") is None
    assert whole.version == 3


# -- damaged


def changed(number, **fields):
    """Return what changes a line, and its checksum with it: None takes a field away."""

    def change(lines):
        value = {**parse(lines[number], wrapped=1), **fields}
        if "sum" not in fields and not fields.keys().isdisjoint(("item", "data")):
            written = (None if value.get(name) is None else encode(value[name]) for name in ("item", "data"))
            value["sum"] = checksum(*written)
        lines[number] = encode({key: part for key, part in value.items() if part is not None})

    return change


def without(number):
    return lambda lines: lines.pop(number)


EVENTS = 1
"""The line before the first event: how many keys there are."""
DAMAGE = {
    "a later format": (changed(0, format=3), "$.format: 3 is not known here; this turnlog reads formats 1 to 2"),
    "no format": (changed(0, format=None), "$.format: None is not known here"),
    "no id": (changed(0, id=None), "conversation id None: 1 to 64 characters of"),
    "a bad id": (changed(0, id="../c"), "conversation id '../c': 1 to 64 characters of"),
    "a version that is no number": (changed(0, version="5"), "$.version: '5' is no whole number"),
    "a version of nothing": (changed(0, version=0), "$.version: 0 is no whole number"),
    "cut short": (without(-1), "c: 4 of 5 events are here; the file is not whole, export it again"),
    "a line missing": (
        without(EVENTS + 3),
        "$.seq: 4: event 3 is expected here; the file is not whole, export it again",
    ),
    "a line twice": (lambda lines: lines.insert(EVENTS + 3, lines[EVENTS + 3]), "$.seq: 3: event 4 is expected"),
    "a seq that is no number": (changed(EVENTS + 1, seq=True), "$.seq: True is no whole number"),
    "no kind": (changed(EVENTS + 2, kind=None), "$.kind: None is no text"),
    "no time": (changed(EVENTS + 2, time=None), "$.time: None is no whole number"),
    "a time out of the calendar": (changed(EVENTS + 2, time=2**62), "is no time in microseconds"),
    "a number that no store holds": (
        changed(EVENTS + 2, tokens=2**63),
        "$.tokens: 9223372036854775808 is no whole number",
    ),
    "a negative response": (changed(EVENTS + 2, response=-1), "$.response: -1 is no whole number"),
    "a shape that is no text": (changed(EVENTS + 2, shape=[]), "$.shape: [] is no text"),
    "an item that is no object": (changed(EVENTS + 2, item="hi"), "$.item: a JSON object is expected here"),
    "an item too deep": (changed(EVENTS + 2, item=deep(101)), "$.item.deep"),
    "no item": (
        changed(EVENTS + 2, item=None),
        "c/2: an item.appended without an item; the file was changed, export it again",
    ),
    "another item": (
        lambda lines: lines.__setitem__(EVENTS + 3, lines[EVENTS + 3].replace(b"two", b"too")),
        "event 3 is not what its checksum says; the file was changed, export it again",
    ),
    "another checksum": (changed(EVENTS + 3, sum=7), "event 3 is not what its checksum says"),
    "another beginning": (
        changed(EVENTS + 1, kind="metadata.updated"),
        "c/1: the first event, and no other, is a conversation",
    ),
    "two beginnings": (
        changed(EVENTS + 2, kind="conversation.created"),
        "c/2: the first event, and no other, is a conversation",
    ),
    "data of another kind": (
        changed(EVENTS + 3, kind="response.completed", data={"usage": 7}),
        "c/3: response.completed cannot",
    ),
    "settings changed": (
        lambda lines: lines.insert(EVENTS + 1, BODY.replace(b"m", b"n")),
        "$.value: the body is not what its",
    ),
}
BODY = encode({"body": "62c66a7a5dd70c3146618063c344e531e6d4b59e379808443ce962b3abd63c5a", "value": "m"})


@pytest.mark.parametrize("name", DAMAGE)
async def test_what_is_damaged_is_refused_and_nothing_written(store, name):
    damage, says = DAMAGE[name]
    lines = await exported("one", "two", "three", "four")
    damage(lines)
    with pytest.raises(Invalid) as raised:
        await restore(store, packed(lines))
    assert says in str(raised.value)
    assert await store.read("c") is None


async def test_settings_that_are_missing_are_refused(store):
    async with serving("one") as (_, client), open_engine(":memory:") as engine:
        c = await engine.create(id="c")
        await c.respond(Responses(client, "gpt-4o-mini"), "Hi")
        lines = [line for line in await lines_of(engine.store) if b'{"body":' not in line]
    with pytest.raises(
        InvalidItem, match="the settings of event 3 are missing; the file is not whole, export it again"
    ):
        await restore(store, packed(lines))
    assert await store.read("c") is None


ODD = st.sampled_from([None, True, -1, 0, 1, 7, 2**63, 1.5, "", "x", "user", "\ud7ff", [], [1], {}, {"a": 1}])
FIELDS = st.sampled_from(["seq", "time", "kind", "sum", "response", "shape", "link", "tokens", "excerpt", "flags",
                          "item", "data", "schema", "id", "version", "format", "body", "value"])  # fmt: skip


@given(conversations(2), st.lists(st.tuples(st.integers(0, 60), FIELDS, ODD), min_size=1, max_size=2))
async def test_whatever_is_changed_is_refused_or_can_be_listed_and_exported_again(steps, changes):
    first, second = MemoryStore(), MemoryStore()
    await Scribe(first).write(steps)
    lines = await lines_of(first)
    for number, field, value in changes:
        changed(number % len(lines), **{field: value})(lines)
    try:
        package = packed(lines)
        await restore(second, package)
    except (Invalid, Conflict):
        assert await second.read("c") is None
        return
    snapshot = await second.read(package.id, Query())
    assert len([event_of(record) for record in snapshot.records[0]]) == package.version
    assert await restore(MemoryStore(), packed(await lines_of(second, package.id))) == package.version
    await verify(second, package.id, ENCODERS)


async def test_a_log_that_cannot_be_read_is_not_exported(tmp_path):
    path = tmp_path / "log.db"
    disk = await SqliteStore.open(path)
    await started(disk, "c", "one", "two")
    await disk._writer.run(lambda db: db.execute("UPDATE events SET item = 'no JSON' WHERE seq = 3"))
    with pytest.raises(CorruptLog, match=r"c/3: what is stored is no JSON.*restore it from a backup"):
        await lines_of(disk)
    await disk.close()
