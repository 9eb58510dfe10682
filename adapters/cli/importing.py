"""`turnlog import`: files of conversations into a log."""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import anyio
from anyio.abc import TaskGroup

from turnlog.adapters.cli.recordings import Made, Unusable, items_of, record_events
from turnlog.adapters.cli.sessions import Session, begins, check_sessions, session_events, sessions
from turnlog.engine.canonical import canonical, digest, parse
from turnlog.engine.codec import event
from turnlog.engine.engine import Engine
from turnlog.engine.errors import Conflict, Invalid, InvalidItem, StoreError, TurnlogError
from turnlog.engine.events import ConversationCreated
from turnlog.engine.ids import NO_STREAM
from turnlog.engine.intake import Intake, shifted
from turnlog.engine.log import Key
from turnlog.engine.portable import Package, restore

__all__ = ("Imported", "Into", "Rejected", "Report", "Source", "import_file", "lines_in", "sources")

_AT_ONCE: Final = 64
"""Conversations that are appended at the same time."""
_WRAPPED: Final = 1
"""Levels that a line of an export has around an item."""
_GZIP: Final = b"\x1f\x8b"
_CHAT_ONLY: Final = ("tool", "function")


class Source(NamedTuple):
    """A file to import, and what it is called in reports."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Into:
    """The log that is imported into."""

    engine: Callable[[], Awaitable[Engine]]
    """Opens it, when something is first to be written."""
    intake: Intake = field(default_factory=Intake)


@dataclass(frozen=True, slots=True)
class Imported:
    """A conversation that is in the log now, whether this import or an earlier one brought it."""

    id: str
    events: int
    source: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that made no conversation, and why."""

    source: str
    line: int
    error: str


@dataclass(slots=True)
class Report:
    """What an import did."""

    imported: list[Imported] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    malformed: bool = False
    """Whether a rejected line was bad input, rather than a record that simply holds no conversation."""


