"""Many conversations at once, each as if it were alone."""

from collections import Counter

import anyio
import pytest

from log_checks import whole_log
from turnlog.engine.testing.server import Call, Reply, Text

pytestmark = pytest.mark.anyio


async def look(at: str) -> str:
    await anyio.lowlevel.checkpoint()
    return f"seen {at}"


async def script(received):
    """Answer with a call, then with what its input was."""
    given = received.body["input" if received.api == "responses" else "messages"]
    asked = next(one["content"] for one in reversed(given) if one.get("role") == "user")
    if given[-1].get("type") == "function_call_output" or given[-1].get("role") == "tool":
        return f"Done: {asked}"
    return Reply(Text("Let me see."), Call("look", {"at": asked}))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [100, 1000])
async def test_conversations_at_once(stage, number, long, monkeypatch):
    """Each conversation has two turns with a tool, beside all others; now and then somebody appends to it meanwhile."""
    if number == 1000 and not long:
        pytest.skip("a thousand take a minute; they run with --long")
    if number == 100:
        monkeypatch.setattr("turnlog.engine.reader._LIVE", 10)  # as with a thousand: fewer than there are
    async with stage(script) as s:

        async def talk(index):
            c = await s.engine.create(id=f"c{index}")
            model = s.model(("responses", "chat")[index % 2])
            for turn in range(2):
                if index % 5 == 0:
                    await c.append(f"By the way, {index}")
                result = await c.run(model, f"{index}.{turn}", tools=[look], key=str(turn))
                assert result.output_text == f"Done: {index}.{turn}"

        async with anyio.create_task_group() as group:
            for index in range(number):
                group.start_soon(talk, index)

        for index in range(number):
            c = await s.engine.get(f"c{index}")
            events = await whole_log(c)
            texts = Counter(event.item["content"] for event in events if (event.item or {}).get("role") == "user")
            expected = {f"{index}.0": 1, f"{index}.1": 1}
            assert texts == (expected if index % 5 else {**expected, f"By the way, {index}": 2})
        assert len(s.bodies) == 4 * number
