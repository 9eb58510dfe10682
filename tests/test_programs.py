"""The programs that users write run, against the scripted server."""

import asyncio
import contextlib
import json

import anyio
import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

import programs
from turnlog import Budget, Conflict, ConversationBusy, ResponseFailed, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine.replay import verify
from turnlog.engine.summaries import HEADER
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text

pytestmark = pytest.mark.anyio

LONG = "and then this happened, at some length, " * 12


def inputs(s):
    return [body.get("input", body.get("messages")) for body in s.bodies]


# 1


async def test_the_seed(stage, capsys):
    jokes = ["Orange who?", "Orange who?", "A joke.", "Another."]
    long = ["A joke. " * 30, "Because. " * 30, "En français.", "Dodge, and so on. " * 30]
    async with stage(*jokes, *long, "opaque") as s:
        await programs.seed(s.engine, s.client)
        assert capsys.readouterr().out.splitlines() == jokes
        assert [item["content"] for item in inputs(s)[0]] == ["knock knock.", "Who's there?", "Orange."]
        assert inputs(s)[1] == inputs(s)[0][:2]
        assert [item.get("content") for item in inputs(s)[3]][-1] == "tell me another"
        assert s.bodies[2]["store"] is False
        first = s.bodies[5]["previous_response_id"]
        assert s.bodies[6]["previous_response_id"] == first
        assert [item["content"] for item in inputs(s)[6]] == ["in French, please"]
        assert "conversation" in s.bodies[7]
        assert s.server.requests[8].path == "/v1/responses/compact"
        assert s.bodies[8]["instructions"] == "Be brief."


# 2


