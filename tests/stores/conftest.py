"""The suites ship without pytest; here their asserts say what they compared. And a PostgreSQL server, processes to be
killed, and a disk that is soon full.
"""

import os
import subprocess

import pytest

from pg_server import pg_url, schema  # noqa: F401 - fixtures
from victims import strace, victim  # noqa: F401 - fixtures

PARTS = (
    "answers",
    "crowds",
    "deleting",
    "erasing",
    "faults",
    "feeding",
    "forking",
    "keys",
    "kit",
    "leases",
    "listing",
    "reading",
    "writing",
)


@pytest.fixture(params=["sqlite", "postgres"])
def log(request, db):
    """The path of a log, or the url of a PostgreSQL server, "#" and a schema."""
    if request.param == "sqlite":
        return str(db)
    return f"{request.getfixturevalue('pg_url')}#{request.getfixturevalue('schema')}"


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


for part in (*(f"contract_{part}" for part in PARTS), "concurrency"):
    pytest.register_assert_rewrite(f"turnlog.engine.testing.{part}")
