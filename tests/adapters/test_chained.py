"""state="chained": a request names the response before it, and carries only what is new."""

import pytest

from turnlog import Budget, ResponseFailed
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text

pytestmark = pytest.mark.anyio


def chained(s, **options):
    return s.model("responses", state="chained", **options)


def words(body):
    """What a body's input says, item by item."""
    return [said(item) for item in body["input"]]


def said(item):
    content = item.get("output", item.get("content", item.get("type")))
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def requests(c):
    return [event async for event in c.events() if event.type == "response.requested"]


async def look() -> str:
    return "blue"


async def test_only_what_is_new_is_sent(stage):
    async with stage("One.", "Two.", "Three.") as s:
        c = await s.engine.create()
        for text in ("1", "2", "3"):
            await c.respond(chained(s), text, instructions=f"Say {text}.")
        assert [words(body) for body in s.bodies] == [["1"], ["2"], ["3"]]
        assert [body.get("previous_response_id") for body in s.bodies] == [None, "resp_0001", "resp_0002"]
        assert [body["store"] for body in s.bodies] == [True, True, True]
        assert [body["instructions"] for body in s.bodies] == ["Say 1.", "Say 2.", "Say 3."]
        assert len(s.server.requests[2].context) == 4
        assert (await verify(s.engine.store, c.id)).verified == 3
        # What the model saw is all of it, whatever was sent.
        third = (await requests(c))[2]
        call = await c.response(third.seq)
        assert call.manifest.follows == (await requests(c))[1].seq
        assert call.manifest.why(2).fate == "kept"
        assert call.manifest.tokens > 20


async def test_outputs_of_calls_follow_them(stage):
    script = (Reply(Reason("why"), Call("look"), Text("Looking."), Call("look")), "It is blue.", "Yes.")
    async with stage(*script) as s:
        c = await s.engine.create()
        assert (await c.run(chained(s), "Look", tools=[look])).output_text == "It is blue."
        await c.run(chained(s), "Sure?", tools=[look])
        assert [words(body) for body in s.bodies] == [["Look"], ["blue", "blue"], ["Sure?"]]
        assert [len(one.context) for one in s.server.requests] == [0, 5, 8]


