"""The proxy that does what networks do."""

import asyncio

import openai
import pytest

from server_talk import ask, connected, serving
from turnlog.engine.testing.proxy import Fault, fault_proxy
from turnlog.engine.testing.server import Raw, Reply, scripted_server

pytestmark = pytest.mark.anyio

TEXT = "Grüße aus Köln 🙂 " * 20


class At:
    """Something with an address, for a client."""

    def __init__(self, url):
        self.base_url = f"{url}/v1"


async def test_without_a_fault_everything_goes_through():
    async with scripted_server([TEXT, TEXT]) as server, fault_proxy(server.url) as url:
        async with connected(At(url)) as client:
            assert (await ask(client)).output_text == TEXT
            events = [event async for event in await ask(client, stream=True)]
    assert events[-1].response.output_text == TEXT


@pytest.mark.parametrize("then", ["reset", "close"])
@pytest.mark.parametrize("after", [0, 1, 40, 700])
async def test_a_connection_ends(then, after):
    before = asyncio.all_tasks()
    async with scripted_server([Reply(TEXT), "again"]) as server:
        async with fault_proxy(server.url, Fault(after=after, then=then)) as url, connected(At(url)) as client:
            with pytest.raises(openai.APIConnectionError):
                async for _ in await ask(client, stream=True):
                    pass
            assert (await ask(client)).output_text == "again"
    assert asyncio.all_tasks() == before


async def test_a_connection_stalls():
    async with scripted_server([Reply(TEXT), "again"]) as server:
        async with fault_proxy(server.url, Fault(after=400, then="stall")) as url:
            async with connected(At(url), timeout=0.2) as client:
                with pytest.raises(openai.APIConnectionError):
                    async for _ in await ask(client, stream=True):
                        pass
                assert (await ask(client)).output_text == "again"


async def test_bytes_drip():
    async with scripted_server(["short"]) as server, fault_proxy(server.url, Fault(pace=0)) as url:
        async with connected(At(url)) as client:
            assert (await ask(client)).output_text == "short"


@pytest.mark.parametrize("fault", [{"after": -1}, {"pace": -1}, {"then": "explode"}])
def test_faults_that_cannot_be(fault):
    with pytest.raises(ValueError, match="Fault"):
        Fault(**fault)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_answers_in_pieces(size):
    async with serving(Reply(TEXT), Reply(TEXT), Raw(b"whole", content_type="text/plain"), pieces=size) as (_, client):
        assert (await ask(client)).output_text == TEXT
        async with client.responses.with_streaming_response.create(model="m", input="Hi", stream=True) as answer:
            chunks = [chunk async for chunk in answer.iter_bytes()]
        assert max(map(len, chunks)) == size
        assert b"response.completed" in b"".join(chunks)
