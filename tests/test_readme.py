"""The README's code runs, as a newcomer would run it, against the scripted server."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from openai import AsyncOpenAI

from turnlog import open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.engine.portable import dump
from turnlog.engine.testing.server import Call, Received, Reply, Text, scripted_server

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def answer(request: Received) -> Reply:
    if request.body.get("tools") and request.api == "responses":
        outputs = [item["output"] for item in request.body["input"] if item.get("type") == "function_call_output"]
        refund = Call("refund", {"order": "A1", "amount": 200})
        return Reply(Text(f"It is {outputs[-1].split()[0]}.") if outputs else refund)
    if request.api == "responses":
        asked = [item["content"] for item in request.body["input"] if item.get("role") == "user"]
        return Reply(Text(f"You have asked {len(asked)} times."))
    if request.body["messages"][-1]["role"] == "user":
        return Reply(Call("weather", {"city": "Paris"}))
    return Reply(Text("Paris has a clear sky."))


async def run(code: str, url: str, folder: Path) -> str:
    (folder / "example.py").write_text(code)
    environment = {**os.environ, "OPENAI_API_KEY": "test", "OPENAI_BASE_URL": url}
    command = [sys.executable, "example.py"]
    told = await anyio.run_process(command, cwd=folder, env=environment, stderr=subprocess.STDOUT)
    return told.stdout.decode()


@pytest.mark.anyio
async def test_the_first_example_knows_what_was_asked_before(tmp_path):
    async with scripted_server(answer) as server:
        assert await run(BLOCKS[0], server.base_url, tmp_path) == "You have asked 1 times.\n"
        assert await run(BLOCKS[0], server.base_url, tmp_path) == "You have asked 2 times.\n"
    assert not server.refused


@pytest.mark.anyio
async def test_the_second_example_streams_and_explains(tmp_path):
    async with scripted_server(answer) as server:
        told = await run(BLOCKS[1], server.base_url, tmp_path)
    assert '{"city":' in told
    assert "Paris has a clear sky." in told
    assert "kept it fits" in told
    assert not server.refused


@pytest.mark.anyio
async def test_the_third_example_waits_for_a_person(tmp_path):
    async with scripted_server(answer) as server:
        assert await run(BLOCKS[2], server.base_url, tmp_path) == "It is done.\n"
    assert not server.refused


@pytest.mark.anyio
async def test_the_fourth_example_branches_and_forgets(tmp_path):
    told = (await run(BLOCKS[3], "http://127.0.0.1:9", tmp_path)).splitlines()
    assert sorted(line.split()[1] for line in told[:2]) == ["3", "4"]
    assert told[-1].startswith("Receipt(")
    assert len(told) == 3


@pytest.mark.anyio
async def test_the_fifth_example_plays_a_recording(tmp_path):
    async with scripted_server(answer) as server, open_engine(":memory:") as engine:
        async with AsyncOpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client:
            c = await engine.create(id="conv-81")
            gpt = ChatCompletions(client, "gpt-4o-mini")
            await c.run(gpt, "Is it sunny in Paris?", tools=[weather])
        lines = [line async for line, _ in dump(engine.store, "conv-81")]
    path = anyio.Path(tmp_path / "tests" / "recordings" / "conv-81.jsonl.gz")
    await path.parent.mkdir(parents=True)
    await path.write_bytes(gzip.compress(b"".join(lines)))
    plays = f"{BLOCKS[4]}\n\nimport asyncio\nasyncio.run(test_yesterday())\nprint('played')\n"
    assert await run(plays, "http://127.0.0.1:9", tmp_path) == "played\n"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        await run(plays.replace("Paris", "Rome"), "http://127.0.0.1:9", tmp_path)
    assert b'"Is it sunny in Paris?" became "Is it sunny in Rome?"' in failed.value.output


async def weather(city: str) -> dict[str, str]:
    """Say what the weather is like."""
    return {"city": city, "sky": "clear"}


def test_the_first_example_is_ten_lines_of_code():
    assert "## In ten lines of code" in README
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) == 10


def test_what_the_readme_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target and not os.environ.get("TURNLOG_WHEEL"):
            assert (ROOT / target).exists(), target
