"""Encoders: how adapters write requests, by name and version, so that an old request can be written again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..canonical import encode
from ..items import Item
from ..window.render import Rendered

__all__ = ("Encoder", "Encoders", "Frame", "Piecewise", "encoders")


class Encoder(Protocol):
    """Writes a window's items and a request's settings as a body; pure, and of one version for ever."""

    def __call__(self, items: Sequence[Rendered], settings: Mapping[str, Any]) -> Item:
        """Return the body."""
        ...


Encoders: TypeAlias = Mapping[tuple[str, int], Encoder]
"""Encoders by adapter and version."""


class Frame(NamedTuple):
    """A body's canonical bytes around its list."""

    before: bytes
    after: bytes
    begun: bool
    """Whether the list has entries before those of the items."""


class Piecewise:
    """An encoder of bodies that hold one list which grows with the window; verifying writes each item once with it.

    For a window made of two parts, cut where no entry of the list is made of items of both, the list is what *encode*
    makes of no items at all, then the pieces of the one part, then those of the other. Nothing else in the body depends
    on the items. (Where that does not hold, a request is merely rebuilt from its beginning.)

    Args:
        encode: the encoder.
        field: the list's name in the body.
        pieces: returns the list's entries for a part of a window.
    """

    def __init__(
        self, encode: Encoder, field: str, pieces: Callable[[Sequence[Rendered], Mapping[str, Any]], Sequence[Any]]
    ) -> None:
        self._encode = encode
        self.field = field
        self.pieces = pieces

    def __call__(self, items: Sequence[Rendered], settings: Mapping[str, Any]) -> Item:
        """Return the body."""
        return self._encode(items, settings)

    def frame(self, settings: Mapping[str, Any]) -> Frame:
        """Return what stands around the items of a request with these settings."""
        body = dict(self._encode([], settings))
        given = body.setdefault(self.field, [])
        if not isinstance(given, list):
            raise TypeError(self.field)
        keys = sorted(body)
        place = keys.index(self.field)
        members = [encode(key) + b":" + encode(body[key]) for key in keys]
        before = b"{" + b",".join(members[: place + 1]).removesuffix(b"]")
        return Frame(before, b",".join([b"]", *members[place + 1 :]]) + b"}", bool(given))


@cache
def encoders() -> Encoders:
    """Return the encoders of all installed adapters: of the entry points `turnlog.encoders`."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - it takes long, and few processes replay

    found: dict[tuple[str, int], Encoder] = {}
    for point in entry_points(group="turnlog.encoders"):
        for version, encoder in point.load().items():
            found[point.name, version] = encoder
    return found
