"""The fold: from a conversation's events to what is alive, in the order that a model must see it. Pure.

A history holds the loaded end of the alive path: everything above its `floor`, and of what is below only what windows
still send. It grows with each appended record in time independent of its length.

Order is by group: a response's items, then the outputs of its calls, then what others appended meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal

import msgspec

from .codec import ITEM, REQUESTED, body, numbers, unreadable
from .events import (
    ASIDE,
    ERASED,
    PINNED,
    SEAL,
    CallDecided,
    CallStarted,
    ContextCompacted,
    ItemAppended,
    Origin,
    Record,
    ResponseCompleted,
    ResponseRequested,
    ResponseStarted,
    Target,
    Usage,
)
from .groups import Call, Entry, Group, Place, turn_starts
from .items import IN_ORDER, effects
from .kept import Kept
from .manifest import Manifest, Span

__all__ = (
    "ENDS",
    "NEAR",
    "Figures",
    "History",
    "OpenCall",
    "alive",
    "deep",
    "figures_of",
    "is_answer",
    "segments",
)

_NAMELESS: Final = "\0"
"""How the names of calls without a link begin, but for the first of an answer."""


class OpenCall(msgspec.Struct, frozen=True):
    """A call whose output is still owed."""

    call_id: str
    """Empty for a search for tools that came without one: outputs of such are for the last of them."""
    name: str
    arguments: str
    seq: int
    needs: Literal["output", "approval"] = "output"
    state: Literal["waiting", "approved", "running", "unknown"] = "waiting"
    """waiting for the caller; approved by a person, so that who brings its tool runs it; running in somebody's turn;
    unknown: started by a worker that is gone."""


class Figures(msgspec.Struct, frozen=True):
    """What of a request's manifest the next one goes by, with its line."""

    line: str = ""
    factor: int = 1000
    items: int = 0
    overhead: int = 0
    hidden: int = 0


class Asked(msgspec.Struct, frozen=True):
    """What the fold needs of a `response.requested`; its manifest is read only when a window continues it."""

    adapter: str
    target: Target
    purpose: str = "answer"
    key: str | None = None
    continues: bool = False
    manifest: Figures = Figures()


_asks: Final = msgspec.json.Decoder(Asked)
NEAR: Final = 256
"""Events at the end among which the last answer is looked for, where nothing else tells of it."""
_COMPLETED: Final = "response.completed"
ENDS: Final = frozenset({_COMPLETED, "response.failed", "response.interrupted"})
"""The events that end a response."""
_structural: Final = frozenset({"context.compacted", "compaction.undone", "history.rewound", "item.erased"})
_SPOKEN: Final = frozenset({"assistant", "reasoning", "compaction"})
"""What a model makes without a tool on its provider's side."""


def _asked(request: Record) -> Asked:
    try:
        return _asks.decode(request.data or b"{}")
    except msgspec.MsgspecError as error:
        raise unreadable(request, error) from error


def figures_of(request: Record) -> Figures:
    """Return what of a request's manifest the next one goes by.

    Raises:
        CorruptLog: its data cannot be read.
    """
    return _asked(request).manifest


def is_answer(request: Record) -> bool:
    """Return whether a request is part of the conversation, rather than made beside it."""
    return request.kind == REQUESTED and _asked(request).purpose == "answer"


def segments(rewinds: Iterable[tuple[int, int]], head: int) -> list[Span]:
    """Return the alive path as spans of seqs, newest first. *rewinds* are (seq, to), in any order.

    Each event follows the one before it, but a rewind continues from the path as it was at `to`.
    """
    made: list[Span] = []
    top = head
    for seq, to in sorted(rewinds, reverse=True):
        if seq > top:
            continue
        made.append((seq, top))
        top = to
    if top > 0:
        made.append((1, top))
    return made


def alive(path: Sequence[Span], seq: int) -> bool:
    """Return whether *seq* lies on a path."""
    return any(first <= seq <= last for first, last in path)


def deep(tokens: int) -> int:
    """Return how many tokens a first cut looks at: it has to see more than fits, and where a turn begins."""
    return tokens + tokens // 8


