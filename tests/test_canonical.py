"""Canonical JSON: one byte form for equal values; three doors, each with its own manners."""

import enum
import hashlib
import json
import math
from collections import OrderedDict, UserDict, UserList
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine.canonical import MAX_BYTES, MAX_DEPTH, canonical, digest, encode, loads, parse, plain, salvage
from turnlog.engine.errors import Invalid, InvalidItem

numbers = st.integers() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)
halves = st.text(st.characters(categories=["Cs"]) | st.characters(codec="utf-8"))
wild = st.recursive(
    st.none() | st.integers() | st.floats() | halves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(halves, inner, max_size=4),
    max_leaves=20,
)


def nested(depth):
    value = "leaf"
    for _ in range(depth):
        value = [value]
    return value


def disguised(value):
    """Return an equal value of other classes, in another order."""
    match value:
        case bool() | None | str():
            return value
        case int() if abs(value) < 2**53:
            return float(value)
        case int() | float():
            return value
        case list():
            return tuple(disguised(part) for part in value)
        case dict():
            return MappingProxyType(OrderedDict((key, disguised(value[key])) for key in reversed(value)))
        case _:
            raise AssertionError(value)


# -- bytes


@given(values)
def test_it_is_idempotent(value):
    data = canonical(value)

    assert canonical(loads(data)) == data
    assert encode(loads(data)) == data
    assert canonical(parse(data)) == data


@given(values)
def test_it_says_the_same_value(value):
    assert loads(canonical(value)) == value
    assert json.loads(canonical(value)) == value
    assert plain(value) == value


@given(values)
def test_equal_values_have_equal_bytes(value):
    assert canonical(disguised(value)) == canonical(value)


@given(values)
def test_whatever_text_said_it(value):
    expected = canonical(value)
    for options in ({}, {"indent": 2}, {"ensure_ascii": False, "sort_keys": True}):
        text = json.dumps(value, **options)
        assert canonical(parse(text)) == canonical(parse(text.encode())) == expected
        assert salvage(text) == salvage(text.encode()) == (plain(value), [])


whole = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(whole)
def test_without_floats_it_is_what_json_writes_shortest(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    # json escapes U+007F no more than canonical JSON does.
    assert canonical(value) == text.encode()


@given(st.dictionaries(st.text(), st.none()))
def test_keys_are_in_code_point_order(value):
    assert list(loads(canonical(value))) == sorted(value, key=lambda key: [ord(letter) for letter in key])


def test_keys_are_not_in_utf_16_order():
    assert canonical({"\U0001f600": 1, "\uffff": 2, "a": 3}) == '{"a":3,"\uffff":2,"\U0001f600":1}'.encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_exact_and_shortest(value):
    written = canonical(value).decode()

    assert float(written) == value
    digits = [part.lstrip("-0.").split("e")[0].replace(".", "").strip("0") for part in (written, repr(value))]
    assert len(digits[0]) <= len(digits[1])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (0, "0"),
        (True, "true"),
        (2.0**53 - 1, "9007199254740991"),
        (2**53, "9007199254740992"),
        (2.0**53, "9007199254740992.0"),
        (10**40, "1" + "0" * 40),
        (-(10**40), "-1" + "0" * 40),
        (1e22, "1e22"),
        (1e-7, "1e-7"),
        (0.1, "0.1"),
        (5e-324, "5e-324"),
        ("\x7f\u2028/<>", '"\x7f\u2028/<>"'),
        ('\x00\x1f"\\\b\f\n\r\t', '"\\u0000\\u001f\\"\\\\\\b\\f\\n\\r\\t"'),
    ],
)
def test_numbers_and_escapes(value, text):
    assert canonical(value) == text.encode()


def test_a_digest_is_the_sha_256_of_the_bytes():
    assert digest(canonical({"b": 1, "a": 1.0})) == hashlib.sha256(b'{"a":1,"b":1}').hexdigest()


# -- callers


class Colour(enum.Enum):
    RED = "red"


class Name(str):
    __slots__ = ()

    def __str__(self):
        return "another text"


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Name("a"), "a"),
        ({Name("a"): Name("b")}, {"a": "b"}),
        (Number.ONE, 1),
        (enum.StrEnum("Tint", ["BLUE"]).BLUE, "blue"),
        (UserDict({"a": UserList([1, (2,)])}), {"a": [1, [2]]}),
        (range(3), [0, 1, 2]),
    ],
)
def test_subclasses_count_as_what_they_are(value, expected):
    made = plain(value)

    assert made == expected
    assert json.dumps(made) == json.dumps(expected)


