"""`turnlog verify`: every recorded request of a log, rebuilt and compared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from turnlog.adapters.cli.databases import Database, existing
from turnlog.adapters.cli.show import progress
from turnlog.engine.engine import Engine
from turnlog.engine.replay import Report, Verifier
from turnlog.engine.replay.rechoosing import Rechooser, Rechosen

__all__ = ("chosen_ids", "document", "events_in", "verify_all")


async def verify_all(
    engine: Engine, ids: Sequence[str], *, shown: bool, policy: bool, against: Path | None
) -> tuple[Report, Rechosen | None]:
    """Verify conversations, all of them if none is named; with *policy* also ask what would be chosen today.

    Raises:
        NotFound: one of them is not there, or the copy to compare with.
    """
    report = Report()
    rechosen = Rechosen() if policy else None
    async with AsyncExitStack() as stack:
        copy = None if against is None else (await stack.enter_async_context(existing(Database(against)))).store
        verifier = await Verifier.made(engine.store, against=copy)
        chooser = Rechooser(engine) if policy else None
        with progress("verifying", await events_in(engine, ids) if shown else 0, shown=shown) as advance:
            async for one in chosen_ids(engine, ids):
                report.add(await verifier.verify(one, advance))
                if chooser is not None and rechosen is not None:
                    rechosen.add(await chooser.rechoose(one))
    return report, rechosen


async def chosen_ids(engine: Engine, ids: Sequence[str]) -> AsyncIterator[str]:
    """Yield the conversations that are named, all of them if none is.

    Raises:
        NotFound: one of them is not there.
    """
    for one in [(await engine.get(one)).id for one in ids]:
        yield one
    if not ids:
        async for info in engine.list(order="created", limit=500):
            yield info.id


async def events_in(engine: Engine, ids: Sequence[str]) -> int:
    """Return how many events conversations have together, all of them if none is named."""
    if ids:
        return sum([(await engine.get(one)).version for one in ids])
    return sum([info.version async for info in engine.list(order="created", limit=500)])


def document(report: Report, rechosen: Rechosen | None) -> dict[str, Any]:
    """Return what was found as JSON."""
    made: dict[str, Any] = msgspec.to_builtins(report)
    return made if rechosen is None else {**made, "policy": msgspec.to_builtins(rechosen)}
