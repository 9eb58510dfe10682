"""Sessions of the OpenAI Agents SDK: `Runner.run(agent, "Hi", session=TurnlogSession(engine, "ada"))`.

The SDK calls the models itself, and keeps what was said in a session. This one keeps it in a conversation of turnlog:
one event for each item, nothing overwritten; what the SDK takes back is rewound, and stays in the log.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from turnlog.engine.branching import boundary_at
from turnlog.engine.canonical import canonical, digest
from turnlog.engine.checks import switch, whole
from turnlog.engine.codec import REQUESTED, event
from turnlog.engine.conversation import Conversation
from turnlog.engine.engine import Engine
from turnlog.engine.errors import (
    AlreadyAnswered,
    BudgetExceeded,
    Conflict,
    Invalid,
    ResponseFailed,
    StoreError,
    VersionConflict,
)
from turnlog.engine.events import HistoryRewound, ItemAppended
from turnlog.engine.ids import check_id
from turnlog.engine.intake import as_responses, shifted
from turnlog.engine.items import read
from turnlog.engine.listing import Entry
from turnlog.engine.log import Break
from turnlog.engine.logs import Log
from turnlog.engine.model import Model
from turnlog.engine.opening import open_engine
from turnlog.engine.window.budget import Budget, accepted
from turnlog.engine.window.policies import Policy

if TYPE_CHECKING:
    from agents.memory import SessionSettings
    from anyio.from_thread import BlockingPortal

__all__ = ("TurnlogSession", "named")

_log = Log("turnlog.agents")
_PAGE: Final = 200
_ATTEMPTS: Final = 100
_SHARE: Final = 0.8
T = TypeVar("T")
_Item = dict[str, Any]


def named(session_id: str) -> str:
    """Return the id of a session's conversation: its own, where a conversation can have that one, else a digest.

    >>> named("ada"), named("ada@example.org")
    ('ada', 'in_6d46a9829428f1407291d799')
    """
    try:
        return check_id(session_id)
    except Invalid:
        return f"in_{digest(canonical(session_id))[:24]}"


class TurnlogSession:
    """A session of the Agents SDK, kept in a conversation.

    It may be used from several event loops and threads at once: the work is done where its engine was opened. What the
    runner adds at once is appended at once, whole or not at all, and stays in the order in which it was added.

    Args:
        log: an engine that is open, as in a service; or the database to open, at the first use, in a thread of its own:
            then close the session, or use it in a `with`.
        session_id: names the conversation, which is made when something is added first; see `named`.
        session_settings: the SDK's: `limit` is how many items a run begins with at most, unless a budget is given.
        budget: what fits the model: runs then begin with the window of the conversation, which is always valid,
            rather than with all that was ever said.
        policy: what goes first when that is short of room; default: the engine's.
        model: what compacts the conversation when the window has filled; default: none, an extract.
        compact: whether to, after a run, once the window takes four fifths of its budget.

    Raises:
        Invalid: an argument of another type, or out of range.
    """

    def __init__(
        self,
        log: Engine | str | os.PathLike[str],
        session_id: str,
        *,
        session_settings: SessionSettings | Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
        model: Model | None = None,
        compact: bool = False,
    ) -> None:
        self.session_id = _text(session_id)
        if switch("compact", compact) and budget is None:
            raise Invalid("compact=True: a budget is needed that says when; pass budget=Budget(…)")
        self.session_settings = _settings(session_settings)
        self._home = _Home(log)
        self._budget = accepted(budget)
        self._policy = policy
        self._model = model
        self._compact = compact
        self._conversation: Conversation | None = None

    # -- what the SDK calls

    async def get_items(self, limit: int | None = None) -> list[_Item]:
        """Return the conversation's items, oldest first: the window where there is a budget, else all of them.

        With a *limit* no more than that, the latest; outputs whose calls are older are left out too.
        """
        most = limit if limit is not None else getattr(self.session_settings, "limit", None)
        if most is not None:
            whole("limit", most, 0)
        return await self._home.do(lambda engine: self._items(engine, most))

    async def add_items(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Append items, all of them or none. A second output for a call is left out: the first stands."""
        given = [dict(item) for item in items]
        if given:
            await self._home.do(lambda engine: self._add(engine, given))

    async def pop_item(self) -> _Item | None:
        """Take the latest item back and return it, None where there is none. It stays in the log.

        With an item of an answer to a turn of turnlog's own the whole answer is taken back.
        """
        return await self._home.do(self._pop)

    async def clear_session(self) -> None:
        """Begin anew: nothing of what was said is sent any more. It stays in the log; `Engine.delete` is for good."""
        await self._home.do(self._clear)

    async def run_compaction(self, args: Mapping[str, Any] | None = None) -> None:
        """Compact the conversation, if that is wanted and due; `{"force": True}`: even if it is not due.

        The runner calls this after a run. A compaction that comes to nothing changes nothing, and is logged.
        """
        if self._compact:
            await self._home.do(lambda engine: self._compacted(engine, force=bool((args or {}).get("force"))))

    # -- its life

    def close(self) -> None:
        """Close the database, if the session has opened it; what runs is waited for. An engine that was given stays."""
        self._conversation = None
        self._home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TurnlogSession {self.session_id!r}>"

    # -- in the engine's event loop

    async def _there(self, engine: Engine) -> Conversation:
        if self._conversation is None:
            name = named(self.session_id)
            about = None if name == self.session_id else {"session": self.session_id}
            self._conversation = await engine.get_or_create(name, metadata=about)
        return self._conversation

    async def _items(self, engine: Engine, most: int | None) -> list[_Item]:
        c = await self._there(engine)
        if self._budget is not None:
            window = await c.window(self._budget, policy=self._policy)
            items = window.items
        else:
            items = [dict(entry.item) for entry in await _latest(c, most) if not entry.erased]
        return items if most is None else _whole_end(items, most)

    async def _add(self, engine: Engine, items: list[_Item]) -> None:
        c = await self._there(engine)
        while items:
            try:
                await c.append(*items)
            except AlreadyAnswered as answered:
                _log.info("turnlog.agents.output_left_out", conversation=c.id, call_id=answered.call_id)
                items = [item for item in items if not _is_answer(item, answered.call_id)]
            else:
                return

    async def _pop(self, engine: Engine) -> _Item | None:
        c = await self._there(engine)
        for _ in range(_ATTEMPTS):
            version = (await c.refresh()).version
            entries = (await c.items(order="desc", limit=1)).data
            if not entries:
                return None
            (entry,) = entries
            try:
                await self._take_back(engine, c, entry, version)
            except VersionConflict:
                continue
            return dict(entry.item)
        raise Conflict(f"{c.id}: others append to it all the time; nothing was taken back")

    async def _take_back(self, engine: Engine, c: Conversation, entry: Entry, version: int) -> None:
        if entry.response is not None and await _was_asked(c, entry.response):
            await c.rewind(to=entry.response - 1, expected=version)  # an answer stands or falls as a whole
            return
        to = await boundary_at(engine.store, c.id, entry.seq - 1)
        # What stands or falls with the item that goes, such as the call of an output, is said again.
        again = [
            await engine.intake.item(other.item, said=ItemAppended(meta=other.meta))
            async for other in c.items(after=to, before=entry.seq)
            if not other.erased
        ]
        said = [event(HistoryRewound(to=to)), *shifted(as_responses(again), 1)]
        written = await engine.writer.append(c.id, said, expected=version, lease=Break())
        c.saw(written.version)

    async def _clear(self, engine: Engine) -> None:
        c = await self._there(engine)
        if (await c.items(limit=1)).data:
            await c.rewind(to=1)

    async def _compacted(self, engine: Engine, *, force: bool) -> None:
        c, budget = await self._there(engine), self._budget
        assert budget is not None
        window = await c.window(budget, policy=self._policy)
        room = budget.context - budget.reserve
        if not force and window.tokens.total < room * _SHARE and not window.manifest.cut:
            return
        try:
            await c.compact(self._model, budget=None if self._model is None else budget)
        except (BudgetExceeded, Conflict, ResponseFailed) as error:
            _log.warning("turnlog.agents.not_compacted", conversation=c.id, error=error)


