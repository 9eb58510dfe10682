"""Counting: exact where there is text, upward where there is none, bounded whatever comes, and once for each item."""

import json
import random
import threading
from collections import Counter

import anyio
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from turnlog import Budget, open_engine
from turnlog.engine import tokens, vocabulary
from turnlog.engine.events import ItemAppended
from turnlog.engine.intake import Intake
from turnlog.engine.log import Query
from turnlog.engine.testing.server import Call, Reason, Reply, Text
from turnlog.engine.testing.strategies import texts
from turnlog.engine.tokens import CALL, MESSAGE, OUTPUT, count_text, factor_of, measure, overhead, scaled
from turnlog.engine.vocabulary import DEFAULT, Vocabulary, estimate
from turnlog.engine.window.excerpts import excerpt

pytestmark = pytest.mark.anyio

NAMES = ("o200k_base", "cl100k_base")
SPECIAL = "<|endoftext|> <|endofprompt|> <|im_start|>system<|im_end|><|fim_prefix|>"
KINDS = {
    "prose": "It was the best of times, it was the worst of times; it's what we've had. " * 20,
    "code": 'def f(x: int) -> dict[str, Any]:\n    return {"a": [x ** 2, None]}  # naïve\n\n' * 20,
    "table": "| name | value |\n|------|-------|\n| a    | 12.50 |\n" * 20,
    "hexadecimal": random.Random(1).randbytes(500).hex(),
    "letters": "".join(random.Random(2).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=2000)),
    "numbers": " ".join(map(str, range(0, 100_000, 317))),
    "blanks": "\t\t  \n\n\n   \r\n" * 50,
    "signs": "!?.,;:-_()[]{}<>/\\|@#$%^&*+=~`'\"" * 20,
    "scripts": "東京 Москва القاهرة Αθήνα กรุงเทพ दिल्ली é 🦊👩‍👩‍👧" * 10,
    "special": SPECIAL,
}
LETTERS = st.text(st.sampled_from("ab AB\n\t0129.,-_'é東🦊<|>"), max_size=40)


@pytest.fixture(scope="module")
def encodings(tmp_path_factory):
    """tiktoken's own encodings, made by its own code from the files in a cache of its own."""
    import gzip
    import hashlib
    import importlib.util
    from pathlib import Path

    data = Path(importlib.util.find_spec("bpe_openai").origin).parent / "data"
    folder = tmp_path_factory.mktemp("cache")
    for name in NAMES:
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        published = gzip.decompress((data / f"{name}.tiktoken.gz").read_bytes())
        (folder / hashlib.sha1(url.encode()).hexdigest()).write_bytes(published)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return {name: tiktoken.get_encoding(name) for name in NAMES}


@pytest.fixture(scope="module")
def counters():
    return {name: anyio.run(vocabulary.load, name).count for name in NAMES}


def as_text(encoding, text):
    """Return the tokens of a text in which nothing is special, by tiktoken."""
    return len(encoding.encode(text, disallowed_special=()))


# -- text


