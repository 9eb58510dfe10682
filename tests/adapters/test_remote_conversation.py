"""state="conversation": requests belong to a conversation of the server's, and carry only what is new."""

import openai
import pytest

from turnlog import ResponseFailed
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Fail, Hang, Raw, Reply

pytestmark = pytest.mark.anyio


def held(s, **options):
    return s.model("responses", state="conversation", **options)


def words(items):
    """What items say, one by one."""
    return [said(item) for item in items]


def said(item):
    content = item.get("output", item.get("content", item.get("type")))
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def there(s, number=1):
    """What a conversation at the server holds."""
    return words(s.server.kept.threads[f"conv_{number:04d}"].items)


def asked(s):
    return [(body.get("conversation"), words(body["input"])) for body in s.bodies]


async def look() -> str:
    return "blue"


async def test_only_what_is_new_is_sent(stage):
    async with stage("One.", Call("look"), "Blue.", "Three.") as s:
        c = await s.engine.create()
        await c.respond(held(s), "1", instructions="Be brief.")
        await c.run(held(s), "Look", tools=[look], instructions="Be brief.")
        await c.respond(held(s), "3", instructions="Be long.")
        sent = [["1"], ["Look"], ["blue"], ["3"]]
        assert asked(s) == [("conv_0001", new) for new in sent]
        assert there(s) == ["1", "One.", "Look", "function_call", "blue", "Blue.", "3", "Three."]
        assert [body["instructions"] for body in s.bodies][-1] == "Be long."
        assert all(body["store"] for body in s.bodies)
        assert "remote.attached" in await s.kinds(c)
        assert (await verify(s.engine.store, c.id)).verified == 4
        assert len(s.server.visits) == 1


async def test_a_fork_has_a_conversation_of_its_own(stage):
    async with stage("One.", "Un.", "Two.", "Deux.") as s:
        c = await s.engine.create()
        first = await c.respond(held(s), "1")
        twin = await c.fork(at=first.version)
        await twin.respond(held(s), "in French")
        await c.respond(held(s), "2")
        await twin.respond(held(s), "more")
        expected = [("conv_0001", ["1"]), ("conv_0002", ["1", "One.", "in French"])]
        assert asked(s) == [*expected, ("conv_0001", ["2"]), ("conv_0002", ["more"])]


async def test_what_was_rewound_stays_at_the_server_so_a_new_conversation_begins(stage):
    async with stage("One.", "Two.", "Other.", "Three.") as s:
        c = await s.engine.create()
        first = await c.respond(held(s), "1")
        await c.respond(held(s), "2")
        await c.rewind(to=first.version)
        await c.respond(held(s), "other")
        await c.respond(held(s), "3")
        assert asked(s)[2:] == [("conv_0002", ["1", "One.", "other"]), ("conv_0002", ["3"])]
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_switching_models_and_ways(stage):
    async with stage("One.", "Two.", "Three.", "Four.") as s:
        c = await s.engine.create()
        await c.respond(held(s), "1")
        await c.respond(s.model("responses"), "2")
        await c.respond(s.model("chat"), "3")
        await c.respond(held(s, name="gpt-4.1"), "4")
        assert words(s.bodies[3]["input"]) == ["2", "Two.", "3", "Three.", "4"]
        assert there(s) == ["1", "One.", "2", "Two.", "3", "Three.", "4", "Four."]


@pytest.mark.parametrize("trouble", ["gone", "locked", "disagrees"])
async def test_where_it_cannot_go_on_a_new_one_gets_the_whole_window_once(stage, trouble):
    script = ["One.", "Two.", "Three."]
    if trouble == "disagrees":
        script.insert(1, Fail(400, message="No tool call found for function call output with call_id call_1."))
    async with stage(*script) as s:
        c = await s.engine.create()
        await c.respond(held(s), "1")
        if trouble == "gone":
            del s.server.kept.threads["conv_0001"]
        elif trouble == "locked":
            s.server.kept.threads["conv_0001"].lock = 99
        assert (await c.respond(held(s), "2")).output_text == "Two."
        await c.respond(held(s), "3")
        sent = [("conv_0001", ["1"]), ("conv_0001", ["2"]), ("conv_0002", ["1", "One.", "2"]), ("conv_0002", ["3"])]
        assert asked(s) == sent
        requests = [event async for event in c.events() if event.type == "response.requested"]
        assert [event.data.get("retry_of") for event in requests] == [None, None, requests[1].seq, None]


@pytest.mark.parametrize("broken", [Reply("Two.", cut_after=3), Fail(500), Raw(b"data: {no json\n\n")])
async def test_what_may_have_come_in_is_not_added_to_again(stage, broken):
    """After a request whose effect is unknown, the server's conversation is not trusted."""
    async with stage("One.", broken, "Two.", "Three.") as s:
        c = await s.engine.create()
        await c.respond(held(s), "1")
        with pytest.raises(ResponseFailed):
            await c.respond(held(s), "2")
        await c.respond(held(s))
        await c.respond(held(s), "3")
        assert asked(s)[2:] == [("conv_0002", ["1", "One.", "2"]), ("conv_0002", ["3"])]


async def test_what_was_refused_has_changed_nothing(stage):
    async with stage("One.", Fail(429), "Two.") as s:
        c = await s.engine.create()
        await c.respond(held(s), "1")
        with pytest.raises(ResponseFailed):
            await c.respond(held(s), "2")
        await c.respond(held(s))
        assert asked(s)[2] == ("conv_0001", ["2"])


async def test_a_request_to_a_conversation_is_not_repeated_by_the_client(stage):
    soon = {"retry-after-ms": "1"}
    async with stage(Fail(500, headers=soon), "One.", client={"max_retries": 2}) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await c.respond(held(s), "1")
        assert len(s.bodies) == 1
        assert (await c.respond(s.model("responses"))).output_text == "One."


@pytest.mark.parametrize("trouble", [Fail(503, code="down", message="No."), Hang(0)])
async def test_where_no_conversation_can_be_made_the_turn_fails_and_its_input_stays(stage, trouble):
    on = [trouble, None, None]
    async with stage("One.", trouble=lambda _: on.pop(0)) as s:
        c = await s.engine.create()
        async with c.stream(held(s), "1", key="one") as stream:  # it is the model that fails, not the opening
            with pytest.raises(ResponseFailed) as raised:
                await stream.result()
        assert raised.value.retryable
        assert isinstance(raised.value.__cause__, openai.APIError)
        assert await s.kinds(c) == ["user", "response.requested", "response.failed"]
        assert s.bodies == []
        assert (await c.respond(held(s), "1", key="one")).output_text == "One."
        assert asked(s) == [("conv_0001", ["1"])]


async def test_a_lost_race_makes_no_second_conversation(stage):
    """The input of somebody else comes between making the conversation and logging the request."""
    async with stage("One.", "Two.") as s:
        c = await s.engine.create()
        model = held(s)
        made = model.open_remote

        async def open_remote():
            name = await made()
            await c.append("meanwhile")
            return name

        model.open_remote = open_remote
        await c.respond(model, "1")
        assert asked(s) == [("conv_0001", ["meanwhile", "1"])]


async def test_another_process_goes_on_with_it(db, stage_for):
    from turnlog import open_engine

    async with open_engine(db) as engine, stage_for("One.", "Two.", "Three.", engine=engine) as s:
        c = await engine.create(id="ada")
        await c.respond(held(s), "1")
        await c.respond(held(s), "2")
        async with open_engine(db) as other:
            await (await other.get("ada")).respond(held(s), "3")
        assert asked(s)[-1] == ("conv_0001", ["3"])
