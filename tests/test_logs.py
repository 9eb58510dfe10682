"""Logging: which events there are and what they carry; never content, never keys; silent until somebody listens."""

import logging
import subprocess
import sys
from contextlib import suppress

import anyio
import pytest
import structlog

from turnlog import Budget, ResponseFailed, StoreError, open_engine
from turnlog.engine.errors import VersionConflict
from turnlog.engine.logs import Log
from turnlog.engine.testing.server import Call, Fail, Hang, Reason, Refuse, Reply

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t"  # in everything that a person, a model or a tool says, and in every key
VENDORS = ("openai", "httpx", "httpcore")
"""They log what they send, where their user has asked them to; that is not ours to stop."""


def secret(what):
    return f"{SECRET} {what}"


async def look(at: str) -> str:
    if "broken" in at:
        raise ValueError(secret("of a tool that fails"))
    return secret(f"what is seen {at}")


SCHEMA = {
    "type": "function",
    "name": "ask",
    "description": secret("description"),
    "parameters": {"type": "object", "properties": {}},
}
TURNS = {
    "instructions": secret("instructions"),
    "tools": [look, SCHEMA],
    "params": {"metadata": {"a": secret("parameter")}},
    "deps": secret("deps"),
}
FAILED = {"status": "failed", "error": {"code": "server_error", "message": secret("error")}}
SCRIPT = [
    Reply(Reason(secret("thought"), content=secret("raw thought")), secret("answer")),
    Reply(Call("look", {"at": secret("place")}), Call("look", {"at": secret("broken place")}, id="call_b")),
    Refuse(secret("refusal")),
    Reply(
        Call("look", f'{{"at": "{SECRET} half', id="call_c"), Call("ask", {"about": secret("question")}, id="call_d")
    ),
    Reply(secret("a long answer to leave"), delay=0.02),
    Fail(400, code="invalid_value", message=secret("complaint")),
    Fail(429, code="rate_limit_exceeded", message=secret("limit")),
    Reply("x", **FAILED),
    Reply(secret("half an answer"), cut_after=3),
    Hang(30),
]


async def live(s, model):
    """Go through all that can become of a turn."""
    c = await s.engine.create(id="ada", metadata={"who": secret("metadata")}, key=secret("key"))
    await c.append({"role": "system", "content": secret("system")}, secret("note"), meta={"by": secret("meta")})
    await c.respond(model, secret("question"), key=secret("key of input"), instructions=secret("instructions"))
    await c.run(model, secret("task"), **TURNS)
    await c.run(model, secret("task"), **TURNS)
    await c.append({"type": "function_call_output", "call_id": "call_d", "output": secret("output")})
    async with c.stream(model, secret("to stream")) as stream:
        async for event in stream:
            if event.delta:
                break
    for _ in range(4):
        with suppress(ResponseFailed):
            await c.respond(model, secret("in vain"))
    with pytest.raises(VersionConflict):
        await c.append(secret("late"), expected=1)
    await c.update_metadata({"title": secret("title")})
    await taken_over(s, c, model)
    await c.window(Budget(10_000), instructions=secret("instructions"))


async def taken_over(s, c, model):
    """Let a turn wait for its model, take it over, and cancel it: it cannot seal what is not its own any more."""
    before = len(s.server.requests)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: c.respond(model, secret("nobody answers"), instructions=secret("instructions")))
        while len(s.server.requests) == before:
            await anyio.sleep(0.01)
        await c.take_over()
        group.cancel_scope.cancel()


async def unrenewed(engine, monkeypatch):
    """Let the renewal of a lease fail."""

    async def broken(*args):
        raise StoreError(secret("reason"))

    with monkeypatch.context() as patch:
        patch.setattr(engine.store, "renew", broken)
        engine.keep_lease("ada", 1)
        await anyio.sleep(engine.lease / 3 + 0.1)
        engine.drop_lease("ada", 1)


class Heard(logging.Handler):
    """Keeps all that is logged, as somebody would read it and as the record has it."""

    def __init__(self):
        super().__init__(1)
        self.records = []

    def emit(self, record):
        if not record.name.startswith(VENDORS):
            self.records.append(record)

    def ours(self):
        """The events, with what they carry."""
        ours = [record for record in self.records if record.name.startswith("turnlog")]
        return [(record.getMessage().split()[0], record.getMessage(), record.levelno) for record in ours]


@pytest.fixture
def heard():
    """All records of all loggers, at every level."""
    handler, root = Heard(), logging.getLogger()
    levels = {logger: logger.level for logger in (root, logging.getLogger("turnlog"))}
    for logger in levels:
        logger.setLevel(1)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture
def captured():
    """What structlog is told, once a service has configured it."""
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


EXPECTED = {
    "turnlog.response": "info",
    "turnlog.response.failed": "warning",
    "turnlog.tool.failed": "warning",
    "turnlog.turn.taken_over": "warning",
    "turnlog.turn.unsealed": "warning",
    "turnlog.lease.unrenewed": "warning",
}


async def all_of_it(stage_for, db, api, monkeypatch):
    async with (
        open_engine(db, lease=0.3) as engine,
        stage_for(*SCRIPT, engine=engine, client={"api_key": secret("API key")}) as s,
    ):
        await live(s, s.model(api, backend="here"))
        await unrenewed(engine, monkeypatch)


async def test_no_record_holds_a_secret(heard, stage_for, db, api, monkeypatch):
    await all_of_it(stage_for, db, api, monkeypatch)
    events = {name: logging.getLevelName(level).lower() for name, _, level in heard.ours()}
    assert events == EXPECTED
    for record in heard.records:
        assert SECRET not in logging.Formatter().format(record)
        assert SECRET not in repr(vars(record))


