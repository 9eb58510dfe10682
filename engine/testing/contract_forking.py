"""The store contract: forks, which share their parents' events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import product
from typing import Final

import anyio
import anyio.lowlevel

from ..errors import ConversationBusy, Fenced, Invalid, KeyReused, NotFound, VersionConflict
from ..events import ASIDE, NewEvent
from ..ids import ANY, NO_STREAM
from ..log import Appended, Fork, Key, KeyUse, Query, Release, Store, Take
from .contract_kit import (
    LONG,
    Declined,
    Place,
    agree,
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

__all__ = ("FORKING",)


async def a_fork_begins_behind_what_it_shares(place: Place) -> None:
    """A fork's first seqs are its parent's, its own first one is the next; the result and the head say so."""
    async with place.open() as store:
        await store.append("c", [created({"a": 1}), item("one", time=5), item("two"), patched(b=2), item("three")])
        events = [created({"of": "c"}), item("other", time=7)]
        appended = await store.append("d", events, fork=Fork("c", 4), expected=NO_STREAM)

        assert (appended.first, appended.last, appended.version, appended.replayed) == (5, 6, 6, False)
        head = await head_of(store, "d")
        assert (head.conversation, head.version, head.parent, head.deleted) == ("d", 6, ("c", 4), False)
        assert (head.items, head.last_item, head.metadata) == (3, 6, b'{"of":"c"}')
        assert (head.created, head.updated) == (appended.time, 7)
        assert await texts_of(store, "d") == ["one", "two", "other"]
        assert await texts_of(store, "c") == ["one", "two", "three"]
        assert (await head_of(store, "c")).parent is None


async def shared_events_read_as_the_forks_own(place: Place) -> None:
    """A shared event is the parent's in every column, under the fork's name."""
    async with place.open() as store:
        events = [created(), item("a", marks=("m",), link="l", tokens=9, excerpt=2, flags=5, response=-1, time=11)]
        await store.append("c", events)
        await forked(store, "d", "c", 2)
        for one, shared in zip(await records_of(store, "c"), (await records_of(store, "d"))[:2], strict=True):
            assert (one.conversation, shared.conversation) == ("c", "d")
            names = [name for name in one.__struct_fields__ if name != "conversation"]
            assert [getattr(shared, name) for name in names] == [getattr(one, name) for name in names]


async def the_head_counts_what_is_shared(place: Place) -> None:
    """`items` and `last_item` of a fork count what is before the fork, and nothing behind it, at any depth."""
    async with place.open() as store:
        await store.append("c", [created(), patched(a=1), item("a"), patched(a=2), item("b"), patched(a=3), item("c")])
        for at, items, last_item in ((1, 0, 0), (2, 0, 0), (3, 1, 3), (4, 1, 3), (5, 2, 5), (7, 3, 7)):
            await forked(store, f"d{at}", "c", at)
            head = await head_of(store, f"d{at}")
            assert (head.version, head.items, head.last_item) == (at + 1, items, last_item)
            await store.append(f"d{at}", [patched(b=1), item("own")])
            for further in (at, at + 1, at + 3):
                await forked(store, f"e{at}.{further}", f"d{at}", further)
                nested = await head_of(store, f"e{at}.{further}")
                own = further == at + 3
                assert (nested.items, nested.last_item) == (items + own, further if own else last_item)


async def what_is_beside_the_conversation_is_not_counted(place: Place) -> None:
    """Asides count neither for `items`, `last_item` and `updated`, nor for what a fork begins with."""
    async with place.open() as store:
        events = [item("a", time=5), item("title?", flags=ASIDE, time=6), item("Title", flags=ASIDE, time=7)]
        await store.append("c", [created(), *events])
        await store.append("c", [item(f"aside {number}", flags=ASIDE) for number in range(80)])
        head = await head_of(store, "c")
        assert (head.version, head.items, head.last_item, head.updated) == (84, 1, 2, 5)
        for at in (3, 4, 70, 84):
            await forked(store, f"d{at}", "c", at)
            twin = await head_of(store, f"d{at}")
            assert (twin.items, twin.last_item) == (1, 2)
        assert len(await texts_of(store, "c")) == 83


# -- reading across seams


def _events(name: str, seqs: range) -> list[NewEvent]:
    """Return events with marks, links and tokens that tell whose they are."""
    events: list[NewEvent] = []
    for seq in seqs:
        marks = tuple(mark for mark, every in (("two", 2), ("three", 3), (name, 1)) if seq % every == 0)
        excerpt = 1 if seq % 4 == 0 else None
        link = "odd" if seq % 2 else f"of {name}"
        events.append(item(f"{name} {seq}", marks=marks, link=link, tokens=seq, excerpt=excerpt))
    return events


class _Tree:
    """Conversations that fork off one another, and of which events each consists."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events: dict[str, list[NewEvent]] = {}

    async def plant(self, name: str, last: int) -> None:
        """Create a conversation that ends with seq *last*."""
        self.events[name] = [created(), *_events(name, range(2, last + 1))]
        await self.store.append(name, self.events[name])

    async def fork(self, name: str, parent: str, at: int, last: int) -> None:
        """Create a fork that ends with seq *last*."""
        own = [created(), *_events(name, range(at + 2, last + 1))]
        self.events[name] = [*self.events[parent][:at], *own]
        await self.store.append(name, own, fork=Fork(parent, at))

    async def grow(self, name: str, number: int = 1) -> None:
        """Append to a conversation."""
        last = len(self.events[name])
        own = _events(name, range(last + 1, last + number + 1))
        self.events[name] += own
        await self.store.append(name, own, expected=last)

    async def agrees(self, queries: Sequence[Query]) -> None:
        """See to it that every conversation is what it should be."""
        for name, events in self.events.items():
            await agree(self.store, name, events, queries)


