"""Servers that cannot be reached, refuse, or end connections: a typed error, nothing twice or in part, and then on."""

import asyncio
import time
import traceback
from functools import partial

import anyio
import pytest
from psycopg_pool import AsyncConnectionPool

from pg_talk import opened, proxied, role, rows, stranger
from turnlog.engine.errors import CorruptLog, Invalid, StoreError, VersionConflict
from turnlog.engine.log import Append, Appended, Erasure, Key, Query
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.testing.cancelling import HOW, everywhere
from turnlog.engine.testing.contract_kit import (
    body,
    created,
    fails,
    forked,
    item,
    records_of,
    started,
    texts_of,
    together,
    tombstone,
)

pytestmark = pytest.mark.anyio


async def refused(attempt, *parts, retryable=False):
    """See to it that an attempt fails with a StoreError that has all parts."""
    error = await fails(StoreError, attempt)
    for part in parts:
        assert part in str(error)
    assert error.retryable == retryable, error
    return error


# -- servers that cannot be used


@pytest.mark.parametrize("url", ["postgresql:///db?host=/nowhere", "postgresql://u:secret@127.0.0.1:9/db"])
async def test_a_server_that_is_not_there(url):
    begun = time.monotonic()
    error = await refused(PostgresStore.open(url), "cannot be reached", "try again", retryable=True)
    assert time.monotonic() - begun < 5
    assert "secret" not in str(error)


async def test_a_server_that_goes_away_and_comes_back(pg_url, schema, tmp_path):
    with proxied(pg_url, tmp_path) as (url, proxy):
        async with opened(url, schema, patience=1.0) as store:
            await _away_and_back(pg_url, store, proxy)


