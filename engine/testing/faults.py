"""A store that fails on purpose: it wraps any other, and lets chosen calls go wrong.

>>> import anyio
>>> from turnlog.engine.stores.memory import MemoryStore
>>> from turnlog.engine.testing.contract_kit import created, item
>>> async def main() -> None:
...     store = FaultyStore(MemoryStore(), nth(2, "lose", "append"))
...     await store.append("c", [created()])
...     try:
...         await store.append("c", [item("Hello")])
...     except StoreError as error:
...         print(error)
...     snapshot = await store.read("c")
...     print("version", snapshot and snapshot.head.version)
>>> anyio.run(main)
append: done, and its acknowledgement was lost, on purpose
version 2

What goes wrong is decided by a plan, call by call: the n-th call of some verbs (`nth`), or each with some chance from a
seed (`chance`). The same plan and the same calls fail alike.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import anyio.lowlevel

from ..errors import StoreError
from ..events import NewEvent
from ..ids import ANY, Expected, Position
from ..log import (
    Append,
    Appended,
    Erased,
    Fed,
    Fork,
    Head,
    Key,
    KeyUse,
    LeaseChange,
    Query,
    Scalar,
    Snapshot,
    Standing,
    Store,
)

__all__ = ("FAULTS_OF_CALLS", "VERBS", "WRITES", "Fault", "FaultyStore", "Plan", "chance", "never", "nth")

T = TypeVar("T")

Fault: TypeAlias = Literal["refuse", "lose", "delay", "cancel"]
"""refuse: StoreError, and nothing is done. lose: it is done, and then StoreError: the acknowledgement is lost. delay:
others go first, before it is done and before it is acknowledged. cancel: whoever `FaultyStore.cancel` names is
cancelled when the call begins."""
FAULTS_OF_CALLS: Final[tuple[Fault, ...]] = ("refuse", "lose", "delay", "cancel")

Plan: TypeAlias = Callable[[str], Fault | None]
"""Given the verb of the next call, says what is to go wrong with it."""

WRITES: Final = frozenset({"append", "erase", "delete", "collect", "renew", "stand", "ack", "resign"})
VERBS: Final = WRITES | {"read", "key", "keys", "body", "heads", "forks", "feed", "end"}

_STEPS: Final = 5
"""How often a delayed call lets others go first."""


def never(verb: str) -> None:
    """Let nothing go wrong."""
    del verb


def nth(n: int, fault: Fault, *verbs: str) -> Plan:
    """Let the n-th call go wrong, from 1; of some verbs, where they are named."""
    calls = 0

    def plan(verb: str) -> Fault | None:
        nonlocal calls
        calls += not verbs or verb in verbs
        return fault if calls == n and (not verbs or verb in verbs) else None

    return plan


def chance(seed: int, rate: float, *faults: Fault) -> Plan:
    """Let each call go wrong with some probability, in one of some ways; alike for one seed."""
    source = random.Random(seed)  # noqa: S311 - it is to be predictable

    def plan(verb: str) -> Fault | None:
        del verb
        return source.choice(faults or FAULTS_OF_CALLS) if source.random() < rate else None

    return plan


def _cancel_caller() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


class FaultyStore:
    """A store around another, whose calls go wrong as a plan says."""

    def __init__(self, store: Store, plan: Plan = never) -> None:
        self.store = store
        self.durable = store.durable
        self.shared = store.shared
        self.plan = plan
        """May be changed at any time."""
        self.cancel: Callable[[], object] = _cancel_caller
        """What a call that is to be cancelled does first; by default its own task is cancelled."""
        self.calls: list[str] = []
        """The verbs of all calls so far."""
        self.struck: list[tuple[int, str, Fault]] = []
        """What went wrong so far: the call's number, from 1, its verb, and how."""

    async def _call(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(verb)
        fault = self.plan(verb)
        if fault is not None:
            self.struck.append((len(self.calls), verb, fault))
        if fault == "refuse":
            raise StoreError(f"{verb}: refused on purpose", retryable=True)
        if fault == "cancel":
            self.cancel()
        await _others_first(fault)
        result = await work()
        await _others_first(fault)
        if fault == "lose":
            raise StoreError(f"{verb}: done, and its acknowledgement was lost, on purpose", retryable=True)
        return result

    async def append(
        self,
        conversation: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected = ANY,
        key: Key | None = None,
        fence: int | None = None,
        lease: LeaseChange | None = None,
        bodies: Mapping[str, bytes] | None = None,
        fork: Fork | None = None,
        uses: Mapping[str, KeyUse] | None = None,
        answers: Sequence[str] = (),
    ) -> Appended:
        """See `turnlog.engine.log.Store.append`."""
        more: dict[str, Any] = {"expected": expected, "key": key, "fence": fence, "lease": lease, "bodies": bodies}
        work = partial(self.store.append, conversation, events, fork=fork, uses=uses, answers=answers, **more)
        return await self._call("append", work)

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        return await self._call("read", partial(self.store.read, conversation, *queries))

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        return await self._call("key", partial(self.store.key, conversation, name))

    async def keys(self, conversation: str, *, after: str = "", limit: int = 500) -> Mapping[str, KeyUse]:
        """See `turnlog.engine.log.Store.keys`."""
        return await self._call("keys", partial(self.store.keys, conversation, after=after, limit=limit))

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        return await self._call("body", partial(self.store.body, digest))

    async def heads(
        self,
        *,
        order: str = "-updated",
        limit: int = 50,
        after: tuple[int, str] | None = None,
        where: Mapping[str, Scalar] | None = None,
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        work = partial(self.store.heads, order=order, limit=limit, after=after, where=where)
        return await self._call("heads", work)

    async def forks(self, conversation: str) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.forks`."""
        return await self._call("forks", partial(self.store.forks, conversation))

    async def erase(self, appends: Sequence[Append]) -> Erased:
        """See `turnlog.engine.log.Store.erase`."""
        return await self._call("erase", partial(self.store.erase, appends))

    async def delete(self, conversation: str, tombstone: NewEvent, *, forks: Literal["refuse", "keep"]) -> Erased:
        """See `turnlog.engine.log.Store.delete`."""
        return await self._call("delete", partial(self.store.delete, conversation, tombstone, forks=forks))

    async def collect(self, seconds: float = 3600.0) -> int:
        """See `turnlog.engine.log.Store.collect`."""
        return await self._call("collect", partial(self.store.collect, seconds))

    async def feed(self, after: Position | None, limit: int) -> Sequence[Fed]:
        """See `turnlog.engine.log.Store.feed`."""
        return await self._call("feed", partial(self.store.feed, after, limit))

    async def end(self) -> Position | None:
        """See `turnlog.engine.log.Store.end`."""
        return await self._call("end", self.store.end)

    async def stand(self, name: str, owner: str, seconds: float) -> Standing | None:
        """See `turnlog.engine.log.Store.stand`."""
        return await self._call("stand", partial(self.store.stand, name, owner, seconds))

    async def ack(self, name: str, owner: str, position: Position) -> bool:
        """See `turnlog.engine.log.Store.ack`."""
        return await self._call("ack", partial(self.store.ack, name, owner, position))

    async def resign(self, name: str, owner: str) -> None:
        """See `turnlog.engine.log.Store.resign`."""
        return await self._call("resign", partial(self.store.resign, name, owner))

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        return await self._call("renew", partial(self.store.renew, conversation, generation, seconds))

    async def close(self) -> None:
        """Close the other store; this never goes wrong."""
        await self.store.close()


async def _others_first(fault: Fault | None) -> None:
    if fault == "delay":
        for _ in range(_STEPS):
            await anyio.lowlevel.checkpoint()
