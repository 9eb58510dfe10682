"""Rows that were changed behind turnlog's back: the command names them and the remedy, and goes on where it can."""

import re
import sqlite3
from contextlib import closing

import anyio
import pytest

from command_line import turnlog
from instant_model import Instant
from turnlog import open_engine

REMEDY = "restore it from a backup"


def changed(path, statement):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(statement).rowcount == 1


def failed(code, *arguments):
    """See to it that a command ends so, as it does for programs and for people; return what it says."""
    told = turnlog(*arguments)
    assert (turnlog(*arguments, "--json").code, told.code) == (code, code)
    assert "Traceback" not in told.err
    return " ".join((told.out + told.err).split())


@pytest.fixture
def forked(tmp_path):
    """Two conversations, the second one a fork that went on, with large content out of line; and a copy."""
    path, copy = tmp_path / "forked.db", tmp_path / "copy.db"

    async def make():
        model = Instant(settings={})
        async with open_engine(path) as engine:
            c = await engine.create(id="c")
            await c.run(model, "One?", instructions="Be brief.")
            await c.run(model, "x" * 100_000, instructions="Be brief.")
            f = await c.fork(id="f")
            for turn in range(3):
                await f.run(model, f"And {turn}?", instructions="Be brief.")
            await c.run(model, "Two?", instructions="Be brief.")

    anyio.run(make)
    with closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    return path, copy


OWN = "conversation = (SELECT key FROM conversations WHERE id = 'c')"
ALL = (
    ["show", "c"],
    ["window", "c", "--context", "90000"],
    ["replay", "c", "--all"],
    ["report", "c", "-o", "{out}"],
    ["whatif", "--context", "90000"],
    ["export", "c", "-o", "{out}"],
    ["usage"],
    ["tail", "--from", "start", "--count", "30"],
    ["verify"],
    ["verify", "--policy"],
)


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bodies SET body = x'00'",
        f"UPDATE events SET time = 'abc' WHERE seq = 3 AND {OWN}",
        f"UPDATE events SET time = 'abc' WHERE seq = 2 AND {OWN}",
        f"UPDATE events SET data = x'7b22' WHERE kind = 'response.completed' AND seq < 8 AND {OWN}",
        f"UPDATE events SET item = 'text' WHERE seq = 2 AND {OWN}",
        f"UPDATE events SET flags = 'x' WHERE seq = 2 AND {OWN}",
        f"UPDATE events SET tokens = 'x' WHERE seq = 2 AND {OWN}",
    ],
    ids=["bodies", "time of a request", "time of an item", "data", "type", "flags", "tokens"],
)
def test_no_damage_is_a_traceback(forked, tmp_path, statement, arguments):
    path, _ = forked
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(statement).rowcount
    told = turnlog(*(one.format(out=tmp_path / "out") for one in arguments), "--db", path)
    said = " ".join((told.out + told.err).split())
    if arguments[0] == "verify":
        assert told.code == 1
        assert re.search(r"c/\d", said)
    else:
        assert told.code in ((0,) if arguments[0] == "report" else (0, 2)), said
    if told.code == 2:
        assert re.search(rf"\b[cf](/\d+)?: .*{REMEDY}", said), said
    if arguments[0] == "export":
        assert told.code == 2
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (f"DELETE FROM events WHERE seq > 12 AND {OWN}", r"c/13 the events? (from 13 to \d+ are|is) missing"),
        (f"DELETE FROM events WHERE seq = 2 AND {OWN}", "c/2 the event is missing"),
        (
            f"UPDATE events SET kind = 'other' WHERE seq = 3 AND {OWN}",
            "c/3 its kind is other, where a response",
        ),
        (f"UPDATE events SET data = x'7b22' WHERE seq = 6 AND {OWN}", "c/6 the stored event is not what was written"),
    ],
    ids=["end", "middle", "kind", "data"],
)
def test_a_log_that_is_not_whole_does_not_verify(forked, tmp_path, statement, says):
    path, _ = forked
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(statement).rowcount
    for ids in ([], ["c"]):
        told = turnlog("verify", *ids, "--db", path)
        assert told.code == 1
        assert re.search(says, " ".join(told.out.split())), told.out
        assert len(turnlog("verify", *ids, "--db", path, "--json").json["damaged"]) == 1
    if "kind" not in statement:
        told = turnlog("export", "c", "-o", tmp_path / "out", "--db", path)
        assert (told.code, (tmp_path / "out").exists()) == (2, False)
        assert REMEDY in told.err


