"""The pytest plugin: a service's tests run on recorded conversations, without a network.

It comes with turnlog; pytest finds it by itself. A test asks for the recording, which is its model, and for an engine
in memory, in which its service works:

    @pytest.mark.turnlog("recordings/conv-81.jsonl.gz")
    async def test_yesterday(turnlog_engine, turnlog_recording):
        app = make_app(turnlog_engine, turnlog_recording, turnlog_recording.tools([search]))
        assert await app.post("hello") == "Hi!"

The mark takes the file, relative to the test's, and what `RecordedModel` takes; without a file it is
`recordings/NAME_OF_THE_TEST.jsonl.gz`. A request that the recording does not have fails the test, and so does a
recorded response that nobody asked for; a changed prompt is told at the end of the run.

`--turnlog-record` says whether recordings are made: `none` (the default), `new` where there is none yet, `all` anew.
What is recorded then is what the service does in `turnlog_engine` with the model that the fixture `turnlog_model`
gives, which is yours to define. Each file is recorded once in a run: further tests that name it play what the first
one has recorded.

It works with anyio's plugin and with pytest-asyncio: the engine is opened in whatever event loop first uses it.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import inspect
import re
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

if TYPE_CHECKING:
    from ..engine import Engine
    from ..items import Item
    from ..tools import Tool, Tools

__all__ = (
    "Later",
    "Passing",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_call",
    "pytest_terminal_summary",
    "turnlog_engine",
    "turnlog_model",
    "turnlog_recording",
)

_OPTION: Final = "--turnlog-record"
_PROPERTY: Final = "turnlog"
_ENGINE: Final = pytest.StashKey["Later"]()
_PLAYED: Final = pytest.StashKey[Any]()
_MADE: Final = pytest.StashKey[dict[Path, str]]()
"""Which test has made a recording in this run."""
_UNNAMED: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_MARK: Final = (
    "turnlog(recording, *, match=None, pace=0.0, conversation=None): the recording that the test plays, and how; see "
    "turnlog.engine.replay.RecordedModel"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("turnlog").addoption(
        _OPTION,
        choices=("none", "new", "all"),
        default="none",
        help="whether conversations are recorded: none, new where there is no recording yet, or all anew",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the mark."""
    config.addinivalue_line("markers", _MARK)


