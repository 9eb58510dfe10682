"""Summaries: what a model is asked for, and whether what it says can stand for what it was shown. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .items import parts, read

__all__ = ("HEADER", "UNFIT", "prompt", "unusable")

HEADER: Final = "[What was said up to here is left out. A summary of it follows.]"
"""What stands in front of a summary, as the user's."""

_ASK: Final = (
    "Sum up the conversation above. Your summary will take its place: whoever goes on with the conversation will see "
    "nothing else of it. Keep what the user wants and has decided; facts, names, figures, identifiers, paths and code "
    "that may be needed again; what was done with tools, and what of their outputs matters; what is finished, what is "
    "open, and what was about to be done. Leave out courtesies, and what has been overtaken. Write in the language of "
    "the conversation, without an introduction, and answer none of its questions."
)
_MORE: Final = (
    "What came before the above has been summed up already:\n\n{}\n\nYour summary takes the place of both: keep of "
    "that one whatever still holds."
)

UNFIT: Final[Mapping[str, str]] = {
    "cut_off": "it was cut off at its end",
    "called": "the model called a tool instead",
    "refused": "the model refused",
    "empty": "there is nothing in it",
    "error": "it is an error message",
    "no_compaction": "no compaction item is in it",
    "not_shorter": "it is no shorter than what it would stand for",
}
"""Why a result is not used, by the reason that the log gives."""

_ERROR: Final = re.compile(
    r"\W{0,5}((internal |upstream |server |api |http |fatal )*error\b|bad gateway|service unavailable|gateway time-?out"
    r"|too many requests|rate limit|request (failed|timed out)|context[ _]length[ _]exceeded|maximum context length"
    r"|this model'?s maximum context|invalid_request_error|unauthorized|forbidden|not found\b)",
    re.IGNORECASE,
)
_SHORT: Final = 400
"""Characters up to which a text that begins like an error message is taken for one."""


def prompt(before: str | None = None) -> str:
    """Return what a model is asked behind what it is to sum up; *before* is a summary of what came earlier."""
    return _ASK if before is None else f"{_ASK}\n\n{_MORE.format(before)}"


def unusable(items: Sequence[Mapping[str, Any]], status: str, *, remote: bool) -> str | None:
    """Return why the items of a result cannot stand for anything, None when they can."""
    if status != "completed":
        return "cut_off"
    if remote:
        opaque = [item for item in items if read(item).shape == "compaction" and item.get("encrypted_content")]
        return None if opaque else "no_compaction" if items else "empty"
    return "called" if any(read(item).is_call for item in items) else _unfit(items)


def _unfit(items: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why what was said is no summary."""
    said = [piece for item in items if read(item).shape == "assistant" for piece in parts(item)]
    if any(piece.get("type") == "refusal" for piece in said):
        return "refused"
    text = "".join(piece["text"] for piece in said if isinstance(piece.get("text"), str)).strip()
    return "empty" if not text else "error" if _is_error(text) else None


def _is_error(text: str) -> bool:
    """Return whether a text is a server's, that a backend has passed on as its model's."""
    try:
        value = json.loads(text)
    except ValueError:
        pages = text[:100].lower()
        return "<html" in pages or "<!doctype html" in pages or (len(text) <= _SHORT and _ERROR.match(text) is not None)
    return isinstance(value, dict) and ("error" in value or "detail" in value)
