"""Replay: what was sent, from the log alone.

No request body is stored. Each is rebuilt from its manifest, the items that it names and its settings, by the renderer
and the encoder of its day, and checked against the digest of what was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

import anyio
import msgspec

from .blobs import whole, whole_items
from .canonical import canonical, digest, loads
from .codec import ITEM, REQUESTED, RESTORE, body, item_of
from .compaction import references, stand_in
from .errors import CorruptLog, NotFound, StoreError, TurnlogError
from .events import ASIDE, ERASED, ContextCompacted, Record, ResponseRequested, checksum
from .history import History
from .items import Item
from .log import Query, Store
from .manifest import Manifest, Span
from .reader import logged
from .window.remote import addressed, news
from .window.render import Rendered, render

__all__ = ("Divergence", "Encoder", "Encoders", "Rebuilt", "Report", "encoders", "rebuild", "verify")


class Encoder(Protocol):
    """Writes a window's items and a request's settings as a body; pure, and of one version for ever."""

    def __call__(self, items: Sequence[Rendered], settings: Mapping[str, Any]) -> Item:
        """Return the body."""
        ...


Encoders: TypeAlias = Mapping[tuple[str, int], Encoder]
"""Encoders by adapter and version."""


@cache
def encoders() -> Encoders:
    """Return the encoders of all installed adapters: of the entry points `turnlog.encoders`."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - it takes long, and few processes replay

    found: dict[tuple[str, int], Encoder] = {}
    for point in entry_points(group="turnlog.encoders"):
        for version, encode in point.load().items():
            found[point.name, version] = encode
    return found


class Rebuilt(msgspec.Struct, frozen=True):
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


class Divergence(msgspec.Struct, frozen=True):
    """A request that is not what was sent."""

    conversation: str
    response: int
    path: str
    reason: str


class Report(msgspec.Struct):
    """What verifying found."""

    responses: int = 0
    verified: int = 0
    erased: int = 0
    diverged: list[Divergence] = []

    def add(self, other: Report) -> None:
        """Take another conversation's findings in."""
        self.responses += other.responses
        self.verified += other.verified
        self.erased += other.erased
        self.diverged += other.diverged


_PAGE: Final = 500


async def rebuild(
    store: Store,
    request: Record,
    known: Encoders | None = None,
    cached: Mapping[int, Record] | None = None,
) -> Rebuilt:
    """Return the body of a recorded request. *cached* holds records of the conversation that are at hand.

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
        rendered = await _window(store, request.conversation, said, cached or {}, changed)
        made = encode(rendered, addressed(loads(raw), said.manifest))
        found = digest(canonical(made))
    except StoreError:
        raise
    except Exception as error:
        # What was changed may be anything by now, and so may be what goes wrong with it.
        reason = _reason(changed, own=own)
        if not reason and isinstance(error, TurnlogError):
            raise
        told = f"{type(error).__name__}: {error}"
        raise CorruptLog(f"{place}: it cannot be rebuilt: {reason or told}; {RESTORE}") from error
    path = _path(rendered, changed, made, said.target.api) if changed else "$" if own else "$ (settings)"
    return Rebuilt(made, found, sorted(changed), path, _reason(changed, own=own))


def _reason(changed: set[int], *, own: bool) -> str:
    """Say what of a request is not what was written; nothing where all of it is."""
    if changed:
        return f"the stored item at {', '.join(map(str, sorted(changed)))} is not what was written"
    return "" if own else "the stored settings are not what was written"


async def _window(
    store: Store, name: str, said: ResponseRequested, cached: Mapping[int, Record], changed: set[int]
) -> list[Rendered]:
    """Return what of a window was sent; the seqs of items that are not what was written are added to *changed*.

    What a request follows at the server was sent before: all that counts of it is which calls the answer made.
    """
    manifest = said.manifest
    records = await _sent(store, name, manifest, cached)
    sent = [record for record in records if not manifest.follows or record.response != manifest.follows]
    _still_there(name, [*sent, *(record for record in records if record.link is not None)])
    changed |= {record.seq for record in sent if _is_changed(record)}
    # What was sent was no aside to its own request.
    records = [
        msgspec.structs.replace(record, flags=record.flags & ~ASIDE) for record in records if record.item is not None
    ]
    base: list[dict[str, Any]] = []
    if manifest.base and not manifest.follows:
        stood = await logged(store, name, [manifest.base])
        compaction = body(stood[0])
        assert isinstance(compaction, ContextCompacted)
        parts = await logged(store, name, references(compaction, said.target))
        _still_there(name, [*stood, *parts])
        changed |= {record.seq for record in parts if _is_changed(record)}
        items = {record.seq: item_of(await whole(store, record)) for record in parts}
        base = stand_in(compaction, items, said.target)
    early = [record for record in records if record.seq in manifest.early]
    history = History(name, early=early)
    history.extend([record for record in records if record.seq not in manifest.early])
    apart = await whole_items(store, records)
    return news(render(history, history.early, base, manifest.base, manifest, said.target, apart), manifest)


def _is_changed(record: Record) -> bool:
    return (record.item is not None or record.kind == ITEM) and checksum(record.item, record.data) != record.sum


async def _sent(store: Store, name: str, manifest: Manifest, cached: Mapping[int, Record]) -> list[Record]:
    """Return the records that a manifest names, in seq order.

    Raises:
        CorruptLog: one of them is missing.
    """
    queries = []
    found: list[Record] = []
    wanted = 0
    for first, last in _sent_spans(manifest):
        wanted += last - first + 1
        at_hand = [cached[seq] for seq in range(first, last + 1) if seq in cached]
        if len(at_hand) == last - first + 1:
            found += at_hand
        else:
            queries.append(Query(after=first - 1, before=last + 1))
    if queries:
        snapshot = await store.read(name, *queries)
        found += [record for records in (snapshot.records if snapshot else ()) for record in records]
    if len(found) < wanted:
        there = {record.seq for record in found}
        gone = next(seq for first, last in _sent_spans(manifest) for seq in range(first, last + 1) if seq not in there)
        raise CorruptLog(f"{name}/{gone}: the event is missing; {RESTORE}")
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


def _path(rendered: Sequence[Rendered], changed: set[int], body: Item, api: str) -> str:
    """Return where the first changed item stands in the body."""
    index = next((at for at, one in enumerate(rendered) if one.seq in changed), None)
    if index is None:
        return "$"  # nothing is left of it
    if api != "chat":
        return f"$.input[{index}]"
    written = body.get("messages")
    # Instructions come first.
    ahead = len(written) - _messages(rendered) if isinstance(written, list) else 0
    return f"$.messages[{max(ahead, 0) + _messages(rendered[: index + 1]) - 1}]"


def _messages(rendered: Sequence[Rendered]) -> int:
    """Return how many messages items make: one for each response, and for each item of a caller's."""
    return sum(
        1
        for at, one in enumerate(rendered)
        if one.response is None or at == 0 or rendered[at - 1].response != one.response
    )


