"""What SQLite leaves behind when it merges pages: copies of rows in the unused middle of a page, overwritten here.

`secure_delete` overwrites what is removed from a page, but not what moves to another place when a page is built anew,
as happens to the neighbours of rows that are removed. Once one of these is erased, its copy would still be in the file.
So whoever removes rows sweeps the pages that were written: in each whose middle is not empty one row is made as large
as the page has room for, and then what it was.

Pages are read from the write-ahead log, whose format is documented: https://www.sqlite.org/fileformat2.html. Nobody may
begin that log anew in between: a reader has it in use. A process may be killed in between: so who removes rows notes it
in the same transaction, in the table of counts under conversation 0, and the sweep takes the note away. Processes erase
one after the other, so whoever finds a note knows that nobody will; and as what it is about can be on any page, the
whole file is written anew.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from ..errors import StoreError
from .sqlite_connection import SQL, Database, connect, moment, transaction

__all__ = ("Sweep", "locked")

_NOTE: Final = {"conversation": 0, "at": 1}
"""Where the note is: the count of no conversation."""

_LEAF: Final = 13
"""What a page begins with that holds rows of a table."""
_CONTENT: Final = {(15, 0): "events", (2, 76): "bodies"}
"""The tables whose rows are removed or may grow, by how many columns they have and the type of the first, which is none
where it is the row's number, and 32 bytes. No other table is like them."""


class _Row(NamedTuple):
    """The first row of a page that has to be swept."""

    table: str
    number: int
    size: int
    """Bytes that it has."""
    room: int
    """Bytes that it may have without leaving the page."""


@contextmanager
def locked(db: Database) -> Iterator[None]:
    """Let no other process erase meanwhile: it would take this one, which has yet to sweep, for dead.

    SQLite has no lock on the file of its write-ahead log, and the system takes this one from a process that is killed.

    Raises:
        StoreError: another process erases for too long, or the file cannot be locked.
    """
    deadline = time.monotonic() + db.patience
    with ExitStack() as stack:
        try:
            file = stack.enter_context(db.log.open("rb"))
            while not _taken(file.fileno()):
                if time.monotonic() > deadline:
                    raise StoreError(f"{db.path}: another process is still erasing; try again", retryable=True)
                time.sleep(0.005)
        except OSError as error:
            raise StoreError(f"{db.log}: cannot be locked: {error.strerror}") from error
        yield


def _taken(file: int) -> bool:
    """Take the lock on a file; return whether it was free."""
    if sys.platform == "win32":
        return True  # there is no such lock: a note of another process is taken for that of a dead one
    import fcntl  # noqa: PLC0415 - it is not there for all systems

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Sweep:
    """A transaction that removes rows, and the sweep behind it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stack = ExitStack()
        self._reader = self._stack.enter_context(closing(connect(db.path, db.patience, db.file)))
        self._owed = self._noted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write in one transaction; what is written stays in the log until the sweep.

        Raises:
            StoreError: as `transaction`.
        """
        with transaction(self._db):
            self._stack.enter_context(moment(self._reader))
            self._owed = self._db.execute(SQL["counted"], _NOTE).fetchone() is not None
            yield

    def note(self) -> None:
        """Note in the transaction that it has removed rows."""
        if not self._owed and not self._noted:
            self._db.execute(SQL["insert_count"], (0, 1, 0, 0))
            self._noted = True

    def sweep(self) -> None:
        """Overwrite what the last transactions left in the middle of pages, or what others have left on any page."""
        if self._owed:
            self._stack.close()
            _written_anew(self._db)
        with transaction(self._db):
            for row in _rows(self._db.log):
                _overwrite(self._db, row)
            self._db.execute(SQL["delete_counts"], {"key": 0, "after": 0, "before": 2})


def _written_anew(db: Database) -> None:
    db.execute("PRAGMA temp_store = FILE")  # it is as large as the database
    try:
        db.execute("VACUUM")
    finally:
        db.execute("PRAGMA temp_store = MEMORY")


def _overwrite(db: Database, row: _Row) -> None:
    """Let a row have all the room of its page for a moment."""
    number = {"number": row.number}
    found = db.execute(SQL[f"content_of_{row.table}"], number).fetchone()
    if found is None:
        return
    content, length = found
    # With a longer content the row's header grows as well, by a byte or two.
    size = row.room - (row.size - length) - 2
    if size > length:
        db.execute(SQL[f"fill_{row.table}"], {**number, "size": size})
        db.execute(SQL[f"restore_{row.table}"], {**number, "content": content})


def _rows(log: Path) -> list[_Row]:
    """Return a row of each page in a write-ahead log whose middle is not empty."""
    found: dict[int, _Row | None] = {}
    written: dict[int, _Row | None] = {}
    for number, page, commits in _pages(log):
        written[number] = _row(page) if page[0] == _LEAF else None
        if commits:
            found.update(written)
            written.clear()
    # Behind the last commit is what was rolled back.
    return [row for row in found.values() if row is not None]


def _pages(log: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the pages of a write-ahead log as they were written: the number, the page, whether it ends a commit."""
    with log.open("rb") as file:
        header = file.read(32)
        size = int.from_bytes(header[8:12])
        while len(frame := file.read(24 + size)) == 24 + size > 24 and frame[8:16] == header[16:24]:
            yield int.from_bytes(frame[:4]), frame[24:], any(frame[4:8])


def _row(page: bytes) -> _Row | None:
    """Return the first row of a page, if the page's middle holds anything and the row is of a table with content."""
    cells, top = _short(page, 3), _short(page, 5) or 65536
    middle = page[8 + 2 * cells : top]
    # Where rows were, their places are left, which say nothing: numbers of two bytes, smaller than a page.
    if max(middle[::2], default=0) < (32 if len(page) <= 8192 else 1):
        return None
    if cells == 0:
        return None
    start = _short(page, 8)
    size, place = _number(page, start)
    written = place - start
    number, place = _number(page, place)
    table = _CONTENT.get(_form(page, place))
    if table is None:
        return None
    local = _local(size, len(page))
    room = len(middle) + _scattered(page) + local
    # Its size stands in front of it, and may take more bytes then.
    longer = (2 if len(page) < 16384 else 3) - written
    return _Row(table, number, size, min(room - longer, len(page) - 35))


def _scattered(page: bytes) -> int:
    """Return how many bytes are free among the rows of a page."""
    free, block = page[7], _short(page, 1)
    while block:
        free += _short(page, block + 2)
        block = _short(page, block)
    return free


def _local(size: int, page: int) -> int:
    """Return how many bytes of a row's content are in its page; the rest has pages of its own."""
    if size <= page - 35:
        return size
    least = (page - 12) * 32 // 255 - 23
    part = least + (size - least) % (page - 4)
    return 4 + (part if part <= page - 35 else least)


def _form(page: bytes, place: int) -> tuple[int, int]:
    """Return how many columns a row has, and the type of the first, by its header."""
    length, at = _number(page, place)
    first, _ = _number(page, at)
    columns = 0
    while at < place + length:
        _, at = _number(page, at)
        columns += 1
    return columns, first


def _short(page: bytes, at: int) -> int:
    return int.from_bytes(page[at : at + 2])


def _number(page: bytes, at: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | page[place] & 127
        if page[place] < 128:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9
