"""The suites that tell whether a store keeps the contract; every store runs them, also those that others write.

There is nothing of pytest here. With pytest, all that a store needs is

    import anyio
    import pytest
    from my_store import MyStore
    from turnlog.engine.testing.contract import CHECKS, CONCURRENCY, FAULTS, At, Declined

    @pytest.mark.parametrize("check", [*CHECKS, *CONCURRENCY, *FAULTS], ids=lambda check: check.__name__)
    def test_my_store(check, tmp_path):
        try:
            anyio.run(check, At(MyStore.open, tmp_path / "log"))
        except Declined as declined:
            pytest.skip(f"not {declined}")

Each check takes a place that keeps a log (`At`, or any other `Place`), a fresh one each time, and sees to one guarantee
of `turnlog.engine.log`; one that fails raises AssertionError. `CONCURRENCY` starts processes of its own when the store
is `shared`. `FAULTS` runs the engine on the store, with faults between the two (`turnlog.engine.testing.faults`).
"""

from __future__ import annotations

from typing import Final

from .concurrency import CONCURRENCY
from .contract_answers import ANSWERS
from .contract_crowds import CROWDS
from .contract_deleting import DELETING
from .contract_erasing import ERASING
from .contract_faults import FAULTS
from .contract_feeding import FEEDING
from .contract_forking import FORKING
from .contract_keys import KEYS
from .contract_kit import At, Check, Declined, Place
from .contract_leases import LEASES
from .contract_listing import LISTING
from .contract_reading import READING
from .contract_writing import WRITING

__all__ = ("CHECKS", "CONCURRENCY", "FAULTS", "At", "Check", "Declined", "Place")

CHECKS: Final[tuple[Check, ...]] = (
    *WRITING,
    *KEYS,
    *ANSWERS,
    *LEASES,
    *READING,
    *LISTING,
    *FORKING,
    *ERASING,
    *DELETING,
    *FEEDING,
    *CROWDS,
)
"""Every guarantee of the contract, one function each; its docstring says which."""
