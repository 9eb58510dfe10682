"""Transcripts: a whole conversation as one of the APIs would take it, for other programs."""

from __future__ import annotations

from typing import Any, Final, Literal

from .blobs import whole_items
from .codec import ITEM
from .events import Target
from .history import History
from .log import Store
from .messages import to_messages
from .paths import Along, paths_of
from .replay.verifying import pages
from .window.budget import Budget
from .window.choose import Request, choose
from .window.policies import OldestTurns
from .window.render import render

__all__ = ("transcript",)

_ALL: Final = 2**50
"""More tokens than any conversation has."""
_SHOWN: Final = frozenset({ITEM, "response.interrupted", "response.requested", "response.failed"})


async def transcript(store: Store, name: str, api: Literal["responses", "chat"]) -> list[dict[str, Any]]:
    """Return what is alive of a conversation as `input` items or as `messages`, in an order that the API takes.

    Compactions hide nothing; what only one backend understands (ids, encrypted reasoning) is left out.

    Raises:
        NotFound: there is no such conversation.
        CorruptLog: an event cannot be read.
    """
    paths = await paths_of(store, name)
    along = Along(store, paths.alive)
    records = [record async for page in pages(along, name) for record in page if record.kind in _SHOWN]
    history = History(name)
    history.extend(records)
    history.lines.clear()
    target = Target(api=api)
    budget = Budget(_ALL)
    manifest = choose(history, Request(target, budget, 0), OldestTurns())
    items = render(history, (), (), 0, manifest, target, await whole_items(store, records))
    return to_messages(items) if api == "chat" else [one.item for one in items]
