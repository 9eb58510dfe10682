"""`turnlog verify`: whole databases, today's policy as a second answer, a copy to compare with."""

import os
import pty
import sqlite3
import subprocess
from contextlib import closing

import anyio
import pytest

from command_line import COMMAND, turnlog
from everything_log import clock, everything
from instant_model import Instant
from turnlog import open_engine


@pytest.fixture
def logs(db):
    async def make():
        async with open_engine(db, clock=clock()) as engine:
            await everything(engine)
            for number in range(3):
                await (await engine.create(id=f"c{number}")).run(Instant(), f"Question {number}?")

    anyio.run(make)
    return db


def change(db, old, new):
    with closing(sqlite3.connect(db, isolation_level=None)) as log:
        log.execute(
            "UPDATE events SET item = CAST(replace(CAST(item AS TEXT), ?, ?) AS BLOB) WHERE CAST(item AS TEXT) LIKE ?",
            (old, new, f"%{old}%"),
        )


def test_whole_databases_are_verified_and_todays_policy_is_asked(logs):
    told = turnlog("verify", "--policy", "--db", logs, "--json")
    assert told.code == 0
    assert (told.json["responses"], told.json["verified"]) == (36, 36)
    assert told.json["policy"] == {"same": 36, "other": [], "unknown": 0}
    assert (
        "today's policy would send the same for 36, other items for 0"
        in turnlog("verify", "--policy", "--db", logs).out
    )
    assert "policy" not in turnlog("verify", "--db", logs, "--json").json


def test_a_copy_tells_what_was_sent_where_it_is_another_now(logs, tmp_path):
    copy = tmp_path / "copy.db"
    assert turnlog("backup", copy, "--db", logs).code == 0
    change(logs, "Question 1?", "Question 7?")
    told = turnlog("verify", "--against", copy, "--db", logs, "--json")
    assert told.code == 1
    (one,) = told.json["diverged"]
    assert (one["conversation"], one["path"]) == ("c1", "$.input[0].content")
    assert (one["sent"], one["rebuilt"]) == ("Question 1?", "Question 7?")
    shown = turnlog("verify", "--against", copy, "--db", logs)
    assert 'sent: "Question 1?"' in shown.out
    assert 'now: "Question 7?"' in shown.out
    (alone,) = turnlog("verify", "--db", logs, "--json").json["diverged"]
    assert alone["path"] == "$.input[0]"
    assert alone["rebuilt"] == {"role": "user", "content": "Question 7?"}
    assert "sent" not in alone
    assert turnlog("verify", "--against", tmp_path / "missing.db", "--db", logs).code == 2


def test_a_bar_is_shown_on_a_terminal_and_nowhere_else(logs):
    assert turnlog("verify", "--db", logs, "--policy").err == ""
    ours, theirs = pty.openpty()
    command = [COMMAND, "verify", "--db", logs, "--policy"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        assert b"36 of 36 requests verified" in process.stdout.read()
    os.close(ours)
    assert b"verifying" in shown


def _read(terminal):
    """Return what a terminal was sent, nothing once whoever writes to it has left."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
