"""Kindness to the provider's prompt cache: what is sent begins as what was sent before, and the log says how far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from small_logs import CHAT, SmallLog, fate, said, sent
from turnlog import open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.canonical import canonical, digest, encode
from turnlog.engine.items import reading
from turnlog.engine.replay import verify
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.prefixes import prefix_of, requests
from turnlog.engine.testing.server import scripted_server
from turnlog.engine.testing.strategies import BUDGETS, TARGETS, Fork, Respond, Rewind, Scribe, Sight, conversations
from turnlog.engine.tokens import SEAL_TOKENS
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.policies import (
    Composed,
    DropTurns,
    Excerpts,
    LastTurns,
    LeaveRoom,
    OldestTurns,
    Pinned,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

AGENT = Budget(32_000)
NEWEST_THAT_FITS = Composed(DropTurns(down_to=1.0, keep=0))


# -- how much is shared


async def test_nearly_all_input_is_what_was_sent_before(long):
    """Turns of 600 tokens and two requests under a budget of 32,000."""
    turns = 2000 if long else 200
    ours = await prefix_of(OldestTurns(), AGENT, turns=turns)
    other = await prefix_of(NEWEST_THAT_FITS, AGENT, turns=turns)
    assert ours.requests == other.requests == 2 * turns
    assert ours.share >= 0.95
    assert other.share < 0.65
    assert ours.cuts < other.cuts / 20


@pytest.mark.parametrize(
    "policy",
    [
        Composed(Pinned(), OldestTurns(), LeaveRoom(4_000)),
        Composed(LastTurns(10)),
        Composed(Excerpts(), DropTurns(0.3, keep=4)),
    ],
    ids=lambda policy: policy.name,
)
async def test_so_it_is_of_other_policies_that_cut_deep(policy):
    assert (await prefix_of(policy, AGENT, turns=200, system=50)).share >= 0.95


@pytest.mark.parametrize("policy", [OldestTurns(), NEWEST_THAT_FITS], ids=lambda policy: policy.name)
async def test_what_is_said_to_be_shared_is_what_is_the_same_byte_for_byte(policy):
    before, claimed = [], 0
    async for manifest, rendered in requests(policy, Budget(6_000), turns=60, system=30, rendered=True):
        now = [(encode(one.item), manifest.weights[one.seq]) for one in rendered]
        same = next((at for at, (one, two) in enumerate(zip(before, now, strict=False)) if one != two), len(before))
        assert manifest.shared == sum(tokens for _, tokens in now[:same])
        assert manifest.items == sum(tokens for _, tokens in now)
        before, claimed = now, claimed + manifest.shared
    assert claimed > 0


# -- between two cuts


class Counted(Composed):
    """A policy that counts how often it is asked."""

    asked = 0

    def cut(self, *args):
        self.asked += 1
        return super().cut(*args)


compositions = st.lists(
    st.sampled_from([Excerpts(), DropTurns(), DropTurns(1.0, keep=2), LastTurns(2), Pinned(), LeaveRoom(80)]),
    min_size=1,
    max_size=3,
).map(lambda parts: Counted(*parts))


@given(conversations(6), st.sampled_from(BUDGETS), st.sampled_from(TARGETS), compositions)
async def test_between_two_cuts_a_window_only_grows_at_its_end(steps, budget, target, policy):
    """Unless what was sent has itself changed. Nothing is ever said to be shared that is not."""
    scribe = Scribe(MemoryStore(), policy=policy)
    await scribe.begin()
    line, last = Sight(target, budget, policy).line, None
    for step in steps:
        for one in (step, Respond(TARGETS.index(target), BUDGETS.index(budget))):
            asked = policy.asked
            if isinstance(one, Fork | Rewind):
                last = None  # what was sent before is another request by now
            sent = await taken(scribe, one, line)
            if sent is None:
                continue
            if last is not None:
                assert sent.manifest.shared <= same(last, sent)
                if policy.asked == asked and not await changed(scribe, last, sent):
                    assert sent.manifest.shared == last.manifest.items
            last = sent


def test_what_came_while_an_answer_was_made_is_not_shared_once_the_answer_is_gone():
    """It stands behind the answer, and before the answer's items in the log."""
    log, budget = SmallLog(), Budget(50)
    log.say({"type": "configuration_update", "reasoning": {"effort": "low"}})  # of which this API knows nothing
    asked = log.ask(CHAT, budget)
    meanwhile = log.say("meanwhile")
    answer = log.give(asked, said(1), tokens=30)
    log.end(asked)
    log.ask(CHAT, budget)
    last = log.say("more", tokens=20)
    window = log.window(CHAT, budget)
    assert sent(window) == [meanwhile, last]
    assert fate(window, answer).startswith("dropped: oldest-turns")
    assert window.manifest.shared == 0


