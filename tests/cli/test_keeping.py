"""`turnlog backup` and `turnlog migrate`, run as people and programs run them."""

import io
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import anyio
import msgspec
import pytest

from turnlog import open_engine
from turnlog.adapters.cli.app import main
from turnlog.engine.stores.sqlite import SCHEMA_VERSION

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def turnlog(*arguments):
    """Run the command; return its exit status, what it printed, and its messages."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TURNLOG_")}
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, clean, clear=True),
        patch.object(sys, "argv", ["turnlog", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), out.getvalue(), " ".join(err.getvalue().split())


def told(*arguments):
    """Run the command with --json; return its document."""
    code, out, err = turnlog(*arguments, "--json")
    assert (code, err) == (0, "")
    return msgspec.json.decode(out)


@pytest.fixture
def older(db):
    """Return a database of schema 1."""
    shutil.copyfile(GOLDEN / "schema-1.db", db)
    return db


@pytest.fixture
def log(db):
    async def make():
        async with open_engine(db) as engine:
            await (await engine.create(id="talk")).append("Hello.")

    anyio.run(make)
    return db


def dump(db):
    with closing(sqlite3.connect(db)) as connection:
        return list(connection.iterdump())


def schema(db):
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


# -- backup


def test_a_backup_is_a_database(log, tmp_path):
    copy = tmp_path / "copy.db"
    assert told("backup", copy, "--db", log) == {
        "file": str(copy),
        "schema": SCHEMA_VERSION,
        "bytes": copy.stat().st_size,
    }
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert dump(copy) == dump(log)
    assert told("list", "--db", copy) == told("list", "--db", log)
    code, out, _ = turnlog("backup", tmp_path / "another.db", "--db", log)
    assert code == 0
    assert "bytes, schema 2" in out


def test_an_older_database_can_be_backed_up(older, tmp_path):
    assert told("backup", tmp_path / "copy.db", "--db", older)["schema"] == 1
    assert schema(tmp_path / "copy.db") == 1
    assert dump(tmp_path / "copy.db") == dump(older)


def test_a_backup_overwrites_nothing(log, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    code, out, err = turnlog("backup", copy, "--db", log)
    assert (code, out, copy.read_text()) == (2, "", "mine")
    assert "copy.db: there is a file already; choose another name, or move it away first" in err
    assert turnlog("backup", log, "--db", log)[0] == 2
    assert told("list", "--db", log)["conversations"][0]["id"] == "talk"


def test_a_backup_needs_a_database(tmp_path):
    for name in ("missing.db", "other.db"):
        (tmp_path / "other.db").write_text("no database at all" * 100)
        code, out, err = turnlog("backup", tmp_path / "copy.db", "--db", tmp_path / name)
        assert (code, out) == (2, "")
        assert name in err
        assert not (tmp_path / "copy.db").exists()


# -- migrate


def test_a_database_is_brought_forward(older):
    for command in ("list", "verify"):
        code, out, err = turnlog(command, "--db", older, "--json")
        assert (code, out) == (2, "")
        assert "its schema is 1" in err
        assert "run `turnlog migrate`" in err
    assert told("migrate", "--db", older) == {"from": 1, "to": SCHEMA_VERSION}
    assert told("verify", "--db", older)["diverged"] == []
    assert [one["id"] for one in told("list", "--db", older, "--order", "created")["conversations"]][:2] == [
        "talk",
        "french",
    ]
    assert told("migrate", "--db", older) == {"from": SCHEMA_VERSION, "to": SCHEMA_VERSION}
    assert "has schema 2 already" in turnlog("migrate", "--db", older)[1]


def test_a_person_is_told(older):
    assert turnlog("migrate", "--db", older) == (0, f"{older} had schema 1 and has 2 now\n", "")


def test_the_script_is_printed_and_nothing_changed(older, tmp_path):
    before = older.read_bytes()
    code, script, err = turnlog("migrate", "--sql", "--db", older)
    assert (code, err) == (0, "")
    assert script.startswith(".bail on\n--")
    script = script.removeprefix(".bail on\n")
    assert told("migrate", "--sql", "--db", older) == {"from": 1, "to": SCHEMA_VERSION, "sql": script}
    assert older.read_bytes() == before

    by_hand = tmp_path / "hand.db"
    shutil.copyfile(older, by_hand)
    with closing(sqlite3.connect(by_hand, isolation_level=None)) as connection:
        connection.executescript(script)
    told("migrate", "--db", older)
    assert dump(by_hand) == dump(older)
    assert told("migrate", "--sql", "--db", by_hand)["sql"] == ""
    assert turnlog("migrate", "--sql", "--db", by_hand)[1] == "-- There is nothing to do: it has schema 2 already.\n"


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="SQLite's own program is not here")
@pytest.mark.parametrize("version", range(SCHEMA_VERSION))
def test_the_script_is_run_by_sqlite3_as_it_is(version, tmp_path):
    by_command, by_hand = tmp_path / "command.db", tmp_path / "hand.db"
    for path in (by_command, by_hand):
        if version:
            shutil.copyfile(GOLDEN / f"schema-{version}.db", path)
        else:
            path.touch()
    code, script, err = turnlog("migrate", "--sql", "--db", by_hand)
    assert (code, err) == (0, "")
    assert told("migrate", "--db", by_command) == {"from": version, "to": SCHEMA_VERSION}
    done = subprocess.run(["sqlite3", by_hand], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert dump(by_hand) == dump(by_command)
    assert pragmas(by_hand) == pragmas(by_command)
    assert told("verify", "--db", by_hand) == told("verify", "--db", by_command)
    again = subprocess.run(["sqlite3", by_hand], input=script, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert dump(by_hand) == dump(by_command), "it does nothing twice, and nothing by half"


def pragmas(db):
    """Return what a dump does not show."""
    with closing(sqlite3.connect(db)) as connection:
        names = ("application_id", "user_version", "journal_mode", "page_size")
        return {name: connection.execute(f"PRAGMA {name}").fetchone() for name in names}


def test_what_cannot_be_brought_forward(tmp_path, log):
    with closing(sqlite3.connect(log)) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for more in ((), ("--sql",)):
        code, out, err = turnlog("migrate", "--db", log, *more)
        assert (code, out) == (2, "")
        assert "was made by a newer turnlog" in err
    code, out, err = turnlog("migrate", "--db", tmp_path / "no folder" / "new.db")
    assert (code, out) == (2, "")
    assert "its folder is not there" in err


def test_a_database_that_is_not_there_is_made(tmp_path):
    new = tmp_path / "new.db"
    script = told("migrate", "--sql", "--db", new)
    assert (script["from"], script["to"], "CREATE TABLE" in script["sql"]) == (0, SCHEMA_VERSION, True)
    assert not new.exists()
    assert turnlog("migrate", "--db", new) == (0, f"{new} had no log and has one of schema 2 now\n", "")
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert told("list", "--db", new)["conversations"] == []
