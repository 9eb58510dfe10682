"""Totals: the tokens that models have reported, by conversation, model and day, with what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from .codec import REQUESTED, body, when
from .events import Record, ResponseCompleted, ResponseRequested, Usage
from .history import ENDS
from .log import Store
from .paths import paths_of
from .prices import Prices
from .replay.verifying import pages

__all__ = ("Dimension", "Total", "Totals")

Dimension: TypeAlias = Literal["conversation", "model", "day"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("conversation", "model", "day")


class Total(msgspec.Struct, kw_only=True):
    """What some model calls came to."""

    conversation: str | None = None
    model: str | None = None
    day: str | None = None
    """In UTC, as 2026-01-31; of when they were asked."""
    requests: int = 0
    """All of them: failed, interrupted, open, tried again, and left by a rewind too."""
    failed: int = 0
    """Of them, how many failed or were interrupted."""
    left: int = 0
    """Of them, how many a rewind has left."""
    unreported: int = 0
    """Of them, how many have no usage, because none was reported."""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    unpriced: int = 0
    """Requests with usage whose model has no price."""

    def add(self, usage: Usage | None, cost: float | None, *, priced: bool) -> None:
        """Take a request's usage and cost in."""
        if usage is None:
            self.unreported += 1
            return
        self.input_tokens += usage.input_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens
        self.reasoning_tokens += usage.reasoning_tokens
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost
        elif priced:
            self.unpriced += 1


class _Asked(msgspec.Struct):
    seq: int
    model: str
    day: str
    state: str = "open"
    usage: Usage | None = None


class Totals:
    """Adds model calls up, by some of conversation, model and day. What a fork shares is counted where it was made.

    Args:
        by: what rows are for; nothing: one row for all.
        prices: what tokens cost.
        since: the first day that counts, as 2026-01-31.
        until: the last day that counts.
    """

    def __init__(
        self,
        by: Sequence[Dimension] = DIMENSIONS,
        prices: Prices | None = None,
        *,
        since: str | None = None,
        until: str | None = None,
    ) -> None:
        self._by = by
        self._prices = prices
        self._since = since or ""
        self._until = until or "~"
        self._rows: dict[tuple[str | None, ...], Total] = {}

    async def add(self, store: Store, name: str, progress: Callable[[int], None] | None = None) -> None:
        """Take one conversation in. *progress* is told of events.

        Raises:
            NotFound: there is no such conversation.
            CorruptLog: an event cannot be read.
        """
        paths = await paths_of(store, name)
        own = paths.head.parent[1] if paths.head.parent else 0
        waiting: dict[int, _Asked] = {}
        async for page in pages(store, name, own):
            for record in page:
                done = _followed(record, waiting)
                if done is not None:
                    self._count(name, done, left=not paths.is_alive(done.seq))
            if progress is not None:
                progress(len(page))
        for asked in waiting.values():
            self._count(name, asked, left=not paths.is_alive(asked.seq))

    def _count(self, name: str, asked: _Asked, *, left: bool) -> None:
        if not self._since <= asked.day <= self._until:
            return
        values = {"conversation": name, "model": asked.model, "day": asked.day}
        place = tuple(values[one] if one in self._by else None for one in DIMENSIONS)
        row = self._rows.get(place)
        if row is None:
            row = self._rows[place] = Total(conversation=place[0], model=place[1], day=place[2])
        row.requests += 1
        row.failed += asked.state in ("failed", "interrupted")
        row.left += left
        cost = self._prices.cost(asked.model, asked.usage) if self._prices and asked.usage else None
        row.add(asked.usage, cost, priced=self._prices is not None)

    @property
    def rows(self) -> list[Total]:
        """The rows, ordered by what they are for."""
        return [self._rows[place] for place in sorted(self._rows, key=_order)]

    @property
    def total(self) -> Total:
        """All rows together."""
        return _sum(self._rows.values())


def _order(place: Iterable[Any]) -> tuple[str, ...]:
    return tuple(one or "" for one in place)


def _sum(rows: Iterable[Total]) -> Total:
    made = Total()
    for row in rows:
        for name in Total.__struct_fields__:
            value = getattr(row, name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                setattr(made, name, (getattr(made, name) or 0) + value)
    return made


def _followed(record: Record, waiting: dict[int, _Asked]) -> _Asked | None:
    """Take an event in; return the model call that it ends."""
    if record.kind == REQUESTED:
        said = body(record)
        if isinstance(said, ResponseRequested):
            waiting[record.seq] = _Asked(record.seq, said.target.model, f"{when(record):%Y-%m-%d}")
        return None
    if record.kind not in ENDS or record.response not in waiting:
        return None
    asked = waiting.pop(record.response)
    told = body(record)
    asked.state = record.kind.removeprefix("response.")
    asked.usage = told.usage if isinstance(told, ResponseCompleted) else None
    return asked
