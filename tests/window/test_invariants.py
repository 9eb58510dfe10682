"""Each invariant is needed: without any one of them some small log gives a window that the API would refuse."""

import msgspec
import pytest

from small_logs import (
    CHAT,
    OTHER_MODEL,
    RESPONSES,
    SmallLog,
    call,
    computer,
    custom,
    output,
    program_output,
    said,
    screenshot,
    search,
    thought,
)
from turnlog.engine.events import Origin
from turnlog.engine.window import choose
from turnlog.engine.window.invariants import BETWEEN, INVARIANTS

LATER = {"type": "compaction_trigger"}
CONFIGURED = {"type": "configuration_update", "reasoning": {"effort": "low"}}


def log_of(*steps):
    """Return a log of steps: a list is an answer, anything else is said."""
    log = SmallLog()
    log.say("Hello")
    for step in steps:
        if isinstance(step, list):
            log.answer(*step)
        else:
            log.say(step)
    return log


# The invariant that is taken away, what it keeps out, for whom, the log, and the rule by which that is refused.
NEEDED = {
    "a kind that Chat has not": ("only_what_the_api_takes", CHAT, log_of(CONFIGURED), "content-missing"),
    "an output that Chat has not": (
        "only_what_the_api_takes",
        CHAT,
        log_of([computer(1)], screenshot(1)),
        "content-missing",
    ),
    "an output that says not of what": (
        "only_what_the_api_takes",
        CHAT,
        log_of(output(1, call_id=None)),
        "wrong-type",
    ),
    "a trigger that is no item": ("only_what_the_api_takes", RESPONSES, log_of(LATER, "Well?"), "trigger-not-last"),
    "a message of no known role": (
        "only_what_the_api_takes",
        RESPONSES,
        log_of({"type": "message", "role": "critic", "content": "Bad."}),
        "role",
    ),
    "an owed search without its link": (
        "only_what_the_api_takes",
        RESPONSES,
        log_of([{"type": "tool_search_call", "execution": "client", "call_id": 5, "arguments": {}}]),
        "wrong-type",
    ),
    "thoughts that a stateless API has not kept": (
        "secrets_only_to_their_maker",
        RESPONSES,
        log_of([thought(1, encrypted_content=None), said(1)]),
        "not-persisted",
    ),
    "thoughts of another model": (
        "secrets_only_to_their_maker",
        OTHER_MODEL,
        log_of([thought(1), said(1)]),
        "foreign-secret",
    ),
    "a compaction by another model": (
        "secrets_only_to_their_maker",
        OTHER_MODEL,
        log_of([{"type": "compaction", "id": "cmp_1", "encrypted_content": "secret"}, said(1)]),
        "foreign-secret",
    ),
    "thoughts as text, of another backend": (
        "thoughts_where_they_are_wanted",
        msgspec.structs.replace(CHAT, thoughts="always"),
        log_of([thought(1, encrypted_content=None, content=[{"type": "reasoning_text", "text": "Hm"}]), said(1)]),
        "foreign-secret",
    ),
    "a call without output": ("calls_with_their_outputs", RESPONSES, log_of([call(1)]), "call-without-output"),
    "a call without tool message": ("calls_with_their_outputs", CHAT, log_of([call(1)]), "tool-calls-unanswered"),
    "a custom call without output": (
        "calls_with_their_outputs",
        RESPONSES,
        log_of([custom(1)], "Well?"),
        "call-without-output",
    ),
    "a call whose output is a picture": (
        "calls_with_their_outputs",
        RESPONSES,
        log_of([computer(1), said(1)]),
        "call-without-output",
    ),
    "two calls with one id": (
        "calls_with_their_outputs",
        RESPONSES,
        log_of([call(1), call(1, id="fc_2")], output(1)),
        "call-without-output",
    ),
    "thoughts alone": (
        "reasoning_with_what_it_led_to",
        RESPONSES,
        log_of([thought(1)], "Well?"),
        "reasoning-without-follower",
    ),
    "thoughts that led to a message without its id": (
        "reasoning_with_what_it_led_to",
        RESPONSES,
        log_of([call(1), thought(2)], output(1), "Well?"),
        "reasoning-without-follower",
    ),
    "ids of other prefixes": ("ids_only_where_accepted", RESPONSES, log_of([said(1, id="item_1")]), "id-prefix"),
    "ids of callers": (
        "ids_only_where_accepted",
        RESPONSES,
        log_of({"role": "user", "content": "Hello", "id": "lc_1"}),
        "id-prefix",
    ),
    "ids that are too long": (
        "ids_only_where_accepted",
        RESPONSES,
        log_of([said(1, id="msg_" + "1" * 64)]),
        "id-length",
    ),
    "ids without the thoughts they were born with": (
        "ids_only_where_accepted",
        OTHER_MODEL,
        log_of([thought(1), said(1)]),
        "item-without-reasoning",
    ),
    "what needs an id and has none": (
        "ids_only_where_accepted",
        RESPONSES,
        log_of([search(1, id=None)]),
        "missing-parameter",
    ),
    "an output whose call is left out": (
        "outputs_with_their_calls",
        RESPONSES,
        log_of([computer(1), said(2, id="item_2")], screenshot(1)),
        "output-without-call",
    ),
    "two outputs of a call": (
        "outputs_with_their_calls",
        RESPONSES,
        log_of([call(1)], output(1), output(1, "rain")),
        "duplicate-output",
    ),
    "two tool messages for a call": (
        "outputs_with_their_calls",
        CHAT,
        log_of([call(1)], output(1), output(1, "rain")),
        "duplicate-tool-message",
    ),
    "the output of a program that is not there": (
        "programs_with_their_outputs",
        RESPONSES,
        log_of([program_output(1), said(1)]),
        "output-without-call",
    ),
    "an id twice": ("each_id_once", RESPONSES, log_of([said(1)], [said(1)]), "duplicate-id"),
}


