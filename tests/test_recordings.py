"""Recorded traffic: every exchange becomes a conversation, and every request is rebuilt from the log alone."""

import gzip
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from turnlog import Budget, BudgetExceeded, open_engine
from turnlog.adapters import chat_completions, responses
from turnlog.adapters.cli.recordings import Unusable, record_events
from turnlog.engine.canonical import canonical
from turnlog.engine.portable import Package, dump, restore
from turnlog.engine.replay import rebuild, verify
from turnlog.engine.testing.judge import refusals

pytestmark = pytest.mark.anyio


def records(corpus) -> Iterator[dict]:
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


MADE = []
"""The records with what was made of each, which is the same in every log."""


async def import_all(engine, corpus) -> tuple[dict[str, dict], list[str]]:
    if not MADE:
        MADE.extend([(record, await made_of(engine.intake, record)) for record in records(corpus)])
    made, refused = {}, []
    for record, events in MADE:
        if isinstance(events, Unusable):
            refused.append(str(events))
            continue
        await engine.writer.append(events.id, events.events, expected=0, bodies=events.bodies)
        made[events.id] = record
    return made, refused


async def made_of(intake, record):
    try:
        return await record_events(intake, record)
    except Unusable as reason:
        return reason


async def test_every_record_is_a_conversation_but_token_counts(engine, corpus):
    made, refused = await import_all(engine, corpus)
    apis = Counter(record["api"] for record in records(corpus))
    assert len(made) == sum(apis.values()) - apis["input_tokens"]
    assert len(refused) == apis["input_tokens"]


async def test_every_request_is_rebuilt_as_it_was(engine, corpus):
    made, _ = await import_all(engine, corpus)
    requests = 0
    for name, record in made.items():
        async for call in (await engine.get(name)).responses():
            assert canonical(await call.request()) == canonical(record["request"]), name
            requests += 1
        report = await verify(engine.store, name)
        assert report.verified == report.responses
    assert requests == sum(record["api"] in ("responses", "chat", "compact") for record in made.values())


def answer_of(record):
    """Return the answer that a record of the Responses API holds: its items, and its usage if it tells any."""
    answer, done = record["response"], {}
    if record["sse"]:
        said = [e for e in record["sse"] if isinstance(e, dict)]
        answer = next(e["response"] for e in reversed(said) if "response" in e)
        # An item is what its own event says: in the end's copy, encrypted content is encrypted anew.
        done = {e["output_index"]: e["item"] for e in said if e["type"] == "response.output_item.done"}
    return [done.get(index, item) for index, item in enumerate(answer["output"])], answer.get("usage")


async def test_answers_are_what_was_recorded(engine, corpus):
    made, _ = await import_all(engine, corpus)
    checked = 0
    for name, record in made.items():
        if record["api"] != "responses" or record["status"] != 200:
            continue
        output, usage = answer_of(record)
        events = [event async for event in (await engine.get(name)).events()]
        request = next(event.seq for event in events if event.type == "response.requested")
        items = [event.item for event in events if event.response == request and event.item is not None]
        assert canonical(items) == canonical(output), name
        if usage:
            logged = [event.data["usage"] for event in events if event.type == "response.completed"]
            told = [(one.get("input_tokens", 0), one.get("output_tokens", 0)) for one in logged]
            assert told == [(usage["input_tokens"], usage["output_tokens"])] * len(logged), name
            checked += len(logged)
    assert checked > 250


def chat_answers(made):
    """Yield the message of every answer of Chat Completions, with the name of its conversation."""
    for name, record in made.items():
        if record["api"] == "chat" and (record["response"] or {}).get("choices"):
            yield name, record["response"]["choices"][0]["message"]


async def test_chat_answers_say_what_was_recorded(engine, corpus):
    made, _ = await import_all(engine, corpus)
    for name, message in chat_answers(made):
        text, calls = message.get("content"), message.get("tool_calls") or []
        said = [entry.item async for entry in (await engine.get(name)).items() if entry.response is not None]
        answer = said[-3 - len(calls) :]
        if isinstance(text, str) and text:
            assert text in [item.get("content") for item in answer], name
        called = {call["function"].get("arguments", "") for call in calls}
        assert called <= {item.get("arguments") for item in answer}, name


