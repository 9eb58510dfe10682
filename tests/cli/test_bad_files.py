"""Files that cannot be imported or written: named, with the line and the remedy; nothing is half-written."""

import gzip
import json
import os
import pty
import resource
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from command_line import COMMAND, turnlog
from ordinary_user import mode, ordinary_folder
from turnlog import open_engine
from turnlog.engine.canonical import encode
from turnlog.engine.engine import Engine
from turnlog.engine.events import checksum

GOOD = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def ids(db="log.db"):
    if not Path(db).exists():
        return []  # nothing was there to be written
    return [one["id"] for one in turnlog("list", "--db", db, "--json").json["conversations"]]


# -- what cannot be read

UNREADABLE = {
    "missing": (lambda path: None, "cannot be read: No such file or directory"),
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_makes_no_database(work, kind):
    prepare, says = UNREADABLE[kind]
    prepare(work / "in.jsonl")
    (work / "good.jsonl").write_bytes(GOOD)
    for more in (["--json"], []):
        told = turnlog("import", "good.jsonl", "in.jsonl", "--db", "log.db", *more)
        assert (told.code, told.out) == (2, "")
        assert f"in.jsonl: {says}" in told.err
    assert not (work / "log.db").exists()


def test_a_file_that_may_not_be_read(monkeypatch):
    with ordinary_folder() as folder:
        monkeypatch.chdir(folder)
        (folder / "in.jsonl").write_bytes(GOOD)
        with mode(folder / "in.jsonl", 0):
            told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
        assert (told.code, told.out) == (2, "")
        assert "in.jsonl: cannot be read: Permission denied" in told.err
        assert [path.name for path in folder.iterdir()] == ["in.jsonl"]
        monkeypatch.undo()


PACKED = gzip.compress(b"\n".join(GOOD.replace(b"Hi", b"Hi %d" % number) for number in range(300)), mtime=0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD, "Not a gzipped file"),
        (PACKED[: len(PACKED) // 2], "ended before the end-of-stream marker"),
        (PACKED[:200] + b"\xff" * 50 + PACKED[250:], "Error -3 while decompressing data"),
        (PACKED[:-8] + b"\0" * 8, "CRC check failed"),
    ],
    ids=["no gzip", "cut short", "damaged", "wrong sum"],
)
def test_packed_files_that_cannot_be_unpacked(work, content, says):
    (work / "in.jsonl.gz").write_bytes(content)
    told = turnlog("import", "in.jsonl.gz", "--db", "log.db", "--json")
    assert told.code == 2
    assert "in.jsonl.gz: cannot be read: " in told.err
    assert says in told.err
    assert "Traceback" not in told.err
    before = ids()
    assert set(before) <= {one["id"] for one in told.json["imported"]} if told.out else before == []
    # What came before the damage may be there, and whole; mended, the rest comes in.
    (work / "in.jsonl.gz").write_bytes(PACKED)
    told = turnlog("import", "in.jsonl.gz", "--db", "log.db", "--json").json
    assert len(told["imported"]) == 300
    assert set(before) <= {one["id"] for one in told["imported"]}


def test_a_packed_file_is_unpacked_whatever_its_name(work):
    (work / "in.jsonl").write_bytes(PACKED)
    assert len(turnlog("import", "in.jsonl", "--db", "log.db", "--json").json["imported"]) == 300


def test_a_database_is_no_file_to_import(work):
    exported("a")
    for more in (["--json"], []):
        told = turnlog("import", "from.db", "--db", "log.db", *more)
        assert (told.code, told.out) == (2, "")
        assert (
            "from.db: this SQLite database holds no sessions of the Agents SDK; if it is turnlog's, write its "
            in told.err
        )
        assert "turnlog export -o FILE --db from.db, and import that" in told.err
    assert not (work / "log.db").exists()


NOTHING = {
    "notes": b"these are my notes\n" * 5,
    "bytes": os.urandom(3000).replace(b"[", b"").replace(b"{", b""),
    "nothing": b"",
    "blank lines": b"\n \n\n",
    "a number": b"7",
    "an array of numbers": b"[1, 2, 3]",
    "an empty array": b"[]",
    "half an array": b'[{"role": "user",',
    "a count": json.dumps({"api": "input_tokens", "request": {"input": "Hi"}, "response": {}}).encode(),
    "an export without a beginning": b'{"keys":0}\n{"seq":1,"time":1,"kind":"conversation.created","sum":1}\n',
    "an export without an end": b'{"turnlog":"conversation","format":2,"id":"c","version":2}\n{"keys":0}\n',
}


@pytest.mark.parametrize("kind", NOTHING)
def test_a_file_without_a_conversation_leaves_no_log_behind(work, kind):
    (work / "in.jsonl").write_bytes(NOTHING[kind])
    for more in (["--json"], []):
        told = turnlog("import", "in.jsonl", "--db", "log.db", *more)
        assert told.code == (0 if kind in ("nothing", "blank lines", "a count") else 2)
        assert "Traceback" not in told.err
        assert [path.name for path in work.iterdir()] == ["in.jsonl"]
    assert told.out.startswith("no conversation was imported\n")


# -- what is malformed


def exported(*names):
    """Return the lines of an export of conversations with such names, each of an item and a change of metadata."""

    async def make(engine: Engine) -> None:
        for name in names:
            c = await engine.create(id=name)
            await c.append(f"I am {name}.")
            await c.update_metadata({"name": name})

    async def work() -> None:
        async with open_engine("from.db") as engine:
            await make(engine)

    anyio.run(work)
    assert turnlog("export", *names, "-o", "out.jsonl", "--db", "from.db").code == 0
    return Path("out.jsonl").read_bytes().splitlines(keepends=True)


def test_a_damaged_conversation_is_told_once_and_the_others_come_in(work):
    lines = exported("a", "b", "c", "d")
    assert len(lines) == 20
    lines[7] = lines[7].replace(b'"seq":1', b'"seq":7')
    lines[13] = b"{broken\n"
    lines[18] = lines[18].replace(b'"time":', b'"times":')
    (work / "in.jsonl").write_bytes(b"".join(lines))
    told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
    assert told.code == 2
    assert [one["id"] for one in told.json["imported"]] == ["a"] == ids()
    rejected = {one["line"]: one["error"] for one in told.json["rejected"]}
    assert rejected.keys() == {8, 14, 19}
    assert rejected[8].startswith("$.seq: 7: event 1 is expected here; the file is not whole, export it again")
    assert rejected[14].startswith("$: not JSON")
    assert rejected[19].startswith("$.time: None is no whole number")
    shown = turnlog("import", "in.jsonl", "--db", "log.db")
    assert "in.jsonl:14" in shown.out


def test_a_fork_whose_parent_is_damaged_is_rejected_with_it(work):
    exported("a")
    assert turnlog("fork", "a", "--new", "b", "--db", "from.db").code == 0
    assert turnlog("export", "b", "-o", "out.jsonl", "--db", "from.db").code == 0
    (work / "in.jsonl").write_bytes((work / "out.jsonl").read_bytes().replace(b"I am", b"I was"))
    told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
    assert (told.code, told.json["imported"], ids()) == (2, [], [])
    damaged, fork = told.json["rejected"]
    assert "event 2 is not what its checksum says" in damaged["error"]
    assert (fork["line"], fork["error"]) == (6, "conversation b: it is a fork of a at 3, which is not here up to there")


@pytest.mark.parametrize("field", ["kind", "data", "item"])
def test_an_event_that_cannot_be_read_is_named(work, field):
    lines = exported("a", "b")
    changed = {
        "kind": lines[4]
        .replace(b"metadata.updated", b"response.completed")
        .replace(b'"patch":{"name"', b'"usage":{"input_tokens"'),
        "data": lines[4].replace(b'{"patch":{"name":"a"}}', b"[]"),
        "item": lines[3].replace(b'"item":{', b'"items":{'),
    }
    lines[3 if field == "item" else 4] = changed[field]
    (work / "in.jsonl").write_bytes(b"".join(lines))
    told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
    assert told.code == 2
    assert ids() == ["b"]
    (rejected,) = told.json["rejected"]
    assert rejected["source"] == "in.jsonl"
    assert rejected["line"] == (4 if field == "item" else 5)
    assert "Traceback" not in told.err


def test_another_conversation_of_that_id_says_what_to_do(work):
    lines = exported("a")
    other = json.loads(lines[3].replace(b"I am", b"I was"))
    other["sum"] = checksum(encode(other["item"]), None)
    (work / "in.jsonl").write_bytes(b"".join([*lines[:3], encode(other), b"\n", lines[4]]))
    assert turnlog("import", "out.jsonl", "--db", "log.db").code == 0
    told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
    (rejected,) = told.json["rejected"]
    assert (told.code, rejected["line"]) == (2, 1)
    assert rejected["error"].endswith("another one here; to import it beside, change the id in its first line")
    (work / "in.jsonl").write_text((work / "in.jsonl").read_text().replace('"id":"a"', '"id":"b"'))
    assert turnlog("import", "in.jsonl", "--db", "log.db").code == 0
    assert sorted(ids()) == ["a", "b"]


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
ODD = [
    ({"input": [CALL, {"type": "function_call_output", "call_id": "c", "output": [{"type": []}]}]}, 1),
    ({"input": [{"role": "user", "content": [{"type": {}}]}]}, 1),
    ({"input": [{"type": []}]}, 1),
    ({"input": [{"type": {}, "role": [], "content": {}}]}, 1),
    ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, 1),
    ({"messages": [{"role": ["user"], "content": "Hi"}]}, 0),
    ({"messages": [{"role": "user", "content": {"a": "b"}}]}, 1),
    ({"messages": "Hi"}, 0),
    ({"messages": [7]}, 0),
    ({"api": ["chat"], "request": {}}, 0),
    ({"api": "chat", "request": []}, 0),
    ({"api": "chat", "request": {"messages": [{"role": "user", "content": "Hi"}]}, "response": 7}, 1),
    ({"api": "responses", "request": {"input": [{"type": []}]}, "response": {"output": [{"type": {}}]}}, 1),
    ({"turnlog": "conversation"}, 0),
    ({"turnlog": 7, "format": 1, "id": 7, "version": 1}, 0),
    (None, 0),
    (True, 0),
    ([[]], 0),
]  # fmt: skip


