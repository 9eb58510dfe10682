"""The command, run as people and programs run it."""

import gzip
import json
import sqlite3
from contextlib import closing

import anyio
import pytest

from command_line import Told, command, turnlog
from turnlog import Budget, open_engine
from turnlog.engine.testing.server import scripted_server


def test_the_installed_command(log, tmp_path):
    told = command("list", "--db", log, "--json")
    assert (told.code, told.err) == (0, "")
    assert told.json["conversations"][0]["id"] == "talk"
    told = command("show", "nobody", "--db", log)
    assert (told.code, told.out) == (2, "")
    assert "nobody" in told.err
    assert command("list", "--db", tmp_path / "missing.db").code == 2
    assert command().code == 2
    assert "import" in command("--help").out


def test_list(log):
    told = turnlog("list", "--db", log, "--json")
    assert told.code == 0
    assert told.err == ""
    assert [(one["id"], one["metadata"]) for one in told.json["conversations"]] == [("talk", {"user": "ada"})]
    assert told.json["next"] is None
    assert "talk" in turnlog("list", "--db", log).out


def test_list_goes_on_where_it_stopped(db):
    async def make() -> None:
        async with open_engine(db) as engine:
            for number in range(5):
                await engine.create(id=f"c{number}")

    anyio.run(make)
    found, after = [], None
    while True:
        page = turnlog(
            "list", "--db", db, "--json", "--order", "created", "--limit", 2, *(["--after", after] if after else [])
        ).json
        found += [one["id"] for one in page["conversations"]]
        after = page["next"]
        if after is None:
            break
    assert found == [f"c{number}" for number in range(5)]


def test_show(log):
    told = turnlog("show", "talk", "--db", log, "--json").json
    assert [event["seq"] for event in told["events"]] == list(range(1, told["version"] + 1))
    assert told["events"][1]["item"] == {"role": "system", "content": "Be brief."}
    part = turnlog("show", "talk", "--db", log, "--json", "--at", 3).json
    assert part["events"] == told["events"][:3]
    assert "Be brief." in turnlog("show", "talk", "--db", log).out


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_window(log, api):
    told = turnlog("window", "talk", "--db", log, "--json", "--context", 1000, "--reserve", 100, "--api", api).json
    assert told["budget"] == 900
    assert 0 < told["tokens"] <= 900
    content = told["items" if api == "responses" else "messages"]
    assert content[0] == {"role": "system", "content": "Be brief."}
    assert told["manifest"]["as_of"] == told["version"]
    assert "it fits" in turnlog("window", "talk", "--db", log, "--context", 1000, "--api", api).out


def test_window_is_what_the_library_gives(log):
    async def made():
        async with open_engine(log) as engine:
            return (await (await engine.get("talk")).window(Budget(200), at=8)).items

    assert turnlog("window", "talk", "--db", log, "--json", "--context", 200, "--at", 8).json["items"] == anyio.run(
        made
    )


def test_requests_are_what_the_server_received(log):
    sent = json.loads((log.parent / "bodies.json").read_text())
    events = turnlog("show", "talk", "--db", log, "--json").json["events"]
    seqs = [event["seq"] for event in events if event["type"] == "response.requested"]
    assert [turnlog("request", "talk", "--response", seq, "--db", log, "--json").json for seq in seqs] == sent
    assert turnlog("request", "talk", "--db", log, "--json").json == sent[-1]
    # What a person is shown is the document too, when it is written to a file.
    assert turnlog("request", "talk", "--db", log, COLUMNS="20").json == sent[-1]
    refused = turnlog("request", "talk", "--response", 2, "--db", log)
    assert refused.code == 2
    assert "conversation talk, response 2 (a response is named by the seq of its response.requested" in refused.err


def test_verify(log):
    told = turnlog("verify", "--db", log, "--json")
    assert told.code == 0
    assert told.json == {"responses": 4, "verified": 4, "erased": 0, "diverged": [], "damaged": []}
    assert turnlog("verify", "talk", "--db", log, "--json").json == told.json
    assert "4 of 4" in turnlog("verify", "--db", log).out


