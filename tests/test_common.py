"""The commonest forms: whatever is taken for one is what the closer look finds nothing about."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from turnlog.engine import items
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
values = st.sampled_from(
    [
        *(None, True, 7, "", "Hi", "completed", "weird", "user", "assistant", "message", "function_call", "program"),
        *([], {}, [None], {"type": "program"}),
        *([part] for part in PARTS),
        *([{**part, name: value}] for part in PARTS for name in ("text", "lang", "type") for value in (None, 7, "x")),
    ]
)


@pytest.mark.parametrize("item", COMMON)
def test_common_forms_are_told(item):
    assert is_common(item)


@given(st.sampled_from(COMMON), st.dictionaries(st.sampled_from(NAMES), values, max_size=3), st.sets(st.integers(0, 5)))
@settings(max_examples=500)
def test_a_closer_look_at_what_is_common_finds_nothing(item, changed, gone):
    item = {name: value for at, (name, value) in enumerate({**item, **changed}.items()) if at not in gone}
    assume(is_common(item))
    shape = read(item).shape
    assert mended(item, shape) is item
    assert [*unplaced(item, shape), *surplus(item, shape), *wanting(item, shape)] == []
    assert item.get("caller") is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "is_common", lambda _: False)
        accept(item, "item")


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
