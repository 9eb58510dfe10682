"""Program 7 of what users need: what did it see in turn 12, and why was this missing."""

import pytest

from instant_model import Instant
from turnlog import Budget

pytestmark = pytest.mark.anyio


async def what(engine, chat: str, turn: int, message_seq: int) -> list[tuple]:
    c = await engine.get(chat)
    seen = []
    async for call in c.responses(turn=turn):
        v = call.manifest.why(message_seq)
        told = (call.model, call.backend, call.status, call.usage, call.digest, await call.request(), v.fate, v.rule)
        seen.append(told)
    return seen


async def test_a_message_that_was_missing_is_explained(engine, api):
    model = Instant(api, budget=Budget(1_000, 100))
    c = await engine.create(id="chat")
    for number in range(1, 14):
        await c.run(model, f"Question {number}: " + "and what of it? " * 20)
    turns = [turn.seq async for turn in c.turns()]
    ((name, backend, status, usage, digest, request, fate, rule),) = await what(engine, "chat", turns[11], turns[0])
    assert (name, backend, status, usage.requests, len(digest)) == ("gpt-4o-mini", "here", "completed", 1, 64)
    sent = [item["content"] for item in request["messages" if api == "chat" else "input"] if item["role"] == "user"]
    assert "Question 12" in sent[-1]
    assert not any("Question 1:" in text for text in sent)
    assert fate == "dropped"
    assert rule.startswith("oldest-turns@1: over ")
    assert (await what(engine, "chat", turns[11], turns[11]))[0][6:] == ("kept", "it fits")
