"""Named SQL statements from the files beside this module's `sql` folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

__all__ = ("script", "statements")

_NAME = re.compile(r"^-- name: (\w+)$\n", re.MULTILINE)


def script(name: str) -> str:
    """Return the text of a file in `sql`."""
    return (files(__package__) / "sql" / name).read_text("utf-8")


def statements(name: str) -> Mapping[str, str]:
    """Return the statements of a file in `sql` by their names."""
    _, *rest = _NAME.split(script(name))
    return {
        key: re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).strip()
        for key, text in zip(rest[::2], rest[1::2], strict=True)
    }
