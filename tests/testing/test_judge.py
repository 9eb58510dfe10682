"""The judge takes what the API takes and refuses what it refuses, with the API's status and error body."""

from __future__ import annotations

import copy
import gzip
import json
import re
from pathlib import Path
from typing import Literal, Required, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
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

from turnlog.engine.testing.judge import Refusal, judge, refusals

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
ANSWER = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hello", "annotations": []}],
}
FUNCTION = {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object"}}
NESTED = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
ASKS = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
TELLS = {"role": "tool", "tool_call_id": "call_1", "content": "seen"}


def response(*items, **more):
    return {"model": "gpt-5", "input": list(items), **more}


def chat(*messages, **more):
    return {"model": "gpt-5", "messages": list(messages), **more}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def without(value, *names):
    return {name: inner for name, inner in value.items() if name not in names}


def rules(api, body, **more):
    return [refusal.rule for refusal in refusals(api, body, **more)]


# One case a rule at least: (api, body, keywords, rule, param, status of the first refusal).
SEARCH = {"type": "tool_search_call", "arguments": {"q": "x"}, "execution": "client", "call_id": "s_1"}
SHELL_OUTPUT = {
    "type": "shell_call_output",
    "call_id": "c",
    "output": [{"stdout": "", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
}
FOUND = {"type": "tool_search_output", "tools": [], "execution": "client", "call_id": "s_1"}
REFUSED = [
    ("responses", [], {}, "body-type", None, 400),
    ("responses", "hi", {}, "body-type", None, 400),
    ("chat", None, {}, "body-type", None, 400),
    # parameters
    ("responses", {"input": "hi"}, {}, "missing-parameter", "model", 400),
    ("responses", {"input": "hi", "model": ""}, {}, "missing-parameter", "model", 400),
    ("responses", {"input": "hi", "model": 4}, {}, "wrong-type", "model", 400),
    ("responses", {"input": "hi", "model": None}, {}, "wrong-type", "model", 400),
    ("compact", {"input": "hi"}, {}, "missing-parameter", "model", 400),
    ("chat", {"messages": [USER]}, {}, "missing-parameter", "model", 400),
    ("responses", {"model": "m"}, {}, "nothing-to-answer", "input", 400),
    ("responses", {"model": "m", "input": ""}, {}, "nothing-to-answer", "input", 400),
    ("responses", response(), {}, "nothing-to-answer", "input", 400),
    ("compact", {"model": "m", "input": []}, {}, "nothing-to-answer", "input", 400),
    ("responses", {"model": "m", "input": 4}, {}, "wrong-type", "input", 400),
    ("responses", {"model": "m", "input": {"role": "user"}}, {}, "wrong-type", "input", 400),
    ("responses", response(USER, instructions=[]), {}, "wrong-type", "instructions", 400),
    ("responses", response(USER, truncation="left"), {}, "invalid-value", "truncation", 400),
    ("responses", response(USER, messages=[]), {}, "unknown-parameter", "messages", 400),
    ("responses", response(USER, max_tokens=5), {}, "unknown-parameter", "max_tokens", 400),
    ("responses", response(USER, response_format={}), {}, "unknown-parameter", "response_format", 400),
    (
        "responses",
        response(USER, stream_options={"include_usage": True}),
        {},
        "unknown-parameter",
        "stream_options.include_usage",
        400,
    ),
    ("chat", chat(USER, input="hi"), {}, "unknown-parameter", "input", 400),
    ("compact", response(USER, store=False), {}, "unknown-parameter", "store", 400),
    ("compact", response(USER, tools=[]), {}, "unknown-parameter", "tools", 400),
    ("compact", response(USER, stream=True), {}, "unknown-parameter", "stream", 400),
    ("input_tokens", response(USER, stream=True), {}, "unknown-parameter", "stream", 400),
    (
        "responses",
        response(USER, previous_response_id="resp_1", conversation="conv_1"),
        {},
        "two-states",
        "previous_response_id",
        400,
    ),
    ("responses", response(USER, conversation={}), {}, "missing-parameter", "conversation.id", 400),
    ("responses", response(USER, metadata={str(i): "v" for i in range(17)}), {}, "metadata-limit", "metadata", 400),
    ("responses", response(USER, metadata={"k" * 65: "v"}), {}, "metadata-limit", "metadata", 400),
    ("chat", chat(USER, metadata={"k": "v" * 513}), {}, "metadata-limit", "metadata", 400),
    ("responses", response(USER, metadata={"k": 4}), {}, "wrong-type", "metadata.k", 400),
    # tools
    ("responses", response(USER, tools=[4]), {}, "wrong-type", "tools[0]", 400),
    ("responses", response(USER, tools=[{"name": "look"}]), {}, "missing-parameter", "tools[0].type", 400),
    ("responses", response(USER, tools=[NESTED]), {}, "tool-shape", "tools[0].name", 400),
    ("responses", response(USER, tools=[FUNCTION | {"name": 4}]), {}, "wrong-type", "tools[0].name", 400),
    ("responses", response(USER, tools=[FUNCTION | {"name": "a b"}]), {}, "function-name", "tools[0].name", 400),
    ("responses", response(USER, tools=[FUNCTION | {"name": "a" * 65}]), {}, "function-name", "tools[0].name", 400),
    ("responses", response(USER, tools=[FUNCTION | {"parameters": 4}]), {}, "wrong-type", "tools[0].parameters", 400),
    (
        "responses",
        response(USER, tools=[{"type": "namespace", "name": "n", "description": "d", "tools": [NESTED]}]),
        {},
        "tool-shape",
        "tools[0].tools[0].name",
        400,
    ),
    (
        "responses",
        response(USER, {"type": "additional_tools", "role": "developer", "tools": [NESTED]}),
        {},
        "tool-shape",
        "input[1].tools[0].name",
        400,
    ),
    ("chat", chat(USER, tools=[FUNCTION]), {}, "tool-shape", "tools[0].function", 400),
    ("chat", chat(USER, tools=[{"type": "function", "function": {}}]), {}, "tool-shape", "tools[0].function.name", 400),
    ("chat", chat(USER, tools=[{"type": "web_search"}]), {}, "invalid-value", "tools[0].type", 400),
    # items
    ("responses", response("hi"), {}, "wrong-type", "input[0]", 400),
    ("responses", response({}), {}, "missing-parameter", "input[0].type", 400),
    ("responses", response({"type": 4}), {}, "wrong-type", "input[0].type", 400),
    ("responses", response({"type": "tool_result"}), {}, "item-type", "input[0].type", 400),
    ("responses", response({"role": "tool", "content": "x"}), {}, "role", "input[0].role", 400),
    ("responses", response({"role": "user"}), {}, "missing-parameter", "input[0].content", 400),
    ("responses", response({"content": "x"}), {}, "missing-parameter", "input[0].role", 400),
    ("responses", response(USER | {"content": None}), {}, "wrong-type", "input[0].content", 400),
    ("responses", response(USER, without(CALL, "call_id")), {}, "missing-parameter", "input[1].call_id", 400),
    ("responses", response(CALL | {"arguments": {}}, OUTPUT), {}, "wrong-type", "input[0].arguments", 400),
    ("responses", response(CALL | {"name": "a.b"}, OUTPUT), {}, "function-name", "input[0].name", 400),
    ("responses", response(CALL | {"status": "done"}, OUTPUT), {}, "invalid-value", "input[0].status", 400),
    ("responses", response(CALL | {"id": None}, OUTPUT), {}, "unknown-parameter", "input[0].id", 400),
    ("responses", response(ANSWER | {"status": None}), {}, "unknown-parameter", "input[0].status", 400),
    ("responses", response(REASONING | {"status": None}, ANSWER), {}, "unknown-parameter", "input[0].status", 400),
    ("responses", response(CALL | {"created_by": "x"}, OUTPUT), {}, "unknown-parameter", "input[0].created_by", 400),
    (
        "responses",
        response(CALL | {"parsed_arguments": {}}, OUTPUT),
        {},
        "unknown-parameter",
        "input[0].parsed_arguments",
        400,
    ),
    ("responses", response(ANSWER | {"provider_data": {}}), {}, "unknown-parameter", "input[0].provider_data", 400),
    ("responses", response(ASKS), {}, "unknown-parameter", "input[0].tool_calls", 400),
    # parts
    ("responses", response(user("hi")), {}, "wrong-type", "input[0].content[0]", 400),
    ("responses", response(user({"text": "hi"})), {}, "missing-parameter", "input[0].content[0].type", 400),
    ("responses", response(user({"type": "text", "text": "hi"})), {}, "part-type", "input[0].content[0].type", 400),
    (
        "responses",
        response(user({"type": "output_text", "text": "hi"})),
        {},
        "part-type",
        "input[0].content[0].type",
        400,
    ),
    (
        "responses",
        response({"role": "assistant", "content": [{"type": "input_text", "text": "hi"}]}),
        {},
        "part-type",
        "input[0].content[0].type",
        400,
    ),
    ("responses", response(user({"type": "input_text"})), {}, "missing-parameter", "input[0].content[0].text", 400),
    (
        "responses",
        response(ANSWER | {"content": [{"type": "output_text", "text": "{}", "parsed": {}}]}),
        {},
        "unknown-parameter",
        "input[0].content[0].parsed",
        400,
    ),
    (
        "responses",
        response(CALL, OUTPUT | {"output": [{"type": "output_text", "text": "hi"}]}),
        {},
        "part-type",
        "input[1].output[0].type",
        400,
    ),
    (
        "responses",
        response(REASONING | {"summary": ["x"]}, ANSWER),
        {},
        "wrong-type",
        "input[0].summary[0]",
        400,
    ),
    # ids
    ("responses", response(ANSWER | {"id": "item_1"}), {}, "id-prefix", "input[0].id", 400),
    ("responses", response(ANSWER | {"id": "ms_1"}), {}, "id-prefix", "input[0].id", 400),
    ("responses", response(CALL | {"id": "call_1"}, OUTPUT), {}, "id-prefix", "input[0].id", 400),
    ("responses", response(REASONING | {"id": "lc_1"}, ANSWER), {}, "id-prefix", "input[0].id", 400),
    ("responses", response(ANSWER | {"id": "msg_" + "a" * 61}), {}, "id-length", "input[0].id", 400),
    ("responses", response(ANSWER | {"id": "msg_1 2"}), {}, "id-characters", "input[0].id", 400),
    ("responses", response(CALL, OUTPUT | {"id": "a.b"}), {}, "id-characters", "input[1].id", 400),
    ("responses", response(ANSWER, ANSWER), {}, "duplicate-id", "input", 400),
    ("responses", response(ANSWER, {"id": "msg_1"}), {}, "duplicate-id", "input", 400),
    # pairs
    ("responses", response(USER, CALL), {}, "call-without-output", "input", 400),
    ("compact", response(USER, CALL), {}, "call-without-output", "input", 400),
    ("input_tokens", response(USER, CALL), {}, "call-without-output", "input", 400),
    ("responses", response(CALL, previous_response_id="resp_1"), {}, "call-without-output", "input", 400),
    ("responses", response(USER, OUTPUT), {}, "output-without-call", "input", 400),
    ("responses", response(OUTPUT, CALL), {}, "output-without-call", "input", 400),
    ("responses", response(CALL, OUTPUT | {"call_id": "call_2"}), {}, "output-without-call", "input", 400),
    ("responses", response(CALL, OUTPUT, OUTPUT), {}, "duplicate-output", "input", 400),
    ("responses", response(OUTPUT, OUTPUT, conversation="conv_1"), {}, "duplicate-output", "input", 400),
    (
        "responses",
        response(CALL, {"type": "custom_tool_call_output", "call_id": "call_1", "output": "x"}),
        {},
        "output-without-call",
        "input",
        400,
    ),
    ("responses", response(USER, SEARCH), {}, "call-without-output", "input", 400),
    ("responses", response(SEARCH | {"call_id": None}), {}, "call-without-output", "input", 400),
    (
        "responses",
        response({"type": "tool_search_output", "tools": [], "execution": "client", "call_id": None}),
        {},
        "output-without-call",
        "input",
        400,
    ),
    (
        "responses",
        response({"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}),
        {},
        "output-without-call",
        "input",
        400,
    ),
    ("responses", response(USER, SHELL_OUTPUT), {}, "output-without-call", "input", 400),
    (
        "responses",
        response(SEARCH, {"type": "custom_tool_call_output", "call_id": "s_1", "output": "x"}),
        {},
        "output-without-call",
        "input",
        400,
    ),
    # reasoning
    ("responses", response(USER, REASONING), {}, "reasoning-without-follower", "input", 400),
    ("responses", response(REASONING, USER, ANSWER), {}, "reasoning-without-follower", "input", 400),
    ("responses", response(REASONING, USER | {"id": "msg_2"}, ANSWER), {}, "reasoning-without-follower", "input", 400),
    ("responses", response(CALL, REASONING, OUTPUT), {}, "reasoning-without-follower", "input", 400),
    ("responses", response(SEARCH, REASONING, FOUND), {}, "reasoning-without-follower", "input", 400),
    (
        "responses",
        response(REASONING, {"role": "assistant", "content": "42"}),
        {},
        "reasoning-without-follower",
        "input",
        400,
    ),
    ("responses", response(USER, ANSWER), {"born": {"msg_1": "rs_1"}}, "item-without-reasoning", "input", 400),
    (
        "responses",
        response(CALL | {"id": "fc_1"}, OUTPUT),
        {"born": {"fc_1": "rs_1"}},
        "item-without-reasoning",
        "input",
        400,
    ),
    ("responses", response(USER, {"id": "msg_1"}), {"born": {"msg_1": "rs_1"}}, "item-without-reasoning", "input", 400),
    # what the server did not keep
    (
        "responses",
        response(without(REASONING, "encrypted_content"), ANSWER, store=False),
        {},
        "not-persisted",
        "input",
        404,
    ),
    (
        "responses",
        response(REASONING | {"encrypted_content": None}, ANSWER),
        {"stored": False},
        "not-persisted",
        "input",
        404,
    ),
    ("responses", response(USER, {"id": "msg_1"}, store=False), {}, "not-persisted", "input", 404),
    ("responses", response({"type": "compaction_trigger"}, USER), {}, "trigger-not-last", "input[0]", 400),
    # Chat Completions
    ("chat", {"model": "m"}, {}, "missing-parameter", "messages", 400),
    ("chat", chat(), {}, "empty-array", "messages", 400),
    ("chat", chat("hi"), {}, "wrong-type", "messages[0]", 400),
    ("chat", chat({"content": "hi"}), {}, "missing-parameter", "messages[0].role", 400),
    ("chat", chat({"role": "model", "content": "hi"}), {}, "role", "messages[0].role", 400),
    ("chat", chat({"role": "user"}), {}, "missing-parameter", "messages[0].content", 400),
    ("chat", chat(USER | {"content": None}), {}, "wrong-type", "messages[0].content", 400),
    ("chat", chat(user({"type": "input_text", "text": "x"})), {}, "part-type", "messages[0].content[0].type", 400),
    (
        "chat",
        chat({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        {},
        "part-type",
        "messages[0].content[0].type",
        400,
    ),
    (
        "chat",
        chat(ASKS, TELLS | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        {},
        "part-type",
        "messages[1].content[0].type",
        400,
    ),
    (
        "chat",
        chat(user({"type": "image_url", "image_url": "x"})),
        {},
        "wrong-type",
        "messages[0].content[0].image_url",
        400,
    ),
    ("chat", chat(USER, {"role": "assistant"}), {}, "content-missing", "messages.[1].content", 400),
    ("chat", chat(USER, {"role": "assistant", "content": None}), {}, "content-missing", "messages.[1].content", 400),
    (
        "chat",
        chat({"role": "assistant", "content": "x", "tool_calls": []}),
        {},
        "empty-array",
        "messages[0].tool_calls",
        400,
    ),
    ("chat", chat(USER | {"tool_calls": [TOOL_CALL]}), {}, "unknown-parameter", "messages[0].tool_calls", 400),
    (
        "chat",
        chat(ASKS | {"tool_calls": [without(TOOL_CALL, "type")]}, TELLS),
        {},
        "missing-parameter",
        "messages[0].tool_calls[0].type",
        400,
    ),
    (
        "chat",
        chat(ASKS | {"tool_calls": [TOOL_CALL | {"function": {"name": "look", "arguments": {}}}]}, TELLS),
        {},
        "wrong-type",
        "messages[0].tool_calls[0].function.arguments",
        400,
    ),
    (
        "chat",
        chat(ASKS | {"tool_calls": [without(TOOL_CALL, "function")]}, TELLS),
        {},
        "missing-parameter",
        "messages[0].tool_calls[0].function",
        400,
    ),
    ("chat", chat(ASKS | {"tool_calls": [4]}), {}, "wrong-type", "messages[0].tool_calls[0]", 400),
    (
        "chat",
        chat(ASKS | {"tool_calls": [TOOL_CALL | {"function": {"name": "a b", "arguments": ""}}]}, TELLS),
        {},
        "function-name",
        "messages[0].tool_calls[0].function.name",
        400,
    ),
    ("chat", chat(ASKS, without(TELLS, "tool_call_id")), {}, "missing-parameter", "messages[1].tool_call_id", 400),
    ("chat", chat(USER, ASKS), {}, "tool-calls-unanswered", "messages.[1].role", 400),
    ("chat", chat(USER, ASKS, USER, TELLS), {}, "tool-calls-unanswered", "messages.[1].role", 400),
    ("chat", chat(USER, TELLS), {}, "tool-message-without-call", "messages.[1].role", 400),
    ("chat", chat(ASKS, TELLS, USER, TELLS), {}, "tool-message-without-call", "messages.[3].role", 400),
    ("chat", chat(ASKS, TELLS, TELLS), {}, "duplicate-tool-message", "messages.[2].role", 400),
    # the length
    ("responses", response(USER), {"window": 4, "count": len}, "context-length", "input", 400),
    ("compact", response(USER), {"window": 4, "count": len}, "context-length", "input", 400),
    ("chat", chat(USER), {"window": 4, "count": len}, "context-length", "messages", 400),
    ("responses", {"model": "m", "input": "hello"}, {"window": 4, "count": len}, "context-length", "input", 400),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[3]}-{case[4]}")
def test_a_broken_rule_is_refused_with_its_place_and_status(case):
    api, body, more, rule, param, status = case
    with pytest.raises(Refusal) as caught:
        judge(api, body, **more)
    first = caught.value
    assert (first.rule, first.param, first.status) == (rule, param, status)
    assert first.body() == {
        "error": {"message": str(first), "type": "invalid_request_error", "param": param, "code": first.code}
    }


def test_the_table_breaks_every_rule():
    source = Path(judge.__code__.co_filename).read_text(encoding="utf-8")
    named = set(re.findall(r'(?:Refusal|_in_input)\(\s*"([a-z-]+)"', source))
    named |= {"missing-parameter", "invalid-value", "tool-shape", "item-type", "part-type", "role"}
    assert named == {rule for _, _, _, rule, _, _ in REFUSED}


@pytest.mark.parametrize(
    ("api", "body", "words", "code"),
    [
        ("responses", response(CALL), "No tool output found for function call call_1", None),
        ("responses", response(OUTPUT), "No tool call found for function call output with call_id call_1", None),
        (
            "responses",
            response(REASONING),
            "'rs_1' of type 'reasoning' was provided without its required following",
            None,
        ),
        ("responses", response(ANSWER | {"id": "x"}), "Expected an ID that begins with 'msg'", "invalid_value"),
        ("responses", response(ANSWER | {"status": None}), "Unknown parameter: 'input[0].status'", "unknown_parameter"),
        ("responses", response({"role": "tool", "content": ""}), "Invalid value: 'tool'. Supported", "invalid_value"),
        (
            "responses",
            response(USER, {"id": "msg_1"}, store=False),
            "'msg_1' not found. Items are not persisted when `store` is set to false",
            None,
        ),
        (
            "responses",
            response(USER, tools=[NESTED]),
            "Missing required parameter: 'tools[0].name'",
            "missing_required_parameter",
        ),
        ("chat", chat(ASKS), "'tool_calls' must be followed by tool messages responding to each 'tool_call_id'", None),
        ("chat", chat(TELLS), "must be a response to a preceding message with 'tool_calls'", None),
    ],
)
def test_an_error_keeps_the_phrases_that_users_search_for(api, body, words, code):
    (first, *_) = refusals(api, body)
    assert words in first.message
    assert first.code == code


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (response(USER, truncation=4), "expected a string, but got an integer"),
        (response(USER, instructions=4.5), "expected a string, but got a number"),
        (response(USER | {"content": None}), "expected a string or an array, but got null"),
        (response(USER | {"content": True}), "expected a string or an array, but got a boolean"),
    ],
)
def test_a_wrong_type_is_told_from_the_right_one(body, words):
    (only,) = refusals("responses", body)
    assert words in only.message


@pytest.mark.parametrize(
    ("api", "body", "only"),
    [
        ("responses", response({}), "missing-parameter"),
        ("responses", response({"type": []}), "wrong-type"),
        ("responses", response(user({"type": []})), "part-type"),
        ("responses", response(USER, tools=[{"type": []}]), "wrong-type"),
        ("responses", response(SEARCH | {"execution": "server", "call_id": []}), "wrong-type"),
        ("chat", chat({"role": []}), "wrong-type"),
        ("chat", chat(ASKS | {"tool_calls": [TOOL_CALL | {"type": []}]}, TELLS), "wrong-type"),
        ("chat", chat(ASKS | {"tool_calls": [TOOL_CALL | {"type": "tool", "tool": {}}]}, TELLS), "invalid-value"),
        ("chat", chat(ASKS, TELLS, TELLS | {"tool_call_id": []}), "wrong-type"),
        ("chat", chat(ASKS | {"tool_calls": [TOOL_CALL | {"id": []}]}), "wrong-type"),
    ],
)
def test_what_names_the_rules_is_judged_once(api, body, only):
    assert rules(api, body) == [only]


def test_an_overflow_carries_the_code_that_clients_branch_on():
    (only,) = refusals("responses", response(USER), window=4, count=len)
    assert (only.status, only.code) == (400, "context_length_exceeded")


CUSTOM = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1", "name": "patch", "input": "x"}
TAKEN = [
    ("responses", {"model": "m", "input": "hi"}, {}),
    ("responses", {"model": "m", "previous_response_id": "resp_1"}, {}),
    ("responses", {"model": "m", "conversation": {"id": "conv_1"}, "input": None}, {}),
    ("responses", {"prompt": {"id": "pmpt_1"}}, {}),
    ("responses", response(USER, previous_response_id="resp_1", store=False, conversation=None), {}),
    ("responses", response(USER, metadata={"k" * 64: "v" * 512}, stream_options={"include_obfuscation": False}), {}),
    ("responses", response(USER, metadata={str(i): "" for i in range(16)}, user="u", brand_new_parameter=1), {}),
    ("compact", {"model": "m", "input": [], "previous_response_id": "resp_1"}, {}),
    ("input_tokens", {}, {}),
    ("input_tokens", response(USER, tools=[FUNCTION], truncation="auto"), {}),
    # tools
    ("responses", response(USER, tools=[FUNCTION, {"type": "web_search"}, {"type": "custom", "name": "patch"}]), {}),
    (
        "responses",
        response(USER, tools=[{"type": "namespace", "name": "n", "description": "d", "tools": [FUNCTION]}]),
        {},
    ),
    ("chat", chat(USER, tools=[NESTED, {"type": "custom", "custom": {"name": "x"}}, {"type": "vendor:search"}]), {}),
    # messages and references
    *(("responses", response({"role": role, "content": "x"}), {}) for role in ("user", "system", "developer")),
    ("responses", response(USER, {"role": "assistant", "content": "x", "phase": "commentary"}), {}),
    ("responses", response(USER, {"role": "assistant", "content": ANSWER["content"]}), {}),
    ("responses", response(ANSWER | {"content": [{"type": "refusal", "refusal": "no"}]}), {}),
    ("responses", response({"id": "msg_1"}, {"type": "item_reference", "id": "anything-1"}), {}),
    ("responses", response({"type": "message", "id": "msg_1", "role": "user", "content": []}), {}),
    ("responses", response({"type": "acme:note", "whatever": None}), {}),
    (
        "responses",
        response(
            user(
                {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "input_image", "image_url": "https://x/y.png", "file_id": None},
                {"type": "input_file", "file_id": "file_1"},
            )
        ),
        {},
    ),
    # ids
    ("responses", response(ANSWER | {"id": "msg_" + "a" * 60}), {}),
    ("responses", response(CALL | {"id": "fc-1", "status": None}, OUTPUT | {"id": None, "status": None}), {}),
    # pairs
    ("responses", response(CALL, {"role": "assistant", "content": "wait"}, USER, OUTPUT), {}),
    ("responses", response(CALL, CALL, OUTPUT, OUTPUT), {}),
    ("responses", response(OUTPUT, previous_response_id="resp_1"), {}),
    ("responses", response(OUTPUT, conversation="conv_1"), {}),
    ("responses", response({"id": "fc_1"}, OUTPUT), {}),
    ("responses", response(CALL | {"async": True}, USER), {}),
    ("responses", response({"type": "function_call_output", "name": "look", "output": "x"}), {}),
    ("responses", response(CALL, OUTPUT | {"output": [{"type": "input_image", "file_id": "file_1"}]}), {}),
    ("responses", response(CUSTOM, {"type": "custom_tool_call_output", "call_id": "call_1", "output": "x"}), {}),
    (
        "responses",
        response(CUSTOM, CALL, OUTPUT, {"type": "custom_tool_call_output", "call_id": "call_1", "output": ""}),
        {},
    ),
    ("responses", response(SEARCH, FOUND), {}),
    ("responses", response(SEARCH, without(FOUND, "execution")), {}),
    ("responses", response(SEARCH | {"call_id": "call_1"}, CALL, OUTPUT, FOUND | {"call_id": "call_1"}), {}),
    ("responses", response(SEARCH, OUTPUT | {"call_id": "s_1"}), {}),
    ("responses", response(SEARCH | {"call_id": None}, {"type": "tool_search_output", "tools": [FUNCTION]}), {}),
    ("responses", response(SEARCH | {"execution": "server"}), {}),
    ("responses", response({"type": "tool_search_output", "tools": [], "execution": "server", "call_id": None}), {}),
    (
        "responses",
        response(
            CUSTOM | {"status": "completed"},
            {"type": "custom_tool_call_output", "call_id": "call_1", "output": [], "status": "completed"},
        ),
        {},
    ),
    (
        "responses",
        response(
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {
                    "type": "computer_screenshot",
                    "image_url": "https://x/y.png",
                    "detail": "high",
                    "prompt_cache_breakpoint": {"mode": "explicit"},
                },
            },
            previous_response_id="resp_1",
        ),
        {},
    ),
    # reasoning
    ("responses", response(USER, REASONING, ANSWER), {}),
    ("responses", response(USER, REASONING, REASONING | {"id": "rs_2"}, CALL | {"id": "fc_1"}, OUTPUT), {}),
    ("responses", response(USER, REASONING, CALL, OUTPUT), {}),
    ("responses", response(USER, REASONING, FOUND | {"execution": "server"}), {}),
    ("responses", response(USER, without(REASONING, "id"), {"role": "assistant", "content": "x"}), {}),
    ("responses", response(REASONING, ANSWER), {"born": {"msg_1": "rs_1"}}),
    ("responses", response({"id": "rs_1"}, {"id": "msg_1"}), {"born": {"msg_1": "rs_1"}}),
    ("responses", response(USER, without(ANSWER, "id")), {"born": {"msg_1": "rs_1"}}),
    ("responses", response(ANSWER, previous_response_id="resp_1"), {"born": {"msg_1": "rs_1"}}),
    # what the server kept
    ("responses", response(REASONING, ANSWER, store=False), {}),
    ("responses", response(without(REASONING, "id", "encrypted_content"), ANSWER, store=False), {}),
    ("responses", response(without(REASONING, "encrypted_content"), ANSWER), {}),
    ("responses", response({"id": "msg_1"}, store=False), {"stored": True}),
    ("responses", response(USER, {"type": "compaction_trigger"}), {}),
    ("responses", response({"type": "compaction", "encrypted_content": "gAAA"}, USER), {}),
    # Chat Completions
    *(("chat", chat({"role": role, "content": "x"}), {}) for role in ("developer", "system", "user", "assistant")),
    ("chat", chat(USER, ASKS, TELLS, {"role": "assistant", "content": "done"}, USER), {}),
    ("chat", chat(without(ASKS, "content"), TELLS), {}),
    ("chat", chat({"role": "assistant", "content": None, "refusal": "no"}), {}),
    ("chat", chat({"role": "assistant", "audio": {"id": "audio_1"}}), {}),
    ("chat", chat({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}), {}),
    ("chat", chat(USER | {"tool_calls": None}, {"role": "assistant", "content": "x", "tool_calls": None}), {}),
    ("chat", chat(USER, {"role": "assistant", "content": "x", "reasoning_content": "hm", "prefix": True}), {}),
    ("chat", chat(user({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}})), {}),
    ("chat", chat(ASKS, TELLS | {"content": [{"type": "text", "text": "x"}]}), {}),
    (
        "chat",
        chat(
            user(
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file_1"}},
            )
        ),
        {},
    ),
    (
        "chat",
        chat(ASKS | {"tool_calls": [{"id": "call_1", "type": "custom", "custom": {"name": "p", "input": ""}}]}, TELLS),
        {},
    ),
    # the length: as long as the window is long enough
    ("responses", response(USER), {"window": 5, "count": len}),
    ("chat", chat(USER), {"window": 5, "count": len}),
    ("responses", response(USER), {"window": 0}),
    ("responses", response(USER), {"count": len}),
    ("responses", response(USER, truncation="auto"), {"window": 0, "count": len}),
    ("input_tokens", response(USER), {"window": 0, "count": len}),
]


@pytest.mark.parametrize(("api", "body", "more"), TAKEN)
def test_a_sound_body_is_taken(api, body, more):
    assert [str(refusal) for refusal in refusals(api, body, **more)] == []
    judge(api, body, **more)


# type -> (a smallest item of it, what has to stand before it, what has to stand behind it)
SMALLEST = {
    "message": (USER | {"type": "message"}, [], []),
    "function_call": (CALL, [], [OUTPUT]),
    "function_call_output": (OUTPUT, [CALL], []),
    "custom_tool_call": (
        without(CUSTOM, "id"),
        [],
        [{"type": "custom_tool_call_output", "call_id": "call_1", "output": ""}],
    ),
    "custom_tool_call_output": (
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": ""},
        [CUSTOM],
        [],
    ),
    "computer_call": (
        {"type": "computer_call", "id": "cu_1", "call_id": "c", "pending_safety_checks": [], "status": "completed"},
        [],
        [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "file_id": "f"}}],
    ),
    "computer_call_output": (
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "file_id": "f"}},
        [{"type": "computer_call", "id": "cu_1", "call_id": "c", "pending_safety_checks": [], "status": "completed"}],
        [],
    ),
    "apply_patch_call_output": (
        {"type": "apply_patch_call_output", "call_id": "c", "status": "completed"},
        [{"type": "apply_patch_call", "call_id": "c", "operation": {}, "status": "completed"}],
        [],
    ),
    "local_shell_call": (
        {"type": "local_shell_call", "id": "ls_1", "call_id": "c", "action": {}, "status": "completed"},
        [],
        [{"type": "local_shell_call_output", "id": "c", "output": "{}"}],
    ),
    "local_shell_call_output": (
        {"type": "local_shell_call_output", "id": "c.1", "output": "{}"},
        [{"type": "local_shell_call", "id": "ls_1", "call_id": "c.1", "action": {}, "status": "completed"}],
        [],
    ),
    "shell_call": ({"type": "shell_call", "call_id": "c", "action": {"commands": []}}, [], [SHELL_OUTPUT]),
    "shell_call_output": (SHELL_OUTPUT, [{"type": "shell_call", "call_id": "c", "action": {}}], []),
    "apply_patch_call": (
        {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file"}, "status": "completed"},
        [],
        [{"type": "apply_patch_call_output", "call_id": "c", "status": "failed"}],
    ),
    "tool_search_call": ({"type": "tool_search_call", "arguments": {}}, [], []),
    "tool_search_output": ({"type": "tool_search_output", "tools": []}, [], []),
    "additional_tools": ({"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}, [], []),
    "configuration_update": ({"type": "configuration_update"}, [], []),
    "reasoning": (without(REASONING, "id", "encrypted_content"), [], [ANSWER]),
    "compaction": ({"type": "compaction", "encrypted_content": "gAAA"}, [], []),
    "compaction_trigger": ({"type": "compaction_trigger"}, [USER], []),
    "item_reference": ({"type": "item_reference", "id": "x"}, [], []),
    "program": ({"type": "program", "id": "p", "call_id": "c", "code": "", "fingerprint": "f"}, [], []),
    "program_output": (
        {"type": "program_output", "id": "po", "call_id": "c", "result": "", "status": "completed"},
        [],
        [],
    ),
    "file_search_call": ({"type": "file_search_call", "id": "fs_1", "queries": [], "status": "completed"}, [], []),
    "web_search_call": ({"type": "web_search_call", "id": "ws_1", "action": {}, "status": "completed"}, [], []),
    "code_interpreter_call": (
        {"type": "code_interpreter_call", "id": "ci_1", "container_id": "c", "status": "interpreting"},
        [],
        [],
    ),
    "image_generation_call": ({"type": "image_generation_call", "id": "ig_1"}, [], []),
    "mcp_list_tools": ({"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []}, [], []),
    "mcp_approval_request": (
        {"type": "mcp_approval_request", "id": "mcpr_1", "name": "n", "arguments": "", "server_label": "s"},
        [],
        [],
    ),
    "mcp_approval_response": (
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False},
        [{"type": "mcp_approval_request", "id": "mcpr_1", "name": "n", "arguments": "", "server_label": "s"}],
        [],
    ),
    "mcp_call": ({"type": "mcp_call", "id": "mcp_1", "name": "a.b", "arguments": "", "server_label": "s"}, [], []),
}
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


def test_all_broken_rules_are_listed_and_the_first_is_raised():
    body = response(CALL, {"role": "tool", "content": "x"}, tools=[NESTED])
    assert rules("responses", body) == ["role", "call-without-output", "tool-shape"]
    with pytest.raises(Refusal, match="tool"):
        judge("responses", body)


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


# --- the types of the package ----------------------------------------------------------------------------------------


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


# --- properties ------------------------------------------------------------------------------------------------------

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


# --- recorded traffic ------------------------------------------------------------------------------------------------

RECORDED = Path(__file__).parents[2].parent / "shared" / "corpus"
OF_OPENAI = re.compile(r"(gpt-|o\d|chatgpt)")
needs_traffic = pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded traffic beside this repository")


def recorded(*apis):
    for path in sorted(RECORDED.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["api"] in apis and OF_OPENAI.match(record["request"].get("model") or ""):
                    yield record


@needs_traffic
@pytest.mark.parametrize(("api", "at_least"), [("responses", 250), ("chat", 150), ("compact", 7), ("input_tokens", 3)])
def test_every_recorded_request_that_was_answered_is_taken(api, at_least):
    answered = [record for record in recorded(api) if record["status"] == 200]
    refused = {record["id"]: found for record in answered if (found := rules(api, record["request"]))}
    assert refused == {}
    assert len(answered) >= at_least


@needs_traffic
def test_every_recorded_answer_can_be_replayed_as_it_came():
    replayed = 0
    for record in recorded("responses", "compact"):
        output = (record["response"] or {}).get("output") or [
            event["item"] for event in record["sse"] or [] if event.get("type") == "response.output_item.done"
        ]
        if record["status"] != 200 or not output:
            continue
        calls = [item for item in output if item["type"] == "function_call"]
        calls += [item for item in output if item["type"] == "tool_search_call" and item["execution"] == "client"]
        answers = [OUTPUT | {"call_id": item["call_id"]} for item in calls]
        assert rules("responses", response(USER, *output, *answers)) == [], record["id"]
        replayed += 1
    assert replayed > 250


@needs_traffic
def test_the_recorded_refusals_that_concern_the_judge_are_made():
    made = {}
    for record in recorded("responses", "chat"):
        words = str(record["response"])
        if record["status"] == 400 and re.search(
            r"required following|No tool|Unknown parameter|Missing required", words
        ):
            (refusal, *_) = refusals(record["api"], record["request"])
            assert refusal.body()["error"] == record["response"]["error"]
            made[record["id"]] = refusal.rule
    assert "reasoning-without-follower" in made.values()
