"""The table of fields: whole, and the same as what the judge knows, which was written without it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everything_log import MADE, MARKS, SAID
from turnlog.engine.fields import FIELDS, OUTPUT_ONLY, surplus, trimmed, wanting
from turnlog.engine.items import KINDS, ROLES, read
from turnlog.engine.testing.tables import ITEMS

REQUESTS_ONLY = {"message", "item_reference", "compaction_trigger"}
PROVIDED = {"id", "status", "action", "results"}
"""What the API takes some kinds only with, and only providers give."""
CHAT_ONLY = {"name"}
"""What messages have in the other API."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_every_kind_that_a_request_can_hold_is_there():
    assert FIELDS.keys() == (KINDS.keys() - REQUESTS_ONLY) | ROLES


@pytest.mark.parametrize("shape", FIELDS)
def test_it_says_what_the_judge_says(shape):
    fields, judged = FIELDS[shape], ITEMS["message" if shape in ROLES else shape]
    more = CHAT_ONLY if shape in ROLES else set()
    assert fields.needs.keys() | fields.has.keys() == judged.keys() | more
    required = {name for name, field in judged.items() if field.required}
    assert required - PROVIDED <= fields.needs.keys()
    # The API takes an output without its call's id where it says the function's name; in a log nothing could pair it.
    assert fields.needs.keys() - required <= {"call_id"}


@pytest.mark.parametrize("item", [*SAID, *MADE], ids=lambda item: read(item).shape)
def test_what_is_whole_lacks_nothing_and_has_nothing_too_much(item):
    form = read(item)
    assert list(wanting(item, form.shape)) == []
    if item.get("status") != 7:
        marked = {name.rpartition(".")[2] for name in surplus(item, form.shape)}
        assert marked <= {*MARKS, "async", "name", "namespace"}
    lean = trimmed({**item, **MARKS}, form.shape)
    assert list(surplus(lean, form.shape)) == []
    assert list(wanting(lean, form.shape)) == []
    assert set(lean) <= set(item)


@pytest.mark.parametrize(("shape", "name"), [(shape, name) for shape in FIELDS for name in FIELDS[shape].needs])
def test_without_what_it_needs_it_lacks_that(shape, name):
    whole = {"type": shape, **{one: sample(form) for one, form in FIELDS[shape].needs.items()}}
    assert list(wanting(whole, shape)) == []
    (lack,) = wanting({key: value for key, value in whole.items() if key != name}, shape)
    assert lack.path == name
    assert name in lack.needs


def sample(form):
    if isinstance(form, frozenset):
        return min(form)
    made = {str: "x", list: [], dict: {"type": "computer_screenshot"}, bool: True, int: 1, object: None}
    return made[form[0] if isinstance(form, tuple) else form]


@given(
    st.sampled_from([*FIELDS, "acme:note"]), st.dictionaries(st.sampled_from(["content", "output", "x"]), json_values)
)
def test_whatever_an_item_holds_it_can_be_trimmed(shape, item):
    lean = trimmed(dict(item), shape)
    assert list(surplus(lean, shape)) == []
    if shape == "acme:note":
        assert lean == item
    list(wanting(item, shape))


def test_what_is_given_only_on_output_is_not_surplus():
    """It is left out for everybody, and silently: SDKs put it there."""
    assert list(surplus({"role": "user", "content": "Hi", **dict.fromkeys(OUTPUT_ONLY, 1)}, "user")) == []
