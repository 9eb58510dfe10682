"""What the commands share: their common options, and how they run and print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, TypeVar

import anyio
import msgspec
import typer

__all__ = ("DEFAULT", "Db", "Id", "Json", "Schema", "put", "run")

T = TypeVar("T")

Db = Annotated[
    str,
    typer.Option("--db", metavar="FILE|URL", envvar="TURNLOG_DB", help="The database: a file, or postgresql://…"),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="NAME",
        envvar="TURNLOG_SCHEMA",
        help="Of a PostgreSQL database: the schema with the tables; default: public.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The conversation's id.")]
DEFAULT: Final = "turnlog.db"


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
