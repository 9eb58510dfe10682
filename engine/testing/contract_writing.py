"""The store contract: appends, versions, heads."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, cast

from ..errors import Invalid, KeyReused, NotFound, VersionConflict
from ..ids import ANY, NO_STREAM
from ..log import Key, Query, Take, record
from .contract_kit import (
    BEGUN,
    Declined,
    Place,
    created,
    fails,
    head_of,
    item,
    other,
    patched,
    records_of,
    started,
    text_of,
)

__all__ = ("WRITING",)


async def the_first_append_creates(place: Place) -> None:
    """A conversation begins with `conversation.created` and whatever is appended with it, as seqs 1, 2, 3."""
    async with place.open() as store:
        appended = await store.append("c", [created({"a": 1}), item("hello"), item("again")], expected=ANY)

        assert (appended.first, appended.last, appended.version, appended.replayed) == (1, 3, 3, False)
        kinds = [record.kind for record in await records_of(store)]
        assert kinds == ["conversation.created", "item.appended", "item.appended"]
        head = await head_of(store)
        assert (head.conversation, head.version, head.items, head.last_item) == ("c", 3, 2, 3)
        assert (head.metadata, head.generation, head.lease) == (b'{"a":1}', 0, None)


async def nothing_is_appended_to_what_is_not_there(place: Place) -> None:
    """An append to no conversation raises NotFound, whatever version it expects; nothing comes into being."""
    async with place.open() as store:
        for expected in (ANY, NO_STREAM, 0, 5):
            for events in ([item("hello")], [], [item("hello"), created()]):
                error = await fails(NotFound, store.append("c", events, expected=expected))
                assert "c" in str(error)
                assert not error.deleted
        assert await store.read("c", Query()) is None
        assert await store.heads() == []


async def nothing_is_created_twice(place: Place) -> None:
    """Creating what is there raises VersionConflict with version 0 as expected, and writes nothing."""
    async with place.open() as store:
        await started(store, "c", "hello")
        for expected in (ANY, NO_STREAM, 0, 2):
            events = [created({"other": True}), item("x")]
            error = await fails(VersionConflict, store.append("c", events, expected=expected))
            assert (error.conversation, error.expected, error.actual) == ("c", 0, 2)
            assert "already" in str(error)
        assert len(await records_of(store)) == 2
        assert (await head_of(store)).metadata == b"{}"


async def a_conversation_begins_once(place: Place) -> None:
    """`conversation.created` anywhere but in front is Invalid, and writes nothing."""
    async with place.open() as store:
        await started(store)
        await fails(Invalid, store.append("c", [item("x"), created()]))
        await fails(Invalid, store.append("d", [created(), created()]))
        assert len(await records_of(store)) == 1
        assert await store.read("d") is None


async def any_appends_at_whatever_version(place: Place) -> None:
    """ANY, and saying nothing, append behind whatever is there."""
    async with place.open() as store:
        await started(store)
        for number in range(5):
            appended = await store.append("c", [item("x"), item("y")], expected=ANY)
            assert (appended.first, appended.last, appended.version) == (2 * number + 2, 2 * number + 3, appended.last)
        assert (await store.append("c", [item("z")])).version == 12
        assert len(await records_of(store)) == 12


async def an_exact_version_appends_only_there(place: Place) -> None:
    """A version appends at that version; at another, VersionConflict carries both and nothing is written."""
    async with place.open() as store:
        await started(store, "c", "one")
        assert (await store.append("c", [item("two")], expected=2)).version == 3
        for expected in (1, 2, 4, 100):
            error = await fails(VersionConflict, store.append("c", [item("lost")], expected=expected))
            assert (error.conversation, error.expected, error.actual) == ("c", expected, 3)
        assert [text_of(record) for record in (await records_of(store))[1:]] == ["one", "two"]


async def no_stream_is_version_zero(place: Place) -> None:
    """NO_STREAM and 0 create, and conflict with what is there; another version does not create."""
    async with place.open() as store:
        assert (await store.append("c", [created()], expected=NO_STREAM)).version == 1
        assert (await store.append("d", [created()], expected=0)).version == 1
        for expected in (NO_STREAM, 0):
            error = await fails(VersionConflict, store.append("c", [item("x")], expected=expected))
            assert (error.expected, error.actual) == (0, 1)
        error = await fails(VersionConflict, store.append("e", [created()], expected=3))
        assert (error.expected, error.actual) == (3, 0)
        assert await store.read("e") is None


async def what_is_no_version_is_invalid(place: Place) -> None:
    """An *expected* that is none raises Invalid and names it; nothing is written."""
    async with place.open() as store:
        await started(store)
        for wrong in (True, -1, 1.0, "1", "latest", None, [1]):
            error = await fails(Invalid, store.append("c", [item("x")], expected=cast("Any", wrong)))
            assert "expected" in str(error)
            assert repr(wrong) in str(error)
        assert len(await records_of(store)) == 1


async def a_refused_append_leaves_nothing(place: Place) -> None:
    """Of an append that is refused there are no events, key, body, lease, or change of the head."""
    async with place.open() as store:
        await started(store, "c", "one")
        before = await store.read("c", Query())
        digest = hashlib.sha256(b"{}").hexdigest()
        await fails(
            VersionConflict,
            store.append(
                "c",
                [item("x", marks=("m",), link="l"), patched(a=1)],
                expected=1,
                key=Key("k", "d"),
                lease=Take(owner="o", seconds=60, turn=-1),
                bodies={digest: b"{}"},
            ),
        )
        assert await store.read("c", Query()) == before
        assert await store.key("c", "k") is None
        assert await store.body(digest) is None
        snapshot = await store.read("c", Query(mark="m"), Query(link="l"))
        assert snapshot is not None
        assert [list(found) for found in snapshot.records] == [[], []]


async def every_column_comes_back(place: Place) -> None:
    """An event is read as it was appended, column by column and byte by byte; its place and time are added."""
    async with place.open() as store:
        await started(store)
        events = [
            item("zażółć 😀 \x00 ￿"),
            item("call", shape="function_call", link="call_1", tokens=7, excerpt=3, flags=65, response=1),
            item("odd", schema=9, sum=-(2**63), tokens=2**40, excerpt=0, flags=2**31),
            other("response.completed", {"usage": {"input_tokens": 5}}, response=1, sum=2**63 - 1),
        ]
        appended = await store.append("c", events)

        records = (await records_of(store))[1:]
        assert list(records) == [
            record("c", one.seq, one.position, appended.time, given, appended.first)
            for one, given in zip(records, events, strict=True)
        ]


async def unknown_kinds_pass_through(place: Place) -> None:
    """An event of an unknown kind and schema is kept and given back unchanged."""
    async with place.open() as store:
        await started(store)
        known = item("inner").item
        odd = other("weather.changed", {"to": ["rain", None, 1.5]}, schema=41, shape="storm", item=known, marks=("w",))
        await store.append("c", [odd, other("weather.calmed")])
        snapshot = await store.read("c", Query(after=1), Query(mark="w"))
        assert snapshot is not None
        changed, calmed = snapshot.records[0]
        assert (changed.kind, changed.schema, changed.shape) == ("weather.changed", 41, "storm")
        assert (changed.item, changed.data, changed.sum) == (known, b'{"to":["rain",null,1.5]}', odd.sum)
        assert (calmed.kind, calmed.item, calmed.data) == ("weather.calmed", None, None)
        assert list(snapshot.records[1]) == [changed]


async def large_items_come_back_whole(place: Place) -> None:
    """An item of some megabytes is appended and read like any other."""
    async with place.open() as store:
        text = "0123456789abcdef" * 200_000
        await started(store, "c", text, "small")
        records = await records_of(store)
        assert text_of(records[1]) == text
        assert text_of(records[2]) == "small"


async def events_say_when(place: Place) -> None:
    """An event has the time that it brings, else that of its append, which the result tells; never for order."""
    async with place.open() as store:
        appended = await store.append("c", [created(), item("a", time=BEGUN + 5), item("b"), item("c", time=-7)])
        times = [record.time for record in await records_of(store)]
        assert times == [appended.time, BEGUN + 5, appended.time, -7]
        assert appended.time > BEGUN
        head = await head_of(store)
        assert (head.created, head.updated) == (appended.time, -7)


async def the_head_tells_of_the_last_item(place: Place) -> None:
    """`updated`, `last_item` and `items` follow items, not other events; `created` stays."""
    async with place.open() as store:
        first = other("conversation.created", {}, time=BEGUN)
        await store.append("c", [first])
        head = await head_of(store)
        assert (head.created, head.updated, head.items, head.last_item) == (BEGUN, BEGUN, 0, 0)
        await store.append("c", [item("a", time=BEGUN + 1), other("call.started", {"call_id": "x"}, time=BEGUN + 9)])
        head = await head_of(store)
        assert (head.created, head.updated, head.items, head.last_item) == (BEGUN, BEGUN + 1, 1, 2)
        await store.append("c", [patched(a=1)])
        assert (await head_of(store)).updated == BEGUN + 1


async def relative_numbers_name_events_of_the_append(place: Place) -> None:
    """A negative `response` -n is the n-th event of the same append; others are taken as they are."""
    async with place.open() as store:
        await started(store, "c", "one")
        await store.append("c", [item("a", response=-2), item("b", response=-1), item("c", response=2), item("d")])
        assert [record.response for record in await records_of(store)] == [None, None, 4, 3, 2, None]


async def positions_name_events(place: Place) -> None:
    """No two events of a store have the same position."""
    async with place.open() as store:
        for name in ("c", "d"):
            await started(store, name, "one", "two")
        found = [record.position for name in ("c", "d") for record in await records_of(store, name)]
        assert len(set(found)) == len(found) == 6
        assert all(isinstance(position, str) for position in found)


async def bodies_are_kept_by_digest(place: Place) -> None:
    """A body is there after the append that brings it, and once for all that bring it; others are None."""
    async with place.open() as store:
        await started(store)
        body = b'{"instructions":"be brief"}'
        digest = hashlib.sha256(body).hexdigest()
        assert await store.body(digest) is None
        for name in ("c", "c", "d"):
            events = [created()] if name == "d" else [item("x")]
            await store.append(name, events, bodies={digest: body, hashlib.sha256(b"1").hexdigest(): b"1"})
            assert await store.body(digest) == body
        assert await store.body("00" * 32) is None
        assert await store.body("no digest") is None


async def metadata_is_patched(place: Place) -> None:
    """`metadata.updated` is a merge patch: null takes a key away, objects are merged, several are applied in turn."""
    async with place.open() as store:
        await store.append("c", [created({"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]})])
        await store.append("c", [patched(a=None, b={"c": None, "x": {"y": None}}, e=[3])])
        assert (await head_of(store)).metadata == b'{"b":{"d":3,"x":{}},"e":[3]}'
        await store.append("c", [patched(b=7), item("x"), patched(b={"z": 1}), patched(e=None)])
        assert (await head_of(store)).metadata == b'{"b":{"z":1}}'


async def metadata_that_is_no_object_is_invalid(place: Place) -> None:
    """Metadata or a patch that is no JSON object raises Invalid, and writes nothing."""
    async with place.open() as store:
        await started(store)
        for wrong in ({"patch": 5}, {"patch": ["a"]}, [1], 5):
            await fails(Invalid, store.append("c", [item("x"), other("metadata.updated", wrong)]))
        await fails(Invalid, store.append("c", [other("metadata.updated", data=b"{not json")]))
        await fails(Invalid, store.append("d", [other("conversation.created", {"metadata": [1]})]))
        assert len(await records_of(store)) == 1
        assert await store.read("d") is None


async def an_empty_append_changes_only_the_lease(place: Place) -> None:
    """An append without events moves no version; its result says where the next event would go."""
    async with place.open() as store:
        await started(store, "c", "one")
        before = await head_of(store)
        appended = await store.append("c", [], expected=2)
        assert (appended.first, appended.last, appended.version) == (3, 2, 2)
        assert await head_of(store) == before
        await fails(VersionConflict, store.append("c", [], expected=1))
        await store.append("c", [], lease=Take(owner="o", seconds=60, turn=2))
        head = await head_of(store)
        assert (head.version, head.updated, head.generation) == (2, before.updated, 1)


async def appends_are_there_when_opened_again(place: Place) -> None:
    """What an append returned for is there when the log is opened again: events, head, keys, bodies, marks, links."""
    digest = hashlib.sha256(b"{}").hexdigest()
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        await started(store, "c", "one")
        await store.append("c", [item("two", marks=("m",), link="l")], key=Key("k", "d"), bodies={digest: b"{}"})
        await store.append("c", [patched(a=1)], lease=Take(owner="o", seconds=600, turn=2))
        queries = [Query(), Query(mark="m"), Query(link="l")]
        before = await store.read("c", *queries)
        assert before is not None
    async with place.open() as store:
        after = await store.read("c", *queries)
        assert after is not None
        assert [list(found) for found in after.records] == [list(found) for found in before.records]
        assert (after.head.version, after.head.metadata, after.head.generation) == (4, b'{"a":1}', 1)
        assert after.head.lease is not None
        assert (after.head.lease.owner, after.head.lease.turn) == ("o", 2)
        assert 0 < after.head.lease.remaining <= 600
        assert await store.body(digest) == b"{}"
        again = await store.append("c", [item("two")], expected=2, key=Key("k", "d"))
        assert (again.first, again.replayed) == (3, True)
        await fails(KeyReused, store.append("c", [item("three")], key=Key("k", "e")))
        assert (await store.append("c", [item("three")], expected=4)).first == 5


async def conversations_are_apart(place: Place) -> None:
    """Each conversation has its own seqs, head, marks, links."""
    async with place.open() as store:
        names = ["a", "a.b", "A", "a:b", "0" * 64]
        for number, name in enumerate(names):
            await started(store, name, *[f"{name} {index}" for index in range(number)])
            await store.append(name, [item(name, marks=("m",), link="l")])
        for number, name in enumerate(names):
            records = await records_of(store, name)
            assert len(records) == number + 2
            assert {record.conversation for record in records} == {name}
            snapshot = await store.read(name, Query(mark="m"), Query(link="l"))
            assert snapshot is not None
            assert [[text_of(one) for one in found] for found in snapshot.records] == [[name], [name]]


async def an_append_can_be_read_at_once(place: Place) -> None:
    """What an append has returned for is in every read that begins afterwards."""
    async with place.open() as store:
        await started(store)
        for number in range(20):
            appended = await store.append("c", [item(str(number))])
            snapshot = await store.read("c", Query(after=appended.first - 1))
            assert snapshot is not None
            assert snapshot.head.version == appended.version
            assert [text_of(record) for record in snapshot.records[0]] == [str(number)]
        seqs = [record.seq for record in await records_of(store)]
        assert all(right == left + 1 for left, right in pairwise(seqs))


WRITING = (
    the_first_append_creates,
    nothing_is_appended_to_what_is_not_there,
    nothing_is_created_twice,
    a_conversation_begins_once,
    any_appends_at_whatever_version,
    an_exact_version_appends_only_there,
    no_stream_is_version_zero,
    what_is_no_version_is_invalid,
    a_refused_append_leaves_nothing,
    every_column_comes_back,
    unknown_kinds_pass_through,
    large_items_come_back_whole,
    events_say_when,
    the_head_tells_of_the_last_item,
    relative_numbers_name_events_of_the_append,
    positions_name_events,
    bodies_are_kept_by_digest,
    metadata_is_patched,
    metadata_that_is_no_object_is_invalid,
    an_empty_append_changes_only_the_lease,
    appends_are_there_when_opened_again,
    conversations_are_apart,
    an_append_can_be_read_at_once,
)
