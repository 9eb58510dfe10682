"""What the SQLite store appends: blocking functions of the writer's connection, each one hop and one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..answers import Linked
from ..codec import changed
from ..errors import CorruptLog, TurnlogError
from ..ids import Position
from ..log import Append, Appended, Fork, Head, KeyUse, Standing, Trunk, brought, decide, is_counted, place
from .batching import Outcome
from .sqlite_connection import SQL, Database, check_schema, transaction
from .sqlite_errors import of_all, refusal
from .sqlite_facets import facets
from .sqlite_reading import ITEM, Known, check_place, known, lineage, owner_of
from .sqlite_rows import read_rows, write_rows

__all__ = ("Writing", "ack", "commit", "renew", "resign", "stand")

_COUNTED: Final = 64
"""After so many events it is written down how many items there are."""
_ALL: Final = -1
"""Up to the end."""
_NONE: Final = b"{}"
_REMEMBERED: Final = 4096
"""Heads that a connection remembers."""
_NOBODY: Final[Mapping[str, Known]] = MappingProxyType({})


def commit(db: Database, batch: Sequence[Append], now: int) -> list[Outcome]:
    """Write a batch: every append checked on its own, all of them in one transaction.

    Raises:
        StoreError, sqlite3.Error: the database cannot be written; nothing of the batch is in it.
    """
    try:
        return _written(db, batch, now)
    except Exception as error:
        if of_all(error):
            raise
    # It has to do with one append, such as one that holds what cannot be stored; the others are not to pay for it.
    return [_alone(db, append, now) for append in batch]


def _alone(db: Database, append: Append, now: int) -> Outcome:
    try:
        return _written(db, [append], now)[0]
    except Exception as error:  # noqa: BLE001 - some may be in the log by now, and are to be told so
        told = refusal(db.path, append.conversation, error)
        db.failed = db.failed or of_all(told)
        return told


def _written(db: Database, batch: Sequence[Append], now: int) -> list[Outcome]:
    heads = db.heads
    with transaction(db, checked=False):
        seen = db.execute("PRAGMA data_version").fetchone()[0]
        if seen != db.seen:
            check_schema(db)  # a migration by another connection has changed that, too
        if seen != db.seen or len(heads) > _REMEMBERED:
            heads = {}
        writing = Writing(db, now, heads)
        writing.look_up(batch)
        outcomes = [writing.decided(append) for append in batch]
        writing.write()
    # What is left of a lease depends on when one looks.
    for name, found in writing.heads.items():
        if found.head.lease is None:
            heads[name] = found
        else:
            heads.pop(name, None)
    db.heads, db.seen = heads, seen
    return outcomes


class Writing:
    """One transaction's decisions, gathered so that each table is written in one go."""

    def __init__(self, db: Database, now: int, heads: Mapping[str, Known] = _NOBODY) -> None:
        self._db = db
        self._now = now
        self._clock = time.time()
        self._heads = heads
        """Conversations that need not be looked up."""
        self._known: dict[str, Known] = {}
        self._before: dict[str, Head | None] = {}
        """The conversations that change, as they are in the database."""
        self._uses: dict[tuple[str, str], KeyUse] = {}
        self._linked: dict[tuple[int, str, int], list[Linked]] = {}
        """What the database has of links, by whose own it is, and up to which seq."""
        self._links: dict[tuple[int, str], list[Linked]] = {}
        """The same, of what is to be written."""
        self._events: list[tuple[Any, ...]] = []
        self._marks: list[tuple[int, str, int]] = []
        self._counts: list[tuple[int, int, int, int]] = []
        self._keys: list[tuple[Any, ...]] = []
        self._refs: list[tuple[int, int, bytes]] = []
        self._bodies: dict[str, bytes] = {}

    def known(self, name: str) -> Known | None:
        """Return a conversation as it stands in this transaction."""
        found = self._known.get(name) or self._heads.get(name) or known(self._db, name, self._clock)
        if found is not None:
            self._known[name] = found
        return found

    @property
    def heads(self) -> Mapping[str, Known]:
        """Every conversation that was asked for, as it stands in this transaction."""
        return self._known

    def replace(self, of: Known, head: Head) -> None:
        """Let a conversation have another head."""
        name = head.conversation
        self._before.setdefault(name, of.head)
        self._known[name] = Known(of.key, head, of.origin, of.about)

    def look_up(self, batch: Iterable[Append]) -> None:
        """Look up, in one statement, what there is for the calls that a batch answers."""
        wanted: set[tuple[int, str, int]] = set()
        for append in batch:
            found = self.known(append.conversation) if append.answers else None
            if found is not None:
                spans = self._reaches(found)
                wanted.update((owner, link, reach) for owner, _, _, reach in spans for link in append.answers)
        wanted -= self._linked.keys()
        if not wanted:
            return
        self._linked |= {place: [] for place in wanted}
        for owner, link, reach, seq, shape, flags in read_rows(self._db, "linked_to", sorted(wanted)):
            self._linked[owner, link, reach].append((seq, shape, flags))

    def _reaches(self, found: Known) -> list[tuple[int, int, int, int]]:
        """Return where a conversation's events are, with up to which seq to look: all of its own that there are."""
        return [
            (owner, first, last, _ALL if owner == found.key else last)
            for owner, first, last in lineage(self._db, found)
        ]

    def _answered(self, append: Append, found: Known) -> dict[str, list[Linked]]:
        """Return what there is of the links that an append answers, with what is to be written."""
        self.look_up([append])  # of what was created meanwhile nothing was known
        spans = self._reaches(found)
        return {
            link: sorted(
                one
                for owner, first, last, reach in spans
                for known in (self._linked[owner, link, reach], self._links.get((owner, link), ()))
                for one in known
                if first <= one[0] <= last
            )
            for link in append.answers
        }

    def _unreadable(self, append: Append, found: Known | None) -> CorruptLog | None:
        """Return what to tell where calls have something else than numbers; None where that is not so."""
        spans = self._reaches(found) if found else []
        for link in append.answers:
            for owner, _, _, reach in spans:
                for seq, _, flags in self._linked.get((owner, link, reach), ()):
                    values: dict[str, Any] = {"seq": seq, "flags": flags}
                    if not all(isinstance(value, int) for value in values.values()):
                        return changed(append.conversation, f"no numbers are stored of call {link}, but {values!r:.80}")
        return None

    def decided(self, append: Append) -> Outcome:
        """Decide on an append, and note what it writes."""
        name = append.conversation
        found = self.known(name)
        keyed = append.key is not None or bool(append.uses)
        used = self._used(append, found) if keyed else {}
        forks = append.fork if found is None else None
        try:
            trunk = self._trunk(forks) if forks else None
            linked = self._answered(append, found) if append.answers and found else {}
            head, result = decide(append, found.head if found else None, used, self._now, trunk, linked)
        except TurnlogError as error:
            return error
        except TypeError as error:
            return self._unreadable(append, found) or error
        if head is None:
            return result
        if found is None:
            found = self._created(head, trunk)
        self._add(append, found, result)
        for key, use in brought(append, used, result).items() if keyed else ():
            self._uses[name, key] = use
            self._keys.append((found.key, key, use.digest, use.first, use.last))
        self.replace(found, head)
        return result

    def _used(self, append: Append, found: Known | None) -> dict[str, KeyUse]:
        """Return what the keys that an append brings were used for, those that were."""
        used: dict[str, KeyUse] = {}
        for name in append.names:
            use = self._uses.get((append.conversation, name))
            if use is None and found is not None:
                row = self._db.execute(SQL["key"], {"conversation": found.key, "name": name}).fetchone()
                use = KeyUse(*row) if row else None
            if use is not None:
                used[name] = use
        return used

    def _trunk(self, fork: Fork) -> Trunk | None:
        parent = self.known(fork.parent)
        if parent is None or parent.head.deleted:
            return None
        if fork.parent in self._before:
            self.write()  # what is counted next may be among it
        owner = owner_of(self._db, parent, fork.at)
        items, last_item = (0, 0) if owner is None else self._counted(owner, fork.at)
        return Trunk(parent.head.version, items, last_item, parent.head.metadata)

    def _counted(self, owner: int, at: int) -> tuple[int, int]:
        """Return how many items there are up to one of a conversation's own events, and the seq of the last."""
        values = {"conversation": owner, "at": at}
        seq, items, last_item = self._db.execute(SQL["counted"], values).fetchone() or (0, 0, 0)
        more, last = self._db.execute(SQL["items_between"], {**values, "after": seq}).fetchone()
        return items + more, last_item if last is None else last

    def _created(self, head: Head, trunk: Trunk | None) -> Known:
        """Make the row of a new conversation; return it as it was before its first append."""
        values: dict[str, Any] = {"id": head.conversation, "parent": None, "at": None, "origin": None}
        if head.parent is not None and trunk is not None:
            parent, at = head.parent
            values |= {"parent": parent, "at": at, "origin": owner_of(self._db, self._known[parent], at)}
        key = self._db.execute(SQL["insert_head"], values).lastrowid
        assert key is not None
        items, last_item = (trunk.items, trunk.last_item) if trunk else (0, 0)
        if trunk is not None:
            self._counts.append((key, values["at"], items, last_item))
        empty = Head(conversation=head.conversation, version=0, created=0, updated=0, last_item=last_item, items=items)
        self._before[head.conversation] = None
        return Known(key, empty, values["origin"], None)

    def _add(self, append: Append, found: Known, result: Appended) -> None:
        key, first = found.key, result.first
        items, last_item = found.head.items, found.head.last_item
        for seq, event in enumerate(append.events, first):
            if is_counted(event):
                items, last_item = items + 1, seq
            if seq % _COUNTED == 0:
                self._counts.append((key, seq, items, last_item))
            self._events.append(
                (
                    key,
                    seq,
                    self._now if event.time is None else event.time,
                    None if event.kind == ITEM else event.kind,
                    event.schema,
                    place(event.response, first),
                    event.shape,
                    event.link,
                    event.tokens,
                    event.excerpt,
                    event.flags,
                    event.item,
                    event.data,
                    event.sum,
                )
            )
            if event.link is not None:
                self._links.setdefault((key, event.link), []).append((seq, event.shape, event.flags))
            if event.marks:
                self._marks.extend([(key, mark, seq) for mark in dict.fromkeys(event.marks)])
            if event.refs:
                self._refs.extend((key, seq, bytes.fromhex(digest)) for digest in event.refs)
        if append.bodies:
            self._bodies.update(append.bodies)
            rest = set(append.bodies).difference(*(event.refs for event in append.events))
            self._refs.extend((key, 0, bytes.fromhex(digest)) for digest in rest)

    def write(self) -> None:
        """Write what was decided so far."""
        rows = [(bytes.fromhex(digest), body) for digest, body in self._bodies.items()]
        for name, written in (
            ("insert_event", self._events),
            ("insert_mark", self._marks),
            ("insert_count", self._counts),
            ("insert_key", self._keys),
            ("insert_ref", self._refs),
            ("insert_body", rows),
        ):
            if written:
                write_rows(self._db, name, written)
                written.clear()
        self._bodies.clear()
        advanced: list[tuple[Any, ...]] = []
        for name, before in self._before.items():
            found = self._known[name]
            if before is None or _differs(before, found.head):
                self._db.execute(SQL["update_head"], self._row(found, before))
            else:
                head = found.head
                advanced.append((found.key, name, head.version, head.updated, head.last_item, head.items))
        if advanced:
            write_rows(self._db, "advance_heads", advanced)
        self._before.clear()

    def _row(self, found: Known, before: Head | None) -> tuple[Any, ...]:
        head = found.head
        name = head.conversation
        old = _NONE if before is None else before.metadata
        if head.metadata != _NONE or old != _NONE:
            self._find_by(before, head)
            if head.metadata != old:
                found = self._known[name] = found._replace(about=self._about(found.about, head.metadata))
        lease = head.lease
        return (
            head.version,
            head.created,
            head.updated,
            head.last_item,
            head.items,
            found.about,
            head.generation,
            lease.owner if lease else None,
            lease.turn if lease else None,
            self._clock + lease.remaining if lease else None,
            head.deleted,
            found.key,
        )

    def _find_by(self, before: Head | None, head: Head) -> None:
        """Keep up what the conversation is found by."""
        old = frozenset[int]() if before is None else facets(before.metadata)
        new, created, name = facets(head.metadata), head.created, head.conversation
        was = head.updated if before is None else before.updated
        if old - new:
            gone = [row for each in old - new for row in ((each, created, name), (each + 1, was, name))]
            self._db.executemany(SQL["delete_facet"], gone)
        if was != head.updated:
            self._db.executemany(SQL["update_facet"], [(head.updated, each + 1, was, name) for each in old & new])
        if new - old:
            come = [row for each in new - old for row in ((each, created, name), (each + 1, head.updated, name))]
            self._db.executemany(SQL["insert_facet"], come)

    def _about(self, about: int | None, metadata: bytes) -> int | None:
        """Write metadata; return its key. In the place of the old if it is not longer: no row of content grows."""
        if about is not None:
            written = self._db.execute(SQL["overwrite_metadata"], {"key": about, "json": metadata}).rowcount
            if written and metadata != _NONE:
                return about
            if not written:
                self._db.execute(SQL["overwrite_metadata"], {"key": about, "json": b""})
        return None if metadata == _NONE else self._db.execute(SQL["insert_metadata"], {"json": metadata}).lastrowid


