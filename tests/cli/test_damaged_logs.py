"""Rows that were changed behind turnlog's back: the command names them and the remedy, and goes on where it can."""

import re
import sqlite3
from contextlib import closing

import pytest

from command_line import turnlog

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
