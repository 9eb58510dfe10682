"""The answers of Chat Completions, put together from fragments and told as the Responses API would. Sans I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec

from turnlog.adapters.wire import DONE, LONE, Said, said_error
from turnlog.engine.canonical import encode as encoded
from turnlog.engine.canonical import loads
from turnlog.engine.model import ModelFailure, StreamEvent, clean

__all__ = ("Decoder",)

_REASONING: Final = ("reasoning_content", "reasoning")
_KNOWN: Final = frozenset({"role", "content", "refusal", "tool_calls", "function_call", *_REASONING})
_CALL: Final = frozenset({"id", "type", "index", "function", "custom"})
_GROWING: Final = frozenset({"arguments", "data", "transcript"})
"""What comes in pieces inside of a field that no item has a place for."""
_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})
_TEXTS: Final = frozenset({"content", "text", "refusal", "arguments", "input", *_REASONING})
"""The fields whose texts come in pieces, each of which goes on where the one before it ended."""
_GROWS: Final = re.compile(rf"\.({'|'.join(sorted(_TEXTS))})(\[\d+\])?: ")
_LIMITS: Final = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length", "token_limit"), "max_output_tokens"),
    **dict.fromkeys(("content_filter", "safety", "recitation", "prohibited_content", "blocklist"), "content_filter"),
}
"""Why an answer is incomplete, by the words of backends. Any other word is an end like all."""
_FAILURES: Final = frozenset({"error", "abort", "aborted", "insufficient_system_resource"})
"""The words of backends that gave up."""


class _Part:
    """An item on its way, at its place in the output."""

    def __init__(self, index: int, item: dict[str, Any]) -> None:
        self.index = index
        self.item = item
        self.text: list[str] = []
        self.beside: dict[str, Any] = {}
        """Fields of a call for which an item has no place."""


class Decoder:
    """Puts the fragments of a Chat answer together as items, and tells of them as the Responses API would. Sans I/O."""

    def __init__(self, custom: AbstractSet[str] = frozenset()) -> None:
        self.ended = False
        """Whether nothing of meaning can follow."""
        self._whole = False
        """Whether it came in one piece."""
        self._halves: dict[str, str] = {}
        """The first halves of characters that were cut in two, by the part whose text they end."""
        self._custom = custom
        """The functions that stand for custom tools."""
        self._created = False
        self._parts: dict[str, _Part] = {}
        self._content = _Content()
        self._odd: list[Any] = []
        """What came as content and is neither a text nor a part."""
        self._extra: dict[str, Any] = {}
        self._field = _REASONING[0]
        self._finish: str | None = None
        self._usage: Any = None
        self._response: dict[str, Any] = {}
        self._repaired: list[str] = []
        self._retries = 0

    def feed(self, said: Said) -> list[StreamEvent]:
        """Return the events that one chunk stands for.

        Raises:
            ModelFailure: it says that something went wrong.
        """
        value = said.value
        self._retries = said.retries
        if value == DONE:
            self.ended = True
            return []
        if not isinstance(value, dict):
            raise ModelFailure("answer", f"the answer is no JSON object but a {type(value).__name__}", retryable=True)
        if value.get("error"):
            raise said_error(value["error"], said.retries)
        self._whole = not said.streamed
        value = self._uncut(said)
        events = self._begin(value)
        self._usage = _usage_in(value) or self._usage
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if choice.get("index", 0) in (0, None):
            message = choice.get("delta" if said.streamed else "message")
            events += self._delta(message if isinstance(message, dict) else {}, whole=not said.streamed)
            finish = choice.get("finish_reason")
            self._finish = self._finish if finish in _NOTHING else str(finish).lower()
        self.ended = self.ended or (not said.streamed and bool(choice))
        return events

    def _uncut(self, said: Said) -> Any:
        """Return a chunk with halves of characters in it where the next may have the others."""
        if said.cut is None:
            self._repaired += said.repaired
            return said.value
        self._repaired += [one for one in said.repaired if not (one.endswith(LONE) and _GROWS.search(one))]
        return _uncut(said.value, said.cut)

    def _begin(self, value: Mapping[str, Any]) -> list[StreamEvent]:
        self._response |= {key: value[key] for key in ("id", "model") if isinstance(value.get(key), str) and value[key]}
        if self._created:
            return []
        self._created = True
        return [
            StreamEvent(type="response.created", raw={"type": "response.created", "response": dict(self._response)})
        ]

    def _delta(self, delta: Mapping[str, Any], *, whole: bool) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        field = next((name for name in _REASONING if isinstance(delta.get(name), str) and delta[name]), None)
        if field is not None:
            self._field = field
            thought = self._joined("reasoning", delta[field])
            events += self._add("reasoning", _thought, "response.reasoning_text.delta", thought)
        content = delta.get("content")
        for piece in content if isinstance(content, list) else [content]:
            text, beside = _text_in(piece)
            if text is None and piece not in _NOTHING:
                events += self._part("message", _message())[0]
                if isinstance(piece, dict) and isinstance(piece.get("type"), str):
                    self._content.add_other(piece, whole=whole)
                else:
                    self._odd.append(piece)
            elif text := self._joined("message", text or ""):
                events += self._add("message", _message, "response.output_text.delta", text)
                self._content.add_text(text, beside, whole=whole)
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            refused = self._joined("refusal", delta["refusal"])
            events += self._add("refusal", _message, "response.refusal.delta", refused)
        for index, call in _calls_in(delta, whole=whole):
            events += self._call(call, index)
        self._keep(delta)
        return events

    def _keep(self, delta: Mapping[str, Any]) -> None:
        """Keep what no item has a place for; lists and audio that come in pieces are joined."""
        for key, value in delta.items():
            if key in _KNOWN or value in _NOTHING:
                continue
            self._extra[key] = _joined(self._extra[key], value) if key in self._extra else value

    def _add(self, name: str, make: Any, kind: str, text: str) -> list[StreamEvent]:
        events, part = self._part(name, make())
        part.text.append(text)
        return [*events, _said(kind, part, delta=text)] if text else events

    def _joined(self, name: str, text: str) -> str:
        """Return more of a part's text, with characters that were cut in two whole again; half of one is kept back."""
        if not (text and (name in self._halves or not text.isascii())):
            return text
        text = self._halves.pop(name, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[name], text = text[-1], text[:-1]
        made = clean(text)
        lone = made.count("\ufffd") - text.count("\ufffd")
        self._repaired += [f"the {name}'s text: {LONE}"] * lone
        return made

    def _flush(self) -> None:
        """Take halves of characters in that nothing has joined."""
        for name, half in self._halves.items():
            made = clean(half)
            self._repaired.append(f"the {name}'s text: {LONE}")
            if name == "message":
                self._part(name, _message())
                self._content.add_text(made, {}, whole=False)
            elif name in self._parts:
                self._parts[name].text.append(made)
        self._halves.clear()

    def _part(self, name: str, item: dict[str, Any]) -> tuple[list[StreamEvent], _Part]:
        part = self._parts.get(name)
        if part is not None:
            return [], part
        part = self._parts[name] = _Part(len(self._parts), item)
        return [_said("response.output_item.added", part, item=dict(item))], part

    def _call(self, call: Mapping[str, Any], index: Any) -> list[StreamEvent]:
        told, custom = _told_in(call)
        name = f"call {index}"
        known = self._parts.get(name)
        given = _id(call)
        if known is not None and told.get("name") and given not in ("", known.item["call_id"]):
            # Some backends number every call 0; a new id with a name is a new call.
            name = f"call {index} {given}"
        item = {
            "type": "custom_tool_call" if custom or told.get("name") in self._custom else "function_call",
            "call_id": given or self._call_id(index),
            "name": told.get("name") or "",
        }
        events, part = self._part(name, item)
        if told.get("name") and not part.item["name"]:
            part.item["name"] = told["name"]
        part.beside |= {key: value for key, value in call.items() if key not in _CALL and value is not None}
        return events + self._argued(name, part, told.get("input" if "input" in told else "arguments"))

    def _argued(self, name: str, part: _Part, text: Any) -> list[StreamEvent]:
        """Take in more of a call's arguments; some backends give them as an object."""
        if text is not None and not isinstance(text, str):
            text = encoded(text).decode()
        text = self._joined(name, text or "")
        if not text:
            return []
        part.text.append(text)
        if part.item["name"] in self._custom:
            return []  # it is the JSON around the input
        kind = "custom_tool_call_input" if part.item["type"] == "custom_tool_call" else "function_call_arguments"
        return [_said(f"response.{kind}.delta", part, delta=text)]

    def _call_id(self, index: Any) -> str:
        """Return an id for a call that came without one: of this answer's own, so that the next one's is another."""
        own = "".join(letter for letter in str(self._response.get("id", "")) if letter.isascii() and letter.isalnum())
        return "_".join(filter(None, ("call", own[-40:], str(index))))

    def finish(self) -> list[StreamEvent]:
        """Return the finished items and the end.

        Raises:
            ModelFailure: there was no end: the stream broke off, or there never was one.
        """
        if self._finish in _FAILURES:
            message = f"the backend gave up: {self._finish}"
            raise ModelFailure("model", message, code=self._finish, retryable=True, retries=self._retries)
        self._flush()
        if self._finish is None and not (self.ended and self._parts):
            what = "broke off before its end" if self._created and not self.ended else "is empty"
            raise ModelFailure("stream", f"the answer {what}", retryable=True, retries=self._retries)
        events = [
            _said("response.output_item.done", part, item=item, extra=extra) for part, item, extra in self._items()
        ]
        if self._repaired and events:
            events[0] = msgspec.structs.replace(events[0], repaired=self._repaired)
        reason = _LIMITS.get(self._finish or "")
        # A stream that does not say why it ends may have been cut anywhere.
        status = "incomplete" if reason or (self._finish is None and not self._whole) else "completed"
        response = {
            **self._response,
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "usage": _usage(self._usage),
        }
        kind = f"response.{status}"
        return [
            *events,
            StreamEvent(type=kind, raw={"type": kind, "response": response}, extra={"retries": self._retries}),
        ]

    def _items(self) -> list[tuple[_Part, dict[str, Any], Any]]:
        """Return the items in the order in which they began.

        What no item has a place for is carried by the first one that may be sent again, which reasoning is not.
        """
        refusal = self._refusal()
        made: list[tuple[_Part, dict[str, Any], dict[str, Any]]] = []
        beside: list[Any] = [[[key], value] for key, value in self._extra.items()]
        beside += self._content.beside()
        beside += [[["content", len(self._content) + index], piece] for index, piece in enumerate(self._odd)]
        calls = 0
        for name, part in sorted(self._parts.items(), key=lambda entry: entry[1].index):
            text = "".join(part.text)
            extra: dict[str, Any] = {}
            if name == "reasoning":
                part.item["content"] = [{"type": "reasoning_text", "text": text}]
                extra["field"] = self._field
            elif name == "message":
                part.item["content"] = _content(self._content.texts(), refusal)
                extra |= self._others()
            else:
                if part.item["name"] in self._custom:  # which may have come late
                    part.item["type"], text = "custom_tool_call", _input_in(text)
                custom = part.item["type"] == "custom_tool_call"
                part.item["input" if custom else "arguments"] = text
                beside += [[["tool_calls", calls, key], value] for key, value in part.beside.items()]
                calls += 1
            made.append((part, part.item, extra))
        if made and beside:
            first = next((one for one in made if one[1]["type"] != "reasoning"), made[0])
            first[2]["set"] = beside
        return [(part, item, extra or None) for part, item, extra in made]

    def _refusal(self) -> str:
        """Return what was refused; see to it that an answer which says that, or nothing at all, has its message."""
        refusal = self._parts.pop("refusal", None)
        if refusal is not None:
            self._parts.setdefault("message", _Part(refusal.index, _message()))
        if not self._parts and self._finish is not None:
            self._parts["message"] = _Part(0, _message())
        return "".join(refusal.text) if refusal else ""

    def _others(self) -> dict[str, Any]:
        others = self._content.others()
        return {"parts": others} if others else {}


def _uncut(value: Any, cut: Any, name: object = None) -> Any:
    """Return a chunk with the texts that grow as they were before halves of characters in them were replaced."""
    if isinstance(value, dict) and isinstance(cut, dict):
        return {key: _uncut(part, cut.get(key), key) for key, part in value.items()}
    if isinstance(value, list) and isinstance(cut, list):
        return [_uncut(part, other, name) for part, other in zip(value, cut, strict=False)]
    return cut if name in _TEXTS and isinstance(value, str) and isinstance(cut, str) else value


def _calls_in(delta: Mapping[str, Any], *, whole: bool) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the calls of a message, or the fragments of such, with what tells them apart; also one in the old form."""
    if isinstance(delta.get("function_call"), dict):
        yield "function", {"type": "function", "function": delta["function_call"]}
    for position, call in enumerate(delta.get("tool_calls") or []):
        if isinstance(call, dict):
            yield (position if whole else call.get("index", position)), call


def _id(call: Mapping[str, Any]) -> str:
    """Return the id of a call, "" where it has none; some backends number theirs."""
    given = call.get("id")
    return given if isinstance(given, str) else str(given) if type(given) is int else ""


def _told_in(call: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return what a call says, and whether it says it as a call of a custom tool."""
    custom = None if call.get("type") == "function" else call.get("custom")
    told = custom if isinstance(custom, dict) else call.get("function")
    return told if isinstance(told, dict) else {}, isinstance(custom, dict)


def _input_in(arguments: str) -> str:
    """Return the input of a custom call from the arguments of the function that stands for it."""
    try:
        said = loads(arguments.encode())
    except ValueError:
        return arguments
    given = said.get("input") if isinstance(said, dict) else None
    return given if isinstance(given, str) else arguments


def _usage_in(value: Mapping[str, Any]) -> Any:
    """Return the usage that a chunk tells, where backends put it; None where it tells none."""
    beside = value.get("x_groq")
    for holder in (value, beside):
        if isinstance(holder, Mapping) and isinstance(holder.get("usage"), dict):
            return holder["usage"]
    return None


def _joined(old: Any, new: Any) -> Any:
    """Return what two pieces of one field make together."""
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *new]
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    grown = {
        key: old[key] + value
        for key, value in new.items()
        if key in _GROWING and isinstance(value, str) and isinstance(old.get(key), str)
    }
    return {**old, **new, **grown}


