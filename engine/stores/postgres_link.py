"""The connections of a PostgreSQL store: a pool, what is tried again, and what became of a commit that was cut off.

What was not committed is made again a few times: after a collision with another transaction, or when the connection
ended. When it ended while the commit was under way, the server is asked what became of the transaction; only when it
cannot tell is the caller left to look.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ..errors import Invalid, StoreError
from .postgres_errors import collided, ended, translated
from .postgres_rows import Sql, having

__all__ = ("Connection", "Link", "Pool", "Session", "connect", "place_of", "plain_url")

T = TypeVar("T")
Connection: TypeAlias = AsyncConnection[Any]
Pool: TypeAlias = AsyncConnectionPool[Any]

_TRIES: Final = 10
_PAUSES: Final = (0.02, 0.5)
"""Seconds before the second try, at most, and before any."""
_CONNECTIONS: Final = 10
"""In a pool of the store's own: four that append, the rest read."""
_LOOK: Final = 0.5
"""Seconds after which whoever waits for a connection has a server looked for again that was out of reach."""
_QUOTED: Final = re.compile('".*"', re.DOTALL)
_PORTS: Final = re.compile(r"[\d,]+")
_ENCODED: Final = "in a user's name, a password or a database's name, @ / and % are written %40 %2F and %25"
_WORD: Final = 15.0
"""Seconds for which a server is asked what became of a commit."""


def plain_url(url: str) -> str:
    """Return an url as the driver takes it: without the name of a driver.

    >>> plain_url("postgresql+asyncpg://db/chat")
    'postgresql://db/chat'
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"


def place_of(url: str, schema: str) -> str:
    """Return how messages call a store: by server, database and schema, without user and password.

    >>> place_of("postgresql://ada:secret@db:5433/chat", "turnlog")
    'postgresql://db:5433/chat (turnlog)'

    Raises:
        Invalid: the url cannot be read; what it says of it shows no part of a password.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(url).items() if value}
    except psycopg.Error as error:
        # What it quotes may be a part of the password.
        said = " ".join(_QUOTED.sub('"…"', str(error)).split())
        raise Invalid(f"the PostgreSQL url cannot be read: {said}; {_ENCODED}") from None
    host, port, name = parts.get("host", ""), parts.get("port", ""), parts.get("dbname", "")
    if "@" in host[1:] or (port and _PORTS.fullmatch(port) is None) or ("@" in name and "user" not in parts):
        # The password has been cut at one of its own characters.
        raise Invalid(f"the PostgreSQL url cannot be read; {_ENCODED}")
    return f"postgresql://{host}{port and f':{port}'}/{name} ({schema})"


def _options(url: str, patience: float) -> dict[str, Any]:
    """Return how to connect where the url does not say: a server that falls silent is given up within a minute."""
    said = conninfo_to_dict(url)
    options = {
        "connect_timeout": max(round(patience), 1),
        "fallback_application_name": "turnlog",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }
    return {"autocommit": True, **{name: value for name, value in options.items() if name not in said}}


async def connect(url: str, patience: float) -> Connection:
    """Open a connection that is not in the pool. Who is cancelled meanwhile leaves none open."""
    task = asyncio.ensure_future(AsyncConnection.connect(url, **_options(url, patience)))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_unwanted)
        raise


