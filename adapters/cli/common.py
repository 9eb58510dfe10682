"""What the commands share: their common options, and how they run and print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import anyio
import msgspec
import typer

__all__ = ("DEFAULT", "Db", "Id", "Json", "put", "run")

T = TypeVar("T")

Db = Annotated[Path, typer.Option("--db", envvar="TURNLOG_DB", help="The database file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The conversation's id.")]
DEFAULT: Final = Path("turnlog.db")


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's work."""
    return anyio.run(work)


def put(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return msgspec.to_builtins(value)
