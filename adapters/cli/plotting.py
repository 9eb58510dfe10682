"""A plot of outcomes side by side: one panel each, the tokens of every request against the room there was. An SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

from turnlog.adapters.cli.show import cost
from turnlog.engine.replay.scenarios import Outcome

__all__ = ("plotted",)

_WIDTH: Final = 420
_HEIGHT: Final = 150
_TOP: Final = 46
_GAP: Final = 24
_COLUMNS: Final = 2
_BINS: Final = 400
"""Bars of a panel at most; of more requests the largest of neighbours is shown."""
_STYLE: Final = """
svg { color-scheme: light dark; font: 12px system-ui, "DejaVu Sans", sans-serif; background: #fff }
text { fill: #1b1f26 } .faint { fill: #5a6472 } .sent { fill: #2f6fdb } .over { fill: #c02c20 }
.room { stroke: #1b1f26; stroke-dasharray: 5 4; fill: none } .frame { fill: #f5f6f8; stroke: #d5dae1 }
@media (prefers-color-scheme: dark) {
  svg { background: #14171c } text { fill: #e7eaef } .faint { fill: #a0a9b6 } .sent { fill: #5b95f5 }
  .over { fill: #ff8a80 } .room { stroke: #e7eaef } .frame { fill: #1d2128; stroke: #343b46 }
}
"""


class _Bin(NamedTuple):
    tokens: int
    over: bool
    room: int


def plotted(rows: Sequence[Outcome]) -> str:
    """Return outcomes as an SVG; all panels have one scale."""
    most = max(
        [1, *(tokens or 0 for one in rows for tokens in one.series), *(room for one in rows for room in one.rooms)]
    )
    lines = -(-len(rows) // _COLUMNS)
    columns = min(len(rows), _COLUMNS)
    width = columns * (_WIDTH + _GAP) + _GAP
    height = lines * (_HEIGHT + _TOP + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
        ' role="img">',
        "<title>Tokens of each request, under each scenario</title>",
        f"<style>{_STYLE}</style>",
    ]
    for index, one in enumerate(rows):
        left = _GAP + index % _COLUMNS * (_WIDTH + _GAP)
        top = _GAP + index // _COLUMNS * (_HEIGHT + _TOP + _GAP)
        parts += [f'<g transform="translate({left} {top})">', *_panel(one, most), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(one: Outcome, most: int) -> Iterator[str]:
    share = f", {100 * one.shared / one.tokens:.0f} % shared" if one.tokens else ""
    price = f", {cost(one.price)}" if one.price is not None else ""
    over = f", {one.overflow:,} over" if one.overflow else ""
    yield f'<text y="14" font-weight="600">{escape(one.label)}</text>'
    yield f'<text y="32" class="faint">{one.tokens:,} tokens{share}, {one.cuts:,} cuts{over}{price}</text>'
    yield f'<g transform="translate(0 {_TOP})">'
    yield f'<rect class="frame" width="{_WIDTH}" height="{_HEIGHT}"/>'
    bins = _binned(one)
    step = _WIDTH / max(len(bins), 1)
    bars = {"sent": "", "over": ""}
    rooms = ""
    for at, bar in enumerate(bins):
        left, right = at * step, (at + (1 if step < 3 else 0.85)) * step
        high = 0.0 if bar.over else _HEIGHT * (1 - bar.tokens / most)
        bars["over" if bar.over else "sent"] += f"M{left:.1f} {_HEIGHT}V{high:.1f}H{right:.1f}V{_HEIGHT}Z"
        if bar.room:
            y = _HEIGHT * (1 - bar.room / most)
            rooms += f"{'L' if rooms else 'M'}{left:.1f} {y:.1f}H{(at + 1) * step:.1f}"
    yield from (f'<path class="{name}" d="{path}"/>' for name, path in bars.items() if path)
    if rooms:
        yield f'<path class="room" d="{rooms}"/>'
    yield f'<text class="faint" x="{_WIDTH}" y="-6" text-anchor="end">top: {most:,}</text></g>'


def _binned(one: Outcome) -> list[_Bin]:
    """Return the requests as bars, neighbours joined where there are very many."""
    pairs = list(zip(one.series, one.rooms, strict=True))
    size = -(-len(pairs) // _BINS) or 1
    made: list[_Bin] = []
    for start in range(0, len(pairs), size):
        some = pairs[start : start + size]
        tokens = max((tokens or 0 for tokens, _ in some), default=0)
        made.append(_Bin(tokens, any(tokens is None for tokens, _ in some), max(room for _, room in some)))
    return made
