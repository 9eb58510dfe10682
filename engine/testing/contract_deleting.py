"""The store contract: deletion, what it leaves, and what forks keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio.lowlevel

from ..errors import Conflict, ConversationBusy, NotFound, VersionConflict
from ..ids import ANY, NO_STREAM
from ..log import Append, Appended, Erased, Fork, Key, Query, Store, Take
from .contract_kit import (
    LONG,
    Declined,
    Place,
    body,
    created,
    fails,
    forked,
    head_of,
    item,
    records_of,
    started,
    texts_of,
    together,
    tombstone,
)

__all__ = ("DELETING",)


async def a_deleted_conversation_is_its_tombstone(place: Place) -> None:
    """Of a deleted conversation the head and the tombstone are left, which is its last event; no mark or link finds."""
    async with place.open() as store:
        await store.append("c", [created({"a": 1}), item("one", marks=("m",), link="l"), item("two")])
        result = await store.delete("c", tombstone(), forks="refuse")

        assert (dict(result.versions), result.bodies) == ({"c": 4}, 0)
        assert all(isinstance(words, str) for words in result.left)
        snapshot = await store.read("c", Query(), Query(reverse=True, limit=5), Query(mark="m"), Query(link="l"))
        assert snapshot is not None
        head = snapshot.head
        assert (head.version, head.deleted, head.items, head.last_item, head.metadata) == (4, True, 0, 0, b"{}")
        assert [[record.seq for record in found] for found in snapshot.records] == [[4], [4], [], []]
        assert snapshot.records[0][0].kind == "conversation.deleted"
        assert await store.heads() == []


async def what_was_deleted_is_not_found(place: Place) -> None:
    """Every verb that would change a deleted conversation raises NotFound and says that it was deleted."""
    async with place.open() as store:
        await started(store, "c", "one")
        await store.append("c", [], lease=Take(owner="o", seconds=0.0, turn=2))
        await store.delete("c", tombstone(), forks="refuse")
        attempts: list[Awaitable[object]] = [
            store.append("c", [item("x")]),
            store.append("c", [item("x")], expected=3),
            store.append("c", [item("x")], fence=1),
            store.append("c", [], lease=Take(owner="o", seconds=LONG, turn=-1)),
            store.erase([Append(conversation="c", events=[item("x")])]),
            store.delete("c", tombstone(), forks="refuse"),
            store.delete("c", tombstone(), forks="keep"),
        ]
        for attempt in attempts:
            assert (await fails(NotFound, attempt)).deleted
        assert not await store.renew("c", 1, LONG)
        head = await head_of(store)
        assert (head.version, head.lease) == (3, None)
        assert not (await fails(NotFound, store.delete("nowhere", tombstone(), forks="refuse"))).deleted


async def an_id_is_not_used_again(place: Place) -> None:
    """A deleted conversation is not created anew, nor as a fork."""
    async with place.open() as store:
        await started(store, "p", "one")
        await started(store, "c", "one")
        await store.delete("c", tombstone(), forks="refuse")
        for expected in (ANY, NO_STREAM, 0):
            for fork in (None, Fork("p", 1)):
                error = await fails(VersionConflict, store.append("c", [created()], expected=expected, fork=fork))
                assert (error.expected, error.actual) == (0, 3)
                assert "deleted" in str(error)
        assert (await head_of(store)).deleted


async def keys_go_with_their_conversation(place: Place) -> None:
    """The keys of a deleted conversation are forgotten, and replay nothing; those of others stay."""
    async with place.open() as store:
        for name in ("c", "d"):
            await store.append(name, [created()], key=Key("create", "d"))
            await store.append(name, [item("x")], key=Key("k", "d"))
        await store.delete("c", tombstone(), forks="refuse")
        assert await store.key("c", "k") is None
        await fails(NotFound, store.append("c", [item("x")], key=Key("k", "d")))
        await fails(VersionConflict, store.append("c", [created()], key=Key("create", "d")))
        assert (await store.append("d", [item("x")], key=Key("k", "d"))).replayed


async def a_running_turn_is_not_deleted(place: Place) -> None:
    """While a lease runs, deleting raises ConversationBusy with its turn; once it has run out, it is deleted."""
    async with place.open() as store:
        await started(store, "c", "one")
        await store.append("c", [item("turn")], lease=Take(owner="o", seconds=LONG, turn=-1))
        for attempt in (partial(store.delete, forks="refuse"), partial(store.delete, forks="keep")):
            error = await fails(ConversationBusy, attempt("c", tombstone()))
            assert (error.conversation, error.turn) == ("c", 3)
            assert 0 < error.retry_after <= LONG
        assert await texts_of(store) == ["one", "turn"]
        await store.renew("c", 1, 0.0)
        await store.delete("c", tombstone(), forks="refuse")
        assert (await head_of(store)).lease is None
        await fails(NotFound, store.append("c", [item("late")], fence=1))


async def what_has_forks_is_not_deleted_by_the_way(place: Place) -> None:
    """With "refuse", a conversation whose events forks share stays as it is, and the error names the forks."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        await forked(store, "d", "c", 2, "three")
        await forked(store, "e", "d", 2, "four")
        before = await store.read("c", Query())
        error = await fails(Conflict, store.delete("c", tombstone(), forks="refuse"))
        assert type(error) is Conflict
        assert "d" in str(error)
        assert await store.read("c", Query()) == before

        # The fork of the fork shares nothing of the fork's own.
        await store.delete("d", tombstone(), forks="refuse")
        await fails(Conflict, store.delete("c", tombstone(), forks="refuse"))
        await store.delete("e", tombstone(), forks="refuse")
        await store.delete("c", tombstone(), forks="refuse")
        assert await store.heads() == []


