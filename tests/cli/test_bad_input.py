"""Wrong usage: exit status 2, a message that names the thing and the remedy, nothing on standard output, no change."""

import json
import os
import sqlite3
import subprocess
from contextlib import closing

import anyio
import pytest

from command_line import COMMAND, Told, turnlog
from ordinary_user import mode, ordinary_folder
from turnlog import open_engine
from turnlog.engine.testing.server import scripted_server

pytestmark = pytest.mark.usefixtures("work")

LOOKING = {
    "list": ["list"],
    "show": ["show", "talk"],
    "window": ["window", "talk", "--context", "500"],
    "request": ["request", "talk"],
    "verify": ["verify"],
    "export": ["export", "talk", "-o", "out.jsonl"],
}
WRITING = {
    "import": ["import", "in.json"],
    "chat": ["chat", "--model", "gpt-4o-mini", "--base-url", "http://127.0.0.1:9"],
}
ALL = LOOKING | WRITING | {"demo": ["demo"]}


def contents(folder):
    """Return what is in a folder, but for what SQLite keeps beside a log while it is open."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(arguments, *says, folder=None, **environment):
    """See to it that a command is refused, as it is for programs and for people, and changes nothing in a folder."""
    before = contents(folder) if folder else None
    for more in (["--json"], []):
        if arguments[0] == "demo" and not more:
            continue  # it has begun to tell its story by then
        told = turnlog(*arguments, *more, stdin="hi\n", **environment)
        assert (told.code, told.out) == (2, "")
        err = told.err if not more else json.loads(told.err)["error"]["message"]
        for part in says:
            assert str(part) in err
        assert "Traceback" not in told.err
        assert folder is None or contents(folder) == before
    return told


def foreign(path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")


def newer(path):
    make(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")


def make(path):
    async def work():
        async with open_engine(path) as engine:
            c = await engine.create(id="talk")
            await c.append("Hi")

    anyio.run(work)


UNUSABLE = {
    "foreign": (foreign, "this database belongs to another program; give turnlog a file of its own"),
    "newer": (newer, "schema 99 was made by a newer turnlog, this one knows 2; upgrade turnlog"),
    "text": (lambda path: path.write_text("notes " * 1000), "this is no SQLite database; give turnlog a file of its"),
    "folder": (lambda path: path.mkdir(), "this is a folder; give turnlog a file in it"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.parametrize("name", ALL)
def test_a_database_that_cannot_be_used(work, name, kind):
    make_unusable, says = UNUSABLE[kind]
    make_unusable(work / "log.db")
    refused([*ALL[name], "--db", "log.db"], work / "log.db", says, folder=work)


@pytest.mark.parametrize("name", LOOKING)
def test_a_database_that_is_not_there(work, name):
    refused([*LOOKING[name], "--db", "missing.db"], "database missing.db (name it with --db): not found", folder=work)
    refused(LOOKING[name], "database turnlog.db (name it with --db): not found", folder=work)
    refused(LOOKING[name], "database other.db", folder=work, TURNLOG_DB="other.db")


@pytest.mark.parametrize("name", LOOKING)
def test_an_empty_file_is_not_made_a_log_by_looking(work, name):
    (work / "log.db").touch()
    refused(
        [*LOOKING[name], "--db", "log.db"],
        "log.db: there is no log in it yet; the first that writes to it makes one",
        folder=work,
    )


@pytest.mark.parametrize("name", ALL)
def test_names_that_no_database_can_have(work, name):
    refused([*ALL[name], "--db", "x" * 300], "x" * 300, "File name too long", folder=work)
    refused([*ALL[name], "--db", "in.json/log.db"], "in.json/log.db", folder=work)
    if name not in LOOKING:
        refused([*ALL[name], "--db", "no/log.db"], "no/log.db", "its folder is not there; make it first", folder=work)


@pytest.fixture
def ordinary(monkeypatch, tmp_path_factory):
    with ordinary_folder() as folder:
        (folder / "in.json").write_text('[{"role": "user", "content": "Hi"}]')
        monkeypatch.chdir(folder)
        yield folder
        monkeypatch.undo()


def test_a_database_that_may_be_read_only(ordinary):
    make(ordinary / "log.db")
    with mode(ordinary / "log.db", 0o400):
        for name in ("list", "show", "window", "verify", "export"):
            assert turnlog(*LOOKING[name], "--db", "log.db").code == 0
        for arguments in WRITING.values():
            refused([*arguments, "--db", "log.db"], "the database is read-only; make it, the files", folder=ordinary)


def test_a_database_in_a_folder_that_may_not_be_entered(ordinary):
    (ordinary / "closed").mkdir()
    make(ordinary / "closed" / "log.db")
    with mode(ordinary / "closed", 0):
        for arguments in (*LOOKING.values(), *WRITING.values()):
            refused([*arguments, "--db", "closed/log.db"], "closed/log.db: cannot be opened: Permission denied; ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nobody"], "conversation nobody: not found"),
        (["show", "a b"], "conversation id 'a b': 1 to 64 characters of A-Z a-z 0-9 . _ : - are needed"),
        (["show", "talk", "--at", "-1"], "at=-1: a whole number is needed, from 0 to"),
        (["show", "talk", "--at", "999"], "at=999: a whole number is needed, from 0 to"),
        (["show", "talk", "--at", "x"], "Invalid value for '--at'"),
        (["show"], "Missing argument 'ID'"),
        (["window", "nobody", "--context", "500"], "conversation nobody: not found"),
        (["window", "talk", "--context", "0"], "Budget: context=0: a whole number of tokens is needed, at least 1"),
        (["window", "talk", "--context", "-5"], "Budget: context=-5"),
        (["window", "talk", "--context", "1.5"], "Invalid value for '--context'"),
        (["window", "talk", "--context", "9", "--reserve", "9"], "Budget(context=9, reserve=9): nothing is left for"),
        (["window", "talk", "--context", "9", "--reserve", "-1"], "Budget: reserve=-1"),
        (["window", "talk", "--context", "2"], "tokens and 2 are available. Shorten the input, raise --context, or"),
        (["window", "talk", "--context", "500", "--at", "999"], "at=999: a whole number is needed, from 0 to"),
        (["window", "talk", "--context", "500", "--api", "x"], "'x' is neither responses nor chat"),
        (["request", "talk", "--response", "2"], "conversation talk, response 2 (a response is named by the seq of"),
        (["request", "talk", "--response", "0"], "response=0: a whole number is needed, from 1 to"),
        (["request", "talk", "--response", str(2**70)], "response=1180591620717411303424: a whole number is needed"),
        (["request", "nobody"], "conversation nobody: not found"),
        (["verify", "talk", "nobody"], "conversation nobody: not found"),
        (["export", "talk", "nobody", "-o", "out.jsonl"], "conversation nobody: not found"),
        (["export", "talk"], "Missing option '-o' / '--output'"),
        (["export", "a b", "-o", "out.jsonl"], "conversation id 'a b': 1 to 64 characters of"),
        (["list", "--limit", "0"], "limit=0: a whole number is needed, from 1 to 1000"),
        (["list", "--order", "up"], "order='up': -updated or -created or created is needed"),
        (["list", "--after", "x"], "after='x': the cursor of a page is needed, its `next`"),
        (["list", "--where", "=x"], "'=x' is no NAME=VALUE"),
        (["list", "--where", "a=1", "--where", "a=2"], "'a' is named twice"),
        (["list", "--where", "a=[1]"], "where: 'a': a text, a number, true, false or null is needed"),
        (["fork", "talk", "--new", "talk"], "talk: there is a conversation of this id already, at version"),
        (["fork", "talk", "--new", "talk"], "; choose another id (--new)"),
        (["delete", "talk", "--forks", "x"], "forks='x': refuse or keep or delete is needed"),
        *((["expire", "--older-than", days], f"{days}: days are needed, more than 0, at most 1,000,000")
          for days in ("0", "-3", "nan", "inf", "1e+12", "1e+300")),
        (["import"], "Missing argument 'FILE"),
        (["chat"], "Missing option '--model'"),
        (["chat", "--model", "gpt-4o-mini"], "OPENAI_API_KEY is not set; set it, or name a backend that needs none"),
        (["chat", "--model", "gpt-4", "--base-url", "http://x", "--id", "nobody"], "conversation nobody: not found"),
        (["chat", "--model", "acme", "--base-url", "http://x"], "acme: context window unknown; name it with --context"),
        (["chat", "--model", "acme", "--base-url", "http://x", "--context", "0"], "Budget: context=0"),
        (["chat", "--model", "gpt-4o-mini", "--api", "x"], "'x' is neither responses nor chat"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_arguments_that_are_refused(log, arguments, says):
    told = refused([*arguments, "--db", log], folder=log.parent)
    assert says in " ".join(told.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["show", "nobody"], "NotFound", "conversation nobody: not found"),
        (["fork", "talk", "--new", "talk"], "Conflict", "choose another id (--new)"),
        (["erase", "talk", "999", "--reason", "x"], "Invalid", "talk: there is no seq 999"),
        (["show"], "MissingParameter", "Missing argument 'ID'"),
        (["show", "talk", "--nonsense"], "NoSuchOption", "No such option: --nonsense"),
        (["expire", "--older-than", "0"], "BadParameter", "days are needed, more than 0"),
        (["export", "-o", "-"], "BadParameter", "- is standard output, which --json needs; name a file"),
    ],
)
def test_programs_are_told_of_errors_in_json(log, arguments, kind, says):
    told = turnlog(*arguments, "--json", "--db", log)
    assert (told.code, told.out) == (2, "")
    error = json.loads(told.err)["error"]
    assert (error.keys(), error["type"]) == ({"type", "message"}, kind)
    assert says in error["message"]


NO_DATABASE = {
    "": "--db (or TURNLOG_DB): a file is needed, or a postgresql:// url",
    ":memory:": "--db ':memory:': a log in memory is gone when the command ends; name a file",
    "sqlite://": "--db 'sqlite://': a log in memory is gone when the command ends; name a file",
    "sqlite://log.db": "--db 'sqlite://log.db': sqlite:///path is needed, with three slashes and without parameters",
    "sqlite:///log.db?mode=ro": "sqlite:///path is needed, with three slashes and without parameters",
    "sqlite:///": "sqlite:///path is needed, with three slashes and without parameters",
    "file:log.db?mode=ro": "--db 'file:log.db?mode=ro': this is no url that is known here; name the file by its path",
    "sqlite:log.db": "--db 'sqlite:log.db': this is no url that is known here; name the file by its path",
    "redis://h/0": "--db redis://…: there is no store for redis; name a file, or a postgresql:// url",
}


@pytest.mark.parametrize("name", [*ALL, "migrate", "backup"])
@pytest.mark.parametrize("db", NO_DATABASE)
def test_what_names_no_database(work, name, db):
    arguments = {**ALL, "migrate": ["migrate"], "backup": ["backup", "copy.db"]}[name]
    refused([*arguments, "--db", db], NO_DATABASE[db], folder=work)


def test_a_file_can_be_named_by_its_url(work):
    make(work / "log.db")
    for url in ("sqlite:///log.db", f"sqlite:///{work}/log.db"):
        told = turnlog("list", "--db", url, "--json")
        assert (told.code, [one["id"] for one in told.json["conversations"]]) == (0, ["talk"])
    assert turnlog("import", "in.json", "--db", "sqlite:///new.db").code == 0
    assert (work / "new.db").exists()


def test_a_conversation_without_requests_has_none_to_show(work):
    make(work / "log.db")
    refused(["request", "talk", "--db", "log.db"], "response (none was ever requested)", folder=work)


def test_what_a_person_types_must_be_text(work):
    command = [COMMAND, *WRITING["chat"], "--db", "log.db"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "OPENAI_API_KEY": "test"}
    done = subprocess.run(command, input=b"caf\xe9\n", capture_output=True, check=False, env=environment)
    assert done.returncode == 2
    assert b"standard input is not utf-8: invalid continuation byte" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_line_that_is_too_long_leaves_the_conversation_as_it_was(work):
    async def talk() -> Told:
        async with scripted_server(["Hello!"]) as server:
            arguments = ["--model", "acme", "--context", "100", "--base-url", server.base_url, "--db", "log.db"]
            return await anyio.to_thread.run_sync(lambda: turnlog("chat", *arguments, stdin=f"hi\n{'word ' * 500}\n"))

    told = anyio.run(talk)
    assert told.code == 2
    assert "tokens and" in told.err
    (one,) = turnlog("list", "--db", "log.db", "--json").json["conversations"]
    assert (one["items"], one["busy"]) == (2, False)
