"""Appends and windows beside the bare machine, in twenty seconds: `python -m benchmarks.log [--json]`.

The same measures as in `python -m benchmarks`, of turnlog and the floor alone, for work on the log itself.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from benchmarks.report import report
from benchmarks.run import QUICK
from benchmarks.shown import number

__all__ = ("main",)

PLAN: Final = QUICK._replace(shares={}, rounds=7, long_sizes=(10_000,), sizes=(10_000,))


def main() -> None:
    """Run the measures and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args()
    found = figures(report(PLAN, measures=("appends", "windows"), packages=("turnlog", "bare")))
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:24} {'none' if value is None else number(value):>12}")


def figures(found: dict[str, Any]) -> dict[str, float | None]:
    """Return the figures of interest, each beside the floor's, and what one is of the other."""
    values = {(one["measure"], one["system"]): one["value"] for one in found["results"]}
    made: dict[str, float | None] = {"flush_ms": found["flush_ms"]}
    for name, measure in (
        ("items_per_second", "append_100"),
        ("append_ms", "append_1_p50"),
        ("window_ms", "window_8k@10000"),
        ("window_100k_ms", "window_100k@10000"),
    ):
        ours, bare = values.get((measure, "turnlog")), values.get((measure, "bare SQLite"))
        made |= {name: ours, f"bare_{name}": bare}
        if name.startswith("window"):
            made[f"live_{name}"] = values.get((measure, "turnlog, live"))
        if not name.startswith("items"):
            made[f"{name.removesuffix('_ms')}_vs_bare"] = ours / bare if ours and bare else None
    return made | {name: found["ratios"][name] for name in ("append_100_vs_bare", "append_1_vs_flush")}


if __name__ == "__main__":
    main()
