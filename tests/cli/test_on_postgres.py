"""Every command on a PostgreSQL database, against a real server: what it does, and what it says when it cannot."""

import re
import shlex
import subprocess
import sys

import anyio
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from command_line import Told, turnlog
from pg_server import programs, server
from pg_talk import role, rows
from turnlog import open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine.testing.server import Call, scripted_server

pytestmark = pytest.mark.usefixtures("work")

ENTRY = "from turnlog.adapters.cli.entry import main; main()"
ALL = {
    "list": ["list"],
    "show": ["show", "talk"],
    "window": ["window", "talk", "--context", "500"],
    "request": ["request", "talk"],
    "verify": ["verify"],
    "export": ["export", "talk", "-o", "out.jsonl"],
    "fork": ["fork", "talk"],
    "rewind": ["rewind", "talk", "--to", "2"],
    "erase": ["erase", "talk", "2", "--reason", "why"],
    "delete": ["delete", "talk"],
    "expire": ["expire", "--older-than", "1"],
    "import": ["import", "in.json"],
    "migrate": ["migrate"],
    "migrate --sql": ["migrate", "--sql"],
    "chat": ["chat", "--model", "gpt-4o-mini", "--base-url", "http://127.0.0.1:9", "--id", "talk"],
}
MAKING = {"import", "migrate", "migrate --sql"}
"""What may find no tables."""


@pytest.fixture
def there(pg_url, schema):
    """The options that name the database."""
    return ["--db", pg_url, "--schema", schema]


async def look_up(word: str) -> str:
    return f"{word}: a word"


@pytest.fixture
def talk(pg_url, schema):
    """A conversation of two turns; the bodies that the server received."""

    async def make():
        direct = DefaultAsyncHttpxClient(trust_env=False)
        async with (
            scripted_server(["Hello!", Call("look_up", {"word": "sky"}), "Blue."]) as answering,
            AsyncOpenAI(base_url=answering.base_url, api_key="test", http_client=direct) as client,
            open_engine(pg_url, schema=schema) as engine,
        ):
            conversation = await engine.create(id="talk", metadata={"user": "ada"}, key="form")
            await conversation.run(Responses(client, "gpt-4o-mini"), "Hi!", key="m-1")
            await conversation.run(Responses(client, "gpt-4o-mini"), "What is the sky?", tools=[look_up])
            return [request.body for request in answering.requests]

    return anyio.run(make)


async def tables(url, schema):
    found = await rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = %s", schema)
    return {name for (name,) in found}


def ids(there):
    return [one["id"] for one in turnlog("list", *there, "--order", "created", "--json").json["conversations"]]


# -- what the commands do


def test_what_is_in_the_log_is_shown_as_that_of_a_file(there, talk):
    assert turnlog("verify", *there, "--json").json == {
        "responses": 3,
        "verified": 3,
        "erased": 0,
        "diverged": [],
        "damaged": [],
    }
    assert turnlog("request", "talk", *there, "--json").json == talk[-1]
    assert turnlog("export", "talk", "-o", "out.jsonl.gz", *there, "--json").json["exported"] == [
        {"id": "talk", "events": turnlog("show", "talk", *there, "--json").json["version"]}
    ]
    assert turnlog("import", "out.jsonl.gz", "--db", "file.db").code == 0
    for arguments in (
        ["list", "--where", "user=ada"],
        ["show", "talk"],
        ["window", "talk", "--context", "500"],
        ["request", "talk"],
        ["verify"],
    ):
        ours, theirs = (turnlog(*arguments, *where, "--json") for where in (there, ["--db", "file.db"]))
        assert (ours.code, theirs.code, ours.err) == (0, 0, "")
        assert ours.json == theirs.json
    assert "talk" in turnlog("list", *there).out
    assert turnlog("list", "--where", "user=eve", *there, "--json").json["conversations"] == []


def test_an_export_comes_in_again_and_again(there, talk, pg_url, work):
    turnlog("export", "talk", "-o", "out.jsonl", *there)
    other = ["--db", pg_url, "--schema", f"{there[-1]} other"]
    for _ in range(2):
        told = turnlog("import", "out.jsonl", "in.json", *other, "--json")
        assert (told.code, [one["source"] for one in told.json["imported"]]) == (0, ["out.jsonl:1", "in.json:1"])
    turnlog("export", "talk", "-o", "again.jsonl", *other)
    assert (work / "again.jsonl").read_text() == (work / "out.jsonl").read_text()
    assert '"key":"m-1"' in (work / "out.jsonl").read_text()


