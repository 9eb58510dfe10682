"""The ledger on recorded traffic: what it expects of a next request, and what the API then reported.

A pair is a request and the one after it of the same recording, whose input begins with the first one's. The first is
made as it was recorded, with the recorded usage; then what the second adds is appended, and its window is looked at.
"""

import gzip
import json
import sys
from collections import defaultdict
from statistics import median, quantiles
from typing import Any, NamedTuple

import pytest

from turnlog import Budget, open_engine
from turnlog.adapters.chat_completions import encode as encode_chat
from turnlog.adapters.responses import encode as encode_responses
from turnlog.engine.families import family_of
from turnlog.engine.items import read
from turnlog.engine.messages import to_items
from turnlog.engine.model import OWNED, StreamEvent

pytestmark = pytest.mark.anyio

PAIRS = 77
"""How many pairs the corpus holds; it may grow, and does not shrink."""
FIRSTS = 340
"""How many requests it holds whose windows are what was sent."""


class Recorded(NamedTuple):
    api: str
    path: str
    number: int
    request: dict[str, Any]
    usage: dict[str, Any]

    @property
    def input(self) -> list[dict[str, Any]]:
        given = self.request.get("messages" if self.api == "chat" else "input") or []
        return [{"role": "user", "content": given}] if isinstance(given, str) else given

    @property
    def reported(self) -> int:
        return self.usage.get("input_tokens", self.usage.get("prompt_tokens"))

    @property
    def items(self) -> list[dict[str, Any]]:
        return to_items(self.input) if self.api == "chat" else self.input

    @property
    def on_the_server(self) -> bool:
        """Whether the provider knows of items that are not in the request."""
        return bool(self.request.get("previous_response_id") or self.request.get("conversation"))

    @property
    def tools(self) -> list[dict[str, Any]]:
        declared = self.request.get("tools") or []
        return [{"type": tool["type"], **tool.get(tool["type"], tool)} for tool in declared]

    @property
    def params(self) -> dict[str, Any]:
        return {key: value for key, value in self.request.items() if key not in OWNED and value is not None}


def usage_of(record) -> dict[str, Any] | None:
    if record["response"] is not None:
        return record["response"].get("usage")
    said = [value for value in record["sse"] or () if isinstance(value, dict)]
    return next((u for v in reversed(said) if (u := v.get("usage") or (v.get("response") or {}).get("usage"))), None)


def is_plain(request) -> bool:
    """Whether a request holds neither pictures nor files."""
    text = json.dumps(request)
    return not any(
        part in text for part in ('"image', "input_image", "image_url", "input_file", '"file"', "input_audio")
    )


def is_hosted(request) -> bool:
    """Whether a request has tools that the provider runs."""
    tools = request.get("tools") or ()
    return "web_search_options" in request or any(tool.get("type") not in ("function", "custom") for tool in tools)


def is_compacted(one) -> bool:
    """Whether a request holds what stands for older items to its maker, who then reads none that are before it."""
    return any(item.get("type") == "compaction" for item in one.input)


def recorded(corpus, *, plain=True) -> list[Recorded]:
    """Return the answered requests to OpenAI's models that can be counted here."""
    found = []
    for file in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        for record in records:
            request = record["request"]
            if record["api"] not in ("responses", "chat") or record["status"] != 200:
                continue
            usage, model = usage_of(record), str(request.get("model"))
            if (
                usage
                and "/" not in model
                and family_of(model)
                and not is_hosted(request)
                and (not plain or is_plain(request))
            ):
                found.append(Recorded(record["api"], record["path"], record["n"], request, usage))
    return found


def pairs(corpus) -> list[tuple[Recorded, Recorded]]:
    """Return each request with the latest before it that it continues."""
    recordings = defaultdict(list)
    for one in recorded(corpus):
        recordings[one.api, one.path].append(one)
    made = []
    for requests in recordings.values():
        requests.sort(key=lambda one: one.number)
        for index, second in enumerate(requests):
            for first in reversed(requests[:index]):
                size = len(first.input)
                same = all(first.request.get(key) == second.request.get(key) for key in ("model", "tools"))
                if same and 0 < size < len(second.input) and second.input[:size] == first.input and first.reported:
                    made.append((first, second))
                    break
    return [(first, second) for first, second in made if second.reported]