def test_verify_names_what_changed(log):
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        changed = "CAST(replace(CAST(item AS TEXT), 'What is', 'Where is') AS BLOB)"
        db.execute(f"UPDATE events SET item = {changed} WHERE CAST(item AS TEXT) LIKE '%What is%'")
    told = turnlog("verify", "--db", log, "--json")
    assert told.code == 1
    sent = json.loads((log.parent / "bodies.json").read_text())
    held = [number for number, body in enumerate(sent) if "What is the sky?" in json.dumps(body)]
    assert told.json["verified"] == len(sent) - len(held)
    assert [one["path"] for one in told.json["diverged"]] == ["$.input[3]", "$.input[3]", "$.messages[3]"]
    assert len(held) == 3
    assert turnlog("verify", "--db", log).code == 1


def test_an_export_and_its_import_count_the_same(db, tmp_path):
    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c")
            await c.append("one", "two")
            deep = await (await c.fork(at=2, id="d")).fork(id="e")
            await deep.append("three")
            await c.append("four")

    anyio.run(make)
    for number, names in enumerate((["e"], ["d", "c"], [])):
        out, other = tmp_path / "out.jsonl", tmp_path / f"{number}.db"
        told = turnlog("export", *names, "-o", out, "--db", db)
        brought = turnlog("import", out, "--db", other)
        assert told.out.removesuffix(f" in {out}\n") == brought.out.removesuffix(" in the log\n")
        exported = turnlog("export", *names, "-o", out, "--db", db, "--json").json["exported"]
        imported = turnlog("import", out, "--db", other, "--json").json["imported"]
        assert {one["id"]: one["events"] for one in exported} == {one["id"]: one["events"] for one in imported}
    assert exported == [{"id": "c", "events": 4}, {"id": "d", "events": 1}, {"id": "e", "events": 2}]
    assert "3 conversations with 6 messages" in turnlog("export", "--format", "chat", "-o", out, "--db", db).out
    assert "3 conversations with 6 items" in turnlog("export", "--format", "responses", "-o", out, "--db", db).out


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_export_and_import_give_the_same_events(log, tmp_path, name):
    out, other = tmp_path / name, tmp_path / "other.db"
    told = turnlog("export", "talk", "-o", out, "--db", log, "--json")
    assert told.code == 0
    events = turnlog("show", "talk", "--db", log, "--json").json
    assert told.json["exported"] == [{"id": "talk", "events": events["version"]}]
    brought = turnlog("import", out, "--db", other, "--json")
    assert brought.json["imported"] == [{"id": "talk", "events": events["version"], "source": f"{out}:1"}]
    assert turnlog("show", "talk", "--db", other, "--json").json == events
    assert turnlog("verify", "--db", other, "--json").json["verified"] == 4
    again = tmp_path / f"again-{name}"
    turnlog("export", "talk", "-o", again, "--db", other)
    assert again.read_bytes() == out.read_bytes()
    assert turnlog("import", out, "--db", other, "--json").json["imported"] == brought.json["imported"]
    assert turnlog("show", "talk", "--db", other, "--json").json["version"] == events["version"]


def test_an_export_appears_whole_or_not_at_all(log, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("what was here")
    told = turnlog("export", "talk", "missing", "-o", out, "--db", log)
    assert told.code == 2
    assert "missing" in told.err
    assert out.read_text() == "what was here"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the sky?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "blue"},
    {"role": "assistant", "content": "Blue."},
]
ITEMS = [
    {"role": "user", "content": "What is the sky?"},
    {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "blue"},
    {"role": "assistant", "content": "Blue."},
]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (json.dumps(MESSAGES), 5),
        (json.dumps(MESSAGES, indent=2), 5),
        (json.dumps({"messages": MESSAGES}), 5),
        (json.dumps(ITEMS), 4),
        (json.dumps({"input": ITEMS}, indent=1), 4),
    ],
    ids=["chat", "chat over lines", "chat object", "items", "items object over lines"],
)
def test_import_of_arrays(db, tmp_path, text, count):
    path = tmp_path / "one.json"
    path.write_text(text)
    told = turnlog("import", path, "--db", db, "--json")
    assert told.code == 0
    assert [one["events"] for one in told.json["imported"]] == [count + 1]
    name = told.json["imported"][0]["id"]
    messages = turnlog("window", name, "--db", db, "--json", "--context", 1000, "--api", "chat").json["messages"]
    assert [message["role"] for message in messages[-4:]] == ["user", "assistant", "tool", "assistant"]
    items = turnlog("window", name, "--db", db, "--json", "--context", 1000).json["items"]
    assert [item.get("call_id") for item in items if "call_id" in item] == ["c1", "c1"]
    assert turnlog("import", path, "--db", db, "--json").json == told.json


