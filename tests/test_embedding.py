"""What docs/embedding.md shows runs: its service in two processes on one database, under a real server."""

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import anyio
import httpx2
import pytest

from forking import Process
from pg_server import pg_url, schema  # noqa: F401 - fixtures
from turnlog import Budget, open_engine
from turnlog.engine.testing.server import Fail, Reply, Text, scripted_server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(os.environ.get("TURNLOG_WHEEL")), reason="the page is not beside the wheel"),
]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "embedding.md"
WORKER = Path(__file__).with_name("shared") / "service_worker.py"
LONG = Reply(Text("A long answer, told slowly, word by word. " * 4), delay=0.02)
WHOLE = LONG.parts[0].text


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, db):
    """Where the log is: an url, and a schema."""
    if request.param == "sqlite":
        return str(db), None
    return request.getfixturevalue("pg_url"), request.getfixturevalue("schema")


class Worker:
    """One process that serves, and a client of it."""

    def __init__(self, process, client):
        self.process = process
        self.client = client

    async def say(self, text, key, chat="ada"):
        return await self.client.post(f"/chats/{chat}/messages", json={"text": text}, headers={"idempotency-key": key})

    @contextlib.asynccontextmanager
    async def saying(self, text, key):
        """Send a message, and leave when the block does."""
        headers = {"idempotency-key": key}
        async with self.client.stream("POST", "/chats/ada/messages", json={"text": text}, headers=headers) as answer:
            assert answer.status_code == 200
            yield answer.aiter_lines()

    async def stop(self):
        self.process.signal(signal.SIGTERM)
        await self.ended()

    async def ended(self):
        await anyio.to_thread.run_sync(self.process.wait)


@contextlib.asynccontextmanager
async def serving(folder, url, place):
    """Serve the page's service in a process of its own."""
    await anyio.Path(folder / "service.py").write_text(blocks()[0])
    known = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": url, "NO_PROXY": "*", "TURNLOG_DB": place[0]}
    known |= {"TURNLOG_SCHEMA": place[1]} if place[1] else {}
    options = ["service:app", "--port", "0", "--timeout-graceful-shutdown", "1"]
    process = Process(WORKER, str(folder), known, *options)
    try:
        told = ""
        while (found := re.search(r"running on (http://\S+)", told)) is None:
            line = await anyio.to_thread.run_sync(process.stdout.readline)
            assert line, told
            told += line
        async with httpx2.AsyncClient(base_url=found[1], trust_env=False, timeout=20) as client:
            yield Worker(process, client)
    finally:
        if process.returncode is None:
            process.signal(signal.SIGKILL)
            process.wait()


def texts(answer):
    """Return what an answer's events say, and its last event."""
    told = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    return "".join(json.loads(one) for one in told), answer.text.rstrip().rsplit("\n\n", 1)[-1]


async def logged(place):
    """Return how the model calls ended that are in the log, and what was said."""
    async with open_engine(place[0], schema=place[1]) as engine:
        chat = await engine.get("ada")
        said = [entry.item["content"] async for entry in chat.items()]
        return [call.status async for call in chat.responses()], said


async def test_two_workers_on_one_database(tmp_path, place):
    """A client leaves one worker and gets its answer from the other; nobody else may come between."""
    asked, go = anyio.Event(), anyio.Event()

    async def script(received):
        asked.set()
        await go.wait()
        return LONG if received.number == 1 else "Fine."

    async with scripted_server(script) as model, serving(tmp_path, model.base_url, place) as one:
        async with serving(tmp_path, model.base_url, place) as two:
            assert (await one.client.put("/chats/ada")).json()["version"] == 1
            async with one.saying("Go", "m-1"):
                await asked.wait()
                busy = await two.say("Ho", "m-2")
                assert (busy.status_code, busy.json()["error"]) == (409, "ConversationBusy")
                assert int(busy.headers["retry-after"]) > 0
            go.set()
            again = await two.say("Go", "m-1")
            assert texts(again) == (WHOLE, "event: done\ndata: {}")
            assert texts(await one.say("Go", "m-1"))[0] == WHOLE
            reused = await one.say("Other", "m-1")
            assert (reused.status_code, reused.json()["error"]) == (409, "KeyReused")
            assert texts(await two.say("Ho", "m-2"))[0] == "Fine."
        assert len(model.requests) == 2
        assert not model.refused
    statuses, said = await logged(place)
    assert (statuses, said[0], said[2]) == (["completed"] * 2, "Go", "Ho")


