"""The store contract: what a log guarantees, whoever keeps it.

A store keeps append-only streams of events, one a conversation, and beside each stream its head: version, metadata,
the turn's lease.

Guarantees (each is a test of `turnlog.engine.testing.contract`, which every store passes):

1. An append is atomic, and durable before it returns. Concurrent appends share one flush.
2. In a shared flush every append stands alone: a loser gets its own error and the rest commit; if the commit fails, all
   of the batch get that error. A caller who is cancelled while its append is being written waits for it first.
3. `expected` is ANY, NO_STREAM (or 0), or a version; a mismatch raises `VersionConflict`. A conversation's seqs are
   1, 2, 3, … without gaps; the database enforces it, not a lock in Python.
4. A key is looked up before `expected`: the same content returns the first append's result, after a crash too; other
   content raises `KeyReused`. Keys can be listed, and restored in another store with the events that they stand for.
5. A fence that is older than the lease's generation raises `Fenced`, whatever is expected, and writes nothing.
6. Several processes may write one store (when it declares `shared`). Order never comes from a clock.
7. A fork costs the same whatever it shares: its first events are its parent's, read through it like its own.
8. A feed gives every event of the store once, a conversation's in seq order, with no gap when transactions commit out
   of order. A named reader's place is stored by `ack`; while one reads under a name, others stand by.
9. Erasing overwrites, and deleting removes: what the store can reach of the content is gone from its files when the
   call returns, and what it cannot reach is named. Other conversations, forks too, keep what is theirs.
10. A body is stored once and goes when nothing refers to it any more.

Non-guarantees: `time` does not grow with `seq` when clocks disagree; positions of neighbouring events may lie apart;
reads are not linearised with appends of other processes that have not returned; what a backup holds is not erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from .answers import Linked, standing
from .canonical import canonical, loads
from .codec import changed
from .errors import (
    AlreadyAnswered,
    ConversationBusy,
    Fenced,
    Invalid,
    KeyReused,
    NotFound,
    VersionConflict,
)
from .events import ASIDE, NewEvent, Record
from .ids import ANY, NO_STREAM, Expected, Position, check_key

__all__ = (
    "Append",
    "Appended",
    "Break",
    "Erased",
    "Erasure",
    "Fed",
    "Fork",
    "Head",
    "Key",
    "KeyUse",
    "Lease",
    "LeaseChange",
    "Query",
    "Release",
    "Scalar",
    "Snapshot",
    "Standing",
    "Store",
    "Take",
    "Trunk",
    "brought",
    "decide",
    "is_counted",
    "limited",
    "merge_patch",
    "metadata_of",
    "ordering",
    "place",
    "record",
    "weight",
)


_NONE: Final[Mapping[str, Sequence[Linked]]] = MappingProxyType({})
_ITEM: Final = "item.appended"
_CREATED: Final = "conversation.created"


class Key(msgspec.Struct, frozen=True):
    """An idempotency key: its name, and the digest of the content that it stands for.

    Raises:
        Invalid: the name is not a text of 1 to 255 characters.
    """

    name: str
    digest: str

    def __post_init__(self) -> None:
        check_key(self.name)


class KeyUse(msgspec.Struct, frozen=True):
    """What a key was used for: the seqs of the append that brought it."""

    digest: str
    first: int
    last: int


class Take(msgspec.Struct, frozen=True, kw_only=True):
    """Take the turn's lease with this append; its generation grows by one.

    Raises `ConversationBusy` in the append when somebody holds a lease that has not run out.
    """

    owner: str
    seconds: float
    turn: int
    """The turn's seq; -n names the n-th event of this append."""


class Release(msgspec.Struct, frozen=True):
    """Give the lease up with this append."""


class Break(msgspec.Struct, frozen=True):
    """End somebody's lease with this append: its generation grows by one, so the holder's appends are fenced.

    Raises `ConversationBusy` in the append when the lease has not run out, unless forced.
    """

    force: bool = False


LeaseChange: TypeAlias = Take | Release | Break

Scalar: TypeAlias = str | int | float | bool | None
"""What metadata can be looked up by: the values of its top level that are neither objects nor arrays."""


class Lease(msgspec.Struct, frozen=True):
    """A turn's lease as the store sees it."""

    owner: str
    turn: int
    remaining: float
    """Seconds until it runs out, by the store's clock; not positive once it has."""


