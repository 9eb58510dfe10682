"""The store contract: the feed of all events, and those who read it under a name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel

from ..codec import event
from ..errors import Invalid
from ..events import ItemErased
from ..ids import Position
from ..log import Append, Erasure, Fed, Fork, Store
from .contract_kit import (
    LONG,
    Declined,
    Place,
    created,
    fails,
    forked,
    item,
    other,
    patched,
    records_of,
    started,
    together,
    tombstone,
)

__all__ = ("FEEDING", "all_of", "follows")

PATIENCE: Final = 60.0
"""Seconds within which what was appended must be in the feed."""


async def all_of(store: Store, after: Position | None = None, limit: int = 50) -> list[Fed]:
    """Return the feed behind a position, page by page."""
    found: list[Fed] = []
    while True:
        page = await store.feed(after, limit)
        assert len(page) <= limit
        if not page:
            return found
        found += page
        after = page[-1].record.position


def _places(fed: Sequence[Fed]) -> list[tuple[str, int]]:
    return [(one.record.conversation, one.record.seq) for one in fed]


def follows(fed: Sequence[Fed]) -> None:
    """See to it that no event comes twice, and those of each conversation in seq order without a gap."""
    seen: dict[str, int] = {}
    for name, seq in _places(fed):
        assert seq == seen.get(name, seq - 1) + 1, f"{name}/{seq} came behind {name}/{seen.get(name)}"
        seen[name] = seq


async def the_feed_gives_every_event_once(place: Place) -> None:
    """Each event of the store comes once, as it is read, a conversation's in seq order; from any place on, by pages."""
    async with place.open() as store:
        assert list(await store.feed(None, 10)) == []
        names = ["c", "d", "e"]
        for name in names:
            await store.append(name, [created(), item(name, marks=("m",), link="l", tokens=9, excerpt=2, flags=5)])
        for number in range(20):
            await store.append(names[number % 3], [item(str(number)), other("weather.changed", {"to": number})])
        whole = await all_of(store, limit=1000)
        follows(whole)
        assert Counter(one.record.conversation for one in whole) == {"c": 16, "d": 16, "e": 14}
        for name in names:
            assert [one.record for one in whole if one.record.conversation == name] == list(
                await records_of(store, name)
            )
        for limit in (1, 2, 7, 46):
            assert await all_of(store, limit=limit) == whole
        for number, one in enumerate(whole):
            assert await all_of(store, one.record.position) == whole[number + 1 :]


async def the_feed_gives_at_most_its_limit(place: Place) -> None:
    """A page has at most so many events, and when more are there, at least one."""
    async with place.open() as store:
        await started(store, "c", *map(str, range(9)))
        for limit in (1, 3, 10, 11):
            assert 0 < len(await store.feed(None, limit)) <= limit
        assert list(await store.feed(None, 0)) == []


async def the_feed_goes_on(place: Place) -> None:
    """Whoever has read to the end gets what is appended afterwards, and only that."""
    async with place.open() as store:
        assert await store.end() is None
        await started(store, "c", "one")
        end = await store.end()
        assert end is not None
        assert isinstance(end, str)
        assert list(await store.feed(end, 10)) == []
        assert (await all_of(store))[-1].record.position == end
        await started(store, "d", "two")
        await store.append("c", [item("three")])
        assert _places(await all_of(store, end)) == [("d", 1), ("d", 2), ("c", 3)]
        assert await store.end() == (await all_of(store))[-1].record.position


async def the_feed_tells_the_metadata_of_now(place: Place) -> None:
    """With each event comes its conversation's metadata as it is by then, also with events before its last change."""
    async with place.open() as store:
        await store.append("c", [created({"a": 1}), item("one")])
        await store.append("d", [created({"b": 1})])
        assert [one.metadata for one in await all_of(store)] == [b'{"a":1}', b'{"a":1}', b'{"b":1}']
        await store.append("c", [patched(a=2)])
        assert [one.metadata for one in await all_of(store)] == [b'{"a":2}', b'{"a":2}', b'{"b":1}', b'{"a":2}']


