"""How much of a window the line's last request began with: so much the provider may have cached."""

import pytest

from small_logs import OTHER_MODEL, RESPONSES, WEIGHT, SmallLog, call, output, said, sent, thought
from turnlog.engine.canonical import encode
from turnlog.engine.events import PINNED
from turnlog.engine.tokens import SEAL_TOKENS
from turnlog.engine.window.budget import Budget

ROOM = Budget(1000)
TIGHT = Budget(100)
LARGE = {"tokens": 100, "excerpt": 20}


def conversation(turns):
    """Return a log of a pinned message and turns of 20 tokens."""
    log = SmallLog()
    log.say({"role": "system", "content": "Be brief."}, flags=PINNED)
    for number in range(turns):
        log.say(f"question {number}")
        log.answer(said(number))
    return log


def asked_twice(log, change, budget=ROOM):
    """Return the windows of two requests of one line, before and after a change."""
    before = log.window(RESPONSES, budget)
    log.ask(budget=budget)
    change()
    return before, log.window(RESPONSES, budget)


def same_items(before, after):
    """Return how many items two windows begin with that are the same, byte by byte."""
    pairs = zip(before.items, after.items, strict=False)
    return next((at for at, (one, two) in enumerate(pairs) if encode(one) != encode(two)), len(before.items))


def test_the_first_request_of_a_line_shares_nothing():
    log = conversation(3)
    log.ask(budget=ROOM)
    assert log.window(RESPONSES, Budget(999)).manifest.shared == 0
    assert log.window(OTHER_MODEL, ROOM).manifest.shared == 0


def test_a_window_that_only_grew_shares_all_of_the_one_before():
    log = conversation(3)
    before, after = asked_twice(log, lambda: log.say("more"))
    assert after.manifest.shared == before.manifest.items == 70
    assert same_items(before, after) == 7


def test_after_a_cut_what_is_pinned_in_front_is_shared():
    log = conversation(4)
    before, after = asked_twice(log, lambda: log.say("more", tokens=20), TIGHT)
    assert before.manifest.cut == 0
    assert after.manifest.cut > 0
    assert after.manifest.shared == WEIGHT
    assert same_items(before, after) == 1


def test_without_anything_in_front_a_cut_leaves_nothing_to_share():
    log = SmallLog()
    for number in range(5):
        log.say(f"question {number}")
        log.answer(said(number))
    _, after = asked_twice(log, lambda: log.say("more"), TIGHT)
    assert after.manifest.shared == 0


def test_between_two_cuts_the_cut_window_is_shared():
    log = conversation(6)
    before, after = asked_twice(log, lambda: log.say("more"), TIGHT)
    assert before.manifest.cut == after.manifest.cut > 0
    assert after.manifest.shared == before.manifest.items


def test_an_excerpt_ends_what_is_shared():
    log = conversation(0)
    log.say("Look")
    log.answer(call(10))
    log.say(output(10, "x" * 3000), **LARGE)
    log.answer(said(10))
    before, after = asked_twice(log, lambda: log.say("more", tokens=50), Budget(180))
    assert [window.manifest.cut for window in (before, after)] == [0, 0]
    assert after.manifest.shared == 3 * WEIGHT  # up to the call
    assert same_items(before, after) == 3


def test_a_late_output_ends_what_is_shared_behind_its_call():
    log = conversation(1)
    log.say("Look")
    log.answer(call(10))
    log.seal(10)
    log.say("Well?")
    before, after = asked_twice(log, lambda: log.say(output(10)))
    assert after.manifest.shared == 5 * WEIGHT
    assert same_items(before, after) == 5


def test_so_does_an_output_where_a_stand_in_was_sent():
    log = conversation(1)
    log.say("Look")
    log.answer(call(10))
    before, after = asked_twice(log, lambda: log.say(output(10)))
    assert before.manifest.items == 5 * WEIGHT + SEAL_TOKENS
    assert after.manifest.shared == 5 * WEIGHT
    assert same_items(before, after) == 5


def test_a_stand_in_that_is_sent_again_is_shared():
    log = conversation(1)
    log.say("Look")
    log.answer(call(10))
    before, after = asked_twice(log, lambda: log.say("Well?"))
    assert after.manifest.shared == before.manifest.items
    assert same_items(before, after) == len(before.items)


def test_ids_that_go_end_what_is_shared():
    """Something came late to a response that is not sent whole any more."""
    log = conversation(1)
    log.say("Look")
    unfinished = log.ask()
    log.give(unfinished, said(10), said(11))
    before, after = asked_twice(log, lambda: log.give(unfinished, said(12, id="item_12")))
    assert after.manifest.shared == 4 * WEIGHT
    assert same_items(before, after) == 4


def test_what_failed_ends_what_is_shared():
    log = conversation(1)
    log.say("Look")
    unfinished = log.ask()
    log.give(unfinished, thought(10), said(10))
    log.say("Well?")
    before, after = asked_twice(log, lambda: log.fail(unfinished))
    assert after.manifest.shared == 4 * WEIGHT
    assert same_items(before, after) == 4


@pytest.mark.parametrize("budget", [ROOM, TIGHT])
def test_what_is_not_sent_makes_no_difference(budget):
    log = conversation(3)
    log.answer(thought(20))
    before, after = asked_twice(log, lambda: log.say(output(99)), budget)
    assert sent(before) == sent(after)
    assert after.manifest.shared == before.manifest.items