@pytest.mark.parametrize(
    ("statement", "path", "now"),
    [
        (f"UPDATE events SET item = x'7b22' WHERE seq = 2 AND {OWN}", "$.input[0]", '{"'),
        (f"DELETE FROM events WHERE seq = 2 AND {OWN}", "$.input[0]", None),
        ("UPDATE bodies SET body = x'00'", "$.input[2]", None),
        (f"UPDATE events SET data = '{{}}' WHERE seq = 3 AND {OWN}", "$ (request).adapter", None),
    ],
    ids=["no JSON", "no row", "blob", "request"],
)
def test_a_copy_tells_what_stood_there_whatever_is_left_of_it(forked, statement, path, now):
    log, copy = forked
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        assert db.execute(statement).rowcount
    found = turnlog("verify", "c", "--db", log, "--against", copy, "--json").json["diverged"]
    where = [one for one in found if one["path"] == path]
    assert where, found
    assert where[0].get("rebuilt", None) == now or "request" in path
    assert where[0]["sent"]


def test_what_one_event_has_done_is_told_once(forked):
    log, _ = forked
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        assert db.execute(f"UPDATE events SET item = x'7b22' WHERE seq = 2 AND {OWN}").rowcount == 1
    told = turnlog("verify", "--db", log, "--json").json
    assert len(told["diverged"]) == 8
    assert {one["cause"] for one in told["diverged"]} == {"c/2"}
    assert [(one["conversation"], one["seq"]) for one in told["damaged"]] == [("c", 2)]
    shown = " ".join(turnlog("verify", "--db", log).out.split())
    assert "and 7 later requests with it, in 1 other conversation too" in shown
    assert shown.count("is not what was written") == 2


LAST = "SELECT max(seq) FROM events WHERE kind = 'response.requested'"
ITEM = "UPDATE events SET item = {} WHERE seq = 3"
"""Of what all four requests were sent: the first question."""


@pytest.mark.parametrize("item", ["x'7b22'", "NULL", "CAST('[1]' AS BLOB)", "x''"])
def test_what_cannot_be_read_is_one_divergence_a_request(log, item):
    changed(log, ITEM.format(item))
    told = turnlog("verify", "--db", log, "--json")
    assert told.code == 1
    assert (told.json["responses"], told.json["verified"], len(told.json["diverged"])) == (4, 0, 4)
    assert all("3 is not what was written" in one["reason"] for one in told.json["diverged"])
    assert "4 diverged" in failed(1, "verify", "--db", log)


def test_a_damaged_request_is_one_divergence(log):
    changed(log, "UPDATE events SET data = x'7b' WHERE seq = 4")
    told = turnlog("verify", "--db", log, "--json")
    assert (told.code, told.json["verified"], [one["response"] for one in told.json["diverged"]]) == (1, 3, [4])


@pytest.mark.parametrize(
    ("statement", "arguments", "says"),
    [
        (ITEM.format("x'7b22'"), ["show", "talk"], f"talk/3: the item cannot be read: .*{REMEDY}"),
        (
            ITEM.format("x'7b22'"),
            ["window", "talk", "--context", "1000"],
            f"talk/3: the item cannot be read: .*{REMEDY}",
        ),
        (ITEM.format("x'7b22'"), ["export", "talk", "-o", "{out}"], f"talk/3: what is stored is no JSON: .*{REMEDY}"),
        (
            "UPDATE events SET data = x'7b' WHERE kind = 'response.completed' AND seq < 9",
            ["export", "talk", "-o", "{out}"],
            f"talk/7: what is stored is no JSON: .*{REMEDY}",
        ),
        (
            f"UPDATE events SET data = x'7b' WHERE seq = ({LAST})",
            ["window", "talk", "--context", "1000"],
            f"response.requested cannot be read: .*{REMEDY}",
        ),
        (
            "UPDATE metadata SET json = x'7b'",
            ["list"],
            "conversation talk: its metadata cannot be read: .*restore the database from a backup",
        ),
        (
            "UPDATE metadata SET json = x'7b'",
            ["verify"],
            "conversation talk: its metadata cannot be read: .*restore the database from a backup",
        ),
    ],
    ids=["show", "window", "export item", "export end", "window request", "list", "verify"],
)
def test_what_cannot_be_read_is_named(log, tmp_path, statement, arguments, says):
    changed(log, statement)
    given = [one.replace("{out}", str(tmp_path / "out.jsonl")) for one in arguments]
    assert re.search(says, failed(2, *given, "--db", log))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_request_that_is_not_what_was_sent_is_a_failed_check(log):
    changed(log, "UPDATE events SET item = CAST(replace(CAST(item AS TEXT), 'Hi!', 'Ho!') AS BLOB) WHERE seq = 3")
    told = failed(1, "request", "talk", "--db", log)
    assert "the log no longer gives what was sent, at $.messages[1] (the stored item at 3 is not" in told
    assert REMEDY in told
