"""The reading side of an engine: live histories of recent conversations, and windows made from them.

A live history is kept up by reading what came after it, in one hop; what it cannot answer is loaded. Reading never
writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import astuple, replace

from .blobs import filled, whole
from .canonical import encode
from .codec import item_in, item_of, missing
from .compaction import named, quotable, references
from .damage import damage_named
from .errors import BudgetExceeded, NotFound, TurnlogError
from .events import ERASED, PICTURED, Blob, ContextCompacted, Record, Target
from .groups import Entry
from .history import History
from .intake import Intake
from .loading import load, look_up
from .log import Head, Query, Snapshot, Store
from .manifest import Fates, Manifest
from .paths import Reads
from .tokens import Counter, Scale
from .window.budget import Budget
from .window.choose import Deeper, Request, choose
from .window.policies import Policy
from .window.render import SEALED, Rendered, Written, render, seal
from .window.units import Weights

__all__ = ("Aim", "Reader", "logged")

_LIVE: Final = 256
"""Conversations whose history is kept in memory."""
_GROWTH: Final = 1024
"""Groups by which a live history may outgrow twice what was loaded; then its beginning is let go."""
_SENT: Final = 64
"""Conversations whose items are remembered as they were sent."""
_CHOSEN: Final = 64
"""Conversations whose last choice is remembered."""
_COUNTED: Final = 64
"""Conversations, by counter, whose items' weights are remembered."""


_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})
_UNWEIGHED: Final[tuple[bytes, Sequence[Blob], tuple[int, int | None]]] = b"", (), (0, None)


class Aim(Protocol):
    """What a reader needs to know to make a window: whom it is for, and what fits."""

    @property
    def target(self) -> Target:
        """Whom it is for."""
        ...

    @property
    def budget(self) -> Budget:
        """What fits."""
        ...

    @property
    def policy(self) -> Policy:
        """What goes first."""
        ...

    @property
    def line(self) -> str:
        """Whose cut it continues; see `turnlog.engine.window.choose.line_of`."""
        ...

    async def request(self, history: History) -> Request:
        """Return what choosing from a history needs to know."""
        ...


class _Choice(NamedTuple):
    """What was chosen last of a live history, and all that it was decided by: policies are pure."""

    history: History
    version: int
    policy: Policy
    ahead: History
    """A copy of the history as it was then."""
    request: Request
    manifest: Manifest


