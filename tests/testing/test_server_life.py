"""The life of the scripted server: how it ends, whom it serves at once, what it leaves alone."""

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from importlib.util import find_spec

import anyio
import anyio.lowlevel
import openai
import pytest
from openai import AsyncOpenAI

from server_talk import MODEL, ask, chat, connected, serving, user
from turnlog.engine.testing.server import Hang, Reply, scripted_server

pytestmark = pytest.mark.anyio

without_uvloop = pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
each_loop = pytest.mark.parametrize(
    "anyio_backend",
    ["asyncio", pytest.param(("asyncio", {"use_uvloop": True}), marks=without_uvloop)],
    ids=["asyncio", "uvloop"],
)


@each_loop
async def test_leaving_ends_open_streams_hanging_requests_and_waiting_scripts():
    entered = anyio.Event()

    async def script(received):
        if received.number == 3:
            entered.set()
            await anyio.sleep_forever()
        return Hang(3600) if received.number == 2 else Reply("Hello", delay=3600)

    before = asyncio.all_tasks()
    ended = []

    async def lost(awaitable):
        with pytest.raises(openai.APIConnectionError):
            await awaitable
        ended.append(True)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            async with scripted_server(script) as server:
                clients = connected(server)
                client = await clients.__aenter__()
                stream = aiter(await ask(client, stream=True))
                await anext(stream)
                group.start_soon(lost, ask(client))
                group.start_soon(lost, chat(client))
                await entered.wait()
            server_tasks = asyncio.all_tasks() - before
            with pytest.raises(openai.APIConnectionError):
                await anext(stream)
        await clients.__aexit__(None, None, None)

    assert ended == [True, True]
    assert asyncio.all_tasks() == before
    assert len(server_tasks) <= 2


@each_loop
async def test_leaving_does_not_wait_for_a_client_that_reads_nothing():
    before = asyncio.all_tasks()
    sent = anyio.Event()

    def script(_):
        sent.set()
        return Reply("x" * 50_000_000, chunk=1_000_000)

    content = b'{"model": "gpt-test", "input": "Hi", "stream": true}'
    head = b"POST /v1/responses HTTP/1.1\r\nhost: server\r\ncontent-length: %d\r\n\r\n" % len(content)
    with anyio.fail_after(10), socket.socket() as idle:
        async with scripted_server(script) as server:
            idle.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(idle, ("127.0.0.1", int(server.url.rpartition(":")[2])))
            await loop.sock_sendall(idle, head + content)
            await sent.wait()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        assert asyncio.all_tasks() == before


async def test_leaving_by_an_exception_closes_too():
    with pytest.raises(ZeroDivisionError):
        async with serving(Hang(3600)) as (server, _):
            raise ZeroDivisionError
    async with connected(server) as client:
        with pytest.raises(openai.APIConnectionError):
            await ask(client)


async def test_a_cancelled_test_leaves_no_request_behind():
    before = asyncio.all_tasks()
    scope = anyio.CancelScope()

    async def script(_):
        scope.cancel()
        await anyio.sleep_forever()

    async with AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="test", max_retries=0) as client:
        with scope:
            async with scripted_server(script) as server:
                await ask(client.with_options(base_url=server.base_url))
        left = asyncio.all_tasks() - before

    assert scope.cancelled_caught
    assert left == set()


def taken_next():
    with ExitStack() as stack:
        return [stack.enter_context(socket.socket()).fileno() for _ in range(8)]


@each_loop
@pytest.mark.parametrize("turns", range(8))
async def test_connections_that_are_being_accepted_are_closed(turns, anyio_backend):
    before = asyncio.all_tasks()
    with anyio.fail_after(10), ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        free = taken_next()
        async with scripted_server(["x"]) as server:
            for one in sockets:
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        assert asyncio.all_tasks() == before
        if anyio_backend == "asyncio":  # uvloop closes what it let go in its own time
            assert taken_next() == free
        for one in sockets:
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(one, 1) == b""


async def test_a_client_that_leaves_frees_the_script():
    freed = anyio.Event()

    async def script(_):
        try:
            await anyio.sleep_forever()
        finally:
            freed.set()

    async with scripted_server(script) as server, connected(server) as client:
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.2)
        with anyio.fail_after(10):
            await freed.wait()


async def test_fifty_requests_at_once_each_get_their_own_answer():
    answers = {}

    async def one(client, index):
        if index % 2:
            stream = await client.responses.create(model=MODEL, input=f"{index}", stream=True)
            answers[index] = "".join([event.delta async for event in stream if event.type.endswith("text.delta")])
        else:
            said = await client.chat.completions.create(model=MODEL, messages=[user(f"{index}")])
            answers[index] = said.choices[0].message.content

    def script(received):
        asked = received.body.get("input") or received.body["messages"][0]["content"]
        return Reply(f"this is the answer to {asked}")

    async with scripted_server(script) as server, connected(server) as client, anyio.create_task_group() as group:
        for index in range(50):
            group.start_soon(one, client, index)

    assert answers == {index: f"this is the answer to {index}" for index in range(50)}
    assert [r.number for r in server.requests] == [*range(1, 51)]


async def test_a_sequence_is_shared_out_among_parallel_requests():
    said = []

    async def one(client):
        said.append((await ask(client)).output_text)

    async with serving(*map(str, range(50))) as (_, client), anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(one, client)

    assert sorted(said, key=int) == [*map(str, range(50))]


async def test_it_takes_a_port_of_loopback_and_gives_it_back():
    async with scripted_server(["x"]) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with scripted_server(["x"], port=port):
                pass
    async with scripted_server(["again"], port=port) as second, connected(second) as client:
        assert (await ask(client)).output_text == "again"

    assert second.url == server.url == f"http://127.0.0.1:{port}"
    assert second.base_url == f"{second.url}/v1"


async def test_it_leaves_signals_and_the_console_alone(capfd, caplog):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with serving("x", Reply("x", cut_after=1), Hang(3600)) as (_, client):
        during = {number: signal.getsignal(number) for number in before}
        await ask(client)
        with pytest.raises(openai.APIConnectionError):
            [event async for event in await ask(client, stream=True)]
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.1)

    assert during == before
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "turnlog"))] == []


async def test_two_servers_run_side_by_side():
    async with serving("left") as (one, left), serving("right") as (other, right):
        said = [(await ask(left)).output_text, (await ask(right)).output_text]

    assert said == ["left", "right"]
    assert one.url != other.url


@pytest.mark.parametrize("absent", ["starlette", "uvicorn"])
def test_without_the_extra_the_import_names_it(absent):
    code = f"import sys; sys.modules[{absent!r}] = None; import turnlog.engine.testing.server"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert "ImportError: " in done.stderr
    assert 'pip install "turnlog[testing]"' in done.stderr
