"""A service's tests on yesterday's conversation: the recorded answers stand in for the model."""

import gzip
import json

import anyio
import pytest

from instant_model import Instant, call
from turnlog import Invalid, ResponseFailed, open_engine
from turnlog.engine.model import ModelFailure
from turnlog.engine.portable import dump
from turnlog.engine.replay import Piecewise, RecordedModel, encoders
from turnlog.engine.replay import recorded as recorded_model
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text

pytestmark = pytest.mark.anyio


async def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


async def forbidden(word: str) -> str:
    """Look a word up."""
    raise AssertionError("a recorded tool does not run")


forbidden.__name__ = "look_up"

SCRIPT = [
    "Hello!",
    Reply(Reason("Two words, then."), Call("look_up", {"word": "sky"}), Call("look_up", {"word": "sea"})),
    Reply(Text("Blue. "), Text("Both.")),
    Fail(503, code="server_error"),
    "Once more.",
]
QUESTIONS = ["Hi!", "What are sky and sea?", "And again?"]


async def converse(c, model, tools, **more):
    """Hold the conversation that is recorded; return what was answered."""
    said = []
    for question in QUESTIONS:
        try:
            said.append((await c.run(model, question, tools=tools, **more)).output_text)
        except ResponseFailed as error:
            if not error.retryable:
                raise
            said.append((await c.run(model, tools=tools, **more)).output_text)
    return said


async def export(engine, path, *names):
    data = b""
    for name in names:
        data += b"".join([line async for line, _ in dump(engine.store, name)])
    await anyio.Path(path).write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
async def recording(api, stage_for, tmp_path):
    """A conversation over real HTTP, exported; with what was answered."""
    path = tmp_path / "conv-81.jsonl.gz"
    async with open_engine(":memory:") as engine, stage_for(*SCRIPT, engine=engine) as s:
        c = await engine.create(id="conv-81", metadata={"user": "ada"})
        await c.append({"role": "system", "content": "Be brief."})
        said = await converse(c, s.model(api), [look_up], instructions="Answer.")
        await export(engine, path, "conv-81")
        return path, said, [event async for event in c.events()]


async def again(engine, prompt="Be brief."):
    c = await engine.create()
    await c.append({"role": "system", "content": prompt})
    return c


async def test_a_conversation_goes_as_it_went(recording, engine):
    path, said, recorded = recording
    model = RecordedModel(path, match="exact")
    c = await again(engine)
    assert await converse(c, model, model.tools([forbidden]), instructions="Answer.") == said
    model.check()
    assert model.changed == []
    events = [event async for event in c.events()]
    assert [(one.type, one.item, one.response, one.tokens) for one in events] == [
        (one.type, one.item, one.response, one.tokens) for one in recorded
    ]
    digests = [[one.data["digest"] for one in some if one.type == "response.requested"] for some in (events, recorded)]
    assert digests[0] == digests[1]
    usage = [[one.data.get("usage") for one in some if one.type == "response.completed"] for some in (events, recorded)]
    assert usage[0] == usage[1]


async def test_program_8(recording, engine):
    """Of the page on what users need: a service over an engine, its model and its tools."""
    path, said, _ = recording

    class App:
        def __init__(self, engine, model, tools):
            self.engine, self.model, self.tools = engine, model, tools

        async def post(self, text):
            c = await self.engine.get_or_create("chat")
            if c.version == 1:
                await c.append({"role": "system", "content": "Be brief."})
            try:
                return (await c.run(self.model, text, tools=self.tools, instructions="Changed.")).output_text
            except ResponseFailed:
                return (await c.run(self.model, tools=self.tools, instructions="Changed.")).output_text

    recorded = RecordedModel(path, match=_but_for_the_prompt)
    app = App(engine, recorded, recorded.tools([look_up]))
    assert [await app.post(text) for text in QUESTIONS] == said
    c = await anext(aiter(engine.list()))
    assert [e.item async for e in (await engine.get(c.id)).items()][-1]["role"] == "assistant"
    recorded.check()


def _but_for_the_prompt(ours, theirs):
    def rest(body):
        messages = [one for one in body.get("messages", ()) if one["role"] != "system"]
        return {**body, "instructions": 0, "messages": messages}

    return rest(ours) == rest(theirs)


