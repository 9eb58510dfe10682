"""Reading items: the table of kinds, and what a caller may append."""

import json
from collections import UserDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine.canonical import canonical, loads
from turnlog.engine.errors import InvalidItem
from turnlog.engine.items import KINDS, ROLES, accept, parts, read, reading

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["type", "role", "content", "call_id", "id", "execution", "output", "approval_request_id"])
words = st.sampled_from([*KINDS, *ROLES, "server", "client", "text", ""])
odd_items = st.dictionaries(fields, words | json_values)


# -- the table


def test_every_output_answers_a_call_that_owes_one():
    for kind in KINDS.values():
        if kind.answers is not None:
            assert kind.maker == ("output" if kind.owed else "model")
            assert KINDS[kind.answers].maker == "model"
            assert KINDS[kind.answers].link is not None
            assert kind.link is not None
        if kind.sealed_by is not None:
            assert KINDS[kind.sealed_by].answers == kind.tag
    calls = {kind.tag for kind in KINDS.values() if kind.maker == "model" and kind.link and kind.answers is None}
    assert calls == {kind.answers for kind in KINDS.values() if kind.answers is not None}


def test_no_kind_is_named_like_a_role():
    assert not ROLES & set(KINDS)


@pytest.mark.parametrize("tag", KINDS)
def test_a_kind_is_read_by_its_tag(tag):
    kind = KINDS[tag]
    item: dict[str, Any] = {"type": tag, "role": "user"}
    if kind.link is not None:
        item[kind.link] = "link_1"
    form = read(item)
    if tag == "message":
        assert (form.shape, form.maker, form.link) == ("user", "input", None)
        return
    owed = kind.link is not None and kind.owed
    assert (form.shape, form.maker, form.link) == (tag, kind.maker, "link_1" if owed else None)
    assert form.kind is kind
    assert form.is_call == (kind.maker == "model" and owed)
    assert form.is_output == (kind.maker == "output")
    assert reading(form.shape, form.link) == form


@pytest.mark.parametrize(
    ("item", "form"),
    [
        ({"role": "user", "content": "x"}, ("user", "input", None)),
        ({"role": "assistant", "content": "x"}, ("assistant", "model", None)),
        ({"type": "message", "role": "developer"}, ("developer", "input", None)),
        ({"type": "message", "role": "critic"}, ("message", None, None)),
        ({"type": "message"}, ("message", None, None)),
        ({"id": "msg_1"}, ("item_reference", "input", None)),
        ({}, ("unknown", None, None)),
        ({"type": 5}, ("unknown", None, None)),
        ({"type": "weather", "call_id": "c"}, ("weather", None, None)),
        ({"type": "user", "content": "x"}, ("unknown", None, None)),
        ({"type": "function_call", "call_id": 5}, ("function_call", "model", None)),
        ({"type": "local_shell_call", "id": "i", "call_id": "c"}, ("local_shell_call", "model", "c")),
        ({"type": "local_shell_call_output", "id": "c"}, ("local_shell_call_output", "output", "c")),
        ({"type": "mcp_approval_request", "id": "r"}, ("mcp_approval_request", "model", "r")),
        (
            {"type": "mcp_approval_response", "approval_request_id": "r", "id": "x"},
            ("mcp_approval_response", "output", "r"),
        ),
        ({"type": "tool_search_call", "call_id": "c"}, ("tool_search_call", "model", "c")),
        ({"type": "tool_search_call", "call_id": None}, ("tool_search_call", "model", None)),
        (
            {"type": "tool_search_call", "call_id": "c", "execution": "server"},
            ("tool_search_call", "model", None),
        ),
        ({"type": "tool_search_output", "call_id": None}, ("tool_search_output", "model", None)),
    ],
)
def test_what_an_item_is(item, form):
    made = read(item)
    assert (made.shape, made.maker, made.link) == form
    assert reading(made.shape, made.link) == made


@given(odd_items)
def test_reading_never_fails_and_says_the_same_of_the_row(item):
    form = read(item)
    assert reading(form.shape, form.link) == form
    assert not (form.is_call and form.is_output)
    assert form.kind is None or form.kind.tag in KINDS
    list(parts(item))


