"""The writing side of an engine: appends that the live histories learn of at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from .events import NewEvent
from .ids import ANY, Expected, Position
from .log import Appended, Fork, Key, LeaseChange, Store, record
from .reader import Reader

__all__ = ("HASTY", "Writer")

HASTY: Final = 2
"""Lost races after which to ask for quiet."""


class Writer:
    """Appends to conversations of one store.

    Whoever has to read before it writes may ask for quiet: until it has written, other appends of this process to the
    conversation wait. Without that, a steady stream of appends would overtake it again and again.
    """

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader
        self._news: anyio.Event | None = None
        self._quiet: dict[str, anyio.Event] = {}

    async def append(
        self,
        name: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected = ANY,
        key: Key | None = None,
        fence: int | None = None,
        lease: LeaseChange | None = None,
        bodies: Mapping[str, bytes] | None = None,
        fork: Fork | None = None,
        answers: Sequence[str] = (),
        quiet: bool = False,
    ) -> Appended:
        """Append, with the bodies that come with the events; see `turnlog.engine.log.Store.append`."""
        while name in self._quiet and not quiet:
            await self._quiet[name].wait()
        for one in events:
            if one.blobs:
                bodies = {**(bodies or {}), **one.blobs}
        appended = await self._store.append(
            name,
            events,
            expected=expected,
            key=key,
            fence=fence,
            lease=lease,
            bodies=bodies,
            fork=fork,
            answers=answers,
        )
        if not appended.replayed:
            if self._reader.follows(name):
                records = [
                    record(name, seq, Position(""), appended.time, one, appended.first)
                    for seq, one in enumerate(events, appended.first)
                ]
                self._reader.appended(name, records)
            self.tell()
        return appended

    def news(self) -> anyio.Event:
        """Return an event that is set by the next append."""
        if self._news is None:
            self._news = anyio.Event()
        return self._news

    def tell(self) -> None:
        """Wake those who wait for appends."""
        if self._news is not None:
            self._news.set()
            self._news = None

    @asynccontextmanager
    async def quiet(self, name: str, *, needed: bool = True) -> AsyncIterator[bool]:
        """If needed, let other appends to a conversation wait; one's own are made with `quiet=` what this yields."""
        if not needed:
            yield False
            return
        while name in self._quiet:
            await self._quiet[name].wait()
        over = self._quiet[name] = anyio.Event()
        try:
            yield True
        finally:
            del self._quiet[name]
            over.set()