@contextmanager
def sources(files: Iterable[Path]) -> Iterator[tuple[list[Source], int]]:
    """Yield files to import and their size; what comes on standard input, as `-`, is put into a file meanwhile.

    Raises:
        Invalid: one of them cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="turnlog-") as folder:
        found = [Source(_spooled(Path(folder)) if str(path) == "-" else path, str(path)) for path in files]
        yield found, sum(map(_size, found))


def _spooled(folder: Path) -> Path:
    """Put what is on standard input into a file: a document that spreads over lines is read twice."""
    begin = sys.stdin.buffer.read(len(_GZIP))
    path = folder / ("input.gz" if begin == _GZIP else "input")
    with path.open("wb") as file:
        file.write(begin)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _size(source: Source) -> int:
    path = source.path
    try:
        check_sessions(path, source.name)
        return path.stat().st_size
    except OSError as error:
        raise Invalid(f"{source.name}: cannot be read: {error.strerror}") from error


def lines_in(source: Source) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, with their numbers; a packed file is unpacked on the way.

    Raises:
        Invalid: it cannot be read.
    """
    path = source.path
    try:
        packed = path.suffix == ".gz" or begins(path, _GZIP)
        with cast("BinaryIO", gzip.open(path) if packed else path.open("rb")) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid(f"{source.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


async def import_file(into: Into, source: Source, report: Report, progress: Callable[[int], None]) -> None:
    """Import one file; *progress* is told of bytes read.

    Raises:
        Invalid: it cannot be read at all.
        StoreError: the log cannot be written.
    """
    importing = _Importing(into, source.name, report)
    async with anyio.create_task_group() as group:
        try:
            async with aclosing(_values(source, progress)) as values:
                async for number, value, error in values:
                    if importing.failed is not None:
                        break
                    await importing.take(number, value, error, group)
            if importing.failed is None:
                await importing.finish()
        except (Invalid, StoreError) as error:
            importing.failed = importing.failed or error
    importing.report_in_order()
    if importing.failed is not None:
        raise importing.failed


class _Importing:
    """One file on its way in. Conversations are appended side by side, so that they share flushes."""

    def __init__(self, into: Into, name: str, report: Report) -> None:
        self.into = into
        self.name = name
        self.report = report
        self._slots = anyio.Semaphore(_AT_ONCE)
        self._package: Package | None = None
        self._begun = 0
        self._damaged = False
        """Whether what follows is the rest of an export that was given up."""
        self._done: list[tuple[int, Imported | Rejected]] = []
        self.failed: TurnlogError | None = None
        """What ends the import; several appends meet the same full disk, and one of them tells enough."""

    async def take(self, number: int, value: Any, error: InvalidItem | None, group: TaskGroup) -> None:
        """Take the next value in; appends run in *group*."""
        try:
            if error is not None:
                raise error
            if isinstance(value, dict) and "turnlog" in value:
                await self.finish()
                self._damaged = True
                self._begun, self._package = number, Package(value)
                self._damaged = False
            elif self._package is not None:
                self._package.add(_object(value))
                if self._package.whole:
                    await self.finish()
            elif not (self._damaged and _of_export(value)):
                await self._append(number, value, group)
        except Unusable as reason:
            self._rejected(number, reason)
        except Invalid as reason:
            self._malformed(number, reason)
            self._damaged = self._damaged or self._package is not None
            self._package = None

    def _rejected(self, number: int, reason: Exception) -> None:
        self._done.append((number, Rejected(self.name, number, str(reason))))

    def _malformed(self, number: int, reason: Exception) -> None:
        self.report.malformed = True
        self._rejected(number, reason)

    async def finish(self) -> None:
        """Restore the export that was being read, if there is one."""
        package, self._package = self._package, None
        if package is None:
            return
        try:
            package.check()
            await restore((await self.into.engine()).store, package)
        except (Invalid, Conflict) as error:
            self._malformed(self._begun, error)
            return
        self._done.append((self._begun, Imported(package.id, len(package.records), f"{self.name}:{self._begun}")))

    async def _append(self, number: int, value: Any, group: TaskGroup) -> None:
        """Append one value's conversation: of a recorded exchange, or of an array of items or messages."""
        if isinstance(value, Session):
            made = await session_events(self.into.intake, value)
            value = [value.name, value.branch, value.items]
        elif isinstance(value, dict) and "api" in value:
            made = await record_events(self.into.intake, value)
        else:
            made = await _array(self.into.intake, value)
        engine = await self.into.engine()
        await self._slots.acquire()
        group.start_soon(self._appended, engine, number, made, Key("import", digest(canonical(value))))

    async def _appended(self, engine: Engine, number: int, made: Made, key: Key) -> None:
        try:
            appended = await engine.writer.append(made.id, made.events, expected=NO_STREAM, key=key, bodies=made.bodies)
        except Conflict as error:
            self._malformed(number, error)
            return
        except StoreError as error:
            self.failed = self.failed or error
            return
        finally:
            self._slots.release()
        events = appended.last - appended.first + 1
        self._done.append((number, Imported(made.id, events, f"{self.name}:{number}")))

    def report_in_order(self) -> None:
        """Hand in what was done, in the order of the file."""
        for _, one in sorted(self._done, key=lambda entry: entry[0]):
            if isinstance(one, Imported):
                self.report.imported.append(one)
            else:
                self.report.rejected.append(one)


async def _values(
    source: Source, progress: Callable[[int], None]
) -> AsyncGenerator[tuple[int, Any, InvalidItem | None], None]:
    """Yield a file's JSON values with the lines that they begin at: one a line, else the whole file as one.

    Of a database of sessions, these with their numbers.
    """
    found = sessions(source.path, source.name)
    if found is not None:
        for entry in found:
            yield entry
        progress(source.path.stat().st_size)
        return
    lines = lines_in(source)
    for number, line in lines:
        progress(len(line))
        try:
            value, error = parse(line, wrapped=_WRAPPED), None
        except InvalidItem as failed:
            value, error = None, failed
        if error is not None and line.lstrip()[:1] in (b"[", b"{"):
            # Not JSON Lines, it seems: a document that spreads over lines is read whole.
            whole = line + b"".join(rest for _, rest in lines)
            progress(len(whole) - len(line))
            if whole != line:
                try:
                    value, error = parse(whole, wrapped=_WRAPPED), None
                except InvalidItem:
                    yield number, None, error
                    for later, one in _again(source, number):
                        yield later, *_parsed(one)
                    return
        yield number, value, error


def _again(source: Source, after: int) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in lines_in(source) if number > after)


def _parsed(line: bytes) -> tuple[Any, InvalidItem | None]:
    try:
        return parse(line, wrapped=_WRAPPED), None
    except InvalidItem as error:
        return None, error


def _of_export(value: Any) -> bool:
    return isinstance(value, dict) and (
        not {"body", "keys"}.isdisjoint(value) or {"seq", "kind"} <= value.keys() or {"key", "first"} <= value.keys()
    )


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidItem("$", f"an object is expected here, this is a {type(value).__name__}")
    return value


async def _array(intake: Intake, value: Any) -> Made:
    """Return the conversation of an array, or of an object that holds one as `messages` or `input`."""
    field_ = None
    given = value
    if isinstance(value, dict):
        field_ = next((name for name in ("messages", "input", "items") if isinstance(value.get(name), list)), None)
        given = value.get(field_) if field_ else None
    if not isinstance(given, list):
        raise InvalidItem(
            "$",
            "a recorded exchange, an export of turnlog, an array of items or messages, or an object with such an "
            "array as messages or input is needed",
        )
    chat = field_ == "messages" or any(
        isinstance(one, dict) and (one.get("role") in _CHAT_ONLY or "tool_calls" in one) for one in given
    )
    path = f"$.{field_}" if field_ else "$"
    items = await items_of(intake, given, chat=chat, origin=None, path=path)
    if not items:
        raise InvalidItem(path, "there are no items in it")
    created = event(ConversationCreated())
    return Made(f"in_{digest(canonical(value))[:24]}", [created, *shifted(items, 1)], {})