class Reader:
    """Reads conversations of one store."""

    def __init__(self, store: Store, intake: Intake) -> None:
        self._store = store
        self._intake = intake
        self._live: OrderedDict[str, tuple[History, int]] = OrderedDict()
        """Histories, each with the number of groups that it may grow to."""
        self._weights: OrderedDict[tuple[str, Counter], _Weighed] = OrderedDict()
        self._sent: OrderedDict[tuple[str, bool], Written | None] = OrderedDict()
        """Items as they were sent, by conversation and whether through Chat Completions; None: a first time."""
        self._choices: OrderedDict[str, _Choice] = OrderedDict()

    async def head(self, name: str) -> Head:
        """Return a conversation's head.

        Raises:
            NotFound: there is no such conversation.
        """
        snapshot = await self._store.read(name)
        if snapshot is None or snapshot.head.deleted:
            raise NotFound(f"conversation {name}", deleted=snapshot is not None)
        return snapshot.head

    async def fresh(self, name: str, *, line: str | None = None, tokens: int = 1) -> tuple[Head, History]:
        """Return a conversation's head and its history up to that head, reaching back to the line's last cut.

        Raises:
            NotFound: there is no such conversation.
            CorruptLog: an event that is needed is missing.
        """
        while (history := self._known(name)) is not None:
            known = history.version
            snapshot = await self._store.read(name, Query(after=known))
            if snapshot is None or snapshot.head.deleted:
                self.forget(name)
                raise NotFound(f"conversation {name}", deleted=snapshot is not None)
            new = _following(snapshot, known)
            # Another task may have brought the same records in meanwhile.
            history.extend([record for record in new if record.seq > history.version])
            # An older database may have been put in this one's place.
            if history.stale or snapshot.head.version < known:
                self.forget(name)
                break
            if line is not None and not await look_up(self._store, history, line):
                break
            if history.version == snapshot.head.version:
                if name in self._live:  # others may have pushed it out meanwhile
                    self._live.move_to_end(name)
                return snapshot.head, history
        head, history = await self._load(name, line=line, tokens=tokens)
        self._keep(history)
        return head, history

    async def reaching(self, history: History, line: str, tokens: int) -> History:
        """Return a conversation's history that reaches back to a line's last cut: this one, if it does."""
        if await look_up(self._store, history, line):
            return history
        _, history = await self._load(history.conversation, line=line, tokens=tokens)
        self._keep(history)
        return history

    async def _load(self, name: str, **asked: Any) -> tuple[Head, History]:
        async with damage_named(self._store, name):
            return await load(self._store, name, **asked)

    def _known(self, name: str) -> History | None:
        """Return a live history, unless it has grown far beyond what a window needs."""
        history, most = self._live.get(name, (None, 0))
        return history if history is not None and len(history.groups) <= most else None

    def _keep(self, history: History) -> None:
        self._live[history.conversation] = history, 2 * len(history.groups) + _GROWTH
        self._live.move_to_end(history.conversation)
        while len(self._live) > _LIVE:
            self._live.popitem(last=False)

    def forget(self, name: str) -> None:
        """Let go of what is known of a conversation: its path or one of its items has changed."""
        self._live.pop(name, None)
        self._choices.pop(name, None)
        for api in (False, True):
            self._sent.pop((name, api), None)
        for place in [place for place in self._weights if place[0] == name]:
            del self._weights[place]

    def follows(self, name: str) -> bool:
        """Return whether a conversation's history is kept up."""
        return name in self._live

    def appended(self, name: str, records: Sequence[Record]) -> None:
        """Take in what this process has just appended, if it follows what is known."""
        history, _ = self._live.get(name, (None, 0))
        if history is not None and records and records[0].seq == history.version + 1 and not history.stale:
            history.extend(records)

    async def at(self, name: str, version: int, line: str, tokens: int) -> History:
        """Return a conversation's history as it was at a version.

        Raises:
            NotFound: there is no such conversation.
        """
        _, history = await self._load(name, line=line, tokens=tokens, at=version)
        return history

    async def chosen(self, aim: Aim, history: History, pending: Sequence[Record] = ()) -> tuple[History, Manifest]:
        """Return the manifest of the history with *pending* at its end, and the history that it was chosen from.

        A compaction whose stand-in leaves no room for what must be sent is passed over: its events stand in. So it is
        by the windows that follow of the same line, which would have another beginning otherwise.

        Raises:
            BudgetExceeded: what must be sent does not fit.
        """
        if pending:
            ahead, _, manifest = await self._choose(aim, history, pending)
            return ahead, manifest
        known = await self._again(aim, history)
        if known is None:
            known = _Choice(history, history.version, aim.policy, *await self._choose(aim, history))
            self._remember(known)
        # Whoever gets a window may change it.
        made = known.manifest
        return known.ahead, replace(made, weights=made.weights.copy(), forgotten=made.forgotten.copy())

    async def _choose(
        self, aim: Aim, history: History, pending: Sequence[Record] = ()
    ) -> tuple[History, Request, Manifest]:
        """Choose; return what it was chosen from, what was known of the request, and the manifest."""
        tokens = aim.budget.context
        name, version = history.conversation, history.version
        passed: set[int] = set()
        refused: BudgetExceeded | None = None

        async def anew() -> tuple[Head, History]:
            return await self._load(name, line=aim.line, tokens=tokens, at=version, without=passed)

        while True:
            if history.stale:
                _, history = await anew()
            while base := _passed_over(history, aim.line):
                passed.add(base)
                _, history = await anew()
            # A copy: while items are weighed, other tasks go on appending.
            ahead = history.ahead(pending)
            try:
                with _naming_damage(ahead):
                    request = await aim.request(ahead)
                    manifest = choose(ahead, request, aim.policy)
            except BudgetExceeded as error:
                refused = error if refused is None or error.needed < refused.needed else refused
                if ahead.base is None:
                    raise refused from None
                passed.add(ahead.base[0].seq)
                _, history = await anew()
            except Deeper:
                tokens = max(tokens, history.depth * 4)
                head, history = await anew()
                known = self._known(name)
                if head.version == version and not passed and (known is None or known.floor > history.floor):
                    self._keep(history)
            else:
                return ahead, request, manifest

    async def _again(self, aim: Aim, history: History) -> _Choice | None:
        """Return what was chosen the last time, if nothing that it was decided by is another since."""
        known = self._choices.get(history.conversation)
        if known is None or known.history is not history or known.version != history.version or history.stale:
            return None
        same = known.policy is aim.policy and known.manifest.line == aim.line
        same = same and await aim.request(known.ahead) == known.request
        return known if same else None

    def _remember(self, choice: _Choice) -> None:
        """Remember a choice from a live history; what others counted is theirs to remember."""
        name = choice.history.conversation
        if choice.request.weights is None and self._known(name) is choice.history:
            self._choices[name] = choice
            self._choices.move_to_end(name)
        while len(self._choices) > _CHOSEN:
            self._choices.popitem(last=False)

    async def rendered(
        self, history: History, manifest: Manifest, target: Target, blobs: Mapping[str, bytes] = _NONE
    ) -> list[Rendered]:
        """Return the items that a manifest names; *blobs* are bodies that are not in the store yet."""
        base: list[dict[str, Any]] = []
        if history.base is not None:
            base = await self.stand_in(history.conversation, history.base[1], target)
        fates = Fates(manifest)
        sent = [entry for entry in history.large if fates.sent(entry.seq)]
        large = {
            one.seq: await filled(self._store, one.item, one.blobs, blobs, place=f"{history.conversation}/{one.seq}: ")
            for one in sent
        }
        with _naming_damage(history):
            known = self._remembered(history.conversation, target)
            return render(history.sent(manifest), history.early, base, manifest.base, manifest, target, large, known)

    def _remembered(self, name: str, target: Target) -> Written | None:
        """Return where items of a live history are remembered as they were sent, from its second window on."""
        if name not in self._live:
            return None
        place = name, target.api == "chat"
        known = {} if place in self._sent and self._sent[place] is None else self._sent.get(place)
        self._sent[place] = known
        self._sent.move_to_end(place)
        while len(self._sent) > _SENT:
            self._sent.popitem(last=False)
        return known

    async def stand_in(self, name: str, said: ContextCompacted, target: Target) -> list[dict[str, Any]]:
        """Return what is sent for compacted events."""
        return [item for _, item in await self.quoted(name, said, target)]

    async def quoted(
        self, name: str, said: ContextCompacted, target: Target
    ) -> list[tuple[int | None, dict[str, Any]]]:
        """Return the same, each item with its seq, where it is in the log."""
        records = await logged(self._store, name, references(said, target))
        items = {record.seq: quotable(item_of(await whole(self._store, record)), record, target) for record in records}
        return named(said, items, target)

    async def weights(
        self, history: History, counter: Counter, target: Target, blobs: Mapping[str, bytes] = _NONE
    ) -> Weights:
        """Return what the loaded items weigh by another counter than the log's; each item is counted once."""
        place = history.conversation, counter
        known = self._weights.setdefault(place, _Weighed())
        self._weights.move_to_end(place)
        while len(self._weights) > _COUNTED:
            self._weights.popitem(last=False)
        alike = isinstance(counter, Scale) and counter.alike
        entries = [one for one in history.entries() if not alike or one.flags & PICTURED]
        # Told before anything is waited for: others may weigh something else under the same seqs meanwhile.
        weights = {one.seq: count for one in entries if (count := known.told(one)) is not None}
        new = [one for one in entries if one.seq not in weights]
        items = [
            await filled(self._store, entry.item, entry.blobs, blobs, place=f"{history.conversation}/{entry.seq}: ")
            if entry.blobs
            else entry.item
            for entry in new
        ]
        counts = await self._intake.counts(items, counter)
        for one, counted in zip(new, counts, strict=True):
            weights[one.seq] = counted[:2]
            known.items[one.seq] = one.item, one.blobs, counted[:2]
        if alike:
            return Weights(weights)
        if known.seal is None:
            call = {"call_id": "call_" + "0" * 24}
            known.seal = (await self._intake.count(seal(call, "function_call", SEALED), 0, counter)).tokens
        base = await self._base_weight(known, history.base, target, counter) if history.base else None
        return Weights(weights, known.seal, base)

    async def _base_weight(
        self, known: _Weighed, base: tuple[Record, ContextCompacted], target: Target, counter: Counter
    ) -> int:
        """Return what stands for compacted events weighs, counted once for each target."""
        place = base[0].seq, base[0].data, astuple(target)
        if place not in known.bases:
            said = [encode(item) for item in await self.stand_in(base[0].conversation, base[1], target)]
            known.bases[place] = sum(count.tokens for count in await self._intake.counts(said, counter))
        return known.bases[place]


