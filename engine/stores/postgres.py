"""The PostgreSQL store: a log that many machines write, on psycopg and its pool.

Appends that wait are written together, in a few transactions at a time: a conversation always goes through the same
lane, so that its appends follow one another and lanes do not wait for each other. What a transaction decides on is
locked in the database, in one order for all, so processes on any number of machines share a log.

The feed is in the order of the transactions that wrote it. A reader stops before the oldest transaction that still
runs, in the whole database server, so nothing can appear behind it later.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from ..errors import Invalid, StoreError
from ..events import NewEvent
from ..ids import ANY, Clock, Expected, Position, micros, system_clock
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
)
from ..shield import finish
from .batching import Batcher, Outcome, Take
from .postgres_erasing import Erasing
from .postgres_errors import translated
from .postgres_link import Connection, Link, Pool, connect, place_of, plain_url
from .postgres_news import News
from .postgres_reading import Reading
from .postgres_rows import quoted, sql_for
from .postgres_schema import SCHEMA_VERSION, Migration, planned, prepare
from .postgres_writing import Settings, commit

__all__ = ("SCHEMA_VERSION", "Migration", "PostgresStore", "migration")

T = TypeVar("T")

_LANES: Final = 4
"""Transactions of appends at a time."""


class PostgresStore:
    """A log in a schema of a PostgreSQL database; made by `PostgresStore.open`."""

    durable = True
    shared = True

    def __init__(self, link: Link, schema: str, *, settings: Settings, clock: Clock) -> None:
        self._link = link
        self._schema = schema
        self._settings = settings
        self._clock = clock
        self._lanes = [Batcher(self._commit) for _ in range(_LANES)]
        self._reading = Reading(link)
        self._erasing = Erasing(link, settings)
        self._news = News(link, schema)
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        schema: str = "public",
        pool: Pool | None = None,
        durability: Literal["full", "normal"] = "full",
        migrate: bool = True,
        clock: Clock = system_clock,
        patience: float = 30.0,
    ) -> PostgresStore:
        """Open the tables in *schema*, made if they are not there.

        "full" lets an append return when the server has flushed it to its disk; "normal" does not wait for that: when
        the server dies, the last appends may be lost. A *pool* (`psycopg_pool.AsyncConnectionPool`, opened) is used
        and not closed. *patience* is for how many seconds a call waits for a connection, or for what others have
        locked.

        Raises:
            Invalid: the url, the schema's name or the pool cannot be used.
            StoreError: the server cannot be reached or used, there are tables of another program, a newer schema, or
                one that is missing while *migrate* is false.
        """
        if pool is not None and not isinstance(pool, AsyncConnectionPool):
            raise Invalid(f"pool={pool!r:.100}: a psycopg_pool.AsyncConnectionPool is needed")
        sql = sql_for(schema)
        address = plain_url(url)
        place = place_of(address, schema)
        link = Link(address, pool, place, sql, patience)
        store = cls(link, schema, settings=Settings(durability == "full", patience), clock=clock)
        try:
            await store._prepare(migrate)
            await link.open()
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self, migrate: bool) -> None:
        link, schema = self._link, self._schema
        if link.given:
            await link.run(lambda session: prepare(session.connection, link.place, schema, migrate=migrate))
            return
        # Not by the pool: it would try for long to reach a server that is not there, and would not say why.
        await _connected(
            link.url,
            link.place,
            link.patience,
            lambda connection: prepare(connection, link.place, schema, migrate=migrate),
        )

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"{self._link.place}: the store is closed")

    # -- writing

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
        self._check()
        append = Append(
            conversation=conversation,
            events=events,
            expected=expected,
            key=key,
            fence=fence,
            lease=lease,
            bodies=bodies or {},
            fork=fork,
            uses=uses or {},
            answers=answers,
        )
        return await self._lane(conversation).add(append)

    def _lane(self, conversation: str) -> Batcher:
        return self._lanes[zlib.crc32(conversation.encode("utf-8", "replace")) % _LANES]

    async def _commit(self, take: Take) -> Sequence[Outcome]:
        outcomes = await commit(self._link, self._settings, take(), micros(self._clock()))
        if any(isinstance(outcome, Appended) and not outcome.replayed for outcome in outcomes):
            self._news.say()
        return outcomes

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """See `turnlog.engine.log.Store.renew`."""
        self._check()
        return await self._reading.renew(conversation, generation, seconds)

    # -- reading

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """See `turnlog.engine.log.Store.read`."""
        self._check()
        return await self._reading.read(conversation, queries)

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """See `turnlog.engine.log.Store.key`."""
        self._check()
        return await self._reading.key(conversation, name)

    async def keys(self, conversation: str, *, after: str = "", limit: int = 500) -> Mapping[str, KeyUse]:
        """See `turnlog.engine.log.Store.keys`."""
        self._check()
        return await self._reading.keys(conversation, after, limit)

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        self._check()
        return await self._reading.body(digest)

    async def heads(
        self,
        *,
        order: str = "-updated",
        limit: int = 50,
        after: tuple[int, str] | None = None,
        where: Mapping[str, Scalar] | None = None,
    ) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.heads`."""
        self._check()
        return await self._reading.heads(order, limit, after, where)

    async def forks(self, conversation: str) -> Sequence[Head]:
        """See `turnlog.engine.log.Store.forks`."""
        self._check()
        return await self._reading.forks(conversation)

    # -- erasing

    async def erase(self, appends: Sequence[Append]) -> Erased:
        """See `turnlog.engine.log.Store.erase`."""
        self._check()
        erased = await finish(self._erasing.erase(appends, micros(self._clock())))
        self._news.say()
        return erased

    async def delete(self, conversation: str, tombstone: NewEvent, *, forks: Literal["refuse", "keep"]) -> Erased:
        """See `turnlog.engine.log.Store.delete`."""
        self._check()
        erased = await finish(self._erasing.delete(conversation, tombstone, forks, micros(self._clock())))
        self._news.say()
        return erased

    async def collect(self, seconds: float = 3600.0) -> int:
        """See `turnlog.engine.log.Store.collect`."""
        self._check()
        return await finish(self._erasing.collect(seconds))

    # -- the feed

    async def feed(self, after: Position | None, limit: int) -> Sequence[Fed]:
        """See `turnlog.engine.log.Store.feed`."""
        self._check()
        await self._news.said()
        return await self._reading.feed(after, limit)

    async def end(self) -> Position | None:
        """See `turnlog.engine.log.Store.end`."""
        self._check()
        await self._news.said()
        return await self._reading.end()

    async def stand(self, name: str, owner: str, seconds: float) -> Standing | None:
        """See `turnlog.engine.log.Store.stand`."""
        self._check()
        return await self._reading.stand(name, owner, seconds)

    async def ack(self, name: str, owner: str, position: Position) -> bool:
        """See `turnlog.engine.log.Store.ack`."""
        self._check()
        return await self._reading.ack(name, owner, position)

    async def resign(self, name: str, owner: str) -> None:
        """See `turnlog.engine.log.Store.resign`."""
        self._check()
        await self._reading.resign(name, owner)

    async def wait_for_news(self, seconds: float, heard: int | None = None) -> int:
        """Return as soon as some process has appended, and after so many seconds at the latest.

        Give what the last call returned, so that what came in between is not missed. It is a hint: it may come for
        nothing, and through a pooler that does not pass notifications on it never comes; who follows looks at the
        feed after every call.
        """
        self._check()
        return await self._news.wait(seconds, heard)

    async def close(self) -> None:
        """See `turnlog.engine.log.Store.close`."""
        self._closed = True
        await finish(self._close())

    async def _close(self) -> None:
        for lane in self._lanes:
            await lane.drained()
        await self._news.close()
        await self._link.close()


async def migration(url: str, *, schema: str = "public", patience: float = 30.0) -> Migration:
    """Return what it takes to bring the tables in *schema* forward; nothing is written.

    Raises:
        Invalid, StoreError: as `PostgresStore.open`.
    """
    quoted(schema)
    address = plain_url(url)
    place = place_of(address, schema)
    return await _connected(address, place, patience, lambda connection: planned(connection, place, schema))


async def _connected(url: str, place: str, patience: float, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Do some work on a connection of its own."""
    try:
        connection = await connect(url, patience)
        try:
            return await work(connection)
        finally:
            await finish(connection.close())
    except psycopg.Error as error:
        raise translated(place, error) from error
