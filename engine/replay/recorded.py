"""The recorded model: yesterday's answers in the place of a model, so that a service's tests need no network."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

import anyio

from ..codec import body
from ..errors import Invalid
from ..events import (
    ItemAppended,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseStarted,
    Usage,
)
from ..items import Item, parts, read
from ..model import JSON, ModelFailure, StreamEvent
from ..tokens import Counter
from ..tools import Tool, ToolContext, Tools
from ..window.budget import Budget, known
from ..window.window import Window
from .encoders import encoders
from .tape import Match, Played, Tape, Unmatched

__all__ = ("RecordedModel",)

_ENCODERS: Final = encoders()  # here, where looking around on the disk holds nobody up
_ANY: Final = 1_000_000
"""Tokens of context, where nothing says how many there were."""
_PIECE: Final = 48
"""Characters of a delta."""
_SLOWEST: Final = 1000.0
_BROKEN: Final = "the recorded answer was interrupted here"
_PATIENCE = 2.0
"""Seconds in which whoever reads an answer that was stopped has to stop it again."""


class RecordedModel:
    """A model that answers as it was recorded; whoever asks must ask what was asked then.

    What it says of itself (name, backend, API, budget) is what the next response that was not played yet was asked of;
    so items get the ids and the windows that they had. A request that is not in the recording fails with what differs,
    item by item. When all is over, `check` tells of failures and of what was not asked; `async with` and `with` do
    it too.

    An answer that was stopped (its stream was left, or its turn cancelled) is played as far as it had come, and then
    waits to be stopped again; the log is then as it was. A service that reads on fails after two seconds.

    Args:
        log: an export (`turnlog export`), packed or not, or a SQLite database of turnlog's.
        match: when a request is the recorded one. None: when its input items are; other differences, such as a changed
            prompt, are reported in `changed` (leading system and developer messages count as the prompt). "exact":
            when its body is. A function: when it returns true of both bodies, ours first.
        pace: how fast to answer; 0: at once, 1: as it was recorded, 0.5: in half of that time.
        conversation: which of several conversations to play; default: all.
        count: the tokenizer that was given to the adapter, if one was.

    Raises:
        Invalid: the file cannot be read, or holds no recorded model calls; or an argument that cannot be.
    """

    def __init__(
        self,
        log: str | os.PathLike[str],
        *,
        match: Match = None,
        pace: float = 0.0,
        conversation: str | None = None,
        count: Counter | None = None,
    ) -> None:
        self._tape = Tape(log, conversation, match, _ENCODERS)
        if type(pace) not in (int, float) or not 0 <= pace <= _SLOWEST:
            raise Invalid(f"pace={pace!r:.100}: a number is needed: 0 is at once, 1 as it was recorded")
        self._pace = float(pace)
        self._only: tuple[str | None, str | None] = (None, None)
        self.count = count
        """A tokenizer of the model's own."""
        self.params: Mapping[str, object] = {}

    def of(self, model: str, *, api: Literal["responses", "chat"] | None = None) -> RecordedModel:
        """Return the same recording as one of its models: for a service that has several.

        Raises:
            Invalid: nothing was recorded of it.
        """
        made: RecordedModel = object.__new__(type(self))
        made.__dict__ |= self.__dict__
        made._only = model, api
        made._next()
        return made

    def __repr__(self) -> str:
        played = sum(call.played for call in self._tape.calls)
        return f"<RecordedModel {self._tape.path.name}: {played} of {len(self._tape.calls)} responses played>"

    # -- what it says of itself

    @property
    def path(self) -> Path:
        """The file that it was read from."""
        return self._tape.path

    def _fits(self, call: Played) -> bool:
        model, api = self._only
        return model in (None, call.said.target.model) and api in (None, call.said.target.api)

    def _next(self) -> Played:
        return self._tape.next(self._fits)

    @property
    def name(self) -> str:
        """The model's name, as it was recorded."""
        return self._next().said.target.model

    @property
    def backend(self) -> str:
        """Where it ran."""
        return self._next().said.target.backend

    @property
    def api(self) -> Literal["responses", "chat"]:
        """Through which API it was asked."""
        return self._next().said.target.api

    @property
    def adapter(self) -> str:
        """The adapter that asked it."""
        return self._next().said.adapter

    @property
    def encoder(self) -> int:
        """The version of how requests were written."""
        return self._next().said.encoder

    @property
    def state(self) -> str:
        """How the API held state."""
        state = self._next().said.target.state
        return "stateless" if state == "recorded" else state

    @property
    def budget(self) -> Budget | None:
        """The budget that it was asked under."""
        manifest = self._next().said.manifest
        if manifest.context:
            return Budget(manifest.context, manifest.reserve)
        return known(self.name) or Budget(_ANY)

    def encode(self, window: Window, settings: JSON) -> Item:
        """Return the body of a request, as the adapter of that day would write it.

        Raises:
            Invalid: its encoder is not installed.
        """
        place = self.adapter, self.encoder
        encode = self._tape.known.get(place)
        if encode is None:
            raise Invalid(f"{self._tape.path}: no encoder {place[0]}@{place[1]} is installed")
        return encode(window.rendered, settings)

    # -- answering

    async def send(self, request: Item, **transport: Any) -> AsyncIterator[StreamEvent]:
        """Yield what was answered then; options of transport make no difference.

        Raises:
            ModelFailure: the request is not in the recording; or the model did not answer then either.
        """
        del transport
        try:
            call = await self._tape.take(request, self._fits)
        except Unmatched as error:
            raise ModelFailure("recording", str(error)) from error
        begun = anyio.current_time()
        async for moment, said in _answer(self._tape, call):
            if self._pace:
                await anyio.sleep_until(begun + moment * self._pace)
            if isinstance(said, ModelFailure):
                if call.stopped:
                    await anyio.sleep(_PATIENCE)  # whoever stops it now cancels this
                    self._tape.went_on(call)
                raise said
            yield said

    def tools(self, tools: Tools) -> list[Tool | Item]:
        """Return tools of the same names and schemas, whose outputs come from the log."""
        made: list[Tool | Item] = []
        for one in tools:
            if isinstance(one, Mapping):
                made.append(one)
            else:
                made.append(_Player(one if isinstance(one, Tool) else Tool(one), self._tape))
        return made

    # -- the end

    @property
    def changed(self) -> list[str]:
        """What of the requests was not as recorded beside their items, a line for each."""
        return list(self._tape.changed)

    @property
    def unplayed(self) -> list[str]:
        """The recorded responses that nobody has asked for yet, as conversation/seq."""
        return [f"{call.conversation}/{call.seq}" for call in self._tape.left()]

    def check(self) -> None:
        """See to it that everything was asked, and nothing else.

        Raises:
            AssertionError: a request was not in the recording, or responses were not asked for.
        """
        told = list(self._tape.failures)
        left = self.unplayed
        if left:
            told.append(f"{self._tape.path.name}: {len(left)} recorded responses were not asked for: {', '.join(left)}")
        if told:
            raise AssertionError("\n".join(told))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.check()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.check()


