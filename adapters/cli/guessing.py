"""`turnlog whatif`: the same conversations under another budget, policy or API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, Schema, put, run
from turnlog.adapters.cli.databases import Database, existing, named
from turnlog.adapters.cli.exporting import appearing
from turnlog.adapters.cli.options import POLICIES, Api, PriceFile, api_named, policy_named, prices_in
from turnlog.adapters.cli.plotting import plotted
from turnlog.adapters.cli.verifying import chosen_ids, events_in
from turnlog.engine.prices import Prices
from turnlog.engine.replay.scenarios import Outcome, Scenario
from turnlog.engine.replay.whatif import WhatIf

__all__ = ("tried", "whatif")


def whatif(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    context: Annotated[
        list[int] | None, typer.Option(help="Tokens that the model takes; several are compared.")
    ] = None,
    reserve: Annotated[list[int] | None, typer.Option(help="Tokens kept free for the answer.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(POLICIES)}, or your own as package.module:Name.")
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

    found = run(lambda: tried(named(db, schema), ids or [], scenarios, prices, shown=not as_json))
    rows = [found.recorded, *found.outcomes]
    if plot is not None:
        with appearing(plot) as file:
            file.write(plotted(rows).encode())
    if as_json:
        made = [_document(one) for one in rows]
        put({"conversations": found.conversations, "requests": found.recorded.requests, "scenarios": made})
    else:
        _table(rows, found.conversations)


async def tried(
    database: Database,
    ids: Sequence[str],
    scenarios: Sequence[Scenario],
    prices: Prices | None,
    *,
    shown: bool,
    answers: bool = False,
) -> WhatIf:
    """Return what comes of scenarios, for the conversations that are named, all of them if none is; see `WhatIf`.

    Raises:
        NotFound: one of them is not there.
    """
    async with existing(database) as engine:
        found = WhatIf(engine, scenarios, prices, answers=answers)
        total = await events_in(engine, ids) if shown else 0
        with show.progress("trying", total, shown=shown) as advance:
            async for one in chosen_ids(engine, ids):
                await found.run(one, advance)
        return found


def _document(one: Outcome) -> dict[str, Any]:
    made = {key: value for key, value in msgspec.to_builtins(one).items() if key != "rooms"}
    return {**made, "price": show.rounded(one.price)}


def _scenarios(
    contexts: Sequence[int] | None,
    reserves: Sequence[int] | None,
    policies: Sequence[str] | None,
    apis: Sequence[str] | None,
) -> Iterator[Scenario]:
    """Yield every combination of what was named."""
    shapes: list[Api] = [api_named(one) for one in apis or ()]
    chosen = [policy_named(one) for one in policies or ()]
    nothing: list[None] = [None]
    for context, reserve, policy, api in product(
        contexts or nothing, reserves or nothing, chosen or nothing, shapes or nothing
    ):
        yield Scenario(context=context, reserve=reserve, policy=policy, api=api)


def _table(rows: Sequence[Outcome], conversations: int) -> None:
    title = f"{show.counted(rows[0].requests, 'request')} of {show.counted(conversations, 'conversation')}"
    names = ("overflow", "tokens", "largest", "shared", "cuts", "compactions")
    priced = any(one.price is not None or one.unpriced for one in rows)
    right = (*names, "price")
    made = show.table("scenario", *names, *(["price"] if priced else []), title=title, right=right)
    for one in rows:
        share = f"{100 * one.shared / one.tokens:.0f} %" if one.tokens else "-"
        price = show.cost(one.price)
        lacking = f" ({one.unpriced:,} without)" if one.unpriced else ""
        figures = (f"{one.tokens:,}", f"{one.largest:,}", share, f"{one.cuts:,}", f"{one.compactions:,}")
        over = f"[red]{one.overflow:,}[/]" if one.overflow else "0"
        made.add_row(show.plain(one.label), over, *figures, *([f"{price}{lacking}"] if priced else []))
    show.lay(made)
