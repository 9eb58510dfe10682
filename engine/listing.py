"""Listings of one conversation: its events, its transcript, its model calls. Read only, page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec

from .blobs import whole as whole_record
from .canonical import loads
from .checks import switch, whole
from .codec import REQUESTED, REQUESTS, RESTORE, body, item_of, when
from .compaction import weight
from .damage import damage_named
from .errors import CorruptLog, NotFound
from .events import (
    ASIDE,
    ERASED,
    ContextCompacted,
    ItemAppended,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    ResponseStarted,
    Usage,
)
from .history import ENDS, is_answer
from .ids import Position
from .items import Item
from .log import Query
from .manifest import SENT, Fate, Manifest, Verdict
from .pages import Page, Pages
from .paths import Along, Paths, Reads, Shelf, paths_of
from .replay import rebuild
from .tokens import SEAL_TOKENS
from .turns.listed import Turn, turns_on
from .turns.places import turn_end, turns_of
from .turns.plan import one_of

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("LAST", "Appended", "Call", "Entry", "Event", "Listing", "Turn", "event_of")

T = TypeVar("T")
_PAGE: Final = 500
_MORE: Final = 16
"""Events read beyond twice the items that are asked for: about every second event is one."""
_SHOWN: Final = frozenset({"item.appended", "response.interrupted"})
"""What can carry an item of the transcript; an erased event of another kind never did."""
LAST: Final = 2**62
"""No conversation has so many events."""


class Appended(msgspec.Struct, frozen=True, gc=False):
    """Where items were appended: their seqs, and the version right after."""

    first: int
    last: int
    version: int
    replayed: bool = False


class Event(msgspec.Struct, frozen=True, kw_only=True):
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
    data: Mapping[str, Any] = {}
    """What the event carries beside its item, as it is stored."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
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


class Call(msgspec.Struct, frozen=True, kw_only=True):
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
    """As it is logged, which is without the tokens of each item; `why` tells them."""
    digest: str
    error: str | None
    retry_of: int | None = None
    """The request, by its seq, that was refused and is made again here in another way."""
    _engine: Engine
    _record: Record

    def __repr__(self) -> str:
        return f"<Call {self._record.conversation}/{self.seq} of {self.model}, {self.status}>"

    async def request(self) -> Item:
        """Return the body as it was sent, rebuilt from the log and checked against its digest.

        Raises:
            CorruptLog: what the log gives today is not what was sent.
        """
        self._engine.check()
        rebuilt = await rebuild(self._engine.store, self._record)
        if rebuilt.digest != self.digest:
            place = f"{self._record.conversation}/{self.seq}"
            why = f"{rebuilt.path}{f' ({rebuilt.reason})' if rebuilt.reason else ''}"
            raise CorruptLog(f"{place}: the log no longer gives what was sent, at {why}; {RESTORE}")
        return rebuilt.body

    async def why(self, seq: int) -> Verdict:
        """Return what became of an event in this call's window, with the tokens that the log counts for it there.

        Of one that was erased since, the rule says so, and no tokens are known any more. Reasoning counts as it was
        sent, whether the model was shown it or not.

        Raises:
            Invalid: there can be no such seq.
            NotFound: there is no such event.
        """
        verdict = self.manifest.why(seq)
        self._engine.check()
        name = self._record.conversation
        snapshot = await self._engine.store.read(name, Query(after=seq - 1, before=seq + 1))
        if snapshot is None:
            raise NotFound(f"conversation {name}")
        if not snapshot.records[0]:
            raise NotFound(f"conversation {name}, seq {seq} (its events are 1 to {snapshot.head.version})")
        record = snapshot.records[0][0]
        if record.flags & ERASED and verdict.fate != "erased":
            return msgspec.structs.replace(verdict, rule=f"{verdict.rule}; erased since", tokens=0)
        return msgspec.structs.replace(verdict, tokens=self._tokens(verdict.fate, record))

    def _tokens(self, fate: Fate, record: Record) -> int:
        """Return the tokens that the log counts for an event in this call's window."""
        said, asked = body(record), body(self._record)
        if isinstance(said, ContextCompacted) and record.seq == self.manifest.base:
            assert isinstance(asked, ResponseRequested)
            return weight(record, said, asked.target)
        if fate not in SENT or record.item is None:
            return 0
        seal = SEAL_TOKENS if record.seq in self.manifest.sealed else 0
        return seal + (record.excerpt if fate == "excerpted" and record.excerpt is not None else record.tokens)


def event_of(record: Record) -> Event:
    """Return a record as an event to look at."""
    said = body(record)
    data: dict[str, Any] = loads(record.data) if record.data else {}
    return Event(
        conversation=record.conversation,
        seq=record.seq,
        position=record.position,
        time=when(record),
        response=record.response,
        type=record.kind,
        item=item_of(record),
        meta=said.meta if isinstance(said, ItemAppended) else None,
        metadata=data.get("metadata") if record.kind == "conversation.created" else None,
        tokens=record.tokens,
        data=data,
    )


