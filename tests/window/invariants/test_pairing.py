"""The invariants `calls_with_their_outputs` and `outputs_with_their_calls`: one of each, by kind and link."""

import pytest

from small_logs import (
    CHAT,
    OTHER_BACKEND,
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
    screenshot,
    sent,
    thought,
)
from turnlog.engine.window.render import SEALED

BOTH = pytest.mark.parametrize("target", [RESPONSES, CHAT], ids=["responses", "chat"])
SPOKEN = {"function_call": call, "custom_tool_call": custom}
APPROVAL = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "find", "arguments": "{}", "server_label": "s"}
LOCAL_SHELL = {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "action": {}, "status": "completed"}
UNSEALABLE = {
    "computer_call": computer(1),
    "local_shell_call": LOCAL_SHELL,
    "shell_call": {"type": "shell_call", "call_id": "call_1", "action": {"commands": ["ls"]}},
    "apply_patch_call": {"type": "apply_patch_call", "call_id": "call_1", "operation": {}, "status": "completed"},
    "tool_search_call": {"type": "tool_search_call", "call_id": "call_1", "execution": "client", "arguments": {}},
}


# -- calls


@BOTH
@pytest.mark.parametrize("kind", SPOKEN)
def test_a_call_without_output_is_followed_by_one_that_says_so(kind, target):
    log = SmallLog()
    log.say("Look")
    open_call = log.answer(SPOKEN[kind](1))
    window = log.window(target)
    assert fate(window, open_call) == "kept: it fits"
    assert window.manifest.sealed == (open_call,)
    assert window.items[-1] == {"type": f"{kind}_output", "call_id": "call_1", "output": SEALED}
    assert log.refusals(window) == []


@BOTH
def test_a_call_with_its_output_is_followed_by_nothing_else(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    answered = log.say(output(1))
    window = log.window(target)
    assert sent(window)[1:] == [asked, answered]
    assert window.manifest.sealed == ()
    assert log.refusals(window) == []


@BOTH
def test_only_the_open_one_of_several_calls_is_sealed(target):
    log = SmallLog()
    log.say("Look")
    _, second, _ = log.answer(call(1), call(2), custom(3))
    log.say(output(3, of="custom_tool_call"))
    log.say(output(1))
    window = log.window(target)
    assert window.manifest.sealed == (second,)
    assert log.refusals(window) == []


@pytest.mark.parametrize("kind", UNSEALABLE)
def test_a_call_whose_output_is_no_text_goes_only_with_its_output(kind):
    log = SmallLog()
    log.say("Look")
    open_call, answer = log.answer(UNSEALABLE[kind], said(2))
    window = log.window(RESPONSES)
    assert fate(window, open_call) == "dropped: it has no output"
    assert fate(window, answer) == "kept: it fits"
    assert log.refusals(window) == []


def test_a_call_whose_output_is_no_text_takes_its_thoughts_and_all_ids_with_it():
    log = SmallLog()
    log.say("Look")
    reason, _, _ = log.answer(thought(1), computer(1), call(2))
    log.say(output(2))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "function_call*", "function_call_output*"]
    assert fate(window, reason) == "dropped: its response is not sent whole"
    assert log.refusals(window) == []


def test_a_request_for_approval_may_stand_open():
    log = SmallLog()
    log.say("Find it")
    request = log.answer(APPROVAL)
    window = log.window(RESPONSES)
    assert fate(window, request) == "kept: it fits"
    assert window.items[-1] == APPROVAL
    assert log.refusals(window) == []


@BOTH
def test_of_two_calls_with_one_id_in_a_response_the_first_goes(target):
    log = SmallLog()
    log.say("Look")
    first, second = log.answer(call(1), call(1, id="fc_2"))
    answered = log.say(output(1))
    window = log.window(target)
    assert sent(window)[1:] == [first, answered]
    assert fate(window, second) == "dropped: another call of its response has the same id"
    assert log.refusals(window) == []


@BOTH
def test_calls_of_two_kinds_may_have_one_id(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1), custom(1))
    answered = [log.say(output(1, of="custom_tool_call")), log.say(output(1))]
    window = log.window(target)
    assert sent(window)[1:] == [*asked, *answered]
    assert log.refusals(log.window(RESPONSES)) == []


@BOTH
def test_calls_of_two_responses_may_have_one_id(target):
    """As some backends count their calls from zero each time."""
    log = SmallLog()
    log.say("Look")
    first = log.answer(call(1))
    dull = log.say(output(1, "dull"))
    second = log.answer(call(1, id="fc_2"))
    fine = log.say(output(1, "fine"))
    window = log.window(target)
    assert sent(window)[1:] == [first, dull, second, fine]
    assert log.refusals(window) == []


# -- outputs


@BOTH
def test_an_output_without_call_is_left_out(target):
    log = SmallLog()
    log.say("Look")
    orphan = log.say(output(1))
    log.say("Well?")
    window = log.window(target)
    assert fate(window, orphan) == "dropped: its call is not in the window"
    assert kinds(window) == ["user", "user"]
    assert log.refusals(window) == []


