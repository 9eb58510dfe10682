"""`turnlog bench`: what budgets and policies would have made of the conversations that a log holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Final

import msgspec
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, Schema, put, run
from turnlog.adapters.cli.databases import named, shown
from turnlog.adapters.cli.guessing import tried
from turnlog.adapters.cli.options import POLICIES, policy_named, price_named
from turnlog.engine.prices import Prices
from turnlog.engine.replay.scenarios import Outcome, Scenario

__all__ = ("bench",)

_CONTEXTS: Final = (8_000, 32_000, 128_000)
_PRICES: Final = "1.25,0.125,10"


def bench(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    context: Annotated[
        list[int] | None, typer.Option(help=f"Tokens that the model takes; default: {', '.join(map(str, _CONTEXTS))}.")
    ] = None,
    reserve: Annotated[int, typer.Option(help="Tokens kept free for the answer.")] = 0,
    policy: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(POLICIES)}, or your own as package.module:Name; default: all.")
    ] = None,
    price: Annotated[
        str, typer.Option(metavar="IN,CACHED,OUT", help="Dollars for a million tokens, by your model's price list.")
    ] = _PRICES,
    as_json: Json = False,
) -> None:
    """Compare budgets and policies over your own conversations; nothing is asked, nothing is written."""
    cost = price_named(price)
    wanted = [policy_named(name) for name in policy or POLICIES]
    scenarios = [
        Scenario(context=size, reserve=reserve, policy=one) for one, size in product(wanted, context or _CONTEXTS)
    ]
    database = named(db, schema)
    found = run(lambda: tried(database, ids or [], scenarios, Prices({}, cost), shown=not as_json, answers=True))
    rows = [_row(scenario, outcome) for scenario, outcome in zip(scenarios, found.outcomes, strict=True)]
    prices = msgspec.to_builtins(cost)
    if as_json:
        put({"conversations": found.conversations, "price": prices, "results": rows})
    else:
        _show(shown(database), found.conversations, rows, prices)


def _row(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    sent, policy = outcome.requests - outcome.overflow, scenario.policy
    return {
        "policy": f"{policy.name}@{policy.version}" if policy else "",
        "context": scenario.context,
        "reserve": scenario.reserve,
        "requests": outcome.requests,
        "overflow": outcome.overflow,
        "tokens": outcome.tokens,
        "tokens_per_request": round(outcome.tokens / sent) if sent else 0,
        "largest": outcome.largest,
        "shared": round(outcome.shared / outcome.tokens, 4) if outcome.tokens else 0.0,
        "cuts": outcome.cuts,
        "compactions": outcome.compactions,
        "price": show.rounded(outcome.price or 0.0),
    }


_COLUMNS: Final = ("context", "overflow", "tokens", "shared", "cuts", "compactions", "price")


def _show(db: str, number: int, rows: Sequence[Mapping[str, Any]], prices: Mapping[str, float]) -> None:
    requests = max((row["requests"] for row in rows), default=0)
    console = show.console
    conversations = show.counted(number, "conversation")
    console.print(f"{conversations} of {db}, {show.counted(requests, 'request')}", markup=False)
    for policy in dict.fromkeys(row["policy"] for row in rows):
        shown = show.table(*_COLUMNS, title=show.plain(policy), right=_COLUMNS)
        for row in rows:
            if row["policy"] == policy:
                shown.add_row(*_cells(row))
        console.print()
        show.lay(shown)
    told = (
        "\noverflow: requests that would not have been possible; tokens: of the input of all others; shared: those of "
        "them that the request before began with too; price: estimated, with "
        f"${prices['input']:g} for a million tokens of input, ${prices['cached']:g} for those that a prompt cache "
        f"serves, and ${prices['output']:g} for output; change it with --price"
    )
    console.print(told, style="dim", markup=False)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row's cells, in the order of the columns."""
    counts = [f"{row[name]:,}" for name in ("context", "overflow", "tokens", "cuts", "compactions")]
    return [*counts[:3], f"{row['shared']:.1%}", *counts[3:], f"${show.cost(row['price'])}"]
