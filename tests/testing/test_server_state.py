"""What the scripted server keeps: stored responses and their chains, conversations, and their errors."""

import json

import openai
import pytest

from server_talk import MODEL, ask, serving, user
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text

pytestmark = pytest.mark.anyio

CALL = Call("look", {"at": "the sea"}, id="call_1")
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "blue"}


def again(client, previous, given="And then?", **more):
    return client.responses.create(model=MODEL, input=given, previous_response_id=previous, **more)


def within(client, conversation, given="Hi", **more):
    return client.responses.create(model=MODEL, input=given, conversation=conversation, **more)


def texts(items):
    return [part["text"] for item in items for part in item["content"]]


# -- stored responses


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_response_is_there_as_soon_as_its_end_was_seen(stream):
    async with serving("Hello") as (_, client):
        if stream:
            events = [event async for event in await ask(client, stream=True)]
            response = events[-1].response
        else:
            response = await ask(client)
        found = await client.responses.retrieve(response.id)
        given = await client.responses.input_items.list(response.id)
    assert found.to_dict() == response.to_dict()
    assert [item.content[0].text for item in given.data] == ["Hi"]


async def test_what_is_not_stored_or_was_deleted_is_not_found():
    async with serving("one", "two") as (_, client):
        unstored, stored = await ask(client, store=False), await ask(client)
        await client.responses.delete(stored.id)
        for name in (unstored.id, stored.id):
            with pytest.raises(openai.NotFoundError, match=name):
                await client.responses.retrieve(name)
            with pytest.raises(openai.BadRequestError) as caught:
                await again(client, name)
            assert caught.value.code == "previous_response_not_found"
            assert caught.value.param == "previous_response_id"


async def test_a_chain_stands_before_the_input():
    async with serving(Reply(Reason("why"), CALL), "Blue.", "third") as (server, client):
        first = await ask(client)
        second = await again(client, first.id, [OUTPUT])
        await again(client, second.id)
        context = server.requests[2].context
    assert [item["type"] for item in context] == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert all("id" in item for item in context)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("No output", "call-without-output"),
        ([{**OUTPUT, "call_id": "call_9"}], "output-without-call"),
        ([OUTPUT, {**OUTPUT, "call_id": "call_9"}], "output-without-call"),
        ([OUTPUT, OUTPUT], "duplicate-output"),
    ],
)
async def test_the_whole_chain_is_judged(given, rule):
    async with serving(CALL, "next") as (server, client):
        first = await ask(client)
        with pytest.raises(openai.BadRequestError):
            await again(client, first.id, given)
        assert server.refused[0].rule == rule
        assert (await again(client, first.id, [OUTPUT])).output_text == "next"


async def test_the_whole_chain_counts_against_the_window():
    async with serving("x" * 900, "next", windows={MODEL: 200}) as (server, client):
        first = await ask(client)
        with pytest.raises(openai.BadRequestError) as caught:
            await again(client, first.id)
        assert caught.value.code == "context_length_exceeded"
        assert len(server.refused) == 1


async def test_a_chain_and_a_conversation_exclude_each_other():
    async with serving("one") as (_, client):
        first = await ask(client)
        conversation = await client.conversations.create()
        with pytest.raises(openai.BadRequestError) as caught:
            await again(client, first.id, conversation=conversation.id)
    assert caught.value.code == "mutually_exclusive_parameters"


async def test_usage_counts_what_the_server_puts_in_front():
    async with serving("one", "two", "three") as (_, client):
        first = await ask(client)
        second = await again(client, first.id, "Hi")
        alone = await ask(client)
    assert second.usage.input_tokens > alone.usage.input_tokens == first.usage.input_tokens


# -- conversations


async def test_a_conversation_lives():
    async with serving() as (server, client):
        made = await client.conversations.create(metadata={"user": "7"}, items=[user("Hello")])
        assert (await client.conversations.retrieve(made.id)).metadata == {"user": "7"}
        changed = await client.conversations.update(made.id, metadata={"user": "8"})
        assert (changed.id, changed.metadata) == (made.id, {"user": "8"})
        gone = await client.conversations.delete(made.id)
        assert gone.deleted
        with pytest.raises(openai.NotFoundError, match=made.id):
            await client.conversations.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await within(client, made.id)
        assert [visit.method for visit in server.visits] == ["POST", "GET", "POST", "DELETE", "GET"]
        assert server.visits[0].body == {"metadata": {"user": "7"}, "items": [user("Hello")]}


async def test_items_are_listed_page_by_page_newest_first():
    async with serving() as (_, client):
        made = await client.conversations.create(items=[user(str(n)) for n in range(20)])
        added = await client.conversations.items.create(made.id, items=[user(str(n)) for n in range(20, 25)])
        assert [item.content[0].text for item in added.data] == [str(n) for n in range(20, 25)]
        page = await client.conversations.items.list(made.id)
        assert (len(page.data), page.has_more) == (20, True)
        assert page.data[0].content[0].text == "24"
        assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
        everything = [item async for item in client.conversations.items.list(made.id, order="asc", limit=7)]
        assert [item.content[0].text for item in everything] == [str(n) for n in range(25)]
        rest = await client.conversations.items.list(made.id, after=page.last_id)
        assert (len(rest.data), rest.has_more) == (5, False)