REFUSED = [
    (math.nan, "$", "nan has no place in JSON; use null or a string"),
    ([1, math.inf], "$[1]", "inf has no place in JSON; use null or a string"),
    ({"a": {"b": [-math.inf]}}, "$.a.b[0]", "-inf has no place in JSON; use null or a string"),
    ({"a": "\ud800"}, "$.a", "a lone surrogate (half of a character)"),
    ({"a": ["\U0001f600", "x\udfff"]}, "$.a[1]", "decode the text with errors='replace'"),
    ({"a": {"\ud800": 1}}, "$.a.\\ud800", "a lone surrogate"),
    ([{1: 2}], "$[0].1", "object key 1 is no string"),
    ({None: 2}, "$.None", "object key None is no string"),
    ({"a": b"x"}, "$.a", "a bytes is no JSON value"),
    ({"a": {1, 2}}, "$.a", "a set is no JSON value"),
    ([Colour.RED], "$[0]", "a Colour is no JSON value"),
    ([object()], "$[0]", "a object is no JSON value"),
    ({"n": 10**4001}, "$.n", "an integer of more than 4,000 digits; use a string"),
    ({"n": [-(10**5000)]}, "$.n[0]", "an integer of more than 4,000 digits; use a string"),
]


@pytest.mark.parametrize(("value", "place", "reason"), REFUSED)
def test_what_has_no_meaning_is_refused_by_place_and_reason(value, place, reason):
    for door in (plain, canonical):
        with pytest.raises(InvalidItem) as refused:
            door(value)
        assert refused.value.path == place
        assert reason in refused.value.reason
        assert str(refused.value) == f"{place}: {refused.value.reason}"
        str(refused.value).encode()


def test_the_place_begins_where_the_caller_says():
    with pytest.raises(InvalidItem, match=r"^items\[3\]\.content\[0\]: a bytes"):
        canonical({"content": [b""]}, "items[3]")


def test_a_hundred_levels_are_taken_and_no_more():
    assert loads(canonical(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    assert plain({"a": nested(MAX_DEPTH - 1)}) == {"a": nested(MAX_DEPTH - 1)}
    assert plain([Name("x")] * 1) == ["x"]
    deep = nested(0)
    for _ in range(MAX_DEPTH):
        deep = [deep, Name("a string of another class is no level")]
    assert plain(deep)
    for value in (nested(MAX_DEPTH + 1), nested(5000)):
        with pytest.raises(InvalidItem, match="nested deeper than 100 levels") as refused:
            plain(value)
        assert refused.value.path == "$" + "[0]" * MAX_DEPTH


def test_a_value_that_holds_itself_is_refused():
    value = {}
    value["self"] = [value]
    with pytest.raises(InvalidItem, match="nested deeper"):
        canonical(value)


class Changing(UserDict):
    """A mapping that somebody adds to while it is read."""

    def items(self):
        for pair in self.data.items():
            yield pair
            self.data[f"{pair[0]}+"] = 1


@pytest.mark.parametrize("value", [{"a": Changing(b=1)}, Changing(a=[1]), [Changing(b=1, c=2)]])
def test_what_changes_while_it_is_read_is_refused_with_the_remedy(value):
    for door in (plain, canonical):
        with pytest.raises(InvalidItem, match=r"^items\[0\]: it was changed while .*; pass a copy: copy\.deepcopy"):
            door(value, "items[0]")


def test_more_than_64_mib_are_refused_with_the_remedy():
    text = "x" * (MAX_BYTES - 2)
    assert len(canonical(text)) == MAX_BYTES
    with pytest.raises(InvalidItem, match=r"^\$: 67,108,865 bytes of JSON; at most 67,108,864 .* Store a reference"):
        canonical(text + "x")


def test_a_refusal_is_an_invalid_and_a_value_error():
    with pytest.raises(ValueError, match="no JSON value") as refused:
        canonical(object())
    assert isinstance(refused.value, Invalid)


# -- JSON text of callers


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('{"a":[NaN]}', "$.a[0]", "nan has no place in JSON"),
        ('{"a":{"b":-Infinity}}', "$.a.b", "-inf has no place in JSON"),
        ("[1, 1e999]", "$[1]", "inf has no place in JSON"),
        ("[" + "9" * 4001 + "]", "$[0]", "inf has no place in JSON"),
        ('[{"k":1,"x":2,"k":3}]', "$[0]", "key 'k' occurs twice in one object"),
        ('{"a":{"b":{"c":1,"c":1}}}', "$.a.b", "key 'c' occurs twice in one object"),
        ('{"a":1,"\\u0061":2}', "$", "key 'a' occurs twice in one object"),
        ('["\\ud800"]', "$[0]", "a lone surrogate"),
        ("[" * 101 + "]" * 101, "$" + "[0]" * 100, "nested deeper than 100 levels"),
        ("[" * 100_000, "$", "nested deeper than 100 levels"),
        ("{'a':1}", "$", "not JSON: Expecting property name"),
        ("[1,]", "$", "not JSON"),
        ("", "$", "not JSON"),
        ("1 2", "$", "not JSON: Extra data"),
        (b'"\xff"', "$", "not JSON: 'utf-8' codec"),
        (b"\xff\xfe\x00", "$", "not JSON"),
    ],
)
def test_text_is_refused_by_place_and_reason(text, place, reason):
    with pytest.raises(InvalidItem) as refused:
        parse(text)
    assert refused.value.path == place
    assert reason in refused.value.reason


