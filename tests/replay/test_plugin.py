"""The pytest plugin, in test runs of its own: with anyio's event loop and with pytest-asyncio's."""

import gzip
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import anyio
import pytest

from instant_model import Instant, call
from missing_parts import absent
from turnlog import open_engine
from turnlog.engine.portable import dump

HERE = Path(__file__).parents[1] / "shared"
INSTALLED = any(point.name == "turnlog" for point in entry_points(group="pytest11"))
LOOPS = {
    "anyio": ("pytestmark = pytest.mark.anyio", "pytest.fixture"),
    "pytest-asyncio": ("pytestmark = pytest.mark.asyncio", "pytest_asyncio.fixture"),
}
NEEDED = {"anyio": ("anyio",), "pytest-asyncio": ("anyio", "pytest_asyncio.plugin")}
"""The plugins that the tests need: to look for all that are installed takes longer than the tests themselves."""
CONFTEST = """
    import pytest
    from instant_model import Instant, call

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    def answer(number):
        return [call("look_up", '{"word":"sky"}', number)] if number == 1 else f"Answer {number}."

    @pytest.fixture
    def turnlog_model():
        return Instant(answer=answer)
"""
SERVICE = """
    import pytest
    MARK

    ran = []

    async def look_up(word: str) -> str:
        ran.append(word)
        return f"{word}: a word"

    class App:
        def __init__(self, engine, model, tools):
            self.engine, self.model, self.tools = engine, model, tools

        async def post(self, text):
            c = await self.engine.get_or_create("chat")
            return (await c.run(self.model, text, tools=self.tools, instructions=PROMPT)).output_text

    PROMPT = "Be brief."

    @pytest.fixture
    def app(turnlog_engine, turnlog_recording):
        return App(turnlog_engine, turnlog_recording, turnlog_recording.tools([look_up]))

    async def test_it(app, turnlog_engine):
        assert await app.post("Well?") == "Answer 2."
        assert [info.id async for info in turnlog_engine.list()] == ["chat"]
        assert await app.post("And now?") == "Answer 3."
"""


@pytest.fixture(params=LOOPS)
def loop(request):
    if request.param == "pytest-asyncio" and importlib.util.find_spec("pytest_asyncio") is None:
        absent("pytest-asyncio is not installed: pip install pytest-asyncio")
    return request.param


one_loop = pytest.mark.parametrize("loop", ["anyio"], indirect=True)
"""For what has nothing to do with event loops."""


@pytest.fixture
def run(tmp_path, loop):
    """Write a test module, run it, and return what pytest said."""
    scope = "asyncio_default_fixture_loop_scope = function\n" if loop == "pytest-asyncio" else ""
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{scope}")
    (tmp_path / "conftest.py").write_text(dedent(CONFTEST))

    def runs(*options, module=SERVICE, found=False):
        mark = f"import pytest_asyncio\n    {LOOPS[loop][0]}" if loop != "anyio" else LOOPS[loop][0]
        text = dedent(module.replace("MARK", mark).replace("FIXTURE", LOOPS[loop][1]))
        (tmp_path / "test_service.py").write_text(text)
        plugins = ["no:cacheprovider"]
        plugins += ["no:xdist"] if found else [*NEEDED[loop], "turnlog.engine.testing.plugin"]
        plugins += ["no:asyncio"] if found and loop != "pytest-asyncio" else []
        named = [part for plugin in plugins for part in ("-p", plugin)]
        command = [sys.executable, "-m", "pytest", *named, *options, "test_service.py"]
        paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": paths}
        if not found:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return runs


@pytest.fixture
def recording(tmp_path):
    """The recording that `test_it` would have made."""

    async def make():
        async with open_engine(":memory:") as engine:
            c = await engine.create(id="chat")
            answers = [[call("look_up", '{"word":"sky"}', 1)], "Answer 2.", "Answer 3."]
            model = Instant(answer=lambda number: answers[number - 1])
            for text in ("Well?", "And now?"):
                await c.run(model, text, tools=[look_up], instructions="Be brief.")
            return b"".join([line async for line, _ in dump(engine.store, "chat")])

    path = tmp_path / "recordings" / "test_it.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(anyio.run(make)))
    return path


async def look_up(word: str) -> str:
    return f"{word}: a word"


@pytest.mark.skipif(not INSTALLED, reason="turnlog is not installed")
def test_pytest_finds_it_by_itself(run, recording):
    assert "1 passed" in run(found=True)


