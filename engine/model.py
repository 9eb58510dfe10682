"""The model port: what a conversation needs of whatever answers it.

Encoding is pure and versioned; sending hands the body on as it is and yields what comes back, always as a stream. Event
types bear the Responses API's names from every adapter; turnlog's own begin with `turnlog.`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from .canonical import canonical, digest, plain
from .errors import Invalid
from .events import Target, Usage
from .items import Item
from .tokens import Counter
from .window.budget import Budget

if TYPE_CHECKING:
    from .window.window import Window

__all__ = (
    "JSON",
    "OWNED",
    "TRANSPORT",
    "Compacts",
    "Counts",
    "Ending",
    "Model",
    "ModelFailure",
    "Shape",
    "StreamEvent",
    "clean",
    "ending",
    "front_of",
    "helps",
    "keyed",
    "merged",
    "settings_of",
    "shape_of",
    "target_of",
    "usage_of",
)

JSON: TypeAlias = Mapping[str, object]

OWNED: Final = frozenset(
    {
        "model",
        "input",
        "messages",
        "instructions",
        "tools",
        "stream",
        "store",
        "previous_response_id",
        "conversation",
        "truncation",
        "context_management",
    }
)
"""Parameters that turnlog itself decides."""

TRANSPORT: Final = frozenset({"extra_headers", "extra_query", "timeout"})
"""Parameters of how a request travels; they are no part of it, nor of the log."""


_FRONT: Final = ("text", "response_format", "reasoning", "reasoning_effort", "verbosity")
"""Parameters that stand in what the model reads before the items."""


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened while a model answered."""

    type: str
    """The Responses API's name of it, or one of ours, `turnlog.…`."""
    delta: str = ""
    item: dict[str, Any] | None = None
    """A finished item."""
    seq: int | None = None
    """Where the item is in the log; by then it is durable."""
    call_id: str | None = None
    response: int = 0
    """The seq that names the response."""
    raw: dict[str, Any] | None = None
    """The event as the API gave it."""
    extra: Any = None
    """From an adapter: what the item has no place for."""
    repaired: list[str] = []
    """From an adapter: what had to be replaced to read the event."""


_PLACE: Final = re.compile(r"[A-Za-z0-9_.\[\]]{1,200}")
"""What a place in a request looks like; anything else that a server says there may be content."""


class ModelFailure(Exception):
    """A model did not answer. Adapters raise it from the client's own error."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status_code: int | None = None,
        retryable: bool = False,
        retries: int = 0,
    ) -> None:
        self.message = clean(message)
        super().__init__(self.message)
        self.kind = kind
        """client (it could not be asked), connection, timeout, http, stream (it broke off), answer (it cannot be read),
        model (it said so itself), adapter (its own code failed)"""
        self.code = None if code is None else clean(code)
        self.param = param if param is not None and _PLACE.fullmatch(param) else None
        """The place in the request that it is about, as the API names it."""
        self.status_code = status_code
        self.retryable = retryable
        self.retries = retries


class Model(Protocol):
    """What answers a conversation: an adapter around a client, cheap to make, without I/O until it sends.

    Beside these a model may have: `api` ("responses", the default, or "chat"), `adapter` and `encoder` (name and
    version of how it encodes), `state` ("stateless", "chained" or "conversation"), `params`, `count` (a tokenizer of
    its own), `takes_cache_key` (whether its backend wants to be told whose requests share a prompt cache: then the
    settings have a `cache_key`), `settings` (JSON that its encoder needs besides), `thoughts` (which of its reasoning
    goes back as text: "never", "tool_turns" or "always"); and, where its server keeps state, `open_remote()`, which
    makes a conversation there and returns its id, and `resume(id)` and `cancel(id)` for responses in the background.
    """

    name: str
    """The model's name, as the API knows it."""
    backend: str
    """A label of where it runs; items made there are at home there."""
    budget: Budget | None

    def encode(self, window: Window, settings: JSON) -> Item:
        """Return the request's body; pure."""
        ...

    def send(self, request: Item) -> AsyncIterator[StreamEvent]:
        """Send a body and yield what comes back, ending with response.completed, .incomplete or .failed.

        Raises:
            ModelFailure: there was no such end.
        """
        ...


