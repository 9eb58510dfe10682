"""Asking the API for a count: of exactly what would be sent, with nothing logged and nothing answered."""

from types import SimpleNamespace

import pytest

from turnlog import Budget, Invalid, ResponseFailed, open_engine
from turnlog.adapters.responses import Responses
from turnlog.engine.errors import UnknownModel
from turnlog.engine.model import ModelFailure
from turnlog.engine.testing.server import Call, Reason, Reply
from turnlog.engine.window.window import Tokens

pytestmark = pytest.mark.anyio


async def look(at: str) -> str:
    return f"I have seen {at}."


@pytest.fixture
async def engine():
    async with open_engine(":memory:") as opened:
        yield opened


FORM = {"format": {"type": "json_schema", "name": "city", "schema": {"type": "object"}}}


async def test_the_api_counts_what_would_be_sent(stage):
    async with stage(Reply(Reason("Pondering."), Call("look", {"at": "the sea"})), "It is blue.", "Yes.") as s:
        params = {"text": FORM, "temperature": 0.5, "max_output_tokens": 100, "reasoning": {"effort": "low"}}
        model = s.model("responses", "gpt-5.5", params=params)
        c = await s.engine.create()
        await c.run(model, "What about the sea?", tools=[look], instructions="Be brief.")
        await c.append("And the sky?")
        before = c.version
        found = await c.count(model, tools=[look], instructions="Be brief.")
        assert (await c.refresh()).version == before
        assert s.server.requests[-1].number == 2
        (counted,) = s.server.counted
        await c.respond(model, tools=[look], instructions="Be brief.")
        sent = s.bodies[-1]
        asked = ("model", "input", "instructions", "tools", "text", "reasoning")
        assert counted == {key: sent[key] for key in asked}
        assert found.measured
        assert found.bound == 0
        assert found.total > 100


async def test_it_counts_other_windows_too(stage):
    async with stage(count=len) as s:
        c = await s.engine.create()
        await c.append("one", "two", {"role": "assistant", "content": "three " * 200}, "four")
        model = s.model("responses")
        whole, early, tight = [
            await c.count(model, *rest, **more) for rest, more in (((), {}), ((), {"at": 3}), ((Budget(100),), {}))
        ]
        assert whole.total > early.total > tight.total
        assert [len(body["input"]) for body in s.server.counted] == [4, 2, 1]
        for tools in ([look], iter([look])):
            await c.count(model, tools=tools)
        assert s.server.counted[-1] == s.server.counted[-2]
        with pytest.raises(UnknownModel):
            await c.count(s.model("responses", "acme-7b"))


async def test_what_cannot_ask_says_so(stage):
    async with stage() as s:
        c = await s.engine.create()
        await c.append("hi")
        with pytest.raises(Invalid, match="ChatCompletions cannot ask its API for a count"):
            await c.count(s.model("chat"))
        with pytest.raises(Invalid, match="an adapter is needed"):
            await c.count("gpt-4o")


async def test_an_api_that_does_not_count_is_a_failure_that_is_not_logged(stage, monkeypatch):
    async with stage() as s:
        c = await s.engine.create()
        await c.append("hi")
        nowhere = s.client.with_options(base_url=f"{s.server.url}/elsewhere")
        with pytest.raises(ResponseFailed, match="gpt-4o-mini: ") as caught:
            await c.count(Responses(nowhere, "gpt-4o-mini"))
        assert (caught.value.status_code, caught.value.retryable) == (404, False)
        assert type(caught.value.__cause__).__name__ == "NotFoundError"
        assert (caught.value.result.status, caught.value.result.reason) == ("incomplete", "http")
        assert (await c.refresh()).version == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(ModelFailure("timeout", "too late", retryable=True), "timeout"), (ZeroDivisionError("oops"), "adapter")],
)
async def test_whatever_goes_wrong_in_an_adapter_is_its_failure(engine, answer, kind):
    class Failing(Responses):
        async def count_input(self, request, **transport):
            raise answer

    c = await engine.create()
    await c.append("hi")
    with pytest.raises(ResponseFailed) as caught:
        await c.count(Failing(SimpleNamespace(responses=None), "gpt-4o"))
    assert (caught.value.result.reason, caught.value.retryable) == (kind, kind == "timeout")


@pytest.mark.parametrize("told", [b"[]", b'{"input_tokens": "9"}', b'{"input_tokens": true}', b"{}", b'"[DONE]"'])
async def test_an_answer_without_a_count_is_a_failure(engine, told):
    import httpx2
    from openai import AsyncOpenAI

    answer = httpx2.MockTransport(
        lambda _: httpx2.Response(200, content=told, headers={"content-type": "application/json"})
    )
    async with AsyncOpenAI(api_key="k", http_client=httpx2.AsyncClient(transport=answer), max_retries=0) as client:
        c = await engine.create()
        await c.append("hi")
        with pytest.raises(ResponseFailed, match="no count of input tokens"):
            await c.count(Responses(client, "gpt-4o"))


async def test_the_transport_of_a_model_carries_its_counts(engine):
    seen = {}

    class Seeing(Responses):
        async def count_input(self, request, **transport):
            seen.update(transport)
            return 9

    c = await engine.create()
    await c.append("hi")
    model = Seeing(SimpleNamespace(responses=None), "gpt-4o", params={"timeout": 3.0, "extra_headers": {"x-who": "me"}})
    assert await c.count(model) == Tokens(9, True, 0)
    assert seen == {"timeout": 3.0, "extra_headers": {"x-who": "me"}}