def test_a_log_is_changed(there, talk):
    assert turnlog("fork", "talk", "--at", 1, "--new", "twin", *there, "--json").json["id"] == "twin"
    assert turnlog("rewind", "twin", "--to", 1, *there, "--json").json["version"] == 3
    receipt = turnlog("erase", "talk", 2, "--reason", "asked to", *there, "--json").json
    assert (receipt["id"], receipt["seqs"]) == ("talk", [2])
    assert any("write-ahead log" in left for left in receipt["left"])
    refused = turnlog("delete", "talk", *there)
    assert (refused.code, "shared by twin; pass --forks keep or --forks delete" in refused.err) == (2, True)
    assert turnlog("delete", "talk", "--forks", "keep", *there, "--json").json["id"] == "talk"
    assert ids(there) == ["twin"]
    assert turnlog("expire", "--older-than", 1, *there).out == "nothing is that old\n"


def test_a_person_talks(there):
    async def chat() -> Told:
        async with scripted_server(["Hello!", "Again."]) as answering:
            arguments = ["chat", "--model", "gpt-4o-mini", "--base-url", answering.base_url, *there]
            return await anyio.to_thread.run_sync(lambda: turnlog(*arguments, stdin="hi\nand?\n"))

    told = anyio.run(chat)
    assert (told.code, told.out) == (0, "Hello!\nAgain.\n")
    (name,) = ids(there)
    assert f"to go on: --id {name}" in told.err
    assert turnlog("verify", *there, "--json").json["verified"] == 2


def test_the_environment_names_a_database(there, talk, pg_url, schema):
    told = turnlog("list", "--json", TURNLOG_DB=pg_url, TURNLOG_SCHEMA=schema)
    assert [one["id"] for one in told.json["conversations"]] == ["talk"]


# -- making the tables


def test_the_tables_are_made_and_nothing_is_done_twice(there, pg_url, schema):
    place = f"postgresql://{pg_url.partition('host=')[2]}/postgres ({schema})"
    assert turnlog("migrate", *there) == (0, f"{place} had no log and has one of schema 1 now\n", "")
    assert turnlog("migrate", *there) == (0, f"{place} has schema 1 already\n", "")
    assert turnlog("migrate", *there, "--json").json == {"from": 1, "to": 1}
    assert turnlog("migrate", "--sql", *there, "--json").json == {"from": 1, "to": 1, "sql": ""}
    assert turnlog("migrate", "--sql", *there).out == "-- There is nothing to do: it has schema 1 already.\n"
    assert ids(there) == []


