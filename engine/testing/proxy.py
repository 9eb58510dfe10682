"""A proxy that does what networks do: it resets, closes, stalls and drips. For tests, in front of any HTTP server.

async with scripted_server(["Hello"]) as server, fault_proxy(server.url, Fault(after=300, then="reset")) as url:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="test")
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

import anyio

__all__ = ("Fault", "fault_proxy")

_READ: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one connection.

    *after* so many bytes of what the server answers have gone through, *then* the connection is reset, closed without
    an end, or stalls: it stays open, and nothing comes any more. *pace* is the seconds between one byte and the next.
    """

    after: int | None = None
    then: Literal["reset", "close", "stall"] = "close"
    pace: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: a negative number, or another end than these.
        """
        if (self.after is not None and self.after < 0) or (self.pace is not None and self.pace < 0):
            raise ValueError(f"{self!r}: numbers cannot be negative.")
        if self.then not in ("reset", "close", "stall"):
            raise ValueError(f"Fault(then={self.then!r}): use 'reset', 'close' or 'stall'.")


@asynccontextmanager
async def fault_proxy(url: str, *faults: Fault | None) -> AsyncIterator[str]:
    """Run a proxy in front of the server at *url*, in the current asyncio event loop; yield its own address.

    Each connection has the next of the *faults*; None, and whatever comes behind the last one, goes through unharmed.
    Leaving ends every connection.
    """
    proxy = _Proxy(url, iter(faults))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(proxy.tasks):
            task.cancel()
        with anyio.CancelScope(shield=True):
            while proxy.tasks:
                await asyncio.wait(list(proxy.tasks))


class _Proxy:
    def __init__(self, url: str, faults: Iterator[Fault | None]) -> None:
        place = urlsplit(url)
        self._place = place.hostname, place.port
        self._faults = faults
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        fault = next(self._faults, None) or Fault()
        try:
            with suppress(asyncio.CancelledError):
                await self._carry(reader, writer, fault)
        except* OSError:  # on either side, and so in a group or alone
            pass
        finally:
            writer.transport.abort()
            self.tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        answers, asks = await asyncio.open_connection(*self._place)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_forward, reader, asks)
                await _answer(answers, writer, fault)
                group.cancel_scope.cancel()
        finally:
            asks.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ):
        writer.write(data)
        await writer.drain()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    left = fault.after
    while left != 0 and (data := await reader.read(_READ)):
        data = data if left is None else data[:left]
        left = None if left is None else left - len(data)
        for piece in (data[at : at + 1] for at in range(len(data))) if fault.pace is not None else (data,):
            writer.write(piece)
            await writer.drain()
            await anyio.sleep(fault.pace or 0)
    if left != 0:
        return
    if fault.then == "stall":
        await anyio.sleep_forever()
    if fault.then == "reset":
        # Without lingering, closing is a reset.
        own: socket.socket = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