def _differs(before: Head, head: Head) -> bool:
    """Return whether more has changed than what every item changes."""
    return (
        head.metadata != before.metadata
        or head.metadata != _NONE  # its time is what it is found by, too
        or head.lease is not before.lease
        or head.generation != before.generation
        or head.created != before.created
        or head.deleted
    )


# -- leases


def renew(db: Database, conversation: str, generation: int, seconds: float) -> bool:
    """Let a lease run for *seconds* from now, if it is held and of that generation; return whether it was."""
    values = {"id": conversation, "generation": generation, "until": time.time() + seconds}
    with transaction(db):
        return db.execute(SQL["renew"], values).rowcount == 1


def stand(db: Database, name: str, owner: str, seconds: float) -> Standing | None:
    """Read the feed under a name for *seconds* from now; None while somebody else does."""
    now = time.time()
    with transaction(db):
        found = db.execute(SQL["reader"], {"name": name}).fetchone()
        if found is not None and found[0] != owner and found[1] > now:
            return None
        db.execute(SQL["stand"], {"name": name, "owner": owner, "until": now + seconds, "now": now})
    position = found[2] if found else None
    return Standing(None if position is None else Position(str(position)))


def ack(db: Database, name: str, owner: str, position: int) -> bool:
    """Store a reader's place; return whether it is still the one who reads under that name.

    Raises:
        Invalid: the place is behind the end of the log.
    """
    with transaction(db):
        stored = db.execute(SQL["ack"], {"name": name, "owner": owner, "position": position}).rowcount == 1
        if not stored:
            check_place(db, position)
        return stored


def resign(db: Database, name: str, owner: str) -> None:
    """Let somebody else read under a name at once."""
    with transaction(db):
        db.execute(SQL["resign"], {"name": name, "owner": owner})
