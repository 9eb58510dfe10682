"""The invariant `each_id_once`: of two items with one id, the later goes without, as all of its response."""

from small_logs import CHAT, RESPONSES, SmallLog, call, computer, fate, kinds, output, said, screenshot, sent, thought

AGAIN = "dropped: the API takes it only with its id, which an earlier item has"


def test_an_answer_that_repeats_an_id_goes_without_ids():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1))
    repeated, _ = log.answer(said(1), call(2))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "assistant", "assistant*", "function_call*", "function_call_output*"]
    assert window.manifest.is_bare(repeated)
    assert log.refusals(window) == []


def test_a_response_that_repeats_an_id_of_its_own_goes_without_ids():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1), said(1))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "assistant*", "assistant*"]
    assert log.refusals(window) == []


def test_the_answer_that_is_appended_once_more_goes_without_ids_or_thoughts():
    log = SmallLog()
    log.say("Hello")
    log.answer(thought(1), said(1))
    again, words = log.say(thought(1), said(1))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "reasoning", "assistant", "assistant*"]
    assert fate(window, again) == "dropped: only its maker can read this reasoning"
    assert fate(window, words) == "kept: it fits"
    assert log.refusals(window) == []


def test_what_needs_its_id_is_left_out_and_its_output_with_it():
    log = SmallLog()
    log.say("Look")
    log.answer(computer(1))
    log.say(screenshot(1))
    screen, words = log.answer(computer(1), said(2))
    shown = log.say(screenshot(1))
    window = log.window(RESPONSES)
    assert fate(window, screen) == AGAIN
    assert fate(window, shown) == "dropped: its call is not sent"
    assert fate(window, words) == "kept: it fits"
    assert log.refusals(window) == []


def test_reasoning_that_repeats_an_id_is_left_out():
    log = SmallLog()
    log.say("Think")
    log.answer(thought(1), said(1))
    again, _ = log.answer(thought(1), said(2))
    window = log.window(RESPONSES)
    assert fate(window, again) == AGAIN
    assert kinds(window) == ["user", "reasoning", "assistant", "assistant*"]
    assert log.refusals(window) == []


def test_an_id_that_is_not_sent_is_free():
    """The first was in a response that failed, so its id is no longer in the window."""
    log = SmallLog()
    log.say("Hello")
    asked = log.ask()
    log.give(asked, said(1))
    log.fail(asked)
    again = log.answer(said(1))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "assistant"]
    assert not window.manifest.is_bare(again)
    assert log.refusals(window) == []


def test_what_it_takes_away_weighs_nothing():
    log = SmallLog()
    log.say("Look")
    log.answer(thought(1), call(1))
    log.say(output(1))
    assert log.window(RESPONSES).manifest.items == 40
    log.answer(thought(1), said(2))
    assert log.window(RESPONSES).manifest.items == 50


def test_chat_has_no_ids_to_repeat():
    log = SmallLog()
    log.say("Hello")
    seqs = [log.answer(said(1)), log.answer(said(1))]
    window = log.window(CHAT)
    assert sent(window)[1:] == seqs
    assert window.manifest.bare == ()
    assert log.refusals(window) == []
