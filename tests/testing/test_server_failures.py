"""Failures that a script asks for: errors, cuts, delays, silence, nonsense."""

import json

import openai
import pytest

from server_talk import ask, chat, connected, drain, serving
from turnlog.engine.testing.server import Fail, Hang, Raw, Reply, scripted_server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (409, openai.ConflictError, "invalid_request_error"),
        (429, openai.RateLimitError, "rate_limit_error"),
        (503, openai.InternalServerError, "server_error"),
    ],
)
async def test_fail_is_an_http_error(status, error, kind):
    fail = Fail(status, code="some_code", message="It failed.", param="input", headers={"Retry-After": "1"})
    async with serving(fail, Fail(status, type="my_type")) as (_, client):
        with pytest.raises(error, match=r"It failed\.") as caught:
            await ask(client, stream=True)
        with pytest.raises(error) as other:
            await chat(client)

    failed = caught.value
    assert (failed.code, failed.param, failed.type) == ("some_code", "input", kind)
    assert failed.response.headers["retry-after"] == "1"
    assert failed.request_id == "req_0001"
    assert (other.value.code, other.value.type) == (None, "my_type")


async def test_the_client_retries_what_it_would_retry():
    fail = Fail(500, headers={"retry-after-ms": "1"})
    async with scripted_server([fail, "again"]) as server, connected(server, max_retries=1) as client:
        response = await ask(client)

    assert response.output_text == "again"
    assert [r.headers["x-stainless-retry-count"] for r in server.requests] == ["0", "1"]


@pytest.mark.parametrize("create", [ask, chat])
@pytest.mark.parametrize("n", [0, 1, 3, 6])
async def test_a_cut_stream_has_that_many_events_and_no_end(create, n):
    async with serving(Reply("Hello there, you two", cut_after=n, chunk=4)) as (_, client):
        stream = await create(client, stream=True)
        events = []
        with pytest.raises(openai.APIConnectionError):
            await drain(stream, events)

    assert len(events) == n


@pytest.mark.parametrize("create", [ask, chat])
async def test_a_cut_answer_is_half_of_it(create):
    async with serving(Reply("Hello there, you two", cut_after=1)) as (_, client):
        with pytest.raises(openai.APIConnectionError):
            await create(client)


async def test_the_server_goes_on_after_a_cut():
    async with serving(Reply("x", cut_after=2), "whole") as (_, client):
        with pytest.raises(openai.APIConnectionError):
            [event async for event in await ask(client, stream=True)]

        assert (await ask(client)).output_text == "whole"


async def test_a_delay_changes_nothing_else():
    async with serving(Reply("Hello", delay=0.01), Reply("Hello", delay=0.01)) as (_, client):
        events = [event async for event in await ask(client, stream=True)]
        response = await ask(client)

    assert events[-1].response.output_text == "Hello"
    assert response.output_text == "Hello"


async def test_hang_outlasts_the_client():
    async with serving(Hang(60), "next") as (_, client):
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.2)

        assert (await ask(client)).output_text == "next"


async def test_hang_closes_without_an_answer():
    async with serving(Hang(0), "next") as (_, client):
        with pytest.raises(openai.APIConnectionError) as caught:
            await ask(client)

        assert not isinstance(caught.value, openai.APITimeoutError)
        assert (await ask(client)).output_text == "next"


async def test_raw_is_sent_as_it_is():
    async with serving(Raw(b"data: {nonsense\n\n"), Raw(b"<html>", status=502, content_type="text/html"), Raw(b"")) as (
        _,
        client,
    ):
        stream = await ask(client, stream=True)
        with pytest.raises(json.JSONDecodeError):
            [event async for event in stream]
        with pytest.raises(openai.InternalServerError) as caught:
            await chat(client)
        empty = [event async for event in await ask(client, stream=True)]

    assert caught.value.response.text == "<html>"
    assert caught.value.response.headers["content-type"] == "text/html"
    assert empty == []
