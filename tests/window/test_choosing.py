"""Choosing: cuts are kept while they fit, lines do not disturb one another, reported usage tightens a window."""

import pytest

from small_logs import CHAT, OTHER_MODEL, RESPONSES, SmallLog, call, fate, output, said, sent, thought
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import ERASED, PINNED
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import line_of
from turnlog.engine.window.policies import OldestTurns

LARGE = {"tokens": 100, "excerpt": 20}
BY_DEFAULT = "dropped: oldest-turns@1: over"


def chat_for(log, turns, start=0, **columns):
    """Append turns of 20 tokens; return the seqs of their items."""
    seqs = []
    for number in range(start, start + turns):
        seqs += [log.say(f"question {number}", **columns), log.answer(said(number), **columns)]
    return seqs


# -- the frontier


@pytest.mark.parametrize(("context", "stays"), [(40, 0), (30, 0), (60, 2)])
def test_the_current_question_stays_whatever_goes(context, stays):
    log = SmallLog()
    seqs = chat_for(log, 4)
    last = log.say("last", tokens=30)
    window = log.window(RESPONSES, Budget(context))
    assert sent(window) == [*seqs[len(seqs) - stays :], last]
    assert all(fate(window, seq).startswith(BY_DEFAULT) for seq in seqs[: len(seqs) - stays])


def test_all_that_was_said_since_the_last_answer_is_the_current_question():
    log = SmallLog()
    chat_for(log, 3)
    question = [log.say("This"), *log.say("and", "that"), log.say({"role": "developer", "content": "Be kind."})]
    assert sent(log.window(RESPONSES, Budget(40))) == question
    with pytest.raises(BudgetExceeded):
        log.window(RESPONSES, Budget(39))


def test_the_last_round_stays_with_what_led_to_it_and_came_after_it():
    log = SmallLog()
    chat_for(log, 2)
    asked = log.say("Find it")
    log.answer(call(10))
    log.say(output(10))
    last = log.answer(thought(11), call(11))
    found = log.say(output(11))
    hint = log.say({"role": "system", "content": "Two rounds are left."})
    window = log.window(RESPONSES, Budget(50))
    assert sent(window) == [asked, *last, found, hint]
    assert log.refusals(window) == []
    with pytest.raises(BudgetExceeded):
        log.window(RESPONSES, Budget(49))


@pytest.mark.anyio
@pytest.mark.parametrize("flags", [PINNED, PINNED | ERASED])
@pytest.mark.parametrize("tokens", [100, 1000])
async def test_so_it_does_however_little_is_read_behind_what_is_pinned(tokens, flags):
    """Where a pinned message was erased, the turn that it began does not begin anew with what is read."""
    log = SmallLog()
    log.say("I am Ada", flags=flags)
    log.answer(said(1))
    asked = log.say("What is in the files?")
    for number in range(2, 14):
        log.answer(call(number))
        log.say(output(number), tokens=50)
    window = await log.stored_window(RESPONSES, Budget(100), tokens=tokens)
    assert asked in sent(window)


# -- between two cuts


def test_a_cut_is_kept_while_it_fits():
    log = SmallLog()
    seqs = chat_for(log, 6)
    log.ask(budget=Budget(100))
    first = log.window(RESPONSES, Budget(100))
    assert sent(first) == seqs[8:]  # cut to 40, not above half of the room
    for number in range(3):
        seqs += chat_for(log, 1, start=10 + number)
        window = log.window(RESPONSES, Budget(100))
        assert sent(window) == seqs[8:]
        assert window.manifest.cut == first.manifest.cut
        log.ask(budget=Budget(100))
    seqs += [log.say("over")]
    window = log.window(RESPONSES, Budget(100))
    assert window.manifest.cut > first.manifest.cut
    assert sent(window) == seqs[14:]


