"""What a scripted server keeps between requests: stored responses, and conversations. Sans I/O.

A model of the API as it is documented. Responses are kept unless `store` is false; a chain of `previous_response_id` is
put before the input, and so are a conversation's items, to which input and output are added when the response has
ended. While it runs, its conversation is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from .judge import Refusal, refusals
from .tables import ITEMS

__all__ = ("Kept", "Stored", "Thread", "items_of", "page")

JSON: TypeAlias = dict[str, Any]

_MIDNIGHT: Final = 1_767_225_600
MOST: Final = 20
"""Items that one call may add to a conversation."""
LONGEST: Final = 100
"""Items on a page of a list."""
_LOOSE: Final = frozenset(
    {
        "call-without-output",
        "output-without-call",
        "duplicate-output",
        "reasoning-without-follower",
        "item-without-reasoning",
        "nothing-to-answer",
    }
)
"""What is refused of a request, but not of items that are added to a conversation: more may follow."""


@dataclass(slots=True)
class Stored:
    """A response that can be looked up."""

    body: JSON
    """The response as it stands."""
    given: list[JSON]
    """Its whole input, with what stood before it."""
    look: Callable[[], JSON] | None = None
    """Of one that runs in the background: how it stands now."""

    def now(self) -> JSON:
        """Return the response as it stands now."""
        return self.body if self.look is None else self.look()


@dataclass(slots=True)
class Thread:
    """A conversation: its items, and the request that locks it."""

    id: str
    created: int
    metadata: JSON
    items: list[JSON] = field(default_factory=list)
    lock: int | None = None

    def body(self) -> JSON:
        """Return the conversation as the API shows it."""
        return {"id": self.id, "object": "conversation", "created_at": self.created, "metadata": self.metadata}


class Kept:
    """The state of one server. Tests may take things away, or lock them, as time and other clients do."""

    def __init__(self) -> None:
        self.responses: dict[str, Stored] = {}
        self.threads: dict[str, Thread] = {}
        self._made = 0
        self._named = 0

    # -- what is looked up

    def response(self, name: str) -> Stored:
        """Return a stored response.

        Raises:
            Refusal: there is none of that id.
        """
        if name not in self.responses:
            raise _missing(f"Response with id '{name}' not found.")
        return self.responses[name]

    def thread(self, name: str) -> Thread:
        """Return a conversation.

        Raises:
            Refusal: there is none of that id.
        """
        if name not in self.threads:
            raise _missing(f"Conversation with id '{name}' not found.")
        return self.threads[name]

    def context(self, body: Mapping[str, Any]) -> list[JSON]:
        """Return what stands before a request's input.

        Raises:
            Refusal: the response or the conversation that it names is not there, or is locked.
        """
        previous = body.get("previous_response_id")
        if isinstance(previous, str):
            if previous not in self.responses:
                message = f"Previous response with id '{previous}' not found."
                code = "previous_response_not_found"
                raise Refusal("previous-response", message, param="previous_response_id", code=code)
            stored = self.responses[previous]
            return [*stored.given, *stored.now()["output"]]
        thread = self._thread_of(body)
        if thread is None:
            return []
        _check_unlocked(thread)
        return list(thread.items)

    def _thread_of(self, body: Mapping[str, Any]) -> Thread | None:
        name = _conversation(body)
        return self.thread(name) if isinstance(name, str) else None

    # -- the life of a response

    def begin(self, number: int, body: Mapping[str, Any]) -> None:
        """Lock the conversation that request *number* belongs to."""
        thread = self._thread_of(body)
        if thread is not None:
            thread.lock = number

    def release(self, number: int) -> None:
        """Let go of what request *number* has locked."""
        for thread in self.threads.values():
            if thread.lock == number:
                thread.lock = None

    def end(
        self, number: int, request: Mapping[str, Any], context: Sequence[Mapping[str, Any]], response: JSON
    ) -> None:
        """Keep what came of a request: the response unless that is not wanted, and a conversation's new items."""
        given = items_of(request.get("input"))
        name = _conversation(request)
        if request.get("store") is not False:
            old = self.responses.get(response["id"])
            inputs = old.given if old is not None else [*map(dict, context), *map(self.named, given)]
            self.responses[response["id"]] = Stored(response, inputs)
        if response["status"] in ("completed", "incomplete") and name in self.threads:
            self.threads[name].items += [self.named(item) for item in [*given, *response["output"]]]
        self.release(number)

    def forget(self, name: str) -> None:
        """Lose a response, as the API does once it has expired."""
        self.response(name)
        del self.responses[name]

    # -- conversations

    def create(self, body: Mapping[str, Any]) -> Thread:
        """Make a conversation.

        Raises:
            Refusal: too many items, or one that is refused.
        """
        given = items_of(body.get("items"))
        _check_items(given)
        self._made += 1
        metadata = dict(body.get("metadata") or {})
        thread = Thread(f"conv_{self._made:04d}", _MIDNIGHT + self._made, metadata)
        thread.items = [self.named(item) for item in given]
        self.threads[thread.id] = thread
        return thread

    def add(self, name: str, body: Mapping[str, Any]) -> list[JSON]:
        """Add items to a conversation; return them as they are kept.

        Raises:
            Refusal: there is no such conversation, it is locked, or the items are too many or refused.
        """
        thread = self.thread(name)
        _check_unlocked(thread)
        if not isinstance(body.get("items"), list):
            message = "Missing required parameter: 'items'."
            raise Refusal("missing-parameter", message, param="items", code="missing_required_parameter")
        given = items_of(body["items"])
        _check_items(given)
        added = [self.named(item) for item in given]
        thread.items += added
        return added

    def item(self, name: str, item: str) -> JSON:
        """Return an item of a conversation.

        Raises:
            Refusal: there is none of that id.
        """
        for one in self.thread(name).items:
            if one.get("id") == item:
                return one
        raise _missing(f"Item with id '{item}' not found.")

    def drop(self, name: str, item: str) -> Thread:
        """Take an item out of a conversation; return the conversation.

        Raises:
            Refusal: there is none of that id, or the conversation is locked.
        """
        thread = self.thread(name)
        _check_unlocked(thread)
        thread.items.remove(self.item(name, item))
        return thread

    def named(self, item: Mapping[str, Any]) -> JSON:
        """Return an item as it is kept: with an id, and a message with a status and its content as a list."""
        kind = item.get("type", "message")
        made = {"type": kind, **item}
        if not isinstance(made.get("id"), str):
            self._named += 1
            made["id"] = f"{_prefix(kind)}_k{self._named:04d}"
        if kind == "message":
            made.setdefault("status", "completed")
            if isinstance(made.get("content"), str):
                spoken = made.get("role") == "assistant"
                part = {"type": "output_text" if spoken else "input_text", "text": made["content"]}
                made["content"] = [part | ({"annotations": []} if spoken else {})]
        return made


