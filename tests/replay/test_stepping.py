"""Steps: what each model call was, what was new in it, what went and why."""

import pytest

from everything_log import BUDGET, everything
from instant_model import Instant
from turnlog import Budget, NotFound
from turnlog.engine.manifest import SENT
from turnlog.engine.replay import Piecewise, encoders, stepping
from turnlog.engine.replay.stepping import diff, diffs, steps
from turnlog.engine.tokens import scaled

pytestmark = pytest.mark.anyio


async def test_the_steps_are_the_model_calls_in_the_order_of_the_log(engine):
    c = await everything(engine)
    found = await stepping.steps(engine, c.id)
    calls = [call async for call in c.responses()]
    assert [(one.seq, one.status, one.error, one.usage) for one in found] == [
        (call.seq, call.status, call.error, call.usage) for call in calls
    ]
    assert [one.number for one in found] == list(range(1, len(calls) + 1))
    turns = {turn.seq: turn.number async for turn in c.turns(abandoned=True)}
    assert [one.turn_number for one in found] == [turns[call.turn] for call in calls]
    assert {one.room for one in found} == {BUDGET.context - BUDGET.reserve}


async def test_the_tokens_by_kind_add_up_to_the_window_and_the_items_to_what_was_there(engine):
    c = await everything(engine)
    items = [entry.seq async for entry in c.items(abandoned=True)]
    for one in await stepping.steps(engine, c.id):
        assert sum(one.kinds.values()) == one.tokens
        assert sum(one.fates.values()) == sum(seq <= one.manifest.as_of for seq in items)
        assert one.kinds["system"] >= scaled(12, one.manifest.factor) - 1
        sent = [seq for seq in items if one.manifest.fate(seq) in SENT]
        assert set(one.new) <= set(sent)


async def test_what_was_new_and_what_went_are_named_with_the_rule(engine, api):
    model = Instant(api, budget=Budget(1_000, 100))
    c = await engine.create(id="c")
    for number in range(1, 14):
        await c.run(model, f"Question {number}: " + "and what of it? " * 20)
    found = await stepping.steps(engine, "c")
    assert [len(one.new) for one in found] == [1, *[2] * 12]
    cut = next(one for one in found if one.cut)
    assert cut.cut.startswith("oldest-turns@1: over")
    (moved,) = cut.moved
    assert (moved.fate, moved.rule, moved.items) == ("dropped", cut.cut, cut.fates["dropped"])
    assert [one.before for one in found] == [None, *[one.seq for one in found[:-1]]]
    grown = found[found.index(cut) + 1]
    assert grown.moved == []
    assert not grown.cut
    assert 0 < grown.shared < grown.tokens


async def test_a_diff_says_what_was_added_and_what_is_another(engine):
    c = await engine.create(id="c")
    model = Instant(budget=Budget(1_000, 100))
    await c.run(model, "One?", instructions="Be brief.")
    await c.run(model, "Two?", instructions="Be long.")
    first, second = await stepping.steps(engine, "c")
    found = await stepping.diff(c, first.seq, second.seq)
    assert [(one.kind, one.new) for one in found.changes] == [("same", 0), ("added", 1), ("added", 2)]
    assert [str(one) for one in found.frame] == ['$.instructions: "Be brief." became "Be long."']
    assert [one.kind for one in (await stepping.diff(c, None, first.seq)).changes] == ["added"]


async def test_going_to_the_next_error_cut_compaction_or_turn(engine):
    await everything(engine)
    found = await stepping.steps(engine, "everything")
    error = stepping.find(found, 0, goal="error")
    assert found[error].status == "failed"
    assert stepping.find(found, len(found) - 1, goal="error", back=True) == error
    cuts = [index for index, one in enumerate(found) if one.cut]
    assert stepping.find(found, 0, goal="cut") == cuts[0]
    assert stepping.find(found, cuts[0], goal="cut") == cuts[1]
    assert found[stepping.find(found, 5, turn=1)].turn_number == 1
    for wanted in ({"goal": "compaction"}, {"turn": 999}, {"goal": "error", "back": True}):
        with pytest.raises(NotFound):
            stepping.find(found, 0, **wanted)


