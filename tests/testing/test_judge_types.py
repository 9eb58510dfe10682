"""The judge knows the types of items and messages, and agrees with those of the openai package."""

from typing import Literal, Required, Union, get_args, get_origin, get_type_hints

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_compact_params import ResponseCompactParams
from openai.types.responses.response_computer_tool_call_output_screenshot_param import (
    ResponseComputerToolCallOutputScreenshotParam,
)
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from openai.types.responses.response_input_content_param import ResponseInputContentParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.response_output_refusal_param import ResponseOutputRefusalParam
from openai.types.responses.response_output_text_param import ResponseOutputTextParam
from openai.types.responses.response_reasoning_item_param import Content, Summary

from judge_bodies import ANSWER, ASKS, REASONING, SMALLEST, TELLS, USER, chat, response, rules, user, without
from turnlog.engine.testing.judge import refusals

LEGALLY_ABSENT = {("function_call_output", "call_id")}  # an output may name its tool instead
ANYTHING = {("tool_search_call", "arguments")}


@pytest.mark.parametrize("kind", SMALLEST)
def test_every_known_type_is_taken_with_nothing_but_what_it_needs(kind):
    item, before, behind = SMALLEST[kind]
    assert rules("responses", response(*before, item, *behind)) == []


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, (item, _, _) in SMALLEST.items() for field in item if field != "type"],
)
def test_every_field_that_a_type_needs_is_asked_for_and_typed(kind, field):
    item, before, behind = SMALLEST[kind]
    place = f"input[{len(before)}].{field}"
    missing = refusals("responses", response(*before, without(item, field), *behind))
    if (kind, field) not in LEGALLY_ABSENT:
        assert ("missing-parameter", place) in [(refusal.rule, refusal.param) for refusal in missing]
    wrong = refusals("responses", response(*before, item | {field: 4.5}, *behind))
    if (kind, field) not in ANYTHING:
        assert ("wrong-type", place) in [(refusal.rule, refusal.param) for refusal in wrong]


@pytest.mark.parametrize("kind", SMALLEST)
def test_no_known_type_takes_a_key_of_its_client(kind):
    item, before, behind = SMALLEST[kind]
    assert "unknown-parameter" in rules("responses", response(*before, item | {"turn": 3}, *behind))


@pytest.mark.parametrize(
    "kind", ["function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call"]
)
def test_every_call_of_the_client_needs_its_output_and_every_output_its_call(kind):
    item, _, (output,) = SMALLEST[kind]
    assert rules("responses", response(item, output)) == []
    assert rules("responses", response(USER, item)) == ["call-without-output"]
    assert rules("responses", response(USER, output)) == ["output-without-call"]
    assert rules("responses", response(USER, output, conversation="conv_1")) == []
    assert rules("responses", response(item, output, output | {"id": "c"})) == ["duplicate-output"]


def test_each_reasoning_of_a_chain_wants_the_same_follower():
    chain = [REASONING, REASONING | {"id": "rs_2"}]
    assert rules("responses", response(*chain, ANSWER)) == []
    assert rules("responses", response(*chain, USER)) == ["reasoning-without-follower"] * 2


def test_a_shell_in_a_container_is_run_by_the_server():
    call = {"type": "shell_call", "call_id": "c", "action": {}, "environment": {"type": "container_reference"}}
    assert rules("responses", response(USER, call)) == []
    assert rules("responses", response(USER, call | {"environment": {"type": "local"}})) == ["call-without-output"]


ELSEWHERE = {
    "responses": [
        *("messages", "functions", "function_call", "max_tokens", "max_completion_tokens", "response_format"),
        *("reasoning_effort", "n", "stop", "seed", "modalities"),
    ],
    "compact": [
        *("messages", "store", "stream", "stream_options", "background", "include", "max_output_tokens", "metadata"),
        *("tools", "tool_choice", "text", "reasoning", "truncation"),
    ],
    "input_tokens": [
        *("messages", "store", "stream", "stream_options", "background", "include", "max_output_tokens", "metadata"),
    ],
    "chat": [
        *("input", "instructions", "previous_response_id", "conversation", "max_output_tokens", "max_tool_calls"),
        *("truncation", "include", "background", "context_management"),
    ],
}


@pytest.mark.parametrize(("api", "name"), [(api, name) for api, names in ELSEWHERE.items() for name in names])
def test_a_parameter_of_another_endpoint_is_unknown(api, name):
    body = (chat(USER) if api == "chat" else response(USER)) | {name: None}
    assert [(refusal.rule, refusal.param) for refusal in refusals(api, body)] == [("unknown-parameter", name)]


def fields_of(shape):
    """Return name -> (a value of its type, whether it may be null, whether it is required)."""
    found = {}
    for name, hint in get_type_hints(shape, include_extras=True).items():
        required = get_origin(hint) is Required
        bare = get_args(hint)[0] if required else hint
        options = get_args(bare) if get_origin(bare) is Union else (bare,)
        found[name] = (sample(options[0]), type(None) in options, required)
    return found


def sample(hint):
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if hint in (str, bool, int, float, object):
        return {str: "x", bool: True, int: 1, float: 1.0, object: {}}[hint]
    return {} if get_origin(hint) is dict or isinstance(hint, type) else []


