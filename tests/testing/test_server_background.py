"""Responses in the background, as the scripted server gives them: polled, streamed, resumed, cancelled."""

import anyio
import openai
import pytest

from server_talk import ask, connected, serving
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text, scripted_server

pytestmark = pytest.mark.anyio


def gated(*answers):
    """Return a script that answers when it is told to, and what tells it."""
    gate = anyio.Event()
    entries = iter(answers)

    async def script(_):
        await gate.wait()
        return next(entries)

    return script, gate


async def over(client, name):
    while (response := await client.responses.retrieve(name)).status in ("queued", "in_progress"):
        pass
    return response


async def test_it_is_queued_and_then_it_is_there():
    script, gate = gated(Reply(Reason("why"), "Hello"))
    async with scripted_server(script) as server, connected(server) as client:
        queued = await ask(client, background=True)
        assert (queued.status, queued.output, queued.background) == ("queued", [], True)
        assert (await client.responses.retrieve(queued.id)).status == "queued"
        gate.set()
        response = await over(client, queued.id)
        assert (response.status, response.output_text) == ("completed", "Hello")
        assert response.usage.input_tokens > 0
        following = await ask(client, previous_response_id=queued.id, background=True)
        assert (await over(client, following.id)).status == "failed"  # the script has no more


async def test_its_stream_goes_on_without_whoever_watches():
    async with serving(Reply(Text("One"), Text("Two"), cut_after=4)) as (_, client):
        seen = []
        with pytest.raises(openai.APIConnectionError):
            async for event in await ask(client, background=True, stream=True):
                seen.append(event)  # noqa: PERF401 - it raises, and what came before it counts
        assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
        name = seen[0].response.id
        assert (await over(client, name)).output_text == "OneTwo"
        rest = [
            event
            async for event in await client.responses.retrieve(
                name, stream=True, starting_after=seen[-1].sequence_number
            )
        ]
        numbers = [event.sequence_number for event in [*seen, *rest]]
        assert numbers == list(range(len(numbers)))
        assert rest[-1].type == "response.completed"


async def test_one_that_was_not_in_the_background_is_not_streamed_again():
    async with serving("Hello") as (_, client):
        response = await ask(client)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id, stream=True)
        with pytest.raises(openai.BadRequestError, match="synchronous"):
            await client.responses.cancel(response.id)


async def test_it_can_be_cancelled_twice_and_keeps_no_conversation_locked():
    script, gate = gated("Hello", "Again")
    async with scripted_server(script) as server, connected(server) as client:
        conversation = (await client.conversations.create()).id
        queued = await ask(client, background=True, conversation=conversation)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, conversation=conversation)
        assert caught.value.code == "conversation_locked"
        for _ in range(2):
            assert (await client.responses.cancel(queued.id)).status == "cancelled"
        gate.set()
        assert (await client.responses.retrieve(queued.id)).status == "cancelled"
        assert server.kept.threads[conversation].items == []
        await ask(client, conversation=conversation)
        assert len(server.kept.threads[conversation].items) == 2


async def test_what_is_done_is_seen_before_the_end():
    async with serving(Reply(Call("look", id="call_1"), Text("word " * 40), delay=0.01)) as (_, client):
        queued = await ask(client, background=True)
        while not (half := await client.responses.retrieve(queued.id)).output:
            pass
        assert half.status == "in_progress"
        assert half.output[0].call_id == "call_1"
        assert len((await over(client, queued.id)).output) == 2


async def test_a_failure_before_it_starts_is_an_error_and_one_later_a_status():
    script, gate = gated(Fail(500, code="vector_store_timeout", message="No."))
    gate.set()
    async with scripted_server(script) as server, connected(server) as client:
        queued = await ask(client, background=True)
        failed = await over(client, queued.id)
        assert (failed.status, failed.error.code) == ("failed", "vector_store_timeout")
    async with serving(Fail(503)) as (_, client):
        with pytest.raises(openai.InternalServerError):
            await ask(client, background=True)


async def test_it_needs_to_be_stored():
    async with serving("Hello") as (_, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, background=True, store=False)
        assert caught.value.param == "store"
