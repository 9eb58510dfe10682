"""Schemas of the PostgreSQL store: a golden dump of every version, opened, read, verified and appended to."""

from pathlib import Path

import pytest

from pg_talk import opened, rows
from turnlog.engine.events import ERASED
from turnlog.engine.log import Take
from turnlog.engine.replay import verify
from turnlog.engine.stores.postgres import SCHEMA_VERSION
from turnlog.engine.testing.contract_feeding import all_of, follows
from turnlog.engine.testing.contract_kit import forked, head_of, item, records_of, tombstone

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = range(1, SCHEMA_VERSION + 1)


async def restored(url, version, schema):
    """Restore the golden dump of a version."""
    dump = (GOLDEN / f"postgres-{version}.sql").read_text()
    assert "golden" not in schema
    await rows(url, dump.replace("golden.", f'"{schema}".').replace("SCHEMA golden", f'SCHEMA "{schema}"'))


def test_there_is_a_golden_dump_of_every_schema():
    assert {path.name for path in GOLDEN.glob("postgres-*")} == {f"postgres-{version}.sql" for version in VERSIONS}
    assert all(path.stat().st_size < 200_000 for path in GOLDEN.glob("postgres-*"))


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_golden_dump_is_read_verified_and_appended_to(pg_url, schema, version):
    await restored(pg_url, version, schema)
    async with opened(pg_url, schema) as store:
        heads = {head.conversation: head for head in await store.heads(order="created")}
        assert heads.keys() == {"talk", "french", "empty", "leased", "forked", "nested"}
        for name, head in heads.items():
            await is_whole(store, name, head.version)
        await is_found(store, heads)
        await its_readers_and_turns_go_on(store, heads["leased"])
        assert (await store.append("talk", [item("x")])).version == heads["talk"].version + 1
        await forked(store, "fork of french", "french", 100, "own")
        await store.delete("fork of french", tombstone(), forks="refuse")
        assert (await store.delete("talk", tombstone(), forks="keep")).versions == {"talk": heads["talk"].version + 2}
        await is_whole(store, "nested", heads["nested"].version)


async def is_whole(store, name, version):
    """See to it that every event of a conversation can be read, and every request rebuilt."""
    assert [record.seq for record in await records_of(store, name)] == list(range(1, version + 1))
    report = await verify(store, name)
    assert report.diverged == []
    assert report.verified + report.erased == report.responses


async def is_found(store, heads):
    """See to it that what is beside the events is there: keys, metadata, forks, tombstones, erased events."""
    assert (await verify(store, "talk")).verified == 4
    assert await store.key("talk", "first") is not None
    assert {head.conversation for head in await store.heads(where={"user": "ada"})} >= {"french", "leased"}
    assert (heads["forked"].parent, heads["nested"].parent) == (("talk", 3), ("forked", 2))
    assert [head.conversation for head in await store.forks("talk")] == ["forked", "nested"]
    assert (await head_of(store, "gone")).deleted
    assert [record.flags & ERASED for record in await records_of(store, "french")][9:12] == [ERASED, 0, ERASED]


async def its_readers_and_turns_go_on(store, leased):
    """A follower goes on behind the place that it had on the server before; a lease that ran out is taken."""
    standing = await store.stand("search", "two", 1.0)
    fed = await all_of(store)
    follows(fed)
    assert fed[4].record.position == standing.position
    assert await all_of(store, standing.position) == fed[5:]
    lease = leased.lease
    assert (leased.generation, lease.owner, lease.turn, lease.remaining < 0) == (1, "golden:1", 2, True)
    taken = await store.append("leased", [item("on")], lease=Take(owner="o", seconds=1.0, turn=-1))
    assert taken.generation == 2
    assert (await all_of(store, fed[-1].record.position))[0].record.conversation == "leased"
