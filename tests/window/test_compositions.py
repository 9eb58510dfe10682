"""Policies composed of parts: what they decide together, how they are named, and that they keep every promise."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scribed import in_pages, needed_for

from small_logs import RESPONSES, SmallLog, call, fate, output, said, sent
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import PINNED
from turnlog.engine.loading import load, look_up
from turnlog.engine.replay import verify
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.scribe import ENCODERS
from turnlog.engine.testing.strategies import (
    TARGETS,
    Output,
    Part,
    Respond,
    Say,
    Scribe,
    Sight,
    body_of,
    conversations,
)
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import choose, line_of
from turnlog.engine.window.policies import (
    Composed,
    Cut,
    DropTurns,
    Excerpts,
    LastTurns,
    LeaveRoom,
    OldestTurns,
    Pinned,
)

LARGE = {"tokens": 100, "excerpt": 20}


def turns_of(count, *, large=False):
    """Return a log of turns of a question, a call with its output and an answer (40 tokens), the seqs of each."""
    log, turns = SmallLog(), []
    for number in range(count):
        asked = log.say(f"question {number}")
        looks = log.answer(call(number))
        found = log.say(output(number), **(LARGE if large else {}))
        turns.append([asked, looks, found, log.answer(said(number))])
    return log, turns


# -- together


def test_a_pinned_question_stays_when_the_turns_between_go():
    log, _ = turns_of(4)
    log.say("last")
    policy = Composed(Pinned(), OldestTurns())
    window = log.window(RESPONSES, Budget(100), policy)
    assert sent(window)[0] == 2
    assert fate(window, 2) == "kept: it fits"
    assert log.refusals(window) == []
    assert window.manifest.items == 60


def test_it_stays_from_cut_to_cut():
    log, _ = turns_of(4)
    policy = Composed(Pinned(), OldestTurns())
    for number in range(10, 30):
        log.say(f"question {number}")
        window = log.window(RESPONSES, Budget(100), policy)
        assert sent(window)[0] == 2
        assert log.refusals(window) == []
        asked = log.ask(budget=Budget(100), policy=policy)
        log.give(asked, said(number))
        log.end(asked)


def test_a_window_is_cut_before_it_takes_the_room_that_is_to_be_left():
    log, _ = turns_of(2)
    log.say("last")  # 90
    policy = Composed(OldestTurns(), LeaveRoom(20))
    assert sent(log.window(RESPONSES, Budget(110), policy)) == sent(log.window())
    window = log.window(RESPONSES, Budget(109), policy)
    assert window.manifest.items == 50
    assert fate(window, 2) == f"dropped: {policy.name}@1: over 89 counted tokens, cut to 50"


def test_what_cannot_go_takes_the_room_that_was_to_be_left():
    """A request that fits is never refused, nor sent without its frontier, for the sake of what may come."""
    log = SmallLog()
    first = log.say("Hello")
    log.answer(said(1))
    last = log.say("last", tokens=95)
    policy = Composed(LeaveRoom(20), DropTurns())
    for _ in range(2):
        window = log.window(RESPONSES, Budget(100), policy)
        assert sent(window) == [last]
        assert fate(window, first).startswith("dropped")
        log.ask(budget=Budget(100), policy=policy)


def test_what_a_part_pins_no_part_drops_whatever_their_order():
    log, turns = turns_of(3)
    log.say("last")
    for parts in [(LastTurns(1), Pinned()), (Pinned(), LastTurns(1))]:
        window = log.window(RESPONSES, Budget(100), Composed(*parts))
        assert sent(window) == [turns[0][0], *sent(window)[1:]]
        assert len(sent(window)) == 2


def test_a_composed_policy_is_a_part_too():
    parts = Pinned(), Excerpts(), DropTurns(keep=2), LeaveRoom(30)
    flat, nested = Composed(*parts), Composed(Composed(parts[0], Composed(*parts[1:3])), parts[3])
    assert flat.name == nested.name == "pinned+excerpts+drop-turns(keep=2)+leave-room(30)"
    log, _ = turns_of(5, large=True)
    log.say("last")
    for context in range(60, 600, 20):
        assert log.window(RESPONSES, Budget(context), flat).manifest == (
            log.window(RESPONSES, Budget(context), nested).manifest
        )


class Tools:
    """A user's own part: what tools said in older turns goes before any question or answer."""

    name = "drop-tools"
    version = 2
    oldest_first = False

    def shrink(self, draft):
        for turn in draft.older:
            for unit in turn:
                if draft.over(0.75) and any(entry.reading.is_call for entry in unit.entries):
                    draft.drop(unit)