def test_without_a_request_in_the_log_nothing_is_remembered():
    """Looking at a window moves no cut."""
    log = SmallLog()
    chat_for(log, 6)
    log.window(RESPONSES, Budget(100))
    log.say("more", tokens=5)
    ample, tight = log.window(RESPONSES, Budget(125)), log.window(RESPONSES, Budget(100))
    assert ample.manifest.cut == 0
    assert tight.manifest.cut > 0


def test_what_was_excerpted_by_a_cut_stays_so_until_the_next():
    log = SmallLog()
    log.say("Look")
    log.answer(call(1))
    found = log.say(output(1, "x" * 3000), **LARGE)
    log.answer(said(2))
    log.say("Well?", tokens=50)
    asked = log.ask(budget=Budget(150))
    rule = fate(log.window(RESPONSES, Budget(150)), found)
    assert rule == "excerpted: oldest-turns@1: over 150 counted tokens, cut to 100"
    log.give(asked, said(3))
    log.end(asked)
    window = log.window(RESPONSES, Budget(150))
    assert fate(window, found) == rule
    assert len(window.items[2]["output"]) < 1300
    assert log.window(RESPONSES, Budget(1000)).items[2]["output"] == "x" * 3000


def test_it_stays_so_even_where_the_whole_would_fit_again():
    """Else the beginning of the window would change, and what the provider has cached of it be lost."""
    log = SmallLog()
    log.say("Look")
    log.answer(call(1))
    found = log.say(output(1, "x" * 3000), **LARGE)
    log.answer(said(2))
    log.say("Well?")
    log.ask(budget=Budget(180), overhead=50)
    assert log.window(RESPONSES, Budget(180)).manifest.fate(found) == "excerpted"
    assert log.window(RESPONSES, Budget(181)).manifest.fate(found) == "kept"


def test_what_comes_after_a_cut_is_whole_until_the_next():
    log = SmallLog()
    log.say("Look")
    log.answer(call(1))
    log.say(output(1, "x" * 3000), **LARGE)
    log.answer(said(2))
    log.say("And there?")
    log.ask(budget=Budget(139))
    log.answer(call(3))
    found = log.say(output(3, "y" * 3000), tokens=60, excerpt=20)
    window = log.window(RESPONSES, Budget(139))
    assert fate(window, found) == "kept: it fits"
    assert window.items[-1]["output"] == "y" * 3000


def test_a_dropped_unit_never_comes_back_on_its_line():
    log = SmallLog()
    chat_for(log, 6)
    log.ask(budget=Budget(100))
    first = log.window(RESPONSES, Budget(100))
    asked = log.ask(budget=Budget(100))
    log.give(asked, said(20), tokens=60)
    log.fail(asked)  # so there is room again
    assert sent(log.window(RESPONSES, Budget(100))) == sent(first)


def test_an_output_that_comes_late_for_a_call_that_was_dropped_is_dropped():
    log = SmallLog()
    log.say("Look")
    log.answer(call(1))
    chat_for(log, 4)
    log.ask(budget=Budget(50))
    late = log.say(output(1))
    window = log.window(RESPONSES, Budget(50))
    assert fate(window, late) == "dropped: its call is not in the window"
    assert log.refusals(window) == []


# -- lines


def test_a_line_is_its_policy_its_budget_and_its_target():
    class Other(OldestTurns):
        version = 2

    lines = {
        line_of(policy, budget, target)
        for policy in (OldestTurns(), Other())
        for budget in (Budget(100), Budget(100, 10), Budget(110))
        for target in (RESPONSES, OTHER_MODEL, CHAT)
    }
    assert len(lines) == 18
    assert line_of(OldestTurns(), Budget(100), RESPONSES) in lines


def test_a_small_request_does_not_move_the_cut_of_a_large_one():
    log = SmallLog()
    seqs = chat_for(log, 6)
    log.ask(budget=Budget(200))
    log.ask(budget=Budget(40))
    log.ask(OTHER_MODEL, Budget(40))
    assert sent(log.window(RESPONSES, Budget(40))) == seqs[8:]
    assert sent(log.window(RESPONSES, Budget(200))) == seqs
    assert log.window(RESPONSES, Budget(200)).manifest.shared == 120


