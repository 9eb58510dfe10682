"""What the PostgreSQL store erases, deletes and collects: one transaction each, then a vacuum.

PostgreSQL overwrites nothing in place: an old row stays in its page, dead, until a vacuum takes it out and something
else uses its room; and whatever was written is in the write-ahead log. What cannot be reached is named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec
import psycopg

from ..errors import Conflict, ConversationBusy, NotFound, StoreError
from ..events import NewEvent
from ..log import Append, Appended, Erased, Erasure, Head
from .postgres_errors import refusal
from .postgres_link import Link, Session
from .postgres_reading import shared_by
from .postgres_rows import Span, columns
from .postgres_schema import check_version
from .postgres_writing import Settings, Writing, begin

__all__ = ("Erasing",)

_LEFT: Final = (
    "the old bytes in the pages of the server's files, until their room is used again (VACUUM FULL rewrites them)",
    "the server's write-ahead log and its archives, until they are recycled",
    "replicas, until they have followed; backups, until they are thrown away",
)
_DEAD: Final = "the old rows, dead in the tables until they are vacuumed: {}"


class Erasing:
    """The erasing verbs of a store."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        # On the disk before it returns, whatever holds for appends: else what was erased could come back.
        self._settings = Settings(durable=True, patience=settings.patience)

    async def erase(self, appends: Sequence[Append], now: int) -> Erased:
        """See `turnlog.engine.log.Store.erase`."""
        versions: dict[str, int] = {}
        bodies = [0]

        async def work(session: Session) -> Erased:
            versions.clear()
            shared = await shared_by(session, [append.conversation for append in appends])
            owners = {owner for spans in shared.values() for owner, _, _ in spans}
            writing = Writing(session, now)
            await writing.begin(self._settings, appends, owners)
            erased: list[tuple[Any, ...]] = []
            for append in appends:
                versions[append.conversation] = (await _decided(writing, append)).version
                head = writing.head(append.conversation)
                assert head is not None
                spans = [*shared.get(head.conversation, ()), (head.conversation, head.first, head.version)]
                erased += [_row(one, spans) for one in append.erasures]
            freed = await _overwrite(session, erased)
            await writing.write(commit=False)
            bodies[0] = await _drop(session, freed)
            async with session.pipeline():
                await session.commit()
            return Erased(versions=dict(versions), bodies=bodies[0])

        names = ", ".join(append.conversation for append in appends)
        erased = await self._done(names, work, lambda: Erased(versions=dict(versions), bodies=bodies[0]))
        return await self._vacuumed(erased) if any(append.erasures for append in appends) else erased

    async def delete(self, name: str, tombstone: NewEvent, forks: Literal["refuse", "keep"], now: int) -> Erased:
        """See `turnlog.engine.log.Store.delete`."""
        results: list[Erased] = []

        async def work(session: Session) -> Erased:
            shared = await shared_by(session, [name])
            owners = [owner for owner, _, _ in shared.get(name, ())]
            append = Append(conversation=name, events=[tombstone])
            writing = Writing(session, now)
            await writing.begin(self._settings, [append], owners)
            head = writing.head(name)
            sharers = [row[0] for row in await (await session.ask("shared", {"id": name})).fetchall()]
            writing.put(_deletable(name, head, sharers if forks == "refuse" else ()))
            version = (await _decided(writing, append)).version
            await writing.write(commit=False)
            async with session.pipeline():
                await session.ask("delete_keys", {"id": name})
                await session.ask("delete_spans", {"id": name})
            freed: set[bytes] = set()
            for owner in (*owners, name):
                of = writing.head(owner)
                if of is not None and of.deleted:
                    freed |= await _prune(session, of)
            results[:] = [Erased(versions={name: version}, bodies=await _drop(session, freed))]
            async with session.pipeline():
                await session.commit()
            return results[0]

        return await self._vacuumed(await self._done(name, work, lambda: results[0]))

    async def _done(
        self, names: str, work: Callable[[Session], Awaitable[Erased]], written: Callable[[], Erased]
    ) -> Erased:
        try:
            return await self._link.transact(work, written)
        except (StoreError, OverflowError, ValueError) as error:
            told = refusal(names, error)
            raise told from told.__cause__

    async def collect(self, seconds: float) -> int:
        """See `turnlog.engine.log.Store.collect`."""
        gone = [0]

        async def work(session: Session) -> int:
            async with session.pipeline():
                await begin(session, self._settings)
                moment = await session.ask("moment")
                await session.ask("note_used")
                await session.ask("note_unused")
                unused = await session.ask("unused_bodies", {"seconds": seconds})
            ((_, _, session.transaction, version),) = await moment.fetchall()
            check_version(session.place, version)
            digests = [digest for (digest,) in await unused.fetchall()]
            gone[0] = (await session.ask("drop_bodies", {"digests": digests})).rowcount if digests else 0
            async with session.pipeline():
                await session.commit()
            return gone[0]

        return await self._link.transact(work, lambda: gone[0])

    async def _vacuumed(self, erased: Erased) -> Erased:
        """Take the dead rows out of the tables, as far as that is allowed, and say what is left."""
        refused: list[str] = []

        def note(said: psycopg.errors.Diagnostic) -> None:
            refused.append(said.message_primary or "refused")

        async def work(session: Session) -> None:
            session.connection.add_notice_handler(note)
            try:
                await session.ask("vacuum")
            finally:
                session.connection.remove_notice_handler(note)

        try:
            await self._link.run(work)
        except StoreError as error:
            refused.append(str(error))
        dead = [_DEAD.format("; ".join(refused))] if refused else []
        return msgspec.structs.replace(erased, left=(*dead, *_LEFT))


