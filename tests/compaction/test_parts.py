"""What compactions are made of: how much is covered, extracts, what a model is asked, and which answers are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_logs import RESPONSES, SmallLog, call, output, said, thought
from turnlog.engine.events import PINNED
from turnlog.engine.summaries import is_too_short, prompt, unusable
from turnlog.engine.tokens import measure
from turnlog.engine.window.coverage import cover, everything, next_part
from turnlog.engine.window.extracts import extract
from turnlog.engine.window.invariants import INVARIANTS
from turnlog.engine.window.units import Scene, units_of


def count(text):
    return len(text.split())


def covered(log, room=100_000):
    history = log.history()
    return cover(history, units_of(history, Scene(history, RESPONSES), INVARIANTS), room)


# -- coverage


def test_the_last_turn_stays_while_it_is_short():
    log = SmallLog()
    log.say("one")
    log.answer(thought(1), said(1))
    log.say("two")
    first = log.answer(said(2))
    log.say("three")
    log.answer(said(3))
    found = covered(log)
    assert (found.last, found.tokens, found.rest, found.quoted) == (first + 1, 50, 20, [])
    assert covered(log, room=79).last == len(log.records)


def test_what_nobody_has_answered_stays():
    log = SmallLog()
    log.say("one")
    answer = log.answer(said(1))
    log.say("two")
    log.say("three")
    assert covered(log).last == answer + 1
    assert covered(log, room=1).last == answer + 1
    log.fail(log.ask())
    assert covered(log, room=1).last == answer + 1


def test_what_waits_stays():
    log = SmallLog()
    log.say("one")
    answer = log.answer(said(1))
    log.say("two")
    log.answer(call(2))
    assert covered(log, room=1).last == answer + 1


def test_of_a_turn_under_way_the_input_stays_word_for_word():
    log = SmallLog()
    asked = log.say("one")
    log.answer(call(1))
    done = log.say(output(1))
    log.answer(call(2))
    log.say(output(2))
    found = covered(log, room=1)
    assert (found.last, [entry.seq for entry in found.quoted], found.under_way) == (done, [asked], False)
    rest = SmallLog()
    rest.answer(call(1))
    rest.say(output(1))
    rest.answer(call(2))
    rest.say(output(2))
    assert (covered(rest, room=1).quoted, covered(rest, room=1).under_way) == ([], True)


def test_nothing_is_torn():
    """An output that came behind what others said is not left behind by its call."""
    log = SmallLog()
    log.say("one")
    asked = log.ask()
    log.give(asked, call(1))
    log.end(asked)
    log.say("meanwhile")
    last = log.say(output(1))
    log.answer(said(2))
    log.say("three")
    log.answer(said(3))
    assert covered(log).last > last
    unfinished = SmallLog()
    unfinished.say("one")
    asked = unfinished.ask()
    unfinished.give(asked, call(1))
    unfinished.end(asked)
    unfinished.say("meanwhile")
    unfinished.say(output(1))
    assert covered(unfinished, room=1) is None or covered(unfinished, room=1).last < asked


def test_there_may_be_nothing_to_cover():
    log = SmallLog()
    assert covered(log) is None
    log.say("Be brief", flags=PINNED)
    log.say("one")
    assert covered(log) is None
    log.answer(said(1), flags=PINNED)
    assert covered(log, room=1).tokens == 10


def test_all_of_it():
    log = SmallLog()
    asked = log.say("one")
    log.answer(said(1))
    last = log.say("two")
    history = log.history()
    units = units_of(history, Scene(history, RESPONSES), INVARIANTS)
    found = everything(history, units)
    assert (found.last, found.tokens, [entry.seq for entry in found.quoted]) == (last, 30, [last])
    assert asked not in [entry.seq for entry in found.quoted]


def test_parts_are_as_large_as_fits():
    log = SmallLog()
    for number in range(5):
        log.say(f"say {number}", tokens=10)
    history = log.history()
    units = units_of(history, Scene(history, RESPONSES), INVARIANTS)
    assert [next_part(units, room) for room in (10, 19, 20, 1000)] == [1, 1, 2, 5]


# -- extracts

words = st.sampled_from(["a", "bcd", "é", "…"])
texts = st.builds(lambda size, word: " ".join([word] * size), st.integers(0, 120), words)


def entries_of(messages):
    log = SmallLog()
    for number, (asked, text) in enumerate(messages):
        item = {"role": "user", "content": text} if asked else said(number, text)
        weight = measure(item, count).tokens
        log.say(item, tokens=weight) if asked else log.answer(item, tokens=weight)
    return {entry.seq: entry for group in log.history() for entry in group.entries}


@given(st.lists(st.tuples(st.booleans(), texts), max_size=12), st.lists(texts, max_size=3), st.integers(0, 400))
def test_an_extract_always_fits(messages, before, room):
    known = entries_of(messages)
    older = [{"role": "user", "content": text} for text in before]
    made = extract(list(known.values()), older, room, count)
    weights = [known[one.seq].tokens if one.seq else measure(one.item, count).tokens for one in made.stand_in]
    assert sum(weights) == made.tokens <= room
    quoted = [part.seq for part in made.stand_in if part.seq is not None]
    assert quoted == sorted(quoted)
    if made.stand_in:
        assert made.stand_in[0].item["content"].startswith("[What was said up to here is left out")


def test_where_there_is_room_all_messages_stay():
    known = entries_of([(True, "a b c"), (False, "d e f"), (True, "g")])
    made = extract(list(known.values()), [], 1000, count)
    assert [part.seq for part in made.stand_in[1:]] == list(known)


# -- summaries


def message(*parts, **fields):
    return {"type": "message", "role": "assistant", "content": list(parts), **fields}


def text(value):
    return {"type": "output_text", "text": value, "annotations": []}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("In short: an error in line 7 was found and mended.", None),
        ("Error handling was discussed at length; " + "the user wants retries. " * 20, None),
        ("The user asked why 'Error: not found' came up.", None),
        ("error: the model is overloaded", "error"),
        ("Internal server error", "error"),
        ("`Bad Gateway`", "error"),
        ("429 Too Many Requests", "error"),
        ("Too many requests, try later", "error"),
        ("<html><head><title>502</title>", "error"),
        ('{"detail": "not authorised"}', "error"),
        ('{"summary": "in short"}', None),
        (" \n", "empty"),
    ],
)
def test_which_texts_are_no_summaries(value, reason):
    assert unusable([message(text(value))], "completed", remote=False) == reason


ERRORS = [
    "An error occurred while processing your request. You can retry your request, or contact us through our help.",
    "The server had an error while processing your request. Sorry about that!",
    "Sorry, something went wrong.",
    "The model `gpt-x` does not exist or you do not have access to it.",
    "You exceeded your current quota, please check your plan and billing details.",
    "Rate limit reached for gpt-4o",
    "litellm.RateLimitError: ...",
    "OpenAIException - Connection error.",
    "500 Internal Server Error",
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    "Overloaded",
    "no healthy upstream",
    "**Error**: timeout",
    "Exception: boom",
    "Request timed out.",
    "Connection error.",
    "Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4o-mini', 'type': 'tokens'}}",
    "HTTP/1.1 503 Service Unavailable",
    "HTTP 503",
    "503",
    "429 Too Many Requests",
    "Traceback (most recent call last):\n  File",
    "openai.APIConnectionError: Connection error.",
    "That model is currently overloaded with other requests. You can retry your request",
    "This model's maximum context length is 8192 tokens.",
    "Error: upstream timeout",
    "Internal Server Error",
    "An error occurred while processing your request.",
    "Too many requests, try later",
    "error: the model is overloaded",
    "Incorrect API key provided: sk-…",
    "Bad Gateway",
    "Error",
    "Something went wrong. If this issue persists please contact us through our help center at help.openai.com.",
    "504 Gateway Time-out",
    "Oops! An unexpected error occurred.",
    "Server error: please retry",
    "We're currently processing too many requests — please try again later.",
    "There was an error generating a response",
    "Failed to generate a response",
    "The request timed out",
    "context_length_exceeded",
]
REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I\u2019m sorry, but I cannot help with this request.",
    "Sorry, I can't continue this conversation.",
    "I can't help with that.",
    "As an AI language model, I cannot",
    "I cannot provide a summary of this content.",
    "Unfortunately, I am unable to",
    "I'm unable to assist",
]
SUMMARIES = [
    "In short: an error in line 7 was found and mended.",
    "The user asked why 'Error: not found' came up.",
    "Error handling was discussed: retries with backoff, at most 3.",
    "An error occurred in the user's build; the assistant found that PATH was wrong.",
    'The user got "You exceeded your current quota" from the API and wants a fallback to another model.',
    "Errors in parser.py fixed; tests pass.",
    "Rate limits are 60 per minute; the key is in vault/a.",
    "The customer sees 500 Internal Server Error on /pay since Monday; logs show a null order id.",
    "500 euros were paid for order A1; the rest follows.",
    "404 tickets were sold on Monday.",
    "Forbidden words: foo, bar (list in words.txt).",
    "Timeout was raised to 30 s in config.yaml; deploy is pending.",
    "Not found so far: the missing invoice 77. Searched in mail and drive.",
    "KeyError in parse_config was caused by a missing default; patch in PR 12.",
    "User wants a poem about errors.",
    "They talked about lorem.",
    "In short.",
    "Short.",
    "Connection pooling: psycopg_pool with 10 connections was chosen.",
    "The server was moved to Frankfurt; the model is trained there on Fridays.",
    "Exception handling in the worker was rewritten.",
    "Der Nutzer bekam „An error occurred while processing your request“ und will wissen, warum.",
    "Incident 503 was closed; follow-up on Friday.",
    "Service unavailable page redesigned: colour blue, logo left.",
    "The request was to translate the letter; done, in French.",
    "The assistant said: I'm sorry, but I can't assist with that. The user then asked for a cake recipe.",
    "- Goal: fix `RateLimitError` in client.py\n- Done: retries added\n- Open: tests",
]


@pytest.mark.parametrize("value", ERRORS)
def test_errors_that_are_passed_on_as_a_models_words(value):
    assert unusable([message(text(value))], "completed", remote=False) == "error"
    assert unusable([message(text(f"\n {value}\n"))], "completed", remote=False) == "error"


@pytest.mark.parametrize("value", REFUSALS)
def test_refusals_in_plain_words(value):
    assert unusable([message(text(value))], "completed", remote=False) == "refused"


@pytest.mark.parametrize("value", SUMMARIES)
def test_summaries_that_speak_of_errors(value):
    assert unusable([message(text(value))], "completed", remote=False) is None


def test_a_long_text_is_no_notice():
    long = "Error: the build failed because of a missing header. " * 12
    assert unusable([message(text(long))], "completed", remote=False) is None


def test_how_short_a_summary_may_be():
    assert not is_too_short(1, 300)
    assert is_too_short(3, 2_000)
    assert not is_too_short(4, 2_000)
    assert is_too_short(15, 1_000_000)
    assert not is_too_short(16, 1_000_000)


def test_which_results_are_none():
    good = message(text("In short."))
    opaque = {"type": "compaction", "encrypted_content": "x"}
    assert unusable([good], "incomplete", remote=False) == "cut_off"
    assert unusable([call(1), good], "completed", remote=False) == "called"
    assert unusable([message({"type": "refusal", "refusal": "No."})], "completed", remote=False) == "refused"
    assert unusable([], "completed", remote=False) == "empty"
    assert unusable([thought(1)], "completed", remote=False) == "empty"
    assert unusable([opaque], "completed", remote=True) is None
    assert unusable([{"type": "compaction"}], "completed", remote=True) == "no_compaction"
    assert unusable([good], "completed", remote=True) == "no_compaction"
    assert unusable([], "completed", remote=True) == "empty"


def test_a_prompt_takes_the_summary_before_along():
    assert "{}" not in prompt("{} and more")[:200]
    assert prompt("what came before").startswith(prompt())
    assert "what came before" in prompt("what came before")
