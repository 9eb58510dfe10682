"""Rendering: from a manifest to the items that are sent. Pure; it never asks a policy.

The same manifest renders to the same bytes for ever: change what is written here only under a new `RENDERER` version,
and keep the old one for old manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec

from ..canonical import encode, loads
from ..events import CALLED, ODD, Target
from ..fields import OUTPUT_ONLY, trimmed
from ..forms import mended, says_more, texts_only
from ..groups import Entry, Group
from ..items import ROLES, read
from ..manifest import SENT, Fates, Manifest
from .excerpts import excerpt
from .kinds import knows_phases, paired

__all__ = ("RENDERER", "SEALED", "Pen", "Rendered", "Written", "function_name", "render", "seal")

RENDERER: Final = 1

SEALED: Final = "[no output has been recorded for this call]"
"""What a window says of a call that has no output in the log."""

_INPUT_PARTS: Final = ("input_text", "input_image", "input_file")
_NULLS: Final = ROLES | {
    "function_call",
    "custom_tool_call",
    "computer_call",
    "image_generation_call",
    "reasoning",
    "configuration_update",
}
"""Kinds whose optional fields the API refuses when they are null, as a dump of an SDK's object has them."""
_NEVER_NULL: Final = frozenset({"id", "status", "execution"})
"""Fields that it refuses so in every kind."""
_CALLS: Final = {"function_call": ("arguments", "{}"), "custom_tool_call": ("input", "")}
"""Where these calls say what is to be done, and how they say nothing."""
_PARTS: Final = {
    **dict.fromkeys(("user", "system", "developer"), "content"),
    **dict.fromkeys(("function_call_output", "custom_tool_call_output"), "output"),
}
"""Where kinds that a caller makes have their parts."""
_CALLERS: Final = ("input", "output")
_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME: Final = 64
_NOTHING: Final[tuple[bytes, dict[str, Any]]] = (b"", {})
_SPARE: Final = 64
"""Items that are remembered beyond twice those of the window."""


Written: TypeAlias = dict[int, tuple[bytes, dict[str, Any]]]
"""Items by seq, negative where they go without their ids: as they were logged, and as they were written."""


class Rendered(msgspec.Struct, eq=False, gc=False):
    """One item of a window, with what an adapter needs to know to write it in its own shape."""

    seq: int
    """Where it stands in the log; of a stand-in, the seq of the event it comes from."""
    response: int | None
    """The response that it is part of; None for what the caller made."""
    item: dict[str, Any]
    extra: Any = None
    """Fields of its maker's own shape."""
    home: bool = False
    """Whether the target is where they come from."""

    def __repr__(self) -> str:
        return f"<Rendered {self.seq} {self.item.get('type', self.item.get('role'))}>"


def render(
    groups: Iterable[Group],
    early: Iterable[Group],
    base: Iterable[dict[str, Any]],
    base_seq: int,
    manifest: Manifest,
    target: Target,
    whole: Mapping[int, bytes] | None = None,
    known: Written | None = None,
) -> list[Rendered]:
    """Return the items that a manifest names, in their order, as *target* takes them.

    *whole* holds the items of which some stands out of line, put together again. In *known*, if it is given, items are
    remembered as they were written, for the conversation's next window for the same API.

    *early* are pinned groups that the compaction covers which the window starts from, *base* are the items that stand
    for it. A request that was made elsewhere is in the order in which it was logged.
    """
    pen = Pen(manifest, target, whole or {}, known)
    if target.state == "recorded":
        entries = (entry for group in chain(early, groups) for entry in group.entries)
        logged = sorted((entry for entry in entries if pen.fates.sent(entry.seq)), key=_seq)
        return [*(Rendered(base_seq, None, item) for item in base), *map(pen.copy, logged)]
    written = pen.groups(early)
    stand_in = paired(list(base), target)
    written += [Rendered(base_seq, None, pen.plain(item, read(item).shape)) for item in stand_in]
    written += pen.groups(groups)
    if known is not None and len(known) > 2 * len(written) + _SPARE:
        sent = {one.seq for one in written}
        for place in [place for place in known if abs(place) not in sent]:
            del known[place]
    return written


