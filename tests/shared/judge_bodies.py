"""Bodies to judge: items, messages, and what makes a request of them."""

from turnlog.engine.testing.judge import refusals

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
SEARCH = {"type": "tool_search_call", "arguments": {"q": "x"}, "execution": "client", "call_id": "s_1"}
SHELL_OUTPUT = {
    "type": "shell_call_output",
    "call_id": "c",
    "output": [{"stdout": "", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
}
FOUND = {"type": "tool_search_output", "tools": [], "execution": "client", "call_id": "s_1"}
CUSTOM = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1", "name": "patch", "input": "x"}


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
        [{"type": "program", "id": "p", "call_id": "c", "code": "", "fingerprint": "f"}],
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
