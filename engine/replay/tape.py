"""A tape: recorded model calls, each to be played once, to whoever asks what was asked then."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import anyio
import msgspec

from ..blobs import whole
from ..canonical import digest, encode, parse
from ..codec import ITEM, REQUESTED, body, item_of
from ..errors import Invalid, InvalidItem, TurnlogError
from ..events import (
    ERASED,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    checksum,
)
from ..history import ENDS
from ..items import Item, Reading, reading
from ..log import Store
from ..portable import Package, dump, restore
from ..stores.memory import MemoryStore
from .differing import Change, Difference, alike, changes, differences, told
from .encoders import Encoders
from .rebuilding import rebuild
from .sent import Pieces, sent

__all__ = ("Match", "Played", "Tape", "Unmatched", "names")

Match: TypeAlias = 'Callable[[Item, Item], bool] | Literal["exact"] | None'
"""When a request is the recorded one: None, when its input items are; "exact", when all of it is; or a function that is
given both bodies, ours first."""

_SQLITE: Final = b"SQLite format 3\x00"
_GZIP: Final = b"\x1f\x8b"
_WRAPPED: Final = 1
_SHOWN: Final = 12
_STOPPED: Final = "this answer was stopped by whoever read it, and now it was read on"
_PAGE: Final = 500
_LISTS: Final = 4
"""Lists of items that are gone on from, of one conversation."""
_LEADS: Final = ("system", "developer")


class Unmatched(Exception):
    """A request that the recording does not have, with what differs from the nearest one that it has."""


class Played:
    """One recorded model call."""

    def __init__(self, conversation: str, request: Record, said: ResponseRequested) -> None:
        self.conversation = conversation
        self.request = request
        self.said = said
        self.started: Record | None = None
        self.items: list[Record] = []
        self.end: Record | None = None
        self.partial: Record | None = None
        """The interruption, if unfinished text stands in it."""
        self.played = False
        self.body: Item | None = None
        """What was sent; rebuilt only if something has to be compared with it."""
        self.frame: Mapping[str, Any] = {}
        """What was sent around the items, once that is known."""
        self.leads: Sequence[Any] = ()
        """The system and developer messages in front of the items."""

    def take(self, record: Record) -> None:
        """Take in what came of it."""
        if record.kind == "response.started":
            self.started = record
        elif record.kind == ITEM:
            self.items.append(record)
        elif record.kind in ENDS and self.end is None:
            self.end = record
            self.partial = record if record.item is not None else None

    @property
    def seq(self) -> int:
        """The seq that names the response."""
        return self.request.seq

    @property
    def outcome(self) -> ResponseCompleted | ResponseFailed | ResponseInterrupted | None:
        """How it ended; None: the log ends before it."""
        said = body(self.end) if self.end is not None else None
        return said if isinstance(said, ResponseCompleted | ResponseFailed | ResponseInterrupted) else None

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it."""
        said = self.outcome
        return isinstance(said, ResponseInterrupted) and said.cause in ("cancelled", "left")

    def __repr__(self) -> str:
        return f"<response {self.conversation}/{self.seq} of {self.said.target.model}>"


