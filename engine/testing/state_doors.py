"""The scripted server's endpoints that show and change what it keeps: stored responses, and conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .desk import Desk, wrong_key
from .judge import Refusal
from .judge import judge as judge_body
from .script import Fail, Hang, Raw
from .sending import Following, Sending, as_given, fault, hang_up, transmit, while_connected, whole
from .state import Thread, items_of, page
from .wire import JSON

__all__ = ("Trouble", "Visit", "doors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request to the state of the server. *path* is behind `/v1`, *body* the decoded JSON, None without one."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any


Trouble: TypeAlias = Callable[[Visit], "Fail | Hang | Raw | None"]
_Answer: TypeAlias = "JSON | Following"


class _Asked:
    """One visit, with what it is about."""

    def __init__(self, desk: Desk, visit: Visit, path: Mapping[str, str]) -> None:
        self.desk = desk
        self.kept = desk.kept
        self.query = visit.query
        self.body: JSON = visit.body if isinstance(visit.body, dict) else {}
        self.response = path.get("response", "")
        self.conversation = path.get("conversation", "")
        self.item = path.get("item", "")


_Handler: TypeAlias = Callable[[_Asked], _Answer]


# -- stored responses


def _retrieve(asked: _Asked) -> _Answer:
    stored = asked.kept.response(asked.response)
    if asked.query.get("stream") != "true":
        return stored.now()
    run = asked.desk.runs.get(asked.response)
    if run is None:
        raise Refusal("not-streamed", "Only a background response can be streamed again.", param="stream", status=404)
    after = asked.query.get("starting_after", "-1")
    return Following(frames=run.frames(int(after) if after.lstrip("-").isdigit() else -1))


def _delete(asked: _Asked) -> _Answer:
    asked.kept.forget(asked.response)
    return {"id": asked.response, "object": "response", "deleted": True}


def _cancel(asked: _Asked) -> _Answer:
    stored = asked.kept.response(asked.response)
    run = asked.desk.runs.get(asked.response)
    if run is None:
        raise Refusal("not-background", "Cannot cancel a synchronous response.")
    run.cancel()
    return stored.now() if stored.look else run.response


def _input_items(asked: _Asked) -> _Answer:
    return page(asked.kept.response(asked.response).given, asked.query)


def _input_tokens(asked: _Asked) -> _Answer:
    body = asked.body
    context = asked.kept.context(body)
    judge_body("input_tokens", body)
    read: JSON = {key: body[key] for key in ("instructions", "tools") if key in body}
    read["input"] = [*context, *items_of(body.get("input"))]
    counted = asked.desk.count(json.dumps(read, ensure_ascii=False))
    return {"object": "response.input_tokens", "input_tokens": counted}


# -- conversations


def _create(asked: _Asked) -> _Answer:
    return asked.kept.create(asked.body).body()


def _conversation(asked: _Asked) -> _Answer:
    return asked.kept.thread(asked.conversation).body()


def _update(asked: _Asked) -> _Answer:
    thread: Thread = asked.kept.thread(asked.conversation)
    if "metadata" not in asked.body:
        message = "Missing required parameter: 'metadata'."
        raise Refusal("missing-parameter", message, param="metadata", code="missing_required_parameter")
    thread.metadata = dict(asked.body["metadata"] or {})
    return thread.body()


def _remove(asked: _Asked) -> _Answer:
    name = asked.kept.thread(asked.conversation).id
    del asked.kept.threads[name]
    return {"id": name, "object": "conversation.deleted", "deleted": True}


def _items(asked: _Asked) -> _Answer:
    return page(asked.kept.thread(asked.conversation).items, asked.query)


def _add(asked: _Asked) -> _Answer:
    added = asked.kept.add(asked.conversation, asked.body)
    return page(added, {"limit": "100", "order": "asc"})


def _item(asked: _Asked) -> _Answer:
    return asked.kept.item(asked.conversation, asked.item)


def _drop(asked: _Asked) -> _Answer:
    return asked.kept.drop(asked.conversation, asked.item).body()


_DOORS: Final[Mapping[str, Mapping[str, _Handler]]] = {
    "/v1/responses/input_tokens": {"POST": _input_tokens},
    "/v1/responses/{response}": {"GET": _retrieve, "DELETE": _delete},
    "/v1/responses/{response}/cancel": {"POST": _cancel},
    "/v1/responses/{response}/input_items": {"GET": _input_items},
    "/v1/conversations": {"POST": _create},
    "/v1/conversations/{conversation}": {"GET": _conversation, "POST": _update, "DELETE": _remove},
    "/v1/conversations/{conversation}/items": {"GET": _items, "POST": _add},
    "/v1/conversations/{conversation}/items/{item}": {"GET": _item, "DELETE": _drop},
}


def doors(desk: Desk, visits: list[Visit], trouble: Trouble | None) -> list[Route]:
    """Return the routes to what a desk keeps; *visits* grows with every request to them."""
    return [
        Route(path, _Door(desk, handlers, visits, trouble), methods=list(handlers)) for path, handlers in _DOORS.items()
    ]


class _Door:
    """One path of the state, as an ASGI application."""

    def __init__(
        self, desk: Desk, handlers: Mapping[str, _Handler], visits: list[Visit], trouble: Trouble | None
    ) -> None:
        self._desk = desk
        self._handlers = handlers
        self._visits = visits
        self._trouble = trouble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        content = await request.body()
        path = request.url.path.removeprefix("/v1")
        body = _decoded(content)
        visit = Visit(method=request.method, path=path, query=dict(request.query_params), body=body)
        self._visits.append(visit)

        async def respond() -> None:
            trouble = self._trouble(visit) if self._trouble else None
            if isinstance(trouble, Hang):
                await anyio.sleep(trouble.seconds)
                await hang_up(scope)
            else:
                await transmit(self._answer(request, visit, trouble), f"req_state_{len(self._visits):04d}", scope, send)

        await while_connected(receive, respond)

    def _answer(self, request: Request, visit: Visit, trouble: Fail | Raw | None) -> Sending | Following:
        if not self._desk.opens(request.headers):
            return wrong_key()
        if isinstance(trouble, Raw):
            return as_given(trouble)
        if trouble is not None:
            return fault(trouble)
        method = "GET" if visit.method == "HEAD" else visit.method
        try:
            made = self._handlers[method](_Asked(self._desk, visit, request.path_params))
        except Refusal as refusal:
            return whole(refusal.body(), status=refusal.status)
        return made if isinstance(made, Following) else whole(made)


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
