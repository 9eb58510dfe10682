"""What passes by the invariants, and what is not looked at, is what these would leave alone."""

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from small_logs import CHAT, RESPONSES, SmallLog, call, output, said
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import ERASED
from turnlog.engine.loading import load
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.strategies import TARGETS, Scribe, conversations
from turnlog.engine.window import choose as choosing
from turnlog.engine.window import units as fitting
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import Request, choose
from turnlog.engine.window.invariants import INVARIANTS
from turnlog.engine.window.policies import OldestTurns
from turnlog.engine.window.render import render
from turnlog.engine.window.units import Scene, is_settled, units_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

targets = st.sampled_from(TARGETS)
contexts = st.sampled_from([60, 120, 250, 500, 1000])
CASES = 100


async def loaded(steps, tokens=10**9):
    scribe = Scribe(MemoryStore())
    await scribe.write(steps)
    _, history = await load(scribe.store, scribe.name, line=None, tokens=tokens)
    return history


def as_told(unit):
    fit = unit.fit
    sealed = [entry.seq for entry in fit.sealed]
    return unit.at, dict(fit.out), set(fit.bare), sealed, fit.weights, fit.cost, fit.lean, fit.empty, list(fit.ids)


def test_every_invariant_leaves_settled_groups_alone(seed, long, monkeypatch):
    seen = {"settled": 0}

    @settings(max_examples=CASES * (100 if long else 1))
    @seeded(seed)
    @given(conversations(), targets)
    def holds(steps, target):
        history = anyio.run(loaded, steps)
        fast = units_of(history, Scene(history, target), INVARIANTS)
        seen["settled"] += sum(unit.fit.settled for unit in fast)
        for group in history:
            group.fit_for = None
        with monkeypatch.context() as patched:
            patched.setattr(fitting, "is_settled", lambda _: False)
            slow = units_of(history, Scene(history, target), INVARIANTS)
        assert [as_told(unit) for unit in fast] == [as_told(unit) for unit in slow]

    holds()
    assert seen["settled"] > CASES


def test_what_is_too_old_to_stay_need_not_be_looked_at(seed, long, monkeypatch):
    seen = {"less": 0}

    @settings(max_examples=CASES * (100 if long else 1))
    @seeded(seed)
    @given(conversations(), targets, contexts)
    def holds(steps, target, context):
        history = anyio.run(loaded, steps)
        request = Request(target, Budget(context), 0)
        seen["less"] += choosing._floor(history, request, OldestTurns()) > history.floor
        short = chosen(history, request)
        with monkeypatch.context() as patched:
            patched.setattr(choosing, "_floor", lambda history, *_: history.floor)
            whole = chosen(history, request)
        assert short == whole

    holds()
    assert seen["less"] > CASES // 50


def chosen(history, request):
    try:
        return choose(history, request, OldestTurns())
    except BudgetExceeded as error:
        return str(error)


def test_what_a_window_sends_is_among_what_is_rendered(seed, long):
    @settings(max_examples=CASES * (100 if long else 1))
    @seeded(seed)
    @given(conversations(), targets, contexts)
    def holds(steps, target, context):
        history = anyio.run(loaded, steps)
        manifest = chosen(history, Request(target, Budget(context), 0))
        if isinstance(manifest, str):
            return
        rendered_anyhow(history, manifest, target)

    holds()


def rendered_anyhow(history, manifest, target):
    known = {}
    rest = history.early, [], manifest.base, manifest, target, {}
    whole = [one.item for one in render(history, *rest)]
    for _ in range(4):
        written = render(history.sent(manifest), *rest, known)
        assert [one.item for one in written] == whole
        for one in written:
            one.item.clear()  # as whoever gets a window may
    places = [group.at for group in history.sent(manifest)]
    assert places == [group.at for group in history if group.at in set(places)]


def group_of(*items):
    log = SmallLog()
    log.answer(*items[0])
    if items[1:]:
        log.say(*items[1:])
    return next(iter(log.history()))


@pytest.mark.parametrize(
    ("items", "settled"),
    [
        (([said(1)],), True),
        (([call(1)], output(1)), True),
        (([call(1), call(2), said(1)], output(2), output(1)), True),
        (([call(1)],), False),
        (([call(1), call(2)], output(2)), False),
        (([call(1), call(1)], output(1)), False),
        (([call(1)], output(1), output(1)), False),
    ],
)
def test_settled_is_what_every_api_takes_with_one_output_for_each_call(items, settled):
    group = group_of(*items)
    assert is_settled(group.entries) == settled


@pytest.mark.parametrize("target", [RESPONSES, CHAT])
def test_what_was_erased_is_not_settled(target):
    log = SmallLog()
    log.say("Hello", flags=ERASED)
    history = log.history()
    (unit,) = units_of(history, Scene(history, target), INVARIANTS)
    assert not unit.fit.settled
    assert unit.empty