async def taken(scribe, step, line):
    """Take a step; return the request of a line that it made, if it made one."""
    there = len(scribe.sent)
    await scribe.take(step)
    return next((sent for sent in scribe.sent[there:] if sent.sight.line == line), None)


def same(last, sent):
    """Return the tokens with which two windows begin alike, byte for byte."""
    weights = dict(sent.manifest.weights)
    base = weights.pop(sent.manifest.base, 0)
    for seq in sent.manifest.sealed:
        weights[seq] -= SEAL_TOKENS
    stand_in = [one for one in sent.rendered if one.seq == sent.manifest.base]
    total = base if not stand_in and last.manifest.base == sent.manifest.base else 0
    for one, two in zip(last.rendered, sent.rendered, strict=False):
        if encode(one.item) != encode(two.item):
            return total
        if two in stand_in:
            total += base if two is stand_in[-1] else 0
        else:
            total += weights.pop(two.seq, SEAL_TOKENS)
    return total


async def changed(scribe, last, sent):
    """Return whether something in between may have changed what came before it.

    A program whose output is still to come is sent only as long as nothing follows it.
    """
    kinds = ("response.failed", "history.rewound", "context.compacted", "compaction.undone", "item.erased")
    return any(one.item.get("type") == "program" for one in last.rendered) or any(
        record.kind in kinds or record.shape == "program_output" or reading(record.shape or "", record.link).is_output
        for record in await scribe.records(last.seq)
        if record.seq < sent.seq
    )


# -- what stands in front


async def test_nothing_is_shared_behind_other_instructions_or_tools(stage, api):
    async with stage(*["Yes."] * 9) as s:
        conversation = await s.engine.create()
        look = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
        asked = [
            ({}, False),
            ({}, True),
            ({"instructions": "Be brief."}, False),
            ({"instructions": "Be brief."}, True),
            ({"instructions": "Be short."}, False),  # as many tokens
            ({"instructions": "Be short.", "params": {"temperature": 0.5}}, True),
            ({"instructions": "Be short.", "tools": [look]}, False),
            ({"instructions": "Be short.", "tools": [look]}, True),
        ]
        for number, (settings, shares) in enumerate(asked):
            await conversation.respond(s.model(api), f"question {number}", **settings)
            manifest = (await conversation.responses(order="desc", limit=1)).data[0].manifest
            assert (manifest.shared > 0) is shares, settings
        window = await conversation.window(model=s.model(api))
        assert window.manifest.shared == 0  # as it would go without instructions
        window = await conversation.window(model=s.model(api), instructions="Be short.", tools=[look])
        assert window.manifest.shared > 0


# -- the key of the prompt cache


class Elsewhere:
    """Clients that believe they speak to some host, and reach the scripted server."""

    def __init__(self, server):
        self.server = server

    def client(self, host):
        async def reroute(request):
            here = self.server.base_url.split("//")[1].split("/")[0].split(":")
            request.url = request.url.copy_with(scheme="http", host=here[0], port=int(here[1]))

        http = DefaultAsyncHttpxClient(trust_env=False, event_hooks={"request": [reroute]})
        return AsyncOpenAI(base_url=f"https://{host}/v1", api_key="sk-test", max_retries=0, http_client=http)