async def verify(
    store: Store,
    name: str,
    known: Encoders | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Rebuild every request of a conversation and compare it with the digest of what was sent.

    In memory bounded by the largest window. *progress* is told the number of events as they are read.
    """
    report = Report()
    cached: dict[int, Record] = {}
    async for record in _records(store, name, progress):
        cached[record.seq] = record
        if record.kind != REQUESTED:
            continue
        report.responses += 1
        try:
            divergence = await _check(store, record, known, cached)
        except NotFound:
            report.erased += 1
            continue
        if divergence is None:
            report.verified += 1
        else:
            report.diverged.append(divergence)
        _forget(cached, record)
    return report


async def _records(store: Store, name: str, progress: Callable[[int], None] | None) -> AsyncIterator[Record]:
    after = 0
    while True:
        snapshot = await store.read(name, Query(after=after, limit=_PAGE))
        page = snapshot.records[0] if snapshot else []
        for record in page:
            yield record
        if progress is not None:
            progress(len(page))
        if len(page) < _PAGE:
            return
        after = page[-1].seq


async def _check(
    store: Store, request: Record, known: Encoders | None, cached: Mapping[int, Record]
) -> Divergence | None:
    place = request.conversation, request.seq
    if checksum(request.item, request.data) != request.sum:
        return Divergence(*place, "$", f"the stored request is not what was written; {RESTORE}")
    try:
        said = body(request)
        rebuilt = await rebuild(store, request, known, cached)
    except NotFound:
        raise
    except TurnlogError as error:
        return Divergence(*place, "$", str(error))
    assert isinstance(said, ResponseRequested)
    if rebuilt.digest == said.digest:
        return None
    compared = f"the body's digest is {rebuilt.digest}, what was sent had {said.digest}"
    return Divergence(*place, rebuilt.path, rebuilt.reason or compared)


def _forget(cached: dict[int, Record], request: Record) -> None:
    """Drop what is older than the newest window's own beginning; later windows rarely reach further back."""
    try:
        said = body(request)
    except CorruptLog:
        return  # it was reported; the next request tells
    cut = said.manifest.cut if isinstance(said, ResponseRequested) else 0
    for seq in [seq for seq in cached if seq < cut]:
        del cached[seq]