@pytest.mark.parametrize("name", NAMES)
@given(text=texts() | st.text(max_size=60) | LETTERS)
@example(text="")
@example(text=SPECIAL)
def test_texts_have_the_tokens_that_tiktoken_counts(encodings, counters, name, text):
    assert count_text(text, counters[name]) == as_text(encodings[name], text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_text_have_the_tokens_that_tiktoken_counts(encodings, counters, name, kind):
    assert count_text(KINDS[kind], counters[name]) == as_text(encodings[name], KINDS[kind])


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_counted_as_text(encodings, counters, name):
    for word in encodings[name].special_tokens_set:
        assert count_text(word, counters[name]) == as_text(encodings[name], word) > 1
        assert len(encodings[name].encode(word, allowed_special="all")) == 1


@pytest.mark.parametrize("name", NAMES)
@given(text=texts() | LETTERS)
def test_an_estimate_is_never_below_the_count(encodings, name, text):
    assert estimate(text) >= as_text(encodings[name], text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_of_any_kind_of_text_is_never_below_the_count(encodings, name, kind):
    assert estimate(KINDS[kind]) >= as_text(encodings[name], KINDS[kind])


def test_an_estimate_of_prose_is_not_far_above_the_count(encodings):
    assert estimate(KINDS["prose"]) < 4 * as_text(encodings[DEFAULT], KINDS["prose"])


# -- long texts


@pytest.mark.parametrize("name", NAMES)
def test_a_long_text_of_words_is_counted_exactly(encodings, counters, name, seed):
    chance = random.Random(seed)
    text = "".join(chance.choice(list(KINDS.values()))[: chance.randrange(600)] + " x\n" for _ in range(1500))
    assert len(text) > 3 * tokens._CHUNK
    assert count_text(text, counters[name]) == as_text(encodings[name], text)


MILLION = 1_000_000
PATHS = {
    "a letter": "a" * MILLION,
    "a capital": "A" * MILLION,
    "a digit": "7" * MILLION,
    "spaces": " " * MILLION,
    "lines": "\n" * MILLION,
    "emoji": "🦊" * MILLION,
    "joined": "👩‍" * (MILLION // 2),
    "accents": "e" + "\u0301" * MILLION,
    "points": "." * MILLION,
    "letters and spaces": "a " * (MILLION // 2),
}


@pytest.mark.parametrize("kind", PATHS)
def test_a_million_of_one_sign_is_counted_in_pieces(counters, kind):
    """A matcher's stack and time are bounded by its piece."""
    text, pieces = PATHS[kind], []

    def counter(piece):
        pieces.append(piece)
        return counters[DEFAULT](piece)

    total = count_text(text, counter)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= tokens._CHUNK
    assert len(pieces) <= 2 * len(text) // tokens._CHUNK + 1
    once = counters[DEFAULT](text[: tokens._CHUNK])
    assert 0.9 * once * len(text) / tokens._CHUNK <= total <= 1.1 * once * len(text) / tokens._CHUNK + 20


@pytest.mark.parametrize("kind", PATHS)
def test_a_million_of_one_sign_is_estimated_upward(counters, kind):
    assert count_text(PATHS[kind], estimate) >= count_text(PATHS[kind], counters[DEFAULT])


@given(st.text(st.sampled_from("ab \n.é1東"), min_size=1, max_size=30), st.integers(8, 20))
def test_a_seam_changes_the_count_by_a_few_tokens_at_most(counters, unit, size):
    text = unit * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_CHUNK", size)
        pieces = list(tokens._pieces(text))
        assert "".join(pieces) == text
        assert len(pieces) <= 2 * len(text) // size + 1
        assert abs(count_text(text, counters[DEFAULT]) - counters[DEFAULT](text)) <= 3 * (len(pieces) - 1)


@given(
    st.lists(st.sampled_from([";\n", ".\n\n", "  ", "naïve's", "12", "é", "…", "x=", "\t"]), min_size=8, max_size=30)
)
def test_a_seam_between_a_word_and_a_blank_changes_nothing(counters, odd):
    text = "".join(f"{one} w " for one in odd)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_CHUNK", 24)
        pieces = list(tokens._pieces(text))
        assert len(pieces) > 1
        assert count_text(text, counters[DEFAULT]) == counters[DEFAULT](text)


@pytest.mark.parametrize("name", NAMES)
@given(
    st.lists(st.sampled_from([*KINDS.values(), " 7", "\n", "naïve's "]), min_size=1, max_size=4), st.integers(0, 500)
)
def test_a_large_output_and_its_excerpt_weigh_what_their_texts_do(encodings, counters, name, texts, start):
    text = ("".join(texts) * 20)[start:6000]
    item = {"type": "function_call_output", "call_id": "c", "output": text}
    count = measure(item, counters[name])
    assert count.tokens == OUTPUT + as_text(encodings[name], text)
    short = excerpt(item)
    lean = None if short is None else OUTPUT + as_text(encodings[name], short["output"])
    assert count.excerpt == (lean if lean is not None and lean < count.tokens else None)


# -- once, at append, off the event loop


class Watched:
    """A counter that knows how often it counted what, and in which threads."""

    def __init__(self, counter):
        self.counter = counter
        self.counted = Counter()
        self.threads = {}

    def __call__(self, text):
        self.counted[text] += 1
        self.threads[text] = threading.current_thread()
        return self.counter(text)


@pytest.fixture
def watched(monkeypatch, counters):
    """The counter of this test's engines."""
    counter = Watched(counters[DEFAULT])
    monkeypatch.setitem(vocabulary._loaded, DEFAULT, Vocabulary(DEFAULT, counter, exact=True, source="cache"))
    return counter


async def look(at: str) -> str:
    return f"I have seen {at}."


async def test_each_item_is_counted_once_when_it_is_appended(watched, stage_for, db):
    calls = Reply(Reason("Pondering where to look."), Call("look", {"at": "the sea"}))
    async with open_engine(db) as engine, stage_for(calls, Text("It is blue."), "Still blue.", engine=engine) as s:
        c = await engine.create(id="ada")
        await c.append("What about the sea?", {"role": "developer", "content": "Look closely."})
        await c.run(s.model("responses"), tools=[look], instructions="Be brief.")
        await c.run(s.model("chat"), "And now?", tools=[look], instructions="Be brief.", key="k")
        await c.run(s.model("chat"), "And now?", tools=[look], instructions="Be brief.", key="k")
    async with open_engine(db) as engine:
        c = await engine.get("ada")
        for context in (120, 1000):
            await c.window(Budget(context), api="chat")
        _ = [entry async for entry in c.items()], [call async for call in c.responses()]
    said = ["What about the sea?", "Look closely.", '{"at":"the sea"}', "I have seen the sea.", "It is blue."]
    assert {text: watched.counted[text] for text in said} == dict.fromkeys(said, 1)
    assert watched.counted["Still blue."] == 1
    # An input whose key is known is looked at again, to see whether it is the same.
    assert watched.counted["And now?"] == 2


async def test_what_an_item_shares_with_its_excerpt_is_counted_once(watched, engine):
    long = "\n".join(f"line {number} of what came in" for number in range(2000))
    c = await engine.create()
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    await c.append("Look", call, {"type": "function_call_output", "call_id": "c1", "output": long})
    (kept,) = [record for record in (await engine.store.read(c.id, Query())).records[0] if record.excerpt]
    before = watched.counted.copy()
    window = await c.window(Budget(kept.excerpt + 200))
    assert window.manifest.why(kept.seq).fate == "excerpted"
    assert watched.counted == before
    assert set(before.values()) == {1}
    # Between the two ends are the words that say how much is left out, and what is left of words cut in two.
    assert sum(map(len, before)) < len(long) + len("Look") + len("look{}") + 150
    assert kept.tokens == OUTPUT + watched.counter(long)


@pytest.mark.parametrize("kind", ["a letter", "spaces", "emoji"])
async def test_what_is_long_is_counted_off_the_event_loop(watched, engine, kind):
    c = await engine.create()
    await c.append(PATHS[kind], "short")
    pieces = {text: thread for text, thread in watched.threads.items() if len(text) > 10}
    assert pieces
    assert threading.main_thread() not in pieces.values()
    window = await c.window(Budget(10_000_000))
    assert window.tokens.total > 10_000 // 2


async def test_what_is_long_beside_an_item_is_counted_off_the_event_loop(watched):
    """A backend that puts its model's reasoning into a field of its own may send a great deal of it."""
    details = [{"type": "reasoning.text", "text": "hm, " * 20_000}]
    said = ItemAppended(extra={"set": [[["reasoning_details"], details]]})
    event = await Intake().item({"role": "assistant", "content": "Yes."}, said=said)
    assert json.loads(event.data)["beside"] > 20_000
    (thread,) = {thread for text, thread in watched.threads.items() if len(text) > 1000}
    assert thread is not threading.main_thread()


# -- items


def one(text):
    return len(text)


@pytest.mark.parametrize(
    ("item", "tokens_", "estimated"),
    [
        ({"role": "user", "content": "abc"}, MESSAGE + 3, False),
        ({"role": "user", "content": [{"type": "input_text", "text": "abc"}]}, MESSAGE + 3, False),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "abcd"}]}, MESSAGE + 4, False),
        ({"role": "user", "content": []}, MESSAGE, False),
        ({"type": "function_call", "call_id": "c", "name": "ab", "arguments": "{}"}, CALL + 4, False),
        ({"type": "custom_tool_call", "call_id": "c", "name": "ab", "input": "ls"}, CALL + 4, False),
        ({"type": "function_call_output", "call_id": "c", "output": "abc"}, OUTPUT + 3, False),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "abc"}]}, MESSAGE + 3, False),
        ({"type": "reasoning", "summary": [], "encrypted_content": "x" * 2800}, MESSAGE + 300, True),
        ({"type": "reasoning", "summary": [], "encrypted_content": "x" * 400}, MESSAGE + 8, True),
        ({"type": "compaction", "encrypted_content": "x" * 2900}, 80 + 200, True),
        ({"type": "image_generation_call", "id": "ig_1", "result": "x" * 10**6}, MESSAGE + 1600, True),
        ({"type": "acme:note", "id": "left out", "text": "abc"}, MESSAGE + 33, True),
    ],
)  # fmt: skip
def test_what_items_weigh(item, tokens_, estimated):
    assert measure(item, one)[::2] == (tokens_, estimated)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 5_000_000},
        {"type": "input_audio", "input_audio": {"data": "A" * 5_000_000, "format": "wav"}},
        {"type": "input_file", "file_data": "A" * 50_000},
        {"type": "input_file", "file_id": "file_1"},
        {"type": "acme:thing", "note": "short"},
        {"type": "acme:thing", "blob": "A" * 50_000},
    ],
    ids=["image", "audio", "file", "file by id", "unknown", "unknown and long"],
)
def test_what_has_no_text_is_estimated_and_never_by_the_length_of_its_base64(part):
    weighed = measure({"role": "user", "content": [part, {"type": "input_text", "text": "abc"}]}, one)
    assert weighed.estimated
    assert MESSAGE + 3 < weighed.tokens < 2500


