"""What is tried once, by itself, when a request is refused: a shorter window, or one without what cannot be read."""

import pytest

from turnlog import Budget, BudgetExceeded, ResponseFailed
from turnlog.engine.codec import event
from turnlog.engine.events import ContextCompacted, Origin, StandIn
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Fail, Item, Raw, Reason, Reply

pytestmark = pytest.mark.anyio

TOO_LONG = Fail(400, code="context_length_exceeded", message="Your input exceeds the context window of this model.")
SAID_OTHERWISE = {
    "code": TOO_LONG,
    "words": Fail(400, message="This model's maximum context length is 900 tokens. You requested 1200 tokens."),
    "number": Raw(
        b'{"error": {"message": "the context window is 900 tokens", "type": "BadRequestError", "code": 400}}',
        status=400,
        content_type="application/json",
    ),
    "in the answer": Reply(status="failed", error={"code": "context_length_exceeded", "message": "too long"}),
}
UNREADABLE = Fail(400, code="invalid_encrypted_content", message="The encrypted content could not be verified.")


def given(body):
    return body.get("input", body.get("messages"))


async def filled(s, turns=12, **options):
    """A conversation of some turns."""
    c = await s.engine.create()
    for number in range(turns):
        await c.append(f"Question {number} " + "and " * 40, {"role": "assistant", "content": "word " * 40})
    return c


async def requests(c):
    return [one async for one in c.responses()]


async def ends(c):
    kinds = ("response.completed", "response.failed")
    return [(one.type, one.data.get("code")) async for one in c.events() if one.type in kinds]


# -- too long


@pytest.mark.parametrize("refusal", SAID_OTHERWISE.values(), ids=SAID_OTHERWISE)
async def test_a_window_that_the_server_finds_too_long_is_tightened_once(stage, api, refusal):
    if api == "chat" and isinstance(refusal, Reply):
        refusal = Fail(413, message="prompt is too long")
    async with stage(refusal, "Done.", "And again.") as s:
        c = await filled(s)
        assert (await c.respond(s.model(api), "Go on")).output_text == "Done."
        assert await ends(c) == [("response.failed", "context_length_exceeded"), ("response.completed", None)]
        long, short = await requests(c)
        assert len(given(s.bodies[1])) < len(given(s.bodies[0]))
        assert short.manifest.tokens <= long.manifest.tokens * 3 // 4
        assert short.manifest.refused == long.manifest.items + long.manifest.overhead
        assert "cut to" in short.manifest.why(2).rule
        events = [one async for one in c.events() if one.type == "response.requested"]
        assert events[1].data["retry_of"] == events[0].seq
        # What the server takes is remembered.
        await c.respond(s.model(api), "More")
        assert (await requests(c))[2].manifest.cut == short.manifest.cut
        assert (await verify(s.engine.store, c.id)).verified == 3


async def test_windows_stay_below_what_was_refused(stage, api):
    """The budget is wrong: the server takes a quarter of it. It is asked for too much once, not again and again."""
    async with stage(
        lambda _: "word " * 40, windows={"gpt-4o-mini": 1000}, count=lambda t: len(t) // 4, refused=1
    ) as s:
        c = await s.engine.create()
        budget = Budget(4000)
        for number in range(24):
            await c.respond(s.model(api, budget=budget), f"Question {number} " + "and " * 40)
        codes = [code for _, code in await ends(c) if code]
        assert codes == ["context_length_exceeded"]


