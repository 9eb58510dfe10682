"""Tools: async functions that a model may call, and how a call of one becomes an output.

A function's signature becomes its schema (by pydantic), and its arguments are checked against it. Whatever goes wrong
in a tool is an output for the model, never an exception for the caller.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import anyio
import msgspec

from .canonical import encode, plain
from .checks import seconds, switch
from .errors import Invalid, InvalidItem
from .items import Item
from .logs import Log
from .signatures import Arguments, Function, brief

__all__ = ("Approval", "Runs", "Tool", "ToolContext", "Toolbox", "Tools", "tool")

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


Output: TypeAlias = str | list[dict[str, Any]]
"""What a call came to: a text, or parts."""
Approval: TypeAlias = bool | Callable[[Mapping[str, Any]], bool]
"""Whether a person must agree to a call first, or a function of its arguments that tells."""


class Tool:
    """An async function that a model may call."""

    __slots__ = ("_approval", "_arguments", "function", "name", "rerun_safe", "schema", "timeout")

    def __init__(
        self,
        function: Function,
        *,
        name: str | None = None,
        approval: Approval = False,
        timeout: float | None = _TIMEOUT,
        rerun_safe: bool = False,
    ) -> None:
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "tool"))
        self.timeout = timeout
        self.rerun_safe = rerun_safe
        if not inspect.iscoroutinefunction(function):
            shown = getattr(function, "__name__", None) or f"{function!r:.100}"
            raise Invalid(f"tool {shown}: an async function is needed (async def {self.name}(…))")
        if not _NAME.fullmatch(self.name):
            raise Invalid(f"tool {self.name!r}: a name has 1 to 64 of A-Z a-z 0-9 _ -; pass one: tool(name=…)")
        if timeout is not None:
            seconds(f"tool {self.name}: timeout", timeout, *_LIMITS)
        _check(self.name, approval, rerun_safe)
        self._approval = approval
        self._arguments = Arguments(function, self.name, ToolContext)
        self.schema: dict[str, Any] = plain(
            {
                "type": "function",
                "name": self.name,
                "description": self._arguments.about,
                "parameters": self._arguments.schema,
                "strict": False,
            }
        )

    def needs_approval(self, arguments: str) -> bool:
        """Return whether a person must agree to a call with these arguments first; in doubt, one must.

        Arguments that cannot be used need nobody: nothing will be done with them.
        """
        if isinstance(self._approval, bool):
            return self._approval
        try:
            values = self._arguments.completed(self._arguments.read(arguments))
        except ValueError:
            return False
        try:
            return bool(self._approval(values))
        except Exception as error:  # noqa: BLE001 - it could not tell
            _log.warning("turnlog.tool.approval", tool=self.name, error=type(error).__name__)
            return True

    async def __call__(self, *args: Any, **kwargs: Any) -> object:
        """Call the function itself."""
        return await self.function(*args, **kwargs)

    async def run(self, arguments: str, context: ToolContext) -> Output:
        """Return the output of one call: the result, or in words what went wrong.

        A string is the output as it is, and so is a list of parts: `input_text`, `input_image` and `input_file`, as the
        Responses API has them. Anything else goes as JSON.
        """
        try:
            values = self._arguments.read(arguments)
        except ValueError as error:
            return f"error: the arguments of {self.name} cannot be used: {brief(error)}"
        if self._arguments.context is not None:
            values[self._arguments.context] = context
        with anyio.move_on_after(self.timeout) as patience:
            output = await self._result(values, context)
            return _text(output) if isinstance(output, str) else output
        assert patience.cancelled_caught
        return f"error: {self.name} did not finish within {self.timeout:g} s"

    async def _result(self, values: Mapping[str, Any], context: ToolContext) -> Output:
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
        approval: whether a person must agree to each call first (`Conversation.decide`), or a plain function of the
            call's arguments that tells.
        timeout: seconds after which the model is told that it did not finish; None: no limit.
        rerun_safe: whether a call may be run again when the worker that ran it is gone, and nobody knows whether it
            took effect. Otherwise the model is told so.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        approval: Approval = False,
        timeout: float | None = _TIMEOUT,
        rerun_safe: bool = False,
    ) -> None:
        self._name = name
        self._approval: Approval = approval
        self._timeout = timeout
        self._rerun_safe = rerun_safe

    def __call__(self, fn: Function) -> Tool:
        """Return *fn* as a tool.

        Raises:
            Invalid: it is no async function, or a parameter has a type that makes no schema.
        """
        return Tool(
            fn,
            name=self._name,
            approval=self._approval,
            timeout=self._timeout,
            rerun_safe=self._rerun_safe,
        )


def _check(name: str, approval: object, rerun_safe: object) -> None:
    if not isinstance(approval, bool) and (not callable(approval) or inspect.iscoroutinefunction(approval)):
        raise Invalid(f"tool {name}: approval={approval!r:.100}: True, False or a plain function of the arguments")
    switch(f"tool {name}: rerun_safe", rerun_safe)


class Runs(Protocol):
    """What answers a call."""

    rerun_safe: bool

    def needs_approval(self, arguments: str) -> bool:
        """Return whether a person must agree first."""
        ...

    async def run(self, arguments: str, context: ToolContext) -> Output:
        """Return the call's output."""
        ...


class _Absent:
    """Answers calls of a tool that nobody declared: models invent names, and must be told."""

    rerun_safe = True

    def __init__(self, name: str, names: Iterable[str]) -> None:
        self._name = name
        self._names = ", ".join(sorted(names)) or "none"

    def needs_approval(self, arguments: str) -> bool:  # noqa: ARG002 - one signature for all
        return False

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


def _output(result: object) -> Output:
    if isinstance(result, str):
        return result
    import pydantic_core  # noqa: PLC0415 - it is here since the tool was made

    try:
        value = plain(pydantic_core.to_jsonable_python(result))
        return _parts(value) or encode(value).decode()
    except (InvalidItem, pydantic_core.PydanticSerializationError, UnicodeError) as error:
        return f"error: the result is no JSON: {brief(error)}"


_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "input_text": ("text",),
    "input_image": ("image_url", "file_id"),
    "input_file": ("file_data", "file_id", "file_url"),
}
"""The parts of an output, and the fields one of which says what they are."""


def _parts(value: Any) -> Output | None:
    """Return a result that is a list of parts as it is; None: it is something else."""
    if not isinstance(value, list) or not value:
        return None
    for number, part in enumerate(value, 1):
        fields = _PARTS.get(str(part.get("type"))) if isinstance(part, dict) else None
        if fields is None:
            return None
        if not any(isinstance(part.get(field), str) for field in fields):
            return f"error: part {number} of the result, of type {part['type']}, has no {' or '.join(fields)}"
    return value


def _text(output: str) -> str:
    """Return an output as a string that UTF-8 can hold."""
    return str(output).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cancelling() -> bool:
    """Return whether the running task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
