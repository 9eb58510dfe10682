"""Counting: what an item will weigh in a window. Done once for each item, when it is appended.

Text is counted exactly, with the model's vocabulary. What has no text is estimated by what it holds: a picture by its
width and height, a PDF by its pages, a recording by its length, encrypted content by its own length, which is then
corrected by what the API reports. What an API puts around messages, calls and tools was measured on recorded requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from . import media
from .canonical import encode
from .checks import whole
from .errors import Invalid
from .events import SECRET, NewEvent, Usage
from .families import ANY_FAMILY, Pictures, family_of
from .items import Item, Reading, content_of, parts, read
from .schemas import declarations, response_format
from .window.excerpts import HEAD, TAIL, excerpt

__all__ = (
    "SEAL_TOKENS",
    "Callers",
    "Count",
    "Counter",
    "Scale",
    "compacted",
    "count_json",
    "count_text",
    "factor_of",
    "measure",
    "overhead",
    "scale_of",
    "scaled",
    "settled",
)

Counter: TypeAlias = Callable[[str], int]
"""Counts the tokens of one text."""


class Count(NamedTuple):
    """The weight of an item."""

    tokens: int
    excerpt: int | None
    """Tokens of the excerpt that may stand for it."""
    estimated: bool
    pictured: bool = False
    """Whether pictures are among it, which weigh something else in each family of models."""


class Scale:
    """A counter that knows what pictures weigh for a model, too."""

    __slots__ = ("alike", "count", "pictures")

    def __init__(self, count: Counter, pictures: Pictures, *, alike: bool) -> None:
        self.count = count
        self.pictures = pictures
        self.alike = alike
        """Whether text weighs what the log says; then only items with pictures weigh something else."""

    def __call__(self, text: str) -> int:
        """Return the tokens of a text."""
        return self.count(text)


class Callers:
    """A caller's own counter, whose mistakes are named; two are the same whose functions are.

    Raises:
        Invalid: called with a text, the function fails, or returns no number of tokens.
    """

    __slots__ = ("count",)

    def __init__(self, count: Counter) -> None:
        self.count = count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Callers) and self.count == other.count

    def __hash__(self) -> int:
        try:
            return hash(self.count)
        except TypeError:
            return hash(type(self.count))

    def __call__(self, text: str) -> int:
        """Return the tokens of a text."""
        try:
            tokens = self.count(text)
        except Exception as error:
            raise Invalid(f"count={self.count!r:.100}: it failed: {type(error).__name__}: {error}") from error
        return whole("count(text)", tokens, 0, of="tokens")


@lru_cache(256)
def scale_of(model: str, count: Counter, *, alike: bool) -> Scale | None:
    """Return the scale of a model whose text is counted by *count*, None where the log's figures are its own.

    *alike* says that the log's text was counted so too. The same model and counter have the same scale.
    """
    pictures = (family_of(model) or ANY_FAMILY).pictures
    return None if alike and pictures == ANY_FAMILY.pictures else Scale(count, pictures, alike=alike)


MESSAGE: Final = 4
CALL: Final = 10
OUTPUT: Final = 9
"""Tokens around a message, a call, an output; an output is told with its call's name, which is in this."""
SEAL_TOKENS: Final = 40
"""More than the text that stands for a missing output takes."""

_UNSEEN: Final = (1024, 1024)
"""What a picture is taken for whose size cannot be seen here: it is somewhere else, or in another format."""
_PAGE: Final = 1000
"""A page of a PDF: its picture, and as much text as pages have."""
_FILE: Final = 1000
_AUDIO: Final = 1000
_SOUND: Final = 10
"""A second of sound."""
_MADE: Final = 1600
"""A picture that a model made."""
_TOOLS_MEANWHILE: Final = 84
"""Beside the declarations of tools that are added later."""
_SUMMARY: Final = 80
"""Around what a compaction item stands for: words that say what it is."""
_CHUNK: Final = 100_000
_BASE64: Final = re.compile(
    r"data:(?P<kind>[a-zA-Z0-9.+/-]{0,100})(?:;[a-zA-Z0-9=._+-]{1,100}){0,4};base64,(?P<data>[A-Za-z0-9+/_=-]*)"
    r"|(?<![A-Za-z0-9+/_-])(?P<bare>[A-Za-z0-9+/_-]{1000,}={0,2})"
)
"""A data URL, or a run of digits that no text has."""
_NEVER_BASE64: Final = re.compile(r"[^A-Za-z0-9.+/_=;,:-]")
"""What stands in no data URL and in no run of digits; texts are full of it."""
_TEXTUAL: Final = re.compile(r"text/|application/(json|xml|yaml|toml|javascript|.*\+(json|xml)$)")


