"""Compacting by hand: four ways, what windows are like afterwards, and that nothing is lost."""

import pytest

from turnlog import Budget, Conflict, Invalid
from turnlog.engine.errors import VersionConflict
from turnlog.engine.replay import verify
from turnlog.engine.summaries import HEADER
from turnlog.engine.testing.server import Reason, Reply, Text

pytestmark = pytest.mark.anyio

LONG = "and then this happened, at some length, " * 12


def spoken(body):
    """Return what a request sent, in brief: a message by its text, everything else by its type."""
    brief = []
    for item in body["input" if "input" in body else "messages"]:
        content = item.get("content", item.get("type"))
        if isinstance(content, list):
            content = "".join(part.get("text", part["type"]) for part in content)
        brief.append(content if isinstance(content, str) else item.get("type", item.get("role")))
    return brief


async def told(s, api, turns=3, **options):
    """Return a conversation of a few turns, the texts of which can be told apart."""
    c = await s.engine.create()
    for number in range(turns):
        await c.respond(s.model(api, **options), f"question {number}")
    return c


def answers(turns=3):
    return [Reply(Reason("Hm"), Text(f"answer {number}: {LONG}")) for number in range(turns)]


async def seen(s, c):
    """Return what a person sees of a conversation."""
    (info,) = (await s.engine.list()).data
    return [entry.item async for entry in c.items()], info.last_item, info.updated, info.busy


async def test_before_the_first_request_windows_are_for_the_model_that_compacted(stage, api):
    async with stage("In short: much happened.") as s:
        c = await s.engine.create()
        for number in range(20):
            await c.append(f"{number}: {LONG}", {"role": "assistant", "content": LONG})
            if number == 5:
                await c.compact(s.model(api, "gpt-4.1-mini"), method="summary")
        live = await c.window(Budget(600), api=api)
        s.engine.reader.forget(c.id)
        # So little of the log is read that the compaction's own request is not.
        cold = await c.window(Budget(600), api=api)
        assert live.target.model == cold.target.model == "gpt-4.1-mini"
        assert live.manifest == cold.manifest


async def test_a_summary(stage, api):
    async with stage(*answers(), "In short: much happened.", "Here we are.") as s:
        c = await told(s, api)
        before = await c.window(Budget(100_000), api=api)
        transcript = await seen(s, c)
        made = await c.compact(s.model(api, "gpt-4.1-mini"), method="summary")
        assert (made.method, made.covered[0], c.version) == ("summary", 1, made.seq)
        assert made.after < made.before // 2
        assert spoken(s.bodies[3])[:2] == ["question 0", f"answer 0: {LONG}"]
        assert spoken(s.bodies[3])[-1].startswith("Sum up the conversation above.")
        assert s.bodies[3]["model"] == "gpt-4.1-mini"
        # A person still sees every message, and nothing else.
        assert await seen(s, c) == transcript
        window = await c.window(Budget(100_000), api=api)
        assert window.tokens.total < before.tokens.total
        await c.respond(s.model(api), "Where were we?")
        assert spoken(s.bodies[4])[:3] == [HEADER, "In short: much happened.", "question 2"]
        assert spoken(s.bodies[4])[-1] == "Where were we?"


async def test_a_summary_is_a_call_like_others(stage, api):
    async with stage(*answers(), "In short: much happened.", "Here we are.") as s:
        c = await told(s, api)
        await c.compact(s.model(api, "gpt-4.1-mini"), method="summary")
        await c.respond(s.model(api), "Where were we?")
        calls = [call async for call in c.responses()]
        assert [call.purpose for call in calls] == ["answer"] * 3 + ["compaction", "answer"]
        assert (await c.usage()).requests == 5
        assert calls[-1].manifest.why(2).fate == "compacted"
        report = await verify(s.engine.store, c.id)
        assert (report.verified, report.diverged) == (5, [])


async def test_by_the_models_own_service(stage):
    async with stage(*answers(), "what was said", "Here we are.", "There you are.") as s:
        c = await told(s, "responses")
        made = await c.compact(s.model("responses"), instructions="Be brief.")
        assert (made.method, s.server.requests[3].path) == ("remote", "/v1/responses/compact")
        assert s.bodies[3].keys() == {"model", "input", "instructions"}
        await c.respond(s.model("responses"), "Where were we?", instructions="Be brief.")
        kinds = [item.get("type", item.get("role")) for item in s.bodies[4]["input"]]
        assert kinds[:3] == ["user", "user", "compaction"]
        assert spoken(s.bodies[4])[:2] == ["question 0", "question 1"]
        # Whoever did not make it gets something readable instead.
        await c.respond(s.model("chat"), "And now?")
        assert "compaction" not in str(s.bodies[5])
        assert "encrypted" not in str(s.bodies[5])
        assert spoken(s.bodies[5])[0].startswith("[What was said up to here is left out")
        assert "question 1" in spoken(s.bodies[5])
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_an_extract(stage, api):
    async with stage(*answers(6), "Here we are.") as s:
        c = await told(s, api, 6)
        made = await c.compact()
        assert (made.method, len(s.bodies)) == ("extract", 6)
        assert made.after < made.before
        await c.respond(s.model(api), "Where were we?")
        sent = spoken(s.bodies[6])
        assert sent[0].startswith("[What was said up to here is left out, but for")
        assert "question 4" in sent
        assert sent[-1] == "Where were we?"
        assert sent.index("question 5") < sent.index(f"answer 5: {LONG}")