class Later:
    """An engine in memory that is opened in the event loop that first asks something of it."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened(), name)

    def _opened(self) -> Engine:
        from ..engine import Engine  # noqa: PLC0415
        from ..errors import Invalid  # noqa: PLC0415
        from ..stores.memory import MemoryStore  # noqa: PLC0415
        from ..turns.crew import Crew  # noqa: PLC0415

        if self._engine is None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                raise Invalid("turnlog_engine belongs to the test's event loop: use it in async code") from None
            crew = Crew()
            self._engine = Engine(MemoryStore(), crew, lease=60.0, budget=None, policy=None, ids=None)
            crew.start(self._engine.renew_leases(), "turnlog leases")
        return self._engine


async def _close(later: Later) -> None:
    engine = later.__dict__["_engine"]
    if engine is not None:
        await engine.close()


class Passing:
    """A real model, while a conversation is recorded: it answers itself, and its tools run."""

    changed = ()

    def __init__(self, model: Any, engine: Later, path: Path) -> None:
        self._model = model
        self._later = engine
        self.path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def of(self, model: str, **_: Any) -> Any:
        """Return the model; one that is recorded has to be the one that is asked for."""
        if model != self._model.name:
            pytest.fail(f"turnlog_model is {self._model.name}, and the test asks for {model}: record it by hand")
        return self

    def tools(self, tools: Tools) -> list[Tool | Item]:
        """Return the tools themselves."""
        return list(tools)  # type: ignore[arg-type]

    def check(self) -> None:
        """Write the recording.

        Raises:
            AssertionError: there is nothing to write.
        """
        engine = self._later.__dict__["_engine"]
        lines: list[bytes] = []
        if engine is not None:
            # Where fixtures are async, the test's event loop is still held by this thread.
            with ThreadPoolExecutor(1) as pool:
                lines = pool.submit(anyio.run, _exported, engine.store).result()
        assert lines, f"{self.path}: nothing to record: the service has to work in turnlog_engine"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(lines)
        self.path.write_bytes(gzip.compress(data, mtime=0) if self.path.suffix == ".gz" else data)


async def _exported(store: Any) -> list[bytes]:
    from ..portable import dump  # noqa: PLC0415
    from ..replay.tape import names  # noqa: PLC0415

    written: dict[str, int] = {}
    return [line async for name in names(store) async for line, _ in dump(store, name, written)]


@pytest.fixture
def turnlog_engine(request: pytest.FixtureRequest) -> Engine:
    """Return an engine in memory, for the service under test; it is closed when the test is over."""
    later: Any = Later()
    request.node.stash[_ENGINE] = later
    engine: Engine = later
    return engine


@pytest.fixture
def turnlog_model() -> Any:
    """Return the adapter to record with, such as `Responses(client, "gpt-5")`: yours to define."""
    return None


@pytest.fixture
def turnlog_recording(request: pytest.FixtureRequest, turnlog_engine: Engine, turnlog_model: Any) -> Any:
    """Return the test's recording, as a `RecordedModel`; or the real model while one is made."""
    from ..replay import RecordedModel  # noqa: PLC0415

    mark = request.node.get_closest_marker("turnlog")
    arguments, options = (mark.args, dict(mark.kwargs)) if mark else ((), {})
    path = _path(request.node, arguments, options)
    how = request.config.getoption(_OPTION)
    made_by = request.config.stash.setdefault(_MADE, {}).get(path, request.node.nodeid)
    if (how == "all" and made_by == request.node.nodeid) or (how == "new" and not path.exists()):
        if turnlog_model is None:
            pytest.fail(f"{path}: to record it, define a fixture turnlog_model that returns the adapter to record with")
        made: Any = Passing(turnlog_model, turnlog_engine, path)  # type: ignore[arg-type]
    elif not path.exists():
        pytest.fail(f"{path}: there is no such recording; make it with {_OPTION}=new")
    else:
        made = RecordedModel(path, **options)
    request.node.stash[_PLAYED] = made
    return made


def _path(node: pytest.Item, arguments: Iterable[Any], options: dict[str, Any]) -> Path:
    """Return where a test's recording is."""
    named = [*arguments, *([options.pop("recording")] if "recording" in options else [])]
    if len(named) > 1:
        pytest.fail(f"mark turnlog: one recording is needed, these are {len(named)}")
    given = named[0] if named else Path("recordings") / f"{_UNNAMED.sub('-', node.name).strip('-')}.jsonl.gz"
    return node.path.parent / given


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Close the engine in the test's own event loop; then see to it that its recording was played, whole."""
    later = item.stash.get(_ENGINE, None)
    if later is not None and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _closing(item.obj, later)
    made_by = item.config.stash.setdefault(_MADE, {})
    try:
        result = yield
        played: Any = item.stash.get(_PLAYED, None)
        if played is not None:
            for line in played.changed:
                item.user_properties.append((_PROPERTY, line))
            played.check()
    except BaseException as error:
        playing: Any = item.stash.get(_PLAYED, None)
        if playing is not None and (other := made_by.get(playing.path, item.nodeid)) != item.nodeid:
            error.add_note(f"{playing.path.name} was recorded by {other} in this run: a file holds one test's answers")
        raise
    if isinstance(played, Passing):
        made_by[played.path] = item.nodeid
    return result


def _closing(test: Any, later: Later) -> Any:
    @functools.wraps(test)
    async def closing(*args: Any, **kwargs: Any) -> Any:
        try:
            return await test(*args, **kwargs)
        finally:
            await _close(later)

    return closing


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell of prompts that are not as they were recorded."""
    reports = [one for some in terminalreporter.stats.values() for one in some if hasattr(one, "user_properties")]
    told: Mapping[str, None] = {
        f"{one.nodeid}: {line}": None for one in reports for name, line in one.user_properties if name == _PROPERTY
    }
    if told:
        terminalreporter.section("turnlog: changed since they were recorded")
        for line in told:
            terminalreporter.write_line(line)