class _Player(Tool):
    """A tool whose outputs come from a recording."""

    __slots__ = ("_played", "_tape")

    def __init__(self, tool: Tool, tape: Tape) -> None:
        super().__init__(tool.function, name=tool.name, timeout=tool.timeout)
        self.schema = tool.schema
        self._tape = tape
        self._played: dict[str, int] = {}

    async def run(self, arguments: str, context: ToolContext) -> str:
        """Return what the call came to when it was recorded."""
        del arguments
        outputs = self._tape.outputs.get(context.call_id, [])
        if not outputs:
            told = f"{self._tape.path.name}: there is no output of {self.name} for {context.call_id} in the recording"
            self._tape.failures.append(told)
            return f"error: {told}"
        index = self._played.get(context.call_id, 0)
        self._played[context.call_id] = index + 1
        item = await self._tape.item(outputs[min(index, len(outputs) - 1)])
        said: Any = item.get("output", "")  # parts, where it was not a tool of turnlog's
        output: str = said
        return output


class _Timed(NamedTuple):
    moment: float
    """Seconds since the request."""
    said: StreamEvent | ModelFailure


async def _answer(tape: Tape, call: Played) -> AsyncIterator[_Timed]:
    """Yield what was answered, as a stream, with when."""
    begun = call.request.time
    started = body(call.started) if call.started is not None else None
    response: dict[str, Any] = {}
    if isinstance(started, ResponseStarted):
        response = {key: value for key, value in (("id", started.id), ("model", started.model)) if value is not None}
        yield _Timed(0.0, _event("response.created", response={**response, "status": "in_progress"}))
    at = 0.0
    for index, record in enumerate(call.items):
        done = max(0.0, (record.time - begun) / 1e6)
        events = list(_item(index, await tape.item(record), record))
        for number, one in enumerate(events, 1):
            yield _Timed(at + (done - at) * number / len(events), one)
        at = done
    said = call.outcome
    if isinstance(said, ResponseInterrupted):
        partial = None if call.partial is None else await tape.item(call.partial)
        for one in _unfinished(len(call.items), said.items, partial):
            yield _Timed(at, one)
    end = max(at, ((call.end.time if call.end else begun) - begun) / 1e6)
    yield _Timed(end, _end(call, response))


