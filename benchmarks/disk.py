"""The disk's part in a figure: how long a flush takes, how many there were, and runs in which each takes a fixed time.

A small library, built on the spot when a compiler is at hand, stands between a process and its flushes. A process that
was started with `preloaded()` can count them and set what they take; another one can do neither.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ("DISK", "flush_ms", "flush_takes", "flushed", "flushes_each", "preloaded")

DISK: Final = -1
"""For `flush_takes`: as long as the disk takes."""


def flush_ms(folder: Path, rounds: int = 50) -> float:
    """Return the median time of one flush of a small write in this process, in milliseconds."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(rounds):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            getattr(os, "fdatasync", os.fsync)(file.fileno())  # not everywhere is there such
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


@contextmanager
def preloaded() -> Iterator[tuple[dict[str, str], str | None]]:
    """Build the library; yield an environment for processes that are to have it, and else why there is none."""
    environment = dict(os.environ)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux"):
        yield environment, f"flushes can be stood in for on Linux, not on {sys.platform}"
        return
    if compiler is None:
        yield environment, "no C compiler is at hand (cc, gcc or clang)"
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "flush.so"
        source = Path(__file__).with_name("flush.c")
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if built.returncode:
            yield environment, f"{compiler} does not build flush.c: {built.stderr.strip()[-200:]}"
            return
        before = environment.get("LD_PRELOAD")
        yield {**environment, "LD_PRELOAD": f"{library} {before}" if before else str(library)}, None


@cache
def _library() -> Any:
    """Return what this process was started with, None where that is nothing of ours."""
    here = ctypes.CDLL(None)
    return here if hasattr(here, "turnlog_flushes") else None


def flush_takes(microseconds: int) -> bool:
    """Let each flush of this process take so long, or `DISK`; return whether that can be set."""
    library = _library()
    if library is not None:
        library.turnlog_flush_takes(ctypes.c_long(microseconds))
    return library is not None


def flushed() -> int | None:
    """Return how many flushes this process has made, None where they are not counted."""
    library = _library()
    return None if library is None else int(library.turnlog_flushes())


def flushes_each(before: int | None, times: int) -> float | None:
    """Return how many flushes there were for each of so many times since *before*, None where they are not counted."""
    after = flushed()
    return None if before is None or after is None or not times else (after - before) / times
