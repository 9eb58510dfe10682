"""Rebuilding: one recorded request, from its manifest, the items that it names, and its settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import anyio
import msgspec

from ..blobs import whole, whole_items
from ..canonical import AROUND, canonical, digest, loads
from ..codec import RESTORE, body, damage, has_item, item_of, missing
from ..compaction import quotable, references, stand_in
from ..errors import CorruptLog, NotFound, StoreError, TurnlogError
from ..events import ASIDE, ERASED, ContextCompacted, Record, ResponseRequested
from ..groups import Group
from ..history import History
from ..items import Item
from ..log import Query
from ..manifest import Manifest, Span
from ..model import keyed
from ..paths import Shelf
from ..reader import logged
from ..window.remote import addressed, news
from ..window.render import Rendered, render
from .differing import at
from .encoders import Encoders, encoders

__all__ = ("Gathered", "Near", "Rebuilt", "gathered", "path_of", "rebuild", "steps_to")


class Near(Protocol):
    """Records of a conversation that are at hand."""

    def span(self, first: int, last: int) -> Sequence[Record] | None:
        """Return the records from seq to seq, None if not all of them are here."""
        ...


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded request, rebuilt."""

    body: Item
    digest: str
    """Of the rebuilt body; the recorded one where nothing has changed."""
    changed: Sequence[int] = ()
    """Seqs of items whose stored bytes are not what was written."""
    path: str = "$"
    """Where in the body the first of them stands."""
    reason: str = ""
    """What of it is not what was written."""
    value: Any = msgspec.UNSET
    """What stands there now."""
    rendered: Sequence[Rendered] = ()
    """The items of its window."""


async def rebuild(store: Shelf, request: Record, known: Encoders | None = None, near: Near | None = None) -> Rebuilt:
    """Return the body of a recorded request. *near* has records of the conversation that are at hand.

    Raises:
        NotFound: it held something that was erased since.
        CorruptLog: something that it is made of is missing, or was changed so that no body can be made.
        TurnlogError: its encoder is not installed.
    """
    place = f"{request.conversation}/{request.seq}"
    said = body(request)
    if not isinstance(said, ResponseRequested):
        raise TurnlogError(f"{place}: this is no request but a {request.kind}")
    if known is None:
        known = await anyio.to_thread.run_sync(encoders)  # the first time, it looks around on the disk
    encode = known.get((said.adapter, said.encoder))
    if encode is None:
        raise TurnlogError(f"no encoder {said.adapter}@{said.encoder} is installed")
    raw = await store.body(said.settings)
    if raw is None:
        raise CorruptLog(f"{place}: its settings {said.settings[:12]}… are missing; {RESTORE}")
    own = digest(raw) == said.settings
    changed: set[int] = set()
    try:
        rendered = (await gathered(store, request.conversation, said, near, changed)).rendered
        made = encode(rendered, addressed(keyed(loads(raw), said.cache_key), said.manifest))
        found = digest(canonical(made, wrapped=AROUND))
    except StoreError:
        raise
    except Exception as error:
        # What was changed may be anything by now, and so may be what goes wrong with it.
        reason = _reason(changed, own=own)
        if not reason and isinstance(error, TurnlogError):
            raise
        told = f"{type(error).__name__}: {error}"
        raise CorruptLog(f"{place}: it cannot be rebuilt: {reason or told}; {RESTORE}") from error
    steps = steps_to(rendered, changed, made, said.target.api) if changed else ()
    path = path_of(steps) if own or changed else "$ (settings)"
    return Rebuilt(
        body=made,
        digest=found,
        changed=sorted(changed),
        path=path,
        reason=_reason(changed, own=own),
        value=at(made, *steps) if steps else msgspec.UNSET,
        rendered=rendered,
    )


def _reason(changed: set[int], *, own: bool) -> str:
    """Say what of a request is not what was written; nothing where all of it is."""
    if changed:
        return f"the stored item at {', '.join(map(str, sorted(changed)))} is not what was written"
    return "" if own else "the stored settings are not what was written"


class Gathered:
    """What a request's window is made of."""

    def __init__(
        self, history: History, base: list[dict[str, Any]], said: ResponseRequested, apart: Mapping[int, bytes]
    ) -> None:
        self.history = history
        """The items that were sent, in their groups."""
        self.base = base
        """What stands for compacted events."""
        self.manifest = said.manifest
        self.target = said.target
        self.apart = apart
        """The items of which some stands out of line, put together again."""

    @property
    def rendered(self) -> list[Rendered]:
        """What of the window was sent, in order."""
        return news(self.part(self.history), self.manifest)

    def part(self, groups: Iterable[Group]) -> list[Rendered]:
        """Return the window's beginning, as if there were only some of its groups behind it."""
        history, manifest = self.history, self.manifest
        return render(groups, history.early, self.base, manifest.base, manifest, self.target, self.apart)


