"""`turnlog usage`: tokens as models have reported them, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Final

import msgspec
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named
from turnlog.adapters.cli.options import PriceFile, prices_in
from turnlog.adapters.cli.verifying import chosen_ids, events_in
from turnlog.engine.totals import Dimension, Total, Totals

__all__ = ("usage",)

_NAMES: Final[dict[str, Dimension]] = {"conversation": "conversation", "model": "model", "day": "day"}
_COLUMNS: Final = ("requests", "failed", "left", "input", "cached", "output", "reasoning")


def usage(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    by: Annotated[
        str, typer.Option(help="What rows are for, of conversation, model and day.")
    ] = "conversation,model,day",
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="The first day that counts, as 2026-01-31, UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="The last day that counts.")] = None,
    price_file: PriceFile = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Add up what models have reported: failed attempts, and those that a rewind has left, included."""
    dimensions = _dimensions(by)
    prices = None if price_file is None else prices_in(price_file)
    totals = Totals(dimensions, prices, since=_day(since, "--since"), until=_day(until, "--until"))

    async def work() -> None:
        async with existing(named(db, schema)) as engine:
            shown = not as_json
            total = await events_in(engine, ids or []) if shown else 0
            with show.progress("adding up", total, shown=shown) as advance:
                async for one in chosen_ids(engine, ids or []):
                    await totals.add(engine.store, one, advance)

    run(work)
    if as_json:
        rows = [_document(row, dimensions) for row in totals.rows]
        put({"rows": rows, "total": _document(totals.total, ())})
    else:
        _table(totals, dimensions, priced=prices is not None)


def _dimensions(text: str) -> list[Dimension]:
    names = [one.strip() for one in text.split(",") if one.strip()]
    for one in names:
        if one not in _NAMES:
            raise typer.BadParameter(f"{one!r} is none of {', '.join(_NAMES)}", param_hint="--by")
    return [_NAMES[one] for one in names]


def _day(text: str | None, option: str) -> str | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day, such as 2026-01-31", param_hint=option) from None


def _document(row: Total, dimensions: Sequence[str]) -> dict[str, Any]:
    made: dict[str, Any] = {**msgspec.to_builtins(row), "cost": show.rounded(row.cost)}
    return {name: value for name, value in made.items() if name not in _NAMES or name in dimensions}


def _table(totals: Totals, dimensions: Sequence[str], *, priced: bool) -> None:
    names = (*_COLUMNS, *(["cost"] if priced else []))
    made = show.table(*dimensions, *names, right=names)
    rows = totals.rows
    for row in [*rows, totals.total] if len(rows) > 1 else rows:
        about = [show.plain(getattr(row, name) or ("all" if name == dimensions[0] else "")) for name in dimensions]
        used = (row.input_tokens, row.cached_tokens, row.output_tokens, row.reasoning_tokens)
        cost = show.cost(row.cost)
        lacking = f" ({row.unpriced:,} without)" if row.unpriced else ""
        figures = [f"{one:,}" for one in (row.requests, row.failed, row.left, *used)]
        made.add_row(*about, *figures, *([f"{cost}{lacking}"] if priced else []))
    show.lay(made)
    if totals.total.unreported:
        lacking = show.counted(totals.total.unreported, "request")
        show.console.print(f"without usage, because none was reported: {lacking}", style="dim")