class Counts(Protocol):
    """What a model may offer besides: to ask its API how many tokens a request has."""

    async def count_input(self, request: Item) -> int:
        """Return the tokens of the input of a body that `encode` made, as the API counts them; nothing is answered.

        Raises:
            ModelFailure: the API did not say.
        """
        ...


class Compacts(Protocol):
    """What a model may have beside: a service that makes something shorter of a window.

    `encode` writes its bodies too, for settings with the purpose "compaction".
    """

    def compact(self, request: Item) -> AsyncIterator[StreamEvent]:
        """Send a body and yield the items that stand for its input, one of them opaque, ending as `send` does.

        Raises:
            ModelFailure: there was no such end.
        """
        ...


class Shape(msgspec.Struct, frozen=True):
    """What a model says of itself, with the defaults filled in."""

    api: Literal["responses", "chat"]
    adapter: str
    encoder: int
    state: str
    params: Mapping[str, Any]
    count: Counter | None
    takes_cache_key: bool
    settings: Mapping[str, Any]
    thoughts: str


_APIS: Final = ("responses", "chat")
_STATES: Final = ("stateless", "chained", "conversation")
_THOUGHTS: Final = ("never", "tool_turns", "always")


def shape_of(model: Model) -> Shape:
    """Return what a model says of itself.

    Raises:
        Invalid: it is no model, such as its mere name.
    """
    name, backend = getattr(model, "name", None), getattr(model, "backend", None)
    able = callable(getattr(model, "encode", None)) and callable(getattr(model, "send", None))
    if isinstance(model, type) or not able or not isinstance(name, str) or not isinstance(backend, str):
        raise Invalid(f"model={model!r:.100}: an adapter is needed, such as Responses(client, 'gpt-5')")
    api: Literal["responses", "chat"] = _said(model, "api", _APIS)
    return Shape(
        api=api,
        adapter=getattr(model, "adapter", api),
        encoder=getattr(model, "encoder", 1),
        state=_said(model, "state", _STATES),
        params=getattr(model, "params", None) or {},
        count=getattr(model, "count", None),
        takes_cache_key=bool(getattr(model, "takes_cache_key", False)),
        settings=getattr(model, "settings", None) or {},
        thoughts=_said(model, "thoughts", _THOUGHTS),
    )


def _said(model: Model, name: str, known: tuple[str, ...]) -> Any:
    """Return what a model says of itself in one of the words *known*, the first where it says nothing."""
    value = getattr(model, name, known[0])
    if value not in known:
        raise Invalid(
            f"model={model!r:.100}: its {name} is {value!r:.100}; {', '.join(known[:-1])} or {known[-1]} is needed"
        )
    return value


def target_of(model: Model) -> Target:
    """Return whom a window for *model* is for."""
    shape = shape_of(model)
    return Target(api=shape.api, backend=model.backend, model=model.name, state=shape.state, thoughts=shape.thoughts)


