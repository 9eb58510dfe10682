"""What servers have kept of a history: the event up to which each has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from .codec import body
from .events import Record, RemoteAttached, ResponseFailed, Target

__all__ = ("KEEPS", "Kept", "stateless")

KEEPS: Final = frozenset({"chained", "conversation"})
"""The states of targets whose servers keep something."""
_COMPLETED: Final = "response.completed"
_Server: TypeAlias = tuple[str, str, str]


def stateless(target: Target) -> Target:
    """Return a target as it is for windows, which the state that its server keeps does not change."""
    return msgspec.structs.replace(target, state="stateless") if target.state in KEEPS else target


class Kept(msgspec.Struct, frozen=True):
    """What servers have kept, as the events tell: of chains the last response, of conversations what is in them."""

    anchors: Mapping[_Server, Record] = {}
    """By server: the request that was answered last, or the attachment of a conversation."""
    asking: Record | None = None
    """The request that has no end yet."""
    before: Record | None = None
    """What a conversation's server had before that."""

    def requested(self, request: Record, target: Target) -> Kept:
        """Return what is kept while a request runs: of its conversation nobody knows, until it has ended."""
        if target.state not in KEEPS:
            return msgspec.structs.replace(self, asking=None)
        if target.state == "chained":
            return msgspec.structs.replace(self, asking=request)
        server = _server(target)
        left = {key: record for key, record in self.anchors.items() if key != server}
        return Kept(left, request, self.anchors.get(server))

    def ended(self, end: Record, target: Target) -> Kept:
        """Return what is kept once the request for *target* has ended."""
        if self.asking is None or end.response != self.asking.seq:
            return self
        server = _server(target)
        if end.kind == _COMPLETED:
            return Kept({**self.anchors, server: self.asking})
        said = body(end) if self.before is not None else None
        if self.before is not None and isinstance(said, ResponseFailed) and 400 <= (said.status_code or 0) < 500:
            return Kept({**self.anchors, server: self.before})  # it was refused, and nothing has changed
        return Kept(self.anchors)

    def attached(self, attachment: Record) -> Kept:
        """Return what is kept once a conversation was attached, or detached."""
        said = body(attachment)
        if not isinstance(said, RemoteAttached):
            return self
        server = ("responses", said.backend, "conversation")
        anchors = {key: record for key, record in self.anchors.items() if key != server}
        if said.manifest is not None and not said.detached:
            anchors[server] = attachment
        return msgspec.structs.replace(self, anchors=anchors)

    def anchor(self, target: Target) -> Record | None:
        """Return the event up to which a target's server has the history, None where it has nothing of it."""
        return self.anchors.get(_server(target))


def _server(target: Target) -> _Server:
    return target.api, target.backend, target.state
