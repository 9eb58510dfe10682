"""Listings of one conversation: its events, its transcript, its model calls. Read only, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from .canonical import loads
from .checks import whole
from .codec import ITEM, body, item_of
from .errors import CorruptLog, NotFound
from .events import (
    ASIDE,
    PINNED,
    ItemAppended,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseRequested,
    ResponseStarted,
    Usage,
)
from .ids import Position, moment
from .items import Item, reading
from .log import Query
from .manifest import Manifest
from .pages import Page, Pages
from .replay import rebuild

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("Appended", "Call", "Entry", "Event", "Listing", "event_of")

T = TypeVar("T")
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Appended:
    """Where items were appended: their seqs, and the version right after."""

    first: int
    last: int
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of the log, to look at."""

    conversation: str
    seq: int
    position: Position
    time: datetime
    response: int | None
    type: str
    item: Item | None = None
    meta: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    """The conversation's metadata, where the event says it."""
    tokens: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the event carries beside its item, as it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item of the transcript."""

    seq: int
    item: Item
    meta: Mapping[str, Any] | None
    time: datetime
    turn: int
    """The seq that names its turn, 0 before the first."""
    response: int | None
    alive: bool = True
    erased: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One recorded model call."""

    seq: int
    response_id: str | None
    turn: int
    purpose: str
    status: str
    """completed, incomplete, failed, interrupted, or open: it has no end yet."""
    adapter: str
    model: str
    backend: str
    usage: Usage | None
    manifest: Manifest
    digest: str
    error: str | None
    _engine: Engine = field(repr=False)
    _record: Record = field(repr=False)

    async def request(self) -> Item:
        """Return the body as it was sent, rebuilt from the log and checked against its digest.

        Raises:
            CorruptLog: what the log gives today is not what was sent.
        """
        rebuilt = await rebuild(self._engine.store, self._record)
        if rebuilt.digest != self.digest:
            place = f"{self._record.conversation}/{self.seq}"
            raise CorruptLog(f"{place}: the log no longer gives what was sent, at {rebuilt.path}")
        return rebuilt.body


def event_of(record: Record) -> Event:
    """Return a record as an event to look at."""
    said = body(record)
    data: dict[str, Any] = loads(record.data) if record.data else {}
    return Event(
        conversation=record.conversation,
        seq=record.seq,
        position=record.position,
        time=moment(record.time),
        response=record.response,
        type=record.kind,
        item=item_of(record),
        meta=said.meta if isinstance(said, ItemAppended) else None,
        metadata=data.get("metadata") if record.kind == "conversation.created" else None,
        tokens=record.tokens,
        data=data,
    )