async def _seqs(store: Store, name: str, *queries: Query) -> list[list[int]]:
    snapshot = await store.read(name, *queries)
    assert snapshot is not None
    return [[record.seq for record in found] for found in snapshot.records]


async def forks_keep_what_they_share(place: Place) -> None:
    """With "keep", shared events are read through the forks alone, in every way; forks go on, and may be forked."""
    async with place.open() as store:
        await store.append("c", [created(), item("one", marks=("m",), link="l"), item("two", marks=("m",))])
        await forked(store, "d", "c", 2, "three")
        await forked(store, "e", "d", 4, "four")
        before = [await store.read(name, Query()) for name in "de"]
        await store.delete("c", tombstone(), forks="keep")
        assert [await store.read(name, Query()) for name in "de"] == before
        queries = [Query(), Query(mark="m"), Query(link="l"), Query(after=1, before=3)]
        assert await _seqs(store, "c", *queries) == [[4], [], [], []]
        queries = [Query(mark="m"), Query(link="l", reverse=True), Query(limit=2)]
        assert await _seqs(store, "e", *queries) == [[2], [2], [1, 2]]
        await store.append("d", [item("on")])
        await forked(store, "f", "e", 2, "five")
        await forked(store, "g", "d", 5)
        assert await texts_of(store, "f") == ["one", "five"]
        assert await texts_of(store, "g") == ["one", "three", "on"]
        assert [head.conversation for head in await store.forks("c")] == ["d", "e", "f", "g"]
        await fails(NotFound, forked(store, "h", "c", 1))


