"""Named SQL statements, from the files in the `sql` folder beside this module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pkgutil import get_data

__all__ = ("script", "statements")

_NAME = re.compile(r"^-- name: (\w+)$\n", re.MULTILINE)


def script(name: str) -> str:
    """Return the text of a file in `sql`."""
    text = get_data(__name__.rpartition(".")[0], f"sql/{name}")
    assert text is not None, "the packages were imported by something that cannot read their files"
    return text.decode()


def statements(name: str) -> Mapping[str, str]:
    """Return the statements of a file in `sql` by their names."""
    _, *rest = _NAME.split(script(name))
    return {
        key: re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).strip()
        for key, text in zip(rest[::2], rest[1::2], strict=True)
    }
