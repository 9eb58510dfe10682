"""What networks do to an answer: cut anywhere, reset, stalled, in drips; recorded streams in pieces of any size."""

import gzip
import json

import pytest

from server_talk import connected
from turnlog import ResponseFailed
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.model import ModelFailure
from turnlog.engine.testing.proxy import Fault, fault_proxy
from turnlog.engine.testing.server import Call, Hang, Raw, Reason, Reply, Text, scripted_server

pytestmark = pytest.mark.anyio

TEXT = "Grüße aus Köln 🙂, 東京と京都. "
ANSWER = Reply(Reason("Überlegung 🤔"), Text(TEXT * 3), Call("look", {"wo": "Köln 🙂"}))


def model(s, api, url=None, **options):
    client = s.client if url is None else s.client.with_options(base_url=f"{url}/v1")
    return (Responses if api == "responses" else ChatCompletions)(client, "gpt-4o-mini", backend="here", **options)


async def items(c):
    return [entry.item async for entry in c.items()]


# -- in pieces


@pytest.mark.parametrize("size", range(1, 8))
async def test_pieces_of_any_size_are_one_answer(stage, api, size):
    """Characters, lines and events are cut wherever that falls."""
    async with stage(ANSWER, pieces=size) as s:
        c = await s.engine.create()
        result = await c.respond(model(s, api), "Hi", tools=[{"type": "function", "name": "look", "parameters": {}}])
        assert result.output_text == TEXT * 3
        assert result.open_calls[0].arguments == '{"wo":"Köln 🙂"}'


def streams(corpus):
    """Yield the API and the bytes of every recorded stream that has an end."""
    for api in ("responses", "chat"):
        with gzip.open(corpus / f"{api}_stream.jsonl.gz") as lines:
            for line in lines:
                record = json.loads(line)
                if record["sse"] and record["status"] == 200:
                    yield api, b"".join(map(written, record["sse"]))


def written(event):
    data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    return b"data: " + data.encode() + b"\n\n"


async def said(adapter):
    """What an adapter makes of the next answer."""
    body = {"model": "gpt-4o-mini", "stream": True}
    found = []
    try:
        async for event in adapter.send(body):
            found.append(event)  # noqa: PERF401 - it may raise, and what came before it counts
    except ModelFailure as failure:
        found.append(failure.message)
    return found


@pytest.mark.long
@pytest.mark.parametrize("size", range(1, 8))
async def test_recorded_streams_in_pieces_give_the_same_events(corpus, size, long):
    recorded = list(streams(corpus))
    assert len(recorded) > 70
    some = recorded if long else recorded[size::10]
    whole, cut = [], []
    for pieces, found in ((None, whole), (size, cut)):
        answers = [Raw(content) for _, content in some]
        async with scripted_server(answers, judge=False, pieces=pieces) as server, connected(server) as client:
            for api, _ in some:
                adapter = (Responses if api == "responses" else ChatCompletions)(client, "m", backend="here")
                found.append(await said(adapter))
    assert cut == whole
    assert all(len(events) > 1 for events in cut)


# -- broken


@pytest.mark.parametrize("then", ["reset", "close"])
@pytest.mark.parametrize("after", [0, 20, 150, 300, 600, 900, 1500, 2500])
async def test_a_connection_that_breaks_anywhere(stage, api, then, after):
    async with stage(ANSWER, "Again.") as s, fault_proxy(s.server.url, Fault(after=after, then=then)) as url:
        c = await s.engine.create()
        broken = model(s, api, url)
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(broken, "Hi", tools=[{"type": "function", "name": "look", "parameters": {}}])
        assert raised.value.retryable
        assert raised.value.result.reason in ("connection", "stream")
        assert (await c.respond(broken)).output_text == "Again."
        assert [item.get("role") for item in await items(c)][-1] == "assistant"


async def test_an_answer_in_drips_is_an_answer(stage, api):
    async with stage("Drip.", "Drop.") as s, fault_proxy(s.server.url, Fault(pace=0)) as url:
        c = await s.engine.create()
        assert (await c.respond(model(s, api, url), "Hi")).output_text == "Drip."


# -- stalled


STALLS = {
    "nothing comes": (Hang(60), None),
    "it stops between events": (Reply(TEXT, delay=60), None),
    "it stops in an event": (Reply(TEXT), Fault(after=500, then="stall")),
    "it drips too slowly": (Reply(TEXT), Fault(pace=0.05)),
}


@pytest.mark.parametrize(("answer", "fault"), STALLS.values(), ids=STALLS)
async def test_a_model_has_a_limit_of_its_own_for_silence(stage, api, answer, fault):
    async with stage(answer, "Again.") as s, fault_proxy(s.server.url, fault) as url:
        c = await s.engine.create()
        hasty = model(s, api, url, stall=0.15)
        with pytest.raises(ResponseFailed, match=r"nothing came for 0\.15 s") as raised:
            await c.respond(hasty, "Hi")
        assert (raised.value.result.reason, raised.value.retryable) == ("timeout", True)
        assert (await c.respond(model(s, api, url))).output_text == "Again."


async def test_a_slow_answer_is_no_stall(stage, api):
    """It is the silence that is limited, not the answer."""
    async with stage(Reply(Text(TEXT * 4), delay=0.02, chunk=4)) as s:
        c = await s.engine.create()
        assert (await c.respond(model(s, api, stall=0.3), "Hi")).output_text == TEXT * 4


async def test_a_stalled_background_response_is_polled(stage):
    async with stage(Reply("Hello", delay=0.3)) as s:
        c = await s.engine.create()
        result = await c.respond(model(s, "responses", stall=0.1), "Hi", params={"background": True})
        assert result.output_text == "Hello"
        assert s.server.visits


# -- of other kinds


async def test_events_and_items_of_unknown_kinds(stage):
    known = [
        {"type": "response.created", "response": {"id": "resp_1", "model": "m"}},
        {"type": "response.dream.started", "sequence_number": 1},
        {"type": 7},
        {"untyped": True},
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "acme:dream", "id": "ad_1"}},
        {"type": "response.output_item.done", "output_index": 1, "item": {"role": "assistant", "content": "Hi."}},
        {"type": "response.output_item.done", "output_index": 2, "item": None},
        {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": []}},
    ]
    async with stage(Raw(b"".join(map(written, known))), "Again.") as s:
        c = await s.engine.create()
        result = await c.respond(model(s, "responses"), "Hi")
        assert [item.get("type") for item in result.items] == ["acme:dream", None]
        assert result.output_text == "Hi."
        assert result.usage.requests == 1
        assert (await c.respond(model(s, "responses"), "More")).output_text == "Again."


async def test_an_answer_without_usage_is_counted_as_a_request(stage, api):
    async with stage(Reply("Hi", usage=False)) as s:
        c = await s.engine.create()
        result = await c.respond(model(s, api), "Hi")
        assert (result.usage.requests, result.usage.input_tokens) == (1, 0)
        assert (await c.usage()).requests == 1