def why_refused(log, target):
    """Return the rules by which the API would refuse a log's window.

    The judge cannot tell who made encrypted content, or who had a thought; the log can.
    """
    window = log.window(target)
    history = log.history()
    secret = {one.seq for one in window.rendered if one.item.get("encrypted_content") or is_thought(one, target)}
    makers = {history.origin(entry) for entry in history.entries() if entry.seq in secret}
    foreign = makers - {Origin(target.api, target.backend, target.model)}
    return [*log.refusals(window), *("foreign-secret" for _ in foreign)]


def is_thought(one, target):
    return target.api == "chat" and one.item.get("type") == "reasoning"


@pytest.mark.parametrize(("name", "target", "log", "rule"), NEEDED.values(), ids=NEEDED)
def test_without_one_invariant_a_window_is_refused(monkeypatch, name, target, log, rule):
    assert why_refused(log, target) == []
    monkeypatch.setattr(choose, "INVARIANTS", tuple(one for one in INVARIANTS if one.__name__ != name))
    monkeypatch.setattr(choose, "BETWEEN", tuple(one for one in BETWEEN if one.__name__ != name))
    assert rule in why_refused(log, target)


def test_every_invariant_is_shown_to_be_needed():
    assert {name for name, *_ in NEEDED.values()} == {one.__name__ for one in (*INVARIANTS, *BETWEEN)}


# Two invariants whose order is turned round, the log, and the rule by which its window is refused then.
ORDERED = {
    "ids before reasoning": (
        "reasoning_with_what_it_led_to",
        "ids_only_where_accepted",
        log_of([thought(1), said(1), thought(2)]),
        "item-without-reasoning",
    ),
    "outputs before ids": (
        "ids_only_where_accepted",
        "outputs_with_their_calls",
        log_of([computer(1), said(2, id="item_2")], screenshot(1)),
        "output-without-call",
    ),
}


@pytest.mark.parametrize(("one", "other", "log", "rule"), ORDERED.values(), ids=ORDERED)
def test_in_another_order_a_window_is_refused(monkeypatch, one, other, log, rule):
    assert why_refused(log, RESPONSES) == []
    turned = {one: other, other: one}
    named = {invariant.__name__: invariant for invariant in INVARIANTS}
    monkeypatch.setattr(choose, "INVARIANTS", tuple(named[turned.get(name, name)] for name in named))
    assert rule in why_refused(log, RESPONSES)
