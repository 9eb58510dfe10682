"""What a run has found: figures as medians with their spread, and the ratios that are made of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

__all__ = (
    "FLOOR",
    "OURS",
    "RATIOS",
    "RAW",
    "TYPED",
    "Result",
    "Results",
    "group",
    "is_peer",
    "made",
    "middle",
    "over_clients",
    "percentile",
    "slope",
)

OURS: Final = "turnlog"
FLOOR: Final = "bare"
TYPED: Final = "bare openai client, as documented"
RAW: Final = "bare openai client, raw"
"""The client where a body goes as it is and only JSON is read, as turnlog's own adapter does it."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one system."""

    measure: str
    system: str
    value: float
    """The median."""
    unit: str
    spread: float | None
    """The width of the middle half of what was measured, in the same unit; null where there is one value only."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of values lies.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(values: Sequence[float]) -> float | None:
    """Return how far the middle half of values spreads, None for fewer than three.

    >>> middle([1.0, 2.0, 3.0, 4.0, 100.0])
    2.0
    """
    if len(values) < 3:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def slope(points: Mapping[float, float]) -> float:
    """Return the exponent with which values grow: the slope of the straight line through their logarithms.

    >>> round(slope({10: 3.0, 100: 30.0, 1000: 300.0}), 3)
    1.0
    """
    xs = [math.log(x) for x in points]
    ys = [math.log(y) for y in points.values()]
    return statistics.linear_regression(xs, ys).slope


def is_peer(system: str) -> bool:
    """Return whether a system is what others would use, neither turnlog nor the floor."""
    return not system.startswith((OURS, FLOOR))


class Results:
    """Everything that a run has found so far."""

    def __init__(self) -> None:
        self.all: list[Result] = []
        self.notes: list[str] = []
        """What was not measured, and why."""
        self.left_out: dict[str, str] = {}
        """Groups of measures that take no part in the run, and why."""
        self.peers = True
        """Whether somebody else takes part."""

    def add(self, measure: str, system: str, values: Sequence[float], unit: str) -> None:
        """Add a figure: the median of what was measured."""
        value = statistics.median(values)
        self.all.append(Result(measure=measure, system=system, value=value, unit=unit, spread=middle(values)))

    def note(self, measure: str, system: str, reason: str) -> None:
        """Say that something was not measured."""
        said = f"{measure}, {system}: {reason}"
        if said not in self.notes:
            self.notes.append(said)

    def why(self, measure: str, system: str) -> str | None:
        """Return why something was not measured, None where nothing was said of it."""
        told = f"{measure}, {system}: "
        return next((one.removeprefix(told) for one in self.notes if one.startswith(told)), None)

    def value(self, measure: str, system: str) -> float | None:
        """Return a figure, None where it was not measured."""
        return next((one.value for one in self.all if (one.measure, one.system) == (measure, system)), None)

    def of(self, measure: str) -> Iterator[Result]:
        """Yield the figures of one measure."""
        return (one for one in self.all if one.measure == measure)

    def best(self, measure: str, best: Callable[..., Any]) -> Result | None:
        """Return the best peer's figure."""
        peers = [one for one in self.of(measure) if is_peer(one.system)]
        found: Result | None = best(peers, key=_value, default=None)
        return found

    def add_exponent(self, measure: str, system: str, points: Mapping[float, float]) -> None:
        """Add with which exponent something grows: over its last three decades of size, where it has three."""
        top = max(points)
        last = {size: value for size, value in points.items() if size * 1000 >= top}
        if len(last) >= 3 and top >= 1000 * min(last):
            self.add(measure, system, [slope(last)], "")
        elif system == OURS:
            self.note(measure, system, "it was not measured over three decades")


def _value(one: Result) -> float:
    return one.value


Ratio = Callable[[Results, float], float | str]
"""Returns a ratio, or why there is none. The second argument is what a flush takes, in milliseconds."""


def _quotient(results: Results, above: tuple[str, str], below: tuple[str, str]) -> float | str:
    found = [results.value(*one) for one in (above, below)]
    for value, (measure, system) in zip(found, (above, below), strict=True):
        if value is None:
            return _missing(results, measure, system)
    assert found[0] is not None
    assert found[1] is not None
    return found[0] / found[1]


def _missing(results: Results, measure: str, system: str) -> str:
    said = results.why(measure, system)
    return f"{measure}, {system}: {said}" if said else f"{measure} of {system} was not measured in this run"


def _best_peer(measure: str, *, most: bool) -> Ratio:
    """More is better: ours by the best peer's. Less is better: the best peer's by ours."""

    def ratio(results: Results, _: float) -> float | str:
        best = results.best(measure, max if most else min)
        if best is None:
            return _no_peer(results, measure)
        ours, theirs = (measure, OURS), (measure, best.system)
        return _quotient(results, ours, theirs) if most else _quotient(results, theirs, ours)

    return ratio


