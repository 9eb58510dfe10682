"""What the scripted server lets in: the judge, the key, the paths."""

import openai
import pytest

from server_talk import ALL, MODEL, ask, connected, serving, user
from turnlog.engine.testing.server import Reason, Reply, scripted_server

pytestmark = pytest.mark.anyio

ORPHAN = [user("Hi"), {"type": "function_call_output", "call_id": "call_none", "output": "1"}]


async def test_a_refused_request_consumes_nothing():
    async with serving("answer") as (server, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input=ORPHAN, stream=True)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "tool", "tool_call_id": "call_none", "content": "1"}]
            )
        response = await ask(client)

    first, _ = server.refused
    assert response.output_text == "answer"
    assert caught.value.response.json() == first.body()
    assert caught.value.response.headers["x-request-id"] == "req_0001"
    assert [r.number for r in server.requests] == [1, 2, 3]
    assert repr(server) == f"ScriptedServer({server.url}, 3 requests, 2 refused)"


async def test_the_judge_can_be_dismissed():
    async with serving("answer", judge=False) as (server, client):
        response = await client.responses.create(model=MODEL, input=ORPHAN)

    assert response.output_text == "answer"
    assert server.refused == []


@pytest.mark.parametrize("count", [None, len])
async def test_a_window_refuses_what_is_too_long(count):
    async with serving("answer", windows={MODEL: 100}, count=count) as (server, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="word " * 1000)
        response = await ask(client)
        assert len(server.refused) == 1

    assert caught.value.code == "context_length_exceeded"
    assert response.output_text == "answer"


async def test_an_answer_of_every_part_can_be_sent_back():
    async with serving(Reply(*ALL[:4]), "next") as (server, client):
        first = await ask(client)
        outputs = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "1"}
            for item in first.output
            if item.type == "function_call"
        ]
        items = [item.to_dict(exclude_unset=True) for item in first.output]
        second = await client.responses.create(model=MODEL, input=[user("Hi"), *items, *outputs], store=False)

    assert second.output_text == "next"
    assert server.refused == []


async def test_an_item_is_not_taken_back_without_the_reasoning_before_it():
    async with serving(Reply(Reason("why"), "so", "and so"), "next") as (server, client):
        _, message, other = (await ask(client)).output
        with pytest.raises(openai.BadRequestError, match="reasoning"):
            await client.responses.create(model=MODEL, input=[user("Hi"), message.to_dict(), user("Go on")])
        await client.responses.create(model=MODEL, input=[user("Hi"), other.to_dict(), user("Go on")])

    assert len(server.refused) == 1


@pytest.mark.parametrize("content", [b"{nonsense", b"[]", b"", b"\xff\xfe\xfd"])
async def test_what_is_no_json_object_is_refused(content):
    async with serving("answer") as (server, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post("/responses", content=content, cast_to=object)

    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id == "req_0001"
    assert server.requests[0].content == content
    assert server.refused == []


async def test_only_the_given_key_opens():
    async with scripted_server(["answer"], api_key="right") as server:
        async with connected(server, api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await ask(client)
        async with connected(server, api_key="right") as client:
            assert (await ask(client)).output_text == "answer"

    assert caught.value.code == "invalid_api_key"


async def test_other_paths_and_methods_are_not_found():
    async with serving("answer") as (server, client):
        with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(GET /v1/models\)") as caught:
            await client.models.list()
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_1")
        with pytest.raises(openai.NotFoundError):
            await client.post("/responses/", body={}, cast_to=object)
        with pytest.raises(openai.APIStatusError) as wrong:
            await client.get("/responses", cast_to=object)

    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id == "req_elsewhere_0001"
    assert wrong.value.status_code == 405
    assert server.requests == []


async def test_every_answer_has_a_request_id():
    async with serving("answer", "stream") as (_, client):
        response = await ask(client)
        async with client.responses.stream(model=MODEL, input="Hi") as stream:
            streamed = stream._response.headers["x-request-id"]

    assert response._request_id == "req_0001"
    assert streamed == "req_0002"
