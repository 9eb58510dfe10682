"""What goes wrong with an answer: the error that the caller gets, what the log says of it, and that it goes on."""

import json
import socket

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from turnlog import ResponseFailed
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.events import ResponseFailed as Failed
from turnlog.engine.model import helps
from turnlog.engine.testing.server import Call, Fail, Hang, Raw, Reply, Text

pytestmark = pytest.mark.anyio


async def fails(s, model, *, kinds, **options):
    """Ask, and return the error, having checked the log and that the next turn works."""
    c = await s.engine.create()
    with pytest.raises(ResponseFailed) as raised:
        await c.respond(model, "Hi", **options)
    error = raised.value
    seen = await s.kinds(c)
    assert seen == ["user", "response.requested", *kinds, "response.failed"]
    assert error.result.status == "incomplete"
    assert error.result.conversation is c
    assert error.result.version == len(seen) + 1
    events = [event async for event in c.events()]
    failed = Failed(**events[-1].data)
    assert (failed.code, failed.status_code, failed.retryable) == (error.code, error.status_code, error.retryable)
    assert failed.kind == error.result.reason
    (info,) = [info async for info in s.engine.list() if info.id == c.id]
    assert not info.busy
    (call,) = [call async for call in c.responses()]
    assert call.status == "failed"
    assert call.error == f"{failed.code or failed.kind}: {failed.message}"
    # The input is in the log: asking again takes no other, and what came of the failure is not sent.
    again = await c.respond(model, **options)
    assert (again.output_text, again.turn) == ("Again.", 2)
    return error, failed


STATUSES = {
    400: (openai.BadRequestError, False),
    401: (openai.AuthenticationError, False),
    403: (openai.PermissionDeniedError, False),
    404: (openai.NotFoundError, False),
    408: (openai.APIStatusError, True),
    409: (openai.ConflictError, True),
    413: (openai.APIStatusError, False),
    422: (openai.UnprocessableEntityError, False),
    429: (openai.RateLimitError, True),
    500: (openai.InternalServerError, True),
    503: (openai.InternalServerError, True),
}


@pytest.mark.parametrize("status", STATUSES)
async def test_statuses(stage, api, status):
    async with stage(Fail(status, code="some_code", message="So it is."), "Again.") as s:
        error, failed = await fails(s, s.model(api), kinds=[])
    kind, retryable = STATUSES[status]
    assert (error.code, error.status_code, error.retryable) == ("some_code", status, retryable)
    assert isinstance(error.__cause__, kind)
    assert (failed.kind, failed.retries) == ("http", 0)
    assert "So it is." in str(error)
    assert "So it is." in failed.message


async def test_the_servers_word_on_trying_again(stage, api):
    script = (
        Fail(429, code="insufficient_quota"),
        "Again.",
        Fail(500, headers={"x-should-retry": "false"}),
        "Again.",
        Fail(400, headers={"x-should-retry": "true"}),
        "Again.",
    )
    async with stage(*script) as s:
        said = [(await fails(s, s.model(api), kinds=[]))[0].retryable for _ in range(3)]
    assert said == [False, False, True]


@pytest.mark.parametrize(
    "answer",
    [
        Raw(b"<html>Bad gateway</html>" * 400, status=502, content_type="text/html"),
        Raw(b'{"error": {"message": "no model", "code": 404}}', status=404, content_type="application/json"),
        Raw(b'{"error": {"message": "\\ud800", "code": "\\udfff"}}', status=500, content_type="application/json"),
        Raw(b'{"error": "a text"}', status=500, content_type="application/json"),
        Raw(b'{"detail": [{"loc": ["body"], "msg": "x"}]}', status=422, content_type="application/json"),
        Raw(b'["no", "object"]', status=500, content_type="application/json"),
        Raw(b"", status=503),
    ],
    ids=["page", "number", "surrogates", "text", "detail", "list", "empty"],
)
async def test_errors_of_any_shape(stage, api, answer):
    async with stage(answer, "Again.") as s:
        error, failed = await fails(s, s.model(api), kinds=[])
    assert (failed.kind, error.status_code) == ("http", answer.status)
    assert len(failed.message) <= 2000
    assert error.code in (None, "404", "\ufffd")


async def test_retries_of_the_client_are_counted(stage, api):
    soon = {"retry-after-ms": "1"}
    fine = {"max_retries": 2}
    async with stage(Fail(500, headers=soon), Fail(429, headers=soon), "Third time", client=fine) as s:
        c = await s.engine.create()
        await c.respond(s.model(api), "Hi")
        (end,) = [event async for event in c.events() if event.type == "response.completed"]
        assert end.data["retries"] == 2
        assert len(s.bodies) == 3
    async with stage(*[Fail(500, headers=soon)] * 3, "Again.", client=fine) as s:
        _, failed = await fails(s, s.model(api), kinds=[])
    assert failed.retries == 2


