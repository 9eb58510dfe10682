"""The default policy: what goes first on overflow, how much of it, and what never goes."""

import pytest

from small_logs import RESPONSES, SmallLog, call, output, said
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import PINNED
from turnlog.engine.window.invariants import INVARIANTS
from turnlog.engine.window.policies import Cut, OldestTurns
from turnlog.engine.window.units import Scene, mark_turns, units_of

LARGE = {"tokens": 100, "excerpt": 20}
"""A large output, and what it weighs as an excerpt."""


def units(log):
    """Return what a policy is shown of a log, if it is shown all of it."""
    history = log.history()
    made = units_of(history, Scene(history, RESPONSES), INVARIANTS)
    mark_turns(made)
    return made


def cut_of(log, available, frontier):
    return OldestTurns().cut(units(log), available, frozenset(frontier))


def turn(log, number, *, large=True):
    """Append a turn of 130 tokens, 50 with its output excerpted; return the places of its three groups."""
    asked = log.say(f"question {number}")
    looks = log.answer(call(number))
    log.say(output(number), **(LARGE if large else {}))
    answer = log.answer(said(number))
    return [asked, looks - 1, answer - 1]


def three_turns(*, large=True):
    """Return a log of three turns and a last question, the places of each turn's groups, and the frontier."""
    log = SmallLog()
    turns = [turn(log, number, large=large) for number in range(3)]
    return log, turns, [log.say("last")]


def agent(rounds):
    """Return a log of one turn of many rounds, 110 tokens each, the places of the rounds, and the frontier."""
    log = SmallLog()
    asked = log.say("find it")
    places = []
    for number in range(rounds):
        places.append(log.answer(call(number)) - 1)
        log.say(output(number), **LARGE)
    return log, places, [asked, places[-1]]


# -- excerpts first


def test_large_outputs_go_as_excerpts_before_any_turn_goes():
    log, turns, frontier = three_turns()
    cut = cut_of(log, 390, frontier)
    assert cut.dropped == set()
    assert cut.excerpted == {looks for _, looks, _ in turns}
    assert cut.total == 3 * 50 + 10


@pytest.mark.parametrize(("available", "excerpted", "total"), [(640, 1, 320), (639, 2, 240), (479, 3, 160)])
def test_excerpts_are_made_from_the_oldest_down_to_half_of_the_room(available, excerpted, total):
    log, turns, frontier = three_turns()
    cut = cut_of(log, available, frontier)
    assert cut.excerpted == {looks for _, looks, _ in turns[:excerpted]}
    assert cut.total == total


def test_what_is_dropped_is_not_excerpted_too():
    log, turns, frontier = three_turns()
    cut = cut_of(log, 250, frontier)
    assert cut.dropped == set(turns[0])
    assert cut.excerpted == {looks for _, looks, _ in turns[1:]}
    assert cut.total == 2 * 50 + 10


def test_what_has_no_excerpt_is_not_excerpted():
    log, _, frontier = three_turns(large=False)
    assert cut_of(log, 129, frontier).excerpted == set()


# -- then whole turns


@pytest.mark.parametrize(("available", "gone"), [(320, 0), (319, 1), (220, 1), (219, 2), (60, 2)])
def test_whole_turns_go_from_the_oldest_down_to_half_of_the_room(available, gone):
    log, turns, frontier = three_turns()
    cut = cut_of(log, available, frontier)
    assert cut.dropped == {place for places in turns[:gone] for place in places}
    assert cut.total == (3 - gone) * 50 + 10


@pytest.mark.parametrize(("available", "stays"), [(60, True), (59, False)])
def test_the_last_turn_before_the_current_one_stays_while_it_fits_at_all(available, stays):
    log, turns, frontier = three_turns()
    cut = cut_of(log, available, frontier)
    assert cut.dropped == {*turns[0], *turns[1], *(() if stays else turns[2])}
    assert cut.total == (60 if stays else 10)


def test_what_comes_before_the_first_turn_goes_before_it():
    log = SmallLog()
    greeting = log.answer(said(0)) - 1
    turn(log, 1, large=False)
    assert cut_of(log, 59, [log.say("last")]).dropped == {greeting}


