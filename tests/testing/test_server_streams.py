"""How the scripted server streams a response: the order of events, and what they add up to."""

import json

import pytest

from server_talk import (
    ALL,
    MODEL,
    PARTS,
    TEXT,
    each_answer,
    raw_text,
    response_events,
    response_json,
    serving,
    streaming,
    types,
)
from turnlog.engine.testing.server import CustomCall, Reason, Reply

pytestmark = pytest.mark.anyio

MESSAGE = ["response.output_item.added", "response.content_part.added"]
ENDED = ["response.content_part.done", "response.output_item.done"]
SUMMARY = "response.reasoning_summary_"
ORDER = {
    "text": [*MESSAGE, "response.output_text.delta", "response.output_text.done", *ENDED],
    "empty text": [*MESSAGE, "response.output_text.done", *ENDED],
    "refusal": [*MESSAGE, "response.refusal.delta", "response.refusal.done", *ENDED],
    "call": [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ],
    "custom call": [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ],
    "reasoning of both": [
        "response.output_item.added",
        *(f"{SUMMARY}{name}" for name in ("part.added", "text.delta", "text.done", "part.done")),
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        *ENDED,
    ],
    "reasoning with nothing": ["response.output_item.added", "response.output_item.done"],
}


@pytest.mark.parametrize("name", ORDER)
async def test_the_events_of_a_part_come_in_openais_order(name):
    events = await response_events(Reply(PARTS[name], chunk=4))

    assert types(events) == ["response.created", "response.in_progress", *ORDER[name], "response.completed"]


async def test_items_follow_each_other_with_their_own_indexes():
    events = await response_events(Reply(*ALL))

    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [*range(7)]
    indexes = [event["output_index"] for event in events if "output_index" in event]
    assert indexes == sorted(indexes)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]


async def test_items_begin_in_progress_and_end_completed():
    events = await response_events(Reply(*ALL))

    def states(kind):
        items = [event["item"] for event in events if event["type"] == f"response.output_item.{kind}"]
        return [item["status"] for item in items if "status" in item]

    assert states("added") == ["in_progress"] * 5
    assert states("done") == ["completed"] * 5


def folded(events):
    """What a client that trusts only the deltas knows of the output."""
    items = {}
    keys = {
        "response.output_text.delta": "content",
        "response.refusal.delta": "content",
        "response.reasoning_text.delta": "content",
        "response.reasoning_summary_text.delta": "summary",
        "response.function_call_arguments.delta": "arguments",
        "response.custom_tool_call_input.delta": "input",
    }
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                items[event["output_index"]] = {key: value for key, value in event["item"].items() if key != "status"}
            case "response.content_part.added":
                items[event["output_index"]]["content"].append(event["part"])
            case "response.reasoning_summary_part.added":
                items[event["output_index"]]["summary"].append(event["part"])
            case kind if kind in keys:
                assert event["item_id"] == items[event["output_index"]]["id"]
                _add(items[event["output_index"]], keys[kind], event)
    return [items[index] for index in sorted(items)]


def _add(item, key, event):
    if key in ("arguments", "input"):
        item[key] += event["delta"]
        return
    part = item[key][event["summary_index" if key == "summary" else "content_index"]]
    part["refusal" if part["type"] == "refusal" else "text"] += event["delta"]


@each_answer
async def test_deltas_add_up_to_the_items_of_the_json_answer(answer):
    response = await response_json(answer)
    events = await response_events(answer)

    expected = [{key: value for key, value in item.items() if key != "status"} for item in response["output"]]
    got = folded(events)
    for mine, theirs in zip(got, expected, strict=True):
        mine.pop("encrypted_content", None)
        theirs.pop("encrypted_content", None)
    assert got == expected


@each_answer
async def test_the_last_event_and_the_done_items_are_the_json_answer(answer):
    response = await response_json(answer)
    events = await response_events(answer)

    assert events[-1]["response"] == response
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == response["output"]


@each_answer
async def test_the_stream_helper_builds_the_json_answer(answer):
    response = await response_json(answer)
    async with serving(answer) as (_, client), client.responses.stream(model=MODEL, input="Hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.id == response["id"]
    assert [_unparsed(item.to_dict()) for item in final.output] == response["output"]
    assert final.usage.to_dict() == response["usage"]


def _unparsed(item):
    item.pop("parsed_arguments", None)
    for part in item.get("content", ()):
        part.pop("parsed", None)
    return item


async def test_done_events_repeat_the_whole_text():
    events = {event["type"]: event for event in await response_events(Reply(*ALL[:4], CustomCall("shell", "ls")))}

    assert events["response.output_text.done"]["text"] == TEXT
    assert events["response.output_text.done"]["logprobs"] == []
    assert events["response.output_text.delta"]["logprobs"] == []
    assert events["response.refusal.done"]["refusal"] == "No, I will not do that"
    assert events["response.reasoning_summary_text.done"]["text"] == "Weighing the matter"
    assert events["response.reasoning_summary_part.done"]["part"]["text"] == "Weighing the matter"
    assert events["response.reasoning_text.done"]["text"] == "raw thoughts of it"
    assert events["response.function_call_arguments.done"]["arguments"] == '{"city":"Köln","days":2}'
    assert events["response.custom_tool_call_input.done"]["input"] == "ls"


async def test_encrypted_content_is_whole_only_in_the_finished_item():
    events = await response_events(Reply(Reason("why", encrypted="0123456789"), Reason("how"), "so"))

    added, _, _ = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done, other, _ = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert added["encrypted_content"] == "01234"
    assert done["encrypted_content"] == "0123456789"
    assert done["encrypted_content"] != other["encrypted_content"]
    assert [done, other] == events[-1]["response"]["output"][:2]


async def test_the_opening_events_carry_an_empty_response_in_progress():
    created, progress, *_, completed = await response_events(Reply(*ALL))

    for event in (created, progress):
        response = event["response"]
        assert response["status"] == "in_progress"
        assert response["output"] == []
        assert response["usage"] is response["completed_at"] is None
    different = {key for key, value in completed["response"].items() if created["response"][key] != value}
    assert different == {"status", "output", "usage", "completed_at"}


async def test_frames_name_their_event_and_are_one_line_of_json():
    frames = await raw_text(Reply(*ALL, "line\nbreak\r\u2028"), lambda client: streaming(client.responses, input="Hi"))

    assert frames.endswith("\n\n")
    for frame in frames.removesuffix("\n\n").split("\n\n"):
        event, data = frame.split("\n")
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"


async def test_chunk_is_the_length_of_a_delta():
    events = await response_events(Reply("0123456789", chunk=4))
    usual = await response_events(Reply("0123456789"))

    deltas = [[event["delta"] for event in run if "delta" in event] for run in (events, usual)]
    assert deltas == [["0123", "4567", "89"], ["01234567", "89"]]
