"""Rendering: from a manifest alone to the items that are sent, in the form that the target takes."""

import pytest

from small_logs import (
    CHAT,
    OTHER_BACKEND,
    RESPONSES,
    SmallLog,
    call,
    custom,
    note,
    output,
    said,
    search,
    sent,
    thought,
)
from turnlog.engine.canonical import encode
from turnlog.engine.codec import body
from turnlog.engine.events import Origin, Target
from turnlog.engine.history import History
from turnlog.engine.manifest import Manifest, Run
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.steps import PNG
from turnlog.engine.testing.tables import ITEMS
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.policies import OldestTurns
from turnlog.engine.window.render import RENDERER, SEALED, render

RECORDED = Target(api="responses", backend="a", model="m", state="recorded")
LARGE = {"tokens": 1000, "excerpt": 100}


def one(item, target=RESPONSES, **columns):
    """Return an item of an answer as it is sent."""
    log = SmallLog()
    log.say("Hello")
    seq = log.answer(item, **columns)
    return by_seq(log.window(target), seq)


def appended(item, target=RESPONSES):
    """Return an item of a caller as it is sent."""
    log = SmallLog()
    seq = log.say(item)
    return by_seq(log.window(target), seq)


def by_seq(window, seq):
    return next(each.item for each in window.rendered if each.seq == seq)


# -- from the manifest alone


class Once(OldestTurns):
    """A policy that decides once and is gone."""

    name = "once"
    gone = False

    def cut(self, units, available, frontier):
        assert not self.gone
        return super().cut(units, available, frontier)


def a_long_log():
    log = SmallLog()
    log.say("Look")
    log.answer(thought(1), call(1))
    log.say(output(1, "x" * 3000), **LARGE)
    log.answer(said(2), said(3, id="item_3"))
    log.say("And there?")
    log.answer(call(4), call(5))
    log.say(output(5, "y" * 3000), **LARGE)
    log.say("Well?")
    return log


@pytest.mark.parametrize("target", [RESPONSES, OTHER_BACKEND, CHAT], ids=["own", "other", "chat"])
@pytest.mark.parametrize("context", [300, 1200, 5000])
def test_an_old_window_is_rendered_without_its_policy(context, target):
    """From what the log holds of it: the manifest of its request, and the items that this names."""
    log, policy = a_long_log(), Once()
    before = log.window(target, Budget(context), policy)
    asked = log.ask(target, Budget(context), policy)
    policy.gone = True
    log.give(asked, said(9))
    log.fail(asked)
    manifest = body(log.records[asked - 1]).manifest
    assert manifest.weights == {}
    history = History("c")
    history.extend([log.records[seq - 1] for first, last in manifest.sent() for seq in range(first, last + 1)])
    again = render(history, [], [], 0, manifest, target)
    assert [encode(each.item) for each in again] == [encode(item) for item in before.items]
    assert [each.seq for each in again] == sent(before)


def test_what_a_manifest_says_is_done_and_nothing_else():
    """No rule is looked at again: what is valid was decided when it was chosen."""
    log = a_long_log()
    history = log.history()
    looks = next(entry.seq for entry in history.entries() if entry.reading.is_call)
    manifest = Manifest(
        policy="gone@1",
        renderer=RENDERER,
        as_of=len(log.records),
        runs=(Run(1, looks - 1, "dropped"), Run(looks, looks, "kept"), Run(looks + 1, len(log.records), "aside")),
        bare=((looks, looks),),
        sealed=(looks,),
    )
    first, second = render(history, [], [], 0, manifest, RESPONSES)
    assert first.item == {key: value for key, value in call(1).items() if key != "id"}
    assert second.item == {"type": "function_call_output", "call_id": "call_1", "output": SEALED}


def test_a_request_that_was_made_elsewhere_is_written_as_it_was_logged():
    """Item for item in the order of the log, whatever this API would take."""
    log = SmallLog()
    items = [
        {"role": "user", "content": "Look", "id": "lc_1"},
        thought(1, encrypted_content=None),
        call(1, name="look at.it", status=None),
        {"role": "user", "content": "Hurry"},
        output(1, [{"type": "odd"}], id="lc_2"),
        said(2, parsed=None),
    ]
    for item in items:
        log.say(item)
    history = log.history()
    runs = (Run(1, len(log.records), "kept"),)
    manifest = Manifest(policy="recorded", renderer=RENDERER, as_of=len(log.records), runs=runs)
    written = render(history, [], [], 0, manifest, RECORDED)
    assert [each.item for each in written] == items


