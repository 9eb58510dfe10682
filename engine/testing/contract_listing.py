"""The store contract: lists of conversations, and those whose metadata has certain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..canonical import canonical
from ..errors import Invalid
from ..log import Head, Scalar, Store
from .contract_kit import (
    BEGUN,
    Declined,
    Place,
    created,
    fails,
    forked,
    head_of,
    item,
    other,
    patched,
    started,
    tombstone,
)

__all__ = ("LISTING",)

ORDERS: Final = ("-updated", "-created", "created")


async def _listed(
    store: Store, order: str = "created", limit: int = 50, where: Mapping[str, Scalar] | None = None
) -> list[Head]:
    """Return all heads, page by page."""
    found: list[Head] = []
    after: tuple[int, str] | None = None
    while True:
        page = await store.heads(order=order, limit=limit, after=after, where=where)
        assert len(page) <= limit
        if not page:
            return found
        found += page
        after = (getattr(page[-1], order.lstrip("-")), page[-1].conversation)


async def _names(store: Store, **where: Scalar) -> set[str]:
    """Return the conversations whose metadata has some values, seeing to it that each comes once."""
    names = [head.conversation for head in await store.heads(limit=1000, where=where)]
    assert len(set(names)) == len(names)
    return set(names)


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


VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.25, 1e300, 2**53 + 1, 2**80),
    *("", "1", "true", "null", "a", "A", " a", "a ", "ключ", "é", "e\u0301", 'qu"ote', "it's", "%", "_", "a\x00b"),
    *("x" * 2000, "x" * 2000 + "y", {}, {"a": 1}, [], ["a"], [1]),
)
"""Values of metadata; the last five can be no value that is looked up."""


async def metadata_is_found_by_value(place: Place) -> None:
    """A value finds those that have just that: no text finds a number, no number a boolean, nothing an object."""
    async with place.open() as store:
        for number, value in enumerate(VALUES):
            await store.append(f"c{number}", [created({"v": value})])
        await store.append("without", [created({"w": 1})])
        for number, value in enumerate(VALUES[:-5]):
            assert await _names(store, v=value) == {f"c{number}"}, value
        assert await _names(store, v=1.0) == await _names(store, v=1), "one number, however it is written"
        for value in ("{}", "[]", '["a"]', '{"a":1}', "None", 3, "B", "x" * 1999):
            assert await _names(store, v=value) == set(), value
        assert await _names(store, w=None) == set(), "what is not there is not null"


async def metadata_is_found_by_any_name(place: Place) -> None:
    """A name is looked up as it is, at the top level only."""
    names = ("a", "A", "a.b", "", "$", "$.a", "[0]", 'a"b', "a'b", "%", "ключ", "x" * 300, "a\x00b", "id")
    async with place.open() as store:
        for number, name in enumerate(names):
            await store.append(f"c{number}", [created({name: "v", "inner": {name: "w"}})])
        for number, name in enumerate(names):
            assert await _names(store, **{name: "v"}) == {f"c{number}"}, name
            assert await _names(store, **{name: "w"}) == set(), name
            assert await _names(store, **{f"inner.{name}": "w"}) == set(), name


async def all_of_several_values_are_needed(place: Place) -> None:
    """Conversations are found that have every value that is asked for; no value asked for finds them all."""
    async with place.open() as store:
        for number in range(24):
            await store.append(f"c{number}", [created({"two": number % 2, "three": number % 3, "four": number % 4})])
        for two, three, four in ((0, 1, 2), (1, 1, 1), (1, 2, 0), (0, 9, 0)):
            expected = {f"c{n}" for n in range(24) if (n % 2, n % 3, n % 4) == (two, three, four)}
            assert await _names(store, two=two, three=three, four=four) == expected
        assert await _names(store, two=0, three=0) == {f"c{n}" for n in range(0, 24, 6)}
        assert len(await _names(store)) == 24


async def metadata_is_found_as_it_is_by_now(place: Place) -> None:
    """A patch changes what finds a conversation, at once; so does a deletion."""
    async with place.open() as store:
        await store.append("c", [created({"v": 1, "w": "a"})])
        await store.append("d", [created({"v": 1})])
        await store.append("c", [patched(v=2), item("x"), patched(x=None, y={"z": 1})])
        assert await _names(store, v=1) == {"d"}
        assert await _names(store, v=2, w="a") == {"c"}
        await store.append("c", [patched(v=None), patched(w={"a": 1})])
        assert await _names(store, v=2) == await _names(store, v=None) == await _names(store, w="a") == set()
        await store.append("c", [patched(v=1), patched(v=3), patched(v=1)])
        assert await _names(store, v=1) == {"c", "d"}
        assert await _names(store, v=3) == set()
        await store.delete("d", tombstone(), forks="refuse")
        assert await _names(store, v=1) == {"c"}


async def forks_are_found_by_their_own_metadata(place: Place) -> None:
    """A fork is listed like any other conversation, by what its own creation and patches say."""
    async with place.open() as store:
        await store.append("c", [created({"v": 1}), item("a")])
        await forked(store, "d", "c", 2)
        assert {head.conversation for head in await store.heads()} == {"c", "d"}
        assert await _names(store, v=1) == {"c"}
        await store.append("d", [patched(v=2)])
        assert await _names(store, v=1) == {"c"}
        assert await _names(store, v=2) == {"d"}


async def what_was_deleted_is_not_listed(place: Place) -> None:
    """A deleted conversation is in no list, in no order, by no value."""
    async with place.open() as store:
        for name in ("c", "d", "e"):
            await store.append(name, [created({"v": 1}), item(name)])
        await store.delete("d", tombstone(), forks="refuse")
        for order in ORDERS:
            for limit in (1, 2, 50):
                for where in (None, {"v": 1}):
                    listed = await _listed(store, order, limit, where)
                    assert {head.conversation for head in listed} == {"c", "e"}
                    assert len(listed) == 2


async def what_is_found_is_in_order(place: Place) -> None:
    """Conversations with a value come in each order like all others, page by page each once."""
    async with place.open() as store:
        for number, time in enumerate([5, 3, 3, 9, 3, -4, 7, 5, 5, 0, 3, 3, 5, 9]):
            first = other("conversation.created", {"metadata": {"v": number % 2, "w": "all"}}, time=BEGUN + time)
            await store.append(f"{'xXa9_-.:bZqQ70'[number]}{number}", [first, item("a", time=-time)])
        for value in (0, 1):
            heads = [await head_of(store, name) for name in await _names(store, v=value)]
            assert len(heads) == 7
            for order in ORDERS:
                for limit in (1, 3, 100):
                    listed = await _listed(store, order, limit, {"v": value, "w": "all"})
                    assert [head.conversation for head in listed] == _sorted(heads, order)
                    assert all(head in heads for head in listed)


async def a_search_goes_on_behind_its_place(place: Place) -> None:
    """While somebody pages through those with a value, appends and patches neither repeat nor hide another."""
    async with place.open() as store:
        for number in range(20):
            said = {"metadata": {"v": "yes" if number % 2 else "no"}}
            await store.append(f"c{number:02}", [other("conversation.created", said, time=BEGUN + number)])
        for order, step in (("created", 1), ("-created", -1)):
            seen: list[str] = []
            after: tuple[int, str] | None = None
            while page := await store.heads(order=order, limit=2, after=after, where={"v": "yes"}):
                seen += [head.conversation for head in page]
                after = (page[-1].created, page[-1].conversation)
                for head in page:
                    await store.append(head.conversation, [item("later"), patched(seen=len(seen))])
                before = BEGUN - 100 if order == "created" else BEGUN + 100
                said = {"metadata": {"v": "yes"}}
                await store.append(f"{order}{len(seen)}", [other("conversation.created", said, time=before)])
            own = [name for name in seen if name.startswith("c") and not name.startswith("created")]
            assert own == [f"c{number:02}" for number in range(1, 20, 2)][::step]
            assert len(set(seen)) == len(seen)


async def what_finds_a_conversation_is_kept(place: Place) -> None:
    """Metadata finds a conversation also when the log is opened again."""
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        await store.append("c", [created({"v": 1}), patched(w="a")])
        await started(store, "d")
    async with place.open() as store:
        assert await _names(store, v=1, w="a") == {"c"}
        assert await _names(store, v=2) == set()
        heads = await store.heads(where={"w": "a"})
        assert [canonical({"v": 1, "w": "a"})] == [head.metadata for head in heads]


LISTING = (
    heads_are_in_order,
    a_list_goes_on_behind_its_place,
    an_unknown_order_is_invalid,
    metadata_is_found_by_value,
    metadata_is_found_by_any_name,
    all_of_several_values_are_needed,
    metadata_is_found_as_it_is_by_now,
    forks_are_found_by_their_own_metadata,
    what_was_deleted_is_not_listed,
    what_is_found_is_in_order,
    a_search_goes_on_behind_its_place,
    what_finds_a_conversation_is_kept,
)
