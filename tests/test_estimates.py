"""What has no text weighs what it holds, for the family of the model; reasoning weighs what the API reports of it."""

import base64
from struct import pack

import pytest

from pictures import png
from turnlog.engine import tokens
from turnlog.engine.codec import event
from turnlog.engine.events import ESTIMATED, PICTURED, SECRET, ItemAppended, ResponseCompleted, Usage
from turnlog.engine.families import ANY_FAMILY, Patches, family_of
from turnlog.engine.intake import Intake
from turnlog.engine.items import reading
from turnlog.engine.tokens import CALL, MESSAGE, OUTPUT, compacted, count_json, measure, overhead, scale_of, settled


def one(text):
    return len(text)


def picture(*size, **fields):
    return {"role": "user", "content": [{"type": "input_image", "image_url": png(*size), **fields}]}


# -- pictures


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 85 + 4 * 170),
        ("gpt-4o", (2048, 4096), "auto", 85 + 6 * 170),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (540, 360), "auto", 85 + 2 * 170),
        ("gpt-4o-2024-08-06", (1024, 1024), "high", 85 + 4 * 170),
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
        ("o1", (1024, 1024), "high", 75 + 4 * 150),
        ("gpt-5", (1024, 1024), "high", 70 + 4 * 140),
        ("gpt-4.1-nano", (540, 360), "auto", 502),
        ("gpt-4.1-mini", (1024, 1024), "auto", 1659),
        ("gpt-4.1-mini", (1024, 1024), "low", 1659),
        ("gpt-4.1-mini", (8000, 8000), "auto", 6636),
        ("gpt-5.2", (8000, 8000), "low", 4916),
        ("gpt-5-mini", (400, 301), "auto", 156),
        ("gpt-5.5", (1024, 1024), "auto", 1229),
        ("gpt-5.5", (1024, 1024), "low", 308),
        ("gpt-5.5", (3200, 3200), "high", 3000),
        ("gpt-5.5", (3200, 3200), "original", 12_000),
        ("acme-7b", (1, 1), "auto", 2),
    ],
)
def test_a_picture_weighs_what_its_family_says(model, size, detail, tokens):
    scale = scale_of(model, one, alike=True) or one
    weighed = measure(picture(*size, detail=detail), scale)
    assert (weighed.tokens, weighed.estimated, weighed.pictured) == (MESSAGE + tokens, True, True)
    assert measure(picture(*size, 500_000, detail=detail), scale) == weighed


def test_a_picture_in_the_shape_of_chat_weighs_the_same():
    part = {"type": "image_url", "image_url": {"url": png(64, 64), "detail": "low"}}
    assert measure({"role": "user", "content": [part]}, one) == measure(picture(64, 64, detail="low"), one)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "https://example.com/a.png"},
        {"type": "input_image", "file_id": "file_1"},
        {"type": "input_image", "image_url": "data:image/svg+xml;base64,PHN2Zy8+"},
        {"type": "input_image", "image_url": None},
        {"type": "image_url", "image_url": {"url": 7}},
    ],
)
def test_a_picture_that_cannot_be_seen_is_taken_for_one_of_a_usual_size(part):
    assert measure({"role": "user", "content": [part]}, one).tokens == MESSAGE + 1229


def test_a_screenshot_in_an_output_is_a_picture():
    screen = {"type": "computer_screenshot", "image_url": png(640, 480)}
    weighed = measure({"type": "computer_call_output", "call_id": "c", "output": screen}, one)
    assert weighed.pictured
    assert 360 < weighed.tokens < 360 + 150
    output = {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_image", "image_url": png(64, 64)}],
    }
    assert measure(output, one)[::3] == (OUTPUT + 5, True)


def test_the_same_model_and_counter_have_one_scale():
    assert scale_of("gpt-4o", one, alike=True) is scale_of("gpt-4o", one, alike=True)
    assert scale_of("gpt-5.3", one, alike=True) is None
    assert scale_of("acme-7b", one, alike=True) is None
    assert scale_of("acme-7b", one, alike=False)("abc") == 3


