"""The script: what it may be, in which order it is taken, what it says of itself when it is wrong."""

import json

import anyio
import openai
import pytest

from server_talk import ALL, MODEL, ask, chat, connected, serving
from turnlog.engine.testing.server import Call, Reply, Text, scripted_server

pytestmark = pytest.mark.anyio


async def test_entries_are_taken_in_order_whichever_the_api():
    async with serving("one", Text("two"), Reply("three")) as (server, client):
        first = await ask(client)
        second = await chat(client)
        third = await ask(client)

    assert [first.output_text, second.choices[0].message.content, third.output_text] == ["one", "two", "three"]
    assert [(r.number, r.api, r.path) for r in server.requests] == [
        (1, "responses", "/v1/responses"),
        (2, "chat", "/v1/chat/completions"),
        (3, "responses", "/v1/responses"),
    ]
    assert server.requests[0].body == json.loads(server.requests[0].content) == {"model": MODEL, "input": "Hi"}
    assert server.requests[0].headers["Authorization"] == "Bearer test"


async def test_a_script_that_is_used_up_says_so_and_is_not_retried():
    async with scripted_server(["one", "two"]) as server, connected(server, max_retries=2) as client:
        await ask(client)
        await ask(client)
        with pytest.raises(openai.InternalServerError, match="used up: it had 2 answers, and this is request 3"):
            await ask(client)

    assert len(server.requests) == 3


async def test_a_script_can_be_a_function():
    def script(received):
        return f"{received.number} {received.api} {received.body['model']}"

    async with scripted_server(script) as server, connected(server) as client:
        said = [(await ask(client)).output_text, (await chat(client)).choices[0].message.content]

    assert said == [f"1 responses {MODEL}", f"2 chat {MODEL}"]


async def test_a_script_can_wait():
    release = anyio.Event()

    async def script(received):
        if received.number == 1:
            await release.wait()
        else:
            release.set()
        return Reply(f"{received.number}")

    said = []

    async def one(client):
        said.append((await ask(client)).output_text)

    async with scripted_server(script) as server, connected(server) as client, anyio.create_task_group() as group:
        group.start_soon(one, client)
        group.start_soon(one, client)

    assert sorted(said) == ["1", "2"]


def _raises(received):
    raise AssertionError(f"request {received.number} is wrong")


async def _raises_later(received):
    _raises(received)


@pytest.mark.parametrize("script", [_raises, _raises_later])
async def test_what_a_script_raises_is_told_to_the_client(script):
    async with scripted_server(script) as server, connected(server, max_retries=2) as client:
        with pytest.raises(openai.InternalServerError, match="AssertionError: request 1 is wrong"):
            await ask(client)

    assert len(server.requests) == 1


async def test_a_function_that_answers_nothing_is_told():
    async with scripted_server(lambda _: None) as server, connected(server) as client:
        with pytest.raises(openai.InternalServerError, match="not with None"):
            await ask(client)


@pytest.mark.parametrize("script", ["Hello", b"Hello", 7, [7], [None], Text("Hello"), Reply("Hello")])
def test_a_script_that_is_none_is_refused_at_once(script):
    with pytest.raises(TypeError, match="script"):
        scripted_server(script)


@pytest.mark.parametrize(
    "options",
    [
        {"status": "done"},
        {"reason": "content_filter"},
        {"error": {"code": "x", "message": "x"}},
        {"as_event": "error_flat"},
        {"as_event": "other", "status": "failed"},
        {"delay": -1},
        {"cut_after": -1},
        {"chunk": 0},
    ],
)
def test_a_reply_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="Reply"):
        Reply("x", **options)


def test_a_reply_holds_parts_only():
    with pytest.raises(TypeError, match="not 7"):
        Reply(7)


async def test_the_same_requests_get_the_same_bytes():
    async def run():
        async with serving(*[Reply(*ALL)] * 4) as (_, client):
            return [
                (await ask(client)).to_json(),
                (await chat(client)).to_json(),
                [event.to_json() async for event in await ask(client, stream=True)],
                [event.to_json() async for event in await chat(client, stream=True)],
            ]

    assert await run() == await run()


async def test_ids_do_not_repeat_between_requests_or_after_another_server():
    ids = []
    for first in (1, 3):
        async with serving("a", Call("f"), first=first) as (server, client):
            for _ in range(2):
                response = await ask(client)
                ids += [response.id, response.output[0].id, getattr(response.output[0], "call_id", response.id + "x")]
        assert [r.number for r in server.requests] == [first, first + 1]

    assert len(set(ids)) == len(ids)