def test_a_user_writes_parts_of_their_own():
    log, turns = turns_of(3)
    last = log.say("last")
    policy = Composed(Tools(), Excerpts())
    assert policy.name == "drop-tools.2+excerpts"
    window = log.window(RESPONSES, Budget(100), policy)  # of 130
    (first, *_, answer), *later = turns
    assert sent(window) == [first, answer, *(seq for turn in later for seq in (turn[0], turn[-1])), last]
    assert log.refusals(window) == []


# -- names


def test_a_name_says_what_a_part_was_set_to():
    parts = [
        (Excerpts(), "excerpts"),
        (Excerpts(0.25), "excerpts(0.25)"),
        (Excerpts(1), "excerpts(1)"),
        (DropTurns(), "drop-turns"),
        (DropTurns(0.75, keep=0), "drop-turns(0.75,keep=0)"),
        (LastTurns(3), "last-turns(3)"),
        (Pinned(), "pinned"),
        (Pinned(2), "pinned(2)"),
        (LeaveRoom(4_000), "leave-room(4000)"),
    ]
    assert [part.name for part, _ in parts] == [name for _, name in parts]
    policies = [Composed(part) for part, _ in parts]
    policies += [Composed(Excerpts(), DropTurns()), Composed(DropTurns(), Excerpts()), OldestTurns()]
    assert len({line_of(policy, Budget(100), RESPONSES) for policy in policies}) == len(policies)


def test_another_version_of_a_part_is_another_policy():
    class Newer(DropTurns):
        version = 2

    assert Composed(Newer(keep=2), Excerpts()).name == "drop-turns(keep=2).2+excerpts"
    assert repr(Composed(Newer())) == "<Composed drop-turns.2@1>"


def test_a_policy_of_ones_own_may_be_named():
    class Support(Composed):
        name = "support"
        version = 4

        def __init__(self):
            super().__init__(Pinned(), OldestTurns(), LeaveRoom(20))

    log, _ = turns_of(4)
    log.say("last")
    assert log.window(RESPONSES, Budget(100), Support()).manifest.policy == "support@4"


# -- a promise


