"""The commands that change a log: `fork`, `rewind`, `erase`, `delete`, `expire`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Id, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named
from turnlog.engine.erasing import Receipt
from turnlog.engine.errors import Conflict, VersionConflict

__all__ = ("delete", "erase", "expire", "fork", "rewind")

_DAYS: Final = 1_000_000
Reason = Annotated[str, typer.Option(help="Why; it is written in the log.")]
Forks = Annotated[str, typer.Option(help="What of conversations that share its events: refuse, keep or delete.")]


def fork(
    id: Id,
    at: Annotated[int | None, typer.Option(help="The last seq to share; default: all of it.")] = None,
    new: Annotated[str | None, typer.Option(help="The fork's id; default: a new one.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Make a conversation that begins with another's events and goes its own way from there."""

    async def work() -> dict[str, Any]:
        async with existing(named(db, schema)) as engine:
            try:
                made = await (await engine.get(id)).fork(at, id=new)
            except VersionConflict as error:
                raise Conflict(f"{error} (--new)") from error
            return {"id": made.id, "version": made.version, "parent": id, "at": made.version - 1}

    made = run(work)
    if as_json:
        put(made)
    else:
        show.console.print(f"{made['id']}, a fork of {id} behind seq {made['at']}", markup=False)


def rewind(
    id: Id,
    to: Annotated[int, typer.Option(help="The version to go on from.")],
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Go on from where a conversation was at an earlier version; what came behind it stays in the log."""

    async def work() -> dict[str, Any]:
        async with existing(named(db, schema)) as engine:
            done = await (await engine.get(id)).rewind(to)
            return {"id": id, "version": done.version, "to": to}

    done = run(work)
    if as_json:
        put(done)
    else:
        show.console.print(f"{id} goes on from {to}; it is at version {done['version']}", markup=False)


def erase(
    id: Id,
    seqs: Annotated[list[int], typer.Argument(metavar="SEQ…", help="The events whose content is to go.")],
    reason: Reason,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Overwrite the content of events, for good, here and in every fork that shares them."""

    async def work() -> Receipt:
        async with existing(named(db, schema)) as engine:
            return await (await engine.get(id)).erase(*seqs, reason=reason)

    _told([run(work)], as_json=as_json)


def delete(
    id: Id,
    forks: Forks = "refuse",
    reason: Reason = "",
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Remove a conversation, for good; its id is never used again."""

    async def work() -> Receipt:
        async with existing(named(db, schema)) as engine:
            return await engine.delete(id, forks=forks, reason=reason)  # type: ignore[arg-type]

    _told([run(work)], as_json=as_json)


def expire(
    older_than: Annotated[float, typer.Option(help="Days since the last item.")],
    forks: Forks = "keep",
    reason: Reason = "retention",
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Delete conversations whose last item is old, and collect blobs that nothing refers to any more."""
    if not 0 < older_than <= _DAYS:
        said = f"{older_than:g}: days are needed, more than 0, at most {_DAYS:,}"
        raise typer.BadParameter(said, param_hint="--older-than")

    async def work() -> tuple[list[Receipt], int]:
        async with existing(named(db, schema)) as engine:
            age = timedelta(days=older_than)
            gone = [one async for one in engine.expire(age, forks=forks, reason=reason)]  # type: ignore[arg-type]
            return gone, await engine.collect()

    receipts, collected = run(work)
    _told(receipts, as_json=as_json, collected=collected)
    if collected and not as_json:
        show.console.print(f"{show.counted(collected, 'blob')} collected that nothing refers to", markup=False)


def _told(receipts: Sequence[Receipt], *, as_json: bool, collected: int | None = None) -> None:
    documents = [_document(receipt) for receipt in receipts]
    if as_json:
        put(documents[0] if collected is None else {"receipts": documents, "collected": collected})
        return
    for receipt in receipts:
        said = f"{receipt.conversation}: the content of {show.counted(len(receipt.seqs), 'event')} is gone"
        said += f", {show.counted(receipt.blobs, 'blob')} with it" if receipt.blobs else ""
        said += f"; shared by {', '.join(receipt.forks)}" if receipt.forks else ""
        show.console.print(said, markup=False)
        for place in receipt.derived:
            show.console.print(f"  void: the compaction at {place}", markup=False)
        for left in [*receipt.left, *(f"held by a provider: {one}" for one in receipt.remote)]:
            show.console.print(f"  left: {left}", markup=False)
    if not receipts:
        show.console.print("nothing is that old")


def _document(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": receipt.conversation,
        "seqs": list(receipt.seqs),
        "forks": list(receipt.forks),
        "blobs": receipt.blobs,
        "derived": list(receipt.derived),
        "remote": list(receipt.remote),
        "left": list(receipt.left),
    }
