"""Tables for a terminal, and how figures are written everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ("gathered", "half", "head", "number", "table")


def number(value: float) -> str:
    """Return a figure with as many digits as mean something.

    >>> [number(value) for value in (0.01234, 1.234, 56.7, 12345.6)]
    ['0.0123', '1.23', '56.7', '12,346']
    """
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}" if abs(value) >= 1 else f"{value:.3g}"


def half(spread: float | None) -> str:
    """Return a spread as what is on either side of the median, nothing where there is none."""
    return "" if spread is None else f"± {number(spread / 2)}"


def head(found: Mapping[str, Any]) -> list[str]:
    """Return, in lines, what a run was made with."""
    machine = found["machine"]
    return [
        f"{machine['date']}: {machine['command']} ({machine['plan']} run, {machine['seconds']:.0f} s)",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        f"a flush takes {found['flush_ms']:.2f} ms ({machine['flush']}), the disk's {machine['disk_flush_ms']:.2f} ms",
        f"load at the end: {'unknown' if machine['load'] is None else number(machine['load'])}",
        ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    ]


def table(found: Mapping[str, Any]) -> str:
    """Return a run's document for people."""
    lines = [*head(found), "", *rows(("durability", ""), found["durability"].items()), ""]
    results = found["results"]
    for measure in dict.fromkeys(one["measure"] for one in results):
        of = [one for one in results if one["measure"] == measure]
        unit = of[0]["unit"]
        shown = [(one["system"], number(one["value"]), half(one["spread"]), one["unit"]) for one in of]
        lines += rows((measure, unit, "", ""), [(a, b, c, d if d != unit else "") for a, b, c, d in shown])
        lines.append("")
    ratios = [
        (name, number(value) if value is not None else f"none: {found['reasons'][name]}")
        for name, value in found["ratios"].items()
    ]
    lines += rows(("ratio", ""), ratios)
    if found["notes"]:
        lines += ["", "not measured, or not so:", *(f"  {note}" for note in gathered(found["notes"]))]
    return "\n".join(lines)


def gathered(notes: Iterable[str]) -> list[str]:
    """Return notes with those of one measure and reason in one line.

    >>> gathered(["a, x: too slow", "b, x: too slow", "a, y: too slow", "the machine was busy"])
    ['a, x; y: too slow', 'b, x: too slow', 'the machine was busy']
    """
    made: dict[tuple[str, str], list[str]] = {}
    for note in notes:
        place, colon, reason = note.partition(": ")
        measure, comma, system = place.partition(", ")
        whole = not (colon and comma)
        made.setdefault((note, "") if whole else (measure, reason), []).append("" if whole else system)
    return [
        f"{measure}, {'; '.join(systems)}: {reason}" if reason else measure
        for (measure, reason), systems in made.items()
    ]


def rows(first: Sequence[str], found: Iterable[Sequence[str]]) -> list[str]:
    """Return lines of columns; of more than two, all but the first are aligned on the right."""
    cells = [tuple(first), *map(tuple, found)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(first))]
    made = []
    for row in cells:
        aligned = [
            cell.ljust(width) if at == 0 or len(first) == 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        made.append("  ".join(aligned).rstrip())
    return made
