"""The command has its event loop to itself: reading a file there holds nobody up."""

import pytest


@pytest.fixture(autouse=True)
def nothing_blocks() -> None:
    """Allow blocking calls."""