async def _tree(store: Store) -> _Tree:
    """Return forks of forks: behind their parent's own beginning, at it, and before it."""
    tree = _Tree(store)
    await tree.plant("c", 8)
    await tree.fork("d", "c", 6, 10)
    await tree.fork("e", "d", 8, 11)
    await tree.fork("before", "d", 4, 7)
    await tree.fork("at", "e", 6, 8)
    await tree.fork("own", "e", 9, 10)
    await tree.fork("first", "before", 1, 3)
    await tree.fork("bare", "own", 10, 11)
    return tree


SHORT: Final = (Query(), Query(reverse=True), Query(mark="two"), Query(link="odd", reverse=True))


async def a_query_cuts_across_forks_both_ways(place: Place) -> None:
    """`after`, `before`, `limit` and `reverse` know no seam between what is shared and what is own."""
    async with place.open() as store:
        tree = await _tree(store)
        for after, before in product((0, 1, 4, 5, 6, 8, 10, 50), (None, 0, 5, 6, 7, 8, 9, 50)):
            queries = [
                Query(after=after, before=before, limit=limit, reverse=reverse)
                for limit, reverse in product((None, 0, 1, 3, 50), (False, True))
            ]
            await tree.agrees(queries)


async def marks_and_links_are_found_across_forks(place: Place) -> None:
    """Marks and links are found in what is shared and in what is own, cut like any other query."""
    async with place.open() as store:
        tree = await _tree(store)
        words = [("two", None), ("three", None), ("none", None), (None, "odd")]
        words += [(name, None) for name in tree.events] + [(None, f"of {name}") for name in tree.events]
        ranges = product((0, 5, 6), (None, 7, 9), (None, 1, 3), (False, True))
        queries = [
            Query(after=after, before=before, limit=limit, reverse=reverse, mark=mark, link=link)
            for (mark, link), (after, before, limit, reverse) in product(words, ranges)
        ]
        await tree.agrees(queries)