def test_a_test_is_recorded_once_and_played_ever_after(run, tmp_path):
    assert "there is no such recording; make it with --turnlog-record=new" in run()
    told = run("--turnlog-record=new")
    assert "1 passed" in told, told
    (made,) = (tmp_path / "recordings").iterdir()
    assert made.name == "test_it.jsonl.gz"
    first = made.read_bytes()
    # No tool runs, and no model is asked: neither is there.
    told = run("--turnlog-record=new", module=SERVICE.replace("ran.append(word)", "raise AssertionError"))
    assert "1 passed" in told, told
    assert made.read_bytes() == first
    assert "1 passed" in run("--turnlog-record=all")
    assert made.read_bytes() != first


def test_a_recording_is_made_where_fixtures_are_async(run, tmp_path):
    """Their event loop is still there when the test is over."""
    fixtures = """
    from instant_model import Instant, call

    @FIXTURE
    async def turnlog_model():
        def answer(number):
            return [call("look_up", '{"word":"sky"}', number)] if number == 1 else f"Answer {number}."
        yield Instant(answer=answer)

    @FIXTURE
    async def app(turnlog_engine, turnlog_recording):
        await turnlog_engine.create(id="before")
        yield App(turnlog_engine, turnlog_recording, turnlog_recording.tools([look_up]))
    """
    module = (SERVICE + fixtures).replace('list()] == ["chat"]', 'list()] == ["chat", "before"]')
    for option in ("--turnlog-record=new", "--turnlog-record=all", "--turnlog-record=none"):
        told = run(option, module=module)
        assert "1 passed" in told, told
    assert (tmp_path / "recordings" / "test_it.jsonl.gz").exists()


@one_loop
def test_of_tests_that_name_one_file_the_first_records_and_the_others_play_it(run, recording):
    first = recording.read_bytes()
    more = """
    @pytest.mark.turnlog("recordings/test_it.jsonl.gz")
    async def test_the_same(app):
        await app.post("Well?")
        await app.post("And now?")

    @pytest.mark.turnlog("recordings/test_it.jsonl.gz")
    async def test_another(app):
        await app.post("Something else?")
    """
    told = run("--turnlog-record=all", module=SERVICE + more)
    assert "1 failed, 2 passed" in told, told
    assert '$.content: "Well?" became "Something else?"' in told
    assert "test_it.jsonl.gz was recorded by test_service.py::test_it in this run" in told
    assert recording.read_bytes() != first
    assert "1 failed, 2 passed" in run(module=SERVICE + more)


@one_loop
def test_a_changed_prompt_is_told_at_the_end_and_exactly_fails(run, recording):
    exact = """
    @pytest.mark.turnlog("recordings/test_it.jsonl.gz", match="exact")
    async def test_exactly(app):
        await app.post("Well?")
    """
    told = run(module=SERVICE.replace('"Be brief."', '"Be long."') + exact)
    assert "1 failed, 1 passed" in told, told
    assert "turnlog: changed since they were recorded" in told
    assert 'test_service.py::test_it: chat/3: $.instructions: "Be brief." became "Be long."' in told
    assert "this request is not in the recording" in told


def test_what_goes_otherwise_fails_and_what_shares_a_recording_does_not(run, recording):
    more = """
    @pytest.mark.turnlog("recordings/test_it.jsonl.gz")
    async def test_another_question(app):
        await app.post("Well?")
        await app.post("And then?")

    @pytest.mark.turnlog("recordings/test_it.jsonl.gz")
    async def test_one_too_few(app):
        await app.post("Well?")

    @FIXTURE
    async def seeded(turnlog_engine):
        return await turnlog_engine.create(id="seeded")

    @pytest.mark.turnlog("recordings/test_it.jsonl.gz", pace=0.001)
    @pytest.mark.parametrize("number", [1, 2])
    async def test_more(number, seeded, turnlog_recording):
        for text in ("Well?", "And now?"):
            await seeded.run(turnlog_recording, text, tools=turnlog_recording.tools([look_up]), instructions=PROMPT)
        assert (await seeded.usage()).requests == 3
    """
    told = run("--strict-markers", module=SERVICE + more)
    assert "2 failed, 3 passed" in told, told
    assert '$.content: "And now?" became "And then?"' in told
    assert "1 recorded responses were not asked for: chat/" in told


@one_loop
def test_recording_wants_a_model_and_something_to_record(run, tmp_path):
    mine = """
    @pytest.fixture
    def turnlog_model():
        return None
    """
    idle = SERVICE.replace('assert await app.post("Well?") == "Answer 2."', "return")
    assert "nothing to record: the service has to work in turnlog_engine" in run("--turnlog-record=new", module=idle)
    told = run("--turnlog-record=all", module=SERVICE + mine)
    assert "define a fixture turnlog_model that returns the adapter to record with" in told
    assert not (tmp_path / "recordings").exists()