def _thought() -> dict[str, Any]:
    return {"type": "reasoning", "summary": []}


def _message() -> dict[str, Any]:
    return {"type": "message", "role": "assistant"}


def _content(texts: Sequence[str], refusal: str) -> Any:
    if len(texts) < 2 and not refusal:
        return "".join(texts)
    said = [{"type": "output_text", "text": text} for text in texts]
    return [*said, {"type": "refusal", "refusal": refusal}] if refusal else said


class _Text:
    """A text among the parts of a content, as far as it came."""

    def __init__(self, text: str, beside: dict[str, Any]) -> None:
        self.pieces = [text]
        self.beside = beside


class _Content:
    """An answer's content: texts, and what stands among them that an item has no place for."""

    def __init__(self) -> None:
        self._parts: list[Any] = []

    def add_text(self, text: str, beside: dict[str, Any], *, whole: bool) -> None:
        """Add a text, or more of the last one; *beside* are other fields of its part."""
        last = self._parts[-1] if self._parts else None
        if isinstance(last, _Text) and not (whole and (beside or last.beside)):
            last.pieces.append(text)
            for key, value in beside.items():
                last.beside[key] = _joined(last.beside[key], value) if key in last.beside else value
        else:
            self._parts.append(_Text(text, beside))

    def add_other(self, part: Any, *, whole: bool) -> None:
        """Add another part, or in a stream more of the last one, which grows by the field of its own name."""
        last = self._parts[-1] if self._parts else None
        kind = part.get("type") if isinstance(part, dict) else None
        if not whole and isinstance(last, dict) and kind is not None and last.get("type") == kind:
            old, new = last.get(kind), part.get(kind)
            if isinstance(old, str) and isinstance(new, str):
                self._parts[-1] = {**last, **part, kind: old + new}
                return
            if isinstance(old, list) and isinstance(new, list):
                self._parts[-1] = {**last, **part, kind: _grown(old, new)}
                return
        self._parts.append(part)

    def __len__(self) -> int:
        return len(self._parts)

    def texts(self) -> list[str]:
        """Return the texts."""
        return ["".join(part.pieces) for part in self._parts if isinstance(part, _Text)]

    def others(self) -> list[Any]:
        """Return what an item has no place for, each with its index."""
        return [[index, part] for index, part in enumerate(self._parts) if not isinstance(part, _Text)]

    def beside(self) -> list[Any]:
        """Return other fields of the texts' parts, by path."""
        return [
            [["content", index, key], value]
            for index, part in enumerate(self._parts)
            if isinstance(part, _Text)
            for key, value in part.beside.items()
        ]


