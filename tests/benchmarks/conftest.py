"""The benchmarks are beside the sources, and not part of the wheel."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

if os.environ.get("TURNLOG_WHEEL"):
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.append(str(ROOT))


@pytest.fixture(autouse=True)
def nothing_blocks() -> None:
    """Allow blocking calls: what is measured has its event loop to itself."""
