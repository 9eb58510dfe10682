"""The command has its event loop to itself: reading a file there holds nobody up. And a PostgreSQL server."""

import json

import anyio
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from everything_log import clock, everything
from pg_server import pg_url, schema  # noqa: F401 - fixtures
from turnlog import open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.testing.server import Call, Reply, Text, scripted_server


@pytest.fixture(autouse=True)
def nothing_blocks() -> None:
    """Allow blocking calls."""


async def look_up(word: str) -> str:
    return f"{word}: a word"


@pytest.fixture
def log(db):
    """A log with one conversation that went through both APIs."""

    async def make() -> str:
        script = ["Hello!", Reply(Call("look_up", {"word": "sky"})), Text("Blue."), "Once more."]
        direct = DefaultAsyncHttpxClient(trust_env=False)
        async with (
            scripted_server(script) as server,
            AsyncOpenAI(base_url=server.base_url, api_key="test", max_retries=0, http_client=direct) as client,
            open_engine(db) as engine,
        ):
            conversation = await engine.create(id="talk", metadata={"user": "ada"})
            await conversation.append({"role": "system", "content": "Be brief."})
            await conversation.run(Responses(client, "gpt-4o-mini"), "Hi!")
            await conversation.run(Responses(client, "gpt-4o-mini"), "What is the sky?", tools=[look_up])
            await conversation.run(ChatCompletions(client, "gpt-4o-mini"), "And again?")
            bodies = [request.body for request in server.requests]
        (db.parent / "bodies.json").write_text(json.dumps(bodies))
        return conversation.id

    anyio.run(make)
    return db


@pytest.fixture
def every(db):
    """A log with the conversation that holds everything."""

    async def make():
        async with open_engine(db, clock=clock()) as engine:
            await everything(engine)

    anyio.run(make)
    return db


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to work in, with a file to import."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "in.json").write_text('[{"role": "user", "content": "Hi"}]')
    return folder
