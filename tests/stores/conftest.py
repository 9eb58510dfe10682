"""The contract suite ships without pytest; here its asserts say what they compared."""

import pytest

for part in ("crowds", "deleting", "erasing", "feeding", "forking", "kit", "leases", "listing", "reading", "writing"):
    pytest.register_assert_rewrite(f"turnlog.engine.testing.contract_{part}")
