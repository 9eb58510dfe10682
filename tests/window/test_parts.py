"""The parts of policies: what each of them does, and what is said of mistakes."""

from types import SimpleNamespace

import pytest

from small_logs import RESPONSES, SmallLog, call, output, said
from turnlog.engine.errors import Invalid
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.invariants import INVARIANTS
from turnlog.engine.window.policies import (
    Compacting,
    Composed,
    Cut,
    Draft,
    DropTurns,
    Excerpts,
    LastTurns,
    LeaveRoom,
    OldestTurns,
    Pinned,
    check_policy,
)
from turnlog.engine.window.units import Scene, mark_turns, units_of

LARGE = {"tokens": 100, "excerpt": 20}


def units(log):
    history = log.history()
    made = units_of(history, Scene(history, RESPONSES), INVARIANTS)
    mark_turns(made)
    return made


def turns_of(count, *, large=False):
    """Return a log of turns of a question, a call with its output and an answer (40 tokens), the places of each."""
    log, turns = SmallLog(), []
    for number in range(count):
        asked = log.say(f"question {number}")
        looks = log.answer(call(number)) - 1
        log.say(output(number), **(LARGE if large else {}))
        turns.append([asked, looks, log.answer(said(number)) - 1])
    return log, turns


def draft_of(log, available, last):
    """Return a draft of which the last place is the frontier."""
    return Draft(units(log), available, frozenset([last]))


def shrunk(part, log, available, last):
    draft = draft_of(log, available, last)
    part.shrink(draft)
    return draft


# -- each part


@pytest.mark.parametrize(("down_to", "excerpted"), [(1.0, 0), (0.9, 1), (0.6, 3), (0.0, 4)])
def test_excerpts_are_made_down_to_a_share_of_the_room(down_to, excerpted):
    log, turns = turns_of(4, large=True)
    last = log.say("last")
    draft = shrunk(Excerpts(down_to), log, 530, last)  # 4 times 130 and 10
    assert draft.excerpted == {turn[1] for turn in turns[:excerpted]}
    assert draft.dropped == set()


@pytest.mark.parametrize(("down_to", "gone"), [(1.0, 0), (0.8, 1), (0.6, 2), (0.5, 3), (0.0, 3)])
def test_turns_go_down_to_a_share_of_the_room_but_for_the_one_before_the_current(down_to, gone):
    log, turns = turns_of(4)
    last = log.say("last")  # 4 times 40 and 10
    draft = shrunk(DropTurns(down_to), log, 170, last)
    assert draft.dropped == {place for turn in turns[:gone] for place in turn}


@pytest.mark.parametrize(("keep", "available", "gone"), [(0, 100, 3), (2, 100, 2), (3, 100, 2), (3, 49, 4)])
def test_turns_that_are_to_be_kept_go_only_if_there_is_no_room_at_all(keep, available, gone):
    log, turns = turns_of(4)
    last = log.say("last")
    draft = shrunk(DropTurns(keep=keep), log, available, last)
    assert draft.dropped == {place for turn in turns[:gone] for place in turn}


@pytest.mark.parametrize(("count", "gone"), [(1, 4), (2, 3), (4, 1), (5, 0), (9, 0)])
def test_the_last_turns_stay_and_all_others_go_whatever_room_there_is(count, gone):
    log, turns = turns_of(4)
    last = log.say("last")
    draft = shrunk(LastTurns(count), log, 10_000, last)
    assert draft.dropped == {place for turn in turns[:gone] for place in turn}


def test_what_was_said_first_is_pinned_and_not_what_was_answered():
    log = SmallLog()
    greeting = log.answer(said(0)) - 1
    rule = log.say({"role": "developer", "content": "Be brief."})
    first = log.say("Write a book.")
    log.answer(said(1))
    second, also = log.say("About what?", {"role": "developer", "content": "Be kind."})
    last = log.say("last")

    def pinned(first):
        return [unit.at for unit in Pinned(first).pins(draft_of(log, 100, last))]

    assert pinned(1) == [rule, first]
    assert pinned(2) == [rule, first, second]
    assert pinned(3) == pinned(9) == [rule, first, second, also, last]
    assert greeting not in pinned(9)


@pytest.mark.parametrize(("available", "limit"), [(1000, 900), (200, 100), (199, 99), (100, 50), (0, 0)])
def test_room_is_left_but_never_more_than_half_of_it(available, limit):
    assert LeaveRoom(100).limit(available) == limit


