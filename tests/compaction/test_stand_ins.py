"""What stands for compacted events: for whom, in which form, and when it does so no more."""

import json

import pytest

from turnlog import Budget, open_engine
from turnlog.engine.compaction import stand_in_of
from turnlog.engine.events import StandIn
from turnlog.engine.portable import Package, dump, restore
from turnlog.engine.replay import verify
from turnlog.engine.summaries import HEADER
from turnlog.engine.testing.server import Call, Reason, Reply, Text
from turnlog.engine.window.budget import LIMITS

pytestmark = pytest.mark.anyio

LONG = "and then this happened, at some length, " * 12
PNG = "data:image/png;base64,iVBORw0KGgo="


def answers(turns=3):
    return [Reply(Reason("Hm"), Text(f"answer {number}: {LONG}")) for number in range(turns)]


async def told(s, api, turns=3):
    c = await s.engine.create()
    for number in range(turns):
        await c.respond(s.model(api), f"question {number}")
    return c


def texts(body):
    said = body["input" if "input" in body else "messages"]
    return [one.get("content", one.get("type")) for one in said]


# -- erased


async def rows(c):
    return [event async for event in c.events()]


@pytest.mark.parametrize("method", ["summary", "remote", "extract"])
async def test_of_what_is_erased_nothing_is_left(stage, method):
    """The compaction is void, its own calls are emptied, and windows start before it again."""
    secret = "The code is 4711."
    script = [Reply(Text(f"I see. {LONG}")), *answers(2), f"In short: {secret}", "Fine."]
    async with stage(*script[:3], *([] if method == "extract" else [script[3]]), script[4]) as s:
        c = await s.engine.create()
        await c.respond(s.model("responses"), secret)
        await c.respond(s.model("responses"), "question 1")
        await c.respond(s.model("responses"), "question 2")
        made = await c.compact(None if method == "extract" else s.model("responses"), method=method)
        assert (await c.window(Budget(10_000))).manifest.base == made.seq
        receipt = await c.erase(2, reason="asked to")
        assert f"{c.id}/{made.seq}" in receipt.derived
        assert secret not in str([(event.item, event.data) for event in await rows(c)])
        if method != "extract":
            assert len(receipt.derived) > 1
        window = await c.window(Budget(10_000))
        assert (window.manifest.base, window.items[1]["content"]) == (0, "question 1")
        assert (await c.respond(s.model("responses"), "And now?")).output_text == "Fine."
        # A new one can be made of what is left.
        again = await c.compact()
        assert again.seq > made.seq


async def test_so_it_is_of_attempts_that_came_to_nothing_and_of_later_ones(stage):
    secret = "The code is 4711."

    def answer(received):
        said = received.body["input"][-1]["content"]
        if not str(said).startswith("Sum up"):
            return f"Well. {LONG}"
        asked = len([one for one in received.body["input"] if "Sum up" in str(one)])
        assert asked == 1
        return f"In short: {secret} {'' if received.number % 2 else LONG * 8}"

    async with stage(answer) as s:
        c = await s.engine.create()
        model = s.model("responses")
        await c.respond(model, secret)
        for number in range(2):
            await c.respond(model, f"question {number}")
        for _ in range(2):  # the first is too long
            try:
                first = await c.compact(model, method="summary")
            except Exception:
                continue
        for number in range(3):
            await c.respond(model, f"more {number}")
        try:
            second = await c.compact(model, method="summary")
        except Exception:
            second = await c.compact(model, method="summary")
        assert second.seq > first.seq
        receipt = await c.erase(2, reason="asked to")
        assert {f"{c.id}/{first.seq}", f"{c.id}/{second.seq}"} <= set(receipt.derived)
        assert secret not in str([(event.item, event.data) for event in await rows(c)])


async def test_in_a_fork_too(stage):
    async with stage(*answers(), "In short: question 0.") as s:
        c = await told(s, "responses")
        twin = await c.fork()
        await twin.compact(s.model("responses"), method="summary")
        await c.erase(2, reason="asked to")
        assert "question 0" not in str([(event.item, event.data) for event in await rows(twin)])
        assert (await twin.window(Budget(10_000))).manifest.base == 0


