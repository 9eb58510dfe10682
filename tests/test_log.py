"""The pure parts of the store contract."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine.errors import Invalid
from turnlog.engine.events import NewEvent
from turnlog.engine.ids import ANY, NO_STREAM, Position
from turnlog.engine.log import Append, Head, Key, KeyUse, decide, limited, merge_patch, ordering, place, record

# The examples of RFC 7396, appendix A: original, patch, result.
EXAMPLES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("value", "patch", "result"), EXAMPLES)
def test_a_merge_patch_does_what_the_rfc_says(value, patch, result):
    before = repr(value)
    assert merge_patch(value, patch) == result
    assert repr(value) == before


objects = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(st.none() | st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=5),
)


@given(objects, objects)
def test_a_merge_patch_twice_is_the_patch_once(value, patch):
    once = merge_patch(value, patch)
    assert merge_patch(once, patch) == once


@pytest.mark.parametrize(("relative", "first", "seq"), [(None, 5, None), (3, 5, 3), (0, 5, 0), (-1, 5, 5), (-4, 5, 8)])
def test_a_negative_number_names_an_event_of_the_append(relative, first, seq):
    assert place(relative, first) == seq


def test_orders_are_three():
    found = [ordering(order) for order in ("-updated", "-created", "created")]
    assert found == [("updated", True), ("created", True), ("created", False)]
    with pytest.raises(Invalid, match="order='updated': -updated, -created or created is needed"):
        ordering("updated")


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 3))), st.integers(0, 30))
def test_a_limit_of_tokens_is_reached_by_the_last_and_not_before(sizes, tokens):
    entries = [
        record("c", seq, Position(""), 0, NewEvent(kind="x", tokens=full, excerpt=short), seq)
        for seq, (full, short) in enumerate(sizes, 1)
    ]
    weights = [full if short is None else short for full, short in sizes]
    found = list(limited(iter(entries), tokens))
    assert found == entries[: len(found)]
    assert sum(weights[: len(found) - 1]) < tokens or len(found) <= 1
    assert len(found) == len(entries) or sum(weights[: len(found)]) >= tokens
    assert list(limited(iter(entries), None)) == entries


def test_deciding_changes_nothing_that_it_is_given():
    head = Head(conversation="c", version=3, created=1, updated=2, last_item=3, items=2, metadata=b'{"a":1}')
    event = NewEvent(kind="metadata.updated", data=b'{"patch":{"a":2}}')
    made, appended = decide(Append(conversation="c", events=[event], expected=3), head, {}, 9)
    assert made is not None
    assert (head.version, head.metadata, made.version, made.metadata) == (3, b'{"a":1}', 4, b'{"a":2}')
    assert (appended.first, appended.last, appended.time) == (4, 4, 9)


def test_a_replay_has_no_head_to_write():
    append = Append(conversation="c", events=[], key=Key("k", "d"), expected=NO_STREAM)
    head = Head(conversation="c", version=9, created=1, updated=2, last_item=3, items=2)
    made, appended = decide(append, head, {"k": KeyUse("d", 2, 4)}, 9)
    assert made is None
    assert (appended.first, appended.last, appended.version, appended.replayed) == (2, 4, 4, True)


def test_the_defaults_are_the_widest():
    append = Append(conversation="c", events=[])
    assert (append.expected, append.key, append.fence, append.lease, append.bodies) == (ANY, None, None, None, {})
