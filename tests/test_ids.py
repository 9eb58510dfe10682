"""Names, keys, times, and the checks of arguments."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnlog.engine.checks import seconds, whole
from turnlog.engine.errors import Invalid
from turnlog.engine.ids import check_id, check_key, micros, moment, system_clock, ulid


@pytest.mark.parametrize("name", ["a", "A-z_0.9:x", "0" * 64, "..", "cv_01J", "-"])
def test_what_can_name_a_conversation(name):
    assert check_id(name) == name


@pytest.mark.parametrize(
    "name", ["", "0" * 65, "a b", "a/b", "a\n", "\na", "é", "a~b", "a\x00", "\ud800", "\uff41", None, 5, b"a", ["a"]]
)
def test_what_cannot_is_named_with_the_remedy(name):
    with pytest.raises(Invalid, match="1 to 64 characters of A-Z a-z 0-9") as refused:
        check_id(name)
    assert repr(name) in str(refused.value)


def test_a_huge_argument_does_not_make_a_huge_message():
    for refusal in (
        check_id,
        check_key,
        lambda value: whole("limit", value, 1),
        lambda value: seconds("s", value, 0, 1),
    ):
        with pytest.raises(Invalid) as refused:
            refusal("x" * 1_000_000)
        assert len(str(refused.value)) < 250


@pytest.mark.parametrize("key", ["k", "k" * 255, "a b\n", "ключ", "\x00"])
def test_what_can_be_a_key(key):
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "k" * 256, None, 5, b"k", "\udc00"])
def test_what_cannot_be_a_key(key):
    with pytest.raises(Invalid, match="a text of 1 to 255 characters is needed"):
        check_key(key)


def test_ulids_are_ids_and_sort_by_time():
    names = [ulid("cv") for _ in range(1000)]
    assert len(set(names)) == 1000
    assert all(check_id(name) == name and len(name) == 29 for name in names)
    assert [name[:13] for name in names] == sorted(name[:13] for name in names)
    assert not set("".join(names)) & set("ILOU")


@given(st.integers(-(10**16), 10**17))
def test_moments_and_microseconds_are_each_others_inverse(time):
    assert micros(moment(time)) == time


@given(st.datetimes(), st.integers(-23, 23))
def test_a_time_is_the_same_in_every_zone(when, hours):
    zone = timezone(timedelta(hours=hours))
    aware = when.replace(tzinfo=UTC)
    assert micros(when) == micros(aware)
    if 1 < when.year < 9999:
        assert micros(aware.astimezone(zone)) == micros(aware)


def test_the_epoch_and_the_clock():
    assert micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)) == -1
    assert system_clock().tzinfo is UTC


@pytest.mark.parametrize("value", [1, 5, 10])
def test_a_whole_number_in_range(value):
    assert whole("limit", value, 1, 10) == value
    assert whole("limit", value, 1) == value


@pytest.mark.parametrize("value", [0, 11, -1, True, 1.0, "1", None, float("nan")])
def test_what_is_no_whole_number_in_range(value):
    with pytest.raises(Invalid, match=r"a whole number of tokens is needed, from 1 to 10$") as refused:
        whole("limit", value, 1, 10, of="tokens")
    assert str(refused.value).startswith(f"limit={value!r}: ")


def test_a_number_without_a_limit_says_so():
    with pytest.raises(Invalid, match=r"^after=-1: a whole number is needed, at least 0$"):
        whole("after", -1, 0)


@pytest.mark.parametrize("value", [0.5, 1, 60.0])
def test_seconds_in_range(value):
    assert seconds("lease", value, 0.5, 60) == value


@pytest.mark.parametrize("value", [0.4, 61, True, "1", None, float("nan"), float("inf")])
def test_what_is_no_number_of_seconds_in_range(value):
    with pytest.raises(Invalid, match=r"seconds are needed, 0.5 to 60$"):
        seconds("lease", value, 0.5, 60)
