"""A user's own policy: what it is given, what it may decide, and what it may not; and the figures of a refusal."""

import pytest

from small_logs import CHAT, RESPONSES, SmallLog, call, fate, output, said, sent, thought
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import PINNED, StandIn
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.policies import Cut

LARGE = {"tokens": 100, "excerpt": 20}


class Own:
    """Drops what it is told to drop, and remembers what it was asked."""

    name = "own"
    version = 3

    def __init__(self, drops=(), excerpts=()):
        self.drops = drops
        self.excerpts = excerpts
        self.asked = []

    def cut(self, units, available, frontier):
        self.asked.append(([unit.at for unit in units], available, frontier))
        cut = Cut(sum(unit.cost for unit in units))
        for unit in units:
            if unit.at in self.excerpts:
                cut.excerpt(unit)
            if unit.at in self.drops:
                cut.drop(unit)
        return cut


class Greedy(Own):
    """Drops everything, also what it must not."""

    def cut(self, units, available, frontier):
        cut = Cut(0)
        cut.dropped = {unit.at for unit in units}
        return cut


class OldestFirst(Own):
    """Promises to drop from the oldest, so it need not be shown what is too old in any case."""

    oldest_first = True


def questions(count):
    """Return a log of questions and answers of 20 tokens, and a last question, with the seqs of all."""
    log = SmallLog()
    seqs = []
    for number in range(count):
        seqs += [log.say(f"question {number}"), log.answer(said(number))]
    return log, [*seqs, log.say("last")]


def places(log):
    return [group.at for group in log.history()]


def test_a_policy_is_asked_on_overflow_only():
    log, seqs = questions(4)
    policy = Own()
    assert sent(log.window(RESPONSES, Budget(90), policy)) == seqs
    assert policy.asked == []


def test_a_policy_is_given_the_units_the_room_and_what_cannot_go():
    log, seqs = questions(4)
    policy = Own(drops=places(log)[:4])
    log.window(RESPONSES, Budget(100, 20), policy, overhead=5)
    assert policy.asked == [(places(log), 75, frozenset({seqs[-1]}))]


def test_what_a_policy_decides_is_done_and_named():
    log, seqs = questions(4)
    window = log.window(RESPONSES, Budget(60), Own(drops=places(log)[:4]))
    assert sent(window) == seqs[4:]
    assert fate(window, seqs[0]) == "dropped: own@3: over 60 counted tokens, cut to 50"
    assert window.manifest.policy == "own@3"
    assert log.refusals(window) == []


def test_a_policy_may_drop_in_the_middle_and_its_choice_lasts():
    log, seqs = questions(4)
    policy = Own(drops=places(log)[2:6])
    window = log.window(RESPONSES, Budget(60), policy)
    assert sent(window) == [*seqs[:2], *seqs[6:]]
    log.ask(budget=Budget(60), policy=policy)
    more = log.say("more")
    window = log.window(RESPONSES, Budget(60), policy)
    assert sent(window) == [*seqs[:2], *seqs[6:], more]
    assert len(policy.asked) == 2
    assert fate(window, seqs[3]).startswith("dropped: own@3")


@pytest.mark.anyio
@pytest.mark.parametrize("target", [RESPONSES, CHAT])
@pytest.mark.parametrize("tokens", [1, 1000])
async def test_an_answer_stays_whatever_goes_of_what_came_while_it_was_made(target, tokens):
    """It stands before that, and its items behind it; the first of them not every API is sent."""
    log = SmallLog()
    first = log.say("Hello")
    asked = log.ask(target)
    pasted, sorry = log.say("paste", tokens=100), log.say("the wrong window")
    thinking = log.give(asked, thought(1))
    well = log.say("Well?")
    answer = log.give(asked, said(1))
    log.end(asked)
    more = [log.answer(said(2), target=target), log.say("Then?")]
    policy = Own(drops=[pasted])
    window = await log.stored_window(target, Budget(100), policy, tokens=tokens)
    answered = [thinking, answer] if target is RESPONSES else [answer]
    assert sent(window) == [first, *answered, sorry, well, *more]
    assert all(fate(window, seq) == "kept: it fits" for seq in sent(window))
    assert fate(window, pasted).startswith("dropped: own@3")
    log.ask(target, manifest=window.manifest)
    last = log.say("And?")
    cold = await log.stored_window(target, Budget(100), policy, tokens=tokens)
    for window in (cold, log.window(target, Budget(100), policy)):
        assert sent(window) == [first, *answered, sorry, well, *more, last]
        assert window.manifest.items == sum(window.manifest.weights.values())
        assert log.refusals(window) == []


