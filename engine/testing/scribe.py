"""The scribe: writes steps into a store as the events that they are, and remembers what a test wants to know.

It keeps the discipline of turns: one open response at a time, and no request while a call that can be sealed is
unanswered. It also writes events that no call of the library makes yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..canonical import canonical, digest, encode
from ..codec import event
from ..erasing import erasing
from ..errors import BudgetExceeded
from ..events import (
    ASIDE,
    ERASED,
    PINNED,
    CallStarted,
    CompactionUndone,
    ContextCompacted,
    ConversationCreated,
    EventBody,
    HistoryRewound,
    ItemAppended,
    MetadataUpdated,
    NewEvent,
    Origin,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    ResponseStarted,
    StandIn,
    Target,
    Usage,
)
from ..groups import Entry
from ..history import History, alive
from ..intake import Intake, as_responses
from ..items import KINDS, Item, read
from ..log import Appended, Query, Store
from ..log import Fork as Forked
from ..manifest import Manifest
from ..messages import to_messages
from ..reader import Reader
from ..replay import Encoders, Piecewise
from ..window.budget import Budget
from ..window.choose import Request, line_of
from ..window.extracts import Extract, extract
from ..window.policies import OldestTurns, Policy
from ..window.render import RENDERER, Rendered
from ..window.units import Weights
from .steps import (
    BUDGETS,
    PNG,
    TARGETS,
    Again,
    Aside,
    Compact,
    Erase,
    Fork,
    Note,
    Output,
    Respond,
    Rewind,
    Say,
    Step,
    Undo,
    item_of,
    words,
)

__all__ = ("ENCODERS", "Scribe", "Sent", "Sight", "body_of")

_ALL: Final = 10**9
_SEALABLE: Final = frozenset({"function_call", "custom_tool_call"})
_PICTURE: Final = {"type": "computer_screenshot", "image_url": PNG}
_RAN: Final = [{"stdout": "ok", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]
_OTHERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "computer_call": {"type": "computer_call_output", "output": _PICTURE},
    "local_shell_call": {"type": "local_shell_call_output", "output": "{}"},
    "shell_call": {"type": "shell_call_output", "output": _RAN},
    "apply_patch_call": {"type": "apply_patch_call_output", "status": "completed"},
    "tool_search_call": {"type": "tool_search_output", "tools": [], "execution": "client"},
    "mcp_approval_request": {"type": "mcp_approval_response", "approve": True},
}
"""Outputs of calls that cannot be sealed, but for what pairs them."""
_CALLS: Final = _SEALABLE | _OTHERS.keys()


class Sight:
    """Whom a window is for and what fits: what a reader needs to know to choose one."""

    def __init__(
        self,
        target: Target,
        budget: Budget,
        policy: Policy | None = None,
        *,
        overhead: int = 0,
        weights: Weights | None = None,
    ) -> None:
        self.target = target
        self.budget = budget
        self.policy: Policy = policy or OldestTurns()
        self.overhead = overhead
        self.weights = weights
        self.line = line_of(self.policy, budget, target)

    async def request(self, history: History) -> Request:
        """Return what choosing needs to know, whatever the history."""
        del history
        return Request(self.target, self.budget, self.budget.reserve, self.overhead, self.weights)

    def __repr__(self) -> str:
        return f"<Sight of {self.target.api} {self.target.backend}/{self.target.model}, {self.budget}>"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request in the log, as it was made."""

    seq: int
    sight: Sight
    manifest: Manifest
    rendered: tuple[Rendered, ...]


def body_of(rendered: Sequence[Rendered], target: Target) -> dict[str, Any]:
    """Return the body of a stateless request with a window's items."""
    return _encode(rendered, {"api": target.api, "model": target.model})


