"""What windows cost, counted: as much for a log of thirty thousand events as for one of three hundred."""

from collections import Counter
from contextlib import asynccontextmanager
from functools import cache

import pytest

from instant_model import echo
from long_logs import TURN, item, turn
from small_logs import output
from turnlog import Budget
from turnlog.engine.canonical import encode
from turnlog.engine.codec import event
from turnlog.engine.engine import Engine
from turnlog.engine.events import (
    PINNED,
    ContextCompacted,
    ConversationCreated,
    HistoryRewound,
    StandIn,
)
from turnlog.engine.manifest import stored
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.turns.crew import Crew

pytestmark = pytest.mark.anyio

SIZES = (300, 3_000, 30_000)
BUDGET = Budget(400)
"""Five turns, so that four times as much is still less than the shortest log."""


# -- a store that counts


class Counting:
    """A store that hands everything on to another and counts what goes through."""

    def __init__(self, store):
        self._store = store
        self.counts = Counter()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, conversation, events, **more):
        self.counts["appends"] += 1
        self.counts["written"] += len(events)
        return await self._store.append(conversation, events, **more)

    async def read(self, conversation, *queries):
        snapshot = await self._store.read(conversation, *queries)
        self.counts["reads"] += 1
        self.counts["queries"] += len(queries)
        self.counts["rows"] += sum(map(len, snapshot.records))
        return snapshot

    async def key(self, conversation, name):
        self.counts["keys"] += 1
        return await self._store.key(conversation, name)

    def taken(self):
        """Return what was counted since the last time."""
        counts, self.counts = self.counts, Counter()
        return dict(counts)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, db):
    made = MemoryStore() if request.param == "memory" else await SqliteStore.open(db, durability="normal")
    yield Counting(made)
    await made.close()


@asynccontextmanager
async def opened(store):
    """Open an engine that knows nothing yet, on a store that stays open."""
    crew = Crew()
    yield Engine(store, crew, lease=60.0, budget=BUDGET, policy=None, ids=None)
    await crew.close()


# -- long logs


# Kept, as making events takes longer than storing them.
@cache
def turns(start, end):
    """Return the events of turns for one append."""
    events = []
    for number in range(start, end, TURN):
        events += turn(number, len(events))
    return events


@cache
def by_hand(start, end):
    """Return questions and answers that a caller appends while no model is asked."""
    events = []
    for number in range(start, end, 2):
        events.append(item({"role": "user", "content": f"question {number}"}))
        events.append(item({"role": "assistant", "content": "It rains."}, -(len(events) + 1)))
    return events


async def grown(store, size, name, kind):
    """Write a conversation of so many events, with large appends: a pinned message, one turn, and events of a kind."""
    first = [event(ConversationCreated()), item({"role": "system", "content": "Be brief."}, flags=PINNED)]
    await store.append(name, first + turn("first", len(first)))
    for start in range(TURN, size, 1_000):
        await store.append(name, kind(start, min(size, start + 1_000)))
    store.taken()


async def costs(store, work, kind=turns):
    """Return what a piece of work costs on a log of each size, given an engine that knows nothing yet."""
    found = []
    for size in SIZES:
        name = f"c{size}"
        await grown(store, size, name, kind)
        async with opened(store) as engine:
            found.append(await work(store, await engine.get(name), size))
    return found


def even(found):
    return all(one == found[0] for one in found)


# -- windows


async def test_the_first_window_of_a_log_costs_what_it_holds(store):
    async def first(store, c, size):
        store.taken()
        window = await c.window(BUDGET, model=echo(BUDGET))
        assert window.tokens.total <= BUDGET.context
        return store.taken(), len(window.items)

    found = await costs(store, first)
    assert even(found)
    assert found[0][0]["reads"] == 2  # it ends within a response, whose beginning is read too
    assert found[0][0]["rows"] <= 7 * TURN


async def test_so_does_that_of_a_log_in_which_no_model_was_asked_for_long(store):
    async def first(store, c, size):
        store.taken()
        window = await c.window(BUDGET, model=echo(BUDGET))
        return store.taken(), len(window.items)

    found = await costs(store, first, by_hand)
    assert even(found)
    assert found[0][0]["rows"] <= 256 + 3 * TURN  # a page behind the last request, where its end is; and what fits


async def test_a_window_for_nobody_in_particular_costs_a_few_times_as_much(store):
    async def first(store, c, size):
        store.taken()
        return len((await c.window(BUDGET)).items), store.taken()

    found = await costs(store, first)
    assert even(found)
    assert found[0][1]["rows"] <= 5 * 5 * TURN


