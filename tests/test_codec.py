"""The codec: events are read as they were written, those of later versions pass through, damage is named."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine import codec
from turnlog.engine.canonical import canonical
from turnlog.engine.codec import body, event, item_of, kind_of, renewed
from turnlog.engine.errors import CorruptLog, InvalidItem, StoreError
from turnlog.engine.events import (
    ASIDE,
    ESTIMATED,
    PINNED,
    CallDecided,
    CompactionUndone,
    ContextCompacted,
    ConversationCreated,
    HistoryRewound,
    ItemAppended,
    MetadataUpdated,
    RemoteAttached,
    ResponseCompleted,
    ResponseRequested,
    Target,
    Unknown,
    checksum,
)
from turnlog.engine.ids import Position
from turnlog.engine.items import accept, read, reading
from turnlog.engine.log import record
from turnlog.engine.manifest import Manifest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


def logged(new, seq=3):
    return record("c", seq, Position("9"), 1_000, new, seq)


def requested(**columns):
    return ResponseRequested(
        **{
            "adapter": "responses",
            "encoder": 1,
            "target": Target(api="responses"),
            "settings": "s",
            "manifest": Manifest(policy="p@1", renderer=1, as_of=1),
            "digest": "d",
        }
        | columns
    )


# -- there and back


@given(
    st.builds(ConversationCreated, metadata=objects)
    | st.builds(ItemAppended, extra=json_values, meta=json_values, repaired=st.lists(st.text()))
    | st.builds(ResponseCompleted, removed=json_values, retries=st.integers(0, 9))
    | st.builds(MetadataUpdated, patch=objects)
    | st.builds(Unknown, st.just("weather.changed"), json_values)
)
def test_what_an_event_says_comes_back(said):
    made = event(said)
    assert body(logged(made)) == said
    assert made.kind == kind_of(said)
    assert made.sum == checksum(made.item, made.data)
    assert made.data is None or canonical(msgspec.json.decode(made.data)) == made.data


@given(objects.map(lambda item: {**item, "type": "acme:note"}))
def test_an_item_stands_beside_as_its_canonical_bytes(item):
    item, data = accept(item, "$")
    made = event(ItemAppended(meta=1), item=data, form=read(item), tokens=5, excerpt=2, flags=8, response=-1)
    there = logged(made)
    assert there.item == canonical(item)
    assert item_of(there) == item
    assert item_of(there) is not item_of(there)
    assert (there.shape, there.link, there.tokens, there.excerpt, there.flags) == ("acme:note", None, 5, 2, 8)
    assert there.response == 3
    assert there.sum == checksum(data, b'{"meta":1}')


def test_an_event_without_an_item_has_none():
    assert item_of(logged(event(HistoryRewound(to=1)))) is None


@pytest.mark.parametrize("data", [None, 0, False, "", [], {}, 1.5, [{}]])
def test_an_unknown_event_may_say_anything(data):
    assert body(logged(event(Unknown("weather.changed", data)))) == Unknown("weather.changed", data)


def test_what_has_no_json_meaning_is_refused_by_its_place_in_the_event():
    with pytest.raises(InvalidItem, match=r"^item\.appended\.meta\.a: nan has no place in JSON"):
        event(ItemAppended(meta={"a": float("nan")}))


# -- later versions, and earlier ones


def test_unknown_fields_are_kept_although_they_are_not_read():
    data = b'{"later":{"field":[1]},"to":4}'
    there = msgspec.structs.replace(logged(event(HistoryRewound(to=4))), data=data)
    assert body(there) == HistoryRewound(to=4)
    assert renewed(there).data == data


@given(json_values)
def test_an_unknown_kind_is_passed_on_unchanged(data):
    there = msgspec.structs.replace(
        logged(event(Unknown("weather.changed", data), item=b'{"type":"x"}', form=reading("x", "l"), tokens=9)),
        schema=41,
        sum=77,
        flags=2**20,
    )
    again = renewed(there)
    assert (again.kind, again.schema, again.sum, again.time) == ("weather.changed", 41, 77, there.time)
    assert logged(again) == there


def test_older_schemas_are_read_by_way_of_upcasters(monkeypatch):
    monkeypatch.setitem(codec.SCHEMAS, "history.rewound", 3)
    monkeypatch.setitem(codec.UPCASTERS, ("history.rewound", 1), lambda data: {"target": data["seq"]})
    monkeypatch.setitem(codec.UPCASTERS, ("history.rewound", 2), lambda data: {"to": data["target"]})
    there = logged(event(HistoryRewound(to=4)))
    assert there.schema == 3
    for schema, data in ((1, b'{"seq":4}'), (2, b'{"target":4}'), (3, b'{"to":4}')):
        old = msgspec.structs.replace(there, schema=schema, data=data)
        assert body(old) == HistoryRewound(to=4)
        assert (renewed(old).schema, renewed(old).data) == (schema, data)


# -- damage


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("history.rewound", b'{"to":"four"}'),
        ("history.rewound", None),
        ("history.rewound", b"[1]"),
        ("history.rewound", b'{"to":'),
        ("response.requested", b"{}"),
        ("weather.changed", b"{"),
        ("weather.changed", b"[" * 100_000),
    ],
)
def test_damaged_data_names_the_event_and_the_remedy(kind, data):
    there = msgspec.structs.replace(logged(event(HistoryRewound(to=4))), kind=kind, data=data)
    with pytest.raises(CorruptLog, match=rf"^c/3: {kind} cannot be read: .*restore it from a backup") as damaged:
        body(there)
    assert isinstance(damaged.value, StoreError)


@pytest.mark.parametrize("item", [b"", b"{", b'{"a":"\xff"}', b"[" * 100_000, b"NaN"])
def test_a_damaged_item_names_the_event_and_the_remedy(item):
    with pytest.raises(CorruptLog, match=r"^c/3: the item cannot be read: .*restore it from a backup"):
        item_of(msgspec.structs.replace(logged(event(ItemAppended())), item=item))


def test_an_upcaster_that_meets_damage_names_the_event(monkeypatch):
    monkeypatch.setitem(codec.UPCASTERS, ("history.rewound", 1), lambda data: {"to": data["seq"]})
    with pytest.raises(CorruptLog, match=r"^c/3: history.rewound cannot be read: 'seq'"):
        body(logged(event(HistoryRewound(to=4))))


def test_what_only_a_newer_version_can_read_says_so():
    there = msgspec.structs.replace(logged(event(HistoryRewound(to=4))), schema=2, data=b'{"target":4}')
    message = (
        r"^c/3: history.rewound cannot be read: a newer turnlog wrote it, in schema 2, and this one reads 1; upgrade"
    )
    with pytest.raises(CorruptLog, match=message):
        body(there)


def test_what_a_newer_version_added_to_is_read():
    there = msgspec.structs.replace(logged(event(HistoryRewound(to=4))), schema=2, data=b'{"to":4,"why":"x"}')
    assert body(there) == HistoryRewound(to=4)


# -- marks


@pytest.mark.parametrize(
    ("said", "columns", "marks"),
    [
        (ConversationCreated(), {}, ()),
        (ItemAppended(), {"form": reading("user", None)}, ()),
        (ItemAppended(), {"form": reading("user", None), "flags": PINNED}, ("pin",)),
        (ItemAppended(), {"form": reading("additional_tools", None), "item": b"{}"}, ("effect:additional_tools",)),
        (
            ItemAppended(),
            {
                "form": reading("configuration_update", None),
                "item": b'{"reasoning":{"effort":"low"},"text":null}',
                "flags": PINNED | ESTIMATED,
            },
            ("pin", "effect:configuration_update.reasoning"),
        ),
        (ItemAppended(), {"form": reading("configuration_update", None), "flags": PINNED | ASIDE}, ()),
        (CallDecided(call_id="c1", approve=True, by="ada"), {}, ("decided:c1",)),
        (
            requested(key="k", manifest=Manifest(policy="p", renderer=1, as_of=0, line="l")),
            {},
            ("request", "line:l", "key:k"),
        ),
        (requested(), {}, ("request",)),
        (requested(purpose="aside", key="k"), {}, ("aside", "key:k")),
        (
            requested(purpose="compaction", key="k", manifest=Manifest(policy="p", renderer=1, as_of=0, line="l")),
            {},
            ("aside", "key:k"),
        ),
        (ContextCompacted(first=1, last=2, stand_in=[], method="m"), {}, ("base",)),
        (CompactionUndone(seq=1), {}, ("base",)),
        (HistoryRewound(to=1), {}, ("rewind",)),
        (RemoteAttached(id="conv_1"), {}, ("remote", "attached")),
        (Unknown("weather.changed", {}), {}, ()),
    ],
)
def test_what_must_be_found_is_marked_and_marked_again_when_renewed(said, columns, marks):
    made = event(said, **columns)
    assert made.marks == marks
    again = renewed(logged(made))
    assert again == msgspec.structs.replace(made, time=1_000)