# -- files


def data(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def file(data, **fields):
    return {"role": "user", "content": [{"type": "input_file", "file_data": data, **fields}]}


@pytest.mark.parametrize("kind", ["text/plain", "text/csv", "application/json", "application/ld+json"])
def test_a_file_of_text_is_counted(kind):
    content = "naïve 🦊, " * 300
    assert measure(file(data(kind, content.encode())), one).tokens == MESSAGE + len(content)
    named = measure(file(data(kind, content.encode()), filename="a.txt"), one)
    assert named.tokens == MESSAGE + len(content) + len("a.txt")


def test_a_document_weighs_by_its_pages():
    document = b"%PDF-1.4 " + b"<</Type /Page /Contents 1 0 R>> " * 7
    for content in (document, document + b"\0" * 500_000):
        assert measure(file(data("application/pdf", content)), one).tokens == MESSAGE + 7000
        assert measure(file(base64.b64encode(content).decode()), one).tokens == MESSAGE + 7000
    chat = {"type": "file", "file": {"file_data": data("application/pdf", document)}}
    assert measure({"role": "user", "content": [chat]}, one).tokens == MESSAGE + 7000


def test_a_recording_weighs_by_its_length():
    wav = b"RIFF" + pack("<I", 36) + b"WAVEfmt " + pack("<IHHII", 16, 1, 1, 8000, 16_000) + b"\0" * 160_000
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav).decode(), "format": "wav"}}
    assert measure({"role": "user", "content": [part]}, one).tokens == MESSAGE + 10 * 12


def test_what_is_in_the_json_of_hosted_tools_weighs_by_what_it_is():
    text = f'{{"a":"{png(64, 64)}","b":"{data("text/plain", b"abc" * 9)}"}}'
    assert count_json(text, one) == 5 + 27 + len('{"a":"","b":""}')


@pytest.mark.parametrize("word", ["alpha ", "天气很好。"])
def test_no_search_of_a_long_text_takes_long(word, monkeypatch):
    """Who searches holds all other threads up until it is done."""
    sought, search = [], tokens._BASE64

    class Watched:
        @staticmethod
        def finditer(text):
            sought.append(len(text))
            return search.finditer(text)

    text = f'{{"a":"{word * 100_000}{png(64, 64, 300_000)} and {word * 100_000}"}}'
    weight = count_json(text, one)
    monkeypatch.setattr(tokens, "_BASE64", Watched)
    assert count_json(text, one) == weight == 5 + len('{"a":" and "}') + 2 * len(word) * 100_000
    assert max(sought) < 550_000


async def held(item):
    return (await Intake().item(item)).flags


@pytest.mark.anyio
async def test_the_log_knows_where_pictures_are():
    assert await held(picture(64, 64)) & PICTURED
    assert await held(file(data("text/plain", b"abc"))) & (PICTURED | ESTIMATED) == ESTIMATED
    assert not await held({"role": "user", "content": "a picture, image_url"}) & PICTURED


# -- tools that are added later


def test_tools_that_come_later_weigh_as_they_are_read():
    tool = {"type": "function", "name": "now", "parameters": {}}
    weighed = measure({"type": "additional_tools", "role": "developer", "tools": [tool]}, one)
    assert weighed.tokens == MESSAGE + 84 + len("# Tools\n\n## functions\n\nnamespace functions {\n\n") + len(
        "type now = () => any;\n\n} // namespace functions"
    )
    assert measure({"type": "additional_tools", "role": "developer", "tools": None}, one).tokens == MESSAGE + 84


# -- what frames a request


