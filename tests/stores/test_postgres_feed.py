"""The feed of the PostgreSQL store: no gap when transactions commit out of order; and word of appends, as a hint."""

import random
import time
from collections import defaultdict

import anyio
import pytest
from psycopg_pool import AsyncConnectionPool

from pg_talk import opened, proxied, rows, stranger
from turnlog import open_engine
from turnlog.engine import followers
from turnlog.engine.errors import Invalid, StoreError
from turnlog.engine.log import Query
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.postgres_link import Session
from turnlog.engine.testing.contract_kit import created, fails, item, started, tombstone

pytestmark = pytest.mark.anyio


def names(fed):
    return [(one.record.conversation, one.record.seq) for one in fed]


async def whole(store, after=None, limit=3):
    """Read the feed, a few events at a time."""
    found = []
    while page := await store.feed(after, limit):
        found += page
        after = page[-1].record.position
    return found


# -- order


async def test_the_feed_stops_at_the_oldest_transaction_that_runs(pg_url, schema):
    async with opened(pg_url, schema) as store, stranger(pg_url) as other:
        await started(store, "c", "one")
        end = await store.end()
        await other.execute("BEGIN")
        await other.execute("SELECT pg_current_xact_id()")
        await started(store, "d", "two")
        await store.append("c", [item("three")])
        assert names(await whole(store)) == [("c", 1), ("c", 2)], "it may still write earlier events"
        assert await store.end() == end
        assert len((await store.read("d", Query())).records[0]) == 2, "who reads the conversation sees them at once"
        await other.execute("ROLLBACK")
        assert names(await whole(store, end)) == [("d", 1), ("d", 2), ("c", 3)]


class Gate:
    """Holds commits back, by the conversation that is written to."""

    def __init__(self, monkeypatch):
        self.held = defaultdict(anyio.Event)
        self.come = defaultdict(anyio.Event)
        original = Session.commit

        async def commit(session):
            name = session.gate if hasattr(session, "gate") else ""
            if name in self.held:
                self.come[name].set()
                await self.held[name].wait()
            await original(session)

        monkeypatch.setattr(Session, "commit", commit)
        asked = Session.ask

        async def ask(session, name, values=None):
            if name == "insert_events":
                session.gate = values["conversation"][0]
            return await asked(session, name, values)

        monkeypatch.setattr(Session, "ask", ask)

    def hold(self, name):
        self.held[name] = anyio.Event()
        return self.held[name]


async def test_a_transaction_that_commits_late_leaves_no_gap(pg_url, schema, monkeypatch):
    gate = Gate(monkeypatch)
    async with opened(pg_url, schema) as one, opened(pg_url, schema) as two, anyio.create_task_group() as group:
        for name in ("early", "late"):
            await started(one, name)
        end = await two.end()
        go = gate.hold("late")
        group.start_soon(one.append, "late", [item("begun first")])
        await gate.come["late"].wait()
        # Its events are there, in a transaction that has an older number than what is committed now.
        await two.append("early", [item("committed first")])
        await two.append("early", [item("and more")])
        assert await two.feed(end, 10) == []
        go.set()
        while not (fed := await two.feed(end, 10)):
            await anyio.sleep(0.01)
        assert names(fed) == [("late", 2), ("early", 2), ("early", 3)]


