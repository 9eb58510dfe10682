"""The store contract: many appends at once, callers who are cancelled, a log that is closed or open twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from ..errors import ConversationBusy, Fenced, Invalid, KeyReused, NotFound, StoreError, TurnlogError, VersionConflict
from ..ids import NO_STREAM
from ..log import Appended, Key, Store, Take
from .cancelling import HOW, everywhere
from .contract_kit import Declined, Place, created, fails, item, records_of, started, text_of, together

__all__ = ("CROWDS",)

MANY = 100


async def concurrent_appends_follow_one_another(place: Place) -> None:
    """Of many appends at once each gets its own seqs, neighbours in the order given, none twice and none left out."""
    async with place.open() as store:
        await started(store)
        results = await together(
            *(
                partial(store.append, "c", [item(f"{number}.{part}") for part in range(1 + number % 3)])
                for number in range(MANY)
            )
        )
        texts = ["", *(text_of(record) for record in (await records_of(store))[1:])]
        for number, result in enumerate(results):
            assert isinstance(result, Appended), result
            assert (result.version, result.last - result.first) == (result.last, number % 3)
            own = [f"{number}.{part}" for part in range(1 + number % 3)]
            assert texts[result.first - 1 : result.last] == own


async def concurrent_appends_to_many_conversations(place: Place) -> None:
    """Many conversations created and appended to at once are each as if it were alone."""
    async with place.open() as store:
        names = [f"c{number}" for number in range(MANY)]
        await together(*(partial(store.append, name, [created(), item(name)]) for name in names))
        await together(*(partial(store.append, name, [item(name), item(name)]) for name in names for _ in range(2)))
        for name in names:
            assert [text_of(record) for record in (await records_of(store, name))[1:]] == [name] * 5
        assert {head.conversation for head in await store.heads(limit=2 * MANY)} == set(names)


async def of_concurrent_exact_appends_one_wins(place: Place) -> None:
    """Of appends at the same version exactly one is written; the others learn which version it is by then."""
    async with place.open() as store:
        await started(store)
        for version in range(1, 6):
            results = await together(
                *(partial(store.append, "c", [item(str(number))], expected=version) for number in range(20))
            )
            winners = [result for result in results if isinstance(result, Appended)]
            assert [winner.first for winner in winners] == [version + 1]
            for result in results:
                if not isinstance(result, Appended):
                    assert isinstance(result, VersionConflict)
                    assert (result.expected, result.actual) == (version, version + 1)
        assert len(await records_of(store)) == 6


async def of_concurrent_creations_one_wins(place: Place) -> None:
    """A conversation that many create at once is created by one of them."""
    async with place.open() as store:
        results = await together(
            *(partial(store.append, "c", [created(), item("x")], expected=NO_STREAM) for _ in range(20))
        )
        assert sum(isinstance(result, Appended) for result in results) == 1
        assert sum(isinstance(result, VersionConflict) for result in results) == 19
        assert len(await records_of(store)) == 2


async def of_concurrent_uses_of_a_key_one_writes(place: Place) -> None:
    """The same append under one key, made many times at once, is written once, and all learn where."""
    async with place.open() as store:
        await started(store)
        results = await together(
            *(partial(store.append, "c", [item("a"), item("b")], key=Key("k", "d")) for _ in range(20))
        )
        assert Counter((one.first, one.last, one.replayed) for one in results if isinstance(one, Appended)) == {
            (2, 3, False): 1,
            (2, 3, True): 19,
        }
        assert len(await records_of(store)) == 3


async def of_concurrent_takers_one_holds_the_lease(place: Place) -> None:
    """A lease that many want at once goes to one of them."""
    async with place.open() as store:
        await started(store)
        results = await together(
            *(
                partial(store.append, "c", [item("x")], lease=Take(owner=str(number), seconds=600, turn=-1))
                for number in range(20)
            )
        )
        assert [one.generation for one in results if isinstance(one, Appended)] == [1]
        assert sum(isinstance(result, ConversationBusy) for result in results) == 19


async def a_loser_does_not_hurt_the_others(place: Place) -> None:
    """Appends that are refused get their own errors, those beside them are written."""
    async with place.open() as store:
        await started(store)
        await store.append("c", [item("first")], key=Key("used", "d"))
        losers: list[tuple[type[TurnlogError], Callable[[], Awaitable[Appended]]]] = [
            (NotFound, partial(store.append, "nowhere", [item("x")])),
            (VersionConflict, partial(store.append, "c", [item("x")], expected=1)),
            (VersionConflict, partial(store.append, "c", [created()])),
            (KeyReused, partial(store.append, "c", [item("x")], key=Key("used", "e"))),
            (Fenced, partial(store.append, "c", [item("x")], fence=7)),
            (Invalid, partial(store.append, "c", [item("x"), created()])),
        ]
        attempts = [
            attempt
            for number in range(MANY // 2)
            for attempt in (partial(store.append, "c", [item(str(number))]), losers[number % len(losers)][1])
        ]
        results = await together(*attempts)
        for number, (won, lost) in enumerate(zip(results[::2], results[1::2], strict=True)):
            assert isinstance(won, Appended), won
            assert type(lost) is losers[number % len(losers)][0], lost
        texts = [text_of(record) for record in (await records_of(store))[2:]]
        assert sorted(texts, key=int) == [str(number) for number in range(MANY // 2)]
        assert await store.read("nowhere") is None


async def what_cannot_be_stored_does_not_hurt_the_others(place: Place) -> None:
    """An append with values that the store has no room for is Invalid, or stored; those beside it are written."""
    async with place.open() as store:
        await started(store)
        odd: list[Callable[[], Awaitable[Appended]]] = [
            partial(store.append, "huge", [created(), item("x", tokens=2**70)]),
            partial(store.append, "none", [created(), item("x", tokens=None)]),
            partial(store.append, "half", [created(), item("x", link="\ud800")]),
            partial(store.append, "body", [created()], bodies={"no digest": b"x"}),
        ]
        good = [partial(store.append, "c", [item(str(number))]) for number in range(20)]
        results = await together(*good[:10], *odd, *good[10:])
        for result in [*results[:10], *results[-10:]]:
            assert isinstance(result, Appended), result
        assert len(await records_of(store)) == 21
        for name, result in zip(("huge", "none", "half", "body"), results[10:-10], strict=True):
            assert isinstance(result, Appended | Invalid), result
            assert (await store.read(name) is None) == isinstance(result, Invalid)


async def cancelled_appends_are_whole_or_absent(place: Place) -> None:
    """Cancelled wherever it waits, alone or in a crowd, an append is either written whole or not at all."""
    async with place.open() as store:
        digest = hashlib.sha256(b"{}").hexdigest()
        number = 0
        for how in HOW:
            for crowd in (0, 1, 5):
                name, texts = f"{how}{crowd}", Counter[str]()
                await started(store, name)
                async for _ in everywhere(partial(_crowded, store, name, crowd), how):
                    number += 1
                    texts = Counter(text_of(record) for record in (await records_of(store, name))[1:])
                    assert texts["a"] == texts["b"] == texts["c"]
                assert texts["a"] >= 1, "the attempt that nobody cancelled"
        assert await store.body(digest) in (None, b"{}")


async def _crowded(store: Store, name: str, crowd: int) -> None:
    """Append three items while others append; return once all is settled."""

    async def other() -> None:
        await store.append(name, [item("other")])

    async with anyio.create_task_group() as group:
        for _ in range(crowd):
            group.start_soon(other)
            await anyio.lowlevel.checkpoint()
        await store.append(name, [item("a"), item("b"), item("c")])


async def a_cancelled_caller_does_not_hurt_the_others(place: Place) -> None:
    """When callers of a crowd are cancelled, the others' appends are written, and every seq is there once."""
    async with place.open() as store:
        await started(store)
        for round_ in range(10):
            results: list[Appended] = []
            scopes = [anyio.CancelScope() for _ in range(12)]

            async def one(number: int, scope: anyio.CancelScope, results: list[Appended]) -> None:
                with scope:
                    results.append(await store.append("c", [item(str(number))]))

            async with anyio.create_task_group() as group:
                for number, scope in enumerate(scopes):
                    group.start_soon(one, number, scope, results)
                for _ in range(round_):
                    await anyio.lowlevel.checkpoint()
                for scope in scopes[::3]:
                    scope.cancel()
            assert len(results) >= 8
            seqs = [result.first for result in results]
            assert len(set(seqs)) == len(seqs)
            records = await records_of(store)
            assert {records[seq - 1].kind for seq in seqs} == {"item.appended"}
        await store.append("c", [item("still alive")])


