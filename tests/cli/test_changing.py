"""The commands that change a log: what they do, what they say, and what they refuse."""

import json
import sqlite3

from command_line import turnlog


def imported(tmp_path, db, *names):
    """Import a conversation of four messages under each name; return their ids."""
    made = []
    for name in names:
        file = tmp_path / f"{name}.json"
        said = ["one", "two", "three", name]
        file.write_text(json.dumps([{"role": "user", "content": text} for text in said]))
        made.append(turnlog("import", file, "--db", db, "--json").json["imported"][0]["id"])
    return made


def shown(db, name):
    return [
        event["item"]["content"]
        for event in turnlog("show", name, "--db", db, "--json").json["events"]
        if event.get("item")
    ]


def test_fork_and_rewind(tmp_path, db):
    (name,) = imported(tmp_path, db, "four")
    made = turnlog("fork", name, "--at", 3, "--new", "twin", "--db", db, "--json").json
    assert (made["id"], made["parent"], made["at"]) == ("twin", name, 3)
    assert shown(db, "twin") == ["one", "two"]
    done = turnlog("rewind", name, "--to", 4, "--db", db, "--json").json
    window = turnlog("window", name, "--context", 5000, "--db", db, "--json").json
    assert (done["to"], [item["content"] for item in window["items"]]) == (4, ["one", "two", "three"])
    refused = turnlog("fork", name, "--at", 99, "--db", db, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "no seq 99" in refused.err
    assert "a fork of" in turnlog("fork", name, "--db", db).out


def test_erase_and_delete(tmp_path, db):
    name, other = imported(tmp_path, db, "secret", "else")
    receipt = turnlog("erase", name, 5, "--reason", "asked to", "--db", db, "--json").json
    assert (receipt["id"], receipt["seqs"], receipt["left"]) == (name, [5], [])
    assert b"secret" not in db.read_bytes()
    turnlog("fork", name, "--new", "twin", "--db", db)
    refused = turnlog("delete", name, "--db", db)
    assert refused.code == 2
    assert "twin" in refused.err
    said = turnlog("delete", name, "--forks", "keep", "--reason", "asked to", "--db", db)
    assert (said.code, "shared by twin" in said.out) == (0, True)
    assert "the content of 0 events is gone" in said.out
    assert "left: events 1 to 6, which twin still has" in said.out
    assert turnlog("show", name, "--db", db).code == 2
    assert shown(db, "twin")[:3] == ["one", "two", "three"]
    listed = {one["id"] for one in turnlog("list", "--db", db, "--json").json["conversations"]}
    assert listed == {"twin", other}


def test_expire(tmp_path, db):
    name, other = imported(tmp_path, db, "old", "new")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE conversations SET updated = 0 WHERE id = ?", (name,))
    receipts = turnlog("expire", "--older-than", 90, "--db", db, "--json").json["receipts"]
    assert [one["id"] for one in receipts] == [name]
    assert turnlog("expire", "--older-than", 90, "--db", db).out == "nothing is that old\n"
    assert [one["id"] for one in turnlog("list", "--db", db, "--json").json["conversations"]] == [other]
    assert turnlog("expire", "--older-than", 0, "--db", db).code == 2


def test_expire_collects_blobs_that_nothing_refers_to(tmp_path, db):
    imported(tmp_path, db, "new")
    with sqlite3.connect(db) as connection:
        connection.execute("INSERT INTO bodies VALUES (x'00', x'01')")
        connection.execute("INSERT INTO refs VALUES (0, 1, x'00')")
    told = turnlog("expire", "--older-than", 90, "--db", db)
    assert told.out == "nothing is that old\n1 blob collected that nothing refers to\n"
    assert turnlog("expire", "--older-than", 90, "--db", db, "--json").json == {"receipts": [], "collected": 0}


def test_list_where(tmp_path, db):
    (name,) = imported(tmp_path, db, "four")
    assert turnlog("list", "--where", "user=ada", "--db", db, "--json").json["conversations"] == []
    assert turnlog("list", "--where", "user", "--db", db).code == 2
    assert [one["id"] for one in turnlog("list", "--db", db, "--json").json["conversations"]] == [name]
