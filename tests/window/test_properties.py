"""What holds of every window of every log."""

from contextlib import suppress
from copy import copy
from itertools import pairwise

import anyio
import msgspec
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption
from scribed import in_pages, needed_for

from turnlog.engine.canonical import encode, loads
from turnlog.engine.compaction import weight
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.events import ASIDE, ERASED, PINNED, Origin
from turnlog.engine.items import reading
from turnlog.engine.loading import load, look_up
from turnlog.engine.manifest import SENT
from turnlog.engine.replay import verify
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.scribe import ENCODERS
from turnlog.engine.testing.strategies import (
    BUDGETS,
    TARGETS,
    Respond,
    Scribe,
    Sight,
    body_of,
    conversations,
)
from turnlog.engine.tokens import measure
from turnlog.engine.window import choose as choosing
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import choose
from turnlog.engine.window.invariants import BETWEEN, INVARIANTS
from turnlog.engine.window.policies import Cut
from turnlog.engine.window.render import SEALED, seal
from turnlog.engine.window.units import Weights

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

targets = st.sampled_from(TARGETS)
contexts = st.sampled_from([60, 120, 250, 500, 1000, 2000, 5000])
pages = st.sampled_from([1, 20, 100, 400, 2000])


class Scattered:
    """A policy that drops what it likes, in the middle too."""

    name = "scattered"
    version = 1

    def cut(self, units, available, frontier):
        cut = Cut(sum(unit.cost for unit in units))
        for unit in units:
            if unit.at % 3 == 0:
                cut.excerpt(unit)
        for rest in (1, 2, 0):
            for unit in units:
                if unit.at % 3 == rest and unit.at not in frontier and cut.total > available:
                    cut.drop(unit)
        for unit in units:
            if cut.total > available:
                cut.excerpt(unit)
        if cut.total > available:
            raise BudgetExceeded(cut.total, available)
        return cut


policies = st.sampled_from([None, None, None, Scattered()])


async def written(steps):
    scribe = Scribe(MemoryStore())
    await scribe.write(steps)
    return scribe


async def window(scribe, *args, **more):
    try:
        return await scribe.window(*args, **more)
    except BudgetExceeded as error:
        reject_if(error.needed > error.available)
        raise


def reject_if(fits_not):
    """Give an example up where there rightly is no window."""
    assume(not fits_not)


def refused(scribe, rendered, target, **more):
    return [str(one) for one in refusals(target.api, body_of(rendered, target), born=scribe.born, **more)]