async def the_feed_gives_forks_their_own_events(place: Place) -> None:
    """What a fork shares came with its parent; the fork's own events come under its name, from its first seq on."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        await forked(store, "d", "c", 2, "three")
        await store.append("e", [created(), item("four")], fork=Fork("d", 4))
        await store.append("c", [item("five")])
        fed = await all_of(store)
        follows(fed)
        assert _places(fed) == [("c", 1), ("c", 2), ("c", 3), ("d", 3), ("d", 4), ("e", 5), ("e", 6), ("c", 4)]


async def the_feed_tells_of_erasures(place: Place) -> None:
    """What was erased comes without its content, in its place; that it was erased comes at the end."""
    async with place.open() as store:
        await started(store, "c", "secret", "two")
        before = await all_of(store)
        end = await store.end()
        said = event(ItemErased(seq=2, reason="a check"))
        await store.erase([Append(conversation="c", events=[said], erasures=[Erasure(seq=2, item=b"{}", flags=128)])])
        fed = await all_of(store)
        assert [one.record.position for one in fed[:3]] == [one.record.position for one in before]
        assert (fed[1].record.item, fed[1].record.data, fed[1].record.flags) == (b"{}", None, 128)
        assert [one.record.kind for one in await store.feed(end, 10)] == ["item.erased"]


async def the_feed_tells_of_deletions(place: Place) -> None:
    """Of a deleted conversation only the tombstone comes, at the end, also when forks share its events."""
    async with place.open() as store:
        for name in ("c", "d"):
            await store.append(name, [created({"a": 1}), item("one"), item("two")])
        await forked(store, "e", "d", 2)
        middle = (await all_of(store))[3].record.position
        end = await store.end()
        for name in ("c", "d"):
            await store.delete(name, tombstone(), forks="keep")
        fed = await all_of(store)
        assert _places(fed) == [("e", 3), ("c", 4), ("d", 4)]
        assert [(one.record.kind, one.metadata) for one in fed[1:]] == [("conversation.deleted", b"{}")] * 2
        assert await all_of(store, middle) == fed
        assert await all_of(store, end) == fed[1:]
        assert await store.end() == fed[-1].record.position
        await store.delete("e", tombstone(), forks="refuse")
        assert _places(await all_of(store)) == [("c", 4), ("d", 4), ("e", 4)]
        assert _places(await all_of(store, end)) == [("c", 4), ("d", 4), ("e", 4)]


async def _followed(store: Store, total: int, limit: int) -> list[Fed]:
    """Follow the feed from the beginning until so many events were seen."""
    found: list[Fed] = []
    with anyio.fail_after(PATIENCE):
        while len(found) < total:
            page = await store.feed(found[-1].record.position if found else None, limit)
            found += page
            if not page:
                await anyio.lowlevel.checkpoint()
    return found


async def followers_miss_nothing_while_others_append(place: Place) -> None:
    """Whoever follows while many append sees every event once, and ends with what a late reader finds."""
    async with place.open() as store:
        await _watched(store, [store])


async def followers_of_other_openings_miss_nothing(place: Place) -> None:
    """Events that are appended through several openings come to the followers of another once, without a gap."""
    async with place.open() as one:
        if not one.shared:
            raise Declined("shared")
        async with place.open() as two, place.open() as three, place.open() as four:
            await _watched(four, [one, two, three])


async def _watched(store: Store, writers: Sequence[Store]) -> None:
    rounds, tasks = 12, 4
    names = [f"c{number}" for number in range(6)]
    for name in names:
        await started(store, name)
    seen: list[list[Fed]] = []

    async def write(number: int) -> None:
        for round_ in range(rounds):
            name = names[(number * 7 + round_) % len(names)]
            texts = [item(f"{number}.{round_}.{part}") for part in range(1 + round_ % 3)]
            await writers[number % len(writers)].append(name, texts)

    async def follow(limit: int) -> None:
        seen.append(await _followed(store, total, limit))

    total = len(names) + tasks * len(writers) * sum(1 + round_ % 3 for round_ in range(rounds))
    async with anyio.create_task_group() as group:
        for limit in (1, 10, 1000):
            group.start_soon(follow, limit)
        for number in range(tasks * len(writers)):
            group.start_soon(write, number)
    whole = await all_of(store)
    follows(whole)
    assert len(whole) == total
    assert all(fed == whole for fed in seen)


# -- named readers


async def a_reader_stands_where_it_acknowledged(place: Place) -> None:
    """A name begins nowhere; afterwards it stands at what was acknowledged last, whoever reads under it."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        positions = [one.record.position for one in await all_of(store)]
        for name in ("search", "mail"):
            standing = await store.stand(name, "one", LONG)
            assert standing is not None
            assert standing.position is None
        for position in positions[:2]:
            assert await store.ack("search", "one", position)
            standing = await store.stand("search", "one", LONG)
            assert standing is not None
            assert standing.position == position
        standing = await store.stand("mail", "one", LONG)
        assert standing is not None
        assert standing.position is None
        assert _places(await all_of(store, positions[1])) == [("c", 3)]


async def one_reads_under_a_name(place: Place) -> None:
    """While one reads under a name, others get None; under another name they read."""
    async with place.open() as store:
        await started(store)
        assert await store.stand("search", "one", LONG) is not None
        assert await store.stand("search", "two", LONG) is None
        assert await store.stand("search", "one", LONG) is not None
        assert await store.stand("mail", "two", LONG) is not None
        results = await together(*(partial(store.stand, "new", str(number), LONG) for number in range(20)))
        assert sum(result is not None for result in results) == 1


async def a_reader_that_shows_no_life_is_replaced(place: Place) -> None:
    """Once its time is over, another takes a reader's place, and goes on where it stood."""
    async with place.open() as store:
        await started(store, "c", "one")
        positions = [one.record.position for one in await all_of(store)]
        await store.stand("search", "one", LONG)
        await store.ack("search", "one", positions[0])
        await store.stand("search", "one", 0.03)
        standing = None
        with anyio.fail_after(PATIENCE):
            while standing is None:
                await anyio.sleep(0.01)
                standing = await store.stand("search", "two", LONG)
        assert standing.position == positions[0]
        assert await store.stand("search", "one", LONG) is None


