"""The Conversations API: a log written to the server, what is new pushed, an existing one imported, deletion."""

import openai
import pytest

from turnlog import Budget, Conflict, ConversationBusy, Invalid
from turnlog.adapters.conversations import Conversations
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, CustomCall, Fail, Hang, Reason, Reply

pytestmark = pytest.mark.anyio


def said(item):
    content = item.get("output", item.get("content", item.get("type")))
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def words(items):
    return [said(item) for item in items]


def there(s, name="conv_0001"):
    return words(s.server.kept.threads[name].items)


def held(s, **options):
    return s.model("responses", state="conversation", **options)


def posted(s):
    """How many items each call has added."""
    return [len(visit.body["items"]) for visit in s.server.visits if visit.path.endswith("/items") and visit.body]


async def talked(c, turns, begin=0):
    for number in range(begin, begin + turns):
        await c.append(f"Question {number}", {"role": "assistant", "content": f"Answer {number}"})


async def look() -> str:
    return "blue"


# -- writing


@pytest.mark.parametrize("turns", [0, 1, 10, 11, 33])
async def test_a_log_is_written_twenty_items_a_call(stage, turns):
    async with stage("Done.") as s:
        c = await s.engine.create()
        await talked(c, turns)
        remote = Conversations(s.client)
        name = await remote.create(c, metadata={"user": "7"})
        assert name == "conv_0001"
        assert there(s) == [word for n in range(turns) for word in (f"Question {n}", f"Answer {n}")]
        full, rest = divmod(2 * turns, 20)
        assert posted(s) == [20] * full + [rest] * (rest > 0)
        assert s.server.kept.threads[name].metadata == {"user": "7"}
        # From there on it goes on at the server.
        await c.respond(held(s), "And now?")
        assert (s.bodies[0]["conversation"], words(s.bodies[0]["input"])) == (name, ["And now?"])
        assert (await verify(s.engine.store, c.id)).verified == 1


async def test_what_is_new_is_pushed(stage):
    script = (Reply(Reason("why"), "One."), Call("look"), "It is blue.", "Done.")
    async with stage(*script) as s:
        c = await s.engine.create()
        remote = Conversations(s.client, model="gpt-4o-mini")
        await c.respond(s.model("responses"), "1")
        await remote.create(c)
        assert await remote.push(c) == 0
        await c.append("aside", "and more")
        assert await remote.push(c) == 2
        await c.run(s.model("responses"), "Look", tools=[look])
        assert await remote.push(c) == 4
        expected = ["1", "reasoning", "One.", "aside", "and more", "Look", "function_call", "blue", "It is blue."]
        assert there(s) == expected
        await c.respond(held(s), "Done?")
        assert words(s.bodies[-1]["input"]) == ["Done?"]
        assert await remote.push(c) == 0
        assert there(s) == [*expected, "Done?", "Done."]


async def test_calls_that_wait_are_pushed_and_answered_later(stage):
    async with stage(Reply(Call("look"), CustomCall("shell", "ls")), "Done.") as s:
        c = await s.engine.create()
        remote = Conversations(s.client)
        await c.respond(s.model("responses"), "Look", tools=[{"type": "function", "name": "look", "parameters": {}}])
        await remote.create(c)
        assert there(s) == ["Look", "function_call", "custom_tool_call"]
        calls = await c.open_calls()
        await c.append(
            {"type": "function_call_output", "call_id": calls[0].call_id, "output": "blue"},
            {"type": "custom_tool_call_output", "call_id": calls[1].call_id, "output": "a b"},
        )
        await c.respond(held(s))
        assert words(s.bodies[1]["input"]) == ["blue", "a b"]
        assert s.bodies[1]["conversation"] == "conv_0001"


async def test_a_turn_that_runs_is_waited_for(stage):
    async with stage(Hang(60)) as s:
        c = await s.engine.create()
        stream = await c.stream(s.model("responses"), "Hi")
        with pytest.raises(ConversationBusy):
            await Conversations(s.client).create(c)
        await stream.aclose()


