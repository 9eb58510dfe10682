"""The window: what a model would be sent, and why it is as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import msgspec

from ..events import Target
from ..manifest import Manifest, Verdict
from ..messages import to_messages
from .budget import Budget
from .remote import addressed, news
from .render import Rendered

__all__ = ("Tokens", "Window")


class Tokens(msgspec.Struct, frozen=True):
    """A figure of tokens."""

    total: int
    measured: bool
    """Whether all of it was counted with the tokenizer; false when images or encrypted content were estimated."""
    bound: int
    """By how many tokens it may be off."""


class Window:
    """The projection of a conversation that one request sends."""

    __slots__ = ("budget", "manifest", "rendered", "target", "tokens", "version")

    def __init__(self, rendered: Sequence[Rendered], manifest: Manifest, target: Target, budget: Budget) -> None:
        self.rendered = rendered
        self.manifest = manifest
        self.target = target
        self.budget = budget
        self.version = manifest.as_of
        self.tokens = Tokens(manifest.tokens, manifest.measured, manifest.bound)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items in the Responses shape, as `input` would carry them."""
        return [one.item for one in self.rendered]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The same as Chat Completions messages."""
        return to_messages(self.rendered, recorded=self.target.state == "recorded")

    @property
    def news(self) -> list[Rendered]:
        """What of it the request sends: all, or what its server does not hold already."""
        return news(self.rendered, self.manifest)

    def addressed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's settings with what its encoder has to know of the server's state."""
        return addressed(settings, self.manifest)

    def explain(self) -> Sequence[Verdict]:
        """Return what became of every seq up to the window's version, in order; made as it is looked at."""
        return _Verdicts(self.manifest)

    def __repr__(self) -> str:
        return f"<Window of {len(self.rendered)} items, {self.tokens.total:,} tokens, as of {self.version}>"


class _Verdicts(Sequence[Verdict]):
    """One verdict a seq. A conversation may have millions, so none is made before it is asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def __len__(self) -> int:
        return self._manifest.as_of

    @overload
    def __getitem__(self, index: int) -> Verdict: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Verdict]: ...

    def __getitem__(self, index: int | slice) -> Verdict | Sequence[Verdict]:
        if isinstance(index, slice):
            return [self._manifest.why(at + 1) for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._manifest.why(index % len(self) + 1)
