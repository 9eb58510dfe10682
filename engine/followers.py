"""Following the store: every event of every conversation, caught up with first, then as it comes.

Notification is a hint, and polling alone is correct: within a process an append wakes whoever waits; what other
processes append is noticed within `_POLL` seconds. Processing is at least once: a name stands where it last
acknowledged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal

import anyio
import msgspec

from .blobs import whole
from .checks import whole as whole_number
from .codec import metadata_in
from .errors import Conflict, Invalid
from .ids import Position, ulid
from .listing import Event, event_of
from .log import Fed, Standing
from .logs import Log
from .shield import finish

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("Follower", "News", "follow")

_log = Log("turnlog.follower")
_POLL: Final = 0.25
"""Seconds after which what other processes have appended is looked for."""


class News:
    """Word of the next append: at once from this process, a little later from others."""

    def __init__(self, event: anyio.Event) -> None:
        self._event = event

    async def wait(self) -> None:
        """Wait for an append, or until it is time to look for those of others."""
        with anyio.move_on_after(_POLL):
            await self._event.wait()


class Follower:
    """Reads the store's events in batches. `ack` stores the place under the follower's name."""

    def __init__(self, engine: Engine, name: str | None, after: Position | None, batch: int) -> None:
        self._engine = engine
        self._name = name
        self._after = after
        self._batch = batch
        self._owner = ulid(engine.owner)
        self._place: Position | None = None
        self._active = name is None
        self._begun = False
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        return self._batches()

    async def _batches(self) -> AsyncIterator[Sequence[Event]]:
        while not self._closed:
            self._engine.check()
            news = self._engine.news()
            if await self._stands():
                fed = await self._engine.store.feed(self._place, self._batch)
                if fed:
                    self._place = fed[-1].record.position
                    yield [await self._event(one) for one in fed]
                    continue
            await news.wait()

    async def _event(self, fed: Fed) -> Event:
        record = await whole(self._engine.store, fed.record)
        return msgspec.structs.replace(event_of(record), metadata=metadata_in(fed.metadata, record.conversation))

    async def _stands(self) -> bool:
        """Return whether this is the one that reads under its name; begin at the name's place once it is."""
        standing: Standing | None = None
        if not self._active and self._name is not None:
            standing = await self._engine.store.stand(self._name, self._owner, self._engine.lease)
            if standing is None:
                return False
            self._active = True
            _log.info("turnlog.follower.active", follower=self._name)
        if not self._begun:
            known = standing.position if standing else None
            self._place, self._begun = known or self._after, True
        return True

    async def ack(self, position: Position) -> None:
        """Store that everything up to *position* has been dealt with.

        Raises:
            Invalid: the follower has no name, or that is no position, or one behind the end of the log.
            Conflict: somebody else reads under this name by now; what was read since the last `ack` goes to it.
        """
        self._engine.check()
        if self._name is None:
            raise Invalid("ack: a follower without a name has no place to store; pass follow(name=…)")
        if not await self._engine.store.ack(self._name, self._owner, position):
            self._lost()
            raise Conflict(f"follower {self._name}: somebody else reads under this name by now; read on to stand by")

    async def renew(self) -> None:
        """Stay the one that reads under the name, however long a batch takes."""
        if self._name is None or not self._active:
            return
        if await self._engine.store.stand(self._name, self._owner, self._engine.lease) is None:
            self._lost()

    def _lost(self) -> None:
        self._active = self._begun = False

    async def close(self) -> None:
        """Let somebody else read under the name."""
        self._closed = True
        if self._name is not None and self._active:
            await self._engine.store.resign(self._name, self._owner)


@asynccontextmanager
async def follow(
    engine: Engine, name: str | None, after: Position | Literal["start", "end"], batch: int
) -> AsyncIterator[Follower]:
    """Follow the store for as long as an `async with` lasts; see `Engine.follow`."""
    engine.check()
    whole_number("batch", batch, 1, 10_000)
    # The end as it is now: what is appended before the first batch is asked for is not to be missed.
    place = None if after == "start" else await engine.store.end() if after == "end" else after
    if place is not None and after != "end":
        await engine.store.feed(place, 1)  # which refuses what is no position
    follower = Follower(engine, name, place, batch)
    engine.followers.add(follower)
    try:
        yield follower
    finally:
        engine.followers.discard(follower)
        await finish(follower.close())
