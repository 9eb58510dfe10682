"""Asking: a turn's requests. What each of them sends, and what is tried once when one is refused.

A refused request can be made in another way: with its whole window, where the state at the server is gone, locked, or
another than the log's; with a shorter window, where the server finds it too long; without encrypted content, or
without the compaction that has it, where its maker cannot read that. Each is tried once, and is a request of its own in
the log, the retry of the one that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import msgspec

from ..codec import event
from ..errors import Invalid
from ..events import CompactionUndone, NewEvent, Record, RemoteAttached
from ..history import History
from ..manifest import Manifest
from ..model import ModelFailure
from ..window.remote import following
from ..window.window import Window
from .requests import NOTHING, Asked, requested

if TYPE_CHECKING:
    from ..engine import Engine
    from .call import ModelCall
    from .plan import Plan

__all__ = ("Asking", "Chosen", "Mending")

Way: TypeAlias = Literal["whole", "shorter", "readable", "uncompacted"]

_STATE: Final = frozenset({"previous_response_not_found", "conversation_locked", "conversation_not_found"})
"""Errors that speak of the state at the server."""
_OTHER: Final = frozenset({"model_not_found", "unknown_parameter", "unsupported_parameter", "unsupported_value"})
"""Errors that have nothing to do with it, although they come with the same statuses."""
_TOO_LONG: Final = "context_length_exceeded"
_UNREADABLE: Final = "invalid_encrypted_content"


class Chosen(NamedTuple):
    """A window that may be sent, and the history that it was chosen from."""

    history: History
    manifest: Manifest


class Mending(NamedTuple):
    """How a refused request is made again."""

    way: Way
    events: list[NewEvent]
    """What has to be in the log before its window is chosen."""


class Asking:
    """Makes the requests of one turn."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.engine = engine
        self.plan = plan
        self.window: Window | None = None
        """That of the last request."""
        self._tried: set[Way] = set()
        self._conversation: str | None = None
        """One that was made at the server, and that no request in the log belongs to."""

    async def choose(self, history: History, ahead: Sequence[Record] = ()) -> Chosen:
        """Choose the window with *ahead* at its end.

        Raises:
            BudgetExceeded: what must be sent does not fit.
        """
        return Chosen(*await self.engine.reader.chosen(self.plan, history, ahead))

    async def request(self, chosen: Chosen, *, retry_of: int | None = None) -> Asked:
        """Find what of a window the server has, and encode the request.

        Raises:
            Invalid: there is nothing to send.
        """
        plan = self.plan
        history, manifest = chosen
        if "whole" not in self._tried:
            manifest = following(history, manifest, plan.target)
        manifest, said, broken = await self._placed(manifest)
        rendered = await self.engine.reader.rendered(history, manifest, plan.target, plan.blobs)
        if not rendered:
            raise Invalid(f"{history.conversation}: {NOTHING}")
        self.window = Window(rendered, manifest, plan.target, plan.budget, history.conversation)
        return Asked(*requested(plan, history, self.window, "answer", retry_of=retry_of), history, said, broken)

    async def _placed(self, manifest: Manifest) -> tuple[Manifest, list[NewEvent], ModelFailure | None]:
        """See to it that a request that belongs to a conversation at the server has one there."""
        opens = getattr(self.plan.model, "open_remote", None)
        if self.plan.target.state != "conversation" or manifest.remote or opens is None:
            return manifest, [], None
        try:
            # One that a lost race has left is empty still.
            remote: str = self._conversation or await opens(**self.plan.transport)
        except ModelFailure as failure:
            return manifest, [], failure
        self._conversation = remote
        attached = RemoteAttached(id=remote, backend=self.plan.target.backend)
        return msgspec.structs.replace(manifest, remote=remote), [event(attached)], None

    def logged(self) -> None:
        """Learn that the request is in the log: what was made for it is used."""
        self._conversation = None

    def answered(self) -> None:
        """Learn that it was answered: the next one may be mended in the same ways again."""
        self._tried.clear()

    def mend(self, call: ModelCall, failure: ModelFailure) -> Mending | None:
        """Return how to make a request again that has failed; None where nothing is left to be tried."""
        window = self.window
        if window is None or call.begun or call.broken:
            return None
        for way in self._ways(window, failure):
            if way not in self._tried:
                return self._made_again(way, window.manifest)
        return None

    def _made_again(self, way: Way, manifest: Manifest) -> Mending:
        self._tried.add(way)
        if way == "shorter":
            self.plan.refused = manifest.items + manifest.overhead
        elif way == "readable":
            self.plan.unread = manifest.as_of
        undone = [event(CompactionUndone(seq=manifest.base))] if way == "uncompacted" else []
        return Mending(way, undone)

    def _ways(self, window: Window, failure: ModelFailure) -> list[Way]:
        """Return the ways in which a refused request may be taken after all, the mildest first."""
        if failure.code == _TOO_LONG:
            return ["shorter"]
        if failure.code == _UNREADABLE:
            base = window.manifest.base
            secrets = [one.seq == base for one in window.news if one.item.get("encrypted_content")]
            readable: list[Way] = ["readable"] if False in secrets else []
            return [*readable, "uncompacted"] if True in secrets else readable
        return ["whole"] if window.manifest.follows and _is_of_the_state(failure) else []


def _is_of_the_state(failure: ModelFailure) -> bool:
    """Return whether a request that follows something at the server may have failed because of that.

    Servers differ in what they say, and a request that was refused has done nothing: so in doubt it is tried.
    """
    if failure.code in _STATE:
        return True
    return failure.status_code in (400, 404, 409) and failure.code not in _OTHER
