"""Summaries: what a model is asked for, and whether what it says can stand for what it was shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .items import parts, read
from .notices import notice

__all__ = ("HEADER", "UNFIT", "is_too_short", "prompt", "unusable")

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

_LONG: Final = (
    "What follows comes next in the conversation, and is too long to be shown whole: of each piece of it you see the "
    "beginning and the end. It is part of what you sum up; say of it that it was longer.\n\n{}"
)

UNFIT: Final[Mapping[str, str]] = {
    "cut_off": "it was cut off at its end",
    "called": "the model called a tool instead",
    "refused": "the model refused",
    "empty": "there is nothing in it",
    "error": "it is an error message",
    "too_short": "it is too short for what it would stand for",
    "no_compaction": "no compaction item is in it",
    "not_shorter": "it is no shorter than what it would stand for",
}
"""Why a result is not used, by the reason that the log gives."""

_PLENTY: Final = 16
"""Tokens that are enough for a summary of whatever length."""
_SHARE: Final = 500
"""How many tokens one token of a summary may stand for, as long as it is not plenty."""


def prompt(before: str | None = None, passage: str | None = None) -> str:
    """Return what a model is asked behind what it is to sum up.

    *before* is a summary of what came earlier, *passage* a text of what is too long to be sent.
    """
    asked = _ASK if before is None else f"{_ASK}\n\n{_MORE.format(before)}"
    return asked if passage is None else f"{asked}\n\n{_LONG.format(passage)}"


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
    return notice(text) if text else "empty"


def is_too_short(tokens: int, replaced: int) -> bool:
    """Return whether a summary of so many tokens can hardly hold what counts of *replaced* tokens."""
    return tokens < min(_PLENTY, replaced // _SHARE)
