"""Erasing and deleting: what has to go, where else it stands, and what is left of it.

An erased event keeps its place, its kind and what pairs it; its content is overwritten, here and for every fork that
shares it. Compactions that cover it are void, since they may quote it: windows start before them again. What models
were asked and said to make them goes too, and so does that of attempts that came to nothing. Metadata that an erased
event said goes from what is current as well; copies that forks have made are theirs, and are named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from .canonical import encode, loads
from .codec import ITEM, body, event
from .compaction import references
from .derived import derived
from .errors import Conflict, Invalid, NotFound, VersionConflict
from .events import (
    ERASED,
    ContextCompacted,
    ConversationCreated,
    ConversationDeleted,
    ItemErased,
    MetadataUpdated,
    NewEvent,
    Record,
    RemoteAttached,
    ResponseStarted,
    checksum,
)
from .ids import Position
from .log import Append, Erased, Erasure, Head, Query, Scalar, Store, merge_patch, metadata_of
from .logs import Log
from .reader import logged

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("Receipt", "delete", "erase", "erasing", "expire")

_log = Log("turnlog.erasing")
_ATTEMPTS: Final = 100
_PAGE: Final = 100
_PATCH: Final = "metadata.updated"
_ABOUT: Final = frozenset({"conversation.created", _PATCH})
"""What says metadata; no window and no compaction holds any of it."""
_COPIED: Final = (
    "metadata that {} copied or has too, which is their own: take it away there with update_metadata, and erase the "
    "events there that said it"
)
_SHARED: Final = (
    "events 1 to {}, which {} still has: they go with the last conversation that has them; erase there what is not to "
    "wait for that"
)
_KEPT: Final[Mapping[str, frozenset[str]]] = {
    ITEM: frozenset({"origin"}),
    "response.interrupted": frozenset({"cause", "sealed"}),
    "response.failed": frozenset({"kind", "code", "status_code", "retryable", "retries"}),
    "context.compacted": frozenset({"first", "last", "method", "origin", "usage"}),
    "call.decided": frozenset({"call_id", "approve"}),
    "conversation.created": frozenset({"parent", "at"}),
    _PATCH: frozenset(),
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
    """Other conversations that shared it: it is gone there too; or, where they were to keep it, that keep it, as `left`
    says."""
    blobs: int = 0
    """Bodies that went, because nothing refers to them any more."""
    derived: Sequence[str] = ()
    """What was made from it and went too, as conversation/seq: compactions, and what models said to make them."""
    remote: Sequence[str] = ()
    """Ids of what providers still hold."""
    left: Sequence[str] = ()
    """What is left, in words: what could not be reached, and what other conversations still have; empty when nothing
    is left in the store's own files."""


async def erase(engine: Engine, name: str, seqs: Sequence[int], reason: str) -> Receipt:
    """Overwrite the content of events; see `Conversation.erase`."""
    work = _Work(name, sorted(set(seqs)), reason)
    # No version is insisted on, so nobody can be faster for ever. What was forked or compacted between the plan and the
    # erasure is reached by the second round; whoever comes later finds nothing to share or to quote.
    for _ in range(2):
        await _carry_out(engine, work)
    forks = [other for other in work.told if other != name]
    _log.info("turnlog.erased", conversation=name, events=len(work.seqs), forks=len(forks), bodies=work.bodies)
    return Receipt(
        conversation=name,
        seqs=work.seqs,
        forks=forks,
        blobs=work.bodies,
        derived=list(work.derived.values()),
        remote=await _remote(engine.store, name),
        left=[*work.left, *await _copies(engine.store, name, work.about)],
    )


class _Work:
    """What is to be erased, and what has been."""

    def __init__(self, name: str, seqs: Sequence[int], reason: str) -> None:
        self.name = name
        self.seqs = seqs
        self.reason = reason
        self.told: dict[str, None] = {}
        """The conversations whose logs say so."""
        self.derived: dict[Position, str] = {}
        self.about: list[dict[str, Any]] = []
        """Metadata that the events said."""
        self.bodies = 0
        self.left: dict[str, None] = {}


async def _carry_out(engine: Engine, work: _Work) -> None:
    """Erase what is there to be erased, and has not been."""
    for attempt in range(_ATTEMPTS):
        async with engine.writer.quiet(work.name, needed=attempt > 0):
            plan = await _planned(engine.store, work)
            if not plan.appends:
                return
            try:
                erased = await engine.store.erase(plan.appends)
            except (NotFound, VersionConflict):  # a fork was deleted meanwhile, or metadata changed that is to go
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
        for append in plan.appends:
            engine.reader.forget(append.conversation)
            work.told[append.conversation] = None
        work.derived |= plan.derived
        work.about += plan.about
        work.bodies += erased.bodies
        work.left |= dict.fromkeys(erased.left)
        return


