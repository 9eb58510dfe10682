"""The engine: a store, opened, and everything that works on it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

import anyio
import msgspec

from .canonical import canonical, digest, loads
from .checks import lapse, whole, why
from .codec import changed, event
from .conversation import Conversation
from .erasing import Receipt, delete, expire
from .errors import Conflict, Invalid, KeyReused, StoreError, VersionConflict
from .events import ConversationCreated
from .followers import Follower, News, follow
from .groups import Call as Waiting
from .history import History
from .ids import NO_STREAM, Clock, Ids, Position, check_id, check_key, micros, moment, system_clock, ulid
from .intake import Intake
from .items import Input
from .log import Break, Fork, Head, Key, Scalar, Store, metadata_of
from .logs import Log
from .model import Model, StreamEvent
from .pages import Page, Pages
from .reader import Reader
from .tokens import Counter, overhead
from .turns.aside import aside
from .turns.crew import Crew
from .turns.keys import known
from .turns.outcome import Options, Result
from .turns.plan import Plan, mapping, one_of, plan
from .turns.sealing import interruption
from .turns.streams import Channel
from .turns.turn import KeyTaken, Turn
from .window.budget import Budget
from .window.policies import OldestTurns, Policy
from .writer import Writer

__all__ = ("Engine", "Info")

T = TypeVar("T")
_log = Log("turnlog.engine")
_POLL: Final = (0.02, 0.5)
"""Seconds between looks at a turn that runs elsewhere: at first, and at most."""
_LISTEN: Final = 30.0
"""Seconds for which word of others' appends is waited for at a time."""
_SETTINGS: Final = 256
"""Settings whose tokens are remembered."""
_CURSOR: Final = re.compile(r"(?P<time>-?[0-9]{1,18})~(?P<id>[^~]+)~(?P<order>-?[a-z]+)")


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a listing."""

    id: str
    version: int
    created: datetime
    updated: datetime
    """When the last item came."""
    last_item: int
    """The seq of the last item, 0 when there is none."""
    items: int
    metadata: Mapping[str, Any]
    parent: tuple[str, int] | None
    """Of a fork: its parent, and the seq up to which it shares the parent's events."""
    busy: bool
    """Whether a turn is running."""


