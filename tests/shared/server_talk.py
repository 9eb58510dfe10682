"""Answers for the scripted server to give, and ways to ask it for them."""

from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from turnlog.engine.testing.server import Call, CustomCall, Reason, Refuse, Reply, Text, scripted_server

MODEL = "gpt-test"
TEXT = "Grüße aus Köln, all is well. 🙂"
ALL = (
    Reason("Weighing the matter", content="raw thoughts of it"),
    Text(TEXT, phase="commentary"),
    Refuse("No, I will not do that"),
    Call("get_weather", {"city": "Köln", "days": 2}),
    Text("Done, finally."),
    Call("broken", '{"city": "Kö', id="call_mine"),
    CustomCall("shell", "ls -l | wc"),
)
PARTS = {
    "text": Text(TEXT),
    "phase": Text(TEXT, phase="final_answer"),
    "empty text": Text(""),
    "refusal": Refuse("I cannot do that"),
    "call": Call("get_weather", {"city": "Paris"}),
    "call without arguments": Call("now"),
    "call with broken arguments": Call("now", '{"a": '),
    "custom call": CustomCall("shell", "ls -l"),
    "reasoning": Reason("Thinking it over"),
    "reasoning text": Reason(content="Thinking it over, in the raw"),
    "reasoning of both": Reason("In short", content="At length and in detail", encrypted="opaque"),
    "reasoning with nothing": Reason(encrypted=None),
}
each_answer = pytest.mark.parametrize("answer", [Reply(*ALL), *map(Reply, PARTS.values())], ids=["all", *PARTS])


@asynccontextmanager
async def connected(server, **options):
    options = {"api_key": "test", "max_retries": 0, "timeout": 20.0, **options}
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with AsyncOpenAI(base_url=server.base_url, http_client=transport, **options) as client:
        yield client


@asynccontextmanager
async def serving(*script, **options):
    async with scripted_server(script, **options) as server, connected(server) as client:
        yield server, client


def ask(client, **more):
    return client.responses.create(model=MODEL, input="Hi", **more)


def chat(client, **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], **more)


async def drain(stream, seen):
    async for event in stream:
        seen.append(event)


async def response_events(answer, **more):
    async with serving(answer) as (_, client):
        return [event.to_dict() async for event in await ask(client, stream=True, **more)]


async def chat_chunks(answer, **more):
    async with serving(answer) as (_, client):
        return [chunk.to_dict() async for chunk in await chat(client, stream=True, **more)]


async def response_json(answer, **more):
    async with serving(answer) as (_, client):
        return (await ask(client, **more)).to_dict()


async def chat_json(answer, **more):
    async with serving(answer) as (_, client):
        return (await chat(client, **more)).to_dict()


async def raw_text(answer, create):
    async with serving(answer) as (_, client), create(client) as response:
        return await response.text()


def types(events):
    """The types of the events, a run of deltas counting once."""
    names = [event["type"] for event in events]
    return names[:1] + [name for before, name in pairwise(names) if name != before]


def streaming(resource, **more):
    return resource.with_streaming_response.create(model=MODEL, stream=True, **more)


def user(text):
    return {"role": "user", "content": text}
