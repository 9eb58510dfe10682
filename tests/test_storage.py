"""What a conversation takes on the disk grows with what is said in it, however often it is branched or compacted."""

from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from instant_model import echo
from turnlog import Budget, open_engine
from turnlog.engine.codec import event
from turnlog.engine.events import CompactionUndone, ContextCompacted, StandIn

pytestmark = pytest.mark.anyio

BUDGET = Budget(2_000)
ROUNDS, PARTS = 20, 6


async def talk(c, number):
    """A turn; what the others do comes on top of it."""
    await c.respond(echo(BUDGET), f"question {number:05} " + "x" * 300)


async def fork(c, number):
    await talk(c, number)
    twin = await c.fork(at=c.version - 5 if number % 2 else None, id=f"fork.{number:05}")
    await twin.append("a message of its own")


async def fork_of_the_fork(c, number):
    parent = c if number == 0 else await c._engine.get(f"nested.{number - 1:05}")
    await talk(parent, number)
    await parent.fork(id=f"nested.{number:05}")


async def rewind(c, number):
    await talk(c, number)
    version = c.version
    await talk(c, number)
    await c.rewind(version)


async def there_and_back(c, number):
    """Leave what there is and take it up again, so that the path winds through the whole log."""
    await talk(c, number)
    version = c.version
    await c.rewind(2)
    await c.append("elsewhere")
    await c.rewind(version)


async def compact(c, number):
    """Each covers all that went before, the one before it too, and keeps two items and a summary."""
    await talk(c, number)
    summary = {"type": "message", "role": "user", "content": f"summary {number:05} " + "x" * 300}
    stand_in = [StandIn(item=summary), StandIn(seq=2)]
    covering = ContextCompacted(first=2, last=c.version, stand_in=stand_in, method="summary")
    await c._engine.writer.append(c.id, [event(covering, tokens=100)])
    await c.refresh()


async def compact_and_undo(c, number):
    await compact(c, number)
    await c._engine.writer.append(c.id, [event(CompactionUndone(seq=c.version))])
    await c.refresh()


@asynccontextmanager
async def measured(db):
    """Give a conversation, and a function that returns the size of its file with all that was written."""
    async with open_engine(db, durability="normal") as engine:
        c = await engine.create(id="c")
        await c.append("the first message")

        async def size():
            await engine.store._writer.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
            return db.stat().st_size

        yield c, size


@pytest.mark.parametrize(
    "change",
    [talk, fork, fork_of_the_fork, rewind, there_and_back, compact, compact_and_undo],
    ids=lambda change: change.__name__,
)
async def test_storage_is_linear(db, change, long):
    rounds = ROUNDS * 4 if long else ROUNDS
    async with measured(db) as (c, size):
        sizes = [await size()]
        for part in range(PARTS):
            for number in range(part * rounds, (part + 1) * rounds):
                await change(c, number)
            sizes.append(await size())
    # The first requests have less to send than the others.
    _, _, *grown = [after - before for before, after in pairwise(sizes)]
    half = len(grown) // 2
    assert sum(grown[half:]) <= sum(grown[:half]) * 1.1 + 8 * 8192, sizes
