"""Whatever is asked of them, the stores answer alike: random histories of calls, made to memory and to SQLite."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pg_server import schemas
from turnlog.engine.errors import TurnlogError
from turnlog.engine.events import Record
from turnlog.engine.ids import Position, moment
from turnlog.engine.log import (
    Append,
    Break,
    Erased,
    Erasure,
    Fed,
    Fork,
    Head,
    Key,
    KeyUse,
    Query,
    Release,
    Snapshot,
    Take,
)
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import body, created, item, other, patched, tombstone

names = st.sampled_from("cdefg")
small = st.integers(0, 6)
times = st.none() | st.integers(-3, 3)
BODIES = dict(body(word) for word in ("one", "two", "three"))
digests = st.lists(st.sampled_from(sorted(BODIES)), max_size=2)
values = st.sampled_from([None, True, False, 0, 1, 1.0, 0.5, "1", "", "a\0b", "x" * 600, 2**70, {}, [1]])
metadata = st.dictionaries(st.sampled_from(["a", "b", "b\0"]), values, max_size=2)
events = st.one_of(
    st.builds(
        item,
        st.sampled_from(["a", "bb"]),
        tokens=small,
        excerpt=st.none() | small,
        response=st.none() | st.integers(-3, 4),
        marks=st.sampled_from([(), ("m",), ("m", "n"), ("n", "n")]),
        link=st.sampled_from([None, "l", "call_0123456789", "call_9876543210", "other_543210"]),
        refs=digests.map(tuple),
        time=times,
    ),
    st.builds(patched, a=st.none() | values, b=values | st.dictionaries(st.sampled_from("xy"), st.none() | small)),
    st.builds(other, st.sampled_from(["weather.changed", "call.started"]), st.none() | small, time=times),
    st.builds(created, metadata),
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
        "bodies": digests.map(lambda some: {digest: BODIES[digest] for digest in some}),
        "uses": st.dictionaries(st.sampled_from(["k", "l"]), st.builds(KeyUse, st.just("1"), small, small), max_size=2),
    },
)
creations = st.builds(
    lambda about, rest, fork, some: {
        "events": [created(about), *rest],
        "fork": fork,
        "bodies": {digest: BODIES[digest] for digest in some},
    },
    metadata,
    st.lists(events, max_size=3),
    st.none() | st.builds(Fork, names, st.integers(0, 9)),
    digests,
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
erasures = st.builds(
    Append,
    conversation=names,
    events=st.lists(st.builds(other, st.just("item.erased"), small), max_size=1),
    expected=st.sampled_from(["any", "any", "any", 3]),
    erasures=st.lists(
        st.builds(
            Erasure,
            seq=st.integers(0, 8),
            item=st.sampled_from([None, b"{}", b'"longer than it was"']),
            data=st.none() | st.just(b"{}"),
            flags=small,
            sum=small,
        ),
        max_size=2,
    ),
)
orders = st.sampled_from(["-updated", "-created", "created"])
where = st.none() | st.dictionaries(
    st.sampled_from(["a", "b", "b\0"]), values.filter(lambda value: not isinstance(value, dict | list)), max_size=2
)
readers = st.sampled_from(["search", "mail"])
owners = st.sampled_from("pq")
calls = st.one_of(
    st.tuples(st.just("append"), names, creations),
    st.tuples(st.just("append"), names, creations),
    st.tuples(st.just("append"), names, appends),
    st.tuples(st.just("append"), names, appends),
    st.tuples(st.just("read"), names, st.lists(queries, max_size=3)),
    st.tuples(st.just("key"), names, st.sampled_from(["k", "l"])),
    st.tuples(st.just("keys"), names),
    st.tuples(st.just("body"), st.sampled_from(sorted(BODIES))),
    st.tuples(st.just("heads"), orders, small, where),
    st.tuples(st.just("forks"), names),
    st.tuples(st.just("renew"), names, st.integers(0, 3), seconds),
    st.tuples(st.just("erase"), st.lists(erasures, max_size=2)),
    st.tuples(st.just("delete"), names, st.sampled_from(["refuse", "keep", "keep"])),
    st.tuples(st.just("collect"), seconds),
    st.tuples(st.just("feed"), st.none() | small, st.integers(0, 20)),
    st.tuples(st.just("stand"), readers, owners, seconds),
    st.tuples(st.just("ack"), readers, owners, small),
    st.tuples(st.just("resign"), readers, owners),
)


def comparable(answer):
    """Return an answer without what may differ: positions, what a lease has left, the words of an error."""
    match answer:
        case TurnlogError():
            return [type(answer), *(getattr(answer, name, None) for name in ("expected", "actual", "deleted"))]
        case list():  # heads, forks, the feed
            return [comparable(one) for one in answer]
        case Snapshot():
            return comparable(answer.head), [comparable(list(found)) for found in answer.records]
        case Head(lease=lease) if lease is not None:
            return replace(answer, lease=replace(lease, remaining=float(lease.remaining > 0)))
        case Record():
            return replace(answer, position=Position(""))
        case Fed():
            return comparable(answer.record), answer.metadata
        case Erased():
            return dict(answer.versions), answer.bodies
        case _:
            return answer


async def place(store, number):
    """Return the position of an event by its number in the feed, of the last one if there are fewer."""
    fed = await store.feed(None, number)
    return fed[-1].record.position if fed else None


def told(query, records):
    """Return the records that answer a query, without what a query by tokens may leave out."""
    return records if query.tokens is None else [replace(one, time=0, sum=0) for one in records]


async def said(store, call):
    match call:
        case ("append", name, arguments):
            return await store.append(name, **arguments)
        case ("read", name, asked):
            snapshot = await store.read(name, *asked)
            return snapshot and replace(snapshot, records=[*map(told, asked, snapshot.records)])
        case ("heads", order, limit, which):
            return list(await store.heads(order=order, limit=limit, where=which))
        case ("delete", name, forks):
            return await store.delete(name, tombstone(), forks=forks)
        case ("feed", after, limit):
            return await fed(store, after, limit)
        case ("stand", name, owner, length):
            standing = await store.stand(name, owner, length)
            return standing and len(await store.feed(standing.position, 1000))
        case ("ack", name, owner, number):
            position = await place(store, number)
            return position and await store.ack(name, owner, position)
        case (verb, *arguments):
            return await getattr(store, verb)(*arguments)


async def fed(store, after, limit):
    found = await store.feed(None if after is None else await place(store, after), limit)
    assert not found or len(found) == limit or found[-1].record.position == await store.end()
    return list(found)


async def answer(store, call):
    try:
        return await said(store, call)
    except TurnlogError as error:
        return error


class Ticks:
    """A clock that the test moves on."""

    def __init__(self):
        self.step = 1_000

    def __call__(self):
        return moment(self.step)


async def agree(store, history, clock):
    """Make the same calls to the memory store and to another one, which is closed in the end."""
    memory = MemoryStore(clock)
    try:
        for call in history:
            clock.step += 1
            assert comparable(await answer(memory, call)) == comparable(await answer(store, call)), call
        for name in "cdefg":
            call = ("read", name, [Query(), Query(reverse=True), Query(mark="m"), Query(link="l")])
            assert comparable(await answer(memory, call)) == comparable(await answer(store, call)), name
    finally:
        await store.close()


@given(st.lists(calls, max_size=25))
def test_memory_and_sqlite_answer_alike(history):
    async def main(path):
        clock = Ticks()
        await agree(await SqliteStore.open(path, durability="normal", clock=clock), history, clock)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "log.db"))


@given(st.lists(calls, max_size=25))
@settings(max_examples=settings.default.max_examples // 4)
def test_memory_and_postgresql_answer_alike(pg_url, history):
    async def main():
        clock = Ticks()
        await agree(await PostgresStore.open(pg_url, schema=next(schemas), clock=clock), history, clock)

    asyncio.run(main())
