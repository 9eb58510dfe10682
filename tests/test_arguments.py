"""Arguments of the wrong type: refused by their names, with the remedy, and nothing is written."""

import re
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from turnlog import Budget, Invalid, open_engine, tool
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.conversations import Conversations
from turnlog.adapters.responses import Responses
from turnlog.adapters.wire import label

pytestmark = pytest.mark.anyio

CLIENT = SimpleNamespace(responses=None, chat=None)
"""A client that is asked nothing."""


async def look_up(word: str) -> str:
    return word


class Dumb:
    """What has a name, but answers nobody."""

    name, backend, budget = "gpt-5", "x", None


class Odd(Responses):
    """A model of an api that there is not."""

    api = "telepathy"  # type: ignore[misc]


SAYS_BUDGET = r"Budget\(context=…\) is needed"
SAYS_TOOLS = r"a list is needed, such as tools=\[look_up\]"
SAYS_VERSION = "ANY, NO_STREAM or a version is needed: a whole number, at least 0$"
SAYS_SWITCH = "True or False is needed$"
SAYS_MODEL = r"an adapter is needed, such as Responses\(client, 'gpt-5'\)"
OPTIONS = [
    ({"budget": 500}, f"^budget=500: {SAYS_BUDGET}"),
    ({"budget": "x"}, f"^budget='x': {SAYS_BUDGET}"),
    ({"policy": 5}, r"^policy=5: a policy is needed, such as OldestTurns\(\)"),
    ({"tools": None}, f"^tools=None: {SAYS_TOOLS}"),
    ({"tools": look_up}, f"^tools=<function look_up.*: {SAYS_TOOLS}"),
    ({"tools": tool()(look_up)}, f"^tools=<Tool look_up>: {SAYS_TOOLS}"),
    ({"tools": "look_up"}, f"^tools='look_up': {SAYS_TOOLS}"),
    ({"tools": {"type": "function", "name": "f"}}, f"^tools={{'type'.*: {SAYS_TOOLS}"),
    ({"tools": [5]}, "tool 5: an async function is needed"),
    ({"instructions": 5}, "^instructions=5: a text is needed"),
    ({"model": "gpt-4o"}, f"^model='gpt-4o': {SAYS_MODEL}"),
    ({"model": None}, f"^model=None: {SAYS_MODEL}"),
    ({"model": Responses}, f"^model=<class .*: {SAYS_MODEL}"),
    ({"model": Dumb()}, f"^model=<.*Dumb object.*: {SAYS_MODEL}"),
    ({"model": Odd(CLIENT, "gpt-4o")}, r"^model=.*its api is 'telepathy'; responses or chat is needed"),
]


@pytest.mark.parametrize(("options", "says"), OPTIONS)
async def test_what_a_turn_is_given(engine, options, says):
    c = await engine.create()
    given = {"model": Responses(CLIENT, "gpt-4o-mini"), **options}
    for ask in (c.respond, c.run, c.stream):
        with pytest.raises(Invalid, match=says):
            await ask(input="Hi", **given)
    assert (await c.refresh()).version == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [*(one for one in OPTIONS if one[0] != {"model": None}), ({"api": "x"}, "^api='x': responses or chat is needed")],
)
async def test_what_a_window_is_given(engine, options, says):
    c = await engine.create()
    with pytest.raises(Invalid, match=says):
        await c.window(**{"budget": Budget(1000), **options})


@pytest.mark.parametrize("at", ["a", -1, 1.5, 99])
async def test_a_version_that_is_none(engine, at):
    c = await engine.create()
    with pytest.raises(Invalid, match=f"^at={at!r}: a whole number is needed"):
        await c.window(Budget(1000), at=at)


@pytest.mark.parametrize("place", ["x", -1, 1.5, True])
async def test_places_in_listings(engine, place):
    c = await engine.create()
    for listing, name in (
        (c.events, "after"),
        (c.items, "after"),
        (c.items, "before"),
        (c.responses, "turn"),
    ):
        with pytest.raises(Invalid, match=f"^{name}={place!r}: a whole number is needed"):
            listing(**{name: place})


async def test_what_an_append_is_given(engine):
    c = await engine.create()
    for options in ({"meta": 3}, {"meta": "x"}, {"key": 3}):
        with pytest.raises(Invalid, match=next(iter(options))):
            await c.append("Hi", **options)
    for expected in ("x", "1", None, 1.0, True, -1):
        says = f"^expected={expected!r}: {SAYS_VERSION}"
        run = partial(c.run, Responses(CLIENT, "gpt-4o-mini"), "Hi")
        for attempt in (partial(c.append, "Hi"), partial(c.rewind, 1), partial(c.update_metadata, {"a": 1}), run):
            with pytest.raises(Invalid, match=says):
                await attempt(expected=expected)
    assert (await c.refresh()).version == 1


