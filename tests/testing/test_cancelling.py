"""The helper that cancels work at each suspension really does, where it says."""

import asyncio

import anyio
import anyio.lowlevel
import pytest

from turnlog.engine.testing.cancelling import HOW, Attempt, cancelled_at, everywhere

pytestmark = pytest.mark.anyio


def three_steps(log):
    async def work():
        try:
            log.append(0)
            await anyio.lowlevel.checkpoint()
            log.append(1)
            await asyncio.sleep(0.001)
            log.append(2)
            await asyncio.ensure_future(asyncio.sleep(0, "inner"))
            log.append(3)
            return "result"
        finally:
            log.append("end")

    return work


@pytest.mark.parametrize("how", HOW)
async def test_it_cancels_at_each_suspension_in_turn(how):
    log = []
    seen = []
    async for attempt in everywhere(three_steps(log), how):
        seen.append((attempt.reached, attempt.cancelled, list(log)))
        log.clear()
    assert attempt == Attempt(reached=False, cancelled=False, result="result")
    reached = [steps for was_reached, _, steps in seen if was_reached]
    assert all(steps[-1] == "end" for steps in reached)
    assert {len(steps) for steps in reached} == {2, 3, 4}
    assert [(was, cancelled) for was, cancelled, _ in seen] == [(True, True)] * (len(seen) - 1) + [(False, False)]


@pytest.mark.parametrize("how", HOW)
async def test_work_that_never_waits_is_not_cancelled(how):
    async def work():
        return 5

    assert await cancelled_at(1, work, how) == Attempt(reached=False, cancelled=False, result=5)


@pytest.mark.parametrize("how", HOW)
async def test_errors_are_handed_back(how):
    async def work():
        await anyio.lowlevel.checkpoint()
        raise LookupError("x")

    attempt = await cancelled_at(9, work, how)
    assert isinstance(attempt.error, LookupError)
    assert not attempt.cancelled


async def test_a_shield_holds_off_a_scope_and_not_a_task():
    async def work():
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.001)
        return "whole"

    assert await cancelled_at(1, work, "anyio") == Attempt(reached=True, cancelled=False, result="whole")
    assert await cancelled_at(1, work, "asyncio") == Attempt(reached=True, cancelled=True)


@pytest.mark.parametrize("how", HOW)
async def test_the_caller_goes_on(how):
    await cancelled_at(1, three_steps([]), how)
    await anyio.sleep(0.001)
