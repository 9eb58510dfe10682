"""Erasing and deleting: what has to go, where else it stands, and what is left of it.

An erased event keeps its place, its kind and what pairs it; its content is overwritten, here and for every fork that
shares it. Compactions that cover it are void, since they may quote it: windows start before them again. What models
were asked and said to make them goes too, and so does that of attempts that came to nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from .canonical import encode, loads
from .codec import ITEM, body, event
from .derived import derived
from .errors import Conflict, Invalid, NotFound, VersionConflict
from .events import (
    ERASED,
    ContextCompacted,
    ConversationDeleted,
    ItemErased,
    NewEvent,
    Record,
    RemoteAttached,
    ResponseStarted,
    checksum,
)
from .log import Append, Erased, Erasure, Query, Scalar, Store
from .logs import Log
from .reader import logged

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("Receipt", "delete", "erase", "erasing", "expire")

_log = Log("turnlog.erasing")
_ATTEMPTS: Final = 1000
_PAGE: Final = 100
_KEPT: Final[Mapping[str, frozenset[str]]] = {
    ITEM: frozenset({"origin"}),
    "response.interrupted": frozenset({"cause", "sealed"}),
    "response.failed": frozenset({"kind", "code", "status_code", "retryable", "retries"}),
    "context.compacted": frozenset({"first", "last", "method", "origin", "usage"}),
    "call.decided": frozenset({"call_id", "approve"}),
}
"""What carries content, and which fields of it carry none."""
_EMPTY: Final[Mapping[str, Mapping[str, Any]]] = {
    "context.compacted": {"stand_in": []},
    "call.decided": {"by": ""},
}
"""What must be there even when it is empty."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure or a deletion has reached."""

    conversation: str
    seqs: Sequence[int]
    """The events whose content is gone."""
    forks: Sequence[str] = ()
    """Other conversations that shared it: it is gone there too; or, where they were to keep it, that keep it."""
    blobs: int = 0
    """Bodies that went, because nothing refers to them any more."""
    derived: Sequence[str] = ()
    """What was made from it and went too, as conversation/seq: compactions, and what models said to make them."""
    remote: Sequence[str] = ()
    """Ids of what providers still hold."""
    left: Sequence[str] = ()
    """What could not be reached, in words; empty when nothing is left in the store's own files."""


async def erase(engine: Engine, name: str, seqs: Sequence[int], reason: str) -> Receipt:
    """Overwrite the content of events; see `Conversation.erase`."""
    for attempt in range(_ATTEMPTS):
        work = await _planned(engine.store, name, sorted(set(seqs)), reason)
        try:
            erased = await engine.store.erase(work.appends)
        except VersionConflict:  # somebody appended; there may be a new compaction
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        for append in work.appends:
            engine.reader.forget(append.conversation)
        forks = [append.conversation for append in work.appends[1:]]
        _log.info("turnlog.erased", conversation=name, events=len(set(seqs)), forks=len(forks), bodies=erased.bodies)
        return Receipt(
            conversation=name,
            seqs=sorted(set(seqs)),
            forks=forks,
            blobs=erased.bodies,
            derived=work.derived,
            remote=await _remote(engine.store, name),
            left=erased.left,
        )
    raise AssertionError("unreachable")


class _Work:
    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.derived: list[str] = []


async def erasing(store: Store, name: str, seqs: Sequence[int], reason: str) -> Sequence[Append]:
    """Return the appends with which a store erases the content of events; see `turnlog.engine.log.Store.erase`."""
    return (await _planned(store, name, seqs, reason)).appends


async def _planned(store: Store, name: str, seqs: Sequence[int], reason: str) -> _Work:
    """Return what is to be overwritten and appended, in the conversation and in those that share its events."""
    snapshot = await store.read(name)
    if snapshot is None or snapshot.head.deleted:
        raise NotFound(f"conversation {name}", deleted=snapshot is not None)
    records = {record.seq: record for record in await logged(store, name, seqs)}
    for seq in seqs:
        _check(name, seq, records.get(seq))
    work, done = _Work(), set(seqs)
    erasures = [_erasure(records[seq]) for seq in seqs]
    work.appends.append(await _append(store, name, seqs, erasures, reason, work))
    for other in await _sharers(store, name):
        theirs = {record.seq: record for record in await logged(store, other, seqs)}
        shared = [seq for seq in done if seq in theirs and theirs[seq].position == records[seq].position]
        if shared:
            work.appends.append(await _append(store, other, sorted(shared), [], reason, work))
    return work


def _check(name: str, seq: int, record: Record | None) -> None:
    if record is None:
        raise Invalid(f"{name}: there is no seq {seq}")
    if record.kind not in _KEPT:
        raise Invalid(f"{name}/{seq}: a {record.kind} holds no content to erase; name the seqs of items")


