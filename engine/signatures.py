"""A function's signature as a schema: what tells a model of its parameters, and checks what the model gives."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypeAlias, get_args, get_type_hints

from .canonical import parse, plain
from .errors import Invalid

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ("Arguments", "Function", "brief")

Function: TypeAlias = Callable[..., Awaitable[object]]


class Arguments:
    """The parameters of one function, but for the one that takes its call's context.

    Raises:
        Invalid: one of them cannot be passed by name, or has a type that makes no schema.
    """

    __slots__ = ("_adapter", "_defaults", "about", "context", "schema")

    def __init__(self, function: Function, name: str, context: type) -> None:
        self.context, self._adapter = _parameters(function, name, context)
        """The name of the parameter that takes the context, if there is one."""
        parameters = inspect.signature(function).parameters.items()
        self._defaults = {
            key: one.default for key, one in parameters if one.default is not one.empty and key != self.context
        }
        self.schema: dict[str, Any] = _untitled(self._adapter.json_schema())
        properties = self.schema.get("properties", {})
        self.about, told = _described(inspect.cleandoc(function.__doc__ or ""), {*properties, self.context})
        """What the function does, without what is said of its parameters."""
        for key in told.keys() & properties.keys():
            properties[key].setdefault("description", told[key])
        for key, default in _told(self._defaults):
            if key in properties:
                properties[key].setdefault("default", default)

    def read(self, arguments: str) -> dict[str, Any]:
        """Return what a model's JSON gives, by name, as the types that the function wants.

        Raises:
            ValueError: it is no JSON, or does not fit.
        """
        return dict(self._adapter.validate_python(parse(arguments.strip() or "{}", "arguments")))

    def completed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values with the defaults of those that are not given."""
        return {**self._defaults, **values}


def _parameters(function: Function, name: str, context: type) -> tuple[str | None, TypeAdapter[dict[str, Any]]]:
    """Return the name of the context's parameter, if there is one, and what checks and describes the others."""
    import pydantic  # noqa: PLC0415 - only who uses tools pays for it
    from typing_extensions import TypedDict  # noqa: PLC0415 - before Python 3.12 pydantic takes no other

    try:
        hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError as error:
        raise Invalid(f"tool {name}: {error}; annotate its parameters with types of its module") from error
    except TypeError as error:
        raise Invalid(f"tool {name}: its parameters have no names to read; wrap it in an async def") from error
    found: str | None = None
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(key, Any)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise Invalid(f"tool {name}: parameter {key} cannot be passed by name")
        if hint is context or context in get_args(hint):
            if found is not None:
                raise Invalid(f"tool {name}: {found} and {key} both take the {context.__name__}; one is enough")
            found = key
        else:
            fields[key] = hint if parameter.default is parameter.empty else NotRequired[hint]
    # A TypedDict rather than a model, so that a parameter may have any name ("copy", "schema").
    make: Any = TypedDict
    shape = make(name, fields)
    shape.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    try:
        adapter: TypeAdapter[dict[str, Any]] = pydantic.TypeAdapter(shape)
        adapter.json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise Invalid(f"tool {name}: a parameter's type makes no JSON schema: {brief(error)}") from error
    return found, adapter


def _told(defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the defaults that JSON can say, by name: the model is told what it may leave out."""
    import pydantic_core  # noqa: PLC0415 - it came with pydantic

    for key, default in defaults.items():
        with suppress(ValueError, UnicodeError):
            yield key, plain(pydantic_core.to_jsonable_python(default))


_SECTION: Final = re.compile(
    r"^(?:Args|Arguments|Parameters|Params):[ ]*\n((?:[ \t]+\S.*(?:\n|$)|[ \t]*\n)+)", re.MULTILINE
)
_PARAMETER: Final = re.compile(r"(\w+)[ ]*(?:\([^)]*\))?[ ]*:[ ]*(.*)")


def _described(doc: str, names: AbstractSet[str | None]) -> tuple[str, dict[str, str]]:
    """Return a docstring without the section on the parameters *names*, and what that says of each.

    A section that speaks of anything else stays where it is.
    """
    section = _SECTION.search(doc)
    lines = inspect.cleandoc(section[1]).splitlines() if section else []
    told: dict[str, list[str]] = {}
    said: list[str] = []
    for line in lines:
        begun = _PARAMETER.fullmatch(line)
        if begun is not None:
            said = told.setdefault(begun[1], [begun[2]])
        elif line[:1].isspace() or not line:
            said.append(line.strip())
        else:
            return doc, {}
    if section is None or not told or not told.keys() <= names:
        return doc, {}
    rest = f"{doc[: section.start()].rstrip()}\n\n{doc[section.end() :].strip()}".strip()
    return rest, {name: " ".join(filter(None, words)) for name, words in told.items()}


def _untitled(schema: Any) -> Any:
    """Take the titles out that pydantic makes of names: they cost tokens and say nothing."""
    if isinstance(schema, dict):
        return {
            key: value if key in ("default", "enum", "const", "examples") else _untitled(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema


def brief(error: Exception) -> str:
    """Return an error in one line; of pydantic's, each place and what is wrong there."""
    errors: Any = getattr(error, "errors", None)
    if callable(errors):
        found: Any = errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(str(part) for part in one['loc']) or 'all'}: {one['msg']}" for one in found)[:500]
    return " ".join(str(error).split())[:500]
