"""The store contract: leases and fences."""

from __future__ import annotations

import anyio

from ..errors import ConversationBusy, Fenced, NotFound
from ..log import Appended, Break, Key, Release, Store, Take
from .contract_kit import LONG, Declined, Place, created, fails, head_of, item, records_of, started

__all__ = ("LEASES",)


async def _taken(store: Store, name: str = "c", *, seconds: float = LONG, owner: str = "one") -> Appended:
    """Append an item that takes the lease."""
    return await store.append(name, [item("turn")], lease=Take(owner=owner, seconds=seconds, turn=-1))


async def a_lease_is_taken_with_an_append(place: Place) -> None:
    """Take gives the lease to its owner with the next generation, which the result tells and the head shows."""
    async with place.open() as store:
        await started(store, "c", "one")
        appended = await store.append(
            "c", [item("a"), item("b")], lease=Take(owner="worker", seconds=LONG, turn=-2), expected=2
        )
        assert appended.generation == 1
        head = await head_of(store)
        assert head.generation == 1
        assert head.lease is not None
        assert (head.lease.owner, head.lease.turn) == ("worker", 4)
        assert 0 < head.lease.remaining <= LONG


async def a_lease_can_be_taken_when_creating(place: Place) -> None:
    """The first append of a conversation may take its lease."""
    async with place.open() as store:
        appended = await store.append("c", [created(), item("a")], lease=Take(owner="o", seconds=LONG, turn=-2))
        assert (appended.version, appended.generation) == (2, 1)
        lease = (await head_of(store)).lease
        assert lease is not None
        assert lease.turn == 2


async def a_held_lease_is_not_taken(place: Place) -> None:
    """Take and Break of a lease that runs raise ConversationBusy with its turn and time; nothing is written."""
    async with place.open() as store:
        await started(store)
        await _taken(store)
        before = await head_of(store)
        for change in (Take(owner="two", seconds=LONG, turn=-1), Take(owner="one", seconds=LONG, turn=-1), Break()):
            error = await fails(ConversationBusy, store.append("c", [item("x")], lease=change))
            assert (error.conversation, error.turn) == ("c", 2)
            assert 0 < error.retry_after <= LONG
        after = await head_of(store)
        assert len(await records_of(store)) == 2
        assert (after.generation, after.version) == (before.generation, before.version)
        assert after.lease is not None
        assert after.lease.owner == "one"


async def a_lease_that_has_run_out_is_taken(place: Place) -> None:
    """Once its time is over, a lease is still shown, and the next to come takes it with the next generation."""
    async with place.open() as store:
        await started(store)
        await _taken(store, seconds=0.0)
        lease = (await head_of(store)).lease
        assert lease is not None
        assert lease.remaining <= 0
        assert (await _taken(store, owner="two")).generation == 2
        lease = (await head_of(store)).lease
        assert lease is not None
        assert (lease.owner, lease.turn) == ("two", 3)


async def a_lease_runs_out_by_itself(place: Place) -> None:
    """The time that a lease has left becomes less while nothing happens."""
    async with place.open() as store:
        await started(store)
        await _taken(store, seconds=0.03)
        lease = (await head_of(store)).lease
        while lease is not None and lease.remaining > 0:
            await anyio.sleep(0.01)
            lease = (await head_of(store)).lease
        assert lease is not None
        assert (await _taken(store, owner="two")).generation == 2


async def release_gives_the_lease_up(place: Place) -> None:
    """After Release nobody holds the lease; the generation stays, and the next holder's is greater."""
    async with place.open() as store:
        await started(store)
        generation = (await _taken(store)).generation
        appended = await store.append("c", [item("end")], fence=generation, lease=Release())
        assert appended.generation == generation
        head = await head_of(store)
        assert (head.lease, head.generation) == (None, generation)
        await store.append("c", [], lease=Release())
        assert (await _taken(store, owner="two")).generation == generation + 1


async def break_ends_a_lease(place: Place) -> None:
    """Break ends a lease that has run out, any lease when forced, or none; the generation grows each time."""
    async with place.open() as store:
        await started(store)
        await _taken(store, seconds=0.0)
        assert (await store.append("c", [item("crashed")], lease=Break())).generation == 2
        assert (await head_of(store)).lease is None
        await _taken(store)
        assert (await store.append("c", [], lease=Break(force=True))).generation == 4
        assert (await head_of(store)).lease is None
        assert (await store.append("c", [], lease=Break())).generation == 5


async def the_holder_appends_with_its_fence(place: Place) -> None:
    """An append with the generation of the lease that is held is written, also when its time is over."""
    async with place.open() as store:
        for name, seconds in (("c", LONG), ("d", 0.0)):
            await started(store, name)
            generation = (await _taken(store, name, seconds=seconds)).generation
            for _ in range(3):
                appended = await store.append(name, [item("x")], fence=generation)
                assert appended.generation == generation
            lease = (await head_of(store, name)).lease
            assert lease is not None
            assert lease.remaining <= seconds


