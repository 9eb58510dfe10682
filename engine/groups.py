"""Groups: the items of a conversation's path, and which of them stand or fall together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from .canonical import loads
from .events import PINNED, Blob, ItemAppended, Origin, Record
from .items import Reading, reading
from .manifest import Span

__all__ = ("Call", "Entry", "Group", "Place", "turn_starts")

Place: TypeAlias = tuple[int | None, str]


class Entry(msgspec.Struct, eq=False, gc=False):
    """One item of the path, as its row describes it."""

    seq: int
    reading: Reading
    response: int | None
    tokens: int
    excerpt: int | None
    flags: int
    item: bytes
    origin: Origin | None = None
    extra: Any = None
    beside: int = 0
    blobs: Sequence[Blob] = ()
    """What of the item stands out of line."""

    @classmethod
    def of(cls, record: Record, said: ItemAppended | None = None) -> Entry:
        """Return the entry of a record, with what its event says beside the item."""
        form = reading(record.shape or "unknown", record.link)
        item = record.item or b"null"
        if said is None:  # as of most
            return cls(record.seq, form, record.response, record.tokens, record.excerpt, record.flags, item)
        beside = said.origin, said.extra, said.beside, said.blobs
        return cls(record.seq, form, record.response, record.tokens, record.excerpt, record.flags, item, *beside)

    def value(self) -> Any:
        """Return the item as a new JSON value."""
        return loads(self.item)

    def __repr__(self) -> str:
        return f"<Entry {self.seq} {self.reading.shape} {self.tokens} tokens>"


class Call(msgspec.Struct, eq=False, gc=False):
    """A call and what came of it."""

    entry: Entry
    at: int
    output: Entry | None = None

    @property
    def place(self) -> Place:
        """What names it: the response that it is part of, and its link; links alone may come back."""
        return self.at, self.entry.reading.link or ""


class Group(msgspec.Struct, eq=False, gc=False):
    """What stands or falls together: one response's items and the outputs of its calls, or one item of the caller's.

    It grows only while the history that made it takes events in; after that it is never changed, but replaced: copies
    of a history share their groups.
    """

    at: int
    """The group's place: the seq of its response, or of its item."""
    response: int | None
    entries: tuple[Entry, ...]
    """The response's items in the order in which they came, then the outputs of its calls."""
    flags: int
    """Those of all its entries."""
    attached: bool = False
    """Whether it belongs to the group before it: an item of a kind that the table does not know."""
    stray: bool = False
    """Whether it is an output whose call is not here: there is none, or it was dropped long ago."""
    void: bool = False
    """Whether its response failed: nothing of it is sent again."""
    fit: Any = None
    """How a target takes it, as `turnlog.engine.window.units` has found out; it is remembered here."""
    fit_for: str | None = None
    """For which target that is."""

    def take(self, entry: Entry) -> None:
        """Grow by one more entry."""
        entries = self.entries
        end = len(entries)
        if not entry.reading.is_output:
            while end and entries[end - 1].reading.is_output:
                end -= 1
        self.entries = (*entries[:end], entry, *entries[end:])
        self.flags |= entry.flags

    def has(self, spans: Sequence[Span]) -> bool:
        """Return whether one of its items lies in some spans of seqs."""
        return any(low <= entry.seq <= high for entry in self.entries for low, high in spans)

    def twin(self, *, void: bool = False) -> Group:
        """Return one like it that may grow, or whose response failed."""
        return Group(self.at, self.response, self.entries, self.flags, self.attached, self.stray, self.void or void)

    @property
    def pinned(self) -> bool:
        """Whether something in it is pinned, and so all of it."""
        return self.flags & PINNED != 0

    @property
    def maker(self) -> str | None:
        """Who made it: "input", "model" or "output"; None for a kind that the table does not know."""
        return self.entries[0].reading.maker

    def __repr__(self) -> str:
        return f"<Group {self.at}: {', '.join(f'{entry.seq} {entry.reading.shape}' for entry in self.entries)}>"


def turn_starts(groups: Iterable[Group]) -> list[int]:
    """Return where turns start among groups in order: at each run of input with a user's message in it.

    A system or developer message alone starts none; pinned ones belong to no turn. An answer ends the run, and so does
    that of a pinned example.
    """
    starts: list[int] = []
    run: int | None = None
    for group in groups:
        form = group.entries[0].reading
        if group.stray:
            continue
        if form.maker != "input":
            if not group.attached:
                run = None
            continue
        if group.flags & PINNED and form.shape != "user":
            continue
        if run is None:
            run = group.at
        if form.shape == "user" and (not starts or starts[-1] != run):
            starts.append(run)
    return starts