PICTURE = "iVBORw0KGgo" + "Ab3/" * 50_000
UNSEEN = 1229
"""A picture of 1024 by 1024, for which one is taken whose size makes no sense."""


@pytest.mark.parametrize(
    ("item", "tokens_"),
    [
        (
            {
                "type": "code_interpreter_call",
                "outputs": [{"type": "image", "url": f"data:image/png;base64,{PICTURE}"}],
            },
            UNSEEN,
        ),
        ({"type": "mcp_call", "output": json.dumps([{"type": "image", "data": PICTURE}])}, UNSEEN),
        ({"type": "computer_call_output", "call_id": "c", "output": {"image_url": f"data:;base64,{PICTURE}"}}, UNSEEN),
        ({"type": "acme:note", "sound": f"data:audio/wav;rate=8000;base64,{PICTURE[11:]}"}, 1000),
        ({"type": "acme:note", "file": PICTURE[11:]}, 5000),
        ({"type": "acme:note", "nothing": "data:;base64,"}, 1000),
    ],
    ids=["data URL", "in a text", "by its first bytes", "sound", "of no known kind", "empty"],
)
def test_base64_in_hosted_items_is_estimated(item, tokens_):
    weighed = measure(item, one)
    assert weighed.estimated
    assert MESSAGE + tokens_ <= weighed.tokens < MESSAGE + tokens_ + 120


