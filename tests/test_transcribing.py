"""Whole conversations as the APIs take them."""

import pytest

from everything_log import everything
from turnlog.engine.testing.judge import refusals
from turnlog.engine.transcribing import transcript

pytestmark = pytest.mark.anyio


async def test_a_transcript_is_taken_by_its_api_and_leaves_nothing_out(engine, api):
    c = await everything(engine)
    items = await transcript(engine.store, c.id, api)
    field = "messages" if api == "chat" else "input"
    assert refusals(api, {"model": "gpt-4o-mini", field: items, **({} if api == "chat" else {"store": False})}) == []
    said = [one["content"] for one in items if one.get("role") == "user" and isinstance(one["content"], str)]
    alive = [entry.item["content"] async for entry in c.items() if entry.item.get("role") == "user"]
    assert said == [one for one in alive if isinstance(one, str)]
    assert "Another way, then." in said[-1]
    assert not any("Question 23" in one for one in said)  # a rewind left it
