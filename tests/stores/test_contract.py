"""Every store passes the one contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from turnlog.engine.log import Store
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract import CHECKS, Check, Declined, Place


class Memory:
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        store = MemoryStore()
        yield store
        await store.close()


class Sqlite:
    def __init__(self, path: Path, durability: Literal["full", "normal"]) -> None:
        self.path = path
        self.durability = durability

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        store = await SqliteStore.open(self.path, durability=self.durability)
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(params=["memory", "sqlite-full", "sqlite-normal"])
def place(request: pytest.FixtureRequest, db: Path) -> Place:
    if request.param == "memory":
        return Memory()
    return Sqlite(db, "full" if request.param == "sqlite-full" else "normal")


@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Check, place: Place):
    try:
        await check(place)
    except Declined as declined:
        assert isinstance(place, Memory), "only memory may decline a guarantee"
        pytest.skip(f"memory is not {declined}")


def test_every_check_says_what_it_guarantees():
    assert len(set(CHECKS)) == len(CHECKS)
    for check in CHECKS:
        assert check.__doc__
        assert check.__doc__.strip().endswith(".")
