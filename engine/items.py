"""Reading one item: what kind it is, who makes it, what it pairs with, where its text is.

Items have the shape of the OpenAI Responses API, for both APIs: raw JSON, value for value what its maker said. The
table below is the only place that knows item kinds; every other module asks it (which fields they have, `fields` says).
A kind that is not in it is kept and passed on as it came, with the group it stands in.

Source of the kinds and their links: the Responses API reference (input and output items of `POST /responses`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from .canonical import plain, written
from .common import is_common
from .errors import InvalidItem
from .fields import wanting

__all__ = (
    "EFFECTS",
    "IN_ORDER",
    "KINDS",
    "ROLES",
    "Input",
    "InputItem",
    "Item",
    "Kind",
    "Maker",
    "Reading",
    "SupportsModelDump",
    "accept",
    "content_of",
    "effects",
    "parts",
    "read",
    "reading",
)

Item: TypeAlias = Mapping[str, object]
"""One item, as a mapping: openai's TypedDict params fit, and so do dicts."""


@runtime_checkable
class SupportsModelDump(Protocol):
    """openai's pydantic objects, without importing openai."""

    def model_dump(self, *, mode: str = ..., exclude_unset: bool = ...) -> dict[str, Any]:
        """Return the object as a dict."""
        ...


InputItem: TypeAlias = str | Item | SupportsModelDump
"""An item to append: a string is a user's message."""
Input: TypeAlias = InputItem | Sequence[InputItem]

Maker: TypeAlias = Literal["input", "model", "output"]
"""Who makes items of a kind: the caller as input, the model (its hosted tools too), the caller as a call's output."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of every item of one kind."""

    tag: str
    maker: Maker
    link: str | None = None
    """The field that pairs a call with its output."""
    answers: str | None = None
    """The kind of the calls that this kind is the output of."""
    owed: bool = True
    """Whether it is the caller who gives the output; of programs the provider does, in the same answer or a later."""
    prefix: str | None = None
    """What the ids that the API gives to such items begin with."""
    needs_id: bool = False
    """Whether the API takes such an item only with its id."""
    positional: bool = False
    """Whether it takes effect from its place on until a later one replaces it."""
    settings: tuple[str, ...] = ()
    """The fields of a positional kind that take effect each for itself; none: the item does as a whole."""
    sealed_by: str | None = None
    """The kind of output that can say in words that a call was not carried out; None: there is no such output."""


def _kinds() -> dict[str, Kind]:
    call: Final[Maker] = "model"
    hosted: Final[Maker] = "model"
    output: Final[Maker] = "output"
    table = (
        Kind(tag="message", maker="input", prefix="msg_"),  # from the assistant: Reading.maker says model
        Kind(tag="reasoning", maker="model", prefix="rs_", needs_id=True),
        Kind(tag="compaction", maker="model", prefix="cmp_"),
        Kind(tag="function_call", maker=call, link="call_id", prefix="fc_", sealed_by="function_call_output"),
        Kind(tag="function_call_output", maker=output, link="call_id", answers="function_call", prefix="fc"),
        Kind(tag="custom_tool_call", maker=call, link="call_id", prefix="ctc_", sealed_by="custom_tool_call_output"),
        Kind(tag="custom_tool_call_output", maker=output, link="call_id", answers="custom_tool_call", prefix="ctc"),
        Kind(tag="computer_call", maker=call, link="call_id", needs_id=True),
        Kind(tag="computer_call_output", maker=output, link="call_id", answers="computer_call"),
        Kind(tag="local_shell_call", maker=call, link="call_id", needs_id=True),
        Kind(tag="local_shell_call_output", maker=output, link="id", answers="local_shell_call"),
        Kind(tag="shell_call", maker=call, link="call_id"),
        Kind(tag="shell_call_output", maker=output, link="call_id", answers="shell_call"),
        Kind(tag="apply_patch_call", maker=call, link="call_id"),
        Kind(tag="apply_patch_call_output", maker=output, link="call_id", answers="apply_patch_call"),
        Kind(tag="tool_search_call", maker=call, link="call_id", prefix="tsc_"),
        Kind(tag="tool_search_output", maker=output, link="call_id", answers="tool_search_call", prefix="tso_"),
        Kind(tag="mcp_approval_request", maker=hosted, link="id", needs_id=True),
        Kind(
            tag="mcp_approval_response",
            maker=output,
            link="approval_request_id",
            answers="mcp_approval_request",
        ),
        Kind(tag="mcp_call", maker=hosted, prefix="mcp_", needs_id=True),
        Kind(tag="mcp_list_tools", maker=hosted, prefix="mcpl_", needs_id=True),
        Kind(tag="web_search_call", maker=hosted, prefix="ws_", needs_id=True),
        Kind(tag="file_search_call", maker=hosted, prefix="fs_", needs_id=True),
        Kind(tag="code_interpreter_call", maker=hosted, prefix="ci_", needs_id=True),
        Kind(tag="image_generation_call", maker=hosted, prefix="ig_", needs_id=True),
        Kind(tag="program", maker=hosted, link="call_id", owed=False, needs_id=True),
        Kind(tag="program_output", maker=hosted, link="call_id", answers="program", owed=False, needs_id=True),
        Kind(tag="additional_tools", maker="input", positional=True),
        Kind(tag="configuration_update", maker="input", positional=True, settings=("reasoning", "text")),
        Kind(tag="item_reference", maker="input", needs_id=True),
        Kind(tag="compaction_trigger", maker="input"),
    )
    return {kind.tag: kind for kind in table}


