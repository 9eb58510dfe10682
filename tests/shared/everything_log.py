"""Conversations with everything in them that windows and requests can hold; run as a script, it writes a golden log.

    python tests/shared/everything_log.py everything tests/golden/requests-N.jsonl.gz
    python tests/shared/everything_log.py held tests/golden/requests-M.jsonl.gz
    python tests/shared/everything_log.py marked tests/golden/requests-L.jsonl.gz

A golden log is written once, when a renderer or an encoder gets a new version, and kept for ever.
"""

import gzip
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from instant_model import Instant, call
from turnlog import Budget, ResponseFailed, open_engine
from turnlog.engine.model import ModelFailure
from turnlog.engine.portable import dump

PNG = "data:image/png;base64,iVBORw0KGgo="
BUDGET = Budget(4_000, 200)
PARAMS = {"temperature": 0.5, "metadata": {"of": "ada"}}
SCHEMA = {"type": "function", "name": "sign", "parameters": {"type": "object", "properties": {}}, "strict": False}
TRAITS = {"developer": False, "custom": False, "thoughts": "tool_turns", "field": "reasoning_content"}


class Today(Instant):
    """A model asked by the encoders of today; one to which a small picture is few tokens."""

    takes_cache_key = True

    def __init__(self, api, answer="Fine {}.", *, name="gpt-4o", budget=BUDGET, **options):
        super().__init__(api, answer, budget=budget, name=name, encoder=3, **options)


async def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: " + "a word like others, and a long tale about it. " * 90


def thinks_and_calls(number):
    """Answer the first time with reasoning and two calls, then with a text of several parts."""
    if number == 1:
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA" * 60}
        return [thought, call("look_up", '{"word":"sky"}', 1), call("look_up", '{"word":"sea"}', 2)]
    parts = [{"type": "output_text", "text": f"Part {part} of {number}. ", "annotations": []} for part in (1, 2)]
    return [{"type": "message", "id": f"msg_a{number}", "role": "assistant", "status": "completed", "content": parts}]


def thinks_aloud(number):
    """Answer the first time with a thought and a call, as backends of Chat Completions show them; then with a text."""
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": f"Hm, {number}."}]}
    said = {"type": "message", "role": "assistant", "content": f"So be it, {number}."}
    calls = {"type": "function_call", "call_id": "c" * 50, "name": "look_up", "arguments": '{"word":"sun"}'}
    return [thought, calls] if number == 1 else [thought, said]


async def everything(engine, name="everything"):
    """Write the conversation; return it."""
    c = await engine.create(id=name, metadata={"user": "ada"})
    await c.append({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Speak plainly."})
    await c.append("Remember: the code is 4711.", pinned=True)
    responses = Today("responses", thinks_and_calls, usage={"input_tokens": 1_900, "output_tokens": 5})
    chat = Today("chat", "So be it, {}.", backend="there")
    picture = {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "Look:"},
            {"type": "input_image", "image_url": PNG, "detail": "low"},
        ],
    }
    await c.run(responses, ["What of these two?", picture], tools=[look_up], instructions="Answer.", params=PARAMS)
    await c.run(chat, "And through the other door?", tools=[look_up], instructions="Answer there.")
    await c.run(Today("responses", lambda number: [call("sign", "{}", 9)]), "Sign here.", tools=[SCHEMA])
    await c.run(chat, "Never mind.", open_calls="seal")
    await c.append({"type": "function_call_output", "call_id": "call_9", "output": "signed after all"})
    busy = ModelFailure("http", "busy", code="server_error", status_code=503, retryable=True)
    try:
        await c.run(Today("responses", lambda number: busy), "Is anybody there?")
    except ResponseFailed:
        await c.run(responses)
    other = Today("responses", backend="elsewhere", name="gpt-4.1")
    await c.run(other, "And you, who have not said a word yet?")
    for turn in range(24):
        await c.run((responses, chat)[turn % 2], f"Question {turn}: " + "and what of it? " * 30)
    turns = [turn async for turn in c.turns()]
    await c.rewind(to=turns[-2].seq - 1)
    await c.run(responses, "Another way, then.", tools=[SCHEMA])
    return c


async def held(engine, name="held"):
    """Write a conversation of which servers hold a part, with compactions and a call beside it; return it."""
    c = await engine.create(id=name)
    await c.append("Remember: the code is 4711.", pinned=True)
    chained = Today("responses", thinks_and_calls, state="chained")
    await c.run(chained, "What of these two?", tools=[look_up], instructions="Answer.")
    await c.run(chained, "And then?", instructions="Answer.")
    await c.respond(chained, "A title, please.", aside=True)
    await c.run(chained, "Go on.")
    there = Today("responses", state="conversation", name="gpt-4.1")
    await c.run(there, "And what do you say?")
    await c.append("Mind this too.")
    await c.run(there, "Well?")
    await c.compact(Today("responses", "In short: {}."), method="summary")
    await c.run(there, "What was it all about?")
    thinker = Today("chat", thinks_aloud, backend="deep", thoughts="tool_turns", settings={"traits": TRAITS})
    await c.run(thinker, "Look that up.", tools=[look_up])
    await c.run(thinker, "So?")
    made = await c.compact(method="extract")
    await c.run(thinker, "Once more?")
    await c.undo_compaction(made.seq)
    await c.run(chained, "And now?")
    return c


