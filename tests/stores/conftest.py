"""The suites ship without pytest; here their asserts say what they compared. And a PostgreSQL server,
and processes to be killed.
"""

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


for part in (*(f"contract_{part}" for part in PARTS), "concurrency"):
    pytest.register_assert_rewrite(f"turnlog.engine.testing.{part}")
