"""`turnlog bench`: what budgets and policies would have made of the conversations that a log holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named, shown
from turnlog.adapters.cli.options import POLICIES, policy_named, price_named
from turnlog.adapters.cli.simulating import Sums, simulate
from turnlog.engine.engine import Engine
from turnlog.engine.prices import Price
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.policies import Policy

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
        list[str] | None, typer.Option(help="A policy's name, or your own as package.module:Name; default: all.")
    ] = None,
    price: Annotated[
        str, typer.Option(metavar="IN,CACHED,OUT", help="Dollars for a million tokens, by your model's price list.")
    ] = _PRICES,
    as_json: Json = False,
) -> None:
    """Compare budgets and policies over your own conversations; nothing is asked, nothing is written."""
    cost = price_named(price)
    wanted = [policy_named(name) for name in policy or POLICIES]
    budgets = [Budget(size, reserve) for size in context or _CONTEXTS]
    database = named(db, schema)

    async def work() -> dict[str, Any]:
        async with existing(database) as engine:
            return await _compared(engine, ids or [], wanted, budgets, shown=not as_json)

    found = run(work)
    rows = [_row(policy, budget, sums, cost) for policy, budget, sums in found.pop("sums")]
    prices = msgspec.to_builtins(cost)
    if as_json:
        put({**found, "price": prices, "results": rows})
    else:
        _show(shown(database), found, rows, prices)


async def _compared(
    engine: Engine, ids: Sequence[str], wanted: Sequence[Policy], budgets: Sequence[Budget], *, shown: bool
) -> dict[str, Any]:
    todo = await _todo(engine, ids)
    made = [(policy, budget, Sums()) for policy in wanted for budget in budgets]
    with show.progress("simulating", sum(one.version for one in todo) * len(made), shown=shown) as advance:
        for one in todo:
            for policy, budget, sums in made:
                sums.begin()
                async for asked in simulate(engine.store, one.id, policy, budget, after=one.after):
                    sums.add(asked)
                advance(one.version)
    return {"conversations": len(todo), "sums": made}


class _Todo(NamedTuple):
    id: str
    version: int
    after: int
    """A fork's requests are counted from where it leaves its parent, if that is looked at too."""


async def _todo(engine: Engine, ids: Sequence[str]) -> list[_Todo]:
    """Return what to look at: the conversations that are named, else all.

    Raises:
        NotFound: one of them is not there.
    """
    if ids:
        heads = [await engine.reader.head(name) for name in ids]
        found = [(one.conversation, one.version, one.parent) for one in heads]
    else:
        found = [(one.id, one.version, one.parent) async for one in engine.list(order="created", limit=1000)]
    names = {name for name, _, _ in found}
    return [_Todo(name, version, parent[1] if parent and parent[0] in names else 0) for name, version, parent in found]


def _row(policy: Policy, budget: Budget, sums: Sums, price: Price) -> dict[str, Any]:
    sent = sums.requests - sums.overflow
    return {
        "policy": f"{policy.name}@{policy.version}",
        "context": budget.context,
        "reserve": budget.reserve,
        "requests": sums.requests,
        "overflow": sums.overflow,
        "tokens": sums.tokens,
        "tokens_per_request": round(sums.tokens / sent) if sent else 0,
        "largest": sums.largest,
        "shared": round(sums.shared / sums.tokens, 4) if sums.tokens else 0.0,
        "cuts": sums.cuts,
        "compactions": sums.compactions,
        "price": show.rounded(price.of(sums.usage)),
    }


_COLUMNS: Final = ("context", "overflow", "tokens", "shared", "cuts", "compactions", "price")


def _show(db: str, found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], prices: Mapping[str, float]) -> None:
    requests = max((row["requests"] for row in rows), default=0)
    console = show.console
    conversations = show.counted(found["conversations"], "conversation")
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