PARTS = 8
"""In which the cases are divided, so that several workers share them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_a_window_is_valid_or_there_is_none(part, seed, long):
    """2,000 cases; with --long 100,000."""

    @settings(max_examples=(100_000 if long else 2_000) // PARTS)
    @seeded(seed * PARTS + part)
    @given(conversations(), targets, contexts, policies)
    def holds(steps, target, context, policy):
        anyio.run(it_is_valid, steps, target, context, policy)

    holds()


async def it_is_valid(steps, target, context, policy):
    await it_holds(await written(steps), target, context, policy)


async def it_holds(scribe, target, context, policy=None):
    history, manifest, rendered = await window(scribe, target, Budget(context), policy=policy)
    count = (await scribe.intake.vocabulary()).count
    records = await scribe.records()
    it_is_taken(scribe, rendered, target, context, count)
    it_fits(manifest, rendered, history, target, context, count)
    thoughts_go_to_their_maker(history, rendered, target)
    runs_cover_every_seq_once(manifest)
    why_tells_what_was_sent(manifest, rendered, records)
    alive = alive_in(history, records)
    the_frontier_is_there(manifest, alive)
    what_is_pinned_is_there(manifest, alive)
    if target.api != "chat":
        what_is_in_effect_is_there(manifest, history, records)


def it_is_taken(scribe, rendered, target, context, count):
    if rendered:
        assert refused(scribe, rendered, target, window=context, count=count) == []


def it_fits(manifest, rendered, history, target, context, count):
    assert manifest.items <= manifest.tokens <= context
    weighed = sum(measure(one.item, count).tokens for one in rendered if one.seq != manifest.base)
    assert weighed + (weight(*history.base, target) if history.base else 0) <= manifest.items


def thoughts_go_to_their_maker(history, rendered, target):
    """What a body alone does not tell."""
    entries = {entry.seq: entry for entry in history.entries()}
    for one in rendered:
        thought = one.item.get("type") == "reasoning"
        if one.seq in entries and (one.item.get("encrypted_content") or (thought and target.api == "chat")):
            assert history.origin(entries[one.seq]) == Origin(target.api, target.backend, target.model)
            assert not thought or target.api != "chat" or target.thoughts != "never"
        if thought and target.thoughts == "tool_turns":
            assert turn_called_tools(history, entries[one.seq])


def turn_called_tools(history, entry):
    """Return whether the response that an item is of called tools, or goes on with a turn in which they were."""
    calls = [one for one in history.entries() if one.response == entry.response and one.reading.is_call]
    return bool(calls) or history.requests[entry.response].continues


@pytest.mark.parametrize("gone", [one.__name__ for one in (*INVARIANTS, *BETWEEN)])
def test_without_any_one_invariant_windows_are_not_valid(gone, monkeypatch):
    """So generated logs show what each is for; a few hundred of them are enough."""
    monkeypatch.setattr(choosing, "INVARIANTS", tuple(one for one in INVARIANTS if one.__name__ != gone))
    monkeypatch.setattr(choosing, "BETWEEN", tuple(one for one in BETWEEN if one.__name__ != gone))

    @settings(max_examples=1_000, phases=[Phase.generate], database=None)
    @seeded(1)
    @given(conversations())
    def holds(steps):
        anyio.run(holds_for_all, steps)

    with pytest.raises(AssertionError):
        holds()


@settings(max_examples=100, phases=[Phase.generate], database=None)
@seeded(1)
@given(conversations())
async def test_with_all_of_them_the_same_logs_give_valid_windows(steps):
    await holds_for_all(steps)


async def holds_for_all(steps):
    scribe = await written(steps)
    for target in TARGETS:
        with suppress(UnsatisfiedAssumption):
            await it_holds(scribe, target, 5000)


def runs_cover_every_seq_once(manifest):
    assert manifest.runs[0].first == 1
    assert manifest.runs[-1].last == manifest.as_of
    assert all(run.first <= run.last for run in manifest.runs)
    assert all(left.last + 1 == right.first for left, right in pairwise(manifest.runs))


def why_tells_what_was_sent(manifest, rendered, records):
    sent = {one.seq for one in rendered} - {manifest.base}
    assert sent == set(manifest.weights) - {manifest.base}
    assert sum(manifest.why(record.seq).tokens for record in records) == manifest.items
    for record in records:
        verdict = manifest.why(record.seq)
        assert verdict.rule
        if record.seq in sent:
            assert verdict.fate in SENT
            assert verdict.tokens == manifest.weights[record.seq]
        elif record.item is not None:
            assert verdict.fate not in SENT
    assert manifest.as_of == records[-1].seq
    assert manifest.why(manifest.as_of + 1).fate == "later"


def the_frontier_is_there(manifest, alive):
    erased = {one.seq for one in alive if one.flags & ERASED}
    for seq in [*last_input(alive), *last_answer(alive)]:
        assert manifest.fate(seq) in (SENT if seq not in erased else ("erased", "dropped"))


def what_is_pinned_is_there(manifest, alive):
    for one in alive:
        if one.flags & PINNED and not one.flags & ERASED and one.shape in ("user", "system", "developer"):
            assert manifest.fate(one.seq) == "pinned"


def what_is_in_effect_is_there(manifest, history, records):
    """Each setting says what it was last set to, wherever the window begins."""
    latest = {}
    for one in records:
        if one.shape == "configuration_update" and history.is_alive(one.seq) and not one.flags & (ERASED | ASIDE):
            latest.update(dict.fromkeys(loads(one.item).keys() & {"reasoning", "text"}, one.seq))
    for seq in latest.values():
        assert manifest.fate(seq) == "pinned"


def alive_in(history, records):
    return [one for one in records if history.is_alive(one.seq) and one.seq > history.start and not one.flags & ASIDE]


def last_input(alive):
    """Return the seq of what a user said last, in a list; an empty one if there is nothing."""
    return [one.seq for one in alive if one.shape == "user"][-1:]


def last_answer(alive):
    """Return the seqs of the messages of the last answer, unless something came after it."""
    failed = {one.response for one in alive if one.kind == "response.failed"}
    stands = [one for one in alive if one.response not in failed]
    answers = [one for one in stands if one.shape == "assistant"]
    last = max((one.response for one in answers), default=0)
    if any(one.item and is_made(one) and one.response > last for one in stands):
        return []
    # A message that came while the answer was under way starts a turn of its own.
    if any(seq >= last for seq in last_input(alive)):
        return []
    return [one.seq for one in answers if one.response == last]


def is_made(record):
    return reading(record.shape or "", record.link).maker == "model"


@given(conversations())
async def test_requests_in_the_log_are_valid_and_can_be_written_out_again(steps):
    scribe = await written(steps)
    for sent in scribe.sent:
        assert refused(scribe, sent.rendered, sent.sight.target) == []
        assert sent.manifest.tokens <= sent.sight.budget.context - sent.sight.budget.reserve
    for error in scribe.refused:
        assert error.needed > error.available
    for name in scribe.names:
        report = await verify(scribe.store, name, ENCODERS)
        assert report.diverged == []
        assert report.verified + report.erased == report.responses
    assert report.responses >= len(scribe.sent)


@given(conversations(), targets, contexts, pages, policies)
async def test_what_is_loaded_makes_no_difference(steps, target, context, tokens, policy):
    """A history that grew event by event, and one read from the store in pages of any size, choose alike."""
    scribe = Scribe(MemoryStore())
    await scribe.begin()
    _, live = await load(scribe.store, scribe.name, line=None, tokens=10**9)
    for step in steps:
        before = scribe.name
        await scribe.take(step)
        live.extend(await scribe.records(live.version) if scribe.name == before else ())
        if live.stale or scribe.name != before:
            _, live = await load(scribe.store, scribe.name, line=None, tokens=10**9)
    for sight in [
        Sight(target, Budget(context), policy),
        *{sent.sight.line: sent.sight for sent in scribe.sent}.values(),
    ]:
        if not await look_up(scribe.store, live, sight.line):
            _, live = await load(scribe.store, scribe.name, line=sight.line, tokens=10**9)
        assert await in_pages(scribe, sight, tokens, outcome) == await outcome(live, sight)


async def outcome(history, sight):
    try:
        manifest = choose(history, await sight.request(history), sight.policy)
    except BudgetExceeded as error:
        return error.needed, error.available
    assert choose(history, await sight.request(history), sight.policy) == manifest
    return msgspec.structs.asdict(manifest)


@given(conversations(), targets, policies)
async def test_a_refusal_names_what_is_needed(steps, target, policy):
    scribe = await written(steps)
    needed = await needed_for(scribe, target, 1, policy)
    assume(needed is not None)
    _, manifest, _ = await scribe.window(target, Budget(needed), policy=policy)
    assert manifest.tokens <= needed
    if policy is None and needed > 2:
        assert await needed_for(scribe, target, needed - 1, policy) == needed


@given(conversations(6), st.sampled_from(BUDGETS), targets)
async def test_between_two_cuts_a_window_only_grows_at_its_end(steps, budget, target):
    """Unless what was sent has itself changed: an output came late, of a program too, or in place of a seal, or a
    response failed."""
    scribe = Scribe(MemoryStore())
    await scribe.begin()
    for step in steps:
        await scribe.take(step)
        await scribe.take(Respond(TARGETS.index(target), BUDGETS.index(budget)))
    lines = {}
    changes = await changed_at(scribe)
    erased = {record.seq for record in await scribe.records() if record.flags & ERASED}
    for sent in scribe.sent:
        last = lines.get(sent.sight.line)
        lines[sent.sight.line] = sent
        if last is None or any(last.seq < seq < sent.seq for seq in changes) or may_go(last, erased):
            continue
        if not goes_on(sent, last):
            continue
        before, now = [encode(one.item) for one in last.rendered], [encode(one.item) for one in sent.rendered]
        assert now[: len(before)] == before
        assert sent.manifest.shared == last.manifest.items


def goes_on(sent, last):
    """Return whether a window begins where the one before did: neither was cut anew, nor from another compaction."""
    if last.manifest.base != sent.manifest.base:  # it left too little room for what must be sent now
        assert last.manifest.base > sent.manifest.base
        return False
    return last.manifest.cut == sent.manifest.cut and not excerpted(sent) - excerpted(last)


def may_go(sent, erased):
    """Return whether something of a window is erased, or a program: one that never ended goes with the next answer."""
    return any(one.seq in erased or one.item.get("type") == "program" for one in sent.rendered)


def excerpted(sent):
    return {run.first for run in sent.manifest.runs if run.fate == "excerpted"}


async def changed_at(scribe):
    """Return the seqs of events that may change what came before them."""
    kinds = ("response.failed", "history.rewound", "context.compacted", "compaction.undone", "item.erased")
    return [
        record.seq
        for record in await scribe.records()
        if record.kind in kinds
        or record.shape == "program_output"
        or reading(record.shape or "", record.link).is_output
    ]


@given(conversations(), targets, st.sampled_from(BUDGETS[:3]))
async def test_a_line_never_moves_the_cut_of_another(steps, target, small):
    scribe = await written(steps)
    large = BUDGETS[3]
    asked = len(scribe.sent)
    # Its own request makes it a line; and no call is left open, so the next request adds nothing to the window.
    await scribe.take(Respond(TARGETS.index(target), BUDGETS.index(large), parts=()))
    reject_if(len(scribe.sent) == asked)
    before = await window(scribe, target, large)
    await scribe.take(Respond(TARGETS.index(target), BUDGETS.index(small), parts=()))
    after = await window(scribe, target, large)
    assert after[1].cut == before[1].cut
    assert [encode(one.item) for one in after[2]][: len(before[2])] == [encode(one.item) for one in before[2]]


@given(conversations(), targets, contexts, st.sampled_from([1, 2, 5]))
async def test_another_counter_decides_by_its_own_figures(steps, target, context, per_character):
    scribe = await written(steps)

    def count(text):
        return -(-len(text) // per_character)  # texts that are sent as one are no more than they are apart

    items = {}
    for record in await scribe.records():
        if record.item is not None:
            items[record.seq] = measure(msgspec.json.decode(record.item), count)[:2]
    sealed = measure(seal({"call_id": ""}, "function_call", SEALED), count).tokens
    _, manifest, rendered = await window(scribe, target, Budget(context), weights=Weights(items, sealed))
    assert manifest.tokens <= context
    weighed = sum(measure(one.item, count).tokens for one in rendered if one.seq != manifest.base)
    assert weighed <= manifest.items
    if rendered:
        assert refused(scribe, rendered, target) == []


@given(conversations())
async def test_a_copy_of_a_history_grows_alone(steps):
    scribe = await written(steps)
    _, history = await load(scribe.store, scribe.name, line=None, tokens=10**9)
    before = state(history)
    twin = history.copy()
    assert state(twin) == before
    await scribe.take(Respond())
    twin.extend(await scribe.records(twin.version))
    assert state(history) == before


def state(history):
    return {
        name: copy(value) if isinstance(value, dict | list | set) else value for name, value in vars(history).items()
    }
