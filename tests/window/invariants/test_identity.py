"""The invariant `ids_only_where_accepted`: ids go back to the backend that gave them, with their whole response."""

import pytest

from small_logs import (
    CHAT,
    OTHER_BACKEND,
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
    screenshot,
    search,
    sent,
    thought,
)

NAMELESS = "dropped: the API takes it only with its id, which means nothing without its whole response"
MISNAMED = {
    "another prefix": "item_1",
    "none": "",
    "too long": f"msg_{'1' * 64}",
    "bad characters": "msg_1.2",
    "no text": 7,
}


def test_a_whole_response_goes_with_its_ids_to_the_backend_that_gave_them():
    log = SmallLog()
    log.say("Hello")
    log.answer(search(1), said(2), call(3), custom(4))
    window = log.window(RESPONSES)
    assert kinds(window)[1:5] == ["web_search_call", "assistant", "function_call", "custom_tool_call"]
    assert kinds(log.window(OTHER_MODEL)) == kinds(window)
    assert window.manifest.bare == ()
    assert log.refusals(window) == []


def test_another_backend_is_sent_no_ids():
    log = SmallLog()
    hello = log.say("Hello")
    seqs = log.answer(said(2), call(3), custom(4))
    window = log.window(OTHER_BACKEND)
    assert not window.manifest.is_bare(hello)  # it has none
    assert kinds(window)[1:4] == ["assistant*", "function_call*", "custom_tool_call*"]
    assert all(window.manifest.is_bare(seq) for seq in seqs)
    assert window.items[1] == {"type": "message", "role": "assistant", "content": "It rains."}
    assert window.items[2]["call_id"] == "call_3"
    assert log.refusals(window) == []


@pytest.mark.parametrize("bad", MISNAMED.values(), ids=MISNAMED)
def test_an_id_that_the_api_would_refuse_goes_nowhere_nor_do_those_beside_it(bad):
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1, id=bad), call(2))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "assistant*", "function_call*", "function_call_output*"]
    assert log.refusals(window) == []


@pytest.mark.parametrize("number", [1, "item_1"])
def test_what_a_caller_appends_goes_without_ids(number):
    log = SmallLog()
    log.say({"role": "user", "content": "Hello", "id": f"msg_{number}"})
    log.answer(call(1))
    log.say(output(1, id=f"fc_{number}"))
    log.say({"type": "configuration_update", "id": f"cu_{number}", "reasoning": {"effort": "low"}})
    window = log.window(RESPONSES)
    assert [item.get("id") for item in window.items] == [None, "fc_1", None, None]
    assert log.refusals(window) == []


def test_an_answer_that_a_caller_appends_goes_without_ids():
    log = SmallLog()
    log.say("Hello")
    log.say(said(1), call(2))
    log.say(output(2))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "assistant*", "function_call*", "function_call_output*"]
    assert log.refusals(window) == []


def test_what_needs_its_id_is_left_out_where_the_id_must_go():
    log = SmallLog()
    log.say("Hello")
    found, screen, lost = log.answer(search(1), computer(2), said(3, id="item_3"))
    shown = log.say(screenshot(2))
    window = log.window(RESPONSES)
    assert [fate(window, seq) for seq in (found, screen)] == [NAMELESS] * 2
    assert fate(window, shown) == "dropped: its call is not sent"
    assert fate(window, lost) == "kept: it fits"
    assert kinds(window) == ["user", "assistant*"]
    assert log.refusals(window) == []


def test_what_needs_an_id_and_has_none_is_left_out():
    log = SmallLog()
    log.say("Hello")
    nameless = {name: value for name, value in search(1).items() if name != "id"}
    seq, answer = log.answer(nameless, said(2))
    window = log.window(RESPONSES)
    assert fate(window, seq) == NAMELESS
    assert fate(window, answer) == "kept: it fits"
    assert log.refusals(window) == []


def test_a_response_of_which_something_is_left_out_goes_without_its_ids():
    """Its items would be looked up beside the reasoning that they were born with."""
    log = SmallLog()
    log.say("Hello")
    log.answer(thought(1), computer(2), call(3), said(4))
    log.say(output(3))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "function_call*", "assistant*", "function_call_output*"]
    assert log.refusals(window) == []


def test_what_needs_no_id_and_has_none_takes_none_from_what_stands_beside_it():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1), {"type": "function_call", "call_id": "call_2", "name": "look", "arguments": "{}"})
    window = log.window(RESPONSES)
    assert kinds(window)[1:3] == ["assistant", "function_call*"]
    assert window.manifest.bare == ()
    assert log.refusals(window) == []


def test_an_unknown_kind_keeps_its_id_as_long_as_its_response_does():
    log = SmallLog()
    log.say("Hello")
    seq, _ = log.answer(note(1), said(2))
    assert kinds(log.window(RESPONSES)) == ["user", "acme:note", "assistant"]
    log.answer(note(3), said(4, id="item_4"))
    window = log.window(RESPONSES)
    assert kinds(window)[3:] == ["acme:note*", "assistant*"]
    assert not window.manifest.is_bare(seq)
    assert log.refusals(window) == []


def test_the_id_of_a_local_shell_output_is_the_link_to_its_call_and_stays():
    log = SmallLog()
    log.say("List")
    shell = {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "action": {}, "status": "completed"}
    asked = log.answer(shell)
    answered = log.say({"type": "local_shell_call_output", "id": "call_1", "output": "a.txt"})
    window = log.window(RESPONSES)
    assert sent(window)[1:] == [asked, answered]
    assert window.items[-1]["id"] == "call_1"
    assert log.refusals(window) == []


def test_chat_has_no_item_ids():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1, id="item_1"), call(2))
    window = log.window(CHAT)
    assert window.manifest.bare == ()
    assert all("id" not in message for message in window.messages)
    assert log.refusals(window) == []
