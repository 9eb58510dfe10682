"""The manifest: what one window was made of, seq by seq, and by which rule. Small, pure data, stored with each request.

A manifest decides everything that writing the window out needs to know, so that an old request can be rebuilt from the
log alone, whatever has become of the policy that chose it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

import msgspec

__all__ = ("SENT", "Fate", "Manifest", "Run", "Span", "Verdict", "spans", "stored")

Fate: TypeAlias = Literal[
    "kept",
    "pinned",
    "excerpted",
    "dropped",
    "compacted",
    "rewound",
    "erased",
    "superseded",
    "later",
    "aside",
]
SENT: Final = frozenset({"kept", "pinned", "excerpted"})
"""The fates of what the model saw."""

Span: TypeAlias = tuple[int, int]
"""From seq to seq, both included."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one event in one window: its fate, the rule that decided it, the tokens it took there."""

    seq: int
    fate: Fate
    rule: str
    tokens: int


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Neighbouring seqs with one fate by one rule; `rule` is an index into the manifest's `rules`."""

    first: int
    last: int
    fate: Fate
    rule: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a window was made of. Runs are in seq order, do not overlap, and cover 1 to `as_of`."""

    policy: str
    """Name and version of the policy that chose, "oldest-turns@1"; "recorded" for requests made elsewhere."""
    renderer: int
    """Version of the rules by which items are written out."""
    as_of: int
    """The last seq that was there to be chosen from."""
    line: str = ""
    """Requests of one line (policy, budget, target) continue one another's cut."""
    base: int = 0
    """The seq of the compaction that the window starts from; 0: from the first event."""
    cut: int = 0
    """Groups older than this seq were dropped, but for a few that were kept or pinned; 0: none was."""
    cut_by: int = 0
    """Index into `rules` of why; what is below the cut and was not kept has this rule and no other."""
    runs: tuple[Run, ...] = ()
    rules: tuple[str, ...] = ()
    early: tuple[int, ...] = ()
    """Pinned seqs that were sent in front of everything else, away from their place."""
    bare: tuple[Span, ...] = ()
    """Where items go without the ids that their maker gave them."""
    sealed: tuple[int, ...] = ()
    """Calls without an output in the log, which this window follows with one that says so."""
    factor: int = 1000
    """Thousandths by which counted tokens were multiplied, from what the API reported before."""
    items: int = 0
    """Counted tokens of the window's items, before the factor."""
    overhead: int = 0
    """Counted tokens of instructions, tools and response format, before the factor."""
    tokens: int = 0
    """The estimate of the whole request: items and overhead, times the factor."""
    measured: bool = True
    bound: int = 0
    """By how many tokens the estimate may be off."""
    context: int = 0
    reserve: int = 0
    shared: int = 0
    """Tokens at the window's beginning that the line's previous request began with too."""
    follows: int = 0
    """The response that the request follows at the server, by its seq, or the last seq that was written to the server's
    conversation: what the window has up to there, and the response's answer, was not sent again; 0: all of it was."""
    remote: str = ""
    """What the server calls that response, or the conversation that it keeps."""
    refused: int = 0
    """Counted tokens that the server has found too many: windows of the line stay below; 0: none that is known."""
    unread: int = 0
    """Encrypted content up to this seq is not sent: its maker has refused to read it."""
    weights: dict[int, int] = msgspec.field(default_factory=dict)
    """Tokens of each item, in memory only: a stored manifest comes back without them."""

    def run(self, seq: int) -> Run | None:
        """Return the run that *seq* lies in, None beyond `as_of`."""
        index = bisect_right(self.runs, seq, key=lambda run: run.first) - 1
        if index < 0 or self.runs[index].last < seq:
            return None
        return self.runs[index]

    def fate(self, seq: int) -> Fate:
        """Return what became of *seq*."""
        run = self.run(seq)
        return "later" if run is None else run.fate

    def why(self, seq: int) -> Verdict:
        """Return what became of *seq* and why; also for one that is rewound, erased, compacted or later.

        >>> runs, rules = (Run(1, 3, "dropped", 0), Run(4, 5, "kept", 1)), ("older than the cut", "in the window")
        >>> made = Manifest(policy="oldest-turns@1", renderer=1, as_of=5, runs=runs, rules=rules)
        >>> made.why(2)
        Verdict(seq=2, fate='dropped', rule='older than the cut', tokens=0)
        """
        run = self.run(seq)
        if run is None:
            return Verdict(seq, "later", f"the window is as of {self.as_of}", 0)
        tokens = self.weights.get(seq, 0) if run.fate in SENT else 0
        return Verdict(seq, run.fate, self.rules[run.rule] if self.rules else "", tokens)

    def sent(self) -> Iterator[Span]:
        """Yield the spans of seqs whose items the model saw, in seq order, neighbours joined."""
        first = last = 0
        for run in self.runs:
            if run.fate not in SENT:
                continue
            if last and run.first == last + 1:
                last = run.last
                continue
            if last:
                yield first, last
            first, last = run.first, run.last
        if last:
            yield first, last

    def is_bare(self, seq: int) -> bool:
        """Return whether *seq* goes without its maker's ids."""
        return any(first <= seq <= last for first, last in self.bare)

    def islands(self) -> Iterator[Span]:
        """Yield the spans below the cut of groups that were kept all the same."""
        for run in self.runs:
            if run.first >= self.cut:
                return
            if run.fate not in ("compacted", "rewound") and (run.fate != "dropped" or run.rule != self.cut_by):
                yield run.first, min(run.last, self.cut - 1)


class Fates:
    """The runs of a manifest, made ready to be asked for one seq after another."""

    __slots__ = ("_firsts", "_runs")

    def __init__(self, manifest: Manifest) -> None:
        self._runs = manifest.runs
        self._firsts = [run.first for run in manifest.runs]

    def run(self, seq: int) -> Run | None:
        """Return the run that *seq* lies in, None beyond the last."""
        index = bisect_right(self._firsts, seq) - 1
        return self._runs[index] if index >= 0 and seq <= self._runs[index].last else None

    def of(self, seq: int) -> Fate:
        """Return what became of *seq*."""
        run = self.run(seq)
        return "later" if run is None else run.fate

    def sent(self, seq: int) -> bool:
        """Return whether the model saw *seq*."""
        return self.of(seq) in SENT


def spans(seqs: list[int]) -> tuple[Span, ...]:
    """Return ascending seqs as spans.

    >>> spans([1, 2, 3, 7])
    ((1, 3), (7, 7))
    """
    made: list[Span] = []
    for seq in seqs:
        if made and made[-1][1] == seq - 1:
            made[-1] = (made[-1][0], seq)
        else:
            made.append((seq, seq))
    return tuple(made)


def stored(manifest: Manifest) -> Any:
    """Return the manifest as it goes into the log: all but the weights."""
    return msgspec.to_builtins(msgspec.structs.replace(manifest, weights={}))
