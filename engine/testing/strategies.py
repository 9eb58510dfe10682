"""Hypothesis strategies for conversations: steps that make logs, and the scribe that writes them into a store.

    @given(conversations())
    async def test_something(steps):
        scribe = Scribe(MemoryStore())
        await scribe.write(steps)
        history, manifest, rendered = await scribe.window(TARGETS[0], Budget(500))

The steps are of every kind that a log can show: answers of both APIs with reasoning, parallel calls, hosted and
unknown items; outputs in order, late, interleaved, doubled, missing, and seals that real outputs replace; failed and
interrupted responses; requests of several lines; compactions, undone ones, rewinds, forks and erasures.

To draw takes longer than what is done with the steps, so little is drawn: one thing of a list that shows how likely
each is, rather than one of several strategies and then of what that gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, product
from math import lcm
from typing import Any, TypeVar

from hypothesis import strategies as st

from .scribe import Scribe, Sent, Sight, body_of
from .steps import (
    BUDGETS,
    PNG,
    TARGETS,
    Again,
    Aside,
    Compact,
    Erase,
    Fork,
    Note,
    Output,
    Part,
    PartKind,
    Respond,
    Rewind,
    Say,
    Step,
    Undo,
    words,
)

__all__ = (
    "BUDGETS",
    "TARGETS",
    "Again",
    "Aside",
    "Compact",
    "Erase",
    "Fork",
    "Note",
    "Output",
    "Part",
    "Respond",
    "Rewind",
    "Say",
    "Scribe",
    "Sent",
    "Sight",
    "Step",
    "Undo",
    "body_of",
    "chat_messages",
    "conversations",
    "inputs",
    "json_values",
    "outputs",
    "parts",
    "responses",
    "texts",
    "turns",
)


T = TypeVar("T")


def _evenly(*groups: Iterable[T]) -> list[T]:
    """Return what is in all groups, in a list in which each of these has as many places as the others."""
    listed = [list(group) for group in groups]
    places = lcm(*map(len, listed))
    return [one for group in listed for one in group * (places // len(group))]


def texts(longest: int = 60) -> st.SearchStrategy[str]:
    """Texts of words, code, emoji and other scripts, mostly short."""
    sizes = _evenly(range(9), range(longest + 1))
    return st.integers(0, 40 * len(sizes) - 1).map(lambda drawn: words(sizes[drawn // 40], drawn % 40))


_OWN: Mapping[str, Any] = {"timestamp": 1_700_000_000, "metadata": {"of": "the caller"}, "model": None}
"""Fields of a caller's own, which no API knows."""


def _message(role: str, content: Any, more: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "message", "role": role, "content": content, **more}


