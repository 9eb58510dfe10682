"""The invariant `secrets_only_to_their_maker`: encrypted content, and what refers to state of a backend."""

import pytest

from small_logs import (
    CHAT,
    OTHER_BACKEND,
    OTHER_CHAT,
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
    thought,
)
from turnlog.engine.events import Target

SECRETS = [thought(1), {"type": "compaction", "id": "cmp_1", "encrypted_content": "secret 1"}]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda item: item["type"])
def test_encrypted_content_goes_to_the_model_that_made_it(secret):
    log = SmallLog()
    log.say("Hello")
    seq, _ = log.answer(secret, said(2))
    window = log.window(RESPONSES)
    assert fate(window, seq) == "kept: it fits"
    assert window.items[1] == secret
    assert log.refusals(window) == []


@pytest.mark.parametrize("target", [OTHER_MODEL, OTHER_BACKEND], ids=["model", "backend"])
@pytest.mark.parametrize("secret", SECRETS, ids=lambda item: item["type"])
def test_encrypted_content_goes_to_no_other(secret, target):
    log = SmallLog()
    log.say("Hello")
    seq, answer = log.answer(secret, said(2))
    window = log.window(target)
    assert fate(window, seq) == f"dropped: only its maker can read this {secret['type']}"
    assert fate(window, answer) == "kept: it fits"
    assert kinds(window) == ["user", "assistant*"]
    assert log.refusals(window) == []


def test_encrypted_content_of_an_unknown_kind_goes_to_its_maker_only():
    log = SmallLog()
    log.say("Hello")
    seq, _ = log.answer(note(1, encrypted_content="secret 1"), said(2))
    assert fate(log.window(RESPONSES), seq) == "kept: it fits"
    assert fate(log.window(OTHER_MODEL), seq) == "dropped: only its maker can read this acme:note"


def test_a_model_gets_its_own_thoughts_back_and_not_those_of_the_one_before_it():
    log = SmallLog()
    log.say("Hello")
    first, _ = log.answer(thought(1), said(1))
    log.say("And you?")
    second, _ = log.answer(thought(2), said(2), target=OTHER_MODEL)
    log.say("Go on")
    assert kinds(log.window(RESPONSES)) == ["user", "reasoning", "assistant", "user", "assistant*", "user"]
    window = log.window(OTHER_MODEL)
    assert kinds(window) == ["user", "assistant*", "user", "reasoning", "assistant", "user"]
    assert fate(window, first) == "dropped: only its maker can read this reasoning"
    assert fate(window, second) == "kept: it fits"
    assert log.refusals(window) == []


def test_what_a_caller_says_a_model_thought_is_nobodys():
    """Appended by hand it may come from anywhere, and nothing tells from where."""
    log = SmallLog()
    log.say("Hello")
    seq, answer = log.say(thought(1), said(1))
    window = log.window(RESPONSES)
    assert fate(window, seq) == "dropped: only its maker can read this reasoning"
    assert fate(window, answer) == "kept: it fits"
    assert kinds(window) == ["user", "assistant*"]


@pytest.mark.parametrize("target", [RESPONSES, OTHER_MODEL, OTHER_BACKEND], ids=["own", "model", "backend"])
@pytest.mark.parametrize("secret", [None, ""], ids=["null", "empty"])
def test_reasoning_without_encrypted_content_goes_to_nobody(target, secret):
    """A stateless API looks its id up, and finds nothing."""
    log = SmallLog()
    log.say("Hello")
    plain = thought(1, content=[{"type": "reasoning_text", "text": "Hm."}], encrypted_content=secret)
    seq, _ = log.answer(plain, said(1))
    window = log.window(target)
    assert fate(window, seq) == "dropped: a stateless API keeps no reasoning without encrypted content"
    assert kinds(window) == ["user", "assistant*"]
    assert log.refusals(window) == []


@pytest.mark.parametrize("item", [search(1), note(1)], ids=lambda item: item["type"])
def test_what_a_backend_made_with_its_own_tools_stays_with_that_backend(item):
    log = SmallLog()
    log.say("Hello")
    seq, answer = log.answer(item, said(2))
    for target in (RESPONSES, OTHER_MODEL):
        assert fate(log.window(target), seq) == "kept: it fits"
    window = log.window(OTHER_BACKEND)
    assert fate(window, seq) == f"dropped: a {item['type']} means nothing to another backend"
    assert fate(window, answer) == "kept: it fits"
    assert log.refusals(window) == []


def test_an_output_that_a_backend_gave_to_a_call_of_its_own_goes_with_that_call():
    log = SmallLog()
    log.say("List")
    shell = {"type": "shell_call", "call_id": "call_1", "action": {"commands": ["ls"]}}
    seqs = log.answer(shell, output(1, [], of="shell_call"), said(2))
    window = log.window(OTHER_BACKEND)
    assert [fate(window, seq) for seq in seqs] == ["kept: it fits"] * 3
    assert log.refusals(window) == []


def test_messages_calls_and_outputs_go_everywhere():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1), call(2), custom(3))
    log.say(output(2))
    log.say(output(3, of="custom_tool_call"))
    for target in (RESPONSES, OTHER_MODEL, OTHER_BACKEND, CHAT):
        window = log.window(target)
        assert len(window.items) == 6
        assert log.refusals(window) == []


def test_what_came_over_chat_goes_to_responses_of_the_same_backend_as_from_elsewhere():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1), call(2), target=CHAT)
    log.say(output(2))
    window = log.window(Target(api="responses", backend=CHAT.backend, model=CHAT.model))
    assert kinds(window) == ["user", "assistant*", "function_call*", "function_call_output*"]
    assert log.refusals(window) == []


def test_chat_of_any_backend_is_sent_no_secret():
    log = SmallLog()
    log.say("Hello")
    secret, screen, answer = log.answer(thought(1), computer(2), said(3), target=CHAT)
    log.say(screenshot(2))
    for target in (CHAT, OTHER_CHAT):
        window = log.window(target)
        assert roles(window) == ["user", "assistant"]
        assert fate(window, secret) == "dropped: Chat Completions has no reasoning"
        assert fate(window, screen) == "dropped: Chat Completions has no computer_call"
        assert fate(window, answer) == "kept: it fits"
        assert log.refusals(window) == []


def test_a_caller_may_send_what_no_table_knows_anywhere_but_to_chat():
    log = SmallLog()
    log.say("Hello")
    seq = log.say(note(1))
    for target in (RESPONSES, OTHER_BACKEND):
        window = log.window(target)
        assert fate(window, seq) == "kept: it fits"
        assert log.refusals(window) == []
    assert fate(log.window(CHAT), seq) == "dropped: Chat Completions has no acme:note"