class _Plan:
    """What to overwrite and to append next."""

    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.derived: dict[Position, str] = {}
        self.about: list[dict[str, Any]] = []


async def erasing(store: Store, name: str, seqs: Sequence[int], reason: str) -> Sequence[Append]:
    """Return the appends with which a store erases the content of events; see `turnlog.engine.log.Store.erase`."""
    return (await _planned(store, _Work(name, seqs, reason))).appends


async def _planned(store: Store, work: _Work) -> _Plan:
    """Return what is to be overwritten and appended, in the conversation and in those that share its events."""
    name, seqs = work.name, work.seqs
    snapshot = await store.read(name)
    if snapshot is None or snapshot.head.deleted:
        raise NotFound(f"conversation {name}", deleted=snapshot is not None)
    records = {record.seq: record for record in await logged(store, name, seqs)}
    for seq in seqs:
        _check(name, seq, records.get(seq))
    plan = _Plan()
    if name not in work.told:
        plan.about = [said for seq in seqs if (said := _metadata(records[seq]))]
    await _add(store, name, list(records.values()), work, plan)
    for other in await _sharers(store, name):
        theirs = await logged(store, other, seqs)
        shared = [one for one in theirs if one.position == records[one.seq].position]
        if shared:
            await _add(store, other, shared, work, plan)
    return plan


def _check(name: str, seq: int, record: Record | None) -> None:
    if record is None:
        raise Invalid(f"{name}: there is no seq {seq}")
    if record.kind not in _KEPT:
        raise Invalid(f"{name}/{seq}: a {record.kind} holds no content to erase; name the seqs of items or of metadata")


def _erasure(record: Record) -> Erasure:
    """Return what is left of an event: what it is, not what it says."""
    said = loads(record.data) if record.data else {}
    kept = {key: value for key, value in said.items() if key in _KEPT[record.kind]}
    kept |= dict(_EMPTY.get(record.kind, {}))
    if record.kind == _PATCH:
        kept["patch"] = _taken_away(said["patch"])
    data = encode(kept) if kept else None
    # The flag says that requests which held the event cannot be rebuilt; none held metadata.
    flags = record.flags if record.kind in _ABOUT else record.flags | ERASED
    return Erasure(seq=record.seq, data=data, flags=flags, sum=checksum(None, data))


async def _add(store: Store, name: str, records: Sequence[Record], work: _Work, plan: _Plan) -> None:
    """Add one conversation's part, if there is any: what is overwritten there, and the events that say so."""
    snapshot = await store.read(name, Query(mark="base"))
    if snapshot is None or snapshot.head.deleted:
        return
    head = snapshot.head
    void = await _void(store, name, records, snapshot.records[0])
    for record in void:  # one that forks share is named once
        plan.derived.setdefault(record.position, f"{name}/{record.seq}")
    new = [] if name in work.told else records
    patches = _patches(head, new)
    events = [event(ItemErased(seq=record.seq, reason=work.reason)) for record in [*new, *void]]
    overwritten = [*(new if name == work.name else ()), *void]
    if events:
        plan.appends.append(
            Append(
                conversation=name,
                events=[*patches, *events],
                # Which metadata is to go is said by what is current, and by nothing later.
                expected=head.version if patches else "any",
                erasures=[_erasure(record) for record in overwritten],
            )
        )


async def _void(store: Store, name: str, records: Sequence[Record], bases: Sequence[Record]) -> list[Record]:
    """Return what was made of what is erased: compactions, of which *bases* are all, and what models said for them."""
    seqs = {record.seq for record in records if record.kind not in _ABOUT}
    made: list[Record] = []
    while True:
        gone = seqs.union([record.seq for record in made])
        void = [record for record in bases if _quotes(record, gone)]
        found = [one for one in await derived(store, name, seqs, void, bases) if one.seq not in seqs]
        if len(found) == len(made):
            return [*void, *found]
        made = found  # of which other compactions may consist


def _quotes(record: Record, erased: AbstractSet[int]) -> bool:
    """Return whether a compaction stands for some of what is erased, or consists of it, and is not itself."""
    said = body(record)
    if not isinstance(said, ContextCompacted) or record.flags & ERASED or record.seq in erased:
        return False
    return any(said.first <= seq <= said.last for seq in erased) or not erased.isdisjoint(references(said))


# -- metadata


def _metadata(record: Record) -> dict[str, Any]:
    """Return the metadata that an event says, an empty object where it says none."""
    said = body(record)
    if isinstance(said, MetadataUpdated):
        return said.patch
    return said.metadata if isinstance(said, ConversationCreated) else {}


