"""What a person sees: no control character of what is logged, figures that add up, what to do about an error."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version

import anyio
import pytest

from command_line import COMMAND, Told, command, turnlog
from turnlog import open_engine
from turnlog.engine.log import Take
from turnlog.engine.testing.server import Fail, scripted_server

CLEAR = "\x1b[2J\x1b]0;owned\x07\x9b31m\rrewritten\x7f"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\x9b31m\x0drewritten\x7f"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def hostile(db):
    """A log whose texts would play with a terminal."""

    async def make() -> None:
        async with open_engine(db) as engine:
            c = await engine.create(id="talk", metadata={"title": CLEAR})
            await c.append(f"one {CLEAR}", {"type": "acme:note", "text": CLEAR})
            call = {"type": "function_call", "call_id": "c1", "name": CLEAR, "arguments": CLEAR}
            await c.append(call, {"type": "function_call_output", "call_id": "c1", "output": f"[red]{CLEAR}[/]\ttwo\n"})

    anyio.run(make)
    return db


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "talk"],
        ["window", "talk", "--context", "2000"],
        ["window", "talk", "--context", "2000", "--api", "chat"],
    ],
    ids=" ".join,
)
def test_control_characters_are_shown_escaped(hostile, arguments):
    told = turnlog(*arguments, "--db", hostile, COLUMNS="300", TERM="dumb")
    assert told.code == 0
    assert CONTROL.search(told.out) is None
    assert r"\x1b[2J" in told.out.replace(r"\u001b", r"\x1b")
    assert "[red]" in told.out or arguments == ["list"]
    document = turnlog(*arguments, "--db", hostile, "--json")
    assert CLEAR in json.dumps(document.json, ensure_ascii=False) or r"\u001b[2J" in document.out


def test_what_turns_a_text_around_is_shown_escaped(db):
    turned = "user\u202etxt.exe\u2066 and\u200f"

    async def make() -> None:
        async with open_engine(db) as engine:
            await (await engine.create(id="talk", metadata={"title": turned})).append(turned)

    anyio.run(make)
    for arguments in (["list"], ["show", "talk"], ["window", "talk", "--context", "2000"]):
        told = turnlog(*arguments, "--db", db, COLUMNS="300").out
        assert r"user\u202etxt.exe\u2066 and\u200f" in told
        assert not set(told) & set("\u202e\u2066\u200f")


def test_the_command_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "turnlog", "--version"], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (0, f"turnlog {version('turnlog')}\n")


def talked(db, *script, **more):
    async def work() -> Told:
        async with scripted_server(script) as server:
            arguments = ["chat", "--model", "gpt-4o-mini", "--base-url", server.base_url, "--db", db]
            return await anyio.to_thread.run_sync(
                lambda: turnlog(*arguments, *more.get("options", ()), stdin=more["say"])
            )

    return anyio.run(work)


def test_control_characters_of_an_answer_are_shown_escaped(db):
    told = talked(db, f"Hello {CLEAR}", say="hi\n")
    assert told.code == 0
    assert SHOWN in told.out
    assert CONTROL.search(told.out) is None
    assert CONTROL.search(turnlog("request", "--db", db, turnlog_id(db)).out) is None


def turnlog_id(db):
    return turnlog("list", "--db", db, "--json").json["conversations"][0]["id"]


def test_control_characters_of_an_error_are_shown_escaped(db):
    told = talked(db, Fail(400, message=f"No {CLEAR}"), say="hi\n")
    assert told.code == 1
    assert SHOWN in told.err
    assert CONTROL.search(told.err) is None


# -- figures


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_figures_of_a_window_add_up(log, api):
    told = turnlog("window", "talk", "--db", log, "--context", 1000, "--api", api, COLUMNS="200").out
    heading = re.search(r"([\d,]+) of 1,000 tokens", told)
    counted = [int(row) for row in re.findall(r"^ *\d+ +(\d+)  ", told, re.MULTILINE)]
    last = re.search(
        r"^counted: (\d+) of items(?:, times ([\d.]+), as the API reported before)? = (\d+)", told, re.MULTILINE
    )
    assert sum(counted) == int(last[1])
    assert heading[1] == last[3]
    assert abs(sum(counted) * float(last[2] or 1) - int(last[3])) <= 2


def test_what_stands_for_a_missing_output_is_in_the_sum(db):
    async def make() -> None:
        async with open_engine(db) as engine:
            c = await engine.create(id="talk")
            await c.append("Hi", {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"})

    anyio.run(make)
    told = turnlog("window", "talk", "--db", db, "--context", 1000, COLUMNS="200").out
    counted = [int(tokens) for tokens in re.findall(r"^\s*\d+\s+(\d+)\s", told, re.MULTILINE)]
    assert len(counted) == 2, "it stands behind its call, and counts with it"
    assert f"counted: {sum(counted)} of items = {sum(counted)} tokens" in told


def test_the_demo_says_its_reasons_whole_at_80_columns():
    told = turnlog("demo", COLUMNS="80")
    assert re.search(r"^cut at \d+: oldest-turns@1: over [\d,]+ counted tokens, cut to [\d,]+$", told.out, re.MULTILINE)


# -- leftovers


@pytest.mark.parametrize(
    ("options", "say", "code"),
    [
        (["--id", "nope"], "hi\n", 2),
        (["--context", "5"], "hi\n", 2),
        ([], "", 0),
        ([], "\n", 0),
    ],
    ids=["another id", "too long", "nothing", "an empty line"],
)
def test_a_chat_that_does_not_begin_leaves_nothing(db, options, say, code):
    told = talked(db, "Hello!", say=say, options=options)
    assert told.code == code
    assert list(db.parent.glob("log.db*")) == []
    assert "Traceback" not in told.err


def test_a_chat_goes_on(db):
    talked(db, "Hello!", say="hi\n")
    name = turnlog_id(db)
    told = talked(db, "Again!", say="hi again\n", options=["--id", name, "--json"])
    assert told.json == {"id": name, "version": 11, "turns": 1, "failed": 0}


# -- what to do


def test_an_error_names_the_option_of_the_command(log):
    told = turnlog("window", "talk", "--db", log, "--context", 2)
    assert told.code == 2
    assert "raise --context, or lower its reserve" in told.err
    assert "Budget" not in told.err


def test_the_version():
    assert turnlog("--version") == Told(0, f"turnlog {version('turnlog')}\n", "")


def test_without_its_packages_the_command_says_which_extra_brings_them():
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('typer', 'rich'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from turnlog.adapters.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r'turnlog: the command needs (typer|rich): pip install "turnlog\[cli\]"\n', done.stderr)


# -- standard input


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
def test_import_reads_standard_input(db, indent, packed):
    import gzip

    text = json.dumps([{"role": "user", "content": "Hi"}], indent=indent).encode()
    given = gzip.compress(text) if packed else text
    done = subprocess.run(
        [COMMAND, "import", "-", "--db", str(db), "--json"], input=given, capture_output=True, check=False
    )
    assert done.returncode == 0
    (one,) = json.loads(done.stdout)["imported"]
    assert (one["source"], one["events"]) == ("-:1", 2)
    assert command("import", "/dev/null", "--db", db).code == 0


def test_a_failed_import_says_what_came_in(db, tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl.gz"
    good.write_text(json.dumps([{"role": "user", "content": "Hi"}]))
    bad.write_bytes(b"\x1f\x8bno")
    told = turnlog("import", good, bad, "--db", db, "--json")
    assert told.code == 2
    assert [one["source"] for one in told.json["imported"]] == [f"{good}:1"]
    assert "bad.jsonl.gz: cannot be read" in told.err
    assert "1 conversation with 2 events is in the log" in turnlog("import", good, bad, "--db", db).out


# -- lists and events


def made(db, work, **options):
    async def main() -> None:
        async with open_engine(db, **options) as engine:
            await work(engine)

    anyio.run(main)


def test_where_there_is_nothing_to_list_that_is_said(db):
    async def work(engine):
        await engine.create(id="one", metadata={"user": "ada"})

    made(db, work)
    assert turnlog("list", "--where", "user=eve", "--db", db).out == "no conversations\n"
    assert "one" in turnlog("list", "--where", "user=ada", "--db", db).out
    turnlog("delete", "one", "--db", db)
    assert turnlog("list", "--db", db).out == "no conversations\n"


def test_a_list_tells_of_forks_and_turns(db):
    async def work(engine):
        c = await engine.create(id="one", metadata={"user": "ada"})
        await c.append("Hi")
        await c.fork(id="two")
        await engine.store.append("one", [], lease=Take(owner="somebody", seconds=1e6, turn=2))

    made(db, work)
    lines = {line.split()[0]: " ".join(line.split()) for line in turnlog("list", "--db", db).out.splitlines()}
    assert lines["id"].endswith("updated (UTC) what")
    assert lines["one"].endswith('a turn is running, {"user": "ada"}')
    assert lines["two"].endswith('fork of one behind 2, {"user": "ada"}')
    listed = {one["id"]: one for one in turnlog("list", "--db", db, "--json").json["conversations"]}
    assert (listed["one"]["parent"], listed["two"]["parent"], listed["one"]["busy"]) == (None, ["one", 2], True)


def test_events_are_shown_with_their_days(db):
    days = [datetime(2026, 1, day, 23, 59, tzinfo=UTC) for day in (1, 1, 3)]

    async def work(engine):
        c = await engine.create(id="one")
        for text in ("Hi", "Again"):
            await c.append(text)

    made(db, work, clock=iter(days).__next__)
    told = turnlog("show", "one", "--db", db).out
    assert told.splitlines()[0].strip() == "one, version 3, times are UTC"
    assert "2026-01-01 23:59:00.000  item.appended" in told
    assert "2026-01-03 23:59:00.000  item.appended" in told
    first = turnlog("show", "one", "--at", 2, "--db", db).out
    assert first.splitlines()[0].strip() == "one, version 3, 2026-01-01 (UTC)"
    assert "  23:59:00.000  item.appended" in first
    nothing = turnlog("show", "one", "--at", 0, "--db", db).out
    assert nothing.splitlines()[0].strip() == "one, version 3, no events up to there"


# -- standard output


def test_an_export_to_standard_output_is_that_of_a_file(db, tmp_path):
    async def work(engine):
        for name in ("one", "two"):
            await (await engine.create(id=name)).append("Hi")

    made(db, work)
    out = tmp_path / "out.jsonl"
    assert (
        turnlog("export", "one", "two", "one", "-o", out, "--db", db).out
        == f"2 conversations with 4 events are in {out}\n"
    )
    told = command("export", "one", "two", "-o", "-", "--db", db)
    assert (told.code, told.out, told.err) == (0, out.read_text(), "")
    refused = command("export", "one", "-o", "-", "--db", db, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "- is standard output, which --json needs; name a file" in refused.err
    assert not (tmp_path / "-").exists()
    assert turnlog("export", "one", "-o", out, "--db", db).out == f"1 conversation with 2 events is in {out}\n"
    turnlog("fork", "one", "--new", "twin", "--db", db)
    told = turnlog("export", "-o", out, "--db", db, "--json").json
    assert told["exported"] == [{"id": "one", "events": 2}, {"id": "two", "events": 2}, {"id": "twin", "events": 1}]
    assert turnlog("import", out, "--db", tmp_path / "other.db").code == 0
    listed = [turnlog("list", "--db", path, "--json").json for path in (db, tmp_path / "other.db")]
    assert listed[0] == listed[1]
