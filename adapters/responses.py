"""The Responses API: `Responses(client, "gpt-5")`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal

import anyio

from turnlog.adapters.wire import (
    DONE,
    Said,
    check,
    check_client,
    drain,
    failing,
    is_openai,
    label,
    of_cache,
    receive,
    said_error,
)
from turnlog.engine.errors import Invalid
from turnlog.engine.forms import with_short_id
from turnlog.engine.model import JSON, ModelFailure, StreamEvent, merged
from turnlog.engine.replay.encoders import Piecewise
from turnlog.engine.tokens import Counter
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.render import Rendered
from turnlog.engine.window.window import Window

__all__ = ("ENCODERS", "Decoder", "Responses", "encode")

_ENCRYPTED: Final = "reasoning.encrypted_content"
_COUNTED: Final = (
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "parallel_tool_calls",
    "previous_response_id",
    "conversation",
    "truncation",
)
"""What of a request the endpoint takes that counts its tokens."""


def encode(items: Sequence[Rendered], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body; pure. Version 3.

    `settings["state"]` is how the server keeps state, and `settings["remote"]` what the items follow there: the id of a
    response, or of a conversation. What runs in the background is kept in any case: it has to be asked for later.
    `settings["purpose"]` is "compaction" for `POST /responses/compact`, which takes few parameters.
    `settings["recorded"]` holds all but the input of a request that was made elsewhere.
    """
    if settings.get("purpose") == "compaction":
        params = {key: value for key, value in settings.get("params", {}).items() if key in _COMPACTING}
        said = {"instructions": settings["instructions"]} if "instructions" in settings else {}
        return {"model": settings["model"], "input": [one.item for one in items], **said, **params}
    background = settings.get("params", {}).get("background") is True
    state, remote = settings.get("state", "stateless"), settings.get("remote")
    where = {_REMOTE[state]: remote} if remote else {}
    body = _encode(items, settings)
    if "recorded" in settings:
        return body
    body["input"] = [with_short_id(item) for item in body["input"]]
    return {**body, "store": state != "stateless" or background, **where}