async def test_one_item_is_shown_and_taken_out():
    async with serving() as (_, client):
        made = await client.conversations.create(items=[user(str(n)) for n in range(5)])
        fourth = [item async for item in client.conversations.items.list(made.id, order="asc")][3]
        one = await client.conversations.items.retrieve(fourth.id, conversation_id=made.id)
        assert one.content[0].text == "3"
        after = await client.conversations.items.delete(fourth.id, conversation_id=made.id)
        assert after.id == made.id
        left = await client.conversations.items.list(made.id, limit=100)
        assert texts(item.to_dict() for item in left.data) == ["4", "2", "1", "0"]


@pytest.mark.parametrize(
    ("query", "param"), [({"limit": 101}, "limit"), ({"limit": 0}, "limit"), ({"order": "up"}, "order")]
)
async def test_pages_that_cannot_be(query, param):
    async with serving() as (_, client):
        made = await client.conversations.create()
        with pytest.raises(openai.BadRequestError) as caught:
            await client.conversations.items.list(made.id, **query)
        assert caught.value.param == param
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.list(made.id, after="msg_none")


async def test_twenty_items_a_call():
    async with serving() as (_, client):
        for create in (client.conversations.create, None):
            made = None if create else (await client.conversations.create()).id
            with pytest.raises(openai.BadRequestError) as caught:
                items = [user("x")] * 21
                await (create(items=items) if create else client.conversations.items.create(made, items=items))
            assert (caught.value.code, caught.value.param) == ("array_above_max_length", "items")


async def test_items_that_are_none_are_refused():
    async with serving() as (_, client):
        made = await client.conversations.create()
        with pytest.raises(openai.BadRequestError):
            await client.conversations.items.create(made.id, items=[{"type": "nonsense"}])
        await client.conversations.items.create(made.id, items=[OUTPUT])  # its call may follow


async def test_a_response_adds_its_input_and_its_output_when_it_has_ended():
    async with serving(Reply(Text("One"), Text("Two")), "Three", Reply("x", status="failed")) as (server, client):
        made = await client.conversations.create(items=[user("Before")])
        stream = await within(client, made.id, stream=True)
        assert len(server.kept.threads[made.id].items) == 1
        async for _ in stream:
            pass
        assert texts(server.kept.threads[made.id].items) == ["Before", "Hi", "One", "Two"]
        await within(client, made.id, [user("More")])
        assert texts(server.requests[1].context) == ["Before", "Hi", "One", "Two"]
        await within(client, made.id)
        assert texts(server.kept.threads[made.id].items) == ["Before", "Hi", "One", "Two", "More", "Three"]


async def test_a_conversation_is_locked_while_a_response_runs():
    async with serving(Reply("A long answer", delay=0.01), "next") as (server, client):
        made = await client.conversations.create()
        async with await within(client, made.id, stream=True) as stream:
            await anext(aiter(stream))
            for asking in (within(client, made.id), client.conversations.items.create(made.id, items=[user("x")])):
                with pytest.raises(openai.BadRequestError) as caught:
                    await asking
                assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
            async for _ in stream:
                pass
        assert (await within(client, made.id)).output_text == "next"
        assert server.refused == []


async def test_a_lock_goes_with_its_request():
    """A client that hangs up, or is refused by the script, leaves the conversation as it was."""
    async with serving(Reply("A long answer", delay=60), Fail(500), "next") as (server, client):
        made = await client.conversations.create()
        async with await within(client, made.id, stream=True) as stream:
            await anext(aiter(stream))
        while server.kept.threads[made.id].lock is not None:
            await client.conversations.retrieve(made.id)
        with pytest.raises(openai.InternalServerError):
            await within(client, made.id)
        assert (await within(client, made.id)).output_text == "next"
        assert texts(server.kept.threads[made.id].items) == ["Hi", "next"]


async def test_what_goes_wrong_with_the_state_can_be_said():
    def trouble(visit):
        return Fail(503, code="down") if visit.method == "DELETE" else None

    async with serving(trouble=trouble) as (_, client):
        made = await client.conversations.create()
        with pytest.raises(openai.InternalServerError) as caught:
            await client.conversations.delete(made.id)
        assert caught.value.code == "down"


# -- counting and compacting


async def test_input_is_counted_as_it_would_be_sent():
    async with serving("one", count=len) as (server, client):
        first = await ask(client)
        short = await client.responses.input_tokens.count(model=MODEL, input="Hi")
        long = await client.responses.input_tokens.count(model=MODEL, input="Hi", previous_response_id=first.id)
        assert short.input_tokens < long.input_tokens
        assert len(server.requests) == 1


async def test_a_compaction_has_the_user_messages_and_one_opaque_item():
    async with serving("The gist.") as (server, client):
        said = {"role": "assistant", "content": "Hello"}
        raw = await client.responses.with_raw_response.compact(model=MODEL, input=[user("One"), said, user("Two")])
        *users, opaque = json.loads(raw.http_response.content)["output"]
    assert [(one["role"], one["content"][0]["text"]) for one in users] == [("user", "One"), ("user", "Two")]
    assert opaque["type"] == "compaction"
    assert (server.requests[0].api, server.requests[0].path) == ("compact", "/v1/responses/compact")