async def test_a_fork_has_none(stage):
    async with stage() as s:
        c = await s.engine.create()
        await c.append("Hello")
        remote = Conversations(s.client)
        await remote.create(c)
        twin = await c.fork()
        with pytest.raises(Conflict, match="create or attach one"):
            await remote.push(twin)
        assert await remote.create(twin) == "conv_0002"
        await twin.append("More")
        assert (await remote.push(twin), await remote.push(c)) == (1, 0)


@pytest.mark.parametrize("change", ["rewind", "erase"])
async def test_what_the_server_has_cannot_be_taken_back(stage, change):
    async with stage() as s:
        c = await s.engine.create()
        remote = Conversations(s.client)
        await talked(c, 2)
        await remote.create(c)
        await (c.rewind(to=3) if change == "rewind" else c.erase(2, reason="asked to"))
        await c.append("Other")
        with pytest.raises(Conflict, match=r"conv_0001.*Create a new one"):
            await remote.push(c)
        assert await remote.create(c) == "conv_0002"
        assert there(s, "conv_0002")[-1] == "Other"
        assert (await s.engine.delete(c.id)).remote == ["conv_0001", "conv_0002"]


async def test_a_push_that_broke_off_is_in_doubt(stage):
    """Some of it may have come in: to push again would write that twice."""
    on = {"fail": False}

    def trouble(visit):
        posts = visit.method == "POST" and visit.path.endswith("/items")
        return Fail(503, message="No.") if posts and on["fail"] and len(visit.body["items"]) < 20 else None

    async with stage("Done.", trouble=trouble) as s:
        c = await s.engine.create()
        remote = Conversations(s.client)
        await talked(c, 1)
        await remote.create(c)
        await talked(c, 11, begin=1)
        on["fail"] = True
        with pytest.raises(openai.InternalServerError):
            await remote.push(c)
        assert len(there(s)) == 22
        on["fail"] = False
        with pytest.raises(Conflict):
            await remote.push(c)
        await c.respond(held(s), "Hi")
        assert s.bodies[0]["conversation"] == "conv_0002"
        assert len(s.bodies[0]["input"]) == 25


async def test_what_is_added_is_added_once(stage):
    """The client's own retries are off."""
    soon = {"retry-after-ms": "1"}
    async with stage(trouble=lambda _: Fail(500, headers=soon), client={"max_retries": 2}) as s:
        c = await s.engine.create()
        with pytest.raises(openai.InternalServerError):
            await Conversations(s.client).create(c)
        assert len(s.server.visits) == 1


async def test_a_cut_window_does_not_fit_a_conversation_that_has_it_all(stage):
    async with stage("Done.") as s:
        c = await s.engine.create()
        await talked(c, 30)
        await Conversations(s.client).create(c)
        await c.respond(held(s, budget=Budget(300)), "Hi")
        assert s.bodies[0]["conversation"] == "conv_0002"


# -- reading


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
async def test_an_existing_one_is_imported_whole(stage, count):
    async with stage("Done.", "More.") as s:
        name = (await s.client.conversations.create()).id
        texts = [f"{n}" for n in range(count)]
        kept = s.server.kept
        kept.threads[name].items += [kept.named({"role": "user", "content": text}) for text in texts]
        c = await s.engine.create()
        assert await Conversations(s.client).attach(c, name) == count
        assert [said(entry.item) async for entry in c.items(limit=1000)] == texts
        await c.respond(held(s), "Hi")
        assert (s.bodies[0]["conversation"], words(s.bodies[0]["input"])) == (name, ["Hi"])
        # The log has all of it, should the server lose it.
        del kept.threads[name]
        await c.respond(held(s), "Still there?")
        assert len(s.bodies[2]["input"]) == count + 3
        assert (await verify(s.engine.store, c.id)).verified == 3


