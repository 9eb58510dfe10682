"""`turnlog whatif`: other budgets, policies and APIs, side by side."""

import json
from xml.etree import ElementTree as ET

import anyio
import pytest

from browser import browser
from command_line import turnlog
from everything_log import clock, everything
from instant_model import Instant
from turnlog import Budget, open_engine


@pytest.fixture
def logs(db):
    async def make():
        async with open_engine(db, clock=clock()) as engine:
            await everything(engine)
            c = await engine.create(id="other")
            for turn in range(12):
                await c.run(Instant(budget=Budget(1_000)), f"Question {turn}: " + "and what of it? " * 20)

    anyio.run(make)
    return db


def test_scenarios_stand_beside_what_was_recorded(logs):
    told = turnlog("whatif", "other", "--context", 600, "--context", 5_000, "--db", logs, "--json")
    assert (told.code, told.err) == (0, "")
    assert (told.json["conversations"], told.json["requests"]) == (1, 12)
    recorded, tight, wide = told.json["scenarios"]
    assert [one["label"] for one in (recorded, tight, wide)] == ["recorded", "context 600", "context 5,000"]
    assert wide["cuts"] == 0 < recorded["cuts"] < tight["cuts"]
    assert tight["tokens"] < recorded["tokens"] < wide["tokens"]
    assert wide["largest"] == max(wide["series"]) > 1_000


def test_whole_databases_and_every_combination(logs, tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text(
        json.dumps(
            {"gpt-4o": {"input": 2.5, "cached": 1.25, "output": 10}, "gpt-4o-mini": {"input": 0.15, "output": 0.6}}
        )
    )
    arguments = ("--context", 3_000, "--api", "chat", "--api", "responses", "--price-file", prices, "--db", logs)
    told = turnlog("whatif", *arguments, "--json").json
    assert told["conversations"] == 2
    assert [one["label"] for one in told["scenarios"]] == [
        "recorded",
        "context 3,000, chat",
        "context 3,000, responses",
    ]
    assert all(one["price"] > 0 and one["unpriced"] == 1 for one in told["scenarios"])  # gpt-4.1 has none
    shown = turnlog("whatif", *arguments).out
    for word in ("context 3,000, chat", "overflow", "shared", "compactions", "price", "(1 without)"):
        assert word in shown


def test_a_policy_of_the_users_own(logs, tmp_path, monkeypatch):
    (tmp_path / "mine_to_try.py").write_text(
        "from turnlog.engine.window.policies import OldestTurns\n\n"
        "class Mine(OldestTurns):\n    name = 'mine'\n    version = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    told = turnlog(
        "whatif", "other", "--policy", "mine_to_try:Mine", "--policy", "oldest-turns", "--db", logs, "--json"
    )
    recorded, mine, built_in = told.json["scenarios"]
    assert (mine["label"], built_in["label"]) == ("mine@7", "oldest-turns@1")
    assert mine["series"] == built_in["series"] == recorded["series"]


def test_the_plot_is_a_picture_of_them(logs, tmp_path):
    path = tmp_path / "plot.svg"
    told = turnlog("whatif", "--context", 2_000, "--context", 300, "--plot", path, "--db", logs)
    assert told.code == 0
    tree = ET.fromstring(path.read_text())
    texts = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "context 2,000" in texts
    assert any(" over" in text for text in texts)
    with browser() as page:
        page.do("Page.navigate", url=path.as_uri())
        page._pipe.wait("Page.loadEventFired")
        assert page.value("document.querySelectorAll('path.sent').length") == 3
        assert page.said == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--context", 0], "context=0"),
        (["--context", 100, "--reserve", 200], "nothing is left"),
        (["--api", "telnet"], "neither responses nor chat"),
        (["--policy", "newest"], "--policy newest: oldest-turns, compacting, newest-turns, or one of your own"),
        (["--policy", "os:getcwd"], "--policy os:getcwd: it is no policy"),
        (["--policy", "no_such_module:It"], "--policy no_such_module:It: ModuleNotFoundError"),
        (["--price-file", "missing.json"], "cannot be read"),
        (["nobody"], "nobody"),
    ],
)
def test_what_cannot_be_is_refused(logs, arguments, told):
    refused = turnlog("whatif", *arguments, "--db", logs)
    assert (refused.code, refused.out) == (2, "")
    assert told in " ".join(refused.err.split())


def test_prices_that_are_none_are_refused(logs, tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text("[gpt-4o]\ninput = 1\n")
    refused = turnlog("whatif", "--price-file", path, "--db", logs)
    assert refused.code == 2
    assert "prices.toml: Object missing required field `output`" in refused.err
    path.write_text("[gpt-4o\n")
    assert turnlog("whatif", "--price-file", path, "--db", logs).code == 2