def _conversation(body: Mapping[str, Any]) -> Any:
    """Return the id of the conversation that a request names, by itself or in an object."""
    named = body.get("conversation")
    return named.get("id") if isinstance(named, Mapping) else named


def _prefix(kind: str) -> str:
    field_ = ITEMS.get(kind, {}).get("id")
    wanted = next((one for one in field_.kinds if one.endswith("*")), None) if field_ else None
    return wanted[:-1] if wanted else kind.partition(":")[2] or kind


def items_of(given: Any) -> list[JSON]:
    """Return an input as items: a string is a user's message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def page(items: Sequence[JSON], query: Mapping[str, str]) -> JSON:
    """Return one page of a list, the newest first unless asked otherwise.

    Raises:
        Refusal: a limit that is not 1 to 100, an order that is none, or an item to go on behind that is not there.
    """
    limit = query.get("limit", str(MOST))
    if not limit.isdigit() or not 1 <= int(limit) <= LONGEST:
        message = f"Invalid 'limit': expected an integer from 1 to {LONGEST}, but got '{limit}'."
        raise Refusal("limit", message, param="limit", code="invalid_value")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        message = f"Invalid value: '{order}'. Supported values are: 'asc', 'desc'."
        raise Refusal("order", message, param="order", code="invalid_value")
    listed = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after is not None:
        place = next((at for at, item in enumerate(listed) if item.get("id") == after), None)
        if place is None:
            raise _missing(f"Item with id '{after}' not found.")
        listed = listed[place + 1 :]
    shown = listed[: int(limit)]
    ends = (shown[0].get("id"), shown[-1].get("id")) if shown else (None, None)
    more = len(listed) > len(shown)
    return {"object": "list", "data": shown, "first_id": ends[0], "last_id": ends[1], "has_more": more}


def _missing(message: str) -> Refusal:
    return Refusal("not-found", message, status=404)


def _check_unlocked(thread: Thread) -> None:
    if thread.lock is not None:
        message = "Another process is currently operating on this conversation. Please retry in a few seconds."
        raise Refusal("conversation-locked", message, param="conversation", code="conversation_locked")


def _check_items(given: Sequence[JSON]) -> None:
    if len(given) > MOST:
        words = f"Expected an array with maximum length {MOST}, but got an array with length {len(given)} instead."
        message = f"Invalid 'items': array too long. {words}"
        raise Refusal("too-many-items", message, param="items", code="array_above_max_length")
    for refusal in refusals("responses", {"model": "any", "input": list(given), "conversation": "any"}):
        if refusal.rule not in _LOOSE:
            raise refusal
