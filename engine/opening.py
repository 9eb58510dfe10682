"""Opening: from an url to an engine, closed again at the end of its `async with`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import anyio

from .checks import seconds, switch
from .engine import Engine
from .errors import Invalid
from .ids import Clock, system_clock
from .log import Store
from .shield import finish
from .stores.memory import MemoryStore
from .turns.crew import Crew
from .turns.plan import one_of
from .window.budget import Budget, accepted
from .window.policies import Policy, check_policy

__all__ = ("open_engine",)

_LIMITS: Final = (0.1, 86_400.0)
"""Seconds that a lease may be set to."""
_ALMOST: Final = re.compile(r"(file|sqlite|postgres|postgresql)(\+\w+)?:(?!//)")
"""What begins like an url, and would be taken for the name of a file."""


def open_engine(
    url: str | os.PathLike[str],
    *,
    durability: Literal["full", "normal"] = "full",
    migrate: bool = True,
    schema: str | None = None,
    pool: object | None = None,
    lease: float = 60.0,
    grace: float = 10.0,
    budget: Budget | None = None,
    policy: Policy | None = None,
    preload: bool = False,
    clock: Callable[[], datetime] | None = None,
    ids: Callable[[str], str] | None = None,
) -> AbstractAsyncContextManager[Engine]:
    """Open a log, and an engine on it, for as long as an `async with` lasts.

    >>> import asyncio
    >>> from turnlog import open_engine
    >>> async def main() -> None:
    ...     async with open_engine(":memory:") as engine:
    ...         chat = await engine.create(id="ada")
    ...         await chat.append("Hello", {"role": "assistant", "content": "Hi!"})
    ...         async for entry in chat.items():
    ...             print(entry.seq, entry.item["role"], entry.item["content"])
    >>> asyncio.run(main())
    2 user Hello
    3 assistant Hi!

    Args:
        url: a path, "sqlite:///app.db", "postgresql://…", or ":memory:" for a log that is forgotten.
        durability: "full": an append is on the disk before it returns; it outlives a killed process and a loss of
            power. "normal": the operating system writes it to the disk when it likes: a killed process loses nothing,
            a loss of power (with PostgreSQL, a crash of its server too) the last appends, never a part of one. An
            erasure is on the disk before it returns with either; what was appended before it is then, too.
        migrate: whether the schema may be made or brought up to date.
        schema: of a PostgreSQL database, where the tables are; default: public.
        pool: an open `psycopg_pool.AsyncConnectionPool` of that database, to be used and not closed.
        lease: seconds after which a worker that shows no sign of life is taken for dead.
        grace: seconds that the end of the `async with` waits at most for streamed turns that are to end without a
            reader (`on_leave="finish"`); then, and at once where the block was left by an exception, they are
            cancelled: the log says that they were interrupted, and whoever runs the conversation on repeats them.
        budget: for models that bring none.
        policy: what goes first when a window is short of room; default: large outputs, then the oldest turns.
        preload: whether the tokenizer's vocabulary is loaded before the block begins, rather than when the first item
            is counted: once in a process, that lets no other thread run for about a fifth of a second.
        clock: the source of events' times; it is called in other threads, too.
        ids: the source of ids, given a prefix such as "cv".

    Raises:
        Invalid: an url that names no store, or an argument out of range.
        StoreError: the database cannot be used (on entering).
    """
    one_of("durability", durability, ("full", "normal"))
    _check({"migrate": migrate, "preload": preload}, policy, {"clock": clock, "ids": ids})
    held = seconds("lease", lease, *_LIMITS)
    place = _url(url)
    opened: Callable[..., Awaitable[Store]]
    if isinstance(place, str):
        within = {"schema": "public" if schema is None else schema, "pool": pool}
        _check_driver()
        opened = partial(_kept_in, "postgres", "PostgresStore", place, durability=durability, migrate=migrate, **within)
    elif schema is not None or pool is not None:
        raise Invalid("schema= and pool= are for PostgreSQL: a postgresql:// url is needed")
    else:
        opened = partial(_store, place, durability=durability, migrate=migrate)
    given, patience = accepted(budget), seconds("grace", grace, 0.0, _LIMITS[1])
    own = {"lease": held, "budget": given, "policy": policy, "ids": ids}
    return _Once(_opened(opened, clock or system_clock, patience, preload, **own))


class _Once(AbstractAsyncContextManager[Engine]):
    """What opens a log, for one `async with`."""

    def __init__(self, opened: AbstractAsyncContextManager[Engine]) -> None:
        self._opened = opened
        self._used = False

    async def __aenter__(self) -> Engine:
        if self._used:
            raise Invalid("this opens a log once: call open_engine(…) again for each `async with`")
        self._used = True
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._opened.__aexit__(kind, error, trace)


def _check(switches: Mapping[str, object], policy: object, sources: Mapping[str, object]) -> None:
    for name, value in switches.items():
        switch(name, value)
    check_policy(policy)
    for name, source in sources.items():
        if source is not None and not callable(source):
            raise Invalid(f"{name}={source!r:.100}: a function is needed")


def _url(url: object) -> Path | str | None:
    """Return the file that an url names, or the url of a PostgreSQL database; None for memory."""
    text = os.fspath(url) if isinstance(url, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise Invalid(f"open_engine({url!r:.100}): a path, sqlite:///path, postgresql://… or :memory: is needed")
    if text in (":memory:", "sqlite://", "sqlite:///:memory:"):
        return None
    if isinstance(url, str) and (almost := _ALMOST.match(text)):
        # The rest may hold a password, and errors are logged.
        raise Invalid(
            f"open_engine('{almost[0]}…'): this is neither a path nor an url that is known here; pass the path alone, "
            f"sqlite:///path or postgresql://… (a file that is called so: ./{almost[0]}…)"
        )
    scheme, found, path = text.partition("://")
    if found and scheme.partition("+")[0] in ("postgresql", "postgres"):
        return text
    if found and scheme != "sqlite":
        # The rest may hold a password, and errors are logged.
        raise Invalid(
            f"open_engine('{scheme}://…'): there is no store for {scheme}; pass a path, sqlite:///path, "
            "postgresql://… or :memory:"
        )
    if found and (not path.startswith("/") or "?" in path):
        raise Invalid(f"open_engine({text!r}): sqlite:///path is needed, with three slashes and without parameters")
    return Path(path[1:] if found else text)


def _check_driver() -> None:
    if find_spec("psycopg") is None or find_spec("psycopg_pool") is None:
        raise Invalid('a postgresql:// url needs a driver: pip install "turnlog[postgres]"')


async def _store(path: Path | None, *, durability: Literal["full", "normal"], migrate: bool, clock: Clock) -> Store:
    if path is None:
        return MemoryStore(clock)
    return await _kept_in("sqlite", "SqliteStore", path, durability=durability, migrate=migrate, clock=clock)


async def _kept_in(module: str, name: str, *place: object, **options: Any) -> Store:
    """Open a store; its module is imported, with its driver, when it is needed, and off the event loop: it is read."""
    found = await anyio.to_thread.run_sync(import_module, f"{__package__}.stores.{module}")
    store: Store = await getattr(found, name).open(*place, **options)
    return store


@asynccontextmanager
async def _opened(
    open_: Callable[..., Awaitable[Store]], clock: Clock, grace: float, preload: bool, **options: Any
) -> AsyncIterator[Engine]:
    store = await open_(clock=clock)
    crew = Crew()
    engine = Engine(store, crew, clock=clock, **options)
    crew.start(engine.renew_leases(), "turnlog leases")
    try:
        if preload:
            await engine.intake.vocabulary()
        yield engine
        await engine.settle(grace)
    finally:
        await finish(engine.close())