async def test_shutting_down_waits_for_a_turn_whose_client_has_left(tmp_path, place):
    async with scripted_server([LONG]) as model, serving(tmp_path, model.base_url, place) as worker:
        await worker.client.put("/chats/ada")
        async with worker.saying("Go", "m-1") as lines:
            assert (await anext(lines)).startswith("data: ")
        await worker.stop()
    statuses, said = await logged(place)
    assert (statuses, said[1][0]["text"]) == (["completed"], WHOLE)


async def test_shutting_down_while_somebody_reads(tmp_path, db):
    """The server waits for the reader as long as it was told, then the engine for the turn."""
    place = str(db), None
    slow = Reply(LONG.parts[0], delay=0.1)
    async with scripted_server([slow]) as model, serving(tmp_path, model.base_url, place) as worker:
        await worker.client.put("/chats/ada")
        with contextlib.suppress(httpx2.TransportError):
            async with worker.saying("Go", "m-1") as lines:
                assert (await anext(lines)).startswith("data: ")
                worker.process.signal(signal.SIGTERM)
                async for _ in lines:
                    continue
        await worker.ended()
    assert (await logged(place))[0] == ["completed"]


async def test_a_webhook_that_is_sent_again(tmp_path, place):
    news = {"order": "A1", "state": "sent"}
    async with scripted_server([]) as model, serving(tmp_path, model.base_url, place) as one:
        async with serving(tmp_path, model.base_url, place) as two:

            async def tell(worker, value=news, key="evt_1"):
                return await worker.client.post("/hooks/ada", json=value, headers={"webhook-id": key})

            told = []
            async with anyio.create_task_group() as group:
                for worker in (one, two, one, two):

                    async def send(worker=worker):
                        told.append((await tell(worker)).json())

                    group.start_soon(send)
            assert sorted(answer["replayed"] for answer in told) == [False, True, True, True]
            assert len({answer["seq"] for answer in told}) == 1
            assert (await tell(two, {"state": "sent", "order": "A1"})).json()["replayed"]
            assert (await tell(one, {"order": "B2"})).status_code == 409
    assert len((await logged(place))[1]) == 1


async def test_refusals_are_statuses_and_failures_events(tmp_path, db):
    async with scripted_server([Fail(503, code="overloaded", headers={"x-should-retry": "false"}), "Fine."]) as model:
        async with serving(tmp_path, model.base_url, (str(db), None)) as worker:
            assert (await worker.say("Go", "m-1")).status_code == 404
            assert (await worker.client.put("/chats/no%20id")).status_code == 422
            await worker.client.put("/chats/ada")
            huge = await worker.say("word " * 200_000, "m-0")
            assert (huge.status_code, huge.json()["error"]) == (413, "BudgetExceeded")
            told = (await worker.say("Go", "m-1")).text
            assert told == 'event: error\ndata: {"code": "overloaded", "retryable": false}\n\n'
            assert texts(await worker.say("Go", "m-1"))[0] == "Fine."


async def test_a_session_of_the_agents_sdk(tmp_path):
    pytest.importorskip("agents")
    async with scripted_server(["A list.", "A part of it."]) as model:
        environment = {
            **os.environ,
            "OPENAI_API_KEY": "test",
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "NO_PROXY": "*",
        }
        told = await anyio.run_process([sys.executable, "-c", blocks()[1]], cwd=tmp_path, env=environment)
        assert told.stdout.decode().splitlines()[:2] == ["A list.", "A part of it."]
        assert "['user', 'assistant', 'user', 'assistant']" in told.stdout.decode()
        assert len(model.requests[1].body["input"]) == 3
    async with open_engine(tmp_path / "chat.db") as engine:
        window = await (await engine.get("ada")).window(Budget(1_000))
        assert len(window.items) == 4
