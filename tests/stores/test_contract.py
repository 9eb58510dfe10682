"""Every store passes the suites that are there for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.postgres import PostgresStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract import CHECKS, CONCURRENCY, FAULTS, At, Check, Declined, Place


async def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=["memory", "sqlite-full", "sqlite-normal", "postgres"])
def place(request: pytest.FixtureRequest, db: Path, schema: str) -> Place:
    if request.param == "memory":
        return At(memory)
    if request.param == "postgres":
        return At(PostgresStore.open, request.getfixturevalue("pg_url"), schema=schema)
    return At(SqliteStore.open, db, durability=request.param.removeprefix("sqlite-"))


@pytest.mark.anyio
@pytest.mark.parametrize("check", [*CHECKS, *CONCURRENCY, *FAULTS], ids=lambda check: check.__name__)
async def test_contract(check: Check, place: Place, request: pytest.FixtureRequest, long: bool):
    if "normal" in request.node.name and check not in CHECKS and not long:
        pytest.skip("what holds with flushes holds without; it runs with --long")
    try:
        await check(place)
    except Declined as declined:
        assert "memory" in request.node.name, "only memory may decline a guarantee"
        pytest.skip(f"memory is not {declined}")


def test_every_check_says_what_it_guarantees():
    checks = [*CHECKS, *CONCURRENCY, *FAULTS]
    assert len(set(checks)) == len(checks)
    for check in checks:
        assert check.__doc__
        assert check.__doc__.strip().endswith(".")