@BOTH
def test_an_output_of_another_kind_is_no_output_of_a_call(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    wrong = log.say(output(1, of="custom_tool_call"))
    window = log.window(target)
    assert fate(window, wrong) == "dropped: its call is not in the window"
    assert window.manifest.sealed == (asked,)
    assert log.refusals(window) == []


@BOTH
def test_an_output_that_came_before_its_call_is_none_of_it(target):
    log = SmallLog()
    early = log.say(output(1))
    asked = log.answer(call(1))
    window = log.window(target)
    assert fate(window, early) == "dropped: its call is not in the window"
    assert window.manifest.sealed == (asked,)
    assert log.refusals(window) == []


def test_an_output_goes_with_its_call_where_the_call_goes():
    log = SmallLog()
    log.say("Look")
    asked = log.answer(computer(1))
    shown = log.say(screenshot(1))
    window = log.window(RESPONSES)
    assert sent(window)[1:] == [asked, shown]
    window = log.window(OTHER_BACKEND)
    assert fate(window, asked).startswith("dropped: the API takes it only with its id")
    assert fate(window, shown) == "dropped: its call is not sent"
    assert log.refusals(window) == []


@BOTH
def test_the_first_output_of_a_call_stands(target):
    log = SmallLog()
    log.say("Look")
    log.answer(call(1))
    first = log.say(output(1, "clear"))
    second = log.say(output(1, "rain"))
    window = log.window(target)
    assert fate(window, first) == "kept: it fits"
    assert fate(window, second) == f"superseded: superseded by the first output, at {first}"
    assert log.refusals(window) == []


@BOTH
def test_a_real_output_takes_the_place_of_a_seal(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    seal = log.seal(1)
    real = log.say(output(1))
    window = log.window(target)
    assert sent(window)[1:] == [asked, real]
    assert fate(window, seal) == f"superseded: superseded by the output at {real}"
    assert log.refusals(window) == []


@BOTH
def test_a_seal_takes_no_place_that_is_taken(target):
    log = SmallLog()
    log.say("Look")
    log.answer(call(1), call(2))
    real, seal = log.say(output(1)), log.seal(1)
    older, younger = log.seal(2), log.seal(2)
    window = log.window(target)
    assert [fate(window, seq) for seq in (real, older)] == ["kept: it fits"] * 2
    assert fate(window, seal) == f"superseded: superseded by the first output, at {real}"
    assert fate(window, younger) == f"superseded: superseded by the first output, at {older}"
    assert log.refusals(window) == []


@BOTH
def test_outputs_stand_behind_their_calls_however_they_came(target):
    """Not by adjacency: text between a call and its output parts nothing."""
    log = SmallLog()
    log.say("Look")
    asked = log.ask(target)
    first = log.give(asked, call(1))
    early = log.say(output(1))
    words, second = log.give(asked, said(2), call(3))
    log.end(asked)
    meanwhile = log.say("Hurry")
    late = log.say(output(3))
    window = log.window(target)
    assert sent(window)[1:] == [first, words, second, early, late, meanwhile]
    assert log.refusals(window) == []
    if target is CHAT:
        assert roles(window) == ["user", "assistant call_1 call_3", "tool", "tool", "user"]


# -- searches that the caller carries out, without an id: an output is for the last call before it


def client_search(number):
    return {
        "type": "tool_search_call",
        "id": f"tsc_{number}",
        "call_id": None,
        "execution": "client",
        "arguments": {"query": str(number)},
    }


FOUND = {"type": "tool_search_output", "call_id": None, "execution": "client", "tools": []}


def test_searches_without_ids_are_paired_in_their_order():
    log = SmallLog()
    log.say("Look")
    for number in (1, 2):
        log.answer(client_search(number))
        log.say(FOUND)
    log.answer(said(3))
    window = log.window(RESPONSES)
    found = "tool_search_call", "tool_search_output*"
    assert kinds(window) == ["user", *found, *found, "assistant"]
    assert log.refusals(window) == []


def test_searches_without_ids_of_one_answer_are_paired_in_their_order():
    log = SmallLog()
    log.say("Look")
    log.answer(client_search(1), client_search(2), client_search(3))
    found = [{**FOUND, "tools": [{"type": "function", "name": f"found_{number}"}]} for number in (1, 2, 3)]
    log.say(found[0])
    assert [one.entry.seq for one in log.history().unanswered()] == [5, 6]
    log.say(*found[1:])
    assert log.history().unanswered() == []
    log.answer(said(4))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", *["tool_search_call"] * 3, *["tool_search_output*"] * 3, "assistant"]
    assert [item["tools"][0]["name"] for item in window.items[4:7]] == ["found_1", "found_2", "found_3"]
    assert log.refusals(window) == []


def test_of_searches_without_ids_those_without_an_output_are_left_out():
    log = SmallLog()
    log.say("Look")
    log.answer(client_search(1), client_search(2))
    log.say(FOUND)
    log.answer(said(4))
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "tool_search_call*", "tool_search_output*", "assistant"]
    assert window.items[1]["arguments"] == {"query": "1"}
    assert log.refusals(window) == []


def test_a_search_of_a_later_answer_is_the_one_that_an_output_is_for():
    log = SmallLog()
    log.say("Look")
    log.answer(client_search(1), client_search(2))
    log.say("Never mind")
    log.answer(client_search(3))
    log.say(FOUND)
    window = log.window(RESPONSES)
    assert [item["arguments"] for item in window.items if item.get("type") == "tool_search_call"] == [{"query": "3"}]
    assert log.refusals(window) == []


def test_a_search_without_an_id_or_an_output_is_left_out():
    log = SmallLog()
    log.say("Look")
    log.answer(client_search(1))
    log.say("Never mind")
    window = log.window(RESPONSES)
    assert kinds(window) == ["user", "user"]
    assert log.refusals(window) == []
