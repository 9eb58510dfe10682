"""`turnlog bench`: what would have been sent is chosen as it is chosen, and added up."""

import json
import sys
from itertools import product

import anyio
import pytest

from command_line import turnlog
from small_logs import RESPONSES, call, output, said
from turnlog import Budget, open_engine
from turnlog.adapters.cli.options import policy_named
from turnlog.engine.codec import event
from turnlog.engine.errors import Invalid
from turnlog.engine.events import ContextCompacted, StandIn
from turnlog.engine.model import StreamEvent
from turnlog.engine.replay.scenarios import NewestTurns, Scenario
from turnlog.engine.replay.whatif import WhatIf
from turnlog.engine.window.policies import OldestTurns

BUDGET = Budget(600, 100)


class Script:
    """A model that says what it is told to say."""

    name, backend, budget, adapter, encoder = RESPONSES.model, RESPONSES.backend, BUDGET, "responses", 1

    def __init__(self, *answers):
        self.answers = list(answers)

    def encode(self, window, settings):
        return {"model": self.name, "input": window.items, "store": False}

    async def send(self, request):
        yield StreamEvent(type="response.output_item.done", item=self.answers.pop(0), raw={"output_index": 0})
        yield StreamEvent(type="response.completed", raw={"response": {}})


async def held(conversation, first, last, policy=None):
    """Hold turns of two requests each."""
    for number in range(first, last):
        model = Script(call(number), said(number, "It rains. " * 5))
        await conversation.respond(model, f"question {number} " * 8, policy=policy)
        await conversation.respond(model, output(number, output="seventeen degrees " * 6), policy=policy)


async def came(engine, name, policy, budget):
    """Return what comes of one scenario, and what was recorded."""
    found = WhatIf(engine, [Scenario(context=budget.context, reserve=budget.reserve, policy=policy)], answers=True)
    await found.run(name)
    return found.outcomes[0], found.recorded


# -- what is tried


@pytest.mark.anyio
@pytest.mark.parametrize("policy", [OldestTurns(), NewestTurns()], ids=lambda one: one.name)
async def test_what_was_sent_is_what_is_simulated(db, policy):
    async with open_engine(db) as engine:
        c = await engine.create()
        await c.append({"role": "system", "content": "Be brief."})
        await held(c, 0, 12, policy)
        found, recorded = await came(engine, c.id, policy, BUDGET)
        assert (found.series, found.shared, found.cuts) == (recorded.series, recorded.shared, recorded.cuts)
        assert found.cuts > 0


@pytest.mark.anyio
async def test_a_conversation_without_requests_is_asked_where_it_was_answered(db):
    async with open_engine(db) as engine:
        c = await engine.create()
        for number in range(5):
            items = [{"role": "user", "content": "?"}, call(number), output(number), said(number)]
            await c.append(*items)
        found, recorded = await came(engine, c.id, OldestTurns(), BUDGET)
        assert (found.requests, recorded.requests) == (10, 0)
        assert found.series == sorted(found.series)
        # The first request has the question, the second the call and its output too.
        window = [len((await c.window(BUDGET, at=at)).items) for at in (2, 4)]
        assert window == [1, 3]
        assert found.shared > 0


@pytest.mark.anyio
async def test_rewinds_and_compactions_are_followed(db):
    async with open_engine(db) as engine:
        c = await engine.create()
        await held(c, 0, 3)
        kept = c.version
        await held(c, 3, 6)
        await c.rewind(to=kept)
        await held(c, 10, 12)
        summary = StandIn(item={"role": "user", "content": "They spoke of the weather."})
        last = (await c.refresh()).version
        compacted = event(ContextCompacted(first=1, last=last, stand_in=[summary], method="summary"), tokens=9)
        await engine.writer.append(c.id, [compacted])
        engine.reader.forget(c.id)
        await held(c, 20, 22)
        found, recorded = await came(engine, c.id, OldestTurns(), Budget(5_000))
        assert (found.compactions, recorded.compactions) == (1, 1)
        assert found.series[-4:] == recorded.series[-4:]
        assert found.series[-1] < found.series[-5]


# -- the command


@pytest.fixture
def talk(db):
    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="talk")
            await held(c, 0, 8)
            twin = await c.fork(id="twin")
            await held(twin, 20, 21)

    anyio.run(make)
    return db


def test_every_policy_is_tried_with_every_budget(talk):
    found = turnlog("bench", "--db", talk, "--context", 400, "--context", 4000, "--json").json
    assert (found["conversations"], found["price"]["cached"]) == (2, 0.125)
    rows = {(row["policy"], row["context"]): row for row in found["results"]}
    assert set(rows) == set(product(("oldest-turns@1", "compacting+oldest-turns@1", "newest-turns@1"), (400, 4000)))
    assert {row["requests"] for row in rows.values()} == {18}, "what a fork shares is counted once"
    for (policy, size), row in rows.items():
        assert row["overflow"] == 0
        assert (row["compactions"] > 0) == (policy.startswith("compacting") and size == 400)
        assert row["largest"] <= row["context"]
        assert row["price"] > 0
    assert rows["oldest-turns@1", 400]["shared"] > rows["newest-turns@1", 400]["shared"]
    assert rows["oldest-turns@1", 4000]["tokens"] == rows["newest-turns@1", 4000]["tokens"]
    assert rows["oldest-turns@1", 4000]["cuts"] == 0 < rows["oldest-turns@1", 400]["cuts"]