def _example(text: str, answered: bool, more: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    call = {"type": "function_call", "call_id": "call_example", "name": "look", "arguments": "{}", **more}
    output = {"type": "function_call_output", "call_id": "call_example", "output": text, **more}
    said = _message("user", "look", more), _message("assistant", text, more)
    return (said[0], call, *([output] if answered else []), said[1])


def _listed(text: str, other: str, image: bool, more: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    content = [{"type": "input_text", "text": text, **more}, {"type": "input_text", "text": other}]
    return (_message("user", [*content, *([{"type": "input_image", "image_url": PNG}] if image else [])], {}),)


def inputs() -> st.SearchStrategy[tuple[Mapping[str, Any], ...]]:
    """What a caller appends at once: messages mostly, examples of answers and calls, settings, unknown items.

    Some bear fields of the caller's own.
    """
    own = st.sampled_from([{}, {}, {}, _OWN])
    users = st.builds(_message, st.just("user"), texts(), own)
    others = st.builds(_message, st.sampled_from(["system", "developer", "assistant"]), texts(), own)
    settings: st.SearchStrategy[Mapping[str, Any]] = st.sampled_from(
        [
            {"type": "configuration_update", "reasoning": {"effort": "low"}},
            {"type": "configuration_update", "text": {"format": {"type": "text"}}},
            {"type": "additional_tools", "role": "developer", "tools": [], **_OWN},
            {"type": "acme:note", "text": "of a kind that nobody knows"},
        ]
    )
    return st.one_of(
        st.tuples(users),
        st.tuples(users),
        st.lists(st.one_of(users, others), min_size=1, max_size=4).map(tuple),
        st.lists(st.one_of(users, others, settings), min_size=1, max_size=4).map(tuple),
        st.builds(_listed, texts(), texts(), st.sampled_from([False, False, False, True]), own),
        st.builds(_example, texts(), st.booleans(), own),
    )


def parts() -> st.SearchStrategy[tuple[Part, ...]]:
    """What a model answers: reasoning, messages, parallel calls, hosted and unknown items, in any order."""
    spoken: tuple[PartKind, ...] = ("thought", "secret", "message", "refusal", "call", "call", "custom")
    hosted: tuple[PartKind, ...] = (
        "web_search",
        "image",
        "mcp",
        "mcp_list",
        "file_search",
        "code",
        "note",
        "compaction",
    )
    owed: tuple[PartKind, ...] = ("computer", "local_shell", "shell", "patch", "tool_search", "found", "approval")
    programs: tuple[PartKind, ...] = ("program", "program_output", "called")
    kinds = st.sampled_from(_evenly(spoken, spoken, hosted, owed, programs))
    part = st.builds(Part, kinds, st.integers(0, 40), st.sampled_from([False, False, True]))
    usual = [
        (Part("message", 12),),
        (Part("secret"), Part("message", 12)),
        (Part("message", 6, repeated=True),),
        (Part("thought"), Part("call")),
        (Part("secret"), Part("call"), Part("call")),
        (Part("call"), Part("custom")),
        (Part("thought"), Part("message")),
        (Part("program"), Part("called")),
        (Part("program_output"), Part("message")),
    ]
    return st.one_of(st.sampled_from(usual), st.lists(part, max_size=6).map(tuple))


def _few(most: int) -> st.SearchStrategy[int]:
    return st.sampled_from(_evenly([0], range(most + 1)))


def _places() -> st.SearchStrategy[tuple[int, ...]]:
    """Up to two places in an answer."""
    return st.sampled_from(_evenly(*(product(range(5), repeat=number) for number in range(3))))


def responses() -> st.SearchStrategy[Respond]:
    """Model calls of both APIs, with every end."""
    return st.builds(
        Respond,
        target=st.integers(0, len(TARGETS) - 1),
        budget=st.integers(0, len(BUDGETS) - 1),
        parts=parts(),
        end=st.sampled_from(["completed", "completed", "completed", "incomplete", "failed", "interrupted", "crashed"]),
        meanwhile=_places(),
        early=_places(),
        partial=_few(20),
        ratio=st.sampled_from([1.0, 1.0, 0.5, 1.3, 2.5]),
    )


def outputs() -> st.SearchStrategy[Output]:
    """Outputs of calls: short, or long enough for an excerpt, with images, and seals."""
    sizes = st.sampled_from(_evenly(range(11), [100, 700]))
    shapes = st.sampled_from(["text", "text", "parts", "image"])
    return st.builds(Output, _few(8), sizes, st.booleans(), shapes)


def _alone(step: Step) -> list[Step]:
    return [step]


def turns(*, settled: bool = False) -> st.SearchStrategy[list[Step]]:
    """A caller's input, a model's answer, outputs, and now and then something rarer, in no strict order."""
    says = st.builds(Say, inputs(), st.sampled_from([False, False, False, True]))
    rare: list[st.SearchStrategy[Step]] = [
        st.builds(Again, _few(4)),
        st.builds(Aside, st.integers(0, len(TARGETS) - 1)),
        st.just(Note()),
    ]
    if not settled:
        rare += [
            st.builds(Rewind, st.integers(0, 12)),
            st.builds(Compact, _few(6), st.sampled_from(["remote", "server", "summary", "extract"]), st.booleans()),
            st.builds(Undo, _few(2)),
            st.builds(Fork, st.integers(0, 12)),
            st.builds(Erase, st.integers(0, 12)),
        ]
    made: list[st.SearchStrategy[list[Step]]] = [
        says.map(_alone),
        responses().map(_alone),
        st.lists(outputs(), max_size=3),
        st.one_of(st.just([]), responses().map(_alone)),
        st.one_of(st.just([]), st.just([]), st.lists(st.one_of(*rare), max_size=2)),
    ]
    return st.tuples(*made).map(lambda lists: list(chain(*lists)))


def conversations(longest: int = 10, *, settled: bool = False) -> st.SearchStrategy[list[Step]]:
    """Lists of steps, of *longest* turns at most. *settled* leaves out what changes the path, or what was said."""
    return st.lists(turns(settled=settled), min_size=1, max_size=longest).map(lambda made: list(chain(*made)))


# -- Chat Completions messages


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON, not too deep."""
    plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=8))
    return st.recursive(
        plain,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    )


def _object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of the fields, now and then with a value that does not belong there, and others beside."""
    odd = {name: st.one_of(value, value, value, json_values()) for name, value in fields.items()}
    return st.builds(
        lambda known, more: {**more, **known},
        st.fixed_dictionaries({}, optional=odd),
        st.dictionaries(st.sampled_from(["cache_control", "name", "x", "annotations"]), json_values(), max_size=1),
    )


def chat_messages() -> st.SearchStrategy[dict[str, Any]]:
    """Messages of Chat Completions, common and weird ones: only the role is sure to be one that the API knows."""
    text = st.text(max_size=12)
    part = st.one_of(
        _object(type=st.just("text"), text=text, prompt_cache_breakpoint=json_values()),
        _object(type=st.just("refusal"), refusal=text),
        _object(type=st.just("image_url"), image_url=_object(url=text, detail=st.sampled_from(["low", "high", 3]))),
        _object(type=st.just("file"), file=_object(file_data=text, file_id=text, filename=text)),
        _object(type=st.just("input_audio"), input_audio=json_values()),
    )
    content = st.one_of(text, st.none(), st.lists(part, max_size=3))
    call = st.one_of(
        _object(id=text, type=st.just("function"), function=_object(name=text, arguments=text)),
        _object(id=text, type=st.just("custom"), custom=_object(name=text, input=text), index=st.integers(0, 3)),
    )
    assistant = _object(
        content=content,
        refusal=st.one_of(st.none(), text),
        tool_calls=st.one_of(st.none(), st.lists(call, max_size=3)),
        reasoning_content=text,
        reasoning=text,
        audio=json_values(),
        function_call=json_values(),
    )
    others = _object(content=content, tool_call_id=text, name=text)
    return st.one_of(
        st.builds(lambda message: {**message, "role": "assistant"}, assistant),
        st.builds(
            lambda message, role: {**message, "role": role},
            others,
            st.sampled_from(["user", "system", "developer", "tool"]),
        ),
    )
