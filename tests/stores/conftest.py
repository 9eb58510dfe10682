"""The suites ship without pytest; here their asserts say what they compared. And a PostgreSQL server."""

import pytest

from pg_server import pg_url, schema  # noqa: F401 - fixtures

PARTS = (
    "crowds",
    "deleting",
    "erasing",
    "faults",
    "feeding",
    "forking",
    "kit",
    "leases",
    "listing",
    "reading",
    "writing",
)

for part in (*(f"contract_{part}" for part in PARTS), "concurrency"):
    pytest.register_assert_rewrite(f"turnlog.engine.testing.{part}")
