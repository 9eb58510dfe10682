"""The manifest: what one window was made of, seq by seq, and by which rule. Small, pure data, stored with each request.

A manifest decides everything that writing the window out needs to know, so that an old request can be rebuilt from the
log alone, whatever has become of the policy that chose it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import msgspec

from .checks import whole

__all__ = (
    "REWOUND",
    "SENT",
    "Change",
    "Fate",
    "Fates",
    "Manifest",
    "Run",
    "Span",
    "Verdict",
    "between",
    "differing",
    "form_of",
    "spans",
    "stored",
)

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
REWOUND: Final = "rewound"
"""The rule by which what lies beside the path is logged; which rewind left it there, its place says."""

Span: TypeAlias = tuple[int, int]
"""From seq to seq, both included."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one event in one window: its fate, the rule that decided it, the tokens it took there.

    What stands for a call's missing output counts with the call, what stands for compacted events with the compaction.
    """

    seq: int
    fate: Fate
    rule: str
    tokens: int


class Change(Verdict, frozen=True):
    """A verdict that is another than the one on the same event in another window."""

    other: Verdict


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
    trimmed: tuple[Span, ...] = ()
    """Where they go without the fields that their kinds have not, without what only other roles may say, and without
    phases that a backend may not know."""
    sealed: tuple[int, ...] = ()
    """Calls without an output in the log, which this window follows with one that says so."""
    factor: int = 1000
    """Thousandths by which counted tokens were multiplied, from what the API reported before."""
    items: int = 0
    """Counted tokens of the window's items, before the factor."""
    overhead: int = 0
    """Counted tokens of instructions, tools and response format, and the hidden ones, before the factor."""
    hidden: int = 0
    """Of the overhead: tokens that the API was found to add to what is sent."""
    tokens: int = 0
    """The estimate of the whole request: items and overhead, times the factor."""
    measured: bool = True
    bound: int = 0
    """By how many tokens the estimate may be off."""
    context: int = 0
    reserve: int = 0
    shared: int = 0
    """Counted tokens of items at the window's beginning that the line's previous request began with too."""
    front: str = ""
    """What the model reads before the items (instructions, tools, response format), as the beginning of its digest."""
    forked: int = 0
    """Of a fork: the seq up to which its events are its parent's."""
    follows: int = 0
    """The response that the request follows at the server, by its seq, or the last seq that was written to the server's
    conversation: what the window has up to there, and the response's answer, was not sent again; 0: all of it was."""
    remote: str = ""
    """What the server calls that response, or the conversation that it keeps."""
    refused: int = 0
    """Counted tokens that the server has found too many: windows of the line stay below; 0: none that is known."""
    unread: int = 0
    """Encrypted content up to this seq is not sent: its maker has refused to read it."""
    unnamed: int = 0
    """Ids up to this seq are not sent: the server did not find what it gave them to."""
    unfit: tuple[int, ...] = ()
    """Items that are not sent: the server that made them has refused to take them back."""
    told: tuple[Span, ...] = ()
    """What was not sent as items, but of which the request's own question holds an excerpt."""
    weights: dict[int, int] = msgspec.field(default_factory=dict)
    """Tokens of each item as `Verdict` has them, `items` in all; in memory only: a stored manifest comes back without
    them."""
    forgotten: set[int] = msgspec.field(default_factory=set)
    """Reasoning that is sent and that the model is not shown again, so that it takes no tokens; in memory only."""

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

        What a fork's parent has behind the place of the fork is none of its events: it is later than all of them.
        A manifest that comes from the log knows no tokens of single items, and says 0: `Call.why` tells them.

        >>> runs, rules = (Run(1, 3, "dropped", 0), Run(4, 5, "kept", 1)), ("older than the cut", "in the window")
        >>> made = Manifest(policy="oldest-turns@1", renderer=1, as_of=5, runs=runs, rules=rules)
        >>> made.why(2)
        Verdict(seq=2, fate='dropped', rule='older than the cut', tokens=0)

        Raises:
            Invalid: there can be no such seq.
        """
        run = self.run(whole("seq", seq, 1))
        if run is None:
            rule = f"the window is as of {self.as_of}"
            if self.forked:
                rule += f", in a fork made at {self.forked}"
            return Verdict(seq, "later", rule, 0)
        tokens = self.weights.get(seq, 0) if run.fate in SENT else 0
        unseen = ", and the model is not shown it again" if seq in self.forgotten else ""
        return Verdict(seq, run.fate, self.rule(run) + unseen, tokens)

    def rule(self, run: Run) -> str:
        """Return the rule of a run; of what lies beside the path, which rewind has left it there."""
        # The path goes on with the rewind itself, so that it stands right behind what it left.
        if run.fate == "rewound":
            return f"the rewind at {run.last + 1}"
        return self.rules[run.rule] if self.rules else ""

    def sent(self) -> Iterator[Span]:
        """Yield the spans of seqs whose items the model saw, in seq order, neighbours joined."""
        first = last = 0
        for run in self.runs:
            if run.fate not in SENT or self._is_base(run):
                continue
            if last and run.first == last + 1:
                last = run.last
                continue
            if last:
                yield first, last
            first, last = run.first, run.last
        if last:
            yield first, last

    def _is_base(self, run: Run) -> bool:
        """Return whether a run is of the compaction that the window starts from, which is no item of its own."""
        return run.first == run.last == self.base

    def is_bare(self, seq: int) -> bool:
        """Return whether *seq* goes without its maker's ids."""
        return any(first <= seq <= last for first, last in self.bare)

    def islands(self) -> Iterator[Span]:
        """Yield the spans below the cut of groups that were kept all the same."""
        for run in self.runs:
            if run.first >= self.cut:
                return
            if self._is_base(run):
                continue
            if run.fate not in ("compacted", "rewound") and (run.fate != "dropped" or run.rule != self.cut_by):
                yield run.first, min(run.last, self.cut - 1)

    def folded(self) -> Manifest:
        """Return the manifest as it is logged: without tokens, and below the cut without what the log tells anyhow.

        A conversation may have been rewound thousands of times; what is below the cut is one run all the same.
        """
        runs: list[Run] = []
        for run in self.runs:
            folds = run.fate == "rewound" and run.last < self.cut
            runs.append(Run(run.first, run.last, "dropped", self.cut_by) if folds else run)
        return msgspec.structs.replace(self, runs=_joined(runs), weights={}, forgotten=set())

    def along(self, path: Sequence[Span]) -> Manifest:
        """Return a logged manifest with what lay beside the path told apart again; *path* is as of then."""
        beside = [(first, last) for first, last in between(path) if last < self.cut]
        if not beside:
            return self
        rules = self.rules if REWOUND in self.rules else (*self.rules, REWOUND)
        runs: list[Run] = []
        for run in self.runs:
            older = run.fate == "dropped" and run.rule == self.cut_by and run.first < self.cut
            runs += _split(run, beside, rules.index(REWOUND)) if older else (run,)
        # All that lay beside the path may be compacted.
        told = any(run.fate == "rewound" for run in runs)
        return msgspec.structs.replace(self, runs=tuple(runs), rules=rules) if told else self


