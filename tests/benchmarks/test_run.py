"""A run, as small as can be: real processes, every measure of turnlog and the floor, and what it leaves behind."""

import json
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as main
from benchmarks import log, readme
from benchmarks.fleet import Failed, Fleet
from benchmarks.measures import tokens, windows
from benchmarks.page import page, write
from benchmarks.report import MEASURES, durability, report
from benchmarks.results import RATIOS, RAW, TYPED
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


def test_the_readme_names_what_was_not_measured_and_which_client_is_which(found):
    made = [
        ("response_streamed", "turnlog", 9.0, "ms"),
        ("response_streamed", RAW, 3.0, "ms"),
        ("response_streamed", TYPED, 25.0, "ms"),
        ("stream_vs_client", RAW, 1.8, "times"),
        ("stream_vs_client", TYPED, 0.33, "times"),
    ]
    results = [{"measure": m, "system": s, "value": v, "unit": u, "spread": None} for m, s, v, u in made]
    notes = ["append_1_p50, turnlog: the disk was full"]
    machine = found["machine"] | {"command": "python -m benchmarks", "plan": "quick"}
    told = readme.block(found | {"results": results, "notes": notes, "machine": machine})
    assert "| a streamed response | 9.00 ms |  |  | 3.00 ms (raw), 25.0 ms (as documented) |" in told
    assert "flushes that make it durable: 1.80 (raw), 0.33 (as documented)." in told
    assert "Not measured in this run: a durable append (the disk was full); durable appends, 100" in told
    assert "import (a quick run leaves it out)." in told


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(main, "report", lambda *_, **__: pytest.fail("it was measured"))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(tmp_path / "file" / "made")])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "Not a directory" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_printed_all_the_same(found, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "made"

    def measured(*_, **__):
        (folder / "results.json").mkdir()
        return found

    monkeypatch.setattr(main, "report", measured)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--json", "--output", str(folder)])
    with pytest.raises(SystemExit, match="printed above"):
        main.main()
    assert json.loads(capsys.readouterr().out)["ratios"] == found["ratios"]


def test_a_readme_without_marks_is_not_guessed_at():
    with pytest.raises(SystemExit, match="no block to replace"):
        readme.replaced("nothing here", "x")


@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"machine": {}}'])
def test_what_is_no_run_leaves_the_readme_as_it_was(text, tmp_path, monkeypatch, capsys):
    results, file = tmp_path / "results.json", tmp_path / "README.md"
    if text is not None:
        results.write_text(text)
    file.write_text(f"{readme.BEGIN}\nold\n{readme.END}\n")
    monkeypatch.setattr("sys.argv", ["readme", str(results), "--readme", str(file)])
    with pytest.raises(SystemExit) as ended:
        readme.main()
    assert ended.value.code == 2
    assert "results.json" in capsys.readouterr().err
    assert "old" in file.read_text()


# -- one measure alone


@pytest.mark.parametrize(
    ("measure", "figures"),
    [
        ("replay", ["verify_log", "decode_log", "rebuild", "recorded_vs_server"]),
        ("memory", ["memory_window", "memory_conversation"]),
    ],
)
def test_a_measure_stands_on_its_own_feet(measure, figures):
    found = report(SMALL, packages=OURS, measures=(measure,))
    for name in figures:
        assert value(found, name) is not None
    others = [name for name, value in found["ratios"].items() if value is None]
    assert "appends: not asked for; --only appends measures it" in (found["reasons"][name] for name in others)


def test_measures_are_taken_in_their_order_and_once_each(monkeypatch):
    taken = []
    for name in ("windows", "memory", "imports"):
        monkeypatch.setitem(MEASURES, name, lambda _, name=name: taken.append(name))
    report(SMALL, packages=OURS, measures=("imports", "memory", "windows", "memory"))
    assert taken == ["windows", "memory", "imports"]


def test_the_help_says_which_measure_gives_which_ratio(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit):
        main.main()
    told = capsys.readouterr().out
    for name in (*MEASURES, *RATIOS):
        assert name in told