async def a_former_reader_acknowledges_nothing(place: Place) -> None:
    """An ack of who was replaced, or never read under that name, is refused and moves nothing."""
    async with place.open() as store:
        await started(store, "c", "one")
        first, second = (one.record.position for one in await all_of(store))
        assert not await store.ack("search", "one", first)
        await store.stand("search", "one", LONG)
        assert await store.ack("search", "one", first)
        await store.stand("search", "one", 0.0)
        assert await store.stand("search", "two", LONG) is not None
        for owner in ("one", "three"):
            assert not await store.ack("search", owner, second)
        standing = await store.stand("search", "two", LONG)
        assert standing is not None
        assert standing.position == first
        assert await store.ack("search", "two", second)


async def who_resigns_makes_room_at_once(place: Place) -> None:
    """After `resign` another reads on from the same place; a resignation of who does not read changes nothing."""
    async with place.open() as store:
        await started(store, "c", "one")
        position = await store.end()
        assert position is not None
        await store.stand("search", "one", LONG)
        await store.ack("search", "one", position)
        for owner, name in (("two", "search"), ("one", "mail")):
            await store.resign(name, owner)
            assert await store.stand("search", "two", LONG) is None
        await store.resign("search", "one")
        standing = await store.stand("search", "two", LONG)
        assert standing is not None
        assert standing.position == position
        assert await store.stand("search", "one", LONG) is None


async def readers_places_are_kept(place: Place) -> None:
    """Where a reader stands is there when the log is opened again."""
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        await started(store, "c", "one", "two")
        fed = await all_of(store)
        await store.stand("search", "one", LONG)
        await store.ack("search", "one", fed[1].record.position)
    async with place.open() as store:
        assert await store.stand("search", "two", LONG) is None
        standing = await store.stand("search", "one", LONG)
        assert standing is not None
        assert standing.position == fed[1].record.position
        assert await all_of(store, standing.position) == fed[2:]


async def readers_of_all_openings_are_known(place: Place) -> None:
    """Who reads under a name through one opening of a log is known in the others."""
    async with place.open() as one:
        if not one.shared:
            raise Declined("shared")
        async with place.open() as two:
            await started(one, "c", "one")
            position = await two.end()
            assert position is not None
            await one.stand("search", "one", LONG)
            assert await two.stand("search", "two", LONG) is None
            await one.ack("search", "one", position)
            await one.resign("search", "one")
            standing = await two.stand("search", "two", LONG)
            assert standing is not None
            assert standing.position == position
            assert not await one.ack("search", "one", position)


async def what_is_no_position_is_refused(place: Place) -> None:
    """What the feed cannot have given, beyond its end too, is Invalid to `feed` and `ack`, and moves nothing."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        fed = await all_of(store)
        last = fed[-1].record.position
        assert await store.feed(last, 5) == []
        await store.stand("search", "one", LONG)
        assert await store.ack("search", "one", last)
        beyond = [Position(re.sub("[0-9]+", str(10**number), last, count=1)) for number in (9, 12, 17)]
        odd: list[Any] = ["", "x", "-1", "1e3", "9" * 30, "9" * 30 + ".1", 5, True, 1.5, b"1", [last], fed[0]]
        for position in (*odd, *beyond):
            for ask in (partial(store.feed, position, 5), partial(store.ack, "search", "one", position)):
                error = await fails(Invalid, ask())
                assert f"position {position!r:.100}: " in str(error)
                assert "use one that its feed gave, such as batch[-1].position" in str(error)
        await fails(Invalid, store.ack("search", "one", None))  # type: ignore[arg-type]
        standing = await store.stand("search", "one", LONG)
        assert standing is not None
        assert standing.position == last
        await store.append("c", [item("three")])
        assert _places(await all_of(store, standing.position)) == [("c", 4)]


async def the_place_of_what_was_deleted_stays_one(place: Place) -> None:
    """The position of an event that has gone since is one to read on from, and to acknowledge, at the end too."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        last = (await all_of(store))[-1].record.position
        await store.stand("search", "one", LONG)
        await store.delete("c", tombstone(), forks="refuse")
        assert await store.ack("search", "one", last)
        (left,) = await all_of(store, last)
        assert await store.feed(left.record.position, 5) == []
        assert await store.ack("search", "one", left.record.position)


FEEDING = (
    the_feed_gives_every_event_once,
    the_feed_gives_at_most_its_limit,
    the_feed_goes_on,
    the_feed_tells_the_metadata_of_now,
    the_feed_gives_forks_their_own_events,
    the_feed_tells_of_erasures,
    the_feed_tells_of_deletions,
    followers_miss_nothing_while_others_append,
    followers_of_other_openings_miss_nothing,
    a_reader_stands_where_it_acknowledged,
    one_reads_under_a_name,
    a_reader_that_shows_no_life_is_replaced,
    a_former_reader_acknowledges_nothing,
    what_is_no_position_is_refused,
    the_place_of_what_was_deleted_stays_one,
    who_resigns_makes_room_at_once,
    readers_places_are_kept,
    readers_of_all_openings_are_known,
)