async def test_a_request_that_may_act_twice_is_sent_once(stage):
    """Whether the server's own tools have run, nobody knows."""
    hosted = {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example"}
    async with stage(Fail(500, headers={"retry-after-ms": "1"}), "Again.", client={"max_retries": 2}) as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed):
            await c.respond(s.model("responses"), "Buy it", tools=[hosted])
        assert len(s.bodies) == 1
        assert (await c.respond(s.model("responses"), tools=[hosted])).output_text == "Again."


async def test_connection_refused(engine, api):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    url = f"http://127.0.0.1:{port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="sk", max_retries=0, http_client=transport) as client:
        model = (Responses if api == "responses" else ChatCompletions)(client, "gpt-4o-mini")
        c = await engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(model, "Hi")
    assert isinstance(raised.value.__cause__, openai.APIConnectionError)
    assert (raised.value.result.reason, raised.value.retryable) == ("connection", True)
    assert [event.type async for event in c.events()][-1] == "response.failed"


async def test_a_server_that_says_nothing(stage, api):
    async with stage(Hang(60), "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model(api), "Hi", params={"timeout": 0.1})
        assert isinstance(raised.value.__cause__, openai.APITimeoutError)
        assert (raised.value.result.reason, raised.value.retryable) == ("timeout", True)
        assert (await c.respond(s.model(api))).output_text == "Again."


async def test_a_server_that_stops_in_the_middle(stage, api):
    async with stage(Reply("A long answer", delay=0.2), "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model(api), "Hi", params={"timeout": 0.1})
        assert isinstance(raised.value.__cause__, httpx2.ReadTimeout)
        assert (raised.value.result.reason, raised.value.retryable) == ("timeout", True)
        assert (await c.respond(s.model(api))).output_text == "Again."


async def test_a_server_that_hangs_up(stage, api):
    async with stage(Hang(0), "Again.") as s:
        error, failed = await fails(s, s.model(api), kinds=[])
    assert isinstance(error.__cause__, openai.APIConnectionError)
    assert failed.kind == "connection"


LONG = Reply(Text("One sentence."), Call("look", {"at": "the sea"}), Text("Another sentence."))


@pytest.mark.parametrize(("api", "cut"), [("responses", n) for n in range(23)] + [("chat", n) for n in range(12)])
async def test_a_stream_that_is_cut(stage, api, cut):
    """The connection closes after some events, before the end."""
    answer = Reply(*LONG.parts, cut_after=cut)
    async with stage(answer, "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model(api), "Hi")
        assert (raised.value.result.reason, raised.value.retryable) == ("stream", True)
        assert isinstance(raised.value.__cause__, httpx2.RemoteProtocolError)
        kinds = await s.kinds(c)
        assert kinds[:2] == ["user", "response.requested"]
        assert kinds[-1] == "response.failed"
        again = await c.respond(s.model(api))
        assert again.output_text == "Again."
        key = "input" if api == "responses" else "messages"
        assert s.bodies[1][key] == s.bodies[0][key]


async def test_an_answer_in_one_piece_that_is_cut(stage, api):
    body = json.dumps({"id": "x", "output": [], "choices": []}).encode()
    async with stage(Raw(body[:-9], content_type="application/json"), "Again.") as s:
        error, failed = await fails(s, s.model(api), kinds=[])
    assert (failed.kind, error.retryable) == ("answer", True)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Raw(b""), "stream"),
        (Raw(b"\n\n: nothing\n\n"), "stream"),
        (Raw(b"data: [DONE]\n\n"), "stream"),
        (Raw(b"data: {not json\n\n"), "answer"),
        (Raw(b"data: [1, 2]\n\n"), "answer"),
        (Raw(b"data: " + b"[" * 100_000 + b"\n\n"), "answer"),
        (Raw(b"<html>Please log in</html>", content_type="text/html"), "answer"),
        (Raw(b"Please log in", content_type="text/event-stream"), "answer"),
        (Raw(b'{"detail": "no"}', content_type="text/plain"), None),
        (Raw(b'{"detail": ', content_type="text/plain"), "answer"),
        (Raw(b"", content_type="application/json"), "answer"),
        (Raw(b"[]", content_type="application/json"), "answer"),
        (Raw(b'{"detail": "no"}', content_type="application/json"), None),
        (Raw(b'{"error": {"message": "no", "code": "server_error"}}', content_type="application/json"), "model"),
        (Raw(b'{"error": "no"}', content_type="application/json"), "model"),
        (Raw(b'data: {"error": {"message": "no", "code": 500}}\n\n'), "model"),
    ],
)
async def test_answers_that_are_none(stage, api, answer, kind):
    async with stage(answer, "Again.") as s:
        error, failed = await fails(s, s.model(api), kinds=[])
    expected = kind or ("answer" if api == "responses" else "stream")
    assert (failed.kind, error.retryable) == (expected, True)


