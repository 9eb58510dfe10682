"""What every test has: one event loop backend, no blocking calls on it, a seed that is printed."""

import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from turnlog import Engine, open_engine

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"

settings.register_profile("short", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("short"), max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long suites whole, not a tenth of them")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "short")
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = os.environ.get("TURNLOG_SEED") or str(random.randrange(2**32))


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


@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[BlockBuster]:
    """Fail a test in which turnlog makes a blocking call on the event loop."""
    with blockbuster_ctx("turnlog") as blockbuster:
        yield blockbuster


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
