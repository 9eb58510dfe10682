"""Prices: what tokens cost, as the user says. Pure.

    {"gpt-4o-mini": {"input": 0.15, "cached": 0.075, "output": 0.6}}

Prices are for a million tokens; `cached` is what of the input came from the provider's prompt cache, by default the
price of other input. A model's price is that of the longest name that its own begins with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from .errors import Invalid
from .events import Usage

__all__ = ("Price", "Prices")

_MILLION = 1_000_000


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
    """Prices by model."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)

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
        """
        names = [name for name in self._prices if model == name or model.startswith(f"{name}-")]
        return self._prices[max(names, key=len)] if names else None

    def cost(self, model: str, usage: Usage) -> float | None:
        """Return what tokens of a model cost, None where nothing says it."""
        price = self.of(model)
        return None if price is None else price.of(usage)