def _no_peer(results: Results, measure: str) -> str:
    """Return why there is nobody to compare with: each reason once, with whom it is true of."""
    if not results.peers:
        return f"{measure}: no peer takes part: none is installed, or none was asked for"
    said: dict[str, list[str]] = {}
    for note in results.notes:
        place, _, reason = note.partition(": ")
        name, _, system = place.partition(", ")
        if name == measure and is_peer(system):
            said.setdefault(reason, []).append(system)
    told = "; ".join(f"{', '.join(systems)}: {reason}" for reason, systems in said.items())
    return f"{measure}: no peer was measured: {told or 'this run has none'}"


def _of(above: tuple[str, str], below: tuple[str, str]) -> Ratio:
    return lambda results, _: _quotient(results, above, below)


def _exponent(measure: str) -> Ratio:
    def ratio(results: Results, _: float) -> float | str:
        value = results.value(measure, OURS)
        if value is not None:
            return value
        sizes = f"{measure.removesuffix('_exponent')}@"
        told = [
            note
            for note in results.notes
            if note.startswith(sizes) and f", {OURS}: " in note and results.value(note.partition(",")[0], OURS) is None
        ]
        return "; ".join([_missing(results, measure, OURS), *told])

    return ratio


def _append_by_flush(results: Results, flush_ms: float) -> float | str:
    value = results.value("append_1_p50", OURS)
    return _missing(results, "append_1_p50", OURS) if value is None else value / flush_ms


def _over_client(client: str) -> Ratio:
    """Ours by a client alone and the flushes that make the answer durable."""

    def ratio(results: Results, flush_ms: float) -> float | str:
        measure = "response_streamed"
        ours, theirs = results.value(measure, OURS), results.value(measure, client)
        flushes = results.value("response_flushes", OURS)
        if ours is None or theirs is None:
            return _missing(results, measure, OURS if ours is None else client)
        if flushes is None:
            return _missing(results, "response_flushes", OURS)
        return ours / (theirs + flushes * flush_ms)

    return ratio


def _shared(results: Results, _: float) -> float | str:
    place = "shared_prefix", "turnlog, oldest-turns"
    value = results.value(*place)
    return _missing(results, *place) if value is None else value / 100


RATIOS: Final[Mapping[str, Ratio]] = {
    "append_100_vs_best_peer": _best_peer("append_100", most=True),
    "append_100_vs_bare": _of(("append_100", OURS), ("append_100", "bare SQLite")),
    "append_1_vs_flush": _append_by_flush,
    "window_8k_vs_best_peer": _best_peer("window_8k@10000", most=False),
    "window_100k_vs_best_peer": _best_peer("window_100k@10000", most=False),
    "window_exponent": _exponent("window_8k_exponent"),
    "turn_vs_best_peer": _best_peer("turn@1000", most=False),
    "turn_exponent": _exponent("turn_exponent"),
    "stream_vs_bare_client": _over_client(RAW),
    "bytes_vs_json": _of(("bytes_per_item", OURS), ("json_per_item", OURS)),
    "shared_prefix_2000_turns": _shared,
    "verify_vs_decode": _of(("verify_log", OURS), ("decode_log", OURS)),
}
"""Each with how it is made."""

GROUPS: Final[Mapping[str, str]] = {
    "append": "appends",
    "window": "windows",
    "window_exponent": "window-growth",
    "turn": "turns",
    "turn_exponent": "turn-growth",
    "stream": "responses",
    "bytes": "bytes",
    "shared": "prefixes",
    "verify": "replay",
}
"""What is asked for by which a ratio is measured, by the ratio's name or its first word."""


def group(ratio: str) -> str:
    """Return what is asked for by which a ratio is measured.

    >>> group("window_exponent"), group("window_8k_vs_best_peer")
    ('window-growth', 'windows')
    """
    return GROUPS.get(ratio) or GROUPS[ratio.partition("_")[0]]


def made(results: Results, flush_ms: float) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return every ratio, None where there is none, and why there is not."""
    ratios: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, ratio in RATIOS.items():
        found = ratio(results, flush_ms)
        ratios[name] = None if isinstance(found, str) else found
        if isinstance(found, str):
            reasons[name] = results.left_out.get(group(name), found)
    return ratios, reasons


def over_clients(results: Results, flush_ms: float) -> Iterator[Result]:
    """Yield how much longer a streamed response takes than with either client alone and the flushes."""
    for client in (TYPED, RAW):
        found = _over_client(client)(results, flush_ms)
        if not isinstance(found, str):
            yield Result(measure="stream_vs_client", system=client, value=found, unit="times", spread=None)