async def test_no_request_body_is_stored(corpus, db, seed):
    """A change of one item's row makes exactly the requests diverge that hold it, at its path."""
    async with open_engine(db) as engine:
        made, _ = await import_all(engine, corpus)
    chance = random.Random(seed)
    names = sorted(name for name, record in made.items() if record["api"] == "responses" and record["status"] == 200)
    for name in chance.sample(names, 20):
        request = made[name]["request"]
        if not isinstance(request["input"], list):
            continue
        index = chance.randrange(len(request["input"]))
        seq = index + 2  # behind the conversation's creation
        with closing(sqlite3.connect(db, isolation_level=None)) as log:
            where = "conversation = (SELECT key FROM conversations WHERE id = ?) AND seq = ?"
            (old,) = log.execute(f"SELECT item FROM events WHERE {where}", (name, seq)).fetchone()
            log.execute(f"UPDATE events SET item = ? WHERE {where}", (old[:-1] + b',"zzz":1}', name, seq))
            async with open_engine(db) as engine:
                report = await verify(engine.store, name)
                assert [one.path for one in report.diverged] == [f"$.input[{index}]"]
                other = chance.choice([one for one in names if one != name])
                assert not (await verify(engine.store, other)).diverged
            log.execute(f"UPDATE events SET item = ? WHERE {where}", (old, name, seq))
    async with open_engine(db) as engine:
        assert sum([(await verify(engine.store, name)).verified for name in names]) == len(names)


async def test_export_and_import_give_the_same_events(engine, corpus, tmp_path):
    made, _ = await import_all(engine, corpus)
    async with open_engine(tmp_path / "other.db") as other:
        for name in made:
            lines = [json.loads(line) async for line, _ in dump(engine.store, name)]
            package = Package(lines[0])
            for line in lines[1:]:
                package.add(line)
            await restore(other.store, package)
            ours = [event async for event in (await engine.get(name)).events()]
            theirs = [event async for event in (await other.get(name)).events()]
            assert [(e.seq, e.time, e.type, e.response, e.item, e.data, e.tokens) for e in ours] == [
                (e.seq, e.time, e.type, e.response, e.item, e.data, e.tokens) for e in theirs
            ]


async def test_a_conversation_that_goes_on_is_still_verified(engine, corpus):
    made, _ = await import_all(engine, corpus)
    for name in list(made)[:50]:
        conversation = await engine.get(name)
        await conversation.append("And now?", {"role": "assistant", "content": "Now this."})
        assert (await verify(engine.store, name)).diverged == []


def body_of(window, api):
    """Return what an adapter sends of a window, with the ids of calls as the API takes them."""
    name, encode = ("input", responses.encode) if api == "responses" else ("messages", chat_completions.encode)
    return {name: encode(window.rendered, {"model": "gpt-5"})[name]}


async def test_windows_of_any_size_are_taken_by_both_apis(corpus):
    async with open_engine(":memory:") as engine:
        made, _ = await import_all(engine, corpus)
        count = (await engine.intake.vocabulary()).count
        sound = exceeded = 0
        for name in made:
            conversation = await engine.get(name)
            for api in ("responses", "chat"):
                for size in (500, 2_000, 8_000, 32_000, 200_000):
                    try:
                        window = await conversation.window(Budget(size), api=api)
                    except BudgetExceeded:
                        exceeded += 1
                        continue
                    assert window.tokens.total <= size
                    if window.items:  # a few exchanges hold none, and then there is nothing to send
                        sent = body_of(window, api)
                        assert not list(refusals(api, {"model": "gpt-5", **sent}, window=size, count=count)), name
                        sound += 1
        assert sound > 5 * exceeded


async def test_rebuilding_names_what_is_missing(engine, corpus):
    made, _ = await import_all(engine, corpus)
    name = next(name for name, record in made.items() if record["api"] == "chat")
    async for call in (await engine.get(name)).responses():
        with pytest.raises(Exception, match="no encoder chat@1"):
            await rebuild(engine.store, call._record, known={})