# -- what is left out of an item


def test_ids_are_stripped_and_links_are_not():
    log = SmallLog()
    log.say({"role": "user", "content": "Hello", "id": "msg_0"})
    log.answer(call(1), custom(2))
    log.say(output(1, id="fc_1"))
    assert log.window(OTHER_BACKEND).items == [
        {"role": "user", "content": "Hello"},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "sh", "input": "ls"},
        {"type": "function_call_output", "call_id": "call_1", "output": "clear"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": SEALED},
    ]


@pytest.mark.parametrize("field", ["created_by", "parsed", "parsed_arguments", "provider_data"])
@pytest.mark.parametrize("item", [said(1), call(1), search(1), thought(1)], ids=lambda item: item["type"])
def test_what_the_api_gives_on_output_only_is_not_sent_back(item, field):
    log = SmallLog()
    log.say("Hello")
    seq, _ = log.answer(item | {field: {"a": 1}}, said(2))
    window = log.window(RESPONSES)
    assert by_seq(window, seq) == item
    assert log.refusals(window) == []


def test_what_is_given_on_output_only_is_not_sent_back_in_parts_either():
    part = {"type": "output_text", "text": "It rains.", "annotations": [], "logprobs": [], "parsed": {"rain": True}}
    sent_part = {name: value for name, value in part.items() if name != "parsed"}
    assert one(said(1, content=[part]))["content"] == [sent_part]


def values(kind, fields):
    """Return an item of a kind with the least that it must have."""
    given = {"str": "x", "list": [], "obj": {"type": "computer_screenshot"}, "bool": True, "any": {}}
    made = {"type": kind} | ({"role": "user"} if kind == "message" else {})
    for name, field in fields.items():
        first = field.kinds[0]
        if field.required and name not in made:
            made[name] = given.get(first, f"{first[:-1]}_1" if first.endswith("*") else first)
    return made


OPTIONAL = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for kind, fields in ITEMS.items()
    for name, field in fields.items()
    if not field.required and kind not in ("compaction_trigger", "item_reference")
]


@pytest.mark.parametrize(("kind", "name"), OPTIONAL)
def test_a_null_that_the_api_refuses_is_not_sent(kind, name):
    """A field that a client dumped, or another server gave, as null."""
    log = SmallLog()
    log.answer(values(kind, ITEMS[kind]) | {name: None})
    everything = Manifest(policy="all@1", renderer=RENDERER, as_of=4, runs=(Run(1, 4, "kept"),))
    written = [each.item for each in render(log.history(), [], [], 0, everything, RESPONSES)]
    assert len(written) == 1
    rules = [one.rule for one in refusals("responses", {"model": "m", "store": False, "input": written})]
    assert {"unknown-parameter", "wrong-type"}.isdisjoint(rules), written


def test_a_null_in_a_part_of_an_answer_is_not_sent():
    part = {"type": "output_text", "text": "It rains.", "annotations": [], "logprobs": None}
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1, content=[part], phase=None))
    window = log.window(RESPONSES)
    assert window.items[1] == said(1)
    assert log.refusals(window) == []


def test_a_null_of_an_unknown_kind_is_its_own_business():
    assert one(note(1, text=None, status=None)) == note(1, text=None)


# -- names


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("look", "look"),
        ("a-b_C9", "a-b_C9"),
        ("files.read", "files_read"),
        ("guck mal: dört", "guck_mal__d_rt"),
        ("x" * 70, "x" * 64),
        ("", "_"),
    ],
)
@pytest.mark.parametrize("kind", [call, custom], ids=["function", "custom"])
def test_a_name_is_written_with_the_characters_that_responses_takes(kind, name, written):
    log = SmallLog()
    log.say("Look")
    log.answer(kind(1, name=name), target=CHAT)
    window = log.window(RESPONSES)
    assert window.items[1]["name"] == written
    assert log.refusals(window) == []


@pytest.mark.parametrize("target", [RESPONSES, CHAT], ids=["responses", "chat"])
@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"arguments": {"at": "home"}}, {"arguments": '{"at":"home"}'}),
        ({"arguments": None}, {"arguments": "{}"}),
        ({"arguments": ""}, {"arguments": ""}),
        ({"name": None}, {"name": "_"}),
        ({"name": 5}, {"name": "5"}),
    ],
    ids=["object", "null", "empty", "no name", "number"],
)
def test_what_a_call_says_is_written_as_text_whatever_its_model_gave(given, written, target):
    """Else no later request could be made: the call is in the log for good."""
    log = SmallLog()
    log.say("Look")
    for item in (call(1, **given), {name: value for name, value in call(2).items() if name != "arguments"}):
        log.answer(item)
    window = log.window(target)
    assert by_seq(window, 4).items() >= written.items()
    assert window.items[3]["arguments"] == "{}"
    assert log.refusals(window) == []