async def test_every_kind_of_item_is_imported_as_it_is(stage):
    items = [
        {"type": "message", "id": "msg_1", "role": "critic", "status": "completed", "content": [{"type": "text"}]},
        {"type": "message", "id": "msg_2", "role": "user", "status": "completed", "content": []},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "opaque"},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "id": "fc_2", "call_id": "call_1", "output": "blue", "status": "completed"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "acme:note", "id": "an_1", "text": "new"},
    ]
    async with stage("Done.", "Over.") as s:
        name = (await s.client.conversations.create()).id
        s.server.kept.threads[name].items += items
        c = await s.engine.create()
        await Conversations(s.client).attach(c, name)
        assert [entry.item async for entry in c.items()] == items
        assert s.server.visits[-1].query["include[]"]


async def test_calls_that_wait_there_wait_here(stage):
    async with stage("Blue.") as s:
        name = (await s.client.conversations.create()).id
        call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}
        s.server.kept.threads[name].items += [s.server.kept.named({"role": "user", "content": "Look"}), call]
        c = await s.engine.create()
        await Conversations(s.client).attach(c, name)
        assert [one.call_id for one in await c.open_calls()] == ["call_1"]
        await c.append({"type": "function_call_output", "call_id": "call_1", "output": "blue"})
        await c.respond(held(s))
        assert (s.bodies[0]["conversation"], words(s.bodies[0]["input"])) == (name, ["blue"])


async def test_only_a_new_one_can_be_attached(stage):
    async with stage() as s:
        name = (await s.client.conversations.create()).id
        c = await s.engine.create()
        await c.append("Hello")
        with pytest.raises(Invalid, match="1 items"):
            await Conversations(s.client).attach(c, name)
        other = await s.engine.create()
        with pytest.raises(openai.NotFoundError):
            await Conversations(s.client).attach(other, "conv_none")
        assert other.version == 1


@pytest.mark.parametrize("habit", ["never more", "always more", "ignores after"])
async def test_servers_with_bad_habits_of_paging(stage, habit, monkeypatch):
    from turnlog.engine.testing import state_doors

    paged = state_doors.page

    def page(items, query):
        query = {key: value for key, value in query.items() if habit != "ignores after" or key != "after"}
        shown = paged(items, query)
        return {key: value for key, value in shown.items() if key != "has_more" or habit == "never more"}

    monkeypatch.setattr(state_doors, "page", page)
    async with stage() as s:
        kept = s.server.kept
        name = (await s.client.conversations.create()).id
        kept.threads[name].items += [kept.named({"role": "user", "content": f"{n}"}) for n in range(130)]
        c = await s.engine.create()
        count = await Conversations(s.client).attach(c, name)
        assert count == (100 if habit == "ignores after" else 130)


# -- deleting


@pytest.mark.parametrize("items", [True, False])
async def test_deleting(stage, items):
    async with stage("Done.") as s:
        c = await s.engine.create()
        await talked(c, 60)
        remote = Conversations(s.client)
        await remote.create(c)
        assert await remote.delete(c, items=items) == (120 if items else 0)
        assert s.server.kept.threads == {}
        with pytest.raises(Conflict):
            await remote.delete(c)
        with pytest.raises(Conflict):
            await remote.push(c)
        await c.respond(held(s), "Hi")
        assert s.bodies[0]["conversation"] == "conv_0002"


async def test_deleting_what_is_gone(stage):
    async with stage() as s:
        c = await s.engine.create()
        await talked(c, 2)
        remote = Conversations(s.client)
        name = await remote.create(c)
        del s.server.kept.threads[name]
        assert await remote.delete(c) == 0
        with pytest.raises(Conflict):
            await remote.delete(c)


@pytest.mark.parametrize("options", [{"model": 4}, {"backend": 4}])
async def test_arguments_are_checked(stage, options):
    async with stage() as s:
        with pytest.raises(Invalid, match="a text is needed"):
            Conversations(s.client, **options)
        assert "eu" in repr(Conversations(s.client, backend="eu"))