def items_of_the_package():
    for shape in get_args(ResponseInputItemParam):
        kinds = get_args(get_type_hints(shape)["type"])
        kind = kinds[0] if isinstance(kinds[0], str) else get_args(kinds[0])[0]
        for name, field in fields_of(shape).items():
            if kind in SMALLEST and name != "type":
                yield kind, name, field


# The API takes these nulls, and these absences, although the package's types do not know them.
TAKEN_AS_NULL = {("function_call", "status"), ("mcp_list_tools", "error"), ("tool_search_call", "arguments")}
TAKEN_ABSENT = {
    *(("message", "id"), ("message", "status"), ("reasoning", "id")),
    *(("image_generation_call", "status"), ("image_generation_call", "result")),
    *(("code_interpreter_call", "code"), ("code_interpreter_call", "outputs")),
}


@pytest.mark.parametrize(("kind", "name", "field"), [*items_of_the_package()])
def test_the_judge_agrees_with_the_types_of_the_package(kind, name, field):
    value, nullable, required = field
    item, before, behind = SMALLEST[kind]
    place = f"input[{len(before)}].{name}"

    def refused(changed):
        found = refusals("responses", response(*before, changed, *behind))
        return {refusal.rule for refusal in found if refusal.param == place} - {"id-prefix"}

    if not (required and name in item):  # a smallest item has a sound value
        assert refused(item | {name: value}) == set()
    assert (refused(item | {name: None}) == set()) == (nullable or (kind, name) in TAKEN_AS_NULL)
    needed = required and (kind, name) not in TAKEN_ABSENT
    assert refused(without(item, name)) == ({"missing-parameter"} if needed else set())


@pytest.mark.parametrize(
    ("holder", "shape"),
    [
        *((user, shape) for shape in get_args(ResponseInputContentParam)),
        (lambda part: ANSWER | {"content": [part]}, ResponseOutputTextParam),
        (lambda part: ANSWER | {"content": [part]}, ResponseOutputRefusalParam),
        (lambda part: REASONING | {"summary": [part]}, Summary),
        (lambda part: REASONING | {"content": [part]}, Content),
        (
            lambda part: {"type": "computer_call_output", "call_id": "c", "output": part},
            ResponseComputerToolCallOutputScreenshotParam,
        ),
    ],
)
def test_the_judge_takes_the_parts_of_the_package(holder, shape):
    part = {name: value for name, (value, _, _) in fields_of(shape).items()}
    body = response(holder(part), ANSWER | {"id": "msg_2"}, previous_response_id="resp_1")
    assert rules("responses", body) == []
    body = response(holder(part | {"text": 4, "refusal": 4, "image_url": 4, "file_id": 4}), previous_response_id="r")
    assert "wrong-type" in rules("responses", body)


@pytest.mark.parametrize(
    ("api", "shape", "body"),
    [
        ("responses", ResponseCreateParamsBase, response(USER)),
        ("compact", ResponseCompactParams, response(USER)),
        ("input_tokens", InputTokenCountParams, response(USER)),
        ("chat", CompletionCreateParamsBase, chat(USER)),
    ],
)
def test_the_judge_knows_the_parameters_of_the_package(api, shape, body):
    for name, (value, nullable, _) in fields_of(shape).items():
        if name not in ("model", "input", "messages", "conversation", "previous_response_id"):
            assert rules(api, body | {name: value}) == [], name
            if nullable:
                assert rules(api, body | {name: None}) == [], name
    typed = {"tools", "metadata", "instructions", "previous_response_id", "model", "input", "conversation", "prompt"}
    typed |= {"store", "background", "include", "stream_options", "context_management", "truncation"}
    for name in (typed & {*get_type_hints(shape)}) - ({"store", "stream_options"} if api == "chat" else set()):
        assert rules(api, body | {name: 4.5}) == ["wrong-type"], name


@pytest.mark.parametrize(
    ("message", "field"),
    [
        *(({"role": role, "content": "x"}, "content") for role in ("developer", "system", "user", "assistant")),
        *(
            ({"role": "assistant", "content": "x"}, name)
            for name in ("refusal", "audio", "function_call", "tool_calls")
        ),
        *((TELLS, name) for name in ("content", "tool_call_id")),
        *(({"role": "function", "name": "f", "content": None}, name) for name in ("name", "content")),
    ],
)
def test_the_fields_of_a_chat_message_are_typed(message, field):
    before = [ASKS] if message is TELLS else []
    assert rules("chat", chat(*before, message)) == []
    assert "wrong-type" in rules("chat", chat(*before, message | {field: 4.5}))


@pytest.mark.parametrize(("kind", "field"), [("function", "name"), ("custom", "name"), ("custom", "input")])
def test_the_fields_of_a_chat_call_are_typed(kind, field):
    inner = {"name": "look", "arguments": "", "input": ""} | {field: 4}
    (found,) = refusals("chat", chat(ASKS | {"tool_calls": [{"id": "call_1", "type": kind, kind: inner}]}, TELLS))
    assert (found.rule, found.param) == ("wrong-type", f"messages[0].tool_calls[0].{kind}.{field}")


@pytest.mark.parametrize("kind", ["text", "image_url", "input_audio", "file", "refusal"])
def test_the_parts_of_a_chat_message_are_typed(kind):
    (found,) = refusals(
        "chat", chat({"role": "assistant" if kind == "refusal" else "user", "content": [{"type": kind, kind: 4}]})
    )
    assert (found.rule, found.param) == ("wrong-type", f"messages[0].content[0].{kind}")