def _seq(entry: Entry) -> int:
    return entry.seq


class Pen:
    """Writes entries for one target, as one manifest says."""

    def __init__(
        self, manifest: Manifest, target: Target, whole: Mapping[int, bytes], known: Written | None = None
    ) -> None:
        self._whole = whole
        self._known = known
        self._programs: set[object] = set()
        """The call ids of the programs that were written."""
        self.fates = Fates(manifest)
        self.bare = {seq for first, last in manifest.bare for seq in range(first, last + 1)}
        self.trimmed = {seq for first, last in manifest.trimmed for seq in range(first, last + 1)}
        self.sealed = frozenset(manifest.sealed)
        self.target = target
        self._phases = knows_phases(target)

    def groups(self, groups: Iterable[Group]) -> list[Rendered]:
        """Return what is sent of groups; stand-ins for missing outputs come last, where real ones would be added."""
        written: list[Rendered] = []
        fate_of, sealed = self.fates.of, self.sealed
        for group in groups:
            for entry in group.entries:
                fate = fate_of(entry.seq)
                if fate in SENT:
                    written.append(self.entry(entry, excerpted=fate == "excerpted"))
            for entry in group.entries if sealed else ():
                if entry.seq in sealed:
                    made = seal(self._item(entry), entry.reading.shape, SEALED)
                    written.append(Rendered(entry.seq, None, made))
        return written

    def copy(self, entry: Entry) -> Rendered:
        """Return an entry as it was logged."""
        return self._rendered(entry, self._item(entry))

    def _item(self, entry: Entry) -> dict[str, Any]:
        item: dict[str, Any] = loads(self._whole.get(entry.seq, entry.item) if self._whole else entry.item)
        return item

    def entry(self, entry: Entry, *, excerpted: bool) -> Rendered:
        """Return an entry as the target takes it."""
        known = self._known
        # How something is trimmed is one model's matter, and what is remembered is for all of one API.
        if known is None or excerpted or entry.seq in self.trimmed:
            return self._rendered(entry, self._written(entry, excerpted=excerpted))
        place = -entry.seq if entry.seq in self.bare else entry.seq
        data, item = known.get(place, _NOTHING)
        # An event that was rendered before it was appended may have come to stand elsewhere.
        if data != entry.item:
            item = self._written(entry, excerpted=False)
            varies = entry.flags & CALLED or entry.reading.shape == "program"
            if varies or entry.blobs or not _is_flat(item):
                return self._rendered(entry, item)
            known[place] = entry.item, item
        # Whoever gets a window may change it.
        return self._rendered(entry, item.copy())

    def _written(self, entry: Entry, *, excerpted: bool) -> dict[str, Any]:
        item: dict[str, Any] = self._item(entry) if self._whole else loads(entry.item)
        shape = entry.reading.shape
        if entry.flags & ODD:
            item = mended(item, shape, chat=self.target.api == "chat")
        if entry.seq in self.trimmed:
            item = trimmed(item, shape)
            if self.target.api == "chat" and says_more(item, shape):
                item = texts_only(item)
            if not self._phases:
                item.pop("phase", None)
        if excerpted:
            item = excerpt(item) or item
        if entry.seq in self.bare:
            item.pop("id", None)
        if shape == "program":
            self._programs.add(item.get("call_id"))
        elif entry.flags & CALLED and item["caller"].get("caller_id") not in self._programs:
            del item["caller"]  # without its program, it is sent as a call of its own
        return self.plain(item, shape)

    def _rendered(self, entry: Entry, item: dict[str, Any]) -> Rendered:
        origin, target, response = entry.origin, self.target, entry.response
        home = origin is not None and origin.adapter == target.api and origin.backend == target.backend
        if response is not None and entry.reading.maker in _CALLERS:
            response = None
        extra = entry.extra
        # Whoever gets a window may change it.
        return Rendered(entry.seq, response, item, extra if extra is None else msgspec.to_builtins(extra), home)

    def plain(self, item: dict[str, Any], shape: str) -> dict[str, Any]:
        """Return an item without what the target does not take on input."""
        if len(item) == 2 and shape in ROLES and isinstance(item.get("content"), str):
            return item  # a role and a text, which everybody takes
        if not OUTPUT_ONLY.isdisjoint(item) or None in item.values():
            item = _pruned(item, shape)
        chat = self.target.api == "chat"
        if shape in _CALLS:
            item = _worded(item, _CALLS[shape])
            return item if chat else _named(item)
        if chat:
            return item
        if shape in ROLES and "name" in item:
            item = {key: value for key, value in item.items() if key != "name"}  # Chat Completions alone has it
        if shape == "assistant":
            return _assistant(item)
        field = _PARTS.get(shape, "")
        if isinstance(item.get(field), list):
            return {**item, field: [_part(part) for part in item[field]]}
        return item