KINDS: Final[Mapping[str, Kind]] = _kinds()
ROLES: Final = frozenset({"user", "assistant", "system", "developer"})
_SERVER: Final = frozenset({"tool_search_call", "tool_search_output"})
IN_ORDER: Final = ""
"""The link of searches that the caller carries out and that have none: outputs are for those of the last answer, in
their order."""


EFFECTS: Final = tuple(
    f"{kind.tag}.{name}" if name else kind.tag
    for kind in KINDS.values()
    if kind.positional
    for name in kind.settings or ("",)
)
"""What positional items put in effect, by name: the latest of each stays, wherever a window begins."""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What turnlog needs to know of one item to place it in a window, without its body."""

    shape: str
    """A message's role, else the item's type tag."""
    maker: Maker | None
    """None: an unknown kind, which belongs to the group it stands in."""
    link: str | None
    """What pairs it with its call or output; None where the caller owes nothing."""
    kind: Kind | None
    """The kind, None when the table does not know it."""
    is_call: bool
    """Whether the caller owes an output for it."""
    is_output: bool
    """Whether it is the output of a call."""

    def __repr__(self) -> str:
        return f"Reading(shape={self.shape!r}, maker={self.maker!r}, link={self.link!r})"


def reading(shape: str, link: str | None) -> Reading:
    """Return the reading of an item from what its row in a store says of it."""
    if link is None:
        return _PLAIN.get(shape) or _reading(shape, None)
    form = _LINKED.get(shape)
    if form is None:
        return _reading(shape, link)
    return Reading(shape, form.maker, link, form.kind, form.is_call, form.is_output)


def _reading(shape: str, link: str | None) -> Reading:
    if shape in ROLES:
        return Reading(shape, "model" if shape == "assistant" else "input", None, KINDS["message"], False, False)
    kind = KINDS.get(shape)
    if kind is None or shape == "message":
        return Reading(shape, None, link, kind, False, False)  # a message of no known role is as unknown as its kind
    maker: Maker = "model" if shape in _SERVER and link is None else kind.maker
    linked = link is not None
    return Reading(shape, maker, link, kind, linked and maker == "model", linked and maker == "output")


_PLAIN: Final = {shape: _reading(shape, None) for shape in (*ROLES, *KINDS)}
"""The readings of what has no link, which most items have not."""
_LINKED: Final = {shape: _reading(shape, "") for shape in KINDS if shape not in ROLES}
"""What those have in common that have one."""


def read(item: Item) -> Reading:
    """Return the reading of an item. It never fails: what cannot be read is of an unknown kind.

    >>> read({"type": "function_call", "call_id": "call_1", "name": "now", "arguments": "{}"})
    Reading(shape='function_call', maker='model', link='call_1')
    """
    tag = item.get("type")
    if not isinstance(tag, str):
        # Two shapes may omit their type: a message has a role, a reference has nothing but an id.
        tag = "message" if "role" in item else "item_reference" if "id" in item else "unknown"
    if tag == "message":
        role = item.get("role")
        return reading(role if isinstance(role, str) and role in ROLES else tag, None)
    if tag in ROLES:
        return reading("unknown", None)  # a kind of that name is not a message of that role
    return reading(tag, _link(item, tag, KINDS.get(tag)))


def _link(item: Item, tag: str, kind: Kind | None) -> str | None:
    """Return what pairs a call and its output, None where nothing does, or nothing has to."""
    if kind is None or kind.link is None or not kind.owed:
        return None
    execution = item.get("execution") if tag in _SERVER else None
    if execution == "server":
        return None
    link = item.get(kind.link)
    if link is None and execution == "client":
        return IN_ORDER
    return link if isinstance(link, str) else None


def effects(item: Item, kind: Kind) -> tuple[str, ...]:
    """Return what an item of a positional kind puts in effect, by the names of `EFFECTS`.

    >>> effects({"type": "configuration_update", "reasoning": {"effort": "low"}}, KINDS["configuration_update"])
    ('configuration_update.reasoning',)
    """
    if not kind.settings:
        return (kind.tag,)
    return tuple(f"{kind.tag}.{name}" for name in kind.settings if item.get(name) is not None)


def accept(value: InputItem, path: str) -> tuple[Any, bytes]:
    """Return a caller's item as plain JSON, with its canonical bytes.

    A string becomes a user's message; anything with `model_dump`, at any depth, is dumped with `exclude_unset=True`.

    Raises:
        InvalidItem: it is no item, or not JSON (see `turnlog.engine.canonical`), or in the shape of Chat Completions;
            or it lacks what a request needs of its kind (see `turnlog.engine.fields`).
    """
    if isinstance(value, str):
        value = {"role": "user", "content": value}
    elif not isinstance(value, dict | Mapping):  # a dict is told much sooner
        _check_dumps(value, path)
    item = plain(value, path)
    data = written(item, path)
    if not is_common(item):
        _check(item, path)
    return item, data


def _check_dumps(value: object, path: str) -> None:
    # A class has model_dump too; it was meant to be called first.
    if isinstance(value, type) or not isinstance(value, SupportsModelDump):
        said = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise InvalidItem(path, f"{said} is no item; pass a string, a mapping, or an object with model_dump")


def _check(item: dict[str, Any], path: str) -> None:
    tag = item.get("type")
    if tag in (None, "message") and ("tool_calls" in item or item.get("role") in ("tool", "function")):
        raise InvalidItem(
            path,
            "this is a Chat Completions message; turnlog.engine.messages.to_items(messages) turns such into items",
        )
    if tag is not None and (not isinstance(tag, str) or not tag):
        raise InvalidItem(f"{path}.type", f"{tag!r:.100} is no item type")
    if tag == "message" or (tag is None and "role" in item):
        _check_message(item, path)
    elif tag is None or tag == "item_reference":
        raise InvalidItem(
            path, "an item needs a type, or a role and content; references are not logged, append the item itself"
        )
    elif tag == "compaction_trigger":
        raise InvalidItem(path, "a compaction_trigger is part of a request, not of a history")
    elif (kind := KINDS.get(tag)) is not None:
        _check_link(item, kind, path)
        _check_fields(item, tag, path)


def _check_message(item: dict[str, Any], path: str) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidItem(f"{path}.role", f"{role!r:.100} is none of {', '.join(sorted(ROLES))}")
    content = item.get("content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidItem(f"{path}.content", "a message's content is a string or a list of parts")
    _check_fields(item, role, path)


def _check_link(item: dict[str, Any], kind: Kind, path: str) -> None:
    if kind.link is None or kind.tag in _SERVER:
        return
    link = item.get(kind.link)
    if not isinstance(link, str) or not link:
        raise InvalidItem(
            f"{path}.{kind.link}", f"a {kind.tag} needs a {kind.link} that pairs it with its call or output"
        )


def _check_fields(item: dict[str, Any], shape: str, path: str) -> None:
    for one in wanting(item, shape):
        raise InvalidItem(f"{path}.{one.path}", one.needs)


def content_of(item: Item) -> Any:
    """Return what a message or an output says, as it has it: a string, or a list of parts."""
    return item.get("output" if "output" in item else "content")


def parts(item: Item) -> Iterator[Mapping[str, Any]]:
    """Yield the content parts of a message or an output; a string counts as one text part."""
    content = content_of(item)
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict | Mapping):  # a dict is told much sooner
                yield part