PAGE = b"\n<!doctype html><html><body>Please log in" + b" to go on" * 400


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "text/event-stream", "application/json"])
async def test_what_came_in_place_of_an_answer_is_named(stage, api, content_type):
    async with stage(Raw(PAGE, content_type=content_type), "Again.") as s:
        _, failed = await fails(s, s.model(api), kinds=[])
    assert failed.message.startswith("the answer is no ")
    assert f"{content_type}: '<!doctype html><html><body>Please log in to go on" in failed.message
    assert len(failed.message) < 400


# -- errors inside of an answer


@pytest.mark.parametrize("as_event", ["failed", "error_nested", "error_flat"])
async def test_a_response_that_fails(stage, as_event):
    error = {"code": "server_error", "message": "Something broke."}
    answer = Reply("Half an answer", status="failed", error=error, as_event=as_event)
    async with stage(answer, "Again.") as s:
        raised, failed = await fails(s, s.model("responses"), kinds=["response.started"])
    assert (raised.code, raised.status_code, raised.retryable) == ("server_error", None, True)
    assert "Something broke." in str(raised)
    assert failed.kind == "model"


async def test_a_chat_stream_that_fails(stage):
    error = {"code": "rate_limit_exceeded", "message": "Too fast."}
    async with stage(Reply("Half an answer", status="failed", error=error), "Again.") as s:
        raised, _ = await fails(s, s.model("chat"), kinds=["response.started"])
    assert (raised.code, raised.retryable) == ("rate_limit_exceeded", True)


@pytest.mark.parametrize("code", ["context_length_exceeded", "invalid_prompt", "bio_policy", "image_too_large"])
async def test_failures_that_last(stage, api, code):
    async with stage(Reply("x", status="failed", error={"code": code, "message": "No"}), "Again.") as s:
        raised, _ = await fails(s, s.model(api), kinds=["response.started"])
    assert (raised.code, raised.retryable) == (code, False)


def test_which_codes_pass():
    passing = (None, "server_error", "rate_limit_exceeded", "vector_store_timeout", "500", "overloaded")
    lasting = (
        "invalid_request_error",
        "unknown_parameter",
        "unsupported_value",
        "misalignment_policy_violation",
        "data_residency_mismatch",
        "model_not_found",
        "insufficient_quota",
    )
    assert [helps(code) for code in passing] == [True] * len(passing)
    assert [helps(code) for code in lasting] == [False] * len(lasting)


async def test_retries_before_an_error_inside_of_an_answer(stage, api):
    script = (Fail(500, headers={"retry-after-ms": "1"}), Reply("x", status="failed"), "Again.")
    async with stage(*script, client={"max_retries": 1}) as s:
        _, failed = await fails(s, s.model(api), kinds=["response.started"])
    assert failed.retries == 1


async def test_a_failed_response_in_the_middle_of_a_run(stage, api):
    async def look() -> str:
        return "seen"

    async with stage(Call("look"), Reply("x", status="failed"), "Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.run(s.model(api), "Look", tools=[look])
        assert [item["type"] for item in raised.value.result.items] == ["function_call", "function_call_output"]
        assert raised.value.result.turn == 2
        assert (await c.run(s.model(api), tools=[look])).output_text == "Again."
        assert [call.turn async for call in c.responses()] == [2, 2, 2]


async def test_a_stream_of_a_failing_answer(stage, api):
    async with stage(Reply("Half", status="failed"), "Again.") as s:
        c = await s.engine.create()
        seen = []
        async with c.stream(s.model(api), "Hi") as stream:
            with pytest.raises(ResponseFailed) as raised:
                async for event in stream:
                    seen.append(event.type)  # noqa: PERF401 - it raises, and what came before it counts
            with pytest.raises(ResponseFailed):
                await stream.result()
        assert "response.output_text.delta" in seen
        assert raised.value.code == "server_error"


# -- the client itself


async def test_params_that_cannot_be_sent(stage, api):
    async with stage("Again.") as s:
        c = await s.engine.create()
        with pytest.raises(ResponseFailed) as raised:
            await c.respond(s.model(api), "Hi", params={"extra_headers": {"x-number": object()}})
        assert (raised.value.result.reason, raised.value.retryable) == ("client", False)
        assert raised.value.__cause__ is not None
        assert (await c.respond(s.model(api))).output_text == "Again."


class Broken:
    """A model of somebody's own, with a mistake in it."""

    name = "gpt-4o-mini"
    backend = "here"
    budget = None

    def encode(self, window, settings):
        return {"input": window.items}

    async def send(self, request):
        from turnlog import StreamEvent

        yield StreamEvent(type="response.created", raw={"response": {"id": "r_\udc00"}})
        yield StreamEvent(type="response.output_text.delta", delta="so f\udc00r", raw={})
        raise ZeroDivisionError("oh")


async def test_an_adapter_with_a_mistake(engine):
    c = await engine.create()
    with pytest.raises(ResponseFailed, match="ZeroDivisionError: oh") as raised:
        await c.respond(Broken(), "Hi")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert raised.value.result.reason == "adapter"
    assert raised.value.result.response_id == "r_\ufffd"
    kinds = [event.type async for event in c.events()]
    assert kinds[-2:] == ["response.started", "response.failed"]
