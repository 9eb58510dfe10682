"""The store contract: idempotency keys, and their way from one store into another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from ..errors import Invalid, KeyReused, NotFound, VersionConflict
from ..ids import NO_STREAM
from ..log import Fork, Key, KeyUse, Store
from .contract_kit import (
    Declined,
    Place,
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

__all__ = ("KEYS",)

ODD: Final = ("k", "K", "k" * 255, "\u043a\u043b\u044e\u0447 \U0001f600", "a\x00b", "a\\0b", "a\\", " ", "%", "'")
"""Names that a key may have."""


async def a_key_returns_the_first_result(place: Place) -> None:
    """The same content under a key writes nothing and returns where it went the first time."""
    async with place.open() as store:
        await started(store)
        first = await store.append("c", [item("a"), item("b")], key=Key("k", "digest"))
        assert not first.replayed
        await store.append("c", [item("later")])
        again = await store.append("c", [item("a"), item("b")], key=Key("k", "digest"))
        assert (again.first, again.last, again.version, again.replayed) == (2, 3, 3, True)
        assert len(await records_of(store)) == 4
        assert await store.key("c", "k") == KeyUse("digest", 2, 3)


async def a_key_names_one_content(place: Place) -> None:
    """Other content under a key raises KeyReused and writes nothing; the first use stands."""
    async with place.open() as store:
        await started(store)
        await store.append("c", [item("a")], key=Key("k", "one"))
        error = await fails(KeyReused, store.append("c", [item("b")], key=Key("k", "two")))
        assert (error.conversation, error.key) == ("c", "k")
        assert len(await records_of(store)) == 2
        assert await store.key("c", "k") == KeyUse("one", 2, 2)


async def a_key_comes_before_the_version(place: Place) -> None:
    """A key is looked up before *expected*: a repeated append replays although the version has moved on."""
    async with place.open() as store:
        key = Key("k", "digest")
        await store.append("c", [created()], expected=NO_STREAM, key=key)
        await store.append("c", [item("a")], expected=1, key=Key("l", "digest"))
        assert (await store.append("c", [created()], expected=NO_STREAM, key=key)).replayed
        again = await store.append("c", [item("a")], expected=1, key=Key("l", "digest"))
        assert (again.first, again.replayed) == (2, True)
        await fails(KeyReused, store.append("c", [item("b")], expected=1, key=Key("l", "other")))
        await fails(VersionConflict, store.append("c", [item("b")], expected=1, key=Key("m", "digest")))


async def keys_belong_to_their_conversation(place: Place) -> None:
    """The same key in two conversations stands for two appends; an unused one is None."""
    async with place.open() as store:
        for name in ("c", "d"):
            await started(store, name)
            assert not (await store.append(name, [item(name)], key=Key("k", name))).replayed
        assert await store.key("c", "k") == KeyUse("c", 2, 2)
        assert await store.key("d", "k") == KeyUse("d", 2, 2)
        assert await store.key("c", "unused") is None
        assert await store.key("nowhere", "k") is None


async def a_refused_append_does_not_use_its_key_up(place: Place) -> None:
    """A key whose append was refused is free: the same append at the right version is written."""
    async with place.open() as store:
        await started(store)
        key = Key("k", "digest")
        await fails(VersionConflict, store.append("c", [item("a")], expected=7, key=key))
        assert await store.key("c", "k") is None
        assert not (await store.append("c", [item("a")], expected=1, key=key)).replayed


async def what_cannot_be_a_key_is_invalid(place: Place) -> None:
    """A key is a text of 1 to 255 characters."""
    async with place.open() as store:
        await started(store)
        for name in ("k", "k" * 255, "ключ 😀", "a\x00b", " "):
            assert not (await store.append("c", [item("a")], key=Key(name, "d"))).replayed
            assert (await store.append("c", [item("a")], key=Key(name, "d"))).replayed
        for wrong in ("", "k" * 256, 5, None, b"k", "\ud800"):
            assert "1 to 255" in str(await fails(Invalid, _key(wrong)))


async def _key(name: Any) -> Key:
    return Key(name, "d")


# -- from one store into another


async def _listed(store: Store, name: str, limit: int) -> dict[str, KeyUse]:
    """Return all keys of a conversation, page by page; see to it that no page is larger, and no key comes twice."""
    found: dict[str, KeyUse] = {}
    after = ""
    while page := await store.keys(name, after=after, limit=limit):
        assert len(page) <= limit
        assert not page.keys() & found.keys()
        found.update(page)
        after = list(page)[-1]
    return found


async def keys_are_listed(place: Place) -> None:
    """`keys` gives each key of a conversation once, page by page, with what it was used for."""
    async with place.open() as store:
        await store.append("c", [created()], key=Key("create", "d0"))
        used = {"create": KeyUse("d0", 1, 1)}
        for number, name in enumerate(ODD):
            appended = await store.append("c", [item("a"), item("b")], key=Key(name, f"d{number}"))
            used[name] = KeyUse(f"d{number}", appended.first, appended.last)
        await store.append("d", [created()], key=Key("other", "d"))
        await store.append("c", [item("without")])
        for limit in (1, 2, 3, len(used), 500):
            assert await _listed(store, "c", limit) == used
        assert list(await _listed(store, "c", 1)) == list(await _listed(store, "c", 500))
        assert await store.keys("c", limit=0) == {}
        assert await store.keys("nowhere") == {}


async def a_forks_keys_are_listed_as_its_own(place: Place) -> None:
    """`keys` of a fork are those of its own appends, whatever it shares; a deleted conversation has none."""
    async with place.open() as store:
        await store.append("c", [created(), item("one")], key=Key("create", "c"))
        await store.append("d", [created()], fork=Fork("c", 2), key=Key("fork", "d"))
        await store.append("d", [item("two")], key=Key("k", "d"))
        assert await store.keys("c") == {"create": KeyUse("c", 1, 2)}
        assert await store.keys("d") == {"fork": KeyUse("d", 3, 3), "k": KeyUse("d", 4, 4)}
        await store.delete("c", tombstone(), forks="keep")
        assert await store.keys("c") == {}
        assert await store.keys("d") == {"fork": KeyUse("d", 3, 3), "k": KeyUse("d", 4, 4)}


def _uses() -> Mapping[str, KeyUse]:
    """Return keys of a conversation of three events: its creation's, of one append, of two, and of none."""
    odd = {name: KeyUse(f"of {number}", 3, 3) for number, name in enumerate(ODD)}
    return {"create": KeyUse("c", 1, 1), "both": KeyUse("b", 2, 3), "none": KeyUse("n", 3, 2), **odd}