class Tape:
    """The model calls of one or more recorded conversations.

    Args:
        path: an export of `turnlog export`, packed or not, or a SQLite database of turnlog's.
        only: the conversation to play; default: all that are in the file.
        match: see `Match`.
        known: the encoders.

    Raises:
        Invalid: the file cannot be read, or holds no recorded model calls.
    """

    def __init__(self, path: str | os.PathLike[str], only: str | None, match: Match, known: Encoders) -> None:
        if match is not None and match != "exact" and not callable(match):
            raise Invalid(f"match={match!r:.100}: None, 'exact' or a function of two bodies is needed")
        self.path = Path(path)
        self.known = known
        self._match = match
        self._packages = _read(self.path, only)
        self._erased = [mark for package in self._packages.values() for mark in _stood_in(package)]
        """What stands for erased items, as texts."""
        self._store = MemoryStore()
        self._is_restored = False
        self._lock = anyio.Lock()
        self.calls: list[Played] = []
        """All of them, in the order in which they were made."""
        self.outputs: dict[str, list[Record]] = {}
        """What tools returned, by the calls' links."""
        seen: dict[tuple[str, int], Played | None] = {}
        for name in self._packages:
            if only in (None, name):
                self._take_in(name, seen)
        self.calls = [call for call in seen.values() if call is not None and call.end is not None]
        if not self.calls:
            raise Invalid(f"{self.path}: there is no recorded model call in it{f' of {only}' if only else ''}")
        self._begin = 0
        """How many of them were played before the first that was not."""
        self._learned = False
        self._known: dict[str, list[Played]] = {}
        """Them by the digests of their items, once these are learned."""
        self._digests: dict[str, list[Played]] = {}
        for call in self.calls:
            self._digests.setdefault(call.said.digest, []).append(call)
        self.changed: list[str] = []
        """What of requests differs from the recorded ones beside their items, in words."""
        self._unstopped: list[Played] = []
        self.failures: list[str] = []
        """What was asked and is not in the recording, in words."""

    def _take_in(self, name: str, seen: dict[tuple[str, int], Played | None]) -> None:
        """Take a conversation's events in; what it shares with one that came before was *seen*, and counts once."""
        calls: dict[int, Played] = {}
        given: set[str | None] = set()
        for place, record in _path(self._packages, name):
            new = place not in seen
            call = seen.setdefault(place, None)
            form = reading(record.shape or "", record.link)
            _keep_up(given, record, form, calls)
            if record.kind == REQUESTED:
                said = body(record)
                if new and isinstance(said, ResponseRequested):
                    call = seen[place] = Played(name, record, said)
                if call is not None:
                    calls[record.seq] = call
            elif new and record.kind == ITEM and form.is_output:
                if record.link not in given:
                    self.outputs.setdefault(record.link or "", []).append(record)
            elif new and record.response in calls:
                calls[record.response].take(record)

    def left(self) -> list[Played]:
        """Return what was not played yet, in order."""
        return list(self._waiting())

    def next(self, fits: Callable[[Played], bool]) -> Played:
        """Return what fits and was not played yet; behind the end, the last that fits.

        Raises:
            Invalid: nothing in the recording does.
        """
        found = next((call for call in self._waiting() if fits(call)), None)
        found = found or next((call for call in reversed(self.calls) if fits(call)), None)
        if found is None:
            there = ", ".join(sorted({f"{one.said.target.model} over {one.said.target.api}" for one in self.calls}))
            raise Invalid(f"{self.path}: nothing was recorded of that model; there is {there}")
        return found

    def _waiting(self) -> Iterator[Played]:
        """Yield what was not played yet, in order."""
        while self._begin < len(self.calls) and self.calls[self._begin].played:
            self._begin += 1
        return (call for call in islice(self.calls, self._begin, None) if not call.played)

    async def store(self) -> MemoryStore:
        """Return a store with the recorded conversations."""
        if self._is_restored:
            return self._store
        async with self._lock:
            return await self._restored()

    async def _restored(self) -> MemoryStore:
        if not self._is_restored:
            for package in self._packages.values():
                await restore(self._store, package)
            self._is_restored = True
        return self._store

    async def item(self, record: Record) -> Item:
        """Return a recorded item, whole."""
        item: Item = item_of(await whole(await self.store(), record))
        return item

    def went_on(self, call: Played) -> None:
        """Learn that nobody has stopped what was stopped when it was recorded."""
        self._unstopped.append(call)
        self.changed.append(f"{call.conversation}/{call.seq}: {_STOPPED}")

    # -- matching

    async def take(self, request: Item, fits: Callable[[Played], bool]) -> Played:
        """Return the recorded call that a request stands for, and play it no more.

        Raises:
            Unmatched: there is none.
        """
        if self._match == "exact":
            for call in self._digests.get(digest(encode(request)), ()):
                if not call.played and fits(call):
                    call.played = True
                    return call
        by_items = self._match is None and not self._erased
        if by_items and (found := await self._alike(request, fits)) is not None:
            return found
        left = [call for call in self.left() if fits(call)]
        if not by_items and (self._match != "exact" or self._erased):
            for call in left:
                if await self._is(call, request):
                    call.played = True
                    self._report(call, request)
                    return call
        told_ = await self._told(left, request)
        self.failures.append(told_)
        raise Unmatched(told_)

    async def _alike(self, request: Item, fits: Callable[[Played], bool]) -> Played | None:
        """Return the first call that was sent the same items and was not played; rather one with the same prompt."""
        if not self._learned:
            async with self._lock:
                if not self._learned:
                    await self._learn()
                    self._learned = True
        leads, items = _input(request)
        found = [call for call in self._known.get(digest(encode(items)), ()) if not call.played and fits(call)]
        if not found:
            return None
        frame = _frame(request)
        call = next((one for one in found if (one.leads, one.frame) == (leads, frame)), found[0])
        call.played = True
        self._compare(call, leads, frame)
        return call

    async def _learn(self) -> None:
        """Find out what each call was sent, going on from the ones before."""
        waiting = {(call.conversation, call.seq): call for call in self.calls}
        keys: dict[Played, str] = {}
        for name in dict.fromkeys(call.conversation for call in self.calls):
            pieces, lists = Pieces(), deque[_List](maxlen=_LISTS)
            async for record, one in sent(await self._restored(), name, self.known, pieces):
                call = waiting.get((name, record.seq))
                if call is None or one.missing:
                    continue
                call.frame = one.frame
                begin = next((at for at, place in enumerate(one.places) if not _leads(pieces.value(place))), None)
                places = [] if begin is None else one.places[begin:]
                call.leads = [pieces.value(place) for place in one.places[:begin]]
                grown = next((made for made in lists if made.begins(places)), None)
                if grown is None:
                    grown = _List()
                    lists.appendleft(grown)
                keys[call] = grown.digest(places, pieces)
        for call in self.calls:
            if call in keys:
                self._known.setdefault(keys[call], []).append(call)

    async def _is(self, call: Played, request: Item) -> bool:
        theirs = await self._body(call)
        if theirs is None:
            return False
        if callable(self._match):
            return bool(self._match(request, theirs))
        theirs = self._with(theirs, request)
        return theirs == request if self._match == "exact" else _input(request)[1] == _input(theirs)[1]

    def _wild(self, item: Any) -> bool:
        """Return whether something of a recorded item was erased since."""
        data = encode(item) if self._erased else b""
        return any(mark in data for mark in self._erased)

    def _with(self, theirs: Item, request: Item) -> Item:
        """Return what was sent with a request's own items in the places of those that were erased since."""
        field = "messages" if "messages" in theirs else "input"
        given, ours = theirs.get(field), request.get(field)
        if not self._erased or not isinstance(given, list) or not isinstance(ours, list):
            return theirs
        begin, other = len(_input(theirs)[0]), len(_input(request)[0])
        made = [
            ours[at - begin + other] if at - begin + other in range(other, len(ours)) and self._wild(one) else one
            for at, one in enumerate(given)
        ]
        return {**theirs, field: made}

    async def _body(self, call: Played) -> Item | None:
        """Return what was sent, None where the recording does not give it any more."""
        if call.body is None:
            try:
                call.body = (await rebuild(await self.store(), call.request, self.known)).body
            except TurnlogError:
                return None
        return call.body

    def _report(self, call: Played, request: Item) -> None:
        """Note what of a request is not as it was, beside its items."""
        theirs = call.body or {}
        if callable(self._match):
            return
        wild = sum(map(self._wild, _input(theirs)[1]))
        if wild:
            told = f"{call.conversation}/{call.seq}: {wild} of its items were erased since; any stood for them"
            self.changed.append(told)
        call.leads, call.frame = _input(theirs)[0], _frame(theirs)
        self._compare(call, _input(request)[0], _frame(request))

    def _compare(self, call: Played, leads: Sequence[Any], frame: Mapping[str, Any]) -> None:
        """Note what is around the items of a request and is not as it was."""
        if (call.leads, call.frame) == (leads, frame):
            return
        found = list(differences(call.leads, leads, "$.prompt"))
        found += differences(call.frame, frame)
        if found:
            self.changed.append(f"{call.conversation}/{call.seq}: {'; '.join(map(str, found[:_SHOWN]))}")

    async def _told(self, left: Sequence[Played], request: Item) -> str:
        """Say what a request is, and how it differs from the nearest that could have been meant."""
        bodies = [
            (call, self._with(theirs, request)) for call in left if (theirs := await self._body(call)) is not None
        ]
        where = f"{self.path.name}: this request is not in the recording"
        if not bodies:
            return f"{where}: all of its {len(self.calls)} responses have been played"
        call, theirs = max(bodies, key=lambda one: alike(_input(one[1])[1], _input(request)[1]))
        lines = [f"{where}; the nearest that was not played yet is response {call.conversation}/{call.seq}:"]
        lines += _lines(_input(theirs)[1], _input(request)[1])
        if len(lines) == 1:
            lines += [f"  {one}" for one in list(differences(theirs, request))[:_SHOWN]]
        lines += [f"  {one.conversation}/{one.seq}: {_STOPPED}" for one in self._unstopped]
        return "\n".join(lines if len(lines) > 1 else [*lines, "  it is equal; `match` said that it is another"])


