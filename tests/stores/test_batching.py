"""Group commit: who waits is written together, everyone learns the own outcome, and nobody is left waiting."""

import asyncio
import gc
import sys
from collections import deque
from itertools import count

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnlog.engine.errors import StoreError, VersionConflict
from turnlog.engine.log import Append, Appended
from turnlog.engine.stores import batching
from turnlog.engine.stores.batching import Batcher


class Writer:
    """A writer that notes its batches, and writes as soon as it may."""

    def __init__(self, *, free=True, fails=(), takes=0.0):
        self.batches = []
        self.numbers = count(1)
        self.free = asyncio.Event()
        self.fails = dict(fails)
        self.takes = takes
        self.seconds = 0.0
        if free:
            self.free.set()

    async def commit(self, take):
        batch = take()
        self.batches.append([append.conversation for append in batch])
        await self.free.wait()
        await anyio.lowlevel.checkpoint()
        self.seconds += self.takes
        if (error := self.fails.get(len(self.batches))) is not None:
            raise error
        return [self.outcome(append) for append in batch]

    def clock(self):
        return self.seconds

    def outcome(self, append):
        if append.conversation.startswith("lost"):
            return VersionConflict(append.conversation, 1, 2)
        number = next(self.numbers)
        return Appended(first=number, last=number, version=number)


def append(name):
    return Append(conversation=str(name), events=[])


async def ticks(number):
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


async def start(batcher, writer, names):
    """Let appends wait behind one that is being written."""
    tasks = [asyncio.ensure_future(batcher.add(append("first")))]
    while not writer.batches:
        await ticks(1)
    tasks += [asyncio.ensure_future(batcher.add(append(name))) for name in names]
    await ticks(3)
    return tasks


@pytest.mark.anyio
async def test_alone_an_append_is_written_at_once():
    writer = Writer()
    batcher = Batcher(writer.commit)
    for number in range(1, 4):
        assert (await batcher.add(append(number))).first == number
    assert writer.batches == [["1"], ["2"], ["3"]]


@pytest.mark.anyio
async def test_who_comes_in_one_moment_is_written_together():
    writer = Writer()
    batcher = Batcher(writer.commit)
    await asyncio.gather(*[batcher.add(append(name)) for name in range(4)])
    assert writer.batches == [["0", "1", "2", "3"]]


@pytest.mark.anyio
async def test_who_comes_meanwhile_is_written_together_in_the_order_of_coming():
    writer = Writer(free=False)
    batcher = Batcher(writer.commit)
    tasks = await start(batcher, writer, "abcd")
    writer.free.set()
    await asyncio.gather(*tasks)
    assert writer.batches == [["first"], ["a", "b", "c", "d"]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [(0.01, [100, 100]), (0.001, [100, batching._FEW])],
    ids=["a slow one is worth filling up", "beside a quick one others are prepared"],
)
async def test_how_many_go_on_at_once_depends_on_how_long_the_last_commit_took(seconds, sizes):
    writer = Writer(takes=seconds)
    batcher = Batcher(writer.commit, clock=writer.clock)

    async def call(name):
        await batcher.add(append(name))
        await batcher.add(append(f"{name} again"))

    names = [str(number) for number in range(100)]
    await asyncio.gather(*map(call, names))
    assert [len(batch) for batch in writer.batches][:2] == sizes
    assert [name for batch in writer.batches for name in batch] == names + [f"{name} again" for name in names]


@pytest.mark.anyio
async def test_the_next_commit_is_asked_for_while_one_is_under_way_and_takes_what_has_come_by_then():
    writer = Writer(free=False)
    asked, one_by_one = [], asyncio.Lock()

    async def commit(take):
        asked.append(take)
        async with one_by_one:
            return await writer.commit(take)

    batcher = Batcher(commit, ahead=True)
    tasks = await start(batcher, writer, "ab")
    assert len(asked) == 2
    tasks += [asyncio.ensure_future(batcher.add(append("c")))]
    await ticks(3)
    assert len(asked) == 2
    writer.free.set()
    await asyncio.gather(*tasks)
    assert writer.batches == [["first"], ["a", "b", "c"]]


@pytest.mark.anyio
async def test_a_commit_that_fails_before_it_takes_anything_fails_for_those_who_wait():
    error = StoreError("the database cannot be opened")

    async def commit(take):
        raise error

    batcher = Batcher(commit)
    for told in await asyncio.gather(*[batcher.add(append(name)) for name in "ab"], return_exceptions=True):
        assert str(told) == str(error)
    await batcher.drained()


