"""What another counter than the log's makes of items: each is counted once, and nothing else weighs what it does."""

import asyncio
import random

import pytest

from instant_model import Instant
from pictures import png
from turnlog import Budget, BudgetExceeded

pytestmark = pytest.mark.anyio

BUDGET = Budget(8000)


async def weights(engine, c, model):
    """What the items of a window weigh, live and cold."""
    live = (await c.window(model=model)).manifest.weights
    engine.reader.forget(c.id)
    return live, (await c.window(model=model)).manifest.weights


def shown(size, detail="auto"):
    return {"role": "user", "content": [{"type": "input_image", "image_url": png(size, size), "detail": detail}]}


@pytest.mark.parametrize(
    ("name", "large", "small"),
    [
        ("gpt-4", "word " * 20_000, "Hi"),
        ("gpt-4o-mini", shown(1024), shown(32, "low")),
        ("gpt-4o-mini", shown(1024), "Hi"),
    ],
    ids=["texts", "pictures", "a picture and a text"],
)
async def test_what_was_refused_leaves_no_weight_to_what_comes_in_its_place(engine, name, large, small):
    c, model = await engine.create(), Instant(name=name, backend="openai", budget=BUDGET)
    with pytest.raises(BudgetExceeded):
        await c.respond(model, large)
    assert (await c.respond(model, small)).output_text == "Fine 1."
    live, cold = await weights(engine, c, model)
    assert live == cold


async def test_what_was_refused_for_another_reason_does_not_make_what_comes_in_its_place_light(engine):
    c, model = await engine.create(), Instant(name="gpt-4", backend="openai", budget=BUDGET)
    with pytest.raises(BudgetExceeded):
        await c.respond(model, "Hi", instructions="Be brief. " * 9_000)
    await c.append("word " * 20_000)
    with pytest.raises(BudgetExceeded):
        await c.window(model=model)


async def test_what_others_append_meanwhile_has_its_own_weight(engine):
    for seed in range(4):
        rnd = random.Random(seed)
        c, model = await engine.create(), Instant(name="gpt-4", backend="openai", budget=BUDGET)

        async def answers(c=c, model=model, rnd=rnd):
            for _ in range(5):
                await c.respond(model, "Why? " * rnd.randrange(1, 30))

        async def notes(c=c, rnd=rnd):
            for _ in range(8):
                await c.append("note " * rnd.randrange(1, 200))

        await asyncio.gather(answers(), notes())
        live, cold = await weights(engine, c, model)
        assert live == cold
