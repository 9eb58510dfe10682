"""Prices: what tokens cost, as the user says. Pure.

    {"gpt-4o-mini": {"input": 0.15, "cached": 0.075, "output": 0.6}}

Prices are for a million tokens; `cached` is what of the input came from the provider's prompt cache, by default the
price of other input. A model has the price of its own name, or of the one that it is a dated snapshot of, such as
`-2024-07-18`, `-20240718`, `-0613` or `-latest`; what was fine-tuned (`ft:gpt-4o-mini-2024-07-18:org::id`) has that of
`ft:gpt-4o-mini`. Every other model has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .errors import Invalid
from .events import Usage

__all__ = ("Price", "Prices")

_MILLION: Final = 1_000_000
_SNAPSHOT: Final = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens of one model cost."""

    input: float
    output: float
    cached: float | None = None

    def of(self, usage: Usage) -> float:
        """Return what some tokens cost."""
        cached = self.input if self.cached is None else self.cached
        fresh = max(0, usage.input_tokens - usage.cached_tokens)
        cost = fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output
        return cost / _MILLION


class Prices:
    """Prices by model; *other*: of models that are not named."""

    def __init__(self, prices: Mapping[str, Price], other: Price | None = None) -> None:
        self._prices = dict(prices)
        self._other = other

    @classmethod
    def parse(cls, given: Any, where: str = "prices") -> Prices:
        """Return prices given as JSON.

        Raises:
            Invalid: something of it is no price.
        """
        try:
            prices = msgspec.convert(given, dict[str, Price])
        except msgspec.ValidationError as error:
            told = 'for each model {"input": …, "output": …, "cached": …} is needed, prices of a million tokens'
            raise Invalid(f"{where}: {error}; {told}") from error
        for name, price in prices.items():
            for value in msgspec.structs.astuple(price):
                if value is not None and (value < 0 or not math.isfinite(value)):
                    raise Invalid(f"{where}: {name}: {value} is no price")
        return cls(prices)

    def of(self, model: str) -> Price | None:
        """Return a model's price, None where nothing says it.

        >>> prices = Prices({"gpt-4o": Price(2.5, 10.0), "gpt-4o-mini": Price(0.15, 0.6)})
        >>> prices.of("gpt-4o-mini-2024-07-18").output
        0.6
        >>> prices.of("gpt-4o-audio-preview") is None
        True
        """
        names = [model]
        if model.startswith("ft:"):
            names.append(":".join(model.split(":")[:2]))  # the rest is whose it is
        names += [_SNAPSHOT.sub("", name) for name in names]
        return next((self._prices[name] for name in names if name in self._prices), self._other)

    def cost(self, model: str, usage: Usage) -> float | None:
        """Return what tokens of a model cost, None where nothing says it."""
        price = self.of(model)
        return None if price is None else price.of(usage)
