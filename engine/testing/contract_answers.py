"""The store contract: calls and their first outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..answers import first_outputs
from ..errors import AlreadyAnswered, TurnlogError, VersionConflict
from ..events import ASIDE, SEAL, NewEvent
from ..log import Appended, Key, Store
from .contract_kit import Place, created, fails, forked, head_of, item, records_of, together

__all__ = ("ANSWERS",)


def _call(link: str, **columns: object) -> NewEvent:
    return item("call", shape="function_call", link=link, **columns)


def _output(link: str, **columns: object) -> NewEvent:
    return item("output", shape="function_call_output", link=link, **columns)


async def _answer(store: Store, name: str, *events: NewEvent) -> Appended:
    """Append what is refused where one of its calls is answered."""
    return await store.append(name, events, answers=first_outputs(name, events))


async def the_first_output_stands(place: Place) -> None:
    """An append that answers a call which has its output raises AlreadyAnswered, with its seq, and writes nothing."""
    async with place.open() as store:
        # The ends of links are all that an index may hold.
        links = ["call_1", "another_call_1", "call_\0_1", "a" * 300 + "_call_1"]
        await store.append("c", [created(), *map(_call, links)])
        for number, link in enumerate(links):
            assert (await _answer(store, "c", _output(link))).last == 6 + number
        for number, link in enumerate(links):
            error = await fails(AlreadyAnswered, _answer(store, "c", item("Hello"), _output(link)))
            assert (error.conversation, error.call_id, error.seq) == ("c", link, 6 + number)
        assert (await head_of(store)).version == 9
        # Who does not ask is not refused.
        assert (await store.append("c", [_output("call_1")])).last == 10


async def calls_that_are_not_there_have_no_output(place: Place) -> None:
    """An output is the first of its link whether its call is there or not, in each conversation of its own."""
    async with place.open() as store:
        for name in ("c", "d"):
            await store.append(name, [created()])
            await _answer(store, name, _output("x"), _output("y"))
            await fails(AlreadyAnswered, _answer(store, name, _output("z"), _output("y")))
        assert len(await records_of(store, "d")) == 3


async def a_seal_is_no_output(place: Place) -> None:
    """A call that only a seal stands behind may be answered, once; a call that is made anew has no output yet."""
    async with place.open() as store:
        await store.append("c", [created(), _call("x"), _output("x", flags=SEAL)])
        await _answer(store, "c", _output("x"))
        await fails(AlreadyAnswered, _answer(store, "c", _output("x")))
        await store.append("c", [_call("x")])
        assert (await _answer(store, "c", _output("x"))).last == 6
        await _answer(store, "c", _call("x"), _output("x"))
        assert (await fails(AlreadyAnswered, _answer(store, "c", _output("x")))).seq == 8


async def what_a_fork_shares_is_answered_in_it(place: Place) -> None:
    """Outputs before the place of a fork count in it, those that came later to its parent do not, nor the other way."""
    async with place.open() as store:
        await store.append("c", [created(), _call("x"), _output("x"), _call("y"), _call("z")])
        await forked(store, "f", "c", 5)
        await forked(store, "g", "f", 6)
        assert (await fails(AlreadyAnswered, _answer(store, "g", _output("x")))).seq == 3
        await _answer(store, "c", _output("y"))
        for name in ("f", "g"):
            await _answer(store, name, _output("y"))
            await fails(AlreadyAnswered, _answer(store, name, _output("y")))
        await _answer(store, "f", _output("z"))
        await _answer(store, "g", _output("z"))
        await _answer(store, "c", _output("z"))


async def an_id_may_come_back_any_number_of_times(place: Place) -> None:
    """What counts is the last call of a link, however many there were before, and whatever was said aside since."""
    async with place.open() as store:
        await store.append("c", [created(), *[_call("x"), _output("x")] * 100])
        await forked(store, "f", "c", 51)
        aside = [_call("x", flags=ASIDE), _output("x", flags=ASIDE)]
        for name, last in (("c", 201), ("f", 51)):
            await store.append(name, aside * 50)
            assert (await fails(AlreadyAnswered, _answer(store, name, _output("x")))).seq == last
            await store.append(name, [_call("x"), *aside * 50])
            answered = (await _answer(store, name, _output("x"))).last
            assert (await fails(AlreadyAnswered, _answer(store, name, _output("x")))).seq == answered


async def calls_without_ids_are_answered_in_their_order(place: Place) -> None:
    """Each makes room for one output, however many wait."""
    async with place.open() as store:
        search, found = (
            item("call", shape="tool_search_call", link=""),
            item("output", shape="tool_search_output", link=""),
        )
        await store.append("c", [created(), *[search] * 100])
        for _ in range(10):
            await _answer(store, "c", *[found] * 10)
        assert (await fails(AlreadyAnswered, _answer(store, "c", found))).seq == 201


async def of_concurrent_answers_one_stands(place: Place) -> None:
    """Of many outputs for one call at once exactly one is written, whatever else is appended meanwhile."""
    async with place.open() as store:
        names = [f"c{number}" for number in range(5)]
        for name in names:
            await store.append(name, [created(), _call("x"), _call("y")])
        answers = [partial(_answer, store, name, _output(link)) for name in names for link in "xy"]
        outcomes = await together(*answers * 5, *(partial(store.append, name, [item("more")]) for name in names * 5))
        assert sum(isinstance(one, Appended) for one in outcomes) == 10 + 25
        refused = [one for one in outcomes if isinstance(one, AlreadyAnswered)]
        assert len(refused) == 40
        for name in names:
            await _answered_once(store, name, refused)


async def _answered_once(store: Store, name: str, refused: Sequence[AlreadyAnswered]) -> None:
    records = await records_of(store, name)
    outputs = [(one.link, one.seq) for one in records if one.shape == "function_call_output"]
    assert len(outputs) == 2
    assert {(one.call_id, one.seq) for one in refused if one.conversation == name} == set(outputs)


async def what_else_was_expected_comes_first(place: Place) -> None:
    """An output under a key that was used returns the first result; at another version it raises VersionConflict."""
    async with place.open() as store:
        await store.append("c", [created(), _call("x")])
        key = Key("k", "0" * 64)
        first = await store.append("c", [_output("x")], key=key, answers=["x"])
        again = await store.append("c", [_output("x")], key=key, answers=["x"])
        assert (again.first, again.replayed) == (first.first, True)
        error: TurnlogError = await fails(VersionConflict, store.append("c", [_output("x")], expected=2, answers=["x"]))
        assert not isinstance(error, AlreadyAnswered)
        await fails(AlreadyAnswered, store.append("c", [_output("x")], expected=3, answers=["x"]))


ANSWERS = (
    the_first_output_stands,
    calls_that_are_not_there_have_no_output,
    a_seal_is_no_output,
    what_a_fork_shares_is_answered_in_it,
    an_id_may_come_back_any_number_of_times,
    calls_without_ids_are_answered_in_their_order,
    of_concurrent_answers_one_stands,
    what_else_was_expected_comes_first,
)
