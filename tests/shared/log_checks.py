"""What holds of the log of every conversation that no turn is under way in."""

ENDS = ("response.completed", "response.failed", "response.interrupted")
LATER = "response.interrupted"
"""What may follow: a turn may also be interrupted after its response was over, while its tools ran, and again."""


async def whole_log(c):
    """See to it that a log is whole and nobody holds its lease; return its events.

    No seq is missing, every response is over and ended once, and every call has one output.
    """
    events = [event async for event in c.events()]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    for seq, ends in endings(events).items():
        assert ends, f"response {seq} has no end"
        assert set(ends[1:]) <= {LATER}, f"response {seq} ended so: {ends}"
    assert call_ids(events, "function_call_output") == call_ids(events, "function_call")
    head = (await c._engine.store.read(c.id)).head
    assert (head.lease, head.version) == (None, len(events))
    return events


def endings(events):
    """Return the types of the events that ended each response, by the seq of its request; none if it is open."""
    return {
        event.seq: [one.type for one in events if one.type in ENDS and one.response == event.seq]
        for event in events
        if event.type == "response.requested"
    }


def call_ids(events, kind):
    """Return the call ids of all items of a type, in order."""
    return sorted(event.item["call_id"] for event in events if event.item and event.item.get("type") == kind)