def test_a_key_that_occurs_twice_is_found_among_many():
    text = "{" + ",".join(f'"{number}":0' for number in range(200_000)) + ',"199999":1}'
    with pytest.raises(InvalidItem, match="key '199999' occurs twice"):
        parse(text)


@given(st.text() | st.binary())
def test_any_text_is_parsed_or_refused(text):
    try:
        value = parse(text)
    except InvalidItem:
        return
    assert loads(canonical(value)) == value


# -- providers


@given(wild)
def test_nothing_that_can_be_read_is_refused_from_a_provider(value):
    value, repairs = salvage(json.dumps(value))
    assert loads(encode(value)) == value
    assert canonical(value) == encode(value)
    again, none = salvage(encode(value))
    assert (again, none) == (value, [])
    assert all(repair.startswith("$") for repair in repairs)


@given(wild)
def test_what_was_replaced_is_said(value):
    try:
        expected = plain(value)
    except InvalidItem:
        assert salvage(json.dumps(value))[1]
    else:
        assert salvage(json.dumps(value)) == (expected, [])


@given(st.binary())
def test_any_bytes_are_salvaged_or_no_json(data):
    try:
        value, _ = salvage(data)
    except ValueError:
        return
    assert loads(encode(value)) == value


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"a":["\\ud800x"]}', {"a": ["\ufffdx"]}, ["$.a[0]: a lone surrogate became U+FFFD"]),
        ('"\\ud83d\\ude00"', "\U0001f600", []),
        ('{"\\udfff":1}', {"\ufffd": 1}, ["$ (a key): a lone surrogate became U+FFFD"]),
        (b'["\xff"]', ["\ufffd"], ["$: invalid UTF-8 became U+FFFD"]),
        ("[NaN, -Infinity]", [None, None], [f"$[{n}]: a number out of range became null" for n in (0, 1)]),
        ("[1e999, 1.0]", [None, 1], ["$[0]: a number out of range became null"]),
        ("9" * 5000, None, ["$: a number out of range became null"]),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}, []),
        ('{"a":1,"a":2.0}', {"a": 2}, []),
        ("  [ 1e2, -0.0 ] \n", [100, 0], []),
    ],
)
def test_what_a_provider_says_is_mended(text, value, repairs):
    assert salvage(text) == (value, repairs)
    assert canonical(salvage(text)[0]) == encode(value)


@pytest.mark.parametrize("depth", [99, 100, 101, 300, 900])
def test_what_a_provider_nests_too_deeply_becomes_null(depth):
    value, repairs = salvage(json.dumps(nested(depth)))
    if depth <= MAX_DEPTH:
        assert (value, repairs) == (nested(depth), [])
    else:
        assert repairs == ["$" + "[0]" * MAX_DEPTH + ": what is nested deeper than 100 levels became null"]
        assert canonical(value) == b"[" * 100 + b"null" + b"]" * 100


def test_brackets_in_strings_are_no_levels():
    value = {"arguments": "[{" * 500}
    assert salvage(json.dumps(value)) == (value, [])


@pytest.mark.parametrize("text", ["", "{", "[1,]", "{'a':1}", "data: {}", "tru", b"\xff", "[" * 100_000])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r".") as error:
        salvage(text)
    assert not isinstance(error.value, Invalid)


BRACKETS = st.sampled_from(
    [b"[" * 99 + b"]" * 99, b"[" * 101 + b"]" * 101, b'{"a":' * 60 + b"[" * 45 + b"]" * 45 + b"}" * 60]
)
ODD = st.sampled_from(
    [
        b"1.0",
        b"-0.0",
        b"-0",
        b"1e3",
        b"1e16",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b"1" * 4300,
        b"[" + b"1" * 4100 + b"]",
    ]
)


@given(st.one_of(values.map(encode), BRACKETS, ODD, st.binary(max_size=30)), st.sampled_from([b"", b"\n", b" "]))
def test_bytes_that_are_as_they_are_written_are_parsed_as_their_text_is(data, end):
    """There is a quicker way for them."""
    try:
        expected = parse((data + end).decode())
    except (InvalidItem, UnicodeDecodeError):
        with pytest.raises(InvalidItem):
            parse(data + end)
        return
    made = parse(data + end)
    assert encode(made) == encode(expected)
    assert [type(one) for one in leaves(made)] == [type(one) for one in leaves(expected)]


def leaves(value):
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(leaf for one in parts for leaf in leaves(one))]
