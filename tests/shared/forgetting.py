"""A log of which something is forgotten, and what of it may be left afterwards: all of it, or nothing.

Its conversations stand between one another, so that what is removed has neighbours in its pages, and it is large enough
that pages are merged.
"""

import hashlib

from turnlog.engine.codec import event
from turnlog.engine.events import ItemErased
from turnlog.engine.log import Append, Erasure, Key, Query
from turnlog.engine.testing.contract_kit import created, item, tombstone

WAYS = ("erase", "delete")
NAMES = ("kept", "gone", "more")
ROUNDS = 12
SHARED = b'"a body of two"' * 100
SEQS = (2, 3, 9, ROUNDS + 1)


def word(name, number):
    return f"<{name} {number}>"


def secrets(way):
    """Return the words that are to be nowhere in the files."""
    numbers = range(2, ROUNDS + 2) if way == "delete" else SEQS
    return [said for number in numbers for said in (word("gone", number), word("body of gone", number))]


async def plant(store):
    """Write the log."""
    for name in NAMES:
        await store.append(name, [created({"name": f"metadata of {name}"})])
    shared = hashlib.sha256(SHARED).hexdigest()
    for number in range(2, ROUNDS + 2):
        for name in NAMES:
            data = f'"{word(f"body of {name}", number)}"'.encode() * 40
            digest = hashlib.sha256(data).hexdigest()
            said = item(word(name, number) * (1 + number * 7 % 11 * 8), refs=(digest, shared))
            key = Key(f"{number}", "d")
            await store.append(name, [said], bodies={digest: data, shared: SHARED}, key=key)


async def forget(store, way):
    """Erase some events of a conversation, or delete it."""
    if way == "delete":
        return await store.delete("gone", tombstone(), forks="refuse")
    events = [event(ItemErased(seq=seq, reason="a test")) for seq in SEQS]
    erasures = [Erasure(seq=seq, item=b"{}", flags=128) for seq in SEQS]
    return await store.erase([Append(conversation="gone", events=events, erasures=erasures)])


async def forgotten(store, way):
    """Return whether it was done, seeing to it that all of it was, or nothing, and that the rest is as it was."""
    for name in NAMES:
        snapshot = await store.read(name, Query())
        if name == "gone":
            done = snapshot.head.deleted if way == "delete" else snapshot.head.version > ROUNDS + 1
        if name != "gone" or not done:
            assert [record.seq for record in snapshot.records[0]] == list(range(1, ROUNDS + 2))
        for record in snapshot.records[0][1 : ROUNDS + 1]:
            erased = name == "gone" and done and record.seq in SEQS
            assert (word(name, record.seq).encode() in record.item) == (not erased), f"{name}/{record.seq}"
            if not erased:
                assert await store.key(name, f"{record.seq}") is not None
    return done