def _deletable(name: str, head: Head | None, sharers: Sequence[str]) -> Head:
    """Return a head that may be deleted, without its lease.

    Raises:
        NotFound, ConversationBusy, Conflict: it may not.
    """
    if head is None or head.deleted:
        raise NotFound(f"conversation {name}", deleted=head is not None)
    if head.lease is not None and head.lease.remaining > 0:
        raise ConversationBusy(name, head.lease.turn, head.lease.remaining)
    if sharers:
        raise Conflict(f'{name}: its events are shared by {", ".join(sharers)}; pass forks="keep" or "delete"')
    return msgspec.structs.replace(head, lease=None)


async def _decided(writing: Writing, append: Append) -> Appended:
    outcome = await writing.decided(append)
    if isinstance(outcome, Exception):
        raise outcome
    for erasure in append.erasures:
        if not 0 < erasure.seq < outcome.first:
            raise NotFound(f"event {append.conversation}/{erasure.seq}")
    return outcome


def _row(erasure: Erasure, spans: Sequence[Span]) -> tuple[Any, ...]:
    """Return what an event is overwritten with, by whose it is."""
    owner = next(owner for owner, first, last in spans if first <= erasure.seq <= last)
    return owner, erasure.seq, erasure.item, erasure.data, erasure.flags, erasure.sum


async def _overwrite(session: Session, rows: Sequence[tuple[Any, ...]]) -> set[bytes]:
    """Overwrite events; return the bodies that they referred to."""
    if not rows:
        return set()
    names = ("conversation", "seq", "item", "data", "flags", "sum")
    values = columns(names, rows)
    async with session.pipeline():
        await session.ask("erase_events", values)
        freed = await session.ask("let_go", {name: values[name] for name in names[:2]})
    session.written = True
    return {digest for (digest,) in await freed.fetchall()}


async def _prune(session: Session, head: Head) -> set[bytes]:
    """Remove the events of a deleted conversation that nobody shares; return the bodies they referred to."""
    shared = await (await session.ask("shared", {"id": head.conversation})).fetchall()
    values = {
        "id": head.conversation,
        "after": max((last for _, last in shared), default=0),
        "before": head.version,
    }
    async with session.pipeline():
        await session.ask("delete_events", values)
        await session.ask("delete_marks", values)
        freed = await session.ask("delete_refs", values)
    return {digest for (digest,) in await freed.fetchall()}


async def _drop(session: Session, digests: set[bytes]) -> int:
    """Remove those of some bodies that nothing refers to; return how many."""
    if not digests:
        return 0
    values = {"digests": sorted(digests)}
    async with session.pipeline():
        await session.ask("lock_bodies", values)
        gone = await session.ask("drop_bodies", values)
    return gone.rowcount