def _following(snapshot: Snapshot, version: int) -> Sequence[Record]:
    """Return all events behind a version.

    Raises:
        CorruptLog: one is missing.
    """
    head, (records,) = snapshot.head, snapshot.records
    if max(0, head.version - version) != len(records):
        there = zip_longest(range(version + 1, head.version + 1), [record.seq for record in records])
        raise missing(head.conversation, next(due for due, seq in there if due != seq))
    return records


def _passed_over(history: History, line: str) -> int:
    """Return the seq of the compaction that windows would start from, if the line's last one has passed it over."""
    last = history.previous(line) if history.base is not None else None
    if history.base is None or last is None:
        return 0
    seq = history.base[0].seq
    return seq if last[0] > seq and last[1].base < seq else 0


@contextmanager
def _naming_damage(history: History) -> Iterator[None]:
    """Name the item that is not what was written, where something went wrong with it: only then are all looked at."""
    try:
        yield
    except (TurnlogError, Deeper):
        raise
    except Exception:
        for entry in history.entries():
            item_in(entry.item, f"{history.conversation}/{entry.seq}")
        raise


class _Weighed:
    """What one counter has counted of one conversation."""

    def __init__(self) -> None:
        self.items: dict[int, tuple[bytes, Sequence[Blob], tuple[int, int | None]]] = {}
        """By seq: what was weighed, and its tokens, whole and as an excerpt."""
        self.seal: int | None = None
        self.bases: dict[tuple[int, bytes | None, tuple[str, ...]], int] = {}

    def told(self, entry: Entry) -> tuple[int, int | None] | None:
        """Return what an item weighs; None of one that was not weighed: another may have had its seq in vain."""
        if entry.flags & ERASED:
            return 0, None
        item, blobs, count = self.items.get(entry.seq, _UNWEIGHED)
        return count if item == entry.item and blobs == entry.blobs else None


async def logged(store: Reads, name: str, seqs: Iterable[int]) -> list[Record]:
    """Return single events by their seqs."""
    queries = [Query(after=seq - 1, before=seq + 1) for seq in seqs]
    if not queries:
        return []
    snapshot = await store.read(name, *queries)
    return [record for records in (snapshot.records if snapshot else ()) for record in records]
