"""The store contract: erasure, and the bodies that events refer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from ..canonical import loads
from ..codec import event
from ..erasing import erasing
from ..errors import NotFound, TurnlogError, VersionConflict
from ..events import ItemErased, Record, checksum
from ..log import Append, Erasure, Key, Query
from .contract_kit import (
    Declined,
    Place,
    body,
    created,
    fails,
    forked,
    head_of,
    item,
    patched,
    records_of,
    started,
    texts_of,
    together,
    tombstone,
)

__all__ = ("ERASING",)

ONE, TWO, THREE = body("one body"), body("two bodies"), body("three bodies")
LEFT: Final = b'{"erased":true}'


def _erasure(name: str, *seqs: int, expected: int | None = None) -> Append:
    """Return an append that erases events."""
    return Append(
        conversation=name,
        events=[event(ItemErased(seq=seq, reason="a check")) for seq in seqs],
        expected="any" if expected is None else expected,
        erasures=[Erasure(seq=seq, item=LEFT, data=None, flags=128, sum=checksum(LEFT, None)) for seq in seqs],
    )


def _erased(record: Record) -> Record:
    """Return what is left of a record."""
    return replace(record, item=LEFT, data=None, flags=128, sum=checksum(LEFT, None), tokens=0, excerpt=None)


async def an_erasure_overwrites_an_event(place: Place) -> None:
    """Content, flags, checksum and tokens are overwritten; seq, position, time, kind and pairing stay; it is logged."""
    async with place.open() as store:
        events = [created(), item("secret", marks=("m",), link="l", tokens=9, excerpt=2, flags=5, time=11), item("b")]
        await store.append("c", events)
        before = await records_of(store)
        head = await head_of(store)
        result = await store.erase([_erasure("c", 2)])

        assert (dict(result.versions), result.bodies) == ({"c": 4}, 0)
        assert all(isinstance(words, str) for words in result.left)
        after = await records_of(store)
        assert list(after[:3]) == [before[0], _erased(before[1]), before[2]]
        assert after[3].kind == "item.erased"
        assert await head_of(store) == replace(head, version=4)
        snapshot = await store.read("c", Query(mark="m"), Query(link="l"), Query(after=1, tokens=1))
        assert snapshot is not None
        assert [[record.seq for record in found] for found in snapshot.records] == [[2], [2], [2, 3]]
        assert snapshot.records[0][0] == after[1]


async def an_erasure_may_leave_nothing(place: Place) -> None:
    """An event that is not an item is erased like one, and item and data may both be gone; twice is as good as once."""
    async with place.open() as store:
        await started(store, "c", "one")
        await store.append("c", [patched(a="secret"), item("three")])
        for version in (5, 6):
            append = Append(
                conversation="c",
                events=[event(ItemErased(seq=seq, reason="a check")) for seq in (3,)],
                erasures=[Erasure(seq=3), Erasure(seq=2)],
            )
            assert (await store.erase([append])).versions == {"c": version}
            one, two = (await records_of(store))[1:3]
            assert (one.item, one.data, one.flags, one.sum, one.tokens) == (None, None, 0, 0, 0)
            assert (two.item, two.data, two.kind) == (None, None, "metadata.updated")
        assert await texts_of(store) == ["three"]


async def an_erasure_reaches_all_that_share(place: Place) -> None:
    """A shared event that is erased in one conversation is erased for its parent and its forks, at any depth."""
    async with place.open() as store:
        await started(store, "c", "one", "two", "three")
        await forked(store, "d", "c", 3, "four")
        await forked(store, "e", "d", 5, "five")
        before = {name: await records_of(store, name) for name in "cde"}
        result = await store.erase([_erasure("d", 2, 5), _erasure("c"), _erasure("e")])
        assert result.versions == {"c": 4, "d": 7, "e": 7}
        for name, seqs in (("c", {2}), ("d", {2, 5}), ("e", {2, 5})):
            after = await records_of(store, name)
            expected = [_erased(record) if record.seq in seqs else record for record in before[name]]
            assert list(after[: len(expected)]) == expected
        assert [record.kind for record in (await records_of(store, "d"))[5:]] == ["item.erased"] * 2

        # From above, and through the fork alone.
        await store.erase([_erasure("c", 3)])
        await store.delete("c", tombstone(), forks="keep")
        await store.erase([_erasure("e", 1, expected=7)])
        for name in "de":
            assert [record.item for record in (await records_of(store, name))[:3]] == [LEFT] * 3


async def several_erasures_are_all_or_none(place: Place) -> None:
    """When one append of an erasure is refused, nothing of the others is written or overwritten."""
    async with place.open() as store:
        for name in "cd":
            await store.append(name, [created(), item("one", refs=(ONE[0],)), item("two")], bodies=dict([ONE]))
        await started(store, "gone")
        await store.delete("gone", tombstone(), forks="refuse")
        before = [await store.read(name, Query()) for name in "cd"]
        good = _erasure("c", 2)
        refused: list[tuple[type[TurnlogError], Sequence[Append]]] = [
            (VersionConflict, [good, _erasure("d", 2, expected=2)]),
            (VersionConflict, [_erasure("d", 2, expected=4), good]),
            (VersionConflict, [_erasure("c", 2, expected=3), _erasure("c", 3, expected=3)]),
            (NotFound, [good, _erasure("nowhere", 1)]),
            (NotFound, [good, _erasure("gone", 1)]),
            (NotFound, [good, _erasure("d", 4)]),
            (NotFound, [good, _erasure("d", 2, 100)]),
            (NotFound, [_erasure("c", 2, 0)]),
        ]
        for kind, appends in refused:
            await fails(kind, store.erase(appends))
            assert [await store.read(name, Query()) for name in "cd"] == before
            assert await store.body(ONE[0]) == ONE[1]
        done = await store.erase([_erasure("c", 2, expected=3), _erasure("d", 2, expected=3)])
        assert (done.versions, done.bodies) == ({"c": 4, "d": 4}, 1)


async def metadata_is_erased_and_found_by_no_more(place: Place) -> None:
    """Of metadata nothing is left: in the events that said it, among what is current, and in what it is found by."""
    async with place.open() as store:
        await store.append("c", [created({"user": "ada", "more": {"mail": "a@x"}}), patched(mail="b@x"), item("one")])
        await store.append("c", [patched(mail="c@x", plan="free")])
        await forked(store, "d", "c", 3, "two")
        for versions in ({"c": 9, "d": 7}, {"c": 12, "d": 9}):
            appends = await erasing(store, "c", [1, 2, 4], "a check")
            assert (await store.erase(appends)).versions == versions
            records = await records_of(store)
            assert [loads(records[place].data or b"{}") for place in (0, 1, 3)] == [{}, {"patch": {}}, {"patch": {}}]
            assert loads((await head_of(store)).metadata) == {"more": {}}
            for where in ({"user": "ada"}, {"mail": "c@x"}, {"plan": "free"}):
                assert list(await store.heads(where=where)) == []
        shared = [record.data for record in (await records_of(store, "d"))[:2]]
        assert shared == [record.data for record in records[:2]]


async def erasures_and_appends_take_turns(place: Place) -> None:
    """Appends at the same time are before or behind an erasure; no seq is lost, and what was erased stays so."""
    async with place.open() as store:
        await started(store, "c", *(f"old {number}" for number in range(20)))
        erasures = [_erasure("c", seq) for seq in range(2, 22)]
        results = await together(
            *(lambda append=append: store.erase([append]) for append in erasures),
            *(lambda number=number: store.append("c", [item(f"new {number}")]) for number in range(20)),
        )
        assert not [result for result in results if isinstance(result, Exception)]
        records = await records_of(store)
        assert len(records) == 61
        assert [record.item for record in records[1:21]] == [LEFT] * 20
        assert sum(record.kind == "item.erased" for record in records) == 20


async def erased_content_stays_erased(place: Place) -> None:
    """What was erased or deleted is so when the log is opened again."""
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        await store.append("c", [created(), item("one", refs=(ONE[0],)), item("two")], bodies=dict([ONE]))
        await forked(store, "d", "c", 3, "three")
        await store.erase([_erasure("c", 2)])
        await store.delete("c", tombstone(), forks="keep")
        before = [await store.read(name, Query()) for name in "cd"]
    async with place.open() as store:
        assert [await store.read(name, Query()) for name in "cd"] == before
        assert await store.body(ONE[0]) is None
        await fails(NotFound, store.append("c", [item("x")]))
        assert [head.conversation for head in await store.heads()] == ["d"]


# -- bodies


async def bodies_go_with_the_last_event_that_refers_to_them(place: Place) -> None:
    """An erased event lets its bodies go; one that others refer to stays, and goes with the last of those."""
    async with place.open() as store:
        await store.append(
            "c",
            [created(), item("a", refs=(ONE[0], TWO[0])), item("b", refs=(TWO[0],)), item("c", refs=(THREE[0],))],
            bodies=dict([ONE, TWO, THREE]),
        )
        assert (await store.erase([_erasure("c", 2)])).bodies == 1
        assert [await store.body(one[0]) for one in (ONE, TWO, THREE)] == [None, TWO[1], THREE[1]]
        assert (await store.erase([_erasure("c", 2)])).bodies == 0
        await started(store, "d")
        await store.append("d", [item("x", refs=(THREE[0],))])
        assert (await store.erase([_erasure("c", 3, 4)])).bodies == 1
        assert [await store.body(one[0]) for one in (ONE, TWO, THREE)] == [None, None, THREE[1]]
        assert (await store.erase([_erasure("d", 2)])).bodies == 1
        assert await store.body(THREE[0]) is None


async def bodies_of_the_conversation_stay(place: Place) -> None:
    """What no event of an append refers to belongs to the conversation, and outlives all erasures."""
    async with place.open() as store:
        await store.append("c", [created(), item("a", refs=(TWO[0],))], bodies=dict([ONE, TWO]))
        await store.append("c", [item("b", refs=(ONE[0],))], bodies=dict([ONE]))
        assert (await store.erase([_erasure("c", 2, 3)])).bodies == 1
        assert [await store.body(one[0]) for one in (ONE, TWO)] == [ONE[1], None]


async def a_body_that_went_may_come_back(place: Place) -> None:
    """A body is there again once somebody brings it again."""
    async with place.open() as store:
        await started(store)
        for seq in (2, 4):
            await store.append("c", [item("a", refs=(ONE[0],))], bodies=dict([ONE]))
            assert await store.body(ONE[0]) == ONE[1]
            assert (await store.erase([_erasure("c", seq)])).bodies == 1
            assert await store.body(ONE[0]) is None


async def shared_bodies_stay_with_the_forks(place: Place) -> None:
    """What shared events and the conversation refer to stays for the forks, and goes with the last of them."""
    async with place.open() as store:
        await store.append("c", [created(), item("a", refs=(ONE[0],))], bodies=dict([ONE, THREE]))
        await store.append("c", [item("b", refs=(TWO[0],))], bodies=dict([TWO]))
        await forked(store, "d", "c", 2, "own")
        await forked(store, "e", "d", 2, "own")
        assert (await store.delete("c", tombstone(), forks="keep")).bodies == 1
        assert [await store.body(one[0]) for one in (ONE, TWO, THREE)] == [ONE[1], None, THREE[1]]
        assert (await store.delete("d", tombstone(), forks="keep")).bodies == 0
        assert [await store.body(one[0]) for one in (ONE, THREE)] == [ONE[1], THREE[1]]
        assert (await store.delete("e", tombstone(), forks="keep")).bodies == 2
        assert [await store.body(one[0]) for one in (ONE, THREE)] == [None, None]


async def collecting_leaves_what_is_referred_to(place: Place) -> None:
    """Collecting removes no body that an event or a conversation refers to, nor one that was just brought."""
    async with place.open() as store:
        await store.append("c", [created(), item("a", refs=(ONE[0],))], bodies=dict([ONE, TWO]))
        await forked(store, "d", "c", 2, "own")
        await store.append("d", [item("b", refs=(THREE[0],))], bodies=dict([THREE]), key=Key("k", "d"))
        await store.delete("c", tombstone(), forks="keep")
        for seconds in (3600.0, 0.0, 0.0):
            assert await store.collect(seconds) == 0
        assert [await store.body(one[0]) for one in (ONE, TWO, THREE)] == [ONE[1], TWO[1], THREE[1]]
        await store.delete("d", tombstone(), forks="refuse")
        await store.collect(0.0)
        assert [await store.body(one[0]) for one in (ONE, TWO, THREE)] == [None, None, None]


ERASING = (
    an_erasure_overwrites_an_event,
    an_erasure_may_leave_nothing,
    an_erasure_reaches_all_that_share,
    several_erasures_are_all_or_none,
    metadata_is_erased_and_found_by_no_more,
    erasures_and_appends_take_turns,
    erased_content_stays_erased,
    bodies_go_with_the_last_event_that_refers_to_them,
    bodies_of_the_conversation_stay,
    a_body_that_went_may_come_back,
    shared_bodies_stay_with_the_forks,
    collecting_leaves_what_is_referred_to,
)
