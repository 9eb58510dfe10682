"""Comparing a request that is not what was sent with another copy of the log, such as a backup."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, MsgspecError

from ..blobs import whole
from ..canonical import digest, loads
from ..codec import body, damage
from ..errors import TurnlogError
from ..events import Record, ResponseRequested
from ..log import Query
from ..paths import Shelf
from .differing import Difference, at, difference
from .encoders import Encoders
from .rebuilding import Rebuilt, path_of, rebuild, steps_to

__all__ = ("compared",)


async def compared(
    store: Shelf, against: Shelf, known: Encoders, request: Record, rebuilt: Rebuilt | None
) -> Difference | None:
    """Return the first difference of a request to what another copy of the log gives; None if that does not tell.

    *rebuilt* is what the log gives today, None where that is nothing.

    Raises:
        TurnlogError: the copy cannot be read.
    """
    there = await _record(against, request.conversation, request.seq)
    said = None if there is None or damage(there) else body(there)
    if there is None or not isinstance(said, ResponseRequested):
        return None
    copy = await rebuild(against, there, known)
    if copy.digest != said.digest:
        return None
    if rebuilt is not None:
        return difference(copy.body, rebuilt.body)
    if damage(request):
        ours, theirs = _readable(request.data), _readable(there.data)
        return difference(theirs, ours, "$ (request)") or Difference("$ (request)", theirs, ours)
    return await _item(store, request, said, copy) or await _settings(store, against, said)


async def _item(store: Shelf, request: Record, said: ResponseRequested, copy: Rebuilt) -> Difference | None:
    """Return the first item of a request that is not there any more, or cannot be read."""
    for one in copy.rendered:
        record = await _record(store, request.conversation, one.seq)
        now = UNSET
        if record is not None and damage(record):
            now = _readable(record.item)
        elif record is not None:
            try:
                await whole(store, record)
                continue
            except TurnlogError:
                pass  # what stands out of line is gone
        steps = steps_to(copy.rendered, {one.seq}, copy.body, said.target.api)
        return Difference(path_of(steps), at(copy.body, *steps), now)
    return None


async def _settings(store: Shelf, against: Shelf, said: ResponseRequested) -> Difference | None:
    ours = await store.body(said.settings)
    if ours is not None and digest(ours) == said.settings:
        return None
    return Difference("$ (settings)", _readable(await against.body(said.settings)), _readable(ours))


async def _record(store: Shelf, name: str, seq: int) -> Record | None:
    snapshot = await store.read(name, Query(after=seq - 1, before=seq + 1))
    return next(iter(snapshot.records[0]), None) if snapshot is not None else None


def _readable(data: Any) -> Any:
    """Return what is stored as JSON, as text where it is none; unset where nothing is."""
    if data is None:
        return UNSET
    try:
        return loads(data)
    except (MsgspecError, ValueError, TypeError):
        return data.decode(errors="replace") if isinstance(data, bytes) else str(data)