class Engine:
    """Conversations in one store. It belongs to the event loop that opened it; made by `open_engine`."""

    def __init__(
        self,
        store: Store,
        crew: Crew,
        *,
        lease: float,
        budget: Budget | None,
        policy: Policy | None,
        ids: Ids | None,
        clock: Clock = system_clock,
    ) -> None:
        self.store = store
        self.intake = Intake()
        self.reader = Reader(store, self.intake)
        self.writer = Writer(store, self.reader)
        self.lease = lease
        self.budget = budget
        self.policy: Policy = policy or OldestTurns()
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._ids: Ids = ids or ulid
        self._clock = clock
        self._crew = crew
        self._closed = False
        self.loop = asyncio.get_running_loop()
        """The event loop that it belongs to."""
        self._leases: dict[str, int] = {}
        self._listens = False
        self.followers: set[Follower] = set()
        """Those whose names are kept for them."""
        self._running: dict[anyio.Event, anyio.CancelScope] = {}
        """Turns in their callers' own tasks."""
        self.unserved: set[tuple[str, str]] = set()
        """Models, by backend and name, that turned out to have no service for compactions."""
        self._overheads: dict[tuple[str, Counter, str], int] = {}

    def check(self) -> None:
        """See to it that the engine is used where it was opened, and while it is.

        Raises:
            Invalid: the running event loop is another one.
            StoreError: the engine is closed.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise Invalid("this engine belongs to another event loop: open one engine in each")
        if self._closed:
            raise StoreError("this engine is closed: use it inside of its `async with`")

    async def settle(self, grace: float) -> None:
        """Wait so many seconds at most for the streamed turns that are to end without a reader."""
        await self._crew.settle(grace)

    async def close(self) -> None:
        """Cancel what works in the background, wait until it has cleaned up, and close the store."""
        self._closed = True
        try:
            for over, scope in list(self._running.items()):
                scope.cancel()
                await over.wait()
            await self._crew.close()
        finally:
            await self.store.close()

    # -- conversations

    async def create(
        self,
        *,
        id: str | None = None,
        metadata: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> Conversation:
        """Create a conversation.

        Args:
            id: its id, 1 to 64 of `A-Z a-z 0-9 . _ : -`; default: a new one of ours.
            metadata: JSON about it.
            key: an idempotency key: the same key and metadata again give the same conversation.

        Raises:
            Invalid: the id or the metadata cannot be used.
            VersionConflict: there is a conversation of that id, or it was deleted.
            KeyReused: the key was used with other metadata.
        """
        self.check()
        data = canonical(mapping("metadata", {} if metadata is None else metadata), "metadata")
        return await self.begin(id, loads(data), key, data, None)

    async def begin(
        self, id: str | None, metadata: dict[str, Any], key: str | None, asked: bytes, fork: Fork | None
    ) -> Conversation:
        """Create a conversation, perhaps as a fork, where the key stands for what was *asked*; see `create`."""
        name = self._named(id, key)
        parent, at = (None, None) if fork is None else (fork.parent, fork.at)
        created = event(ConversationCreated(metadata=metadata, parent=parent, at=at))
        named = None if key is None else Key(key, digest(asked))
        await self.writer.append(name, [created], expected=NO_STREAM, key=named, fork=fork)
        return await self.get(name)

    async def begun(self, id: str | None, key: str | None, asked: bytes) -> Conversation | None:
        """Return what an earlier call with that key created, None where there was none.

        Raises:
            KeyReused: the key stands for something else that was asked.
        """
        if key is None:
            return None
        name = self._named(id, key)
        use = await self.store.key(name, key)
        if use is None:
            return None
        if use.digest != digest(asked):
            raise KeyReused(name, key)
        return await self.get(name)

    def _named(self, id: str | None, key: str | None) -> str:
        """Return the id of what is to be created. A key names it too, so that two workers with one key meet there."""
        if key is not None:
            check_key(key)
        if id is not None:
            return check_id(id)
        return check_id(self._ids("cv") if key is None else f"cv_{digest(key.encode())[:26]}")

    async def delete(
        self, id: str, *, forks: Literal["refuse", "keep", "delete"] = "refuse", reason: str = ""
    ) -> Receipt:
        """Remove a conversation, for good; only a tombstone stays, which followers see. Its id is never used again.

        Args:
            id: the conversation.
            forks: what becomes of conversations that share its events: nothing is deleted while there are such; they
                keep what they share, and it goes with the last of them; or they are deleted too. The receipt's `left`
                names what others still have, a parent too. Metadata that a fork has copied is its own: the receipt
                names those that have such.
            reason: is written on the tombstone; default: none is given.

        Raises:
            NotFound: there is no such conversation, or it was deleted before.
            ConversationBusy: a turn is running.
            Conflict: there are forks, and they are to refuse it.
            Invalid: a reason that is blank.
        """
        self.check()
        one_of("forks", forks, ("refuse", "keep", "delete"))
        return await delete(self, check_id(id), forks, reason and why(reason))

    async def get(self, id: str) -> Conversation:
        """Return a conversation; nothing is written.

        Raises:
            NotFound: there is none of that id.
        """
        self.check()
        return Conversation(self, await self.reader.head(check_id(id)))

    async def get_or_create(self, id: str, *, metadata: Mapping[str, object] | None = None) -> Conversation:
        """Return the conversation of that id, created with *metadata* if there is none."""
        try:
            return await self.create(id=check_id(id), metadata=metadata)
        except VersionConflict:
            return await self.get(id)

    def list(
        self,
        *,
        where: Mapping[str, object] | None = None,
        order: Literal["-updated", "-created", "created"] = "-updated",
        limit: int = 50,
        after: str | None = None,
    ) -> Pages[Info]:
        """List conversations, by the time of their last item or of their birth. *after* is a page's `next`.

        *where*: only those whose metadata has these values at its top level; found by index.

        Raises:
            Invalid: an order that is none of these, a limit that is not 1 to 1000, a cursor of another listing, or a
                value to look for that is an object or an array.
        """
        wanted = _wanted(where)
        one_of("order", order, ("-updated", "-created", "created"))
        whole("limit", limit, 1, 1000)

        async def fetch(cursor: str | None) -> Page[Info]:
            self.check()
            heads = await self.store.heads(order=order, limit=limit + 1, after=_place(cursor, order), where=wanted)
            shown = heads[:limit]
            more = len(heads) > limit
            return Page([_info(head) for head in shown], more, _cursor(shown[-1], order) if more else None)

        return Pages(fetch, after)

    def expire(
        self,
        age: timedelta,
        *,
        where: Mapping[str, object] | None = None,
        forks: Literal["refuse", "keep", "delete"] = "keep",
        reason: str = "retention",
    ) -> AsyncIterator[Receipt]:
        """Delete conversations whose last item is older than *age*, oldest last; yield what became of each.

        Those with a running turn are left alone, and with forks="refuse" those that have forks.

        Raises:
            Invalid: an age that is no positive timedelta, a blank reason, or a value to look for that is an object or
                an array.
        """
        self.check()
        one_of("forks", forks, ("refuse", "keep", "delete"))
        lapse("age", age, timedelta.resolution)
        return expire(self, age, _wanted(where), forks, why(reason))

    async def collect(self, age: timedelta = timedelta(hours=1)) -> int:
        """Remove stored bodies that nothing has referred to for *age*; return how many.

        Erasing and deleting take the bodies along that they were the last to need. What is left for this is what was
        brought and then not used, and what a process that was killed while it erased had yet to overwrite: call it now
        and then, as `turnlog expire` does.

        Raises:
            Invalid: an age that is no timedelta, or negative.
            StoreError: the store cannot write; nothing was removed.
        """
        self.check()
        return await self.store.collect(lapse("age", age, timedelta(0)).total_seconds())

    def now(self) -> int:
        """Return the time by the engine's clock, in microseconds since 1970, UTC."""
        return micros(self._clock())

    def follow(
        self, *, name: str | None = None, after: Position | Literal["start", "end"] = "start", batch: int = 500
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow the store: every event of every conversation, what is there first, then what comes, in batches.

        Args:
            name: under which the place is stored by `ack`, and gone on from; one reads under a name, others stand by.
            after: where to begin when nothing is stored: the start, the end, or a position.
            batch: events at most.

        Processing is at least once: what was not acknowledged comes again. What other processes append is noticed
        within a quarter of a second. Who leaves a name is succeeded at once; who is killed, once the lease has run out:
        after `open_engine(lease=)` seconds, 60 by default.

        Raises:
            Invalid: a name, a position or a batch size that cannot be (on entering).
        """
        return follow(self, None if name is None else check_key(name, "name"), after, batch)

    # -- turns

    async def perform(self, made: Plan) -> Result:
        """Carry a plan out in the caller's own task; a key that came before is looked at first.

        Raises:
            StoreError: the engine was closed meanwhile; what the turn had written is in the log, and that it ended.
        """

        async def perform() -> Result:
            if made.options.aside:
                return await aside(made)
            turn = await self._opened(made)
            if isinstance(turn, Turn):
                return await turn.work(lambda _: None)
            return turn[0]

        return await self.attend(perform)

    async def attend(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what takes a while in the caller's own task; closing the engine cancels it, and waits until it is over.

        Raises:
            StoreError: the engine was closed meanwhile.
        """
        scope, over = anyio.CancelScope(), anyio.Event()
        self._running[over] = scope
        try:
            with scope:
                return await work()
        finally:
            del self._running[over]
            over.set()
        raise StoreError("this engine was closed while the turn ran; open it again, and run the turn again")

    async def start(
        self, conversation: Conversation, model: Model, value: Input | None, options: Options, *, finish: bool
    ) -> Channel:
        """Open a turn and let it work in the background; return the channel that it speaks into.

        Closing the engine waits a little for a turn that is to *finish*.
        """
        self.check()
        made = await plan(self, conversation, model, value, options)
        channel = Channel()
        turn = await self._opened(made)
        if isinstance(turn, Turn):
            channel.on_leave(turn.left)
            self._crew.start(_work(turn, channel), f"turnlog turn {conversation.id}/{turn.turn}", awaited=finish)
            return channel
        result, events = turn
        for said in events:
            channel.emit(said)
        channel.end(result)
        return channel

    async def _opened(self, made: Plan) -> Turn | tuple[Result, Sequence[StreamEvent]]:
        """Open a turn; or return what an earlier one with its key came to, waiting for it while it runs."""
        for pause in _pauses():
            found = await known(self, made)
            if found is not None and found.result is not None:
                return found.result, found.events
            if found is not None and found.state == "running":
                await anyio.sleep(pause)
                continue
            turn = Turn(self, made)
            try:
                await turn.open(attempt=None if found is None else found.attempt)
            except KeyTaken:
                continue
            except Conflict:
                # It may be the very turn that the key stands for, on another worker.
                now = await known(self, made)
                if now is None or (found is not None and (now.state, now.attempt) == (found.state, found.attempt)):
                    raise
            else:
                return turn
        raise AssertionError("unreachable")

    async def take_over(
        self,
        name: str,
        head: Head,
        history: History,
        *,
        force: bool = False,
        quiet: bool = False,
        spare: Callable[[Waiting], bool] = lambda _: False,
    ) -> int:
        """End a turn whose worker is gone: the next generation, what became of its response, and seals, in one append.

        Calls that are to be spared get no seal: whoever takes over runs them.

        Raises:
            ConversationBusy: its lease has not run out, and it is not forced.
        """
        response = history.open or history.last_request
        events = [] if response is None else await interruption(self, history, response, "crashed", spare=spare)
        appended = await self.writer.append(name, events, expected=head.version, lease=Break(force=force), quiet=quiet)
        _log.warning("turnlog.turn.taken_over", conversation=name, response=response, generation=appended.generation)
        return appended.version

    async def wait_until_free(self, name: str) -> None:
        """Wait until no turn runs in a conversation, or its lease has run out."""
        for pause in _pauses():
            head = await self.reader.head(name)
            if head.lease is None or head.lease.remaining <= 0:
                return
            await anyio.sleep(min(pause, max(head.lease.remaining, 0.01)))

    def keep_lease(self, name: str, generation: int) -> None:
        """Renew a lease until it is dropped."""
        self._leases[name] = generation

    def drop_lease(self, name: str, generation: int) -> None:
        """Stop renewing a lease; that of whoever has taken over since is kept alive."""
        if self._leases.get(name) == generation:
            del self._leases[name]

    async def renew_leases(self) -> None:
        """Keep the leases of working turns alive, for ever."""
        while True:
            await anyio.sleep(self.lease / 3)
            for name, generation in list(self._leases.items()):
                try:
                    if not await self.store.renew(name, generation, self.lease):
                        self.drop_lease(name, generation)
                except Exception as error:  # noqa: BLE001 - the next round tries again; the fence guards the log
                    _log.warning("turnlog.lease.unrenewed", conversation=name, error=type(error).__name__)
            for follower in list(self.followers):
                try:
                    await follower.renew()
                except Exception as error:  # noqa: BLE001 - the next round tries again; `ack` guards the place
                    _log.warning("turnlog.follower.unrenewed", error=type(error).__name__)

    def news(self) -> News:
        """Return what can be waited on for the next append; what others append is noticed a little later.

        Where the store hears of others' appends, as PostgreSQL does, that wakes who waits too.
        """
        hears = getattr(self.store, "wait_for_news", None)
        if hears is not None and not self._listens:
            self._listens = True
            self._crew.start(self._listen(hears), "turnlog news")
        return News(self.writer.news())

    async def _listen(self, hears: Callable[[float, int | None], Awaitable[int]]) -> None:
        heard: int | None = None
        while True:
            heard = await hears(_LISTEN, heard)
            self.writer.tell()

    async def overhead(self, settings: Mapping[str, Any], counter: Counter, api: str = "responses") -> int:
        """Return the tokens of a request's settings; the same settings are counted once."""
        data = canonical(settings, "settings")
        place = digest(data), counter, api
        if place not in self._overheads:
            while len(self._overheads) >= _SETTINGS:
                self._overheads.pop(next(iter(self._overheads)))
            self._overheads[place] = await anyio.to_thread.run_sync(overhead, settings, counter, api)
        return self._overheads[place]


async def _work(turn: Turn, channel: Channel) -> None:
    """Let a turn work, and see to it that its channel learns the end, whatever it is."""
    result: Result | None = None
    error: Exception | None = None
    try:
        with channel.scope:
            result = await turn.work(channel.emit)
            turn.plan.conversation.saw(result.version)
    except Exception as failed:  # noqa: BLE001 - it is raised where the stream is read
        error = failed
    finally:
        channel.end(result, error if result is not None or error is not None else turn.interrupted())


def _pauses() -> Iterator[float]:
    pause, most = _POLL
    while True:
        yield pause
        pause = min(pause * 1.5, most)


def _info(head: Head) -> Info:
    return Info(
        id=head.conversation,
        version=head.version,
        created=_time(head, head.created),
        updated=_time(head, head.updated),
        last_item=head.last_item,
        items=head.items,
        metadata=metadata_of(head),
        parent=head.parent,
        busy=head.lease is not None and head.lease.remaining > 0,
    )


def _time(head: Head, time_us: int) -> datetime:
    """Return one of the times of a conversation.

    Raises:
        CorruptLog: what is stored is no time.
    """
    try:
        return moment(time_us)
    except OverflowError:
        raise changed(head.conversation, f"its time {time_us!r:.40} is none") from None


def _wanted(where: Mapping[str, object] | None) -> dict[str, Scalar] | None:
    """Return what metadata is looked up by.

    Raises:
        Invalid: a value that is an object or an array.
    """
    if not where:
        return None
    wanted: dict[str, Scalar] = {}
    for name, value in loads(canonical(mapping("where", where), "where")).items():
        if not isinstance(value, Scalar):
            raise Invalid(f"where: {name!r}: a text, a number, true, false or null is needed")
        wanted[name] = value
    return wanted


def _cursor(head: Head, order: str) -> str:
    return f"{getattr(head, order.lstrip('-'))}~{head.conversation}~{order}"


def _place(cursor: object, order: str) -> tuple[int, str] | None:
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if found is None:
        raise Invalid(f"after={cursor!r:.100}: the cursor of a page is needed, its `next`")
    if found["order"] != order:
        raise Invalid(f"after={cursor!r}: this is a cursor of the order {found['order']}, not of {order}")
    return int(found["time"]), found["id"]
