"""What a prompt cache can serve: the figure that ratios are made of is the one that `benchmarks.prefix` prints."""

import pytest

from benchmarks import inside
from benchmarks.prefix import BUDGET, measured

pytestmark = pytest.mark.anyio

TURNS = 150


async def test_a_run_measures_the_conversation_and_the_budget_of_the_table_of_policies():
    assert BUDGET.context == 32_000
    table = {one["what"]: (one["shared"], one["input"], one["cuts"]) for one in await measured(TURNS)}
    found = await inside.prefixes(None, turns=TURNS)
    run = {name: (said["shared"], said["tokens"], said["cuts"]) for name, said in found.items()}
    assert run["turnlog, oldest-turns"] == table["the default"]
    assert run["turnlog, the newest that fits"] == table["the newest that fits"]
    assert table["the default"] != table["the newest that fits"], "there were cuts"


async def test_a_limit_shares_nothing_once_it_is_reached():
    few, many = [inside._last(turns, 40) for turns in (10, 30)]
    assert few["shared"] == many["shared"] > 0
    assert few["tokens"] < many["tokens"]
