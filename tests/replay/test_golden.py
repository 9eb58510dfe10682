"""Logs of every version of the renderer and of the encoders stay verifiable; `everything_log` writes new ones."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from everything_log import everything, held, marked
from turnlog import open_engine
from turnlog.engine.portable import Package, restore
from turnlog.engine.replay import encoders, verify
from turnlog.engine.window.render import RENDERER

pytestmark = pytest.mark.anyio

GOLDEN = {path.name: path for path in sorted((Path(__file__).parents[1] / "golden").glob("requests-*.jsonl.gz"))}
LINES = {
    name: [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for name, path in GOLDEN.items()
}


def requests(name):
    return [line["data"] for line in LINES[name] if line.get("kind") == "response.requested"]


@pytest.mark.parametrize("name", GOLDEN)
async def test_every_request_of_a_golden_log_is_verified(engine, name):
    package = Package(LINES[name][0])
    for line in LINES[name][1:]:
        package.add(line)
    await restore(engine.store, package)
    report = await verify(engine.store, package.id)
    assert report.diverged == []
    assert report.verified == report.responses == len(requests(name))


def test_every_version_has_a_golden_log():
    found = {(said["adapter"], said["encoder"]) for name in GOLDEN for said in requests(name)}
    assert set(encoders()) <= found, "write one: see tests/shared/everything_log.py"
    renderers = {said["manifest"]["renderer"] for name in GOLDEN for said in requests(name)}
    assert set(range(1, RENDERER + 1)) <= renderers, "write one: see tests/shared/everything_log.py"


SAID = [said for name in GOLDEN for said in requests(name)]


def test_a_golden_log_has_everything_in_it():
    """Else it would prove little: what is cut, excerpted, pinned, sealed, rewound, and goes to somebody else."""
    fates = Counter(run[2] for said in SAID for run in said["manifest"]["runs"])
    assert {"kept", "pinned", "excerpted", "dropped", "rewound", "superseded", "compacted", "aside"} <= set(fates)
    assert any(said["manifest"].get("factor", 1000) != 1000 for said in SAID)
    assert {said["target"]["api"] for said in SAID} == {"responses", "chat"}


@pytest.mark.parametrize("column", ["bare", "trimmed", "base", "early", "follows", "remote"])
def test_every_column_of_a_manifest_is_used_by_some_request(column):
    assert any(said["manifest"].get(column) for said in SAID)


def test_requests_of_every_state_and_purpose_are_there():
    states = {said["target"].get("state", "stateless") for said in SAID}
    assert {"stateless", "chained", "conversation"} <= states
    assert {said.get("purpose", "answer") for said in SAID} == {"answer", "aside", "compaction"}


@pytest.mark.parametrize("write", [everything, held, marked])
async def test_what_is_written_today_can_be_verified_today(write):
    async with open_engine(":memory:") as engine:
        c = await write(engine)
        report = await verify(engine.store, c.id)
    assert report.diverged == []
    assert report.verified == report.responses
