"""`turnlog export`: conversations out of a log, into a file."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from turnlog.adapters.cli.sessions import database
from turnlog.engine.canonical import encode
from turnlog.engine.engine import Engine
from turnlog.engine.errors import Invalid
from turnlog.engine.ids import check_id
from turnlog.engine.portable import dump
from turnlog.engine.redacting import Redactor, redacted
from turnlog.engine.transcribing import transcript

__all__ = ("appearing", "export_as", "export_file", "export_redacted")


async def export_file(engine: Engine, ids: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Write conversations to a file; it appears when it is whole, and an old one of that name stays until then.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    try:
        with appearing(path) as file:
            return [{"id": one, "events": await _write(engine, check_id(one), file)} for one in ids]
    except OSError as error:
        raise Invalid(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
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


async def export_as(engine: Engine, ids: Sequence[str], path: Path, form: str) -> list[dict[str, Any]]:
    """Write what is alive of conversations for other programs: JSON Lines of messages or items, or a session database.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    api: Literal["responses", "chat"] = "chat" if form == "chat" else "responses"
    found = [(check_id(one), await transcript(engine.store, one, api)) for one in ids]
    try:
        with appearing(path) as file:
            if form == "agents":
                file.write(database(found))
            for name, items in found if form != "agents" else ():
                file.write(encode({"id": name, "messages" if form == "chat" else "input": items}) + b"\n")
    except OSError as error:
        raise Invalid(f"{path}: cannot be written: {error.strerror}") from error
    return [{"id": name, "items": len(items)} for name, items in found]


async def export_redacted(engine: Engine, ids: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Write conversations with their content replaced; see `turnlog.engine.redacting`.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    redactor = Redactor((await engine.intake.vocabulary()).count)
    done: list[dict[str, Any]] = []
    try:
        with appearing(path) as file:
            for one in ids:
                events = 0
                async for line, is_event in redacted(engine.store, check_id(one), redactor):
                    file.write(line)
                    events += is_event
                done.append({"id": one, "events": events})
    except OSError as error:
        raise Invalid(f"{path}: cannot be written: {error.strerror}") from error
    return done


async def _write(engine: Engine, name: str, file: BinaryIO) -> int:
    events = 0
    async for line, is_event in dump(engine.store, name):
        file.write(line)
        events += is_event
    return events
