"""The commonest forms of items, recognised in one look. Pure.

Most items are texts, calls and outputs with nothing about them: what requests need of their kind is there, all of it
can be sent as it is, to whichever API. That `turnlog.engine.fields` and `turnlog.engine.forms` find out field by field,
in the time that an item's whole row takes to be written; a struct of msgspec's tells it of these in a fraction of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

__all__ = ("is_common",)

_Link: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
_Nothing: TypeAlias = Annotated[list[Any], msgspec.Meta(max_length=0)]
_Status: TypeAlias = Literal["in_progress", "completed", "incomplete"] | None


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Has these fields and no other; null is nothing in all that may be left out."""


class _Said(_Form, frozen=True, kw_only=True):
    type: Literal["input_text"]
    text: str


class _Spoken(_Form, frozen=True, kw_only=True):
    type: Literal["output_text"]
    text: str
    annotations: _Nothing | None = None
    logprobs: list[Any] | None = None


class _Message(_Form, frozen=True, kw_only=True):
    role: str
    content: str | list[_Said]
    type: Literal["message"] = "message"
    id: str | None = None
    status: _Status = None


class _Answer(_Form, frozen=True, kw_only=True):
    role: str
    content: str | list[_Spoken]
    type: Literal["message"] = "message"
    id: str | None = None
    status: _Status = None


class _Call(_Form, frozen=True, kw_only=True):
    type: str
    call_id: _Link
    name: str
    arguments: str
    id: str | None = None
    status: _Status = None


class _Output(_Form, frozen=True, kw_only=True):
    type: str
    call_id: _Link
    output: str | list[_Said]
    id: str | None = None
    status: _Status = None


_FORMS: Final[Mapping[Any, type[_Form]]] = {
    **dict.fromkeys(("user", "system", "developer"), _Message),
    "assistant": _Answer,
    "function_call": _Call,
    "function_call_output": _Output,
}
"""By the role of a message, else by the type."""


def is_common(item: Mapping[str, Any]) -> bool:
    """Return whether an item, as plain JSON, is whole, and has nothing that any API refuses or has no place for.

    That it has none of these forms says nothing: then it takes a closer look.

    >>> is_common({"role": "user", "content": "Hi"}), is_common({"role": "user", "content": "Hi", "timestamp": 7})
    (True, False)
    """
    name = item.get("role" if "role" in item else "type")
    form = _FORMS.get(name) if isinstance(name, str) else None
    if form is None:
        return False
    try:
        msgspec.convert(item, form)
    except msgspec.ValidationError:
        return False
    return True
