"""The store contract: reads of one conversation, and lists of all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import anyio
import anyio.lowlevel

from ..errors import Invalid
from ..events import Record
from ..log import Head, Query, Store
from .contract_kit import BEGUN, Place, fails, head_of, item, other, records_of, started

__all__ = ("READING",)

ORDERS = ("-updated", "-created", "created")


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


async def _ten(store: Store) -> Sequence[Record]:
    """Append events with marks, links and tokens, in two conversations."""
    for name in ("other", "c"):
        await started(store, name)
        for seq in range(2, 11):
            marks = tuple(mark for mark, every in (("two", 2), ("three", 3)) if seq % every == 0)
            excerpt = 1 if seq % 4 == 0 else None
            await store.append(
                name, [item(str(seq), marks=marks, link="odd" if seq % 2 else None, tokens=seq, excerpt=excerpt)]
            )
    return await records_of(store)


def _matches(record: Record, query: Query) -> bool:
    by_mark = {"two": 2, "three": 3}
    return (
        record.seq > query.after
        and (query.before is None or record.seq < query.before)
        and (query.mark is None or (record.seq > 1 and record.seq % by_mark.get(query.mark, 99) == 0))
        and (query.link is None or record.link == query.link)
    )


def _expected(records: Sequence[Record], query: Query) -> list[int]:
    """Return the seqs that a query finds, by the words of its definition."""
    found = [record for record in records if _matches(record, query)]
    seqs: list[int] = []
    tokens = 0
    for record in reversed(found) if query.reverse else found:
        if query.limit is not None and len(seqs) == query.limit:
            break
        seqs.append(record.seq)
        tokens += record.tokens if record.excerpt is None else record.excerpt
        if query.tokens is not None and tokens >= query.tokens:
            break
    return seqs


async def _agree(store: Store, records: Sequence[Record], queries: Sequence[Query]) -> None:
    snapshot = await store.read("c", *queries)
    assert snapshot is not None
    assert len(snapshot.records) == len(queries)
    for query, found in zip(queries, snapshot.records, strict=True):
        assert [record.seq for record in found] == _expected(records, query), query
        assert all(record == records[record.seq - 1] for record in found)


async def a_query_cuts_by_seq_both_ways(place: Place) -> None:
    """`after` and `before` exclude themselves, `reverse` begins at the end, `limit` counts from where it begins."""
    async with place.open() as store:
        records = await _ten(store)
        for after, before in product((0, 1, 4, 9, 10, 50), (None, 0, 1, 2, 5, 10, 11, 50)):
            queries = [
                Query(after=after, before=before, limit=limit, reverse=reverse)
                for limit, reverse in product((None, 0, 1, 3, 50), (False, True))
            ]
            await _agree(store, records, queries)


async def a_query_finds_marks(place: Place) -> None:
    """`mark` finds only events with that mark, in seq order, cut like any other query."""
    async with place.open() as store:
        records = await _ten(store)
        values = product(("two", "three", "none"), (0, 2, 6), (None, 6, 10), (None, 1, 2), (False, True))
        queries = [
            Query(mark=mark, after=after, before=before, limit=limit, reverse=reverse)
            for mark, after, before, limit, reverse in values
        ]
        await _agree(store, records, queries)


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
        records = await _ten(store)
        values = product(("odd", "even", ""), (0, 3, 6), (None, 7, 10), (None, 1, 2), (False, True))
        queries = [
            Query(link=link, after=after, before=before, limit=limit, reverse=reverse)
            for link, after, before, limit, reverse in values
        ]
        await _agree(store, records, queries)


async def a_query_stops_at_tokens(place: Place) -> None:
    """`tokens` stops behind the event that reaches them; where an event has an excerpt, that counts."""
    async with place.open() as store:
        records = await _ten(store)
        queries = [
            Query(tokens=tokens, reverse=reverse, limit=limit, after=after)
            for tokens, reverse, limit, after in product(
                (0, 1, 2, 9, 10, 11, 19, 20, 1000), (False, True), (None, 3), (0, 4)
            )
        ]
        queries += [Query(tokens=9, mark="two", reverse=reverse) for reverse in (False, True)]
        await _agree(store, records, queries)


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


async def _listed(store: Store, order: str, limit: int) -> list[Head]:
    """Return all heads, page by page."""
    found: list[Head] = []
    after: tuple[int, str] | None = None
    while True:
        page = await store.heads(order=order, limit=limit, after=after)
        assert len(page) <= limit
        if not page:
            return found
        found += page
        after = (getattr(page[-1], order.lstrip("-")), page[-1].conversation)


def _sorted(heads: Sequence[Head], order: str) -> list[str]:
    """Return ids in an order, by the words of its definition."""
    keys = sorted((getattr(head, order.lstrip("-")), head.conversation) for head in heads)
    return [name for _, name in (reversed(keys) if order.startswith("-") else keys)]


async def heads_are_in_order(place: Place) -> None:
    """Heads come by time, those of one time by id, and page by page each comes once."""
    async with place.open() as store:
        times = [5, 3, 3, 9, 3, -4, 7, 5, 5, 0]
        for number, time in enumerate(times):
            name = f"{'xXa9_-.:bZ'[number]}{number}"
            await store.append(name, [other("conversation.created", {}, time=BEGUN + time), item("a", time=-time)])
        heads = [await head_of(store, head.conversation) for head in await store.heads(limit=100)]
        assert len(heads) == len(times)
        assert [head.conversation for head in await store.heads()] == _sorted(heads, "-updated")
        for order in ORDERS:
            assert [head.conversation for head in await store.heads(order=order, limit=100)] == _sorted(heads, order)
            for limit in (1, 3, 10):
                listed = await _listed(store, order, limit)
                assert [head.conversation for head in listed] == _sorted(heads, order)
                assert all(head in heads for head in listed)


async def a_list_goes_on_behind_its_place(place: Place) -> None:
    """What is created or updated while somebody pages neither repeats nor hides another conversation."""
    async with place.open() as store:
        for number in range(6):
            await store.append(f"c{number}", [other("conversation.created", {}, time=BEGUN + number)])
        page = await store.heads(order="-created", limit=3)
        assert [head.conversation for head in page] == ["c5", "c4", "c3"]
        await store.append("new", [other("conversation.created", {}, time=BEGUN + 100)])
        await store.append("c1", [item("later")])
        rest = await store.heads(order="-created", limit=10, after=(page[-1].created, page[-1].conversation))
        assert [head.conversation for head in rest] == ["c2", "c1", "c0"]
        assert [head.conversation for head in await store.heads(order="-updated", limit=1)] == ["c1"]


async def an_unknown_order_is_invalid(place: Place) -> None:
    """An order that is none of the three raises Invalid and names it."""
    async with place.open() as store:
        for order in ("updated", "+created", "", "--created", "id", "-metadata"):
            error = await fails(Invalid, store.heads(order=order))
            assert repr(order) in str(error)


READING = (
    what_is_not_there_is_none,
    a_read_without_queries_is_the_head,
    a_query_cuts_by_seq_both_ways,
    a_query_finds_marks,
    a_mark_counts_once,
    a_query_finds_links,
    a_query_stops_at_tokens,
    a_read_is_of_one_moment,
    heads_are_in_order,
    a_list_goes_on_behind_its_place,
    an_unknown_order_is_invalid,
)
