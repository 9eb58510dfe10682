"""Scenarios: what of recorded requests is to be otherwise, and what came of them then. Pure."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from ..checks import whole
from ..errors import Invalid
from ..events import ResponseRequested, Usage
from ..manifest import Manifest
from ..prices import Prices
from ..window.budget import Budget
from ..window.policies import Composed, DropTurns, Policy

__all__ = ("NewestTurns", "Outcome", "Scenario", "served", "shared")

_BLOCK: Final = 128
_LEAST: Final = 1024
"""Tokens that a prompt cache serves by the block, and from how many on, by OpenAI's documentation."""


class NewestTurns(Composed):
    """What is often written by hand: the newest turns that fit, chosen anew each time; nothing is excerpted.

    It keeps as much as can be kept, and so the beginning of the window moves with every turn once it is full.
    """

    name = "newest-turns"
    version = 1

    def __init__(self) -> None:
        super().__init__(DropTurns(1.0, keep=0))


def served(shared: int) -> int:
    """Return how many of the tokens that two requests begin with a prompt cache serves.

    >>> [served(1000), served(1024), served(1300)]
    [0, 1024, 1280]
    """
    return shared // _BLOCK * _BLOCK if shared >= _LEAST else 0


class Scenario:
    """What is to be otherwise; what is left out stays as it was recorded.

    Args:
        context: tokens that the model takes.
        reserve: tokens kept free for the answer.
        policy: what goes first when a window is short of room.
        api: the API that is asked.

    Raises:
        Invalid: a number that cannot be.
    """

    def __init__(
        self,
        *,
        context: int | None = None,
        reserve: int | None = None,
        policy: Policy | None = None,
        api: Literal["responses", "chat"] | None = None,
    ) -> None:
        self.context = None if context is None else whole("context", context, 1, of="tokens")
        self.reserve = None if reserve is None else whole("reserve", reserve, 0, of="tokens")
        self.policy = policy
        self.api = api
        if context is not None and reserve is not None:
            Budget(context, reserve)

    @property
    def label(self) -> str:
        """What is otherwise, in words."""
        parts = [
            f"context {self.context:,}" if self.context is not None else "",
            f"reserve {self.reserve:,}" if self.reserve is not None else "",
            f"{self.policy.name}@{self.policy.version}" if self.policy is not None else "",
            self.api or "",
        ]
        return ", ".join(filter(None, parts)) or "as recorded, chosen today"

    def budget(self, said: ResponseRequested) -> Budget:
        """Return the budget of a request.

        Raises:
            Invalid: nothing says what it was, or nothing is left for the input.
        """
        context = said.manifest.context if self.context is None else self.context
        if not context:
            raise Invalid(
                "the requests were recorded elsewhere, with a context that nobody knows: name one with --context"
            )
        return Budget(context, said.manifest.reserve if self.reserve is None else self.reserve)


class Outcome(msgspec.Struct, kw_only=True):
    """What came of the requests under one scenario."""

    label: str
    requests: int = 0
    overflow: int = 0
    """Requests that cannot be made: what must be sent does not fit."""
    tokens: int = 0
    shared: int = 0
    """Of them, tokens at the windows' beginnings that the request before began with too."""
    cached: int = 0
    """Of these, as many as a prompt cache would have served."""
    largest: int = 0
    cuts: int = 0
    compactions: int = 0
    """How often windows begin to start from a compaction."""
    price: float | None = None
    """Of the tokens sent, the recorded answers, and compactions that a model makes; None: nothing says it."""
    unpriced: int = 0
    """Requests of models without a price."""
    series: list[int | None] = []
    """The tokens of each request in order, None where it cannot be made."""
    rooms: list[int] = []
    """The tokens that there was room for."""

    def count(self, manifest: Manifest, room: int, *, cut: bool, compaction: bool) -> None:
        """Take a window in."""
        self.requests += 1
        self.tokens += manifest.tokens
        self.shared += shared(manifest)
        self.cached += served(shared(manifest))
        self.largest = max(self.largest, manifest.tokens)
        self.cuts += cut
        self.compactions += compaction
        self.series.append(manifest.tokens)
        self.rooms.append(room)

    def refuse(self, room: int) -> None:
        """Take a window in that cannot be made."""
        self.requests += 1
        self.overflow += 1
        self.series.append(None)
        self.rooms.append(room)

    def cost(self, prices: Prices | None, model: str, usage: Usage) -> None:
        """Add what a request costs."""
        if prices is None:
            return
        price = prices.cost(model, usage)
        if price is None:
            self.unpriced += 1
        else:
            self.price = (self.price or 0.0) + price


def shared(manifest: Manifest) -> int:
    """Return the tokens that a request and the one before it began with, counted as its own are."""
    return min(manifest.shared * manifest.factor // 1000, manifest.tokens)