async def tokens_are_counted_across_forks(place: Place) -> None:
    """`tokens` counts on behind a seam."""
    async with place.open() as store:
        tree = await _tree(store)
        queries = [
            Query(tokens=tokens, reverse=reverse, limit=limit, after=after)
            for tokens, reverse, limit, after in product(
                (0, 1, 9, 10, 11, 19, 20, 25, 1000), (False, True), (None, 5), (0, 4)
            )
        ]
        queries += [Query(tokens=9, mark="two", reverse=reverse) for reverse in (False, True)]
        await tree.agrees(queries)


async def forks_nest_at_any_depth(place: Place) -> None:
    """A fork of a fork of a fork is read like the first one; each may fork anywhere in what it has."""
    async with place.open() as store:
        tree = _Tree(store)
        await tree.plant("c0", 4)
        for depth in range(1, 25):
            await tree.fork(f"c{depth}", f"c{depth - 1}", depth + 2, depth + 4)
        for at in (1, 2, 3, 5, 13, 25, 28):
            await tree.fork(f"x{at}", "c24", at, at + 2)
        await tree.agrees(SHORT)


async def forks_and_parents_go_their_own_ways(place: Place) -> None:
    """What is appended to a parent or a fork afterwards shows in no other."""
    async with place.open() as store:
        tree = await _tree(store)
        for number in range(3):
            for name in tree.events:
                await tree.grow(name, 1 + number)
        await tree.agrees([*SHORT, Query(reverse=True, limit=2), Query(after=7)])


async def a_parent_is_forked_while_it_grows(place: Place) -> None:
    """Forks that are made while others append to the parent share what is before the fork, and nothing else."""
    async with place.open() as store:
        await started(store, "c", *(f"c {number}" for number in range(9)))

        async def grow(number: int) -> None:
            await store.append("c", [item(f"later {number}")])

        attempts: list[Callable[[], Awaitable[object]]] = []
        for number in range(20):
            attempts += [
                partial(grow, number),
                partial(forked, store, f"d{number}", "c", 1 + number % 10, f"d{number}"),
            ]
        results = await together(*attempts)
        assert not [result for result in results if isinstance(result, Exception)]
        for number in range(20):
            shared = [f"c {place}" for place in range(number % 10)]
            assert await texts_of(store, f"d{number}") == [*shared, f"d{number}"]
        assert len(await texts_of(store)) == 29


async def forks_are_made_of_what_is_just_being_written(place: Place) -> None:
    """A conversation, its fork and that one's fork, appended at once: each is refused or stands as it should."""
    async with place.open() as store:
        for number in range(10):
            names = [f"{name}{number}" for name in "cdef"]
            c, d, e, f = names
            results = await together(
                partial(started, store, c, "c1", "c2"),
                partial(forked, store, d, c, 2, "d1"),
                partial(store.append, c, [item("c3")]),
                partial(forked, store, e, d, 4, "e1"),
                partial(forked, store, f, c, 4, "f1"),
                partial(store.append, d, [item("d2")]),
            )
            for result in results:
                assert isinstance(result, Appended | NotFound | Invalid), result
            there = [name for name in names if await store.read(name) is not None]
            expected = {
                c: ["c1", "c2", "c3"],
                d: ["c1", "d1", "d2"],
                e: ["c1", "d1", "e1"],
                f: ["c1", "c2", "c3", "f1"],
            }
            for name in there:
                assert await texts_of(store, name) == expected[name][: len(await texts_of(store, name))]
                head, texts = await head_of(store, name), await texts_of(store, name)
                assert (head.items, head.last_item) == (len(texts), head.version)


# -- what is a fork's own


