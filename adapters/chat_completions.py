"""The Chat Completions API: `ChatCompletions(client, "gpt-4o-mini")`, and every backend that speaks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import msgspec

from turnlog.adapters.chat_answers import Decoder
from turnlog.adapters.chat_traits import named, traits_of, unwrapped, wrapped, written
from turnlog.adapters.wire import check, check_client, drain, is_openai, label, of_cache, receive
from turnlog.engine.errors import Invalid
from turnlog.engine.messages import to_messages
from turnlog.engine.model import JSON, StreamEvent, merged
from turnlog.engine.replay.encoders import Piecewise
from turnlog.engine.tokens import Counter
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.render import Rendered, function_name
from turnlog.engine.window.window import Window

__all__ = ("ENCODERS", "ChatCompletions", "Decoder", "encode")


def encode(items: Sequence[Rendered], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body; pure. Version 3.

    `settings["traits"]` is what its backend takes, as far as that is not OpenAI's own, and `settings["recorded"]` holds
    all but the messages of a request that was made elsewhere.

    Raises:
        Invalid: a tool that Chat Completions cannot take.
    """
    body = _encoded(items, settings, apart=True)
    if "recorded" in settings:
        return body
    traits = traits_of(settings)
    body["messages"] = written(body["messages"], traits)
    if "tools" in body and not traits.custom:
        body["tools"] = [wrapped(tool) if tool["type"] == "custom" else tool for tool in body["tools"]]
    if "tools" in body and traits.functions:
        body["functions"] = [tool["function"] for tool in body.pop("tools")]
    if not traits.usage and "stream_options" not in settings.get("params", {}):
        del body["stream_options"]
    return body


def _encoded(items: Sequence[Rendered], settings: Mapping[str, Any], *, apart: bool) -> dict[str, Any]:
    """Return a request's body as OpenAI takes it; pure. Version 2.

    Version 1, where not *apart*: what several names said in a row was one message, of the last name.
    """
    if "recorded" in settings:
        return {**settings["recorded"], "messages": to_messages(items, recorded=True, apart=apart)}
    messages = _pieces(items, settings, apart=apart)
    if settings.get("instructions") is not None:
        messages.insert(0, {"role": "system", "content": settings["instructions"]})
    body: dict[str, Any] = {"model": settings["model"], "messages": messages, "stream": True, **of_cache(settings)}
    if settings.get("tools"):
        body["tools"] = [_tool(tool) for tool in settings["tools"]]
    params = settings.get("params", {})
    # Without this a stream tells no usage; the caller's own options come beside it.
    options = {"include_usage": True}
    if isinstance(params.get("stream_options"), Mapping):
        params = {**params, "stream_options": {**options, **params["stream_options"]}}
    return {**body, "stream_options": options, **params}


def _pieces(items: Sequence[Rendered], settings: Mapping[str, Any], *, apart: bool = True) -> list[Any]:
    """Return the messages of a part of a window."""
    messages = to_messages(items, apart=apart)
    _name_calls(messages, settings.get("tools") or ())
    return messages


def _written_pieces(items: Sequence[Rendered], settings: Mapping[str, Any]) -> list[Any]:
    """Return the same as the request's backend takes them."""
    return written(_pieces(items, settings), traits_of(settings))


ENCODERS: Final = {
    1: Piecewise(partial(_encoded, apart=False), "messages", partial(_pieces, apart=False)),
    2: Piecewise(partial(_encoded, apart=True), "messages", _pieces),
    3: Piecewise(encode, "messages", _written_pieces),
}


def _name_calls(messages: Iterable[dict[str, Any]], tools: Iterable[Mapping[str, Any]]) -> None:
    """See to it that calls bear names that the API takes: what a model made up may be none.

    A name that is declared stays: this backend takes it.
    """
    declared = {tool.get("name") for tool in tools}
    for message in messages:
        for call in message.get("tool_calls") or ():
            told = call.get(call.get("type"))
            if isinstance(told, dict) and isinstance(told.get("name"), str) and told["name"] not in declared:
                told["name"] = function_name(told["name"])


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool in Chat's shape: its fields under its type."""
    kind = tool.get("type")
    if kind not in ("function", "custom") or kind in tool:
        name = tool.get("name", kind)
        raise Invalid(
            f"tool {name!r}: Chat Completions takes function and custom tools, declared in the Responses shape"
        )
    fields = {key: value for key, value in tool.items() if key != "type"}
    form = fields.get("format")
    if isinstance(form, Mapping) and form.get("type") == "grammar":
        fields["format"] = {"type": "grammar", "grammar": {key: form[key] for key in form if key != "type"}}
    return {"type": kind, kind: fields}


class ChatCompletions:
    """An adapter for `POST /chat/completions`.

    Args:
        client: an `openai.AsyncOpenAI`, or any client of that shape; its retries and timeout are its own.
        model: the model's name.
        params: go into every request as they are, in the API's own words. To OpenAI itself a `prompt_cache_key` goes
            too, unless one is here: the conversation's id, in a fork its parent's.
        budget: the model's context window; default: that of a known model.
        count: a tokenizer of the model's own, for models that are not OpenAI's.
        backend: a label of where the model runs; default: the client's host and port.
        traits: what its backend takes, by a name of `turnlog.adapters.chat_traits.TRAITS`; default: by the client's
            host, else what OpenAI takes.
        stall: seconds without any event after which an answer counts as lost; default: only the client's timeout.

    Raises:
        Invalid: an argument that is of another type, or a parameter that turnlog decides itself.
    """

    api: Final = "chat"
    adapter: Final = "chat"
    encoder: Final = 3
    state: Final = "stateless"

    def __init__(
        self,
        client: Any,
        model: str,
        *,
        params: JSON | None = None,
        budget: Budget | None = None,
        count: Counter | None = None,
        backend: str | None = None,
        traits: str | None = None,
        stall: float | None = None,
    ) -> None:
        check_client(client, "chat")
        check(model, budget, count, backend, stall)
        merged(params, None)
        self.client = client
        self.name = model
        self.params = dict(params or {})
        self.budget = budget
        self.count = count
        self.backend = backend or label(client)
        self.takes_cache_key = is_openai(client)
        self.stall = stall
        self.traits = named(traits, getattr(getattr(client, "base_url", None), "host", None))
        self.thoughts = self.traits.thoughts
        other = msgspec.to_builtins(self.traits)
        self.settings: Mapping[str, Any] = {"traits": other} if other else {}

    def __repr__(self) -> str:
        return f"ChatCompletions({self.name!r}, backend={self.backend!r})"

    def encode(self, window: Window, settings: JSON) -> dict[str, Any]:
        """Return the body of a request; see `encode`."""
        return encode(window.rendered, {**self.settings, **settings})

    async def send(self, request: JSON, **transport: Any) -> AsyncIterator[StreamEvent]:
        """Send a body as it is and yield what comes back, under the Responses API's event names.

        Raises:
            ModelFailure: the model did not answer.
        """
        opening = self.client.chat.completions.with_streaming_response.create(
            model=request["model"], messages=[], extra_body=dict(request), **transport
        )
        decoder = Decoder(unwrapped(request))
        async with aclosing(receive(opening, stall=self.stall)) as answer:
            async for said in answer:
                for event in decoder.feed(said):
                    yield event
                if decoder.ended:
                    await drain(answer)
                    break
            for event in decoder.finish():
                yield event
