"""`turnlog window --explain`: what became of every event, as a table for people and as JSON for programs."""

import anyio
import pytest

from command_line import turnlog
from turnlog import Budget, open_engine


def window(log, name, context, *more):
    return turnlog("window", name, "--db", log, "--context", context, "--explain", *more)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_beside_what_is_sent_programs_are_told_why(log, api):
    told = window(log, "talk", 60, "--api", api, "--json").json
    explained = told.pop("explained")
    assert told == turnlog("window", "talk", "--db", log, "--context", 60, "--api", api, "--json").json
    assert explained["policy"] == "oldest-turns@1"
    assert explained["cut"] == told["manifest"]["cut"] > 0
    assert sum(run["tokens"] for run in explained["runs"]) == told["manifest"]["items"]


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_every_event_has_a_fate_and_a_rule(log, api):
    told = window(log, "talk", 60, "--api", api, "--json").json
    runs, fates = told["explained"]["runs"], told["explained"]["fates"]
    assert [run["first"] for run in runs] == [1, *(run["last"] + 1 for run in runs[:-1])]
    assert runs[-1]["last"] == told["version"]
    assert all(run["rule"] for run in runs)
    assert {"kept", "pinned", "dropped"} <= fates.keys()
    assert sum(figures["events"] for figures in fates.values()) == told["version"]
    assert fates["dropped"]["tokens"] == 0 < fates["kept"]["tokens"]


def test_it_says_the_same_to_people_in_a_line_for_each_run(log):
    told = window(log, "talk", 60)
    runs = window(log, "talk", 60, "--json").json["explained"]["runs"]
    assert told.code == 0
    for run in runs:
        seqs = str(run["first"]) if run["first"] == run["last"] else f"{run['first']}-{run['last']}"
        assert any(line.startswith(seqs) and run["fate"] in line and run["rule"] in line for line in lines(told))
    assert "oldest-turns@1, as of" in lines(told)[0]
    assert "pinned 1 event" in told.out
    assert "Once more." not in told.out  # what is sent is another question


def lines(told):
    return [line.strip() for line in told.out.splitlines()]


def test_thousands_of_events_are_a_few_lines(db):
    async def make():
        async with open_engine(db) as engine:
            conversation = await engine.create(id="long")
            for start in range(0, 3000, 500):
                await conversation.append(*(f"{start + number}" for number in range(500)))
                await conversation.append({"role": "assistant", "content": "Yes."})
            await conversation.append("last")

    anyio.run(make)
    told = window(db, "long", 100)
    assert len(lines(told)) < 10
    assert any("dropped" in line and "3,007" in line for line in lines(told))


def test_what_is_rewound_or_in_front_or_shared_is_said(db):
    async def make():
        async with open_engine(db) as engine:
            conversation = await engine.create(id="talk")
            await conversation.append("one", "two", "three")
            await conversation.rewind(3)
            await (await conversation.fork(id="twin")).append("four")

    anyio.run(make)
    told = window(db, "twin", 1000)
    assert any(line.startswith("4 ") and "rewound" in line for line in lines(told))
    assert "in a fork: the events up to 5 are its parent's" in lines(told)
    assert window(db, "twin", 1000, "--json").json["explained"]["forked"] == 5
    assert window(db, "talk", 1000, "--json").json["explained"]["forked"] == 0


def test_the_tokens_add_up_with_what_stands_for_something_else(db):
    async def make():
        async with open_engine(db) as engine:
            conversation = await engine.create(id="talk")
            await conversation.append(
                "one", *({"role": "assistant", "content": f"{number} " * 90} for number in range(9))
            )
            await conversation.compact(method="extract")
            await conversation.append({"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"})

    anyio.run(make)
    told = window(db, "talk", 1000, "--json").json
    explained, items = told["explained"], told["manifest"]["items"]
    assert explained["base"]
    assert explained["sealed"]
    assert sum(run["tokens"] for run in explained["runs"]) == items
    assert (
        f"counted: {items} of items = {told['tokens']} tokens"
        in turnlog("window", "talk", "--db", db, "--context", 1000).out
    )


def test_it_is_as_of_a_version_where_one_is_given(log):
    assert window(log, "talk", 1000, "--at", 5, "--json").json["explained"]["runs"][-1]["last"] == 5


def test_it_is_what_the_library_explains(log):
    async def explained():
        async with open_engine(log) as engine:
            made = await (await engine.get("talk")).window(Budget(60))
            return [(verdict.seq, verdict.fate, verdict.rule) for verdict in made.explain()]

    runs = window(log, "talk", 60, "--json").json["explained"]["runs"]
    told = [(seq, run["fate"], run["rule"]) for run in runs for seq in range(run["first"], run["last"] + 1)]
    assert told == anyio.run(explained)
