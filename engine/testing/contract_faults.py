"""The engine on a store that fails: whole turns under every fault at every call, and their keys that make up for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count, product
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from ..conversation import Conversation
from ..engine import Engine
from ..errors import NotFound, StoreError
from ..listing import Event
from ..log import Key, Store
from ..model import StreamEvent
from ..turns.crew import Crew
from ..turns.outcome import Result
from ..window.budget import Budget
from ..window.window import Window
from .cancelling import HOW, How
from .contract_kit import Check, Place, fails, item, started, texts_of
from .faults import FAULTS_OF_CALLS, Fault, FaultyStore, chance, never, nth

__all__ = ("FAULTS",)

T = TypeVar("T")

LEASE: Final = 0.05
"""Seconds after which a turn whose end was lost may be tried again."""
ENDS: Final = ("response.completed", "response.failed", "response.interrupted")
ENDINGS: Final = (*((end,) for end in ENDS), ("response.completed", "response.interrupted"))
"""How a response may end; a turn may also be interrupted after it, while tools run."""


class _Model:
    """A model that asks for two tools and then is done; without a server."""

    api = "responses"
    name = "scripted"
    backend = "nowhere"
    budget: Budget | None = Budget(context=100_000)

    def encode(self, window: Window, settings: Mapping[str, object]) -> dict[str, Any]:
        return {"model": settings["model"], "input": window.items}

    async def send(self, request: Mapping[str, Any]) -> AsyncIterator[StreamEvent]:
        await anyio.lowlevel.checkpoint()
        last = request["input"][-1]
        yield StreamEvent(type="response.created", raw={"response": {"id": "resp_1", "model": self.name}})
        calls = last.get("content") == "Go"
        for index, made in enumerate(_CALLS if calls else [_message("Done.")]):
            raw = {"output_index": index, "item": made}
            yield StreamEvent(type="response.output_item.added", raw=raw)
            yield StreamEvent(type="response.output_item.done", item=made, raw=raw)
        usage = {"input_tokens": 9, "output_tokens": 1}
        yield StreamEvent(type="response.completed", raw={"response": {"usage": usage}})


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "status": "completed", "content": content}


_CALLS: Final = [
    _message("Let me see."),
    *(
        {"type": "function_call", "call_id": f"call_{at}", "name": "look", "arguments": f'{{"at":"{at}"}}'}
        for at in "ab"
    ),
]


async def look(at: str) -> str:
    """Look somewhere."""
    await anyio.lowlevel.checkpoint()
    return f"seen {at}"


@asynccontextmanager
async def _engine(store: Store) -> AsyncIterator[Engine]:
    """Open an engine on a store, which stays open."""
    crew = Crew()
    try:
        yield Engine(store, crew, lease=LEASE, budget=None, policy=None, ids=None)
    finally:
        await crew.close()


async def _run(conversation: Conversation) -> Result:
    return await conversation.run(_Model(), "Go", tools=[look], key="run")


async def _stream(conversation: Conversation) -> Result:
    async with conversation.stream(_Model(), "Go", tools=[look], key="run") as stream:
        async for _ in stream:
            pass
        return await stream.result()


Turn: TypeAlias = Callable[[Conversation], Awaitable[Result]]


async def _all(engine: Engine, name: str, turn: Turn) -> Result:
    """Create a conversation, append to it and have a turn, each under its key."""
    conversation = await engine.create(id=name, key="create")
    await conversation.append("First of all.", key="append")
    return await turn(conversation)


async def _tried(store: FaultyStore, how: How, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
    """Do some work that the store may fail or cancel; return its result, None when it came to none."""
    with suppress(StoreError):
        if how == "anyio":
            with anyio.CancelScope() as scope:
                store.cancel = scope.cancel
                return await work()
            return None
        task = asyncio.ensure_future(work())
        store.cancel = task.cancel
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()
    return None


async def _done_once(engine: Engine, name: str, turn: Turn) -> None:
    """See to it that everything is done under its keys, once, and that the log is whole and goes on."""
    result = await _all(engine, name, turn)
    assert (result.status, result.output_text) == ("completed", "Done.")
    conversation = await engine.get(name)
    version = len(await _whole(engine, conversation))
    again = await _all(engine, name, turn)
    assert (again.replayed, again.output_text, again.items) == (True, "Done.", result.items)
    assert (await conversation.refresh()).version == version
    assert (await conversation.run(_Model(), "And?")).output_text == "Done."
    texts = Counter(str((event.item or {}).get("content")) for event in await _whole(engine, conversation))
    assert (texts["First of all."], texts["Go"], texts["And?"]) == (1, 1, 1)


async def _whole(engine: Engine, conversation: Conversation) -> list[Event]:
    """See to it that a log is whole and nobody holds its lease; return its events."""
    events = [event async for event in conversation.events()]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    for asked in events:
        if asked.type == "response.requested":
            ends = tuple(event.type for event in events if event.type in ENDS and event.response == asked.seq)
            assert ends in ENDINGS, f"response {asked.seq} ended as {ends}"
    items = [event.item for event in events if event.item]
    calls = Counter(item["call_id"] for item in items if item.get("type") == "function_call")
    outputs = Counter(item["call_id"] for item in items if item.get("type") == "function_call_output")
    assert calls == outputs, "every call has its output"
    snapshot = await engine.store.read(conversation.id)
    assert snapshot is not None
    assert (snapshot.head.version, snapshot.head.lease) == (len(events), None)
    return events


async def _everywhere(place: Place, fault: Fault, how: How = "asyncio", turn: Turn = _run) -> None:
    """Let each store call of a whole turn fail in turn; go on with the same engine, and with another one."""
    async with place.open() as store:
        faulty = FaultyStore(store)
        for worker in ("same", "other"):
            for n in count(1):
                name = f"{fault}.{how}.{worker}.{n}"
                faulty.plan = nth(n, fault)
                struck = len(faulty.struck)
                async with _engine(faulty) as engine:
                    await _tried(faulty, how, partial(_all, engine, name, turn))
                    if worker == "same":
                        faulty.plan = never
                        await _done_once(engine, name, turn)
                if worker == "other":
                    async with _engine(store) as engine:
                        await _done_once(engine, name, turn)
                if len(faulty.struck) == struck:
                    assert n > 10, "the attempt that nothing happened to"
                    break


async def turns_outlive_refused_calls(place: Place) -> None:
    """Whatever call of the store is refused during a turn: its key makes up for it, on this worker and on another."""
    await _everywhere(place, "refuse")


async def turns_outlive_lost_acknowledgements(place: Place) -> None:
    """Whatever call of the store is done and said to have failed: under its key all is done once."""
    await _everywhere(place, "lose")


async def turns_outlive_delays(place: Place) -> None:
    """Whatever call of the store is slow: nothing changes."""
    await _everywhere(place, "delay")


async def turns_outlive_cancellation_at_any_call(place: Place) -> None:
    """Whoever is cancelled while the store works leaves a log that goes on, and a key that is done once."""
    for how in HOW:
        await _everywhere(place, "cancel", how)


async def streams_outlive_faults(place: Place) -> None:
    """A turn that is streamed outlives what one that is not does."""
    await _everywhere(place, "refuse", turn=_stream)
    await _everywhere(place, "lose", turn=_stream)


async def turns_outlive_one_fault_after_another(place: Place) -> None:
    """Where calls go on failing in all ways, trying again under the same keys comes to an end, with all done once."""
    async with place.open() as store:
        for seed in range(20):
            name, result, tries = f"c{seed}", None, 0
            faulty = FaultyStore(store, chance(seed, 0.05))
            while result is None:
                tries += 1
                assert tries < 100
                async with _engine(faulty) as engine:
                    result = await _tried(faulty, "asyncio", partial(_all, engine, name, _run))
            async with _engine(store) as engine:
                await _done_once(engine, name, _run)


async def _fork(engine: Engine, name: str) -> None:
    conversation = await engine.get(name)
    fork = await conversation.fork(3, id=f"{name}.fork", key="fork")
    assert (fork.version, len([entry async for entry in fork.items()])) == (4, 2)


async def _rewind(engine: Engine, name: str) -> None:
    conversation = await engine.get(name)
    assert (await conversation.rewind(2, key="rewind")).first == 4
    assert [entry.item["content"] async for entry in conversation.items()] == ["One"]


async def _erase(engine: Engine, name: str) -> None:
    conversation = await engine.get(name)
    await conversation.erase(2, reason="a check")
    assert [entry.erased async for entry in conversation.items()] == [True, False]


async def _delete(engine: Engine, name: str) -> None:
    with suppress(NotFound):  # it was deleted the first time
        await engine.delete(name, forks="keep", reason="a check")
    assert (await fails(NotFound, engine.get(name))).deleted


async def changes_outlive_faults(place: Place) -> None:
    """A fork, rewind, erasure or deletion that failed at any call of the store is done when it is tried again."""
    async with place.open() as store:
        faulty = FaultyStore(store)
        for change, fault in product((_fork, _rewind, _erase, _delete), FAULTS_OF_CALLS):
            for n in count(1):
                name = f"{change.__name__}.{fault}.{n}"
                struck = len(faulty.struck)
                async with _engine(faulty) as engine:
                    await (await engine.create(id=name)).append("One", "Two")
                    faulty.plan = nth(n, fault)
                    await _tried(faulty, "asyncio", partial(change, engine, name))
                    faulty.plan = never
                    await change(engine, name)
                if len(faulty.struck) == struck:
                    assert n > 3, "the attempt that nothing happened to"
                    break


async def appends_outlive_one_fault_after_another(place: Place) -> None:
    """Many tasks that repeat keyed appends until they are acknowledged write each of them once, in their own order."""
    tasks, appends = 10, 8
    async with place.open() as store:
        await started(store)
        faulty = FaultyStore(store, chance(1, 0.3, "refuse", "lose", "delay"))

        async def work(task: int) -> None:
            for number in range(appends):
                text = f"{task}.{number}"
                while True:
                    with suppress(StoreError):
                        await faulty.append("c", [item(text), item(text)], key=Key(text, "d"))
                        break

        async with anyio.create_task_group() as group:
            for task in range(tasks):
                group.start_soon(work, task)
        texts = await texts_of(store)
        assert texts[::2] == texts[1::2]
        for task in range(tasks):
            own = [text for text in texts[::2] if text.startswith(f"{task}.")]
            assert own == [f"{task}.{number}" for number in range(appends)]


FAULTS: Final[tuple[Check, ...]] = (
    turns_outlive_refused_calls,
    turns_outlive_lost_acknowledgements,
    turns_outlive_delays,
    turns_outlive_cancellation_at_any_call,
    streams_outlive_faults,
    turns_outlive_one_fault_after_another,
    changes_outlive_faults,
    appends_outlive_one_fault_after_another,
)