# -- for whom


async def test_one_conversation_and_many_models(stage):
    """Opaque to its maker, readable to all others; back at its maker it is opaque again."""
    async with stage(*answers(), "what was said", "one", "two", "three", "four") as s:
        c = await told(s, "responses")
        await c.compact(s.model("responses"))
        for api, name, opaque in (
            ("responses", "gpt-4o-mini", True),
            ("chat", "gpt-4o-mini", False),
            ("responses", "gpt-4.1", False),
            ("responses", "gpt-4o-mini", True),
        ):
            await c.respond(s.model(api, name), "And now?")
            assert ("compaction" in texts(s.bodies[-1])) is opaque
            assert any("left out, but for" in str(text) for text in texts(s.bodies[-1])) is not opaque
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_a_model_that_the_stand_in_does_not_fit(stage, api):
    """What stands for much in a large window may be too much for a small one: there the events stand in."""
    summary = "In short: " + "this and that, " * 60
    async with stage(*answers(9), summary, "Small.", "Large.") as s:
        c = await told(s, api, 9)
        made = await c.compact(s.model(api), method="summary")
        await c.respond(s.model(api, budget=Budget(250)), "Be short")
        assert HEADER not in texts(s.bodies[10])
        await c.respond(s.model(api), "Be long")
        assert texts(s.bodies[11])[0] == HEADER
        calls = [call async for call in c.responses()]
        assert [call.manifest.base for call in calls[-2:]] == [0, made.seq]
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_another_counter(stage, api):
    """What is counted by a model's own tokenizer is: the stand-in too."""
    async with stage(*answers(), "In short.", "Fine.") as s:
        c = await told(s, api)
        await c.compact(s.model(api), method="summary")
        own = s.model(api, count=len, budget=Budget(20_000))
        plain = await c.window(model=s.model(api))
        window = await c.window(model=own)
        assert window.manifest.items > 3 * plain.manifest.items
        await c.respond(own, "And?")


async def test_what_is_pinned_is_in_front_once(stage):
    async with stage(*answers(), "what was said", "Fine.", "In short.", "Fine.") as s:
        c = await s.engine.create()
        await c.append({"role": "system", "content": "Be brief."})
        await c.append("My name is Ada.", pinned=True)
        for number in range(3):
            await c.respond(s.model("responses"), f"question {number}")
        for method in ("remote", "summary"):
            await c.compact(s.model("responses"), method=method)
            await c.respond(s.model("responses"), "Who am I?")
            assert texts(s.bodies[-1])[:2] == ["Be brief.", "My name is Ada."]
            assert str(s.bodies[-1]).count("My name is Ada.") == 1


async def test_images_and_large_texts(stage):
    """A user's message is quoted by reference, whatever it holds, in the form that the service gave it back in."""
    large = "word " * 40_000
    picture = [{"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": PNG}]
    async with stage(*answers(), "what was said", "Fine.") as s:
        c = await s.engine.create()
        for text in (large, {"role": "user", "content": picture}, "question 2"):
            await c.respond(s.model("responses", "gpt-4.1"), text)
        made = await c.compact(s.model("responses", "gpt-4.1"))
        (said,) = [event.data for event in await rows(c) if event.type == "context.compacted"]
        assert all("seq" in part for part in said["stand_in"])
        assert made.after < made.before
        await c.respond(s.model("responses", "gpt-4.1"), "And?")
        assert texts(s.bodies[-1])[0] == large
        assert texts(s.bodies[-1])[1] == picture
        assert len(json.dumps(said)) < 60_000
        assert (await verify(s.engine.store, c.id)).diverged == []


