"""A window that is asked for again: nothing is decided twice, and everything that could decide otherwise counts."""

import pytest
from msgspec.structs import replace

from instant_model import Instant, echo
from turnlog import Budget, open_engine
from turnlog.engine.events import Target
from turnlog.engine.window.policies import Composed, LastTurns, OldestTurns

pytestmark = pytest.mark.anyio

BUDGET = Budget(400)


class Asked(OldestTurns):
    """A policy that counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def cut(self, units, available, frontier):
        self.times += 1
        return super().cut(units, available, frontier)


class Thinking(Instant):
    """A model of Chat Completions that answers with *extra*."""

    def __init__(self, extra):
        super().__init__("chat")
        self.extra = extra

    async def send(self, request):
        async for event in super().send(request):
            done = event.type == "response.output_item.done"
            yield replace(event, extra=self.extra) if done else event


async def talk(c, turns=12):
    for number in range(turns):
        await c.append(f"{number}? " + "word " * 20, {"role": "assistant", "content": "word " * 30})


async def cold(engine, c, policy, **more):
    engine.reader.forget(c.id)
    return await c.window(policy=policy, **{"budget": BUDGET, **more})


async def test_nothing_is_decided_twice(engine):
    c, policy = await engine.create(), Asked()
    await talk(c)
    first = await c.window(BUDGET, policy=policy)
    again = await c.window(BUDGET, policy=policy)
    assert policy.times == 1
    assert again.items == first.items
    assert again.manifest == first.manifest
    assert list(again.explain()) == list(first.explain())


async def test_whoever_gets_a_window_may_change_it(engine):
    c, policy = await engine.create(), Asked()
    await talk(c)
    right = (await c.window(BUDGET, policy=policy)).items
    for _ in range(3):
        window = await c.window(BUDGET, policy=policy)
        assert window.items == right
        for item in window.items:
            item["content"] = "gone"
        window.items.clear()


async def test_nor_do_changes_of_what_is_within_it_reach_what_is_sent_later(engine):
    thoughts = {"set": [[["reasoning_details"], [{"type": "reasoning.text", "text": "Hm"}]]]}
    c, model = await engine.create(), Thinking(thoughts)
    await c.respond(model, "Hi!")
    window = await c.window(model=model)
    right, weights = await c.window(model=model), dict(window.manifest.weights)
    assert window.messages[1]["reasoning_details"] == [{"type": "reasoning.text", "text": "Hm"}]
    window.messages[1]["reasoning_details"].clear()
    window.manifest.weights.clear()
    after = await c.window(model=model)
    assert after.messages == right.messages
    assert after.messages[1]["reasoning_details"]
    assert after.manifest.weights == weights


async def test_a_policy_that_has_another_name_or_version_now_is_another(engine):
    c, policy = await engine.create(), Asked()
    await talk(c)
    await c.window(BUDGET, policy=policy)
    policy.version = 7
    window = await c.window(BUDGET, policy=policy)
    assert window.manifest.policy == "oldest-turns@7"
    assert window.manifest == (await cold(engine, c, policy)).manifest


async def appends(_, c):
    await c.append("One more")


async def rewinds(_, c):
    await c.rewind(16)


async def erases(_, c):
    await c.erase(24, reason="asked for")


async def answers(_, c):
    await c.respond(echo(BUDGET), "And?")


async def appends_elsewhere(db, c):
    async with open_engine(db) as other:
        await (await other.get(c.id)).append("From elsewhere")


@pytest.mark.parametrize("change", [appends, rewinds, erases, answers, appends_elsewhere])
async def test_what_happens_to_the_log_counts(db, change):
    async with open_engine(db) as engine:
        c, policy = await engine.create(), Asked()
        await talk(c)
        for _ in range(2):
            before = await c.window(BUDGET, policy=policy)
        await change(db, c)
        for _ in range(2):
            after = await c.window(BUDGET, policy=policy)
        assert after.version > before.version
        right = await cold(engine, c, policy)
        assert after.items == right.items
        assert after.manifest == right.manifest


@pytest.mark.parametrize(
    "other",
    [
        {"budget": Budget(300)},
        {"budget": Budget(400, reserve=50)},
        {"api": "chat"},
        {"instructions": "Be brief. " * 10},
        {"policy": Composed(LastTurns(2))},
    ],
    ids=str,
)
async def test_what_else_is_asked_for_counts(engine, other):
    c, policy = await engine.create(), Asked()
    await talk(c)
    asked = {"budget": BUDGET, "policy": policy}
    for _ in range(2):
        await c.window(**asked)
    for _ in range(2):
        found = await c.window(**{**asked, **other})
    engine.reader.forget(c.id)
    right = await c.window(**{**asked, **other})
    assert found.manifest == right.manifest
    assert found.items == right.items
    assert found.target == Target(api=other.get("api", "responses"))


async def test_a_request_is_decided_with_its_input(engine):
    c, policy = await engine.create(), Asked()
    await talk(c)
    window = await c.window(BUDGET, policy=policy)
    await c.respond(echo(BUDGET), "And now?", policy=policy)
    assert policy.times == 2
    after = await c.window(BUDGET, policy=policy)
    assert after.version > window.version
    assert {"role": "user", "content": "And now?"} in after.items