async def test_what_cannot_be_tightened_fails(stage, api):
    async with stage(TOO_LONG, "Done.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model(api), "A long question " * 100)
        assert (raised.value.code, raised.value.retryable) == ("context_length_exceeded", False)
        assert await ends(c) == [("response.failed", "context_length_exceeded")]
        assert len(s.bodies) == 1
        assert (await c.respond(s.model(api))).output_text == "Done."


async def test_what_does_not_fit_below_what_was_refused_is_told_with_that_figure(stage, api):
    async with stage(TOO_LONG, "Done.", "Done.") as s:
        c = await filled(s)
        await c.respond(s.model(api), "Go on")
        refused = (await requests(c))[-1].manifest.refused
        await c.append("rule " * 2000, pinned=True)
        with pytest.raises(BudgetExceeded, match=f"the server has refused {refused:,}") as raised:
            await c.respond(s.model(api), "And on")
        assert raised.value.available < refused < raised.value.needed
        larger = s.model(api, budget=Budget(50_000))
        assert (await c.respond(larger, "And on")).output_text == "Done."


async def test_it_is_tightened_once_a_request(stage, api):
    async with stage(TOO_LONG, TOO_LONG, "Done.") as s:
        c = await filled(s)
        with pytest.raises(ResponseFailed):
            await c.respond(s.model(api), "Go on")
        assert len(s.bodies) == 2
        await c.respond(s.model(api))
        assert len(given(s.bodies[2])) == len(given(s.bodies[1]))


async def test_rounds_of_a_turn_are_tightened_each(stage, api):
    async def look() -> str:
        return "blue"

    async with stage(TOO_LONG, Call("look"), TOO_LONG, "Blue.") as s:
        c = await filled(s, turns=30)
        result = await c.run(s.model(api), "Look", tools=[look], max_rounds=2, key="look")
        assert (result.output_text, result.status) == ("Blue.", "completed")
        again = await c.run(s.model(api), "Look", tools=[look], key="look")
        assert again.replayed
        assert (again.items, again.usage) == (result.items, result.usage)


async def test_an_answer_that_has_begun_is_not_asked_for_again(stage, api):
    begun = Reply("Half an answer", status="failed", error={"code": "context_length_exceeded", "message": "No"})
    async with stage(begun) as s:
        c = await filled(s)
        with pytest.raises(ResponseFailed):
            await c.respond(s.model(api), "Go on")
        assert len(s.bodies) == 1


# -- unreadable


def secrets(body):
    return [item["type"] for item in body["input"] if item.get("encrypted_content")]


@pytest.mark.parametrize(
    "refusal",
    [UNREADABLE, Fail(400, message="The encrypted content gAAA... could not be verified. Reason: wrong organisation.")],
    ids=["code", "words"],
)
async def test_encrypted_content_that_its_maker_refuses_is_left_out_once(stage, refusal):
    async with stage(Reply(Reason("why"), "One."), refusal, Reply(Reason("so"), "Two."), "Three.") as s:
        c = await s.engine.create()
        for text in ("1", "2", "3"):
            await c.respond(s.model("responses"), text)
        # The later reasoning goes back; the one that was refused does not, for good.
        assert [len(secrets(body)) for body in s.bodies] == [0, 1, 0, 1]
        third = (await requests(c))[2]
        verdicts = {verdict.rule for verdict in (third.manifest.why(seq) for seq in range(1, third.manifest.as_of + 1))}
        assert "its maker has refused to read this reasoning" in verdicts
        assert await ends(c) == [
            ("response.completed", None),
            ("response.failed", "invalid_encrypted_content"),
            ("response.completed", None),
            ("response.completed", None),
        ]
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_without_encrypted_content_there_is_nothing_to_leave_out(stage):
    async with stage(UNREADABLE) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model("responses"), "Hi")
        assert raised.value.code == "invalid_encrypted_content"


async def compacted(s, c, model):
    """Put a compaction with opaque content into the log."""
    head, _ = await s.engine.reader.fresh(c.id)
    origin = Origin("responses", model.backend, model.name)
    said = ContextCompacted(
        first=1,
        last=head.version,
        method="remote",
        origin=origin,
        stand_in=[StandIn(item={"type": "compaction", "id": "cmp_1", "encrypted_content": "opaque"})],
    )
    await s.engine.writer.append(c.id, [event(said, response=None, tokens=10)])
    await c.refresh()


async def test_for_a_compaction_that_its_maker_refuses_the_covered_events_stand_in(stage):
    async with stage(UNREADABLE, "Done.", "More.") as s:
        c = await filled(s, turns=2)
        model = s.model("responses")
        await compacted(s, c, model)
        assert (await c.respond(model, "Go on")).output_text == "Done."
        assert [len(secrets(body)) for body in s.bodies] == [1, 0]
        assert [len(body["input"]) for body in s.bodies] == [2, 5]
        assert "compaction.undone" in await s.kinds(c)
        await c.respond(model, "More")
        assert len(s.bodies[2]["input"]) == 7
        assert (await verify(s.engine.store, c.id)).verified == 3


async def test_reasoning_goes_before_a_compaction_does(stage):
    async with stage(Reply(Reason("why"), "One."), UNREADABLE, UNREADABLE, "Two.") as s:
        c = await filled(s, turns=2)
        model = s.model("responses")
        await compacted(s, c, model)
        await c.respond(model, "1")
        assert (await c.respond(model, "2")).output_text == "Two."
        assert [secrets(body) for body in s.bodies] == [["compaction"], ["compaction", "reasoning"], ["compaction"], []]


async def test_a_stream_tells_of_it(stage, api):
    async with stage(TOO_LONG, "Done.") as s:
        c = await filled(s)
        async with c.stream(s.model(api), "Go on") as stream:
            seen = [one async for one in stream]
            assert (await stream.result()).output_text == "Done."
        assert [(one.raw["way"], one.raw["retry_of"]) for one in seen if one.type == "turnlog.response.retried"] == [
            ("shorter", (await requests(c))[0].seq)
        ]


