"""Counting: what an item will weigh in a window. Done once for each item, when it is appended.

Text is counted exactly, with the model's vocabulary. What has no text (images, files, encrypted content) is estimated,
upward, and so are the few tokens that an API puts around every item; a window's figures say so. Source of the
overheads: OpenAI's cookbook on counting tokens for Chat Completions; there is none for Responses, where reported usage
corrects the sum (`factor`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from .canonical import encode
from .items import Item, parts, read
from .window.excerpts import excerpt

__all__ = ("SEAL_TOKENS", "Count", "Counter", "count_json", "count_text", "factor_of", "measure", "overhead")

Counter: TypeAlias = Callable[[str], int]
"""Counts the tokens of one text."""


class Count(NamedTuple):
    """The weight of an item."""

    tokens: int
    excerpt: int | None
    """Tokens of the excerpt that may stand for it."""
    estimated: bool


MESSAGE: Final = 4
CALL: Final = 8
OUTPUT: Final = 6
PRIMER: Final = 3
"""Tokens around a message, a call, an output, and before the answer."""
SEAL_TOKENS: Final = 40
"""More than the text that stands for a missing output takes."""

_IMAGE: Final = 1600
_AUDIO: Final = 1000
_FILE: Final = 1000
_CHUNK: Final = 100_000
_BASE64: Final = re.compile(
    r"data:(?P<kind>[a-zA-Z0-9.+/-]{0,100})(?:;[a-zA-Z0-9=._+-]{1,100}){0,4};base64,(?P<data>[A-Za-z0-9+/_=-]*)"
    r"|(?<![A-Za-z0-9+/_-])(?P<bare>[A-Za-z0-9+/_-]{1000,}={0,2})"
)
"""A data URL, or a run of digits that no text has."""
_PICTURES: Final = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""How PNG, JPEG, GIF and WebP begin, in base64."""


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
        cut = next(
            (at for at in range(end, start + _CHUNK // 2, -1) if text[at].isspace() and text[at - 1].isalnum()), end
        )
        yield text[start:cut]
        start = cut
    yield text[start:]


def count_json(text: str, counter: Counter) -> int:
    """Return the tokens of a value as JSON; what is in it as base64 is estimated by what it is, not counted as text."""
    left: list[str] = []
    tokens = start = 0
    for found in _BASE64.finditer(text):
        left.append(text[start : found.start()])
        start = found.end()
        tokens += _blob(found["kind"] or "", found["data"] or found["bare"] or "")
    return tokens + count_text("".join([*left, text[start:]]), counter)


def _blob(kind: str, data: str) -> int:
    """Estimate a file in base64, by its media type or its first bytes."""
    if kind.startswith("image") or data.startswith(_PICTURES):
        return _IMAGE
    if kind.startswith(("audio", "video")):
        return _AUDIO
    return _FILE + len(data) // 50


def measure(item: Item, counter: Counter) -> Count:
    """Return what an item weighs."""
    tokens, estimated = _weigh(item, counter)
    short = excerpt(item)
    if short is not None:
        lean = _weigh(short, counter)[0]
        return Count(tokens, lean if lean < tokens else None, estimated)
    return Count(tokens, None, estimated)


def _weigh(item: Item, counter: Counter) -> tuple[int, bool]:
    reading = read(item)
    match reading.shape:
        case "user" | "system" | "developer" | "assistant":
            name = item.get("name")
            return _sum(MESSAGE + (count_text(name, counter) if isinstance(name, str) else 0), parts(item), counter)
        case "function_call" | "custom_tool_call":
            texts = (str(item.get(field) or "") for field in ("name", "namespace", "arguments", "input"))
            return CALL + sum(count_text(text, counter) for text in texts), False
        case "function_call_output" | "custom_tool_call_output":
            return _sum(OUTPUT, parts(item), counter)
        case "reasoning" | "compaction":
            return _opaque(item, counter)
        case "image_generation_call":
            return MESSAGE + _IMAGE, True
        case _:
            return MESSAGE + count_json(encode(_without_ids(item)).decode(), counter), True


def _sum(total: int, pieces: Iterator[Mapping[str, Any]], counter: Counter) -> tuple[int, bool]:
    estimated = False
    for piece in pieces:
        text = piece.get("text", piece.get("refusal"))
        if isinstance(text, str):
            total += count_text(text, counter)
        else:
            total += _part(piece, counter)
            estimated = True
    return total, estimated


def _part(piece: Mapping[str, Any], counter: Counter) -> int:
    """Estimate a part without text, never by the length of its base64."""
    kind = str(piece.get("type"))
    if "image" in kind:
        return _IMAGE
    if "audio" in kind or "video" in kind:
        return _AUDIO
    data = next((value for value in piece.values() if isinstance(value, str) and len(value) > 2000), None)
    if data is not None:
        return _FILE + len(data) // 50
    return _FILE if "file" in kind or "document" in kind else count_text(json.dumps(piece, ensure_ascii=False), counter)


def _opaque(item: Item, counter: Counter) -> tuple[int, bool]:
    secret = item.get("encrypted_content")
    if isinstance(secret, str) and secret:
        # Observed: some 700 characters of envelope, then five to eight for each token.
        return MESSAGE + max(16, (len(secret) - 700) // 5), True
    tokens, _ = _sum(MESSAGE, parts(item), counter)
    summary = item.get("summary")
    if isinstance(summary, list):
        tokens += sum(count_text(str(part.get("text", "")), counter) for part in summary if isinstance(part, Mapping))
    return tokens, False


def _without_ids(item: Item) -> dict[str, object]:
    return {key: value for key, value in item.items() if key not in ("id", "status", "encrypted_content", "result")}


def overhead(settings: Mapping[str, Any], counter: Counter) -> int:
    """Return the tokens of a request's instructions, tools and response format, and of the answer's beginning."""
    frame = settings.get("recorded", settings)
    params = settings.get("params") or frame
    total = PRIMER
    instructions = frame.get("instructions")
    if isinstance(instructions, str) and instructions:
        total += MESSAGE + count_text(instructions, counter)
    tools = frame.get("tools")
    if tools:
        total += 9 + count_text(json.dumps(tools, ensure_ascii=False), counter)
    for field in ("response_format", "text"):
        if isinstance(params.get(field), Mapping) and len(str(params[field])) > 40:
            total += count_text(json.dumps(params[field], ensure_ascii=False), counter)
    return total


def factor_of(counted: int, reported: int) -> int:
    """Return the thousandths by which *counted* tokens fall short of those *reported*; never below 1000."""
    return max(1000, -(-reported * 1000 // counted)) if counted > 0 else 1000


def scaled(tokens: int, factor: int) -> int:
    """Return counted tokens times a factor in thousandths, rounded up."""
    return -(-tokens * factor // 1000)
