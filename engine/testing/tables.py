"""What the judge knows of requests: items, content parts, Chat messages and parameters, as tables.

An entry is `type name=kinds optional?=kinds …`; a kind is one of FITS or of _SETS, `x*` for an id that begins with
x (where the prefix is known), or a literal.
What may be null follows the types of the `openai` package, except where the API took what they do not allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = (
    "CALLS",
    "CHAT_CALL",
    "CHAT_CALLS",
    "CHAT_HOLDS",
    "CHAT_PARTS",
    "CHAT_ROLES",
    "CLIENT_MADE",
    "FITS",
    "FROM_CLIENT",
    "FROM_MODEL",
    "HOLDS",
    "ITEMS",
    "NAMES",
    "OUTPUTS",
    "PARAMETERS",
    "PARTS",
    "Field",
)

_JSON = {"str": str, "bool": bool, "int": int, "list": list, "obj": dict, "null": type(None)}
FITS: Mapping[str, type | tuple[type, ...]] = {"any": object, "never": (), **_JSON}
NAMES = {"str": "a string", "bool": "a boolean", "int": "an integer", "list": "an array", "obj": "an object"}
_STATE = ("in_progress", "completed", "incomplete")
_SETS = {"STATE": _STATE, "HOSTED": (*_STATE, "searching", "interpreting", "generating", "calling", "failed")}


@dataclass(frozen=True, slots=True)
class Field:
    """What a field may hold."""

    kinds: tuple[str, ...]
    required: bool


def _table(text: str) -> dict[str, dict[str, Field]]:
    table: dict[str, dict[str, Field]] = {}
    for kind, *fields in filter(None, map(str.split, text.split(";"))):
        table[kind] = {}
        for name, kinds in (field.split("=") for field in fields):
            expanded = tuple(kind for part in kinds.split("|") for kind in _SETS.get(part, (part,)))
            table[kind][name.removesuffix("?")] = Field(expanded, required=not name.endswith("?"))
    return table


# Against the package's types: a call was taken with a null status, an image with nothing but its id; agents that
# strip ids send reasoning without one; replayed custom calls carry the status that the API gave them.
ITEMS = _table("""
message role=user|assistant|system|developer content=str|list id?=msg* status?=STATE
    phase?=commentary|final_answer|null;
function_call call_id=str name=str arguments=str id?=fc* namespace?=str caller?=obj|null async?=bool
    status?=STATE|null;
function_call_output output=str|list call_id?=str|null name?=str|null namespace?=str|null id?=str|null
    caller?=obj|null status?=STATE|null;
custom_tool_call call_id=str name=str input=str id?=ctc* namespace?=str caller?=obj|null async?=bool status?=STATE;
custom_tool_call_output call_id=str output=str|list id?=str caller?=obj|null status?=STATE;
computer_call id=str call_id=str pending_safety_checks=list status=STATE action?=obj actions?=list;
computer_call_output call_id=str output=obj id?=str|null acknowledged_safety_checks?=list|null status?=STATE|null;
local_shell_call id=str call_id=str action=obj status=STATE;
local_shell_call_output id=str output=str status?=STATE|null;
shell_call call_id=str action=obj id?=str|null environment?=obj|null caller?=obj|null status?=STATE|null;
shell_call_output call_id=str output=list id?=str|null max_output_length?=int|null caller?=obj|null status?=STATE|null;
apply_patch_call call_id=str operation=obj status=in_progress|completed id?=str|null caller?=obj|null;
apply_patch_call_output call_id=str status=completed|failed output?=str|null id?=str|null caller?=obj|null;
tool_search_call arguments=any id?=tsc*|null call_id?=str|null execution?=server|client status?=STATE|null;
tool_search_output tools=list id?=tso*|null call_id?=str|null execution?=server|client status?=STATE|null;
additional_tools role=developer tools=list id?=str|null;
configuration_update id?=str|null reasoning?=obj text?=obj;
reasoning summary=list id?=rs* content?=list encrypted_content?=str|null status?=STATE;
compaction encrypted_content=str id?=cmp*|null;
compaction_trigger id?=str|null;
item_reference id=str;
program id=str call_id=str code=str fingerprint=str;
program_output id=str call_id=str result=str status=completed|incomplete;
file_search_call id=fs* queries=list status=HOSTED results?=list|null;
web_search_call id=ws* action=obj status=HOSTED;
code_interpreter_call id=ci* container_id=str status=HOSTED code?=str|null outputs?=list|null;
image_generation_call id=ig* status?=HOSTED result?=str|null error?=obj action?=str|null background?=str|null
    output_format?=str|null quality?=str|null revised_prompt?=str|null size?=str|null svg_usage?=obj;