@pytest.mark.parametrize("prompt", ["instructions", "a leading message", "tools", "parameters"])
async def test_a_changed_prompt_is_reported_and_not_failed(recording, engine, prompt):
    path, said, _ = recording
    model = RecordedModel(path)
    c = await again(engine, "Be long." if prompt == "a leading message" else "Be brief.")
    more = {"instructions": "Reply." if prompt == "instructions" else "Answer."}
    if prompt == "parameters":
        more["params"] = {"temperature": 0.5}
    tools = [*model.tools([look_up]), *([{"type": "function", "name": "two"}] if prompt == "tools" else [])]
    assert await converse(c, model, tools, **more) == said
    model.check()
    assert len(model.changed) == 5
    shown = {"instructions": "Reply.", "a leading message": "Be long.", "tools": "two", "parameters": "temperature"}
    assert all(shown[prompt] in line for line in model.changed)
    assert model.changed[0].startswith("conv-81/")


async def test_with_a_changed_prompt_too_each_item_of_a_recording_is_written_once_or_twice(
    engine, api, tmp_path, monkeypatch
):
    path, written = tmp_path / "long.jsonl", []
    async with open_engine(":memory:") as other:
        c, instant = await other.create(id="c"), Instant(api)
        for turn in range(100):
            await c.run(instant, f"Question {turn}?", instructions="Be brief.")
        await export(other, path, "c")

    def counts(encoder):
        def pieces(items, settings):
            written.extend(one.seq for one in items)
            return encoder.pieces(items, settings)

        return Piecewise(encoder, encoder.field, pieces)

    monkeypatch.setattr(recorded_model, "_ENCODERS", {key: counts(one) for key, one in encoders().items()})
    model = RecordedModel(path)
    c = await engine.create()
    for turn in range(100):
        assert (await c.run(model, f"Question {turn}?", instructions="Be long.")).output_text == f"Fine {turn + 1}."
    model.check()
    assert len(model.changed) == 100
    assert 199 <= len(written) < 3 * 200


async def test_of_requests_with_the_same_items_the_one_with_the_same_prompt_is_played(engine, tmp_path):
    path = tmp_path / "titles.jsonl"
    async with open_engine(":memory:") as other:
        for name, prompt in (("a", "A title."), ("b", "A summary."), ("c", "A mood.")):
            await (await other.create(id=name)).run(Instant(answer=f"{prompt} {{}}"), "Hi!", instructions=prompt)
        await export(other, path, "a", "b", "c")
    model = RecordedModel(path)
    said = [
        (await (await engine.create()).run(model, "Hi!", instructions=prompt)).output_text
        for prompt in ("A mood.", "A title.", "Something else.")
    ]
    assert said == ["A mood. 1", "A title. 1", "A summary. 1"]
    model.check()
    assert len(model.changed) == 1


async def test_exact_takes_no_changed_prompt(recording, engine):
    model = RecordedModel(recording[0], match="exact")
    c = await again(engine)
    with pytest.raises(ResponseFailed, match=r"Answer\.") as failed:
        await c.run(model, QUESTIONS[0], tools=model.tools([look_up]), instructions="Reply.")
    assert not failed.value.retryable
    with pytest.raises(AssertionError, match="this request is not in the recording"):
        model.check()


async def test_another_question_fails_with_the_items_that_differ(recording, engine):
    model = RecordedModel(recording[0])
    c = await again(engine)
    with pytest.raises(ResponseFailed) as failed:
        await c.run(model, "Good day!", tools=model.tools([look_up]), instructions="Answer.")
    assert "the nearest that was not played yet is response conv-81/4" in str(failed.value)
    assert '~ item 0: $.content: "Hi!" became "Good day!"' in str(failed.value)
    assert failed.value.result.reason == "recording"


async def test_a_question_too_many_says_so(recording, engine):
    path, _, _ = recording
    model = RecordedModel(path)
    c = await again(engine)
    await converse(c, model, model.tools([look_up]), instructions="Answer.")
    with pytest.raises(ResponseFailed, match="all of its 5 responses have been played"):
        await c.run(model, "And once more?", instructions="Answer.")


async def test_what_was_not_asked_fails_too(recording, engine):
    path, _, _ = recording
    model = RecordedModel(path)
    c = await again(engine)
    await c.run(model, QUESTIONS[0], tools=model.tools([look_up]), instructions="Answer.")
    assert len(model.unplayed) == 4
    with pytest.raises(AssertionError, match="4 recorded responses were not asked for: conv-81/"):
        model.check()
    with pytest.raises(AssertionError):
        async with RecordedModel(path):
            pass


