"""One conversation between the two APIs, several models and backends, and back: each gets what is its own and fits."""

import re

import pytest

from turnlog import Budget
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Reason, Reply, Text

pytestmark = pytest.mark.anyio

LONG_ID = "codex_mcp__google_calendar.search_events_exec-" + "0" * 40
"""Longer than either API takes."""
TELLING = "and then this happened, at some length, " * 6


async def look() -> str:
    """Look."""
    return "blue"


def horses(s):
    """Return models by name: of both APIs, of two backends, and a small one that has to cut."""
    return {
        "mini": s.model("responses"),
        "chat": s.model("chat"),
        "other": s.model("responses", name="gpt-4.1"),
        "elsewhere": s.model("responses", backend="elsewhere"),
        "mistral": ChatCompletions(s.client, "mistral-small", traits="mistral", budget=Budget(20_000)),
        "small": s.model("chat", name="gpt-4o", budget=Budget(300)),
    }


RIDE = ("mini", "chat", "other", "mistral", "elsewhere", "small", "mini", "chat")
THINKING = ("mini", "other", "elsewhere")
"""Those whose answers hold encrypted reasoning."""


def script():
    """Return an answer with a call to each first request of a turn, and one in words to each second."""
    said = []
    for number, horse in enumerate(RIDE):
        name = f"{LONG_ID}{number}"
        thoughts = [Reason(f"thought {number}")] if horse in THINKING else []
        said += [Reply(*thoughts, Call("look", id=name)), Text(f"answer {number}: {TELLING}")]
    return said


def secrets(body):
    """Return the encrypted content that a body carries."""
    return re.findall(r"'encrypted_content': '([^']+)'", str(body))


def names(body):
    """Return the ids that the items of a body have."""
    return {item["id"] for item in body.get("input", ()) if "id" in item}


def calls(body):
    """Return the ids of a body's calls, and of its outputs, in order."""
    if "input" in body:
        found = [(item["type"], item["call_id"]) for item in body["input"] if "call_id" in item]
        made = [name for kind, name in found if kind == "function_call"]
        return made, [name for kind, name in found if kind == "function_call_output"]
    made = [call["id"] for message in body["messages"] for call in message.get("tool_calls", ())]
    return made, [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]


def longest(horse):
    return {"mistral": 9, "chat": 40, "small": 40}.get(horse, 64)


async def logged(c):
    return [event async for event in c.events()]


class Rider:
    """What each horse and each backend was given so far."""

    def __init__(self, models):
        self.models = models
        self.secrets = {horse: [] for horse in models}
        self.kept, self.given = {horse: set() for horse in models}, {model.backend: set() for model in models.values()}

    def check_secrets(self, horse, items, asked, told):
        """Its maker's, whole and in order; nobody else's."""
        new = [item["encrypted_content"] for item in items if item.get("encrypted_content")]
        assert len(new) == (horse in THINKING)
        assert secrets(asked) == self.secrets[horse]
        assert secrets(told) == self.secrets[horse] + new
        self.secrets[horse] += new

    def check_names(self, horse, items, asked):
        """None but those that its backend gave, and of its own all."""
        everybodys = self.given[self.models[horse].backend]
        assert self.kept[horse] <= names(asked) <= everybodys
        new = {item["id"] for item in items if "id" in item and horse in THINKING}
        self.kept[horse] |= new
        everybodys |= new


def check_calls(horse, turns, told):
    """Each is there with its output, under a name that is its own and that the API takes."""
    made, outputs = calls(told)
    assert made == outputs
    assert len(set(made)) == len(made)
    assert all(0 < len(name) <= longest(horse) for name in made)
    assert len(made) == turns or horse == "small"


async def test_every_horse_gets_what_is_its_own_and_the_log_stays_as_it_was(stage):
    async with stage(*script()) as s:
        c, rider = await s.engine.create(id="ada"), Rider(horses(s))
        for number, horse in enumerate(RIDE):
            before = await logged(c)
            result = await c.run(rider.models[horse], f"question {number}", tools=[look])
            assert result.output_text.startswith(f"answer {number}")
            assert (await logged(c))[: len(before)] == before
            asked, told = s.bodies[-2:]
            rider.check_secrets(horse, result.items, asked, told)
            rider.check_names(horse, result.items, asked)
            check_calls(horse, number + 1, told)
        called = [entry.item["call_id"] async for entry in c.items() if entry.item.get("type") == "function_call"]
        assert called == [f"{LONG_ID}{number}" for number in range(len(RIDE))]
        # What the small one has to leave out is there for the next.
        cut = [call.manifest.cut > 0 async for call in c.responses()]
        assert cut == [horse == "small" for horse in RIDE for _ in range(2)]
        assert ["question 0" in str(body) for body in s.bodies] == [not one for one in cut]
        assert (await verify(s.engine.store, c.id)).verified == 2 * len(RIDE)


async def test_a_call_beside_the_conversation_may_be_anybodys(stage):
    """What it says changes nothing for the others."""
    async with stage(Reply(Reason("why"), Text("One.")), "A title.", "Two.") as s:
        c, models = await s.engine.create(id="ada"), horses(s)
        await c.respond(models["mini"], "1")
        aside = await c.respond(models["mistral"], "Give this a title.", aside=True)
        assert aside.output_text == "A title."
        await c.respond(models["mini"], "2")
        assert secrets(s.bodies[1]) == []
        assert len(secrets(s.bodies[2])) == 1
        assert "title" not in str(s.bodies[2])
        assert [entry.item.get("role") async for entry in c.items() if "role" in entry.item] == [
            *("user", "assistant", "user", "assistant")
        ]
        assert (await verify(s.engine.store, c.id)).verified == 3


async def test_what_one_horse_cannot_take_is_not_kept_from_the_next(stage):
    """Items are remembered as they were written, for all windows of one API."""
    async with stage() as s:
        c, models = await s.engine.create(id="ada"), horses(s)
        await c.append("Hi", {"role": "assistant", "content": "Looking.", "phase": "commentary"}, "Go on")
        strange = s.model("responses", name="llama-3", backend="elsewhere", budget=Budget(8_000))
        phases = [
            [item.get("phase") for item in (await c.window(model=model)).items]
            for model in (strange, strange, models["mini"], strange, models["mini"])
        ]
        unknown, known = [None] * 3, [None, "commentary", None]
        assert phases == [unknown, unknown, known, unknown, known]
