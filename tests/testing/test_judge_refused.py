"""The judge refuses what the API refuses, with the API's status and error body."""

import re
from pathlib import Path

import pytest

from judge_bodies import (
    ANSWER,
    ASKS,
    CALL,
    FOUND,
    FUNCTION,
    NESTED,
    OUTPUT,
    REASONING,
    SEARCH,
    SHELL_OUTPUT,
    TELLS,
    TOOL_CALL,
    USER,
    chat,
    response,
    rules,
    user,
    without,
)
from turnlog.engine.testing.judge import Refusal, judge, refusals

PROGRAM = {"type": "program", "id": "pr_1", "call_id": "prog_1", "code": "look()", "fingerprint": "x"}
RAN = {"type": "program_output", "id": "po_1", "call_id": "prog_1", "result": "done", "status": "completed"}
CALLED = {"caller": {"type": "program", "caller_id": "prog_1"}}
CALLED_ELSEWHERE = {"caller": {"type": "program", "caller_id": "prog_2"}}


# One case a rule at least: (api, body, keywords, rule, param, status of the first refusal).
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
    ("responses", response(USER, background=True, store=False), {}, "background-not-stored", "store", 400),
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
    ("responses", response(CALL | {"call_id": "c" * 65}), {}, "id-length", "input[0].call_id", 400),
    (
        "chat",
        chat(USER, {"role": "tool", "tool_call_id": "c" * 41, "content": "x"}),
        {},
        "id-length",
        "messages[1].tool_call_id",
        400,
    ),
    (
        "chat",
        chat(USER, ASKS | {"tool_calls": [TOOL_CALL | {"id": "c" * 41}]}),
        {},
        "id-length",
        "messages[1].tool_calls[0].id",
        400,
    ),
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
    ("responses", response(USER, RAN), {}, "output-without-call", "input", 400),
    ("responses", response(RAN, PROGRAM), {}, "output-without-call", "input", 400),
    ("responses", response(USER, CALL | CALLED, OUTPUT), {}, "called-without-caller", "input", 400),
    ("responses", response(PROGRAM, CALL, OUTPUT | CALLED_ELSEWHERE), {}, "called-without-caller", "input", 400),
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


def test_all_broken_rules_are_listed_and_the_first_is_raised():
    body = response(CALL, {"role": "tool", "content": "x"}, tools=[NESTED])
    assert rules("responses", body) == ["role", "call-without-output", "tool-shape"]
    with pytest.raises(Refusal, match="tool"):
        judge("responses", body)
