"""Talking to the tests' PostgreSQL server beside the store, and standing between the two."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from turnlog.engine.stores.postgres import PostgresStore


@asynccontextmanager
async def opened(url: str, schema: str, **options: Any) -> AsyncIterator[PostgresStore]:
    """Open a store, and close it at the end."""
    store = await PostgresStore.open(url, schema=schema, **options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def stranger(url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Connect to the server as another program."""
    connection = await AsyncConnection.connect(url, autocommit=True, row_factory=tuple_row)
    try:
        yield connection
    finally:
        await connection.close()


async def rows(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what a statement gives, on a connection of its own."""
    async with stranger(url) as connection:
        cursor = await connection.execute(statement.encode(), values or None)
        return await cursor.fetchall() if cursor.description else []


async def role(url: str, name: str, *grants: str) -> str:
    """Create a user with some rights; return the url for it."""
    for statement in (f'CREATE ROLE "{name}" LOGIN', *grants):
        await rows(url, statement)
    return url.replace("turnlog@", f"{name}@")


class Proxy:
    """Stands between a store and the server, in threads of its own, and may cut connections off."""

    def __init__(self, server: str, place: Path) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen()
        self.cut: str | None = None
        """At the next commit: "before" it reaches the server, or "after", before its result comes back."""
        self.cuts = 0
        self.refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            if self.refusing:
                return
            server.connect(self._server)
            deaf = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    data = client.recv(1 << 16)
                    how = self.cut if b"\0COMMIT\0" in data else None
                    if how is not None:
                        self.cut = None
                        self.cuts += 1
                        deaf = True
                    if not data or how == "before":
                        return
                    server.sendall(data)
                elif data := server.recv(1 << 16):
                    if deaf:
                        return
                    client.sendall(data)
                else:
                    return


@contextmanager
def proxied(url: str, folder: Path) -> Iterator[tuple[str, Proxy]]:
    """Put a proxy in front of the server; its url and the proxy are given."""
    place = folder / ".s.PGSQL.5432"
    proxy = Proxy(f"{conninfo_to_dict(url)['host']}/.s.PGSQL.5432", place)
    try:
        yield f"postgresql://turnlog@/postgres?host={folder}", proxy
    finally:
        proxy.close()
        place.unlink()
