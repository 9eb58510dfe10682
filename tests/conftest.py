"""What every test has: one event loop backend, no blocking calls on it, a seed that is printed."""

import gc
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from turnlog import Conversation, Engine, NotFound, open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.canonical import AROUND, canonical, digest
from turnlog.engine.testing.server import ScriptedServer, scripted_server

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"

settings.register_profile("short", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("short"), max_examples=2000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long suites whole, not a small part of them")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run two workers on each core: half of the time, one waits for processes, servers and what falls due."""
    return 2 * (os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "short")
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = os.environ.get("TURNLOG_SEED") or _seed(config)


def _seed(config: pytest.Config) -> str:
    """Return a seed: the same one always, so that what was green stays green; a new one for the long suites."""
    return str(random.randrange(2**32)) if config.getoption("--long") else "20"


def pytest_collection_finish() -> None:
    """Keep what is imported for good out of the collector's way, and let it come less often than by default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.hypothesis_seed} (again with TURNLOG_SEED or --hypothesis-seed)"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.option.hypothesis_seed)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def watch() -> BlockBuster:
    """What watches for blocking calls: made once, since that takes longer than most tests."""
    return BlockBuster("turnlog")


@pytest.fixture(autouse=True)
def nothing_blocks(watch: BlockBuster) -> Iterator[None]:
    """Fail a test in which turnlog makes a blocking call on the event loop."""
    watch.activate()
    yield
    watch.deactivate()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(params=["memory", "sqlite"])
async def engine(request: pytest.FixtureRequest, db: Path) -> AsyncIterator[Engine]:
    async with open_engine(":memory:" if request.param == "memory" else db, lease=5.0) as opened:
        yield opened


@pytest.fixture
def corpus() -> Path:
    if not CORPUS.is_dir():
        pytest.skip("the recorded traffic is not here")
    return CORPUS


def digest_of(body: Any) -> str:
    """Return the digest of a request, as the log has it."""
    return digest(canonical(body, wrapped=AROUND))


class Stage:
    """A scripted server, a client of it, and an engine."""

    def __init__(self, engine: Engine, server: ScriptedServer, client: AsyncOpenAI) -> None:
        self.engine = engine
        self.server = server
        self.client = client
        self.gone: set[str] = set()
        """Digests of requests whose conversations were deleted."""

    def model(self, api: str, name: str = "gpt-4o-mini", **options: Any) -> Any:
        """Return an adapter for one of the two APIs."""
        return (Responses if api == "responses" else ChatCompletions)(self.client, name, **options)

    @property
    def bodies(self) -> list[Any]:
        """The bodies of the requests that the server received."""
        return [received.body for received in self.server.requests]

    async def kinds(self, conversation: Conversation) -> list[str]:
        """Return what the log holds behind its creation, each event by its kind, an item by its shape."""
        kinds = []
        async for event in conversation.events(after=1):
            item = event.item or {}
            kinds.append(str(item.get("type", item.get("role"))) if event.type == "item.appended" else event.type)
        return kinds

    async def check(self) -> None:
        """See to it that the log's digests are of what the server received, and that it can be rebuilt."""
        received = {digest_of(one.body): one.body for one in self.server.requests if one.body is not None}
        logged = set()
        async for info in self.engine.list():
            conversation = await self.engine.get(info.id)
            seqs = [event.seq async for event in conversation.events()]
            assert seqs == list(range(1, info.version + 1))
            async for call in conversation.responses():
                logged.add(call.digest)
                try:
                    body = await call.request()
                except NotFound as error:
                    assert error.deleted  # noqa: PT017 - it may have held what was erased since
                    continue
                assert digest_of(body) == call.digest
                if call.status in ("completed", "incomplete"):
                    assert json.loads(json.dumps(body)) == received[call.digest]
        assert received.keys() <= logged | self.gone


@asynccontextmanager
async def _set(
    *script: Any, engine: Engine, refused: int = 0, client: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Stage]:
    entries = script[0] if len(script) == 1 and callable(script[0]) else script
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    settings = {"api_key": "sk-secret", "max_retries": 0, "timeout": 20.0, **(client or {})}
    async with (
        scripted_server(entries, **options) as server,
        AsyncOpenAI(base_url=server.base_url, http_client=transport, **settings) as opened,
    ):
        stage = Stage(engine, server, opened)
        yield stage
        await stage.check()
        assert len(server.refused) == refused, server.refused


@pytest.fixture
def stage_for() -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """Set a stage: `async with stage_for("an answer", …, engine=engine) as s`.

    On leaving, what the server received is compared with the log.
    """
    return _set


@pytest.fixture
def stage(engine: Engine) -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """Set a stage as `stage_for` does, with the engine in memory and with the one on a disk."""
    return partial(_set, engine=engine)


@pytest.fixture(params=["responses", "chat"])
def api(request: pytest.FixtureRequest) -> str:
    """Each of the two APIs."""
    return str(request.param)
