"""Word of appends, by NOTIFY: a hint for those who follow, and nothing that anything depends on.

A NOTIFY in the transaction of an append would make all commits of the server wait for one another, so hints are sent
behind it, and no more than some twenty a second: the first at once, the last never later than that.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Final

import anyio
import psycopg

from ..errors import StoreError
from ..shield import finish
from .postgres_link import Connection, Link, Session, connect

__all__ = ("News",)

_PAUSE: Final = 0.05
"""Seconds between hints."""
_RETRY: Final = 5.0
"""Seconds for which a connection that cannot listen is not replaced."""


class News:
    """The hints that a store sends and hears."""

    def __init__(self, link: Link, schema: str) -> None:
        self._link = link
        self._channel = f"turnlog_{hashlib.sha256(schema.encode()).hexdigest()[:16]}"
        self._unsaid = False
        self._sender: asyncio.Task[None] | None = None
        self._closing = anyio.Event()
        self._said = anyio.Event()
        self._said.set()
        self._ear: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._listening = anyio.Lock()
        self._deaf_until = 0.0
        self._heard = 0

    # -- saying

    def say(self) -> None:
        """Let others know, soon, that something was appended."""
        self._unsaid = True
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send(), name="turnlog hints")

    async def _send(self) -> None:
        try:
            while self._unsaid:
                self._unsaid = False
                self._said = anyio.Event()
                await self._link.run(self._hint)
                self._said.set()
                with anyio.move_on_after(_PAUSE):
                    await self._closing.wait()
        except StoreError:
            pass  # whoever follows looks for itself, a little later
        finally:
            self._said.set()
            self._sender = None

    async def said(self) -> None:
        """Wait until no hint is on its way: it is a transaction, before which the feed stops like before any other."""
        with anyio.move_on_after(_RETRY):
            await self._said.wait()

    async def _hint(self, session: Session) -> None:
        await session.ask("hint", {"channel": self._channel})

    # -- hearing

    async def wait(self, seconds: float, heard: int | None) -> int:
        """See `PostgresStore.wait_for_news`."""
        known = self._heard if heard is None else heard
        with anyio.move_on_after(seconds):
            async with self._listening:
                if self._heard == known:
                    await self._listen(seconds)
        return self._heard

    async def _listen(self, seconds: float) -> None:
        """Listen until there is a hint; without a connection, do nothing for as long."""
        try:
            if time.monotonic() >= self._deaf_until:
                if self._ear is None:
                    await self._open()
                    return
                async for _ in self._ear.notifies(timeout=seconds, stop_after=1):
                    self._heard += 1
                return
        except psycopg.Error:
            self._deaf_until = time.monotonic() + _RETRY
            await finish(self._drop())
        await anyio.sleep(seconds)

    async def _open(self) -> None:
        """Open a connection that listens, however often whoever waits for it gives up meanwhile."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._opened(), name="turnlog listener")
            self._opening.add_done_callback(self._was_opened)
        await asyncio.shield(self._opening)

    async def _opened(self) -> None:
        # None of the pool: it is kept, and the size of a given pool is its owner's choice.
        ear = await connect(self._link.url, self._link.patience)
        try:
            await ear.execute(f'LISTEN "{self._channel}"'.encode())
        except BaseException:
            await ear.close()
            raise
        self._ear = ear
        self._heard += 1  # what came before is not known: whoever waits looks once

    def _was_opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # seen by whoever still waits

    async def _drop(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            await ear.close()

    async def close(self) -> None:
        """Send what is still to be said, and stop listening."""
        self._closing.set()
        if self._sender is not None:
            await asyncio.wait([self._sender])
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await self._drop()