async def test_streams_replay_as_streams(recording, engine):
    path, said, _ = recording
    model = RecordedModel(path)
    c = await again(engine)
    texts, kinds = [], []
    for question in QUESTIONS[:2]:
        async with c.stream(model, question, tools=model.tools([forbidden]), instructions="Answer.") as stream:
            events = [event async for event in stream]
        texts.append("".join(event.delta for event in events if event.type == "response.output_text.delta"))
        kinds += [event.type for event in events]
    assert texts == said[:2]
    assert {"response.created", "response.output_item.added", "response.output_item.done", "response.completed"} <= set(
        kinds
    )
    assert "turnlog.call.output" in kinds


async def test_at_the_recorded_pace_the_moments_are_those_of_the_log(recording, engine, monkeypatch):
    path, _, recorded = recording
    asked, slept = [], []

    async def sleep_until(deadline):
        slept.append(deadline)

    monkeypatch.setattr(anyio, "sleep_until", sleep_until)
    monkeypatch.setattr(anyio, "current_time", lambda: asked.append(0) or 0.0)
    c = await again(engine)
    await c.run(RecordedModel(path, pace=10.0), QUESTIONS[0], tools=[look_up], instructions="Answer.")
    times = {one.type: one.time for one in reversed(recorded)}
    took = (times["response.completed"] - times["response.requested"]).total_seconds()
    assert slept == pytest.approx(sorted(slept))
    assert slept[-1] == pytest.approx(10 * took)
    assert len(slept) > 4


async def test_answers_can_be_played_from_a_database(engine, db):
    """Of a file with several conversations each request finds its own."""
    async with open_engine(db) as other:
        for name, question in (("a", "One?"), ("b", "Two?")):
            await (await other.create(id=name)).run(Instant(answer=f"{name} {{}}"), question)
    model = await anyio.to_thread.run_sync(RecordedModel, db)
    c = await engine.create()
    assert (await c.run(model, "Two?")).output_text == "b 1"
    assert model.unplayed == ["a/3"]
    d = await engine.create()
    assert (await d.run(model, "One?")).output_text == "a 1"
    model.check()
    only = await anyio.to_thread.run_sync(lambda: RecordedModel(db, conversation="a"))
    assert only.unplayed == ["a/3"]


@pytest.fixture
async def forked(db):
    """A conversation, a fork of it and one of that, which all go on; requests by conversation: m 2, f 1, g 1."""
    async with open_engine(db) as other:
        m = await other.create(id="m")
        model = Instant()
        await m.run(model, "One?")
        f = await m.fork(id="f")
        await m.run(model, "Two?")
        await f.run(model, "Another two?")
        g = await f.fork(id="g")
        await g.run(model, "Three?")
    return db


@pytest.mark.parametrize("form", ["database", "export", "backwards"])
async def test_every_request_of_forks_is_played_once(forked, form, engine, tmp_path):
    path = forked
    if form != "database":
        path = tmp_path / "forks.jsonl"
        async with open_engine(forked) as other:
            await export(other, path, *("mfg" if form == "export" else "gfm"))
    model = await anyio.to_thread.run_sync(RecordedModel, path)
    assert sorted(model.unplayed) == ["f/9", "g/15", "m/3", "m/8"]
    m = await engine.create()
    await m.run(model, "One?")
    f = await m.fork()
    await f.run(model, "Another two?")
    await m.run(model, "Two?")
    await f.run(model, "Three?")
    model.check()
    only = await anyio.to_thread.run_sync(lambda: RecordedModel(path, conversation="g"))
    assert only.unplayed == ["g/3", "g/9", "g/15"]


async def test_what_a_caller_brought_as_an_output_is_played_for_no_call(engine, api, tmp_path):
    """Ids of calls may come back: an example's call may have that of the first real one."""
    path = tmp_path / "example.jsonl"
    asked = call("look_up", '{"word":"sky"}', 1)
    example = "Example", asked, {"type": "function_call_output", "call_id": asked["call_id"], "output": "nothing"}

    def answer(number):
        return [asked] if number == 1 else "Fine."

    async with open_engine(":memory:") as other:
        c = await other.create(id="c")
        await c.append(*example, pinned=True)
        await c.run(Instant(api, answer), "One?", tools=[look_up])
        await export(other, path, "c")
    model = RecordedModel(path, match="exact")
    c = await engine.create()
    await c.append(*example, pinned=True)
    assert (await c.run(model, "One?", tools=model.tools([forbidden]))).output_text == "Fine."
    model.check()


