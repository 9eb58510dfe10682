"""Units: a history's groups as one target receives them, where turns start, and what each costs."""

import pytest

from small_logs import CHAT, RESPONSES, WEIGHT, SmallLog, call, note, output, said, thought
from turnlog.engine.events import PINNED, Origin
from turnlog.engine.tokens import SEAL_TOKENS
from turnlog.engine.window.invariants import INVARIANTS
from turnlog.engine.window.units import Scene, Weights, mark_turns, units_of

LOW = {"type": "configuration_update", "reasoning": {"effort": "low"}}
BRIEF = {"role": "developer", "content": "Be brief."}


def units(log, target=RESPONSES, weights=None):
    history = log.history()
    made = units_of(history, Scene(history, target, weights), INVARIANTS)
    mark_turns(made)
    return made


def together(log):
    """Return the seqs of each unit's entries."""
    return [[entry.seq for entry in unit.entries] for unit in units(log)]


def starts(log, target=RESPONSES):
    return [unit.at for unit in units(log, target) if unit.start]


# -- what stands or falls together


def test_a_unit_is_a_response_with_its_outputs_or_one_item_of_a_caller():
    log = SmallLog()
    first, second = log.say("Look", "there")
    seqs = log.answer(thought(1), call(1))
    answered = log.say(output(1))
    assert together(log) == [[first], [second], [*seqs, answered]]


@pytest.mark.parametrize("before", ["user", "assistant"])
def test_items_of_unknown_kinds_are_of_the_unit_that_they_stand_behind(before):
    log = SmallLog()
    seq = log.say("Hello") if before == "user" else log.answer(said(1))
    notes = log.say(note(1), note(2))
    more = log.say("More")
    assert together(log) == [[seq, *notes], [more]]


def test_one_that_comes_first_is_a_unit_of_its_own():
    log = SmallLog()
    seq = log.say(note(1))
    hello = log.say("Hello")
    assert together(log) == [[seq], [hello]]


@pytest.mark.parametrize("before", ["pinned", "in effect", "failed"])
def test_one_behind_what_stays_or_fell_for_a_reason_of_its_own_is_a_unit_too(before):
    log = SmallLog()
    if before == "failed":
        asked = log.ask()
        seq = log.give(asked, said(1))
        log.fail(asked)
    else:
        seq = log.say("Ada", flags=PINNED) if before == "pinned" else log.say(LOW)
    behind = log.say(note(1))
    assert together(log) == [[seq], [behind]]


def test_a_pinned_one_is_a_unit_of_its_own():
    log = SmallLog()
    hello = log.say("Hello")
    pinned = log.say(note(1), flags=PINNED)
    assert together(log) == [[hello], [pinned]]


# -- turns


def test_a_turn_starts_at_each_run_of_input_with_a_users_message_in_it():
    log = SmallLog()
    first = log.say("Hello")
    log.say("there")
    log.answer(call(1))
    log.say(output(1))
    log.answer(said(2))
    second = log.say(BRIEF)
    log.say("And?")
    log.answer(said(3))
    assert starts(log) == [first, second]


def test_a_system_or_developer_message_alone_starts_none():
    log = SmallLog()
    first = log.say("Hello")
    log.answer(call(1))
    log.say(BRIEF)
    log.answer(said(2))
    assert starts(log) == [first]


def test_what_is_pinned_belongs_to_no_turn_unless_a_user_said_it():
    log = SmallLog()
    log.say(BRIEF, flags=PINNED)
    first = log.say("My name is Ada.", flags=PINNED)
    assert starts(log) == [first]


def test_a_turn_starts_behind_an_example_that_is_pinned():
    log = SmallLog()
    example = log.say("Who are you?", flags=PINNED)
    log.say({"role": "assistant", "content": "Ada."}, flags=PINNED)
    first = log.say("And now?")
    assert starts(log) == [example, first]


def test_an_item_of_an_unknown_kind_parts_no_input():
    log = SmallLog()
    first = log.say(BRIEF)
    log.say(note(1))
    log.say("Hello")
    assert starts(log) == [first]


def test_where_a_turns_first_group_is_not_sent_the_turn_starts_at_the_next_that_is():
    log = SmallLog()
    low = log.say(LOW)
    first = log.say("Hello")
    log.answer(said(1))
    second = log.say("And?")
    assert starts(log, RESPONSES) == [low, second]
    assert starts(log, CHAT) == [first, second]


# -- costs


def test_a_unit_costs_what_is_sent_of_it():
    log = SmallLog()
    log.answer(thought(1), call(1))
    log.say(output(1), tokens=100, excerpt=20)
    (own,) = units(log)
    assert (own.cost, own.lean) == (2 * WEIGHT + 100, 2 * WEIGHT + 20)
    (chat,) = units(log, CHAT)  # without the thought
    assert (chat.cost, chat.lean) == (WEIGHT + 100, WEIGHT + 20)
    own.shrink()
    assert own.cost == own.lean


def test_a_unit_of_which_nothing_is_sent_costs_nothing():
    log = SmallLog()
    log.answer(thought(1))
    (alone,) = units(log)
    assert (alone.empty, alone.cost, alone.lean) == (True, 0, 0)


def test_what_stands_for_a_missing_output_costs_its_share():
    log = SmallLog()
    log.answer(call(1), call(2))
    (opened,) = units(log)
    assert (opened.cost, opened.lean) == (2 * WEIGHT + 2 * SEAL_TOKENS,) * 2


def test_what_goes_beside_an_item_costs_where_it_goes():
    log = SmallLog()
    origin = Origin(CHAT.api, CHAT.backend, CHAT.model)
    log.answer(call(1), target=CHAT, origin=origin, extra={}, beside=7)
    log.say(output(1), tokens=100, excerpt=20, origin=origin, extra={}, beside=5)
    (home,), (away,) = units(log, CHAT), units(log, RESPONSES)
    assert (home.cost - away.cost, home.lean - away.lean) == (12, 12)


def test_another_counter_has_the_last_word():
    log = SmallLog()
    looks = log.answer(call(1), call(2))
    answered = log.say(output(1), tokens=100, excerpt=20)
    (unit,) = units(log, weights=Weights({looks[0]: (3, None), answered: (50, 5)}, seal=11))
    assert (unit.cost, unit.lean) == (3 + WEIGHT + 50 + 11, 3 + WEIGHT + 5 + 11)
