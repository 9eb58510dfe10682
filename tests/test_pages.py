"""Pages: awaited they are one page, iterated they are everything."""

import pytest

from turnlog.engine.pages import Page, Pages

pytestmark = pytest.mark.anyio


def numbers(count, size, asked=None):
    async def fetch(after):
        if asked is not None:
            asked.append(after)
        start = int(after or 0)
        stop = min(start + size, count)
        return Page(list(range(start, stop)), stop < count, str(stop) if stop < count else None)

    return fetch


async def test_awaited_it_is_the_page_behind_after():
    page = await Pages(numbers(5, 2), None)
    assert (page.data, page.has_more, page.next) == ([0, 1], True, "2")
    page = await Pages(numbers(5, 2), "4")
    assert (page.data, page.has_more, page.next) == ([4], False, None)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
async def test_iterated_it_is_everything_once(count):
    assert [number async for number in Pages(numbers(count, 2), None)] == list(range(count))


async def test_it_can_be_iterated_again_and_fetches_no_page_before_it_is_needed():
    asked = []
    pages = Pages(numbers(6, 2, asked), "2")
    assert asked == []
    assert [number async for number in pages] == [2, 3, 4, 5]
    assert [number async for number in pages] == [2, 3, 4, 5]
    async for number in pages:
        if number == 3:
            break
    assert asked == ["2", "4", "2", "4", "2"]
