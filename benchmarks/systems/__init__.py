"""The systems that are measured, each behind the same few verbs, and the packages that bring them."""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self

from benchmarks.workload import Item, newest, text, weigh

__all__ = ("PACKAGES", "Package", "Read", "System", "Windowed", "missing", "of_sqlite", "systems_of")


class Read(NamedTuple):
    """A window as a system gave it, and how many rows it read for that."""

    items: Sequence[Any]
    rows: int


class System(ABC):
    """One way to keep conversations, used as its documentation advises, with full durability.

    It belongs to one event loop and one folder, in which it may find what an earlier one of its kind has written.
    """

    name: ClassVar[str]
    ways: ClassVar[Sequence[str]] = ()
    """How it can be asked for a window, if it can; the first is what its user would choose for long conversations."""
    bulk: ClassVar[int] = 500
    """Items in one append while a conversation is made long."""
    most: ClassVar[int] = 1000
    """Conversations at once that it is made for."""
    quickly: ClassVar[int] = 1000
    """The same for a quick run: with more, its appends wait for locks for seconds."""

    def __init__(self, folder: Path, count: Callable[[str], int]) -> None:
        self.folder = folder
        self.path = folder / "log.db"
        self._count = count

    def weight(self, item: Any) -> int:
        """Return the tokens of an item, counted now."""
        return weigh(item, self._count)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Open what is in the folder, or make it."""

    @abstractmethod
    async def close(self) -> None:
        """Close it, so that everything is in its files."""

    @abstractmethod
    async def begin(self, conversation: str) -> None:
        """Begin a conversation, or take one up again."""

    @abstractmethod
    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """Append items, durable when it returns."""

    async def seed(self, conversation: str, items: Sequence[Item]) -> None:
        """Make a conversation longer, as fast as can be."""
        await self.append(conversation, items)

    def is_busy(self, error: Exception) -> bool:
        """Return whether an error says that others had the database for too long."""
        return "locked" in str(error)

    @abstractmethod
    async def pragma(self, name: str) -> Any:
        """Return a setting of SQLite as the connection says that it writes by, or one that it opens just like that."""

    async def durability(self) -> str:
        """Return how it makes what it is given last, by its own connection's word."""
        return of_sqlite(await self.pragma("journal_mode"), await self.pragma("synchronous"))

    def bytes(self) -> int:
        """Return what its files hold, with nothing open."""
        return sum(path.stat().st_size for path in self.folder.iterdir())


class Windowed(System):
    """One that can be read, too: it gives windows of its conversations."""

    @abstractmethod
    async def window(self, conversation: str, budget: int, way: str) -> Read:
        """Return the newest whole turns that fit a budget of tokens."""

    async def rows(self, conversation: str, budget: int, way: str) -> int:
        """Return how many rows a window reads."""
        return (await self.window(conversation, budget, way)).rows

    def text(self, item: Any) -> str:
        """Return the text of an item of a window."""
        return text(item)

    def fitting(self, found: Sequence[Any], budget: int, begins: Callable[[Any], bool]) -> Sequence[Any]:
        """Return the newest whole turns of what was read that fit, counting them; what every user has to write."""
        return found[newest(found, budget, self.weight, begins) :]


def of_sqlite(journal: str, synchronous: int) -> str:
    """Return SQLite's settings in words."""
    return f"SQLite {journal}, synchronous={('OFF', 'NORMAL', 'FULL', 'EXTRA')[synchronous]}"


class Package(NamedTuple):
    """What is installed, or not, as one; its systems share a process."""

    name: str
    module: str
    """Where its systems are, in this folder."""
    needs: Sequence[str] = ()
    """The distributions that it is made of."""


PACKAGES: Final = (
    Package("turnlog", "ours"),
    Package("bare", "bare"),
    Package("eventsourcing", "recorder", ("eventsourcing",)),
    Package("openai-agents", "agents", ("openai-agents", "SQLAlchemy")),
    Package("langgraph", "graph", ("langgraph", "langgraph-checkpoint-sqlite")),
    Package("google-adk", "adk", ("google-adk", "SQLAlchemy")),
)
"""In the order in which their turns come: where time runs out, it is for those that take longest."""


def missing(package: Package) -> str | None:
    """Return what of a package is not installed, None when all of it is."""
    for name in package.needs:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f'{name} is not installed: pip install "turnlog[bench]"'
    return None


def systems_of(package: Package) -> Sequence[type[System]]:
    """Import a package's systems."""
    module = importlib.import_module(f"benchmarks.systems.{package.module}")
    found: Sequence[type[System]] = module.SYSTEMS
    return found
