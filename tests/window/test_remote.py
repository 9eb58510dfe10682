"""What a server holds, and what is new: whatever the log, the server ends up with the window that the manifest says."""

import msgspec
import pytest
from hypothesis import event, given

from turnlog.engine.events import Target
from turnlog.engine.items import read
from turnlog.engine.manifest import Manifest, Run
from turnlog.engine.reader import Reader
from turnlog.engine.stores.memory import MemoryStore
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.strategies import (
    BUDGETS,
    TARGETS,
    Compact,
    Output,
    Part,
    Respond,
    Rewind,
    Say,
    Scribe,
    Sight,
    Undo,
    conversations,
)
from turnlog.engine.window.budget import Budget
from turnlog.engine.window.remote import addressed, following, news

pytestmark = pytest.mark.anyio


def keeping(target, state="chained"):
    return msgspec.structs.replace(target, state=state) if target.api == "responses" else target


class Chained(Scribe):
    """Writes logs of requests to servers that keep responses, and plays these servers."""

    def __init__(self, store):
        super().__init__(store)
        self.servers = {}
        """By response: what its server has before its answer."""
        self.followed = []
        """Which response each request follows, 0 for none."""
        self.answered = {}
        """By response: what it answered."""

    async def _answer(self, step, target, seq):
        await super()._answer(step, target, seq)
        self.answered[seq] = self._answers[-1]

    async def _request(self, target, manifest, rendered, purpose="answer"):
        kept = keeping(target)
        if purpose == "answer" and kept is not target:
            manifest = await self._following(kept, manifest)
            given = news(rendered, manifest)
            before = self._held(manifest.follows) if manifest.follows else []
            self._check(before, [*map(told, given)], rendered)
            self.followed.append(manifest.follows)
            seq = await super()._request(kept, manifest, rendered, purpose)
            self.servers[seq] = [*before, *map(told, given)]
            return seq
        return await super()._request(target, manifest, rendered, purpose)

    async def _following(self, target, manifest):
        found = following(await self._chosen_from(self.reader, target, manifest), manifest, target)
        # A reader that knows nothing yet finds the same.
        cold = await self._chosen_from(Reader(self.store, self.intake), target, manifest)
        assert following(cold, manifest, target) == found
        assert found.remote == (f"resp_{found.follows}" if found.follows else "")
        return found

    async def _chosen_from(self, reader, target, manifest):
        """The history that a window was chosen from."""
        sight = Sight(target, Budget(manifest.context, manifest.reserve))
        _, history = await reader.fresh(self.name, line=sight.line, tokens=manifest.context)
        history, again = await reader.chosen(sight, history)
        assert again == manifest
        return history

    def _held(self, response):
        """What a server has of a response: all that came before it, and its answer."""
        return [*self.servers[response], *self.answered[response]]

    def _check(self, before, given, rendered):
        """See to it that the server has what the window has; reasoning it may have besides."""
        held = [*before, *given]
        assert list(map(spoken, without_reasoning(held))) == list(
            map(spoken, without_reasoning(told(one) for one in rendered))
        )
        body = {"model": "m", "input": held}
        found = [str(one) for one in refusals("responses", body, born=self.born, stored=True)]
        # A call by a program that there never was is the server's own making, and so is an id that it gave twice.
        own = ("No program found", *(f"Duplicate item found with id {name}." for name in twice(before) - ids(given)))
        assert [one for one in found if not one.startswith(own)] == []


def ids(items):
    return {item["id"] for item in items if "id" in item}


def twice(items):
    """The ids that come more than once."""
    return {name for name in ids(items) if sum(item.get("id") == name for item in items) > 1}


def told(one):
    return one.item


def without_reasoning(items):
    return [item for item in items if read(item).shape != "reasoning"]


def spoken(item):
    """What an item says, in whatever form."""
    form = read(item)
    content = item.get("output", item.get("content", item.get("arguments", item.get("input"))))
    if isinstance(content, list):
        content = "".join(str(part.get("text", part.get("refusal", part.get("type")))) for part in content)
    return form.shape, form.link, str(content)


async def chained(*steps):
    scribe = Chained(MemoryStore())
    await scribe.write(steps)
    return scribe


@given(conversations())
async def test_the_server_ends_up_with_the_window(steps):
    scribe = await chained(*steps)
    event(f"requests that follow one: {sum(map(bool, scribe.followed))}")


def respond(*parts, target=0, **more):
    return Respond(target=target, parts=tuple(Part(kind) for kind in parts or ("message",)), **more)


def say(text="and then?"):
    return Say(({"role": "user", "content": text},))


