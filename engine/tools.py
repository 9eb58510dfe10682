"""Tools: async functions that a model may call, and how a call of one becomes an output.

A function's signature becomes its schema (by pydantic), and its arguments are checked against it. Whatever goes wrong
in a tool is an output for the model, never an exception for the caller.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NotRequired, Protocol, TypeAlias, get_args, get_type_hints

import anyio
import msgspec

from .canonical import encode, parse, plain
from .checks import seconds
from .errors import Invalid, InvalidItem
from .items import Item
from .logs import Log

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ("Runs", "Tool", "ToolContext", "Toolbox", "Tools", "tool")

_log = Log("turnlog.tools")
_TIMEOUT: Final = 60.0
_LIMITS: Final = (0.001, 30 * 86_400.0)
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool may know of its call, when it has a parameter of this type."""

    conversation: str
    call_id: str
    turn: int
    """The seq that names the turn."""
    attempt: int
    deps: Any
    """What the caller passed as `deps`."""
    idempotency_key: str
    """The same for every attempt at this call, and of no other call: for what the tool does elsewhere."""


Function: TypeAlias = Callable[..., Awaitable[object]]


class Tool:
    """An async function that a model may call."""

    __slots__ = ("_arguments", "_context", "function", "name", "schema", "timeout")

    def __init__(self, function: Function, *, name: str | None = None, timeout: float | None = _TIMEOUT) -> None:
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "tool"))
        self.timeout = timeout
        if not inspect.iscoroutinefunction(function):
            raise Invalid(f"tool {self.name}: an async function is needed (async def {self.name}(…))")
        if not _NAME.fullmatch(self.name):
            raise Invalid(f"tool {self.name!r}: a name has 1 to 64 of A-Z a-z 0-9 _ -; pass one: tool(name=…)")
        if timeout is not None:
            seconds(f"tool {self.name}: timeout", timeout, *_LIMITS)
        self._context, self._arguments = _arguments(function, self.name)
        parameters = _untitled(self._arguments.json_schema())
        for key, default in _defaults(function):
            if key in parameters.get("properties", {}):
                parameters["properties"][key].setdefault("default", default)
        self.schema: dict[str, Any] = plain(
            {
                "type": "function",
                "name": self.name,
                "description": inspect.cleandoc(function.__doc__ or ""),
                "parameters": parameters,
                "strict": False,
            }
        )

    async def __call__(self, *args: Any, **kwargs: Any) -> object:
        """Call the function itself."""
        return await self.function(*args, **kwargs)

    async def run(self, arguments: str, context: ToolContext) -> str:
        """Return the output of one call: the result, or in words what went wrong.

        A string is the output as it is; anything else goes as JSON.
        """
        try:
            values = dict(self._arguments.validate_python(parse(arguments.strip() or "{}", "arguments")))
        except ValueError as error:
            return f"error: the arguments of {self.name} cannot be used: {_brief(error)}"
        if self._context is not None:
            values[self._context] = context
        with anyio.move_on_after(self.timeout) as patience:
            return _text(await self._result(values, context))
        assert patience.cancelled_caught
        return f"error: {self.name} did not finish within {self.timeout:g} s"

    async def _result(self, values: Mapping[str, Any], context: ToolContext) -> str:
        try:
            return _output(await self.function(**values))
        except asyncio.CancelledError:
            if _cancelling():
                raise
            # Something that the function waited for was cancelled, not the function.
            failed: BaseException = asyncio.CancelledError("what it waited for was cancelled")
        except Exception as error:  # noqa: BLE001 - the model is told, and may try another way
            failed = error
        kind = type(failed).__name__
        _log.warning("turnlog.tool.failed", tool=self.name, call=context.call_id, error=kind)
        return f"error: {self.name} raised {kind}: {failed}"

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


class tool:  # noqa: N801 - it is used as a decorator
    """Make a tool of an async function. A bare function among `tools` is made one too.

    >>> from turnlog import tool
    >>> @tool(timeout=20)
    ... async def weather(city: str, days: int = 1) -> str:
    ...     "Say what the weather is like."
    ...     return f"{city}: clear for {days} days"
    >>> weather.schema["parameters"]["required"]
    ['city']

    Args:
        name: what the model calls it, by default the function's name.
        timeout: seconds after which the model is told that it did not finish; None: no limit.
    """

    def __init__(self, *, name: str | None = None, timeout: float | None = _TIMEOUT) -> None:
        self._name = name
        self._timeout = timeout

    def __call__(self, fn: Function) -> Tool:
        """Return *fn* as a tool.

        Raises:
            Invalid: it is no async function, or a parameter has a type that makes no schema.
        """
        return Tool(fn, name=self._name, timeout=self._timeout)


class Runs(Protocol):
    """What answers a call."""

    async def run(self, arguments: str, context: ToolContext) -> str:
        """Return the call's output."""
        ...


