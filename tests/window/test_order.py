"""Order is by group: a response's items, then the outputs of its calls, then what others appended meanwhile."""

import pytest

from small_logs import (
    CHAT,
    RESPONSES,
    SmallLog,
    call,
    computer,
    custom,
    fate,
    kinds,
    output,
    roles,
    said,
    sent,
    thought,
)
from turnlog.engine.events import ASIDE

BOTH = pytest.mark.parametrize("target", [RESPONSES, CHAT], ids=["responses", "chat"])


def groups(log):
    """Return the history's groups in order, each as the seqs of its entries."""
    return [[entry.seq for entry in group.entries] for group in log.history()]


# -- outputs


@BOTH
def test_a_response_comes_before_the_outputs_of_its_calls_and_these_before_what_others_said_meanwhile(target):
    log = SmallLog()
    hello = log.say("Hello")
    asked = log.ask(target)
    first = log.give(asked, call(1))
    early = log.say(output(1))
    meanwhile = log.say("Hurry")
    second = log.give(asked, call(2))
    log.end(asked)
    late = log.say(output(2))
    window = log.window(target)
    assert sent(window) == [hello, first, second, early, late, meanwhile]
    assert log.refusals(window) == []


@BOTH
def test_outputs_of_parallel_calls_stand_in_the_order_in_which_they_came(target):
    log = SmallLog()
    log.say("Look everywhere")
    calls = log.answer(call(1), call(2), call(3))
    outputs = [log.say(output(number)) for number in (2, 3, 1)]
    window = log.window(target)
    assert sent(window)[1:] == [*calls, *outputs]
    assert log.refusals(window) == []


@BOTH
def test_outputs_of_interleaved_responses_stand_each_behind_its_own(target):
    log = SmallLog()
    log.say("Look")
    first = log.answer(call(1), custom(2))
    second = log.answer(call(3), call(4))
    outputs = [log.say(output(number)) for number in (3, 1)]
    own = log.say(output(2, of="custom_tool_call"))
    last = log.say(output(4))
    window = log.window(target)
    assert sent(window)[1:] == [*first, outputs[1], own, *second, outputs[0], last]
    assert log.refusals(window) == []
    if target is CHAT:
        assert roles(window)[1:] == [
            "assistant call_1 call_2",
            "tool",
            "tool",
            "assistant call_3 call_4",
            "tool",
            "tool",
        ]


@BOTH
def test_a_late_output_stands_behind_its_call_and_not_where_it_came(target):
    log = SmallLog()
    hello = log.say("Look")
    asked = log.answer(call(1))
    more = log.say("Meanwhile, a joke")
    joke = log.answer(said(2))
    late = log.say(output(1))
    window = log.window(target)
    assert sent(window) == [hello, asked, late, more, joke]
    assert window.manifest.sealed == ()
    assert log.refusals(window) == []


