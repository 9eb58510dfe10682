"""Finishing what has begun, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio

__all__ = ("bounded", "finish")

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end even if the caller is cancelled meanwhile; then the cancellation goes on.

    It withstands asyncio's own cancellation too, which an anyio shield alone does not.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not report it as lost
        raise cancelled
    return task.result()


async def bounded(seconds: float, work: Callable[[], Awaitable[object]]) -> str | None:
    """Do *work* for so long at most; return the name of what went wrong, if something did."""
    try:
        with anyio.fail_after(seconds):
            await work()
    except Exception as error:  # noqa: BLE001 - what made it necessary is told to the caller, not this
        return type(error).__name__
    return None
