"""The bytes of one event of every kind. A change here is one of the format: raise the schema, write an upcaster."""

from typing import get_args

import pytest
from msgspec.structs import replace

from turnlog.engine import codec
from turnlog.engine.codec import body, event
from turnlog.engine.events import (
    CallDecided,
    CallStarted,
    CompactionUndone,
    ContextCompacted,
    ConversationCreated,
    ConversationDeleted,
    EventBody,
    HistoryRewound,
    ItemAppended,
    ItemErased,
    MetadataUpdated,
    Origin,
    RemoteAttached,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    ResponseStarted,
    StandIn,
    Target,
    Unknown,
    Usage,
    checksum,
)
from turnlog.engine.ids import Position
from turnlog.engine.log import record
from turnlog.engine.manifest import Manifest, Run

ORIGIN = Origin("responses", "api.openai.com", "gpt-x")
MANIFEST = Manifest(
    policy="oldest-turns@1",
    renderer=1,
    as_of=9,
    line="l",
    base=2,
    cut=4,
    runs=(Run(1, 3, "dropped", 1), Run(4, 9, "kept")),
    rules=("it fits", "the oldest turns go first"),
    early=(2,),
    bare=((5, 6),),
    sealed=(8,),
    factor=1100,
    items=900,
    overhead=100,
    tokens=1100,
    measured=False,
    bound=50,
    context=8000,
    reserve=1000,
    shared=700,
    weights={5: 6},
)