async def keys_are_restored_with_their_events(place: Place) -> None:
    """An append restores keys that were used elsewhere: from then on they replay, and refuse other content."""
    async with place.open() as store:
        events = [created(), item("one"), item("two")]
        appended = await store.append("c", events, expected=NO_STREAM, uses=_uses())
        assert (appended.first, appended.last, appended.replayed) == (1, 3, False)
        assert await store.keys("c") == _uses()
        assert await store.key("c", "both") == KeyUse("b", 2, 3)
        for name, use in _uses().items():
            again = await store.append("c", [item("again")], key=Key(name, use.digest))
            assert (again.first, again.last, again.replayed) == (use.first, use.last, True)
            await fails(KeyReused, store.append("c", [item("other")], key=Key(name, "other")))
        assert (await store.append("c", [created()], expected=NO_STREAM, key=Key("create", "c"))).replayed
        assert await texts_of(store) == ["one", "two"]
        assert not (await store.append("c", [item("new")], key=Key("new", "n"))).replayed


async def keys_are_restored_behind_their_events(place: Place) -> None:
    """Keys can be restored for events that are there, without others; again, nothing changes."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        before = await head_of(store)
        for _ in range(2):
            appended = await store.append("c", [], uses=_uses())
            assert (appended.version, appended.replayed) == (3, False)
            assert await store.keys("c") == _uses()
        assert await head_of(store) == before
        await store.append("c", [item("three")], uses={"both": KeyUse("b", 2, 3), "more": KeyUse("m", 4, 4)})
        assert await store.keys("c") == {**_uses(), "more": KeyUse("m", 4, 4)}
        assert await texts_of(store) == ["one", "two", "three"]


async def a_key_that_stands_for_something_else_is_not_restored(place: Place) -> None:
    """A key that is here for other content or for other events raises KeyReused; nothing is written."""
    async with place.open() as store:
        await started(store, "c", "one")
        await store.append("c", [item("two")], key=Key("k", "d"))
        for use in (KeyUse("other", 3, 3), KeyUse("d", 2, 2), KeyUse("d", 2, 3)):
            append = store.append("c", [item("three")], uses={"a": KeyUse("a", 1, 1), "k": use, "z": KeyUse("z", 2, 2)})
            error = await fails(KeyReused, append)
            assert (error.conversation, error.key) == ("c", "k")
        assert await store.keys("c") == {"k": KeyUse("d", 3, 3)}
        assert await texts_of(store) == ["one", "two"]


async def a_key_needs_the_events_that_it_stands_for(place: Place) -> None:
    """A key for events that are not there, or that no key can be, is Invalid; nothing is written."""
    async with place.open() as store:
        await started(store, "c", "one")
        for use in (KeyUse("d", 0, 1), KeyUse("d", 3, 4), KeyUse("d", 3, 1), KeyUse("d", -1, 2), KeyUse("d", 5, 4)):
            assert "k" in str(await fails(Invalid, store.append("c", [item("two")], uses={"k": use})))
        for name in ("", "k" * 256, "\ud800"):
            await fails(Invalid, store.append("c", [item("two")], uses={name: KeyUse("d", 1, 1)}))
        with_both = store.append("c", [item("two")], key=Key("k", "d"), uses={"l": KeyUse("d", 1, 1)})
        await fails(Invalid, with_both)
        await fails(NotFound, store.append("d", [], uses={"k": KeyUse("d", 1, 1)}))
        await fails(VersionConflict, store.append("c", [], expected=1, uses={"k": KeyUse("d", 1, 1)}))
        assert await store.keys("c") == {}
        assert await texts_of(store) == ["one"]
        assert await store.read("d") is None


async def keys_are_restored_in_a_fork(place: Place) -> None:
    """What a fork's keys stand for is restored with the fork, and the parent's with the parent."""
    async with place.open() as store:
        await store.append("c", [created(), item("one")], uses={"k": KeyUse("c", 2, 2)})
        fork = [created(), item("two")]
        await store.append("d", fork, fork=Fork("c", 2), uses={"fork": KeyUse("f", 3, 3), "k": KeyUse("d", 4, 4)})
        assert await store.keys("c") == {"k": KeyUse("c", 2, 2)}
        assert await store.keys("d") == {"fork": KeyUse("f", 3, 3), "k": KeyUse("d", 4, 4)}
        assert (await store.append("d", [created()], fork=Fork("c", 2), key=Key("fork", "f"))).replayed
        await forked(store, "e", "d", 4)
        for use in (KeyUse("c", 2, 2), KeyUse("d", 4, 4), KeyUse("d", 4, 5)):
            await fails(Invalid, store.append("e", [], uses={"k": use}))  # none of its own
        await store.append("e", [], uses={"k": KeyUse("e", 5, 5)})
        assert await store.keys("e") == {"k": KeyUse("e", 5, 5)}


async def keys_are_restored_by_many_at_once(place: Place) -> None:
    """The same keys, restored many times at once beside an append that uses one of them, are there once."""
    async with place.open() as store:
        await started(store, "c", "one", "two")
        restores = [partial(store.append, "c", [], uses=_uses()) for _ in range(10)]
        keyed = partial(store.append, "c", [item("two")], key=Key("both", "b"))
        *_, outcome = await together(*restores, keyed)
        uses = await store.keys("c")
        if isinstance(outcome, Exception) or outcome.replayed:
            assert uses == _uses()
        else:
            assert uses == {"both": KeyUse("b", 4, 4)}
        assert len(await records_of(store)) == (3 if "create" in uses else 4)


async def restored_keys_are_there_when_opened_again(place: Place) -> None:
    """Restored keys are durable like those that were used here."""
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        await started(store, "c", "one", "two")
        await store.append("c", [], uses=_uses())
    async with place.open() as store:
        assert await store.keys("c") == _uses()
        assert (await store.append("c", [item("x")], key=Key("both", "b"))).replayed


KEYS = (
    a_key_returns_the_first_result,
    a_key_names_one_content,
    a_key_comes_before_the_version,
    keys_belong_to_their_conversation,
    a_refused_append_does_not_use_its_key_up,
    what_cannot_be_a_key_is_invalid,
    keys_are_listed,
    a_forks_keys_are_listed_as_its_own,
    keys_are_restored_with_their_events,
    keys_are_restored_behind_their_events,
    a_key_that_stands_for_something_else_is_not_restored,
    a_key_needs_the_events_that_it_stands_for,
    keys_are_restored_in_a_fork,
    keys_are_restored_by_many_at_once,
    restored_keys_are_there_when_opened_again,
)