@pytest.mark.parametrize("match", [None, "exact"])
async def test_what_was_erased_is_matched_by_anything(engine, api, tmp_path, match):
    path = tmp_path / "erased.jsonl"

    def answer(number):
        return [call("look_up", '{"word":"sky"}', 1)] if number == 2 else f"Answer {number}."

    async with open_engine(":memory:") as other:
        c = await other.create(id="c")
        model = Instant(api, answer)
        for question in ("One?", "My number is 1234.", "Three?"):
            await c.run(model, question, tools=[look_up])
        items = [entry async for entry in c.items()]
        kinds = [one.item.get("type", one.item.get("role")) for one in items]
        for index in (2, 4, 5):  # a question, what a tool returned, and an answer
            await c.erase(items[index].seq, reason="asked to")
        await export(other, path, "c")
        assert kinds[2:6] == ["user", "function_call", "function_call_output", "message"]
    model = RecordedModel(path, match=match)
    c = await engine.create()
    said = [
        (await c.run(model, question, tools=model.tools([forbidden]))).output_text
        for question in ("One?", "My number is another.", "Three?")
    ]
    model.check()
    assert (said[0], said[2]) == ("Answer 1.", "Answer 4.")
    assert said[1].startswith("[erased: c/")
    told = [line for line in model.changed if "were erased since" in line]
    assert [line.split(" of its")[0].split(": ")[1] for line in told] == ["1", "2", "3"]
    other = RecordedModel(path, match=match)
    with pytest.raises(ResponseFailed, match=r"~ item 0: \$\.content: \"One\?\" became \"Two") as failed:
        await (await engine.create()).run(other, "Two?", tools=other.tools([look_up]))
    assert "[erased" not in str(failed.value)


async def test_a_service_with_two_models_has_a_handle_for_each(engine, tmp_path):
    path = tmp_path / "two.jsonl"
    big, mini = Instant("responses", "Big {}."), Instant("chat", "Mini {}.", name="gpt-4.1-mini", backend="there")
    async with open_engine(":memory:") as other:
        c = await other.create(id="c")
        await c.run(big, "One?")
        await c.run(mini, "Two?")
        await c.run(big, "Three?")
        await export(other, path, "c")
    model = RecordedModel(path)
    first, second = model.of("gpt-4o-mini"), model.of("gpt-4.1-mini", api="chat")
    assert (first.api, second.api, second.backend) == ("responses", "chat", "there")
    c = await engine.create()
    said = [await c.run(one, text) for one, text in ((first, "One?"), (second, "Two?"), (first, "Three?"))]
    assert [one.output_text for one in said] == ["Big 1.", "Mini 1.", "Big 2."]
    model.check()
    with pytest.raises(
        Invalid, match=r"nothing was recorded of that model; there is gpt-4\.1-mini over chat, gpt-4o-mini"
    ):
        model.of("gpt-5")


@pytest.fixture
async def stopped(api, stage_for, tmp_path):
    """A conversation whose second answer was stopped by its reader; with its events."""
    path = tmp_path / "stopped.jsonl"
    script = ["Fine.", Reply(Reason("Well. " * 9), Text("A long answer. " * 40), delay=0.01), "On we go."]
    async with open_engine(":memory:") as engine, stage_for(*script, engine=engine) as s:
        c = await engine.create(id="c")
        await c.run(s.model(api), "Hi!")
        await stop(c, s.model(api))
        await c.run(s.model(api), "Shorter, please.")
        await export(engine, path, "c")
        return path, [event async for event in c.events()]


async def stop(c, model):
    """Ask, and leave once there is something to read."""
    async with c.stream(model, "Tell me all.") as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                break


async def test_an_answer_that_was_stopped_can_be_stopped_again(stopped, engine):
    path, recorded = stopped
    model = RecordedModel(path, match="exact")
    c = await engine.create()
    await c.run(model, "Hi!")
    await stop(c, model)
    assert (await c.run(model, "Shorter, please.")).output_text == "On we go."
    model.check()
    assert model.changed == []
    events = [event async for event in c.events()]
    assert [(one.type, one.item, one.data.get("digest")) for one in events] == [
        (one.type, one.item, one.data.get("digest")) for one in recorded
    ]
    cuts = [[one.data for one in some if one.type == "response.interrupted"] for some in (events, recorded)]
    assert cuts[0] == cuts[1] != []