class _Home:
    """Where a session's work is done: the event loop of its engine."""

    def __init__(self, log: Engine | str | os.PathLike[str]) -> None:
        if not isinstance(log, Engine | str | os.PathLike):
            raise Invalid(f"log={log!r:.100}: an engine is needed, or a database to open")
        self._log = log
        self._lock = threading.Lock()
        self._engine = log if isinstance(log, Engine) else None
        self._portal: AbstractContextManager[BlockingPortal] | None = None
        self._opened: AbstractContextManager[Engine] | None = None

    async def do(self, work: Callable[[Engine], Awaitable[T]]) -> T:
        """Do something in the engine's event loop, wherever this is."""
        found = self._engine
        engine = await asyncio.to_thread(self._open) if found is None else found

        async def there() -> T:
            return await work(engine)

        if engine.loop is asyncio.get_running_loop():
            return await there()
        if engine.loop.is_closed():
            raise StoreError("the event loop of this session's engine is closed: keep it running, or name a database")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), engine.loop))

    def _open(self) -> Engine:
        from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - few sessions open their own

        with self._lock:
            if self._engine is None:
                assert not isinstance(self._log, Engine)
                starting = start_blocking_portal()
                portal = starting.__enter__()
                try:
                    self._opened = portal.wrap_async_context_manager(portal.call(open_engine, self._log))
                    self._engine = self._opened.__enter__()
                except BaseException:
                    starting.__exit__(None, None, None)
                    raise
                self._portal = starting
            return self._engine

    def close(self) -> None:
        """Close what was opened here; it is opened again when it is needed again."""
        with self._lock:
            opened, portal = self._opened, self._portal
            self._opened = self._portal = None
            if opened is None or portal is None:
                return
            self._engine = None
            try:
                opened.__exit__(None, None, None)
            finally:
                portal.__exit__(None, None, None)


