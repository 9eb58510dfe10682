"""What options of several commands name: a policy, an API, prices."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer

from turnlog.engine.errors import Invalid
from turnlog.engine.prices import Price, Prices
from turnlog.engine.replay.scenarios import NewestTurns
from turnlog.engine.window.policies import Compacting, OldestTurns, Policy, check_policy

__all__ = ("POLICIES", "Api", "PriceFile", "api_named", "policy_named", "price_named", "prices_in")

PriceFile = Annotated[
    Path | None,
    typer.Option(
        "--price-file",
        help='What a million tokens cost, by model: {"gpt-4o-mini": {"input": 0.15, "cached": 0.075, "output": 0.6}}; '
        "JSON or TOML.",
    ),
]
Api: TypeAlias = Literal["responses", "chat"]
_APIS: Final[Mapping[str, Api]] = {"responses": "responses", "chat": "chat"}
POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    OldestTurns.name: OldestTurns,
    "compacting": Compacting,
    NewestTurns.name: NewestTurns,
}
"""The policies that have a name: turnlog's, and the newest turns for comparison."""


def api_named(text: str) -> Api:
    """Return the API that `--api` names.

    Raises:
        BadParameter: there is none.
    """
    if text not in _APIS:
        raise typer.BadParameter(f"{text!r} is neither responses nor chat", param_hint="--api")
    return _APIS[text]


def policy_named(text: str) -> Policy:
    """Return a policy by its name, or one of the user's own as `package.module:Name`.

    Raises:
        Invalid: there is none.
    """
    if text in POLICIES:
        return POLICIES[text]()
    module, colon, name = text.partition(":")
    if not colon:
        raise Invalid(f"--policy {text}: {', '.join(POLICIES)}, or one of your own as package.module:Name")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside the user, as `python -m` finds it
    try:
        kind = getattr(importlib.import_module(module), name)
        made: Any = kind() if isinstance(kind, type) else kind
    except Exception as error:  # what a user's module does while it is imported may be anything
        raise Invalid(f"--policy {text}: {type(error).__name__}: {error}") from error
    check_policy(made, f"--policy {text}: it is no policy")
    policy: Policy = made
    return policy


def price_named(text: str) -> Price:
    """Return what `--price` names: dollars for a million tokens, written as IN,CACHED,OUT.

    >>> price_named("2,0.5,8")
    Price(input=2.0, output=8.0, cached=0.5)

    Raises:
        BadParameter: it is something else.
    """
    try:
        fresh, cached, output = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: three numbers are needed, IN,CACHED,OUT") from None
    if not all(0 <= price < float("inf") for price in (fresh, cached, output)):
        raise typer.BadParameter(f"{text!r}: a price is a number of dollars, not less than 0")
    return Price(fresh, output, cached)


def prices_in(path: Path) -> Prices:
    """Return the prices in a file.

    Raises:
        Invalid: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise Invalid(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Invalid(f"{path}: neither JSON nor TOML (by its name): {error}") from error
    return Prices.parse(given, str(path))
