"""Stepping: a conversation's model calls one after another, each with what was new, what went, and what it cost."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import anyio
import msgspec

from ..codec import REQUESTED, body, when
from ..errors import NotFound
from ..events import Record, ResponseRequested, Usage
from ..history import ENDS
from ..items import reading
from ..listing import Call, Listing
from ..manifest import SENT, Fate, Manifest, Verdict
from ..tokens import scaled
from .differing import Change, Difference, between, changes, differences
from .encoders import encoders
from .legible import Legible
from .sent import Pieces, Sent, sent
from .verifying import pages

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..engine import Engine

__all__ = ("BAD", "KINDS", "Diff", "Ledger", "Moved", "Step", "diff", "diffs", "find", "steps", "why")

KINDS: Final = ("instructions", "system", "user", "assistant", "reasoning", "calls", "outputs", "compacted", "other")
"""What a request's tokens are of; "instructions" are everything beside the items: instructions, tools, formats."""

BAD: Final = ("failed", "interrupted", "damaged")
"""Of steps: that there was no answer, or that it cannot be read."""
_CALLS: Final = 200
"""Model calls that are listed at once."""
_MESSAGES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Moved(msgspec.Struct, frozen=True):
    """Neighbours that the request before has sent and this one has not, or only as excerpts."""

    first: int
    last: int
    items: int
    fate: Fate
    rule: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One model call, in the row of them."""

    seq: int
    """The seq that names the response."""
    number: int
    """Its place among the conversation's responses, from 1."""
    turn: int
    turn_number: int
    """Which turn that is, from 1, as turns were begun; 0 before the first."""
    before: int | None
    """The request whose window this one goes on from, by its seq."""
    purpose: str
    status: str
    """As of a `Call`; or damaged: something of it cannot be read."""
    error: str | None
    key: str | None
    retry_of: int | None
    api: str
    model: str
    backend: str
    policy: str
    requested: datetime
    first: float | None
    """Seconds until the first item was there whole."""
    seconds: float | None
    """Seconds until its end; None: it has none."""
    context: int
    reserve: int
    tokens: int
    measured: bool
    bound: int
    shared: int
    """Tokens at the window's beginning that the request before began with too."""
    kinds: Mapping[str, int]
    """Its tokens by what they are of."""
    fates: Mapping[str, int]
    """Items by what became of them."""
    new: Sequence[int]
    """The items that came since the last request, by seq."""
    moved: Sequence[Moved]
    """What the request before has sent, and this one has not, or only as excerpts."""
    cut: str
    """The rule of the cut that was made here; empty: none was."""
    compacted: int
    """The seq of the compaction that windows start from since here; 0: none does."""
    usage: Usage | None
    manifest: Manifest

    @property
    def room(self) -> int:
        """Tokens that there was room for."""
        return self.context - self.reserve