def test_what_is_pinned_stays_and_its_room_is_counted():
    log = SmallLog()
    system = log.say({"role": "system", "content": "Be brief."}, flags=PINNED)
    first = turn(log, 1, large=False)
    fact = log.say("My name is Ada.", flags=PINNED)
    second = turn(log, 2, large=False)
    frontier = [log.say("last")]
    cut = cut_of(log, 70, frontier)
    assert cut.dropped == set(first)
    assert cut.total == 20 + 40 + 10
    cut = cut_of(log, 69, frontier)
    assert cut.dropped == {*first, *second}
    assert cut.total == 30
    assert not cut.dropped & {system, fact}


def test_the_large_output_of_a_pinned_call_may_go_as_an_excerpt():
    log = SmallLog()
    pinned, _ = log.say(call(0), output(0), flags=PINNED, **LARGE)
    first = turn(log, 1, large=False)
    cut = cut_of(log, 89, [log.say("last")])
    assert cut.dropped == set(first)
    assert cut.excerpted == {pinned}


# -- one turn alone


def test_when_one_turn_alone_overflows_its_older_outputs_shrink_first():
    log, places, frontier = agent(6)
    cut = cut_of(log, 400, frontier)
    assert cut.dropped == set()
    assert cut.excerpted == set(places[:5])
    assert cut.total == 10 + 5 * 30 + 110


@pytest.mark.parametrize(("available", "gone"), [(270, 0), (269, 5), (120, 5)])
def test_then_its_older_rounds_go_down_to_half_of_the_room(available, gone):
    log, places, frontier = agent(6)
    cut = cut_of(log, available, frontier)
    assert cut.dropped == set(places[:gone])
    assert cut.total == 10 + (5 - gone) * 30 + 110


@pytest.mark.parametrize(("available", "gone"), [(129, 4), (100, 4), (99, 5)])
def test_not_all_of_them_go_where_some_can_stay(available, gone):
    log = SmallLog()
    asked = log.say("find it")
    rounds = []
    for number in range(6):
        rounds.append(log.answer(call(number)) - 1)
        log.say(output(number))
    cut = cut_of(log, available, [asked, rounds[-1]])  # 10 and 20 for each round
    assert cut.dropped == set(rounds[:gone])
    assert cut.total == 130 - 20 * gone


def test_its_input_and_its_last_round_stay_the_output_as_an_excerpt_if_it_must():
    log, places, frontier = agent(6)
    for available in (119, 40):
        cut = cut_of(log, available, frontier)
        assert cut.dropped == set(places[:5])
        assert cut.excerpted == {places[5]}
        assert cut.total == 40


def test_older_turns_go_before_a_round_of_the_current_one():
    log = SmallLog()
    first = turn(log, 10)
    asked = log.say("find it")
    rounds = []
    for number in range(3):
        rounds.append(log.answer(call(number)) - 1)
        log.say(output(number), **LARGE)
    cut = cut_of(log, 180, [asked, rounds[-1]])
    assert cut.dropped == set(first)
    assert cut.total == 10 + 2 * 30 + 110


# -- nothing is left to go


def test_what_cannot_be_dropped_and_does_not_fit_is_refused_with_the_figures():
    log, _, frontier = agent(6)
    with pytest.raises(BudgetExceeded) as raised:
        cut_of(log, 39, frontier)
    assert (raised.value.needed, raised.value.available) == (40, 39)


def test_what_is_pinned_counts_among_what_cannot_be_dropped():
    log = SmallLog()
    log.say("My name is Ada.", flags=PINNED, tokens=50)
    turn(log, 1)
    with pytest.raises(BudgetExceeded) as raised:
        cut_of(log, 59, [log.say("last")])
    assert (raised.value.needed, raised.value.available) == (60, 59)


# -- what a cut adds up


def test_a_cut_counts_each_unit_once_however_often_it_is_told():
    log, turns, _ = three_turns()
    made = {unit.at: unit for unit in units(log)}
    first, looks, _ = turns[0]
    cut = Cut(400)
    for _ in range(2):
        cut.excerpt(made[looks])
    assert (cut.total, cut.excerpted) == (320, {looks})
    for _ in range(2):
        cut.drop(made[looks])
        cut.excerpt(made[looks])
    assert (cut.total, cut.excerpted, cut.dropped) == (290, set(), {looks})
    cut.excerpt(made[first])
    assert (cut.total, cut.excerpted) == (290, set())


def test_a_cut_drops_nothing_that_is_pinned():
    log = SmallLog()
    log.say("My name is Ada.", flags=PINNED)
    cut = Cut(10)
    cut.drop(units(log)[0])
    assert (cut.total, cut.dropped) == (10, set())
