"""The PostgreSQL store by itself: its tables, urls, pools, texts, erasure; and a whole turn on it."""

from functools import partial
from itertools import product
from urllib.parse import quote

import anyio
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pg_talk import opened, role, rows, stranger
from turnlog import open_engine
from turnlog.engine.errors import Invalid, StoreError
from turnlog.engine.log import Append, Appended, Erasure, Key, KeyUse, Query, Take, limited
from turnlog.engine.stores import postgres_reading
from turnlog.engine.stores.postgres import SCHEMA_VERSION, PostgresStore
from turnlog.engine.stores.postgres_schema import creation
from turnlog.engine.testing.contract_kit import (
    body,
    created,
    fails,
    forked,
    item,
    other,
    patched,
    records_of,
    started,
    texts_of,
    together,
    tombstone,
)

pytestmark = pytest.mark.anyio

TABLES = {
    *("schema_version", "conversations", "spans", "fields", "events", "marks", "keys", "bodies", "refs", "readers"),
}


async def tables(url, schema):
    found = await rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = %s", schema)
    return {name for (name,) in found}


# -- the tables


@pytest.mark.parametrize("name", ["plain", "With Capitals", 'quo"ted', "per%cent", "brace{schema}", "ключ", "select"])
async def test_the_tables_are_in_the_schema(pg_url, schema, name):
    name = f"{name} {schema}"
    async with opened(pg_url, name) as store:
        await store.append("c", [created({"a": 1}), item("x", marks=("m",), link="l")], key=Key("k", "d"))
        assert len(await store.heads(where={"a": 1})) == 1
    assert await tables(pg_url, name) == TABLES
    async with opened(pg_url, name, migrate=False) as store:
        assert await texts_of(store) == ["x"]


@pytest.mark.parametrize("name", ["", "x" * 64, "ł" * 32, "a\0b", 5])
async def test_a_name_that_no_schema_has(pg_url, name):
    await fails(Invalid, PostgresStore.open(pg_url, schema=name))


async def test_the_tables_are_made_once(pg_url, schema):
    stores = await together(*(partial(PostgresStore.open, pg_url, schema=schema) for _ in range(8)))
    for number, store in enumerate(stores):
        await started(store, f"c{number}")
    assert len(await stores[0].heads()) == 8
    for store in stores:
        await store.close()
    assert await rows(pg_url, f'SELECT * FROM "{schema}".schema_version') == [("turnlog", SCHEMA_VERSION, 0)]


async def test_nothing_is_made_when_that_is_forbidden(pg_url, schema):
    error = await fails(StoreError, PostgresStore.open(pg_url, schema=schema, migrate=False))
    assert "migrate=True" in str(error)
    assert not error.retryable
    assert await tables(pg_url, schema) == set()


async def test_the_tables_can_be_made_by_hand(pg_url, schema):
    await rows(pg_url, f'CREATE SCHEMA "{schema}"; {creation(schema)}')
    async with opened(pg_url, schema, migrate=False) as store:
        await started(store)
        assert len(await store.feed(None, 10)) == 1


async def test_every_key_begins_with_the_conversation(pg_url, schema):
    """So that the tables can be distributed by it; but for what belongs to no conversation."""
    async with opened(pg_url, schema):
        keys = await rows(
            pg_url,
            "SELECT t.relname, a.attname FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid"
            " JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]"
            " WHERE i.indisunique AND t.relnamespace = %s::regnamespace",
            f'"{schema}"',
        )
    firsts = {"conversations": "id", "bodies": "digest", "readers": "name", "schema_version": "application"}
    assert len(keys) == len(TABLES)
    assert all(column == firsts.get(table, "conversation") for table, column in keys), keys


async def test_tables_of_another_program_are_left_alone(pg_url, schema):
    for number, table in enumerate(("events (id int)", "schema_version (installed_rank int)", "keys (version int)")):
        await rows(pg_url, f'CREATE SCHEMA "{schema} of {number}"; CREATE TABLE "{schema} of {number}".{table}')
        for migrate in (True, False):
            error = await fails(StoreError, PostgresStore.open(pg_url, schema=f"{schema} of {number}", migrate=migrate))
            assert "another program" in str(error)
            assert 'schema="turnlog"' in str(error)
        assert len(await tables(pg_url, f"{schema} of {number}")) == 1


