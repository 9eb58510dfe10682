"""The workload: the same everywhere, like real conversations, counted by all systems as by turnlog."""

import statistics

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.workload import TURN, items, newest, size, text, turn, weigh
from turnlog.engine.canonical import canonical, digest
from turnlog.engine.tokens import measure
from turnlog.engine.vocabulary import load


@pytest.fixture(scope="module")
def count():
    return anyio.run(load).count


def test_it_is_the_same_in_every_process():
    assert digest(canonical(items(400))) == "d96b7b42e6eabd0f27dde17fc15120f9917e2f0542477ac034425785b0ad51c2"


def test_items_are_made_from_their_turn_s_number_alone():
    assert items(40, 5) == items(60)[20:]
    assert [item for number in range(5) for item in turn(number)] == items(20)


def test_no_two_items_are_alike():
    texts = [text(item) for item in items(8_000)]
    assert len(set(texts)) == len(texts)


def test_items_are_as_large_as_those_of_real_conversations(count):
    made = items(4_000)
    assert 650 < statistics.mean(map(size, made)) < 730
    assert 130 < statistics.mean(weigh(item, count) for item in made) < 155


def test_its_words_are_split_into_tokens_as_those_of_real_texts_are(count):
    prose = " ".join(text(item) for item in items(4_000)[3::4])
    words = len(prose.split())
    assert 1.3 * words < count(prose) < 2.5 * words
    assert 3.7 < len(prose) / count(prose) < 4.6


def test_every_system_counts_what_turnlog_stores(count):
    for item in items(400):
        assert weigh(item, count) == measure(item, count).tokens


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(0, 400), st.integers(0, 3))
def test_a_walk_keeps_the_newest_whole_turns_that_fit(weights, budget, shift):
    history = list(enumerate(weights))

    def begins(one):
        return (one[0] + shift) % TURN == 0

    start = newest(history, budget, lambda one: one[1], begins)
    assert sum(weights[start:]) <= budget
    assert start == len(history) or begins(history[start])
    earlier = next((at for at in range(start - 1, -1, -1) if begins(history[at])), None)
    assert earlier is None or sum(weights[earlier:]) > budget
