"""Budgets: how many tokens a model takes, and how many of them are for what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..checks import whole
from ..errors import BudgetExceeded, Invalid
from ..families import family_of
from ..tokens import scaled

__all__ = ("LIMITS", "Budget", "accepted", "known", "reserve_of", "room")

LIMITS: Final = ("max_output_tokens", "max_completion_tokens", "max_tokens")
"""The parameters that bound an answer; whichever is largest is kept free."""


class Budget:
    """A model's context window, and what of it is kept free.

    Args:
        context: tokens that the model takes, input and output together.
        reserve: tokens kept free for the answer. A larger output limit in the parameters wins over it. Never sent.

    Raises:
        Invalid: not positive whole numbers, or nothing is left for the input.
    """

    __slots__ = ("context", "reserve")

    def __init__(self, context: int, reserve: int = 0) -> None:
        self.context = whole("Budget: context", context, 1, of="tokens")
        self.reserve = whole("Budget: reserve", reserve, 0, of="tokens")
        if context <= reserve:
            raise Invalid(f"Budget(context={context}, reserve={reserve}): nothing is left for the input")

    def __repr__(self) -> str:
        return f"Budget(context={self.context}, reserve={self.reserve})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and (self.context, self.reserve) == (other.context, other.reserve)

    def __hash__(self) -> int:
        return hash((self.context, self.reserve))


def accepted(budget: object) -> Budget | None:
    """Return a caller's budget, if there is one.

    Raises:
        Invalid: it is something else, such as a number.
    """
    if budget is None or isinstance(budget, Budget):
        return budget
    raise Invalid(f"budget={budget!r:.100}: Budget(context=…) is needed")


def reserve_of(budget: Budget, params: Mapping[str, Any]) -> int:
    """Return the tokens to keep free: the larger of the reserve and the output limit in the parameters.

    Raises:
        Invalid: that leaves nothing for the input.
    """
    limits: dict[str, int] = {name: params[name] for name in LIMITS if isinstance(params.get(name), int)}
    for name, limit in limits.items():
        if limit >= budget.context:
            raise Invalid(
                f"params[{name!r}] = {limit}: nothing is left for the input of {budget.context} tokens of context; "
                "lower it, or raise Budget(context=…)"
            )
    return max([budget.reserve, *limits.values()])


def room(context: int, reserve: int, overhead: int, factor: int) -> int:
    """Return how many counted tokens of items fit beside the overhead.

    Raises:
        BudgetExceeded: the overhead alone does not fit.
    """
    left = (context - reserve) * 1000 // factor - overhead
    if left < 0:
        raise BudgetExceeded(
            scaled(overhead, factor), max(0, context - reserve), "instructions, tools and response format"
        )
    return left


def known(model: str) -> Budget | None:
    """Return the budget of a model whose context window is known, None of another.

    Where the API keeps a part of the window from every input, it is the reserve.
    """
    family = family_of(model)
    return None if family is None else Budget(family.context, family.kept)
