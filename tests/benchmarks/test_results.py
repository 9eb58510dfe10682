"""Figures, ratios, and what is said where there are none."""

import pytest

from benchmarks.report import MEASURES, document
from benchmarks.results import GROUPS, RATIOS, RAW, TYPED, Results, middle, percentile, slope

ISSUED = {
    "append_100_vs_best_peer",
    "append_100_vs_bare",
    "append_1_vs_flush",
    "window_8k_vs_best_peer",
    "window_100k_vs_best_peer",
    "window_exponent",
    "turn_vs_best_peer",
    "turn_exponent",
    "stream_vs_bare_client",
    "bytes_vs_json",
    "shared_prefix_2000_turns",
    "verify_vs_decode",
}


@pytest.fixture
def results():
    made = Results()
    for system, rate in (("turnlog", 900.0), ("bare SQLite", 1000.0), ("a", 100.0), ("b", 300.0)):
        made.add("append_100", system, [rate - 1, rate, rate + 5], "items/s")
    for system, time in (("turnlog", 0.5), ("bare SQLite", 0.1), ("a, limit", 4.0), ("b", 6.0)):
        made.add("window_8k@10000", system, [time], "ms")
    made.add_exponent("turn_exponent", "turnlog", {1: 99.0, 100: 1.0, 1_000: 0.5, 10_000: 1.0, 100_000: 2.0})
    made.add_exponent("window_8k_exponent", "turnlog", {100: 1.0, 1_000: 0.5, 10_000: 1.0})
    made.add("append_1_p50", "turnlog", [1.3], "ms")
    made.add("response_streamed", "turnlog", [12.0], "ms")
    made.add("response_streamed", RAW, [3.0], "ms")
    made.add("response_streamed", TYPED, [22.0], "ms")
    made.add("response_flushes", "turnlog", [2.0], "flushes/response")
    return made


def test_there_is_every_ratio_and_no_other(results):
    assert set(RATIOS) == ISSUED
    assert set(document(results, 1.0)["ratios"]) == ISSUED


def test_ratios_are_of_medians_and_better_is_more(results):
    ratios = document(results, 1.0)["ratios"]
    assert ratios["append_100_vs_best_peer"] == 3.0
    assert ratios["append_100_vs_bare"] == 0.9
    assert ratios["window_8k_vs_best_peer"] == 8.0
    assert ratios["append_1_vs_flush"] == 1.3
    assert ratios["stream_vs_bare_client"] == 12.0 / (3.0 + 2.0), "the client at its quickest, and the flushes"
    assert ratios["turn_exponent"] == pytest.approx(0.12, abs=0.001)


def test_a_ratio_that_was_not_measured_is_null_with_its_reason(results):
    results.note("bytes_per_item", "turnlog", "the disk was full")
    found = document(results, 1.0)
    missing = {name for name, value in found["ratios"].items() if value is None}
    assert missing == set(found["reasons"])
    assert found["reasons"]["bytes_vs_json"] == "bytes_per_item, turnlog: the disk was full"
    assert "three decades" in found["reasons"]["window_exponent"]
    assert "no peer" in found["reasons"]["turn_vs_best_peer"]


def test_a_streamed_response_is_shown_beside_both_ways_of_the_client(results):
    shown = {
        one["system"]: one["value"] for one in document(results, 1.0)["results"] if one["measure"].endswith("_client")
    }
    assert shown == {RAW: 12.0 / 5.0, TYPED: 12.0 / 24.0}


def test_where_no_peer_was_measured_it_is_said_why(results):
    late = "the time for this measure was over"
    for system in ("a, limit", "b"):
        results.note("window_100k@10000", system, late)
    results.note("window_100k@10000", "c", "its window holds 3 items, not the 4 that it should")
    results.note("window_100k@10000", "bare SQLite", "the floor")
    assert document(results, 1.0)["reasons"]["window_100k_vs_best_peer"] == (
        "window_100k@10000: no peer was measured: a, limit, b: the time for this measure was over; "
        "c: its window holds 3 items, not the 4 that it should"
    )
    results.peers = False
    assert "no peer takes part" in document(results, 1.0)["reasons"]["window_100k_vs_best_peer"]


def test_a_ratio_that_was_not_asked_for_says_so(results):
    for group in set(GROUPS.values()):
        results.left_out[group] = f"{group}: not asked for"
    reasons = document(results, 1.0)["reasons"]
    assert reasons["window_100k_vs_best_peer"] == "windows: not asked for"
    assert reasons["shared_prefix_2000_turns"] == "prefixes: not asked for"
    assert all(reason.endswith(": not asked for") for reason in reasons.values())
    assert set(GROUPS.values()) <= set(MEASURES)


def test_an_exponent_that_there_is_not_is_told_with_the_sizes_that_were_not_measured(results):
    for size in ("100000", "1000000"):
        results.note(f"window_8k@{size}", "turnlog", "the time for this measure was over")
    results.note("window_100k@100000", "turnlog", "another measure")
    results.note("window_8k@10000", "turnlog", "another matter: there is a figure")
    results.add("window_8k@10000", "turnlog", [1.0], "ms")
    told = document(results, 1.0)["reasons"]["window_exponent"]
    assert told.startswith("window_8k_exponent, turnlog: it was not measured over three decades; window_8k@100000, tu")
    assert told.endswith("window_8k@1000000, turnlog: the time for this measure was over")
    assert "another" not in told


def test_the_floor_is_no_peer(results):
    assert results.best("append_100", max).system == "b"
    assert results.best("window_8k@10000", min).system == "a, limit"


def test_a_document_has_the_shape_that_was_promised(results):
    found = document(results, 1.02)
    assert list(found)[:6] == ["machine", "flush_ms", "versions", "durability", "results", "ratios"]
    for one in found["results"]:
        assert set(one) == {"measure", "system", "value", "unit", "spread"}


def test_spread_is_of_the_middle_half_and_unknown_for_few():
    assert middle([1.0, 2.0]) is None
    assert middle([5.0] * 9 + [100.0]) == 0.0
    assert percentile(list(range(100)), 0.99) == 99
    assert slope({10: 5.0, 100: 5.0, 1000: 5.0}) == 0.0
