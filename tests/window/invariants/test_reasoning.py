"""The invariant `reasoning_with_what_it_led_to`: all of a response's reasoning, with all it led to, or none."""

import pytest

from small_logs import (
    CHAT,
    OTHER_MODEL,
    RESPONSES,
    SmallLog,
    call,
    computer,
    custom,
    fate,
    kinds,
    note,
    output,
    said,
    search,
    sent,
    thought,
)

LED_TO = {
    "message": said(1),
    "function_call": call(1),
    "custom_tool_call": custom(1),
    "web_search_call": search(1),
}


@pytest.mark.parametrize("kind", LED_TO)
def test_reasoning_goes_with_what_it_led_to(kind):
    log = SmallLog()
    log.say("Think")
    reason, made = log.answer(thought(1), LED_TO[kind])
    window = log.window(RESPONSES)
    assert window.items[1:3] == [thought(1), LED_TO[kind]]
    assert [fate(window, seq) for seq in (reason, made)] == ["kept: it fits"] * 2
    assert log.refusals(window) == []


def test_several_thoughts_of_a_response_go_together():
    log = SmallLog()
    log.say("Think")
    log.answer(thought(1), thought(2), said(3), thought(4), call(5))
    log.say(output(5))
    window = log.window(RESPONSES)
    assert kinds(window)[1:6] == ["reasoning", "reasoning", "assistant", "reasoning", "function_call"]
    assert log.refusals(window) == []


def test_reasoning_alone_stays_behind():
    """Such is an answer that ran into its limit, or was broken off, while the model thought."""
    log = SmallLog()
    log.say("Think")
    alone = log.answer(thought(1))
    log.say("Well?")
    window = log.window(RESPONSES)
    assert fate(window, alone) == "dropped: nothing follows it"
    assert kinds(window) == ["user", "user"]
    assert log.refusals(window) == []


def test_reasoning_with_only_outputs_behind_it_stays_behind():
    log = SmallLog()
    log.say("Think")
    look, reason = log.answer(call(1), thought(2))
    log.say(output(1))
    window = log.window(RESPONSES)
    assert fate(window, look) == "kept: it fits"
    assert fate(window, reason) == "dropped: nothing follows it"
    assert kinds(window) == ["user", "function_call*", "function_call_output*"]
    assert log.refusals(window) == []


def test_where_one_thought_must_stay_behind_all_of_its_response_do():
    log = SmallLog()
    log.say("Think")
    first, answer, last = log.answer(thought(1), said(1), thought(2))
    window = log.window(RESPONSES)
    assert [fate(window, seq) for seq in (first, last)] == ["dropped: nothing follows it"] * 2
    assert fate(window, answer) == "kept: it fits"
    assert kinds(window) == ["user", "assistant*"]
    assert log.refusals(window) == []


@pytest.mark.parametrize(
    "lost", [computer(2), said(2, id="item_2"), said(2, id=None)], ids=["left out", "misnamed", "nameless"]
)
def test_reasoning_stays_behind_where_its_response_is_not_whole(lost):
    log = SmallLog()
    log.say("Think")
    reason, kept, _ = log.answer(thought(1), said(1), lost)
    window = log.window(RESPONSES)
    assert fate(window, reason) == "dropped: its response is not sent whole"
    assert fate(window, kept) == "kept: it fits"
    assert "reasoning" not in kinds(window)
    assert all("id" not in item for item in window.items)
    assert log.refusals(window) == []


def test_the_reasoning_of_other_responses_is_not_touched():
    log = SmallLog()
    log.say("Think")
    whole, _ = log.answer(thought(1), said(1))
    log.say("Again")
    broken, _, _ = log.answer(thought(2), computer(2), said(2))
    window = log.window(RESPONSES)
    assert fate(window, whole) == "kept: it fits"
    assert fate(window, broken) == "dropped: its response is not sent whole"
    assert kinds(window) == ["user", "reasoning", "assistant", "user", "assistant*"]
    assert log.refusals(window) == []


def test_what_no_table_knows_is_not_what_reasoning_led_to():
    log = SmallLog()
    log.say("Think")
    reason, unknown = log.answer(thought(1), note(1))
    window = log.window(RESPONSES)
    assert fate(window, reason) == "dropped: nothing follows it"
    assert fate(window, unknown) == "kept: it fits"
    assert kinds(window) == ["user", "acme:note*"]
    assert log.refusals(window) == []


def test_an_open_call_is_sealed_and_keeps_its_reasoning():
    log = SmallLog()
    log.say("Think")
    log.answer(thought(1), call(1))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "reasoning", "function_call", "function_call_output*"]
    assert log.refusals(window) == []


@pytest.mark.parametrize("target", [OTHER_MODEL, CHAT], ids=["another model", "chat"])
def test_without_its_reasoning_the_rest_is_taken_all_the_same(target):
    log = SmallLog()
    asked = log.say("Think")
    _, answer, look = log.answer(thought(1), said(1), call(2))
    looked = log.say(output(2))
    window = log.window(target)
    assert sent(window) == [asked, answer, look, looked]
    assert log.refusals(window) == []