async def test_what_cannot_be_asked_for(stage, api):
    async with stage(*answers(1)) as s:
        c = await told(s, api, 1)
        before = c.version
        with pytest.raises(Invalid, match="a model is needed"):
            await c.compact(method="summary")
        with pytest.raises(Invalid, match="no model has no service"):
            await c.compact(method="remote")
        with pytest.raises(Invalid, match="gpt-4o-mini has no service"):
            await c.compact(s.model("chat"), method="remote")
        with pytest.raises(Invalid, match="method="):
            await c.compact(method="zip")
        with pytest.raises(VersionConflict):
            await c.compact(method="extract", expected=before - 1)
        empty = await s.engine.create()
        with pytest.raises(Conflict, match="nothing to compact"):
            await empty.compact()
        assert (await c.refresh()).version == before


async def test_undone(stage, api):
    async with stage(*answers(), "In short: much.", "Back.", "Again short.", "Fine.") as s:
        c = await told(s, api)
        whole = await c.window(Budget(100_000), api=api)
        made = await c.compact(s.model(api), method="summary", expected=c.version)
        with pytest.raises(Invalid, match="3 is no compaction that counts"):
            await c.undo_compaction(3)
        await c.undo_compaction(made.seq)
        assert (await c.window(Budget(100_000), api=api)).items == whole.items
        with pytest.raises(Invalid, match="windows start from none"):
            await c.undo_compaction()
        await c.respond(s.model(api), "Where were we?")
        assert len(spoken(s.bodies[4])) >= 7
        again = await c.compact(s.model(api), method="summary")
        await c.rewind(to=again.seq - 1)
        assert (await c.window(Budget(100_000), api=api)).manifest.base == 0
        await c.rewind(to=again.seq)
        assert (await c.window(Budget(100_000), api=api)).manifest.base == again.seq


async def test_again_with_another_method(stage):
    """What nothing new has come to is made again, from the events."""
    async with stage(*answers(), "In short: much.", "what was said", "Fine.") as s:
        c = await told(s, "responses")
        first = await c.compact(s.model("responses"), method="summary")
        second = await c.compact(s.model("responses"), method="remote")
        assert (second.covered, second.before) == (first.covered, first.before)
        assert "In short" not in str(s.bodies[4])
        assert f"answer 1: {LONG}" in spoken(s.bodies[4])
        third = await c.compact(method="extract")
        assert (third.covered, third.before) == (first.covered, first.before)
        await c.undo_compaction()
        await c.respond(s.model("responses"), "Where were we?")
        assert "compaction" in spoken(s.bodies[5])


async def test_one_after_another(stage, api):
    """A later one takes the stand-in of the one before along."""
    async with stage(*answers(), "First summary.", *answers(3), "Second summary.", "Fine.") as s:
        c = await told(s, api)
        first = await c.compact(s.model(api), method="summary")
        for number in range(3):
            await c.respond(s.model(api), f"more {number}")
        second = await c.compact(s.model(api), method="summary")
        asked = spoken(s.bodies[7])
        assert asked[:3] == [HEADER, "First summary.", "question 2"]
        assert second.covered[1] > first.covered[1]
        await c.respond(s.model(api), "Where were we?")
        assert spoken(s.bodies[8])[:2] == [HEADER, "Second summary."]
        assert "First summary." not in str(s.bodies[8])
        assert (await verify(s.engine.store, c.id)).diverged == []


async def test_what_there_was_before_is_what_a_window_held(stage, api):
    """Also where the last answer of a model is compacted, and only the caller has said something since."""
    async with stage(*answers()) as s:
        c = await told(s, api)
        for _ in range(2):
            for number in range(8):
                await c.append(f"asked {number}: {LONG}", {"role": "assistant", "content": LONG})
            held = (await c.window(model=s.model(api))).manifest.items
            made = await c.compact(s.model(api), method="extract")
            assert made.before == held


async def test_in_parts(stage, api):
    """A model whose window is smaller than what it is to sum up gets it part by part."""
    script = [*answers(8), "Part one.", "Parts one and two.", "All of it.", "Fine."]

    def answer(received):
        number = received.number - 1
        return script[number] if number < 8 else f"Summary {number - 7}."

    async with stage(answer) as s:
        c = await told(s, api, 8)
        made = await c.compact(s.model(api, budget=Budget(900)), method="summary")
        asked = [spoken(body) for body in s.bodies[8:]]
        assert len(asked) >= 3
        assert "Summary 1." in asked[1][-1]
        assert f"Summary {len(asked) - 1}." in asked[-1][-1]
        questions = [text for body in asked for text in body if text.startswith("question")]
        assert questions == [f"question {number}" for number in range(len(questions))]
        assert made.after < made.before
        await c.respond(s.model(api), "Where were we?")
        assert spoken(s.bodies[-1])[1] == f"Summary {len(asked)}."
        assert (await verify(s.engine.store, c.id)).diverged == []