def between(path: Sequence[Span]) -> Iterator[Span]:
    """Yield the stretches between the spans of a path, ascending: no path leads through them.

    >>> list(between([(8, 9), (1, 3)]))
    [(4, 7)]
    """
    for (_, above), (below, _) in pairwise(sorted(path)):
        if below - above > 1:
            yield above + 1, below - 1


def _split(run: Run, beside: Sequence[Span], rule: int) -> Iterator[Run]:
    """Yield a run, and in it the stretches that lie beside the path, by a rule of their own."""
    at = run.first
    for first, last in beside[bisect_left(beside, run.first, key=_end) :]:
        if first > run.last:
            break
        if first > at:
            yield Run(at, first - 1, run.fate, run.rule)
        yield Run(max(first, at), min(last, run.last), "rewound", rule)
        at = last + 1
    if at <= run.last:
        yield Run(at, run.last, run.fate, run.rule)


def _end(span: Span) -> int:
    return span[1]


def _joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return runs with neighbours of one fate and rule as one."""
    made: list[Run] = []
    for run in runs:
        same = made and made[-1].fate == run.fate and made[-1].rule == run.rule
        made.append(Run(made.pop().first, run.last, run.fate, run.rule) if same else run)
    return tuple(made)


class Fates:
    """The runs of a manifest, made ready to be asked for one seq after another."""

    __slots__ = ("_firsts", "_latest", "_runs")

    def __init__(self, manifest: Manifest) -> None:
        self._runs = manifest.runs
        self._firsts = [run.first for run in manifest.runs]
        self._latest: Run | None = None

    def run(self, seq: int) -> Run | None:
        """Return the run that *seq* lies in, None beyond the last."""
        latest = self._latest
        if latest is not None and latest.first <= seq <= latest.last:
            return latest
        index = bisect_right(self._firsts, seq) - 1
        if index < 0 or seq > self._runs[index].last:
            return None
        self._latest = self._runs[index]
        return self._latest

    def of(self, seq: int) -> Fate:
        """Return what became of *seq*."""
        latest = self._latest
        if latest is None or not latest.first <= seq <= latest.last:
            latest = self.run(seq)
        return "later" if latest is None else latest.fate

    def sent(self, seq: int) -> bool:
        """Return whether the model saw *seq*."""
        return self.of(seq) in SENT


def form_of(fate: Fate) -> Fate | None:
    """Return how an item with a fate was sent: as it is, "kept", as an excerpt, or not at all, None."""
    return None if fate not in SENT else "excerpted" if fate == "excerpted" else "kept"


def differing(one: Manifest, other: Manifest) -> list[Span]:
    """Return the spans of seqs whose fates differ between two manifests of one conversation, neighbours joined."""
    ends = sorted({run.last for made in (one, other) for run in made.runs})
    mine, others = Fates(one), Fates(other)
    made: list[Span] = []
    first = 1
    for last in ends:
        if mine.of(last) != others.of(last):
            if made and made[-1][1] == first - 1:
                first = made.pop()[0]
            made.append((first, last))
        first = last + 1
    return made


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
    """Return the manifest as it goes into the log; see `Manifest.folded`."""
    return msgspec.to_builtins(manifest.folded())