@pytest.mark.parametrize(
    ("policy", "promised"),
    [
        (OldestTurns(), True),
        (Composed(LastTurns(2)), True),
        (Composed(OldestTurns(), LeaveRoom(9)), True),
        (Composed(Pinned(), OldestTurns()), False),
        (Composed(Tools()), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_composed_policy_promises_what_all_of_its_parts_do(policy, promised):
    assert policy.oldest_first is promised


def test_what_parts_keep_goes_before_a_request_is_refused():
    """The parts are wishes: where their window does not fit, it is made to fit as the default policy would."""

    class Nothing:
        name, version = "nothing", 1

        def shrink(self, draft):
            """Shrink nothing."""

    for parts in [(Nothing(),), (LastTurns(9),), (Excerpts(1.0),), (LeaveRoom(1),)]:
        log, _ = turns_of(4)
        last = log.say("last")
        window = log.window(RESPONSES, Budget(60), Composed(*parts))
        assert sent(window)[-5:] == [*sent(window)[:4], last]
        assert window.manifest.items == 50
        assert log.refusals(window) == []


def test_what_is_pinned_and_does_not_fit_is_refused_with_the_figures():
    log = SmallLog()
    log.say("Write a book.", tokens=60)
    log.answer(said(1))
    log.say("last", tokens=50)
    policy = Composed(Pinned(), OldestTurns())
    with pytest.raises(BudgetExceeded, match="the pinned items, this turn's input") as raised:
        log.window(RESPONSES, Budget(109), policy)
    assert (raised.value.needed, raised.value.available) == (110, 109)
    assert log.window(RESPONSES, Budget(110), policy).manifest.items == 110


def test_a_part_drops_neither_what_is_pinned_nor_the_frontier():
    class All:
        name, version = "all", 1

        def shrink(self, draft):
            for unit in draft.units:
                draft.drop(unit)

    log = SmallLog()
    pinned = log.say("My name is Ada.", flags=PINNED)
    log.say("Hello")
    log.answer(said(1))
    last = log.say("last")
    assert sent(log.window(RESPONSES, Budget(39), Composed(All()))) == [pinned, last]


# -- the default policy


class AsItWas:
    """`oldest-turns@1` as it was before it was composed."""

    name, version, oldest_first = "oldest-turns", 1, True

    def cut(self, units, available, frontier):
        cut = Cut(sum(unit.cost for unit in units))
        low = available // 2
        for unit in units:
            if cut.total > low and unit.at not in frontier:
                cut.excerpt(unit)
        self.drop_turns(units, cut, low, available, frontier)
        if cut.total > available:
            for unit in units:
                if cut.total > low and unit.at not in frontier:
                    cut.drop(unit)
        for unit in units:
            if cut.total > available and unit.at in frontier:
                cut.excerpt(unit)
        if cut.total > available:
            raise BudgetExceeded(cut.total, available)
        return cut

    def drop_turns(self, units, cut, low, available, frontier):
        starts = [0, *(index for index, unit in enumerate(units) if unit.start), len(units)]
        turns = [units[begin:end] for begin, end in pairwise(starts) if begin < end]
        current = next((index for index, turn in enumerate(turns) if any(unit.at in frontier for unit in turn)), 0)
        for index, turn in enumerate(turns[:current]):
            if cut.total <= (available if index == current - 1 else low):
                return
            for unit in turn:
                cut.drop(unit)


@st.composite
def cases(draw):
    """Units of any weights, some pinned, in turns of any length; the room; and a frontier."""
    made = []
    for at in range(draw(st.integers(1, 14))):
        cost = draw(st.integers(0, 40))
        lean = draw(st.one_of(st.just(cost), st.integers(0, cost)))
        pinned, start = draw(st.integers(0, 5)) == 0, draw(st.integers(0, 2)) == 0
        made.append(SimpleNamespace(at=10 * at, cost=cost, lean=lean, pinned=pinned, start=start))
    begin = draw(st.integers(0, len(made) - 1))
    frontier = {unit.at for unit in made[begin:] if draw(st.booleans())} | {made[-1].at}
    return made, draw(st.integers(0, sum(unit.cost for unit in made) + 1)), frozenset(frontier)


def outcome(policy, case):
    try:
        cut = policy.cut(*case)
    except BudgetExceeded as error:
        return error.needed, error.available
    return cut.dropped, cut.excerpted, cut.total


@given(cases())
def test_the_default_policy_decides_as_it_did_before_it_was_composed(case):
    assert outcome(OldestTurns(), case) == outcome(AsItWas(), case)


pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

contexts = st.sampled_from([60, 120, 250, 500, 1000])
pages = st.sampled_from([1, 20, 100, 400, 2000])


@given(conversations(), st.sampled_from(TARGETS), contexts)
async def test_so_it_does_in_every_log(steps, target, context):
    scribe = Scribe(MemoryStore())
    await scribe.write(steps)
    _, history = await load(scribe.store, scribe.name, line=None, tokens=10**9)
    for sight in [*(one.sight for one in scribe.sent), Sight(target, Budget(context))]:
        if not await look_up(scribe.store, history, sight.line):
            _, history = await load(scribe.store, scribe.name, line=sight.line, tokens=10**9)
        before = Sight(sight.target, sight.budget, AsItWas())
        assert before.line == sight.line
        assert await chosen(history, sight) == await chosen(history, before)


async def chosen(history, sight):
    try:
        return choose(history, await sight.request(history), sight.policy)
    except BudgetExceeded as error:
        return error.needed, error.available


def passed_over(history, line):
    last = history.previous(line)
    return history.base is not None and last is not None and last[1].base < history.base[0].seq < last[0]


# -- whatever it is composed of

compositions = st.lists(
    st.sampled_from(
        [
            Excerpts(),
            Excerpts(1),
            DropTurns(),
            DropTurns(0.8, keep=3),
            LastTurns(1),
            LastTurns(3),
            Pinned(),
            Pinned(3),
            LeaveRoom(90),
            Tools(),
            OldestTurns(),
        ]
    ),
    min_size=1,
    max_size=4,
).map(lambda parts: Composed(*parts))


@given(conversations(), st.sampled_from(TARGETS), contexts, compositions, pages)
async def test_a_window_is_valid_and_fits_and_what_is_loaded_makes_no_difference(
    steps, target, context, policy, tokens
):
    scribe = Scribe(MemoryStore(), policy=policy)
    await scribe.write(steps)
    _, whole = await load(scribe.store, scribe.name, line=None, tokens=10**9)
    lines = {one.sight.line: one.sight for one in scribe.sent}
    for sight in [Sight(target, Budget(context), policy), *lines.values()]:
        if not await look_up(scribe.store, whole, sight.line):
            _, whole = await load(scribe.store, scribe.name, line=sight.line, tokens=10**9)
        if passed_over(whole, sight.line):
            continue  # windows go on without that compaction, and load what is there without it
        made = await chosen(whole, sight)
        assert await in_pages(scribe, sight, tokens, chosen) == made
        if isinstance(made, tuple):
            assert made[0] > made[1]
            continue
        assert made.tokens <= sight.budget.context - sight.budget.reserve
        _, manifest, rendered = await scribe.window(sight.target, sight.budget, policy=policy)
        assert manifest == made
        if rendered:
            assert refusals(sight.target.api, body_of(rendered, sight.target), born=scribe.born) == []


async def test_what_was_sent_is_written_out_again_by_whoever_does_not_know_the_policy():
    scribe = Scribe(MemoryStore(), policy=Composed(Tools(), Pinned(), OldestTurns()))
    steps = [
        Say(({"type": "message", "role": "user", "content": "word " * 80},)),
        Respond(budget=1, parts=(Part("call"),)),
        Output(),
    ]
    await scribe.write(steps * 30)
    report = await verify(scribe.store, scribe.name, ENCODERS)
    assert (report.responses, report.verified) == (30, 30)
    assert scribe.sent[-1].manifest.cut > 0


@given(conversations(), st.sampled_from(TARGETS), compositions)
async def test_a_refusal_names_what_is_needed(steps, target, policy):
    """Whatever the parts wish: a window is refused only where none can be."""
    scribe = Scribe(MemoryStore(), policy=policy)
    await scribe.write(steps)
    refused = await needed_for(scribe, target, 1, policy)
    assume(refused is not None)
    _, manifest, _ = await scribe.window(target, Budget(refused), policy=policy)
    assert manifest.tokens <= refused
    if refused > 2 and not any(part.name.startswith(("pinned", "drop-tools")) for part in policy.parts):
        assert await needed_for(scribe, target, refused - 1, policy) == refused
        assert await needed_for(scribe, target, refused - 1, OldestTurns()) is not None
