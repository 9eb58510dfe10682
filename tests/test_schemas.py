"""Tools and response formats as models read them; any JSON can be written, however odd."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine.schemas import declarations, response_format

LOOK = {
    "type": "function",
    "name": "look",
    "description": "Look around.\n\n    Twice, if need be.\n    ",
    "parameters": {
        "type": "object",
        "description": "Where and how.",
        "properties": {
            "at": {"type": "string", "description": "A place."},
            "how": {"enum": ["near", 2]},
            "far": {"type": ["integer", "null"], "default": 3},
            "whom": {"type": "array", "items": {"$ref": "#/$defs/Person"}},
            "by": {"$ref": "#/$defs/Person"},
            "odd": {"anyOf": [{"const": 1}, {"type": "boolean"}, {}, {"$ref": "#/nowhere"}]},
            "free": {"type": "object"},
            "deep": {"type": "object", "properties": {"x": {"type": "number", "default": "y"}}, "required": ["x"]},
        },
        "required": ["at", "whom"],
        "$defs": {
            "Person": {"type": "object", "properties": {"name": {"type": "string"}, "of": {"$ref": "#/$defs/Person"}}}
        },
    },
}
WRITTEN = """# Tools

## functions

namespace functions {

// Look around.

Twice, if need be.
// Where and how.
type look = (_: {
// A place.
at: string,
how?: "near" | 2,
far?: number | null, // default: 3
whom: {
name?: string,
of?: Person,
}[],
by?: Person,
odd?: 1 | boolean | any | nowhere,
free?: object,
deep?: {
x: number, // default: y
},
}) => any;

type now = () => any;

} // namespace functions"""


def test_tools_are_declared():
    assert declarations([LOOK, {"type": "function", "name": "now", "parameters": {"type": "object"}}]) == WRITTEN


def test_both_apis_declare_alike():
    chat = {"type": "function", "function": {key: value for key, value in LOOK.items() if key != "type"}}
    assert declarations([chat]) == declarations([LOOK])


def test_what_the_provider_runs_and_what_has_a_grammar_stand_beside():
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}
    written = declarations([{"type": "web_search"}, {"type": "custom", "name": "sh", "format": grammar}])
    assert 'type sh = () => any;\n{"type":"grammar","syntax":"lark","definition":"start: /a+/"}\n\n}' in written
    assert written.endswith('} // namespace functions\n{"type":"web_search"}')
    assert declarations([]) == ""


def test_what_refers_to_much_is_written_once():
    """Twenty levels, each of which refers twice to the next: written out they would be a million."""
    levels = {
        f"L{n}": {"properties": {"a": {"$ref": f"#/$defs/L{n + 1}"}, "b": {"$ref": f"#/$defs/L{n + 1}"}}}
        for n in range(20)
    }
    schema = {"properties": {"a": {"$ref": "#/$defs/L0"}}, "$defs": levels | {"L20": {"type": "string"}}}
    assert len(declarations([{"type": "function", "name": "f", "parameters": schema}])) < 1000


FORM = {
    "type": "json_schema",
    "name": "city",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"required": {"type": "string"}, "at": {"type": "object", "additionalProperties": False}},
        "required": ["required"],
        "additionalProperties": False,
    },
}


def test_a_response_format_is_its_schema_without_what_goes_without_saying():
    written = (
        '# Response Formats\n\n## city\n\n{"type":"object","properties":{"required":{"type":"string"},'
        '"at":{"type":"object"}}}'
    )
    assert response_format(FORM) == written
    told = {key: value for key, value in FORM.items() if key != "type"}
    assert response_format({"type": "json_schema", "json_schema": told}) == written
    assert "\n// A place.\n" in response_format(FORM | {"description": "A place."})


@pytest.mark.parametrize("form", [None, {}, {"type": "text"}, {"type": "json_object"}, "json_schema", []])
def test_other_formats_are_not_told(form):
    assert response_format(form) == ""


KEYS = (
    ("type", "name", "description", "parameters", "properties", "required", "items", "anyOf", "enum", "const", "$ref"),
    ("default", "format", "function", "schema", "json_schema"),
)
FIELDS = st.sampled_from([key for keys in KEYS for key in keys])
VALUES = st.none() | st.integers() | st.booleans() | st.text(max_size=5) | st.sampled_from(["function", "array", "#"])
ODD = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4), max_leaves=12
)


@given(st.lists(ODD, max_size=3), ODD)
def test_whatever_is_declared_can_be_written(tools, form):
    assert isinstance(declarations(tools), str)
    assert isinstance(declarations([{"type": "function", "name": "f", "parameters": form}]), str)
    assert isinstance(response_format(form), str)
    assert isinstance(response_format({"type": "json_schema", "schema": form}), str)


def test_the_deepest_schema_can_be_written():
    schema = json.loads('{"items":' * 99 + "{}" + "}" * 99)
    assert declarations([{"type": "function", "name": "f", "parameters": {"properties": {"a": schema}}}])