async def test_a_window_that_goes_on_from_a_cut_reads_what_came_since(store):
    async def second(store, c, size):
        await c.respond(echo(BUDGET), "Hello")
        async with opened(store) as engine:
            c = await engine.get(c.id)
            store.taken()
            window = await c.window(BUDGET, model=echo(BUDGET))
            return store.taken(), len(window.items)

    found = await costs(store, second)
    assert even(found)
    assert found[0][0]["reads"] == 1
    assert found[0][0]["rows"] <= 7 * TURN  # what the budget holds and an eighth, wherever the cut is


async def test_the_next_window_of_a_live_history_reads_what_is_new_and_nothing_else(store):
    async def again(store, c, size):
        await c.window(BUDGET)
        await c._engine.store.append(c.id, turn("new", 0))  # as another process would
        store.taken()
        await c.window(BUDGET)
        return store.taken()

    found = await costs(store, again)
    assert even(found)
    assert found[0]["rows"] == TURN


async def test_a_window_of_which_nothing_is_new_reads_nothing(store):
    async def again(store, c, size):
        await c.window(BUDGET)
        store.taken()
        await c.window(BUDGET)
        return store.taken()

    assert [one["rows"] for one in await costs(store, again)] == [0, 0, 0]


async def test_an_old_window_costs_what_it_held(store):
    async def at(store, c, size):
        store.taken()
        window = await c.window(BUDGET, at=size // 2)
        return store.taken(), len(window.items)

    assert even(await costs(store, at))


# -- turns and appends


async def test_a_turn_costs_the_same_on_every_log(store):
    async def respond(store, c, size):
        store.taken()
        await c.respond(echo(BUDGET), "Hello")
        cold = store.taken()
        await c.respond(echo(BUDGET), "Again")
        return cold, store.taken()

    found = await costs(store, respond)
    assert even(found)
    cold, warm = found[0]
    assert cold["appends"] == warm["appends"] == 2
    assert warm["rows"] == 0


async def test_an_append_costs_what_is_appended(store):
    async def append(store, c, size):
        store.taken()
        await c.append("one")
        one = store.taken()
        await c.append(*map(str, range(100)))
        return one, store.taken()

    found = await costs(store, append)
    assert even(found)
    assert found[0] == ({"appends": 1, "written": 1}, {"appends": 1, "written": 100})


@pytest.mark.parametrize("value", [output("new"), {"role": "system", "content": "Be kind."}], ids=["output", "system"])
async def test_an_append_that_depends_on_what_is_there_costs_the_same_on_every_log(store, value):
    async def append(store, c, size):
        await c._engine.store.append(c.id, turn("new", 0)[:5])
        store.taken()
        await c.append(value)
        return store.taken()

    found = await costs(store, append)
    assert even(found)
    assert found[0].get("rows", 0) <= 2 * TURN


async def test_whether_an_output_is_the_first_is_decided_where_it_is_appended(store):
    async def append(store, c, size):
        await c._engine.store.append(c.id, turn("new", 0)[:5])
        store.taken()
        await c.append(output("new"))
        return store.taken()

    assert await costs(store, append) == [{"appends": 1, "written": 1}] * len(SIZES)


async def test_a_manifest_is_as_long_as_its_window(store):
    async def length(store, c, size):
        window = await c.window(BUDGET)
        manifest = stored(window.manifest)
        return len(manifest["runs"]), len(manifest["rules"]), len(encode(manifest))

    found = await costs(store, length)
    assert even([runs_and_rules for *runs_and_rules, _ in found])
    assert found[-1][-1] - found[0][-1] < 40  # seqs of more digits


# -- where the path was changed


async def test_a_compaction_is_found_however_far_back_it_lies(store):
    async def compacted(store, c, size):
        said = ContextCompacted(first=1, last=2 + size // 5, stand_in=[StandIn(seq=3)], method="remote")
        await c._engine.store.append(c.id, [event(said, tokens=20)])
        await c._engine.store.append(c.id, turn("new", 0) + turn("newer", TURN))
        store.taken()
        window = await c.window(BUDGET)
        assert window.manifest.base == size + 3
        return store.taken(), len(window.items)

    assert even(await costs(store, compacted))


async def test_of_what_was_rewound_no_more_is_read_than_a_window_holds(store):
    async def rewound(store, c, size):
        await c._engine.store.append(c.id, [event(HistoryRewound(to=2 + 2 * TURN))])
        await c._engine.store.append(c.id, turn("new", 0))
        store.taken()
        window = await c.window(BUDGET)
        assert len(window.items) == 1 + 3 * 4
        return store.taken()

    found = await costs(store, rewound)
    assert even(found)
    assert found[0]["rows"] <= 9 * TURN
