"""The `turnlog` script: where packages that the command needs are not installed, it says which extra brings them."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

__all__ = ("main",)

_NEEDED: Final = ("typer", "rich", "click")


def main() -> NoReturn:
    """Run the command; the entry point."""
    try:
        from turnlog.adapters.cli.app import main as run  # noqa: PLC0415 - it may not be possible
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write(f'turnlog: the command needs {error.name}: pip install "turnlog[cli]"\n')
        raise SystemExit(2) from None
    run()
