"""`turnlog export`: conversations out of a log, into a file."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from turnlog.engine.engine import Engine
from turnlog.engine.errors import Invalid
from turnlog.engine.ids import check_id
from turnlog.engine.portable import dump

__all__ = ("export_file",)


async def export_file(engine: Engine, ids: Iterable[str], path: Path) -> list[dict[str, Any]]:
    """Write conversations, all of them if none is named, to a file; `-` is standard output.

    It appears when it is whole, and an old one of that name stays until then.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    names = [check_id(one) for one in dict.fromkeys(ids)]
    if not names:
        names = [info.id async for info in engine.list(order="created", limit=1000)]
    if str(path) == "-":
        return await _write(engine, names, sys.stdout.buffer)
    try:
        with _appearing(path) as file:
            return await _write(engine, names, file)
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


async def _write(engine: Engine, names: Iterable[str], file: BinaryIO) -> list[dict[str, Any]]:
    done: list[dict[str, Any]] = []
    written: dict[str, int] = {}
    for name in names:
        events = 0
        async for line, is_event in dump(engine.store, name, written):
            file.write(line)
            events += is_event
        done.append({"id": name, "events": events})
    return done
