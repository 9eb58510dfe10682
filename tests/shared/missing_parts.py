"""Parts that tests want and a machine may lack. What pip brings with the tests is never missing in CI."""

import os
from typing import NoReturn

import pytest

__all__ = ("absent",)


def absent(reason: str) -> NoReturn:
    """Skip for want of something that the tests' own dependencies bring; where CI is "true", fail instead."""
    assert os.environ.get("CI") != "true", reason
    pytest.skip(reason)
