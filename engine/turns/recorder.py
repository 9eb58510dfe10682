"""The recorder: from the events of one model's answer to appends, as they come. Sans I/O.

An item is appended when something follows it in the stream, so that the last one shares an append with the response's
end; reasoning waits for the item that it led to, without which it could never be sent again. Items are appended in the
order of the answer's output: one that is finished early waits for those announced before it.
"""

from __future__ import annotations

import json
import re
from bisect import insort
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..canonical import canonical, loads, salvage
from ..items import KINDS, read
from ..model import Ending, StreamEvent, clean, ending

__all__ = ("Draft", "Finished", "Recorder")


class Finished:
    """A finished item on its way into the log."""

    __slots__ = ("event", "extra", "item", "place", "repaired")

    def __init__(self, event: StreamEvent, item: dict[str, Any], repaired: list[str]) -> None:
        self.event = event
        self.place = _index(event)
        """Its place in the answer's output."""
        self.item = item
        self.extra = event.extra
        self.repaired = repaired


class Draft:
    """An item that is still coming: as it was announced, and the text of its deltas by kind."""

    __slots__ = ("item", "parts")

    def __init__(self, item: dict[str, Any]) -> None:
        self.item = item
        self.parts: dict[str, list[str]] = {}

    def add(self, kind: str, delta: str) -> None:
        """Take a delta in."""
        self.parts.setdefault(kind, []).append(delta)

    def text(self, kind: str) -> str:
        """Return what came of one kind."""
        return "".join(self.parts.get(kind, ()))


_BESIDE: Final = re.compile(r"[^A-Za-z0-9_]")
"""What no id of a call may have in it for every backend."""
_DELTAS: Final = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


class Recorder:
    """Follows one answer. `feed` says what to append before the event goes to whoever reads the stream."""

    def __init__(self) -> None:
        self.held: list[Finished] = []
        """What is finished and has not been let go of yet, in order."""
        self.provider_id: str | None = None
        self.provider_model: str | None = None
        self.ending: Ending | None = None
        self._drafts: dict[int, Draft] = {}

    @property
    def begun(self) -> bool:
        """Whether there is something of an answer."""
        return bool(self.held) or any(draft.parts for draft in self._drafts.values())

    def feed(self, event: StreamEvent) -> Sequence[Finished]:
        """Take an event in; return the finished items that must be in the log before it is passed on."""
        self.ending = ending(event)
        if self.ending is not None:
            return ()
        due = self._due()
        if event.type in ("response.created", "response.in_progress"):
            self._created(event)
        elif event.type == "response.output_item.added":
            item = (event.raw or {}).get("item")
            self._drafts[_index(event)] = Draft(item if isinstance(item, dict) else {})
        elif event.type == "response.output_item.done":
            self._drafts.pop(_index(event), None)
            self._hold(event)
        elif event.type in _DELTAS and event.delta:
            self._drafts.setdefault(_index(event), Draft({})).add(_DELTAS[event.type], event.delta)
        return due

    def _due(self) -> Sequence[Finished]:
        """Let go of what stands before anything unfinished, but not of reasoning that nothing has followed yet."""
        if not self.held:
            return ()
        first = min(self._drafts, default=None)
        due = [one for one in self.held if first is None or one.place < first]
        if not due or read(due[-1].item).shape == "reasoning":
            return ()
        del self.held[: len(due)]
        return due

    def rest(self) -> list[Finished]:
        """Let go of everything that is finished."""
        held, self.held = self.held, []
        return held

    def _created(self, event: StreamEvent) -> None:
        response = (event.raw or {}).get("response")
        if isinstance(response, dict):
            for name in ("id", "model"):
                if isinstance(response.get(name), str):
                    setattr(self, f"provider_{name}", clean(response[name]))

    def _hold(self, event: StreamEvent) -> None:
        if event.item is None:
            return
        item, repaired = _readable(event.item)
        item, given = _linked(item, f"{self.provider_id or 'call'}_{_index(event)}")
        repaired += given
        insort(self.held, Finished(event, item, [*event.repaired, *repaired]), key=lambda one: one.place)

    def unfinished(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return the text of unfinished messages, as one message, and every unfinished item as far as it came."""
        drafts = [draft for _, draft in sorted(self._drafts.items())]
        items = [_readable(dict(_written(draft)))[0] for draft in drafts]
        said = [part for draft in drafts for part in _said(draft)]
        if not said:
            return None, items
        return {"type": "message", "role": "assistant", "status": "incomplete", "content": said}, items


def _readable(item: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return an item as the log can hold it, and what was replaced.

    Adapters hand on what they parsed; what JSON cannot carry is replaced here, whoever parsed it.
    """
    try:
        return loads(canonical(item)), []
    except ValueError:
        return salvage(json.dumps(item, default=str))


def _linked(item: dict[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """Return a call with an id that its output can name; some backends give none, or a number."""
    kind = KINDS.get(str(item.get("type")))
    if kind is None or kind.link != "call_id" or kind.sealed_by is None:
        return item, []
    link = item.get(kind.link)
    if isinstance(link, str) and link:
        return item, []
    given = str(link) if type(link) is int else f"call_{_BESIDE.sub('', name)[-40:]}"
    return {**item, kind.link: given}, [f"$.{kind.link}: no id that can be used; {given} was given"]


def _said(draft: Draft) -> Iterator[dict[str, Any]]:
    if text := draft.text("text"):
        yield {"type": "output_text", "text": clean(text), "annotations": []}
    if refusal := draft.text("refusal"):
        yield {"type": "refusal", "refusal": clean(refusal)}


def _written(draft: Draft) -> Iterator[tuple[str, Any]]:
    yield from draft.item.items()
    for kind in ("arguments", "input"):
        if draft.text(kind):
            yield kind, draft.text(kind)


def _index(event: StreamEvent) -> int:
    index = (event.raw or {}).get("output_index")
    return index if isinstance(index, int) else 0
