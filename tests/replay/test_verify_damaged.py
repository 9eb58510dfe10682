"""Verifying logs that were changed behind turnlog's back: the short way tells what rebuilding each request tells."""

from itertools import chain, product
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instant_model import Instant
from turnlog import Budget, open_engine
from turnlog.engine.codec import ITEM
from turnlog.engine.events import checksum
from turnlog.engine.replay import Verifier, encoders, verify
from turnlog.engine.replay.running import Running
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.scribe import ENCODERS
from turnlog.engine.testing.strategies import Say, Scribe, conversations

pytestmark = pytest.mark.anyio

ASKED = ("response.requested", "context.compacted")
COLUMNS = {
    "kind": ["other", ITEM, "response.requested", "response.completed", "response.failed", "history.rewound"],
    "time": ["abc", None, 10**18],
    "schema": [0, 2, "x", None],
    "response": [None, 0, -3, "x"],
    "shape": [None, "user", "assistant", "function_call", "function_call_output", "reasoning", b"\xff"],
    "link": [None, "", "x", b"\xff"],
    "tokens": [0, -5, 10**18, "x", None, 1.5],
    "excerpt": [None, 0, "x"],
    "flags": [0, 1, 2, 4, 8, 16, 32, 255, "x", None, 1.5],
    "item": [None, b"", b'{"', b"{}", b"null"],
    "data": [None, b"", b'{"', b"{}", b"null"],
    "sum": [0, None, "x"],
}
"""What may stand in a row, other than what was written."""


@st.composite
def damages(draw):
    """Draw changes of rows: two in each other's place, one with the item of another, one with a column changed."""
    place = st.integers(0, 200)
    column = st.sampled_from([(name, value) for name, values in COLUMNS.items() for value in values])
    one = st.one_of(
        st.tuples(st.just("swap"), place, place),
        st.tuples(st.just("item"), place, place),
        st.tuples(st.just("set"), place, column),
    )
    return draw(st.lists(one, min_size=1, max_size=3))


def harm(rows, kind, place, more):
    """Change rows, by seq, as one damage says."""
    seqs = sorted(rows)
    if not seqs:
        return
    seq = seqs[place % len(seqs)]
    if kind == "set":
        rows[seq] = msgspec.structs.replace(rows[seq], **{more[0]: more[1]})
    else:
        other = seqs[more % len(seqs)]
        if kind == "swap":
            one, two = rows[seq], rows[other]
            rows[seq], rows[other] = (
                msgspec.structs.replace(two, seq=seq),
                msgspec.structs.replace(one, seq=other),
            )
        else:  # one item in place of another, and nothing tells it
            item = rows[other].item
            rows[seq] = msgspec.structs.replace(rows[seq], item=item, sum=checksum(item, rows[seq].data))


async def both(store, names, known):
    """Return what verifying tells of conversations, the short way and by rebuilding every request."""

    async def told():
        verifier = await Verifier.made(store, known)
        return [msgspec.to_builtins(await verifier.verify(name)) for name in names]

    async def never(self, said):
        return False

    short = await told()
    with patch.object(Running, "proves", never):
        return short, await told()


@given(conversations(6), damages())
async def test_the_short_way_tells_what_rebuilding_tells(steps, changes):
    scribe = Scribe(MemoryStore())
    await scribe.write(steps)
    for name in scribe.names:
        for change in changes:
            harm(scribe.store._streams[name].records, *change)
    short, whole = await both(scribe.store, scribe.names, ENCODERS)
    assert short == whole


@pytest.mark.parametrize("name", ["schema", "response", "tokens", "excerpt", "flags"])
@pytest.mark.parametrize("value", ["x", 1.5, b"\x01"])
async def test_a_column_that_holds_no_number_is_named(name, value):
    scribe = Scribe(MemoryStore())
    await scribe.write([Say(({"role": "user", "content": "Hi!"},))])
    rows = scribe.store._streams["c"].records
    assert (await verify(scribe.store, "c", ENCODERS)).sound
    rows[2] = msgspec.structs.replace(rows[2], **{name: value})
    (found,) = (await verify(scribe.store, "c", ENCODERS)).damaged
    assert found.seq == 2
    assert f"no number is stored under {name}, but {value!r}" in found.reason


async def talked(engine, state):
    """Hold a conversation of some turns, with a call beside it and a pin that is compacted away; return its rows."""
    model = Instant(budget=Budget(2_000), state=state)
    c = await engine.create(id="c")
    await c.run(model, "One? " + "And what of it? " * 60)
    await c.respond(model, "A title?", aside=True)
    await c.append("Remember: 4711.", pinned=True)
    await c.run(model, "Two? " + "And what of it? " * 60)
    await c.run(model, "Three? " + "And what of it? " * 60)
    await c.compact(method="extract")
    await c.update_metadata({"compacted": True})
    for turn in range(12):
        await c.run(model, f"And {turn}? " + "What of it? " * 40)
    return engine.store._streams["c"].records


def swap(rows, one, other):
    """Put two rows in each other's place."""
    harm(rows, "swap", one - 1, other - 1)


@pytest.mark.parametrize("state", ["stateless", "conversation"])
async def test_rows_in_another_place_are_found_wherever_rebuilding_finds_them(state):
    async with open_engine(":memory:") as engine:
        rows = await talked(engine, state)
        items = [seq for seq, row in rows.items() if row.item is not None]
        others = [seq for seq, row in rows.items() if row.item is None and row.kind not in ASKED]
        found = 0
        far = product(range(2, len(rows), 2), range(3, len(rows), 9)) if state == "stateless" else ()
        for one, other in chain(product(items[:2], others), far):
            swap(rows, one, other)
            short, whole = await both(engine.store, ["c"], encoders())
            assert short == whole, (one, other)
            found += short[0]["diverged"] != []
            swap(rows, one, other)
    assert found


async def test_flags_that_are_none_are_told_of_whatever_is_no_item_too():
    async with open_engine(":memory:") as engine:
        rows = await talked(engine, "stateless")
        started = [seq for seq, row in rows.items() if row.kind == "response.started"][-4]
        rows[started] = msgspec.structs.replace(rows[started], flags=1.5)
        short, whole = await both(engine.store, ["c"], encoders())
    assert short == whole
    assert [one["seq"] for one in short[0]["damaged"]] == [started]