@pytest.mark.parametrize(("value", "count"), ODD, ids=lambda value: json.dumps(value)[:60])
def test_odd_values_are_taken_or_refused(work, value, count):
    """What an API has refused is taken as it was; whatever came in can be shown, windowed and exported."""
    (work / "in.jsonl").write_text(json.dumps(value) + "\n")
    told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
    assert (told.code, len(told.json["imported"]), len(told.json["rejected"])) == (0 if count else 2, count, 1 - count)
    for name in ids():
        for arguments in (["show"], ["window", "--context", "500"], ["window", "--context", "500", "--api", "chat"]):
            assert turnlog(*arguments, name, "--db", "log.db").code == 0
        assert turnlog("export", name, "-o", "again.jsonl", "--db", "log.db").code == 0
    assert (work / "log.db").exists() == (count > 0), "there is no log without anything to write"
    assert not count or turnlog("verify", "--db", "log.db").code == 0


def test_the_deepest_item_comes_in_again(work):
    item = {"role": "user", "content": "Hi", "deep": json.loads("[" * 99 + "]" * 99)}

    async def make() -> None:
        async with open_engine("from.db") as engine:
            await (await engine.create(id="a")).append(item)

    anyio.run(make)
    turnlog("export", "a", "-o", "out.jsonl", "--db", "from.db")
    assert turnlog("import", "out.jsonl", "--db", "log.db").code == 0
    assert turnlog("show", "a", "--db", "log.db", "--json").json["events"][1]["item"] == item


