"""The contract suite ships without pytest; here its asserts say what they compared."""

import pytest

for part in ("crowds", "kit", "leases", "reading", "writing"):
    pytest.register_assert_rewrite(f"turnlog.engine.testing.contract_{part}")
