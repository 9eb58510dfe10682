"""What docs/state.md shows runs, block by block, as a newcomer would run it, against the scripted server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from turnlog.adapters.chat_traits import TRAITS
from turnlog.engine.errors import ResponseFailed
from turnlog.engine.testing.server import Call, Fail, Reply, scripted_server

PAGE = Path(__file__).resolve().parents[1] / "docs" / "state.md"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(os.environ.get("TURNLOG_WHEEL")), reason="the page is not beside the wheel"),
]


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


async def run(number, script, folder):
    """Run a block; return what it says, and the server."""
    async with scripted_server(script) as server:
        known = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": server.base_url, "NO_PROXY": "*"}
        command, environment = [sys.executable, "-c", blocks()[number]], {**os.environ, **known}
        told = await anyio.run_process(command, cwd=folder, env=environment, stderr=subprocess.STDOUT, check=False)
    assert told.returncode == 0, told.stdout.decode()
    assert not server.refused
    return told.stdout.decode().splitlines(), server


def sent(server):
    """Return how many items each request has carried."""
    return [len(request.body.get("input", request.body.get("messages", ()))) for request in server.requests]


async def test_states_are_switched_and_what_is_gone_is_sent_whole(tmp_path):
    told, server = await run(0, lambda received: f"answer {received.number}", tmp_path)
    assert sent(server)[:3] == [1, 3, 1]
    assert sent(server)[-3:] == [7, 9, 11]
    calls = [line.split() for line in told]
    failed = [call for call in calls if call[1] == "failed"]
    assert len(failed) == 1
    assert calls[4][1:] == ["completed", failed[0][0]]


async def test_a_conversation_at_the_server(tmp_path):
    told, _ = await run(1, [], tmp_path)
    assert told == ["1 pushed", "3 imported", "3 deleted"]


async def test_streams_and_the_background(tmp_path):
    told, server = await run(2, ["Once upon a time.", "It is 42."], tmp_path)
    assert told == ["Once upon a time.", "It is 42."]
    assert len(server.requests) == 2


async def test_tools_that_wait_and_tools_that_do_not(tmp_path):
    calls = Reply(
        Call("refund", {"order": "A1", "amount": 200}, id="r"), Call("photo", {"order": "A1"}), Call("ask_user", {})
    )
    told, server = await run(3, [calls, "It is done."], tmp_path)
    assert told == ["[('refund', 'approved')]", "completed It is done."]
    declared = {tool["name"]: tool for tool in server.requests[0].body["tools"]}
    assert declared["refund"]["description"] == "Pay an order back."
    assert declared["refund"]["parameters"]["properties"]["order"]["description"] == "its number, as on the bill."
    outputs = [item["output"] for item in server.requests[1].body["input"] if item.get("output")]
    assert any(isinstance(output, list) and output[1]["type"] == "input_image" for output in outputs)
    assert any('"paid_by":"test"' in output for output in outputs)


async def test_compactions(tmp_path):
    told, server = await run(4, ["opaque", "Numbered questions were asked and answered."], tmp_path)
    assert [line.split()[0] for line in told] == ["remote", "summary", "extract", "16"]
    assert all(line.endswith("True") for line in told[:3])
    assert [request.path for request in server.requests] == ["/v1/responses/compact", "/v1/responses"]


async def test_asides_and_other_backends(tmp_path):
    told, server = await run(5, ["A list that grows.", "On logs, in brief"], tmp_path)
    assert told == ["{'title': 'On logs, in brief'} 2"]
    assert sent(server) == [1, 3]


async def test_faults(tmp_path):
    told, _ = await run(6, [Fail(503, code="overloaded"), "Hello!"], tmp_path)
    assert told == ["http overloaded 503 True", "Hello!"]


def test_every_block_is_run():
    assert len(blocks()) == 7


def test_what_there_is_is_on_the_page():
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in TRAITS if name != "openai")
    assert ResponseFailed.__name__ in page
