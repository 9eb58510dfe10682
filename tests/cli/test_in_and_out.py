"""Conversations of other programs in, and out to them; redacted exports."""

import json
import re
import sqlite3
from contextlib import closing

import anyio
import pytest

from command_line import turnlog
from instant_model import Instant
from turnlog import open_engine
from turnlog.adapters.cli import show
from turnlog.engine.replay import RecordedModel

ITEMS = [
    {"role": "user", "content": "What is the weather?"},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "weather",
        "arguments": "{}",
        "status": "completed",
    },
    {"type": "function_call_output", "call_id": "call_1", "output": "clear"},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Clear.", "annotations": []}],
    },
]


@pytest.fixture
def sessions(tmp_path):
    """A database as the Agents SDK's SQLiteSession makes it."""
    path = tmp_path / "sessions.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("""
            CREATE TABLE agent_sessions (session_id TEXT PRIMARY KEY, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
                updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
            CREATE TABLE agent_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL,
                message_data TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
                FOREIGN KEY (session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE);
        """)
        for number, item in enumerate(ITEMS):
            for name in ("user-7", "chat of Ada"):
                row = (name, json.dumps(item), f"2026-01-02 03:04:0{number}")
                db.execute("INSERT INTO agent_messages (session_id, message_data, created_at) VALUES (?, ?, ?)", row)
        db.commit()
    return path


def events(db, name):
    return turnlog("show", name, "--db", db, "--json").json["events"]


def test_sessions_come_in_item_for_item(sessions, db):
    told = turnlog("import", sessions, "--db", db, "--json")
    assert told.code == 0, told.err
    assert told.json["rejected"] == []
    (one, other) = told.json["imported"]
    assert (one["id"], one["events"], one["source"]) == ("user-7", 6, f"{sessions}:1")
    assert other["id"].startswith("in_")
    found = events(db, "user-7")
    assert [event["item"] for event in found[1:]] == ITEMS
    assert [event["time"] for event in found[1:]] == [f"2026-01-02T03:04:0{n}+00:00" for n in range(5)]
    assert (
        turnlog("list", "--db", db, "--json", "--where", "session=chat of Ada").json["conversations"][0]["id"]
        == other["id"]
    )
    window = turnlog("window", "user-7", "--context", 1000, "--db", db, "--json").json
    assert [item.get("type", item.get("role")) for item in window["items"]][-2:] == ["function_call_output", "message"]
    again = turnlog("import", sessions, "--db", db, "--json").json
    assert again == told.json
    assert events(db, "user-7") == found


def test_sessions_with_branches_come_in_branch_by_branch(sessions, db):
    with closing(sqlite3.connect(sessions)) as there:
        there.executescript("""
            CREATE TABLE message_structure (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL,
                message_id INTEGER NOT NULL, branch_id TEXT NOT NULL DEFAULT 'main', message_type TEXT NOT NULL,
                sequence_number INTEGER NOT NULL);
            INSERT INTO message_structure (session_id, message_id, branch_id, message_type, sequence_number)
                SELECT session_id, id, 'main', 'x', id FROM agent_messages;
            INSERT INTO message_structure (session_id, message_id, branch_id, message_type, sequence_number)
                SELECT session_id, id, 'branch_2', 'x', id FROM agent_messages WHERE session_id = 'user-7' AND id < 3;
        """)
        there.commit()
    told = turnlog("import", sessions, "--db", db, "--json").json
    assert [one["id"] for one in told["imported"]][::2] == ["user-7", "user-7.branch_2"]
    assert [event["item"] for event in events(db, "user-7.branch_2")[1:]] == ITEMS[:1]


def test_what_cannot_come_in_is_told_and_the_rest_does(sessions, db, tmp_path):
    with closing(sqlite3.connect(sessions)) as there:
        there.execute("INSERT INTO agent_messages (session_id, message_data) VALUES ('broken', '{')")
        there.execute("""INSERT INTO agent_messages (session_id, message_data) VALUES ('secret', '{"__enc__": 1}')""")
        there.commit()
    told = turnlog("import", sessions, "--db", db, "--json")
    assert told.code == 2
    assert len(told.json["imported"]) == 2
    assert [one["line"] for one in told.json["rejected"]] == [3, 4]
    assert "session 'broken', row 11" in told.json["rejected"][0]["error"]
    assert "encrypted" in told.json["rejected"][1]["error"]
    refused = turnlog("import", db, "--db", tmp_path / "other.db")
    assert refused.code == 2
    assert "holds no sessions of the Agents SDK" in refused.err


@pytest.mark.parametrize("form", ["chat", "responses", "agents"])
def test_out_and_in_again_says_the_same(every, tmp_path, form):
    out, other = tmp_path / f"out.{form}", tmp_path / "other.db"
    told = turnlog("export", "everything", "--format", form, "-o", out, "--db", every, "--json")
    assert told.code == 0, told.err
    assert told.json["exported"][0]["id"] == "everything"
    brought = turnlog("import", out, "--db", other, "--json")
    assert brought.code == 0, brought.out
    (made,) = brought.json["imported"]
    api = "chat" if form == "chat" else "responses"
    field = "messages" if form == "chat" else "items"
    wide = ("--context", 10_000_000, "--api", api, "--json")
    ours = turnlog("window", "everything", *wide, "--db", every).json[field]
    theirs = turnlog("window", made["id"], *wide, "--db", other).json[field]
    assert words(theirs) == words(ours)


def words(items):
    """Return what items or messages say, whatever their form."""
    said = []
    for item in items:
        content = item.get("content", item.get("output"))
        parts = content if isinstance(content, list) else [{"text": content}]
        said += [part.get("text") for part in parts if part.get("text")]
        said += [one["function"]["name"] for one in item.get("tool_calls") or ()] + (
            [item["name"]] if "name" in item else []
        )
    return "".join(said)


def test_a_session_database_is_one(every, tmp_path):
    out = tmp_path / "sessions.db"
    turnlog("export", "everything", "--format", "agents", "-o", out, "--db", every)
    with closing(sqlite3.connect(out)) as db:
        (count,) = db.execute("SELECT count(*) FROM agent_messages WHERE session_id = 'everything'").fetchone()
        assert db.execute("SELECT session_id FROM agent_sessions").fetchall() == [("everything",)]
    assert count > 50


def test_a_redacted_export_says_nothing_and_plays(db, tmp_path):
    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c", metadata={"user": "Ada Lovelace"})
            await c.run(
                Instant(answer="It rains in Zanzibar."), "Is it raining in Zanzibar?", instructions="You serve Ada."
            )

    anyio.run(make)
    out, other = tmp_path / "bug.jsonl.gz", tmp_path / "other.db"
    told = turnlog("export", "c", "--redacted", "-o", out, "--db", db, "--json")
    assert told.json["exported"] == [{"id": "c", "events": 6}]
    assert turnlog("import", out, "--db", other).code == 0
    shown = turnlog("show", "c", "--db", other, "--json")
    assert "Zanzibar" not in shown.out
    assert "Ada" not in shown.out
    assert [event["tokens"] for event in shown.json["events"]] == [event["tokens"] for event in events(db, "c")]
    assert turnlog("verify", "--db", other, "--json").json["verified"] == 1
    question = shown.json["events"][1]["item"]
    model = RecordedModel(out)

    async def play():
        async with open_engine(":memory:") as engine:
            return (await (await engine.create()).run(model, question)).output_text

    assert anyio.run(play) == shown.json["events"][4]["item"]["content"][0]["text"]
    model.check()


def test_forms_that_cannot_be(every, tmp_path):
    out = tmp_path / "out"
    assert turnlog("export", "everything", "--format", "word", "-o", out, "--db", every).code == 2
    assert turnlog("export", "everything", "--format", "chat", "--redacted", "-o", out, "--db", every).code == 2
    assert turnlog("export", "nobody", "--redacted", "-o", out, "--db", every).code == 2
    assert turnlog("export", "nobody", "--format", "agents", "-o", out, "--db", every).code == 2
    assert not out.exists()


def test_usage_adds_up_by_conversation_model_and_day(every, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text("[gpt-4o-mini]\ninput = 1.0\ncached = 0.5\noutput = 10.0\n[gpt-4o]\ninput = 2.0\noutput = 20.0\n")
    told = turnlog("usage", "--price-file", prices, "--db", every, "--json")
    assert told.code == 0, told.err
    rows = {row["model"]: row for row in told.json["rows"]}
    assert {(row["conversation"], row["day"]) for row in told.json["rows"]} == {("everything", "2026-01-02")}
    total = told.json["total"]
    assert total["requests"] == sum(row["requests"] for row in rows.values()) == 33
    assert (total["failed"], total["left"], total["unreported"]) == (1, 2, 1)
    assert rows["gpt-4o"]["cost"] == pytest.approx(
        (rows["gpt-4o"]["input_tokens"] * 2 + rows["gpt-4o"]["output_tokens"] * 20) / 1e6
    )
    assert (rows["gpt-4.1"]["cost"], rows["gpt-4.1"]["unpriced"]) == (None, 1)


def test_usage_is_asked_for_by_day_and_shown_as_a_table(every, tmp_path):
    by_day = turnlog("usage", "--by", "day", "--db", every, "--json").json["rows"]
    assert [(row["day"], row["requests"]) for row in by_day] == [("2026-01-02", 33)]
    assert turnlog("usage", "--since", "2026-01-03", "--db", every, "--json").json["rows"] == []
    prices = tmp_path / "prices.json"
    prices.write_text('{"gpt-4o": {"input": 2, "output": 20}}')
    shown = turnlog("usage", "--price-file", prices, "--db", every).out
    for word in (
        "gpt-4o",
        "gpt-4.1",
        "2026-01-02",
        "(1 without)",
        "all",
        "without usage, because none was reported: 1 request",
    ):
        assert word in shown
    for wrong in (["--by", "week"], ["--since", "yesterday"], ["nobody"]):
        assert turnlog("usage", *wrong, "--db", every).code == 2


def test_no_number_is_cut_where_a_table_has_no_room(every, tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text('{"gpt-4o": {"input": 2e-3, "output": 2e-3}}')
    narrow = turnlog("usage", "--price-file", prices, "--db", every, COLUMNS="40").out
    told = turnlog("usage", "--price-file", prices, "--db", every, "--json").json
    for row in (*told["rows"], told["total"]):
        for name in ("requests", "input_tokens", "cached_tokens", "output_tokens"):
            assert f"{row[name]:,}" in narrow.split()
    for cost in (one["cost"] for one in told["rows"] if one["cost"]):
        assert cost == round(cost, 9)
        assert show.cost(cost) in narrow.split()
        assert "0.0000 " not in narrow
        assert float(show.cost(cost)) == pytest.approx(cost, rel=0.05)
    for command in (["whatif", "--context", "3000"], ["list"], ["replay", "everything", "--all"]):
        assert re.search(r"\d[…]", turnlog(*command, "--db", every, COLUMNS="40").out) is None


def test_what_a_fork_shares_is_counted_once(db):
    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c")
            await c.run(Instant(), "One?")
            fork = await c.fork(id="fork")
            await fork.run(Instant(), "Two?")

    anyio.run(make)
    told = turnlog("usage", "--by", "conversation", "--db", db, "--json").json
    assert [(row["conversation"], row["requests"]) for row in told["rows"]] == [("c", 1), ("fork", 1)]