@pytest.mark.anyio
async def test_a_batch_is_bounded():
    writer = Writer(free=False, takes=1.0)
    batcher = Batcher(writer.commit, clock=writer.clock)
    names = [str(number) for number in range(2500)]
    tasks = await start(batcher, writer, names)
    writer.free.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in writer.batches] == [1, 1000, 1000, 500]
    assert [name for batch in writer.batches for name in batch] == ["first", *names]


@pytest.mark.anyio
async def test_everyone_learns_the_own_outcome():
    batcher = Batcher(Writer().commit)
    names = ["a", "lost1", "b", "lost2"]
    results = await asyncio.gather(*[batcher.add(append(name)) for name in names], return_exceptions=True)
    assert [getattr(result, "conversation", "written") for result in results] == [
        "written",
        "lost1",
        "written",
        "lost2",
    ]


@pytest.mark.anyio
async def test_when_a_commit_fails_all_of_its_batch_are_told_and_the_next_is_written():
    cause = OSError("no space")
    full = StoreError("log.db: the disk is full", retryable=True)
    full.__cause__ = cause
    writer = Writer(free=False, fails={2: full})
    batcher = Batcher(writer.commit)
    tasks = await start(batcher, writer, "abc")
    writer.free.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Appended)
    for error in others:
        assert isinstance(error, StoreError)
        assert (str(error), error.retryable, error.__cause__) == (str(full), True, cause)
    assert len({id(error) for error in others}) == 3, "each is raised in a task of its own"
    assert isinstance(await batcher.add(append("after")), Appended)
    await batcher.drained()


@pytest.mark.anyio
async def test_an_error_of_another_kind_is_told_as_it_is():
    error = LookupError("a clock that fails")
    batcher = Batcher(Writer(fails={1: error}).commit)
    with pytest.raises(LookupError) as raised:
        await batcher.add(append("a"))
    assert raised.value is error


@pytest.mark.anyio
async def test_a_waiter_that_is_cancelled_before_its_batch_is_not_written():
    writer = Writer(free=False)
    batcher = Batcher(writer.commit)
    tasks = await start(batcher, writer, "abc")
    tasks[1].cancel()
    tasks[3].cancel()
    writer.free.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, Appended) for result in results] == [True, False, True, False]
    assert writer.batches == [["first"], ["b"]]


@pytest.mark.anyio
async def test_who_is_cancelled_in_a_batch_waits_for_it():
    writer = Writer(free=False)
    batcher = Batcher(writer.commit)
    tasks = [asyncio.ensure_future(batcher.add(append(name))) for name in "abc"]
    await ticks(3)
    for task in tasks:
        task.cancel()
    await ticks(5)
    assert not any(task.done() for task in tasks)
    writer.free.set()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert writer.batches == [["a", "b", "c"]]


@pytest.mark.anyio
async def test_drained_waits_for_what_is_being_written():
    writer = Writer(free=False)
    batcher = Batcher(writer.commit)
    await batcher.drained()
    tasks = await start(batcher, writer, "ab")
    drained = asyncio.ensure_future(batcher.drained())
    await ticks(5)
    assert not drained.done()
    writer.free.set()
    await drained
    await asyncio.gather(*tasks)
    assert writer.batches == [["first"], ["a", "b"]]


callers = st.tuples(st.integers(0, 6), st.none() | st.integers(0, 12), st.booleans())


@given(st.lists(callers, min_size=1, max_size=12), st.integers(0, 3), st.integers(0, 4), st.booleans())
@settings(max_examples=300)
def test_whoever_is_cancelled_whenever_everyone_else_is_written_once(plan, waits, slowness, ahead):
    written = []
    returned = []
    one_by_one = asyncio.Lock()

    async def commit(take):
        await ticks(waits)
        async with one_by_one:
            return await write(take())

    async def write(batch):
        await ticks(slowness)
        written.extend(append.conversation for append in batch)
        return [Appended(first=1, last=1, version=1) for _ in batch]

    async def call(batcher, name, start):
        await ticks(start)
        await batcher.add(append(name))
        returned.append(name)

    async def scoped(batcher, name, start, scope):
        with scope:
            await call(batcher, name, start)

    async def main():
        batcher = Batcher(commit, ahead=ahead)
        scopes = [anyio.CancelScope() for _ in plan]
        tasks = [
            asyncio.ensure_future(scoped(batcher, str(number), start, scope))
            for number, ((start, _, _), scope) in enumerate(zip(plan, scopes, strict=True))
        ]
        for tick in range(13):
            for (_, cancelled_at, by_scope), task, scope in zip(plan, tasks, scopes, strict=True):
                if cancelled_at == tick:
                    (scope.cancel if by_scope else task.cancel)()
            await ticks(1)
        await asyncio.wait(tasks)
        await batcher.drained()
        assert isinstance(await batcher.add(append("after")), Appended)

    asyncio.run(main())
    assert len(set(written)) == len(written), "nothing is written twice"
    assert set(returned) <= set(written), "who returned was written"
    for number, (_, cancelled_at, _) in enumerate(plan):
        if cancelled_at is None:
            assert str(number) in returned