def merged(base: Mapping[str, Any] | None, over: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters as plain JSON, *over* winning key by key, and apart from them those of transport.

    `extra_body` is opened up: its keys are parameters like the others.

    Raises:
        Invalid: a parameter that turnlog decides itself, or more than one answer asked for.
        InvalidItem: a value that is no JSON.
    """
    params: dict[str, Any] = {}
    transport: dict[str, Any] = {}
    for source in (base, over):
        given = _mapping(source, "params")
        transport |= {key: value for key, value in given.items() if key in TRANSPORT}
        own = {key: value for key, value in given.items() if key not in TRANSPORT and key != "extra_body"}
        for key, value in {**own, **_mapping(given.get("extra_body"), "params['extra_body']")}.items():
            if key in OWNED:
                raise Invalid(f"params[{key!r}]: turnlog decides it; see the arguments of the adapter and of this call")
            params[key] = value
    if params.get("n", 1) not in (1, None):
        raise Invalid(f"params['n'] = {params['n']!r}: one answer is logged; ask again for another")
    return plain(params, "params"), transport


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(f"{name}: a mapping is needed, not a {type(value).__name__}")
    return value


def settings_of(
    model: Model, params: Mapping[str, Any], instructions: str | None, tools: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a request's settings as they are logged: everything of it but its items."""
    shape = shape_of(model)
    settings: dict[str, Any] = {**shape.settings, "model": model.name, "state": shape.state}
    if instructions is not None:
        settings["instructions"] = instructions
    if tools:
        settings["tools"] = plain(list(tools), "tools")
    if params:
        settings["params"] = dict(params)
    return settings


def front_of(settings: Mapping[str, Any]) -> str:
    """Return the beginning of the digest of what a model reads before a request's items, "" where there is nothing.

    That is its instructions, tools and response format, and how it is to reason: with any other, nothing of what a
    provider has cached is of use.
    """
    params = settings.get("params") or {}
    said = {name: settings[name] for name in ("instructions", "tools") if settings.get(name)}
    said |= {name: params[name] for name in _FRONT if params.get(name) is not None}
    return digest(canonical(said, "settings"))[:12] if said else ""


def keyed(settings: Mapping[str, Any], cache_key: str | None) -> Mapping[str, Any]:
    """Return settings as an encoder gets them: with the key of the prompt cache, where there is one."""
    return settings if cache_key is None else {**settings, "cache_key": cache_key}


class Ending(msgspec.Struct, frozen=True):
    """How a response ended, read from its last event."""

    status: Literal["completed", "incomplete", "failed"]
    reason: str | None = None
    usage: Usage | None = None
    code: str | None = None
    message: str = ""
    retries: int = 0
    removed: Any = None


_ENDS: Final = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}


def ending(event: StreamEvent) -> Ending | None:
    """Return how a response ended, None when *event* is not its end. Whatever is missing or malformed is left out."""
    status = _ENDS.get(event.type)
    if status is None:
        return None
    response = (event.raw or {}).get("response")
    response = response if isinstance(response, dict) else {}
    details = response.get("incomplete_details")
    error = response.get("error")
    error = error if isinstance(error, dict) else {}
    retries = event.extra.get("retries", 0) if isinstance(event.extra, dict) else 0
    return Ending(
        status=status,  # type: ignore[arg-type]
        reason=_text(details.get("reason")) if isinstance(details, dict) else None,
        usage=usage_of(response.get("usage")),
        code=_text(error.get("code")),
        message=_text(error.get("message")) or "",
        retries=retries,
        removed=response.get("input_transformations") or None,
    )


def usage_of(value: Any) -> Usage | None:
    """Return usage in the Responses shape as ours, None when there is none."""
    if not isinstance(value, dict):
        return None

    def number(holder: Any, key: str) -> int:
        found = holder.get(key) if isinstance(holder, dict) else None
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 0

    return Usage(
        input_tokens=number(value, "input_tokens"),
        cached_tokens=number(value.get("input_tokens_details"), "cached_tokens"),
        output_tokens=number(value, "output_tokens"),
        reasoning_tokens=number(value.get("output_tokens_details"), "reasoning_tokens"),
        requests=1,
    )


_LASTING: Final = re.compile(
    r"^(invalid|unsupported|unknown|image)_|policy|mismatch|not_found|context_length|insufficient_quota|authentication"
    r"|permission"
)


def helps(code: str | None) -> bool:
    """Return whether asking again may help after an answer that is an error of that code.

    Most codes stand for a passing trouble of the server; those that speak of the request itself do not.
    """
    return code is None or _LASTING.search(code) is None


def _text(value: Any) -> str | None:
    return None if value is None else clean(value)


def clean(value: Any) -> str:
    """Return a text that can be logged, whatever the other side sent."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
