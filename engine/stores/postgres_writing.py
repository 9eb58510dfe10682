"""What the PostgreSQL store writes: batches of appends, each checked on its own, all of them in one transaction.

The heads that a batch is about are locked first, in the order of their ids; what was read under the lock decides.
Everything is written in one go with the commit: two round trips, and two more when bodies come that the conversation
has not referred to before. A conversation that somebody else creates at the same moment is found out by its primary
key, and the batch is made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from ..answers import Linked
from ..errors import Invalid, StoreError, TurnlogError
from ..log import Append, Appended, Head, KeyUse, Trunk, brought, decide, is_counted, place
from .batching import Outcome
from .postgres_errors import of_one, refusal, translated
from .postgres_link import Link, Session
from .postgres_rows import ITEM, columns, digest_of, fields_of, head_of, said, text
from .postgres_schema import check_version

__all__ = ("Settings", "Writing", "begin", "commit")

_BEGIN: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_BYTES: Final = 8 * 1024 * 1024
"""Of items and data in one statement, about."""
_WHOLE: Final = range(-(2**63), 2**63)
_SPENT: Final = 0.1
"""Seconds that an append waits for a lock when its batch has waited long enough already."""
_EVENT: Final = (
    *("conversation", "seq", "place", "time", "kind", "schema", "response", "shape", "link", "tokens", "excerpt"),
    *("flags", "items", "sum", "item", "data"),
)
_HEAD: Final = (
    *("id", "version", "created", "updated", "last_item", "items", "metadata", "generation", "owner", "turn"),
    *("expires", "parent", "fork_at", "deleted", "place"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a writing transaction."""

    durable: bool
    patience: float

    def values(self) -> dict[str, str]:
        """Return them as a statement takes them."""
        return {"patience": str(max(1, round(self.patience * 1000))), "durable": "yes" if self.durable else "no"}


async def commit(link: Link, settings: Settings, batch: Sequence[Append], now: int) -> Sequence[Outcome]:
    """Write a batch.

    Raises:
        StoreError: nothing of it was written; or, where it says so, that is not known.
    """
    try:
        return await _committed(link, settings, batch, now)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if cause is not None and of_one(cause):
            # It has to do with one append, such as one that holds what cannot be stored; others are not to pay for it.
            return [await _alone(link, settings, append, now) for append in batch]
        if len(batch) > 1 and isinstance(cause, psycopg.errors.LockNotAvailable):
            # Somebody keeps one of the conversations locked; appends to others go on.
            return await _around(link, Settings(settings.durable, _SPENT), batch, now)
        raise


async def _around(link: Link, settings: Settings, batch: Sequence[Append], now: int) -> Sequence[Outcome]:
    """Write the appends to those conversations that nobody keeps locked."""
    outcomes: list[Outcome] = []
    locked: dict[str, BaseException] = {}
    for append in batch:
        name = append.conversation
        outcome = translated(link.place, locked[name]) if name in locked else await _alone(link, settings, append, now)
        if isinstance(outcome, StoreError) and isinstance(outcome.__cause__, psycopg.errors.LockNotAvailable):
            locked[name] = outcome.__cause__
        outcomes.append(outcome)
    return outcomes


async def _alone(link: Link, settings: Settings, append: Append, now: int) -> Outcome:
    try:
        return (await _committed(link, settings, [append], now))[0]
    except Exception as error:  # noqa: BLE001 - some may be in the log by now, and are to be told so
        return refusal(append.conversation, error)


async def _committed(link: Link, settings: Settings, batch: Sequence[Append], now: int) -> Sequence[Outcome]:
    outcomes: list[Outcome] = []

    async def work(session: Session) -> Sequence[Outcome]:
        writing = Writing(session, now)
        await writing.begin(settings, batch)
        outcomes[:] = [await writing.decided(append) for append in batch]
        await writing.write(commit=True)
        return outcomes

    return await link.transact(work, lambda: outcomes)


async def begin(session: Session, settings: Settings) -> None:
    """Begin a transaction, in a pipeline."""
    await session.do(_BEGIN)
    await session.ask("settings", settings.values())


@dataclass(slots=True)
class _Entry:
    """A conversation as this transaction sees it."""

    head: Head
    place: int
    known: bool
    """Whether it has a row."""
    written: Head | None
    """The head in its row."""