def seal(call: Mapping[str, Any], shape: str, text: str) -> dict[str, Any]:
    """Return the output that says in words what became of a function or custom tool call."""
    return {"type": f"{shape}_output", "call_id": call["call_id"], "output": text}


def _is_flat(item: Mapping[str, Any]) -> bool:
    """Return whether a copy of an item shares nothing with it that could be changed."""
    return not any(isinstance(value, dict | list) for value in item.values())


def _pruned(item: dict[str, Any], shape: str) -> dict[str, Any]:
    """Leave out the fields that are given only on output, and nulls where the API refuses them."""
    nulls = shape in _NULLS
    return {
        key: value
        for key, value in item.items()
        if key not in OUTPUT_ONLY and (value is not None or not (nulls or key in _NEVER_NULL))
    }


def _worded(call: dict[str, Any], says: tuple[str, str]) -> dict[str, Any]:
    """Write a call's name and what it says as texts, as both APIs insist; some models give objects, or nothing."""
    field, nothing = says
    if isinstance(call.get(field), str) and isinstance(call.get("name"), str):
        return call
    return {**call, "name": _text(call.get("name"), "_"), field: _text(call.get(field), nothing)}


def _text(value: Any, nothing: str) -> str:
    return value if isinstance(value, str) else nothing if value is None else encode(value).decode()


def _named(call: dict[str, Any]) -> dict[str, Any]:
    """Write a call's name with the characters that this API takes; backends of the other one allow more."""
    name = call.get("name")
    taken = function_name(name) if isinstance(name, str) else name
    return call if taken == name else {**call, "name": taken}


@lru_cache(1024)
def function_name(name: str) -> str:
    """Return a function's name with the characters, and of the length, that OpenAI's APIs take."""
    return _NAME.sub("_", name)[:_LONGEST_NAME] or "_"


def _assistant(item: dict[str, Any]) -> dict[str, Any]:
    """Write an assistant's message; without an id it is an easy message, whose content is one string."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    if "id" in item:
        return {**item, "content": [_bare_part(part) for part in content]}
    texts = [part.get("text", part.get("refusal")) for part in content if isinstance(part, dict)]
    said = texts[0] if len(texts) == 1 else None
    if not isinstance(said, str):
        said = "".join([text for text in texts if isinstance(text, str)])
    easy: dict[str, Any] = {"type": "message", "role": "assistant", "content": said}
    if item.get("phase"):
        easy["phase"] = item["phase"]
    return easy


def _bare_part(part: Any) -> Any:
    if isinstance(part, dict) and (not OUTPUT_ONLY.isdisjoint(part) or None in part.values()):
        return {key: value for key, value in part.items() if key not in OUTPUT_ONLY and value is not None}
    return part


def _part(part: Any) -> Any:
    """Keep a part that the API takes; name one that it does not."""
    if not isinstance(part, dict) or part.get("type") in _INPUT_PARTS:
        return part
    text = part.get("text")
    said = text if isinstance(text, str) else f"[{part.get('type')} left out: this API takes none]"
    return {"type": "input_text", "text": said}
