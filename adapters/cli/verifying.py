"""`turnlog verify`: every recorded request of a log, rebuilt and compared."""

from __future__ import annotations

from collections.abc import Sequence

from turnlog.adapters.cli.show import progress
from turnlog.engine.engine import Engine
from turnlog.engine.replay import Report, verify

__all__ = ("verify_all",)


async def verify_all(engine: Engine, ids: Sequence[str], *, shown: bool) -> Report:
    """Verify conversations, all of them if none is named.

    Raises:
        NotFound: one of them is not there.
    """
    if ids:
        todo = [(one, (await engine.get(one)).version) for one in ids]
    else:
        todo = [(info.id, info.version) async for info in engine.list(order="created", limit=1000)]
    report = Report()
    with progress("verifying", sum(version for _, version in todo), shown=shown) as advance:
        for one, _ in todo:
            report.add(await verify(engine.store, one, progress=advance))
    return report