@dataclass(slots=True)
class _Rows:
    """What is to be inserted, table by table; of events also how large they are."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    marks: list[tuple[str, str, int]] = field(default_factory=list)
    keys: list[tuple[str, str, str, int, int]] = field(default_factory=list)
    refs: list[tuple[str, int, bytes]] = field(default_factory=list)
    bodies: dict[bytes, bytes] = field(default_factory=dict)
    forks: list[dict[str, Any]] = field(default_factory=list)


class Writing:
    """One transaction's decisions, gathered so that each table is written in one go."""

    def __init__(self, session: Session, now: int) -> None:
        self._session = session
        self._now = now
        self._clock = 0.0
        self._place = 0
        self._entries: dict[str, _Entry] = {}
        self._changed: set[str] = set()
        self._uses: dict[tuple[str, str], KeyUse] = {}
        self._linked: dict[tuple[str, str], list[Linked]] = {}
        """What is there of links, by conversation."""
        self._asked: set[tuple[str, str]] = set()
        """Of which that is known."""
        self._held: set[tuple[str, bytes]] = set()
        """Bodies that conversations refer to as a whole, so that nobody removes them while these are locked."""
        self._rows = _Rows()

    # -- reading what decides

    async def begin(self, settings: Settings, batch: Sequence[Append], others: Iterable[str] = ()) -> None:
        """Begin the transaction: lock the heads of a batch, and of others, and read what its appends depend on."""
        session = self._session
        forked = {append.fork.parent for append in batch if append.fork}
        names = sorted({append.conversation for append in batch} | forked | set(others))
        keys, links, bodies = _named(batch), _answered(batch), _referred(batch)
        async with session.pipeline():
            await begin(session, settings)
            locked = await session.ask("lock", {"ids": names})
            moment = await session.ask("moment")
            uses = await session.ask("used_keys", columns(("conversations", "names"), keys)) if keys else None
            linked = await session.ask("linked_to", _linking(links)) if links else None
            held = await session.ask("held_bodies", columns(("conversations", "digests"), bodies)) if bodies else None
        ((self._clock, self._place, session.transaction, version),) = await moment.fetchall()
        check_version(session.place, version)
        for row in await locked.fetchall():
            head = head_of(row, self._clock)
            self._entries[head.conversation] = _Entry(head, row[-1], known=True, written=head)
        if uses is not None:
            self._uses = {(row[0], said(row[1])): KeyUse(*row[2:]) for row in await uses.fetchall()}
        if linked is not None:
            self._link(links, await linked.fetchall())
        if held is not None:
            self._held = {(name, digest) for name, digest in await held.fetchall()}

    def _link(self, asked: Iterable[tuple[str, str]], rows: Iterable[tuple[Any, ...]]) -> None:
        self._asked |= {(name, said(link)) for name, link in asked if name in self._entries}
        for name, link, seq, shape, flags in rows:
            linked = self._linked.setdefault((name, said(link)), [])
            linked.append((seq, None if shape is None else said(shape), flags))

    async def _answers(self, append: Append) -> dict[str, list[Linked]]:
        """Return what there is of the links that an append answers, with what is to be written."""
        name = append.conversation
        if name in self._entries and any((name, link) not in self._asked for link in append.answers):
            await self.write(commit=False)  # it was created meanwhile, perhaps as a fork
            links = _answered([append])
            self._link(links, await (await self._session.ask("linked_to", _linking(links))).fetchall())
        return {link: sorted(self._linked.get((name, link), ())) for link in append.answers}

    def head(self, name: str) -> Head | None:
        """Return a head that was locked, as this transaction leaves it."""
        entry = self._entries.get(name)
        return entry.head if entry else None

    def put(self, head: Head) -> None:
        """Change a head that was locked."""
        self._entries[head.conversation].head = head

    # -- deciding

    async def decided(self, append: Append) -> Outcome:
        """Decide on an append and gather its rows; return what it comes to."""
        name = append.conversation
        entry = self._entries.get(name)
        used = {key: use for key in append.names if (use := self._uses.get((name, key))) is not None}
        try:
            trunk = await self._trunk(append) if append.fork and entry is None else None
            linked = await self._answers(append)
            head, result = decide(append, entry.head if entry else None, used, self._now, trunk, linked)
            if head is None:
                return result
            rows = _Added(append, entry.head.items if entry else trunk.items if trunk else 0)
            rows.gather(self._rows, result, max(self._place, entry.place if entry else 0))
        except TurnlogError as error:
            return error
        except (ValueError, OverflowError) as error:
            return Invalid(f"{name!r:.100}: an event holds what cannot be stored: {error}")
        if entry is None:
            entry = self._entries[name] = _Entry(head, self._place, known=False, written=None)
        entry.head, entry.place = head, max(self._place, entry.place)
        self._changed.add(name)
        for seq, one in enumerate(append.events, result.first):
            if one.link is not None:
                self._linked.setdefault((name, one.link), []).append((seq, one.shape, one.flags))
        for key, use in brought(append, used, result).items():
            self._uses[name, key] = use
            self._rows.keys.append((name, text(key), use.digest, use.first, use.last))
        return result

    async def _trunk(self, append: Append) -> Trunk | None:
        """Return what a fork begins with; what this transaction has for its parent is written first."""
        assert append.fork is not None
        head = self.head(append.fork.parent)
        if head is None or head.deleted:
            return None
        if append.fork.parent in self._changed:
            await self.write(commit=False)
        cursor = await self._session.ask("trunk", {"parent": append.fork.parent, "at": append.fork.at})
        ((items, last_item),) = await cursor.fetchall()
        return Trunk(head.version, items or 0, last_item or 0, head.metadata)

    # -- writing

    async def write(self, *, commit: bool) -> None:
        """Write what has been gathered, and commit if that is to be the end; without changes, nothing is committed."""
        if not self._changed and commit and not self._session.written:
            await self._session.do(b"ROLLBACK")
            return
        rows, self._rows = self._rows, _Rows()
        changed, self._changed = sorted(self._changed), set()
        await self._hold(rows)
        async with self._session.pipeline():
            for name, values in self._statements(rows, changed):
                await self._session.ask(name, values)
            if commit:
                await self._session.commit()
        self._session.written = True
        for name in changed:
            entry = self._entries[name]
            entry.known, entry.written = True, entry.head

    async def _hold(self, rows: _Rows) -> None:
        """Store bodies that come, and keep all that are referred to from being removed by others meanwhile."""
        rows.refs = [ref for ref in rows.refs if ref[1] or (ref[0], ref[2]) not in self._held]
        wanted = sorted({digest for name, _, digest in rows.refs if (name, digest) not in self._held})
        self._held |= {(name, digest) for name, seq, digest in rows.refs if seq == 0}
        while wanted:
            bring = [(digest, rows.bodies[digest]) for digest in wanted if digest in rows.bodies]
            async with self._session.pipeline():
                if bring:
                    await self._session.ask("insert_bodies", columns(("digest", "body"), bring))
                cursor = await self._session.ask("hold_bodies", {"digests": wanted})
            there = {digest for (digest,) in await cursor.fetchall()}
            # One that was there for the first statement and is gone for the second is stored again.
            wanted = [digest for digest, _ in bring if digest not in there]

    def _statements(self, rows: _Rows, changed: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        new = [name for name in changed if not self._entries[name].known]
        old = [name for name in changed if self._entries[name].known]
        for statement, names in (("insert_heads", new), ("update_heads", old)):
            if names:
                yield statement, columns(_HEAD, [self._row(self._entries[name]) for name in names])
        for fork in rows.forks:
            yield "insert_spans", fork
        for part in _portions(rows.events):
            yield "insert_events", columns(_EVENT, part)
        if rows.marks:
            yield "insert_marks", columns(("conversation", "mark", "seq"), rows.marks)
        if rows.keys:
            yield "insert_keys", columns(("conversation", "name", "digest", "first", "last"), rows.keys)
        if rows.refs:
            yield "insert_refs", columns(("conversation", "seq", "digest"), rows.refs)
        yield from self._fields(changed)

    def _fields(self, changed: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield what conversations are found by from now on, and what not any more, where their metadata changed."""
        less: list[tuple[str, bytes]] = []
        more: list[tuple[str, bytes]] = []
        for name in changed:
            entry = self._entries[name]
            before = entry.written.metadata if entry.written else b"{}"
            if before != entry.head.metadata:
                old, new = fields_of(before), fields_of(entry.head.metadata)
                less += [(name, digest) for digest in sorted(old - new)]
                more += [(name, digest) for digest in sorted(new - old)]
        for statement, pairs in (("delete_fields", less), ("insert_fields", more)):
            if pairs:
                yield statement, columns(("conversation", "field"), pairs)

    def _row(self, entry: _Entry) -> tuple[Any, ...]:
        head = entry.head
        parent, at = head.parent or (None, None)
        owner, turn, expires = None, None, None
        if head.lease is not None:
            owner, turn, expires = text(head.lease.owner), head.lease.turn, self._clock + head.lease.remaining
        return (
            head.conversation,
            head.version,
            head.created,
            head.updated,
            head.last_item,
            head.items,
            head.metadata,
            head.generation,
            owner,
            turn,
            expires,
            parent,
            at,
            head.deleted,
            entry.place,
        )


class _Added:
    """The rows of one append."""

    def __init__(self, append: Append, items: int) -> None:
        self._append = append
        self._items = items

    def gather(self, rows: _Rows, result: Appended, feed: int) -> None:
        """Add this append's rows to those of others.

        Raises:
            ValueError, OverflowError: a value cannot be stored; nothing was added.
        """
        append = self._append
        events = list(self._events(result, feed))
        marks = [
            (append.conversation, _storable(text(mark)), seq)
            for seq, event in enumerate(append.events, result.first)
            for mark in dict.fromkeys(event.marks)
        ]
        own = {digest_of(name) for event in append.events for name in event.refs}
        bodies = {digest_of(name): bytes(body) for name, body in append.bodies.items()}
        refs = [
            (append.conversation, seq, digest_of(name))
            for seq, event in enumerate(append.events, result.first)
            for name in event.refs
        ]
        rows.events += events
        rows.marks += marks
        rows.refs += refs
        rows.refs += [(append.conversation, 0, digest) for digest in bodies.keys() - own]
        rows.bodies |= bodies
        if append.fork is not None:
            rows.forks.append({"id": append.conversation, "parent": append.fork.parent, "at": append.fork.at})

    def _events(self, result: Appended, feed: int) -> Iterator[tuple[Any, ...]]:
        for seq, event in enumerate(self._append.events, result.first):
            self._items += is_counted(event)
            row = (
                _storable(self._append.conversation),
                seq,
                feed,
                result.time if event.time is None else event.time,
                None if event.kind == ITEM else text(event.kind),
                event.schema,
                place(event.response, result.first),
                None if event.shape is None else text(event.shape),
                None if event.link is None else text(event.link),
                event.tokens,
                event.excerpt,
                event.flags,
                self._items,
                event.sum,
                event.item,
                event.data,
            )
            for value in row:
                _storable(value)
            yield row


def _storable(value: Any) -> Any:
    """Return a value that a column can hold.

    Raises:
        ValueError, OverflowError: none can.
    """
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int) and value not in _WHOLE:
        raise OverflowError(f"{value} is more than 64 bits")
    return value


def _answered(batch: Sequence[Append]) -> list[tuple[str, str]]:
    """Return the links that a batch answers, each with its conversation."""
    return sorted({(append.conversation, text(link)) for append in batch for link in append.answers})


def _linking(links: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
    return columns(("conversations", "links"), links)


def _named(batch: Sequence[Append]) -> list[tuple[str, str]]:
    """Return the names of the keys that a batch brings, each with its conversation."""
    return [(append.conversation, text(name)) for append in batch for name in append.names]


def _referred(batch: Sequence[Append]) -> list[tuple[str, bytes]]:
    """Return the bodies that a batch brings or refers to, as far as they can be named, each with its conversation."""
    found: list[tuple[str, bytes]] = []
    for append in batch:
        for name in (*append.bodies, *(name for event in append.events for name in event.refs)):
            with suppress(ValueError):  # it is refused when it is decided on
                found.append((append.conversation, digest_of(name)))
    return found


def _portions(events: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Yield events in portions that one statement can take."""
    start, size = 0, 0
    for end, row in enumerate(events):
        size += len(row[-2] or b"") + len(row[-1] or b"")
        if size > _BYTES and end > start:
            yield events[start:end]
            start, size = end, len(row[-2] or b"") + len(row[-1] or b"")
    if start < len(events):
        yield events[start:]