class History:
    """The loaded end of one conversation's alive path."""

    pins: set[int]
    """The places of pinned groups."""
    late: set[int]
    """The places of groups that took something in once a later one had begun, and of outputs without calls."""
    large: list[Entry]
    """Items of which something stands out of line."""
    _growing: set[int]
    """The places of groups that were made by what is being taken in, which nobody else has seen."""

    def __init__(
        self,
        conversation: str,
        *,
        floor: int = 0,
        path: Sequence[Span] = (),
        base: tuple[Record, ContextCompacted] | None = None,
        early: Iterable[Record] = (),
    ) -> None:
        self.conversation = conversation
        self.version = 0
        self.floor = floor
        """Everything alive above this seq is loaded; of what is below, what is pinned and what a window still sends."""
        self.depth = 0
        """Tokens that were asked for when it was loaded."""
        self.path = list(path)
        """The alive path as spans of seqs, newest first."""
        self.base = base
        """The compaction that windows start from."""
        self.groups: dict[int, Group] = {}
        self.order: list[int] = []
        """The places of all groups but the early ones, ascending."""
        self.calls: dict[tuple[str, str], Call] = {}
        self.effects: dict[str, int] = {}
        """The place of the latest item of each of `EFFECTS`: it is in effect."""
        self.requests: dict[int, Asked] = {}
        self.lines: dict[str, Record | None] = {}
        """The last request of each line; None: the store was asked and has none."""
        self.reaches: set[str] = set()
        """Lines of whose last window everything is here, from below the floor too."""
        self.reported: dict[int, Usage] = {}
        """What the API reported, by request; not of answers that its own tools were part of, whose usage is a sum."""
        self.started: dict[Place, int] = {}
        """How often the tools of calls were started."""
        self.decided: dict[Place, tuple[int, bool]] = {}
        """What a person has said of calls, and the seq of that."""
        self.held: set[Place] = set()
        """The calls that are not run before a person has agreed."""
        self.open: int | None = None
        """The response that has no end yet."""
        self.last_request: int | None = None
        self.compacting: int | None = None
        """The last request to compact, whatever came of it."""
        self.provider: dict[int, str] = {}
        self.background: set[int] = set()
        """The responses that go on at their server without anybody listening."""
        self.kept = Kept()
        """What servers have kept of it."""
        self.asides: list[int] = []
        self.forked = 0
        """Of a fork: the seq up to which its events are its parent's."""
        self.stale = False
        """Whether an event changed the path: the history has to be loaded anew."""
        self.pins, self.late, self.large, self._growing = set(), set(), [], set()
        for record in early:
            self._fold(record)
        self._early, self.order = self.order, []

    # -- growing

    @property
    def start(self) -> int:
        """The last seq that the base compaction stands for; 0 without one."""
        return self.base[1].last if self.base else 0

    def extend(self, records: Iterable[Record]) -> None:
        """Fold records in that follow what is here, in seq order.

        Raises:
            CorruptLog: one of them cannot be read.
        """
        self._growing.clear()
        for record in records:
            try:
                _ = record.flags | record.tokens | (record.excerpt or 0)  # fails where one of them is no number
                self._fold(record)
            except TypeError:
                numbers(record)
                raise
            self.version = record.seq
        first = self.path[0][0] if self.path else 1
        self.path[:1] = [(first, max(self.version, first))]

    @property
    def grown(self) -> int | None:
        """The lowest place that something came to, or went from, as `extend` was last called; None: there is none."""
        return min(self._growing, default=None)

    def shed(self, places: AbstractSet[int]) -> None:
        """Forget groups behind the early ones, with the calls in them, as if nothing of them had ever been here."""
        gone = {entry.seq for at in places for entry in self.groups.pop(at).entries}
        self.order = [at for at in self.order if at not in places]
        self.calls = {key: call for key, call in self.calls.items() if call.at not in places}
        self.effects = {kind: at for kind, at in self.effects.items() if at not in places}
        self.large = [entry for entry in self.large if entry.seq not in gone]
        self.pins -= places
        self.late -= places

    def learn(self, request: Record) -> None:
        """Learn whom an older request was for, whose answer is here."""
        if request.kind == REQUESTED:
            self.requests[request.seq] = _asked(request)

    def copy(self) -> History:
        """Return a history that may grow without this one noticing; it shares entries and groups."""
        twin = object.__new__(History)
        for name, value in self.__dict__.items():
            twin.__dict__[name] = value.copy() if isinstance(value, dict | list | set) else value
        return twin

    def ahead(self, records: Iterable[Record]) -> History:
        """Return a copy with *records* at its end."""
        twin = self.copy()
        twin.extend(records)
        return twin

    def _fold(self, record: Record) -> None:
        kind = record.kind
        if kind == ITEM:
            entry = self._entry(record)
            if entry is not None:
                self._place(entry)
        elif kind == REQUESTED:
            self._request(record)
        elif kind in ENDS:
            self._end(record)
        elif kind == "response.started":
            if record.response is not None:
                self._start(record, record.response)
        elif kind in ("call.started", "call.decided"):
            self._told(record)
        elif kind == "remote.attached":
            self.kept = self.kept.attached(record)
        elif kind in _structural:
            self.stale = True

    def _told(self, record: Record) -> None:
        said = body(record)
        if isinstance(said, CallStarted):
            place = record.response, said.call_id
            self.started[place] = self.started.get(place, 0) + 1
        elif isinstance(said, CallDecided):
            self.decided[record.response, said.call_id] = record.seq, said.approve

    def _start(self, record: Record, response: int) -> None:
        said = body(record)
        if isinstance(said, ResponseStarted):
            if said.id:
                self.provider[response] = said.id
            if said.background:
                self.background.add(response)

    def _request(self, record: Record) -> None:
        asked = _asked(record)
        self.requests[record.seq] = asked
        if asked.purpose == "aside":
            return
        self.open = record.seq
        if asked.purpose == "compaction":
            self.compacting = record.seq
            return
        self.last_request = record.seq
        self.kept = self.kept.requested(record, asked.target)
        if asked.manifest.line:
            self.lines[asked.manifest.line] = record

    def _end(self, record: Record) -> None:
        response = record.response
        if response is None:
            return
        if response == self.open:
            self.open = None
            self.kept = self.kept.ended(record, self.requests[response].target)
        if record.kind == _COMPLETED:
            said = body(record)
            assert isinstance(said, ResponseCompleted)
            self.held.update((response, link) for link in said.approvals)
            if said.usage is not None and not self._hosted(response):
                self.reported[response] = said.usage
        elif record.kind == "response.failed":
            group = self.groups.get(response)
            if group is not None:
                self.groups[response] = group.twin(void=True)
                self._growing.add(response)
                self.calls = {key: call for key, call in self.calls.items() if call.at != response}
        elif record.item is not None:
            entry = self._entry(record)
            if entry is not None:
                self._place(entry)

    def _hosted(self, response: int) -> bool:
        """Return whether a response had its provider's own tools run: each of their rounds counts in its usage."""
        group = self.groups.get(response)
        made = [entry.reading for entry in group.entries if not entry.reading.is_output] if group else []
        return any(not one.is_call and one.shape not in _SPOKEN for one in made)

    def _entry(self, record: Record) -> Entry | None:
        asked = None if record.response is None else self.requests.get(record.response)
        if record.flags & ASIDE or (asked is not None and asked.purpose != "answer"):
            self.asides.append(record.seq)
            return None
        if record.data is None or record.kind != ITEM:
            return Entry.of(record)
        said = body(record)
        entry = Entry.of(record, said if isinstance(said, ItemAppended) else None)
        if entry.blobs:
            self.large.append(entry)
        return entry

    def _place(self, entry: Entry) -> None:
        form = entry.reading
        if form.is_output:
            self._output(entry)
            return
        at = entry.seq if entry.response is None else entry.response
        self._add(at, entry)
        if form.is_call:
            self.calls[form.shape, self._name(entry, at)] = Call(entry, at)
        elif form.kind is not None and form.kind.positional:
            # What was erased is in effect no more: what it replaced is.
            names = () if entry.flags & ERASED else effects(entry.value(), form.kind)
            self.effects.update(dict.fromkeys(names, at))

    def _name(self, entry: Entry, at: int) -> str:
        """Return under which name a call waits for its output: its link, or how many of its answer have none."""
        shape, link = entry.reading.shape, entry.reading.link or ""
        if link != IN_ORDER:
            return link
        nameless = self._nameless(shape)
        if nameless and self.calls[nameless[0]].at == at:
            return f"{_NAMELESS}{len(nameless)}"
        for key in nameless:
            del self.calls[key]
        return link

    def _nameless(self, shape: str) -> list[tuple[str, str]]:
        """Return the keys of the calls of a kind that are answered in their order."""
        return [key for key in self.calls if key[0] == shape and (key[1] == IN_ORDER or key[1].startswith(_NAMELESS))]

    def _output(self, entry: Entry) -> None:
        form = entry.reading
        key = form.kind.answers if form.kind and form.kind.answers else "", form.link or ""
        if key[1] == IN_ORDER:
            key = next((one for one in self._nameless(key[0]) if self.calls[one].output is None), key)
        call = self.calls.get(key)
        if call is None:
            self._add(entry.seq, entry)
            return
        if call.output is None or call.output.flags & SEAL:
            self.calls[key] = Call(call.entry, call.at, entry)
        self._add(call.at, entry)

    def _add(self, at: int, entry: Entry) -> None:
        group, order = self.groups.get(at), self.order
        if group is None:
            form, flags, response = entry.reading, entry.flags, entry.response
            alone = form.maker is None and response is None and not flags & PINNED
            self.groups[at] = Group(at, response, (entry,), flags, alone, form.is_output)
            self._growing.add(at)
            if flags & PINNED:
                self.pins.add(at)
            if order and at < order[-1]:
                insort(order, at)
                self.late.add(at)
                return
            order.append(at)
            if form.is_output:
                self.late.add(at)
            return
        if at not in self._growing:
            self.groups[at] = group = group.twin()
            self._growing.add(at)
        group.take(entry)
        if entry.flags & PINNED:
            self.pins.add(at)
        if not order or at != order[-1]:
            self.late.add(at)

    # -- asking

    @property
    def early(self) -> list[Group]:
        """What is loaded of the groups that the base compaction covers; the pinned ones go in front of its stand-in."""
        return [self.groups[at] for at in self._early]

    def __iter__(self) -> Iterator[Group]:
        """Yield the loaded groups in order, behind the early ones."""
        groups = self.groups
        return (groups[at] for at in self.order)

    def since(self, place: int, spans: Sequence[Span]) -> list[Group]:
        """Return the groups in order from a place on, and before them those that are there all the same.

        That is what is pinned, or in effect, or has an item in one of some spans of seqs.
        """
        groups, first = self.groups, bisect_left(self.order, place)
        staying = sorted(at for at in self.pins.union(self.effects.values()).difference(self._early) if at < place)
        before = [groups[at] for at in staying]
        known = {entry.seq for group in before for entry in group.entries}
        if not all(seq in known for low, high in spans for seq in range(low, high + 1)):
            older = (groups[at] for at in self.order[:first])
            before = [group for group in older if self.is_pinned(group) or group.has(spans)]
        return before + [groups[at] for at in self.order[first:]]

    def sent(self, manifest: Manifest) -> list[Group]:
        """Return the groups in order of which a window may have sent something, behind the early ones."""
        return self.since(manifest.cut, [span for span in manifest.sent() if span[0] < manifest.cut])

    def last_of(self, tokens: int) -> int:
        """Return the place from which on the groups hold so many tokens, of excerpts where there are such."""
        for at in reversed(self.order):
            for entry in self.groups[at].entries:
                tokens -= entry.tokens if entry.excerpt is None else entry.excerpt
            if tokens <= 0:
                return at
        return 0

    def entries(self) -> Iterator[Entry]:
        """Yield every loaded entry."""
        for group in self.groups.values():
            yield from group.entries

    def is_pinned(self, group: Group) -> bool:
        """Return whether a group stays in every window: it is pinned, or in effect."""
        return group.pinned or group.at in self.effects.values()

    @property
    def leading(self) -> bool:
        """Whether only pinned system and developer messages are here, so that more of them may lead."""
        return all(entry.flags & PINNED and entry.reading.shape in ("system", "developer") for entry in self.entries())

    def origin(self, entry: Entry) -> Origin | None:
        """Return who made an entry's item, as far as the log knows."""
        if entry.origin is not None or entry.response is None:
            return entry.origin
        asked = self.requests.get(entry.response)
        return None if asked is None else Origin(asked.adapter, asked.target.backend, asked.target.model)

    def unanswered(self) -> list[Call]:
        """Return the calls that wait for their outputs, oldest first: those of the last request and the last answer.

        Others that have none were passed over; windows say so in their place. The last answer, which may be what a
        caller has appended, counts while it is among the latest events.
        """
        waiting = {self.last_request, self._last_answer()}
        return [
            call
            for call in self.calls.values()
            if call.output is None and call.at in waiting and call.at in self.groups and not call.entry.flags & ERASED
        ]

    def _last_answer(self) -> int | None:
        """Return the place of the last group that a model made, or a caller as if it had, if it is near the end."""
        for at in reversed(self.order):
            group = self.groups[at]
            if group.maker == "model" and not group.void:
                made = [entry.seq for entry in group.entries if not entry.reading.is_output]
                return at if max(made) > self.version - NEAR else None
        return None

    def attempts(self, call: Call) -> int:
        """Return how often a call's tool was started."""
        return self.started.get(call.place, 0)

    def is_inherited(self, call: Call) -> bool:
        """Return whether a call was made before the fork that this is: it is the parent's to run."""
        return call.entry.seq <= self.forked

    def is_approved(self, call: Call) -> bool:
        """Return whether a person has agreed to a call, in this conversation rather than in a parent of it."""
        seq, approved = self.decided.get(call.place, (0, False))
        return approved and seq > self.forked

    def needs(self, call: Call) -> Literal["output", "approval"]:
        """Return what a call without an output waits for: its output, or a person's decision first."""
        undecided = call.place in self.held and self.decided.get(call.place, (0,))[0] <= self.forked
        return "approval" if undecided or call.entry.reading.shape == "mcp_approval_request" else "output"

    def is_alive(self, seq: int) -> bool:
        """Return whether an event lies on the path."""
        return alive(self.path, seq)

    def previous(self, line: str) -> tuple[int, Manifest] | None:
        """Return the last request of a line, by its seq, and its manifest."""
        record = self.lines.get(line)
        said = body(record) if record is not None else None
        return (record.seq, said.manifest) if record is not None and isinstance(said, ResponseRequested) else None

    def cache_key(self, line: str) -> str | None:
        """Return the key of the prompt cache that the last request of a line named."""
        record = self.lines.get(line)
        said = body(record) if record is not None else None
        return said.cache_key if isinstance(said, ResponseRequested) else None

    def anchor(self, target: Target) -> Record | None:
        """Return the event up to which a target's server has kept this history, None where it has not.

        A conversation at the server is not a fork's, and knows of no rewinding.
        """
        record = self.kept.anchor(target)
        if record is None or target.state != "conversation":
            return record
        return record if record.seq > self.forked and self.path[0][0] <= record.seq else None

    def last_target(self) -> Target | None:
        """Return whom the latest request was for; before the first, who made the compaction that windows start from."""
        if self.last_request is not None:
            return self.requests[self.last_request].target
        made = self.base[1].origin if self.base else None
        if made is None:
            return None
        return Target(api="chat" if made.adapter == "chat" else "responses", backend=made.backend, model=made.model)

    def last_asked(self) -> tuple[Asked, Usage | None] | None:
        """Return the latest request, and what the API reported for it."""
        asked = self.requests.get(self.last_request) if self.last_request else None
        return None if asked is None or self.last_request is None else (asked, self.reported.get(self.last_request))

    def last_turn(self) -> int | None:
        """Return the turn at the end; None when what is loaded does not tell where it starts."""
        starts = self.turns()
        if not starts:
            return None
        between = self.order[bisect_right(self.order, self.floor) : bisect_right(self.order, starts[-1] - 1)]
        made = (self.groups[at] for at in between)
        sure = not self.floor or any(group.maker != "input" and not (group.attached or group.pinned) for group in made)
        return starts[-1] if sure else None

    def turns(self) -> list[int]:
        """Return where turns start, in order; see `turn_starts`."""
        return turn_starts(self)

    def turn_of(self, seq: int) -> int:
        """Return the seq that names the turn in which *seq* stands, 0 before the first."""
        starts = self.turns()
        index = bisect_right(starts, seq) - 1
        return starts[index] if index >= 0 else 0
