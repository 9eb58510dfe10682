"""What changes where a window begins: compactions, what is pinned, rewinds, and items of kinds that nobody knows."""

import pytest

from small_logs import (
    CHAT,
    OTHER_MODEL,
    RESPONSES,
    SmallLog,
    call,
    fate,
    kinds,
    note,
    output,
    roles,
    said,
    sent,
    thought,
)
from turnlog import open_engine
from turnlog.engine.events import PINNED, StandIn
from turnlog.engine.loading import load
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.units import Weights

pytestmark = pytest.mark.anyio
BOTH = pytest.mark.parametrize("target", [RESPONSES, CHAT], ids=["responses", "chat"])
BRIEF = {"role": "system", "content": "Be brief."}
LOW = {"type": "configuration_update", "reasoning": {"effort": "low"}}
HIGH = {"type": "configuration_update", "reasoning": {"effort": "high"}}
JSON = {"type": "configuration_update", "text": {"format": {"type": "text"}}}
OPAQUE = {"type": "compaction", "id": "cmp_9", "encrypted_content": "secret"}


def head(log):
    return len(log.records)


# -- unknown kinds


@pytest.mark.parametrize("before", ["input", "model"])
async def test_an_item_of_an_unknown_kind_belongs_to_what_it_stands_behind(before):
    """So it goes when that goes."""
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1))
    dropped = [log.say("Look")] if before == "input" else [log.say("Look"), log.answer(said(2))]
    dropped.append(log.say(note(1)))
    if before == "input":
        dropped.append(log.answer(said(2)))
    log.say("Thanks")
    log.answer(said(3))
    window = log.window(RESPONSES, Budget(40))
    assert kinds(window) == ["user", "assistant"]
    assert all(fate(window, seq).startswith("dropped: oldest-turns@1") for seq in dropped)
    assert log.refusals(window) == []


async def test_an_item_of_an_unknown_kind_within_an_answer_is_part_of_it():
    log = SmallLog()
    hello = log.say("Hello")
    seqs = log.answer(said(1), note(2), call(3))
    answered = log.say(output(3))
    assert sent(log.window(RESPONSES)) == [hello, *seqs, answered]


async def test_an_item_of_an_unknown_kind_does_not_fall_with_a_response_that_failed():
    log = SmallLog()
    log.say("Hello")
    asked = log.ask()
    inside = log.give(asked, note(1))
    log.fail(asked)
    behind = log.say(note(2))
    window = log.window(RESPONSES)
    assert fate(window, inside) == "superseded: its response failed"
    assert fate(window, behind) == "kept: it fits"


async def test_an_item_of_an_unknown_kind_does_not_stay_with_what_is_pinned():
    log = SmallLog()
    pinned = log.say(BRIEF, flags=PINNED)
    setting = log.say(LOW)
    behind = log.say(note(1))
    log.say("Hello")
    log.answer(said(1))
    last = log.say("Thanks")
    window = log.window(RESPONSES, Budget(30))
    assert sent(window) == [pinned, setting, last]
    assert fate(window, behind).startswith("dropped: oldest-turns@1")


async def test_a_pinned_item_of_an_unknown_kind_stays():
    log = SmallLog()
    log.say("Hello")
    pinned = log.say(note(1), flags=PINNED)
    log.answer(said(1))
    last = log.say("Thanks")
    window = log.window(RESPONSES, Budget(20))
    assert sent(window) == [pinned, last]
    assert fate(window, pinned) == "pinned: pinned"


# -- what stays


@BOTH
async def test_what_is_pinned_stays_in_its_place(target):
    log = SmallLog()
    first = log.say(BRIEF, flags=PINNED)
    log.say("Hello")
    log.answer(said(1))
    fact = log.say("My name is Ada.", flags=PINNED)
    log.answer(said(2))
    last = log.say("Who am I?")
    window = log.window(target, Budget(30))
    assert sent(window) == [first, fact, last]
    assert [fate(window, seq) for seq in (first, fact)] == ["pinned: pinned"] * 2
    assert log.refusals(window) == []


