"""Tools as models read them: not the JSON of their schemas, but declarations in the manner of TypeScript. Pure.

The APIs do not document this. What is written here is, to within a token or two a tool, what they report: measured on
recorded requests. Source of the form: the published format of the gpt-oss models, "harmony".
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

__all__ = ("declarations", "response_format")

_HEAD: Final = "# Tools\n\n## functions\n\nnamespace functions {\n\n"
_TAIL: Final = "\n\n} // namespace functions"
_PLAIN: Final = {"string": "string", "boolean": "boolean", "null": "null", "number": "number", "integer": "number"}
_UNIONS: Final = ("anyOf", "oneOf", "allOf")


def declarations(tools: Iterable[Any]) -> str:
    """Return tools as a model reads them, "" for none; those that the provider runs, as their JSON.

    >>> schema = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
    >>> declared = declarations([{"type": "function", "name": "look", "description": "Look.", "parameters": schema}])
    >>> for line in declared.splitlines()[6:10]:
    ...     print(line)
    // Look.
    type look = (_: {
    city: string,
    }) => any;
    """
    own: list[str] = []
    hosted: list[str] = []
    for tool in tools:
        if isinstance(tool, Mapping) and tool.get("type") in ("function", "custom"):
            told = tool.get(tool["type"])
            own.append("\n".join(_declared(told if isinstance(told, Mapping) else tool)))
        else:
            hosted.append(_json(tool))
    if own:
        hosted.insert(0, _HEAD + "\n\n".join(own) + _TAIL)
    return "\n".join(hosted)


def _declared(tool: Mapping[str, Any]) -> Iterator[str]:
    yield from _comment(tool.get("description"))
    name, schema = tool.get("name"), tool.get("parameters")
    if isinstance(schema, Mapping) and schema.get("properties"):
        yield from _comment(schema.get("description"))
        yield f"type {name} = (_: {_Writer(schema).object(schema)}) => any;"
    else:
        yield f"type {name} = () => any;"
    if tool.get("format"):
        yield _json(tool["format"])


def _comment(text: Any) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield f"// {inspect.cleandoc(text)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


class _Writer:
    """Writes one schema out; what it refers to is written where it is first met, and named after that."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._met: set[str] = set()

    def object(self, schema: Mapping[str, Any]) -> str:
        """Return an object's fields in braces."""
        fields = schema.get("properties")
        if not isinstance(fields, Mapping) or not fields:
            return "object"
        needed = schema.get("required")
        needed = needed if isinstance(needed, list) else []
        lines = ["{"]
        for name, told in fields.items():
            field = told if isinstance(told, Mapping) else {}
            lines += _comment(field.get("description"))
            default = field.get("default")
            shown = default if isinstance(default, str) else _json(default)
            remark = "" if default is None else f" // default: {shown}"
            lines.append(f"{name}{'' if name in needed else '?'}: {self.type(field)},{remark}")
        return "\n".join([*lines, "}"])

    def type(self, schema: Any) -> str:
        """Return a type."""
        if not isinstance(schema, Mapping):
            return "any"
        if isinstance(schema.get("$ref"), str):
            return self._referred(schema["$ref"])
        for union in _UNIONS:
            if isinstance(schema.get(union), list):
                return " | ".join(self.type(one) for one in schema[union])
        if isinstance(schema.get("enum"), list):
            return " | ".join(map(_json, schema["enum"]))
        if "const" in schema:
            return _json(schema["const"])
        kind = schema.get("type")
        if isinstance(kind, list):
            return " | ".join(self.type({**schema, "type": one}) for one in kind)
        if kind == "array":
            return f"{self.type(schema.get('items'))}[]"
        if kind == "object" or "properties" in schema:
            return self.object(schema)
        return _PLAIN.get(kind, "any") if isinstance(kind, str) else "any"

    def _referred(self, reference: str) -> str:
        name = reference.rpartition("/")[2]
        if reference in self._met:
            return name
        self._met.add(reference)
        found: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        return name if found is None else self.type(found)


def response_format(value: Any) -> str:
    """Return the schema that an answer has to follow as a model reads it, "" where there is none: JSON, but leaner."""
    if not isinstance(value, Mapping) or value.get("type") != "json_schema":
        return ""
    told = value.get("json_schema")
    form = told if isinstance(told, Mapping) else value
    lines = [f"# Response Formats\n\n## {form.get('name')}\n", *_comment(form.get("description"))]
    return "\n".join([*lines, _json(_lean(form.get("schema")))])


def _lean(schema: Any) -> Any:
    """Return a schema without what a model is not told of it."""
    if isinstance(schema, list):
        return [_lean(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: {name: _lean(one) for name, one in value.items()}
        if key == "properties" and isinstance(value, Mapping)
        else _lean(value)
        for key, value in schema.items()
        if key not in ("additionalProperties", "required")
    }
