"""The reading side of an engine: live histories of recent conversations, and windows made from them.

A live history is kept up by reading what came after it, in one hop; what it cannot answer is loaded. Reading never
writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .codec import item_of
from .compaction import references, stand_in
from .errors import NotFound
from .events import ContextCompacted, Record, Target
from .history import History
from .intake import Intake
from .loading import load, look_up
from .log import Head, Query, Store
from .manifest import Manifest
from .tokens import Counter
from .window.choose import Deeper, choose
from .window.render import Rendered, render

if TYPE_CHECKING:
    from .plan import View

__all__ = ("Reader", "logged")

_LIVE: Final = 256
"""Conversations whose history is kept in memory."""


class Reader:
    """Reads conversations of one store."""

    def __init__(self, store: Store, intake: Intake) -> None:
        self._store = store
        self._intake = intake
        self._live: OrderedDict[str, History] = OrderedDict()
        self._weights: dict[str, dict[Counter, dict[int, tuple[int, int | None]]]] = {}

    async def head(self, name: str) -> Head:
        """Return a conversation's head.

        Raises:
            NotFound: there is no such conversation.
        """
        snapshot = await self._store.read(name)
        if snapshot is None:
            raise NotFound(f"conversation {name}")
        return snapshot.head

    async def fresh(self, name: str, *, line: str | None = None, tokens: int = 1) -> tuple[Head, History]:
        """Return a conversation's head and its history up to that head, reaching back to the line's last cut."""
        history = self._live.get(name)
        while history is not None:
            snapshot = await self._store.read(name, Query(after=history.version))
            if snapshot is None:
                self._live.pop(name, None)
                raise NotFound(f"conversation {name}")
            # Another task may have brought the same records in meanwhile.
            history.extend([record for record in snapshot.records[0] if record.seq > history.version])
            if history.stale or (line is not None and not await look_up(self._store, history, line)):
                break
            if history.version == snapshot.head.version:
                self._live.move_to_end(name)
                return snapshot.head, history
        head, history = await load(self._store, name, line=line, tokens=tokens)
        self._keep(history)
        return head, history

    def _keep(self, history: History) -> None:
        self._live[history.conversation] = history
        self._live.move_to_end(history.conversation)
        while len(self._live) > _LIVE:
            gone, _ = self._live.popitem(last=False)
            self._weights.pop(gone, None)

    def appended(self, name: str, records: Sequence[Record]) -> None:
        """Take in what this process has just appended, if it follows what is known."""
        history = self._live.get(name)
        if history is not None and records and records[0].seq == history.version + 1 and not history.stale:
            history.extend(records)

    async def at(self, name: str, version: int, line: str, tokens: int) -> History:
        """Return a conversation's history as it was at a version."""
        _, history = await load(self._store, name, line=line, tokens=tokens, at=version)
        return history

    async def chosen(self, view: View, history: History, pending: Sequence[Record] = ()) -> tuple[History, Manifest]:
        """Return the manifest of the history with *pending* at its end, and the history that it was chosen from."""
        tokens = view.budget.context
        while True:
            ahead = history
            if pending:
                ahead = history.copy()
                ahead.extend(pending)
            try:
                return ahead, choose(ahead, await view.request(ahead), view.policy)
            except Deeper:
                tokens *= 4
                name, version = history.conversation, history.version
                _, history = await load(self._store, name, line=view.line, tokens=tokens, at=version)

    async def rendered(self, history: History, manifest: Manifest, target: Target) -> list[Rendered]:
        """Return the items that a manifest names."""
        base: list[dict[str, Any]] = []
        if history.base is not None:
            base = await self.stand_in(history.conversation, history.base[1], target)
        return render(history, history.early, base, manifest.base, manifest, target)

    async def stand_in(self, name: str, said: ContextCompacted, target: Target) -> list[dict[str, Any]]:
        """Return what is sent for compacted events."""
        records = await logged(self._store, name, references(said))
        return stand_in(said, {record.seq: item_of(record) for record in records}, target)

    async def weights(self, history: History, counter: Counter) -> Mapping[int, tuple[int, int | None]]:
        """Return what the loaded items weigh by another counter than the log's; each item is counted once."""
        known = self._weights.setdefault(history.conversation, {}).setdefault(counter, {})
        for entry in history.entries():
            if entry.seq not in known:
                count = await self._intake.count(entry.value(), len(entry.item), counter)
                known[entry.seq] = (count.tokens, count.excerpt)
        return known


async def logged(store: Store, name: str, seqs: Iterable[int]) -> list[Record]:
    """Return single events by their seqs."""
    queries = [Query(after=seq - 1, before=seq + 1) for seq in seqs]
    if not queries:
        return []
    snapshot = await store.read(name, *queries)
    return [record for records in (snapshot.records if snapshot else ()) for record in records]
