"""Verifying whole logs: what it proves, what it costs, and what it says where a request is not what was sent."""

import json
import sqlite3
import tracemalloc
from contextlib import closing

import pytest
from hypothesis import given

from instant_model import Instant, call
from turnlog import Budget, NotFound, ResponseFailed, open_engine
from turnlog.engine.canonical import digest, encode
from turnlog.engine.codec import REQUESTED, body, event
from turnlog.engine.log import Query
from turnlog.engine.manifest import SENT
from turnlog.engine.model import ModelFailure
from turnlog.engine.replay import Piecewise, Verifier, encoders, rebuild, verify
from turnlog.engine.replay.running import Frames, Running
from turnlog.engine.replay.verifying import pages
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.sqlite import copied
from turnlog.engine.testing.scribe import ENCODERS
from turnlog.engine.testing.strategies import Scribe, conversations

pytestmark = pytest.mark.anyio


async def look_up(word: str) -> str:
    return f"{word}: " + "a word " * 20


async def proven(store, name, known):
    """Return the requests of a conversation, by seq, with whether they were proven on the run."""
    running, found = Running(store, name, Frames(store, known)), {}
    async for page in pages(store, name):
        running.read(page)
        for record in page:
            if record.kind == REQUESTED:
                found[record.seq] = await running.proves(body(record))
    return found


def counted(known):
    """Return encoders like those known, and how many items they have written."""
    written = []

    def counts(encoder):
        def pieces(items, settings):
            written.extend(one.seq for one in items)
            return encoder.pieces(items, settings)

        return Piecewise(encoder, encoder.field, pieces)

    return {key: counts(encoder) for key, encoder in known.items()}, written


@given(conversations())
async def test_whatever_is_proven_on_the_run_is_what_rebuilding_gives(steps):
    scribe = Scribe(MemoryStore())
    await scribe.begin()
    for step in steps:
        await scribe.take(step)
    for seq, found in (await proven(scribe.store, scribe.name, ENCODERS)).items():
        (record,) = (await scribe.records(seq - 1))[:1]
        assert record.seq == seq
        if found:
            assert (await rebuild(scribe.store, record, ENCODERS)).digest == body(record).digest


def with_calls(number):
    """Call a tool in every other answer, fail in every seventh."""
    if number % 7 == 0:
        return ModelFailure("http", "busy", status_code=503, retryable=True)
    return [call("look_up", json.dumps({"word": f"w{number}"}), number)] if number % 2 else "Fine, as ever."


async def talked(engine, turns, **models):
    """Hold a conversation of so many turns, each with the next of some models."""
    c = await engine.create(id="c")
    await c.append({"role": "system", "content": "Be brief."})
    for turn in range(turns):
        model = list(models.values())[turn % len(models)]
        try:
            await c.run(model, f"Question {turn}: " + "and what of it? " * 5, tools=[look_up], instructions="Now.")
        except ResponseFailed as error:
            if error.status_code != 503:
                raise
    return c


@pytest.mark.parametrize("context", [2_000, 100_000])
async def test_an_item_is_written_once_whatever_the_number_of_requests_that_hold_it(engine, api, context):
    model = Instant(api, with_calls, budget=Budget(context))
    c = await talked(engine, 60, model=model)
    assert all((await proven(engine.store, "c", encoders())).values())
    known, written = counted(encoders())
    report = await (await Verifier.made(engine.store, known)).verify("c")
    items = [entry async for entry in c.items()]
    assert report.verified == report.responses == model.number
    assert len(written) == len(items)


async def test_models_that_take_turns_are_each_gone_on_from(engine):
    one, other = Instant("responses", with_calls, budget=Budget(3_000)), Instant("chat", budget=Budget(9_000))
    await talked(engine, 60, one=one, other=other)
    found = await proven(engine.store, "c", encoders())
    assert sum(found.values()) == len(found) == one.number + other.number


async def test_what_is_kept_at_hand_does_not_grow_with_the_log(engine):
    async def peak(name, turns):
        c = await engine.create(id=name)
        for turn in range(turns):
            await c.run(model, f"Question {turn}: " + "and what of it? " * 40)
        tracemalloc.start()
        try:
            await verify(engine.store, name)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    model = Instant(budget=Budget(2_000))
    await peak("first", 3)  # what is loaded once and for all
    short, long = await peak("short", 300), await peak("long", 900)
    assert long < 1.5 * short


async def test_rewinds_forks_and_compactions_are_verified_too(engine):
    c = await talked(engine, 12, model=Instant(answer=with_calls, budget=Budget(1_500)))
    turns = [turn async for turn in c.turns()]
    await c.rewind(to=turns[6].seq - 1)
    await c.run(Instant(budget=Budget(1_500)), "Another way.")
    await c.rewind(to=turns[4].seq - 1)
    await c.run(Instant(budget=Budget(1_500)), "A third way.")
    fork = await c.fork(id="fork")
    await fork.run(Instant(budget=Budget(1_500)), "And a fourth.")
    for name in ("c", "fork"):
        report = await verify(engine.store, name)
        assert report.diverged == []
        assert report.verified == report.responses


