"""Cancelling work at each of its suspensions in turn, to see that it never leaves anything half-done.

`async for attempt in everywhere(work, "asyncio")` runs *work* again and again, cancelled where it waits first, then
where it waits next, until it has come to its end; after each attempt, look at what it left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final, Literal, TypeAlias

import anyio

__all__ = ("HOW", "Attempt", "How", "cancelled_at", "everywhere")

How: TypeAlias = Literal["anyio", "asyncio"]
HOW: Final[tuple[How, ...]] = ("anyio", "asyncio")
"""By a cancel scope around the work, which shields hold off; by the task's own `cancel`, which they do not."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of work that was to be cancelled at one of its suspensions."""

    reached: bool
    """Whether it came to that suspension; otherwise it ended before, and was not cancelled."""
    cancelled: bool
    """Whether it ended by being cancelled; work that was shielded may have ended otherwise."""
    result: Any = None
    error: Exception | None = None


async def cancelled_at(n: int, work: Callable[[], Coroutine[Any, Any, Any]], how: How) -> Attempt:
    """Run *work* and cancel it as soon as it waits on the event loop for the *n*-th time, from 1.

    Only the work's own task is counted and cancelled, not those that it starts.
    """
    return await (_by_scope if how == "anyio" else _by_task)(n, work)


async def everywhere(work: Callable[[], Coroutine[Any, Any, Any]], how: How) -> AsyncIterator[Attempt]:
    """Run *work* until it is not cancelled any more: at its first suspension, at its second, and so on."""
    for n in count(1):
        attempt = await cancelled_at(n, work, how)
        yield attempt
        if not attempt.reached:
            return


async def _by_scope(n: int, work: Callable[[], Coroutine[Any, Any, Any]]) -> Attempt:
    result, error = None, None
    scope = anyio.CancelScope()
    steps = _Steps(work(), n, scope.cancel)
    with scope:
        try:
            result = await steps
        except Exception as raised:  # noqa: BLE001 - it is handed back
            error = raised
    return Attempt(steps.count >= n, scope.cancelled_caught, result, error)


async def _by_task(n: int, work: Callable[[], Coroutine[Any, Any, Any]]) -> Attempt:
    def cancel() -> None:
        task.cancel()

    async def run() -> Any:
        return await steps

    steps = _Steps(work(), n, cancel)

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    if task.cancelled():
        return Attempt(steps.count >= n, cancelled=True)
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return Attempt(steps.count >= n, cancelled=False, result=None if error else task.result(), error=error)


class _Steps:
    """Runs a coroutine to its end, and calls back when it waits for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], n: int, call: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._n = n
        self._call = call
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            self.count += 1
            if self.count == self._n:
                self._call()
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)
