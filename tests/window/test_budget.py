"""Budgets: what a model takes, and what of it is kept free; models that are not known say which line to write."""

import gzip
import json
from types import SimpleNamespace

import pytest

from turnlog import Budget, BudgetExceeded, Invalid, open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.errors import UnknownModel
from turnlog.engine.vocabulary import load
from turnlog.engine.window.budget import LIMITS, known, reserve_of, room

# -- the budget

CLIENT = SimpleNamespace(responses=None, chat=None)
"""A client that is asked nothing."""


@pytest.mark.parametrize(("context", "reserve"), [(0, 0), (-1, 0), (10, -1), (10, 10), (1.5, 0), (True, 0), ("9", 0)])
def test_budgets_that_make_no_sense(context, reserve):
    with pytest.raises(Invalid, match="Budget"):
        Budget(context, reserve)


def test_equal_budgets_are_one():
    assert {Budget(10), Budget(10, 0), Budget(10, 1)} == {Budget(10), Budget(10, 1)}
    assert Budget(10) != 10
    assert repr(Budget(10, 1)) == "Budget(context=10, reserve=1)"


# -- the reserve


@pytest.mark.parametrize("name", LIMITS)
def test_the_reserve_is_the_larger_of_the_two(name):
    assert reserve_of(Budget(1000, 100), {}) == 100
    assert reserve_of(Budget(1000, 100), {name: 99}) == 100
    assert reserve_of(Budget(1000, 100), {name: 400}) == 400
    assert reserve_of(Budget(1000, 100), {name: None, "temperature": 900}) == 100


def test_an_output_limit_that_leaves_nothing_for_the_input():
    with pytest.raises(Invalid, match=r"params\['max_tokens'\] = 1000: nothing is left for the input of 1000 tokens"):
        reserve_of(Budget(1000), {"max_tokens": 1000})


def test_room_is_what_is_left_for_items():
    assert room(1000, 100, 50, 1000) == 850
    assert room(1000, 100, 50, 1500) == 550
    assert room(1000, 0, 1000, 1000) == 0
    with pytest.raises(BudgetExceeded, match="instructions, tools and response format need 1,001 tokens and 1,000"):
        room(1000, 0, 1001, 1000)


# -- models that are known


@pytest.mark.parametrize(
    ("model", "budget"),
    [
        ("gpt-4o", Budget(128_000)),
        ("gpt-4o-mini-2024-07-18", Budget(128_000)),
        ("chatgpt-4o-latest", Budget(128_000)),
        ("gpt-4.1-nano", Budget(1_047_576)),
        ("gpt-4", Budget(8_192)),
        ("gpt-4-0613", Budget(8_192)),
        ("gpt-4-turbo-2024-04-09", Budget(128_000)),
        ("gpt-4-1106-preview", Budget(128_000)),
        ("gpt-3.5-turbo-0125", Budget(16_385)),
        ("o1-mini", Budget(128_000)),
        ("o3", Budget(200_000)),
        ("o4-mini-2025-04-16", Budget(200_000)),
        ("gpt-5", Budget(400_000, 128_000)),
        ("gpt-5-chat-latest", Budget(128_000)),
        ("gpt-5.1-codex-max", Budget(400_000, 128_000)),
        ("gpt-5.2-chat-latest", Budget(128_000)),
        ("gpt-5.4", Budget(1_050_000, 128_000)),
        ("gpt-5.4-nano", Budget(400_000, 128_000)),
        ("gpt-5.6-sol", Budget(1_050_000, 128_000)),
        ("gpt-6-astra", Budget(1_050_000, 128_000)),
        ("openai/gpt-oss-120b", Budget(131_072)),
        ("ft:gpt-4.1-mini-2025-04-14:acme::8abc", Budget(1_047_576)),
        ("acme-7b-chat", None),
        ("claude-sonnet-5", None),
        ("gpt-7", None),
        ("", None),
    ],
)
def test_windows_of_models(model, budget):
    assert known(model) == budget


def test_the_recorded_models_of_openai_are_known(corpus):
    models = set()
    for file in corpus.glob("*.jsonl.gz"):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            models |= {(json.loads(line)["request"] or {}).get("model") for line in lines}
    ours = {name for name in models if name and name.startswith(("gpt-", "o1", "o3", "o4", "openai.", "computer-use"))}
    assert len(ours) > 15
    assert {name for name in ours if known(name) is None} == {"gpt-5.2-proo"}, "which is none"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Responses, ChatCompletions])
async def test_a_model_that_is_not_known_says_which_line_to_write(kind):
    async with open_engine(":memory:") as engine:
        c = await engine.create()
        with pytest.raises(UnknownModel) as caught:
            await c.respond(kind(CLIENT, "acme-7b-chat"), "hi")
        assert c.version == 1
        said = str(caught.value)
        assert said.startswith(
            f"acme-7b-chat: context window unknown. Pass Budget(context=…) to {kind.__name__}(...) or to this call"
        )
        client, (_, line) = CLIENT, said.split("such as ")
        model = eval(line, {"Budget": Budget, kind.__name__: kind, "client": client})
        assert (model.name, model.budget) == ("acme-7b-chat", Budget(32_768, 4_096))
        await c.append("hi")
        assert (await c.window(model=model)).tokens.total > 0


# -- all of it counts


@pytest.mark.anyio
async def test_all_that_is_sent_counts_against_the_budget():
    count = (await load()).count
    schema = {"type": "json_schema", "name": "city", "schema": {"type": "object", "properties": {"at": {}}}}
    tool = {"type": "function", "name": "look", "description": "Look around.", "parameters": {"type": "object"}}
    model = Responses(
        SimpleNamespace(responses=None),
        "gpt-4o",
        params={"text": {"format": schema}, "max_output_tokens": 300},
        backend="b",
    )
    async with open_engine(":memory:") as engine:
        c = await engine.create()
        await c.append("hi")
        bare = await c.window(model=Responses(CLIENT, "gpt-4o", backend="b"))
        assert bare.tokens.total == 4 + count("hi") + 3
        full = await c.window(model=model, instructions="Be brief.", tools=[tool])
        told = full.manifest
        assert told.reserve == 300
        assert told.overhead == full.tokens.total - told.items
        declared = count(
            "# Tools\n\n## functions\n\nnamespace functions {\n\n// Look around.\ntype look = () => any;\n\n"
            "} // namespace functions"
        )
        form = count('# Response Formats\n\n## city\n\n{"type":"object","properties":{"at":{}}}')
        assert told.overhead == 3 + 4 + count("Be brief.") + declared - 3 + form
        tight = Budget(told.tokens + 300)
        assert (await c.window(tight, model=model, instructions="Be brief.", tools=[tool])).tokens == full.tokens
        for less in (Budget(told.tokens + 299), Budget(told.overhead + 299)):
            with pytest.raises(BudgetExceeded) as caught:
                await c.window(less, model=model, instructions="Be brief.", tools=[tool])
            assert caught.value.available == less.context - 300
