"""The kit for stores that others write: its ten lines, its faults, its processes."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import suppress
from functools import partial

import anyio
import pytest

from turnlog.engine.errors import StoreError
from turnlog.engine.log import Key, Store
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing import contract
from turnlog.engine.testing.contract_kit import At, created, head_of, item, started, texts_of
from turnlog.engine.testing.faults import FAULTS_OF_CALLS, VERBS, FaultyStore, chance, nth
from turnlog.engine.testing.processes import in_processes

pytestmark = pytest.mark.anyio

MY_STORE = """
from turnlog.engine.stores.memory import MemoryStore

class MyStore(MemoryStore):
    @classmethod
    async def open(cls, path):
        return cls()
"""


def the_ten_lines():
    assert contract.__doc__ is not None
    lines = re.search(r"\n\n((?:    .*\n|\n)+)", contract.__doc__)
    assert lines is not None
    return textwrap.dedent(lines[1])


def test_the_ten_lines_run_all_suites(tmp_path):
    lines = the_ten_lines()
    assert len([line for line in lines.splitlines() if line]) == 10
    (tmp_path / "my_store.py").write_text(MY_STORE)
    (tmp_path / "test_my_store.py").write_text(lines)
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_store.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    passed, skipped = map(int, re.search(r"(\d+) passed, (\d+) skipped", told.stdout).groups())
    assert passed + skipped == len([*contract.CHECKS, *contract.CONCURRENCY, *contract.FAULTS])
    assert skipped < passed / 4


async def test_a_store_that_is_wrong_fails(tmp_path):
    """The suites see what a store does wrong; here one that forgets keys, one that doubles, one that is torn."""

    class Forgetful(MemoryStore):
        async def append(self, conversation, events, *, key=None, **more):
            return await super().append(conversation, events, **more)

    class Doubling(MemoryStore):
        async def feed(self, after, limit):
            return [*await super().feed(after, limit), *await super().feed(after, 1)][:limit]

    class Torn(MemoryStore):
        async def append(self, conversation, events, **more):
            for event in events[:-1]:
                await super().append(conversation, [event], **more)
                await anyio.lowlevel.checkpoint()
            return await super().append(conversation, events[-1:], **more)

    for wrong in (Forgetful, Doubling, Torn):

        async def opened(wrong=wrong):
            return wrong()

        failed = Counter()
        for check in contract.CHECKS:
            try:
                await check(At(opened))
            except contract.Declined:
                pass
            except Exception as error:
                failed[type(error).__name__] += 1
        assert failed["AssertionError"] > 0, wrong


# -- faults


def test_a_faulty_store_has_every_verb():
    verbs = {name for name, value in vars(Store).items() if callable(value) and not name.startswith("_")}
    assert verbs - {"close"} == VERBS


async def test_refused_is_not_done_and_lost_is_done():
    inner = MemoryStore()
    store = FaultyStore(inner, nth(2, "refuse", "append"))
    await started(store)
    with pytest.raises(StoreError) as refused:
        await store.append("c", [item("one")])
    assert refused.value.retryable
    assert (await head_of(inner)).version == 1
    store.plan = nth(1, "lose")
    with pytest.raises(StoreError, match="lost"):
        await store.append("c", [item("one")], key=Key("k", "d"))
    assert (await head_of(inner)).version == 2
    assert (await store.append("c", [item("one")], key=Key("k", "d"))).replayed
    assert store.struck == [(2, "append", "refuse"), (3, "append", "lose")]
    assert store.calls == ["append"] * 4


async def test_a_cancelled_call_cancels_whom_it_is_told_to():
    store = FaultyStore(MemoryStore(), nth(2, "cancel"))
    await started(store)
    with anyio.CancelScope() as scope:
        store.cancel = scope.cancel
        await store.append("c", [item("one")])
        await anyio.sleep_forever()
    assert scope.cancelled_caught

    async def alone():
        other = FaultyStore(MemoryStore(), nth(1, "cancel"))
        await other.append("c", [created()])
        await anyio.sleep_forever()

    task = asyncio.ensure_future(alone())
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_delayed_call_lets_others_go_first():
    store = FaultyStore(MemoryStore(), nth(2, "delay", "append"))
    await started(store)
    async with anyio.create_task_group() as group:
        for text in ("slow", "fast"):
            group.start_soon(partial(store.append, "c", [item(text)]))
    assert await texts_of(store) == ["fast", "slow"]


async def test_a_seed_fails_alike():
    async def struck(seed):
        store = FaultyStore(MemoryStore(), chance(seed, 0.5, "refuse", "lose", "delay"))
        for number in range(100):
            with suppress(StoreError):
                await store.append(f"c{number}", [created()])
        return store.struck

    assert await struck(1) == await struck(1) != await struck(2)
    ways = Counter(fault for _, _, fault in await struck(1))
    assert set(ways) == set(FAULTS_OF_CALLS) - {"cancel"}
    assert 30 < ways.total() < 70


# -- processes


class Here:
    """A place that only this file knows."""

    def __init__(self, word):
        self.word = word

    def open(self):
        return At(memory).open()


async def memory():
    return MemoryStore()


async def work(store, *words):
    sys.stdout.write("what is printed is not what is returned")
    await started(store)
    assert "wrong" not in words, "as was to be expected"
    return os.getpid(), words


async def test_functions_work_in_processes_of_their_own():
    results = await in_processes(Here("x"), work, [("a", 1), ("b", 2), ("c", None)])
    assert [words for _, words in results] == [("a", 1), ("b", 2), ("c", None)]
    assert len({pid for pid, _ in results} | {os.getpid()}) == 4


async def test_what_goes_wrong_in_a_process_is_told():
    with pytest.raises(AssertionError, match="as was to be expected"):
        await in_processes(Here("x"), work, [("right",), ("wrong",)])
    with pytest.raises(AssertionError, match="ended with 3"):
        await in_processes(Here("x"), leave, [()])


async def leave(store):
    os._exit(3)
