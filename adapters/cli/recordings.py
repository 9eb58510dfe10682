"""Recorded exchanges with OpenAI's APIs as conversations: the request's items and settings, then the answer.

A record is `{api, request, response, sse, status, …}`: the decoded bodies, and for a streamed answer the list of its
decoded events. What a record cannot say is left out of the log, never invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from turnlog.adapters import chat_completions, responses
from turnlog.adapters.wire import Said
from turnlog.engine.canonical import canonical, digest, encode, loads, plain
from turnlog.engine.codec import event
from turnlog.engine.compaction import stand_in_of
from turnlog.engine.errors import InvalidItem
from turnlog.engine.events import (
    ContextCompacted,
    ConversationCreated,
    ItemAppended,
    NewEvent,
    Origin,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    ResponseStarted,
    Target,
)
from turnlog.engine.intake import Intake, as_responses, shifted
from turnlog.engine.items import read
from turnlog.engine.manifest import Manifest, Run
from turnlog.engine.messages import pieces
from turnlog.engine.model import ModelFailure, StreamEvent, usage_of
from turnlog.engine.tokens import compacted, settled
from turnlog.engine.turns.recorder import Finished, Recorder
from turnlog.engine.window.render import RENDERER

__all__ = ("BACKEND", "Made", "Unusable", "items_of", "record_events")

BACKEND: Final = "recorded"
"""The label of whatever answered a recorded request."""
_RECORDED: Final = "recorded"


class Unusable(Exception):
    """A record that makes no conversation, and why."""


class Made(NamedTuple):
    """A conversation made from a record."""

    id: str
    events: list[NewEvent]
    bodies: dict[str, bytes]


async def record_events(intake: Intake, record: Mapping[str, Any]) -> Made:
    """Return a record's conversation.

    Raises:
        Unusable: the record is of a kind that holds no conversation.
        InvalidItem: it is malformed.
    """
    api = record.get("api")
    content = digest(canonical(record, "record"))
    name = f"{api}-{record.get('id') or content[:16]}"
    about = {key: record[key] for key in ("id", "src", "path") if isinstance(record.get(key), str)}
    created = event(ConversationCreated(metadata={"recorded": {"api": api, "digest": content, **about}}))
    match api:
        case "responses" | "chat":
            return await _Exchange(intake, record, api, created).made(name)
        case "compact":
            return await _Exchange(intake, record, "responses", created, purpose="compaction").made(name)
        case "conversations":
            return Made(name, [created, *await _listed(intake, record)], {})
        case "input_tokens":
            raise Unusable("an input-token count is a question about a request, not a conversation")
        case _:
            raise InvalidItem("$.api", f"{api!r} is none of responses, chat, compact, conversations, input_tokens")


async def _listed(intake: Intake, record: Mapping[str, Any]) -> list[NewEvent]:
    """Return the items that a Conversations record shows; a record of the conversation itself shows none."""
    answer = record.get("response")
    data = answer.get("data") if isinstance(answer, dict) and answer.get("object") == "list" else None
    items = data if isinstance(data, list) else []
    return as_responses([await intake.item(item) for item in items if isinstance(item, dict)])


async def items_of(
    intake: Intake, items: Iterable[Any], *, chat: bool, origin: Origin | None, path: str
) -> list[NewEvent]:
    """Return events for a request's items or messages, as they are: even what an API has refused is taken.

    Raises:
        InvalidItem: one of them is no object.
    """
    events: list[NewEvent] = []
    calls: dict[str, str] = {}
    for index, one in enumerate(items):
        if not isinstance(one, dict):
            raise InvalidItem(f"{path}[{index}]", f"an item is an object, this is a {type(one).__name__}")
        made = pieces(one, f"{path}[{index}]", calls) if chat else [(plain(one), None)]
        group = []
        for item, extra in made:
            ours = origin if extra is not None or read(item).maker == "model" else None
            group.append(await intake.item(item, said=ItemAppended(origin=ours, extra=extra)))
        # A Chat message is one response, also next to another; items of the Responses API run on.
        events += shifted(as_responses(group), len(events)) if chat else group
    return events if chat else as_responses(events)


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, intake: Intake, record: Mapping[str, Any], api: str, created: NewEvent, *, purpose: str = "answer"
    ) -> None:
        request = record.get("request")
        if not isinstance(request, dict):
            raise InvalidItem("$.request", "a recorded exchange has a request, a JSON object")
        self.intake = intake
        self.record = record
        self.request: dict[str, Any] = plain(request, "$.request")
        self.chat = api == "chat"
        self.purpose = purpose
        model = self.request.get("model")
        self.target = Target(
            api="chat" if self.chat else "responses",
            backend=BACKEND,
            model=model if isinstance(model, str) else "",
            state=_RECORDED,
        )
        self.origin = Origin(self.target.api, BACKEND, self.target.model)
        self.events = [created]
        self.settings: dict[str, Any] = {}

    async def made(self, name: str) -> Made:
        items = await self._input()
        self.events += shifted(items, len(self.events))
        requested = self._requested()
        self.events.append(requested)
        response = -len(self.events)
        if self.purpose == "compaction":
            await self._compacted(response, items)
        else:
            await self._answered(response)
        settings = encode(self.settings)
        return Made(name, self.events, {digest(settings): settings})

    async def _input(self) -> list[NewEvent]:
        field = "messages" if self.chat else "input"
        self.settings["recorded"] = {key: value for key, value in self.request.items() if key != field}
        given = self.request.get(field)
        if not self.chat and isinstance(given, str):
            self.settings["input"] = "text"
            given = [{"role": "user", "content": given}]
        elif given is None and field not in self.request:
            self.settings["input"] = "none"
            given = []
        if not isinstance(given, list):
            raise InvalidItem(f"$.request.{field}", f"a list is needed, this is a {type(given).__name__}")
        return await items_of(self.intake, given, chat=self.chat, origin=self.origin, path=f"$.request.{field}")

    def _requested(self) -> NewEvent:
        as_of = len(self.events)
        tokens = sum(one.tokens for one in self.events)
        said = ResponseRequested(
            purpose="compaction" if self.purpose == "compaction" else "answer",
            adapter=self.target.api,
            encoder=1,
            target=self.target,
            settings=digest(encode(self.settings)),
            manifest=Manifest(
                policy=_RECORDED,
                renderer=RENDERER,
                as_of=as_of,
                runs=(Run(1, as_of, "kept", 0),),
                rules=("it was sent",),
                items=tokens,
                tokens=tokens,
                measured=False,
            ),
            digest=digest(encode(self.request)),
        )
        return event(said)

    # -- the answer

    async def _answered(self, response: int) -> None:
        recorder = Recorder()
        finished: list[Finished] = []
        failure: ModelFailure | None = None
        try:
            for said in self._said():
                finished += recorder.feed(said)
        except ModelFailure as error:
            failure = error
        finished += recorder.rest()
        if recorder.provider_id or finished:
            started = ResponseStarted(id=recorder.provider_id, model=recorder.provider_model)
            self.events.append(event(started, response=response))
        made: list[NewEvent] = []
        for one in finished:
            item = ItemAppended(origin=self.origin if one.extra else None, extra=one.extra, repaired=one.repaired)
            made.append(await self.intake.item(one.item, said=item, response=response))
        end = recorder.ending
        self.events += settled(made, end.usage if end is not None else None)
        if failure is not None:
            self.events.append(event(_failed(failure), response=response))
        elif end is None:
            self.events.append(event(ResponseInterrupted(cause="left"), response=response))
        elif end.status == "failed":
            failed = ResponseFailed(kind="model", code=end.code, message=end.message)
            self.events.append(event(failed, response=response))
        else:
            status: Literal["completed", "incomplete"] = "incomplete" if end.status == "incomplete" else "completed"
            done = ResponseCompleted(status=status, reason=end.reason, usage=end.usage, removed=end.removed)
            self.events.append(event(done, response=response))

    def _said(self) -> Iterable[StreamEvent]:
        """Yield what the adapter's own decoder makes of the recorded answer."""
        status = self.record.get("status", 200)
        answer = self.record.get("response")
        if isinstance(status, int) and status >= 400:
            raise _refused(status, answer)
        decoder = chat_completions.Decoder() if self.chat else responses.Decoder()
        stream = self.record.get("sse")
        for value in stream if isinstance(stream, list) else [answer]:
            if isinstance(value, dict) and value.get("status") in ("queued", "in_progress") and stream is None:
                yield StreamEvent(type="response.created", raw={"response": value})
                return
            yield from decoder.feed(Said(plain(value), [], streamed=isinstance(stream, list), retries=0))
        if isinstance(decoder, chat_completions.Decoder):
            yield from decoder.finish()

    async def _compacted(self, response: int, items: Sequence[NewEvent]) -> None:
        answer = self.record.get("response")
        output = answer.get("output") if isinstance(answer, dict) else None
        if not isinstance(output, list) or not isinstance(answer, dict):
            raise Unusable("the compaction was refused: its answer has no output")
        said = ResponseStarted(id=answer.get("id"), model=self.target.model)
        self.events.append(event(said, response=response))
        usage = usage_of(answer.get("usage"))
        self.events.append(event(ResponseCompleted(usage=usage), response=response))
        first = 2  # behind the conversation's creation
        seqs = range(first, first + len(items))
        given = [(seq, loads(one.item or b"null")) for seq, one in zip(seqs, items, strict=True)]
        made = [plain(one) for one in output if isinstance(one, dict)]
        stand_in = stand_in_of(made, given)
        weighed = [(one, (await self.intake.count(one, 0)).tokens) for one in made]
        stands = ContextCompacted(
            first=seqs[0] if items else 0,
            last=seqs[-1] if items else 0,
            digest=digest(b"\n".join(one.item or b"" for one in items)),
            stand_in=stand_in,
            method="remote",
            origin=self.origin,
            usage=usage,
        )
        self.events.append(event(stands, response=response, tokens=compacted(weighed, usage)))


def _refused(status: int, answer: Any) -> ModelFailure:
    error = answer.get("error") if isinstance(answer, dict) else None
    told = error if isinstance(error, dict) else {}
    code = told.get("code")
    return ModelFailure(
        "http",
        str(told.get("message") or f"HTTP {status}"),
        code=None if code is None else str(code),
        status_code=status,
        retryable=status in (408, 409, 429) or status >= 500,
    )


def _failed(error: ModelFailure) -> ResponseFailed:
    return ResponseFailed(
        kind=error.kind,
        code=error.code,
        message=error.message,
        status_code=error.status_code,
        retryable=error.retryable,
    )
