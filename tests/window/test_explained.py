"""Windows explain themselves: what became of every event, by which rule, and what has changed since another window."""

import msgspec
import pytest
from hypothesis import example, given

from small_logs import CHAT, RESPONSES, WEIGHT, SmallLog, call, fate, output, said, thought
from turnlog import Invalid
from turnlog.engine.canonical import encode
from turnlog.engine.codec import body
from turnlog.engine.events import ASIDE, ERASED, PINNED, SEAL, ResponseRequested, StandIn
from turnlog.engine.manifest import Manifest, Run, stored
from turnlog.engine.paths import paths_of
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.steps import Compact, Part, Respond, Rewind, Say
from turnlog.engine.testing.strategies import Scribe, conversations
from turnlog.engine.tokens import SEAL_TOKENS
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.cutting import Cut
from turnlog.engine.window.units import Weights
from turnlog.engine.window.window import Window

pytestmark = pytest.mark.anyio

LARGE = {"tokens": 100, "excerpt": 20}


def told(window):
    """Return what a window says of every event, by seq."""
    return {verdict.seq: f"{verdict.fate}: {verdict.rule}" for verdict in window.explain()}


# -- every fate


async def test_everything_that_ever_was_has_a_fate_and_a_rule():
    log = SmallLog()
    log.say({"role": "system", "content": "Be brief."}, flags=PINNED)  # 2
    log.say("Hello")  # 3
    log.answer(said(1))  # 4 to 6
    log.compact(6, StandIn(seq=3))  # 7
    log.say("What is the sky?")  # 8
    log.answer(said(2))  # 9 to 11
    log.say("Look again")  # 12
    log.answer(call(3))  # 13 to 15
    log.say(output(3, "x" * 3000), **LARGE)  # 16
    log.say("No")  # 17
    log.rewind(16)  # 18
    log.say("a title", flags=ASIDE)  # 19
    log.say({"role": "developer", "content": "a secret"}, flags=ERASED)  # 20
    failed = log.ask()  # 21
    log.give(failed, said(4))  # 22
    log.fail(failed)  # 23
    log.answer(call(5))  # 24 to 26
    log.seal(5)  # 27
    log.say(output(5))  # 28
    log.say("last")  # 29
    window = await log.stored_window(RESPONSES, Budget(120))
    cut = "oldest-turns@1: over 110 counted tokens, cut to 80"
    expected = {
        2: "pinned: pinned",
        3: "compacted: the compaction at 7",
        8: f"dropped: {cut}",
        10: f"dropped: {cut}",
        12: "kept: it fits",
        14: "kept: it fits",
        16: f"excerpted: {cut}",
        17: "rewound: the rewind at 18",
        19: "aside: aside",
        20: "erased: erased",
        22: "superseded: its response failed",
        25: "kept: it fits",
        27: "superseded: superseded by the output at 28",
        28: "kept: it fits",
        29: "kept: it fits",
    }
    found = told(window)
    assert {seq: found[seq] for seq in expected} == expected
    assert list(found) == list(range(1, 30))
    assert window.manifest.why(30).fate == "later"
    assert window.manifest.why(30).rule == "the window is as of 29"


async def test_what_a_fork_shares_has_its_fate_and_what_its_parent_has_behind_it_is_later(stage, api):
    async with stage(*["Yes."] * 4) as s:
        parent = await s.engine.create()
        await parent.respond(s.model(api), "one")
        fork = await parent.fork()
        for text in ("two", "three"):
            await parent.respond(s.model(api), text)
        result = await fork.respond(s.model(api), "two and a half")
        at = (await s.engine.list(where={}, order="created")).data[1].parent[1]
        window = await fork.window(model=s.model(api))
        call_ = (await fork.responses(order="desc", limit=1)).data[0]
        for manifest in (window.manifest, call_.manifest):
            assert manifest.why(2).fate == "kept"
            assert manifest.forked == at
            beyond = manifest.why(parent.version + 9)
            assert beyond.fate == "later"
            assert beyond.rule == f"the window is as of {manifest.as_of}, in a fork made at {at}"
        assert result.version == window.version
        assert (await parent.window(model=s.model(api))).manifest.forked == 0
        grandchild = await fork.fork()
        assert (await grandchild.window(model=s.model(api))).manifest.forked == fork.version


# -- the tokens that it took


def verdicts(window, *seqs):
    """Return the tokens that a window counts for some events, after seeing that those of all add up."""
    told = {verdict.seq: verdict.tokens for verdict in window.explain()}
    assert sum(told.values()) == window.manifest.items
    return [told[seq] for seq in seqs]