async def test_structlog_is_told_no_secret(heard, captured, stage_for, db, api, monkeypatch):
    await all_of_it(stage_for, db, api, monkeypatch)
    assert {entry["event"]: entry["log_level"] for entry in captured} == EXPECTED
    assert SECRET not in repr(captured)
    assert heard.ours() == []  # each event is logged once


async def test_events_have_ids_counts_and_durations(captured, stage_for, db, api):
    script = ["one", Call("look", {"at": "broken"}, id="call_x"), Fail(400, code="no_good")]
    async with open_engine(db) as engine, stage_for(*script, engine=engine) as s:
        c = await engine.create(id="ada")
        await c.respond(s.model(api), "1")
        with pytest.raises(ResponseFailed):
            await c.run(s.model(api), "2", tools=[look])
        calls = [call async for call in c.responses()]
    done, called, tool, failed = captured
    seconds = [one.pop("seconds") for one in (done, called, failed)]
    assert all(type(one) is float and one >= 0 for one in seconds)
    assert done == {
        "event": "turnlog.response", "log_level": "info", "conversation": "ada", "response": calls[0].seq,
        "status": "completed", "input_tokens": calls[0].usage.input_tokens, "retries": 0,
        "output_tokens": calls[0].usage.output_tokens,
    }  # fmt: skip
    assert tool == {
        "event": "turnlog.tool.failed", "log_level": "warning", "tool": "look", "call": "call_x", "error": "ValueError",
    }  # fmt: skip
    assert failed == {
        "event": "turnlog.response.failed", "log_level": "warning", "conversation": "ada", "response": calls[2].seq,
        "kind": "http", "code": "no_good", "status_code": 400, "retries": 0,
    }  # fmt: skip


async def test_the_standard_library_is_told_the_same(heard, stage_for, db):
    async with open_engine(db) as engine, stage_for("one", engine=engine) as s:
        c = await engine.create(id="ada")
        await c.respond(s.model("responses"), "1")
    ((_, told, _),) = heard.ours()
    values = dict(pair.split("=") for pair in told.split()[1:])
    assert (values["conversation"], values["response"], values["status"]) == ("ada", "3", "completed")
    assert float(values["seconds"]) >= 0
    assert int(values["input_tokens"]) > 0


# -- the loggers of others


def test_levels_are_obeyed(caplog):
    log = Log("turnlog.test")
    with caplog.at_level(logging.WARNING, "turnlog"):
        log.debug("one")
        log.info("two")
        log.warning("three", a=1, b="x")
    assert [record.getMessage() for record in caplog.records] == ["three a=1 b=x"]


def test_structlog_that_nobody_has_configured_is_not_used(heard, capsys):
    assert not structlog.is_configured()
    Log("turnlog.test").warning("one", a=1)
    assert heard.ours() == [("one", "one a=1", logging.WARNING)]
    assert capsys.readouterr() == ("", "")


def test_structlog_over_the_standard_library(heard):
    structlog.configure(
        processors=[structlog.stdlib.add_logger_name, structlog.processors.KeyValueRenderer(sort_keys=True)],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    try:
        Log("turnlog.test").info("one", a=1)
    finally:
        structlog.reset_defaults()
    assert heard.ours()[0][1] == "a=1 event='one' logger='turnlog.test'"


class Broken(logging.Handler):
    def emit(self, record):
        raise OSError("the disk of the logs is full")


@pytest.mark.parametrize("which", ["structlog", "logging"])
async def test_a_logger_that_fails_stops_no_turn_and_no_lease(which, heard, stage_for, db, monkeypatch):
    def broken(logger, name, values):
        raise OSError("the disk of the logs is full")

    handler = Broken()
    if which == "structlog":
        structlog.configure(processors=[broken])
    else:
        logging.getLogger("turnlog").addHandler(handler)
    try:
        async with (
            open_engine(db, lease=0.3) as engine,
            stage_for(Call("look", {"at": "broken"}), "ok", engine=engine) as s,
        ):
            c = await engine.create()
            await unrenewed(engine, monkeypatch)
            result = await c.run(s.model("responses"), "Look", tools=[look])
            assert result.output_text == "ok"
            assert len(engine._crew._tasks) == 1  # who renews the leases is there still
    finally:
        logging.getLogger("turnlog").removeHandler(handler)
        structlog.reset_defaults()


# -- silence

IMPORTS = """
import logging, sys
before = logging.getLogger().handlers[:], logging.getLogger().level, logging.raiseExceptions
import turnlog, turnlog.adapters.responses, turnlog.adapters.chat_completions
import turnlog.engine.replay, turnlog.engine.portable, turnlog.engine.vocabulary, turnlog.engine.stores.sqlite
assert before == (logging.getLogger().handlers, logging.getLogger().level, logging.raiseExceptions)
for name, logger in logging.root.manager.loggerDict.items():
    if name.startswith("turnlog") and isinstance(logger, logging.Logger):
        assert (logger.handlers, logger.level, logger.propagate, logger.disabled) == ([], 0, True, False), name
assert "structlog" not in sys.modules
"""

TURN = """
import anyio, openai, structlog
from turnlog import ResponseFailed, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine.testing.server import Call, Fail, scripted_server

async def look() -> str:
    raise ValueError

async def main():
    transport = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with scripted_server([Call("look"), Fail(500)]) as server, open_engine(":memory:") as engine:
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0, http_client=transport)
        async with client:
            c = await engine.create()
            try:
                await c.run(Responses(client, "gpt-4o-mini"), "Hi", tools=[look])
            except ResponseFailed:
                return
    raise AssertionError

anyio.run(main)
assert not structlog.is_configured()
"""


@pytest.mark.parametrize("code", [IMPORTS, TURN], ids=["on import", "in a turn"])
def test_nothing_is_configured_and_nothing_printed(code):
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