def _encode(items: Sequence[Rendered], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stateless request's body; pure. Version 2, which alone is given a `cache_key`; else as version 1 was."""
    given = [one.item for one in items]
    if "recorded" in settings:
        whole = settings.get("input") == "text" and len(given) == 1
        body = {**settings["recorded"], "input": given[0]["content"] if whole else given}
        if settings.get("input") == "none":
            del body["input"]
        return body
    body = {"model": settings["model"], "input": given, "stream": True, "store": False, **of_cache(settings)}
    for name in ("instructions", "tools", "context_management"):
        if name in settings:
            body[name] = settings[name]
    params = settings.get("params", {})
    include = params.get("include") or []
    if isinstance(include, list) and _ENCRYPTED not in include:
        include = [*include, _ENCRYPTED]
    return {**body, **params, "include": include}


_COMPACTING: Final = frozenset(
    {"image", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "service_tier"}
)
"""The parameters that compacting takes."""
_REMOTE: Final = {"chained": "previous_response_id", "conversation": "conversation"}
"""The parameter that names what the input follows, by state."""


def _pieces(items: Sequence[Rendered], settings: Mapping[str, Any]) -> list[Any]:  # noqa: ARG001 - one signature
    return [one.item for one in items]


def _short_pieces(items: Sequence[Rendered], settings: Mapping[str, Any]) -> list[Any]:
    whole = settings.get("purpose") == "compaction" or "recorded" in settings
    return [one.item if whole else with_short_id(one.item) for one in items]


_STATELESS: Final = Piecewise(_encode, "input", _pieces)
ENCODERS: Final = {1: _STATELESS, 2: _STATELESS, 3: Piecewise(encode, "input", _short_pieces)}


class Responses:
    """An adapter for `POST /responses`. The log is the truth, whatever state the server keeps.

    A request that follows what the server holds carries only what is new; when that is gone, locked, or something else
    than the log has, turnlog sends the whole window once, by itself. See `turnlog.adapters.conversations` for writing
    to a conversation of the server's, and reading from one.

    Args:
        client: an `openai.AsyncOpenAI`, or any client of that shape; its retries and timeout are its own.
        model: the model's name.
        state: "stateless": every request carries its window, and nothing is stored; "chained": responses are stored,
            and a request names the one before; "conversation": they belong to a conversation of the server's.
        params: go into every request as they are, in the API's own words. To OpenAI itself a `prompt_cache_key` goes
            too, unless one is here: the conversation's id, in a fork its parent's.
        budget: the model's context window; default: that of a known model.
        count: a tokenizer of the model's own, for models that are not OpenAI's.
        backend: a label of where the model runs, the only one that encrypted reasoning goes back to; default: the
            client's host and port.
        stall: seconds without any event after which an answer counts as lost; default: only the client's timeout.

    Raises:
        Invalid: an argument that is of another type, or a parameter that turnlog decides itself.
    """

    api: Final = "responses"
    adapter: Final = "responses"
    encoder: Final = 3

    def __init__(
        self,
        client: Any,
        model: str,
        *,
        state: Literal["stateless", "chained", "conversation"] = "stateless",
        params: JSON | None = None,
        budget: Budget | None = None,
        count: Counter | None = None,
        backend: str | None = None,
        stall: float | None = None,
    ) -> None:
        if state not in ("stateless", *_REMOTE):
            raise Invalid(f"state={state!r:.100}: stateless, chained or conversation is needed")
        check_client(client, "responses")
        check(model, budget, count, backend, stall)
        merged(params, None)
        self.client = client
        self.name = model
        self.state = state
        self.params = dict(params or {})
        self.budget = budget
        self.count = count
        self.backend = backend or label(client)
        self.takes_cache_key = is_openai(client)
        self.stall = stall

    def __repr__(self) -> str:
        state = "" if self.state == "stateless" else f"state={self.state!r}, "
        return f"Responses({self.name!r}, {state}backend={self.backend!r})"

    def encode(self, window: Window, settings: JSON) -> dict[str, Any]:
        """Return the body of a request; see `encode`."""
        return encode(window.news, window.addressed(settings))

    async def open_remote(self, **transport: Any) -> str:
        """Make a conversation at the server; return its id.

        Raises:
            ModelFailure: it could not be made.
        """
        with failing():
            made = await self.client.with_options(max_retries=0).conversations.create(**transport)
        return str(made.id)

    async def send(self, request: JSON, **transport: Any) -> AsyncIterator[StreamEvent]:
        """Send a body as it is and yield what comes back; where the stream of a background response breaks, poll it.

        Raises:
            ModelFailure: the model did not answer.
        """
        decoder = Decoder()
        client = self.client.with_options(max_retries=0) if _acts(request) else self.client
        opening = client.responses.with_streaming_response.create(
            model=request["model"], extra_body=dict(request), **transport
        )
        try:
            async with aclosing(self._received(opening, decoder, self.stall)) as events:
                async for event in events:
                    yield event
        except ModelFailure as failure:
            if request.get("background") is not True or decoder.response_id is None or failure.kind not in _BROKEN:
                raise
        if not decoder.ended and request.get("background") is True and decoder.response_id is not None:
            async with aclosing(self._polled(decoder.response_id, decoder, transport)) as events:
                async for event in events:
                    yield event

    async def compact(self, request: JSON, **transport: Any) -> AsyncIterator[StreamEvent]:
        """Send a body to be compacted; yield the items of the result, as if they were an answer.

        Raises:
            ModelFailure: there is no result.
        """
        opening = self.client.responses.with_streaming_response.compact(
            model=request["model"], extra_body=dict(request), **transport
        )
        async with aclosing(self._received(opening, Decoder(), self.stall)) as events:
            async for event in events:
                yield event

    async def _received(self, opening: Any, decoder: Decoder, stall: float | None) -> AsyncGenerator[StreamEvent, None]:
        async with aclosing(receive(opening, stall=stall)) as answer:
            async for said in answer:
                events = decoder.feed(said)
                if decoder.ended:
                    await drain(answer)
                for event in events:
                    yield event
                if decoder.ended:
                    return

    async def count_input(self, request: JSON, **transport: Any) -> int:
        """Return the tokens of a request's input as the API counts them, by `POST /responses/input_tokens`.

        Raises:
            ModelFailure: the API did not say; some backends have no such endpoint.
        """
        body = {key: request[key] for key in _COUNTED if key in request}
        opening = self.client.responses.input_tokens.with_streaming_response.count(extra_body=body, **transport)
        async with aclosing(receive(opening)) as answer:
            async for said in answer:
                tokens = said.value.get("input_tokens") if isinstance(said.value, dict) else None
                if type(tokens) is int and tokens >= 0:
                    return tokens
        raise ModelFailure("answer", "the answer holds no count of input tokens")

    # -- in the background

    async def resume(self, response_id: str, **transport: Any) -> AsyncIterator[StreamEvent]:
        """Wait for the end of a background response that somebody else has asked for; yield what came of it.

        Raises:
            ModelFailure: it failed, it was cancelled, or it is not there.
        """
        async with aclosing(self._polled(response_id, Decoder(), transport)) as events:
            async for event in events:
                yield event

    async def _polled(
        self, response_id: str, decoder: Decoder, transport: Mapping[str, Any]
    ) -> AsyncGenerator[StreamEvent, None]:
        look = self.client.responses.with_streaming_response.retrieve
        failures = 0
        for pause in _pauses():
            opening = look(response_id, include=[_ENCRYPTED], **transport)
            try:
                async with aclosing(self._received(opening, decoder, self.stall)) as events:
                    async for event in events:
                        yield event
                failures = 0
            except ModelFailure as failure:
                # That it cannot be seen for a while does not stop it.
                failures += 1
                if failure.kind == "model" or not failure.retryable or failures == _BLIND:
                    raise
            if decoder.ended:
                return
            await anyio.sleep(pause)

    async def cancel(self, response_id: str, **transport: Any) -> None:
        """Stop a background response at its server.

        Raises:
            ModelFailure: that did not work.
        """
        with failing():
            await self.client.responses.cancel(response_id, **transport)


class Decoder:
    """Turns what the API says into stream events. Sans I/O."""

    def __init__(self) -> None:
        self.ended = False
        """Whether nothing of meaning can follow."""
        self.response_id: str | None = None
        self._done: set[int] = set()

    def feed(self, said: Said) -> list[StreamEvent]:
        """Return the events that one JSON value stands for.

        Raises:
            ModelFailure: it says that something went wrong.
        """
        value = said.value
        if value == DONE:
            self.ended = True
            return []
        if not isinstance(value, dict):
            raise ModelFailure("answer", f"the answer is no JSON object but a {type(value).__name__}", retryable=True)
        if not said.streamed:
            return self._whole(value, said)
        kind = value.get("type")
        if kind == "error" or (value.get("error") and not isinstance(kind, str)):
            raise said_error(value.get("error") or value, said.retries)
        if not isinstance(kind, str):
            return []
        if kind == "response.output_item.done":
            return [self._finished(value, said)]
        if kind in _ENDS:
            return self._end(kind, value, said)
        if kind == "response.created":
            self._name(value.get("response"))
        delta = value.get("delta")
        return [StreamEvent(type=kind, delta=delta if isinstance(delta, str) else "", raw=value)]

    def _name(self, response: Any) -> None:
        name = response.get("id") if isinstance(response, dict) else None
        self.response_id = name if isinstance(name, str) else self.response_id

    def _finished(self, value: dict[str, Any], said: Said) -> StreamEvent:
        item, index = value.get("item"), value.get("output_index")
        if not isinstance(item, dict):
            return StreamEvent(type="response.output_item.done", raw=value)
        self._done.add(index if isinstance(index, int) else len(self._done))
        return StreamEvent(type="response.output_item.done", item=item, raw=value, repaired=said.repaired)

    def _end(self, kind: str, value: dict[str, Any], said: Said) -> list[StreamEvent]:
        self.ended = True
        return [*self._missed(value, said), StreamEvent(type=kind, raw=value, extra={"retries": said.retries})]

    def _missed(self, value: Mapping[str, Any], said: Said) -> Iterator[StreamEvent]:
        """Yield the items of the end that no event of their own has brought."""
        response = value.get("response")
        output = response.get("output") if isinstance(response, dict) else None
        for index, item in enumerate(output if isinstance(output, list) else []):
            if index in self._done or not isinstance(item, dict):
                continue
            # What was replaced elsewhere in the answer is not said of this item.
            place = f"output[{index}]"
            repaired = [one for one in said.repaired if place in one or one.startswith("$:")]
            raw = {"type": "response.output_item.done", "output_index": index, "item": item}
            yield StreamEvent(type="response.output_item.done", item=item, raw=raw, repaired=repaired)

    def _whole(self, value: dict[str, Any], said: Said) -> list[StreamEvent]:
        """Read an answer that came in one piece, although a stream was asked for."""
        status = value.get("status")
        if value.get("error") and not isinstance(status, str):
            raise said_error(value["error"], said.retries)
        if not isinstance(value.get("output"), list) and status != "failed":
            raise ModelFailure("answer", "the answer is JSON, but no response", retryable=True, retries=said.retries)
        self._name(value)
        if status in _GOING:
            return [StreamEvent(type=f"response.{status}", raw={"type": f"response.{status}", "response": value})]
        if status == "cancelled":
            raise ModelFailure("model", "the response was cancelled at its server", code="cancelled", retryable=True)
        kind = "response.completed" if status in ("completed", None) else f"response.{status}"
        created = StreamEvent(type="response.created", raw={"type": "response.created", "response": value})
        end = {"type": kind, "response": value}
        return [created, *self._end(kind if kind in _ENDS else "response.failed", end, said)]


def _acts(request: JSON) -> bool:
    """Return whether a request changes more than its own answer, so that a second one could act twice."""
    tools = request.get("tools")
    hosted = isinstance(tools, list) and any(isinstance(tool, dict) and tool.get("type") == "mcp" for tool in tools)
    return hosted or request.get("background") is True or request.get("conversation") is not None


def _pauses() -> Iterator[float]:
    """Yield the seconds between one look at a background response and the next."""
    pause = _FIRST_LOOK
    while True:
        yield pause
        pause = min(pause * 1.5, _LAST_LOOK)


_FIRST_LOOK: Final = 0.1
_LAST_LOOK: Final = 5.0
_BLIND: Final = 6
"""Looks in a row that may fail."""
_BROKEN: Final = frozenset({"stream", "timeout", "connection"})
"""Failures behind which a background response goes on."""
_GOING: Final = frozenset({"queued", "in_progress"})
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
