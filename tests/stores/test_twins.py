"""Whatever is asked of them, the stores answer alike: random histories of calls, made to memory and to SQLite."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from turnlog.engine.errors import TurnlogError
from turnlog.engine.events import Record
from turnlog.engine.ids import Position, moment
from turnlog.engine.log import Break, Head, Key, Query, Release, Snapshot, Take
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import created, item, other, patched

names = st.sampled_from(["c", "d"])
small = st.integers(0, 6)
times = st.none() | st.integers(-3, 3)
events = st.one_of(
    st.builds(
        item,
        st.sampled_from(["a", "bb"]),
        tokens=small,
        excerpt=st.none() | small,
        response=st.none() | st.integers(-3, 4),
        marks=st.sampled_from([(), ("m",), ("m", "n"), ("n", "n")]),
        link=st.sampled_from([None, "l", "call_0123456789", "call_9876543210", "other_543210"]),
        time=times,
    ),
    st.builds(patched, a=st.none() | small, b=st.dictionaries(st.sampled_from("xy"), st.none() | small)),
    st.builds(other, st.sampled_from(["weather.changed", "call.started"]), st.none() | small, time=times),
    st.builds(created, st.dictionaries(st.sampled_from("ab"), small)),
)
# Leases are far from their end, or over: no clock decides.
seconds = st.sampled_from([0.0, 1e6])
changes = st.one_of(
    st.builds(Take, owner=st.sampled_from("pq"), seconds=seconds, turn=st.sampled_from([-1, 2])),
    st.builds(Release),
    st.builds(Break, force=st.booleans()),
)
appends = st.fixed_dictionaries(
    {"events": st.lists(events, max_size=4)},
    optional={
        "expected": st.sampled_from(["any", "no_stream"]) | small | st.just(-1),
        "key": st.builds(Key, st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"])),
        "fence": st.integers(0, 3),
        "lease": changes,
    },
)
creations = st.builds(
    lambda metadata, rest: {"events": [created(metadata), *rest]},
    st.dictionaries(st.sampled_from("ab"), small),
    st.lists(events, max_size=3),
)
queries = st.builds(
    Query,
    after=small,
    before=st.none() | st.integers(0, 12),
    limit=st.none() | small,
    reverse=st.booleans(),
    mark=st.sampled_from([None, None, "m", "n", "o"]),
    link=st.sampled_from([None, None, "l", "call_0123456789", "other_543210"]),
    tokens=st.none() | st.integers(0, 12),
)
orders = st.sampled_from(["-updated", "-created", "created"])
calls = st.one_of(
    st.tuples(st.just("append"), names, creations),
    st.tuples(st.just("append"), names, appends),
    st.tuples(st.just("append"), names, appends),
    st.tuples(st.just("read"), names, st.lists(queries, max_size=3)),
    st.tuples(st.just("key"), names, st.sampled_from(["k", "l"])),
    st.tuples(st.just("heads"), orders, small),
    st.tuples(st.just("renew"), names, st.tuples(st.integers(0, 3), seconds)),
)


def comparable(answer):
    """Return an answer without what may differ: positions, what a lease has left, the words of an error."""
    match answer:
        case TurnlogError():
            return type(answer), getattr(answer, "expected", None), getattr(answer, "actual", None)
        case list():
            return [comparable(one) for one in answer]
        case Snapshot():
            return comparable(answer.head), [comparable(list(found)) for found in answer.records]
        case Head(lease=lease) if lease is not None:
            return replace(answer, lease=replace(lease, remaining=float(lease.remaining > 0)))
        case Record():
            return replace(answer, position=Position(""))
        case _:
            return answer


async def answer(store, call):
    try:
        match call:
            case ("append", name, arguments):
                return await store.append(name, **arguments)
            case ("read", name, asked):
                return await store.read(name, *asked)
            case ("key", name, key):
                return await store.key(name, key)
            case ("heads", order, limit):
                return list(await store.heads(order=order, limit=limit))
            case (_, name, (generation, length)):
                return await store.renew(name, generation, length)
    except TurnlogError as error:
        return error


@given(st.lists(calls, max_size=25))
def test_memory_and_sqlite_answer_alike(history):
    step = 0

    async def main(path):
        nonlocal step
        clock = lambda: moment(step)  # noqa: E731
        memory, sqlite = MemoryStore(clock), await SqliteStore.open(path, durability="normal", clock=clock)
        try:
            for step, call in enumerate(history, 1_000):  # noqa: B007 - the clock reads it
                assert comparable(await answer(memory, call)) == comparable(await answer(sqlite, call)), call
        finally:
            await sqlite.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "log.db"))
