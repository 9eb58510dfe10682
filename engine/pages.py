"""Pages: a listing that can be awaited for one page, or iterated over all of them, as in openai's SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ("Page", "Pages")

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a listing."""

    data: Sequence[T]
    has_more: bool
    next: str | None
    """Pass it as `after` to go on; None after the last page."""


class Pages(Generic[T]):
    """A listing: `await` it for its first page, `async for` it for everything.

    Pages are cut by key, not by number: what is added meanwhile neither repeats nor hides an entry.
    """

    def __init__(self, fetch: Callable[[str | None], Awaitable[Page[T]]], after: str | None) -> None:
        self._fetch = fetch
        self._after = after

    def __await__(self) -> Generator[Any, None, Page[T]]:
        return self._fetch(self._after).__await__()

    async def __aiter__(self) -> AsyncIterator[T]:
        after = self._after
        while True:
            page = await self._fetch(after)
            for entry in page.data:
                yield entry
            if not page.has_more:
                return
            after = page.next
