"""A conversation of a million events costs what one of a thousand costs: in statements, steps, rows and memory."""

import gc
import sqlite3
import tracemalloc
from collections import Counter
from contextlib import closing

import pytest

from instant_model import echo
from long_logs import BLOCK, LEAD, NAME, lengthy, turns
from turnlog import Budget, open_engine
from turnlog.engine.stores import sqlite
from turnlog.engine.stores.sqlite import SqliteStore

pytestmark = pytest.mark.anyio

SIZES = (LEAD + BLOCK, LEAD + 1_001 * BLOCK)
"""They differ by a multiple of 64, so that a fork counts as many events behind the last that was counted."""
BUDGET = Budget(400)


async def get(engine, size):
    c = await engine.get(NAME)
    assert c.version >= size
    return c


async def window(engine, size):
    shown = await (await get(engine, size)).window(BUDGET, model=echo(BUDGET))
    assert 4 < len(shown.items) < 30


async def old(engine, size):
    await (await get(engine, size)).window(BUDGET, at=size - BLOCK // 2)


async def append(engine, size):
    await (await get(engine, size)).append("one more")


async def answer(engine, size):
    await (await get(engine, size)).append({"role": "system", "content": "Be kind."})


async def respond(engine, size):
    assert (await (await get(engine, size)).respond(echo(BUDGET), "Hello")).output_text == "It rains."


async def listed(engine, size):
    assert [info.id for info in (await engine.list()).data][-1:] == [NAME]


async def open_calls(engine, size):
    assert await (await get(engine, size)).open_calls() == []


async def last_items(engine, size):
    assert len((await (await get(engine, size)).items(order="desc", limit=20)).data) == 20


async def last_turns(engine, size):
    assert len((await (await get(engine, size)).turns(order="desc", limit=5)).data) == 5


async def last_responses(engine, size):
    assert len((await (await get(engine, size)).responses(order="desc", limit=5)).data) == 5


async def fork(engine, size):
    await (await get(engine, size)).fork(at=size - BLOCK // 2)


async def rewind(engine, size):
    await (await get(engine, size)).rewind(size - BLOCK // 2)


async def erase(engine, size):
    await (await get(engine, size)).erase(size - BLOCK // 2 + 1, reason="a test")


async def follow(engine, size):
    end = await engine.store.end()
    await (await get(engine, size)).append("more")
    async with engine.follow(after=end) as batches:
        assert len(await anext(aiter(batches))) == 1


WORKS = (
    *(get, window, old, append, answer, respond, listed, open_calls, last_items, last_turns, last_responses),
    *(fork, follow, rewind, window, erase, window),
)


class Counting:
    """Counts what all connections do: their statements, the rows they are given, and the steps of SQLite's machine."""

    def __init__(self, monkeypatch):
        self.counts = Counter()
        connect = sqlite.connect

        def counting(*args):
            db = connect(*args)
            db.set_trace_callback(lambda statement: self.counts.update([statement.split()[0]]))
            db.set_progress_handler(lambda: self.counts.update(["steps"]), 1)
            db.row_factory = self._row
            return db

        monkeypatch.setattr(sqlite, "connect", counting)

    def _row(self, cursor, row):
        self.counts["rows"] += 1
        return row

    async def cost(self, path, work, size):
        """Return what a piece of work costs, with an engine that is opened for it: counts, and bytes at most."""
        gc.collect()
        self.counts.clear()
        tracemalloc.start()
        try:
            async with open_engine(path, durability="normal") as engine:
                await work(engine, size)
                return dict(self.counts), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


async def test_a_million_events_cost_what_a_thousand_cost(tmp_path, monkeypatch):
    """Each piece of work begins with opening the log. What is read once in a process, such as a vocabulary, is warm."""
    for size in SIZES:
        await lengthy(tmp_path / f"{size}.db", size)
    await lengthy(tmp_path / "warm.db", SIZES[0])
    async with open_engine(tmp_path / "warm.db") as engine:
        for work in WORKS:
            await work(engine, SIZES[0])
    counting = Counting(monkeypatch)
    for work in WORKS:
        small, large = [await counting.cost(tmp_path / f"{size}.db", work, size) for size in SIZES]
        assert large[0] == small[0], work.__name__
        assert large[0]["rows"] < 300, work.__name__
        assert large[1] < small[1] * 1.1 + 10_000, f"{work.__name__} takes {large[1]} bytes instead of {small[1]}"
        assert large[1] < 1_000_000, work.__name__
    (tmp_path / f"{SIZES[1]}.db").unlink()  # 200 MB


async def test_a_copied_log_is_what_the_store_writes(tmp_path):
    """Else what was counted above would say nothing."""
    copied, written = tmp_path / "copied.db", tmp_path / "written.db"
    await lengthy(copied, LEAD + 3 * BLOCK)
    await lengthy(written, LEAD + BLOCK)
    store = await SqliteStore.open(written, durability="normal")
    for block in (1, 2):
        await store.append(NAME, turns(block))
    await store.close()
    assert rows(copied) == rows(written)


def rows(path):
    """Return all rows of a log, but for times."""
    tables = {
        "conversations": "key, id, version, last_item, items, generation, deleted",
        "events": "position, conversation, seq, kind, schema, response, shape, link, tokens, flags, item, data, sum",
        "counts": "*",
        "marks": "*",
        "refs": "*",
    }
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {table: db.execute(f"SELECT {names} FROM {table}").fetchall() for table, names in tables.items()}
