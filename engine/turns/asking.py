"""Asking: a turn's requests. What each of them sends, and what is tried once when one is refused.

A refused request can be made in another way: with its whole window, where the state at the server is gone, locked, or
another than the log's; with a shorter window, where the server finds it too long; without encrypted content, or
without the compaction that has it, where its maker cannot read that; without ids, where the server does not find what
it gave them to; without an item that it made itself and does not take back. Each is tried once, and is a request of its
own in the log, the retry of the one that failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import msgspec

from ..codec import event
from ..errors import Invalid
from ..events import CompactionUndone, NewEvent, Record, RemoteAttached
from ..history import History
from ..manifest import Manifest
from ..model import ModelFailure
from ..window.remote import following
from ..window.render import Rendered
from ..window.window import Window
from .requests import NOTHING, Asked, requested

if TYPE_CHECKING:
    from ..engine import Engine
    from .call import ModelCall
    from .plan import Plan

__all__ = ("Asking", "Chosen", "Mending")

Way: TypeAlias = Literal["whole", "shorter", "readable", "uncompacted", "nameless", "without"]

_STATE: Final = frozenset({"previous_response_not_found", "conversation_locked", "conversation_not_found"})
"""Errors that speak of the state at the server."""
_OTHER: Final = frozenset({"model_not_found", "unknown_parameter", "unsupported_parameter", "unsupported_value"})
"""Errors that have nothing to do with it, although they come with the same statuses."""
_TOO_LONG: Final = "context_length_exceeded"
_UNREADABLE: Final = "invalid_encrypted_content"
_UNFOUND: Final = "item_not_found"
_ITEM: Final = re.compile(r"input\[(\d{1,6})\]")
"""How a refusal names the item that it is about."""
_MOST: Final = 8
"""Ways that are tried for one answer: of several items that are refused, each takes one."""


class Chosen(NamedTuple):
    """A window that may be sent, and the history that it was chosen from."""

    history: History
    manifest: Manifest


class Mending(NamedTuple):
    """How a refused request is made again."""

    way: Way
    events: Sequence[NewEvent] = ()
    """What has to be in the log before its window is chosen."""


class Asking:
    """Makes the requests of one turn."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.engine = engine
        self.plan = plan
        self.window: Window | None = None
        """That of the last request."""
        self._history: History | None = None
        """What it was chosen from."""
        self._tried: set[tuple[Way, int]] = set()
        """What was tried for the answer that is waited for; "without" is tried for each item."""
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
        if ("whole", 0) not in self._tried:
            manifest = following(history, manifest, plan.target)
        manifest, said, broken = await self._placed(manifest)
        rendered = await self.engine.reader.rendered(history, manifest, plan.target, plan.blobs)
        if not rendered:
            raise Invalid(f"{history.conversation}: {NOTHING}")
        window = Window(rendered, manifest, plan.target, plan.budget, history.conversation)
        self.window, self._history = window, history
        return Asked(*await requested(plan, history, self.window, "answer", retry_of=retry_of), history, said, broken)

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
        if window is None or call.begun or call.broken or len(self._tried) >= _MOST:
            return None
        for way, seq in self._ways(window, failure):
            if (way, seq) not in self._tried:
                self._tried.add((way, seq))
                return self._made_again(way, seq, window.manifest)
        return None

    def _made_again(self, way: Way, seq: int, manifest: Manifest) -> Mending:
        plan = self.plan
        if way == "shorter":
            plan.refused = manifest.items + manifest.overhead
        elif way == "readable":
            plan.unread = manifest.as_of
        elif way == "nameless":
            plan.unnamed = manifest.as_of
        elif way == "without":
            plan.unfit = (*plan.unfit, seq)
        elif way == "uncompacted":
            return Mending(way, [event(CompactionUndone(seq=manifest.base))])
        return Mending(way)

    def _ways(self, window: Window, failure: ModelFailure) -> Iterator[tuple[Way, int]]:
        """Yield the ways in which a refused request may be taken after all, the mildest first."""
        manifest = window.manifest
        if failure.code == _TOO_LONG:
            yield "shorter", 0
        elif failure.code == _UNREADABLE:
            secrets = [one.seq == manifest.base for one in window.news if one.item.get("encrypted_content")]
            if False in secrets:
                yield "readable", 0
            if True in secrets:
                yield "uncompacted", 0
            if manifest.follows:
                yield "whole", 0  # it is in what the server holds
        else:
            if manifest.follows and _is_of_the_state(failure):
                yield "whole", 0
            if failure.code == _UNFOUND and any("id" in one.item for one in window.news):
                yield "nameless", 0
            if (seq := self._unfit(window, failure)) is not None:
                yield "without", seq

    def _unfit(self, window: Window, failure: ModelFailure) -> int | None:
        """Return the seq of the item that a refusal is about, where the server gave that item itself."""
        named = _ITEM.match(failure.param or "")
        if named is None or failure.status_code not in (400, 422, None):
            return None
        sent, index = window.news, int(named[1])
        return sent[index].seq if index < len(sent) and self._gave(sent[index]) else None

    def _gave(self, one: Rendered) -> bool:
        """Return whether it is the server itself that an item of a window comes from."""
        asked = self._history.requests.get(one.response or 0) if self._history else None
        target = self.plan.target
        return one.home or (asked is not None and (asked.adapter, asked.target.backend) == (target.api, target.backend))


def _is_of_the_state(failure: ModelFailure) -> bool:
    """Return whether a request that follows something at the server may have failed because of that.

    Servers differ in what they say, and a request that was refused has done nothing: so in doubt it is tried.
    """
    if failure.code in _STATE:
        return True
    return failure.status_code in (400, 404, 409) and failure.code not in _OTHER