async def _away_and_back(pg_url, store, proxy):
    await started(store)
    proxy.refusing = True
    await rows(pg_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    for attempt in (store.append("c", [item("lost")]), store.read("c"), store.heads(), store.feed(None, 1)):
        await refused(attempt, "try again", retryable=True)
    proxy.refusing = False
    await store.append("c", [item("found")])
    assert await texts_of(store) == ["found"]


async def test_databases_and_users_that_are_not_there(pg_url):
    await refused(
        PostgresStore.open(pg_url.replace("/postgres?", "/nowhere?")), "nowhere", "there is no such database; create it"
    )
    await refused(
        PostgresStore.open(pg_url.replace("turnlog@", "nobody@")), "nobody", "the server refuses this user; check"
    )
    for wrong in ("postgresql://[", "postgresql://db/chat?ssl=require"):
        await fails(Invalid, PostgresStore.open(wrong))


@pytest.mark.parametrize(
    "url",
    [
        *(f"postgresql://ada:se{sign}cret@db/chat" for sign in ("/", "@", "%", "%zz", '"@"')),
        "postgresql://ada:1/secret@db/chat",
        "postgresql://ada:secret@[::1/chat",
        "postgresql://ada:secret@db/chat?secret",
        "postgresql://ada:secret@db/chat?secret=x",
        "postgresql://db/chat?port=secret",
    ],
)
async def test_an_url_that_cannot_be_read_shows_no_password(url):
    error = await fails(Invalid, PostgresStore.open(url))
    assert "the PostgreSQL url cannot be read" in str(error)
    assert "%40 %2F and %25" in str(error)
    for part in ("secret", "cret", "ada"):
        assert part not in "".join(traceback.format_exception(error)).partition("Invalid: ")[2]


async def test_a_database_of_another_encoding(pg_url):
    await rows(pg_url, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    await refused(PostgresStore.open(pg_url.replace("/postgres?", "/ascii?")), "SQL_ASCII", "ENCODING 'UTF8'")


# -- what a server refuses


async def test_a_user_who_may_only_read(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store, "c", "one")
    grants = (
        f'GRANT USAGE ON SCHEMA "{schema}" TO reader',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO reader',
    )
    url = await role(pg_url, "reader", *grants)
    async with opened(url, schema) as store:
        await refused(store.append("c", [item("x")]), "may not", "grant", "42501")
        assert await texts_of(store) == ["one"]
    await refused(PostgresStore.open(url, schema=f"{schema} of nobody"), "may not", "42501")


async def test_a_server_that_is_read_only(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store, "c", "one")
    url = await role(pg_url, "frozen", f'GRANT ALL ON SCHEMA "{schema}" TO frozen')
    await rows(pg_url, f'GRANT ALL ON ALL TABLES IN SCHEMA "{schema}" TO frozen')
    await rows(pg_url, "ALTER ROLE frozen SET default_transaction_read_only = on")
    async with opened(url, schema) as store:
        await refused(store.append("c", [item("x")]), "read-only", "25006")
        await refused(store.renew("c", 1, 1.0), "read-only")
        await refused(store.delete("c", tombstone(), forks="refuse"), "read-only")
        assert await texts_of(store) == ["one"]
        assert len(await store.feed(None, 10)) == 2
    await refused(PostgresStore.open(url, schema=f"{schema} new"), "read-only")


async def test_a_disk_that_is_full(pg_url, schema):
    # The server's own error, raised by a trigger while there is room.
    async with opened(pg_url, schema) as store:
        await started(store)
        await rows(
            pg_url,
            f"""SET search_path = "{schema}";
            CREATE FUNCTION nospace() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END$$;
            CREATE TRIGGER nospace BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION nospace()""",
        )
        results = await together(*(partial(store.append, "c", [item(str(number))]) for number in range(10)))
        for result in results:
            assert isinstance(result, StoreError)
            assert result.retryable
            assert "free some space" in str(result)
        await rows(pg_url, f'DROP TRIGGER nospace ON "{schema}".events')
        await store.append("c", [item("after")])
        assert await texts_of(store) == ["after"]


async def test_a_conversation_that_a_stranger_keeps_locked(pg_url, schema):
    async with opened(pg_url, schema, patience=0.3) as store, stranger(pg_url) as other:
        names = [f"c{number}" for number in range(20)]
        for name in names:
            await started(store, name)
        await other.execute("BEGIN")
        await other.execute(f"SELECT FROM \"{schema}\".conversations WHERE id = 'c7' FOR UPDATE".encode())
        begun = time.monotonic()
        wanted = names + ["c7"] * 50
        results = await together(*(partial(store.append, name, [item("x")]) for name in wanted))
        assert time.monotonic() - begun < 3, "those who want the same are not made to wait one after the other"
        for name, result in zip(wanted, results, strict=True):
            if name == "c7":
                assert isinstance(result, StoreError)
                assert result.retryable
                assert "locked" in str(result)
            else:
                assert isinstance(result, Appended), result
        assert await texts_of(store, "c7") == []
        await other.execute("ROLLBACK")
        await store.append("c7", [item("after")])
        assert await texts_of(store, "c7") == ["after"]


async def test_values_that_no_column_holds_are_one_appends_own(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        odd = {
            "text": [item("x", tokens="seven")],
            "mark": [item("x", marks=("m" * 9000 + str(list(range(2000))),))],
            "object": [item("x", excerpt={"a": 1})],
            "number": [item("x", sum=2**63)],
            "nothing": [item("x", schema=None)],
        }
        attempts = [partial(store.append, name, [created(), *events]) for name, events in odd.items()]
        attempts += [partial(store.append, "c", [item(str(number))]) for number in range(10)]
        results = await together(*attempts)
        assert [type(result) for result in results] == [Invalid] * 5 + [Appended] * 10
        for name in odd:
            assert await store.read(name) is None


async def beside(store, attempt):
    """Make an attempt to append to the conversation c among those to others, see to them, and return its outcome."""
    others = [f"other{number}" for number in range(20)]
    attempts = [partial(store.append, name, [item("x")]) for name in others]
    *before, outcome, after = await together(*attempts, attempt, partial(store.append, others[0], [item("x")]))
    assert [type(one) for one in (*before, after)] == [Appended] * 21
    return outcome


DAMAGE = {
    "version": ("UPDATE conversations SET version = 1 WHERE id = 'c'", "events behind its version are there already"),
    "mark": ("UPDATE marks SET seq = 3 WHERE mark = 'm'", "rows that are to be new are there already"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_nobody_pays_for_a_conversation_that_is_damaged(pg_url, schema, damage):
    async with opened(pg_url, schema) as store:
        for number in range(20):
            await started(store, f"other{number}")
        await store.append("c", [created(), item("x", marks=("m",))])
        statement, says = DAMAGE[damage]
        await rows(pg_url, f'SET search_path = "{schema}"; {statement}')
        append = partial(store.append, "c", [item("x", marks=("m",))])
        told = [await beside(store, append), await fails(StoreError, append())]
        erasing = [Append(conversation="c", events=[item("x", marks=("m",))], erasures=[Erasure(seq=1, data=b"{}")])]
        told.append(await fails(StoreError, store.erase(erasing)))
        if damage == "version":
            told.append(await fails(StoreError, store.delete("c", tombstone(), forks="refuse")))
        for error in told:
            assert isinstance(error, CorruptLog)
            assert str(error).startswith(f"conversation c: {says}")
            assert str(error).endswith("it was changed after it was written: restore the database from a backup")


async def test_nobody_pays_for_an_append_that_the_server_refuses(pg_url, schema):
    async with opened(pg_url, schema) as store:
        for number in range(20):
            await started(store, f"other{number}")
        await started(store)
        await rows(
            pg_url,
            f"""SET search_path = "{schema}";
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN IF NEW.conversation = 'c' THEN RAISE EXCEPTION 'not for c'; END IF; RETURN NEW; END$$;
            CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()""",
        )
        error = await beside(store, partial(store.append, "c", [item("x")]))
        assert type(error) is StoreError
        assert "not for c" in str(error)
        await rows(pg_url, f'DROP TRIGGER refuse ON "{schema}".events')
        error = await beside(store, partial(store.append, "c", [item("x", link=5)]))
        assert isinstance(error, TypeError)
        error = await beside(store, partial(store.append, "c", [item("x", tokens=None)]))
        assert isinstance(error, Invalid)
        assert str(error).endswith('null value in column "tokens" of relation "events" violates not-null constraint')
        assert (await store.append("c", [item("y")])).version == 2


# -- connections that end


async def test_connections_that_ended_while_idle_are_replaced(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        for number in range(3):
            await together(*(partial(store.read, "c") for _ in range(8)))
            await rows(pg_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            if number == 0:
                await store.append("c", [item("x")])
            elif number == 1:
                assert await store.read("c", Query()) is not None
            else:
                await store.delete("c", tombstone(), forks="refuse")


async def test_a_connection_that_is_ended_at_work_writes_once(pg_url, schema):
    async with opened(pg_url, schema) as store, stranger(pg_url) as other:
        await started(store)
        await other.execute("BEGIN")
        await other.execute(f'SELECT FROM "{schema}".conversations FOR UPDATE'.encode())
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(store.append, "c", [item(str(number))])
            waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while await rows(pg_url, f"SELECT count(*) {waiting}") == [(0,)]:
                await anyio.sleep(0.01)
            await rows(pg_url, f"SELECT pg_terminate_backend(pid) {waiting}")
            await anyio.sleep(0.05)
            await other.execute("ROLLBACK")
        assert sorted(await texts_of(store)) == ["0", "1", "2", "3", "4"]


async def _written(store, verb):
    """Write in some way; return what tells that it was done once."""
    match verb:
        case "append":
            assert (await store.append("c", [item("x")], expected=2)).version == 3
        case "create":
            assert (await store.append("new", [created(), item("x")], key=Key("k", "d"))).version == 2
            assert len(await records_of(store, "new")) == 2
        case "fork":
            assert (await forked(store, "new", "c", 2)).version == 3
        case "delete":
            assert (await store.delete("c", tombstone(), forks="refuse")).versions == {"c": 3}
        case "batch":
            results = await together(*(partial(store.append, "c", [item(str(number))]) for number in range(5)))
            assert sorted(result.first for result in results) == [3, 4, 5, 6, 7]
    return [fed.record.kind for fed in await store.feed(None, 100)]


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("verb", ["append", "create", "fork", "delete", "batch"])
async def test_a_commit_that_is_cut_off_takes_place_once(pg_url, schema, tmp_path, cut, verb):
    kinds = []
    for which in (f"{schema} whole", schema):
        with proxied(pg_url, tmp_path) as (url, proxy):
            async with opened(url, which) as store:
                await started(store, "c", "one")
                proxy.cut = cut if which == schema else None
                kinds.append(await _written(store, verb))
                assert proxy.cuts == (which == schema)
    assert kinds[0] == kinds[1]


async def test_a_commit_that_nobody_can_tell_of(pg_url, schema, tmp_path, monkeypatch):
    monkeypatch.setattr("turnlog.engine.stores.postgres_link._WORD", 0.5)
    with proxied(pg_url, tmp_path) as (url, proxy):
        async with (
            AsyncConnectionPool(url, min_size=1, max_size=1, open=False, reconnect_timeout=0.1) as pool,
            opened(url, schema, pool=pool, patience=1.0) as store,
        ):
            await started(store)
            proxy.cut = "after"
            proxy.refusing = True
            await refused(store.append("c", [item("x")]), "read the log to see")
            proxy.refusing = False
            assert await texts_of(store) == ["x"], "it did take place"
            assert (await store.append("c", [item("y")])).version == 3


async def test_a_conversation_that_somebody_creates_at_the_same_moment(pg_url, schema):
    async with opened(pg_url, schema) as one, opened(pg_url, schema) as two:
        for round_ in range(5):
            names = [f"{round_}.{number}" for number in range(20)]
            attempts = [partial(store.append, name, [created(), item("x")]) for name in names for store in (one, two)]
            results = await together(*attempts)
            for first, second in zip(results[::2], results[1::2], strict=True):
                assert {type(first), type(second)} == {Appended, VersionConflict}


async def test_those_who_want_many_conversations_at_once_do_not_wait_for_each_other(pg_url, schema):
    async with opened(pg_url, schema) as one, opened(pg_url, schema) as two:
        for number in range(10):
            await started(one, f"c{number}", "a")
        digest, data = body("settings")
        done = []

        async def work(store, task):
            for number in range(20):
                name = f"c{(task * 7 + number * 3) % 10}"
                await store.append(name, [item("x")], bodies={digest: data})
                await forked(store, f"f{task}.{number}", name, 2)
                await store.collect(0.0)
                if number % 5 == 4:
                    await store.delete(f"f{task}.{number - 1}", tombstone(), forks="keep")
                done.append(name)

        async with anyio.create_task_group() as group:
            for task in range(6):
                group.start_soon(work, (one, two)[task % 2], task)
        assert len(done) == 120
        assert await one.body(digest) == data
        for number in range(10):
            records = await records_of(one, f"c{number}")
            assert len(records) == 2 + done.count(f"c{number}")


# -- cancellation


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("verb", ["append", "read", "heads", "feed", "delete", "wait_for_news"])
async def test_whoever_is_cancelled_costs_no_connection(pg_url, schema, how, verb):
    async with opened(pg_url, schema) as store:
        await started(store, "c", "one")
        numbers = iter(range(1000))

        async def call():
            match verb:
                case "append":
                    return await store.append("c", [item("x")])
                case "read":
                    return await store.read("c", Query(), Query(reverse=True))
                case "heads":
                    return await store.heads()
                case "feed":
                    return await store.feed(None, 10)
                case "delete":
                    name = f"d{next(numbers)}"
                    await started(store, name)
                    return await store.delete(name, tombstone(), forks="refuse")
                case _:
                    return await store.wait_for_news(0.01)

        async for _ in everywhere(call, how):
            assert await store.read("c") is not None
        stats = store._link.pool.get_stats()
        assert stats["connections_num"] <= 10
        assert stats.get("connections_lost", 0) == stats.get("returns_bad", 0) == 0
    left = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    while await rows(pg_url, left) != [(0,)]:
        await anyio.sleep(0.01)


async def test_a_reader_that_left_does_not_keep_others_waiting(pg_url, schema):
    async with opened(pg_url, schema) as store, stranger(pg_url) as other:
        await started(store)
        await other.execute("BEGIN")
        await other.execute(f'LOCK TABLE "{schema}".conversations IN ACCESS EXCLUSIVE MODE'.encode())
        begun = time.monotonic()
        with anyio.move_on_after(0.1) as scope:
            await store.read("c")
        assert scope.cancelled_caught
        assert time.monotonic() - begun < 2
        await other.execute("ROLLBACK")
        assert await store.read("c") is not None


async def test_closing_waits_for_what_is_under_way(pg_url, schema):
    store = await PostgresStore.open(pg_url, schema=schema)
    await started(store)
    attempts = [partial(store.append, "c", [item(str(number))]) for number in range(5)]
    attempts += [partial(store.read, "c", Query()) for _ in range(20)]
    results = asyncio.ensure_future(together(*attempts))
    await anyio.lowlevel.checkpoint()
    await store.close()
    await store.close()
    for result in await results:
        assert isinstance(result, StoreError) or result is not None
    for late in (store.append("c", [item("x")]), store.read("c"), store.wait_for_news(1.0), store.body("no digest")):
        await refused(late, "the store is closed")