@pytest.mark.parametrize(
    ("model", "api", "tokens"),
    [
        ("gpt-4o", "responses", 3),
        ("gpt-4o", "chat", 3),
        ("gpt-5.5", "responses", 2),
        ("openai/gpt-5", "chat", 2),
        ("gpt-oss-120b", "chat", 63),
        ("acme-7b", "chat", 3),
    ],
)
def test_the_frame_of_a_request_is_its_familys(model, api, tokens):
    assert overhead({"model": model}, one, api) == tokens
    assert overhead({"recorded": {"model": model}}, one, api) == tokens
    assert overhead({"model": model, "instructions": "abc"}, one, api) == tokens + MESSAGE + 3


@pytest.mark.parametrize(
    ("model", "api", "around", "beside"),
    [
        ("gpt-4o", "responses", -3, -3),
        ("gpt-4o", "chat", 2, -2),
        ("gpt-5.5", "responses", 2, 2),
        ("gpt-5.5", "chat", 84, 84),
    ],
)
def test_the_frame_of_tools_is_their_familys(model, api, around, beside):
    tools = [{"type": "function", "name": "now"}]
    text = len("# Tools\n\n## functions\n\nnamespace functions {\n\ntype now = () => any;\n\n} // namespace functions")
    bare = overhead({"model": model}, one, api)
    assert overhead({"model": model, "tools": tools}, one, api) == bare + text + around
    told = {"model": model, "instructions": "abc", "tools": tools}
    assert overhead(told, one, api) == bare + text + beside + MESSAGE + 3


def test_a_response_format_weighs_in_either_place():
    form = {"type": "json_schema", "name": "a", "schema": {}}
    asked = len("# Response Formats\n\n## a\n\n{}")
    for params in ({"text": {"format": form, "verbosity": "low"}}, {"response_format": {**form, "json_schema": form}}):
        assert overhead({"model": "gpt-4o", "params": params}, one) == 3 + asked
        assert overhead({"recorded": {"model": "gpt-4o", **params}}, one) == 3 + asked
    assert overhead({"model": "gpt-4o", "params": {"text": {"format": {"type": "text"}}}}, one) == 3


def test_odd_settings_weigh_nothing():
    assert overhead({"model": 7, "instructions": 7, "tools": 7, "params": {"text": 7, "response_format": 7}}, one) == 3


# -- reasoning, once the API has reported


def thought(tokens, flags=SECRET):
    form = reading("reasoning", None)
    return event(ItemAppended(), item=b"{}", form=form, tokens=tokens, flags=flags)


def said(tokens):
    return event(ItemAppended(), item=b"{}", form=reading("assistant", None), tokens=tokens)


def weights(events, **usage):
    return [made.tokens for made in settled(events, Usage(**usage))]


@pytest.mark.parametrize(
    ("estimate", "usage", "tokens"),
    [
        (200, {"output_tokens": 170, "reasoning_tokens": 120}, 120),  # what is not visible of it
        (200, {"output_tokens": 330, "reasoning_tokens": 256}, 280),  # rounded down, and the rest tells it
        (200, {"output_tokens": 306, "reasoning_tokens": 256}, 256),  # rounded down, and so is the sum
        (300, {"output_tokens": 306, "reasoning_tokens": 256}, 300),
        (900, {"output_tokens": 306, "reasoning_tokens": 256}, 319),
        (70, {"output_tokens": 112, "reasoning_tokens": 0}, 62),
        (70, {"output_tokens": 52, "reasoning_tokens": 0}, 63),
        (70, {"output_tokens": 0, "reasoning_tokens": 0}, 70),
    ],
)
def test_reasoning_weighs_what_was_reported(estimate, usage, tokens):
    assert weights([thought(estimate), said(50)], **usage) == [tokens, 50]


def test_several_thoughts_share_what_was_reported():
    assert weights([thought(30), said(50), thought(60)], output_tokens=350, reasoning_tokens=300) == [100, 50, 200]


def test_without_a_report_or_a_secret_nothing_changes():
    events = [thought(30), said(50)]
    assert settled(events, None) == events
    open_ = [thought(30, flags=0), said(50), event(ResponseCompleted())]
    assert settled(open_, Usage(output_tokens=500, reasoning_tokens=400)) == open_


