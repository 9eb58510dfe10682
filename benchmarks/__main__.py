"""turnlog beside what you would use instead, and beside what this machine can do at best: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from benchmarks.disk import DISK
from benchmarks.page import hindrance, write
from benchmarks.report import MEASURES, report
from benchmarks.results import RATIOS, group
from benchmarks.run import FULL, QUICK
from benchmarks.shown import table

__all__ = ("main",)


def main() -> None:
    """Run the benchmarks, and show what they found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_measures(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="end within two minutes; less is measured. Without, it takes up to an hour"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument(
        "--flush", metavar="MS|disk", type=_flush, default=1000, help="what a flush takes; default: 1 (millisecond)"
    )
    parser.add_argument(
        "--only", metavar="MEASURE", nargs="+", choices=MEASURES, help="these, see below; they have all of the time"
    )
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="write results.json, plots and a page there")
    asked = parser.parse_args()
    if asked.output is not None and (reason := hindrance(asked.output)):
        parser.error(f"--output {asked.output}: {reason}")
    say = _silent if asked.json else _say
    found = report(QUICK if asked.quick else FULL, flush=asked.flush, measures=asked.only or tuple(MEASURES), say=say)
    print(json.dumps(found, indent=2) if asked.json else table(found), flush=True)
    if asked.output is not None:
        try:
            missing = write(found, asked.output)
        except OSError as error:
            sys.exit(f"--output {asked.output}: {error}; the results are printed above, and nowhere else")
        for one in missing:
            _say(one)


def _measures() -> str:
    """Return what can be asked for, with the ratios that each gives."""
    lines = ["measures, each of which can be asked for alone, with the ratios that they give:"]
    for measure in MEASURES:
        ratios = [name for name in RATIOS if group(name) == measure]
        names = [measure, *([""] * (len(ratios) - 1))]
        lines += [f"  {name:<15}{ratio}" for name, ratio in zip(names, ratios or ["(none)"], strict=True)]
    return "\n".join([*lines, "", "docs/benchmarks.md says what they are, and how they are measured."])


def _flush(text: str) -> int:
    if text == "disk":
        return DISK
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0.001 <= milliseconds <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: give milliseconds, from 0.001 to 1000, or disk")
    return round(1000 * milliseconds)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    pass


if __name__ == "__main__":
    main()
