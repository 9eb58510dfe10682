"""A conversation as long as anybody likes, quickly: the store writes its first turns, and SQL copies them.

The copies are what the store would have written: under their own seqs, with links, marks, checksums and counts of
their own.
"""

import sqlite3
from contextlib import closing

from small_logs import RESPONSES, call, output, said
from turnlog.engine.canonical import encode
from turnlog.engine.codec import event
from turnlog.engine.events import (
    PINNED,
    ConversationCreated,
    ItemAppended,
    ResponseCompleted,
    ResponseRequested,
    ResponseStarted,
    Usage,
    checksum,
)
from turnlog.engine.intake import flags_of
from turnlog.engine.items import read
from turnlog.engine.manifest import Manifest
from turnlog.engine.stores.sqlite import SqliteStore

NAME = "c"
TURN = 10
"""Events of a turn; four of them are items of 20 tokens."""
LEAD = 2
"""Events before the first turn: the conversation's creation, and a pinned message."""
BLOCK = 100 * TURN
"""Events that are copied together."""

EVENTS = """
INSERT INTO events (conversation, seq, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data,
    sum)
SELECT e.conversation, e.seq + b.n * :block, e.time + b.n, e.kind, e.schema, e.response + b.n * :block, e.shape,
    replace(e.link, '_0-', '_' || b.n || '-'), e.tokens, e.excerpt, e.flags,
    CAST(replace(CAST(e.item AS TEXT), '_0-', '_' || b.n || '-') AS BLOB), e.data,
    CASE WHEN e.item IS NULL THEN e.sum
        ELSE checksum(CAST(replace(CAST(e.item AS TEXT), '_0-', '_' || b.n || '-') AS BLOB), e.data) END
FROM blocks AS b CROSS JOIN events AS e ON e.conversation = 1 AND e.seq > :lead AND e.seq <= :lead + :block
ORDER BY b.n, e.seq;
"""
MARKS = """
INSERT INTO marks (conversation, mark, seq)
SELECT m.conversation, m.mark, m.seq + b.n * :block
FROM (SELECT * FROM marks WHERE conversation = 1 AND seq > :lead) AS m CROSS JOIN blocks AS b
ORDER BY m.mark, b.n, m.seq;
"""


def item(value, response=None, flags=0):
    """Return the event of an item, of 20 tokens."""
    form = read(value)
    flags |= flags_of(value, form)
    return event(ItemAppended(), item=encode(value), form=form, response=response, tokens=20, flags=flags)


def turn(number, before):
    """Return the events of a turn, which stands behind so many events of the same append."""
    asked = ResponseRequested(
        adapter="responses",
        encoder=1,
        target=RESPONSES,
        settings="0" * 64,
        manifest=Manifest(policy="none@1", renderer=1, as_of=1),
        digest="0" * 64,
    )
    first, second = -(before + 2), -(before + 7)
    ended = ResponseCompleted(usage=Usage(input_tokens=1))
    return [
        item({"role": "user", "content": f"question_{number}"}),
        event(asked),
        event(ResponseStarted(id="resp"), response=first),
        item(call(number), first),
        event(ended, response=first),
        item(output(number)),
        event(asked),
        event(ResponseStarted(id="resp"), response=second),
        item(said(number), second),
        event(ended, response=second),
    ]


def turns(block):
    """Return the events of a block of turns, for one append."""
    events = []
    for number in range(BLOCK // TURN):
        events += turn(f"{block}-{number:04d}", len(events))
    return events


async def lengthy(path, events):
    """Make a log with one conversation of so many events, which are whole blocks and what leads."""
    store = await SqliteStore.open(path, durability="normal")
    lead = [event(ConversationCreated()), item({"role": "system", "content": "Be brief."}, flags=PINNED)]
    await store.append(NAME, lead)
    await store.append(NAME, turns(0))
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        _copied(db, (events - LEAD) // BLOCK - 1)


def _copied(db, times):
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
        db.execute(f"PRAGMA {pragma}")
    db.create_function("checksum", 2, checksum, deterministic=True)
    db.execute("CREATE TEMP TABLE blocks (n INTEGER PRIMARY KEY)")
    db.executemany("INSERT INTO blocks VALUES (?)", [(number,) for number in range(1, times + 1)])
    values = {"block": BLOCK, "lead": LEAD}
    db.execute("BEGIN")
    db.execute(EVENTS, values)
    db.execute(MARKS, values)
    of_items = {seq for (seq,) in db.execute("SELECT seq FROM events WHERE kind IS NULL AND seq <= ?", (LEAD + BLOCK,))}
    db.executemany(
        "INSERT INTO counts VALUES (1, ?, ?, ?)", _counts(of_items, LEAD + BLOCK, LEAD + BLOCK * (times + 1))
    )
    items, last = db.execute("SELECT count(*), max(seq) FROM events WHERE kind IS NULL").fetchone()
    db.execute(
        "UPDATE conversations SET version = ?, items = ?, last_item = ?", (LEAD + BLOCK * (times + 1), items, last)
    )
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL").fetchone()


def _counts(of_items, before, last):
    """Yield how many items there are up to every 64th event behind those that the store counted."""
    items = latest = 0
    for seq in range(1, last + 1):
        if (seq if seq <= LEAD else LEAD + 1 + (seq - LEAD - 1) % BLOCK) in of_items:
            items, latest = items + 1, seq
        if seq % 64 == 0 and seq > before:
            yield seq, items, latest
