"""Rows that were changed behind turnlog's back: what holds them is named, with the remedy, and the rest goes on."""

import re
import sqlite3
from contextlib import closing

import anyio
import pytest

from turnlog import Budget, open_engine
from turnlog.engine.damage import damage_named
from turnlog.engine.errors import CorruptLog, StoreError
from turnlog.engine.portable import dump
from turnlog.engine.replay import verify

pytestmark = pytest.mark.anyio

REMEDY = "restore it from a backup"
DAMAGE = {
    "cut short": "item = x'7b22'",
    "empty": "item = x''",
    "null": "item = NULL",
    "null in JSON": "item = x'6e756c6c'",
    "a list": "item = CAST('[1]' AS BLOB)",
    "a number": "item = 7",
    "its data": "data = x'7b'",
    "another item": """item = CAST('{"type":"message"}' AS BLOB)""",
}
"""Of the item at 5, which only the second of the two requests holds."""


@pytest.fixture
async def log(db, stage_for):
    async with open_engine(db) as engine:
        async with stage_for("Hello!", "Fine.", engine=engine) as s:
            c = await engine.create(id="c", metadata={"user": "ada"})
            await c.run(s.model("responses"), "Hi!")
            await c.run(s.model("chat"), "How are you?", instructions="Be brief.")
        found = [(event.seq, event.type) async for event in c.events()]
    assert [seq for seq, kind in found if kind == "response.requested"] == [3, 8]
    return db


def change(path, statement):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(statement).rowcount or statement.startswith("ALTER")


async def verified(path):
    async with open_engine(path, migrate=False) as engine:
        return await verify(engine.store, "c")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_each_request_that_holds_a_damaged_item_diverges_and_the_others_do_not(log, damage):
    change(log, f"UPDATE events SET {damage} WHERE seq = 5")
    report = await verified(log)
    assert (report.responses, report.verified) == (2, 1)
    (one,) = report.diverged
    assert (one.conversation, one.response) == ("c", 8)
    assert "5 is not what was written" in one.reason or "c/5: item.appended cannot be read" in one.reason


async def test_an_item_that_is_gone_is_named(log):
    change(log, "DELETE FROM events WHERE seq = 5")
    (one,) = (await verified(log)).diverged
    assert (one.response, one.reason) == (8, "c/5: the event is missing; restore it from a backup or an export")


@pytest.mark.parametrize("data", ["x'7b'", "x'7b7d'", "NULL", "'text'"])
async def test_a_damaged_request_diverges_and_the_others_do_not(log, data):
    change(log, f"UPDATE events SET data = {data} WHERE seq = 3")
    report = await verified(log)
    assert (report.responses, report.verified) == (2, 1)
    (one,) = report.diverged
    assert one.response == 3
    assert "the stored request is not what was written" in one.reason
    assert REMEDY in one.reason


@pytest.mark.parametrize("body", ["x'7b'", "x'7b7d'", "x''", "x'5b5d'", """CAST('{"model":"x"}' AS BLOB)"""])
async def test_damaged_settings_are_named(log, body):
    change(log, f"UPDATE bodies SET body = {body} WHERE CAST(body AS TEXT) LIKE '%Be brief%'")
    report = await verified(log)
    assert (report.responses, report.verified) == (2, 1)
    (one,) = report.diverged
    assert one.response == 8
    assert "the stored settings are not what was written" in one.reason


async def test_missing_settings_are_named_with_the_remedy(log):
    change(log, "DELETE FROM bodies")
    report = await verified(log)
    assert report.verified == 0
    assert all("are missing" in one.reason and REMEDY in one.reason for one in report.diverged)


async def test_metadata_that_are_no_object_stop_no_append(log):
    change(log, "UPDATE metadata SET json = '[1]'")
    async with open_engine(log, migrate=False) as engine:
        assert (await (await engine.get("c")).append("More")).version == 12