async def test_a_conversation_is_in_order_whoever_began_first(pg_url, schema):
    """A batch that began before another transaction may write to a conversation after it."""
    async with opened(pg_url, schema) as one, opened(pg_url, schema) as two, stranger(pg_url) as other:
        batch = [name for name in (f"b{number}" for number in range(100)) if one._lane(name) is one._lane("b0")][:3]
        _, middle, last = sorted(batch)
        for name in batch:
            await started(two, name)
        await other.execute("BEGIN")
        await other.execute(f'SELECT FROM "{schema}".conversations WHERE id = %s FOR UPDATE'.encode(), [middle])
        async with anyio.create_task_group() as group:
            for name in batch:
                group.start_soon(one.append, name, [item("began first")])
            while await rows(pg_url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == [(0,)]:
                await anyio.sleep(0.01)
            # The batch holds the first and waits for the one in the middle; the last is free.
            await two.append(last, [item("wrote first")])
            await other.execute("ROLLBACK")
        fed = await whole(two)
        for name in batch:
            seqs = [seq for conversation, seq in names(fed) if conversation == name]
            assert seqs == list(range(1, len(seqs) + 1))
        assert [one.record.item for one in fed if one.record.conversation == last][1:] == [
            item("wrote first").item,
            item("began first").item,
        ]
        assert len(fed) == 7


async def followed(store, found, done):
    """Read the feed until there is nothing more to come."""
    after = None
    while True:
        ended = done.is_set()
        page = await store.feed(after, 7)
        found.extend(page)
        if page:
            after = page[-1].record.position
        elif ended:
            return
        else:
            await anyio.sleep(0.001)


async def test_followers_miss_nothing_whenever_transactions_commit(pg_url, schema, monkeypatch, seed):
    chance = random.Random(seed)
    original = Session.commit

    async def commit(session):
        await anyio.sleep(chance.choice([0, 0, 0.005, 0.02]))
        await original(session)

    monkeypatch.setattr(Session, "commit", commit)
    async with opened(pg_url, schema) as one, opened(pg_url, schema) as two, opened(pg_url, schema) as three:
        told = []
        done = anyio.Event()

        async def writer(store, number):
            for step in range(15):
                name = f"c{chance.randrange(6)}"
                appended = await store.append(name, [item(f"{number}.{step}")] * chance.randrange(1, 4))
                told.extend((name, seq) for seq in range(appended.first, appended.last + 1))

        for number in range(6):
            await one.append(f"c{number}", [created()])
        found = [[], []]
        async with anyio.create_task_group() as group:
            for each in found:
                group.start_soon(followed, three, each, done)
            async with anyio.create_task_group() as writers:
                for number in range(8):
                    writers.start_soon(writer, (one, two)[number % 2], number)
            done.set()
        for each in found:
            assert len(names(each)) == len(set(names(each)))
            assert set(names(each)) == {*told, *((f"c{number}", 1) for number in range(6))}
            for number in range(6):
                seqs = [seq for name, seq in names(each) if name == f"c{number}"]
                assert seqs == sorted(seqs)
        assert names(found[0]) == names(found[1])


async def test_places_go_on_when_the_tables_are_moved_to_another_server(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store, "c", "one")
    # As after a restored dump: the server's transactions have smaller numbers than those in the tables.
    await rows(pg_url, f'UPDATE "{schema}".events SET place = place + 1000000')
    await rows(pg_url, f'UPDATE "{schema}".conversations SET place = place + 1000000')
    error = await fails(StoreError, PostgresStore.open(pg_url, schema=schema, migrate=False))
    assert "moved" in str(error)
    assert "migrate=True" in str(error)
    async with opened(pg_url, schema) as store:
        fed = await whole(store)
        assert names(fed) == [("c", 1), ("c", 2)]
        await started(store, "d", "two")
        await store.append("c", [item("three")])
        assert names(await whole(store, fed[-1].record.position)) == [("d", 1), ("d", 2), ("c", 3)]
    async with opened(pg_url, schema, migrate=False) as store:
        assert len(await whole(store)) == 5


async def test_positions_are_those_of_a_feed(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        for wrong in ("", "1", "x.y", "1.2.3", "-1.0", "9" * 40):
            error = await fails(Invalid, store.feed(wrong, 1))
            assert repr(wrong) in str(error)


async def test_a_deleted_conversation_leaves_its_tombstone_in_the_feed(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store, "c", *map(str, range(20)))
        await started(store, "d", "x")
        await store.delete("c", tombstone(), forks="refuse")
        assert names(await whole(store, limit=1)) == [("d", 1), ("d", 2), ("c", 22)]
        assert await store.end() == (await whole(store))[-1].record.position


# -- word of appends


async def test_news_come_at_once(pg_url, schema):
    async with opened(pg_url, schema) as writer, opened(pg_url, schema) as reader:
        await started(writer)
        heard = await reader.wait_for_news(10)
        for number in range(3):
            async with anyio.create_task_group() as group:
                begun = time.monotonic()
                group.start_soon(writer.append, "c", [item(str(number))])
                news = await reader.wait_for_news(10, heard)
                assert news > heard
                assert time.monotonic() - begun < 5
            heard = news


async def test_news_between_two_looks_are_not_missed(pg_url, schema):
    async with opened(pg_url, schema) as writer, opened(pg_url, schema) as reader:
        await started(writer)
        heard = await reader.wait_for_news(10)
        for _ in range(20):
            await writer.append("c", [item("x")])
        begun = time.monotonic()
        assert await reader.wait_for_news(10, heard) > heard
        assert time.monotonic() - begun < 5


async def test_the_last_of_many_appends_is_told_of(pg_url, schema):
    async with opened(pg_url, schema) as writer, opened(pg_url, schema) as reader:
        await started(writer)
        heard = await reader.wait_for_news(10)
        seen, after = 0, None

        async def writing():
            for number in range(30):
                await writer.append("c", [item(str(number))])
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as group:
            group.start_soon(writing)
            begun = time.monotonic()
            while seen < 31:
                for one in await reader.feed(after, 100):
                    seen, after = one.record.seq, one.record.position
                if seen < 31:
                    heard = await reader.wait_for_news(10, heard)
            assert time.monotonic() - begun < 5, "no wait came to its end"


async def test_many_appends_are_told_of_a_few_times(pg_url, schema):
    async with opened(pg_url, schema) as store, stranger(pg_url) as other:
        await started(store)
        await anyio.sleep(0.1)
        await other.execute(f'LISTEN "{store._news._channel}"'.encode())
        begun = time.monotonic()
        for number in range(100):
            await store.append("c", [item(str(number))])
        most = 2 + (time.monotonic() - begun) / 0.05
        await anyio.sleep(0.1)
        said = [one async for one in other.notifies(timeout=0.2)]
        assert 1 <= len(said) <= most


async def test_what_was_appended_before_is_in_the_feed_while_others_are_told(pg_url, schema):
    async with opened(pg_url, schema) as store:
        slow = b"SELECT pg_notify(%(channel)s, ''), pg_current_xact_id(), pg_sleep(0.1)"
        store._link._sql = dict(store._link._sql, hint=slow)
        for number in range(5):
            await started(store, f"c{number}")
            await anyio.sleep(0.02)
            await store.append(f"c{number}", [item("x")])
            assert len(await store.feed(None, 100)) == 2 * number + 2
            assert await store.end() == (await store.feed(None, 100))[-1].record.position


async def test_all_who_wait_hear(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        heard = await store.wait_for_news(10)
        results = []

        async def wait():
            results.append(await store.wait_for_news(10, heard))

        begun = time.monotonic()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(wait)
            await anyio.sleep(0.05)
            await store.append("c", [item("x")])
        assert time.monotonic() - begun < 5
        assert all(result > heard for result in results)


async def test_without_news_a_wait_ends_by_itself(pg_url, schema):
    async with opened(pg_url, schema) as store:
        heard = await store.wait_for_news(10)
        begun = time.monotonic()
        assert await store.wait_for_news(0.1, heard) == heard
        assert 0.05 < time.monotonic() - begun < 5


async def test_a_listener_that_lost_its_connection_listens_again(pg_url, schema, monkeypatch):
    monkeypatch.setattr("turnlog.engine.stores.postgres_news._RETRY", 0.1)
    async with opened(pg_url, schema) as store:
        await started(store)
        heard = await store.wait_for_news(10)
        await rows(pg_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        await store.wait_for_news(0.2, heard)
        await anyio.sleep(0.1)
        heard = await store.wait_for_news(10)
        async with anyio.create_task_group() as group:
            group.start_soon(store.append, "c", [item("x")])
            begun = time.monotonic()
            assert await store.wait_for_news(10, heard) > heard
            assert time.monotonic() - begun < 5


async def test_who_cannot_listen_waits(pg_url, schema, tmp_path):
    with proxied(pg_url, tmp_path) as (url, proxy):
        async with opened(url, schema, patience=1.0) as store:
            await started(store)
            proxy.refusing = True
            begun = time.monotonic()
            await store.wait_for_news(0.1)
            await store.wait_for_news(0.1)
            assert time.monotonic() - begun >= 0.2
            assert len(await store.feed(None, 10)) == 1


async def test_a_listener_takes_no_connection_of_a_given_pool(pg_url, schema):
    async with (
        AsyncConnectionPool(pg_url, min_size=1, max_size=1, open=False) as pool,
        opened(pg_url, schema, pool=pool) as store,
    ):
        await started(store)
        async with anyio.create_task_group() as group:
            group.start_soon(store.wait_for_news, 10, await store.wait_for_news(10))
            await anyio.sleep(0.05)
            await store.append("c", [item("x")])


async def test_closing_ends_what_listens(pg_url, schema):
    store = await PostgresStore.open(pg_url, schema=schema)
    heard = await store.wait_for_news(10)
    async with anyio.create_task_group() as group:
        group.start_soon(store.wait_for_news, 0.3, heard)
        await anyio.sleep(0.05)
        await store.close()
    assert await rows(pg_url, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'") == [(0,)]


async def test_a_store_that_hears_of_appends_wakes_its_followers(pg_url, schema, monkeypatch):
    """Word comes by the database, not by looking again."""
    monkeypatch.setattr(followers, "_POLL", 60.0)
    async with (
        open_engine(pg_url, schema=schema) as one,
        open_engine(pg_url, schema=schema) as other,
        one.follow() as batches,
    ):
        async with anyio.create_task_group() as group:
            reading = aiter(batches)

            async def write():
                await anyio.sleep(0.5)
                await other.create()

            group.start_soon(write)
            with anyio.fail_after(30):
                assert (await anext(reading))[0].type == "conversation.created"
