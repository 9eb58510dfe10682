"""Excerpts: what stands for a large tool output when a window is short of room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_logs import CHAT, RESPONSES, SmallLog, call, computer, output, said, screenshot
from turnlog.engine.canonical import encode
from turnlog.engine.testing.steps import PNG
from turnlog.engine.tokens import measure
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.excerpts import excerpt

LIMIT = 2400
"""Characters up to which an output is small."""
OUTPUTS = ("function_call", "custom_tool_call")


def text_part(text):
    return {"type": "input_text", "text": text}


def image():
    return {"type": "input_image", "image_url": PNG}


@pytest.mark.parametrize("of", OUTPUTS)
@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_small_output_has_none(size, of):
    assert excerpt(output(1, "x" * size, of=of)) is None
    assert excerpt(output(1, [text_part("x" * size)], of=of)) is None


@pytest.mark.parametrize("of", OUTPUTS)
def test_a_large_output_keeps_its_beginning_and_its_end_and_says_what_is_missing(of):
    text = "a" * 800 + "b" * 201 + "c" * 1000 + "d" * 400
    short = excerpt(output(1, text, of=of))
    beginning, gap, end = short["output"].split("\n")
    assert (beginning, end) == ("a" * 800, "d" * 400)
    assert gap == "[… 1,201 of 2,401 characters left out to fit the context window …]"


def test_everything_but_the_output_stays_and_the_item_is_not_changed():
    item = output(1, "x" * 3000, id="fc_1", status="completed")
    before = encode(item)
    short = excerpt(item)
    assert encode(item) == before
    assert {**short, "output": ""} == {**item, "output": ""}


def test_the_texts_of_several_parts_are_one_text():
    parts = [text_part("a" * 1000), text_part("b" * 1000), text_part("c" * 1000)]
    short = excerpt(output(1, parts))
    assert short["output"].startswith("a" * 800 + "\n[… 1,802 of 3,002 characters")
    assert short["output"].endswith("c" * 400)
    assert excerpt(output(1, parts[:2])) is None


def test_what_is_no_text_is_named_however_small_the_rest():
    short = excerpt(output(1, [text_part("A chart:"), image(), {"type": "input_file", "file_id": "f_1"}]))
    assert short["output"].split("\n") == [
        "A chart:",
        "[input_image left out to fit the context window]",
        "[input_file left out to fit the context window]",
    ]
    assert excerpt(output(1, [image()]))["output"] == "[input_image left out to fit the context window]"


def test_beside_what_is_named_a_small_text_stays_whole():
    text = "x" * LIMIT
    named = "[input_image left out to fit the context window]"
    assert excerpt(output(1, [text_part(text), image()]))["output"] == f"{text}\n{named}"


def test_characters_are_counted_not_bytes():
    text = "🦊" * 2401
    assert excerpt(output(1, "🦊" * 2400)) is None
    assert excerpt(output(1, text))["output"].startswith("🦊" * 800 + "\n[… 1,201 of 2,401")


@pytest.mark.parametrize(
    "item",
    [
        said(1, "x" * 3000),
        {"role": "user", "content": "x" * 3000},
        call(1, arguments="x" * 3000),
        screenshot(1),
        {"type": "shell_call_output", "call_id": "call_1", "output": []},
        {"type": "local_shell_call_output", "id": "call_1", "output": "x" * 3000},
        {"text": "x" * 3000},
    ],
    ids=lambda item: str(item.get("type", item.get("role"))),
)
def test_nothing_else_has_one(item):
    assert excerpt(item) is None


def test_an_excerpt_is_written_as_it_always_was():
    """Old requests are rebuilt with it: these bytes stand for ever."""
    text = "".join(f"{number:04d} " for number in range(500))
    short = excerpt(output(1, [text_part(text), image()]))
    gap = "[… 1,300 of 2,500 characters left out to fit the context window …]"
    assert short == {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": f"{text[:800]}\n{gap}\n{text[-400:]}\n[input_image left out to fit the context window]",
    }


parts = st.lists(st.one_of(st.builds(text_part, st.text(max_size=3000)), st.builds(image)), max_size=4)


@given(st.one_of(st.text(max_size=6000), parts))
def test_an_excerpt_is_small_and_always_the_same(said):
    item = output(1, said)
    short = excerpt(item)
    assert excerpt(item) == short
    if short is not None:
        assert len(short["output"]) <= LIMIT + 400
        assert measure(short, len).estimated is False


def test_an_excerpt_counts_only_where_it_is_shorter():
    count = measure(output(1, [text_part("A chart:"), {"type": "odd"}]), len)
    assert count.excerpt is None
    count = measure(output(1, "x" * 3000), len)
    assert count.excerpt < count.tokens


@pytest.mark.parametrize("target", [RESPONSES, CHAT], ids=["responses", "chat"])
@pytest.mark.parametrize("of", OUTPUTS)
def test_a_window_with_excerpts_is_taken(target, of):
    log = SmallLog()
    log.say("Look")
    kind = {"function_call": call(1), "custom_tool_call": {"type": of, "call_id": "call_1", "name": "sh", "input": ""}}
    log.answer(kind[of])
    large = output(1, [text_part("x" * 3000), image()], of=of)
    log.say(large, tokens=1000, excerpt=100)
    log.answer(said(2))
    log.say("Well?")
    window = log.window(target, Budget(900))
    assert window.items[2] == excerpt(large)
    assert log.refusals(window) == []


def test_a_screenshot_never_shrinks():
    log = SmallLog()
    log.say("Look")
    log.answer(computer(1))
    shown = log.say(screenshot(1), tokens=1000)
    assert measure(screenshot(1), len).excerpt is None
    log.answer(said(2))
    log.say("Well?")
    assert log.window(RESPONSES, Budget(900)).manifest.fate(shown) == "dropped"