class _Absent:
    """Answers calls of a tool that nobody declared: models invent names, and must be told."""

    def __init__(self, name: str, names: Iterable[str]) -> None:
        self._name = name
        self._names = ", ".join(sorted(names)) or "none"

    async def run(self, arguments: str, context: ToolContext) -> str:  # noqa: ARG002 - one signature for all
        return _text(f"error: there is no tool {self._name}; there are: {self._names}")


Tools: TypeAlias = Iterable["Tool | Function | Item"]
"""What `tools` takes: tools, async functions, and schemas in the Responses shape, which are declared only."""


class Toolbox:
    """The tools of one request: what is declared to the model, and what can be run here."""

    def __init__(self, tools: Tools) -> None:
        if isinstance(tools, str | bytes | Mapping | Tool) or not isinstance(tools, Iterable):
            raise Invalid(f"tools={tools!r:.100}: a list is needed, such as tools=[look_up]")
        self.schemas: list[Mapping[str, Any]] = []
        self.runnable: dict[str, Tool] = {}
        self._declared: set[str] = set()
        for one in tools:
            made = _declared(one) if isinstance(one, Mapping) else one if isinstance(one, Tool) else Tool(one)
            if isinstance(made, Tool):
                self.runnable[made.name] = made
            self.schemas.append(made.schema if isinstance(made, Tool) else made)
            self._declare(self.schemas[-1])
        # Tools that are searched for may have any name, which only the client knows.
        self._open = any(schema.get("type") == "tool_search" for schema in self.schemas)

    def _declare(self, schema: Mapping[str, Any]) -> None:
        name = schema.get("name")
        if schema.get("type") in ("function", "custom") and isinstance(name, str):
            if name in self._declared:
                raise Invalid(f"tool {name}: there are two of that name")
            self._declared.add(name)

    def get(self, name: str) -> Runs | None:
        """Return what answers calls of *name*; None for a schema, whose calls the client answers."""
        if name in self.runnable:
            return self.runnable[name]
        return None if self._open or name in self._declared else _Absent(name, self.runnable)


def _declared(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(schema.get("type"), str):
        raise Invalid(f"tool {schema.get('name', schema)!r}: a schema needs a type")
    if schema["type"] == "function" and not isinstance(schema.get("name"), str):
        raise Invalid(
            "a function tool is declared in the Responses shape: {'type': 'function', 'name': …, 'parameters': …}"
        )
    return schema


def _arguments(function: Function, name: str) -> tuple[str | None, TypeAdapter[dict[str, Any]]]:
    """Return the name of the context's parameter, if there is one, and what checks and describes the others."""
    import pydantic  # noqa: PLC0415 - only who uses tools pays for it
    from typing_extensions import TypedDict  # noqa: PLC0415 - before Python 3.12 pydantic takes no other

    try:
        hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError as error:
        raise Invalid(f"tool {name}: {error}; annotate its parameters with types of its module") from error
    except TypeError as error:
        raise Invalid(f"tool {name}: its parameters have no names to read; wrap it in an async def") from error
    context: str | None = None
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(key, Any)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise Invalid(f"tool {name}: parameter {key} cannot be passed by name")
        if hint is ToolContext or ToolContext in get_args(hint):
            context = key
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
        raise Invalid(f"tool {name}: a parameter's type makes no JSON schema: {_brief(error)}") from error
    return context, adapter


def _defaults(function: Function) -> Iterator[tuple[str, Any]]:
    """Yield the defaults of parameters that JSON can say, by name: the model is told what it may leave out."""
    import pydantic_core  # noqa: PLC0415 - it came with pydantic

    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty:
            with suppress(ValueError, UnicodeError):
                yield key, plain(pydantic_core.to_jsonable_python(parameter.default))


def _untitled(schema: Any) -> Any:
    """Take the titles out that pydantic makes of names: they cost tokens and say nothing."""
    if isinstance(schema, dict):
        return {
            key: value if key in ("default", "enum", "const", "examples") else _untitled(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema


def _output(result: object) -> str:
    if isinstance(result, str):
        return result
    import pydantic_core  # noqa: PLC0415 - it is here since the tool was made

    try:
        return encode(plain(pydantic_core.to_jsonable_python(result))).decode()
    except (InvalidItem, pydantic_core.PydanticSerializationError, UnicodeError) as error:
        return f"error: the result is no JSON: {_brief(error)}"


def _text(output: str) -> str:
    """Return an output as a string that UTF-8 can hold."""
    return str(output).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cancelling() -> bool:
    """Return whether the running task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _brief(error: Exception) -> str:
    """Return an error in one line; of pydantic's, each place and what is wrong there."""
    errors: Any = getattr(error, "errors", None)
    if callable(errors):
        found: Any = errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(str(part) for part in one['loc']) or 'all'}: {one['msg']}" for one in found)[:500]
    return " ".join(str(error).split())[:500]