async def another_fence_is_refused(place: Place) -> None:
    """A fence that is not the generation of the held lease raises Fenced with both, and writes nothing."""
    async with place.open() as store:
        await started(store)
        await fails(Fenced, store.append("c", [item("x")], fence=0))
        await _taken(store, seconds=0.0)
        await _taken(store, owner="two")
        for fence in (1, 3, 0):
            error = await fails(Fenced, store.append("c", [item("x")], fence=fence))
            assert (error.conversation, error.fence, error.generation) == ("c", fence, 2)
        assert len(await records_of(store)) == 3
        await store.append("c", [item("end")], fence=2, lease=Release())
        await fails(Fenced, store.append("c", [item("x")], fence=2))
        await fails(Fenced, store.append("c", [], fence=1, lease=Release()))
        assert len(await records_of(store)) == 4


async def a_fence_comes_before_the_version(place: Place) -> None:
    """Who was taken for dead learns that first, whatever version it expects; but its keys still replay."""
    async with place.open() as store:
        await started(store)
        await _taken(store)
        key = Key("k", "d")
        await store.append("c", [item("x")], expected=2, fence=1, key=key)
        await store.append("c", [item("y")], lease=Break(force=True))
        for expected in (3, 4):
            await fails(Fenced, store.append("c", [item("z")], expected=expected, fence=1))
        assert (await store.append("c", [item("x")], expected=2, fence=1, key=key)).replayed
        await fails(NotFound, store.append("d", [item("z")], fence=1))


async def a_lease_does_not_stop_others(place: Place) -> None:
    """An append that neither has a fence nor changes the lease is written, whoever holds it."""
    async with place.open() as store:
        await started(store)
        await _taken(store)
        appended = await store.append("c", [item("from elsewhere")], expected=2)
        assert (appended.version, appended.generation) == (3, 1)
        assert (await head_of(store)).lease is not None


async def renew_lets_a_lease_run_on(place: Place) -> None:
    """Renewing gives a held lease that many seconds from now, also one that has run out, and says so."""
    async with place.open() as store:
        await started(store)
        await _taken(store, seconds=0.0)
        assert await store.renew("c", 1, LONG)
        head = await head_of(store)
        assert head.lease is not None
        assert 0 < head.lease.remaining <= LONG
        assert (head.version, head.generation, head.lease.owner) == (2, 1, "one")
        assert await store.renew("c", 1, 0.0)
        lease = (await head_of(store)).lease
        assert lease is not None
        assert lease.remaining <= 0
        await store.append("c", [item("x")], fence=1)
        assert await store.renew("c", 1, LONG)
        await fails(ConversationBusy, _taken(store, owner="two"))


async def renew_of_what_is_not_held_changes_nothing(place: Place) -> None:
    """Renewing another generation, a released lease, or no conversation's returns False."""
    async with place.open() as store:
        await started(store)
        assert not await store.renew("c", 0, LONG)
        assert not await store.renew("nowhere", 1, LONG)
        await _taken(store, seconds=0.0)
        assert not await store.renew("c", 2, LONG)
        assert not await store.renew("c", 0, LONG)
        lease = (await head_of(store)).lease
        assert lease is not None
        assert lease.remaining <= 0
        await store.append("c", [], lease=Release())
        assert not await store.renew("c", 1, LONG)
        assert (await head_of(store)).lease is None


async def leases_belong_to_their_conversation(place: Place) -> None:
    """A lease of one conversation is none of another's business."""
    async with place.open() as store:
        for name in ("c", "d"):
            await started(store, name)
            assert (await _taken(store, name, owner=name)).generation == 1
        await store.append("c", [], lease=Release())
        lease = (await head_of(store, "d")).lease
        assert lease is not None
        assert lease.owner == "d"


async def of_two_openings_one_takes_the_lease(place: Place) -> None:
    """A lease taken through one opening of a log is held, fenced and renewed in the other."""
    async with place.open() as one:
        if not one.shared:
            raise Declined("shared")
        await started(one)
        async with place.open() as two:
            await _taken(one)
            await fails(ConversationBusy, _taken(two, owner="two"))
            assert await two.renew("c", 1, 0.0)
            assert (await _taken(two, owner="two")).generation == 2
            await fails(Fenced, one.append("c", [item("x")], fence=1))
            assert not await one.renew("c", 1, LONG)


LEASES = (
    a_lease_is_taken_with_an_append,
    a_lease_can_be_taken_when_creating,
    a_held_lease_is_not_taken,
    a_lease_that_has_run_out_is_taken,
    a_lease_runs_out_by_itself,
    release_gives_the_lease_up,
    break_ends_a_lease,
    the_holder_appends_with_its_fence,
    another_fence_is_refused,
    a_fence_comes_before_the_version,
    a_lease_does_not_stop_others,
    renew_lets_a_lease_run_on,
    renew_of_what_is_not_held_changes_nothing,
    leases_belong_to_their_conversation,
    of_two_openings_one_takes_the_lease,
)