async def test_an_erased_item_is_counted_for_every_request_that_held_it(engine):
    c = await talked(engine, 6, model=Instant())
    first = [entry.seq async for entry in c.items()][1]
    held = [call.seq async for call in c.responses() if call.manifest.fate(first) == "kept"]
    await c.erase(first, reason="asked to")
    report = await verify(engine.store, "c")
    assert (report.erased, report.verified, report.diverged) == (len(held), 6 - len(held), [])


def change(path, seq, old, new):
    """Change a text in the stored item, behind turnlog's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        (item,) = db.execute("SELECT item FROM events WHERE seq = ?", (seq,)).fetchone()
        assert old in item
        db.execute("UPDATE events SET item = ? WHERE seq = ?", (item.replace(old, new), seq))


@pytest.fixture
async def log(db):
    async with open_engine(db) as engine:
        await talked(engine, 4, model=Instant(), chat=Instant("chat"))
    return db


async def test_a_divergence_names_the_place_and_what_stands_there(log):
    change(log, 3, b"Question 0", b"Question X")
    async with open_engine(log) as engine:
        report = await verify(engine.store, "c")
    assert (report.verified, len(report.diverged)) == (0, 4)
    assert [one.path for one in report.diverged] == ["$.input[1]", "$.messages[2]"] * 2
    assert all(one.rebuilt["content"].startswith("Question X") for one in report.diverged)
    assert all("the stored item at 3 is not what was written" in one.reason for one in report.diverged)


CHANGES = {b"Question": b"Query", b"Fine": b"Bad", b'\\"w': b'\\"v', b"a word": b"two words"}


async def test_every_request_that_held_a_changed_item_diverges_and_no_other(db, api):
    async with open_engine(db) as engine:
        c = await talked(engine, 18, model=Instant(api, with_calls, budget=Budget(600)))
        requests = {call.seq: call.manifest async for call in c.responses()}
        entries = [entry async for entry in c.items()]
    assert len({manifest.cut for manifest in requests.values()}) > 3
    for entry in entries[1:]:
        data = encode(entry.item)
        old = next(old for old in CHANGES if old in data)
        change(db, entry.seq, old, CHANGES[old])
        async with open_engine(db) as engine:
            report = await verify(engine.store, "c")
        change(db, entry.seq, CHANGES[old], old)
        held = [seq for seq, manifest in requests.items() if manifest.fate(entry.seq) in SENT]
        assert [one.response for one in report.diverged] == held
        assert report.verified == len(requests) - len(held)
        assert [one.seq for one in report.damaged] == [entry.seq]


@pytest.mark.parametrize("kind", ["other", "response.started", "response.completed", "item.appended"])
async def test_a_request_of_another_kind_is_named_though_nothing_has_answered_it(log, kind):
    async with open_engine(log) as engine:
        last = [call.seq async for call in (await engine.get("c")).responses()][-1]
        (request,) = (await engine.store.read("c", Query(after=last - 1, before=last + 1))).records[0]
        await engine.writer.append("c", [event(body(request))])
        assert (await verify(engine.store, "c")).sound
        seq = (await engine.store.read("c")).head.version
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        assert db.execute("UPDATE events SET kind = ? WHERE seq = ?", (kind, seq)).rowcount == 1
    async with open_engine(log) as engine:
        report = await verify(engine.store, "c")
    assert [(one.conversation, one.seq) for one in report.damaged] == [("c", seq)]
    assert f"its kind is {kind}, where a response.requested was written" in report.damaged[0].reason


async def test_with_a_copy_at_hand_a_divergence_tells_the_first_differing_path_and_both_values(log, tmp_path):
    copy = tmp_path / "copy.db"
    await copied(log, copy)
    change(log, 3, b"Question 0", b"Question X")
    async with open_engine(log) as engine, open_engine(copy) as before:
        report = await (await Verifier.made(engine.store, against=before.store)).verify("c")
    assert [one.path for one in report.diverged] == ["$.input[1].content", "$.messages[2].content"] * 2
    for one in report.diverged:
        assert (one.sent[:10], one.rebuilt[:10]) == ("Question 0", "Question X")


async def test_an_encoder_that_has_changed_is_found_out(engine, api):
    await talked(engine, 3, model=Instant(api))
    today = encoders()[api, 1]

    def changed(items, settings):
        return {**today(items, settings), "temperature": 0}

    known = {(api, 1): Piecewise(changed, today.field, today.pieces)}
    report = await verify(engine.store, "c", known)
    assert (report.responses, report.verified, len(report.diverged)) == (3, 0, 3)


async def test_pieces_that_are_not_what_the_encoder_writes_only_cost_time(engine, api):
    await talked(engine, 3, model=Instant(api))
    today = encoders()[api, 1]
    known = {(api, 1): Piecewise(today, today.field, lambda items, settings: ["?" for _ in items])}
    report = await verify(engine.store, "c", known)
    assert (report.responses, report.verified) == (3, 3)


async def test_a_conversation_that_is_not_there(engine):
    with pytest.raises(NotFound):
        await (await engine.get("nobody")).refresh()
    assert (await verify(engine.store, "nobody")).responses == 0


def test_a_frame_is_the_body_around_its_list(api):
    encoder = encoders()[api, 1]
    settings = {"model": "m", "instructions": "Be brief.", "params": {"zeta": 1, "alpha": [2]}, "tools": []}
    frame = encoder.frame(settings)
    assert digest(frame.before + frame.after) == digest(encode(encoder([], settings)))
