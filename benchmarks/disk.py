"""The disk's part in a figure: how long a flush takes here, and runs in which it takes a fixed time."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ("fixed_flush", "flush_ms")


def flush_ms(folder: Path, rounds: int = 50) -> float:
    """Return the median time of one flush of a small write, in milliseconds."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(rounds):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def fixed_flush(microseconds: int) -> dict[str, str] | None:
    """Return an environment in which every flush takes so long, None where no compiler is at hand."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = Path(tempfile.mkdtemp()) / "flush.so"
    source = Path(__file__).with_name("flush.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)  # noqa: S603
    return {**os.environ, "LD_PRELOAD": str(library), "TURNLOG_FLUSH_US": str(microseconds)}