async def test_of_settings_within_a_conversation_the_latest_of_each_kind_stays():
    log = SmallLog()
    low = log.say(LOW)
    tools = log.say({"type": "additional_tools", "role": "developer", "tools": []})
    log.say("Hello")
    log.answer(said(1))
    high = log.say(HIGH)
    log.say("Go on")
    log.answer(said(2))
    last = log.say("Thanks")
    window = log.window(RESPONSES, Budget(30))
    assert sent(window) == [tools, high, last]
    assert [fate(window, seq) for seq in (tools, high)] == ["pinned: in effect"] * 2
    assert fate(window, low).startswith("dropped: ")
    assert log.refusals(window) == []


async def test_each_setting_stays_until_a_later_one_replaces_it():
    """An update of one setting says nothing of the others."""
    log = SmallLog()
    low = log.say(LOW)
    log.say("Hello")
    log.answer(said(1))
    form = log.say(JSON)
    log.say("Go on")
    log.answer(said(2))
    last = log.say("Thanks")
    for window in (log.window(RESPONSES, Budget(30)), await log.stored_window(RESPONSES, Budget(30), tokens=1)):
        assert sent(window) == [low, form, last]
        assert [fate(window, seq) for seq in (low, form)] == ["pinned: in effect"] * 2
    log.answer(said(3))
    high, last = log.say(HIGH, "Bye")
    for window in (log.window(RESPONSES, Budget(30)), await log.stored_window(RESPONSES, Budget(30), tokens=1)):
        assert sent(window) == [form, high, last]
        assert fate(window, low).startswith("dropped: ")


@BOTH
async def test_a_pinned_call_stays_with_its_output(target):
    log = SmallLog()
    seqs = log.say("Look", call(1), output(1), said(2), flags=PINNED)
    log.say("Hello")
    log.answer(said(3))
    last = log.say("Thanks")
    window = log.window(target, Budget(50))
    assert sent(window) == [*seqs, last]
    assert log.refusals(window) == []


# -- compactions


def compacted(*stand_in):
    """Return a log of which a compaction covers the first part, the seqs that are pinned there, and those behind it."""
    log = SmallLog()
    pinned = [log.say(BRIEF, flags=PINNED)]
    log.say("Hello")
    log.answer(thought(1), said(1))
    pinned.append(log.say("My name is Ada.", flags=PINNED))
    log.answer(call(2))
    log.say(output(2))
    log.compact(head(log), *stand_in, tokens=30)
    behind = [log.say("Go on"), log.answer(said(3))]
    return log, pinned, behind


@BOTH
async def test_a_window_starts_from_the_compaction_with_what_is_pinned_in_front(target):
    log, pinned, behind = compacted(StandIn(seq=3), StandIn(item={"role": "user", "content": "in short"}))
    base = behind[0] - 1
    window = await log.stored_window(target)
    assert sent(window) == [*pinned, base, base, *behind]
    assert [item["content"] for item in window.items[2:4]] == ["Hello", "in short"]
    assert window.manifest.early == tuple(pinned)
    assert window.manifest.base == base
    assert window.manifest.items == 30 + 40
    assert fate(window, 3) == f"compacted: the compaction at {base}"
    assert [fate(window, seq) for seq in pinned] == ["pinned: pinned"] * 2
    assert log.refusals(window) == []


@pytest.mark.parametrize("target", [OTHER_MODEL, CHAT], ids=["another model", "chat"])
async def test_the_secret_of_a_compaction_goes_to_its_maker_only(target):
    log, pinned, behind = compacted(StandIn(seq=3), StandIn(item=OPAQUE))
    own, other = await log.stored_window(RESPONSES), await log.stored_window(target)
    assert kinds(own)[2:4] == ["user", "compaction*"]
    assert sent(other) == [*pinned, behind[0] - 1, *behind]
    assert log.refusals(own) == log.refusals(other) == []