def _text_in(piece: Any) -> tuple[str | None, dict[str, Any]]:
    """Return the text of a piece of content, and what its part has beside it; None where it is something else."""
    if isinstance(piece, str):
        return piece, {}
    if isinstance(piece, int | float):
        return encoded(piece).decode(), {}
    if not isinstance(piece, dict) or piece.get("type", "text") not in ("text", "output_text"):
        return None, {}
    text = piece.get("text")
    beside = {key: value for key, value in piece.items() if key not in ("type", "text") and value not in _NOTHING}
    return (text, beside) if isinstance(text, str) else (None, {})


def _grown(old: list[Any], new: list[Any]) -> list[Any]:
    """Return two pieces of a list of texts as one list; a text that goes on is one text."""
    made = list(old)
    for one in new:
        last = made[-1] if made else None
        if isinstance(last, dict) and isinstance(one, dict) and last.keys() == one.keys() == {"type", "text"}:
            made[-1] = {**one, "text": str(last["text"]) + str(one["text"])}
        else:
            made.append(one)
    return made


def _said(
    kind: str, part: _Part, *, delta: str = "", item: dict[str, Any] | None = None, extra: Any = None
) -> StreamEvent:
    raw: dict[str, Any] = {"type": kind, "output_index": part.index}
    if delta:
        raw["delta"] = delta
    if item is not None:
        raw["item"] = item
    done = item if kind == "response.output_item.done" else None
    return StreamEvent(type=kind, delta=delta, item=done, raw=raw, extra=extra)


def _usage(usage: Any) -> dict[str, Any] | None:
    """Return Chat's usage in the words of the Responses API."""
    if not isinstance(usage, Mapping):
        return None
    prompt, answer = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": usage.get("prompt_tokens"),
        "input_tokens_details": {"cached_tokens": prompt.get("cached_tokens")} if isinstance(prompt, Mapping) else {},
        "output_tokens": usage.get("completion_tokens"),
        "output_tokens_details": {"reasoning_tokens": answer.get("reasoning_tokens")}
        if isinstance(answer, Mapping)
        else {},
        "total_tokens": usage.get("total_tokens"),
    }
