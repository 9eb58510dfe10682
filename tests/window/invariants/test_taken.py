"""The invariant `only_what_the_api_takes`: what has no form in the target's API is left out, and nothing else is."""

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
    roles,
    said,
    screenshot,
    search,
    sent,
    thought,
)
from turnlog.engine.events import Target

HOSTED = {
    "web_search_call": search(1),
    "file_search_call": {"type": "file_search_call", "id": "fs_1", "queries": ["rain"], "status": "completed"},
    "code_interpreter_call": {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "container_id": "cntr_1",
        "code": "1",
        "status": "completed",
    },
    "image_generation_call": {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBOR"},
    "mcp_call": {"type": "mcp_call", "id": "mcp_1", "name": "find", "arguments": "{}", "server_label": "s"},
    "mcp_list_tools": {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
    "compaction": {"type": "compaction", "id": "cmp_1", "encrypted_content": "secret"},
    "reasoning": thought(1),
    "acme:note": note(1),
}
SETTINGS = {
    "configuration_update": {"type": "configuration_update", "reasoning": {"effort": "low"}},
    "additional_tools": {"type": "additional_tools", "role": "developer", "tools": []},
}
ALLOWED_NOWHERE = {
    "item_reference": {"type": "item_reference", "id": "msg_1"},
    "compaction_trigger": {"type": "compaction_trigger"},
    "unknown": {"text": "of no kind at all"},
    "message": {"type": "message", "role": "critic", "content": "of no role that is known"},
}


@pytest.mark.parametrize("kind", HOSTED)
def test_chat_is_sent_no_kind_that_it_has_no_form_for(kind):
    log = SmallLog()
    log.say("Will it rain?")
    hosted, answer = log.answer(HOSTED[kind], said(2))
    window = log.window(CHAT)
    assert fate(window, hosted) == f"dropped: Chat Completions has no {kind}"
    assert fate(window, answer) == "kept: it fits"
    assert roles(window) == ["user", "assistant"]
    assert log.refusals(window) == []


@pytest.mark.parametrize("kind", HOSTED)
def test_responses_is_sent_every_kind_of_its_own(kind):
    log = SmallLog()
    log.say("Will it rain?")
    hosted, _ = log.answer(HOSTED[kind], said(2))
    window = log.window(RESPONSES)
    assert fate(window, hosted) == "kept: it fits"
    assert window.items[1] == HOSTED[kind]
    assert log.refusals(window) == []


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_within_a_conversation_go_to_responses_only(kind):
    log = SmallLog()
    setting = log.say(SETTINGS[kind])
    log.say("Hello")
    assert fate(log.window(RESPONSES), setting) == "pinned: in effect"
    window = log.window(CHAT)
    assert fate(window, setting) == f"dropped: Chat Completions has no {kind}"
    assert roles(window) == ["user"]
    assert log.refusals(window) == []


@pytest.mark.parametrize("kind", ALLOWED_NOWHERE)
def test_a_stateless_request_takes_no_item_that_stands_for_something_else(kind):
    """Callers cannot append such; models, importers and later versions of the API might."""
    log = SmallLog()
    log.say("Hello")
    odd = log.say(ALLOWED_NOWHERE[kind])
    assert fate(log.window(RESPONSES), odd) == f"dropped: a stateless request takes no {kind}"
    assert fate(log.window(CHAT), odd) == f"dropped: Chat Completions has no {kind}"
    for window in (log.window(RESPONSES), log.window(CHAT)):
        assert log.refusals(window) == []


def test_chat_has_function_and_custom_calls_and_no_others():
    log = SmallLog()
    log.say("Look")
    function, own, screen = log.answer(call(1), custom(2), computer(3))
    log.say(output(1))
    log.say(output(2, of="custom_tool_call"))
    shown = log.say(screenshot(3))
    window = log.window(CHAT)
    assert roles(window) == ["user", "assistant call_1 call_2", "tool", "tool"]
    assert [fate(window, seq) for seq in (function, own)] == ["kept: it fits"] * 2
    assert fate(window, screen) == "dropped: Chat Completions has no computer_call"
    assert fate(window, shown) == "dropped: Chat Completions has no computer_call_output"
    assert log.refusals(window) == []
    assert len(sent(log.window(RESPONSES))) == 7


def test_an_output_that_names_its_tool_only_goes_to_responses_only():
    log = SmallLog()
    log.say("Look")
    unlinked = log.say({"type": "function_call_output", "call_id": None, "name": "look", "output": "clear"})
    window = log.window(RESPONSES)
    assert fate(window, unlinked) == "kept: it fits"
    assert log.refusals(window) == []
    window = log.window(CHAT)
    assert fate(window, unlinked) == "dropped: nothing says which call it is, or is for"
    assert log.refusals(window) == []


@pytest.mark.parametrize("item", [call(1), custom(1), computer(1)], ids=lambda item: item["type"])
def test_a_call_without_its_link_is_left_out(item):
    log = SmallLog()
    log.say("Look")
    unlinked = log.answer(item | {"call_id": None})
    for target in (RESPONSES, CHAT):
        window = log.window(target)
        assert fate(window, unlinked).startswith("dropped: ")
        assert kinds(window) == ["user"]
        assert log.refusals(window) == []


def test_a_search_for_tools_that_the_server_ran_needs_no_link():
    log = SmallLog()
    log.say("Look")
    asked, found = log.answer(
        {"type": "tool_search_call", "id": "tsc_1", "call_id": None, "execution": "server", "arguments": {}},
        {"type": "tool_search_output", "id": "tso_1", "call_id": None, "execution": "server", "tools": []},
    )
    window = log.window(RESPONSES)
    assert sent(window)[1:] == [asked, found]
    assert log.refusals(window) == []


def test_a_search_for_tools_that_the_caller_owes_needs_a_link_or_none():
    log = SmallLog()
    log.say("Look")
    search_call = {"type": "tool_search_call", "id": "tsc_1", "call_id": 5, "execution": "client", "arguments": {}}
    asked = log.answer(search_call)
    found = log.say({"type": "tool_search_output", "call_id": 5, "execution": "client", "tools": []})
    window = log.window(RESPONSES)
    assert fate(window, asked) == "dropped: nothing says which call it is, or is for"
    assert fate(window, found).startswith("dropped: ")
    assert log.refusals(window) == []


@pytest.mark.parametrize(
    ("target", "phase"),
    [
        (RESPONSES, "commentary"),
        (OTHER_MODEL, "commentary"),
        (OTHER_BACKEND, None),
        (Target(api="responses", backend="b", model="gpt-5.5"), "commentary"),
        (Target(api="responses", backend="b", model="gpt-oss-120b"), None),
    ],
)
def test_a_phase_goes_where_it_is_understood(target, phase):
    """A backend that does not know it refuses the whole request."""
    log = SmallLog()
    log.say("Will it rain?")
    answer = log.answer(said(1, phase="commentary"))
    log.say("And?")
    window = log.window(target)
    assert window.items[1].get("phase") == phase
    why = "kept: it fits" + ("" if phase else ", without its phase, which another backend may not know")
    assert fate(window, answer) == why


def test_a_phase_that_a_caller_says_goes_with_openai_s_models_only():
    log = SmallLog()
    log.say("Will it rain?", said(1, phase="final_answer"), "And?")
    ours = log.window(Target(api="responses", backend="b", model="gpt-5.5"))
    assert ours.items[1]["phase"] == "final_answer"
    assert "phase" not in log.window(RESPONSES).items[1]