def _unwanted(task: asyncio.Future[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().pgconn.finish()


class Session:
    """A connection at work: statements by name, and a transaction that knows how far its commit has come."""

    def __init__(self, connection: Connection, sql: Sql, place: str) -> None:
        self.connection = connection
        self.place = place
        self._sql = sql
        self.transaction: str | None = None
        """The number of the transaction that writes."""
        self.written = False
        """Whether it has written anything."""
        self.committing = False

    async def do(self, statement: bytes) -> AsyncCursor[TupleRow]:
        """Send a statement that has no name."""
        cursor = AsyncCursor(self.connection, row_factory=tuple_row)
        await cursor.execute(statement)
        return cursor

    async def ask(self, name: str, values: Mapping[str, Any] | None = None) -> AsyncCursor[TupleRow]:
        """Send a statement; in a pipeline its rows are there when the pipeline has ended."""
        cursor = AsyncCursor(self.connection, row_factory=tuple_row)
        await cursor.execute(self._sql[name], values or {}, binary=True)
        return cursor

    async def find(self, name: str, fields: Sequence[bytes], values: Mapping[str, Any]) -> AsyncCursor[TupleRow]:
        """Send a statement that finds conversations by values in their metadata.

        How they are best found depends on how many have each value, so it is planned each time.
        """
        cursor = AsyncCursor(self.connection, row_factory=tuple_row)
        wanted = {f"f{number}": field for number, field in enumerate(fields)}
        await cursor.execute(having(self._sql, name, len(fields)), {**values, **wanted}, binary=True, prepare=False)
        return cursor

    async def commit(self) -> None:
        """Send the commit; what becomes of it is known when the pipeline has ended."""
        self.committing = True
        await self.do(b"COMMIT")

    def pipeline(self) -> AbstractAsyncContextManager[object]:
        """Send what follows in one go."""
        return self.connection.pipeline()


class Link:
    """The connections of one store, of its own pool or of a given one."""

    def __init__(self, url: str, pool: Pool | None, place: str, sql: Sql, patience: float) -> None:
        self.place = place
        self.url = url
        self.given = pool is not None
        self._sql = sql
        self.patience = patience
        self.pool: Pool = pool or AsyncConnectionPool(
            url,
            kwargs=_options(url, patience),
            min_size=1,
            max_size=_CONNECTIONS,
            reconnect_timeout=_LOOK / 2,
            open=False,
            name=place,
        )
        self._used = 0
        self._idle = anyio.Event()
        self._idle.set()
        self._closed = False

    async def open(self) -> None:
        """Open the pool, unless it was given."""
        if not self.given:
            await self.pool.open()

    async def close(self) -> None:
        """Wait for what is under way, as long as a server may take, then close the pool, unless it was given."""
        self._closed = True
        with anyio.move_on_after(self.patience):
            await self._idle.wait()
        if not self.given:
            await self.pool.close()

    def check(self) -> None:
        """See to it that the store is open.

        Raises:
            StoreError: it is not.
        """
        if self._closed:
            raise StoreError(f"{self.place}: the store is closed")

    # -- connections

    async def _lend(self, work: Callable[[Session], Awaitable[T]], lent: list[Session]) -> T:
        """Let some work have a connection, which commits each statement by itself unless it is told to begin.

        Who is cancelled while waiting for a connection leaves the queue. Later the work comes to its end by itself: to
        break it off would cost the connection.
        """
        self.check()
        self._used += 1
        if self._used == 1:
            self._idle = anyio.Event()
        try:
            connection = await self._connection()
        except BaseException:
            self._returned()
            raise
        lent.append(Session(connection, self._sql, self.place))
        task = asyncio.ensure_future(self._at_work(lent[-1], work))
        task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def _connection(self) -> Connection:
        deadline = time.monotonic() + self.patience
        while True:
            left = deadline - time.monotonic()
            try:
                connection: Connection = await self.pool.getconn(min(left, _LOOK))
            except PoolTimeout:
                if left <= _LOOK:
                    raise
            else:
                return connection

    async def _at_work(self, session: Session, work: Callable[[Session], Awaitable[T]]) -> T:
        connection = session.connection
        own = connection.autocommit
        try:
            if not own:
                await connection.set_autocommit(True)
            return await work(session)
        finally:
            try:
                await self._give_back(connection, own)
            finally:
                self._returned()

    def _returned(self) -> None:
        self._used -= 1
        if self._used == 0:
            self._idle.set()

    async def _give_back(self, connection: Connection, own: bool) -> None:
        try:
            if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                await connection.rollback()
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.pgconn.finish()  # its own `close` may be the pool's way to have it returned
            elif not own:
                await connection.set_autocommit(False)
        except psycopg.Error:
            connection.pgconn.finish()
        finally:
            await self.pool.putconn(connection)

    # -- work

    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do what may be done twice: reading, or a statement that comes to the same however often it is made.

        Raises:
            StoreError: it cannot be done.
        """
        return await self._tried(work)

    async def transact(self, work: Callable[[Session], Awaitable[T]], written: Callable[[], T]) -> T:
        """Do what must be done once: a transaction, which *work* begins and commits.

        *written* returns its result, when it turns out that a commit that was cut off has taken place.

        Raises:
            StoreError: nothing was written; or, where it says so, that is not known.
        """
        return await self._tried(work, written)

    async def _tried(self, work: Callable[[Session], Awaitable[T]], written: Callable[[], T] | None = None) -> T:
        for attempt in range(1, _TRIES + 1):
            lent: list[Session] = []
            try:
                return await self._lend(work, lent)
            except psycopg.Error as error:
                lost = bool(lent) and (lent[0].connection.closed or ended(error))
                if lost and lent[0].committing and written is not None:
                    if await self._took_place(lent[0].transaction, error):
                        return written()
                elif not lost and not collided(error):
                    raise translated(self.place, error) from error
                if attempt == _TRIES:
                    raise translated(self.place, error) from error
                await self._pause(attempt, lost)
        raise AssertionError("unreachable")

    async def _pause(self, attempt: int, lost: bool) -> None:
        if lost:
            # The others in the pool have probably ended with it.
            await self.pool.check()
        first, most = _PAUSES
        await anyio.sleep(random.random() * min(first * 2 ** (attempt - 1), most))  # noqa: S311 - not in step with others

    async def _took_place(self, transaction: str | None, error: psycopg.Error) -> bool:
        """Return whether a transaction was committed whose connection ended meanwhile.

        Raises:
            StoreError: the server cannot tell.
        """

        async def work(session: Session) -> Any:
            return await (await session.ask("fate", {"xid": transaction})).fetchone()

        deadline = time.monotonic() + _WORD
        while transaction is not None and time.monotonic() < deadline:
            try:
                fate = await self._lend(work, [])
            except psycopg.Error:
                await self._pause(1, lost=True)
                continue
            except StoreError:
                break  # closed meanwhile
            match fate:
                case ("committed",):
                    return True
                case ("aborted",):
                    return False
                case ("in progress",):  # its server process has not noticed yet
                    await anyio.sleep(0.05)
                case _:
                    break
        raise StoreError(
            f"{self.place}: the connection ended during a commit, and whether it took place cannot be found out: "
            "read the log to see whether this is in it"
        ) from error


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at how some work ended whose caller may have left, so that asyncio does not report it as lost."""
    if not task.cancelled():
        task.exception()
