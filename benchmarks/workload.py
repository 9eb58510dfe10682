"""The workload: conversations of turns with a tool, the same for every system, on every machine, in every run.

A turn is four items: a question, a call, its output, an answer. Every turn is made from its number alone, and every
item begins its text with the turn's, so that no two are alike and windows can be compared by their texts. On average an
item is some 690 bytes of compact JSON and some 147 tokens, as in conversations with coding and research agents.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final

import msgspec

__all__ = ("AROUND", "ASKS_TOOL", "TURN", "Item", "items", "newest", "size", "text", "turn", "weigh")

Item = dict[str, Any]

TURN: Final = 4
"""Items of a turn."""
ASKS_TOOL: Final = "Look it up: "
"""How a question to the scripted server begins that is answered with a call first."""
AROUND: Final[Mapping[str, int]] = {"user": 4, "function_call": 10, "function_call_output": 9, "assistant": 4}
"""Tokens around the texts of an item, as turnlog counts them: the same for all systems."""

_WHO: Final = "the committee|a visitor|our archive|the second reader|every branch|the new catalogue|the ferry|my sister"
_DOES: Final = (
    "asked about|has moved|never mentioned|carefully describes|compared|will replace|postponed|keeps a copy of|measured"
)
_WHAT: Final = (
    "the opening hours|a list of missing volumes|the route along the coast|three smaller rooms|an earlier estimate"
    "|the lamps in the hall|a letter from the harbour|yesterday's figures|the spare keys|an unusual request"
)
_HOW: Final = (
    "before the end of the week|without saying why|in a second attempt|as agreed with the office|and nobody objected"
    "|because the weather had turned|although it was late|for the first time since spring"
)
_ABOUT: Final = _WHAT.split("|")
_NAMES: Final = ["north", "harbour", "lantern", "orchard", "meadow", "granite", "willow", "ferry", "copper", "linden"]
_STATES: Final = ("open", "waiting", "in transit", "returned", "withdrawn")


@cache
def _sentences() -> tuple[str, ...]:
    chance = random.Random(7)
    parts = [one.split("|") for one in (_WHO, _DOES, _WHAT, _HOW)]
    made = {" ".join(chance.choice(part) for part in parts) for _ in range(600)}
    return tuple(f"{one[0].upper()}{one[1:]}." for one in sorted(made))


def turn(number: int) -> list[Item]:
    """Return the items of a turn."""
    chance = random.Random(number)
    sentences = _sentences()

    def prose(most: int) -> str:
        return " ".join(chance.choices(sentences, k=chance.randrange(1, most)))

    call = f"call_{number:024d}"
    place = chance.choice(_NAMES)
    arguments = f'{{"turn":{number},"place":"{place}","days":{chance.randrange(30)},"about":"{chance.choice(_ABOUT)}"}}'
    rows = ",".join(_row(chance) for _ in range(chance.randrange(6, 25)))
    return [
        {"role": "user", "content": f"{number}: {prose(8)}"},
        {
            "type": "function_call",
            "id": f"fc_{number:048x}",
            "call_id": call,
            "name": "look_up",
            "arguments": arguments,
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": call, "output": f'{{"turn":{number},"rows":[{rows}]}}'},
        {
            "type": "message",
            "id": f"msg_{number:048x}",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": f"{number}: {prose(20)}"},
            ],
        },
    ]


def _row(chance: random.Random) -> str:
    return (
        f'{{"id":{chance.randrange(100_000)},"name":"{chance.choice(_NAMES)} {chance.choice(_NAMES)}",'
        f'"state":"{chance.choice(_STATES)}","price":{chance.randrange(9900) / 100}}}'
    )


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