def test_it_is_told_in_tables(talk):
    told = turnlog("bench", "talk", "--db", talk, "--context", 400, "--policy", "oldest-turns", "--price", "2,1,8")
    assert told.code == 0
    assert "1 conversation of" in told.out
    assert "16 requests" in told.out
    assert "oldest-turns@1" in told.out
    assert "newest-turns" not in told.out
    assert "$2 for a million tokens" in " ".join(told.out.split())


def test_a_policy_that_compacts_is_tried_as_one(talk):
    named = ["--policy", "compacting", "--policy", "oldest-turns"]
    found = turnlog("bench", "--db", talk, "--context", 400, *named, "--json").json
    one, other = found["results"]
    assert (one["policy"], one["overflow"], other["compactions"]) == ("compacting+oldest-turns@1", 0, 0)
    assert one["compactions"] > 0


def test_a_policy_that_compacts_has_the_same_name_for_all_commands(talk):
    for policy in ("compacting", "turnlog.engine.window.policies:Compacting"):
        chosen = ["--context", 400, "--policy", policy, "--db", talk, "--json"]
        _, tried = turnlog("whatif", *chosen).json["scenarios"]
        assert tried["label"] == "context 400, compacting+oldest-turns@1"
        assert tried["compactions"] > 0
        window = turnlog("window", "talk", *chosen).json["manifest"]
        assert window["policy"] == "compacting+oldest-turns@1"


def test_nothing_is_written(talk):
    before = talk.read_bytes()
    turnlog("bench", "--db", talk, "--context", 400)
    turnlog("bench", "--db", talk, "--context", 400, "--policy", "compacting")
    assert talk.read_bytes() == before


def test_a_policy_of_one_s_own(talk, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from turnlog.engine.window.policies import OldestTurns\n"
        "class Mine(OldestTurns):\n    name = 'mine'\n    version = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = turnlog("bench", "--db", talk, "--context", 400, "--policy", "mine:Mine", "--json").json
    assert [row["policy"] for row in found["results"]] == ["mine@7"]
    del sys.modules["mine"]


def test_a_policy_of_one_s_own_that_fails_is_named(talk, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "class Boom:\n    name, version = 'boom', 1\n    def cut(self, *_):\n        raise RuntimeError('mine')\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('at once')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for command in (["bench"], ["window", "talk"]):
        ended = turnlog(*command, "--db", talk, "--context", 200, "--policy", "mine:Boom")
        assert ended.code == 2
        assert "policy boom@1: cut() failed: RuntimeError: mine" in " ".join(ended.err.split())
        assert "Traceback" not in ended.err
        ended = turnlog(*command, "--db", talk, "--context", 200, "--policy", "broken:Boom")
        assert ended.code == 2
        assert "--policy broken:Boom: RuntimeError: at once" in " ".join(ended.err.split())
    del sys.modules["mine"]


def test_a_window_by_another_policy(talk):
    cut = {
        policy: turnlog("window", "talk", "--db", talk, "--context", 400, "--policy", policy, "--json").json["manifest"]
        for policy in ("oldest-turns", "newest-turns")
    }
    assert {name: one["policy"] for name, one in cut.items()} == {name: f"{name}@1" for name in cut}
    assert cut["oldest-turns"]["cut"] > cut["newest-turns"]["cut"] > 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine", "oldest-turns, compacting, newest-turns"),
        ("no_such_module:Mine", "no_such_module"),
        ("json:Mine", "Mine"),
        ("json:JSONEncoder", "it is no policy"),
        (":x", "--policy :x"),
    ],
)
def test_a_policy_that_is_none_is_refused(name, told):
    with pytest.raises(Invalid, match=told):
        policy_named(name)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--price", "1,2"], "three numbers"),
        (["--price", "1,2,-3"], "not less than 0"),
        (["--price", "1,2,nan"], "not less than 0"),
        (["--context", "0"], "context=0"),
        (["--context", "10", "--reserve", "20"], "nothing is left"),
        (["--policy", "mine"], "package.module:Name"),
        (["nobody"], "nobody"),
    ],
)
def test_bad_input_is_named(talk, arguments, told):
    ended = turnlog("bench", *arguments, "--db", talk, "--json")
    assert ended.code == 2
    assert ended.out == ""
    assert told in " ".join(ended.err.split())


def test_there_must_be_a_database(tmp_path):
    ended = turnlog("bench", "--db", tmp_path / "none.db")
    assert ended.code == 2
    assert "none.db" in ended.err


def test_a_log_that_holds_nothing(tmp_path, db):
    file = tmp_path / "one.json"
    file.write_text(json.dumps([{"role": "user", "content": "?"}]))
    turnlog("import", file, "--db", db)
    found = turnlog("bench", "--db", db, "--context", 400, "--json").json
    assert {(row["requests"], row["tokens"], row["price"], row["shared"]) for row in found["results"]} == {(0, 0, 0, 0)}
