"""What a manifest says of every seq: what was sent, what was left out and why, and how sure its figures are."""

import pytest

from small_logs import CHAT, RESPONSES, WEIGHT, SmallLog, call, fate, output, said, thought
from turnlog.engine.events import ESTIMATED, PINNED, StandIn
from turnlog.engine.manifest import Run
from turnlog.engine.window.budget import Budget

CUT = "oldest-turns@1: over 40 counted tokens, cut to 40"
TIGHT = Budget(40)
AROUND = 6
"""Tokens by which what an API puts around an item may be off."""


def fates(window):
    """Return the window's runs, as their last seqs with what became of them."""
    return [(run.last, run.fate) for run in window.manifest.runs]


# -- runs


def test_what_carries_no_item_goes_with_what_stands_before_it():
    log = SmallLog()  # 1, created
    log.say("Hello")  # 2
    log.answer(thought(1), said(1, id="item_1"))  # 3, asked; 4 and 5; 6, completed
    window = log.window(RESPONSES)
    assert fates(window) == [(3, "kept"), (4, "dropped"), (6, "kept")]
    log.answer(thought(2))  # 7, asked; 8; 9, completed
    window = log.window(RESPONSES)
    assert fates(window) == [(3, "kept"), (4, "dropped"), (7, "kept"), (9, "dropped")]


def test_what_carries_no_item_behind_what_is_pinned_is_not_pinned():
    log = SmallLog()
    log.say({"role": "system", "content": "Be brief."}, flags=PINNED)
    log.ask()
    assert fates(log.window(RESPONSES)) == [(1, "kept"), (2, "pinned"), (3, "kept")]


def test_below_the_cut_everything_that_is_not_sent_has_one_rule():
    log = SmallLog()
    log.say("Hello")  # 2
    log.answer(thought(1))  # 3, 4, 5
    pinned = log.say("My name is Ada.", flags=PINNED)  # 6
    log.say("Look")  # 7
    log.answer(call(2))  # 8, 9, 10
    log.say(output(2))  # 11
    log.say("Thanks")  # 12
    log.answer(said(3))  # 13, 14, 15
    log.say("last")  # 16
    window = log.window(RESPONSES, TIGHT)
    assert fates(window) == [(5, "dropped"), (6, "pinned"), (11, "dropped"), (16, "kept")]
    assert {fate(window, seq) for seq in range(1, 12) if seq != pinned} == {f"dropped: {CUT}"}
    assert window.manifest.rules[window.manifest.cut_by] == CUT


def test_an_output_of_a_dropped_call_has_a_rule_of_its_own_where_it_came_behind_the_cut():
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    log.say("Meanwhile")
    log.answer(said(2))
    late = log.say(output(1))
    log.say("last")
    window = log.window(RESPONSES, TIGHT)
    assert fate(window, asked) == f"dropped: {CUT.replace('cut to 40', 'cut to 30')}"
    assert fate(window, late) == "dropped: its call is not in the window"
    assert log.refusals(window) == []


def test_a_long_log_has_a_short_manifest():
    log = SmallLog()
    for number in range(200):
        log.say(f"question {number}")
        log.answer(said(number))
    manifest = log.window(RESPONSES, TIGHT).manifest
    assert manifest.runs == (Run(1, 793, "dropped", 1), Run(794, 801, "kept", 0))


def test_what_comes_after_a_window_is_later():
    log = SmallLog()
    log.say("Hello")
    window = log.window(RESPONSES)
    assert fate(window, 3) == "later: the window is as of 2"
    assert [verdict.seq for verdict in window.explain()] == [1, 2]


@pytest.mark.anyio
async def test_what_was_rewound_is_so_on_both_sides_of_the_cut():
    log = SmallLog()
    log.say("Hello")  # 2
    log.say("No")  # 3
    log.rewind(2)  # 4
    log.answer(said(1))  # 5, 6, 7
    log.say("And?")  # 8
    log.answer(said(2))  # 9, 10, 11
    log.say("No")  # 12
    log.rewind(11)  # 13
    log.say("last")  # 14
    window = await log.stored_window(RESPONSES, Budget(30))
    assert fates(window) == [
        (2, "dropped"),
        (3, "rewound"),
        (7, "dropped"),
        (11, "kept"),
        (12, "rewound"),
        (14, "kept"),
    ]
    window = await log.stored_window(RESPONSES)
    assert fates(window) == [(2, "kept"), (3, "rewound"), (11, "kept"), (12, "rewound"), (14, "kept")]


@pytest.mark.anyio
async def test_what_is_compacted_has_its_rule_whatever_is_cut_behind_it():
    log = SmallLog()
    log.say("Hello")  # 2
    log.answer(said(1))  # 3, 4, 5
    log.compact(5, StandIn(seq=2))  # 6
    log.say("And?")  # 7
    log.answer(said(2))  # 8, 9, 10
    log.say("last")  # 11
    window = await log.stored_window(RESPONSES, Budget(30))
    assert fates(window) == [(5, "compacted"), (6, "kept"), (10, "dropped"), (11, "kept")]
    assert fate(window, 4) == "compacted: the compaction at 6"
    assert window.manifest.rules[window.manifest.cut_by] == "oldest-turns@1: over 20 counted tokens, cut to 10"


# -- figures


def test_a_window_of_counted_text_is_measured():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1))
    window = log.window(RESPONSES, overhead=5)
    assert (window.tokens.total, window.tokens.measured) == (2 * WEIGHT + 5, True)
    assert window.tokens.bound == 2 * AROUND


def test_a_window_says_how_much_of_it_is_estimated():
    log = SmallLog()
    log.say("Hello")
    log.answer(thought(1), said(1), flags=ESTIMATED, tokens=50)
    window = log.window(RESPONSES)
    assert (window.tokens.total, window.tokens.measured) == (110, False)
    assert window.tokens.bound == 2 * 50 + 3 * AROUND
    assert log.window(CHAT).tokens.bound == 50 + 2 * AROUND  # without the thought


@pytest.mark.anyio
@pytest.mark.parametrize("secret", [True, False])
async def test_so_it_does_of_a_compaction_that_only_its_maker_can_read(secret):
    log = SmallLog()
    log.say("Hello")
    opaque = {"type": "compaction", "encrypted_content": "secret"}
    log.compact(2, StandIn(item=opaque) if secret else StandIn(seq=2), tokens=30)
    log.say("last")
    window = await log.stored_window(RESPONSES)
    assert window.tokens.measured is not secret
    assert window.tokens.bound == (30 if secret else 0) + AROUND


def test_the_bound_grows_with_the_factor():
    log = SmallLog()
    log.say("Hello")
    asked = log.ask(budget=Budget(100))
    log.give(asked, said(1))
    log.end(asked, usage=30)  # 10 were counted
    window = log.window(RESPONSES, Budget(100))
    assert (window.tokens.total, window.tokens.bound) == (60, 3 * 2 * AROUND)
