"""`finish`: work goes on to its end, whoever is cancelled meanwhile, and then the cancellation goes on."""

import asyncio

import anyio
import anyio.lowlevel
import pytest

from turnlog.engine.shield import finish
from turnlog.engine.testing.cancelling import HOW, everywhere

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", HOW)
async def test_work_is_done_wherever_its_caller_is_cancelled(how):
    done = []

    async def work():
        await anyio.sleep(0.001)
        await anyio.sleep(0.001)
        done.append("done")
        return "result"

    async for attempt in everywhere(lambda: finish(work()), how):
        assert done.pop() == "done"
        assert attempt.cancelled == (attempt.reached and how == "asyncio")
        assert attempt.cancelled or attempt.result == "result"


async def test_cancelled_again_and_again_it_is_done_once():
    done = asyncio.Event()

    async def work():
        await done.wait()
        return 1

    task = asyncio.ensure_future(finish(work()))
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
        task.cancel()
    await anyio.lowlevel.checkpoint()
    assert not task.done()
    done.set()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_scope_that_is_over_is_told_behind_it():
    with anyio.CancelScope() as scope:
        scope.cancel()

        async def work():
            await anyio.sleep(0.001)
            return "done"

        assert await finish(work()) == "done"
        await anyio.sleep(1)
    assert scope.cancelled_caught


async def test_errors_come_out_as_they_are():
    async def work():
        await anyio.lowlevel.checkpoint()
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        await finish(work())


async def test_an_error_of_cancelled_work_is_not_reported_as_lost():
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def work():
        await anyio.sleep(0.001)
        raise LookupError("x")

    task = asyncio.ensure_future(finish(work()))
    await anyio.lowlevel.checkpoint()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reported == []


async def test_a_time_limit_is_told_after_the_work():
    done = []

    async def work():
        await anyio.sleep(0.02)
        done.append(1)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await finish(work())
    assert done == [1]