def _erasure(record: Record) -> Erasure:
    """Return what is left of an event: what it is, not what it says."""
    said = loads(record.data) if record.data else {}
    kept = {key: value for key, value in said.items() if key in _KEPT[record.kind]}
    kept |= dict(_EMPTY.get(record.kind, {}))
    data = encode(kept) if kept else None
    return Erasure(seq=record.seq, data=data, flags=record.flags | ERASED, sum=checksum(None, data))


async def _append(
    store: Store, name: str, seqs: Sequence[int], erasures: Sequence[Erasure], reason: str, work: _Work
) -> Append:
    """Return one conversation's part: what is overwritten there, and the events that say so."""
    snapshot = await store.read(name, Query(mark="base"))
    head, records = (snapshot.head, snapshot.records[0]) if snapshot else (None, ())
    void = [
        record
        for record in records
        if isinstance(said := body(record), ContextCompacted)
        and not record.flags & ERASED
        and record.seq not in seqs
        and any(said.first <= seq <= said.last for seq in seqs)
    ]
    void += [one for one in await derived(store, name, set(seqs), void, records) if one.seq not in seqs]
    known = set(work.derived)
    work.derived += [place for record in void if (place := f"{name}/{record.seq}") not in known]
    events = [event(ItemErased(seq=seq, reason=reason)) for seq in [*seqs, *(record.seq for record in void)]]
    return Append(
        conversation=name,
        events=events,
        expected=head.version if head else "any",
        erasures=[*erasures, *map(_erasure, void)],
    )


async def _sharers(store: Store, name: str) -> list[str]:
    """Return the conversations that may share events with one: its ancestors, and their and its forks."""
    found: dict[str, None] = {}
    place: str | None = name
    while place is not None:
        snapshot = await store.read(place)
        if snapshot is None:
            break
        if not snapshot.head.deleted:
            found[place] = None
        found |= dict.fromkeys(head.conversation for head in await store.forks(place))
        place = snapshot.head.parent[0] if snapshot.head.parent else None
    return [one for one in found if one != name]


async def _remote(store: Store, name: str) -> list[str]:
    """Return the ids of what servers keep of one: conversations that mirror it, and stored responses."""
    snapshot = await store.read(name, Query(mark="remote"))
    there: dict[str, None] = {}
    for record in snapshot.records[0] if snapshot else ():
        said = body(record)
        if isinstance(said, RemoteAttached) and said.detached:
            there.pop(said.id, None)
        elif isinstance(said, RemoteAttached | ResponseStarted) and said.id is not None:
            there[said.id] = None
    return list(there)


async def delete(engine: Engine, name: str, forks: Literal["refuse", "keep", "delete"], reason: str) -> Receipt:
    """Remove a conversation; see `Engine.delete`."""
    store = engine.store
    snapshot = await store.read(name)
    if snapshot is None:
        raise NotFound(f"conversation {name}")
    if snapshot.head.deleted:
        await _deleted(engine, name, reason, "keep")  # refuses, once nothing is left of a call that was cut off
    remote = await _remote(store, name)
    sharers = [head.conversation for head in await store.forks(name)]
    blobs, left = 0, dict[str, None]()
    for other in sharers if forks == "delete" else ():
        blobs, left = _add(await _deleted(engine, other, reason, "keep"), blobs, left)
    blobs, left = _add(await _deleted(engine, name, reason, "keep" if forks == "delete" else forks), blobs, left)
    _log.info("turnlog.deleted", conversation=name, forks=len(sharers), bodies=blobs)
    return Receipt(
        conversation=name,
        seqs=range(1, snapshot.head.version + 1),
        forks=sharers,
        blobs=blobs,
        remote=remote,
        left=list(left),
    )


async def expire(
    engine: Engine,
    age: timedelta,
    where: Mapping[str, Scalar] | None,
    forks: Literal["refuse", "keep", "delete"],
    reason: str,
) -> AsyncIterator[Receipt]:
    """Delete what has had no item for so long; see `Engine.expire`."""
    store = engine.store
    before = engine.now() - age // timedelta(microseconds=1)
    while True:
        heads = await store.heads(order="-updated", limit=_PAGE, after=(before, ""), where=where)
        for head in heads:
            before = head.updated
            # What was written to meanwhile, or is being written to, is not old.
            snapshot = await store.read(head.conversation)
            if snapshot is None or snapshot.head.updated != head.updated:
                continue
            with suppress(Conflict, NotFound):
                yield await delete(engine, head.conversation, forks, reason)
        if len(heads) < _PAGE:
            return


def _add(erased: Erased, blobs: int, left: dict[str, None]) -> tuple[int, dict[str, None]]:
    return blobs + erased.bodies, left | dict.fromkeys(erased.left)


async def _deleted(engine: Engine, name: str, reason: str, forks: Literal["refuse", "keep"]) -> Erased:
    tombstone: NewEvent = event(ConversationDeleted(reason=reason))
    erased = await engine.store.delete(name, tombstone, forks=forks)
    engine.reader.forget(name)
    return erased