def test_what_is_no_base64_is_counted():
    said = {"type": "acme:note", "text": "data: of all kinds, " * 200 + "a" * 900}
    assert measure(said, one).tokens > 4000 + 900


FIELDS = st.sampled_from(["type", "role", "content", "output", "text", "summary"])
ODD = st.recursive(
    st.none() | st.text(max_size=9) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
)


@given(ODD)
def test_measuring_never_fails(value):
    item = value if isinstance(value, dict) else {"type": "message", "role": "user", "content": value}
    assert measure(item, one).tokens >= MESSAGE


def test_settings_weigh_what_is_sent_of_them():
    plain_ = overhead({"instructions": "abc", "tools": []}, one)
    assert overhead({"instructions": None, "tools": None}, one) < plain_
    assert overhead({"instructions": "abc", "tools": [{"type": "function", "name": "look"}]}, one) > plain_ + 9
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert overhead({"instructions": "abc", "params": {"response_format": schema}}, one) > plain_ + 40


def test_factors_only_raise():
    assert [factor_of(100, 50), factor_of(100, 101), factor_of(3, 4), factor_of(0, 9)] == [1000, 1010, 1334, 1000]
    assert [scaled(3, 1334), scaled(0, 2000), scaled(7, 1000)] == [5, 0, 7]