def service(engine, gpt):
    async def say(request: Request):
        c = await engine.get(request.path_params["chat_id"])
        stream = await c.stream(
            gpt, (await request.body()).decode(), key=request.headers["idempotency-key"], on_leave="finish"
        )
        return StreamingResponse(programs.sse(stream), media_type="text/event-stream")

    async def conflict(request: Request, error: Exception):
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, ConversationBusy) else {}
        return JSONResponse({"error": type(error).__name__}, 409, headers)

    routes = [Route("/chats/{chat_id}/messages", say, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={Conflict: conflict})


@contextlib.asynccontextmanager
async def served(engine, gpt):
    """Serve the program over HTTP; yield a client of it."""
    config = uvicorn.Config(service(engine, gpt), port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve())
    while not server.started:
        await anyio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await task


def texts(answer):
    return [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]


async def test_an_endpoint_with_two_workers(stage_for, db):
    """One key on two workers is one turn; a client that goes away does not end it; another input is a conflict."""
    asked, go = anyio.Event(), anyio.Event()

    async def script(received):
        asked.set()
        await go.wait()
        return Reply(Text("Hello, Ada."), chunk=4)

    async with open_engine(db) as one, open_engine(db) as two, stage_for(script, engine=one) as s:
        await one.create(id="c")
        gpt = Responses(s.client, "gpt-4o-mini")
        async with served(one, gpt) as first, served(two, gpt) as second:
            leaving = first.build_request("POST", "/chats/c/messages", content="Hi", headers={"idempotency-key": "k"})
            left = await first.send(leaving, stream=True)
            await asked.wait()
            await left.aclose()
            busy = await second.post("/chats/c/messages", content="Ho", headers={"idempotency-key": "other"})
            assert (busy.status_code, busy.json()) == (409, {"error": "ConversationBusy"})
            assert float(busy.headers["retry-after"]) > 0
            go.set()
            again = await second.post("/chats/c/messages", content="Hi", headers={"idempotency-key": "k"})
            assert (again.status_code, "".join(texts(again))) == (200, "Hello, Ada.")
            reused = await first.post("/chats/c/messages", content="Other", headers={"idempotency-key": "k"})
            assert (reused.status_code, reused.json()) == (409, {"error": "KeyReused"})
        assert len(s.bodies) == 1


async def test_an_endpoint_tells_of_a_failure_in_the_stream(stage_for, db):
    broken = Reply(Text("Hel"), status="failed", error={"code": "server_error", "message": "no"})
    async with open_engine(db) as engine, stage_for(broken, engine=engine) as s:
        await engine.create(id="c")
        async with served(engine, Responses(s.client, "gpt-4o-mini")) as client:
            answer = await client.post("/chats/c/messages", content="Hi", headers={"idempotency-key": "k"})
        assert (answer.status_code, texts(answer)[-1]) == (200, "event: error\ndata: server_error")


# 3


@pytest.mark.parametrize("approve", [True, False])
async def test_an_agent(stage, api, approve):
    calls = Reply(
        Call("search", {"query": "tea"}, id="s"),
        Call("refund", {"order": "A1", "amount": 7}, id="small"),
        Call("refund", {"order": "B2", "amount": 700}, id="large"),
    )
    async with stage(calls, "All done.") as s:
        c = await s.engine.create()
        told = await programs.ask(s.engine, s.model(api), c.id, "Refund them")
        assert told == {"text": "", "pending": [("large", "refund", '{"order":"B2","amount":700}')]}
        result = await programs.decided(s.engine, s.model(api), c.id, "large", approve=approve, who="ada")
        assert result.output_text == "All done."
        outputs = {entry.item["call_id"]: entry.item["output"] async for entry in c.items() if "output" in entry.item}
        assert outputs["s"] == '["tea"]'
        assert outputs["small"].startswith("A1: 7.00 back under ")
        assert outputs["large"].startswith("B2: 700.00 back under " if approve else "[not run: a person refused")


# 4


async def test_another_backend(stage):
    refused = Fail(401, code="invalid_api_key")
    async with stage(Reply(Reason("Hm"), Text("Begun.")), Fail(503), "From vLLM.", refused) as s:
        c = await s.engine.create()
        await c.respond(Responses(s.client, "gpt-5.5", backend="openai/org-eu"), "Begin.")
        result = await programs.change(s.engine, c.id, s.client, s.client)
        assert result.output_text == "From vLLM."
        assert s.bodies[2]["chat_template_kwargs"] == {"enable_thinking": False}
        assert [one["content"] for one in s.bodies[2]["messages"]] == ["Begin.", "Begun.", "Go on."]
        assert [entry.item["role"] async for entry in c.items() if "role" in entry.item].count("user") == 2
        d = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await programs.change(s.engine, d.id, s.client, s.client)


# 5


async def test_three_weeks_old(stage, api, capsys):
    turns = [Text(f"answer {number}: {LONG}") for number in range(5)]
    async with stage(*turns, "In short: much happened.", "Here we are.") as s:
        c = await s.engine.create()
        gpt = s.model(api, budget=Budget(850))
        for number in range(5):
            await c.respond(gpt, f"question {number}")
        await programs.old(s.engine, c.id, gpt, s.model(api, "gpt-4.1-mini"))
        assert HEADER in str(s.bodies[6])
        covered, items = capsys.readouterr().out.splitlines()
        before, after = (int(figure) for figure in covered.rpartition(") ")[2].split(" -> "))
        assert after <= before // 2
        assert items.endswith("] False")
        assert all(f"question {number}" in items for number in range(5))


async def test_three_weeks_old_with_a_poor_summary(stage, api, capsys):
    """It is taken back, and the window is cut instead."""
    turns = [Text(f"answer {number}: {LONG}") for number in range(5)]
    async with stage(*turns, f"In short: {LONG * 3}", "Here we are.") as s:
        c = await s.engine.create()
        gpt = s.model(api, budget=Budget(850))
        for number in range(5):
            await c.respond(gpt, f"question {number}")
        await programs.old(s.engine, c.id, gpt, s.model(api, "gpt-4.1-mini"))
        assert HEADER not in str(s.bodies[6])
        assert "->" in capsys.readouterr().out
        assert (await verify(s.engine.store, c.id)).diverged == []


# 6


async def test_regenerate_edit_and_show_variants(stage, api):
    async with stage("one", "two", "two again", "two edited") as s:
        c = await s.engine.create()
        model = s.model(api)
        await c.run(model, "first")
        await c.run(model, "second")
        tip = c.version
        assert (await programs.regenerate(c, model, 2)).output_text == "two again"
        assert (await programs.edit(c, model, 2, "second, better")).output_text == "two edited"

        async def shown():
            said = [entry.item["content"] async for entry in c.items()]
            return [content if isinstance(content, str) else content[0]["text"] for content in said]

        assert await shown() == ["first", "one", "second, better", "two edited"]
        await programs.show_variant(c, tip)
        assert await shown() == ["first", "one", "second", "two"]
        twin = await s.engine.get(await programs.branch(c, tip))
        assert [entry.seq async for entry in twin.items()] == [entry.seq async for entry in c.items()]


# 9


async def test_forget_list_titles_unread(stage, api):
    async with stage("Hi!", "A short knock joke", "Hi!") as s:
        c = await s.engine.create(metadata={"user": "ada"})
        other = await s.engine.create(metadata={"user": "bob"})
        await c.respond(s.model(api), "Hello")
        read = {c.id: (await s.engine.list(where={"user": "ada"})).data[0].last_item}
        await programs.title(c, s.model(api, "gpt-4o-mini"))
        page = await programs.sidebar(s.engine, "ada", read, None)
        (row,) = page["rows"]
        # A title that is made does not make a conversation unread.
        assert (row["title"], row["unread"], row["busy"], page["next"]) == ("A short knock joke", False, False, None)
        await c.respond(s.model(api), "Hello again")
        assert (await programs.sidebar(s.engine, "ada", read, None))["rows"][0]["unread"]
        sent = json.dumps(s.bodies[2])
        assert "title" not in sent
        s.gone = {call.digest async for call in c.responses()}
        (receipt,) = await programs.forget(s.engine, "ada")
        assert receipt.conversation == c.id
        assert [info.id async for info in s.engine.list()] == [other.id]