def test_import_of_several_arrays_in_one_file(db, tmp_path):
    path = tmp_path / "many.jsonl.gz"
    lines = [json.dumps({"messages": [{"role": "user", "content": f"number {number}"}]}) for number in range(200)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    told = turnlog("import", path, "--db", db, "--json").json
    assert len({one["id"] for one in told["imported"]}) == 200
    assert [one["source"] for one in told["imported"]] == [f"{path}:{number}" for number in range(1, 201)]


def test_import_says_which_line_and_goes_on(db, tmp_path):
    path = tmp_path / "mixed.jsonl"
    good = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    bad = [
        "{not json",
        json.dumps({"messages": [{"role": "nobody", "content": "hi"}]}),
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        json.dumps({"api": "telepathy"}),
        json.dumps({"messages": []}),
        '{"messages": [{"role": "user", "content": NaN}]}',
        json.dumps("a text"),
        json.dumps({"api": "input_tokens", "request": {}, "response": {}}),
    ]
    path.write_text("\n".join([good, *bad, good.replace("hi", "there")]))
    told = turnlog("import", path, "--db", db, "--json")
    assert told.code == 2
    assert [one["source"] for one in told.json["imported"]] == [f"{path}:1", f"{path}:10"]
    assert [one["line"] for one in told.json["rejected"]] == list(range(2, 10))
    assert all(one["source"] == str(path) and one["error"] for one in told.json["rejected"])
    assert "mixed.jsonl:3" in turnlog("import", path, "--db", db).out


def test_a_damaged_export_is_rejected_whole(log, tmp_path):
    out = tmp_path / "out.jsonl"
    turnlog("export", "talk", "-o", out, "--db", log)
    lines = out.read_text().splitlines(keepends=True)
    for name, damaged in {
        "short": lines[:-2],
        "gap": lines[:4] + lines[5:],
        "format": [lines[0].replace('"format":2', '"format":99'), *lines[1:]],
        "body": [line.replace("look_up", "look_out") if line.startswith('{"body"') else line for line in lines],
    }.items():
        path, other = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.db"
        path.write_text("".join(damaged))
        told = turnlog("import", path, "--db", other, "--json")
        assert told.code == 2, name
        assert told.json["imported"] == []
        assert told.json["rejected"][0]["error"]
        assert not other.exists()


def test_an_edited_export_is_refused_at_its_line(log, tmp_path):
    out, other = tmp_path / "out.jsonl", tmp_path / "other.db"
    turnlog("export", "talk", "-o", out, "--db", log)
    lines = out.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if "What is the sky?" in line and '"seq"' in line]
    out.write_text(out.read_text().replace("What is the sky?", "What is the sea?"))
    told = turnlog("import", out, "--db", other, "--json")
    assert (told.code, told.json["imported"]) == (2, [])
    (one,) = told.json["rejected"]
    assert (one["source"], one["line"]) == (str(out), number)
    assert "is not what its checksum says; the file was changed, export it again" in one["error"]


def test_chat(db):
    async def talk() -> Told:
        async with scripted_server(["Hello!", "Bye!"]) as server:
            return await anyio.to_thread.run_sync(
                lambda: turnlog(
                    "chat", "--model", "gpt-4o-mini", "--base-url", server.base_url, "--db", db, stdin="hi\nbye\n\n"
                )
            )

    told = anyio.run(talk)
    assert told.code == 0
    assert "Hello!" in told.out
    assert "Bye!" in told.out
    name = turnlog("list", "--db", db, "--json").json["conversations"][0]["id"]
    assert turnlog("verify", name, "--db", db, "--json").json["verified"] == 2