@pytest.mark.parametrize("when", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize("column", ["created", "updated"])
async def test_a_time_that_is_none_is_told_with_whose_it_is(log, column, when):
    change(log, f"UPDATE conversations SET {column} = {when}")
    order = "-updated" if column == "created" else "-created"
    async with open_engine(log, migrate=False) as engine:
        with pytest.raises(CorruptLog, match=f"conversation c: its time {when} is none"):
            _ = [info async for info in engine.list(order=order)]


async def test_a_table_that_is_gone_is_no_fault_of_a_conversation(log):
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        change(log, "ALTER TABLE events RENAME TO away")
        for attempt in (c.append("More"), c.append("And more")):
            with pytest.raises(StoreError, match=r"a part of its schema is not there.*no such table") as told:
                await attempt
            assert not isinstance(told.value, CorruptLog)
        change(log, "ALTER TABLE away RENAME TO events")
        assert (await c.append("More")).version == 12


async def test_a_row_that_was_edited_by_hand_is_read_as_what_it_says(log):
    change(log, "UPDATE events SET item = CAST(item AS TEXT), data = CAST(data AS TEXT)")
    change(log, "UPDATE bodies SET body = CAST(body AS TEXT)")
    change(log, "UPDATE metadata SET json = CAST(json AS TEXT)")
    assert (await verified(log)).verified == 2
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        assert (await c.window(Budget(1000))).items[0] == {"role": "user", "content": "Hi!"}
        assert c.metadata == {"user": "ada"}
        assert len([line async for line in dump(engine.store, "c")]) > 10


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("damage", [one for one in DAMAGE.values() if "message" not in one])
async def test_a_window_over_a_damaged_item_names_it(log, damage, api):
    change(log, f"UPDATE events SET {damage} WHERE seq = 5")
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        with pytest.raises(CorruptLog, match=rf"^c/5: .*{REMEDY}"):
            await c.window(Budget(1000), api=api)


@pytest.mark.parametrize("seq", [1, 2, 5, 8, 10])
async def test_a_window_over_an_event_that_is_gone_names_it(log, seq):
    change(log, f"DELETE FROM events WHERE seq = {seq}")
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        with pytest.raises(CorruptLog, match=rf"^c/{seq}: the event is missing; {REMEDY}"):
            await c.window(Budget(1000))


async def test_a_rewind_to_before_an_event_that_is_gone_leads_to_windows_again(log):
    change(log, "DELETE FROM events WHERE seq = 9")
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        await c.rewind(7)
        assert [item["content"] for item in (await c.window(Budget(1000))).items][-1] == "How are you?"


@pytest.mark.parametrize("seq", [12, 13, 14])
async def test_what_is_gone_of_what_others_have_appended_is_named(log, seq):
    async with open_engine(log) as engine, open_engine(log) as other:
        c = await engine.get("c")
        await c.window(Budget(1000))
        await (await other.get("c")).append("One", "Two", "Three")
        change(log, f"DELETE FROM events WHERE seq = {seq}")
        with anyio.fail_after(10), pytest.raises(CorruptLog, match=rf"^c/{seq}: the event is missing; {REMEDY}"):
            await c.window(Budget(1000))


async def test_a_conversation_that_was_put_back_to_an_earlier_version_is_read_anew(log):
    async with open_engine(log) as engine:
        c = await engine.get("c")
        await c.window(Budget(1000))
        change(log, "DELETE FROM events WHERE seq > 6")
        change(log, "UPDATE conversations SET version = 6, last_item = 5, items = 3 WHERE id = 'c'")
        with anyio.fail_after(10):
            shown = (await c.window(Budget(1000))).items
        async with open_engine(log) as other:
            assert shown == (await (await other.get("c")).window(Budget(1000))).items


async def test_a_window_over_a_damaged_last_request_names_it(log):
    change(log, "UPDATE events SET data = x'7b' WHERE seq = 8")
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        with pytest.raises(CorruptLog, match=rf"^c/8: response.requested cannot be read: .*{REMEDY}"):
            await c.window(Budget(1000))


async def test_a_request_that_is_not_what_was_sent_names_what_changed_and_the_remedy(log):
    change(log, "UPDATE events SET item = CAST(replace(CAST(item AS TEXT), 'Hello!', 'Hallo!') AS BLOB) WHERE seq = 5")
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        assert (await (await c.response(3)).request())["input"]
        says = rf"^c/8: .* at \$.messages\[2\] \(the stored item at 5 is not what was written\); {REMEDY}"
        with pytest.raises(CorruptLog, match=says):
            await (await c.response(8)).request()


@pytest.mark.parametrize("column", ["version", "created", "updated", "last_item", "items", "generation"])
@pytest.mark.parametrize("value", ["'some'", "1.5"])
async def test_a_conversation_whose_numbers_are_none_is_named(log, column, value):
    says = rf"^conversation c: no number is stored under {column}, but .*restore the database from a backup"
    async with open_engine(log) as engine:
        c, other = await engine.get("c"), await engine.create()
        change(log, f"UPDATE conversations SET {column} = {value} WHERE id = 'c'")
        for look in (c.window(Budget(1000)), c.append("More"), c.items(), c.rewind(2), engine.get("c")):
            with pytest.raises(CorruptLog, match=says):
                await look
        assert (await other.append("Hi!")).version == 2


@pytest.mark.parametrize(
    ("damage", "column"), [("owner = 'w'", "until"), ("parent = 'd'", "at"), ("parent = 'd', at = 'x'", "at")]
)
async def test_a_conversation_whose_lease_or_parent_lacks_a_number_is_named(log, damage, column):
    change(log, f"UPDATE conversations SET {damage} WHERE id = 'c'")
    says = rf"^conversation c: no number is stored under {column}, but .*restore the database from a backup"
    async with open_engine(log) as engine:
        for look in (engine.get("c"), engine.list(), verify(engine.store, "c")):
            with pytest.raises(CorruptLog, match=says):
                await look


async def calls(c):
    return await c.responses()


async def transcript(c):
    return await c.items()


async def turns(c):
    return await c.turns()


async def rewind(c):
    return await c.rewind(6)


async def window(c):
    return await c.window(Budget(1000))


@pytest.mark.parametrize("look", [calls, transcript, turns, rewind, window])
@pytest.mark.parametrize("damage", ["flags = 'x'", "response = 'x'"])
async def test_whatever_reads_events_names_the_one_whose_numbers_are_none_or_does_without(log, look, damage):
    change(log, f"UPDATE events SET {damage} WHERE seq IN (2, 5, 8)")
    async with open_engine(log, migrate=False) as engine:
        c = await engine.get("c")
        try:
            await look(c)
        except CorruptLog as error:
            told = str(error)
        else:
            told = ""
    assert (told, look) == ("", rewind) or re.match(rf"c/[258]: no number is stored under .*{REMEDY}", told)


async def test_an_event_whose_numbers_are_none_cannot_be_erased_in_silence(log):
    change(log, "UPDATE events SET flags = 'x' WHERE seq = 5")
    async with open_engine(log, migrate=False) as engine:
        with pytest.raises(CorruptLog, match=rf"^c/5: no number is stored under flags, .*{REMEDY}"):
            await (await engine.get("c")).erase(5, reason="asked for")


async def test_a_request_of_another_kind_is_named(log):
    change(log, "UPDATE events SET kind = 'x' WHERE seq = 8")
    async with open_engine(log, migrate=False) as engine:
        with pytest.raises(CorruptLog, match=rf"^c/8: its kind is x, where a response.requested .*{REMEDY}"):
            await (await engine.get("c")).responses()


async def test_an_error_of_a_sound_conversation_is_not_taken_for_damage(log):
    async with open_engine(log, migrate=False) as engine:
        with pytest.raises(ZeroDivisionError):
            async with damage_named(engine.store, "c"):
                _ = 1 / 0


async def test_metadata_that_cannot_be_read_names_the_conversation(log):
    change(log, "UPDATE metadata SET json = x'7b'")
    says = r"^conversation c: its metadata cannot be read: .*restore the database from a backup"
    async with open_engine(log) as engine:
        c = await engine.get("c")
        with pytest.raises(CorruptLog, match=says):
            await engine.list()
        with pytest.raises(CorruptLog, match=says):
            await engine.list(where={"user": "ada"})
        with pytest.raises(CorruptLog, match=says):
            async with engine.follow() as events:
                await anext(aiter(events))
        with pytest.raises(CorruptLog, match=says):
            _ = c.metadata
        with pytest.raises(CorruptLog, match=says):
            await c.update_metadata({"user": None})
        assert (await c.append("and again")).version == c.version


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("UPDATE events SET item = x'7b22' WHERE seq = 2", "c/2"),
        ("UPDATE events SET data = x'7b' WHERE kind = 'response.completed' AND seq < 8", "c/6"),
        ("UPDATE bodies SET body = x'7b' WHERE CAST(body AS TEXT) LIKE '%Be brief%'", "c/8: its settings"),
    ],
    ids=["item", "end", "settings"],
)
async def test_an_export_of_what_cannot_be_read_names_it(log, statement, place):
    change(log, statement)
    async with open_engine(log, migrate=False) as engine:
        with pytest.raises(CorruptLog, match=rf"^{place}: .*{REMEDY}"):
            _ = [line async for line in dump(engine.store, "c")]
