"""The catalogue of malformed histories: each file in `tests/malformed` tells what is wrong, shows it, and what is sent.

A file holds three blocks: a picture, the log as lines, and the windows that become of it. A line is a word and what it
is about: `user text`, `answer kind:number …` (a response), `fail …` (one that failed), `output number text`, `seal
number`, `again kind:number …` (a caller appends what a model made), `raw json`, `refused path json` (what a caller may
not append, and why). In the windows a star stands for an item that goes without its id.
"""

import json
import re
from pathlib import Path

import pytest

from small_logs import (
    CHAT,
    OTHER_BACKEND,
    OTHER_MODEL,
    RESPONSES,
    SmallLog,
    call,
    computer,
    custom,
    note,
    output,
    program,
    program_output,
    said,
    search,
    thought,
)
from turnlog.engine.errors import BudgetExceeded, InvalidItem
from turnlog.engine.items import accept
from turnlog.engine.window.budget import Budget

FILES = sorted((Path(__file__).parent.parent / "malformed").glob("*.md"))
MAKE = {
    "said": said,
    "thought": thought,
    "call": call,
    "custom": custom,
    "computer": computer,
    "search": search,
    "note": note,
    "program": program,
    "program_output": program_output,
    "finding": lambda number: {
        "type": "tool_search_call",
        "id": f"tsc_{number}",
        "call_id": None,
        "execution": "client",
        "arguments": {"query": number},
    },
    "called": lambda number: call(number, caller={"type": "program", "caller_id": f"prog_{number}"}),
    "approval": lambda number: {
        "type": "mcp_approval_request",
        "id": f"mcpr_{number}",
        "name": "find",
        "arguments": "{}",
        "server_label": "s",
    },
}


def blocks(path):
    """Return the three blocks of a file: picture, log, windows."""
    return re.findall(r"^```\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def made(words):
    return [MAKE[kind](int(number)) for kind, number in (word.split(":") for word in words.split())]


def written(lines):
    log = SmallLog()
    for line in lines.splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "user" | "system":
                log.say({"role": word, "content": rest})
            case "answer":
                log.answer(*made(rest))
            case "fail":
                asked = log.ask()
                log.give(asked, *made(rest))
                log.fail(asked)
            case "output":
                number, _, text = rest.partition(" ")
                log.say(output(int(number), text))
            case "seal":
                log.seal(int(rest))
            case "again":
                log.say(*made(rest))
            case "raw":
                log.say(json.loads(rest))
            case "refused":
                path, _, item = rest.partition(" ")
                with pytest.raises(InvalidItem) as refused:
                    accept(json.loads(item), "$")
                assert refused.value.path == f"$.{path}"
            case _:
                pytest.fail(f"{line!r} is no line of a log")
    return log


def told(item):
    """Return an item of a window in a few words."""
    kind = item.get("role") or item["type"]
    bare = "" if "id" in item or kind in ("user", "system") or kind.endswith("_output") else "*"
    link = f" {item['call_id']}" if "call_id" in item else ""
    content = item.get("output", item.get("content", ""))
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return f"{kind}{bare}{link}{f': {text}' if text else ''}"


def told_message(message):
    """Return a message of a window in a few words."""
    calls = "".join(f" calls {made['id']}" for made in message.get("tool_calls", ()))
    answers = f" for {message['tool_call_id']}" if "tool_call_id" in message else ""
    content = message.get("content")
    text = content if isinstance(content, str | None) else "".join(part.get("text", "") for part in content)
    return f"{message['role']}{calls}{answers}{f': {text}' if text else ''}"


def windows(log):
    """Return what becomes of a log, for both APIs."""
    items = [f"  {told(item)}\n" for item in log.window(RESPONSES).items]
    messages = [f"  {told_message(message)}\n" for message in log.window(CHAT).messages]
    return "".join(["Responses\n", *items, "Chat Completions\n", *messages])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_sent_of_a_malformed_history(path):
    _, lines, expected = blocks(path)
    assert windows(written(lines)) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_malformed_history_gives_windows_that_are_taken(path):
    _, lines, _ = blocks(path)
    log = written(lines)
    for target in (RESPONSES, OTHER_MODEL, OTHER_BACKEND, CHAT):
        assert log.refusals(log.window(target)) == []
        for context in range(5, 100, 5):
            try:
                window = log.window(target, Budget(context))
            except BudgetExceeded as error:
                assert error.needed > context  # noqa: PT017 - it is one of two good ends
            else:
                assert log.refusals(window) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_tells_what_is_wrong_and_shows_it(path):
    text = path.read_text(encoding="utf-8")
    assert re.match(r"# \S.*\n\n\S", text)
    picture, *_ = blocks(path)
    assert picture.strip()
    assert len(blocks(path)) == 3