async def test_why_tells_the_fate_the_rule_and_the_tokens(engine):
    c = await everything(engine)
    found = await stepping.steps(engine, c.id)
    tokens = {event.seq: event.tokens async for event in c.events()}
    last = found[-1]
    for seq in range(1, c.version + 1):
        verdict = await stepping.why(engine, c.id, seq, last.seq)
        assert (verdict.fate, verdict.rule) == (last.manifest.why(seq).fate, last.manifest.why(seq).rule)
        if verdict.fate in ("kept", "pinned"):
            assert verdict.tokens == tokens[seq]
        elif verdict.fate not in SENT:
            assert verdict.tokens == 0
    excerpted = next(one for one in found if "excerpted" in one.fates)
    seq = next(seq for seq in tokens if excerpted.manifest.fate(seq) == "excerpted" and tokens[seq])
    assert 0 < (await stepping.why(engine, c.id, seq, excerpted.seq)).tokens < tokens[seq]
    with pytest.raises(NotFound, match="seq 9999"):
        await stepping.why(engine, c.id, 9999, last.seq)
    with pytest.raises(NotFound, match="response 2"):
        await stepping.why(engine, c.id, 2, 2)


def counted(known, written):
    """Return encoders like those known, which note the items that they write."""

    def counts(encoder):
        def pieces(items, settings):
            written.extend(one.seq for one in items)
            return encoder.pieces(items, settings)

        return Piecewise(encoder, encoder.field, pieces)

    return {key: counts(encoder) for key, encoder in known.items()}


async def test_all_diffs_together_are_those_of_each_and_write_an_item_once_or_twice(engine, monkeypatch):
    c = await engine.create(id="c")
    one, other = Instant(budget=Budget(1_500)), Instant("chat", budget=Budget(2_500))
    for turn in range(60):
        await c.run(
            other if turn % 3 else one, f"Question {turn}: " + "and what of it? " * 6, instructions=f"{turn // 20}"
        )
    found = await steps(engine, "c")
    written = []
    known = counted(encoders(), written)
    monkeypatch.setattr(stepping, "encoders", lambda: known)
    made = {step.seq: one async for step, one in diffs(engine, "c", found)}
    assert len(written) < 6 * len([entry async for entry in c.items()])
    assert list(made) == [step.seq for step in found]
    assert sum(bool(step.cut) for step in found) > 2
    for step in found:
        alone = await diff(c, step.before, step.seq)
        assert made[step.seq].changes == alone.changes
        assert list(made[step.seq].new) == alone.new
        assert made[step.seq].frame == alone.frame


async def test_a_diff_of_what_was_erased_says_so(engine):
    c = await engine.create(id="c")
    for turn in range(3):
        await c.run(Instant(), f"Question {turn}?")
    await c.erase([entry.seq async for entry in c.items()][2], reason="asked to")
    found = [one async for _, one in diffs(engine, "c", await steps(engine, "c"))]
    assert not isinstance(found[0], str)
    assert found[1:] == ["conversation c, the content at seq 7: deleted"] * 2


async def test_a_listed_call_tells_the_same_and_what_was_erased_since(engine):
    c = await engine.create()
    await c.respond(Instant(budget=Budget(1_000)), "a secret of nine tokens or so, more or less")
    last = (await c.responses(order="desc")).data[0].seq
    call = await c.response(last)
    assert call.manifest.why(2).tokens == 0, "the log does not hold it twice"
    verdict = await call.why(2)
    assert verdict == await stepping.why(engine, c.id, 2, last)
    assert verdict.fate == "kept"
    assert verdict.tokens > 9
    await c.erase(2, reason="law")
    verdict = await (await c.response(last)).why(2)
    assert (verdict.fate, verdict.rule, verdict.tokens) == ("kept", "it fits; erased since", 0)
    assert (await call.why(last)).rule == f"the window is as of {last - 1}"
    with pytest.raises(NotFound, match=rf"conversation {c.id}, seq 99 \(its events are 1 to {c.version}\)"):
        await call.why(99)
