"""The store contract as a suite: every store runs it, also those that others write.

Each check takes a place that keeps a log, and sees to one guarantee of `turnlog.engine.log`. There is nothing of
pytest here; with pytest, a store's whole test is

    @pytest.mark.anyio
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_contract(check, tmp_path):
        try:
            await check(MyPlace(tmp_path))
        except Declined as declined:
            pytest.skip(f"not {declined}")

where `MyPlace` is a `Place`. A check that fails raises AssertionError.
"""

from __future__ import annotations

from typing import Final

from .contract_crowds import CROWDS
from .contract_deleting import DELETING
from .contract_erasing import ERASING
from .contract_feeding import FEEDING
from .contract_forking import FORKING
from .contract_kit import Check, Declined, Place
from .contract_leases import LEASES
from .contract_listing import LISTING
from .contract_reading import READING
from .contract_writing import WRITING

__all__ = ("CHECKS", "Check", "Declined", "Place")

CHECKS: Final[tuple[Check, ...]] = (
    *WRITING,
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