def test_the_parts_of_messages_and_outputs():
    part = {"type": "input_text", "text": "x"}
    assert list(parts({"role": "user", "content": "hi"})) == [{"type": "text", "text": "hi"}]
    assert list(parts({"role": "user", "content": [part, "odd", part]})) == [part, part]
    assert list(parts({"type": "function_call_output", "output": "5"})) == [{"type": "text", "text": "5"}]
    assert list(parts({"type": "shell_call_output", "output": [part], "content": "no"})) == [part]
    assert list(parts({"type": "reasoning"})) == []


# -- what callers append


def test_a_string_is_a_message_of_the_user():
    item, data = accept("hello", "$")
    assert item == {"role": "user", "content": "hello"}
    assert data == b'{"content":"hello","role":"user"}'


@pytest.mark.parametrize("kind", [dict, UserDict, MappingProxyType])
def test_a_mapping_is_taken_value_for_value(kind):
    given = {"type": "acme:thought", "n": 1.0, "deep": {"null": None, "list": [1, "ü", True]}, "tool_calls": []}
    item, data = accept(kind(given), "$")
    assert item == given
    assert data == canonical(given)
    assert loads(data) == item
    item["deep"]["list"].append("the caller's own is not touched")
    assert given["deep"]["list"] == [1, "ü", True]


@given(st.dictionaries(st.text(max_size=5), json_values))
def test_an_unknown_kind_is_taken_whatever_it_holds(rest):
    item = {**rest, "type": "acme:thought"}
    assert accept(item, "$") == (item, canonical(item))


def test_objects_of_openais_sdk_are_taken_as_they_were_set():
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    call = ResponseFunctionToolCall(type="function_call", call_id="c", name="f", arguments="{}")
    assert accept(call, "$")[0] == {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    text = ResponseOutputText(type="output_text", text="hi", annotations=[])
    message = ResponseOutputMessage(type="message", id="msg_1", role="assistant", status="completed", content=[text])
    assert accept(message, "$")[0] == {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "hi", "annotations": []}],
    }


def test_a_field_with_another_name_in_python_goes_by_its_name_on_the_wire():
    from openai.types.responses import ResponseFunctionToolCall

    call = ResponseFunctionToolCall.model_validate(
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "async": True}
    )
    assert accept(call, "$")[0]["async"] is True


class Dumps:
    def __init__(self, made):
        self.made = made

    def model_dump(self, *, mode="python", exclude_unset=False):
        assert (mode, exclude_unset) == ("json", True)
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


def test_anything_with_model_dump_is_taken():
    assert accept(Dumps({"role": "user", "content": "x"}), "$")[0] == {"role": "user", "content": "x"}


def test_objects_within_an_item_are_taken_as_those_that_are_one():
    from openai.types.responses import ResponseInputText

    part = ResponseInputText(type="input_text", text="hi")
    item = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    for made in (part, Dumps({"type": "input_text", "text": "hi"})):
        assert accept({"role": "user", "content": [made]}, "$") == (item, canonical(item))
    output = {"type": "function_call_output", "call_id": "c", "output": [part]}
    assert accept(output, "$")[0]["output"] == [{"type": "input_text", "text": "hi"}]


def test_an_object_that_holds_itself_is_refused():
    around = Dumps({"role": "user"})
    around.made["content"] = [around]
    with pytest.raises(InvalidItem, match="nested deeper than 100 levels"):
        accept(around, "$")


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c"}


