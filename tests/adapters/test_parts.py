"""Chat answers whose content is a list: what an item has no place for is kept beside it, and goes back to its maker."""

import gzip
import json

import pytest

from turnlog import Budget
from turnlog.adapters.chat_answers import Decoder
from turnlog.adapters.wire import Said
from turnlog.engine.messages import to_messages
from turnlog.engine.testing.server import Raw
from turnlog.engine.window.render import Rendered

pytestmark = pytest.mark.anyio

THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Two and two is four."}], "closed": True}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}


def text(said, **more):
    return {"type": "text", "text": said, **more}


def whole(content):
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return Raw(json.dumps({"id": "c1", "model": "m", "choices": [choice]}).encode(), content_type="application/json")


def streamed(*contents):
    events = [{"id": "c1", "choices": [{"index": 0, "delta": {"content": one}}]} for one in contents]
    events.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return Raw(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n")


async def windows(stage, answer):
    """Return what the log has of an answer, and how it goes to its own backend, to another, and through Responses."""
    async with stage(answer) as s:
        c = await s.engine.create()
        result = await c.respond(s.model("chat"), "What is 2+2?")
        (event,) = [one async for one in c.events() if one.type == "item.appended" and one.response]
        home = await c.window(Budget(5000), model=s.model("chat"))
        away = await c.window(Budget(5000), model=s.model("chat", backend="elsewhere"))
        other = await c.window(Budget(5000), model=s.model("responses"))
        return result, event, home, away.messages[1], other.items[1]


@pytest.mark.parametrize("part", [THOUGHT, PICTURE], ids=["thought", "picture"])
async def test_a_part_that_no_item_has_a_place_for_goes_back_to_its_maker_only(stage, part):
    result, event, home, away, other = await windows(stage, whole([part, text("4")]))
    assert (result.output_text, event.item["content"]) == ("4", "4")
    assert event.data["extra"] == {"parts": [[0, part]]}
    assert home.messages[1] == {"role": "assistant", "content": [part, text("4")]}
    assert away == {"role": "assistant", "content": "4"}
    assert other["content"] == "4"


async def test_a_picture_is_not_counted_by_its_length(stage):
    _, event, home, _, _ = await windows(stage, whole([PICTURE, text("There.")]))
    assert 1000 < event.data["beside"] < 2000
    assert home.tokens.total < 2500


async def test_a_part_that_comes_in_pieces_is_one_part(stage):
    pieces = [{"type": "thinking", "thinking": [text(one)]} for one in ("Two and ", "two ", "is four.")]
    answer = streamed(*([one] for one in pieces), [{**THOUGHT, "thinking": []}], "4", [text("!")])
    result, event, home, _, _ = await windows(stage, answer)
    assert result.output_text == "4!"
    assert event.data["extra"] == {"parts": [[0, THOUGHT]]}
    assert home.messages[1]["content"] == [THOUGHT, text("4!")]


async def test_a_thought_that_is_one_text_comes_in_pieces_too(stage):
    pieces = [{"type": "thinking", "thinking": one} for one in ("Two and ", "two")]
    result, event, _, _, _ = await windows(stage, streamed(*([one] for one in pieces), "4"))
    assert event.data["extra"] == {"parts": [[0, {"type": "thinking", "thinking": "Two and two"}]]}
    assert result.output_text == "4"


async def test_pictures_in_a_row_are_as_many(stage):
    _, event, _, _, _ = await windows(stage, streamed([PICTURE], [PICTURE]))
    assert event.data["extra"] == {"parts": [[0, PICTURE], [1, PICTURE]]}
    assert event.item["content"] == ""


async def test_texts_between_other_parts_keep_their_places(stage):
    content = [text("Here: "), PICTURE, text("and "), PICTURE, text("there.")]
    result, event, home, away, other = await windows(stage, whole(content))
    assert result.output_text == "Here: and there."
    assert [part["type"] for part in event.item["content"]] == ["output_text"] * 3
    assert home.messages[1]["content"] == content
    assert away["content"] == [one for one in content if one is not PICTURE]
    assert other["content"] == "Here: and there."


async def test_what_stands_beside_a_text_is_kept(stage):
    content = [text("One", citations=[1]), text("two", citations=[2])]
    _, event, home, _, _ = await windows(stage, whole(content))
    assert event.data["extra"]["set"] == [[["content", 0, "citations"], [1]], [["content", 1, "citations"], [2]]]
    assert home.messages[1]["content"] == [text("One"), text("two")]


async def test_texts_alone_are_a_text(stage):
    _, event, home, _, _ = await windows(stage, streamed([text("On")], [text("e")], " two"))
    assert (event.item["content"], event.data) == ("One two", {})
    assert home.messages[1]["content"] == "One two"


async def test_what_a_backend_wants_back_goes_back_although_its_thought_does_not(stage):
    deltas = ({"reasoning": "Hm.", "reasoning_details": [{"i": 0}]}, {"content": "4"})
    events = [{"id": "c1", "choices": [{"index": 0, "delta": one}]} for one in deltas]
    events.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    answer = Raw(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n")
    async with stage(answer) as s:
        c = await s.engine.create()
        await c.respond(s.model("chat"), "What is 2+2?")
        home = await c.window(Budget(5000), model=s.model("chat"))
    assert home.messages[1] == {"role": "assistant", "content": "4", "reasoning_details": [{"i": 0}]}


@pytest.mark.parametrize("name", ["b36a47cb32a69525", "5aef662b713a8cc8"])
def test_recorded_answers_go_back_as_they_came(corpus, name):
    with gzip.open(corpus / "chat_json.jsonl.gz") as lines:
        (record,) = [record for line in lines if (record := json.loads(line)).get("id") == name]
    decoder = Decoder()
    answer = record["response"]
    events = [*decoder.feed(Said(answer, [], streamed=False, retries=0)), *decoder.finish()]
    items = [event for event in events if event.type == "response.output_item.done"]
    (message,) = to_messages([Rendered(1, 1, event.item, event.extra, home=True) for event in items])
    assert message["content"] == answer["choices"][0]["message"]["content"]