async def what_is_shared_goes_with_the_last_fork(place: Place) -> None:
    """Each deletion removes what nobody shares any more, which shows in the bodies that go; the rest stays."""
    bodies = [body(f"body {number}") for number in range(8)]

    async def left(store: Store) -> list[int]:
        return [number for number, (digest, _) in enumerate(bodies) if await store.body(digest) is not None]

    async with place.open() as store:
        events = [created(), *(item(str(number), refs=(bodies[number][0],)) for number in range(2, 8))]
        await store.append("c", events[:5], bodies=dict(bodies[2:6]))
        await store.append("d", [created(), *events[5:]], fork=Fork("c", 4), bodies=dict(bodies[6:]))
        await forked(store, "e", "d", 6)
        await forked(store, "f", "c", 2)
        await store.delete("c", tombstone(), forks="keep")
        assert await left(store) == [2, 3, 4, 6, 7], "of the parent, what was behind all forks is gone"
        await store.delete("d", tombstone(), forks="keep")
        assert await left(store) == [2, 3, 4, 6]
        assert [record.seq for record in await records_of(store, "e")] == list(range(1, 8))
        await store.delete("e", tombstone(), forks="refuse")
        assert await left(store) == [2], "through two deleted conversations, up to where another still shares"
        assert await texts_of(store, "f") == ["2"]
        await store.delete("f", tombstone(), forks="refuse")
        assert await left(store) == []
        assert await store.forks("c") == await store.forks("d") == []


async def a_deleted_fork_leaves_its_parent_whole(place: Place) -> None:
    """Deleting a fork removes what is its own; its parent, and what others share of the parent, stay."""
    async with place.open() as store:
        await started(store, "c", "one", "two", "three", "four")
        await forked(store, "d", "c", 3, "five")
        await forked(store, "e", "c", 2, "six")
        before = [await store.read(name, Query()) for name in "ce"]
        await store.delete("d", tombstone(), forks="refuse")
        assert [await store.read(name, Query()) for name in "ce"] == before
        snapshot = await store.read("d", Query())
        assert snapshot is not None
        assert [record.seq for record in snapshot.records[0]] == [6]
        assert [head.conversation for head in await store.forks("c")] == ["e"]
        await store.append("c", [item("on")])


async def a_deletion_and_appends_take_turns(place: Place) -> None:
    """Appends and forks at the same time as a deletion are before it, or refused; of deletions one succeeds."""
    async with place.open() as store:
        for number in range(10):
            c = f"c{number}"
            await started(store, c, "one")

            async def append(name: str = c) -> Appended:
                return await store.append(name, [item("x")])

            async def delete(name: str = c) -> Erased:
                await anyio.lowlevel.checkpoint()
                return await store.delete(name, tombstone(), forks="keep")

            fork: Callable[[], Awaitable[Appended]] = partial(forked, store, f"d{number}", c, 2)
            results = await together(append, append, delete, append, fork, delete, append)
            deleted = [result for result in results if isinstance(result, Erased)]
            assert len(deleted) == 1
            assert all(isinstance(one, Appended | Erased | NotFound) for one in results), results
            written = [one.last for one in (*results[:2], results[3], results[6]) if isinstance(one, Appended)]
            assert sorted(written) == list(range(3, 3 + len(written)))
            assert (await head_of(store, c)).version == deleted[0].versions[c] == 3 + len(written)
            if isinstance(results[4], Appended):
                assert await texts_of(store, f"d{number}") == ["one"]
            else:
                assert await store.read(f"d{number}") is None


async def a_deletion_is_seen_by_other_openings(place: Place) -> None:
    """What is deleted through one opening of a log is deleted in the others, at once."""
    async with place.open() as one:
        if not one.shared:
            raise Declined("shared")
        async with place.open() as two:
            await started(one, "c", "one")
            await forked(two, "d", "c", 2, "two")
            await one.delete("c", tombstone(), forks="keep")
            assert (await fails(NotFound, two.append("c", [item("x")]))).deleted
            assert await texts_of(two, "d") == ["one", "two"]
            await two.delete("d", tombstone(), forks="refuse")
            assert [head.conversation for head in await one.heads()] == []


DELETING = (
    a_deleted_conversation_is_its_tombstone,
    what_was_deleted_is_not_found,
    an_id_is_not_used_again,
    keys_go_with_their_conversation,
    a_running_turn_is_not_deleted,
    what_has_forks_is_not_deleted_by_the_way,
    forks_keep_what_they_share,
    what_is_shared_goes_with_the_last_fork,
    a_deleted_fork_leaves_its_parent_whole,
    a_deletion_and_appends_take_turns,
    a_deletion_is_seen_by_other_openings,
)
