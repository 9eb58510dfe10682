"""The invariant `thoughts_where_they_are_wanted`: reasoning as text, back to the model that had it, if its backend
wants it."""

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from small_logs import CHAT, OTHER_CHAT, RESPONSES, SmallLog, call, fate, output, said
from turnlog.engine.errors import BudgetExceeded
from turnlog.engine.items import read
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.strategies import TARGETS, Scribe, body_of, conversations
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.choose import line_of
from turnlog.engine.window.policies import OldestTurns

WANTED = {"never": [], "tool_turns": ["I must look."], "always": ["A greeting.", "I must look."]}


def wanting(target, thoughts):
    return msgspec.structs.replace(target, thoughts=thoughts)


def thought(text, **fields):
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]} | fields


def plain(item):
    return {key: value for key, value in item.items() if key != "id"}


def log_of_two_turns(target=CHAT):
    log = SmallLog()
    log.say("Hi")
    log.answer(thought("A greeting."), plain(said(1)), target=target)
    log.say("Look")
    log.answer(thought("I must look."), plain(call(2)), target=target)
    log.say(output(2))
    return log


def texts(window):
    return [item["content"][0]["text"] for item in window.items if read(item).shape == "reasoning"]


@pytest.mark.parametrize("thoughts", WANTED)
def test_what_is_wanted_is_sent(thoughts):
    log = log_of_two_turns()
    window = log.window(wanting(CHAT, thoughts))
    assert texts(window) == WANTED[thoughts]
    assert refusals("chat", body_of(window.rendered, window.target)) == []


def test_of_turns_with_tools_the_answer_too():
    """It goes on with what the outputs say."""
    log = log_of_two_turns()
    log.answer(thought("It is blue."), plain(said(3)), target=CHAT, continues=True)
    log.say("Sure?")
    assert texts(log.window(wanting(CHAT, "tool_turns"))) == ["I must look.", "It is blue."]


@pytest.mark.parametrize("other", [RESPONSES, OTHER_CHAT, msgspec.structs.replace(CHAT, model="other")])
def test_nobody_elses_thoughts(other):
    log = log_of_two_turns(target=other)
    window = log.window(wanting(CHAT, "always"))
    assert texts(window) == []
    seqs = [entry.seq for entry in log.history().entries() if entry.reading.shape == "reasoning"]
    assert {fate(window, seq) for seq in seqs} == {"dropped: a thought goes back only to the model that had it"}


def test_a_thought_goes_with_what_it_led_to():
    log = SmallLog()
    log.say("Hi")
    log.answer(thought("Hm"), target=CHAT)
    log.say("Well?")
    window = log.window(wanting(CHAT, "always"))
    assert texts(window) == []


def test_who_wants_thoughts_has_a_line_of_its_own():
    lines = {line_of(OldestTurns(), Budget(100), wanting(CHAT, thoughts)) for thoughts in WANTED}
    assert len(lines) == 3


@pytest.mark.anyio
@pytest.mark.timeout(1200)
@given(conversations(), st.sampled_from(["tool_turns", "always"]), st.sampled_from([120, 500, 2000]))
async def test_windows_with_thoughts_are_valid(steps, thoughts, context):
    scribe = Scribe(MemoryStore())
    await scribe.write(steps)
    target = wanting(TARGETS[4], thoughts)
    try:
        _, manifest, rendered = await scribe.window(target, Budget(context))
    except BudgetExceeded as error:
        assume(error.needed <= error.available)
        raise
    assert manifest.tokens <= context
    if rendered:
        assert refusals("chat", body_of(rendered, target)) == []
    for one in rendered:
        if read(one.item).shape == "reasoning":
            assert one.home
            assert any(other.response == one.response and other is not one for other in rendered)
    _, cold, _ = await scribe.window(target, Budget(context), tokens=1)
    assert cold == manifest