class _List:
    """A list of items that grows at its end, and its digest."""

    def __init__(self) -> None:
        self._places: Sequence[int] = ()
        self._hash = hashlib.sha256(b"[")

    def begins(self, places: Sequence[int]) -> bool:
        """Return whether another one begins as this one."""
        return places[: len(self._places)] == self._places

    def digest(self, places: Sequence[int], pieces: Pieces) -> str:
        """Grow to another list; return its digest."""
        more = [pieces.values[place] for place in places[len(self._places) :]]
        if more:
            self._hash.update((b"," if self._places else b"") + b",".join(more))
        self._places = places
        state = self._hash.copy()
        state.update(b"]")
        return state.hexdigest()


def _frame(request: Item) -> dict[str, Any]:
    """Return a request without the list of its items."""
    return {key: value for key, value in request.items() if key not in ("input", "messages")}


def _input(request: Item) -> tuple[list[Any], list[Any]]:
    """Return a request's leading system and developer messages, and the items behind them."""
    given = request.get("messages", request.get("input"))
    items = given if isinstance(given, list) else [] if given is None else [{"role": "user", "content": given}]
    begin = next((at for at, one in enumerate(items) if not _leads(one)), len(items))
    return items[:begin], items[begin:]


def _leads(item: object) -> bool:
    return isinstance(item, Mapping) and item.get("role") in _LEADS


