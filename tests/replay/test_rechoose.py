"""Asking today's policy about yesterday's requests."""

import pytest

from instant_model import Instant
from turnlog import Budget
from turnlog.engine.replay.rechoosing import Rechooser
from turnlog.engine.window.policies import Cut, OldestTurns

pytestmark = pytest.mark.anyio

TIGHT = Budget(1_200, 100)


class Frugal(OldestTurns):
    """The default policy, which one day has learnt to keep the last two turns only."""

    def cut(self, units, available, frontier):
        cut = Cut(sum(unit.cost for unit in units))
        starts = [index for index, unit in enumerate(units) if unit.start]
        for unit in units[: starts[-2]]:
            if unit.at not in frontier:
                cut.drop(unit)
        return cut


async def talked(engine, model, turns, **options):
    c = await engine.create(id="c")
    await c.append({"role": "system", "content": "Be brief."})
    for turn in range(turns):
        await c.run(model, f"Question {turn}: " + "and what of it? " * 20, **options)
    return c


async def test_the_policy_of_the_day_chooses_the_same_cut_after_cut(engine, api):
    c = await talked(engine, Instant(api, budget=TIGHT), 40)
    assert len({call.manifest.cut async for call in c.responses()}) > 3
    found = await Rechooser(engine).rechoose("c")
    assert (found.same, found.other, found.unknown) == (40, [], 0)


async def test_another_policy_of_that_name_is_found_out_at_its_first_cut(engine):
    c = await talked(engine, Instant(budget=TIGHT), 20)
    calls = [call async for call in c.responses()]
    first = next(call for call in calls if call.manifest.cut)
    found = await Rechooser(engine, [Frugal()]).rechoose("c")
    assert found.other[0].response == first.seq
    assert found.same + len(found.other) == 20
    assert "kept (it fits) then, dropped" in found.other[0].reason


async def test_a_policy_that_is_not_here_is_not_judged(engine):
    class Own(OldestTurns):
        name = "own"

    await talked(engine, Instant(budget=TIGHT), 5, policy=Own())
    assert (await Rechooser(engine).rechoose("c")).unknown == 5
    assert (await Rechooser(engine, [Own()]).rechoose("c")).same == 5


async def test_rewinds_and_the_tokens_that_the_api_reports_are_taken_as_they_were(engine):
    model = Instant(budget=TIGHT, usage={"input_tokens": 900, "output_tokens": 5})
    c = await talked(engine, model, 8)
    turns = [turn async for turn in c.turns()]
    await c.rewind(to=turns[3].seq - 1)
    for turn in range(5):
        await c.run(model, f"Another {turn}: " + "and what of it? " * 20)
    found = await Rechooser(engine).rechoose("c")
    assert (found.same, found.other, found.unknown) == (13, [], 0)