@pytest.mark.parametrize("state", ["chained", "conversation"])
async def test_encrypted_content_that_the_server_holds_is_left_behind_with_all_that_it_holds(stage, state):
    """Another model cannot read what the first one thought, which is at the server and in no request."""

    def answer(received):
        return UNREADABLE if received.body["model"] == "gpt-4.1" and received.context else Reply(Reason("why"), "Yes.")

    async with stage(answer) as s:
        c = await s.engine.create()
        first, second = (s.model("responses", name, state=state) for name in ("gpt-4o-mini", "gpt-4.1"))
        await c.respond(first, "1")
        assert (await c.respond(second, "2")).output_text == "Yes."
        assert [len(body["input"]) for body in s.bodies] == [1, 1, 3]
        field = {"chained": "previous_response_id", "conversation": "conversation"}[state]
        _, refused, again = (body.get(field) for body in s.bodies)
        assert again == {"chained": None, "conversation": "conv_0002"}[state] != refused
        requested = [one async for one in c.events() if one.type == "response.requested"]
        assert requested[2].data["retry_of"] == requested[1].seq
        # From there on it goes on.
        await c.respond(first, "3")
        assert [(len(body["input"]), bool(body.get(field))) for body in s.bodies[3:]] == [(1, True)]
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_what_is_refused_in_every_way_fails(stage):
    async with stage(Reply(Reason("why"), "One."), UNREADABLE, UNREADABLE, UNREADABLE, "Two.") as s:
        c = await s.engine.create()
        model = s.model("responses", state="chained")
        await c.respond(model, "1")
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(model, "2")
        assert raised.value.code == "invalid_encrypted_content"
        assert [len(body["input"]) for body in s.bodies] == [1, 1, 4, 3]
        assert [body.get("previous_response_id") for body in s.bodies] == [None, "resp_0001", None, None]
        assert (await c.respond(model)).output_text == "Two."


# -- ids

GONE = Fail(
    404, message="Item with id 'rs_x' not found. Items are not persisted when `store` is set to false. Remove it."
)


async def test_items_that_the_server_does_not_find_go_without_ids(stage):
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    async with stage(Reply(Reason("why"), Item(search), "One."), "Two.", GONE, "Three.", Reply("Four."), "Five.") as s:
        c = await s.engine.create()
        for text in ("1", "2", "3", "4", "5"):
            await c.respond(s.model("responses"), text)
        assert await ends(c) == [
            ("response.completed", None),
            ("response.completed", None),
            ("response.failed", "item_not_found"),
            ("response.completed", None),
            ("response.completed", None),
            ("response.completed", None),
        ]
        named = [[item["id"] for item in body["input"] if "id" in item] for body in s.bodies]
        assert [len(ids) for ids in named] == [0, 3, 4, 0, 1, 2]
        requested = [one async for one in c.events() if one.type == "response.requested"]
        assert requested[3].data["retry_of"] == requested[2].seq
        fourth = (await requests(c))[3].manifest
        assert [one["content"] for one in s.bodies[3]["input"]] == ["1", "One.", "2", "Two.", "3"]
        rules = {fourth.why(seq).rule for seq in range(1, fourth.as_of + 1)}
        assert "the server does not find it under its id, and takes it only with one" in rules
        assert (await verify(s.engine.store, c.id)).verified == 6


async def test_without_ids_there_is_nothing_to_go_without(stage):
    async with stage(GONE) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model("responses"), "Hi")
        assert raised.value.code == "item_not_found"
        assert len(s.bodies) == 1


# -- items that the server refuses


def unfit(index, code="invalid_value", status=400, **more):
    return Fail(status, code=code, param=f"input[{index}].type", message="Invalid value.", **more)


async def test_what_a_model_said_and_the_server_refuses_is_left_out_once(stage):
    strange = {"type": "hologram_call", "id": "holo_1", "beam": 1}
    async with stage(Reply("Look", Item(strange), "there."), "ok", "fine", refused=1) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        assert (await c.respond(s.model("responses"), "2")).output_text == "ok"
        assert strange in s.bodies[1]["input"]
        assert [item.get("type") for item in s.bodies[2]["input"]] == [None, "message", "message", None]
        await c.respond(s.model("responses"), "3")
        assert await ends(c) == [
            ("response.completed", None),
            ("response.failed", "invalid_value"),
            ("response.completed", None),
            ("response.completed", None),
        ]
        manifest = (await requests(c))[-1].manifest
        (seq,) = manifest.unfit
        assert manifest.why(seq).rule == "the server has refused it"
        assert [one.data["param"] async for one in c.events() if one.type == "response.failed"] == ["input[2].type"]
        assert strange in [one.item async for one in c.events()]
        assert (await verify(s.engine.store, c.id)).verified == 4


async def test_a_place_that_is_none_is_not_logged(stage):
    async with stage(Fail(400, code="invalid_value", param="input[0] says: my secret")) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await c.respond(s.model("responses"), "1")
        assert [one.data.get("param") async for one in c.events() if one.type == "response.failed"] == [None]


async def test_several_that_the_server_refuses_are_left_out_one_after_another(stage):
    strange = [Item({"type": f"hologram_{n}", "id": f"holo_{n}"}) for n in range(3)]
    async with stage(Reply(*strange, "there."), "ok", refused=3) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        assert (await c.respond(s.model("responses"), "2")).output_text == "ok"


async def test_what_a_caller_said_is_never_left_out_by_itself(stage):
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": "no such thing", "detail": "auto"}]}
    async with stage("One.", unfit(2)) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        with pytest.raises(ResponseFailed):
            await c.respond(s.model("responses"), picture)
        assert len(s.bodies) == 2


async def test_a_refusal_that_names_what_is_not_there_is_none_of_an_item(stage):
    async with stage("One.", unfit(9)) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), "1")
        with pytest.raises(ResponseFailed):
            await c.respond(s.model("responses"), "2")
        assert len(s.bodies) == 2