@pytest.mark.parametrize("value", ["no", 0, 1, None, []])
async def test_what_is_on_or_off(engine, value):
    c = await engine.create()
    model = Responses(CLIENT, "gpt-4o-mini")
    for name, ask in (
        ("pinned", partial(c.append, "Hi")),
        ("aside", partial(c.respond, model, "Hi")),
        ("approve", partial(c.decide, "call_1", by="ada")),
        ("items", partial(Conversations(AsyncOpenAI(api_key="x")).delete, c)),
    ):
        with pytest.raises(Invalid, match=f"^{name}={re.escape(repr(value))}: {SAYS_SWITCH}"):
            await ask(**{name: value})
    for name, ask in (
        ("follow", c.events),
        ("abandoned", c.items),
        ("abandoned", c.turns),
        ("migrate", partial(open_engine, ":memory:")),
        ("preload", partial(open_engine, ":memory:")),
        ("rerun_safe", tool),
    ):
        with pytest.raises(Invalid, match=f"{name}={re.escape(repr(value))}: {SAYS_SWITCH}"):
            made = ask(**{name: value})
            if name == "rerun_safe":
                made(look_up)
    assert (await c.refresh()).version == 1


@pytest.mark.parametrize("age", [5, None, "x", -1.5, timedelta(-1), timedelta.max])
async def test_an_age_that_is_none(engine, age):
    says = rf"^age={re.escape(repr(age))}: a timedelta is needed, such as timedelta\(days=90\); .* 1,000,000 days$"
    with pytest.raises(Invalid, match=says):
        engine.expire(age)
    with pytest.raises(Invalid, match=says):
        await engine.collect(age)
    with pytest.raises(Invalid, match="more than nothing"):
        engine.expire(timedelta(0))
    assert await engine.collect(timedelta(0)) == await engine.collect(timedelta(1_000_000)) == 0


@pytest.mark.parametrize("adapter", [Responses, ChatCompletions])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": None}, "^model=None: the model's name is needed, such as 'gpt-5'"),
        ({"model": ""}, "^model='': the model's name is needed"),
        ({"budget": 500}, f"^budget=500: {SAYS_BUDGET}"),
        ({"count": 5}, "^count=5: a function from a text to its number of tokens is needed"),
        ({"backend": 5}, "^backend=5: a text is needed"),
        ({"params": "x"}, "^params: a mapping is needed"),
    ],
)
def test_what_an_adapter_is_given(adapter, options, says):
    with pytest.raises(Invalid, match=says):
        adapter(CLIENT, **{"model": "gpt-4o", **options})


def fails(text):
    return 1 // 0


class Alike:
    """A counter that cannot be hashed."""

    __hash__ = None

    def __eq__(self, other):
        return isinstance(other, Alike)

    def __call__(self, text):
        return -1


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (fails, "^count=<function fails at .*>: it failed: ZeroDivisionError: "),
        (lambda text: None, r"^count\(text\)=None: a whole number of tokens is needed, at least 0$"),
        (lambda text: 1.5, r"^count\(text\)=1.5: a whole number of tokens"),
        (Alike(), r"^count\(text\)=-1: a whole number of tokens"),
    ],
)
async def test_a_counter_that_counts_nothing_is_named(engine, count, says):
    c = await engine.create()
    await c.append("Hello")
    model = ChatCompletions(CLIENT, "acme-7b", budget=Budget(1000), count=count)
    for asked in (c.window(model=model), c.respond(model)):
        with pytest.raises(Invalid, match=says):
            await asked
    assert (await c.refresh()).version == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://api.openai.com/v1/", "api.openai.com"),
        ("https://api.openai.com:443/v1/", "api.openai.com"),
        ("http://127.0.0.1:8080/v1/", "127.0.0.1:8080"),
        ("http://[::1]:8080/v1/", "[::1]:8080"),
        ("http://localhost/v1/", "localhost"),
    ],
)
def test_two_servers_on_one_machine_are_two_backends(url, says):
    assert label(AsyncOpenAI(base_url=url, api_key="test")) == says
    assert label(None) == "unknown"


def clients():
    return [
        (None, "client=None: an openai.AsyncOpenAI is needed"),
        ("sk-1", "client=a str: an openai.AsyncOpenAI is needed"),
        (AsyncOpenAI, "client=the class AsyncOpenAI: an openai.AsyncOpenAI is needed"),
        (OpenAI(api_key="x"), "client=an OpenAI: it waits for answers where turnlog goes on; pass an AsyncOpenAI"),
        (AzureOpenAI(api_key="x", api_version="1", azure_endpoint="https://a.b"), "client=an AzureOpenAI: it waits"),
    ]


@pytest.mark.parametrize(
    "make", [lambda c: Responses(c, "gpt-5"), lambda c: ChatCompletions(c, "gpt-5"), Conversations]
)
def test_what_is_no_client_is_refused(make):
    for client, says in clients():
        with pytest.raises(Invalid) as raised:
            make(client)
        assert str(raised.value).startswith(says)
        assert "sk-1" not in str(raised.value)