class Listing:
    """Lists one conversation; *shelf*: as it is read there, rather than in the engine's store."""

    def __init__(self, engine: Engine, name: str, shelf: Shelf | None = None) -> None:
        self._engine = engine
        self._name = name
        self._shelf = shelf

    @property
    def _store(self) -> Shelf:
        return self._engine.store if self._shelf is None else self._shelf

    async def records(self, query: Query | None = None, reads: Reads | None = None) -> AsyncGenerator[Record, None]:
        """Yield records in the order of *query*, read in pages of its limit, from the store or along a path.

        Raises:
            NotFound: there is no such conversation.
        """
        query = query or Query()
        size = query.limit or _PAGE
        query = msgspec.structs.replace(query, limit=size)
        while True:
            self._engine.check()
            snapshot = await (reads or self._store).read(self._name, query)
            if snapshot is None or snapshot.head.deleted:
                raise NotFound(f"conversation {self._name}", deleted=snapshot is not None)
            page = snapshot.records[0]
            for record in page:
                yield record
            if len(page) < size:
                return
            place = {"before" if query.reverse else "after": page[-1].seq}
            query = msgspec.structs.replace(query, **place)

    async def events(self, after: int, *, follow: bool = False) -> AsyncIterator[Event]:
        """Yield events behind *after*; with *follow* wait for more, for ever."""
        while True:
            news = self._engine.news()
            async for record in self.records(Query(after=after)):
                after = record.seq
                yield event_of(await whole_record(self._store, record))
            if not follow:
                return
            await news.wait()

    async def bodies(self, kind: type[T]) -> AsyncIterator[T]:
        """Yield what all events of one kind say."""
        async for record in self.records():
            said = body(record)
            if isinstance(said, kind):
                yield said

    def _pages(self, fetch: Callable[[str | None], Awaitable[Page[T]]]) -> Pages[T]:
        async def named(cursor: str | None) -> Page[T]:
            async with damage_named(self._store, self._name):
                return await fetch(cursor)

        return Pages(named, None)

    # -- the transcript

    def items(
        self, after: int | None, before: int | None, limit: int, order: Literal["asc", "desc"], *, abandoned: bool
    ) -> Pages[Entry]:
        """List items by seq, behind *after* and before *before*."""
        whole("limit", limit, 1, 1000)
        switch("abandoned", abandoned)
        for name, place in (("after", after), ("before", before)):
            if place is not None:
                whole(name, place, 0, LAST)
        down = one_of("order", order, ("asc", "desc")) == "desc"

        async def fetch(cursor: str | None) -> Page[Entry]:
            self._engine.check()
            store = self._store
            paths = await paths_of(store, self._name)
            query = _from(cursor, Query(after=after or 0, before=before, reverse=down, limit=_MORE + 2 * limit))
            found: list[Record] = []
            async with aclosing(self.records(query, store if abandoned else Along(store, paths.alive))) as records:
                async for record in records:
                    spoken = record.kind in _SHOWN and not record.flags & ASIDE
                    if spoken and (record.item is not None or record.flags & ERASED):
                        found.append(record)
                    if len(found) > limit:
                        break
            shown = [await whole_record(store, one) for one in found[:limit]]
            turns = await self._turns(paths, shown)
            more = len(found) > limit
            entries = [_entry(one, turns[one.seq], alive=paths.is_alive(one.seq)) for one in shown]
            return Page(entries, more, str(found[limit - 1].seq) if more else None)

        return self._pages(fetch)

    async def _turns(self, paths: Paths, records: Sequence[Record]) -> dict[int, int]:
        """Return the turns of neighbours by seq, each on the path that it lies on."""
        turns: dict[int, int] = {}
        for version, some in groupby(sorted(records, key=_seq), lambda one: paths.left(one.seq)):
            along = Along(self._store, paths.to(version))
            turns |= await turns_of(along, self._name, list(some))
        return turns

    def turns(self, after: int | None, limit: int, order: Literal["asc", "desc"], *, abandoned: bool) -> Pages[Turn]:
        """List turns by seq, behind *after*."""
        whole("limit", limit, 1, 1000)
        switch("abandoned", abandoned)
        down = one_of("order", order, ("asc", "desc")) == "desc"

        async def fetch(cursor: str | None) -> Page[Turn]:
            self._engine.check()
            paths = await paths_of(self._store, self._name)
            place, _, number = (cursor or ":0").partition(":")
            bounds = (after or 0, LAST) if not place else (after or 0, int(place)) if down else (int(place), LAST)
            store, version = self._store, paths.head.version
            found = await turns_on(store, self._name, paths, version, bounds, limit + 1, down=down)
            for top in paths.tops() if abandoned else ():
                left = await turns_on(store, self._name, paths, top, bounds, limit + 1, down=down)
                found += [turn for turn in left if not turn.alive]
            ordered = sorted({turn.seq: turn for turn in reversed(found)}.items(), reverse=down)
            shown = [
                msgspec.structs.replace(turn, number=index)
                for index, (_, turn) in enumerate(ordered[:limit], int(number) + 1)
            ]
            more = len(ordered) > limit
            return Page(shown, more, f"{shown[-1].seq}:{shown[-1].number}" if more else None)

        return self._pages(fetch)

    # -- model calls

    def responses(self, turn: int | None, limit: int, order: Literal["asc", "desc"]) -> Pages[Call]:
        """List recorded model calls."""
        whole("limit", limit, 1, 1000)
        if turn is not None:
            whole("turn", turn, 0, LAST)
        down = one_of("order", order, ("asc", "desc")) == "desc"

        async def fetch(cursor: str | None) -> Page[Call]:
            self._engine.check()
            paths = await paths_of(self._store, self._name)
            bounds = Query()
            if turn is not None:
                along = Along(self._store, paths.to(paths.left(turn)))
                bounds = Query(after=turn - 1, before=await turn_end(along, self._name, turn))
            query = _from(cursor, msgspec.structs.replace(bounds, limit=limit + 1, reverse=down))
            queries = [msgspec.structs.replace(query, mark=mark) for mark in REQUESTS]
            snapshot = await self._store.read(self._name, *queries)
            if snapshot is None:
                raise NotFound(f"conversation {self._name}")
            found = sorted(chain(*snapshot.records), key=_seq, reverse=down)[: limit + 1]
            calls = await self._calls(found[:limit], paths)
            more = len(found) > limit
            return Page(
                [call for call in calls if turn is None or call.turn == turn],
                more,
                str(found[limit - 1].seq) if more else None,
            )

        return self._pages(fetch)

    async def response(self, seq: int) -> Call:
        """Return one recorded model call, reading only what lies around it.

        Raises:
            NotFound: there is no response of that seq.
        """
        whole("response", seq, 1, LAST)
        self._engine.check()
        snapshot = await self._store.read(self._name, Query(after=seq - 1, before=seq + 1))
        if snapshot is None:
            raise NotFound(f"conversation {self._name}")
        requests = [record for record in snapshot.records[0] if record.kind == REQUESTED]
        if not requests:
            raise NotFound(
                f"conversation {self._name}, response {seq} (a response is named by the seq of its {REQUESTED}; "
                "look at the events)"
            )
        async with damage_named(self._store, self._name):
            return (await self._calls(requests, await paths_of(self._store, self._name)))[0]

    async def _calls(self, requests: Sequence[Record], paths: Paths) -> list[Call]:
        """Return recorded model calls, with what became of them."""
        if not requests:
            return []
        ends: dict[int, list[Record]] = {record.seq: [] for record in requests}
        before: int | None = None
        if all(map(is_answer, requests)):  # what is beside the conversation may end behind the next request
            following = await self._store.read(self._name, Query(mark="request", after=max(ends), limit=1))
            before = following.records[0][0].seq if following and following.records[0] else None
        going = set(ends)
        async with aclosing(self.records(Query(after=min(ends), before=before))) as records:
            async for record in records:
                if record.response in ends and record.kind.startswith("response."):
                    ends[record.response].append(record)
                    if record.kind in ENDS:
                        going.discard(record.response)
                if not going:  # what was appended behind the last end may be long
                    break
        turns = await self._turns(paths, requests)
        return [self._call(record, ends[record.seq], turns[record.seq], paths) for record in requests]

    def _call(self, record: Record, ends: Sequence[Record], turn: int, paths: Paths) -> Call:
        said = body(record)
        if not isinstance(said, ResponseRequested):
            place = f"{record.conversation}/{record.seq}"
            raise CorruptLog(f"{place}: its kind is {record.kind}, where a {REQUESTED} was written: {RESTORE}")
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
            elif isinstance(told, ResponseInterrupted):
                status = "interrupted" if status == "open" else status
        return Call(
            seq=record.seq,
            response_id=response_id,
            turn=turn,
            purpose=said.purpose,
            status=status,
            adapter=said.adapter,
            model=said.target.model,
            backend=said.target.backend,
            usage=usage,
            manifest=said.manifest.along(paths.to(said.manifest.as_of)),
            digest=said.digest,
            error=error,
            retry_of=said.retry_of,
            _engine=self._engine,
            _record=record,
        )


def _from(cursor: str | None, query: Query) -> Query:
    """Return a query that goes on behind a page's last entry."""
    if cursor is None:
        return query
    return msgspec.structs.replace(query, **{"before" if query.reverse else "after": int(cursor)})


def _seq(record: Record) -> int:
    return record.seq


def _entry(record: Record, turn: int, *, alive: bool) -> Entry:
    said = body(record)
    return Entry(
        seq=record.seq,
        item=item_of(record) or {},
        meta=said.meta if isinstance(said, ItemAppended) else None,
        time=when(record),
        turn=turn,
        response=record.response,
        alive=alive,
        erased=bool(record.flags & ERASED),
    )