class Head(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a store keeps beside a stream. Times are microseconds since 1970, UTC."""

    conversation: str
    version: int
    created: int
    updated: int
    """When the last item came."""
    last_item: int
    """The seq of the last item, 0 when there is none; asides are not counted."""
    items: int
    metadata: bytes = b"{}"
    generation: int = 0
    lease: Lease | None = None
    """None: nobody holds it."""
    parent: tuple[str, int] | None = None
    """Of a fork: its parent, and the seq up to which it shares the parent's events."""
    deleted: bool = False
    """Whether only its tombstone is left."""

    @property
    def first(self) -> int:
        """The first seq that is its own: those before it are its parent's."""
        return 1 if self.parent is None else self.parent[1] + 1


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of a conversation to read, ascending unless `reverse`."""

    after: int = 0
    before: int | None = None
    limit: int | None = None
    reverse: bool = False
    mark: str | None = None
    """Only events with this mark."""
    link: str | None = None
    """Only calls and outputs with this link."""
    tokens: int | None = None
    """Stop behind the event with which the tokens read (of excerpts where there are such) reach this many: the end of a
    log that a window is made of. Such events may come without position, time and checksum."""


class Snapshot(msgspec.Struct, frozen=True):
    """The answer to one read: the head, and the events of each query. Consistent: one moment for all."""

    head: Head
    records: Sequence[Sequence[Record]]


class Appended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where events were appended."""

    first: int
    last: int
    version: int
    """The conversation's version right after; for a replayed append, right after the first time."""
    time: int = 0
    generation: int = 0
    replayed: bool = False
    """Whether nothing was written, because the key had been used with the same content."""


class Fork(msgspec.Struct, frozen=True):
    """What a conversation that is being created shares: the parent's events up to a seq."""

    parent: str
    at: int


class Trunk(msgspec.Struct, frozen=True):
    """A fork's parent as it was at the seq of the fork."""

    version: int
    """The parent's version now."""
    items: int
    last_item: int
    metadata: bytes


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of one event: its row is overwritten, and the bodies that it refers to are let go."""

    seq: int
    item: bytes | None = None
    data: bytes | None = None
    flags: int = 0
    sum: int = 0


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure or a deletion came to."""

    versions: Mapping[str, int]
    """The conversations that were appended to, with their versions right after."""
    bodies: int = 0
    """Bodies that went, because nothing refers to them any more."""
    left: Sequence[str] = ()
    """What could not be reached, in words; empty when all is gone."""


class Fed(msgspec.Struct, frozen=True):
    """An event as followers get it."""

    record: Record
    metadata: bytes
    """The conversation's metadata as of the reading."""


class Standing(msgspec.Struct, frozen=True):
    """Where a named reader of the feed stands."""

    position: Position | None
    """What it acknowledged last; None: nothing yet."""


class Store(Protocol):
    """What every store implements. All methods but `close` may be called from many tasks at once.

    A store that hears of other processes' appends may also have `wait_for_news(seconds, heard)`, as PostgreSQL's does.
    """

    durable: bool
    """Whether what was appended is there when the log is opened again, after a crash too."""
    shared: bool
    """Whether several processes may use it at once."""

    async def append(
        self,
        conversation: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected = ANY,
        key: Key | None = None,
        fence: int | None = None,
        lease: LeaseChange | None = None,
        bodies: Mapping[str, bytes] | None = None,
        fork: Fork | None = None,
        uses: Mapping[str, KeyUse] | None = None,
        answers: Sequence[str] = (),
    ) -> Appended:
        """Append events to a conversation; to a new one only if the first of them is `conversation.created`.

        *bodies* are stored once by their SHA-256 in the same transaction. An event refers to those in its `refs`, the
        conversation to the rest. With *fork* the new conversation begins behind the parent's events: its own first seq
        is `fork.at + 1`. *uses* are keys by name, as `keys` gave them elsewhere: each is used up from now on for the
        events that it stands for, which are there or are being appended. One that is here already changes nothing.
        *answers* are links of calls that have no output yet, or the append is refused: a seal is none, and a call that
        is made anew has none either (`turnlog.engine.answers`).

        Raises:
            NotFound: the conversation is not there and is not being created, or was deleted; or the fork's parent.
            VersionConflict: *expected* is not the version, or what is being created is there already.
            AlreadyAnswered: one of the calls that *answers* names has its output.
            KeyReused: *key* came with other content before, or one of *uses* is here for something else.
            Fenced: *fence* is not the generation of the lease that is held.
            ConversationBusy: *lease* wants what somebody else holds.
            Invalid: *expected* is no version, an event holds what cannot be stored, one of *uses* stands for events
                that are not there, or there are both a *key* and *uses*.
            StoreError: the store cannot write: read-only, full, locked by a stranger, closed.
        """
        ...

    async def read(self, conversation: str, *queries: Query) -> Snapshot | None:
        """Return the head and the events of each query, None when there is no such conversation."""
        ...

    async def key(self, conversation: str, name: str) -> KeyUse | None:
        """Return what a key was used for, None when it was not."""
        ...

    async def keys(self, conversation: str, *, after: str = "", limit: int = 500) -> Mapping[str, KeyUse]:
        """Return what a conversation's own keys were used for, by name, in an order that never changes.

        So many at most, behind the name *after*; empty when there are no more, or there is no such conversation.
        """
        ...

    async def body(self, digest: str) -> bytes | None:
        """Return a stored body by its SHA-256."""
        ...

    async def heads(
        self,
        *,
        order: str = "-updated",
        limit: int = 50,
        after: tuple[int, str] | None = None,
        where: Mapping[str, Scalar] | None = None,
    ) -> Sequence[Head]:
        """Return heads in *order* ("-updated", "-created", "created"), behind the (time, id) of the last one seen.

        With *where* only those whose metadata has these values, found by index. What was deleted is not listed.

        Raises:
            Invalid: *order* is none of these.
        """
        ...

    async def forks(self, conversation: str) -> Sequence[Head]:
        """Return the conversations that share events of this one's own, at any depth, by id."""
        ...

    async def erase(self, appends: Sequence[Append]) -> Erased:
        """Overwrite what the `erasures` of the appends name, and append their events, in one transaction.

        An erasure of a shared event overwrites it for all that share it. Nothing of the old content is left in the
        store's files when this returns, unless the result says so.

        Raises:
            NotFound: a conversation, or an event that is named, is not there.
            VersionConflict, StoreError: as for an append. Nothing was changed.
        """
        ...

    async def delete(self, conversation: str, tombstone: NewEvent, *, forks: Literal["refuse", "keep"]) -> Erased:
        """Remove a conversation's events but for the tombstone, its keys, and what only it refers to.

        With "keep" the events that forks share stay, readable through the forks alone, not by followers either, and go
        with the last of them.

        Raises:
            NotFound: there is no such conversation, or it was deleted before.
            ConversationBusy: a turn is running.
            Conflict: it has forks, and they are to "refuse".
        """
        ...

    async def collect(self, seconds: float = 3600.0) -> int:
        """Remove bodies that nothing has referred to for so long; return how many."""
        ...

    async def feed(self, after: Position | None, limit: int) -> Sequence[Fed]:
        """Return the store's events behind a position (None: from the first on), in the order of their positions.

        It stops before the first event that may still be followed by an earlier one.
        """
        ...

    async def end(self) -> Position | None:
        """Return the position of the last event of the feed, None when there is none."""
        ...

    async def stand(self, name: str, owner: str, seconds: float) -> Standing | None:
        """Be, or stay, the one who reads the feed under a name, for so long; None while somebody else is."""
        ...

    async def ack(self, name: str, owner: str, position: Position) -> bool:
        """Store a reader's place; return whether it is still the one who reads under that name."""
        ...

    async def resign(self, name: str, owner: str) -> None:
        """Let somebody else read under a name at once."""
        ...

    async def renew(self, conversation: str, generation: int, seconds: float) -> bool:
        """Let a held lease run for *seconds* more; return whether it was still of that generation."""
        ...

    async def close(self) -> None:
        """Finish what is being written, then close."""
        ...


def place(relative: int | None, first: int) -> int | None:
    """Return the seq that a negative number stands for in an append that begins at *first*."""
    return first - relative - 1 if relative is not None and relative < 0 else relative


def record(conversation: str, seq: int, position: Position, time: int, event: NewEvent, first: int) -> Record:
    """Return an appended event as the log will give it back."""
    return Record(
        conversation=conversation,
        seq=seq,
        position=position,
        time=time if event.time is None else event.time,
        kind=event.kind,
        schema=event.schema,
        response=place(event.response, first),
        shape=event.shape,
        link=event.link,
        tokens=event.tokens,
        excerpt=event.excerpt,
        flags=event.flags,
        item=event.item,
        data=event.data,
        sum=event.sum,
    )


class Append(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call of `Store.append`, as it waits for its turn."""

    conversation: str
    events: Sequence[NewEvent]
    expected: Expected = ANY
    key: Key | None = None
    fence: int | None = None
    lease: LeaseChange | None = None
    bodies: Mapping[str, bytes] = {}
    fork: Fork | None = None
    erasures: Sequence[Erasure] = ()
    uses: Mapping[str, KeyUse] = {}
    answers: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.uses:
            check_key(name)
        if self.uses and self.key is not None:
            raise Invalid("key= names this append, and uses= those that were made elsewhere: give one of the two")

    @property
    def names(self) -> Sequence[str]:
        """The names of the keys that it brings."""
        return [*self.uses, *([self.key.name] if self.key else [])]


def decide(
    append: Append,
    head: Head | None,
    used: Mapping[str, KeyUse],
    now: int,
    trunk: Trunk | None = None,
    linked: Mapping[str, Sequence[Linked]] = _NONE,
) -> tuple[Head | None, Appended]:
    """Return the head after an append and its result, or raise what the contract says; pure.

    *used* is what the keys that it brings were used for, those that were; *trunk* what its fork begins with; *linked*
    what the log has, in order, of the links in its `answers`. The head is None when nothing is to be written (a
    replay). What keys are to be written, `brought` tells.
    """
    name = append.conversation
    expected = _version(append.expected)
    use = used.get(append.key.name) if append.key is not None else None
    if append.key is not None and use is not None:
        if use.digest != append.key.digest:
            raise KeyReused(name, append.key.name)
        return None, Appended(first=use.first, last=use.last, version=use.last, replayed=True)
    actual = head.version if head is not None else 0
    head = _existing(append, head, trunk, now)
    if append.fence is not None and (append.fence != head.generation or head.lease is None):
        raise Fenced(name, append.fence, head.generation)
    if expected is not None and expected != actual:
        raise VersionConflict(name, expected, actual)
    for link in append.answers:
        seq = standing(link, linked.get(link, ()))
        if seq is not None:
            raise AlreadyAnswered(name, link, seq)
    if append.lease is not None:
        head = _leased(append, head, append.lease)
    first = head.version + 1
    head = _advanced(head, append.events, now)
    if append.uses:
        _check_uses(append, used, head)
    return head, Appended(
        first=first,
        last=head.version,
        version=head.version,
        time=now,
        generation=head.generation,
    )


def brought(append: Append, used: Mapping[str, KeyUse], result: Appended) -> dict[str, KeyUse]:
    """Return the keys that are to be written with an append, once it has been decided on."""
    if append.key is not None:
        return {append.key.name: KeyUse(append.key.digest, result.first, result.last)}
    return {name: use for name, use in append.uses.items() if name not in used}


def _check_uses(append: Append, used: Mapping[str, KeyUse], head: Head) -> None:
    own = head.first
    for name, use in append.uses.items():
        if not own <= use.first <= use.last + 1 <= head.version + 1:
            raise Invalid(
                f"{append.conversation}: key {name!r:.100} stands for the events from {use.first} to {use.last}; its "
                f"own are those from {own} to {head.version}"
            )
        if used.get(name, use) != use:
            raise KeyReused(append.conversation, name)


def _version(expected: Expected) -> int | None:
    """Return the version that is expected, None for any."""
    if expected == ANY:
        return None
    said: object = expected
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return said
    if said != NO_STREAM:
        raise Invalid(f"expected={expected!r:.100}: ANY, NO_STREAM or a version is needed")
    return 0


def _existing(append: Append, head: Head | None, trunk: Trunk | None, now: int) -> Head:
    """Return the head to append behind: the one that is there, or that of a conversation that begins here."""
    events = append.events
    creates = len(events) > 0 and events[0].kind == _CREATED
    if head is None:
        if not creates:
            raise NotFound(f"conversation {append.conversation}")
        head = Head(conversation=append.conversation, version=0, created=now, updated=now, last_item=0, items=0)
        if append.fork is not None:
            head = _forked(head, append.fork, trunk)
    elif creates:
        created: Literal["taken", "deleted"] = "deleted" if head.deleted else "taken"
        raise VersionConflict(append.conversation, 0, head.version, created=created)
    elif head.deleted:
        raise NotFound(f"conversation {append.conversation}", deleted=True)
    if len(events) > 1 and any(event.kind == _CREATED for event in events[1:]):
        raise Invalid(f"{append.conversation}: a {_CREATED} can only be the first event of a conversation")
    return head


def _forked(head: Head, fork: Fork, trunk: Trunk | None) -> Head:
    if trunk is None:
        raise NotFound(f"conversation {fork.parent}")
    if not 1 <= fork.at <= trunk.version:
        raise Invalid(f"{fork.parent}: at={fork.at}: a seq from 1 to its version, {trunk.version}, is needed")
    return msgspec.structs.replace(
        head,
        version=fork.at,
        items=trunk.items,
        last_item=trunk.last_item,
        parent=(fork.parent, fork.at),
    )


def _leased(append: Append, head: Head, change: LeaseChange) -> Head:
    held = head.lease
    forced = isinstance(change, Release) or (isinstance(change, Break) and change.force)
    if held is not None and held.remaining > 0 and not forced:
        raise ConversationBusy(append.conversation, held.turn, held.remaining)
    match change:
        case Take(owner=owner, seconds=seconds, turn=turn):
            lease = Lease(owner, place(turn, head.version + 1) or 0, seconds)
            return msgspec.structs.replace(head, generation=head.generation + 1, lease=lease)
        case Break():
            return msgspec.structs.replace(head, generation=head.generation + 1, lease=None)
        case Release():
            return msgspec.structs.replace(head, lease=None)


def is_counted(event: NewEvent | Record) -> bool:
    """Return whether a head counts an event among its items: what was said beside the conversation is none."""
    return event.kind == _ITEM and not event.flags & ASIDE


def _advanced(head: Head, events: Sequence[NewEvent], now: int) -> Head:
    items, last_item, updated = head.items, head.last_item, head.updated
    seq = head.version
    for event in events:
        seq += 1
        time = now if event.time is None else event.time
        if is_counted(event):
            items, last_item, updated = items + 1, seq, time
        elif event.kind == _CREATED:
            updated = time
            head = msgspec.structs.replace(head, metadata=canonical(_object(event, "metadata")), created=time)
        elif event.kind == "metadata.updated":
            patched = canonical(merge_patch(metadata_of(head), _object(event, "patch")))
            head = msgspec.structs.replace(head, metadata=patched)
        elif event.kind == "conversation.deleted":
            items = last_item = 0
            head = msgspec.structs.replace(head, deleted=True, metadata=b"{}")
    return msgspec.structs.replace(head, version=seq, items=items, last_item=last_item, updated=updated)


def metadata_of(head: Head) -> dict[str, Any]:
    """Return a conversation's metadata.

    Raises:
        CorruptLog: what is stored is no JSON object.
    """
    try:
        value = loads(head.metadata)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise changed(head.conversation, f"its metadata cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise changed(head.conversation, "its metadata cannot be read: it is no JSON object")
    return value


def _object(event: NewEvent, field: str) -> dict[str, Any]:
    """Return an object that an event carries, an empty one where it carries none."""
    try:
        said = loads(event.data or b"{}")
        value = said.get(field, {}) if isinstance(said, dict) else None
    except (msgspec.MsgspecError, ValueError) as error:
        raise Invalid(f"{event.kind}: its data is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Invalid(f"{event.kind}: its {field} is no JSON object")
    return value


def merge_patch(value: Any, patch: Any) -> Any:
    """Return *value* with a JSON merge patch applied, as RFC 7396 says.

    >>> merge_patch({"user": "ada", "tags": {"a": 1, "b": 2}}, {"user": None, "tags": {"b": 3}})
    {'tags': {'a': 1, 'b': 3}}
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), part)
    return merged


def ordering(order: str) -> tuple[Literal["updated", "created"], bool]:
    """Return the field that heads are ordered by, and whether from its greatest value down.

    Raises:
        Invalid: there is no such order.
    """
    match order:
        case "-updated":
            return "updated", True
        case "-created":
            return "created", True
        case "created":
            return "created", False
        case _:
            raise Invalid(f"order={order!r:.100}: -updated, -created or created is needed")


def weight(records: Iterable[Record]) -> int:
    """Return the tokens of records, of excerpts where there are such."""
    return sum([record.tokens if record.excerpt is None else record.excerpt for record in records])


def limited(records: Iterable[Record], tokens: int | None) -> Iterator[Record]:
    """Yield records until their tokens, of excerpts where there are such, reach *tokens*."""
    if tokens is None:
        yield from records
        return
    for entry in records:
        yield entry
        tokens -= entry.tokens if entry.excerpt is None else entry.excerpt
        if tokens <= 0:
            return
