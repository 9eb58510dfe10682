"""The store contract: reads of one conversation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import anyio
import anyio.lowlevel

from ..events import NewEvent
from ..log import Query, Store
from .contract_kit import Place, agree, created, item, started

__all__ = ("READING",)


async def what_is_not_there_is_none(place: Place) -> None:
    """Reading no conversation returns None, with and without queries; an empty store lists nothing."""
    async with place.open() as store:
        assert await store.read("c") is None
        assert await store.read("c", Query(), Query(mark="m")) is None
        assert await store.heads() == []
        await started(store, "d")
        assert await store.read("c", Query()) is None


async def a_read_without_queries_is_the_head(place: Place) -> None:
    """Without a query the answer is the head and no events."""
    async with place.open() as store:
        await started(store, "c", "one")
        snapshot = await store.read("c")
        assert snapshot is not None
        assert (snapshot.head.version, list(snapshot.records)) == (2, [])


async def _ten(store: Store) -> Sequence[NewEvent]:
    """Append events with marks, links and tokens, in two conversations."""
    events = [created()]
    for seq in range(2, 11):
        marks = tuple(mark for mark, every in (("two", 2), ("three", 3)) if seq % every == 0)
        excerpt = 1 if seq % 4 == 0 else None
        events.append(item(str(seq), marks=marks, link="odd" if seq % 2 else None, tokens=seq, excerpt=excerpt))
    for name in ("other", "c"):
        for event in events:
            await store.append(name, [event])
    return events


async def a_query_cuts_by_seq_both_ways(place: Place) -> None:
    """`after` and `before` exclude themselves, `reverse` begins at the end, `limit` counts from where it begins."""
    async with place.open() as store:
        events = await _ten(store)
        for after, before in product((0, 1, 4, 9, 10, 50), (None, 0, 1, 2, 5, 10, 11, 50)):
            queries = [
                Query(after=after, before=before, limit=limit, reverse=reverse)
                for limit, reverse in product((None, 0, 1, 3, 50), (False, True))
            ]
            await agree(store, "c", events, queries)


async def a_query_finds_marks(place: Place) -> None:
    """`mark` finds only events with that mark, in seq order, cut like any other query."""
    async with place.open() as store:
        events = await _ten(store)
        values = product(("two", "three", "none"), (0, 2, 6), (None, 6, 10), (None, 1, 2), (False, True))
        queries = [
            Query(mark=mark, after=after, before=before, limit=limit, reverse=reverse)
            for mark, after, before, limit, reverse in values
        ]
        await agree(store, "c", events, queries)


async def a_mark_counts_once(place: Place) -> None:
    """An event that brings a mark twice is found once."""
    async with place.open() as store:
        await started(store)
        await store.append("c", [item("x", marks=("m", "n", "m"))])
        snapshot = await store.read("c", Query(mark="m"), Query(mark="n"))
        assert snapshot is not None
        assert [[record.seq for record in found] for found in snapshot.records] == [[2], [2]]


async def a_query_finds_links(place: Place) -> None:
    """`link` finds only events with that link, in seq order, cut like any other query."""
    async with place.open() as store:
        events = await _ten(store)
        values = product(("odd", "even", ""), (0, 3, 6), (None, 7, 10), (None, 1, 2), (False, True))
        queries = [
            Query(link=link, after=after, before=before, limit=limit, reverse=reverse)
            for link, after, before, limit, reverse in values
        ]
        await agree(store, "c", events, queries)


async def a_query_stops_at_tokens(place: Place) -> None:
    """`tokens` stops behind the event that reaches them; where an event has an excerpt, that counts."""
    async with place.open() as store:
        events = await _ten(store)
        queries = [
            Query(tokens=tokens, reverse=reverse, limit=limit, after=after)
            for tokens, reverse, limit, after in product(
                (0, 1, 2, 9, 10, 11, 19, 20, 1000), (False, True), (None, 3), (0, 4)
            )
        ]
        queries += [Query(tokens=9, mark="two", reverse=reverse) for reverse in (False, True)]
        await agree(store, "c", events, queries)


async def a_read_is_of_one_moment(place: Place) -> None:
    """The head and the events of all queries of one read fit together, whatever is appended meanwhile."""
    async with place.open() as store:
        await started(store)
        done = False

        async def writing() -> None:
            while not done:
                await store.append("c", [item("a", marks=("m",), link="l"), item("b", marks=("m",), link="l")])
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(writing)
            version = 0
            while version < 60:
                snapshot = await store.read(
                    "c", Query(), Query(reverse=True, limit=1), Query(mark="m"), Query(link="l", reverse=True)
                )
                assert snapshot is not None
                everything, last, marked, linked = snapshot.records
                assert snapshot.head.version >= version
                version = snapshot.head.version
                assert [record.seq for record in everything] == list(range(1, version + 1))
                assert last[0].seq == version
                assert len(marked) == len(linked) == snapshot.head.items == version - 1
                await anyio.lowlevel.checkpoint()
            done = True


READING = (
    what_is_not_there_is_none,
    a_read_without_queries_is_the_head,
    a_query_cuts_by_seq_both_ways,
    a_query_finds_marks,
    a_mark_counts_once,
    a_query_finds_links,
    a_query_stops_at_tokens,
    a_read_is_of_one_moment,
)
