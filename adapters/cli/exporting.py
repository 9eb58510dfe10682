"""`turnlog export`: conversations out of a log, into a file."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from turnlog.engine.engine import Engine
from turnlog.engine.errors import Invalid
from turnlog.engine.ids import check_id
from turnlog.engine.portable import dump

__all__ = ("export_file",)


async def export_file(engine: Engine, ids: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Write conversations to a file; it appears when it is whole, and an old one of that name stays until then.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    try:
        with _appearing(path) as file:
            return [{"id": one, "events": await _write(engine, check_id(one), file)} for one in ids]
    except OSError as error:
        raise Invalid(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside *path* that takes its name once it is written."""
    if path.exists() and not path.is_file():
        # It would be replaced: a device, say, by a file that only its owner can read.
        raise Invalid(f"{path}: this is no ordinary file; name one with -o")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            # No name and no time in the gzip header: the same conversations give the same file.
            packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
            with cast("BinaryIO", packed or raw) as file:
                yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def _write(engine: Engine, name: str, file: BinaryIO) -> int:
    events = 0
    async for line, is_event in dump(engine.store, name):
        file.write(line)
        events += is_event
    return events
