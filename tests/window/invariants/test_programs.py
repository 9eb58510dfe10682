"""The invariant `programs_with_their_outputs`; and what a program called, once the program is gone."""

from small_logs import (
    CHAT,
    OTHER_BACKEND,
    RESPONSES,
    SmallLog,
    call,
    fate,
    kinds,
    output,
    program,
    program_output,
    said,
    sent,
    thought,
)
from turnlog.engine.window.budget import Budget

CALLER = {"caller": {"type": "program", "caller_id": "prog_1"}}


def looked():
    """Return a log in which a program called a tool, got its output, and ended in a second answer; with the seqs."""
    log = SmallLog()
    hello = log.say("Hello")
    first = log.answer(program(1), call(1, **CALLER))
    told = log.say(output(1, **CALLER))
    second = log.answer(program_output(1), said(1))
    return log, hello, first, told, second


def test_a_program_stands_with_its_output_in_another_answer():
    log, hello, first, told, second = looked()
    window = log.window(RESPONSES)
    assert sent(window) == [hello, *first, told, *second]
    assert window.items[2]["caller"] == window.items[3]["caller"] == CALLER["caller"]
    assert log.refusals(window) == []


def test_a_program_that_never_ended_takes_the_other_of_its_answer_along_and_that_its_output():
    """The answer goes without its ids then, and the API takes no program without one."""
    log = SmallLog()
    hello = log.say("Hello")
    first = log.answer(program(1), program(2))
    second = log.answer(program_output(1), said(1))
    window = log.window(RESPONSES)
    assert sent(window) == [hello, second[1]]
    assert fate(window, first[1]) == "dropped: it has no output"
    assert fate(window, first[0]) == "dropped: its response is not sent whole"
    assert fate(window, second[0]) == "dropped: its program is not sent"
    assert log.refusals(window) == []


def test_an_output_goes_when_a_cut_has_taken_its_program():
    log, _, first, _, second = looked()
    window = log.window(RESPONSES, Budget(35))
    assert fate(window, first[0]).startswith("dropped: oldest-turns@1")
    assert fate(window, second[0]) == "dropped: its program is not sent"
    assert kinds(window) == ["user", "assistant*"]
    assert log.refusals(window) == []


def test_a_program_that_never_ended_goes_and_what_it_called_is_a_call_of_its_own():
    log = SmallLog()
    log.say("Hello")
    made = log.answer(thought(1), program(1), call(1, **CALLER))
    log.say(output(1, **CALLER))
    log.say("And now?")
    log.answer(said(2))
    window = log.window(RESPONSES)
    assert fate(window, made[1]) == "dropped: it has no output"
    assert kinds(window) == ["user", "function_call*", "function_call_output*", "user", "assistant"]
    assert not any("caller" in item for item in window.items)
    assert log.refusals(window) == []


def test_the_program_of_the_latest_answer_may_still_be_running():
    log = SmallLog()
    hello = log.say("Hello")
    made = log.answer(program(1), call(1, **CALLER))
    told = log.say(output(1, **CALLER))
    window = log.window(RESPONSES)
    assert sent(window) == [hello, *made, told]
    assert log.refusals(window) == []


def test_a_program_that_never_ended_is_not_taken_for_a_later_one_of_its_id():
    log = SmallLog()
    hello = log.say("Hello")
    endless = log.answer(program(1))
    asked = log.say("Well?")
    later = log.answer(program(1, id="pr_2"))
    seqs = [hello, asked, later]
    for _ in range(2):
        window = log.window(RESPONSES)
        assert sent(window) == seqs
        assert fate(window, endless) == "dropped: it has no output"
        assert log.refusals(window) == []
        seqs += log.answer(program_output(1), said(1))


def test_another_backend_gets_what_a_program_called_as_calls():
    log, *_ = looked()
    for target in (OTHER_BACKEND, CHAT):
        window = log.window(target)
        assert log.refusals(window) == []
        assert "program" not in str(window.items)
        assert len(window.items) == 4


def test_the_same_group_still_stands_whole_where_its_program_is_sent():
    """What was left out of one window is not left out of the next."""
    log, hello, first, told, second = looked()
    history = log.history()
    small, large = (log.window(RESPONSES, Budget(size), history=history) for size in (35, 1000))
    assert second[0] not in sent(small)
    assert sent(large) == [hello, *first, told, *second]
