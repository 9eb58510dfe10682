"""A copy of a SQLite log while it is in use. Blocking; a thread calls it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from ..errors import Invalid, StoreError
from .sqlite_connection import File, connect, moment
from .sqlite_errors import translated
from .sqlite_schema import schema_version

__all__ = ("copy",)

_PAGES: Final = 1024
"""Pages that are copied before anybody may stop it."""


class _Stopped(Exception):
    """Nobody wants the copy any more."""


def copy(
    path: Path,
    target: Path,
    patience: float,
    stopped: Callable[[], bool] = lambda: False,
    file: File | None = None,
) -> int:
    """Copy the log at *path* to *target*, as of one moment; return its schema version.

    Others append meanwhile, and are not waited for. The copy appears when it is whole, for its owner only.

    Raises:
        Invalid: there is a file already, or none can be made.
        StoreError: the log cannot be read, or is not in the *file* that it has to be in; or the copy not be written.
    """
    with translated(path), closing(connect(path.absolute(), patience, file)) as source:
        version = schema_version(source)
        if version == 0:
            raise StoreError(f"{path}: there is no log in it")
        with _appearing(target) as part, moment(source, checked=False):
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()

            def look(*_: int) -> None:
                if stopped():
                    raise _Stopped

            with translated(target), closing(sqlite3.connect(part, isolation_level=None)) as copied:
                try:
                    source.backup(copied, pages=_PAGES, progress=look)
                except _Stopped:
                    raise StoreError(f"{target}: the backup was stopped") from None
    return version


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give a file to be written that takes the name of *target* when it is whole; no file of that name may be there."""
    target = target.absolute()
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        # The name is taken at once, so that of two backups one is refused.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise Invalid(f"{target}: there is a file already; choose another name, or move it away first") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield part
        _flushed(part)
        part.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        for name in (part, *(part.with_name(part.name + end) for end in ("-journal", "-wal", "-shm"))):
            name.unlink(missing_ok=True)
    _flushed(target.parent)


def _flushed(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
