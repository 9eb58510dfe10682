"""A run as files: its JSON, its plots, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from benchmarks.plots import draw
from benchmarks.shown import gathered, half, head, number

__all__ = ("hindrance", "page", "write")

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; } caption { text-align: left; font-weight: 600; }
th, td { padding: 0.1rem 0.8rem 0.1rem 0; text-align: left; font-weight: normal; } td + td { text-align: right; }
.ours td { font-weight: 600; } .floor td { color: #777; } img { max-width: 100%; } .why { text-align: left !important; }
"""


def hindrance(folder: Path) -> str | None:
    """Make a folder; return why nothing can be written there, None where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return str(error)


def write(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Write `results.json`, the plots and `index.html` into a folder; return what could not be made, and why."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    missing = []
    plots: Sequence[Path] = []
    try:
        plots = draw(found, folder)
    except ImportError as error:
        missing.append(f'there are no plots: {error}; pip install "turnlog[bench]"')
    (folder / "index.html").write_text(page(found, plots))
    return missing


def page(found: Mapping[str, Any], plots: Sequence[Path]) -> str:
    """Return the page."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>turnlog: benchmarks</title>",
        f"<style>{_STYLE}</style><h1>turnlog beside others, and beside the bare machine</h1>",
        *(f"<p>{escape(line)}</p>" for line in head(found)),
        _ratios(found),
        *(_image(path) for path in plots),
        "<h2>Every figure</h2><p>Medians; behind ± is half the width of the middle half of what was measured.</p>",
    ]
    results = found["results"]
    measures = dict.fromkeys(one["measure"] for one in results)
    parts += [_table(measure, [one for one in results if one["measure"] == measure]) for measure in measures]
    parts.append(_pairs("durability", found["durability"]))
    if found["notes"]:
        notes = "".join(f"<li>{escape(note)}</li>" for note in gathered(found["notes"]))
        parts.append(f"<h2>Not measured, or not so</h2><ul>{notes}</ul>")
    return "\n".join(parts) + "\n"


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<p><img alt='{escape(path.stem)}' src='data:image/png;base64,{data}'></p>"


def _table(measure: str, of: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in of:
        kind = "ours" if one["system"].startswith("turnlog") else "floor" if one["system"].startswith("bare") else ""
        cells = (one["system"], number(one["value"]), half(one["spread"]), one["unit"])
        rows.append(f"<tr class='{kind}'>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><caption>{escape(measure)}</caption>{''.join(rows)}</table>"


def _ratios(found: Mapping[str, Any]) -> str:
    rows = []
    for name, value in found["ratios"].items():
        said = number(value) if value is not None else ""
        why = found["reasons"].get(name, "")
        rows.append(f"<tr><td>{escape(name)}</td><td>{said}</td><td class='why'>{escape(why)}</td></tr>")
    return f"<h2>Ratios</h2><table>{''.join(rows)}</table>"


def _pairs(caption: str, pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(a)}</td><td class='why'>{escape(b)}</td></tr>" for a, b in pairs.items())
    return f"<h2>{caption.capitalize()}</h2><table>{rows}</table>"
