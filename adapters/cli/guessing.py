"""`turnlog whatif`: the same conversations under another budget, policy or API."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named
from turnlog.adapters.cli.exporting import appearing
from turnlog.adapters.cli.plotting import plotted
from turnlog.adapters.cli.verifying import chosen_ids, events_in
from turnlog.engine.errors import Invalid
from turnlog.engine.prices import Prices
from turnlog.engine.replay.whatif import Outcome, Scenario, WhatIf
from turnlog.engine.window.policies import OldestTurns, Policy

__all__ = ("PriceFile", "prices_in", "whatif")

PriceFile = Annotated[
    Path | None,
    typer.Option(
        "--price-file",
        help='What a million tokens cost, by model: {"gpt-4o-mini": {"input": 0.15, "cached": 0.075, "output": 0.6}}; '
        "JSON or TOML.",
    ),
]
_BUILT_IN: Final[dict[str, type[Any]]] = {OldestTurns.name: OldestTurns}
_APIS: Final = ("responses", "chat")


def whatif(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    context: Annotated[
        list[int] | None, typer.Option(help="Tokens that the model takes; several are compared.")
    ] = None,
    reserve: Annotated[list[int] | None, typer.Option(help="Tokens kept free for the answer.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="oldest-turns, or a policy of your own as MODULE:NAME.")
    ] = None,
    api: Annotated[list[str] | None, typer.Option(help="responses or chat.")] = None,
    price_file: PriceFile = None,
    plot: Annotated[Path | None, typer.Option(help="An SVG file to draw them into, side by side.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Say what would have been sent under another budget, policy or API; each option may be given several times."""
    scenarios = list(_scenarios(context, reserve, policy, api))
    prices = None if price_file is None else prices_in(price_file)

    async def work() -> WhatIf:
        async with existing(named(db, schema)) as engine:
            found = WhatIf(engine, scenarios, prices)
            shown = not as_json
            total = await events_in(engine, ids or []) if shown else 0
            with show.progress("trying", total, shown=shown) as advance:
                async for one in chosen_ids(engine, ids or []):
                    await found.run(one, advance)
            return found

    found = run(work)
    rows = [found.recorded, *found.outcomes]
    if plot is not None:
        _draw(rows, plot)
    if as_json:
        made = [_document(one) for one in rows]
        put({"conversations": found.conversations, "requests": found.recorded.requests, "scenarios": made})
    else:
        _table(rows, found.conversations)


def _document(one: Outcome) -> dict[str, Any]:
    made = {key: value for key, value in msgspec.to_builtins(one).items() if key != "rooms"}
    return {**made, "price": show.rounded(one.price)}


def _draw(rows: Sequence[Outcome], path: Path) -> None:
    try:
        with appearing(path) as file:
            file.write(plotted(rows).encode())
    except OSError as error:
        raise Invalid(f"{path}: cannot be written: {error.strerror}") from error


def _scenarios(
    contexts: Sequence[int] | None,
    reserves: Sequence[int] | None,
    policies: Sequence[str] | None,
    apis: Sequence[str] | None,
) -> Iterator[Scenario]:
    """Yield every combination of what was named."""
    for one in apis or ():
        if one not in _APIS:
            raise typer.BadParameter(f"{one!r} is neither responses nor chat", param_hint="--api")
    chosen = [policy_named(one) for one in policies or ()]
    shapes: list[Literal["responses", "chat"]] = ["chat" if one == "chat" else "responses" for one in apis or ()]
    nothing: list[None] = [None]
    for context, reserve, policy, api in product(
        contexts or nothing, reserves or nothing, chosen or nothing, shapes or nothing
    ):
        yield Scenario(context=context, reserve=reserve, policy=policy, api=api)


def policy_named(name: str) -> Policy:
    """Return a policy by its name, or by where it is.

    Raises:
        Invalid: there is none, or that is no policy.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in _BUILT_IN:
            raise Invalid(f"policy {name!r}: there is {', '.join(_BUILT_IN)}; one of your own is named MODULE:NAME")
        built: Policy = _BUILT_IN[name]()
        return built
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside the user, as `python -m` finds it
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
        made: Any = found() if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError) as error:
        raise Invalid(f"policy {name!r}: it cannot be had: {error}") from error
    if not (callable(getattr(made, "cut", None)) and hasattr(made, "name") and hasattr(made, "version")):
        raise Invalid(f"policy {name!r}: a policy has name, version and cut; see turnlog.engine.window.policies.Policy")
    policy: Policy = made
    return policy


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


def _table(rows: Sequence[Outcome], conversations: int) -> None:
    title = f"{show.counted(rows[0].requests, 'request')} of {show.counted(conversations, 'conversation')}"
    names = ("overflow", "tokens", "largest", "shared", "cuts", "compactions")
    priced = any(one.price is not None or one.unpriced for one in rows)
    right = (*names, "price")
    made = show.table("", *names, *(["price"] if priced else []), title=title, right=right)
    for one in rows:
        share = f"{100 * one.shared / one.tokens:.0f} %" if one.tokens else "-"
        price = show.cost(one.price)
        lacking = f" ({one.unpriced:,} without)" if one.unpriced else ""
        figures = (f"{one.tokens:,}", f"{one.largest:,}", share, f"{one.cuts:,}", f"{one.compactions:,}")
        over = f"[red]{one.overflow:,}[/]" if one.overflow else "0"
        made.add_row(show.plain(one.label), over, *figures, *([f"{price}{lacking}"] if priced else []))
    show.lay(made)
