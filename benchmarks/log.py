"""Appends and windows beside the bare machine: `python -m benchmarks.log [--json]`.

Every measure is of both systems in turn, several times, in one run; figures are medians, ratios those of medians. Both
write with WAL and `synchronous=FULL`, encode the same items and count their tokens with the same tokenizer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bare import Autocommit, GroupCommit
from benchmarks.disk import fixed_flush, flush_ms
from turnlog import Budget, open_engine
from turnlog.engine import vocabulary
from turnlog.engine.tokens import count_text

ROUNDS = 7
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "tells",
    "the",
    "committee",
    "about",
    "it",
    "in",
    "the",
    "afternoon",
]


def message(number: int, words: int = 110) -> dict[str, Any]:
    """Return a message of some 700 bytes, unlike its neighbours; user and assistant take turns."""
    text = " ".join(WORDS[(number * 7 + at * (1 + number % 5)) % len(WORDS)] for at in range(words))
    return {"role": ("user", "assistant")[number % 2], "content": f"{number}: {text}"}


async def medians(*measures: Callable[[int], Awaitable[float]]) -> list[float]:
    """Return the median of each measure, taken in turn."""
    taken: list[list[float]] = [[] for _ in measures]
    for number in range(ROUNDS):
        for figures, measure in zip(taken, measures, strict=True):
            figures.append(await measure(number))
    return [statistics.median(figures) for figures in taken]


async def hundred(folder: Path) -> dict[str, float]:
    """Items per second of 100 conversations that append one item each, again and again."""
    count = (await vocabulary.load()).count
    each = 20

    def counted(text: str) -> int:
        return count_text(text, count)

    async def ours(number: int) -> float:
        async with open_engine(folder / f"ours{number}.db") as engine:
            conversations = [await engine.create() for _ in range(100)]
            begun = time.perf_counter()

            async def write(index: int) -> None:
                for step in range(each):
                    await conversations[index].append(message(index * each + step))

            await asyncio.gather(*map(write, range(100)))
            return 100 * each / (time.perf_counter() - begun)

    async def bare(number: int) -> float:
        async with GroupCommit(folder / f"bare{number}.db", counted) as db:
            begun = time.perf_counter()

            async def write(index: int) -> None:
                for step in range(each):
                    await db.append(str(index), message(index * each + step))

            await asyncio.gather(*map(write, range(100)))
            return 100 * each / (time.perf_counter() - begun)

    mine, floor = await medians(ours, bare)
    return {"items_per_second": mine, "bare_items_per_second": floor, "append_100_vs_bare": mine / floor}


async def one(folder: Path) -> dict[str, float]:
    """Milliseconds of an append to one conversation, beside one autocommit INSERT."""
    count = (await vocabulary.load()).count
    each = 100

    async def ours(number: int) -> float:
        async with open_engine(folder / f"one{number}.db") as engine:
            conversation = await engine.create()
            begun = time.perf_counter()
            for step in range(each):
                await conversation.append(message(step))
            return (time.perf_counter() - begun) / each * 1000

    async def bare(number: int) -> float:
        async with Autocommit(folder / f"auto{number}.db", lambda text: count_text(text, count)) as db:
            begun = time.perf_counter()
            for step in range(each):
                await db.append("c", message(step))
            return (time.perf_counter() - begun) / each * 1000

    mine, floor = await medians(ours, bare)
    return {"append_ms": mine, "bare_append_ms": floor, "append_1_vs_flush": mine / floor}


async def window(folder: Path) -> dict[str, float]:
    """Milliseconds of a cold window of 8,000 tokens of a long conversation, beside reading and decoding its rows."""
    path = folder / "window.db"
    async with open_engine(path) as engine:
        conversation = await engine.create(id="c")
        for start in range(0, 5000, 500):
            await conversation.append(*(message(start + step) for step in range(500)))
    seqs: list[int] = []

    async def ours(_: int) -> float:
        async with open_engine(path) as engine:
            await engine.intake.vocabulary()
            await engine.get("c")  # the connection is open
            begun = time.perf_counter()
            made = await (await engine.get("c")).window(Budget(8000))
            taken = time.perf_counter() - begun
            seqs[:] = [one.seq for one in made.rendered]
            return taken * 1000

    async def bare(_: int) -> float:
        import aiosqlite  # noqa: PLC0415 - turnlog must not profit from it

        async with aiosqlite.connect(path) as db:
            await (await db.execute("SELECT max(seq) FROM events WHERE conversation = 1")).fetchone()
            begun = time.perf_counter()
            rows = await db.execute_fetchall(
                "SELECT seq, tokens, item FROM events WHERE conversation = 1 ORDER BY seq DESC LIMIT ?", (len(seqs),)
            )
            items = [msgspec.json.decode(row[2]) for row in rows]
            assert len(items) == len(seqs)
            return (time.perf_counter() - begun) * 1000

    mine, floor = await medians(ours, bare)
    return {"window_ms": mine, "bare_window_ms": floor, "items": len(seqs), "window_cold_vs_bare": mine / floor}


MEASURES: dict[str, Callable[[Path], Awaitable[dict[str, float]]]] = {"hundred": hundred, "one": one, "window": window}


def measured(name: str, environment: dict[str, str] | None) -> dict[str, float]:
    """Run one measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.log", "--measure", name]
    done = subprocess.run(command, env=environment or dict(os.environ), check=True, capture_output=True, text=True)  # noqa: S603
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Run the measures and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(MEASURES[asked.measure](Path(folder)))))
        return
    fixed = fixed_flush(1000)
    figures: dict[str, Any] = {"flush_ms": flush_ms(Path(tempfile.gettempdir()))}
    figures |= measured("hundred", None) | measured("window", None)
    figures |= measured("one", fixed) if fixed else {"append_1_vs_flush": None}
    if asked.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:12.3f}" if value is not None else f"{name:24} no compiler is at hand")


if __name__ == "__main__":
    main()