@BOTH
def test_a_late_output_takes_the_place_of_the_stand_in_of_the_window_before(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    before = log.window(target)
    late = log.say(output(1))
    after = log.window(target)
    assert (sent(before)[1:], before.manifest.sealed) == ([asked, asked], (asked,))
    assert (sent(after)[1:], after.manifest.sealed) == ([asked, late], ())
    assert log.refusals(before) == log.refusals(after) == []


@BOTH
def test_a_real_output_stands_where_its_seal_stood(target):
    log = SmallLog()
    log.say("Look")
    first, second = log.answer(call(1), call(2))
    seal = log.seal(1)
    clear = log.say(output(2))
    real = log.say(output(1))
    window = log.window(target)
    assert groups(log)[1] == [first, second, seal, clear, real]
    assert sent(window)[1:] == [first, second, clear, real]
    assert fate(window, seal) == f"superseded: superseded by the output at {real}"
    assert log.refusals(window) == []


@BOTH
def test_a_second_output_is_in_the_group_and_is_not_sent(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    first, second = log.say(output(1)), log.say(output(1, "rain"))
    window = log.window(target)
    assert groups(log)[1] == [asked, first, second]
    assert sent(window)[1:] == [asked, first]
    assert fate(window, second) == f"superseded: superseded by the first output, at {first}"


@BOTH
def test_an_output_is_for_the_latest_call_of_its_id(target):
    log = SmallLog()
    log.say("Look")
    first = log.answer(call(1))
    second = log.answer(call(1, id="fc_2"))
    answered = log.say(output(1))
    window = log.window(target)
    assert sent(window)[1:] == [first, first, second, answered]
    assert window.manifest.sealed == (first,)
    assert log.refusals(window) == []


# -- what others append


def test_what_came_while_an_answer_was_under_way_comes_after_it():
    log = SmallLog()
    hello = log.say("Hello")
    asked = log.ask()
    pairs = [(log.say(f"Wait, {number}"), log.give(asked, said(number))) for number in range(3)]
    log.end(asked)
    others, answers = zip(*pairs, strict=True)
    assert sent(log.window(RESPONSES)) == [hello, *answers, *others]


@BOTH
def test_an_answer_that_a_caller_appends_is_one_response(target):
    log = SmallLog()
    hello = log.say("Hello")
    words, looks = log.say(said(1), call(2))
    answered = log.say(output(2))
    window = log.window(target)
    assert groups(log) == [[hello], [words, looks, answered]]
    assert sent(window) == [hello, words, looks, answered]
    if target is CHAT:
        assert roles(window) == ["user", "assistant call_2", "tool"]


@BOTH
def test_an_example_that_a_caller_appends_keeps_its_order(target):
    log = SmallLog()
    seqs = log.say("Look", call(1), output(1), said(2), "And now?", said(3))
    window = log.window(target)
    assert sent(window) == seqs
    if target is CHAT:
        assert roles(window) == ["user", "assistant call_1", "tool", "assistant", "user", "assistant"]
    assert log.refusals(window) == []


def test_what_is_aside_is_in_no_window():
    log = SmallLog()
    log.say("Hello")
    asked = log.ask()
    title = log.give(asked, said(1), flags=ASIDE)
    log.end(asked)
    window = log.window(RESPONSES)
    assert kinds(window) == ["user"]
    assert fate(window, title) == "aside: aside"


# -- failed and unfinished responses


@BOTH
def test_nothing_of_a_failed_response_is_sent_again(target):
    log = SmallLog()
    hello = log.say("Look")
    asked = log.ask(target)
    gone = [*log.give(asked, said(1), call(2)), log.say(output(2))]
    meanwhile = log.say("Still there?")
    log.fail(asked)
    window = log.window(target)
    assert sent(window) == [hello, meanwhile]
    assert {fate(window, seq) for seq in gone} == {"superseded: its response failed"}
    assert log.refusals(window) == []


@BOTH
def test_an_output_for_a_call_of_a_failed_response_is_for_none(target):
    log = SmallLog()
    log.say("Look")
    asked = log.ask(target)
    log.give(asked, call(1))
    log.fail(asked)
    late = log.say(output(1))
    window = log.window(target)
    assert fate(window, late) == "dropped: its call is not in the window"
    again = log.answer(call(1), target=target)
    answered = log.say(output(1))
    window = log.window(target)
    assert sent(window)[1:] == [again, answered]
    assert fate(window, late) == "dropped: its call is not in the window"
    assert log.refusals(window) == []


@BOTH
def test_a_response_without_an_end_is_sent_as_far_as_it_came(target):
    log = SmallLog()
    hello = log.say("Look")
    asked = log.ask(target)
    words, looks = log.give(asked, said(1), call(2))
    window = log.window(target)
    assert sent(window) == [hello, words, looks, looks]
    assert log.refusals(window) == []


def test_what_was_undone_by_a_failure_may_come_again_under_the_same_ids():
    log = SmallLog()
    log.say("Look")
    asked = log.ask()
    log.give(asked, thought(1), computer(1))
    log.fail(asked)
    log.answer(thought(1), said(1))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "reasoning", "assistant"]
    assert log.refusals(window) == []
