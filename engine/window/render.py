"""Rendering: from a manifest to the items that are sent. Pure; it never asks a policy.

The same manifest renders to the same bytes for ever: change what is written here only under a new `RENDERER` version,
and keep the old one for old manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ..canonical import loads
from ..events import Target
from ..history import Entry, Group
from ..items import parts
from ..manifest import SENT, Manifest
from .excerpts import excerpt

__all__ = ("RENDERER", "SEALED", "Rendered", "render", "seal")

RENDERER: Final = 1

SEALED: Final = "[no output: the call was interrupted before its result was recorded]"
"""What a window says of a call that has no output in the log."""

# Fields that the API gives on stored items, or that clients add, and refuses on input.
_OUTPUT_ONLY: Final = frozenset({"created_by", "parsed", "parsed_arguments", "provider_data"})
_INPUT_PARTS: Final = frozenset({"input_text", "input_image", "input_file"})


class Rendered:
    """One item of a window, with what an adapter needs to know to write it in its own shape."""

    __slots__ = ("extra", "home", "item", "response", "seq")

    def __init__(
        self, seq: int, response: int | None, item: dict[str, Any], extra: Any = None, *, home: bool = False
    ) -> None:
        self.seq = seq
        """Where it stands in the log; of a stand-in, the seq of the event it comes from."""
        self.response = response
        """The response that it is part of; None for what the caller made."""
        self.item = item
        self.extra = extra
        """Fields of its maker's own shape."""
        self.home = home
        """Whether the target is where they come from."""


def render(
    groups: Iterable[Group],
    early: Iterable[Entry],
    base: Iterable[dict[str, Any]],
    base_seq: int,
    manifest: Manifest,
    target: Target,
) -> list[Rendered]:
    """Return the items that a manifest names, in their order, as *target* takes them.

    *early* are pinned entries below the groups, *base* the items of the compaction that the window starts from.
    """
    pen = _Pen(manifest, target)
    written = [pen.write(entry, None) for entry in early]
    written += [Rendered(base_seq, None, item) for item in base]
    for group in groups:
        written += pen.group(group)
    return written


class _Pen:
    """Writes entries for one target, as one manifest says."""

    def __init__(self, manifest: Manifest, target: Target) -> None:
        self.manifest = manifest
        self.target = target
        self.recorded = target.state == "recorded"

    def group(self, group: Group) -> Iterator[Rendered]:
        answered = False
        for entry in group.entries:
            if self.manifest.fate(entry.seq) not in SENT:
                continue
            if entry.reading.is_output and not answered:
                answered = True
                yield from self._seals(group)
            yield self.write(entry, group.response if entry.reading.maker == "model" else None)
        if not answered:
            yield from self._seals(group)

    def _seals(self, group: Group) -> Iterator[Rendered]:
        for entry in group.entries if self.manifest.sealed else ():
            if entry.seq in self.manifest.sealed:
                yield Rendered(entry.seq, None, seal(loads(entry.item), entry.reading.shape, SEALED))

    def write(self, entry: Entry, response: int | None) -> Rendered:
        item: dict[str, Any] = loads(entry.item)
        if not self.recorded:
            item = self._mended(entry, item)
        origin = entry.origin
        home = origin is not None and (origin.adapter, origin.backend) == (self.target.api, self.target.backend)
        return Rendered(entry.seq, response, item, entry.extra, home=home)

    def _mended(self, entry: Entry, item: dict[str, Any]) -> dict[str, Any]:
        if self.manifest.fate(entry.seq) == "excerpted":
            item = excerpt(item) or item
        if self.manifest.is_bare(entry.seq):
            item.pop("id", None)
        if not _OUTPUT_ONLY.isdisjoint(item) or item.get("id", 0) is None or item.get("status", 0) is None:
            item = {
                key: value
                for key, value in item.items()
                if key not in _OUTPUT_ONLY and not (value is None and key in ("id", "status"))
            }
        if self.target.api == "chat":
            return item
        if entry.reading.shape == "assistant":
            return _assistant(item)
        if entry.reading.maker == "input" and isinstance(item.get("content"), list):
            return {**item, "content": [_part(part) for part in item["content"]]}
        return item


def seal(call: Mapping[str, Any], shape: str, text: str) -> dict[str, Any]:
    """Return the output that says in words what became of a function or custom tool call."""
    return {"type": f"{shape}_output", "call_id": call["call_id"], "output": text}


def _assistant(item: dict[str, Any]) -> dict[str, Any]:
    """Write an assistant's message; without an id it is an easy message, whose content is one string."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    if "id" in item:
        return {**item, "content": [_bare_part(part) for part in content]}
    texts = [str(part.get("text", part.get("refusal", ""))) for part in parts(item)]
    easy = {"type": "message", "role": "assistant", "content": "".join(texts)}
    return {**easy, "phase": item["phase"]} if item.get("phase") else easy


def _bare_part(part: Any) -> Any:
    if isinstance(part, dict) and not _OUTPUT_ONLY.isdisjoint(part):
        return {key: value for key, value in part.items() if key not in _OUTPUT_ONLY}
    return part


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """Keep a part that the API takes; name one that it does not."""
    kind = part.get("type")
    if kind in _INPUT_PARTS:
        return part
    text = part.get("text")
    return {"type": "input_text", "text": text if isinstance(text, str) else f"[{kind} left out: this API takes none]"}