async def test_calls_that_get_no_output_are_sealed_at_the_server_too(stage):
    async with stage(Call("look"), "Then not.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "Look", tools=[{"type": "function", "name": "look", "parameters": {}}])
        await c.respond(chained(s), "Never mind", open_calls="seal")
        assert s.bodies[1]["previous_response_id"] == "resp_0001"
        assert [item.get("type") for item in s.bodies[1]["input"]] == ["function_call_output", None]


async def test_messages_that_came_meanwhile_are_new(stage):
    async def append(received):
        if received.number == 1:
            await c.append("and quickly")
        return "Done."

    async with stage(append) as s:
        c = await s.engine.create()
        await c.respond(chained(s), "Do it")
        await c.respond(chained(s))
        assert words(s.bodies[1]) == ["and quickly"]
        assert s.bodies[1]["previous_response_id"] == "resp_0001"


async def test_a_rewind_goes_on_from_the_last_response_on_the_path(stage):
    async with stage("One.", "Two.", "Another two.", "Three.") as s:
        c = await s.engine.create()
        first = await c.respond(chained(s), "1")
        await c.respond(chained(s), "2")
        await c.rewind(to=first.version)
        await c.respond(chained(s), "2, but shorter")
        assert s.bodies[2]["previous_response_id"] == "resp_0001"
        assert words(s.bodies[2]) == ["2, but shorter"]
        await c.respond(chained(s), "3")
        assert s.bodies[3]["previous_response_id"] == "resp_0003"
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_a_fork_goes_on_from_the_response_that_it_shares(stage):
    async with stage("One.", "Two.", "Un.", "Deux.") as s:
        c = await s.engine.create()
        first = await c.respond(chained(s), "1")
        await c.respond(chained(s), "2")
        twin = await c.fork(at=first.version)
        await twin.respond(chained(s), "in French, please")
        await twin.respond(chained(s), "more")
        assert [body.get("previous_response_id") for body in s.bodies[2:]] == ["resp_0001", "resp_0003"]
        assert [words(body) for body in s.bodies[2:]] == [["in French, please"], ["more"]]
        assert (await verify(s.engine.store, twin.id)).verified == 3


async def test_switching_between_the_ways(stage):
    """What was not stored is sent again; what another model or backend has said is new to the server."""
    async with stage("One.", "Two.", "Three.", "Four.", "Five.", "Six.") as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        await c.respond(chained(s), "2")
        await c.respond(s.model("chat"), "3")
        await c.respond(chained(s), "4")
        await c.respond(chained(s, backend="elsewhere"), "5")
        await c.respond(s.model("responses", name="gpt-4.1", state="chained"), "6")
        ids = [body.get("previous_response_id") for body in s.bodies]
        assert ids == [None, None, None, "resp_0002", None, "resp_0004"]
        assert words(s.bodies[1]) == ["1", "One.", "2"]
        assert words(s.bodies[3]) == ["3", "Three.", "4"]
        assert words(s.bodies[4]) == ["1", "One.", "2", "Two.", "3", "Three.", "4", "Four.", "5"]
        assert words(s.bodies[5]) == ["5", "Five.", "6"]
        assert (await verify(s.engine.store, c.id)).verified == 6


async def test_a_cut_starts_a_new_chain(stage):
    budget = Budget(400)
    async with stage(*["word " * 40] * 12) as s:
        c = await s.engine.create()
        for number in range(12):
            await c.respond(chained(s, budget=budget), f"Question {number}: " + "and " * 20)
        calls = [call async for call in c.responses()]
        cuts = [call.manifest.cut for call in calls]
        assert cuts[-1] > 0
        for before, call, body in zip([None, *calls[:-1]], calls, s.bodies, strict=True):
            anew = before is None or before.manifest.cut != call.manifest.cut
            assert (body.get("previous_response_id") is None) == anew
            assert (len(words(body)) == 1) == (not anew or before is None)
            assert call.manifest.tokens <= 400
        assert sum("previous_response_id" in body for body in s.bodies) >= 6


async def test_what_is_erased_is_not_chained_on(stage):
    async with stage("One.", "Two.", "Three.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "my secret")
        await c.respond(chained(s), "2")
        await c.erase(2, reason="asked to")
        await c.respond(chained(s), "3")
        assert "previous_response_id" not in s.bodies[2]
        assert words(s.bodies[2]) == ["One.", "2", "Two.", "3"]
        report = await verify(s.engine.store, c.id)
        # The second body held only what is still there.
        assert (report.verified, report.erased, report.diverged) == (2, 1, [])


async def test_a_receipt_names_what_the_server_keeps(stage):
    async with stage("One.", "Two.", "Three.", Fail(500)) as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        await c.respond(s.model("responses"), "2")
        await c.respond(chained(s), "3")
        with pytest.raises(ResponseFailed):
            await c.respond(chained(s), "4")
        receipt = await c.erase(2, reason="asked to")
        assert receipt.remote == ["resp_0001", "resp_0003"]


@pytest.mark.parametrize("lose", ["one", "all"])
async def test_where_the_server_has_lost_it_the_whole_window_is_sent_once(stage, lose):
    async with stage("One.", "Two.", "Three.", "Four.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        await c.respond(chained(s), "2")
        for name in ["resp_0002"] if lose == "one" else ["resp_0001", "resp_0002"]:
            s.server.kept.forget(name)
        result = await c.respond(chained(s), "3", key="three")
        assert result.output_text == "Three."
        assert words(s.bodies[2]) == ["3"]
        assert words(s.bodies[3]) == ["1", "One.", "2", "Two.", "3"]
        assert "previous_response_id" not in s.bodies[3]
        assert (await c.respond(chained(s), "3", key="three")).replayed
        await c.respond(chained(s), "4")
        assert s.bodies[4]["previous_response_id"] == "resp_0004"


async def test_the_log_tells_what_was_lost_and_asked_again(stage):
    async with stage("One.", "Two.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        s.server.kept.forget("resp_0001")
        await c.respond(chained(s), "2")
        kinds = await s.kinds(c)
        assert kinds[-6:-3] == ["response.requested", "response.failed", "response.requested"]
        *_, refused, again = await requests(c)
        assert again.data["retry_of"] == refused.seq
        assert [call.retry_of async for call in c.responses()][-2:] == [None, refused.seq]
        failed = next(event for event in [e async for e in c.events()] if event.type == "response.failed")
        assert (failed.response, failed.data["code"]) == (refused.seq, "previous_response_not_found")


async def test_a_stream_tells_that_it_is_asked_again(stage):
    async with stage("One.", "Two.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        s.server.kept.forget("resp_0001")
        async with c.stream(chained(s), "2") as stream:
            events = [event async for event in stream]
        assert events[0].type == "turnlog.response.retried"
        assert events[0].raw["way"] == "whole"
        assert {event.response for event in events} == {(await requests(c))[-1].seq}


async def test_the_whole_window_is_sent_once_only(stage):
    gone = Fail(400, code="previous_response_not_found", param="previous_response_id")
    async with stage("One.", gone, Fail(400, message="No."), "Two.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        with pytest.raises(ResponseFailed, match=r"No\."):
            await c.respond(chained(s), "2")
        assert len(s.bodies) == 3
        assert (await c.respond(chained(s))).output_text == "Two."


@pytest.mark.parametrize(
    "refusal",
    [
        Fail(404, message="Item with id 'msg_1' not found. Items are not persisted when `store` is set to false."),
        Fail(400, message="No tool output found for function call call_1.", param="input"),
        Fail(400, message="terse"),
        Reply(status="failed", error={"code": "previous_response_not_found", "message": "gone"}),
    ],
    ids=["not persisted", "disagrees", "terse", "in the answer"],
)
async def test_other_words_for_a_state_that_does_not_fit(stage, refusal):
    async with stage("One.", refusal, "Two.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        assert (await c.respond(chained(s), "2")).output_text == "Two."
        assert [len(body["input"]) for body in s.bodies] == [1, 1, 3]


@pytest.mark.parametrize(
    "refusal", [Fail(401), Fail(500), Fail(429), Fail(400, code="unknown_parameter"), Reply("Tw", status="failed")]
)
async def test_other_failures_are_not_of_the_state(stage, refusal):
    async with stage("One.", refusal, "Two.") as s:
        c = await s.engine.create()
        await c.respond(chained(s), "1")
        with pytest.raises(ResponseFailed):
            await c.respond(chained(s), "2")
        assert (await c.respond(chained(s))).output_text == "Two."
        assert [body.get("previous_response_id") for body in s.bodies] == [None, "resp_0001", "resp_0001"]


async def test_reasoning_that_only_the_server_has_does_not_break_a_chain(stage):
    async with stage(Reply(Reason("why", encrypted=None), "One."), "Two.", "Three.") as s:
        c = await s.engine.create()
        for text in ("1", "2", "3"):
            await c.respond(chained(s), text)
        assert [words(body) for body in s.bodies] == [["1"], ["2"], ["3"]]


async def test_another_process_goes_on_with_the_chain(db, stage_for):
    """A cold history knows of the chain what a live one does."""
    from turnlog import open_engine

    async with open_engine(db) as engine, stage_for("One.", "Two.", "Three.", engine=engine) as s:
        c = await engine.create(id="ada")
        await c.respond(chained(s), "1")
        await c.respond(chained(s), "2")
        async with open_engine(db) as other:
            await (await other.get("ada")).respond(chained(s), "3")
        assert [body.get("previous_response_id") for body in s.bodies] == [None, "resp_0001", "resp_0002"]