class Ledger:
    """What the events of a conversation weigh, to be added up for any stretch of it at once."""

    def __init__(self) -> None:
        self._sums = [array("q", [0]) for _ in KINDS]
        self._lean = [array("q", [0]) for _ in KINDS]
        self._items = array("q", [0])
        self.requests: dict[int, Record] = {}
        self.first: dict[int, int] = {}
        """When the first item of each response was there."""
        self.ends: dict[int, int] = {}
        self.compactions: dict[int, int] = {}
        """Tokens of what stands for compacted events, by the compaction's seq."""

    @property
    def last(self) -> int:
        """The last seq that is known."""
        return len(self._items) - 1

    def add(self, record: Record) -> None:
        """Take an event in; seqs without an event are nothing."""
        while self.last < record.seq - 1:
            self._count(None, 0, 0)
        tokens = record.tokens if record.item is not None else 0
        kind = _kind(record) if record.item is not None else None
        self._count(kind, tokens, tokens if record.excerpt is None else record.excerpt)
        if record.kind == REQUESTED:
            self.requests[record.seq] = record
        elif record.kind in ENDS and record.response is not None:
            self.ends.setdefault(record.response, record.time)
        elif record.item is not None and record.response is not None:
            self.first.setdefault(record.response, record.time)
        elif record.kind == "context.compacted":
            self.compactions[record.seq] = record.tokens

    def _count(self, kind: str | None, tokens: int, lean: int) -> None:
        self._items.append(self._items[-1] + (kind is not None))
        for index, name in enumerate(KINDS):
            self._sums[index].append(self._sums[index][-1] + (tokens if name == kind else 0))
            self._lean[index].append(self._lean[index][-1] + (lean if name == kind else 0))

    def items(self, first: int, last: int) -> int:
        """Return how many items lie from seq to seq."""
        last = min(last, self.last)
        return self._items[last] - self._items[first - 1] if first <= last else 0

    def seqs(self, first: int, last: int) -> list[int]:
        """Return the items from seq to seq."""
        return [seq for seq in range(first, min(last, self.last) + 1) if self._items[seq] > self._items[seq - 1]]

    def kinds(self, manifest: Manifest) -> dict[str, int]:
        """Return the tokens of a request by what they are of; they add up to those of its manifest."""
        counted = dict.fromkeys(KINDS, 0)
        for run in manifest.runs:
            if run.fate in SENT:
                sums = self._lean if run.fate == "excerpted" else self._sums
                last = min(run.last, self.last)
                for index, name in enumerate(KINDS):
                    counted[name] += sums[index][last] - sums[index][run.first - 1]
        counted["instructions"] = manifest.overhead
        counted["compacted"] = self.compactions.get(manifest.base, 0)
        # What the log's counter has not counted: outputs that stand in, or a counter of the model's own.
        counted["other"] += max(0, manifest.items + manifest.overhead - sum(counted.values()))
        made = {name: scaled(tokens, manifest.factor) for name, tokens in counted.items()}
        largest = max(made, key=lambda name: made[name])
        made[largest] += manifest.tokens - sum(made.values())
        return {name: tokens for name, tokens in made.items() if tokens}

    def fates(self, manifest: Manifest) -> dict[str, int]:
        """Return the items by what became of them in a request."""
        made: dict[str, int] = {}
        for run in manifest.runs:
            items = self.items(run.first, run.last)
            if items:
                made[run.fate] = made.get(run.fate, 0) + items
        return made

    def moved(self, old: Manifest, new: Manifest) -> list[Moved]:
        """Return what one window sent and the next did not, or only as excerpts."""
        edges = sorted({run.first for run in (*old.runs, *new.runs)} | {min(old.as_of, new.as_of) + 1})
        made: list[Moved] = []
        for first, after in pairwise(edges):
            was, run = old.fate(first), new.run(first)
            if was not in SENT or run is None or (run.fate in SENT and (run.fate == was or run.fate != "excerpted")):
                continue
            items, rule = self.items(first, after - 1), new.rule(run)
            if made and (made[-1].last, made[-1].fate, made[-1].rule) == (first - 1, run.fate, rule):
                last = made.pop()
                made.append(Moved(last.first, after - 1, last.items + items, run.fate, rule))
            elif items:
                made.append(Moved(first, after - 1, items, run.fate, rule))
        return made


def _kind(record: Record) -> str:
    form = reading(record.shape or "unknown", record.link)
    if form.shape in _MESSAGES:
        return _MESSAGES[form.shape]
    if form.shape in ("reasoning", "compaction"):
        return "reasoning" if form.shape == "reasoning" else "compacted"
    if form.maker is None or form.maker == "input":
        return "other"
    return "outputs" if form.maker == "output" else "calls"


async def steps(engine: Engine, name: str) -> list[Step]:
    """Return every model call of a conversation, those that a rewind has left too, in the order of the log.

    One of which something cannot be read has the status "damaged", and its error says what that is.

    Raises:
        NotFound: there is no such conversation.
        CorruptLog: an event that belongs to no model call, and decides how the others are read, cannot be read.
    """
    await engine.get(name)
    ledger, store = Ledger(), Legible(engine.store)
    listing = Listing(engine, name, store)
    calls = [call async for call in listing.responses(None, _CALLS, "asc")]
    async for page in pages(store, name):
        for record in page:
            ledger.add(record)
    turns = {turn.seq: turn.number async for turn in listing.turns(None, _CALLS, "asc", abandoned=True)}
    made: list[Step] = []
    lines: dict[tuple[Any, ...], Call] = {}
    last = 0
    for call in calls:
        request = ledger.requests[call.seq]
        said = body(request)
        assert isinstance(said, ResponseRequested)
        line = said.adapter, said.target, said.manifest.line
        step = _step(len(made) + 1, call, request, said, lines.get(line), last, ledger, turns.get(call.turn, 0))
        damaged = store.damaged.get(call.seq)
        made.append(step if damaged is None else msgspec.structs.replace(step, status="damaged", error=damaged))
        if said.manifest.as_of:
            lines[line], last = call, call.manifest.as_of
    return made


