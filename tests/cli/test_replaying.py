"""`turnlog replay`, `why` and `tail`."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager

import anyio

from command_line import COMMAND, turnlog
from instant_model import Instant
from turnlog import open_engine


def test_replay_tells_every_step(every):
    told = turnlog("replay", "everything", "--db", every, "--json")
    assert (told.code, told.err) == (0, "")
    steps = told.json["steps"]
    assert [one["number"] for one in steps] == list(range(1, len(steps) + 1))
    for one in steps:
        assert sum(one["kinds"].values()) == one["tokens"] <= one["context"] - one["reserve"]
        assert one["manifest"]["as_of"] < one["seq"]
        assert one["diff"]["same"] >= 0
    (failed,) = [one for one in steps if one["status"] == "failed"]
    assert failed["error"] == "server_error: busy"


def test_replay_shows_every_step(every):
    steps = turnlog("replay", "everything", "--db", every, "--json").json["steps"]
    told = turnlog("replay", "everything", "--db", every)
    assert told.code == 0
    diffs = [" ".join(line.split()) for line in told.out.splitlines() if " against " in line]
    before = {one["before"] for one in steps}
    assert len(diffs) == len(steps)
    assert {one.rpartition(" ")[2] for one in diffs if "nothing" not in one} == {str(one) for one in before if one}
    for shown in ("of 3,800 (4,000 less 200)", "■ outputs", "now rewound", "server_error: busy", "cut: oldest-turns@1"):
        assert shown in told.out


def test_replay_begins_where_it_is_told_to(every):
    steps = turnlog("replay", "everything", "--db", every, "--json").json["steps"]
    part = turnlog("replay", "everything", "--response", steps[4]["seq"], "--db", every, "--json").json["steps"]
    assert part == steps[4:]
    part = turnlog("replay", "everything", "--turn", 6, "--db", every, "--json").json["steps"]
    assert part[0]["turn_number"] == 6
    refused = turnlog("replay", "everything", "--response", 2, "--db", every)
    assert (refused.code, refused.out) == (2, "")
    assert "response 2 (there are 7," in refused.err
    assert turnlog("replay", "nobody", "--db", every).code == 2


def test_replay_steps_as_it_is_told(every):
    steps = turnlog("replay", "everything", "--db", every, "--json").json["steps"]
    commands = "n\n\np\ne\nx\nt 1\nt 999\nr 2\nc\nd\nw\nb\nwhat\n'\nX\nq\n"
    told = turnlog("replay", "everything", "--step", "--db", every, stdin=commands)
    assert told.code == 0
    seen = [int(line.split()[1]) for line in told.out.splitlines() if line.startswith("response ") and "turn" in line]
    seqs = [one["seq"] for one in steps]
    error = next(one["seq"] for one in steps if one["status"] == "failed")
    cut = next(one["seq"] for one in steps if one["cut"] and one["seq"] > error)
    assert seen == [seqs[0], seqs[1], seqs[2], seqs[1], error, cut, seqs[0]]
    for shown in ("turn 999", "response 2 (there", "compaction behind this one", "cut before this one", '"input": ['):
        assert shown in told.out
    assert told.out.count("n next") == 3
    assert turnlog("replay", "everything", "--step", "--db", every, stdin="").code == 0


def test_nothing_that_is_logged_moves_the_cursor(db):
    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c")
            await c.run(Instant(answer="\x1b[2J[red]{}[/]"), "\x1b]0;title\x07[bold]hi[/bold]")

    anyio.run(make)
    told = turnlog("replay", "c", "--step", "--db", db, stdin="d\nw\nb\nq\n")
    assert "\x1b" not in told.out
    assert "[bold]hi[/bold]" in told.out
    assert "\x1b" not in turnlog("why", "c", 2, "--db", db).out
    assert "\x1b" not in turnlog("tail", "--from", "start", "--count", 3, "--db", db).out


def test_why(every):
    steps = turnlog("replay", "everything", "--db", every, "--json").json["steps"]
    response = steps[-1]["seq"]
    told = turnlog("why", "everything", 5, "--response", response, "--db", every, "--json").json
    assert (told["seq"], told["fate"], told["response"]) == (5, "dropped", response)
    assert told["rule"].startswith("oldest-turns@1: over")
    assert turnlog("why", "everything", 5, "--db", every, "--json").json == told
    assert "seq 5 in response" in turnlog("why", "everything", 5, "--db", every).out
    pinned = turnlog("why", "everything", 4, "--db", every, "--json").json
    assert (pinned["fate"], pinned["rule"]) == ("pinned", "pinned")
    assert pinned["item"]["content"] == "Remember: the code is 4711."
    assert pinned["tokens"] > 0
    assert turnlog("why", "everything", 5, "--response", 6, "--db", every).code == 2
    assert turnlog("why", "everything", 99999, "--db", every).code == 2


def test_tail_shows_what_is_there(every):
    told = turnlog("tail", "--from", "start", "--count", 5, "--db", every, "--json")
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [one["seq"] for one in events] == [1, 2, 3, 4, 5]
    assert {one["conversation"] for one in events} == {"everything"}
    shown = turnlog("tail", "everything", "--from", "start", "--count", 2, "--db", every)
    assert "everything/2 item.appended system: Be brief." in shown.out
    assert turnlog("tail", "nobody", "--db", every).code == 2
    assert turnlog("tail", "--from", "now", "--db", every).code == 2


@contextmanager
def following(command):
    """A process that can be interrupted, as from a terminal; tests in the background may be started deaf to it."""
    deaf = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    finally:
        signal.signal(signal.SIGINT, deaf)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_tail_follows_what_other_processes_write(every):
    command = [COMMAND, "tail", "other", "--db", str(every), "--json"]

    async def append(*texts):
        async with open_engine(every) as engine:
            c = await engine.get_or_create("other")
            for text in texts:
                await c.append(text)
            await (await engine.get("everything")).append("nothing to do with it")

    anyio.run(append)
    with following(command) as process:
        assert "following" in process.stderr.readline()
        anyio.run(append, "one", "two")
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [one["item"]["content"] for one in told] == ["one", "two"]
        anyio.run(append, "three")
        assert json.loads(process.stdout.readline())["item"]["content"] == "three"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