def test_each_line_keeps_its_own_cut():
    log = SmallLog()
    chat_for(log, 12)
    budgets = [Budget(60), Budget(200)]
    cuts = [log.window(RESPONSES, budget).manifest.cut for budget in budgets]
    for budget in budgets:
        log.ask(budget=budget)
    assert cuts[0] > cuts[1] > 0
    log.say("more")
    assert [log.window(RESPONSES, budget).manifest.cut for budget in budgets] == cuts


# -- the factor


def used(log, budget, usage, number, **more):
    """Append a request, a short answer, and what the API says the request took."""
    asked = log.ask(budget=budget, **more)
    log.give(asked, said(number))
    log.end(asked, usage)


def test_reported_usage_tightens_the_window():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(190), 160, 10)  # 80 were counted
    window = log.window(RESPONSES, Budget(190))
    assert (window.manifest.factor, window.manifest.items, window.tokens.total) == (2000, 90, 180)
    assert window.manifest.cut == 0
    log.say("more")
    window = log.window(RESPONSES, Budget(190))
    assert window.manifest.cut > 0
    assert window.manifest.items <= 190 * 1000 // 2000


def test_what_was_counted_is_the_whole_request():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(400), 200, 10, overhead=20)  # 100 were counted
    for budget in (Budget(400), Budget(500)):
        manifest = log.window(RESPONSES, budget, overhead=20).manifest
        assert (manifest.factor, manifest.tokens) == (2000, 2 * (90 + 20))


def test_a_report_of_less_than_was_counted_changes_nothing():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(190), 8, 10)
    assert log.window(RESPONSES, Budget(190)).manifest.factor == 1000


def test_the_factor_sinks_at_a_cut_only():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(400), 160, 10)
    used(log, Budget(400), 90, 11)  # exactly what was counted
    window = log.window(RESPONSES, Budget(400))
    assert (window.manifest.factor, window.manifest.items) == (2000, 100)
    used(log, Budget(400), 100, 12)
    log.say("more", tokens=90)  # no room is left, and none is missing
    window = log.window(RESPONSES, Budget(400))
    assert (window.manifest.factor, window.manifest.items) == (2000, 200)
    log.say("and more")  # 420 by the old factor, 210 by the new
    window = log.window(RESPONSES, Budget(400))
    assert (window.manifest.factor, window.manifest.items) == (1000, 210)
    assert window.manifest.cut == 0


def test_an_overflow_by_the_new_factor_too_makes_a_cut():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(200), 160, 10)
    used(log, Budget(200), 135, 11)  # half as much again as was counted
    log.say("more", tokens=40)
    window = log.window(RESPONSES, Budget(200))
    assert window.manifest.factor == 1500
    assert window.manifest.cut > 0
    assert window.tokens.total <= 200


def test_an_answer_without_a_report_leaves_the_factor_alone():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(200), 120, 10)
    used(log, Budget(200), None, 11)
    assert log.window(RESPONSES, Budget(200)).manifest.factor == 1500
    log.say("more", tokens=100)
    assert log.window(RESPONSES, Budget(200)).manifest.factor == 1500


def test_a_new_line_begins_with_the_factor_of_the_latest_request_to_the_same_model():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(400), 160, 10)
    assert log.window(RESPONSES, Budget(401)).manifest.factor == 2000
    assert log.window(OTHER_MODEL, Budget(400)).manifest.factor == 1000
    assert log.window(CHAT, Budget(400)).manifest.factor == 1000


def test_a_line_that_has_begun_keeps_its_own_factor():
    log = SmallLog()
    chat_for(log, 4)
    used(log, Budget(400), 80, 10)
    used(log, Budget(500), 180, 11)
    assert log.window(RESPONSES, Budget(500)).manifest.factor == 2000
    assert log.window(RESPONSES, Budget(400)).manifest.factor == 1000
