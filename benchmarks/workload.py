"""The workload: conversations of turns with a tool, the same for every system, on every machine, in every run.

A turn is four items: a question, a call, its output, an answer. Every turn is made from its number alone, and every
item begins its text with the turn's, so that no two are alike and windows can be compared by their texts. On average an
item is some 690 bytes of compact JSON and some 150 tokens, as in conversations with coding and research agents. Words
are many, with names, code and JSON among them, so that counting takes as long as on real texts (some 210 ns a token, as
on Python's documentation and its library's code): a few common words alone would be counted in two thirds of that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ("AROUND", "ASKS_TOOL", "TURN", "Item", "items", "newest", "size", "text", "turn", "weigh")

Item = dict[str, Any]

TURN: Final = 4
"""Items of a turn."""
ASKS_TOOL: Final = "Look it up: "
"""How a question to the scripted server begins that is answered with a call first."""
AROUND: Final[Mapping[str, int]] = {"user": 4, "function_call": 10, "function_call_output": 9, "assistant": 4}
"""Tokens around the texts of an item, as turnlog counts them: the same for all systems."""


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_PLAIN: Final = _split(
    "the of and a to in is that it for on with as this are by be from or an at not which when if one can has have "
    "will was but all no its than more only also each other after before into between until because while where there"
)
_STEMS: Final = _split(
    "archiv catalog checkpoint subscrib manuscript retent snapshot harbour quarant ledger throttl append bibliograph "
    "serial partition truncat acknowledg watermark replic project compact borrow period restor bind colophon marginal "
    "tonnag signal lantern moor estuar tidewater granit barometr almanac lighthous cartograph invari heartbeat "
    "rollback tombston batch cursor fragment gather index journal kernel lattic margin notif operat parameter queri "
    "receipt schedul transact upload validat wrap yield zone budget convers render summar stream encod decod digest "
    "follow"
)
_BEFORE: Final = ("", "", "", "", "re", "un", "pre", "mis", "sub", "over", "inter", "de")
_BEHIND: Final = ("", "ed", "ing", "ation", "able", "ness", "er", "s", "ment", "ised", "less", "al", "ity", "ive")
_ENDS: Final = (".", ".", ".", ":\n", ".\n\n- ")


class _Pools(NamedTuple):
    """Pieces that items are put together from."""

    sentences: Sequence[str]
    rows: Sequence[str]
    lines: Sequence[str]


@cache
def _pools() -> _Pools:
    chance = random.Random(7)
    number = range(2_000)
    return _Pools([_sentence(chance) for _ in number], [_row(chance) for _ in number], [_line(chance) for _ in number])


def _word(chance: random.Random) -> str:
    """Return a word of which there are some ten thousand, so that few are tokens of their own, as in real texts."""
    return chance.choice(_BEFORE) + chance.choice(_STEMS) + chance.choice(_BEHIND)


def _name(chance: random.Random) -> str:
    first, second = _word(chance), _word(chance)
    shapes = (f"`{first}_{second}`", f"{first.capitalize()}{second.capitalize()}", f"{first}/{second}.py")
    return chance.choice(shapes)


def _sentence(chance: random.Random) -> str:
    kinds = chance.choices((_plain, _word, _name), weights=(62, 34, 4), k=chance.randrange(5, 16))
    said = " ".join(kind(chance) for kind in kinds)
    return f"{said[0].upper()}{said[1:]}{chance.choice(_ENDS)}"


def _plain(chance: random.Random) -> str:
    return chance.choice(_PLAIN)


def _row(chance: random.Random) -> str:
    """Return a row of what a search gives back."""
    name, state, price = f"{_word(chance)} {_word(chance)}", _word(chance), chance.randrange(9900) / 100
    return f'{{"id":{chance.randrange(100_000)},"name":"{name}","state":"{state}","price":{price}}}'


def _line(chance: random.Random) -> str:
    """Return a line of what is read from a file of code."""
    first, second, third = (_word(chance) for _ in range(3))
    shapes = (
        f"self._{first} = {second}[{chance.randrange(64)}]",
        f"if {first} is None:",
        f"return {first}({second}, {third}={chance.randrange(100)})",
        f"for {first} in {second}:",
        f"# {first} {second} {third}",
    )
    return " " * (4 * chance.randrange(1, 4)) + chance.choice(shapes)


def turn(number: int) -> list[Item]:
    """Return the items of a turn; every other one looks into a file, the rest search."""
    chance = random.Random(number)
    pools = _pools()

    def prose(most: int) -> str:
        return " ".join(chance.choices(pools.sentences, k=chance.randrange(1, most)))

    call = f"call_{number:024d}"
    arguments = f'{{"turn":{number},"about":"{_word(chance)} {_word(chance)}","days":{chance.randrange(30)}}}'
    if number % 2:
        code = "\n".join(chance.choices(pools.lines, k=chance.randrange(10, 50)))
        output = f"# {number}\n{code}"
    else:
        rows = ",".join(chance.choices(pools.rows, k=chance.randrange(5, 22)))
        output = f'{{"turn":{number},"rows":[{rows}]}}'
    return [
        {"role": "user", "content": f"{number}: {prose(6)}"},
        {
            "type": "function_call",
            "id": f"fc_{number:048x}",
            "call_id": call,
            "name": "look_up",
            "arguments": arguments,
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": call, "output": output},
        {
            "type": "message",
            "id": f"msg_{number:048x}",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": f"{number}: {prose(14)}"},
            ],
        },
    ]


def turns(first: int) -> Iterator[list[Item]]:
    """Yield turns from a number on, for ever."""
    while True:
        yield turn(first)
        first += 1


def items(count: int, first: int = 0) -> list[Item]:
    """Return so many items, beginning with the turn of that number."""
    return list(islice((item for each in turns(first) for item in each), count))


def size(item: Mapping[str, Any]) -> int:
    """Return the bytes of an item's compact JSON."""
    return len(msgspec.json.encode(item))


def text(item: Mapping[str, Any]) -> str:
    """Return what names an item among all others: its text."""
    match item.get("type"):
        case "function_call":
            return str(item["arguments"])
        case "function_call_output":
            return str(item["output"])
    content = item["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def weigh(item: Mapping[str, Any], count: Callable[[str], int]) -> int:
    """Return the tokens of an item: what turnlog stores with it, without its checks and estimates."""
    kind = item.get("type")
    if kind == "function_call":
        return AROUND[kind] + count(item["name"]) + count(item["arguments"])
    if kind == "function_call_output":
        return AROUND[kind] + count(item["output"])
    return AROUND[item["role"]] + count(text(item))


def newest(history: Sequence[Any], budget: int, weight: Callable[[Any], int], begins: Callable[[Any], bool]) -> int:
    """Return where the window of the newest whole turns that fit begins; nothing older than it is weighed.

    This is the walk that a user of a store without windows writes: from the end, until the budget is used up.
    """
    start = at = len(history)
    while at and (budget := budget - weight(history[at - 1])) >= 0:
        at -= 1
        if begins(history[at]):
            start = at
    return start