async def test_who_reads_an_answer_on_that_was_stopped_is_told(stopped, engine, monkeypatch):
    monkeypatch.setattr(recorded_model, "_PATIENCE", 0.01)
    model = RecordedModel(stopped[0])
    c = await engine.create()
    await c.run(model, "Hi!")
    with pytest.raises(ResponseFailed, match=r"interrupted here \(left\)"):
        await c.run(model, "Tell me all.")
    with pytest.raises(ResponseFailed, match="this answer was stopped by whoever read it, and now it was read on"):
        await c.run(model, "Shorter, please.")
    assert any("it was read on" in line for line in model.changed)


async def test_what_was_interrupted_breaks_off_where_it_did(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(recorded_model, "_PATIENCE", 0.01)
    path = tmp_path / "cut.jsonl"
    reached = anyio.Event()

    class Slow(Instant):
        async def send(self, request):
            async for event in super().send(request):
                if event.type == "response.output_item.done":
                    yield type(event)(type="response.output_text.delta", delta="Half a", raw={"output_index": 0})
                    reached.set()
                    await anyio.sleep_forever()
                yield event

    async with open_engine(":memory:") as other:
        c = await other.create(id="c")
        async with c.stream(Slow(), "Go on.") as stream:
            async for event in stream:
                if event.delta:
                    break
        await export(other, path, "c")
    model, heard = RecordedModel(path), []
    with pytest.raises(ResponseFailed, match="interrupted here") as failed:
        async with (await engine.create()).stream(model, "Go on.") as stream:
            async for event in stream:
                heard += [event.delta]
    assert "".join(heard) == "Half a"
    assert failed.value.retryable
    model.check()


async def test_a_call_that_has_no_output_in_the_recording_is_told(engine, tmp_path):
    path = tmp_path / "waiting.jsonl"
    schema = {"type": "function", "name": "look_up", "parameters": {}}
    async with open_engine(":memory:") as other:
        c = await other.create(id="c")
        await c.run(Instant(answer=lambda number: [call("look_up", '{"word":"sky"}', 1)]), "Well?", tools=[schema])
        await export(other, path, "c")
    model = RecordedModel(path)
    with pytest.raises(ResponseFailed):
        await (await engine.create()).run(model, "Well?", tools=model.tools([look_up]))
    with pytest.raises(AssertionError, match="there is no output of look_up for call_1 in the recording"):
        model.check()


def test_what_is_no_recording_is_refused(tmp_path):
    missing, empty, other, cut = (tmp_path / name for name in ("missing", "empty.jsonl", "other.jsonl", "cut.jsonl.gz"))
    with pytest.raises(Invalid, match="missing: the recording cannot be read: No such file"):
        RecordedModel(missing)
    empty.write_bytes(b"")
    with pytest.raises(Invalid, match="there is no recorded model call in it"):
        RecordedModel(empty)
    other.write_text(json.dumps({"role": "user"}) + "\n")
    with pytest.raises(Invalid, match="an export begins with the header"):
        RecordedModel(other)
    cut.write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(Invalid, match="cannot be read"):
        RecordedModel(cut)


@pytest.mark.parametrize("argument", [{"match": 7}, {"pace": -1}, {"pace": "fast"}])
async def test_arguments_that_cannot_be(recording, argument):
    with pytest.raises(Invalid):
        RecordedModel(recording[0], **argument)


async def test_a_failure_is_raised_as_it_was(engine, tmp_path):
    path = tmp_path / "failed.jsonl"
    failure = ModelFailure("http", "too fast", code="rate_limit_exceeded", status_code=429, retryable=True, retries=2)
    async with open_engine(":memory:") as other:
        c = await other.create(id="c")
        with pytest.raises(ResponseFailed):
            await c.run(Instant(answer=lambda number: failure), "Well?")
        await export(other, path, "c")
    with pytest.raises(ResponseFailed) as failed:
        await (await engine.create()).run(RecordedModel(path), "Well?")
    assert (failed.value.code, failed.value.status_code, failed.value.retryable) == ("rate_limit_exceeded", 429, True)
