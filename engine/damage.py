"""Damage: where work fails on what a conversation's events hold, the one that is not what was written is named.

Nobody looks at every event beforehand: what is sound costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from .codec import damage
from .errors import CorruptLog, TurnlogError
from .log import Query
from .paths import Reads

__all__ = ("damage_named",)

_PAGE: Final = 500
_BARE: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)


@asynccontextmanager
async def damage_named(store: Reads, name: str) -> AsyncIterator[None]:
    """Name the first damaged event of a conversation, if there is one, in the place of an error that tells nothing.

    Raises:
        CorruptLog: an event is not what was written.
    """
    try:
        yield
    except TurnlogError:
        raise
    except (*_BARE, msgspec.MsgspecError) as error:
        told = await _damaged(store, name)
        if told is None:
            raise
        raise CorruptLog(told) from error


async def _damaged(store: Reads, name: str) -> str | None:
    after = 0
    while (snapshot := await store.read(name, Query(after=after, limit=_PAGE))) is not None:
        (records,) = snapshot.records
        for record in records:
            if reason := damage(record):
                return f"{name}/{record.seq}: {reason}"
        if len(records) < _PAGE:
            return None
        after = records[-1].seq
    return None