def _text(session_id: object) -> str:
    if not isinstance(session_id, str) or not session_id:
        raise Invalid(f"session_id={session_id!r:.100}: a text is needed")
    return session_id


def _settings(given: Any) -> Any:
    """Return session settings as the SDK's own object."""
    if not isinstance(given, Mapping):
        return given
    try:
        from agents.memory import SessionSettings  # noqa: PLC0415 - nothing else needs the SDK
    except ImportError as error:
        raise Invalid('session_settings: the SDK is needed for it: pip install "turnlog[agents]"') from error
    return SessionSettings(**given)


async def _latest(c: Conversation, most: int | None) -> list[Entry]:
    """Return the last entries of a transcript, oldest first."""
    found: list[Entry] = []
    if most != 0:
        async for entry in c.items(order="desc", limit=_PAGE if most is None else min(most, _PAGE)):
            found.append(entry)
            if len(found) == most:
                break
    return found[::-1]


async def _was_asked(c: Conversation, seq: int) -> bool:
    """Return whether a response is one of turnlog's own turns; one that was appended is named by its first item."""
    async for found in c.events(after=seq - 1):
        return found.type == REQUESTED
    return False


def _whole_end(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return the last items, without outputs whose calls are not among them."""
    kept: list[_Item] = []
    calls: set[str | None] = set()
    for item in items[max(0, len(items) - most) :]:
        form = read(item)
        if form.is_call:
            calls.add(form.link)
        if not form.is_output or form.link in calls:
            kept.append(item)
    return kept


def _is_answer(item: Mapping[str, Any], call_id: str) -> bool:
    form = read(item)
    return form.is_output and form.link == call_id