async def gathered(
    store: Shelf, name: str, said: ResponseRequested, near: Near | None = None, changed: set[int] | None = None
) -> Gathered:
    """Return what a request's window is made of; the seqs of items that are not what was written go to *changed*.

    What it follows at the server was sent before: all that counts of it is which calls the answer made.

    Raises:
        NotFound: something of it was erased since.
        CorruptLog: something of it is missing.
    """
    manifest = said.manifest
    records = await _sent(store, name, manifest, near)
    items = [record for record in records if has_item(record)]
    sent = [record for record in items if not manifest.follows or record.response != manifest.follows]
    _still_there(name, [*sent, *(record for record in items if record.link is not None)])
    if changed is not None:
        changed |= {record.seq for record in sent if damage(record)}
    records = [_in_the_window(record) for record in items if record.item is not None]
    base = await _stood(store, name, said, changed) if manifest.base and not manifest.follows else []
    early = [record for record in records if record.seq in manifest.early]
    history = History(name, early=early)
    history.extend([record for record in records if record.seq not in manifest.early])
    return Gathered(history, base, said, await whole_items(store, records))


async def _stood(store: Shelf, name: str, said: ResponseRequested, changed: set[int] | None) -> list[dict[str, Any]]:
    """Return what stands for the compacted events of a request."""
    stood = await logged(store, name, [said.manifest.base])
    compaction = body(stood[0])
    assert isinstance(compaction, ContextCompacted)
    parts = await logged(store, name, references(compaction, said.target))
    _still_there(name, [*stood, *parts])
    if changed is not None:
        changed |= {record.seq for record in parts if damage(record)}
    items = {record.seq: quotable(item_of(await whole(store, record)), record, said.target) for record in parts}
    return stand_in(compaction, items, said.target)


def _in_the_window(record: Record) -> Record:
    """Return a record as its request saw it: what was sent was no aside there."""
    return msgspec.structs.replace(record, flags=record.flags & ~ASIDE) if record.flags & ASIDE else record


async def _sent(store: Shelf, name: str, manifest: Manifest, near: Near | None) -> list[Record]:
    """Return the records that a manifest names, in seq order.

    Raises:
        CorruptLog: one of them is missing.
    """
    queries: list[Query] = []
    found: list[Record] = []
    wanted = 0
    for first, last in _sent_spans(manifest):
        wanted += last - first + 1
        at_hand = near.span(first, last) if near is not None else None
        if at_hand is None:
            queries.append(Query(after=first - 1, before=last + 1))
        else:
            found += at_hand
    if queries:
        snapshot = await store.read(name, *queries)
        found += [record for records in (snapshot.records if snapshot else ()) for record in records]
    if len(found) < wanted:
        there = {record.seq for record in found}
        gone = next(seq for first, last in _sent_spans(manifest) for seq in range(first, last + 1) if seq not in there)
        raise missing(name, gone)
    return sorted(found, key=_seq)


def _sent_spans(manifest: Manifest) -> Iterator[Span]:
    """Yield the spans of what a request sent, and of the answer that it follows."""
    for first, last in manifest.sent():
        if last > manifest.follows:
            yield max(first, manifest.follows + 1), last


def _still_there(name: str, records: Sequence[Record]) -> None:
    """See to it that nothing of a request was erased since.

    Raises:
        NotFound: something was.
    """
    gone = [str(record.seq) for record in records if record.flags & ERASED]
    if gone:
        raise NotFound(f"conversation {name}, the content at seq {', '.join(gone)}", deleted=True)


def _seq(record: Record) -> int:
    return record.seq


def path_of(steps: Sequence[str | int]) -> str:
    """Return a place in a value as a path."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def steps_to(rendered: Sequence[Rendered], changed: set[int], body: Item, api: str) -> Sequence[str | int]:
    """Return where the first changed item stands in the body; nothing if none of it is left."""
    index = next((at for at, one in enumerate(rendered) if one.seq in changed), None)
    if index is None:
        return ()
    if api != "chat":
        return "input", index
    written = body.get("messages")
    # Instructions come first.
    ahead = len(written) - _messages(rendered) if isinstance(written, list) else 0
    return "messages", max(ahead, 0) + _messages(rendered[: index + 1]) - 1


def _messages(rendered: Sequence[Rendered]) -> int:
    """Return how many messages items make: one for each response, and for each item of a caller's."""
    return sum(
        1
        for at, one in enumerate(rendered)
        if one.response is None or at == 0 or rendered[at - 1].response != one.response
    )
