"""What a system can be asked to do while the clock runs: appends, windows, turns. The same code for every system."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.disk import DISK, flush_ms, flush_takes, flushed, flushes_each
from benchmarks.systems import System, Windowed
from benchmarks.workload import TURN, Item, items, size

__all__ = ("TASKS", "Task")

Task = Callable[..., Awaitable[Mapping[str, Any]]]

_POOL: Final = 8_000
"""Items that appends draw from."""
_pool: list[Item] = []


def pool() -> list[Item]:
    """Return items to append, made before the clock runs."""
    if not _pool:
        _pool.extend(items(_POOL))
    return _pool


async def appends(system: System, *, flush: int, label: str, conversations: int, seconds: float) -> Mapping[str, Any]:
    """Append one item after the other to conversations of their own, all at once, until the time is up.

    Everyone finishes what it has begun, and appends one item at least. Creating the conversations takes no part.
    """
    given = pool()
    flush_takes(0)
    names = [f"{label}-{number}" for number in range(conversations)]
    for name in names:
        await system.begin(name)
    flush_takes(flush)
    times: list[float] = []
    busy = 0
    gc.collect()
    before = flushed()
    begun = time.perf_counter()
    end = begun + seconds

    async def write(number: int) -> None:
        nonlocal busy
        name = names[number]
        at = number * 13 * TURN
        while True:
            now = time.perf_counter()
            try:
                await system.append(name, [given[at % _POOL]])
            except Exception as error:
                if not system.is_busy(error):
                    raise
                busy += 1
            else:
                times.append(time.perf_counter() - now)
                at += 1
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*map(write, range(conversations)))
    taken = time.perf_counter() - begun
    each = flushes_each(before, len(times))
    flush_takes(DISK)
    return {"seconds": taken, "times": times, "busy": busy, "flushes": each}


async def seed(system: System, *, conversation: str, count: int, first: int, seconds: float) -> Mapping[str, Any]:
    """Make a conversation so many items long, unless that would take longer than allowed; return how long it is.

    What it is asked for is more than the first part took to tell, so a system that is too slow is given up early.
    """
    flush_takes(0)
    await system.begin(conversation)
    begun = time.perf_counter()
    done = 0
    while done < count:
        part = items(min(system.bulk, count - done), first + done // TURN)
        await system.seed(conversation, part)
        done += len(part)
        taken = time.perf_counter() - begun
        if taken > seconds or taken / done * count > 2 * seconds:
            break
    flush_takes(DISK)
    return {"items": done, "seconds": time.perf_counter() - begun}


async def windows(
    system: Windowed, *, conversation: str, budget: int, way: str, times: int, seconds: float
) -> Mapping[str, Any]:
    """Ask for a window some times, or until the time is up; return what each took."""
    await system.begin(conversation)
    gc.collect()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < times and (not taken or time.perf_counter() < end):
        now = time.perf_counter()
        await system.window(conversation, budget, way)
        taken.append(time.perf_counter() - now)
    return {"times": taken}


async def look(system: Windowed, *, conversation: str, budget: int, way: str) -> Mapping[str, Any]:
    """Return what a window holds, as a digest of its texts, and how many rows were read for it."""
    await system.begin(conversation)
    found = await system.window(conversation, budget, way)
    texts = [system.text(item) for item in found.items]
    rows = await system.rows(conversation, budget, way)
    whole = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return {"items": len(texts), "digest": whole, "rows": rows}


async def turns(
    system: Windowed, *, flush: int, conversations: Sequence[str], at: int, budget: int, way: str
) -> Mapping[str, Any]:
    """Do the storage work of a turn in each conversation: append its four items, then ask for a window."""
    given = [items(TURN, at + number) for number in range(len(conversations))]
    for conversation in conversations:
        await system.begin(conversation)
        await system.window(conversation, budget, way)  # a service has just answered the turn before
    gc.collect()
    times: list[float] = []
    before = flushed()
    flush_takes(flush)
    for conversation, made in zip(conversations, given, strict=True):
        now = time.perf_counter()
        await system.append(conversation, made)
        await system.window(conversation, budget, way)
        times.append(time.perf_counter() - now)
    each = flushes_each(before, len(times))
    flush_takes(DISK)
    return {"times": times, "flushes": each}


async def fill(system: System, *, conversations: int, count: int, seconds: float) -> Mapping[str, Any]:
    """Append turns to conversations, one append each, until the time is up; return what JSON they are."""
    flush_takes(0)
    end = time.perf_counter() + seconds
    done = written = 0
    for number in range(conversations):
        name = f"fill-{number}"
        await system.begin(name)
        for at in range(0, count, TURN):
            made = items(TURN, number * count + at // TURN)
            await system.append(name, made)
            done += TURN
            written += sum(map(size, made))
            if time.perf_counter() > end:
                break
        if time.perf_counter() > end:
            break
    flush_takes(DISK)
    return {"items": done, "json": written}


async def flush(system: System, *, flush: int) -> Mapping[str, Any]:
    """Return what a flush takes."""
    flush_takes(flush)
    taken = flush_ms(system.folder)
    flush_takes(DISK)
    return {"ms": taken}


async def durability(system: System) -> Mapping[str, Any]:
    """Append an item; return how it is made to last, and how many flushes that took, None where none are counted."""
    flush_takes(0)
    await system.begin("durability")
    await system.append("durability", items(1))  # what is made only once is there
    before = flushed()
    await system.append("durability", items(1, 1))
    each = flushes_each(before, 1)
    flush_takes(DISK)
    return {"durability": await system.durability(), "flushes": each}


async def remember(system: Windowed, *, conversations: Sequence[str], budget: int, way: str) -> Mapping[str, Any]:
    """Take conversations up and ask each for a window; return by how many bytes the process grew, and at most."""
    gc.collect()
    most_from_now_on()
    before, _ = memory()
    for conversation in conversations:
        await system.begin(conversation)
        await system.window(conversation, budget, way)
    gc.collect()
    after, most = memory()
    return {"grown": after - before, "peak": most - before}


def most_from_now_on() -> None:
    """Let the most that this process ever had begin with what it has now; what it had at its start is no measure.

    Raises:
        OSError: the system does not let it.
    """
    Path("/proc/self/clear_refs").write_text("5")


def memory() -> tuple[int, int]:
    """Return the bytes that this process has resident, and the most that it ever had.

    Raises:
        OSError: the system does not tell.
    """
    said = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        said[name] = value.split()
    return int(said["VmRSS"][0]) * 1024, int(said["VmHWM"][0]) * 1024


TASKS: Final[Mapping[str, Task]] = {
    task.__name__: task for task in (appends, seed, windows, look, turns, fill, flush, durability, remember)
}
