"""A server's conversation that mirrors one of ours: what it has, what it lacks, and what the log says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from .codec import body, event
from .errors import Conflict, ConversationBusy, Invalid, VersionConflict
from .events import ItemAppended, NewEvent, Origin, RemoteAttached, Target
from .ids import ANY, Expected
from .intake import as_responses
from .log import Query
from .manifest import Manifest
from .turns.plan import View
from .turns.requests import ahead_of
from .window.budget import Budget
from .window.remote import following, news

if TYPE_CHECKING:
    from .conversation import Conversation
    from .engine import Engine

__all__ = ("Lacking", "attach", "detach", "import_items", "lacking", "remote_of", "target_of")

_ALL: Final = Budget(10**12)
"""A conversation at a server is not cut."""
_ATTEMPTS: Final = 8


def target_of(backend: str, model: str = "") -> Target:
    """Return whom what is written to a conversation at a server is for."""
    return Target(api="responses", backend=backend, model=model, state="conversation")


async def remote_of(conversation: Conversation, backend: str) -> str | None:
    """Return the id of the server's conversation that mirrors this one, None where there is none.

    A fork has none of its parent's.
    """
    engine, name = conversation.engine, conversation.id
    engine.check()
    snapshot = await engine.store.read(name, Query(mark="attached", reverse=True))
    parent = snapshot.head.parent if snapshot else None
    for record in snapshot.records[0] if snapshot else ():
        said = body(record)
        if record.seq <= (parent[1] if parent else 0):
            break
        if isinstance(said, RemoteAttached) and said.backend == backend:
            return None if said.detached else said.id
    return None


class Lacking(NamedTuple):
    """What a server's conversation does not have yet."""

    items: Sequence[Mapping[str, Any]]
    manifest: Manifest
    """What it has once it has these."""
    version: int
    """The version of the log that this was read at."""


async def lacking(conversation: Conversation, target: Target, remote: str | None) -> Lacking:
    """Return what the server's conversation *remote* lacks; with None everything, as for a new one.

    Raises:
        Conflict: it does not begin like the log any more, or nobody knows what is in it.
        ConversationBusy: a turn is running.
    """
    engine, name = conversation.engine, conversation.id
    view = _view(engine, target)
    head, history = await engine.reader.fresh(name, line=view.line, tokens=_ALL.context)
    if head.lease is not None and head.lease.remaining > 0:
        raise ConversationBusy(name, head.lease.turn, head.lease.remaining)
    history, manifest = await engine.reader.chosen(view, history)
    manifest = msgspec.structs.replace(manifest, sealed=())  # open calls are open there too
    if remote is not None:
        manifest = following(history, manifest, target)
        if manifest.remote != remote:
            raise Conflict(
                f"{name}: the server's conversation {remote} is not what the log was then: the log was rewound, "
                "compacted or erased since, or a request to it broke off. Create a new one."
            )
    rendered = await engine.reader.rendered(history, manifest, target)
    return Lacking([one.item for one in news(rendered, manifest)], _as_base(manifest), head.version)


def _as_base(manifest: Manifest) -> Manifest:
    """Return a manifest of all that a conversation has, as what later requests are compared with."""
    return msgspec.structs.replace(manifest, follows=0, remote="")


def _view(engine: Engine, target: Target) -> View:
    return View(target=target, budget=_ALL, policy=engine.policy, reserve=0, overhead=0, counter=None, engine=engine)


async def attach(
    conversation: Conversation,
    remote: str,
    target: Target,
    manifest: Manifest | None = None,
    *,
    expected: int | None = None,
) -> int:
    """Say in the log that a server's conversation mirrors this one; return the version then.

    With a *manifest*, that it has that window; without, that it is about to be written to, so that nobody knows.

    Raises:
        VersionConflict: the log is at another version than was expected.
    """
    said = RemoteAttached(id=remote, backend=target.backend, model=target.model, manifest=manifest)
    return await _said(conversation, [event(said)], expected)


async def detach(conversation: Conversation, remote: str, backend: str) -> int:
    """Say in the log that a server's conversation mirrors this one no longer; return the version then."""
    return await _said(conversation, [event(RemoteAttached(id=remote, backend=backend, detached=True))], None)


async def _said(conversation: Conversation, events: Sequence[NewEvent], expected: int | None) -> int:
    exact: Expected = ANY if expected is None else expected
    appended = await conversation.engine.writer.append(conversation.id, events, expected=exact)
    conversation.saw(appended.version)
    return appended.version


async def import_items(
    conversation: Conversation, items: Sequence[Mapping[str, Any]], remote: str, backend: str
) -> int:
    """Append everything that a server's conversation has, and that it mirrors this one from now on.

    All or nothing. Items are taken as they are, whatever the server says in them. Return how many there were.

    Raises:
        Invalid: this one has items of its own.
    """
    engine, name = conversation.engine, conversation.id
    engine.check()
    origin = Origin("responses", backend, "")
    made = [await engine.intake.item(item, said=ItemAppended(origin=origin)) for item in items]
    events = as_responses(made)
    target = target_of(backend)
    for attempt in range(_ATTEMPTS):
        head, history = await engine.reader.fresh(name)
        if head.items:
            raise Invalid(f"{name}: it has {head.items} items; attach a server's conversation to a new one")
        _, manifest = await engine.reader.chosen(_view(engine, target), history, ahead_of(history, events))
        manifest = msgspec.structs.replace(manifest, sealed=())
        attached = event(RemoteAttached(id=remote, backend=backend, manifest=manifest))
        try:
            await _said(conversation, [*events, attached], head.version)
        except VersionConflict:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return len(events)
    raise AssertionError("unreachable")