@pytest.mark.parametrize(("weights", "tokens"), [(None, 30), (Weights({}, base=7), 7)])
async def test_what_stands_for_compacted_events_counts_with_the_compaction(weights, tokens):
    log = SmallLog()
    hello = log.say("Hello")
    log.answer(said(1))
    compacted = log.compact(log.records[-1].seq, StandIn(seq=hello), tokens=30)
    last = log.say("Well?")
    window = await log.stored_window(weights=weights)
    assert verdicts(window, hello, compacted, last) == [0, tokens, WEIGHT]
    assert window.tokens.bound == 6, "it is no item: one item may be off"


def test_what_stands_for_a_missing_output_counts_with_its_call():
    log = SmallLog()
    log.say("Look")
    calls = log.answer(call(1), call(2))
    found = log.say(output(2))
    assert verdicts(log.window(), *calls, found) == [WEIGHT + SEAL_TOKENS, WEIGHT, WEIGHT]
    assert verdicts(log.window(weights=Weights({}, seal=3)), *calls) == [WEIGHT + 3, WEIGHT]


async def test_so_it_is_of_a_recorded_request(stage, api):
    async with stage("Yes.", "No.") as s:
        c = await s.engine.create()
        model = s.model(api)
        await c.append("one", *({"role": "assistant", "content": f"{number} " * 90} for number in range(9)))
        await c.compact(method="extract")
        asked = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
        await c.append(asked, "once more", asked, output(1), "four")
        await c.respond(model)
        recorded = (await c.responses(order="desc", limit=1)).data[0]
        manifest = recorded.manifest
        assert manifest.base
        assert manifest.sealed
        told = [(await recorded.why(seq)).tokens for seq in range(1, manifest.as_of + 1)]
        assert sum(told) == manifest.items
        assert told[manifest.base - 1] > 0


# -- what has changed


def changes(new, old):
    return [(change.seq, change.other.fate, change.fate) for change in new.diff(old)]


async def test_a_difference_names_what_became_of_it_in_both_windows():
    log = SmallLog()
    log.say("Look")  # 2
    log.answer(call(1))  # 3 to 5
    log.say(output(1, "x" * 3000), **LARGE)  # 6
    log.answer(said(2))  # 7 to 9
    ample, tight = log.window(), log.window(RESPONSES, Budget(130))
    assert changes(tight, ample) == []
    log.say("last")  # 10
    small = log.window(RESPONSES, Budget(70))
    assert changes(small, ample) == [(6, "kept", "excerpted"), (7, "kept", "excerpted"), (10, "later", "kept")]
    change = small.diff(ample)[0]  # the event at 7 carries no item: it goes with what stands before it
    assert change.rule.startswith("oldest-turns@1: over 70")
    assert (change.tokens, change.other.tokens, change.other.rule) == (20, 100, "it fits")
    assert changes(ample, small) == [(6, "excerpted", "kept"), (7, "excerpted", "kept"), (10, "kept", "later")]
    smallest = log.window(RESPONSES, Budget(20))
    assert changes(smallest, small) == [(seq, *fates) for seq, *fates in dropped(smallest, small)]


def dropped(new, old):
    return [
        (seq, old.manifest.fate(seq), new.manifest.fate(seq))
        for seq in range(1, 11)
        if old.manifest.fate(seq) != new.manifest.fate(seq)
    ]


def test_windows_for_two_apis_differ_in_what_only_one_of_them_takes():
    log = SmallLog()
    log.say("Hello")
    seqs = log.answer(thought(1), said(1))
    assert changes(log.window(CHAT), log.window(RESPONSES)) == [(seqs[0], "kept", "dropped")]


def test_verdicts_say_how_many_they_are_and_show_some():
    log = SmallLog()
    log.say("Look", "Again")
    first, *_ = told = log.window().explain()
    assert repr(told) == f"<3 verdicts [{', '.join(map(repr, told))}]>"
    assert repr(log.window().diff(log.window())) == "<0 verdicts []>"
    log.say("And there?", "Well?")
    last = log.window().explain()[-1]
    assert repr(log.window().explain()).startswith(f"<5 verdicts [{first!r}, ")
    assert repr(log.window().explain()).endswith(f", ..., {last!r}]>")


def test_differences_are_made_as_they_are_looked_at():
    """Of millions of events too, as verdicts are."""
    run = Run(1, 10**9, "kept")
    one = window_of(Manifest(policy="p@1", renderer=1, as_of=10**9, runs=(run,), rules=("it fits",)))
    runs = (Run(1, 5, "dropped"), Run(6, 10, "kept"), Run(11, 10**9, "dropped"), Run(10**9 + 1, 10**9 + 2, "kept"))
    other = window_of(Manifest(policy="p@1", renderer=1, as_of=10**9 + 2, runs=runs, rules=("why",)))
    found = other.diff(one)
    assert len(found) == 10**9 + 2 - 5
    assert [found[at].seq for at in (0, 4, 5, -3, -1)] == [1, 5, 11, 10**9, 10**9 + 2]
    assert [change.seq for change in found[3:7]] == [4, 5, 11, 12]
    assert found[-1].other.fate == "later"
    with pytest.raises(IndexError):
        found[len(found)]
    assert len(one.explain()) == 10**9
    assert one.explain()[-1].seq == 10**9
    assert list(one.diff(one)) == []