@pytest.mark.parametrize("flush", ["soon", "0", "nan", "1001", "-1"])
def test_a_flush_that_is_no_time_is_refused_with_what_is_meant(flush, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", f"--flush={flush}"])
    with pytest.raises(SystemExit):
        main.main()
    assert f"{flush}: give milliseconds, from 0.001 to 1000, or disk" in capsys.readouterr().err


@pytest.mark.parametrize("exact", [True, False])
def test_how_far_off_guesses_are_is_not_told_by_a_guess(exact, tmp_path):
    ways = {"turnlog": {"seconds": 0.01}, "guess": {"seconds": 0.01, "items": [0.0] * 9, "windows": [0.0] * 9}}
    kind = SimpleNamespace(name="turnlog", ask=lambda *_, **__: {"exact": exact, "ways": ways})
    fleet = SimpleNamespace(kind=lambda _: kind)
    run = Run(SMALL, fleet, tmp_path, 0, lambda _: None, 1e12)
    tokens.counting(run)
    assert run.results.value("count_tokens", "guess") is not None
    assert (run.results.value("count_error_items_p95", "guess") is not None) == exact
    assert (run.results.why("count_error", "guesses") is None) == exact


# -- durability


def durable(system, said):
    """Return a kind that says this of its durability."""
    return SimpleNamespace(name=system, ask=lambda *_: said)


FULL = {"durability": "SQLite wal, synchronous=FULL", "flushes": 1.0}


@pytest.mark.parametrize(
    "said",
    [
        {"durability": "SQLite wal, synchronous=NORMAL", "flushes": None},
        {"durability": "SQLite wal, synchronous=FULL", "flushes": 0.0},
    ],
)
def test_who_does_not_flush_is_measured_in_nothing_and_turnlog_must(said, tmp_path):
    fleet = SimpleNamespace(kinds=[durable("turnlog", FULL), durable("quick one", said), durable("sound one", FULL)])
    run = Run(SMALL, fleet, tmp_path, 0, lambda _: None, 0.0)
    assert durability(run)["quick one"] == said["durability"]
    assert [kind.name for kind in fleet.kinds] == ["turnlog", "sound one"]
    assert run.results.why("durability", "quick one").startswith("nothing of it is measured: what it acknowledges is")
    fleet.kinds[0] = durable("turnlog", said)
    with pytest.raises(Failed, match="turnlog: what it acknowledges is not flushed"):
        durability(run)


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
    assert kind.ask("durability", tmp_path / "a")["durability"] == "SQLite wal, synchronous=FULL"


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


# -- time


class Slow:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Slow()
    monkeypatch.setattr("benchmarks.run.time", made)
    return made


PLAN = SMALL._replace(limit=100.0, shares={"windows": 10.0, "turns": 10.0, "bytes": 30.0})


def left(run, clock):
    """Return how long a measure that begins now has."""
    begun = clock.now
    while not run.over:
        clock.now += 1.0
    found, clock.now = clock.now - begun - 1.0, begun
    return found


def test_all_of_the_time_goes_to_what_is_asked_for(clock, tmp_path):
    run = Run(PLAN, None, tmp_path, 0, print, 0.0, ["windows"])
    with run.share("windows"):
        assert left(run, clock) == 100.0


def test_what_one_measure_leaves_goes_to_the_others(clock, tmp_path):
    run = Run(PLAN, None, tmp_path, 0, print, 0.0, ["windows", "turns", "bytes"])
    with run.share("windows"):
        assert left(run, clock) == 20.0
        clock.now += 60.0  # it took what it took
    with run.share("turns"):
        assert left(run, clock) == 10.0
    with run.share("bytes"):
        assert left(run, clock) == 40.0


def test_what_takes_long_to_make_is_measured_once_it_is_there(clock, tmp_path):
    run = Run(PLAN, None, tmp_path, 0, lambda _: None, 0.0, ["windows"])
    done = []

    def ready(name, seconds):
        done.append(f"made {name}")
        clock.now += seconds

    def job(name, seconds):
        return Job("m", name, lambda number: done.append(f"{name} {number}"), lambda: ready(name, seconds))

    with run.share("windows"):
        run.interleaved([job("a", 20.0), job("b", 90.0), job("c", 1.0)])
    assert done == ["made a", "a 0", "made b", "b 0"]
    fewer = "measured in 1 of 3 rounds: it used its time up"
    assert run.results.notes == ["m, c: the time for this measure was over", f"m, a: {fewer}", f"m, b: {fewer}"]


def test_what_an_exponent_is_made_of_is_measured_as_often_as_planned_though_time_is_over(clock, tmp_path):
    run = Run(PLAN, None, tmp_path, 0, lambda _: None, 0.0, ["windows"])
    done = []

    def work(number):
        done.append(number)
        clock.now += 80.0

    with run.share("windows"):
        run.interleaved([Job("m", "a", work, least=3)])
    assert done == [0, 1, 2]
    assert run.results.notes == []


def test_what_is_short_is_measured_though_others_have_used_the_time_up(clock, tmp_path):
    run = Run(PLAN._replace(grace=2.5), None, tmp_path, 0, lambda _: None, 0.0, ["windows"])
    done = []

    def job(name, seconds):
        def work(number):
            done.append(f"{name} {number}")
            clock.now += seconds

        return Job("m", name, work)

    with run.share("windows"):
        run.interleaved([job("a", 1.0), job("b", 150.0), job("c", 1.0)])
    assert done == ["a 0", "b 0", "a 1", "a 2"]
    assert run.results.why("m", "b") == "measured in 1 of 3 rounds: it used its time up"
    assert run.results.why("m", "c") == "the time for this measure was over"


class Hosted:
    """A kind that makes so many items a second, and answers at once."""

    ways = ("cold",)
    name = "turnlog"

    def __init__(self, clock, pace):
        self.clock, self.pace, self.asked = clock, pace, []

    def ask(self, task, folder, **given):
        self.asked.append((task, given["conversation"]))
        if task != "seed":
            return {"items": 1, "digest": "", "rows": 1, "times": [0.001]}
        done = min(given["count"], int(given["seconds"] * self.pace))
        self.clock.now += done / self.pace
        return {"items": done}


def test_the_longest_conversation_is_given_up_and_the_others_are_measured(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "walked", lambda *_: (1, ""))
    kind = Hosted(clock, 400)
    plan = PLAN._replace(limit=60.0, sizes=(100, 1_000, 10_000, 100_000), long_sizes=(10_000,))
    fleet = SimpleNamespace(kinds=[kind])
    run = Run(plan, fleet, tmp_path, 0, lambda _: None, 0.0, ["window-growth"])
    with run.share("window-growth"):
        windows.growing(run)
    sizes = [size for size in plan.sizes if run.results.value(f"window_8k@{size}", "turnlog") is not None]
    assert sizes == [100, 1_000, 10_000]
    assert run.results.value("window_100k@10000", "turnlog") is not None
    assert run.results.why("window_8k@100000", "turnlog").startswith("the time for this measure was over")
    assert kind.asked.index(("windows", "w100")) < kind.asked.index(("seed", "w1000"))