# -- what cannot be written


def limited(*arguments, size):
    """Run the command in a process of its own whose files may not grow beyond a size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run([COMMAND, *arguments], capture_output=True, check=False, text=True, preexec_fn=limit)


def test_a_log_that_may_not_grow_is_told_and_whole(work):
    (work / "in.jsonl").write_bytes(GOOD.replace(b"Hi", b"x" * 300_000) + b"\n" + GOOD)
    turnlog("import", "in.jsonl", "--db", "other.db")
    told = limited("import", "in.jsonl", "--db", "log.db", "--json", size=200_000)
    assert told.returncode == 2
    # What came in beside the one that was too large is told; one that was in the same commit did not.
    came_in = json.loads(told.stdout)["imported"] if told.stdout else []
    assert [one["source"] for one in came_in] in (["in.jsonl:2"], [])
    assert "log.db: a file would have grown beyond the 200,000 bytes that this process may write" in told.stderr
    assert "Traceback" not in told.stderr
    assert turnlog("verify", "--db", "log.db").code == 0
    assert ids() == [one["id"] for one in came_in]
    told = turnlog("import", "in.jsonl", "--db", "log.db", "--json")
    assert (told.code, len(told.json["imported"])) == (0, 2)
    assert sorted(ids()) == sorted(ids("other.db"))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_an_export_that_cannot_be_written_leaves_what_was_there(work, name):
    exported("a")
    noise = os.urandom(200_000).hex()
    (work / "in.jsonl").write_bytes(GOOD.replace(b"Hi", noise.encode()))
    (imported,) = turnlog("import", "in.jsonl", "--db", "log.db", "--json").json["imported"]
    (work / name).write_text("what was here")
    told = limited("export", imported["id"], "-o", name, "--db", "log.db", "--json", size=100_000)
    assert (told.returncode, told.stdout) == (2, "")
    assert f"{name}: cannot be written: File too large" in told.stderr
    assert (work / name).read_text() == "what was here"
    assert not [path.name for path in work.iterdir() if path.name.startswith(".")]


def test_an_export_replaces_files_only(work):
    exported("a")
    os.mkfifo(work / "pipe")
    (work / "folder").mkdir()
    for name in ("pipe", "folder"):
        told = turnlog("export", "a", "-o", name, "--db", "from.db", "--json")
        assert (told.code, told.out) == (2, "")
        assert f"{name}: this is no ordinary file; name another" in told.err
    assert (work / "pipe").is_fifo()
    assert (work / "folder").is_dir()


def test_an_output_that_is_full_is_told(work):
    exported("a")
    for arguments in (["list"], ["show", "a", "--json"]):
        with Path("/dev/full").open("w") as full:
            told = subprocess.run(
                [COMMAND, *arguments, "--db", "from.db"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert told.returncode == 2
        says = "the output cannot be written: No space left on device"
        document = {"error": {"type": "OSError", "message": says}}
        assert told.stderr == (json.dumps(document) if "--json" in arguments else f"turnlog: {says}") + "\n"


def test_an_output_that_nobody_reads_any_more_is_no_error(work):
    (work / "in.jsonl").write_bytes(GOOD.replace(b"Hi", b"x" * 1_000_000))
    (imported,) = turnlog("import", "in.jsonl", "--db", "log.db", "--json").json["imported"]
    command = [COMMAND, "show", imported["id"], "--db", "log.db", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


# -- bars


def on_a_terminal(*arguments):
    """Run the command with standard error on a terminal; return what it wrote there, and on standard output."""
    ours, theirs = pty.openpty()
    seen = []

    def look() -> None:
        with suppress(OSError):  # when nobody has the other end any more
            while data := os.read(ours, 65536):
                seen.append(data)

    reader = threading.Thread(target=look)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=theirs, check=False, env=environment)
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert done.returncode == 0
    return b"".join(seen), done.stdout


def test_a_bar_is_shown_on_a_terminal_only(work):
    (work / "in.jsonl").write_bytes(GOOD)
    arguments = ["import", "in.jsonl", "--db", "log.db"]
    errors, out = on_a_terminal(*arguments)
    assert b"importing" in errors
    assert b"importing" not in out
    assert b"verifying" in on_a_terminal("verify", "--db", "log.db")[0]
    errors, out = on_a_terminal(*arguments, "--json")
    assert errors == b""
    assert len(json.loads(out)["imported"]) == 1
    plain = subprocess.run([COMMAND, *arguments], capture_output=True, check=True)
    assert (plain.stderr, b"importing" in plain.stdout) == (b"", False)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
@pytest.mark.parametrize("named", ["as it is", "by a link"])
def test_an_export_never_takes_the_place_of_the_database(work, end, named):
    Path("in.json").write_bytes(GOOD)
    turnlog("import", "in.json", "--db", "log.db")
    before = ids()
    name = f"log.db{end}"
    if named == "by a link":
        Path("other").symlink_to(name)
        name = "other"
    told = turnlog("export", *before, "-o", name, "--db", "log.db")
    assert told.code == 2
    assert "the database's own file" in told.err
    assert ids() == before