class Listing:
    """Lists one conversation."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name

    async def records(self, after: int = 0, *, mark: str | None = None) -> AsyncIterator[Record]:
        """Yield records behind *after*, page by page.

        Raises:
            NotFound: there is no such conversation.
        """
        self._engine.check()
        while True:
            snapshot = await self._engine.store.read(self._name, Query(after=after, limit=_PAGE, mark=mark))
            if snapshot is None:
                raise NotFound(f"conversation {self._name}")
            for record in snapshot.records[0]:
                yield record
            if len(snapshot.records[0]) < _PAGE:
                return
            after = snapshot.records[0][-1].seq

    async def events(self, after: int) -> AsyncIterator[Event]:
        """Yield events behind *after*."""
        async for record in self.records(after):
            yield event_of(record)

    async def bodies(self, kind: type[T]) -> AsyncIterator[T]:
        """Yield what all events of one kind say."""
        async for record in self.records():
            said = body(record)
            if isinstance(said, kind):
                yield said

    # -- the transcript

    def items(self, after: int | None, before: int | None, limit: int, order: Literal["asc", "desc"]) -> Pages[Entry]:
        """List items by seq, behind *after* and before *before*."""
        whole("limit", limit, 1, 1000)

        async def fetch(cursor: str | None) -> Page[Entry]:
            return await self._items(after, before, limit, order, cursor)

        return Pages(fetch, None)

    async def _items(
        self, after: int | None, before: int | None, limit: int, order: str, cursor: str | None
    ) -> Page[Entry]:
        low, high = after or 0, before
        if cursor is not None:
            low, high = (int(cursor), high) if order == "asc" else (low, int(cursor))
        found: list[Record] = []
        while len(found) <= limit:
            query = Query(after=low, before=high, limit=_PAGE, reverse=order == "desc")
            snapshot = await self._engine.store.read(self._name, query)
            if snapshot is None:
                raise NotFound(f"conversation {self._name}")
            page = snapshot.records[0]
            found += [record for record in page if record.item is not None]
            if len(page) < _PAGE:
                break
            low, high = (page[-1].seq, high) if order == "asc" else (low, page[-1].seq)
        more = len(found) > limit
        shown = found[:limit]
        turns = await self._turns(shown)
        data = [_entry(record, turns[record.seq]) for record in shown]
        return Page(data, more, str(shown[-1].seq) if more else None)

    async def _turns(self, records: Sequence[Record]) -> dict[int, int]:
        """Return the turn of each item, reading back to where the first one's began."""
        if not records:
            return {}
        first, last = min(record.seq for record in records), max(record.seq for record in records)
        start = await turn_at(self._engine, self._name, first)
        snapshot = await self._engine.store.read(self._name, Query(after=max(start - 1, 0), before=last + 1))
        turns = Turns(start)
        for record in snapshot.records[0] if snapshot else ():
            turns.feed(record)
        return {record.seq: turns.of(record) for record in records}

    # -- model calls

    def responses(self, turn: int | None, limit: int, order: Literal["asc", "desc"]) -> Pages[Call]:
        """List recorded model calls."""
        whole("limit", limit, 1, 1000)

        async def fetch(cursor: str | None) -> Page[Call]:
            self._engine.check()
            low, high = (0, None) if turn is None else (turn, None)
            if cursor is not None:
                low, high = (int(cursor), high) if order == "asc" else (low, int(cursor))
            query = Query(after=low, before=high, mark="request", limit=limit + 1, reverse=order == "desc")
            snapshot = await self._engine.store.read(self._name, query)
            if snapshot is None:
                raise NotFound(f"conversation {self._name}")
            found = list(snapshot.records[0])
            calls = [await self._call(record) for record in found[:limit]]
            if turn is not None:
                calls = [call for call in calls if call.turn == turn]
            more = len(found) > limit and len(calls) == limit
            return Page(calls, more, str(found[limit - 1].seq) if more else None)

        return Pages(fetch, None)

    async def _call(self, record: Record) -> Call:
        said = body(record)
        assert isinstance(said, ResponseRequested)
        ends = await self._end(record.seq)
        response_id = usage = error = None
        status = "open"
        for end in ends:
            told = body(end)
            if isinstance(told, ResponseStarted):
                response_id = told.id
            elif isinstance(told, ResponseCompleted):
                status, usage = told.status, told.usage
            elif isinstance(told, ResponseFailed):
                status, error = "failed", f"{told.code or told.kind}: {told.message}"
            elif end.kind == "response.interrupted":
                status = "interrupted" if status == "open" else status
        return Call(
            seq=record.seq,
            response_id=response_id,
            turn=await turn_at(self._engine, self._name, record.seq),
            purpose=said.purpose,
            status=status,
            adapter=said.adapter,
            model=said.target.model,
            backend=said.target.backend,
            usage=usage,
            manifest=said.manifest,
            digest=said.digest,
            error=error,
            _engine=self._engine,
            _record=record,
        )

    async def _end(self, response: int) -> list[Record]:
        """Return what happened to a response, up to where the next one was requested."""
        following = await self._engine.store.read(self._name, Query(mark="request", after=response, limit=1))
        before = following.records[0][0].seq if following and following.records[0] else None
        snapshot = await self._engine.store.read(self._name, Query(after=response, before=before))
        records = snapshot.records[0] if snapshot else ()
        return [record for record in records if record.response == response and record.kind.startswith("response.")]


def _entry(record: Record, turn: int) -> Entry:
    said = body(record)
    return Entry(
        seq=record.seq,
        item=item_of(record),
        meta=said.meta if isinstance(said, ItemAppended) else None,
        time=moment(record.time),
        turn=turn,
        response=record.response,
    )


class Turns:
    """Tells turns apart while records pass in seq order: a run of input with a user's message in it begins one."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._run: int | None = None
        self._of: dict[int, int] = {}
        self._calls: dict[str, int] = {}

    def feed(self, record: Record) -> None:
        """Take the next record in."""
        if record.item is None or record.flags & ASIDE or record.kind not in (ITEM, "response.interrupted"):
            return
        form = reading(record.shape or "unknown", record.link)
        if form.maker == "input" and not (record.flags & PINNED and form.shape != "user"):
            self._run = record.seq if self._run is None else self._run
            if form.shape == "user":
                self._start = self._run
        elif form.maker in ("model", "output"):
            self._run = None
        turn = self._calls.get(form.link or "", self._start) if form.is_output else self._start
        if form.is_call and form.link is not None:
            self._calls[form.link] = turn
        self._of[record.seq] = turn

    def of(self, record: Record) -> int:
        """Return the turn of a record that has passed."""
        return self._of.get(record.seq, self._start)


class _Backwards:
    """Finds where a turn began while records pass in falling order of seq."""

    def __init__(self) -> None:
        self._run: int | None = None
        self._user = False

    def feed(self, record: Record) -> int | None:
        """Take the next older record in; return the turn's seq once it is known."""
        if record.item is None or record.flags & ASIDE:
            return None
        form = reading(record.shape or "unknown", record.link)
        if form.maker == "input":
            if form.shape == "user" or not record.flags & PINNED:
                self._run, self._user = record.seq, self._user or form.shape == "user"
        elif form.maker is not None:
            if found := self.begun():
                return found
            self._run, self._user = None, False
        return None

    def begun(self) -> int:
        """Return where the run of input that is passing began, 0 if there is none with a user's message in it."""
        return self._run if self._run is not None and self._user else 0


async def turn_at(engine: Engine, name: str, seq: int) -> int:
    """Return the seq that names the turn in which *seq* stands, 0 before the first; it reads back no further."""
    search = _Backwards()
    before = seq + 1
    while True:
        snapshot = await engine.store.read(name, Query(before=before, reverse=True, limit=64))
        page = snapshot.records[0] if snapshot else ()
        for record in page:
            if found := search.feed(record):
                return found
        if len(page) < 64:
            return search.begun()
        before = page[-1].seq