def window_of(manifest):
    return Window([], manifest, RESPONSES, Budget(100))


def test_only_windows_are_compared():
    window = SmallLog().window()
    with pytest.raises(Invalid, match="another window of the same conversation is needed"):
        window.diff(window.manifest)


async def test_the_compaction_that_a_window_starts_from_is_kept_whatever_is_cut_behind_it():
    log = SmallLog()
    covered = log.say("Hello")
    log.answer(said(1))
    base = log.compact(len(log.records), StandIn(item={"role": "user", "content": "in short"}), tokens=30)
    for number in range(2, 9):
        last = log.say("And?")
        log.answer(said(number))
    window = await log.stored_window(RESPONSES, Budget(90))
    assert window.manifest.cut > base
    assert fate(window, base) == "kept: it stands for what it covers"
    assert fate(window, base + 1).startswith("dropped: ")
    assert fate(window, covered) == f"compacted: the compaction at {base}"
    assert fate(window, last) == "kept: it fits"


# -- manifests are small


class EverySecond:
    """A policy that scatters what it drops."""

    name, version = "every-second", 1

    def cut(self, units, available, frontier):
        cut = Cut(sum(unit.cost for unit in units))
        for unit in units[::2]:
            if unit.at not in frontier:
                cut.drop(unit)
        return cut


def test_a_manifest_of_many_scattered_fates_is_small_beside_what_it_sends():
    log = SmallLog()
    for number in range(400):
        log.say(f"question {number}", flags=PINNED if number % 40 == 0 else 0)
        log.answer(said(number) if number % 3 else thought(number), **({} if number % 7 else {"flags": SEAL}))
    window = log.window(RESPONSES, Budget(6_000), EverySecond())
    manifest = window.manifest
    assert len(manifest.runs) > 400
    size = len(encode(stored(manifest)))
    assert size < 22 * len(manifest.runs) + 1_000
    assert size < 50 * len(window.items)


A_COMPACTION_OVER_A_REWIND = [
    *(Say(({"role": "user", "content": text},)) for text in ("Hello", "Hello?")),
    *(Respond(parts=()), Respond(parts=()), Rewind(8), Compact(0, "remote", readable=True)),
    *(Respond(parts=(Part("custom"),)), Say(({"role": "user", "content": "And now?"},)), Respond(budget=0, parts=())),
]


@given(conversations())
@example(A_COMPACTION_OVER_A_REWIND)
async def test_a_logged_manifest_tells_what_it_told_before_it_was_logged(steps):
    """Also of what was rewound below its cut, of which there may be much, and which it does not store."""
    scribe = Scribe(MemoryStore())
    await scribe.write(steps)
    records = {record.seq: record for record in await scribe.records()}
    paths = await paths_of(scribe.store, scribe.name)
    for sent in scribe.sent:
        request = body(records[sent.seq])
        assert isinstance(request, ResponseRequested)
        again = request.manifest.along(paths.to(request.manifest.as_of))
        assert again == msgspec.structs.replace(sent.manifest, weights={})


async def test_in_a_conversation_that_is_rewound_again_and_again_requests_stay_small(stage, api):
    async with stage(lambda request: "Yes.") as s:
        conversation = await s.engine.create()
        model = s.model(api, budget=Budget(60))
        for number in range(12):
            await conversation.respond(model, f"question {number}")
            version = conversation.version
            for _ in range(3):
                await conversation.append("another")
                await conversation.rewind(version)
        call_ = (await conversation.responses(order="desc", limit=1)).data[0]
        events = [event async for event in conversation.events()]
        logged = next(event.data["manifest"]["runs"] for event in events if event.seq == call_.seq)
        rewound = [run for run in call_.manifest.runs if run.fate == "rewound"]
        assert len(rewound) == 11
        assert len(logged) < 20
        for run in rewound:
            assert call_.manifest.why(run.first).fate == "rewound"


async def test_a_window_of_another_conversation_is_no_comparison(engine):
    one, other = await engine.create(id="one"), await engine.create(id="other")
    for conversation in (one, other):
        await conversation.append("Hello")
    mine, theirs = await one.window(Budget(100)), await other.window(Budget(100))
    with pytest.raises(Invalid, match="of conversation other, and this one of one; another window of the same"):
        mine.diff(theirs)
    assert list(mine.diff(await one.window(Budget(100)))) == []