def _lines(old: Sequence[Any], new: Sequence[Any]) -> Iterator[str]:
    """Yield in lines how a list of items became another."""
    found = [one for one in changes(old, new) if one.kind != "same"]
    for one in found[:_SHOWN]:
        yield from _line(one, old, new)
    if len(found) > _SHOWN:
        yield f"  and {len(found) - _SHOWN} more"


def _line(one: Change, old: Sequence[Any], new: Sequence[Any]) -> Iterable[str]:
    if one.kind == "changed":
        there: Sequence[Difference] = one.differences
        return [f"  ~ item {one.new}: {'; '.join(map(str, there[:3]))}"]
    if one.new is not None:
        return [f"  + item {one.new}: {told(new[one.new])}"]
    assert one.old is not None
    return [f"  - item {one.old}: {told(old[one.old])}"]


# -- reading the file


def _read(path: Path, only: str | None) -> dict[str, Package]:
    try:
        # In one piece, unbuffered: a recording is small, and a test may well read it in its event loop.
        with path.open("rb", buffering=0) as file:
            begin = file.read(len(_SQLITE)) or b""
            data = b"" if begin == _SQLITE else begin + file.readall()
        if begin == _SQLITE:
            with ThreadPoolExecutor(1) as pool:
                lines = pool.submit(anyio.run, _dumped, path, only).result()
        else:
            lines = (gzip.decompress(data) if data.startswith(_GZIP) else data).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid(f"{path}: the recording cannot be read: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, Package] = {}
    try:
        for name, package in _packages(lines):
            # What forks of it share may have come before all of it.
            if name not in found or found[name].version < package.version:
                found[name] = package
    except InvalidItem as error:
        raise Invalid(f"{path}: this is no export of turnlog: {error}") from error
    return found


async def _dumped(path: Path, only: str | None) -> list[bytes]:
    """Return the conversations of a database as the lines of an export."""
    from ..stores.sqlite import SqliteStore  # noqa: PLC0415 - few recordings are databases

    store = await SqliteStore.open(path, migrate=False)
    try:
        wanted = [only] if only is not None else [name async for name in names(store)]
        written: dict[str, int] = {}
        return [line for name in wanted async for line, _ in dump(store, name, written)]
    finally:
        await store.close()


async def names(store: Store) -> AsyncIterator[str]:
    """Yield the conversations of a store, oldest first."""
    after: tuple[int, str] | None = None
    while heads := await store.heads(order="created", limit=_PAGE, after=after):
        for head in heads:
            yield head.conversation
        after = heads[-1].created, heads[-1].conversation


def _packages(lines: Iterable[bytes]) -> Iterator[tuple[str, Package]]:
    """Yield the conversations of an export."""
    package: Package | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value = parse(line, f"line {number}", wrapped=_WRAPPED)
        if not isinstance(value, dict):
            raise InvalidItem(f"line {number}", "an object is expected here")
        if "turnlog" in value:
            if package is not None:
                package.check()
            package = Package(value)
            yield package.id, package
        elif package is None:
            raise InvalidItem(f"line {number}", "an export begins with the header of a conversation")
        else:
            package.add(value)
    if package is not None:
        package.check()


def _keep_up(given: set[str | None], record: Record, form: Reading, calls: Container[int | None]) -> None:
    """Keep up the links of calls that a caller brought, with their outputs: for these no tool was run."""
    if form.is_call:
        (given.discard if record.response in calls else given.add)(record.link)


def _stood_in(package: Package) -> Iterator[bytes]:
    """Put a text in the place of each item that was erased; yield these texts."""
    for index, record in enumerate(package.records):
        mark = f"[erased: {package.id}/{record.seq}]"
        item = _stand_in(record, mark) if record.flags & ERASED else None
        if item is not None:
            data = encode(item)
            package.records[index] = msgspec.structs.replace(
                record, item=data, flags=record.flags & ~ERASED, sum=checksum(data, record.data)
            )
            yield mark.encode()


def _stand_in(record: Record, mark: str) -> Item | None:
    """Return an item of a record's kind that says nothing but a text; None where it can have none."""
    shape = record.shape or ""
    match shape:
        case "user" | "system" | "developer":
            return {"role": shape, "content": mark}
        case "assistant":
            part = {"type": "output_text", "text": mark, "annotations": []}
            return {"type": "message", "role": shape, "content": [part]}
        case "reasoning":
            return {"type": shape, "summary": [{"type": "summary_text", "text": mark}]}
        case "function_call":
            return {
                "type": shape,
                "call_id": record.link,
                "name": "erased",
                "arguments": encode({"erased": mark}).decode(),
            }
        case "custom_tool_call":
            return {"type": shape, "call_id": record.link, "name": "erased", "input": mark}
        case "function_call_output" | "custom_tool_call_output":
            return {"type": shape, "call_id": record.link, "output": mark}
    return None


def _path(packages: Mapping[str, Package], name: str) -> list[tuple[tuple[str, int], Record]]:
    """Return a conversation's events, those that it shares with its parents first, each with where it was written."""
    package = packages[name]
    shared: list[tuple[tuple[str, int], Record]] = []
    if package.fork is not None and package.fork.parent in packages:
        there = _path(packages, package.fork.parent)
        shared = [
            (place, msgspec.structs.replace(one, conversation=name))
            for place, one in there
            if one.seq <= package.fork.at
        ]
    return [*shared, *(((name, one.seq), one) for one in package.records)]
