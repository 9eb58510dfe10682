"""An engine's conversations: creating them, finding them again, listing them page by page, their metadata."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import count

import anyio
import pytest

from turnlog import Engine, Invalid, open_engine
from turnlog.engine.errors import KeyReused, VersionConflict
from turnlog.engine.ids import NO_STREAM

pytestmark = pytest.mark.anyio

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
async def timed(request, db) -> AsyncIterator[Engine]:
    """An engine whose clock ticks a second with each append, but stands still for each second one."""
    ticks = (BEGUN + timedelta(seconds=number // 2) for number in count())
    numbers = count(1)
    url = ":memory:" if request.param == "memory" else db
    async with open_engine(url, clock=lambda: next(ticks), ids=lambda prefix: f"{prefix}_{next(numbers)}") as engine:
        yield engine


async def test_creating(timed):
    c = await timed.create(metadata={"who": "ada"})
    d = await timed.create(id="b")
    assert (c.id, c.version, c.metadata, d.id, d.metadata) == ("cv_1", 1, {"who": "ada"}, "b", {})
    with pytest.raises(VersionConflict) as raised:
        await timed.create(id="b")
    assert (raised.value.expected, raised.value.actual) == (0, 1)
    assert "there is a conversation of this id already" in str(raised.value)
    (event,) = [event async for event in c.events()]
    assert (event.type, event.metadata, event.time) == ("conversation.created", {"who": "ada"}, BEGUN)


async def test_an_id_that_was_deleted_is_said_to_be(timed):
    await timed.create(id="a")
    await timed.create(id="b")
    await timed.delete("b")
    for attempt in (timed.create(id="b"), (await timed.get("a")).fork(id="b")):
        with pytest.raises(VersionConflict, match="the conversation of this id was deleted"):
            await attempt
    with pytest.raises(VersionConflict, match="there is a conversation of this id already, at version 1"):
        await (await timed.get("a")).fork(id="a")


async def test_a_key_creates_once(timed):
    c = await timed.create(key="k", metadata={"a": 1})
    await c.append("Hi")
    again = await timed.create(key="k", metadata={"a": 1})
    assert (again.id, again.version) == (c.id, 2)
    with pytest.raises(KeyReused):
        await timed.create(key="k", metadata={"a": 2})
    assert (await timed.create(key="k", id="b")).id == "b"
    for key in ("", 7, "k" * 256, "\ud800", b"k"):
        with pytest.raises(Invalid, match=r"key .*: a text of 1 to 255 characters"):
            await timed.create(key=key)
    assert [info.id async for info in timed.list(order="created")] == [c.id, "b"]


async def test_a_key_stands_for_all_that_was_said(timed):
    c = await timed.create()
    long = "x" * 100_000
    for number, said in enumerate(
        [
            {"items": ["Hi"]},
            {"items": ["Hi"], "pinned": True},
            {"items": ["Hi"], "meta": {"a": 1}},
            {"items": ["Hi"], "meta": {"a": 2}},
            {"items": ["Hi", "Hi"], "meta": {"a": 2}},
            {"items": [long + "1"]},
            {"items": [long + "2"]},
        ]
    ):
        items, more = said["items"], {name: said[name] for name in ("pinned", "meta") if name in said}
        first = await c.append(*items, **more, key=f"k{number}")
        again = await c.append(*items, **more, key=f"k{number}")
        assert (again.first, again.replayed) == (first.first, True)
        for other in range(number):
            with pytest.raises(KeyReused):
                await c.append(*items, **more, key=f"k{other}")


async def test_get_or_create(timed):
    c = await timed.get_or_create("ada", metadata={"a": 1})
    again = await timed.get_or_create("ada", metadata={"a": 2})
    assert (c.version, again.version, again.metadata) == (1, 1, {"a": 1})
    found = []

    async def ask():
        found.append((await timed.get_or_create("b")).id)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask)
    assert found == ["b"] * 10


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 65, "a\n", None, 7, "\ud800", "~"])
async def test_ids_that_are_refused(engine, name):
    for attempt in (engine.get(name), engine.get_or_create(name), *([] if name is None else [engine.create(id=name)])):
        with pytest.raises(Invalid, match=r"conversation id .*: 1 to 64 characters of A-Z a-z 0-9 \. _ : - are needed"):
            await attempt
    assert [info.id async for info in engine.list()] == []


async def test_a_source_of_ids_that_makes_none():
    async with open_engine(":memory:", ids=lambda prefix: f"{prefix}/1") as engine:
        with pytest.raises(Invalid, match="conversation id 'cv/1'"):
            await engine.create()


class Kind(StrEnum):
    CHAT = "chat"


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ([], "metadata="),
        ("a", "metadata="),
        ({"a": float("nan")}, "metadata.a: nan"),
        ({1: 2}, "metadata: object key 1"),
    ],
)
async def test_metadata_that_is_refused(engine, metadata, says):
    c = await engine.create(metadata={"kind": Kind.CHAT, "tags": ("a",)})
    assert c.metadata == {"kind": "chat", "tags": ["a"]}
    for attempt in (engine.create(metadata=metadata), c.update_metadata(metadata)):
        with pytest.raises(Invalid) as raised:
            await attempt
        assert says.removeprefix("metadata") in str(raised.value)
    assert [(info.id, info.version) async for info in engine.list()] == [(c.id, 1)]


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "b"}, {}, {"a": "b"}),
    ],
)
async def test_metadata_is_changed_by_a_merge_patch(engine, before, patch, after):
    c = await engine.create(metadata=before)
    await c.update_metadata(patch)
    assert (c.metadata, c.version) == (after, 2)
    assert (await engine.get(c.id)).metadata == after
    with pytest.raises(VersionConflict):
        await c.update_metadata({"a": "late"}, expected=1)
    with pytest.raises(VersionConflict):
        await c.update_metadata({"a": "late"}, expected=NO_STREAM)
    assert [info.metadata async for info in engine.list()] == [after]


# -- listing


async def crowd(engine):
    """Create 12 conversations, two at each moment, and append to every third again; return their ids by birth."""
    made = [(await engine.create(id=f"c{number:02}", metadata={"number": number})).id for number in range(12)]
    for name in made[::3]:
        await (await engine.get(name)).append("Hi", "there")
    return made


def in_order(infos, order):
    return sorted(infos, key=lambda info: (getattr(info, order.lstrip("-")), info.id), reverse=order.startswith("-"))


@pytest.mark.parametrize("order", ["-updated", "-created", "created"])
@pytest.mark.parametrize("limit", [1, 5, 12, 1000])
async def test_pages_hold_everything_once_in_order(timed, order, limit):
    await crowd(timed)
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = await timed.list(order=order, limit=limit, after=after)
        assert page.has_more == (page.next is not None)
        found, after, pages = [*found, *page.data], page.next, pages + 1
    assert found == in_order(found, order)
    assert (len({info.id for info in found}), pages) == (12, -(-12 // limit))
    assert found == [info async for info in timed.list(order=order, limit=limit)]


async def test_what_a_row_tells(timed):
    await crowd(timed)
    infos = {info.id: info async for info in timed.list()}
    one, two = infos["c00"], infos["c01"]
    assert (one.version, one.items, one.last_item, one.metadata, one.busy) == (3, 2, 3, {"number": 0}, False)
    assert (two.version, two.items, two.last_item, two.created, two.updated) == (1, 0, 0, BEGUN, BEGUN)
    assert (one.created, one.updated) == (BEGUN, BEGUN + timedelta(seconds=6))
    assert next(iter(infos)) == "c09"


async def test_what_is_added_meanwhile_neither_repeats_nor_hides_a_conversation(timed):
    await crowd(timed)
    seen = []
    async for info in timed.list(order="-created", limit=3):
        seen.append(info.id)
        await timed.create()
    assert seen == [f"c{number:02}" for number in reversed(range(12))]


async def test_a_listing_of_nothing(timed):
    page = await timed.list()
    assert (page.data, page.has_more, page.next) == ([], False, None)
    await timed.create()
    page = await timed.list(limit=1)
    assert (len(page.data), page.has_more, page.next) == (1, False, None)


@pytest.mark.parametrize(
    "after", ["", "11", "nonsense", "²~c~-updated", "--5~c~-updated", "1~~-updated", f"{9**99}~c~-updated", 5]
)
async def test_cursors_that_are_none(timed, after):
    await crowd(timed)
    with pytest.raises(Invalid, match=r"after=.*the cursor of a page is needed, its `next`"):
        await timed.list(after=after)


async def test_a_cursor_of_another_order(timed):
    await crowd(timed)
    page = await timed.list(order="created", limit=5)
    with pytest.raises(Invalid, match="this is a cursor of the order created, not of -updated"):
        await timed.list(after=page.next)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": "updated"}, "order='updated': -updated or -created or created is needed"),
        ({"order": None}, "order=None"),
        ({"limit": 0}, "limit=0: a whole number is needed, from 1 to 1000"),
        ({"limit": 1001}, "limit=1001"),
        ({"limit": "5"}, "limit='5'"),
    ],
)
def test_arguments_of_a_listing_that_are_refused(options, says):
    async def attempt():
        async with open_engine(":memory:") as engine:
            engine.list(**options)

    with pytest.raises(Invalid) as raised:
        anyio.run(attempt)
    assert says in str(raised.value)
