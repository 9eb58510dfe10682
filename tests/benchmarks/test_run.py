"""A run, as small as can be: real processes, every measure of turnlog and the floor, and what it leaves behind."""

import json

import pytest

from benchmarks import log, readme
from benchmarks.fleet import Failed, Fleet
from benchmarks.page import page, write
from benchmarks.report import report
from benchmarks.run import SMALL, Job, Run
from benchmarks.shown import table

OURS = ("turnlog", "bare")


@pytest.fixture(scope="module")
def found():
    """A run of what takes no other processes, and of one that is not there."""
    return report(
        SMALL,
        packages=(*OURS, "eventsourcing"),
        measures=("appends", "windows", "turns", "window-growth", "turn-growth", "bytes", "replay", "prefixes"),
    )


def value(found, measure, system="turnlog"):
    return next(one["value"] for one in found["results"] if (one["measure"], one["system"]) == (measure, system))


def test_it_measures_turnlog_beside_the_floor(found):
    for system in ("turnlog", "bare SQLite", "bare file"):
        assert value(found, "append_5", system) > 0
        assert "FULL" in found["durability"][system] or "fdatasync" in found["durability"][system]
    assert value(found, "window_8k@200", "turnlog, live") > 0
    assert value(found, "window_8k_rows@200", "turnlog, live") == 0
    assert value(found, "window_8k@400") > 0
    assert value(found, "turn@10", "bare SQLite") > 0
    assert found["ratios"]["bytes_vs_json"] > 1
    assert 0 < found["ratios"]["shared_prefix_2000_turns"] < 1
    # How fast, no test says: machines are busy at times.
    assert found["ratios"]["verify_vs_decode"] > 0
    assert value(found, "recorded_vs_server") > 0
    assert found["ratios"]["append_1_vs_flush"] > 0


def test_flushes_are_counted_and_take_their_time_where_a_compiler_is(found):
    if found["machine"]["flush"] == "the disk's own":
        assert any("not counted" in note for note in found["notes"])
        pytest.skip("no compiler")
    assert found["flush_ms"] >= 1
    assert value(found, "append_1_flushes") == pytest.approx(1, abs=0.35)
    assert value(found, "append_5_flushes") < 1
    assert value(found, "turn_flushes@10") == 1


def test_a_package_that_is_not_there_is_left_out_aloud(found):
    left = [note for note in found["notes"] if note.startswith("eventsourcing is left out")]
    if "eventsourcing recorder" in found["durability"]:
        pytest.skip("it is installed")
    assert left == ['eventsourcing is left out: eventsourcing is not installed: pip install "turnlog[bench]"']


def test_it_is_shown_as_a_table_as_json_as_a_page_and_in_the_readme(found, tmp_path):
    json.dumps(found)
    told = table(found)
    for word in ("append_5", "bare SQLite", "synchronous=FULL", "shared_prefix_2000_turns", "not measured"):
        assert word in told
    assert "<table>" in page(found, [])
    write(found, tmp_path / "made")
    assert json.loads((tmp_path / "made" / "results.json").read_text())["ratios"] == found["ratios"]
    assert (tmp_path / "made" / "index.html").stat().st_size > 5_000
    text = readme.replaced(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n", readme.block(found))
    assert text.startswith(f"before\n{readme.BEGIN}\n`python -m benchmarks")
    assert text.endswith(f"{readme.END}\nafter\n")
    assert "old\n" not in text
    assert "| stored |" in text
    assert log.figures(found)["append_1_vs_flush"] == found["ratios"]["append_1_vs_flush"]


def test_a_readme_without_marks_is_not_guessed_at():
    with pytest.raises(SystemExit, match="no block to replace"):
        readme.replaced("nothing here", "x")


# -- processes and turns


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    import os

    with Fleet(("bare",), os.environ, tmp_path) as made:
        yield made


def test_a_task_that_fails_says_why_and_the_process_goes_on(fleet, tmp_path):
    kind = fleet.kind("bare SQLite")
    with pytest.raises(Failed, match="KeyError"):
        kind.ask("no such task", tmp_path / "a")
    assert kind.ask("durability", tmp_path / "a") == {"durability": "SQLite wal, synchronous=FULL"}


def test_a_process_that_is_gone_is_told_of(fleet, tmp_path):
    kind = fleet.kind("bare SQLite")
    kind.worker._process.kill()
    kind.worker._process.wait()
    with pytest.raises(Failed, match="its process ended with -9"):
        kind.ask("durability", tmp_path / "a")


def test_systems_take_turns_and_one_that_fails_is_left_out(fleet, tmp_path):
    run = Run(SMALL, fleet, tmp_path, 0, lambda _: None, 1e12)
    done = []

    def fails(number):
        done.append(("b", number))
        raise Failed("it broke")

    run.interleaved([Job("m", "a", lambda number: done.append(("a", number))), Job("m", "b", fails)])
    assert done == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]
    assert run.results.notes == ["m, b: it broke"]


def test_nothing_is_begun_when_the_time_is_over(fleet, tmp_path):
    run = Run(SMALL, fleet, tmp_path, 0, lambda _: None, -1e12)
    run.interleaved([Job("m", "a", lambda _: pytest.fail("it was begun"))])
    assert run.results.notes == ["m, a: the time for this measure was over"]