mcp_list_tools id=mcpl* server_label=str tools=list error?=any;
mcp_approval_request id=str name=str arguments=str server_label=str;
mcp_approval_response approval_request_id=str approve=bool reason?=str|null id?=str|null;
mcp_call id=mcp* name=str arguments=str server_label=str approval_request_id?=str|null output?=str|null error?=any
    status?=HOSTED;
""")
CLIENT_MADE = frozenset({"configuration_update", "compaction_trigger", "mcp_approval_response"}) | {
    kind for kind in ITEMS if kind.endswith("_call_output")
}

PARTS = _table("""
input_text text=str prompt_cache_breakpoint?=obj|null;
input_image detail?=str|null file_id?=str|null image_url?=str|null prompt_cache_breakpoint?=obj|null;
input_file detail?=str|null file_id?=str|null file_data?=str|null file_url?=str|null filename?=str|null
    prompt_cache_breakpoint?=obj|null;
output_text text=str annotations?=list logprobs?=list;
refusal refusal=str;
summary_text text=str;
reasoning_text text=str;
computer_screenshot file_id?=str|null image_url?=str|null detail?=str|null prompt_cache_breakpoint?=obj|null;
untyped stdout=str stderr=str outcome=obj;
""")
FROM_CLIENT = ("input_text", "input_image", "input_file")
FROM_MODEL = ("output_text", "refusal")
HOLDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "message": {"content": FROM_CLIENT},  # an assistant's excepted
    "function_call_output": {"output": FROM_CLIENT},
    "custom_tool_call_output": {"output": FROM_CLIENT},
    "computer_call_output": {"output": ("computer_screenshot",)},
    "shell_call_output": {"output": ("untyped",)},
    "reasoning": {"summary": ("summary_text",), "content": ("reasoning_text",)},
}

# output -> its call, the key that names the call, the key by which the output names it
OUTPUTS = {
    "function_call_output": ("function_call", "call_id", "call_id"),
    "custom_tool_call_output": ("custom_tool_call", "call_id", "call_id"),
    "computer_call_output": ("computer_call", "call_id", "call_id"),
    "local_shell_call_output": ("local_shell_call", "call_id", "id"),
    "shell_call_output": ("shell_call", "call_id", "call_id"),
    "apply_patch_call_output": ("apply_patch_call", "call_id", "call_id"),
    "tool_search_output": ("tool_search_call", "call_id", "call_id"),
    "mcp_approval_response": ("mcp_approval_request", "id", "approval_request_id"),
}
CALLS = {call: link for call, link, _ in OUTPUTS.values()}

CHAT_PARTS = _table(
    "text text=str; image_url image_url=obj; input_audio input_audio=obj; file file=obj; refusal refusal=str;"
)
CHAT_CALLS = _table("function name=str arguments=str; custom name=str input=str;")
CHAT_CALL = _table("tool_call id=str type=function|custom;")["tool_call"]
CHAT_ROLES = _table("""
developer content=str|list;
system content=str|list;
user content=str|list;
assistant content?=str|list|null refusal?=str|null audio?=obj|null function_call?=obj|null tool_calls?=list|null;
tool tool_call_id=str content=str|list;
function name=str content=str|null;
""")
CHAT_HOLDS: Mapping[str, tuple[str, ...]] = {
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
}

PARAMETERS = _table("""
responses model?=str instructions?=str|null previous_response_id?=str|null conversation?=str|obj|null
    input?=str|list|null prompt?=obj|null store?=bool|null stream?=bool|null background?=bool|null include?=list|null
    tools?=list|null metadata?=obj|null truncation?=auto|disabled|null stream_options?=obj|null
    context_management?=list|null
    messages?=never functions?=never function_call?=never max_tokens?=never max_completion_tokens?=never
    response_format?=never reasoning_effort?=never n?=never stop?=never seed?=never modalities?=never;
compact model=str|null instructions?=str|null previous_response_id?=str|null conversation?=str|obj|null
    input?=str|list|null
    messages?=never store?=never stream?=never stream_options?=never background?=never include?=never
    max_output_tokens?=never metadata?=never tools?=never tool_choice?=never text?=never reasoning?=never
    truncation?=never;
input_tokens model?=str|null instructions?=str|null previous_response_id?=str|null conversation?=str|obj|null
    input?=str|list|null tools?=list|null truncation?=auto|disabled|null
    messages?=never store?=never stream?=never stream_options?=never background?=never include?=never
    max_output_tokens?=never metadata?=never;
chat model=str messages=list tools?=list|null metadata?=obj|null stream?=bool|null
    input?=never instructions?=never previous_response_id?=never conversation?=never max_output_tokens?=never
    max_tool_calls?=never truncation?=never include?=never background?=never context_management?=never;
""")