def _end(call: Played, response: Mapping[str, Any]) -> StreamEvent | ModelFailure:
    said = call.outcome
    if isinstance(said, ResponseFailed):
        return ModelFailure(
            said.kind,
            said.message,
            code=said.code,
            param=said.param,
            status_code=said.status_code,
            retryable=said.retryable,
            retries=said.retries,
        )
    if not isinstance(said, ResponseCompleted):
        told = f"{_BROKEN} ({said.cause})" if isinstance(said, ResponseInterrupted) else _BROKEN
        return ModelFailure("stream", told, retryable=True)
    whole = {
        **response,
        "status": said.status,
        "incomplete_details": {"reason": said.reason} if said.status == "incomplete" else None,
        "usage": _usage(said.usage),
        "input_transformations": said.removed,
    }
    return _event(f"response.{said.status}", extra={"retries": said.retries}, response=whole)


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


_FIELDS: Final = {
    "function_call": ("arguments", "response.function_call_arguments.delta"),
    "custom_tool_call": ("input", "response.custom_tool_call_input.delta"),
}


def _item(index: int, item: Item, record: Record) -> Iterator[StreamEvent]:
    """Yield one item as it would have streamed: announced, in pieces, and whole."""
    shape = read(item).shape
    empty: dict[str, Any] = {"content": []} if shape == "assistant" else {}
    if shape in _FIELDS:
        empty = {_FIELDS[shape][0]: ""}
    yield _event("response.output_item.added", output_index=index, item={**item, **empty})
    for kind, text in _texts(item, shape):
        yield from _pieces(kind, text, index)
    said = body(record)
    beside = said if isinstance(said, ItemAppended) else ItemAppended()
    yield StreamEvent(
        type="response.output_item.done",
        item=dict(item),
        raw={"type": "response.output_item.done", "output_index": index, "item": dict(item)},
        extra=beside.extra,
        repaired=beside.repaired,
    )


def _unfinished(index: int, items: Sequence[Any], partial: Item | None) -> Iterator[StreamEvent]:
    """Yield items as far as they had come: announced, and what there was of their text, which is in one message."""
    texts = [] if partial is None else list(_texts(partial, "assistant"))
    last = max((at for at, one in enumerate(items) if read(one).shape == "assistant"), default=-1)
    for at, item in enumerate(items):
        shape = read(item).shape
        empty = {_FIELDS[shape][0]: ""} if shape in _FIELDS else {}
        yield _event("response.output_item.added", output_index=index + at, item={**item, **empty})
        said = list(_texts(item, shape)) if shape in _FIELDS else []
        if shape == "assistant":
            said, texts = (texts, []) if at == last else (texts[:1], texts[1:])
        for kind, text in said:
            yield from _pieces(kind, text, index + at)
    for at, (kind, text) in enumerate(texts, len(items)):
        yield from _pieces(kind, text, index + at)


def _pieces(kind: str, text: str, index: int) -> Iterator[StreamEvent]:
    for start in range(0, len(text), _PIECE):
        yield _event(kind, delta=text[start : start + _PIECE], output_index=index)


def _texts(item: Item, shape: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of an item with the names of their deltas."""
    if shape in _FIELDS:
        field, kind = _FIELDS[shape]
        yield kind, str(item.get(field) or "")
    elif shape == "assistant":
        for part in parts(item):
            kind = "response.refusal.delta" if part.get("type") == "refusal" else "response.output_text.delta"
            yield kind, str(part.get("refusal" if part.get("type") == "refusal" else "text") or "")
    elif shape == "reasoning":
        for name, kind in (
            ("summary", "response.reasoning_summary_text.delta"),
            ("content", "response.reasoning_text.delta"),
        ):
            given = item.get(name)
            for part in given if isinstance(given, list) else ():
                yield kind, str(part.get("text") or "") if isinstance(part, Mapping) else ""


def _event(kind: str, *, delta: str = "", extra: Any = None, **raw: Any) -> StreamEvent:
    said = {"type": kind, **({"delta": delta} if delta else {}), **raw}
    return StreamEvent(type=kind, delta=delta, raw=said, extra=extra)