def test_a_policy_may_excerpt_and_drop_nothing():
    log = SmallLog()
    log.say("Look")
    place = log.answer(call(1)) - 1
    found = log.say(output(1, "x" * 3000), **LARGE)
    log.answer(said(2))
    log.say("Well?")
    window = log.window(RESPONSES, Budget(130), Own(excerpts=[place]))
    assert window.manifest.cut == 0
    assert fate(window, found) == "excerpted: own@3: over 130 counted tokens, cut to 60"


def test_what_is_pinned_or_the_frontier_stays_whatever_a_policy_says():
    log = SmallLog()
    pinned = log.say("My name is Ada.", flags=PINNED)
    log.say("Hello")
    log.answer(said(1))
    last = log.say("last")
    window = log.window(RESPONSES, Budget(30), Greedy())
    assert sent(window) == [pinned, last]


def test_a_policy_that_keeps_too_much_is_refused_by_name():
    log, _ = questions(4)
    with pytest.raises(BudgetExceeded, match="what the policy own@3 keeps") as raised:
        log.window(RESPONSES, Budget(60), Own(drops=places(log)[:2]))
    assert (raised.value.needed, raised.value.available) == (70, 60)


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "shown"), [(Own, 41), (OldestFirst, 4)])
async def test_a_policy_is_shown_everything_unless_it_promises_to_drop_the_oldest_first(kind, shown):
    """Where it promises, a little more than fits is read, and shown from the first answer on."""
    log, seqs = questions(20)
    policy = kind(drops=places(log)[:38])
    window = await log.stored_window(RESPONSES, Budget(30), policy)
    assert sent(window) == seqs[38:]
    assert policy.asked[-1][0] == places(log)[-shown:]


# -- the figures of a refusal


@pytest.mark.parametrize(
    ("budget", "overhead", "needed", "available"),
    [(Budget(9), 0, 10, 9), (Budget(29, 20), 0, 10, 9), (Budget(29, 5), 15, 25, 24)],
    ids=["items", "reserve", "overhead"],
)
def test_a_refusal_names_what_whole_requests_need_and_have(budget, overhead, needed, available):
    log, _ = questions(4)
    with pytest.raises(BudgetExceeded, match="this turn's input") as raised:
        log.window(RESPONSES, budget, overhead=overhead)
    assert (raised.value.needed, raised.value.available) == (needed, available)
    assert log.window(RESPONSES, Budget(needed + budget.reserve, budget.reserve), overhead=overhead)


def test_a_refusal_counts_as_the_api_does():
    log = SmallLog()
    log.say("Hello")
    asked = log.ask(budget=Budget(100))
    log.give(asked, said(1))
    log.end(asked, usage=25)  # 10 were counted
    log.say("last", tokens=41)
    with pytest.raises(BudgetExceeded) as raised:
        log.window(RESPONSES, Budget(100))
    assert (raised.value.needed, raised.value.available) == (103, 100)


def test_an_overhead_that_does_not_fit_alone_is_refused_by_name():
    log, _ = questions(4)
    with pytest.raises(BudgetExceeded, match="instructions, tools and response format") as raised:
        log.window(RESPONSES, Budget(50, 10), overhead=41)
    assert (raised.value.needed, raised.value.available) == (41, 40)


@pytest.mark.parametrize(("budget", "overhead"), [(Budget(50, 10), 40), (Budget(1), 0)])
def test_a_refusal_names_more_than_there_is(budget, overhead):
    """Also where rounding leaves no room at all."""
    log = SmallLog()
    log.say("Hello")
    asked = log.ask(budget=Budget(100))
    log.give(asked, said(1))
    log.end(asked, usage=13)  # 10 were counted
    log.say("last")
    with pytest.raises(BudgetExceeded) as raised:
        log.window(RESPONSES, budget, overhead=overhead)
    assert raised.value.needed > raised.value.available == budget.context - budget.reserve


@pytest.mark.anyio
async def test_what_stands_for_compacted_events_counts_among_what_is_needed():
    log, seqs = questions(4)
    log.compact(seqs[-1], StandIn(seq=seqs[0]), tokens=30)
    log.say("now")
    window = await log.stored_window(RESPONSES, Budget(40))
    assert window.manifest.items == 40
    assert window.manifest.base
    # Where it does not fit, it is passed over.
    assert (await log.stored_window(RESPONSES, Budget(39))).manifest.base == 0
