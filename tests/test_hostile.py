"""What callers may pass that is no item: refused with its place and a remedy, and nothing of it is written."""

from collections import UserDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog import Invalid, open_engine
from turnlog.engine.canonical import MAX_BYTES
from turnlog.engine.errors import InvalidItem
from turnlog.engine.ids import Position
from turnlog.engine.log import Query

pytestmark = pytest.mark.anyio


def nested(levels):
    value: list = []
    for _ in range(levels - 1):
        value = [value]
    return value


def circle():
    value: list = []
    value.append(value)
    return value


class Changing(UserDict):
    """A mapping that is added to while it is read."""

    def items(self):
        for pair in self.data.items():
            yield pair
            self.data[f"{pair[0]}+"] = 1


def user(content, **more):
    return {"role": "user", "content": content, **more}


CONVERTER = "turnlog.engine.messages.to_items(messages) turns such into items"
HOSTILE = {
    "NaN": (user("x", at=float("nan")), ".at", "nan has no place in JSON; use null or a string"),
    "an infinity": (user("x", at=[1, -float("inf")]), ".at[1]", "-inf has no place in JSON; use null or a string"),
    "a lone surrogate": (
        user("a\ud800b"),
        ".content",
        "a lone surrogate (half of a character) cannot be stored; decode",
    ),
    "a lone surrogate in a key": (user("x", **{"\udfff": 1}), ".\\udfff", "a lone surrogate"),
    "a key that is no text": (user("x", more={1: 2}), ".more", "object key 1 is no string"),
    "bytes": (user(b"x"), ".content", "a bytes is no JSON value"),
    "a set": (user("x", more={1, 2}), ".more", "a set is no JSON value"),
    "an object": (user("x", more=Position), ".more", "is no JSON value"),
    "too deep": (user("x", more=nested(100)), "", "nested deeper than 100 levels"),
    "a circle": (user("x", more=circle()), "", "nested deeper than 100 levels"),
    "a long integer": (user("x", more=10**5000), ".more", "an integer of more than 4,000 digits; use a string"),
    "a Chat call": ({"role": "assistant", "content": None, "tool_calls": []}, "", CONVERTER),
    "a Chat output": ({"role": "tool", "tool_call_id": "c", "content": "x"}, "", CONVERTER),
    "an old Chat output": ({"role": "function", "name": "look", "content": "x"}, "", CONVERTER),
    "an unknown role": (
        {"role": "moderator", "content": "x"},
        ".role",
        "is none of assistant, developer, system, user",
    ),
    "a role that is no text": ({"role": ["user"], "content": "x"}, ".role", "is none of assistant"),
    "no content": ({"role": "user"}, ".content", "a message's content is a string or a list of parts"),
    "content of another kind": (user(7), ".content", "a message's content is a string or a list of parts"),
    "a part without a type": (user([{"text": "x"}]), ".content[0]", "a content part is an object with a type"),
    "no type": ({"text": "x"}, "", "an item needs a type, or a role and content"),
    "a type that is no text": ({"type": 7}, ".type", "7 is no item type"),
    "an empty type": ({"type": ""}, ".type", "'' is no item type"),
    "a reference": ({"type": "item_reference", "id": "msg_1"}, "", "references are not logged, append the item itself"),
    "a trigger": ({"type": "compaction_trigger"}, "", "is part of a request, not of a history"),
    "a call without its id": ({"type": "function_call", "name": "f", "arguments": ""}, ".call_id", "needs a call_id"),
    "a call without arguments": ({"type": "function_call", "call_id": "c", "name": "f"}, ".arguments", "a string"),
    "an output without one": ({"type": "function_call_output", "call_id": "c"}, ".output", "needs an output, a string"),
    "nothing": (None, "", "a NoneType is no item; pass a string, a mapping, or an object with model_dump"),
    "a number": (7, "", "a int is no item"),
    "a list": ([user("x")], "", "a list is no item"),
    "what changes meanwhile": (user("x", more=Changing(a=1)), "", "it was changed while it was read"),
    "a class": (UserDict, "", "the class UserDict is no item"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_item_leaves_nothing_written(engine, name):
    value, path, says = HOSTILE[name]
    c = await engine.create(id="ada")
    with pytest.raises(InvalidItem) as raised:
        await c.append("This one is good.", value, "This one too.", key="k")
    assert raised.value.path.startswith(f"items[1]{path}")
    assert says in raised.value.reason
    assert (await c.refresh()).version == 1
    # Neither the items nor the key were used.
    assert not (await c.append("Something else.", key="k")).replayed


async def test_an_item_over_the_limit_leaves_nothing_written(engine):
    c = await engine.create()
    with pytest.raises(InvalidItem, match=r"^items\[0\]: 67,108,892 bytes.*at most 67,108,864") as raised:
        await c.append(user("x" * MAX_BYTES))
    assert "reference" in raised.value.reason
    assert (await c.refresh()).version == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"meta": {"a": float("nan")}}, "meta.a: nan has no place"),
        ({"meta": {"a": "x" * 17_000}}, "17,008 bytes of JSON; at most 16,384 are kept beside an item"),
        ({"meta": ["a"]}, "meta: ['a']: a mapping is needed"),
        ({"meta": "a"}, "meta: 'a': a mapping is needed"),
        ({"key": ""}, "key '': a text of 1 to 255 characters is needed"),
        ({"key": "\ud800"}, "a text of 1 to 255 characters"),
        ({"expected": -1}, "expected=-1"),
        ({"expected": True}, "expected=True"),
        ({"expected": "last"}, "expected='last'"),
    ],
)
async def test_arguments_of_append_that_are_refused(engine, options, says):
    c = await engine.create()
    with pytest.raises(Invalid) as raised:
        await c.append("Hi", **options)
    assert says in str(raised.value)
    assert (await c.refresh()).version == 1


async def test_nothing_to_append(engine):
    c = await engine.create()
    with pytest.raises(Invalid, match="append: at least one item is needed"):
        await c.append()


async def test_an_output_cannot_be_pinned_without_its_call(engine):
    c = await engine.create()
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    with pytest.raises(InvalidItem, match="an output is pinned with its call: append both in one call"):
        await c.append("Hi", output, pinned=True)
    assert (await c.refresh()).version == 1


async def test_the_same_is_refused_as_a_turns_input(stage, api):
    async with stage() as s:
        c = await s.engine.create()
        for value, path, says in HOSTILE.values():
            if value is None:
                continue  # no input at all
            given = value if isinstance(value, list) else ["Good.", value]
            if given is value:
                continue  # a list of items is an input
            with pytest.raises(InvalidItem) as raised:
                await c.respond(s.model(api), given, key="k")
            assert raised.value.path.startswith(f"input[1]{path}")
            assert says in raised.value.reason
        assert (await c.refresh()).version == 1


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "call_id", "output", "id", "text"]), inner)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(ANYTHING)
async def test_whatever_is_appended_is_there_whole_or_refused(value):
    async with open_engine(":memory:") as engine:
        c = await engine.create(id="ada")
        try:
            await c.append("before", value)
        except InvalidItem:
            assert (await c.refresh()).version == 1
            return
        records = (await engine.store.read("ada", Query())).records[0]
        assert len(records) == 3
        assert [entry.seq async for entry in c.items()] == [2, 3]
