"""The judge of recorded traffic: what the API answered is taken, what it refused is refused alike."""

import gzip
import json
import re

import pytest

from judge_bodies import OUTPUT, USER, response, rules
from turnlog.engine.testing.judge import refusals

OF_OPENAI = re.compile(r"(gpt-|o\d|chatgpt)")


def recorded(corpus, *apis):
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["api"] in apis and OF_OPENAI.match(record["request"].get("model") or ""):
                    yield record


@pytest.mark.parametrize(("api", "at_least"), [("responses", 250), ("chat", 150), ("compact", 7), ("input_tokens", 3)])
def test_every_recorded_request_that_was_answered_is_taken(corpus, api, at_least):
    answered = [record for record in recorded(corpus, api) if record["status"] == 200]
    refused = {record["id"]: found for record in answered if (found := rules(api, record["request"]))}
    assert refused == {}
    assert len(answered) >= at_least


def test_every_recorded_answer_can_be_replayed_as_it_came(corpus):
    replayed = 0
    for record in recorded(corpus, "responses", "compact"):
        output = (record["response"] or {}).get("output") or [
            event["item"] for event in record["sse"] or [] if event.get("type") == "response.output_item.done"
        ]
        if record["status"] != 200 or not output:
            continue
        calls = [item for item in output if item["type"] == "function_call"]
        calls += [item for item in output if item["type"] == "tool_search_call" and item["execution"] == "client"]
        answers = [OUTPUT | {"call_id": item["call_id"]} for item in calls]
        assert rules("responses", response(USER, *output, *answers)) == [], record["id"]
        replayed += 1
    assert replayed > 250


def test_the_recorded_refusals_that_concern_the_judge_are_made(corpus):
    made = {}
    for record in recorded(corpus, "responses", "chat"):
        words = str(record["response"])
        if record["status"] == 400 and re.search(
            r"required following|No tool|Unknown parameter|Missing required", words
        ):
            (refusal, *_) = refusals(record["api"], record["request"])
            assert refusal.body()["error"] == record["response"]["error"]
            made[record["id"]] = refusal.rule
    assert "reasoning-without-follower" in made.values()
