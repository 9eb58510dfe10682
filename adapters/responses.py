"""The Responses API: `Responses(client, "gpt-5")`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal

from turnlog.adapters.wire import DONE, Said, check, drain, is_openai, label, of_cache, receive, said_error
from turnlog.engine.errors import Invalid
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
    """Return a request's body; pure. Version 2, which alone is given a `cache_key`; otherwise it is as version 1 was.

    `settings["recorded"]` holds all but the input of a request that was made elsewhere.
    """
    given = [one.item for one in items]
    if "recorded" in settings:
        whole = settings.get("input") == "text" and len(given) == 1
        body = {**settings["recorded"], "input": given[0]["content"] if whole else given}
        if settings.get("input") == "none":
            del body["input"]
        return body
    body = {"model": settings["model"], "input": given, "stream": True, "store": False, **of_cache(settings)}
    for name in ("instructions", "tools"):
        if name in settings:
            body[name] = settings[name]
    params = settings.get("params", {})
    include = params.get("include") or []
    if isinstance(include, list) and _ENCRYPTED not in include:
        include = [*include, _ENCRYPTED]
    return {**body, **params, "include": include}


def _pieces(items: Sequence[Rendered], settings: Mapping[str, Any]) -> list[Any]:  # noqa: ARG001 - one signature
    return [one.item for one in items]


_PIECEWISE: Final = Piecewise(encode, "input", _pieces)
ENCODERS: Final = {1: _PIECEWISE, 2: _PIECEWISE}


class Responses:
    """An adapter for `POST /responses`, without state on the server: every request carries its window.

    Args:
        client: an `openai.AsyncOpenAI`, or any client of that shape; its retries and timeout are its own.
        model: the model's name.
        params: go into every request as they are, in the API's own words. To OpenAI itself a `prompt_cache_key` goes
            too, unless one is here: the conversation's id, in a fork its parent's.
        budget: the model's context window; default: that of a known model.
        count: a tokenizer of the model's own, for models that are not OpenAI's.
        backend: a label of where the model runs, the only one that encrypted reasoning goes back to; default: the
            client's host and port.

    Raises:
        Invalid: an argument that is of another type, or a parameter that turnlog decides itself.
    """

    api: Final = "responses"
    adapter: Final = "responses"
    encoder: Final = 2

    def __init__(
        self,
        client: Any,
        model: str,
        *,
        state: Literal["stateless"] = "stateless",
        params: JSON | None = None,
        budget: Budget | None = None,
        count: Counter | None = None,
        backend: str | None = None,
    ) -> None:
        if state != "stateless":
            raise Invalid(f"state={state!r}: stateless is the one there is")
        check(model, budget, count, backend)
        merged(params, None)
        self.client = client
        self.name = model
        self.state = state
        self.params = dict(params or {})
        self.budget = budget
        self.count = count
        self.backend = backend or label(client)
        self.takes_cache_key = is_openai(client)

    def __repr__(self) -> str:
        return f"Responses({self.name!r}, backend={self.backend!r})"

    def encode(self, window: Window, settings: JSON) -> dict[str, Any]:
        """Return the body of a request; see `encode`."""
        return encode(window.rendered, settings)

    async def send(self, request: JSON, **transport: Any) -> AsyncIterator[StreamEvent]:
        """Send a body as it is and yield what comes back.

        Raises:
            ModelFailure: the model did not answer.
        """
        opening = self.client.responses.with_streaming_response.create(
            model=request["model"], extra_body=dict(request), **transport
        )
        decoder = Decoder()
        async with aclosing(receive(opening)) as answer:
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


class Decoder:
    """Turns what the API says into stream events. Sans I/O."""

    def __init__(self) -> None:
        self.ended = False
        """Whether nothing of meaning can follow."""
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
        delta = value.get("delta")
        return [StreamEvent(type=kind, delta=delta if isinstance(delta, str) else "", raw=value)]

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
        kind = "response.completed" if status in ("completed", None) else f"response.{status}"
        created = StreamEvent(type="response.created", raw={"type": "response.created", "response": value})
        end = {"type": kind, "response": value}
        return [created, *self._end(kind if kind in _ENDS else "response.failed", end, said)]


_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