async def close_finishes_what_is_being_written(place: Place) -> None:
    """Appends that meet a close are written or refused with StoreError, and those that returned are there."""
    async with place.open() as store:
        if not store.durable:
            raise Declined("durable")
        await started(store)
        attempts = [partial(store.append, "c", [item(str(number))]) for number in range(20)]
        results: list[Appended | Exception] = []

        async def all_of_them() -> None:
            results.extend(await together(*attempts))

        async with anyio.create_task_group() as group:
            group.start_soon(all_of_them)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            await store.close()
        for refused in (store.append("c", [item("late")]), store.read("c"), store.heads(), store.renew("c", 1, 1.0)):
            await fails(StoreError, refused)
    async with place.open() as store:
        texts = [text_of(record) for record in (await records_of(store))[1:]]
        written = [str(number) for number, result in enumerate(results) if isinstance(result, Appended)]
        assert sorted(texts, key=int) == written
        assert all(isinstance(result, Appended | StoreError) for result in results)


async def two_openings_are_one_log(place: Place) -> None:
    """Appends through two openings at once are one sequence, with one set of versions and keys."""
    async with place.open() as one:
        if not one.shared:
            raise Declined("shared")
        await started(one)
        async with place.open() as two:
            appends: list[Callable[[], Awaitable[Any]]] = [
                partial((one, two)[number % 2].append, "c", [item(str(number)), item(str(number))])
                for number in range(MANY)
            ]
            results = await together(*appends)
            assert all(isinstance(result, Appended) for result in results), results
            texts = [text_of(record) for record in (await records_of(two))[1:]]
            assert texts[::2] == texts[1::2]
            assert sorted(texts[::2], key=int) == [str(number) for number in range(MANY)]
            assert list(await records_of(one)) == list(await records_of(two))

            version = len(texts) + 1
            results = await together(
                *(partial(store.append, "c", [item("x")], expected=version) for store in (one, two, one, two))
            )
            assert sum(isinstance(result, Appended) for result in results) == 1
            await one.append("c", [item("keyed")], key=Key("k", "d"))
            assert (await two.append("c", [item("keyed")], key=Key("k", "d"))).replayed
            await fails(KeyReused, two.append("c", [item("keyed")], key=Key("k", "e")))
            await fails(VersionConflict, two.append("c", [created()]))


CROWDS = (
    concurrent_appends_follow_one_another,
    concurrent_appends_to_many_conversations,
    of_concurrent_exact_appends_one_wins,
    of_concurrent_creations_one_wins,
    of_concurrent_uses_of_a_key_one_writes,
    of_concurrent_takers_one_holds_the_lease,
    a_loser_does_not_hurt_the_others,
    what_cannot_be_stored_does_not_hurt_the_others,
    cancelled_appends_are_whole_or_absent,
    a_cancelled_caller_does_not_hurt_the_others,
    close_finishes_what_is_being_written,
    two_openings_are_one_log,
)