@pytest.mark.parametrize("target", [RESPONSES, CHAT], ids=["responses", "chat"])
@pytest.mark.parametrize(("given", "written"), [(None, ""), (["ls"], '["ls"]'), ("ls", "ls")])
def test_so_is_the_input_of_a_custom_call(given, written, target):
    log = SmallLog()
    log.say("Look")
    log.answer(custom(1, input=given))
    window = log.window(target)
    assert window.items[1]["input"] == written
    assert log.refusals(window) == []


def test_chat_gets_names_as_its_backends_give_them():
    log = SmallLog()
    log.say("Look")
    log.answer(call(1, name="files.read"), target=CHAT)
    window = log.window(CHAT)
    assert window.rendered[1].item["name"] == "files.read"
    # Whether a backend is one of those is not for the window to know: it shows what OpenAI takes.
    (made,) = window.messages[1]["tool_calls"]
    assert made["function"]["name"] == "files_read"


# -- messages and parts


def test_an_answer_with_its_id_goes_as_it_came():
    item = said(1, phase="final_answer")
    assert one(item) == item


def test_an_answer_without_its_id_goes_as_one_text_with_its_phase():
    item = said(1, phase="commentary", content=[*said(1)["content"], {"type": "refusal", "refusal": " No more."}])
    assert one(item, Target(api="responses", backend="b", model="gpt-5.5")) == {
        "type": "message",
        "role": "assistant",
        "content": "It rains. No more.",
        "phase": "commentary",
    }


def test_an_answer_that_a_caller_wrote_as_a_text_goes_so():
    item = {"role": "assistant", "content": "It rains."}
    assert appended(item) == item


@pytest.mark.parametrize("of", ["function_call", "custom_tool_call"])
def test_parts_that_responses_does_not_take_are_named(of):
    log = SmallLog()
    log.say("Look")
    log.answer({"function_call": call(1), "custom_tool_call": custom(1)}[of])
    parts = [
        {"type": "text", "text": "of Chat"},
        {"type": "output_text", "text": "of an answer"},
        {"type": "input_image", "image_url": PNG},
        {"type": "audio", "data": "…"},
    ]
    log.say(output(1, parts, of=of))
    window = log.window(RESPONSES)
    assert window.items[-1]["output"] == [
        {"type": "input_text", "text": "of Chat"},
        {"type": "input_text", "text": "of an answer"},
        {"type": "input_image", "image_url": PNG},
        {"type": "input_text", "text": "[audio left out: this API takes none]"},
    ]
    assert log.refusals(window) == []


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_so_are_those_of_messages(role):
    item = {"role": role, "content": [{"type": "text", "text": "Hi"}, {"type": "video"}]}
    log = SmallLog()
    log.say(item)
    window = log.window(RESPONSES)
    assert window.items[0]["content"] == [
        {"type": "input_text", "text": "Hi"},
        {"type": "input_text", "text": "[video left out: this API takes none]"},
    ]
    assert log.refusals(window) == []


def test_rendering_changes_nothing_in_the_log():
    log = a_long_log()
    history = log.history()
    before = {entry.seq: entry.item for entry in history.entries()}
    for target in (RESPONSES, OTHER_BACKEND, CHAT):
        log.window(target, Budget(1200))
    assert {entry.seq: entry.item for entry in history.entries()} == before
    first, second = log.window(RESPONSES), log.window(RESPONSES)
    first.items[1]["summary"].append("changed")
    assert second.items[1]["summary"] == []


# -- what goes beside an item


def test_what_an_item_has_no_place_for_goes_back_to_its_maker_only():
    extra = {"set": [[["tool_calls", 0, "extra_content"], {"signature": "abc"}]]}
    log = SmallLog()
    log.say("Look")
    log.answer(call(1), target=CHAT, origin=Origin("chat", CHAT.backend, CHAT.model), extra=extra, beside=7)
    home, away = log.window(CHAT), log.window(Target(api="chat", backend="elsewhere", model="m"))
    assert home.messages[1]["tool_calls"][0]["extra_content"] == {"signature": "abc"}
    assert "extra_content" not in away.messages[1]["tool_calls"][0]
    assert home.manifest.items == away.manifest.items + 7