async def test_a_stand_in_goes_to_chat_in_its_shape_with_whole_pairs_only():
    pair = [StandIn(item=call(7)), StandIn(item=output(7))]
    log, _, _ = compacted(StandIn(item=thought(7)), *pair, StandIn(item=call(8)), StandIn(item=output(9)))
    window = await log.stored_window(CHAT)
    assert roles(window) == ["system", "user", "assistant call_7", "tool", "user", "assistant"]
    assert log.refusals(window) == []


async def test_another_counter_counts_a_compaction_too():
    log, _, _ = compacted(StandIn(item={"role": "user", "content": "in short"}))
    window = await log.stored_window(weights=Weights({}, base=5))
    assert window.manifest.items == 5 + 40


@BOTH
async def test_an_output_for_a_call_that_is_compacted_is_for_none(target):
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    base = log.compact(head(log), StandIn(seq=2))
    late = log.say(output(1))
    last = log.say("Well?")
    window = await log.stored_window(target)
    assert sent(window) == [base, last]
    assert fate(window, late) == "dropped: its call is not in the window"
    assert fate(window, asked) == f"compacted: the compaction at {base}"
    assert log.refusals(window) == []
    log.answer(said(2))
    window = await log.stored_window(target)
    assert sent(window) == [base, last, head(log) - 1]
    assert fate(window, late) == "dropped: its call is not in the window"


@BOTH
async def test_an_output_is_for_the_latest_call_of_its_id_though_that_is_compacted(target):
    """Ids of calls may come back: not even a pinned call gets the output of a later one, however much is loaded."""
    log, budget = SmallLog(), Budget(100)
    pinned = log.say("Look", call(1), flags=PINNED)
    log.say("Look again", call(1), output(1), said(1))
    base = log.compact(head(log), StandIn(item=said(9)))
    late = log.say(output(1, "late"))
    turns = []
    for number in range(2, 12):
        turns.append(log.say(f"question {number}"))
        windows = [await log.stored_window(target, budget, tokens=tokens) for tokens in (1, 10, 30, 1000)]
        window = windows[0]
        assert [other.manifest for other in windows[1:]] == [window.manifest] * 3
        assert sent(window)[: len(pinned) + 2] == [*pinned, pinned[-1], base]  # with what stands for its output
        assert late not in sent(window)
        assert log.refusals(window) == []
        asked = log.ask(target, manifest=window.manifest)
        turns.append(log.give(asked, said(number)))
        log.end(asked)
    assert window.manifest.cut > turns[0]


async def test_what_is_compacted_is_not_waited_for_nor_an_earlier_call_of_its_id():
    log = SmallLog()
    log.say("Look", call(1), flags=PINNED)
    _, latest = log.say("Look again", call(1))
    assert [one.entry.seq for one in log.history().unanswered()] == [latest]
    log.compact(head(log), StandIn(item=said(9)))
    log.say("Well?")
    store = await log.stored()
    for tokens in (1, 1000):
        _, history = await load(store, "c", line=None, tokens=tokens)
        assert history.unanswered() == []
        assert [one.at for one in history.early if history.is_pinned(one)] == [2, 3]


async def test_the_latest_compaction_counts():
    log, _, _ = compacted(StandIn(item={"role": "user", "content": "in short"}))
    second = log.compact(head(log), StandIn(item={"role": "user", "content": "in a word"}))
    log.say("Go on")
    window = await log.stored_window()
    assert [item["content"] for item in window.items] == ["Be brief.", "My name is Ada.", "in a word", "Go on"]
    assert window.manifest.base == second


