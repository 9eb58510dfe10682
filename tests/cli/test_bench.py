"""`turnlog bench`: what would have been sent is chosen as it is chosen, and added up."""

import json
import sys
from itertools import pairwise

import anyio
import pytest

from command_line import turnlog
from small_logs import RESPONSES, call, output, said
from turnlog import Budget, open_engine
from turnlog.adapters.cli.options import policy_named, price_named
from turnlog.adapters.cli.simulating import Asked, NewestTurns, Sums, served, simulate
from turnlog.engine.codec import event
from turnlog.engine.errors import Invalid
from turnlog.engine.events import ContextCompacted, StandIn
from turnlog.engine.model import StreamEvent
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


async def simulated(engine, name, policy, budget, **more):
    return [one async for one in simulate(engine.store, name, policy, budget, **more)]


# -- simulating


@pytest.mark.anyio
@pytest.mark.parametrize("policy", [OldestTurns(), NewestTurns()], ids=lambda one: one.name)
async def test_what_was_sent_is_what_is_simulated(db, policy):
    async with open_engine(db) as engine:
        c = await engine.create()
        await c.append({"role": "system", "content": "Be brief."})
        await held(c, 0, 12, policy)
        recorded = [one.manifest async for one in c.responses(limit=1000)]
        found = await simulated(engine, c.id, policy, BUDGET)
        assert [(one.tokens, one.shared) for one in found] == [(one.tokens, one.shared) for one in recorded]
        cuts = [0, *(one.cut for one in recorded)]
        assert [one.cut for one in found] == [after > before for before, after in pairwise(cuts)]
        assert True in [one.cut for one in found]
        assert 0 not in [one.answer for one in found]


@pytest.mark.anyio
async def test_it_makes_no_difference_how_much_of_the_log_is_loaded(db, monkeypatch):
    from turnlog.adapters.cli import simulating

    async with open_engine(db) as engine:
        c = await engine.create()
        await held(c, 0, 25)
        whole = await simulated(engine, c.id, OldestTurns(), BUDGET)
        monkeypatch.setattr(simulating, "_GROWTH", -10_000)
        assert await simulated(engine, c.id, OldestTurns(), BUDGET) == whole


@pytest.mark.anyio
async def test_a_conversation_without_requests_is_asked_where_it_was_answered(db):
    async with open_engine(db) as engine:
        c = await engine.create()
        for number in range(5):
            items = [{"role": "user", "content": "?"}, call(number), output(number), said(number)]
            await c.append(*items)
        found = await simulated(engine, c.id, OldestTurns(), BUDGET)
        assert [one.at for one in found] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
        assert all(later.shared >= earlier.shared for earlier, later in pairwise(found))


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
        found = await simulated(engine, c.id, OldestTurns(), Budget(5_000))
        recorded = [one.manifest async for one in c.responses(limit=1000)]
        at = {one.as_of: one.items for one in recorded if one.context == BUDGET.context}
        assert [one.base for one in found][-4:] == [last + 1] * 4
        assert found[-1].tokens < found[-5].tokens
        assert found[-1].tokens - 3 == at[max(at)]
        sums = Sums()
        for one in found:
            sums.add(one)
        assert sums.compactions == 1


@pytest.mark.anyio
async def test_a_request_that_does_not_fit_is_counted_and_the_next_goes_on(db):
    async with open_engine(db) as engine:
        c = await engine.create()
        await held(c, 0, 2)
        await c.respond(Script(said(7)), "far too long " * 400, budget=Budget(10_000))
        await c.rewind(to=c.version - 5)
        await held(c, 8, 9)
        found = await simulated(engine, c.id, OldestTurns(), BUDGET)
        assert [one.fits for one in found] == [True] * 4 + [False] + [True] * 2
        assert found[4].tokens > 500


def test_sums_are_of_what_could_have_been_sent():
    sums = Sums()
    for one in (
        Asked(1, 2_000, 1_100, answer=10),
        Asked(2, 9_999, fits=False, answer=10),
        Asked(3, 1_000, 500, cut=True, base=2),
        Asked(4, 1_000, 500, base=2),
    ):
        sums.add(one)
    assert (sums.requests, sums.overflow, sums.tokens, sums.shared) == (4, 1, 4_000, 2_100)
    assert (sums.cached, sums.cuts, sums.compactions, sums.answers) == (1_024, 1, 1, 10)
    assert price_named("1,0.5,10").of(sums.usage) == pytest.approx((2_976 * 1 + 1_024 * 0.5 + 10 * 10) / 1e6)
    assert served(1_023) == 0


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
    assert set(rows) == {(name, size) for name in ("oldest-turns@1", "newest-turns@1") for size in (400, 4000)}
    assert {row["requests"] for row in rows.values()} == {18}, "what a fork shares is counted once"
    for row in rows.values():
        assert (row["overflow"], row["compactions"]) == (0, 0)
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


def test_nothing_is_written(talk):
    before = talk.read_bytes()
    turnlog("bench", "--db", talk, "--context", 400)
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
        ("mine", "oldest-turns, newest-turns"),
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