def _step(
    number: int,
    call: Call,
    record: Record,
    said: ResponseRequested,
    before: Call | None,
    last: int,
    ledger: Ledger,
    turn_number: int,
) -> Step:
    manifest = call.manifest
    old = before.manifest if before is not None else None
    first, end = ledger.first.get(call.seq), ledger.ends.get(call.seq)
    made = old is not None and manifest.cut != old.cut
    return Step(
        seq=call.seq,
        number=number,
        turn=call.turn,
        turn_number=turn_number,
        before=before.seq if before is not None else None,
        purpose=call.purpose,
        status=call.status,
        error=call.error,
        key=said.key,
        retry_of=said.retry_of,
        api=said.target.api,
        model=call.model,
        backend=call.backend,
        policy=manifest.policy,
        requested=when(record),
        first=None if first is None else (first - record.time) / 1e6,
        seconds=None if end is None else (end - record.time) / 1e6,
        context=manifest.context,
        reserve=manifest.reserve,
        tokens=manifest.tokens,
        measured=manifest.measured,
        bound=manifest.bound,
        shared=manifest.shared,
        kinds=ledger.kinds(manifest),
        fates=ledger.fates(manifest),
        new=[seq for seq in ledger.seqs(last + 1, manifest.as_of) if manifest.fate(seq) in SENT],
        moved=ledger.moved(old, manifest) if old is not None else (),
        cut=manifest.rules[manifest.cut_by] if manifest.cut and (made or old is None) else "",
        compacted=manifest.base if old is None or manifest.base != old.base else 0,
        usage=call.usage,
        manifest=manifest,
    )


Goal = Literal["error", "compaction", "cut"]


def find(
    found: Sequence[Step], start: int, *, goal: Goal | None = None, turn: int | None = None, back: bool = False
) -> int:
    """Return the index of the next step behind *start* that is a goal, or that begins a turn by its number.

    Raises:
        NotFound: there is none.
    """
    order = range(start - 1, -1, -1) if back else range(start + 1, len(found))
    if turn is not None:
        order = range(len(found))
    for index in order:
        step = found[index]
        if turn is not None and step.turn_number == turn:
            return index
        if turn is None and _is(step, goal):
            return index
    what = f"turn {turn} with a model call" if turn is not None else goal or "step"
    raise NotFound(f"{what} {'before' if back else 'behind'} this one" if turn is None else what)


def _is(step: Step, goal: Goal | None) -> bool:
    match goal:
        case "error":
            return step.status in BAD
        case "compaction":
            return bool(step.compacted) or step.purpose == "compaction"
        case "cut":
            return bool(step.cut)
        case None:
            return True


class Diff(msgspec.Struct, frozen=True):
    """How a request differs from another."""

    changes: Sequence[Change]
    """Of its items, or messages."""
    frame: Sequence[Difference]
    """Of the rest of its body."""
    old: Sequence[Any]
    new: Sequence[Any]
    """The items themselves."""


async def diff(conversation: Conversation, old: int | None, new: int) -> Diff:
    """Return how the request that *new* names differs from another, as they were sent.

    Raises:
        NotFound, CorruptLog: one of them cannot be rebuilt.
    """
    later = await (await conversation.response(new)).request()
    earlier: Mapping[str, Any] = {} if old is None else await (await conversation.response(old)).request()
    before, after = _items(earlier), _items(later)
    left_out = ("input", "messages")
    was, is_ = ({key: value for key, value in one.items() if key not in left_out} for one in (earlier, later))
    frame = [] if old is None else list(differences(was, is_))
    return Diff(changes(before, after), frame, before, after)


async def diffs(engine: Engine, name: str, found: Sequence[Step]) -> AsyncIterator[tuple[Step, Diff | str]]:
    """Yield steps, in log order, with how each request differs from the one before, or why that is unknown."""
    known = await anyio.to_thread.run_sync(encoders)
    pieces = Pieces()
    wanted = {one.seq: one for one in found}
    needed = {one.before for one in found}
    last: dict[int | None, Sent] = {None: Sent()}
    async for record, now in sent(engine.store, name, known, pieces):
        step = wanted.get(record.seq)
        if record.seq in needed:
            last[record.seq] = now
        if step is None:
            continue
        old = last[None] if step.before is None else last.pop(step.before, Sent(missing="its request is not known"))
        yield step, old.missing or now.missing or _diff(old, now, pieces, first=step.before is None)


class _Values(Sequence[Any]):
    """A request's items, each read where it is looked at."""

    def __init__(self, pieces: Pieces, places: Sequence[int]) -> None:
        self._pieces = pieces
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._pieces.value(one) for one in self._places[index]]
        return self._pieces.value(self._places[index])


def _diff(old: Sent, new: Sent, pieces: Pieces, *, first: bool) -> Diff:
    before, after = _Values(pieces, old.places), _Values(pieces, new.places)
    frame = [] if first else list(differences(old.frame, new.frame))
    return Diff(between(before, after, old.places, new.places), frame, before, after)


def _items(request: Mapping[str, Any]) -> list[Any]:
    given = request.get("messages", request.get("input", []))
    return given if isinstance(given, list) else [given]


async def why(engine: Engine, name: str, seq: int, response: int) -> Verdict:
    """Return what became of an event in a request, with the tokens that it took there.

    Raises:
        NotFound: there is no such event, or no such response.
    """
    return await (await (await engine.get(name)).response(response)).why(seq)
