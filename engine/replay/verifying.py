"""Verifying: every request that was ever sent, rebuilt from the log and compared with the digest of what was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import anyio
import msgspec

from ..codec import REQUESTED, RESTORE, body
from ..errors import NotFound, TurnlogError
from ..events import ERASED, Record, ResponseRequested, checksum
from ..log import Query
from ..manifest import SENT
from ..paths import Reads
from .differing import difference
from .encoders import Encoders, encoders
from .rebuilding import Rebuilt, Shelf, rebuild
from .running import Frames, Running

__all__ = ("Divergence", "Report", "Verifier", "pages", "verify")

_PAGE: Final = 500


class Divergence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that is not what was sent."""

    conversation: str
    response: int
    path: str
    """Where in the body the first difference is, as far as the log tells; exact where there is a copy to compare."""
    reason: str
    sent: Any = msgspec.UNSET
    """What was sent there; unset where nothing is left that says it, or nothing was."""
    rebuilt: Any = msgspec.UNSET
    """What the log gives there now; unset where that is nothing."""


class Report(msgspec.Struct):
    """What verifying found."""

    responses: int = 0
    verified: int = 0
    erased: int = 0
    diverged: list[Divergence] = []

    def add(self, other: Report) -> None:
        """Take another conversation's findings in."""
        self.responses += other.responses
        self.verified += other.verified
        self.erased += other.erased
        self.diverged += other.diverged


async def verify(
    store: Shelf,
    name: str,
    known: Encoders | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Rebuild every request of a conversation and compare it with the digest of what was sent.

    In memory bounded by the largest window. *progress* is told the number of events as they are read.
    """
    return await (await Verifier.made(store, known)).verify(name, progress)


class Verifier:
    """Verifies conversations of one store; what they have in common is read once.

    Args:
        store: the log.
        known: the encoders.
        against: another copy of the log, such as a backup: where a request diverges, and the copy still gives what was
            sent, both values are told.
    """

    def __init__(self, store: Shelf, known: Encoders, against: Shelf | None = None) -> None:
        self._store = store
        self._known = known
        self._against = against
        self._frames = Frames(store, known)

    @classmethod
    async def made(cls, store: Shelf, known: Encoders | None = None, against: Shelf | None = None) -> Verifier:
        """Return a verifier, by default with the encoders of all installed adapters."""
        if known is None:
            known = await anyio.to_thread.run_sync(encoders)  # the first time, it looks around on the disk
        return cls(store, known, against)

    async def verify(self, name: str, progress: Callable[[int], None] | None = None) -> Report:
        """Verify one conversation; see `verify`."""
        report = Report()
        running = Running(self._store, name, self._frames)
        gone: list[int] = []
        async for page in pages(self._store, name):
            running.read(page)
            for record in page:
                if record.flags & ERASED:
                    gone.append(record.seq)
                if record.kind == REQUESTED:
                    await self._check(record, running, gone, report)
            if progress is not None:
                progress(len(page))
        return report

    async def _check(self, request: Record, running: Running, gone: list[int], report: Report) -> None:
        report.responses += 1
        place = request.conversation, request.seq
        if checksum(request.item, request.data) != request.sum:
            told = f"the stored request is not what was written; {RESTORE}"
            report.diverged.append(Divergence(*place, "$", told))
            return
        try:
            said = body(request)
            assert isinstance(said, ResponseRequested)
            if any(said.manifest.fate(seq) in SENT for seq in gone if seq > said.manifest.follows):
                report.erased += 1
                return
            if await running.proves(request, said):
                report.verified += 1
                return
            rebuilt = await rebuild(self._store, request, self._known, running.recent)
        except NotFound:
            report.erased += 1
        except TurnlogError as error:
            report.diverged.append(Divergence(*place, "$", str(error)))
        else:
            if rebuilt.digest == said.digest:
                report.verified += 1
            else:
                report.diverged.append(await self._divergence(request, said, rebuilt))

    async def _divergence(self, request: Record, said: ResponseRequested, rebuilt: Rebuilt) -> Divergence:
        """Return where a request parts from what was sent, and both values, as far as they are known."""
        place = request.conversation, request.seq
        reason = rebuilt.reason or f"the body's digest is {rebuilt.digest}, what was sent had {said.digest}"
        if self._against is not None:
            try:
                copy = await rebuild(self._against, request, self._known)
            except TurnlogError:
                pass  # it cannot tell
            else:
                found = difference(copy.body, rebuilt.body) if copy.digest == said.digest else None
                if found is not None:
                    return Divergence(*place, found.path, reason, found.old, found.new)
        return Divergence(*place, rebuilt.path, reason, rebuilt=rebuilt.value)


async def pages(store: Reads, name: str, after: int = 0) -> AsyncIterator[Sequence[Record]]:
    """Yield a conversation's records behind a seq, page by page."""
    while True:
        snapshot = await store.read(name, Query(after=after, limit=_PAGE))
        page = list(snapshot.records[0]) if snapshot else []
        if page:
            yield page
        if len(page) < _PAGE:
            return
        after = page[-1].seq