def test_what_a_service_gives_back_with_fields_of_no_value():
    given = {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}
    back = {
        "type": "message", "id": "msg_1", "role": "user", "status": "completed",
        "content": [{"type": "input_image", "image_url": PNG, "file_id": None, "detail": None}],
    }  # fmt: skip
    other = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "new"}]}
    opaque = {"type": "compaction", "encrypted_content": "x"}
    assert stand_in_of([back, other, opaque], [(7, given)], [21, 22, 23]) == [
        StandIn(seq=7), StandIn(seq=22), StandIn(seq=23),
    ]  # fmt: skip
    assert stand_in_of([back], [(7, given), (8, given)]) == [StandIn(seq=7)]


async def test_parameters_that_shape_answers_do_not_shape_a_summary(stage, api):
    """What is for the answers of the conversation is left out: a form, a choice of tools, the background."""
    form = {"type": "json_object"}
    forms = {"text": {"format": form}} if api == "responses" else {"response_format": form}
    params = {**forms, "tool_choice": "none", "temperature": 0.5}
    async with stage(*answers(), "In short.", "what was said") as s:
        c = await told(s, api)
        await c.compact(s.model(api, params=params), method="summary")
        assert s.bodies[3].keys().isdisjoint({"text", "response_format", "tool_choice"})
        assert s.bodies[3]["temperature"] == 0.5
        if api == "responses":
            more = {**params, "prompt_cache_key": "k", **dict.fromkeys(LIMITS[:1], 900), "background": True}
            await c.compact(s.model(api, params=more), method="remote")
            assert s.bodies[4].keys() == {"model", "input", "prompt_cache_key"}


async def test_tools_and_their_outputs_are_summed_up_in_pairs(stage, api):
    async def look(at: str) -> str:
        return f"seen {at}: {LONG * 8}"

    first = [Reply(Call("look", {"at": "a"}), Call("look", {"at": "b"})), "Seen.", "Hi."]
    async with stage(lambda received: [*first, *["Both were looked at."] * 9][received.number - 1]) as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Look", tools=[look])
        await c.respond(s.model(api), "Hello")
        # The judge of the server refuses a call without its output.
        await c.compact(s.model(api, budget=Budget(1200)), method="summary")
        assert str(s.bodies[3]).count("left out to fit") == 2
        await c.respond(s.model(api), "And?")
        assert (await verify(s.engine.store, c.id)).diverged == []


# -- elsewhere


@pytest.mark.parametrize("state", ["chained", "conversation"])
async def test_what_a_server_keeps_begins_anew(stage, state):
    """What stands in is sent whole, once; then only what is new again."""
    async with stage(*answers(), "what was said", "one", "two") as s:
        c = await s.engine.create()
        model = s.model("responses", state=state)
        for number in range(3):
            await c.respond(model, f"question {number}")
        assert len(s.bodies[2]["input"]) == 1
        await c.compact(model)
        assert texts(s.bodies[3])[0] == "question 0"
        await c.respond(model, "And?")
        assert "compaction" in texts(s.bodies[4])
        assert s.bodies[4].get("previous_response_id") is None
        await c.respond(model, "Go on")
        assert texts(s.bodies[5]) == ["Go on"]
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_it_travels(stage, tmp_path):
    """An export has the stand-in, what it was made by, and what it stands for."""
    async with stage(*answers(), "what was said", "Short.", "Fine.") as s:
        c = await told(s, "responses")
        await c.compact(s.model("responses"))
        await c.compact(s.model("responses"), method="summary")
        await c.undo_compaction()
        await c.respond(s.model("responses"), "And?")
        async with open_engine(tmp_path / "other.db") as other:
            lines = [json.loads(line) async for line, _ in dump(s.engine.store, c.id)]
            package = Package(lines[0])
            for line in lines[1:]:
                package.add(line)
            await restore(other.store, package)
            twin = await other.get(c.id)
            for model in (s.model("responses"), s.model("chat")):
                ours, theirs = await c.window(model=model), await twin.window(model=model)
                assert (ours.items, ours.tokens) == (theirs.items, theirs.tokens)
            assert (await verify(other.store, c.id)).verified == 6
            (mine,), (theirs,) = (await s.engine.list()).data, (await other.list()).data
            assert (mine.items, mine.last_item) == (theirs.items, theirs.last_item)