async def test_a_line_goes_on_without_any_of_the_compactions_that_its_last_window_passed_over():
    log = SmallLog()
    log.say("Hello")
    log.answer(said(1))
    log.compact(head(log), StandIn(seq=2), tokens=111)
    log.say("And?", tokens=1)
    log.answer(said(2), tokens=1)
    log.compact(head(log), StandIn(seq=2), tokens=111)
    log.say("much", tokens=890)
    passed = await log.stored_window(RESPONSES, Budget(1000))
    assert (passed.manifest.base, passed.manifest.items) == (0, 912)
    asked = log.ask(manifest=passed.manifest)
    log.give(asked, said(3), tokens=1)
    log.end(asked)
    log.say("little", tokens=1)  # which fits behind what stands for either of them
    window = await log.stored_window(RESPONSES, Budget(1000))
    assert window.manifest.base == 0
    assert sent(window)[:-2] == sent(passed)


async def test_a_compaction_that_is_undone_counts_no_more():
    log, _, behind = compacted(StandIn(item={"role": "user", "content": "in short"}))
    undone = log.undo(behind[0] - 1)
    window = await log.stored_window()
    assert window.manifest.base == 0
    assert kinds(window)[:4] == ["system", "user", "reasoning", "assistant"]
    assert undone not in sent(window)
    assert log.refusals(window) == []


# -- rewinds


@BOTH
async def test_after_a_rewind_the_path_goes_on_from_where_it_was(target):
    log = SmallLog()
    kept = [log.say("Hello"), log.answer(said(1))]
    place = head(log)
    left = [log.say("No"), log.answer(call(2)), log.say(output(2))]
    rewind = log.rewind(place)
    kept += [log.say("Yes"), log.answer(said(3))]
    window = await log.stored_window(target)
    assert sent(window) == kept
    assert {fate(window, seq) for seq in left} == {f"rewound: the rewind at {rewind}"}
    assert log.refusals(window) == []


async def test_a_rewind_may_go_back_to_what_another_had_left():
    log = SmallLog()
    first = log.say("Hello")
    log.rewind(1)
    second = log.say("Hi")
    rewind = log.rewind(first)
    third = log.say("Ahoy")
    window = await log.stored_window()
    assert sent(window) == [first, third]
    assert fate(window, second) == f"rewound: the rewind at {rewind}"


async def test_an_output_on_a_branch_that_was_left_answers_nothing():
    log = SmallLog()
    log.say("Look")
    asked = log.answer(call(1))
    place = head(log)
    left = log.say(output(1))
    rewind = log.rewind(place)
    window = await log.stored_window()
    assert window.manifest.sealed == (asked,)
    assert fate(window, left) == f"rewound: the rewind at {rewind}"
    answered = log.say(output(1, "rain"))
    window = await log.stored_window()
    assert sent(window)[1:] == [asked, answered]
    assert log.refusals(window) == []


async def test_what_was_pinned_or_compacted_on_a_branch_that_was_left_counts_no_more():
    log = SmallLog()
    hello = log.say("Hello")
    pin = log.say("My name is Bob.", flags=PINNED)
    log.say(LOW)
    log.compact(head(log), StandIn(item={"role": "user", "content": "in short"}))
    rewind = log.rewind(hello)
    last = log.say("My name is Ada.")
    window = await log.stored_window()
    assert sent(window) == [hello, last]
    assert window.manifest.base == 0
    assert fate(window, pin) == f"rewound: the rewind at {rewind}"


async def test_a_setting_that_was_erased_gives_way_to_the_one_before(tmp_path):
    said = [f"word {number} of many" for number in range(40)]
    async with open_engine(tmp_path / "a.db") as engine:
        chat = await engine.create(id="c")
        await chat.append(LOW, *said)
        high = (await chat.append(HIGH)).last
        await chat.append({"role": "assistant", "content": "Yes."}, "And?")
        assert HIGH in (await chat.window(Budget(60))).items
        await chat.erase(high, reason="asked to")
        warm = (await chat.window(Budget(60))).items
    async with open_engine(tmp_path / "a.db") as engine:
        cold = (await (await engine.get("c")).window(Budget(60))).items
    assert warm == cold
    assert LOW in cold
    assert len(cold) < 10