def _encode(items: Sequence[Rendered], settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings["api"] == "chat":
        return {"model": settings["model"], "messages": to_messages(items)}
    return {"model": settings["model"], "input": [one.item for one in items], "store": False}


def _encoded(items: Sequence[Rendered], settings: Mapping[str, Any]) -> Item:
    return _encode(items, settings)


def _pieces(items: Sequence[Rendered], settings: Mapping[str, Any]) -> Sequence[Any]:
    return to_messages(items) if settings["api"] == "chat" else [one.item for one in items]


ENCODERS: Final[Encoders] = {
    ("responses", 1): Piecewise(_encoded, "input", _pieces),
    ("chat", 1): Piecewise(_encoded, "messages", _pieces),
}
"""What the scribe's requests are encoded with, for `turnlog.engine.replay.verify`."""


class Scribe:
    """Writes steps into a conversation of a store, its requests under a policy."""

    def __init__(
        self, store: Store, name: str = "c", *, intake: Intake | None = None, policy: Policy | None = None
    ) -> None:
        self.store = store
        self.name = name
        self.intake = intake or Intake()
        self.policy = policy
        self.reader = Reader(store, self.intake)
        self.version = 0
        self.born: dict[str, str] = {}
        """The ids of items -> the id of the reasoning that they were born with; none that was given twice."""
        self.sent: list[Sent] = []
        """The requests that were made."""
        self.refused: list[BudgetExceeded] = []
        """The requests that were not, because their windows did not fit."""
        self.places = [1]
        """Versions at which no group is cut."""
        self.names = [name]
        """The conversations that were written to, the first and then its forks."""
        self._calls: list[tuple[str, str]] = []
        self._answers: list[list[dict[str, Any]]] = []
        self._compactions: list[int] = []
        self._number = 0
        self._given: set[str] = set()

    async def write(self, steps: Sequence[Step]) -> None:
        """Write steps, behind the conversation's creation."""
        await self.begin()
        for step in steps:
            await self.take(step)

    async def begin(self) -> None:
        """Create the conversation, unless it is there."""
        if self.version == 0:
            await self._append([event(ConversationCreated())])

    async def take(self, step: Step) -> None:
        """Write one step."""
        match step:
            case Say(items=items, pinned=pinned):
                await self._append(await self.intake.caller(items, pinned=pinned))
            case Respond():
                await self._respond(step)
            case Output():
                await self._output(step)
            case Again(response=back):
                again = self._answers[-1 - back % len(self._answers)] if self._answers else []
                await self._append(as_responses([await self.intake.item(item) for item in again]))
            case Aside(target=target):
                await self._aside(TARGETS[target % len(TARGETS)])
            case Note():
                await self._say(MetadataUpdated(patch={"noted": self.version}))
            case _:
                await self._change(step)
        if self.places[-1] != self.version:
            self.places.append(self.version)

    async def _change(self, step: Compact | Undo | Rewind | Fork | Erase) -> None:
        """Write a step that changes what is alive, or what was said."""
        match step:
            case Compact():
                await self._compact(step)
            case Undo(compaction=back):
                if self._compactions:
                    await self._say(CompactionUndone(seq=self._compactions[-1 - back % len(self._compactions)]))
            case Rewind(place=back):
                await self._say(HistoryRewound(to=self.places[-1 - back % len(self.places)]))
            case Fork(place=back):
                await self._fork(self.places[-1 - back % len(self.places)])
            case Erase(item=back):
                await self._erase(back)

    # -- reading

    async def window(
        self, target: Target, budget: Budget, *, tokens: int | None = None, at: int | None = None, **more: Any
    ) -> tuple[History, Manifest, list[Rendered]]:
        """Return a window, with the history that it was chosen from, by a reader that knows nothing yet.

        *tokens* are read at first; *at* is the version; the rest goes to `Sight`.

        Raises:
            BudgetExceeded: what must be sent does not fit.
        """
        sight = Sight(target, budget, **more)
        reader = Reader(self.store, self.intake)
        version = self.version if at is None else at
        history = await reader.at(self.name, version, sight.line, budget.context if tokens is None else tokens)
        return await _chosen(reader, sight, history)

    async def records(self, after: int = 0) -> list[Record]:
        """Return the log's events."""
        snapshot = await self.store.read(self.name, Query(after=after))
        return list(snapshot.records[0]) if snapshot else []

    # -- writing

    async def _append(self, events: Sequence[NewEvent], bodies: Mapping[str, bytes] | None = None) -> None:
        if not events:
            return
        appended: Appended = await self.store.append(self.name, events, bodies=bodies)
        self.version = appended.last
        self._calls += [(one.shape, one.link) for one in events if one.shape in _CALLS and one.link is not None]

    async def _say(self, said: EventBody, response: int | None = None) -> int:
        await self._append([event(said, response=response)])
        return self.version

    async def _respond(self, step: Respond) -> None:
        target = TARGETS[step.target % len(TARGETS)]
        await self._settle()
        sight = Sight(target, BUDGETS[step.budget % len(BUDGETS)], self.policy)
        _, history = await self.reader.fresh(self.name, line=sight.line, tokens=sight.budget.context)
        try:
            _, manifest, rendered = await _chosen(self.reader, sight, history)
        except BudgetExceeded as error:
            self.refused.append(error)
            return
        if not rendered:
            return
        seq = await self._request(target, manifest, rendered)
        self.sent.append(Sent(seq, sight, manifest, tuple(rendered)))
        await self._say(ResponseStarted(id=f"resp_{seq}"), seq)
        await self._answer(step, target, seq)
        await self._end(step, seq, manifest)

    async def _settle(self) -> None:
        """Seal the calls that wait for an output: turns make no request before."""
        _, history = await self.reader.fresh(self.name, tokens=_ALL)
        calls = [call.entry for call in history.unanswered() if call.entry.reading.shape in _SEALABLE]
        words_ = "[no output was given]"
        await self._append(await self.intake.seals([(call.value(), call.reading.shape, words_) for call in calls]))

    async def _answer(self, step: Respond, target: Target, seq: int) -> None:
        items: list[dict[str, Any]] = []
        for at, part in enumerate(step.parts):
            if at in step.meanwhile:
                await self._append(await self.intake.caller([f"meanwhile {at}"]))
            self._number += 1
            item = item_of(part, self._number, target.api)
            items.append(item)
            await self._append([await self._logged(item, target, seq)])
            if at in step.early and read(item).is_call:
                await self._output(Output())
        thought = next((item["id"] for item in items if item["type"] == "reasoning" and "id" in item), None)
        for name in (item["id"] for item in items if "id" in item and read(item).kind is not None):
            if name in self._given:
                self.born.pop(name, None)
            elif thought not in (None, name):
                self.born[name] = thought
            self._given.add(name)
        self._answers.append(items)

    async def _logged(self, item: dict[str, Any], target: Target, seq: int) -> NewEvent:
        extra: dict[str, Any] | None = None
        if target.api == "chat" and item["type"] == "reasoning":
            extra = {"field": "reasoning_content"}
        elif target.api == "chat" and item["type"] == "function_call":
            extra = {"set": [[["tool_calls", 0, "extra_content"], {"signature": "x" * 20}]]}
        origin = Origin("chat", target.backend, target.model) if extra else None
        return await self.intake.item(item, said=ItemAppended(origin=origin, extra=extra), response=seq)

    async def _end(self, step: Respond, seq: int, manifest: Manifest) -> None:
        match step.end:
            case "failed":
                await self._say(ResponseFailed(kind="model", code="server_error"), seq)
            case "interrupted" | "crashed":
                cause: Literal["cancelled", "crashed"] = "cancelled" if step.end == "interrupted" else "crashed"
                interrupted = ResponseInterrupted(cause=cause)
                if step.partial:
                    said = {"type": "output_text", "text": words(step.partial), "annotations": []}
                    item = {"type": "message", "role": "assistant", "status": "incomplete", "content": [said]}
                    await self._append([await self.intake.partial(interrupted, item, seq)])
                else:
                    await self._say(interrupted, seq)
                await self._settle()
            case _:
                usage = Usage(input_tokens=int(manifest.tokens * step.ratio), output_tokens=1, requests=1)
                status: Literal["completed", "incomplete"] = "incomplete" if step.end == "incomplete" else "completed"
                await self._say(ResponseCompleted(status=status, usage=usage), seq)

    async def _output(self, step: Output) -> None:
        if not self._calls:
            return
        shape, link = self._calls[-1 - step.call % len(self._calls)]
        if shape in _OTHERS:
            kind = KINDS[str(_OTHERS[shape]["type"])]
            await self._append([await self.intake.item({**_OTHERS[shape], str(kind.link): link or None})])
            return
        if step.sealed:
            call = {"type": shape, "call_id": link}
            await self._append(await self.intake.seals([(call, shape, "[never ran]")]))
            return
        await self._say(CallStarted(call_id=link))
        said = words(step.size)
        output: Any = said if step.shape == "text" else [{"type": "input_text", "text": said}]
        if step.shape == "image":
            output = [*output, {"type": "input_image", "image_url": PNG}]
        item = {"type": f"{shape}_output", "call_id": link, "output": output}
        await self._append(await self.intake.caller([item]))

    async def _request(
        self,
        target: Target,
        manifest: Manifest,
        rendered: Sequence[Rendered],
        purpose: Literal["answer", "aside"] = "answer",
    ) -> int:
        settings = canonical({"api": target.api, "model": target.model})
        said = ResponseRequested(
            purpose=purpose,
            adapter=target.api,
            encoder=1,
            target=target,
            settings=digest(settings),
            manifest=manifest,
            digest=digest(encode(body_of(rendered, target))),
        )
        await self._append([event(said)], {digest(settings): settings})
        return self.version

    async def _aside(self, target: Target) -> None:
        manifest = Manifest(policy="aside@1", renderer=RENDERER, as_of=self.version)
        seq = await self._request(target, manifest, [], "aside")
        item = {"role": "assistant", "content": "a title"}
        await self._append([await self.intake.item(item, response=seq, flags=ASIDE)])
        await self._say(ResponseCompleted(), seq)

    async def _compact(self, step: Compact) -> None:
        _, history = await self.reader.fresh(self.name, tokens=_ALL)
        places = [place for place in self.places if alive(history.path, place)]
        last = places[-1 - step.place % len(places)] if places else 1
        covered = [one for one in await self.records() if one.seq <= last and one.item and history.is_alive(one.seq)]
        quoted = [one for one in covered if one.shape == "user" and not one.flags & (ERASED | PINNED)]
        self._number += 1
        own, other = await self._stand_ins(step, quoted)
        said = ContextCompacted(
            first=1,
            last=last,
            stand_in=own.stand_in,
            readable=other.stand_in,
            readable_tokens=other.tokens,
            method=step.method,
            origin=Origin("responses", "a", "m"),
        )
        await self._append([event(said, tokens=own.tokens)])
        self._compactions.append(self.version)

    async def _fork(self, at: int) -> None:
        parent, self.name = self.name, f"{self.names[0]}.{len(self.names)}"
        appended = await self.store.append(self.name, [event(ConversationCreated())], fork=Forked(parent, at))
        self.names.append(self.name)
        self.version = appended.last
        self.places = [place for place in self.places if place <= at]
        self.sent = [sent for sent in self.sent if sent.seq <= at]
        self._answers = self._answers[: len(self.sent)]
        self._compactions = [seq for seq in self._compactions if seq <= at]

    async def _erase(self, back: int) -> None:
        found = [one for one in await self.records() if one.kind == "item.appended" and not one.flags & ERASED]
        if found:
            appends = await erasing(self.store, self.name, [found[-1 - back % len(found)].seq], "asked for")
            erased = await self.store.erase(appends)
            self.version = erased.versions[self.name]
            for name in erased.versions:
                self.reader.forget(name)

    async def _stand_ins(self, step: Compact, quoted: Sequence[Record]) -> tuple[Extract, Extract]:
        """Return what stands for compacted events: for its maker, and for others where that is something else."""
        weight = sum(one.tokens for one in quoted)
        count = (await self.intake.vocabulary()).count
        short = extract([Entry.of(one) for one in quoted], [], weight // 2 + 30, count)
        if step.method == "extract":
            return short, Extract([], 0)
        opaque = step.method != "summary"
        made = await self._made(opaque=opaque)
        parts = [StandIn(seq=made.seq)]
        tokens = made.tokens + 20
        if step.method == "remote":
            parts, tokens = [*(StandIn(seq=one.seq) for one in quoted), *parts], tokens + weight
        elif not opaque:
            parts = [StandIn(item={"role": "user", "content": "a summary follows"}), *parts]
        return Extract(parts, tokens), short if opaque and step.readable else Extract([], 0)

    async def _made(self, *, opaque: bool) -> Record:
        """Log what a model makes of the events before, as an item beside the conversation."""
        item: dict[str, Any] = {"type": "message", "role": "assistant", "content": words(6)}
        if opaque:
            item = {"type": "compaction", "id": f"cmp_{self._number}", "encrypted_content": "x" * 800}
        await self._append([await self.intake.item(item, flags=ASIDE)])
        return (await self.records(self.version - 1))[0]


async def _chosen(reader: Reader, sight: Sight, history: History) -> tuple[History, Manifest, list[Rendered]]:
    history, manifest = await reader.chosen(sight, history)
    return history, manifest, await reader.rendered(history, manifest, sight.target)