async def a_fork_has_its_own_version(place: Place) -> None:
    """A fork is appended to at its own version, whatever becomes of its parent's."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        await forked(store, "d", "c", 2)
        await store.append("c", [item("three"), item("four")], expected=3)
        assert (await store.append("d", [item("other")], expected=3)).version == 4
        error = await fails(VersionConflict, store.append("d", [item("x")], expected=5))
        assert (error.conversation, error.expected, error.actual) == ("d", 5, 4)


async def a_fork_has_its_own_keys(place: Place) -> None:
    """A key that the parent has used is free in the fork, and the other way round."""
    async with place.open() as store:
        await started(store)
        await store.append("c", [item("one")], key=Key("k", "c"))
        await forked(store, "d", "c", 2)
        assert await store.key("d", "k") is None
        assert not (await store.append("d", [item("two")], key=Key("k", "d"))).replayed
        assert await store.key("d", "k") == KeyUse("d", 4, 4)
        assert await store.key("c", "k") == KeyUse("c", 2, 2)
        await store.append("d", [item("three")], key=Key("l", "d"))
        assert await store.key("c", "l") is None


async def a_fork_has_its_own_lease(place: Place) -> None:
    """A turn that runs in the parent holds nothing in the fork; leases, fences and generations are each one's own."""
    async with place.open() as store:
        await started(store)
        for _ in range(3):
            await store.append("c", [], lease=Release())
            await store.append("c", [item("turn")], lease=Take(owner="one", seconds=LONG, turn=-1))
        await forked(store, "d", "c", 4)
        head = await head_of(store, "d")
        assert (head.generation, head.lease) == (0, None)
        await fails(Fenced, store.append("d", [item("x")], fence=3))
        taken = await store.append("d", [item("own turn")], lease=Take(owner="two", seconds=LONG, turn=-1))
        assert taken.generation == 1
        await fails(ConversationBusy, store.append("d", [], lease=Take(owner="one", seconds=LONG, turn=2)))
        assert not await store.renew("d", 3, LONG)
        await store.append("c", [item("x")], fence=3, lease=Release())
        lease = (await head_of(store, "d")).lease
        assert lease is not None
        assert (lease.owner, lease.turn) == ("two", 6)
        assert await store.renew("d", 1, 0.0)
        found = await store.forks("c")
        assert found[0].lease is not None
        assert found[0].lease.remaining <= 0


async def a_fork_can_take_its_lease_at_once(place: Place) -> None:
    """The append that makes a fork may take the fork's lease; its numbers are the fork's."""
    async with place.open() as store:
        await started(store, "c", "one")
        take = Take(owner="o", seconds=LONG, turn=-2)
        await store.append("d", [created(), item("a", response=-1)], fork=Fork("c", 2), lease=take)
        lease = (await head_of(store, "d")).lease
        assert lease is not None
        assert lease.turn == 4
        assert (await records_of(store, "d"))[3].response == 3
        assert (await head_of(store, "c")).lease is None


async def a_fork_is_made_once(place: Place) -> None:
    """A fork is made by one of those who want it at once; the same key again returns the first result."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        key = Key("k", "digest")
        make = partial(store.append, "d", [created(), item("x")], fork=Fork("c", 2))
        results = await together(*(partial(make, expected=NO_STREAM, key=key) for _ in range(10)))
        assert sorted(result.replayed for result in results if isinstance(result, Appended)) == [False, *[True] * 9]
        assert {(result.first, result.last) for result in results if isinstance(result, Appended)} == {(3, 4)}
        for expected in (ANY, NO_STREAM, 0):
            error = await fails(VersionConflict, make(expected=expected))
            assert (error.expected, error.actual) == (0, 4)
        await fails(KeyReused, make(key=Key("k", "other")))
        error = await fails(VersionConflict, store.append("e", [created()], fork=Fork("c", 2), expected=2))
        assert (error.expected, error.actual) == (2, 0)
        assert await store.read("e") is None


async def a_fork_needs_a_parent(place: Place) -> None:
    """A parent that is not there, or was deleted, raises NotFound and names it; nothing comes into being."""
    async with place.open() as store:
        await started(store, "gone", "one")
        await store.delete("gone", tombstone(), forks="refuse")
        for parent in ("nowhere", "gone", "d"):
            error = await fails(NotFound, forked(store, "d", parent, 1))
            assert parent in str(error)
        await started(store, "c")
        await fails(NotFound, store.append("d", [item("x")], fork=Fork("c", 1)))
        assert await store.read("d") is None
        assert {head.conversation for head in await store.heads()} == {"c"}


async def a_fork_needs_a_seq_of_its_parent(place: Place) -> None:
    """A seq that the parent does not have raises Invalid and names it; nothing comes into being."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        await forked(store, "d", "c", 2, "three")
        for parent, at in (("c", 0), ("c", -1), ("c", 4), ("c", 100), ("d", 5), ("d", 0)):
            error = await fails(Invalid, forked(store, "e", parent, at))
            assert str(at) in str(error)
        assert await store.read("e") is None
        assert await store.forks("d") == []


