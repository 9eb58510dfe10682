"""`turnlog window --explain`: what became of every event, in as many lines as there are runs of one fate and rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from turnlog.adapters.cli.show import STYLES, console, counted, lay, plain, span, table
from turnlog.engine.manifest import SENT, Manifest
from turnlog.engine.window.window import Window

__all__ = ("explain", "explained")


class _Stretch(NamedTuple):
    """Neighbouring events with one fate by one rule."""

    first: int
    last: int
    fate: str
    rule: str
    tokens: int

    @property
    def events(self) -> int:
        return self.last - self.first + 1


def explained(made: Window) -> dict[str, Any]:
    """Return why a window is as it is, as JSON."""
    manifest = made.manifest
    stretches = list(_stretches(manifest))
    return {
        "policy": manifest.policy,
        "base": manifest.base,
        "cut": manifest.cut,
        "forked": manifest.forked,
        "shared": manifest.shared,
        "fates": _fates(stretches),
        "runs": [stretch._asdict() for stretch in stretches],
        "sealed": list(manifest.sealed),
        "bare": list(manifest.bare),
        "trimmed": list(manifest.trimmed),
        "early": list(manifest.early),
        "forgotten": sorted(manifest.forgotten),
    }


def explain(made: Window) -> None:
    """Print why a window is as it is."""
    manifest = made.manifest
    stretches = list(_stretches(manifest))
    rows = table("seqs", "events", "fate", "tokens", "why", title=_title(made), right=("events", "tokens"))
    for one in stretches:
        tokens = f"{one.tokens:,}" if one.fate in SENT else ""
        style = STYLES.get(one.fate, "dim")
        rows.add_row(span(one.first, one.last), f"{one.events:,}", f"[{style}]{one.fate}[/]", tokens, plain(one.rule))
    lay(rows)
    said = (f"{fate} {counted(figures['events'], 'event')}" for fate, figures in _fates(stretches).items())
    console.print(", ".join(said), style="dim")
    for note in _notes(manifest):
        console.print(note, style="dim")


def _title(made: Window) -> str:
    room = made.budget.context - made.budget.reserve
    return f"{plain(made.manifest.policy)}, as of {made.version}: {made.tokens.total:,} of {room:,} tokens"


def _stretches(manifest: Manifest) -> Iterator[_Stretch]:
    weights = sorted(manifest.weights.items())
    at = 0
    for run in manifest.runs:
        tokens = 0
        while at < len(weights) and weights[at][0] <= run.last:
            tokens += weights[at][1]
            at += 1
        yield _Stretch(run.first, run.last, run.fate, manifest.rule(run), tokens)


def _fates(stretches: Sequence[_Stretch]) -> Mapping[str, Mapping[str, int]]:
    """Return how many events, and tokens, have each fate."""
    found: dict[str, dict[str, int]] = {}
    for one in stretches:
        figures = found.setdefault(one.fate, {"events": 0, "tokens": 0})
        figures["events"] += one.events
        figures["tokens"] += one.tokens
    return found


def _notes(manifest: Manifest) -> Iterator[str]:
    """Yield what else there is to say."""
    if manifest.base:
        yield f"it begins with what stands for the events before the compaction at {manifest.base}"
    if manifest.forked:
        yield f"in a fork: the events up to {manifest.forked} are its parent's"
    if manifest.early:
        yield f"in front of everything else: {', '.join(map(str, manifest.early))}"
    if manifest.sealed:
        yield f"followed by an output that says that there is none: {', '.join(map(str, manifest.sealed))}"
    if manifest.forgotten:
        unseen = ", ".join(map(str, sorted(manifest.forgotten)))
        yield f"sent, but not shown to the model again, so that they take no tokens: {unseen}"
    if manifest.bare:
        yield f"without the ids that their maker gave them: {', '.join(starmap(span, manifest.bare))}"
    if manifest.shared:
        yield f"the request before began with the same {manifest.shared:,} tokens, which its provider may have cached"
