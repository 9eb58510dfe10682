"""What if the budget, the policy or the API had been another."""

import pytest

from instant_model import Instant
from turnlog import Budget, Invalid, open_engine
from turnlog.engine.log import Query
from turnlog.engine.prices import Price, Prices
from turnlog.engine.replay.scenarios import Scenario
from turnlog.engine.replay.whatif import WhatIf
from turnlog.engine.window.policies import Compacting, OldestTurns

pytestmark = pytest.mark.anyio

LONG = "and what of it? " * 20


async def talked(engine, model, turns=30, name="c"):
    c = await engine.create(id=name)
    await c.append({"role": "system", "content": "Be brief."})
    for turn in range(turns):
        await c.run(model, f"Question {turn}: {LONG}", instructions="Answer.")
    return c


async def came(engine, *scenarios, name="c", prices=None):
    found = WhatIf(engine, scenarios, prices)
    await found.run(name)
    return found


def figures(one):
    return one.requests, one.overflow, one.tokens, one.shared, one.largest, one.cuts


async def test_what_was_is_what_comes_of_the_same_again(engine, api):
    await talked(engine, Instant(api, budget=Budget(1_200, 100)))
    found = await came(engine, Scenario(), Scenario(context=1_200, reserve=100, policy=OldestTurns(), api=api))
    assert found.recorded.cuts > 3
    for one in found.outcomes:
        assert figures(one) == figures(found.recorded)
        assert one.series == found.recorded.series


async def test_another_context_gives_the_requests_that_it_would_have_given(engine, api):
    """The proof: the same questions, asked under that context in fact."""
    await talked(engine, Instant(api, budget=Budget(5_000)))
    found = await came(engine, Scenario(context=900), Scenario(context=900, reserve=200))
    for one, budget in zip(found.outcomes, (Budget(900), Budget(900, 200)), strict=True):
        async with open_engine(":memory:") as other:
            await talked(other, Instant(api, budget=budget))
            assert one.series == (await came(other)).recorded.series
            assert one.cuts > 3


async def test_the_other_api_gives_the_requests_that_it_would_have_given(engine):
    await talked(engine, Instant("chat", budget=Budget(1_000)))
    found = await came(engine, Scenario(api="responses"))
    async with open_engine(":memory:") as other:
        await talked(other, Instant("responses", budget=Budget(1_000)))
        assert found.outcomes[0].series == (await came(other)).recorded.series


async def test_what_does_not_fit_is_counted_and_the_rest_goes_on(engine):
    c = await engine.create(id="c")
    model = Instant(budget=Budget(10_000))
    for text in ("Hi!", LONG * 10, "And now?"):
        await c.run(model, text)
    (one,) = (await came(engine, Scenario(context=300))).outcomes
    assert (one.requests, one.overflow) == (3, 1)
    assert one.series[1] is None
    assert one.rooms == [300, 300, 300]
    assert max(one.series[0], one.series[2]) <= 300


async def test_rewinds_tools_and_long_logs_come_out_as_they_were(engine, monkeypatch):
    """Where the history is read anew rather than carried along, too."""
    model = Instant(budget=Budget(1_200, 100))
    c = await talked(engine, model, 25)
    turns = [turn async for turn in c.turns()]
    await c.rewind(to=turns[18].seq - 1)
    for turn in range(12):
        await c.run(model, f"Another {turn}: {LONG}", instructions="Answer.")
    for growth in (2_000, -50):
        monkeypatch.setattr("turnlog.engine.replay.whatif._GROWTH", growth)
        found = await came(engine, Scenario(), Scenario(context=700), Scenario(context=50_000))
        assert found.outcomes[0].series == found.recorded.series
        # What the recorded cuts have dropped is there again.
        assert found.outcomes[2].cuts == 0
        assert found.outcomes[2].largest > 3_000
        assert found.outcomes[1].overflow == 0
        assert max(found.outcomes[1].series) <= 700


async def test_prices_are_of_what_is_sent_and_what_was_answered(engine):
    await talked(engine, Instant(budget=Budget(5_000), usage={"input_tokens": 10, "output_tokens": 50}), 25)
    prices = Prices({"gpt-4o-mini": Price(1.0, 10.0, cached=0.5)})
    found = await came(engine, Scenario(context=600), prices=prices)
    for one in (found.recorded, *found.outcomes):
        wanted = ((one.tokens - one.cached) * 1.0 + one.cached * 0.5 + 25 * 50 * 10.0) / 1e6
        assert one.price == pytest.approx(wanted)
        assert one.unpriced == 0
    # A cache serves the beginning that requests share by the block, and nothing below 1,024 tokens.
    assert 0 < found.recorded.cached < found.recorded.shared
    assert (found.recorded.cached % 128, found.outcomes[0].cached) == (0, 0)
    other = await came(engine, prices=Prices({"gpt-9": Price(1.0, 1.0)}))
    assert (other.recorded.price, other.recorded.unpriced) == (None, 25)
    other = await came(engine, prices=Prices({}, Price(1.0, 10.0, cached=0.5)))
    assert other.recorded.price == found.recorded.price


async def test_an_answer_without_a_report_costs_what_was_counted(engine):
    await talked(engine, Instant(usage="none", budget=Budget(5_000)), 3)
    found = await came(engine, prices=Prices({"gpt-4o-mini": Price(0.0, 1e6)}))
    made = [entry.seq async for entry in (await engine.get("c")).items() if entry.item.get("role") == "assistant"]
    records = (await engine.store.read("c", Query())).records[0]
    assert found.recorded.price == sum(one.tokens for one in records if one.seq in made) > 0


