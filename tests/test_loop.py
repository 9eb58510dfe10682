"""The event loop goes on while large things are read, checked, counted and written."""

import json
import threading
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from turnlog import Budget, open_engine
from turnlog.adapters import wire
from turnlog.engine import intake, vocabulary
from turnlog.engine.canonical import salvage
from turnlog.engine.testing.server import Raw
from turnlog.engine.threads import apart, is_large
from turnlog.engine.turns import recorder, requests

pytestmark = pytest.mark.anyio

RESULT = {"file_id": "file_1", "text": "some words of a text that was found", "score": 0.5, "attributes": {"a": 1}}
FOUND = {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["x"], "results": [RESULT] * 4_000}
SMALL = {**FOUND, "results": [RESULT]}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "There.", "annotations": []}],
}


@asynccontextmanager
async def beating():
    """Count how often others get their turn."""
    beats = [0]

    async def beat():
        while True:
            await anyio.lowlevel.checkpoint()
            beats[0] += 1

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        yield beats
        group.cancel_scope.cancel()


@pytest.fixture
def seen(monkeypatch):
    """Where the work on JSON was done: by the name of the function, whether each time it was the loop's thread."""
    loop = threading.get_ident()
    made = {}

    def watch(module, name):
        work = getattr(module, name)

        def watched(*args, **options):
            made.setdefault(name, []).append(threading.get_ident() == loop)
            return work(*args, **options)

        monkeypatch.setattr(module, name, watched)

    for module, name in ((intake, "accept"), (intake, "packed"), (intake, "flags_of"), (wire, "salvage")):
        watch(module, name)
    watch(recorder, "_readable")
    watch(requests, "canonical")
    return made


async def test_a_large_item_of_a_caller_is_checked_and_written_in_a_thread(engine, seen):
    c = await engine.create()
    await c.append(FOUND)
    assert seen["accept"] == seen["flags_of"] == [False]
    assert (await c.items()).data[0].item == FOUND
    seen.clear()
    await c.append(SMALL)
    assert seen == {"accept": [True], "flags_of": [True]}


async def test_a_large_item_of_a_model_is_read_and_written_in_a_thread(stage, seen):
    done = {"type": "response.output_item.done", "output_index": 0, "item": FOUND}
    end = {
        "type": "response.completed",
        "response": {"id": "resp_1", "status": "completed", "output": [FOUND, MESSAGE]},
    }
    said = [{"type": "response.created", "response": {"id": "resp_1"}}, done, end]
    answer = Raw(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in said))
    async with stage(answer, "Yes.") as s:
        c = await s.engine.create()
        gpt = s.model("responses", budget=Budget(1_000_000))
        await c.respond(gpt, "Find it.")
        assert seen["salvage"] == [True, False, False]
        assert seen["_readable"] == [False, True]
        assert seen["canonical"] == [True]
        seen.clear()
        await c.respond(gpt, "Sure?")
        assert seen["canonical"] == [False]


async def test_others_get_their_turn_while_a_large_item_is_taken(engine):
    c = await engine.create()
    await c.append("Hello")  # the vocabulary is there
    large = {**FOUND, "results": [RESULT] * 40_000}
    async with beating() as beats:
        await c.append(large)
    assert beats[0] > 20


async def test_others_get_their_turn_while_a_vocabulary_is_read(monkeypatch):
    class Encoding:
        """tiktoken's own part is one call: it is what `preload` is for."""

        def __init__(self, name, **parts):
            assert len(parts["mergeable_ranks"]) > 100_000

        def encode_ordinary(self, text):
            return list(text)

    class Tiktoken:
        pass

    Tiktoken.Encoding = Encoding
    monkeypatch.setattr(vocabulary, "_loaded", {})
    monkeypatch.setattr(vocabulary, "_cached", lambda name: None)
    monkeypatch.setattr(vocabulary, "_tiktoken", lambda: Tiktoken)
    async with beating() as beats:
        assert (await vocabulary.load()).source == "offline"
    assert beats[0] > 5


async def test_a_vocabulary_can_be_loaded_before_anything_else(monkeypatch):
    monkeypatch.setattr(vocabulary, "_loaded", {})
    async with open_engine(":memory:") as engine:
        await engine.create()
        assert vocabulary._loaded == {}
    async with open_engine(":memory:", preload=True):
        assert list(vocabulary._loaded) == [vocabulary.DEFAULT]


async def test_work_of_which_a_caller_is_cancelled_is_done_all_the_same():
    begun, done = threading.Event(), threading.Event()

    def work():
        begun.set()
        done.wait(10)
        done.set()
        return 5

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: apart(work, when=True))
        await anyio.to_thread.run_sync(begun.wait)
        group.cancel_scope.cancel()
        done.set()
    assert done.is_set()


def test_what_is_large():
    assert not is_large({"type": "message", "content": "x" * 200_000})
    assert is_large({"type": "message", "content": "x" * 5_000_000})
    assert is_large([[n] for n in range(5_000)])
    assert not is_large([[n] for n in range(500)])


@pytest.mark.parametrize("depth", [50, 99, 100, 101, 500])
def test_brackets_alone_do_not_make_an_answer_deep(depth):
    """Of many brackets side by side nothing is replaced, of those inside of one another what is too deep."""
    flat = [{"n": [n]} for n in range(300)]
    assert salvage(json.dumps(flat)) == (flat, [])
    deep = json.loads("[" * depth + "]" * depth)
    value, repairs = salvage(json.dumps([flat, deep]))
    assert value[0] == flat
    assert bool(repairs) == (depth > 99)
    assert (value[1] == deep) == (depth <= 99)