async def test_a_newer_schema_is_refused(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
    await rows(pg_url, f'UPDATE "{schema}".schema_version SET version = 99')
    error = await fails(StoreError, PostgresStore.open(pg_url, schema=schema))
    assert "99" in str(error)
    assert "upgrade turnlog" in str(error)


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
async def test_a_process_that_is_overtaken_is_refused_before_it_writes(pg_url, schema, version):
    async with opened(pg_url, schema) as store:
        digest, data = body("unused")
        await store.append("c", [created(), item("one")], lease=Take(owner="o", seconds=60.0, turn=-1))
        await store.append("d", [created(), item("x", refs=(digest,))], bodies={digest: data})
        fed = await store.feed(None, 10)
        await store.stand("search", "o", 60.0)
        verbs = {
            "append": lambda: store.append("d", [item("x")]),
            "create": lambda: store.append("new", [created()]),
            "fork": lambda: forked(store, "e", "d", 2),
            "renew": lambda: store.renew("c", 1, 1000.0),
            "erase": lambda: store.erase([Append(conversation="d", events=[other("x")], erasures=[Erasure(seq=2)])]),
            "delete": lambda: store.delete("d", tombstone(), forks="keep"),
            "collect": lambda: store.collect(-1.0),
            "stand": lambda: store.stand("mail", "o", 60.0),
            "ack": lambda: store.ack("search", "o", fed[-1].record.position),
            "resign": lambda: store.resign("search", "o"),
        }
        before = await everything(pg_url, schema)
        await rows(pg_url, f'UPDATE "{schema}".schema_version SET version = {version}')
        for name, call in verbs.items():
            with pytest.raises(StoreError, match=rf"its schema was {SCHEMA_VERSION} when .* is {version} now: restart"):
                await call()
            assert await everything(pg_url, schema) == before, name
        await rows(pg_url, f'UPDATE "{schema}".schema_version SET version = {SCHEMA_VERSION}')
        for call in verbs.values():
            await call()


async def everything(url, schema):
    """Return all rows of a log."""
    return {
        table: sorted(await rows(url, f'SELECT t::text FROM "{schema}".{table} AS t'))
        for table in TABLES
        if table != "schema_version"
    }


async def test_making_the_tables_is_whole_or_not_at_all(pg_url, schema):
    # An index of this name is in the way, which is found out half-way.
    await rows(pg_url, f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}".x (y int)')
    await rows(pg_url, f'CREATE INDEX refs_digest ON "{schema}".x (y)')
    await fails(StoreError, PostgresStore.open(pg_url, schema=schema))
    assert await tables(pg_url, schema) == {"x"}
    await rows(pg_url, f'DROP INDEX "{schema}".refs_digest')
    async with opened(pg_url, schema) as store:
        await started(store)
    assert await tables(pg_url, schema) == {"x", *TABLES}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
async def test_urls_as_other_libraries_write_them(pg_url, schema, scheme):
    url = pg_url.replace("postgresql", scheme, 1)
    async with open_engine(url, schema=schema) as engine:
        await engine.create(id="ada")
    async with open_engine(url, schema=schema, migrate=False) as engine:
        assert (await engine.get("ada")).version == 1


async def test_what_is_for_postgresql_is_for_postgresql(db, pg_url):
    for options in ({"schema": "x"}, {"pool": object()}):
        with pytest.raises(Invalid, match="postgresql://"):
            open_engine(db, **options)
    with pytest.raises(Invalid, match="AsyncConnectionPool"):
        async with open_engine(pg_url, pool=object()):
            pass
    with ConnectionPool(pg_url, open=False) as pool:
        await fails(Invalid, PostgresStore.open(pg_url, pool=pool))


async def test_without_its_driver_the_extra_is_named(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.startswith("turnlog.engine.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Invalid, match=r"pip install \"turnlog\[postgres\]\""):
        open_engine("postgresql://db/chat")


# -- pools


async def test_a_given_pool_is_used_as_it_is_and_not_closed(pg_url, schema):
    async def configure(connection):
        await connection.set_isolation_level(4)  # serializable

    options = {"kwargs": {"row_factory": dict_row, "prepare_threshold": None}, "configure": configure}
    async with AsyncConnectionPool(pg_url, min_size=1, max_size=1, open=False, **options) as pool:
        for _ in range(2):
            async with opened("postgresql://elsewhere/db", schema, pool=pool) as store:
                names = [f"c{number}" for number in range(20)]
                await together(*(partial(started, store, name, "x") for name in names))
                await together(*(partial(store.append, name, [item("y")]) for name in names))
                await together(*(partial(store.read, name, Query()) for name in names))
                await together(*(partial(store.delete, name, tombstone(), forks="refuse") for name in names[:3]))
            schema += " again"
        async with pool.connection() as connection:
            assert not connection.autocommit
            assert await (await connection.execute("SELECT 1 AS one")).fetchone() == {"one": 1}
        assert pool.get_stats()["connections_num"] == 1


async def test_a_pool_that_is_not_open(pg_url, schema):
    pool = AsyncConnectionPool(pg_url, open=False)
    error = await fails(StoreError, PostgresStore.open(pg_url, schema=schema, pool=pool))
    assert "open it before the store" in str(error)


async def test_closing_leaves_no_connection(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        await together(*(partial(store.read, "c") for _ in range(20)))
        await together(*(partial(store.append, "c", [item(str(number))]) for number in range(20)))
        await store.wait_for_news(0.01)
    left = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    while await rows(pg_url, left) != [(0,)]:
        await anyio.sleep(0.01)


@pytest.mark.parametrize(("said", "name"), [("", "turnlog"), ("&application_name=chat", "chat")])
async def test_the_server_knows_who_is_connected(pg_url, schema, said, name):
    async with opened(f"{pg_url}{said}", schema) as store:
        await started(store)
        found = await rows(
            pg_url, "SELECT DISTINCT application_name FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        assert (name,) in found


@pytest.mark.parametrize(
    ("durability", "default", "used"),
    [("full", "on", "on"), ("full", "off", "on"), ("full", "remote_apply", "remote_apply"), ("normal", "on", "off")],
)
async def test_an_append_waits_for_the_disk_unless_it_is_told_not_to(pg_url, schema, durability, default, used):
    url = f"{pg_url}&options={quote(f'-c synchronous_commit={default}')}"
    async with opened(url, schema, durability=durability) as store:
        await rows(
            pg_url,
            f"""SET search_path = "{schema}"; CREATE TABLE said (setting text, patience text);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            EXECUTE format('INSERT INTO %I.said VALUES (current_setting(''synchronous_commit''),
                current_setting(''lock_timeout''))', TG_TABLE_SCHEMA);
            RETURN NULL; END$$;
            CREATE TRIGGER note AFTER INSERT ON events EXECUTE FUNCTION note()""",
        )
        await started(store)
        await store.append("c", [item("x")])
        await store.delete("c", tombstone(), forks="refuse")
        waits = "on" if used == "off" else used
        found = await rows(pg_url, f'SELECT setting, patience FROM "{schema}".said')
        assert found == [(used, "30s"), (used, "30s"), (waits, "30s")], "an erasure always waits"


# -- values


async def test_texts_and_bytes_come_back_as_they_were(pg_url, schema):
    odd = ["a\0b", "\\", "\\0", "\0", "a\\\0\\", "%s", "%(x)s", "ключ", "😀", "'", '"', "{}", "\n", "x" * 5000]
    async with opened(pg_url, schema) as store:
        await store.append("c", [created({text: text for text in odd}), item("\0 %s \\")])
        for text in odd:
            short = text[:255]
            events = [
                item(text, link=text, shape=text, marks=(short, f"2{short}")),
                other(f"odd.{text}", {"said": text}, link=text[::-1]),
            ]
            await store.append("c", events, key=Key(short, "d"), lease=Take(owner=text, seconds=0.0, turn=-1))
            records = await records_of(store)
            first, second = records[-2:]
            assert (first.link, first.shape, second.kind, second.link) == (text, text, f"odd.{text}", text[::-1])
            assert (first.item, first.data, second.data) == (events[0].item, events[0].data, events[1].data)
            assert (await store.key("c", short)) == KeyUse("d", first.seq, second.seq)
            assert (await store.append("c", events, key=Key(short, "d"))).replayed
            snapshot = await store.read("c", Query(link=text), Query(mark=short), Query(mark=f"2{short}", reverse=True))
            assert first in snapshot.records[0]
            assert [list(found) for found in snapshot.records[1:]] == [[first], [first]]
            assert snapshot.head.lease.owner == text
            assert [head.conversation for head in await store.heads(where={text: text})] == ["c"]
            await reads_under(store, text, text, second.position)
            await reads_under(store, f"reader {text}", text, second.position)


async def reads_under(store, name, text, place):
    """See to it that a name and an owner can be any text."""
    assert await store.stand(name, text, 60) is not None
    assert await store.stand(name, f"{text}!", 60) is None
    assert await store.ack(name, text, place)
    assert (await store.stand(name, text, 60)).position == place
    await store.resign(name, text)


async def test_a_large_batch_is_written_in_portions(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store)
        large = "0123456789abcdef" * 100_000
        attempts = [partial(store.append, "c", [item(large), item(str(number))]) for number in range(20)]
        results = await together(*attempts)
        assert all(isinstance(result, Appended) for result in results), results
        texts = await texts_of(store)
        assert texts[::2] == [large] * 20
        assert sorted(texts[1::2], key=int) == [str(number) for number in range(20)]


async def test_a_read_of_tokens_asks_for_more_when_items_are_short(pg_url, schema, monkeypatch):
    monkeypatch.setattr(postgres_reading, "_chunk", lambda query: 2 if query.tokens else 1000)
    async with opened(pg_url, schema) as store:
        await store.append("c", [created(), *(item(str(seq), tokens=1) for seq in range(2, 31))])
        await forked(store, "d", "c", 20)
        await store.append("d", [item("x", tokens=1)] * 10)
        for name in ("c", "d"):
            (everything,) = (await store.read(name, Query(after=1))).records
            assert len(everything) == (30 if name == "d" else 29)
            for tokens, limit in product((1, 2, 3, 4, 5, 19, 28, 29, 100), (None, 1, 2, 5)):
                for reverse in (False, True):
                    query = Query(tokens=tokens, reverse=reverse, limit=limit, after=1)
                    (found,) = (await store.read(name, query)).records
                    ordered = everything[::-1] if reverse else everything
                    assert list(found) == list(limited(ordered[:limit], tokens))


async def test_a_fork_that_has_the_name_of_another_since_the_tables_were_put_back(pg_url, schema):
    async with opened(pg_url, schema) as store:
        for name in ("alice", "bob"):
            await started(store, name, f"of {name}", "more")
        for parent in ("alice", "bob", None):
            if parent is None:
                await started(store, "f", "of nobody")
            else:
                await forked(store, "f", parent, 2, "own")
            assert await texts_of(store, "f") == ([f"of {parent}", "own"] if parent else ["of nobody"])
            gone = "".join(
                f"DELETE FROM \"{schema}\".{table} WHERE {column} = 'f';"
                for table, column in (("conversations", "id"), ("spans", "conversation"), ("events", "conversation"))
            )
            await rows(pg_url, gone)


async def test_more_forks_than_are_remembered(pg_url, schema, monkeypatch):
    monkeypatch.setattr(postgres_reading, "_REMEMBERED", 2)
    async with opened(pg_url, schema) as store:
        await started(store, "c0", "a", "b")
        for number in range(1, 6):
            await forked(store, f"c{number}", f"c{number - 1}", 2 * number + 1, str(number))
        for _ in range(2):
            results = await together(*(partial(texts_of, store, f"c{number}") for number in range(1, 6)))
            assert [len(texts) for texts in results] == [3, 4, 5, 6, 7]


# -- erasing


async def _found(url, schema, word):
    """Return the tables in which a word can still be read."""
    found = set()
    for table in await tables(url, schema):
        text = await rows(
            url, f"SELECT string_agg(encode(t::text::bytea, 'escape'), ' ') FROM \"{schema}\".{table} AS t"
        )
        binary = word.encode().hex()
        if text[0][0] and (word in text[0][0] or binary in text[0][0]):
            found.add(table)
    return found


async def test_what_is_erased_cannot_be_read_and_the_rest_is_named(pg_url, schema):
    async with opened(pg_url, schema) as store:
        digest, data = body("SECRET body")
        await store.append(
            "c", [created({"name": "SECRET name"}), item("SECRET text", refs=(digest,))], bodies={digest: data}
        )
        assert await _found(pg_url, schema, "SECRET") == {"events", "bodies", "conversations"}
        erased = await store.erase(
            [
                Append(
                    conversation="c",
                    events=[other("item.erased", {"seq": 2})],
                    erasures=[Erasure(seq=2, item=b"{}"), Erasure(seq=1)],
                ),
                Append(conversation="c", events=[patched(name=None)]),
            ]
        )
        assert (erased.versions, erased.bodies) == ({"c": 4}, 1)
        assert await _found(pg_url, schema, "SECRET") == set()
        said = " ".join(erased.left)
        for word in ("write-ahead log", "replicas", "backups", "VACUUM FULL"):
            assert word in said
        assert "dead in the tables" not in said
        ((dead,),) = await rows(pg_url, "SELECT pg_stat_get_dead_tuples(%s::regclass)", f'"{schema}".events')
        assert dead == 0, "they were vacuumed"


async def test_who_may_not_vacuum_is_told_what_stays(pg_url, schema):
    async with opened(pg_url, schema) as store:
        await started(store, "c", "SECRET")
    grants = (
        f'GRANT USAGE ON SCHEMA "{schema}" TO writer',
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO writer',
    )
    url = await role(pg_url, "writer", *grants)
    async with opened(url, schema) as store:
        await store.append("c", [item("SECRET")], bodies=dict([body("SECRET")]))
        erased = await store.delete("c", tombstone(), forks="refuse")
        assert (erased.versions, erased.bodies) == ({"c": 4}, 1)
        assert "dead in the tables" in erased.left[0]
        assert "events" in erased.left[0], "what the server said"
        assert await _found(pg_url, schema, "SECRET") == set()


async def test_rows_that_a_transaction_still_sees_are_not_waited_for(pg_url, schema):
    async with opened(pg_url, schema) as store, stranger(pg_url) as old:
        await started(store, "c", "one")
        await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await old.execute("SELECT 1")
        with anyio.fail_after(10):
            assert (await store.delete("c", tombstone(), forks="refuse")).left
        await old.execute("ROLLBACK")


# -- a whole turn


async def test_a_turn_on_postgresql(pg_url, schema, stage_for, api):
    async with (
        open_engine(pg_url, schema=schema, lease=5.0) as engine,
        stage_for("Seventeen degrees.", "You are welcome.", engine=engine) as stage,
    ):
        chat = await engine.create(metadata={"user": "ada"})
        result = await chat.respond(stage.model(api), "Weather in Paris?", instructions="Be brief.", key="m-1")
        assert (result.status, result.output_text) == ("completed", "Seventeen degrees.")
        again = await chat.respond(stage.model(api), "Weather in Paris?", instructions="Be brief.", key="m-1")
        assert (again.replayed, again.output_text) == (True, "Seventeen degrees.")
        fork = await chat.fork(id="other")
        assert (
            await fork.respond(stage.model(api), "Thanks.", instructions="Be brief.")
        ).output_text == "You are welcome."
        assert {info.id async for info in engine.list(where={"user": "ada"})} == {chat.id, "other"}
        async with engine.follow(name="index") as batches:
            async for batch in batches:
                await batches.ack(batch[-1].position)
                break
    async with open_engine(pg_url, schema=schema, migrate=False) as engine:
        chat = await engine.get("other")
        texts = [entry.item["content"] async for entry in chat.items() if entry.item.get("role") == "user"]
        assert texts == ["Weather in Paris?", "Thanks."]
        receipt = await chat.erase(next(iter([entry.seq async for entry in chat.items()])), reason="a test")
        assert receipt.seqs