# -- families


@pytest.mark.parametrize(
    ("model", "width", "height", "detail", "patches"),
    [
        ("gpt-5.6-sol", 3000, 3000, "auto", 94 * 94),
        ("gpt-5.6-sol", 3000, 3000, "high", 2500),
        ("gpt-5.6-sol", 6400, 6400, "original", 200 * 200),
        ("gpt-6-astra", 6400, 6400, "auto", 200 * 200),
        ("gpt-5.5", 3000, 3000, "auto", 94 * 94),
        ("gpt-5.5", 6400, 6400, "auto", 10_000),
        ("gpt-5.5", 64, 12_000, "original", 1 * 188),
        ("gpt-5.5", 2000, 2000, "low", 16 * 16),
        ("gpt-5.4", 3000, 3000, "auto", 2500),
        ("gpt-5.4", 3000, 3000, "original", 94 * 94),
        ("gpt-5.4-mini", 3000, 3000, "low", 64 * 64),
        ("gpt-5.2", 3000, 3000, "auto", 64 * 64),
        ("gpt-5.2", 3000, 3000, "low", 64 * 64),
        ("gpt-5.2", 3000, 3000, "original", 64 * 64),
        ("nobody's", 3000, 3000, "auto", 2500),
        ("nobody's", 3000, 3000, "original", 94 * 94),
    ],
)
def test_pictures_of_the_newest_models_weigh_what_their_detail_lets_through(model, width, height, detail, patches):
    pictures = (family_of(model) or ANY_FAMILY).pictures
    assert pictures.tokens(width, height, detail) == -(-patches * 12 // 10)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("openai/gpt-5.6-sol", "gpt-5.6"),
        ("openai.gpt-5.5", "gpt-5.5"),
        ("ft:gpt-4o-mini-2024-07-18:acme::8abc", "gpt-4o-mini"),
        ("gpt-6.1-sol", "gpt-6"),
        ("gpt-5.1-codex-max", "gpt-5.1"),
        ("gpt-5-pro-2025-10-06", "gpt-5"),
        ("gpt-4o-mini-search-preview-2025-03-11", "gpt-4o-mini"),
        ("gpt-4-0125-preview", "gpt-4-0125"),
        ("gpt-4-0613", "gpt-4"),
        ("gpt-35-turbo-16k-0613", "gpt-3.5-turbo"),
        ("openai/gpt-5:free", "gpt-5"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss-120b"),
        ("gpt-5.3-codex", "gpt-5.3"),
        ("o3-deep-research", "o3"),
        ("gpt-oss:20b", "gpt-oss-120b"),
    ],
)
def test_names_of_models(name, like):
    assert family_of(name) == family_of(like) is not None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpt-50",
        "o30",
        "gpt-4.9",
        "gpt-5.9-mini",
        "o1-foo",
        "gpt-5-nano-x",
        "gpt-4.1-mini-2025",
        "gpt-5.4-huge",
        "gpt-6.9-sol",
        "gpt-5-2025-08-07-x",
        "acme-7b-chat",
        "Qwen/Qwen3-32B",
        "ft:",
        "gpt",
    ],
)
def test_names_that_are_nobodys(name):
    assert family_of(name) is None


def test_calls_weigh_their_texts():
    call = {"type": "function_call", "call_id": "c", "name": "ab", "namespace": "cde", "arguments": "{}"}
    assert measure(call, one).tokens == CALL + 7
    assert isinstance(ANY_FAMILY.pictures, Patches)


def test_what_a_compaction_made_weighs_what_was_reported():
    """Recorded: of a compaction that made 190 tokens, the next request had 270."""
    parts = [({"type": "message", "role": "user", "content": "Hi"}, 5), ({"type": "compaction"}, 999)]
    assert compacted(parts, Usage(input_tokens=156, output_tokens=190)) == 5 + 270
    assert compacted(parts, Usage()) == compacted(parts, None) == 5 + 999