class Player:
    """A model that answers as was recorded: with what of the second request's input is its own, and the usage."""

    params: dict[str, Any]

    def __init__(self, first: Recorded, answer: list[dict[str, Any]]) -> None:
        self.api = self.adapter = first.api
        self.name = first.request["model"]
        self.backend = "api.openai.com"
        self.budget = Budget(10_000_000)
        self.params = first.params
        self.usage = first.usage
        self.answer = answer

    def encode(self, window, settings):
        return (encode_chat if self.api == "chat" else encode_responses)(window.rendered, settings)

    async def send(self, request):
        for index, item in enumerate(self.answer):
            raw = {"type": "response.output_item.done", "output_index": index, "item": item}
            yield StreamEvent(type="response.output_item.done", item=item, raw=raw)
        usage = self.usage
        if "prompt_tokens" in usage:
            details = usage.get("completion_tokens_details") or {}
            usage = {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage.get("completion_tokens", 0),
                "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens") or 0},
            }
        end = {"status": "completed", "output": self.answer, "usage": usage}
        yield StreamEvent(type="response.completed", raw={"type": "response.completed", "response": end})


class Told(NamedTuple):
    """What was expected of a request, and what was reported."""

    first: Any
    tokens: Any
    reported: int
    what: str

    @property
    def off(self) -> int:
        return abs(self.tokens.total - self.reported)


async def told(engine, first: Recorded, second: Recorded) -> Told:
    new = second.items[len(first.items) :]
    made = next((index for index, item in enumerate(new) if read(item).maker not in ("model", None)), len(new))
    player = Player(first, new[:made])
    settings = {"instructions": first.request.get("instructions"), "tools": first.tools}
    c = await engine.create()
    await c.append(*first.items)
    before = await c.window(model=player, **settings)
    await c.respond(player, **settings)
    if new[made:]:
        await c.append(*new[made:])
    window = await c.window(model=player, instructions=second.request.get("instructions"), tools=second.tools)
    what = f"{second.request['model']}, {second.path.rpartition('/')[2]} {second.number}"
    return Told(before.tokens, window.tokens, second.reported, what)


@pytest.fixture
async def engine():
    async with open_engine(":memory:") as opened:
        yield opened


def worst(results, share: float, least: int) -> list[float]:
    """Return how far each estimate is off, in the larger of a share of what was reported and some tokens, ascending."""
    return sorted(one.off / max(share * one.reported, least) for one in results)


async def test_the_next_request_is_expected_as_it_was(engine, corpus, capsys):
    """At the median within 2 % or 8 tokens, at the 95th percentile within 10 % or 32."""
    results = [await told(engine, first, second) for first, second in pairs(corpus)]
    middle = median(worst(results, 0.02, 8))
    late = quantiles(worst(results, 0.10, 32), n=20, method="inclusive")[18]
    with capsys.disabled():
        allowed = f"{middle:.0%} of what is allowed at the median, {late:.0%} at the 95th percentile"
        sys.stdout.write(f"\n{len(results)} pairs; {allowed}\n")
    assert len(results) >= PAIRS
    assert middle <= 1
    assert late <= 1


async def test_the_next_request_is_within_its_bound(engine, corpus):
    results = [await told(engine, first, second) for first, second in pairs(corpus) if not is_compacted(second)]
    assert {one.what: (one.tokens, one.reported) for one in results if one.off > one.tokens.bound} == {}


async def test_a_first_request_is_within_its_bound(engine, corpus):
    """Also with pictures and files in it, before the API has reported anything."""
    found, outside = 0, {}
    for one in recorded(corpus, plain=False):
        if (
            not one.reported
            or is_compacted(one)
            or one.on_the_server
            or (one.request.get("reasoning") or {}).get("mode")
        ):
            continue  # in other modes than the usual one, the model reads far more than it is sent
        c = await engine.create()
        await c.append(*one.items)
        window = await c.window(model=Player(one, []), instructions=one.request.get("instructions"), tools=one.tools)
        if len(window.items) == len(one.items):  # encrypted reasoning of nobody's is left out
            found += 1
            if abs(window.tokens.total - one.reported) > window.tokens.bound:
                outside[one.path.rpartition("/")[2]] = (window.tokens, one.reported)
    assert found >= FIRSTS
    assert outside == {}
