"""The judge takes what the API takes."""

import pytest

from judge_bodies import (
    ANSWER,
    ASKS,
    CALL,
    CUSTOM,
    FOUND,
    FUNCTION,
    NESTED,
    OUTPUT,
    REASONING,
    SEARCH,
    TELLS,
    USER,
    chat,
    response,
    user,
    without,
)
from turnlog.engine.testing.judge import judge, refusals

PROGRAM = {"type": "program", "id": "pr_1", "call_id": "prog_1", "code": "look()", "fingerprint": "x"}
RAN = {"type": "program_output", "id": "po_1", "call_id": "prog_1", "result": "done", "status": "completed"}
CALLED = {"caller": {"type": "program", "caller_id": "prog_1"}}


TAKEN = [
    ("responses", {"model": "m", "input": "hi"}, {}),
    ("responses", response(USER, PROGRAM, CALL | CALLED, OUTPUT | CALLED, RAN, ANSWER), {}),
    ("responses", response(USER, PROGRAM, CALL | CALLED, OUTPUT), {}),
    ("responses", response(RAN, previous_response_id="resp_1"), {}),
    ("responses", response(USER, CALL | {"caller": {"type": "direct"}}, OUTPUT), {}),
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