def model_of(api, client, **options):
    return (Responses if api == "responses" else ChatCompletions)(client, "gpt-4o-mini", **options)


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("api.openai.com", True),
        ("eu.api.openai.com", True),
        ("acme.openai.azure.com", False),
        ("api.openai.com.example.org", False),
        ("notapi.openai.com", False),
        ("openrouter.ai", False),
    ],
)
async def test_openai_is_told_whose_requests_share_a_cache_and_no_other_backend(engine, api, host, told):
    async with scripted_server(["One.", "Two."]) as server, Elsewhere(server).client(host) as client:
        conversation = await engine.create(id="ada-7")
        for number in range(2):
            await conversation.respond(model_of(api, client, backend="here"), f"question {number}")
        bodies = [received.body for received in server.requests]
        assert [body.get("prompt_cache_key") for body in bodies] == ["ada-7" if told else None] * 2
        await check(engine, conversation, bodies)


async def check(engine, conversation, bodies):
    """See to it that requests can be rebuilt, each from settings that are nobody's own."""
    report = await verify(engine.store, conversation.id)
    assert (report.verified, report.diverged) == (len(bodies), [])
    calls = [call async for call in conversation.responses()]
    assert [call.digest for call in calls] == [digest(canonical(body)) for body in bodies]
    for call, body in zip(calls, bodies, strict=True):
        assert await call.request() == body


@pytest.mark.parametrize("key", ["mine", None])
async def test_what_a_caller_says_of_the_key_goes_as_it_is(engine, api, key):
    async with scripted_server(["One.", "Two."]) as server, Elsewhere(server).client("api.openai.com") as client:
        conversation = await engine.create()
        await conversation.respond(model_of(api, client, params={"prompt_cache_key": key}), "Hello")
        await conversation.respond(model_of(api, client), "Hello", params={"prompt_cache_key": key})
        bodies = [received.body for received in server.requests]
        assert [body["prompt_cache_key"] for body in bodies] == [key, key]
        await check(engine, conversation, bodies)


async def test_a_fork_goes_on_with_the_key_of_what_it_shares(engine, api):
    async with scripted_server(lambda request: "Yes.") as server, Elsewhere(server).client("api.openai.com") as client:
        model = model_of(api, client)
        parent = await engine.create(id="parent")
        before = await parent.fork(id="before")
        await parent.respond(model, "Hello")
        twin = await parent.fork(id="twin")
        grandchild = await twin.fork(id="grandchild")
        for one in (before, twin, grandchild):
            await one.respond(model, "And?")
        keys = [received.body["prompt_cache_key"] for received in server.requests]
        assert keys == ["parent", "before", "parent", "parent"]
        shared = [(await one.responses(order="desc", limit=1)).data[0].manifest.shared for one in (before, twin)]
        assert shared[0] == 0
        assert shared[1] > 0
        for one in (before, twin, grandchild):
            assert (await verify(engine.store, one.id)).diverged == []


async def test_conversations_with_the_same_settings_store_them_once(db, api):
    """The key is a conversation's; instructions and tools, which are longer, are many conversations'."""
    async with (
        open_engine(db) as engine,
        scripted_server(lambda request: "Yes.") as server,
        Elsewhere(server).client("api.openai.com") as client,
    ):
        found = set()
        for number in range(3):
            conversation = await engine.create(id=f"c{number}")
            await conversation.respond(model_of(api, client), "Hello", instructions="Be brief.")
            async for event in conversation.events():
                if event.type == "response.requested":
                    found.add((event.data["settings"], event.data["cache_key"]))
        assert {key for _, key in found} == {"c0", "c1", "c2"}
        assert len({settings for settings, _ in found}) == 1