def psql(url, *arguments, **options):
    """Run psql as somebody would who was given a script."""
    command = [programs() / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def structure(url, schema):
    """Return all that a schema consists of, in SQL."""
    command = [programs() / "pg_dump", "--schema-only", f'--schema="{schema}"', url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace(schema, "")
    return re.sub(r"^\\\w*restrict.*$", "", said, flags=re.MULTILINE)  # a word of that dump alone


@pytest.mark.parametrize("made", [False, True], ids=["no schema", "a schema"])
def test_the_script_is_run_by_psql_as_it_is(pg_url, schema, made, work):
    name = f'quo"ted {schema}'
    where = ["--db", pg_url, "--schema", name]
    if made:
        anyio.run(rows, pg_url, 'CREATE SCHEMA "' + name.replace('"', '""') + '"')
    script = turnlog("migrate", "--sql", *where)
    assert (script.code, script.err) == (0, "")
    assert ("CREATE SCHEMA" in script.out) == (not made)
    assert turnlog("migrate", "--sql", *where, "--json").json == {"from": 0, "to": 1, "sql": script.out}
    assert anyio.run(tables, pg_url, name) == set(), "nothing is changed by printing it"
    (work / "script.sql").write_text(script.out)
    done = psql(pg_url, "-f", "script.sql")
    assert (done.returncode, done.stderr) == (0, "")
    assert turnlog("import", "in.json", *where).code == 0
    again = psql(pg_url, "-f", "script.sql")
    assert again.returncode != 0, "it does nothing twice"
    assert len(ids(where)) == 1


def test_the_script_makes_what_the_command_makes(there, pg_url, schema, work):
    by_hand = f"{schema} by hand"
    (work / "script.sql").write_text(turnlog("migrate", "--sql", "--db", pg_url, "--schema", by_hand).out)
    assert psql(pg_url, "-f", "script.sql").returncode == 0
    assert turnlog("migrate", *there).code == 0
    assert structure(pg_url, by_hand) == structure(pg_url, schema)


@pytest.fixture
def aged(pg_url):
    """See to it that the server has numbered more transactions than one that has just been made."""
    one = "BEGIN PERFORM pg_current_xact_id(); COMMIT; END"
    anyio.run(rows, pg_url, f"DO $$ BEGIN FOR number IN 1..1000 LOOP {one}; END LOOP; END $$")


@pytest.mark.usefixtures("aged")  # before what is written there
def test_a_backup_by_pg_dump_goes_on_on_another_server(there, talk, pg_url, schema, work):
    refused = turnlog("backup", "copy.sql", *there)
    assert (refused.code, refused.out) == (2, "")
    said = "backup copies files; of a PostgreSQL database pg_dump makes a copy: "
    command = shlex.split(refused.err.partition(said)[2])
    assert command[0] == "pg_dump"
    subprocess.run([programs() / "pg_dump", *command[1:-1], pg_url], check=True)
    with server(programs()) as other:
        assert psql(other, "-q", "-f", "copy.sql").returncode == 0
        where = ["--db", other, "--schema", schema]
        # The transactions of a server that has just been made have smaller numbers than those that wrote the events.
        refused = turnlog("list", *where)
        assert refused.code == 2
        assert "the tables were moved here from another server" in refused.err
        assert "run `turnlog migrate`" in refused.err
        script = turnlog("migrate", "--sql", *where)
        assert "Lets new events" in script.out
        (work / "script.sql").write_text(script.out)
        assert psql(other, "-f", "script.sql").returncode == 0
        assert turnlog("migrate", *where, "--json").json == {"from": 1, "to": 1}
        assert turnlog("show", "talk", *where, "--json").json == turnlog("show", "talk", *there, "--json").json
        assert turnlog("import", "in.json", *where).code == 0
        assert turnlog("verify", *where, "--json").json["verified"] == 3
        anyio.run(feeds_in_order, other, schema)


async def feeds_in_order(url, schema):
    async with open_engine(url, schema=schema, migrate=False) as engine, engine.follow() as batches:
        async for batch in batches:
            names = [one.conversation for one in batch]
            assert names == sorted(names, key=lambda name: name != "talk"), "what is new comes behind what was moved"
            break


def test_what_was_moved_is_put_in_order_by_the_command(there, talk, pg_url, schema):
    for table in ("events", "conversations"):
        anyio.run(rows, pg_url, f'UPDATE "{schema}".{table} SET place = place + 1000000')
    assert "new events come behind those that were moved here" in turnlog("migrate", *there).out
    assert ids(there) == ["talk"]


# -- what cannot be done


@pytest.mark.parametrize("name", sorted(ALL.keys() - MAKING))
def test_where_there_is_no_log_nothing_is_made(there, pg_url, schema, name):
    for more in (["--json"], []):
        told = turnlog(*ALL[name], *there, *more, stdin="hi\n")
        assert (told.code, told.out) == (2, "")
        assert f"({schema}): there is no log in it yet; run `turnlog migrate`" in told.err
    assert anyio.run(tables, pg_url, schema) == set()


def test_an_import_without_anything_to_write_makes_no_tables(there, pg_url, schema, work):
    (work / "in.json").write_text("these are my notes")
    told = turnlog("import", "in.json", *there, "--json")
    assert (told.code, len(told.json["rejected"])) == (2, 1)
    assert anyio.run(tables, pg_url, schema) == set()


WRONG = {
    "down": (
        "postgresql://ada:secret@127.0.0.1:9/chat",
        "the server cannot be reached; check that it runs and the url",
    ),
    "not readable": ("postgresql://ada:sec/ret@127.0.0.1/chat", "the PostgreSQL url cannot be read; in a user's name"),
    "a slash missing": ("postgresql:/ada:secret@127.0.0.1/chat", "an url is needed, postgresql://user@host/database"),
    "a list of settings": ("host=127.0.0.1 password=secret", "an url is needed, postgresql://user@host/database"),
    "another": ("mysql://ada:secret@127.0.0.1/chat", "--db mysql://…: there is no store for mysql; name a file, or"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("down", name) for name in (*ALL, "backup")), *((kind, "list") for kind in WRONG)]
)
def test_an_url_that_cannot_be_used_is_told_without_its_password(kind, name, work):
    url, says = WRONG[kind]
    arguments = {**ALL, "backup": ["backup", "copy.sql"]}[name]
    before = set(work.iterdir())
    for more, environment in ((["--db", url], {}), (["--json"], {"TURNLOG_DB": url})):
        told = turnlog(*arguments, *more, stdin="hi\n", **environment)
        assert (told.code, told.out) == (2, "")
        assert says in told.err or (name == "backup" and "pg_dump" in told.err)
        for part in ("secret", "sec/", "/ret", "ada"):
            assert part not in told.err
        assert "Traceback" not in told.err
    assert set(work.iterdir()) == before


def test_the_help_shows_no_password():
    told = turnlog("list", "--help", TURNLOG_DB="postgresql://ada:secret@127.0.0.1/chat")
    assert told.code == 0
    assert "postgresql://" in told.out
    assert "secret" not in told.out


@pytest.mark.parametrize("name", ["list", "migrate", "import"])
def test_a_database_or_a_user_that_is_not_there(pg_url, name):
    for wrong, says in (
        (
            pg_url.replace("/postgres?", "/nowhere?"),
            "/nowhere (public): there is no such database; create it, or correct",
        ),
        (pg_url.replace("turnlog@", "nobody@"), "the server refuses this user; check its name, its password and"),
    ):
        told = turnlog(*ALL[name], "--db", wrong)
        assert (told.code, told.out) == (2, "")
        assert says in told.err


def test_tables_of_another_program(pg_url, schema):
    anyio.run(rows, pg_url, f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}".events (id int)')
    for name in ("list", "migrate", "migrate --sql", "import"):
        told = turnlog(*ALL[name], "--db", pg_url, "--schema", schema)
        assert (told.code, told.out) == (2, "")
        assert "there are tables of another program (events); pass --schema turnlog, or any other that" in told.err


def test_a_user_who_may_only_read(there, talk, pg_url, schema):
    async def make():
        grants = [f'GRANT USAGE ON SCHEMA "{schema}" TO "reader {schema}"']
        grants.append(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "reader {schema}"')
        await role(pg_url, f"reader {schema}", *grants)
        return pg_url.replace("turnlog@", f"reader%20{schema.replace(' ', '%20')}@")

    where = ["--db", anyio.run(make), "--schema", schema]
    for name in ("list", "show", "window", "request", "verify", "export"):
        assert turnlog(*ALL[name], *where).code == 0
    for name in ("fork", "rewind", "erase", "delete", "import", "chat"):
        told = turnlog(*ALL[name], *where, stdin="hi\n")
        assert (told.code, told.out) == (2, "")
        assert "this user may not do it; grant it the rights on the schema and its tables" in told.err


def test_a_name_that_no_schema_has(pg_url):
    for name in ("list", "migrate", "import"):
        told = turnlog(*ALL[name], "--db", pg_url, "--schema", "x" * 64)
        assert (told.code, told.out) == (2, "")
        assert "a name of 1 to 63 bytes is needed" in told.err


@pytest.mark.parametrize("more", [["--schema", "x"], []], ids=["option", "environment"])
def test_a_schema_is_for_postgresql(more, work):
    for arguments in (*ALL.values(), ["backup", "copy.db"]):
        told = turnlog(*arguments, "--db", "log.db", *more, **({} if more else {"TURNLOG_SCHEMA": "x"}))
        assert (told.code, told.out) == (2, "")
        assert "--schema (or TURNLOG_SCHEMA) is for PostgreSQL: name a postgresql:// url with --db" in told.err
    assert [path.name for path in work.iterdir()] == ["in.json"]


def test_the_demo_keeps_a_file(pg_url):
    told = turnlog("demo", "--db", pg_url)
    assert (told.code, told.out) == (2, "")
    assert "demo: --db names a PostgreSQL database; a file is needed here" in told.err


@pytest.mark.parametrize("name", ["list", "import", "migrate", "chat"])
def test_where_the_driver_is_not_installed_the_extra_is_named(name, work):
    code = f"import sys; sys.modules['psycopg'] = None; {ENTRY}"
    command = [sys.executable, "-c", code, *ALL[name], "--db", "postgresql://ada:secret@db/chat"]
    told = subprocess.run(command, capture_output=True, text=True, input="hi\n", check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert 'a postgresql:// url needs a driver: pip install "turnlog[postgres]"' in told.stderr
    assert "secret" not in told.stderr
    assert "Traceback" not in told.stderr