def test_chat_survives_a_failure(db):
    from turnlog.engine.testing.server import Fail

    async def talk() -> Told:
        refused = Fail(400, code="invalid_value", message="No.")
        async with scripted_server([refused, "Better."]) as server:
            return await anyio.to_thread.run_sync(
                lambda: turnlog(
                    "chat", "--model", "gpt-4o-mini", "--api", "chat", "--base-url", server.base_url, "--db", db,
                    stdin="hi\nagain\n",
                )
            )  # fmt: skip

    told = anyio.run(talk)
    assert told.code == 1
    assert "No." in told.err
    assert "Better." in told.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nobody"], "nobody"),
        (["show", "not an id"], "1 to 64 characters"),
        (["window", "talk", "--context", "1"], "tokens"),
        (["window", "talk", "--context", "0"], "context"),
        (["window", "talk", "--context", "100", "--reserve", "100"], "nothing is left"),
        (["window", "talk", "--context", "100", "--api", "telepathy"], "telepathy"),
        (["window", "talk", "--context", "100", "--at", "9999"], "9999"),
        (["window", "talk"], "--context"),
        (["list", "--order", "sideways"], "sideways"),
        (["list", "--after", "nonsense"], "nonsense"),
        (["list", "--limit", "0"], "limit"),
        (["verify", "nobody"], "nobody"),
        (["export", "talk", "-o", "/nowhere/at/all.jsonl"], "/nowhere/at/all.jsonl"),
        (["import", "/nowhere/at/all.jsonl"], "/nowhere/at/all.jsonl"),
        (["chat", "--model", "gpt-4o-mini"], "OPENAI_API_KEY"),
        (["chat", "--model", "acme-7b", "--base-url", "http://127.0.0.1:9"], "context window unknown"),
        (["fly"], "fly"),
    ],
    ids=" ".join,
)
def test_bad_usage_says_what_is_wrong(log, arguments, says):
    told = turnlog(*arguments, *(["--db", log] if arguments[0] != "fly" else []), stdin="hi\n")
    assert told.code == 2
    assert says in told.err
    assert "Traceback" not in told.err
    assert told.out.count("{") == 0


def test_a_file_that_is_no_database_of_turnlog(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and no database" * 100)
    told = turnlog("list", "--db", text)
    assert told.code == 2
    assert "no SQLite database" in told.err
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        db.execute("CREATE TABLE theirs (a)")
    assert "belongs to another program" in turnlog("import", text, "--db", other).err
    assert "belongs to another program" in turnlog("list", "--db", other).err
    missing = tmp_path / "missing.db"
    assert turnlog("list", "--db", missing).code == 2
    assert not missing.exists()


def test_a_newer_schema_is_refused(log):
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 99")
    before = log.read_bytes()
    told = turnlog("list", "--db", log)
    assert told.code == 2
    assert "upgrade turnlog" in told.err
    assert log.read_bytes() == before


def test_looking_changes_nothing(log):
    before = {path.name: path.read_bytes() for path in log.parent.glob("log.db")}
    for arguments in (
        ["list"],
        ["show", "talk"],
        ["window", "talk", "--context", "500"],
        ["verify"],
        ["request", "talk"],
    ):
        assert turnlog(*arguments, "--db", log).code == 0
    assert {path.name: path.read_bytes() for path in log.parent.glob("log.db")} == before


def test_demo(tmp_path):
    # Nothing listens there: what is on this machine is reached without a proxy.
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    told = turnlog("demo", "--db", tmp_path / "demo.db", "--json", NO_PROXY="", no_proxy="", **proxies)
    assert told.code == 0, told.err
    report = told.json
    assert report["turns"] >= 12
    assert report["verified"] == report["responses"] == report["requests"]
    assert report["diverged"] == []
    assert report["refused"] == 0
    assert report["cuts"] > 0
    assert {window["api"] for window in report["windows"]} == {"responses", "chat"}
    assert len(report["recovered"]["interrupted"]) == 1
    assert turnlog("verify", "--db", tmp_path / "demo.db", "--json").json["verified"] == report["verified"]


def test_demo_tells_a_person():
    told = turnlog("demo", COLUMNS="120")
    assert told.code == 0
    for part in ("A dozen turns", "SIGKILL", "The log", "What each request saw", "oldest-turns@1", "verified"):
        assert part in told.out
    assert "Traceback" not in told.err