def _taken_away(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a merge patch takes away: it must stay, or what it took away would come back in a copy."""
    left = {key: _taken_away(value) if isinstance(value, dict) else value for key, value in patch.items()}
    return {key: value for key, value in left.items() if value is None or (isinstance(value, dict) and value)}


def _patches(head: Head, records: Iterable[Record]) -> list[NewEvent]:
    """Return the events that take from a conversation's metadata what events of its own said that still stands there.

    What it has from a parent's is a copy, which is its own.
    """
    current: Any = metadata_of(head)
    patches: list[NewEvent] = []
    for record in records:
        patch = _alike(current, _metadata(record)) if record.seq >= head.first else {}
        if patch:
            patches.append(event(MetadataUpdated(patch=patch)))
            current = merge_patch(current, patch)
    return patches


def _alike(current: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that takes away from metadata what it has in common with other."""
    patch: dict[str, Any] = {}
    for key, value in said.items():
        there = current.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            if deeper := _alike(there, value):
                patch[key] = deeper
        elif there is not None and encode(there) == encode(value):
            patch[key] = None
    return patch


async def _about(store: Store, head: Head) -> list[dict[str, Any]]:
    """Return the metadata that a conversation has, and that it began with."""
    first = await logged(store, head.conversation, [head.first])
    return [metadata_of(head), *map(_metadata, first)]


async def _copies(store: Store, name: str, about: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return, in words, which of the conversations that may share events have some of the metadata as their own."""
    found: list[str] = []
    for other, head in (await _sharers(store, name)).items() if about else ():
        theirs = await _about(store, head)
        if any(_alike(one, said) for one in theirs for said in about):
            found.append(other)
    return [_COPIED.format(", ".join(found))] if found else []


async def _sharers(store: Store, name: str) -> dict[str, Head]:
    """Return the conversations that may share events with one: its ancestors, and their and its forks."""
    found: dict[str, Head] = {}
    place: str | None = name
    while place is not None:
        snapshot = await store.read(place)
        if snapshot is None:
            break
        if not snapshot.head.deleted:
            found[place] = snapshot.head
        found |= {head.conversation: head for head in await store.forks(place)}
        place = snapshot.head.parent[0] if snapshot.head.parent else None
    found.pop(name, None)
    return found


async def _kept(store: Store, head: Head) -> dict[str, int]:
    """Return who else has events of a conversation, and up to which seq: who shares any has all that came before."""
    sharers = await _sharers(store, head.conversation)
    heads = {**sharers, head.conversation: head}
    own = await _line(store, head, heads)
    kept: dict[str, int] = {}
    for other, their_head in sharers.items():
        theirs = await _line(store, their_head, heads)
        last = max((min(last, theirs[owner]) for owner, last in own.items() if owner in theirs), default=0)
        if last:
            kept[other] = last
    return kept


async def _line(store: Store, head: Head, heads: dict[str, Head]) -> dict[str, int]:
    """Return whose events a conversation has, its own and its ancestors', and up to which seq it has each one's."""
    line = {head.conversation: head.version}
    last = head.version
    while head.parent is not None:
        name, at = head.parent
        line[name] = last = min(last, at)
        if name not in heads:
            snapshot = await store.read(name)
            assert snapshot is not None  # of a conversation that was deleted the head stays
            heads[name] = snapshot.head
        head = heads[name]
    return line


def _in_words(kept: Mapping[str, int]) -> list[str]:
    """Return what others still have."""
    by_last: dict[int, list[str]] = {}
    for other, last in kept.items():
        by_last.setdefault(last, []).append(other)
    return [_SHARED.format(last, ", ".join(by_last[last])) for last in sorted(by_last, reverse=True)]


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
    about = await _about(store, snapshot.head)
    sharers = [head.conversation for head in await store.forks(name)]
    blobs, left = 0, dict[str, None]()
    for other in sharers if forks == "delete" else ():
        blobs, left = _sum(await _deleted(engine, other, reason, "keep"), blobs, left)
    erased = await _deleted(engine, name, reason, "keep" if forks == "delete" else forks)
    blobs, left = _sum(erased, blobs, left)
    # As it was when it went: somebody may have appended since it was read.
    kept = await _kept(store, msgspec.structs.replace(snapshot.head, version=erased.versions[name] - 1))
    _log.info("turnlog.deleted", conversation=name, forks=len(sharers), bodies=blobs)
    return Receipt(
        conversation=name,
        seqs=range(max(kept.values(), default=0) + 1, erased.versions[name]),
        forks=sharers,
        blobs=blobs,
        remote=remote,
        left=[*left, *_in_words(kept), *await _copies(store, name, [said for said in about if said])],
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


def _sum(erased: Erased, blobs: int, left: dict[str, None]) -> tuple[int, dict[str, None]]:
    return blobs + erased.bodies, left | dict.fromkeys(erased.left)


async def _deleted(engine: Engine, name: str, reason: str, forks: Literal["refuse", "keep"]) -> Erased:
    tombstone: NewEvent = event(ConversationDeleted(reason=reason))
    erased = await engine.store.delete(name, tombstone, forks=forks)
    engine.reader.forget(name)
    return erased