GOLDEN = [
    (ConversationCreated(), None),
    (
        ConversationCreated(metadata={"b": 1.0, "a": None}, parent="cv_1", at=7),
        b'{"at":7,"metadata":{"a":null,"b":1},"parent":"cv_1"}',
    ),
    (ItemAppended(), None),
    (
        ItemAppended(origin=ORIGIN, extra={"field": "x"}, beside=3, meta={"user": 1}, repaired=["$: x"]),
        (
            b'{"beside":3,"extra":{"field":"x"},"meta":{"user":1},"origin":["responses","api.openai.com","gpt-x"],'
            b'"repaired":["$: x"]}'
        ),
    ),
    (
        ResponseRequested(
            purpose="compaction",
            adapter="responses",
            encoder=2,
            target=Target(api="chat", backend="b", model="m", state="recorded"),
            settings="5e77",
            manifest=MANIFEST,
            digest="d16e",
            key="k",
            retry_of=3,
        ),
        (
            b'{"adapter":"responses","digest":"d16e","encoder":2,"key":"k","manifest":{"as_of":9,"bare":[[5,6]],"base":2,'
            b'"bound":50,"context":8000,"cut":4,"early":[2],"factor":1100,"items":900,"line":"l","measured":false,'
            b'"overhead":100,"policy":"oldest-turns@1","renderer":1,"reserve":1000,"rules":["it fits",'
            b'"the oldest turns go first"],"runs":[[1,3,"dropped",1],[4,9,"kept",0]],"sealed":[8],"shared":700,'
            b'"tokens":1100},"purpose":"compaction","retry_of":3,"settings":"5e77","target":{"api":"chat","backend":"b",'
            b'"model":"m","state":"recorded"}}'
        ),
    ),
    (
        ResponseRequested(
            adapter="chat",
            encoder=1,
            target=Target(api="responses"),
            settings="",
            manifest=Manifest(policy="p@1", renderer=1, as_of=0),
            digest="",
        ),
        (
            b'{"adapter":"chat","digest":"","encoder":1,"manifest":{"as_of":0,"policy":"p@1","renderer":1},"settings":"",'
            b'"target":{"api":"responses"}}'
        ),
    ),
    (ResponseStarted(id="resp_1", model="gpt-x-1"), b'{"id":"resp_1","model":"gpt-x-1"}'),
    (
        ResponseCompleted(
            status="incomplete",
            reason="max_output_tokens",
            usage=Usage(1, 2, 3, 4, 5),
            retries=2,
            removed=[{"id": "rs"}],
        ),
        (
            b'{"reason":"max_output_tokens","removed":[{"id":"rs"}],"retries":2,"status":"incomplete","usage":'
            b'{"cached_tokens":2,"input_tokens":1,"output_tokens":3,"reasoning_tokens":4,"requests":5}}'
        ),
    ),
    (
        ResponseFailed(kind="http", code="c", message="m", status_code=500, retryable=True, retries=1),
        b'{"code":"c","kind":"http","message":"m","retries":1,"retryable":true,"status_code":500}',
    ),
    (
        ResponseInterrupted(cause="left", items=[{"type": "message"}], sealed=["call_1"]),
        b'{"cause":"left","items":[{"type":"message"}],"sealed":["call_1"]}',
    ),
    (CallStarted(call_id="call_1"), b'{"call_id":"call_1"}'),
    (
        CallDecided(call_id="call_1", approve=False, by="ann", reason="no"),
        b'{"approve":false,"by":"ann","call_id":"call_1","reason":"no"}',
    ),
    (
        ContextCompacted(
            first=2,
            last=9,
            digest="d16e",
            stand_in=[StandIn(seq=2), StandIn(item={"role": "user", "content": "x"})],
            method="summary",
            origin=ORIGIN,
            usage=Usage(1),
        ),
        (
            b'{"digest":"d16e","first":2,"last":9,"method":"summary","origin":["responses","api.openai.com","gpt-x"],'
            b'"stand_in":[{"seq":2},{"item":{"content":"x","role":"user"}}],"usage":{"input_tokens":1}}'
        ),
    ),
    (CompactionUndone(seq=9), b'{"seq":9}'),
    (HistoryRewound(to=4), b'{"to":4}'),
    (ItemErased(seq=4, reason="asked"), b'{"reason":"asked","seq":4}'),
    (MetadataUpdated(patch={"a": None}), b'{"patch":{"a":null}}'),
    (RemoteAttached(id="conv_1"), b'{"id":"conv_1"}'),
    (ConversationDeleted(reason="asked"), b'{"reason":"asked"}'),
    (Unknown("weather.changed", [1.0, {"b": 2, "a": 1}]), b'[1,{"a":1,"b":2}]'),
]
KINDS = [
    "call.decided",
    "call.started",
    "compaction.undone",
    "context.compacted",
    "conversation.created",
    "conversation.deleted",
    "history.rewound",
    "item.appended",
    "item.erased",
    "metadata.updated",
    "remote.attached",
    "response.completed",
    "response.failed",
    "response.interrupted",
    "response.requested",
    "response.started",
]


def test_every_kind_is_here_and_has_its_name():
    assert sorted(codec.SCHEMAS) == KINDS
    assert {type(said) for said, _ in GOLDEN} == set(get_args(EventBody))


def test_all_kinds_are_of_schema_one_and_nothing_is_upcast():
    assert set(codec.SCHEMAS.values()) == {1}
    assert codec.UPCASTERS == {}


@pytest.mark.parametrize(("said", "data"), GOLDEN, ids=lambda one: type(one).__name__)
def test_the_bytes_are_these_and_are_read_back(said, data):
    made = event(said)

    assert (made.kind, made.schema, made.item) == (codec.kind_of(said), 1, None)
    assert made.data == data
    if isinstance(said, ResponseRequested):  # weights are in memory only
        said = replace(said, manifest=replace(said.manifest, weights={}))
    assert body(record("c", 1, Position("1"), 0, made, 1)) == said


def test_the_checksum_is_this():
    assert checksum(None, None) == checksum(b"", b"") == -7712737833812065720
    assert checksum(b'{"role":"user"}', None) == -6258607408159711672
    assert checksum(b'{"role":"user"}', b'{"meta":1}') == 8589867715239154985
    assert checksum(b"a", b"b") != checksum(b"ab", None) != checksum(None, b"ab")
