"""Streams in a web service: what becomes of a turn when a client leaves, under a real server, for both ASGI habits.

Up to ASGI 2.3 the framework waits for the disconnect in a task of its own and cancels the one that streams; from 2.4 on
sending raises, and whoever was iterated over is left to the garbage collector.
"""

import asyncio
import contextlib
import gc
import itertools

import anyio
import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from turnlog import Conflict, ResponseFailed
from turnlog.engine.testing.server import Call, Fail, Reply, Text

pytestmark = pytest.mark.anyio

LONG = Reply(Text("A long answer, told slowly, word by word. " * 4), delay=0.02)
each_habit = pytest.mark.parametrize("spec", ["2.3", "2.4"])


class Habit:
    """Lets an application believe that its server is of an ASGI version, and sees to it that it behaves so."""

    def __init__(self, app, spec):
        self.app = app
        self.spec = spec

    async def __call__(self, scope, receive, send):
        scope["asgi"] = {**scope["asgi"], "spec_version": self.spec}
        if self.spec == "2.3":
            await self.app(scope, receive, send)
            return
        gone = anyio.Event()

        async def watch():
            while (await receive())["type"] != "http.disconnect":
                continue
            gone.set()

        async def raising(message):
            if gone.is_set():
                raise OSError("the client has left")
            await send(message)

        watcher = asyncio.ensure_future(watch())
        try:
            with contextlib.suppress(ClientDisconnect):
                await self.app(scope, receive, raising)
        finally:
            watcher.cancel()


async def sse(stream):
    """As a service writes it."""
    try:
        async for event in stream:
            if event.type == "response.output_text.delta":
                yield f"data: {event.delta}\n\n"
    except ResponseFailed as failed:
        yield f"event: error\ndata: {failed.code}\n\n"
    finally:
        await stream.aclose()


def service(s, model, on_leave, **more):
    async def say(request):
        c = await s.engine.get(request.path_params["chat"])
        stream = await c.stream(model, "Go", on_leave=on_leave, key=request.headers.get("idempotency-key"), **more)
        return StreamingResponse(sse(stream), media_type="text/event-stream")

    async def conflict(request, error):
        return JSONResponse({"error": type(error).__name__}, 409, {"Retry-After": str(error.retry_after)})

    return Starlette(routes=[Route("/{chat}", say, methods=["POST"])], exception_handlers={Conflict: conflict})


@contextlib.asynccontextmanager
async def serving(app, spec):
    config = uvicorn.Config(Habit(app, spec), port=0, lifespan="off", log_config=None, http="h11", ws="none")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await anyio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


async def statuses(c):
    return [call.status async for call in c.responses()]


async def settled(c, expected):
    """Wait until no turn runs, however long the collector takes."""
    for attempt in itertools.count():
        if await statuses(c) == expected:
            return
        if attempt % 10 == 0:
            gc.collect()
        await anyio.sleep(0.03)


@each_habit
async def test_a_whole_answer(stage, api, spec):
    async with stage(Reply("Hello there")) as s:
        c = await s.engine.create(id="ada")
        async with serving(service(s, s.model(api), "cancel"), spec) as client:
            answer = await client.post("/ada")
        assert "".join(line.removeprefix("data: ") for line in answer.text.split("\n\n")) == "Hello there"
        assert await statuses(c) == ["completed"]


@each_habit
@pytest.mark.parametrize("on_leave", ["cancel", "finish"])
async def test_a_client_that_leaves(stage, api, spec, on_leave):
    async with stage(LONG, "Next.") as s:
        c = await s.engine.create(id="ada")
        async with serving(service(s, s.model(api), on_leave), spec) as client:
            async with client.stream("POST", "/ada") as answer:
                await anext(answer.aiter_lines())
            await settled(c, ["interrupted" if on_leave == "cancel" else "completed"])
            (info,) = [info async for info in s.engine.list()]
            assert not info.busy
        if on_leave == "finish":
            texts = [entry.item["content"] async for entry in c.items()]
            assert LONG.parts[0].text in str(texts[1])
        assert (await c.respond(s.model(api), "Go on")).output_text == "Next."


async def test_a_client_that_leaves_while_a_tool_runs(stage, api):
    """From ASGI 2.4 on nobody notices before the next event is sent."""
    running = anyio.Event()

    async def slow() -> str:
        running.set()
        await anyio.sleep_forever()

    async with stage(Reply("One moment.", Call("slow"))) as s:
        c = await s.engine.create(id="ada")
        async with serving(service(s, s.model(api), "cancel", tools=[slow]), "2.3") as client:
            async with client.stream("POST", "/ada"):
                await running.wait()
            while (await s.kinds(c))[-2:] != ["response.interrupted", "function_call_output"]:
                await anyio.sleep(0.02)


@each_habit
async def test_a_failure_is_an_event_once_the_headers_are_out(stage, api, spec):
    async with stage(Fail(503, code="overloaded")) as s:
        await s.engine.create(id="ada")
        async with serving(service(s, s.model(api), "cancel"), spec) as client:
            answer = await client.post("/ada")
        assert (answer.status_code, answer.text) == (200, "event: error\ndata: overloaded\n\n")


@each_habit
async def test_refusals_are_statuses(stage, api, spec):
    async with stage(LONG) as s:
        c = await s.engine.create(id="ada")
        async with serving(service(s, s.model(api), "cancel"), spec) as client:
            async with client.stream("POST", "/ada") as answer:
                await anext(answer.aiter_lines())
                second = await client.post("/ada")
                assert second.status_code == 409
                assert float(second.headers["retry-after"]) > 0
            await settled(c, ["interrupted"])


@each_habit
async def test_a_retried_request_gets_the_same_answer(stage, api, spec):
    """The first client leaves, the turn goes on, and whoever asks again under the same key has all of it."""
    async with stage(LONG) as s:
        c = await s.engine.create(id="ada")
        key = {"idempotency-key": "m-1"}
        async with serving(service(s, s.model(api), "finish"), spec) as client:
            async with client.stream("POST", "/ada", headers=key) as answer:
                await anext(answer.aiter_lines())
            again = await client.post("/ada", headers=key)
        told = "".join(line.removeprefix("data: ") for line in again.text.split("\n\n"))
        assert told == LONG.parts[0].text
        assert await statuses(c) == ["completed"]
        assert len(s.bodies) == 1


@each_habit
async def test_a_client_that_reads_slowly_holds_up_nobody(stage, api, spec):
    async with stage(Reply(Text("word " * 200_000), chunk=2000), "Next.") as s:
        c = await s.engine.create(id="ada")
        async with serving(service(s, s.model(api), "cancel"), spec) as client:
            async with client.stream("POST", "/ada") as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                await settled(c, ["completed"])  # the model is done, although nobody has read it
                rest = [line async for line in lines]
        assert len(rest) > 100