# -- mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Composed, "a part is needed, such as Excerpts"),
        (lambda: Composed(Excerpts), "part=<class .*Excerpts'>: a part is needed"),
        (lambda: Composed("excerpts"), "part='excerpts': a part is needed, .* it has limit or pins or shrink"),
        (lambda: Composed(SimpleNamespace(shrink=print, version=1)), "its name is None; a text of 1 to 255"),
        (lambda: Composed(SimpleNamespace(shrink=print, version="1", name="x")), "its version is '1'; a whole number"),
        (lambda: Excerpts(2), "Excerpts: down_to=2: a share of the room is needed, 0 to 1"),
        (lambda: DropTurns("half"), "DropTurns: down_to='half': a share of the room"),
        (lambda: DropTurns(keep=-1), "DropTurns: keep=-1: a whole number of turns is needed, at least 0"),
        (lambda: LastTurns(0), "LastTurns: turns=0: a whole number is needed, at least 1"),
        (lambda: Pinned(0), "Pinned: first=0"),
        (lambda: LeaveRoom(0.5), r"LeaveRoom: tokens=0\.5: a whole number is needed"),
        (lambda: check_policy(OldestTurns), "policy=<class .*: a policy is needed, such as OldestTurns"),
        (lambda: check_policy(Excerpts()), "a policy is needed, such as OldestTurns"),
        (lambda: check_policy(SimpleNamespace(cut=print)), "policy=.*: its name is None; a text"),
        (lambda: check_policy(SimpleNamespace(cut=print, name="x" * 256, version=1)), "a text of 1 to 255"),
        (lambda: check_policy(SimpleNamespace(cut=print, name="x", version=True)), "version is True; a whole number"),
    ],
)
def test_a_mistake_is_named(make, message):
    with pytest.raises(Invalid, match=message):
        make()


@pytest.mark.parametrize("given", [None, {3, 4}])
def test_a_policy_that_returns_no_cut_is_named(given):
    log, _ = turns_of(4)
    policy = SimpleNamespace(name="own", version=3, cut=lambda *_: given)
    with pytest.raises(Invalid, match=r"policy own@3: cut\(\) returned .*; a Cut is needed"):
        log.window(RESPONSES, Budget(50), policy)


class Own:
    """A policy or a part with some abilities."""

    name, version = "own", 3

    def __init__(self, **abilities):
        self.__dict__.update(abilities)


def boom(*_):
    raise RuntimeError("the disk is purple")


def no_cut(*_):
    return Cut(0)


POLICIES = {
    "raises": (Own(cut=boom), r"policy own@3: cut\(\) failed: RuntimeError: the disk is purple"),
    "limit raises": (Own(cut=no_cut, limit=boom), r"policy own@3: limit\(\) failed: RuntimeError: the disk"),
    "no limit": (Own(cut=no_cut, limit=lambda _: None), r"policy own@3: limit\(\) returned None; a whole number of"),
    "a text": (Own(cut=no_cut, limit=lambda _: "9"), r"policy own@3: limit\(\) returned '9'; a whole number of tokens"),
    "limit is none": (Own(cut=no_cut, limit=5), r"policy own@3: limit\(\) failed: TypeError: 'int' object is not"),
    "in a compacting one": (Compacting(then=Own(cut=boom)), r"policy own@3: cut\(\) failed: RuntimeError"),
    "part raises": (Composed(Own(shrink=boom)), r"part own@3: shrink\(\) failed: RuntimeError: the disk is purple"),
    "part drops no unit": (Composed(Own(shrink=lambda draft: draft.drop(5))), r"part own@3: shrink\(\) failed: Attr"),
    "pins nothing": (Composed(Own(pins=lambda _: None)), r"part own@3: pins\(\) returned None; units of the draft"),
    "pins a number": (Composed(Own(pins=lambda _: [1])), r"part own@3: pins\(\) returned 1; units of the draft"),
    "pins raise": (Composed(Own(pins=boom)), r"part own@3: pins\(\) failed: RuntimeError: the disk is purple"),
    "part's limit": (Composed(Own(limit=lambda _: 1.5)), r"part own@3: limit\(\) returned 1\.5; a whole number"),
    "deep down": (Composed(Composed(Own(pins=lambda _: [1]))), r"^part own@3: pins\(\) returned 1; units"),
}


@pytest.mark.parametrize("what", POLICIES)
def test_a_policy_or_part_of_ones_own_that_fails_is_named_with_what_it_did(what):
    policy, message = POLICIES[what]
    log, _ = turns_of(4)
    with pytest.raises(Invalid, match=message):
        log.window(RESPONSES, Budget(50), policy)


def test_a_compacting_policy_shows_what_it_does():
    assert repr(Compacting("summary", then=Composed(LastTurns(3)))) == (
        "<Compacting summary, at 0.8, then <Composed last-turns(3)@1>>"
    )
