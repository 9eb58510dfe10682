"""The commonest forms: whatever is taken for one is what the closer look finds nothing about."""

import pytest

from turnlog.engine import intake, items
from turnlog.engine.common import is_common
from turnlog.engine.fields import FIELDS, surplus, wanting
from turnlog.engine.forms import mended, unplaced
from turnlog.engine.items import ROLES, accept, read

TEXT = {"type": "input_text", "text": "Hi"}
SPOKEN = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": [{"token": "Hello"}]}
CALL = {"type": "function_call", "call_id": "call_1", "name": "now", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "12:00"}
COMMON = [
    *({"role": role, "content": "Hi"} for role in sorted(ROLES)),
    {"role": "user", "type": "message", "content": [TEXT, TEXT]},
    {"role": "assistant", "type": "message", "id": "msg_1", "status": "completed", "content": [SPOKEN]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Hello", "annotations": None}]},
    CALL,
    {**CALL, "id": "fc_1", "status": None},
    OUTPUT,
    {**OUTPUT, "id": None, "status": "incomplete", "output": [TEXT]},
]
NAMES = sorted({name for fields in FIELDS.values() for name in (*fields.needs, *fields.has)} | {"type", "tool_calls"})
PARTS = [
    *(TEXT, {"text": "Hi"}, {"type": "input_text"}, {"type": "input_image"}),
    *(SPOKEN, {**SPOKEN, "annotations": [{}]}, {"type": "refusal", "refusal": "No"}),
]
VALUES = [
    *(None, True, 7, "", "Hi", "completed", "weird", "user", "assistant", "message", "function_call", "program"),
    *([], {}, [None], {"type": "program"}),
    *([part] for part in PARTS),
    *([{**part, name: value}] for part in PARTS for name in ("text", "lang", "type") for value in (None, 7, "x")),
]


@pytest.mark.parametrize("item", COMMON)
def test_common_forms_are_told(item):
    assert is_common(item)


def changed(item):
    """Yield an item with each of its fields gone, and with each value in each field that kinds have."""
    yield item
    for name in item:
        yield {other: value for other, value in item.items() if other != name}
    yield from ({**item, name: value} for name in NAMES for value in VALUES)


@pytest.mark.parametrize("item", COMMON)
def test_a_closer_look_at_what_is_common_finds_nothing(item, monkeypatch):
    common = [one for one in changed(item) if is_common(one)]
    flags = [intake.flags_of(one, read(one)) for one in common]
    assert flags
    for module in (items, intake):
        monkeypatch.setattr(module, "is_common", lambda _: False)
    assert [intake.flags_of(one, read(one)) for one in common] == flags
    for one in common:
        shape = read(one).shape
        assert mended(one, shape) is one
        assert [*unplaced(one, shape), *surplus(one, shape), *wanting(one, shape)] == []
        accept(one, "item")


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"role": ["user"], "content": "Hi"},
        {"role": "tool", "content": "Hi"},
        {"role": "user", "content": [{"text": "a part without a type"}]},
        {"role": "assistant", "content": [{"text": "a part without a type"}]},
        {**OUTPUT, "output": [{"text": "a part without a type"}]},
        {"type": "user", "content": "Hi"},
        {**CALL, "call_id": ""},
        {**CALL, "role": "user"},
        {**CALL, "namespace": None},
        {"role": "assistant", "content": [{**SPOKEN, "annotations": [{"type": "url_citation"}]}]},
    ],
)
def test_anything_else_takes_a_closer_look(item):
    assert not is_common(item)
