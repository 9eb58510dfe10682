"""What docs/policies.md shows runs, and what it says of figures and of parts is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from turnlog import Budget
from turnlog.engine.testing.prefixes import prefix_of
from turnlog.engine.window import parts, policies
from turnlog.engine.window.policies import (
    Composed,
    DropTurns,
    LastTurns,
    LeaveRoom,
    OldestTurns,
    Pinned,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "policies.md"

pytestmark = pytest.mark.skipif(bool(os.environ.get("TURNLOG_WHEEL")), reason="the page is not beside the wheel")


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_composed_policy_keeps_the_first_question():
    told = run(blocks()[0])
    assert re.fullmatch(r"question 0 \d+ pinned\+oldest-turns\+leave-room\(20\)@1\n", told), told


def test_a_part_of_ones_own_is_named():
    assert run(blocks()[1]) == "<Composed drop-tools+oldest-turns@1>\n"


def test_every_part_is_on_the_page():
    names = [name for name in parts.__all__ if hasattr(getattr(parts, name), "__init__") and name[0].isupper()]
    for name in {*names, *policies.__all__} - {"LOW", "Part", "Policy", "check_policy", "check_part"}:
        assert name in PAGE.read_text(), name


@pytest.mark.anyio
async def test_the_figures_of_the_page_are_those_of_the_benchmark(long):
    if not long:
        pytest.skip("all 2,000 turns only with --long")
    rows = re.findall(r"\| (.*?) \| ([\d,]+) \| ([\d.]+) % \|", PAGE.read_text())
    found = []
    for policy in (
        OldestTurns(),
        Composed(Pinned(), OldestTurns(), LeaveRoom(4_000)),
        Composed(LastTurns(20)),
        Composed(DropTurns(0.75)),
        Composed(DropTurns(1.0, keep=0)),
    ):
        shares = await prefix_of(policy, Budget(32_000), turns=2_000)
        found.append((f"{shares.cuts:,}", f"{100 * shares.share:.1f}"))
    assert found == [row[1:] for row in rows]
