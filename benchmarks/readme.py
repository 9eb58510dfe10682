"""The README's figures, from a run: `python -m benchmarks.readme results.json` rewrites what is between two marks."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.results import FLOOR, OURS, RAW, TYPED, is_peer
from benchmarks.shown import number

__all__ = ("block", "main", "replaced")

BEGIN: Final = "<!-- figures: written by python -m benchmarks.readme -->"
END: Final = "<!-- figures end -->"
README: Final = Path(__file__).resolve().parents[1] / "README.md"
_AS_GOOD: Final = 0.95
"""From this share of ours on, a peer's figure counts as good as it."""


class _Row(NamedTuple):
    measure: str
    words: str
    more: bool = False
    """Whether more is better."""
    floor: Sequence[str] = ("bare SQLite",)


_ROWS: Final = (
    _Row("append_1_p50", "a durable append"),
    _Row("append_100", "durable appends, 100 conversations at once", more=True),
    _Row("append_1000", "durable appends, 1,000 conversations at once", more=True),
    _Row("window_8k@10000", "a window of 8,000 tokens, of 10,000 items"),
    _Row("window_100k@10000", "a window of 100,000 tokens, of 10,000 items"),
    _Row("window_8k@100000", "a window of 8,000 tokens, of 100,000 items"),
    _Row("window_8k@1000000", "a window of 8,000 tokens, of 1,000,000 items"),
    _Row("turn@1000", "a turn's storage work, at turn 1,000"),
    _Row("turn@10000", "a turn's storage work, at turn 10,000"),
    _Row("bytes_per_item", "stored", floor=("bare SQLite", "bare file")),
    _Row("memory_window", "memory for a window"),
    _Row("response_streamed", "a streamed response", floor=(RAW, TYPED)),
    _Row("import", "import"),
)


def main() -> None:
    """Rewrite the block."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("results", type=Path, help="the results.json of a run")
    parser.add_argument("--readme", type=Path, default=README, help="the file to rewrite")
    asked = parser.parse_args()
    try:
        found = json.loads(asked.results.read_text())
        text = replaced(asked.readme.read_text(), block(found))
    except OSError as error:
        parser.error(str(error))
    except (ValueError, LookupError, TypeError) as error:
        parser.error(f"{asked.results}: this is no results.json of a run ({type(error).__name__}: {error})")
    asked.readme.write_text(text)


def replaced(text: str, made: str) -> str:
    """Return a text with its block replaced.

    Raises:
        SystemExit: the marks are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"there is no block to replace: put the lines {BEGIN} and {END} where it belongs")
    return f"{head}{BEGIN}\n{made}\n{END}{tail}"


def _command(said: str) -> str:
    """Return a command as anybody may give it: where the results of this run went is nobody's business."""
    return re.sub(r" (--output|-o)[ =]\S+", "", said)


def block(found: Mapping[str, Any]) -> str:
    """Return the figures of a run, as Markdown."""
    machine, versions = found["machine"], found["versions"]
    peers = ", ".join(
        f"{name} {versions[name]}"
        for name in ("openai-agents", "langgraph-checkpoint-sqlite", "google-adk", "eventsourcing")
        if name in versions
    )
    load = "" if machine["load"] is None else f", load {machine['load']:.1f}"
    lines = [
        f"`{_command(machine['command'])}` on {machine['date']}{load}: {machine['processor']},",
        f"{machine['cores']} cores, Python {machine['python']}, SQLite {machine['sqlite']};",
        f"turnlog {versions['turnlog']}, {peers}.",
        f"Medians; everything is flushed, and a flush takes {found['flush_ms']:.2f} ms ({machine['flush']}).",
        "",
        "| | turnlog | best other | | the bare machine |",
        "|---|--:|--:|---|--:|",
    ]
    as_good, without = [], []
    for row in _ROWS:
        cells = _cells(found, row)
        if cells is None:
            without.append(f"{row.words} ({_why(found, row.measure)})")
            continue
        ours, best, name, floor, behind = cells
        lines.append(f"| {row.words} | {ours} | {best} | {name} | {floor} |")
        if behind:
            as_good.append(f"{row.words} ({name})")
    ratios = found["ratios"]
    grown = {name: ratios[name] for name in ("window_exponent", "turn_exponent") if ratios[name] is not None}
    said = [f"{name.partition('_')[0]} {round(value, 2) or 0.0:.2f}" for name, value in grown.items()]
    lines += ["", f"Exponents of growth over three decades: {', '.join(said)}."] if said else []
    if as_good:
        lines += ["", f"Where another is as good or better: {'; '.join(as_good)}."]
    over = {one["system"]: one["value"] for one in found["results"] if one["measure"] == "stream_vs_client"}
    if over:
        told = ", ".join(f"{number(value)} ({_label(client)})" for client, value in over.items())
        lines += ["", f"A streamed response by the bare client's and the flushes that make it durable: {told}."]
    if without:
        lines += ["", f"Not measured in this run: {'; '.join(without)}."]
    return "\n".join(lines)


def _why(found: Mapping[str, Any], measure: str) -> str:
    """Return why ours was not measured."""
    told = f"{measure}, {OURS}: "
    said = next((note.removeprefix(told) for note in found["notes"] if note.startswith(told)), None)
    machine = found["machine"]
    return said or ("not asked for" if "--only" in machine["command"] else f"a {machine['plan']} run leaves it out")


def _cells(found: Mapping[str, Any], row: _Row) -> tuple[str, str, str, str, bool] | None:
    """Return a row's cells, and whether a peer is as good; None where ours was not measured."""
    of = {one["system"]: one for one in found["results"] if one["measure"] == row.measure}
    ours = of.get(OURS)
    if ours is None:
        return None
    choose = max if row.more else min
    peers = [one for name, one in of.items() if is_peer(name)]
    best = choose(peers, key=lambda one: one["value"]) if peers else None
    label = len(row.floor) > 1
    floors = [_with_unit(of[name]) + (f" ({_label(name)})" if label else "") for name in row.floor if name in of]
    behind = best is not None and _better(best["value"], ours["value"], more=row.more)
    return (
        _with_unit(ours),
        "" if best is None else _with_unit(best),
        "" if best is None else best["system"],
        ", ".join(floors),
        behind,
    )


def _better(theirs: float, ours: float, *, more: bool) -> bool:
    return theirs >= _AS_GOOD * ours if more else theirs <= ours / _AS_GOOD


def _label(floor: str) -> str:
    """Return what tells one floor from another.

    >>> _label("bare openai client, raw"), _label("bare SQLite")
    ('raw', 'SQLite')
    """
    return floor.partition(", ")[2] or floor.removeprefix(f"{FLOOR} ")


def _with_unit(one: Mapping[str, Any]) -> str:
    unit = one["unit"].partition(",")[0].partition("/item")[0]
    return f"{number(one['value'])} {unit}"


if __name__ == "__main__":
    main()