def test_when_the_event_loop_ends_nobody_is_left_waiting():
    outcomes = []

    async def main():
        batcher = Batcher(Writer(free=False).commit)

        async def call(name):
            try:
                await batcher.add(append(name))
            except BaseException as error:
                outcomes.append(type(error))
                raise

        tasks = [asyncio.ensure_future(call(name)) for name in range(5)]
        await ticks(3)
        return tasks

    # The runner cancels everything at its end, the task that writes too.
    tasks = asyncio.run(main())
    assert all(task.cancelled() for task in tasks)
    assert outcomes == [asyncio.CancelledError] * 5


@pytest.mark.anyio
async def test_when_the_writing_task_is_stopped_everyone_is_told_so():
    writer = Writer(free=False)
    batcher = Batcher(writer.commit)
    before = asyncio.all_tasks()
    tasks = [asyncio.ensure_future(batcher.add(append(name))) for name in "abc"]
    await ticks(3)
    (inner,) = asyncio.all_tasks() - before - set(tasks)
    inner.cancel()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, StoreError)
        assert "read the log to see" in str(error)
    writer.free.set()
    assert isinstance(await batcher.add(append("after")), Appended)


@pytest.mark.anyio
async def test_a_commit_that_is_stopped_before_its_first_step_holds_nobody_up():
    batcher = Batcher(Writer().commit, ahead=True)
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(batcher.add(append("a")))
    await ticks(1)
    (inner,) = asyncio.all_tasks() - before - {waiting}
    inner.cancel()
    with anyio.fail_after(10):
        assert isinstance(await waiting, Appended)
        assert isinstance(await batcher.add(append("after")), Appended)
        await batcher.drained()


def test_an_event_loop_that_is_closed_while_appends_wait_reports_nothing(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)

    async def main():
        batcher = Batcher(Writer(free=False).commit, ahead=True)
        tasks = [asyncio.ensure_future(batcher.add(append(name))) for name in "abc"]
        await ticks(3)
        for task in asyncio.all_tasks():
            task._log_destroy_pending = False  # what asyncio itself says of it
        return tasks

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(main())
    loop.close()
    assert not any(task.done() for task in tasks)
    del tasks
    gc.collect()
    assert [str(one.exc_value) for one in reported] == []


class Thread:
    """What a writer's thread would do, a step at a time: it takes, and is done with, one batch after the other."""

    def __init__(self):
        self.queue = deque()
        self.batch = None
        self.written = []
        self.busy = False

    async def commit(self, take):
        done = asyncio.get_running_loop().create_future()
        self.queue.append((take, done))
        return await done

    def step(self):
        if self.queue and not self.busy:
            self.busy = True
            self.work()
            self.busy = False

    def work(self):
        take, done = self.queue[0]
        if self.batch is None:
            self.batch = take()
            return
        names = [append.conversation for append in self.batch]
        self.written.extend(names)
        outcomes = [Appended(first=1, last=1, version=1) for _ in names]
        done.get_loop().call_soon_threadsafe(done.set_result, outcomes)
        self.queue.popleft()
        self.batch = None


def interleaved(place, steps):
    """Let the writer's thread do some steps at the n-th instruction of the batcher's; return whether there was one."""
    thread = Thread()
    batcher = Batcher(thread.commit, ahead=True)
    number = count()

    def trace(frame, event, _):
        if frame.f_code.co_filename != batching.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(number) == place:
            for _ in range(steps):
                if not batcher._taking.locked():  # there a thread would wait
                    thread.step()
        return trace

    async def call(name):
        await batcher.add(append(f"{name}1"))
        await batcher.add(append(f"{name}2"))

    async def main():
        tasks = [asyncio.ensure_future(call("a"))]
        await ticks(2)
        tasks += [asyncio.ensure_future(call(name)) for name in "bc"]
        for tick in range(100):
            thread.step()
            if tick == 3:
                tasks[1].cancel()
            await ticks(1)
        assert all(task.done() for task in tasks), "somebody is left waiting"
        assert not batcher._commits

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        asyncio.run(main())
    finally:
        sys.settrace(before)
    assert len(set(thread.written)) == len(thread.written), "nothing is written twice"
    assert {"a1", "a2", "c1", "c2"} <= set(thread.written)
    return next(number) > place


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_wherever_the_writers_thread_comes_in_between_everyone_is_written_once(steps, pytestconfig):
    for place in count(0, 1 if pytestconfig.getoption("long") else 3):
        if not interleaved(place, steps):
            break
    assert place > 1000