@pytest.mark.parametrize("method", ["extract", "summary"])
async def test_compactions_are_supposed_where_a_policy_makes_them(engine, method):
    """The proof: the same questions, asked under that policy in fact; as often, and with windows as large."""
    policy = Compacting(method, at=0.7)
    await talked(engine, Instant(budget=Budget(50_000)), 40)
    prices = Prices({"gpt-4o-mini": Price(1.0, 0.0)})
    found = await came(engine, Scenario(context=1_500, policy=policy), Scenario(context=1_500), prices=prices)
    one, cutting = found.outcomes
    assert (one.requests, one.overflow, cutting.compactions) == (40, 0, 0)
    assert max(one.series) <= 1_500
    assert one.compactions > 3
    paid = one.price * 1e6 - one.tokens
    assert paid == pytest.approx(0, abs=0.01) if method == "extract" else paid > 0
    if method == "extract":
        async with open_engine(":memory:", policy=policy) as other:
            await talked(other, Instant(budget=Budget(1_500)), 40)
            recorded = (await came(other)).recorded
        assert abs(one.compactions - recorded.compactions) <= 1
        assert one.tokens == pytest.approx(recorded.tokens, rel=0.2)


async def test_supposed_compactions_are_left_by_a_rewind_and_hold_in_forks(engine, monkeypatch):
    policy = Compacting("extract", at=0.7)
    model = Instant(budget=Budget(50_000))
    c = await talked(engine, model, 20)
    turns = [turn async for turn in c.turns()]
    await c.rewind(to=turns[4].seq - 1)
    for turn in range(12):
        await c.run(model, f"Another {turn}: {LONG}", instructions="Answer.")
    f = await c.fork(id="f")
    await f.run(model, "And here?", instructions="Answer.")
    series = []
    for growth in (2_000, -50):
        monkeypatch.setattr("turnlog.engine.replay.whatif._GROWTH", growth)
        found = await came(engine, Scenario(context=1_500, policy=policy), name="f")
        series.append(found.outcomes[0].series)
        assert (found.outcomes[0].requests, found.outcomes[0].overflow) == (33, 0)
        assert found.outcomes[0].compactions > 2
    assert series[0] == series[1]
    alone = await came(engine, Scenario(context=1_500, policy=policy))
    assert alone.outcomes[0].series == series[0][:-1]
    # Behind the rewind, windows are again as they were before the first compaction.
    assert series[0][20] == series[0][4]


async def test_models_with_a_tokenizer_of_their_own_are_counted_with_it(engine):
    await talked(engine, Instant(name="gpt-4", budget=Budget(1_200)), 15)
    found = await came(engine, Scenario())
    assert figures(found.outcomes[0]) == figures(found.recorded)


async def test_whole_databases_are_added_up(engine):
    for name in ("a", "b"):
        await talked(engine, Instant(budget=Budget(1_200)), 10, name)
    found = WhatIf(engine, [Scenario(context=800)])
    told = []
    for name in ("a", "b"):
        await found.run(name, told.append)
    assert found.conversations == 2
    assert found.outcomes[0].requests == found.recorded.requests == 20
    assert sum(told) == 2 * (2 + 10 * 5)


def test_numbers_and_prices_that_cannot_be():
    for wrong in ({"context": 0}, {"context": 100, "reserve": 100}, {"reserve": -1}, {"context": "many"}):
        with pytest.raises(Invalid):
            Scenario(**wrong)
    for prices in (
        {"m": {"input": 1}},
        {"m": {"input": -1, "output": 1}},
        [],
        {"m": {"input": 1, "output": 1, "x": 1}},
    ):
        with pytest.raises(Invalid, match="prices: "):
            Prices.parse(prices)
    prices = Prices.parse({"gpt-4o": {"input": 2.5, "output": 10}})
    assert prices.of("gpt-4o-2024-08-06").input == 2.5
    assert prices.of("gpt-4omega") is None


async def test_a_context_that_nobody_knows_has_to_be_named(engine):
    from turnlog.adapters.cli.recordings import record_events

    record = {
        "api": "chat",
        "request": {"model": "m", "messages": [{"role": "user", "content": "Hi!"}]},
        "response": {"choices": [{"message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}]},
    }
    made = await record_events(engine.intake, record)
    await engine.writer.append(made.id, made.events, expected=0, bodies=made.bodies)
    with pytest.raises(Invalid, match="name one with --context"):
        await came(engine, Scenario(), name=made.id)
    (one,) = (await came(engine, Scenario(context=1_000), name=made.id)).outcomes
    assert (one.requests, one.overflow) == (1, 0)


async def test_what_forks_share_counts_once(engine):
    c = await talked(engine, Instant(), 4)
    f = await c.fork(id="f")
    g = await f.fork(id="g", at=12)
    model = Instant()
    for one, turns in ((c, 1), (f, 2), (g, 3)):
        for turn in range(turns):
            await one.run(model, f"And {one.id}, {turn}?", instructions="Answer.")

    async def counted(*names):
        found = WhatIf(engine, [Scenario(), Scenario(context=2_000)], Prices({"gpt-4o-mini": Price(1.0, 1.0)}))
        for name in names:
            await found.run(name)
        assert len({one.requests for one in (found.recorded, *found.outcomes)}) == 1
        assert found.recorded.price > 0
        return found.recorded.requests, found.recorded.tokens

    alone = [await counted(name) for name in "cfg"]
    own = {call.seq for call in [one async for one in g.responses()]}
    assert [one[0] for one in alone] == [5, 6, len(own)]
    first, *others = [await counted(*names) for names in ("cfg", "gfc", "fcg")]
    assert others == [first, first]
    assert first[0] == 4 + 1 + 2 + 3
