"""Work that takes long goes into a thread: when, is decided here.

A thread takes turns with the event loop every few milliseconds, but for what one call of a C library does in one go.
What is short stays on the loop: going to a thread and back takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar, TypeVarTuple

import anyio

__all__ = ("COUNTED", "READ", "apart", "is_large")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

COUNTED: Final = 16_384
"""Bytes of text that are counted in some milliseconds."""
READ: Final = 262_144
"""Bytes of JSON that are read, checked or written in some milliseconds."""
_NODES: Final = 4096
_TEXT: Final = 512
"""Characters of a text that are checked and written while one value is looked at."""


async def apart(work: Callable[[*Ts], T], *given: *Ts, when: bool) -> T:
    """Return what *work* comes to with what it is *given*; it is done in a thread *when* it takes long.

    A caller that is cancelled meanwhile waits until it is done.
    """
    return await anyio.to_thread.run_sync(work, *given) if when else work(*given)


def is_large(value: object) -> bool:
    """Return whether a JSON value is too large to be checked and written while others wait; it looks at no more.

    >>> is_large({"role": "user", "content": "Hi"}), is_large([{"n": n} for n in range(10_000)])
    (False, True)
    """
    left, stack = _NODES, [value]
    while stack and left >= 0:
        one = stack.pop()
        left -= 1
        if isinstance(one, str):
            left -= len(one) // _TEXT
        elif isinstance(one, dict):  # a mapping of another kind takes much longer to be told
            stack.extend(one.values())
        elif isinstance(one, list | tuple):
            stack.extend(one)
        elif isinstance(one, Mapping):
            stack.extend(one.values())
    return left < 0