async def forks_are_listed_with_their_parents(place: Place) -> None:
    """`forks` names who shares a conversation's own events, at any depth, by id; a parent's own are not one's own."""
    async with place.open() as store:
        await _tree(store)
        expected = {
            "c": ["at", "bare", "before", "d", "e", "first", "own"],
            "d": ["bare", "e", "own"],
            "e": ["bare", "own"],
            "own": ["bare"],
            "before": [],
            "bare": [],
            "nowhere": [],
        }
        for name, names in expected.items():
            found = await store.forks(name)
            assert [head.conversation for head in found] == names, name
            assert list(found) == [await head_of(store, fork) for fork in names]
        assert {head.conversation: head.parent for head in await store.forks("d")} == {
            "bare": ("own", 10),
            "e": ("d", 8),
            "own": ("e", 9),
        }


async def forks_are_there_when_opened_again(place: Place) -> None:
    """A fork is durable like any append: what it shares, its own events, its parent."""
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        tree = await _tree(store)
        heads = {name: await head_of(store, name) for name in tree.events}
    async with place.open() as store:
        tree.store = store
        assert {name: await head_of(store, name) for name in tree.events} == heads
        await tree.agrees(SHORT)
        for name in tree.events:
            await tree.grow(name)
        await tree.agrees(SHORT)


async def a_fork_reads_as_of_one_moment(place: Place) -> None:
    """The head and the events of a fork fit together while it and its parent are appended to."""
    async with place.open() as store:
        await started(store, "c", "one")
        await forked(store, "d", "c", 2)
        done = False

        async def writing(name: str) -> None:
            while not done:
                await store.append(name, [item(name, marks=("m",)), item(name, marks=("m",))])
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for name in ("c", "d"):
                group.start_soon(writing, name)
            version = 0
            while version < 40:
                snapshot = await store.read("d", Query(), Query(mark="m"), Query(reverse=True, limit=1))
                assert snapshot is not None
                everything, marked, last = snapshot.records
                version = snapshot.head.version
                assert [record.seq for record in everything] == list(range(1, version + 1))
                assert len(marked) == version - 3
                assert last[0].seq == version
                assert {record.item for record in marked} <= {item("d").item}
                await anyio.lowlevel.checkpoint()
            done = True


FORKING = (
    a_fork_begins_behind_what_it_shares,
    shared_events_read_as_the_forks_own,
    the_head_counts_what_is_shared,
    what_is_beside_the_conversation_is_not_counted,
    a_query_cuts_across_forks_both_ways,
    marks_and_links_are_found_across_forks,
    tokens_are_counted_across_forks,
    forks_nest_at_any_depth,
    forks_and_parents_go_their_own_ways,
    a_parent_is_forked_while_it_grows,
    forks_are_made_of_what_is_just_being_written,
    a_fork_has_its_own_version,
    a_fork_has_its_own_keys,
    a_fork_has_its_own_lease,
    a_fork_can_take_its_lease_at_once,
    a_fork_is_made_once,
    a_fork_needs_a_parent,
    a_fork_needs_a_seq_of_its_parent,
    forks_are_listed_with_their_parents,
    forks_are_there_when_opened_again,
    a_fork_reads_as_of_one_moment,
)
