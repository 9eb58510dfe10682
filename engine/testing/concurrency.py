"""A store under load: a thousand conversations, many tasks and handles at one, and processes that share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import groupby
from typing import Final

import anyio

from ..errors import ConversationBusy, VersionConflict
from ..ids import ANY, NO_STREAM
from ..log import Appended, Fork, Key, Release, Store, Take
from .contract_feeding import all_of, follows
from .contract_kit import (
    LONG,
    Check,
    Declined,
    Place,
    created,
    head_of,
    item,
    records_of,
    started,
    text_of,
    texts_of,
    together,
)
from .processes import in_processes

__all__ = ("CONCURRENCY",)

PROCESSES: Final = 8
FEW: Final = 4
"""Processes, where more of them show nothing else."""
HANDLES: Final = 4
PATIENCE: Final = 60.0
"""Seconds in which what others do must come to its end."""


async def exactly(store: Store, name: str, text: str) -> Appended:
    """Append a message at the exact version, reading on after each conflict."""
    while True:
        version = (await head_of(store, name)).version
        try:
            return await store.append(name, [item(text)], expected=version)
        except VersionConflict as error:
            if error.actual <= version:
                raise


async def _is_whole(store: Store, name: str, told: Sequence[tuple[str, int]]) -> None:
    """See to it that a conversation consists of what was told to be appended, each text at its seq."""
    records = await records_of(store, name)
    assert sorted((text_of(record), record.seq) for record in records[1:]) == sorted(told)
    by_task = sorted(told, key=lambda one: one[0].rpartition(".")[0])
    for _, own in groupby(by_task, key=lambda one: one[0].rpartition(".")[0]):
        numbers = [int(text.rpartition(".")[2]) for text, _ in sorted(own, key=lambda one: one[1])]
        assert numbers == sorted(numbers), "each one's appends are in the order of its own making"


# -- in one process


async def _conversations_at_once(place: Place, number: int) -> None:
    async with place.open() as store:
        names = [f"c{index}" for index in range(number)]

        async def talk(name: str) -> None:
            version = (await store.append(name, [created({"of": name})], expected=NO_STREAM)).version
            for turn in range(3):
                texts = [item(f"{name} {turn}.{part}") for part in range(2)]
                version = (await store.append(name, texts, expected=version, key=Key(str(turn), name))).version
            assert (await head_of(store, name)).version == version == 7

        results = await together(*(partial(talk, name) for name in names))
        assert not [result for result in results if result is not None]
        for name in names:
            assert await texts_of(store, name) == [f"{name} {turn}.{part}" for turn in range(3) for part in range(2)]
        heads = await store.heads(limit=2 * number)
        assert Counter(head.conversation for head in heads) == Counter(names)
        fed = await all_of(store, limit=500)
        follows(fed)
        assert len(fed) == 7 * number


async def a_hundred_conversations_at_once(place: Place) -> None:
    """A hundred conversations that are held at once are each as if it were alone."""
    await _conversations_at_once(place, 100)


async def a_thousand_conversations_at_once(place: Place) -> None:
    """A thousand conversations that are held at once are each as if it were alone."""
    await _conversations_at_once(place, 1000)


async def many_tasks_at_one_version(place: Place) -> None:
    """Tasks that all append at the exact version, reading on after each conflict, all get their turn."""
    async with place.open() as store:
        await started(store)
        told: list[tuple[str, int]] = []

        async def work(task: int) -> None:
            for number in range(5):
                text = f"{task}.{number}"
                told.append((text, (await exactly(store, "c", text)).first))

        async with anyio.create_task_group() as group:
            for task in range(20):
                group.start_soon(work, task)
        assert len(told) == 100
        await _is_whole(store, "c", told)


async def many_handles_are_one_log(place: Place) -> None:
    """Tasks at several openings of one log, with ANY and with exact versions, are one sequence."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(place.open())]
        if not stores[0].shared:
            raise Declined("shared")
        stores += [await stack.enter_async_context(place.open()) for _ in range(HANDLES - 1)]
        await started(stores[0])
        told: list[tuple[str, int]] = []

        async def work(task: int) -> None:
            store = stores[task % HANDLES]
            for number in range(5):
                text = f"{task}.{number}"
                append = exactly(store, "c", text) if task % 3 else store.append("c", [item(text)])
                told.append((text, (await append).first))

        async with anyio.create_task_group() as group:
            for task in range(5 * HANDLES):
                group.start_soon(work, task)
        for store in stores:
            await _is_whole(store, "c", told)


# -- in several processes


async def _shared(place: Place, *names: str) -> None:
    """Make a log with some conversations, unless it is not for several processes."""
    async with place.open() as store:
        if not store.shared:
            raise Declined("shared")
        for name in names:
            await started(store, name)


async def append_ways(store: Store, process: int, times: int) -> list[tuple[str, str, int]]:
    """Append at any version, at exact ones, and under keys that all processes use; return what went where."""
    told: list[tuple[str, str, int]] = []
    for number in range(times):
        text = f"{process}.{number}"
        told.append(("any", text, (await store.append("any", [item(text)], expected=ANY)).first))
        told.append(("exact", text, (await exactly(store, "exact", text)).first))
        keyed = await store.append("keyed", [item(f"all.{number}")], key=Key(str(number), "d"))
        told.append(("keyed", f"all.{number}", keyed.first))
    return told