PLAIN = (say(), respond("secret", "message"), say(), respond("secret", "call", "message"), Output(), respond())
FOLLOWED = {
    "turns": (PLAIN, [False, True, True]),
    "a late output of an older call": (
        (say(), respond("call"), Output(sealed=True), respond(), say(), respond(), Output(call=0), respond()),
        [False, True, True, False],
    ),
    "messages meanwhile": ((say(), respond("message", "message", meanwhile=(1,)), respond()), [False, True]),
    "a compaction": ((*PLAIN, Compact(), say(), respond(), say(), respond()), [False, True, True, False, True]),
    "a compaction that is undone": (
        (*PLAIN, Compact(), Undo(), say(), respond()),
        [False, True, True, True],
    ),
    "a rewind": ((*PLAIN, Rewind(place=3), say(), respond()), [False, True, True, True]),
    "a failure": ((say(), respond(), say(), respond(end="failed"), say(), respond()), [False, True, True]),
    "an interruption": (
        (say(), respond(), say(), respond(end="interrupted", partial=3), say(), respond()),
        [False, True, True],
    ),
    "an incomplete answer": ((say(), respond(end="incomplete"), say(), respond()), [False, True]),
    "reasoning without encrypted content": ((say(), respond("thought", "message"), say(), respond()), [False, True]),
    "nothing but reasoning": ((say(), respond("secret", end="incomplete"), say(), respond()), [False, False]),
    "a call that can have no output": ((say(), respond("computer"), say(), respond()), [False, False]),
    "another model": ((say(), respond("secret", "message"), say(), respond(target=1)), [False, True]),
    "another model, which cannot read the compaction": (
        (*PLAIN, Compact(), say(), respond(), say(), respond(target=1), say(), respond(target=1)),
        [False, True, True, False, False, True],
    ),
    "another model and back": (
        (*PLAIN, say(), respond("secret", "message", target=1), say(), respond(target=0)),
        [False, True, True, True, True],
    ),
    "an id that the server gives twice": (
        (
            say(),
            Respond(parts=(Part("message", repeated=True),)),
            say(),
            Respond(parts=(Part("message", repeated=True),)),
            say(),
            respond(),
        ),
        [False, True, True],
    ),
    "another backend": ((say(), respond(), say(), respond(target=2), say(), respond()), [False, False, True]),
    "a cut": ((say("word " * 110), respond(budget=0), say("word " * 110), respond(budget=0)), [False, False]),
}


@pytest.mark.parametrize(("steps", "expected"), FOLLOWED.values(), ids=FOLLOWED)
async def test_what_is_followed(steps, expected):
    scribe = await chained(*steps)
    assert list(map(bool, scribe.followed)) == expected


# -- one condition each

TARGET = keeping(TARGETS[0])


async def after_one_answer(*parts):
    """A history with one answered request, and a window of it."""
    scribe = await chained(say(), respond(*parts), say("more"))
    _, history = await scribe.reader.fresh(scribe.name)
    _, manifest, _ = await scribe.window(TARGETS[0], BUDGETS[-1])
    assert following(history, manifest, TARGET).follows
    return history, manifest


def changed(manifest, seq, fate):
    """A manifest with another fate for one seq."""
    runs = [run for run in manifest.runs if not run.first <= seq <= run.last]
    for run in manifest.runs:
        if run.first <= seq <= run.last:
            runs += [Run(run.first, seq - 1, run.fate), Run(seq, seq, fate), Run(seq + 1, run.last, run.fate)]
    runs = sorted((run for run in runs if run.first <= run.last), key=lambda run: run.first)
    return msgspec.structs.replace(manifest, runs=tuple(runs))


@pytest.mark.parametrize("fate", ["dropped", "excerpted", "erased", "superseded"])
@pytest.mark.parametrize("place", ["window", "answer"])
async def test_what_the_server_has_must_be_sent_as_it_was(fate, place):
    history, manifest = await after_one_answer("message")
    seq = next(e.seq for e in history.entries() if (e.reading.shape == "assistant") == (place == "answer"))
    assert not following(history, changed(manifest, seq, fate), TARGET).follows
    assert following(history, changed(manifest, seq, "pinned"), TARGET).follows


async def test_reasoning_may_be_left_out():
    history, manifest = await after_one_answer("secret", "message")
    seq = next(e.seq for e in history.entries() if e.reading.shape == "reasoning")
    assert following(history, changed(manifest, seq, "dropped"), TARGET).follows


@pytest.mark.parametrize(
    "change", [{"renderer": 2}, {"base": 1}, {"early": (2,)}, {"sealed": (2,)}], ids=lambda change: next(iter(change))
)
async def test_the_rest_of_the_manifest_must_be_the_same(change):
    history, manifest = await after_one_answer("message")
    assert not following(history, msgspec.structs.replace(manifest, **change), TARGET).follows


@pytest.mark.parametrize(
    "target",
    [TARGETS[0], keeping(TARGETS[2]), keeping(TARGETS[0], "conversation"), Target(api="chat", backend="a", model="m")],
)
async def test_only_who_answered_has_it(target):
    history, manifest = await after_one_answer("message")
    assert following(history, manifest, target) == manifest


def test_what_an_encoder_is_told():
    manifest = Manifest(policy="p@1", renderer=1, as_of=1)
    assert addressed({"model": "m"}, manifest) == {"model": "m"}
    followed = msgspec.structs.replace(manifest, remote="resp_1")
    assert addressed({"model": "m"}, followed) == {"model": "m", "remote": "resp_1"}
