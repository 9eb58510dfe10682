"""The judge of any JSON, of whole turns and of halves of them; and the length that it counts."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_bodies import (
    ANSWER,
    ASKS,
    CALL,
    FUNCTION,
    OUTPUT,
    REASONING,
    SMALLEST,
    TELLS,
    TOOL_CALL,
    USER,
    chat,
    response,
    rules,
)
from turnlog.engine.testing.judge import Refusal, judge, refusals

WORDS = st.sampled_from(
    [
        *(*SMALLEST, *{field for item, _, _ in SMALLEST.values() for field in item}),
        *(
            "model",
            "input",
            "messages",
            "tools",
            "tool_calls",
            "tool_call_id",
            "function",
            "custom",
            "text",
            "metadata",
        ),
        *("conversation", "environment", "namespace", "properties", "user", "assistant", "tool", "parameters"),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | WORDS
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=6),
    max_leaves=25,
)
APIS = st.sampled_from(["responses", "chat", "compact", "input_tokens"])


@given(APIS, JSON, st.lists(JSON, max_size=4))
def test_any_json_is_judged_and_none_is_changed(api, body, entries):
    if isinstance(body, dict):
        body |= {"input": entries, "messages": entries}
    before = copy.deepcopy(body)
    found = refusals(api, body, window=9, count=len, born={"a": "b"})
    assert body == before
    for refusal in found:
        assert 400 <= refusal.status < 500
        assert json.loads(json.dumps(refusal.body())) == refusal.body()
    if found:
        with pytest.raises(Refusal) as caught:
            judge(api, body, window=9, count=len, born={"a": "b"})
        assert caught.value.rule == found[0].rule
    else:
        judge(api, body, window=9, count=len, born={"a": "b"})


@st.composite
def turns(draw):
    """Whole turns: reasoning with its calls, the calls' outputs in any order with talk between, an answer."""
    items, born = [], {}
    for turn in range(draw(st.integers(1, 3))):
        items.append(USER)
        calls = draw(st.integers(0, 3))
        thought = draw(st.booleans())
        made = [{**CALL, "id": f"fc_{turn}_{n}", "call_id": f"call_{turn}_{n}"} for n in range(calls)]
        made = made or [ANSWER | {"id": f"msg_{turn}"}]
        if thought:
            items.append(REASONING | {"id": f"rs_{turn}"})
            born |= {item["id"]: f"rs_{turn}" for item in made}
        items += made
        outputs = [{**OUTPUT, "call_id": f"call_{turn}_{n}"} for n in range(calls)]
        talk = [{"role": "developer", "content": "wait"}] * draw(st.integers(0, 1))
        items += draw(st.permutations(outputs + talk))
    return items, born


@given(turns())
def test_whole_turns_are_taken(made):
    items, born = made
    assert rules("responses", response(*items), born=born) == []
    assert rules("responses", response(*items, store=False), born=born) == []
    assert rules("compact", response(*items), born=born) == []


@given(turns(), st.data())
def test_half_a_bond_is_refused(made, data):
    items, born = made
    broken = [i for i, item in enumerate(items) if item.get("type") in ("function_call_output", "reasoning")]
    broken += [i for i, item in enumerate(items) if item.get("type") == "function_call"]
    if not broken:
        return
    gone = items[i := data.draw(st.sampled_from(broken))]
    expected = {
        "function_call_output": "call-without-output",
        "reasoning": "item-without-reasoning",
        "function_call": "output-without-call",
    }[gone["type"]]
    assert expected in rules("responses", response(*items[:i], *items[i + 1 :]), born=born)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
def test_in_chat_a_block_of_answers_is_taken_in_any_order_and_refused_when_it_is_cut(sizes, data):
    messages = []
    for turn, size in enumerate(sizes):
        names = [f"call_{turn}_{n}" for n in range(size)]
        messages.append(USER)
        if names:
            messages.append(ASKS | {"tool_calls": [TOOL_CALL | {"id": name} for name in names]})
            messages += data.draw(st.permutations([TELLS | {"tool_call_id": name} for name in names]))
    assert rules("chat", chat(*messages)) == []
    answers = [i for i, message in enumerate(messages) if message["role"] == "tool"]
    if answers:
        i = data.draw(st.sampled_from(answers))
        assert rules("chat", chat(*messages[:i], *messages[i + 1 :])) == ["tool-calls-unanswered"]
        assert rules("chat", chat(*messages[: i + 1], USER, *messages[i:])) != []


@given(turns(), st.text(max_size=20), st.integers(0, 400))
def test_the_length_is_refused_from_one_window_on_and_never_below_the_texts(made, text, window):
    items, _ = made
    body = response(*items, instructions=text, tools=[FUNCTION])
    talk = sum(3 for item in items if "role" in item)
    said = [item[name] for item in items for name in ("arguments", "output", "name") if name in item]
    said += [item["content"] for item in items if isinstance(item.get("content"), str)]
    said += [part["text"] for item in items if isinstance(item.get("content"), list) for part in item["content"]]
    need = talk + sum(map(len, [*said, text, FUNCTION["name"], FUNCTION["description"]]))
    found = rules("responses", body, window=window, count=len)
    assert found == (["context-length"] if need > window else [])


@pytest.mark.parametrize(
    "items",
    [
        [USER, {"role": "user", "content": [{"type": "input_image", "image_url": "data:" + "A" * 999}]}],
        [USER, {"role": "user", "content": [{"type": "input_file", "file_data": "A" * 999, "filename": "x" * 99}]}],
        [{"type": "compaction", "encrypted_content": "A" * 999}, USER],
        [USER | {"content": "A" * 999}, {"type": "compaction", "encrypted_content": "A" * 999}, USER],
        [REASONING | {"encrypted_content": "A" * 999, "summary": [{"type": "summary_text", "text": "A" * 99}]}, ANSWER],
        [USER, {"type": "image_generation_call", "id": "ig_1", "result": "A" * 999}],
    ],
)
def test_what_cannot_be_read_as_text_has_no_length(items):
    assert rules("responses", response(*items), window=20, count=len) == []


def test_the_length_of_a_chat_has_its_calls_and_its_tools():
    schema = {"type": "object", "properties": {"colour": {"type": "string", "description": "pick"}}}
    tools = [{"type": "function", "function": {"name": "look", "description": "See.", "parameters": schema}}]
    need = 3 + 2 + 3 + len("look{}") + 3 + len("seen") + len("lookSee.colourpick")
    assert rules("chat", chat(USER, ASKS, TELLS, tools=tools), window=need, count=len) == []
    assert rules("chat", chat(USER, ASKS, TELLS, tools=tools), window=need - 1, count=len) == ["context-length"]
    deferred = response(USER, tools=[FUNCTION | {"defer_loading": True}])
    assert rules("responses", deferred, window=5, count=len) == []