MARKS = {"timestamp": 7, "mood": {"of": "a later day"}}
PARTS = [
    {"type": "input_text", "text": "Look", "prompt_cache_breakpoint": {"mode": "explicit"}, **MARKS},
    {"type": "input_image", "image_url": PNG, "detail": "low", "file_id": None, **MARKS},
    {"type": "input_file", "file_id": "file_1", "filename": "a.pdf", "detail": "high", **MARKS},
]
CALLER = {"type": "program", "caller_id": "prog_1"}
BESIDE = {"id": "x_1", "status": "completed", "caller": CALLER, "namespace": "n", "async": True, "name": "look"}
SAID = [
    {"role": "user", "content": PARTS, "name": "ada", "status": "completed"},
    {"role": "system", "content": PARTS, "name": "ada", "status": "completed"},
    {"role": "developer", "content": PARTS, "name": "ada", "status": "completed"},
    {"type": "function_call", "call_id": "a", "arguments": "{}", **BESIDE},
    {"type": "function_call_output", "call_id": "a", "output": PARTS, **BESIDE},
    {"type": "custom_tool_call", "call_id": "b", "input": "ls", **BESIDE},
    {"type": "custom_tool_call_output", "call_id": "b", "output": PARTS, **BESIDE},
    {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}, "environment": {"type": "local"}, **BESIDE},
    {
        "type": "shell_call_output",
        "call_id": "c",
        "output": [{"stdout": "", "stderr": "", "outcome": {"type": "timeout"}, **MARKS}],
        "max_output_length": 10,
        **BESIDE,
    },
    {
        "type": "apply_patch_call",
        "call_id": "d",
        "operation": {"type": "delete_file", "path": "x"},
        "status": "completed",
        "caller": CALLER,
    },
    {"type": "apply_patch_call_output", "call_id": "d", "status": "failed", "output": "no", "caller": CALLER},
    {"type": "tool_search_call", "call_id": "e", "arguments": {}, "execution": "client", "status": "completed"},
    {"type": "tool_search_output", "call_id": "e", "tools": [], "execution": "client", "status": "completed"},
    {"type": "additional_tools", "role": "developer", "tools": []},
    {"type": "configuration_update", "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}},
    {"role": "assistant", "content": "I see.", "phase": "final_answer"},
    {"role": "user", "content": "Well?", "status": 7},
]
"""Of every kind that a caller's items can be sent as, with all the fields that it has."""
MADE = [
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA" * 60, "status": "completed"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["x"], "results": []},
    {"type": "code_interpreter_call", "id": "ci_1", "container_id": "c", "status": "completed", "code": "1"},
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBO", "quality": "high"},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
    {"type": "mcp_call", "id": "mcp_1", "name": "f", "arguments": "{}", "server_label": "s", "output": "x"},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "phase": "final_answer",
        "content": [{"type": "output_text", "text": "So.", "annotations": [], "logprobs": [], **MARKS}],
    },
]


async def marked(engine, name="marked"):
    """Write a conversation whose items have fields that their kinds have not; return it."""
    c = await engine.create(id=name)
    await c.append(*({**item, **MARKS} for item in SAID))
    room = {"budget": Budget(100_000)}
    first = [{**item, **MARKS} for item in MADE]
    home = Today("responses", lambda number: first if number == 1 else "Fine.", **room)
    await c.run(home, {"role": "user", "content": "What of it?", **MARKS})
    await c.run(home, "And?")
    await c.run(Today("responses", backend="elsewhere", **room), "And you?")
    await c.run(Today("chat", "So be it, {}.", backend="there", **room), "And through the other door?")
    await c.compact(method="extract", budget=BUDGET)
    await c.run(home, "What was said?")
    return c


def clock():
    """Return a clock that goes on by a second whenever it is asked."""
    now = datetime(2026, 1, 2, tzinfo=UTC)

    def ticks():
        nonlocal now
        now += timedelta(seconds=1)
        return now

    return ticks


async def _write(write, path):
    async with open_engine(":memory:", clock=clock()) as engine:
        conversation = await write(engine)
        with path.open("xb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            async for line, _ in dump(engine.store, conversation.id):
                file.write(line)


if __name__ == "__main__":
    anyio.run(_write, {"everything": everything, "held": held, "marked": marked}[sys.argv[1]], Path(sys.argv[2]))
