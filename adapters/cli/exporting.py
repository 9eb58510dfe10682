"""`turnlog export`: conversations out of a log, into a file."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
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
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.transcribing import transcript

__all__ = ("appearing", "export_as", "export_file", "export_redacted")


async def export_file(engine: Engine, ids: Iterable[str], path: Path) -> list[dict[str, Any]]:
    """Write conversations, all of them if none is named, to a file, `-` is standard output; return what is in it.

    What a fork shares is in it as well, as the conversations that it is a fork of. The file appears when it is whole,
    and an old one of that name stays until then.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    written: dict[str, int] = {}
    names = await _names(engine, ids)
    with _output(path) as file:
        return await _write([dump(engine.store, name, written) for name in names], file)


async def export_redacted(engine: Engine, ids: Iterable[str], path: Path) -> list[dict[str, Any]]:
    """Write conversations as `export_file` does, with their content replaced; see `turnlog.engine.redacting`.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    redactor, made = Redactor((await engine.intake.vocabulary()).count), MemoryStore()
    written: dict[str, int] = {}
    names = await _names(engine, ids)
    with _output(path) as file:
        return await _write([redacted(engine.store, name, redactor, made, written) for name in names], file)


async def export_as(engine: Engine, ids: Iterable[str], path: Path, form: str) -> list[dict[str, Any]]:
    """Write what is alive of conversations for other programs: JSON Lines of messages or items, or a session database.

    Which ones and where to is as in `export_file`.

    Raises:
        NotFound: there is no such conversation.
        Invalid: the file cannot be written.
    """
    api: Literal["responses", "chat"] = "chat" if form == "chat" else "responses"
    what = "messages" if form == "chat" else "items"
    found = [(one, await transcript(engine.store, one, api)) for one in await _names(engine, ids)]
    with _output(path) as file:
        if form == "agents":
            file.write(database(found))
        for name, items in found if form != "agents" else ():
            file.write(encode({"id": name, "messages" if form == "chat" else "input": items}) + b"\n")
    return [{"id": name, what: len(items)} for name, items in found]


async def _names(engine: Engine, ids: Iterable[str]) -> list[str]:
    names = [check_id(one) for one in dict.fromkeys(ids)]
    return names or [info.id async for info in engine.list(order="created", limit=1000)]


async def _write(dumps: Iterable[AsyncIterator[tuple[bytes, str]]], file: BinaryIO) -> list[dict[str, Any]]:
    """Write conversations; return which are in the file then, and how many events of its own each has there."""
    found: dict[str, int] = {}
    for lines in dumps:
        events: Counter[str] = Counter()
        async for line, of in lines:
            file.write(line)
            if of:
                events[of] += 1
        # What was there up to some event may come again, with more.
        found |= {name: max(count, found.get(name, 0)) for name, count in events.items()}
    return [{"id": name, "events": count} for name, count in found.items()]


@contextmanager
def _output(path: Path) -> Iterator[BinaryIO]:
    """Open what is named to be written.

    Raises:
        Invalid: it cannot be.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    with appearing(path) as file:
        yield file


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside *path* that takes its name once it is written.

    Raises:
        Invalid: it cannot be written.
    """
    try:
        with _beside(path) as file:
            yield file
    except OSError as error:
        raise Invalid(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():
        # It would be replaced: a device, say, by a file that only its owner can read.
        raise Invalid(f"{path}: this is no ordinary file; name another")
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