@pytest.mark.parametrize(
    ("item", "place", "reason"),
    [
        (5, "$", "a int is no item; pass a string, a mapping, or an object with model_dump"),
        (None, "$", "a NoneType is no item"),
        (b"hello", "$", "a bytes is no item"),
        ([{"role": "user"}], "$", "a list is no item"),
        (Dumps, "$", "the class Dumps is no item"),
        (Dumps([1]), "$", "a Dumps was dumped as a list; a mapping is needed"),
        (
            {"role": "user", "content": [Dumps([1])]},
            "$.content[0]",
            "a Dumps was dumped as a list; a mapping is needed",
        ),
        ({"role": "user", "content": Dumps(ValueError("half"))}, "$.content", "a Dumps cannot be dumped: half"),
        ({"role": "user", "content": [Dumps]}, "$.content[0]", "a type is no JSON value"),
        ({"role": "user", "content": [Dumps({"type": "a", "b": b""})]}, "$.content[0].b", "a bytes is no JSON value"),
        (Dumps(ValueError("half a character")), "$", "a Dumps cannot be dumped: half a character"),
        (Dumps({"role": "user", "content": b""}), "$.content", "a bytes is no JSON value"),
        ("\ud800", "$.content", "a lone surrogate"),
        ({"role": "user", "content": ["x", float("nan")]}, "$.content[1]", "nan has no place in JSON"),
        ({}, "$", "an item needs a type, or a role and content"),
        ({"id": "msg_1"}, "$", "references are not logged, append the item itself"),
        ({"type": "item_reference", "id": "msg_1"}, "$", "references are not logged"),
        ({"type": "compaction_trigger"}, "$", "part of a request, not of a history"),
        ({"type": 5}, "$.type", "5 is no item type"),
        ({"type": ""}, "$.type", "'' is no item type"),
        ({"role": "critic", "content": "x"}, "$.role", "'critic' is none of assistant, developer, system, user"),
        ({"role": ["user"], "content": "x"}, "$.role", "['user'] is none of"),
        ({"type": "message", "content": "x"}, "$.role", "None is none of"),
        ({"role": "user"}, "$.content", "a message's content is a string or a list of parts"),
        ({"role": "user", "content": None}, "$.content", "a string or a list of parts"),
        ({"role": "user", "content": {"type": "input_text"}}, "$.content", "a string or a list of parts"),
        ({"role": "user", "content": ["x"]}, "$.content[0]", "a content part is an object with a type"),
        ({"role": "user", "content": [{"type": "a"}, {"text": "x"}]}, "$.content[1]", "an object with a type"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "$", "turnlog.engine.messages.to_items(messages)"),
        ({"role": "tool", "tool_call_id": "c", "content": "5"}, "$", "this is a Chat Completions message"),
        ({"role": "function", "name": "f", "content": "5"}, "$", "this is a Chat Completions message"),
        ({**CALL, "call_id": None}, "$.call_id", "a function_call needs a call_id that pairs it"),
        ({**CALL, "call_id": ""}, "$.call_id", "a function_call needs a call_id"),
        ({**CALL, "arguments": {}}, "$.arguments", "a function_call needs an arguments, a string"),
        ({**CALL, "name": None}, "$.name", "a function_call needs a name, a string"),
        ({"type": "custom_tool_call", "call_id": "c", "name": "f"}, "$.input", "needs an input, a string"),
        ({"type": "function_call_output", "output": "x"}, "$.call_id", "needs a call_id"),
        ({"type": "function_call_output", "call_id": "c"}, "$.output", "needs an output, a string or a list of parts"),
        ({**OUTPUT, "output": {}}, "$.output", "a string or a list of parts"),
        ({**OUTPUT, "output": ["x"]}, "$.output[0]", "an output part is an object with a type"),
        ({**OUTPUT, "output": [{"type": "a"}, {"text": "x"}]}, "$.output[1]", "an object with a type"),
        ({"type": "local_shell_call_output", "call_id": "c", "output": "x"}, "$.id", "needs a id that pairs it"),
        ({"type": "mcp_approval_response", "approve": True}, "$.approval_request_id", "needs a approval_request_id"),
    ],
)
def test_what_is_no_item_is_refused_by_place_and_remedy(item, place, reason):
    with pytest.raises(InvalidItem) as refused:
        accept(item, "$")
    assert refused.value.path == place
    assert reason in refused.value.reason


def test_the_place_begins_where_the_caller_says():
    with pytest.raises(InvalidItem, match=r"^input\[2\]\.role: 'x' is none of"):
        accept({"role": "x", "content": ""}, "input[2]")


@pytest.mark.parametrize("tag", ["tool_search_call", "tool_search_output"])
def test_tool_searches_of_the_server_need_no_link(tag):
    held = {"arguments": {"query": "x"}} if tag == "tool_search_call" else {"tools": []}
    item = {"type": tag, "call_id": None, "execution": "server", **held}
    assert accept(item, "$")[0] == item


@given(odd_items)
def test_any_mapping_is_accepted_whole_or_refused(item):
    try:
        taken, data = accept(item, "$")
    except InvalidItem:
        return
    assert taken == item == json.loads(data)
    assert read(taken) == read(item)