async def processes_append_to_one_conversation(place: Place) -> None:
    """Appends of several processes are one sequence; nothing is lost or doubled, each one's are in its own order."""
    times = 10
    await _shared(place, "any", "exact", "keyed")
    lines = await in_processes(place, append_ways, [(process, times) for process in range(PROCESSES)])
    async with place.open() as store:
        for name in ("any", "exact"):
            await _is_whole(store, name, [(text, seq) for told in lines for one, text, seq in told if one == name])
        keyed = {(text, seq) for told in lines for one, text, seq in told if one == "keyed"}
        await _is_whole(store, "keyed", list(keyed))
        assert len(keyed) == times, "who came later was told where the first one's is"


async def create_and_fork(store: Store, process: int) -> list[str]:
    """Create, and fork, what all processes want to; return what this one was first to do."""
    first: list[str] = []
    for number in range(5):
        name = f"c{number}"
        for made, fork in ((name, None), (f"{name}.fork", Fork(name, 2))):
            try:
                events = [created(), item(f"{process}")]
                await store.append(made, events, expected=NO_STREAM, fork=fork)
                first.append(made)
            except VersionConflict:
                pass
    return first


async def processes_create_a_conversation_once(place: Place) -> None:
    """Of processes that create the same conversation, or the same fork, one succeeds."""
    await _shared(place)
    lines = await in_processes(place, create_and_fork, [(process,) for process in range(FEW)])
    names = [f"c{number}{fork}" for number in range(5) for fork in ("", ".fork")]
    assert sorted(name for first in lines for name in first) == names
    async with place.open() as store:
        for process, first in enumerate(lines):
            for name in first:
                assert (await texts_of(store, name))[-1] == str(process)


async def take_turns(store: Store, process: int, times: int) -> int:
    """Have turns under a lease that all processes want; return how often it was busy."""
    busy = 0
    for number in range(times):
        while True:
            try:
                text = item(f"{process}.{number}")
                taken = await store.append("c", [text], lease=Take(owner=str(process), seconds=LONG, turn=-1))
                break
            except ConversationBusy:
                busy += 1
                await anyio.sleep(0.002)
        for _ in range(2):
            await store.append("c", [text], fence=taken.generation)
        await store.append("c", [text], fence=taken.generation, lease=Release())
    return busy


async def processes_take_turns(place: Place) -> None:
    """Turns under one lease never overlap, whichever processes they are in; each has its own generation."""
    times, processes = 5, FEW
    await _shared(place, "c")
    await in_processes(place, take_turns, [(process, times) for process in range(processes)])
    async with place.open() as store:
        texts = await texts_of(store)
        turns = [texts[start : start + 4] for start in range(0, len(texts), 4)]
        assert all(len(set(turn)) == 1 for turn in turns), "a turn has its items together"
        assert Counter(turn[0] for turn in turns) == Counter(f"{p}.{n}" for p in range(processes) for n in range(times))
        head = await head_of(store)
        assert (head.generation, head.lease) == (processes * times, None)


async def write_or_follow(store: Store, process: int, times: int, total: int) -> list[tuple[str, int]]:
    """Append to conversations that all share, or follow the feed from its beginning; return what was seen."""
    if process % 2:
        for number in range(times):
            name = f"c{(process + number) % 3}"
            await store.append(name, [item(f"{process}.{number}") for _ in range(1 + number % 3)])
        return []
    seen: list[tuple[str, int]] = []
    after = None
    with anyio.fail_after(PATIENCE):
        while len(seen) < total:
            page = await store.feed(after, 7)
            seen += [(one.record.conversation, one.record.seq) for one in page]
            after = page[-1].record.position if page else after
            if not page:
                await anyio.sleep(0.002)
    return seen


async def processes_follow_without_a_gap(place: Place) -> None:
    """Who follows from one process what others append gets every event once, a conversation's in seq order."""
    times, names = 24, ("c0", "c1", "c2")
    await _shared(place, *names)
    total = len(names) + FEW // 2 * sum(1 + number % 3 for number in range(times))
    arguments = [(process, times, total) for process in range(FEW)]
    lines = await in_processes(place, write_or_follow, arguments)
    async with place.open() as store:
        whole = await all_of(store)
        follows(whole)
        places = [(one.record.conversation, one.record.seq) for one in whole]
        assert len(places) == total
        assert all(seen == places for seen in lines[::2])


CONCURRENCY: Final[tuple[Check, ...]] = (
    a_hundred_conversations_at_once,
    a_thousand_conversations_at_once,
    many_tasks_at_one_version,
    many_handles_are_one_log,
    processes_append_to_one_conversation,
    processes_create_a_conversation_once,
    processes_take_turns,
    processes_follow_without_a_gap,
)
"""What must hold under load, one function each; its docstring says what."""