def count_text(text: str, counter: Counter) -> int:
    """Return the tokens of a text of any length.

    Long texts are counted piece by piece: tiktoken's matcher overflows its stack on a few hundred thousand spaces in a
    row. Pieces end between a letter or digit and white space, where no token crosses; where a text has no such place in
    50,000 characters, it counts a token or two more or less.
    """
    if len(text) <= _CHUNK:
        return counter(text)
    return sum(counter(piece) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _CHUNK:
        end = start + _CHUNK
        cut = _seam(text, range(end, start + _CHUNK // 2, -1)) or end
        yield text[start:cut]
        start = cut
    yield text[start:]


def _seam(text: str, places: Iterable[int]) -> int | None:
    """Return the first of some places in a text that no token crosses: between a letter or digit and white space."""
    return next((at for at in places if text[at].isspace() and text[at - 1].isalnum()), None)


def _ends(text: str) -> Sequence[str]:
    """Return a text in three: its beginning and its end as they are in its excerpt, and what is between."""
    if len(text) <= HEAD + TAIL:
        return (text,)
    first = _seam(text, range(HEAD - 1, HEAD // 2, -1)) or 0
    last = _seam(text, range(len(text) - TAIL + 1, len(text) - TAIL // 2)) or len(text)
    return text[:first], text[first:last], text[last:]


def count_json(text: str, counter: Counter) -> int:
    """Return the tokens of a value as JSON; what is in it as base64 is estimated by what it is, not counted as text."""
    left: list[str] = []
    tokens = 0
    for piece in _between_runs(text):
        start = 0
        for found in _BASE64.finditer(piece):
            left.append(piece[start : found.start()])
            start = found.end()
            tokens += _content(found["kind"] or "", found["data"] or found["bare"] or "", counter)
        left.append(piece[start:])
    return tokens + count_text("".join(left), counter)


def _between_runs(text: str) -> Iterator[str]:
    """Yield JSON in pieces that end where no base64 goes on, so that no search holds other threads up for long."""
    start = 0
    while len(text) - start > _CHUNK and (found := _NEVER_BASE64.search(text, start + _CHUNK)):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def measure(item: Item, counter: Counter, form: Reading | None = None) -> Count:
    """Return what an item weighs; *form* is its reading, where it is at hand.

    Pictures weigh what they do for the family of the counter, if it is a `Scale`, else for the latest models.
    """
    form = form or read(item)
    short = excerpt(item)
    if short is None:
        tokens, estimated, pictured = _Weighing(counter).weigh(item, form)
        return Count(tokens, None, estimated, pictured)
    shared: dict[str, int] = {}
    tokens, estimated, pictured = _Weighing(counter, shared).weigh(item, form)
    lean = _Weighing(counter, shared).weigh(short, form)[0]
    return Count(tokens, lean if lean < tokens else None, estimated, pictured)


class _Weighing:
    """The weighing of one item."""

    def __init__(self, counter: Counter, shared: dict[str, int] | None = None) -> None:
        self.counter = counter
        self.estimated = False
        self.pictured = False
        self._shared = shared
        """What pieces of the item and of its excerpt weigh, each counted once; None: there is no excerpt."""

    def weigh(self, item: Item, form: Reading) -> tuple[int, bool, bool]:
        """Return what an item weighs, whether that is an estimate, and whether pictures are in it."""
        return self._weigh(item, form), self.estimated, self.pictured

    def _weigh(self, item: Item, form: Reading) -> int:
        match form.shape:
            case "user" | "system" | "developer" | "assistant":
                return MESSAGE + self._texts(item, "name") + self._parts(item)
            case "function_call" | "custom_tool_call":
                return CALL + self._texts(item, "name", "namespace", "arguments", "input")
            case "function_call_output" | "custom_tool_call_output":
                return OUTPUT + self._texts(item, "namespace") + self._parts(item)
            case "reasoning" | "compaction":
                return self._opaque(item, form.shape)
            case "additional_tools":
                tools = item.get("tools")
                self.estimated = True
                return MESSAGE + _TOOLS_MEANWHILE + self._text(declarations(tools if isinstance(tools, list) else ()))
            case "image_generation_call":
                self.estimated = True
                return MESSAGE + _MADE
            case _:
                self.estimated = True
                text = encode(_without_ids(item)).decode()
                self.pictured = "image" in text
                return MESSAGE + count_json(text, self.counter)

    def _text(self, text: str) -> int:
        if self._shared is None:
            return count_text(text, self.counter)
        total = 0
        for piece in _ends(text):
            tokens = self._shared.get(piece)
            if tokens is None:
                tokens = self._shared[piece] = count_text(piece, self.counter)
            total += tokens
        return total

    def _texts(self, item: Item, *fields: str) -> int:
        total = 0
        for field in fields:
            text = item.get(field)
            if isinstance(text, str) and text:
                total += self._text(text)
        return total

    def _parts(self, item: Item) -> int:
        content = content_of(item)
        if isinstance(content, str):
            return self._text(content)
        total = 0
        for piece in parts(item):
            text = piece.get("text", piece.get("refusal"))
            if isinstance(text, str):
                total += self._text(text)
            else:
                self.estimated = True
                total += self._part(piece)
        return total

    def _part(self, piece: Mapping[str, Any]) -> int:
        """Estimate a part without text, never by the length of its base64."""
        kind = str(piece.get("type"))
        if "image" in kind or "screenshot" in kind:
            self.pictured = True
            return picture(piece, self.counter)
        inner = piece.get(kind)
        held = inner if isinstance(inner, Mapping) else piece
        if "audio" in kind or "video" in kind:
            data = held.get("data")
            return _content("audio/*", data, self.counter) if isinstance(data, str) else _AUDIO
        data = next((one for one in (held.get("file_data"), held.get("data")) if isinstance(one, str)), None)
        if data is None:
            data = next((value for value in held.values() if isinstance(value, str) and len(value) > 2000), None)
        if data is not None:
            return self._file(data) + self._texts(held, "filename")
        return _FILE if "file" in kind or "document" in kind else self._text(json.dumps(piece, ensure_ascii=False))

    def _file(self, data: str) -> int:
        return _content(*_told(data), self.counter)

    def _opaque(self, item: Item, shape: str) -> int:
        secret = item.get("encrypted_content")
        if isinstance(secret, str) and secret:
            self.estimated = True
            return hidden(shape, len(secret))
        summary = item.get("summary")
        told = summary if isinstance(summary, list) else []
        texts = (part.get("text") for part in told if isinstance(part, Mapping))
        return MESSAGE + self._parts(item) + sum(self._text(text) for text in texts if isinstance(text, str))


def hidden(shape: str, length: int) -> int:
    """Estimate what is encrypted by the characters that it takes: an envelope, and some for each token."""
    if shape == "compaction":
        return _SUMMARY + max(16, (length - 1300) // 8)
    return MESSAGE + max(8, (length - 850) * 2 // 13)


def picture(piece: Mapping[str, Any], counter: Counter) -> int:
    """Estimate a part that is a picture: by its size, where that can be read here, for the counter's family."""
    told = piece.get("image_url")
    inner = told if isinstance(told, Mapping) else piece
    url = inner.get("url") if isinstance(told, Mapping) else told
    data = _told(url)[1] if isinstance(url, str) and url.startswith("data:") else ""
    return _pictured(data, str(inner.get("detail") or "auto"), counter)


def _told(url: str) -> tuple[str, str]:
    """Return the media type that a data URL tells, and its base64; anything else is taken for base64."""
    if not url.startswith("data:"):
        return "", url
    head, _, _ = url[:400].partition(",")
    return head[5:].partition(";")[0], url[len(head) + 1 :]


def _pictured(data: str, detail: str, counter: Counter) -> int:
    pictures = counter.pictures if isinstance(counter, Scale) else ANY_FAMILY.pictures
    width, height = media.size(data) or _UNSEEN
    return pictures.tokens(width, height, detail)


def _content(kind: str, data: str, counter: Counter) -> int:
    """Estimate a file in base64, by its media type or its first bytes."""
    kind = media.media_type(media.decoded(data, 96)) or kind
    if kind.startswith("image"):
        return _pictured(data, "auto", counter)
    if kind.startswith(("audio", "video")):
        lasting = media.seconds(data)
        return _AUDIO if lasting is None else _SOUND * (lasting + 1)
    if kind == "application/pdf":
        return _PAGE * media.pages(data)
    if _TEXTUAL.match(kind):
        return count_text(media.decoded(data).decode(errors="replace"), counter)
    return _FILE + len(data) // 50


def _without_ids(item: Item) -> dict[str, object]:
    return {key: value for key, value in item.items() if key not in ("id", "status", "encrypted_content", "result")}


def overhead(settings: Mapping[str, Any], counter: Counter, api: str = "responses") -> int:
    """Return the tokens of a request's instructions, tools and response format, and of what frames them."""
    told = settings.get("recorded", settings)
    params = settings.get("params") or told
    frame = (family_of(str(told.get("model", ""))) or ANY_FAMILY).frame
    total = frame.primer
    instructions = told.get("instructions")
    if isinstance(instructions, str) and instructions:
        total += MESSAGE + count_text(instructions, counter)
    tools = told.get("tools")
    if isinstance(tools, list) and tools:
        around = frame.tools if api == "responses" else frame.chat_tools + (0 if instructions else frame.shell)
        total += around + count_text(declarations(tools), counter)
    text = params.get("text")
    for form in (params.get("response_format"), text.get("format") if isinstance(text, Mapping) else None):
        total += count_text(response_format(form), counter)
    return total


_BLOCK: Final = 64
"""Some models report their reasoning rounded down to whole blocks."""


def settled(events: Sequence[NewEvent], usage: Usage | None) -> list[NewEvent]:
    """Return a whole response's events with its encrypted reasoning weighing what the API reported.

    The report is of all that was made: what is not visible of it is the reasoning. Where it says that it was rounded
    down, as early models' does, it bounds the estimate. Without a report nothing changes.
    """
    secret = [one for one in events if one.shape == "reasoning" and one.flags & SECRET]
    if usage is None or not secret or usage.output_tokens <= 0:
        return list(events)
    estimate = sum(one.tokens for one in secret)
    visible = sum(one.tokens for one in events if one.shape != "reasoning" and one.item is not None)
    told = usage.reasoning_tokens
    rest = usage.output_tokens - visible
    if told % _BLOCK == 0 and rest < told + _BLOCK // 4:
        actual = min(max(estimate, told), told + _BLOCK - 1)
    else:
        actual = max(told, rest)
    share = [one.tokens * actual // estimate for one in secret]
    weights = dict(zip(map(id, secret), share, strict=True))
    return [
        msgspec.structs.replace(one, tokens=max(1, weights[id(one)])) if id(one) in weights else one for one in events
    ]


def compacted(parts: Iterable[tuple[Item, int]], usage: Usage | None) -> int:
    """Return the tokens of a compaction's output, which comes with those of each item.

    An opaque item weighs what the API reported: that is of what was made, and messages beside it are quoted.
    """
    made = usage.output_tokens if usage is not None else 0
    return sum(_SUMMARY + made if made and item.get("type") == "compaction" else tokens for item, tokens in parts)


def factor_of(counted: int, reported: int) -> int:
    """Return the thousandths by which *counted* tokens fall short of those *reported*; never below 1000."""
    return max(1000, -(-reported * 1000 // counted)) if counted > 0 else 1000


def scaled(tokens: int, factor: int) -> int:
    """Return counted tokens times a factor in thousandths, rounded up."""
    return -(-tokens * factor // 1000)
