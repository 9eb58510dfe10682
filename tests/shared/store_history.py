"""A history of calls that change a store in every way, and what a store looks like after each of them.

Run on the memory store it says how any store has to look; a store that was stopped in the middle has to look as after
one of the calls.
"""

import hashlib
from functools import partial

from msgspec.structs import replace

from turnlog.engine.codec import event
from turnlog.engine.events import ItemErased
from turnlog.engine.ids import Position, moment
from turnlog.engine.log import Append, Erasure, Fork, Key, Query, Release, Take
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.contract_feeding import follows
from turnlog.engine.testing.contract_kit import created, item, patched, tombstone

NAMES = ("c", "d", "e", "f")
KEYS = ("one", "two", "three")
BODIES = {hashlib.sha256(data).hexdigest(): data for data in (b'"one"', b'"two"' * 3000, b'"three"')}
ONE, TWO, THREE = BODIES


def clock():
    return moment(1_700_000_000_000_000)


def body(digest):
    return {"bodies": {digest: BODIES[digest]}}


def append(name, *events, **more):
    return lambda store: store.append(name, events, **more)


def erase(*places):
    def erasing(name, seqs):
        events = [event(ItemErased(seq=seq, reason="a test")) for seq in seqs]
        return Append(conversation=name, events=events, erasures=[Erasure(seq=seq, flags=128) for seq in seqs])

    return lambda store: store.erase([erasing(name, seqs) for name, seqs in places])


def delete(name):
    return lambda store: store.delete(name, tombstone(), forks="keep")


def texts(word, number, size=20):
    return [item(f"{word} {index} " + "x" * size, marks=("m",), link=word) for index in range(number)]


def crowd(name, word, number):
    return [append(name, *texts(f"{word} {index}", 1 + index % 3)) for index in range(number)]


# Calls in one list are made at the same time; their order is that of the list.
HISTORY = (
    [append("c", created({"user": "ada"}), *texts("first", 2), key=Key("one", "d"))],
    [append("c", item("small"), expected=3)],
    [append("c", item("with bodies", refs=(ONE,)), key=Key("two", "d"), bodies=dict(list(BODIES.items())[:2]))],
    [append("d", created({"user": "bob"}), *texts("many", 30, 700))],
    crowd("d", "crowd", 7),
    [append("c", patched(user="eve", more={"a": 1}), patched(user=None))],
    [append("e", created(), *texts("fork", 3), fork=Fork("c", 5), key=Key("three", "d"))],
    [append("f", created(), item("fork of a fork", refs=(THREE,)), fork=Fork("e", 7), **body(THREE))],
    [append("c", item("turn"), lease=Take(owner="o", seconds=1e6, turn=-1))],
    [append("c", *texts("a long turn", 3, 9000), fence=1, lease=Release())],
    [erase(("c", [2, 5]), ("e", []), ("f", []))],
    crowd("e", "meanwhile", 4),
    [append("d", *texts("large", 2, 60_000))],
    [delete("c")],
    [append("f", item("on"), bodies={TWO: BODIES[TWO]})],
    [erase(("f", [3]))],
    [append("d", item("small again"))],
    [delete("e")],
    [delete("f")],
    [append("d", *texts("the end", 2))],
)


async def look(store):
    """Return all that can be seen of a store, but for positions and what a lease has left."""
    seen = {}
    for name in NAMES:
        seen[name] = await conversation(store, name)
        for key in KEYS:
            seen[name, key] = await store.key(name, key)
    for digest in BODIES:
        seen[digest] = await store.body(digest)
    seen["listed"] = [head.conversation for head in await store.heads(order="created")]
    seen["bob's"] = [head.conversation for head in await store.heads(where={"user": "bob"})]
    fed = await store.feed(None, 10_000)
    follows(fed)
    # Conversations may come in any order, as long as each one's events come in their own.
    seen["fed"] = sorted((one.record.conversation, one.record.seq) for one in fed)
    return seen


async def conversation(store, name):
    """Return a conversation's head, events, marked and linked events, and forks."""
    snapshot = await store.read(name, Query(), Query(mark="m"), Query(link="first"))
    if snapshot is None:
        return None
    head, (records, *found) = snapshot.head, snapshot.records
    lease = head.lease and replace(head.lease, remaining=0.0)
    own = [replace(record, position=Position("")) for record in records]
    seqs = [[record.seq for record in each] for each in found]
    return replace(head, lease=lease), own, seqs, [fork.conversation for fork in await store.forks(name)]


async def looks():
    """Return what a store looks like before the first call and after each one, and after how many each list ends."""
    store = MemoryStore(clock)
    seen, ends = [await look(store)], []
    for calls in HISTORY:
        for call in calls:
            await call(store)
            seen.append(await look(store))
        ends.append(len(seen) - 1)
    return seen, ends


async def make(store, calls, together):
    """Make the calls of one list at the same time."""
    results = await together(*(partial(call, store) for call in calls))
    for result in results:
        if isinstance(result, Exception):
            raise result
