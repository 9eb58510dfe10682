"""What every request of a conversation has sent, one after another: each distinct item once, however many held it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from ..canonical import encode, loads
from ..codec import REQUESTED, body
from ..errors import CorruptLog, StoreError, TurnlogError
from ..events import Record, ResponseRequested
from ..model import keyed
from ..paths import Shelf
from ..window.remote import addressed
from .encoders import Encoders, Piecewise
from .rebuilding import rebuild
from .running import Frames, Running
from .verifying import pages

__all__ = ("Pieces", "Sent", "sent")

_FIELDS: Final = ("messages", "input")


class Pieces:
    """Distinct values, each once, as canonical JSON; requests name them by their places."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self._places: dict[bytes, int] = {}

    def place(self, value: Any) -> int:
        """Return where a value is."""
        data = encode(value)
        place = self._places.setdefault(data, len(self.values))
        if place == len(self.values):
            self.values.append(data)
        return place

    def value(self, place: int) -> Any:
        """Return a value, new."""
        return loads(self.values[place])


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One request, taken apart."""

    frame: Mapping[str, Any] = {}
    """Its body without the list of its items."""
    field: str | None = None
    """The name of that list; None: it has none."""
    places: Sequence[int] = ()
    """The entries of that list, by their places among the pieces."""
    missing: str = ""
    """Why it cannot be rebuilt; empty where it can."""


async def sent(store: Shelf, name: str, known: Encoders, pieces: Pieces) -> AsyncIterator[tuple[Record, Sent]]:
    """Yield every request of a conversation with what it sent, each going on from the last of its line."""
    running = Running(store, name, Frames(store, known), pieces.place)
    empty: dict[tuple[str, int, str, str | None, str], tuple[dict[str, Any], str, list[int]]] = {}
    async for page in pages(store, name):
        running.read(page)
        for record in page:
            if record.kind == REQUESTED:
                yield record, await _sent(store, record, known, running, pieces, empty)


async def _sent(
    store: Shelf,
    record: Record,
    known: Encoders,
    running: Running,
    pieces: Pieces,
    empty: dict[tuple[str, int, str, str | None, str], tuple[dict[str, Any], str, list[int]]],
) -> Sent:
    try:
        said = body(record)
        assert isinstance(said, ResponseRequested)
        encoder = known.get((said.adapter, said.encoder))
        if not isinstance(encoder, Piecewise) or not await running.proves(said):
            return _apart((await rebuild(store, record, known, running.recent)).body, pieces)
        place = said.adapter, said.encoder, said.settings, said.cache_key, said.manifest.remote
        if place not in empty:
            settings = keyed(loads(await store.body(said.settings) or b"{}"), said.cache_key)
            frame = dict(encoder([], addressed(settings, said.manifest)))
            given: Any = frame.pop(encoder.field, [])
            empty[place] = frame, encoder.field, [pieces.place(one) for one in given]
    except TurnlogError as error:
        if isinstance(error, StoreError) and not isinstance(error, CorruptLog):
            raise
        return Sent(missing=str(error))
    frame, field, first = empty[place]
    return Sent(frame=frame, field=field, places=[*first, *running.kept(said)])


def _apart(request: Mapping[str, Any], pieces: Pieces) -> Sent:
    frame = dict(request)
    field = next((one for one in _FIELDS if isinstance(frame.get(one), list)), None)
    items: Any = frame.pop(field) if field is not None else []
    return Sent(frame=frame, field=field, places=[pieces.place(one) for one in items])
