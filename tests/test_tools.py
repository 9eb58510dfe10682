"""Tools: what a function becomes to a model, and what becomes of its calls."""

import asyncio
import enum
import functools
import json
import typing
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import anyio
import pydantic
import pytest
from typing_extensions import TypedDict

from turnlog import Invalid, StoreError, Tool, ToolContext, tool
from turnlog.engine.events import SEAL
from turnlog.engine.testing.server import Call, CustomCall, Item, Reply
from turnlog.engine.tools import Toolbox

pytestmark = pytest.mark.anyio


def context(**more):
    values = {
        "conversation": "c",
        "call_id": "call_1",
        "turn": 2,
        "attempt": 1,
        "deps": None,
        "idempotency_key": "k",
        **more,
    }
    return ToolContext(**values)


async def call(function, arguments="{}", **options):
    made = function if isinstance(function, Tool) else tool(**options)(function)
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return await made.run(given, context())


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(pydantic.BaseModel):
    name: str
    height: float = 0.0


@dataclass
class Span:
    first: int
    last: int


class Row(TypedDict):
    title: str


# -- schemas


def test_a_schema():
    @tool(timeout=20)
    async def search(
        query: Annotated[str, pydantic.Field(description="What to look for")],
        limit: int = 10,
        colour: Colour = Colour.RED,
        place: Place | None = None,
        title: Literal["a", "b"] = "a",
        rows: list[Row] = [],  # noqa: B006
        copy: Any = None,
    ) -> list[str]:
        """Search the index.

        Returns titles.
        """

    schema = search.schema
    assert {key: schema[key] for key in ("type", "name", "description", "strict")} == {
        "type": "function",
        "name": "search",
        "description": "Search the index.\n\nReturns titles.",
        "strict": False,
    }
    parameters = schema["parameters"]
    assert (parameters["required"], parameters["additionalProperties"]) == (["query"], False)
    assert parameters["properties"]["query"] == {"type": "string", "description": "What to look for"}
    assert parameters["properties"]["limit"] == {"type": "integer", "default": 10}
    assert parameters["properties"]["colour"]["default"] == Colour.RED.value
    assert parameters["properties"]["place"]["default"] is None
    assert parameters["properties"]["title"] == {"enum": ["a", "b"], "type": "string", "default": "a"}
    assert parameters["properties"]["rows"]["default"] == []
    assert parameters["properties"]["copy"] == {"default": None}
    assert parameters["$defs"]["Row"]["properties"] == {"title": {"type": "string"}}
    assert "title" not in parameters["$defs"]["Place"]
    assert (search.name, search.timeout, repr(search)) == ("search", 20, "<Tool search>")


@pytest.mark.parametrize("default", [object(), float("inf"), "\ud800", pydantic.Field(default=3)])
def test_a_default_that_json_cannot_say_is_left_out(default):
    async def act(this: Any = default) -> None:
        pass

    assert Tool(act).schema["parameters"]["properties"] == {"this": {}}


def test_a_function_without_parameters_or_docstring():
    async def now():
        pass

    assert Tool(now).schema == {
        "type": "function",
        "name": "now",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
        "strict": False,
    }


@pytest.mark.parametrize("hint", [ToolContext, ToolContext | None, "ToolContext", Annotated[ToolContext, "x"]])
async def test_the_context_is_no_argument(hint):
    async def act(order: str, ctx: hint) -> str:
        return f"{order} {ctx.idempotency_key} {ctx.deps}"

    made = Tool(act)
    assert list(made.schema["parameters"]["properties"]) == ["order"]
    assert await made.run('{"order": "A1"}', context(deps="db")) == "A1 k db"
    refused = await made.run('{"order": "A1", "ctx": {}}', context())
    assert refused.startswith("error: the arguments of act cannot be used: ctx: ")


def bad(*args, **kwargs):
    async def function(self, *args, **kwargs):
        pass

    return function


async def positional(a, /):
    pass


async def unknown_type(a: "Nowhere"):  # noqa: F821
    pass


async def no_schema(a: asyncio.Future):
    pass


async def forward(a: "list[Later]"):
    pass


class Later(typing.NamedTuple):
    when: asyncio.Future


async def größe():  # noqa: PLC2401 - a name that the API refuses
    pass


def test_functions_that_make_no_tool():
    def plain():
        pass

    for function in (plain, bad(), positional, unknown_type, no_schema, forward, größe, print, 7):
        with pytest.raises(Invalid, match="tool "):
            Tool(function)
    with pytest.raises(Invalid, match="name"):
        tool(name="no spaces")(call)
    with pytest.raises(Invalid, match="name"):
        tool(name="x" * 65)(call)
    for timeout in (0, -1, float("nan"), "5", True):
        with pytest.raises(Invalid, match="timeout"):
            tool(timeout=timeout)(functools.partial(call))


async def test_methods_partials_and_wrapped_functions():
    class Shop:
        async def price(self, item: str) -> int:
            return len(item)

    def logged(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return await function(*args, **kwargs)

        return wrapper

    @logged
    async def double(number: int) -> int:
        return 2 * number

    assert await call(Shop().price, {"item": "tea"}) == "3"
    assert await call(double, {"number": 4}) == "8"
    assert Tool(double).schema["parameters"]["properties"] == {"number": {"type": "integer"}}
    with pytest.raises(Invalid, match="wrap it in an async def"):
        Tool(functools.partial(double, 3), name="six")
    assert await tool()(double)(number=5) == 10


# -- arguments and results


async def test_arguments_become_what_the_hints_say():
    seen = []

    async def act(a: int, day: date, colour: Colour, place: Place, span: Span, names: set[str], f: float = 1.5) -> None:
        seen.append((a, day, colour, place, span, names, f))

    arguments = {
        "a": 3,
        "day": "2026-03-01",
        "colour": "blue",
        "place": {"name": "Rigi", "height": 1797},
        "span": {"first": 1, "last": 2},
        "names": ["x"],
    }
    assert await call(act, arguments) == "null"
    assert seen == [(3, date(2026, 3, 1), Colour.BLUE, Place(name="Rigi", height=1797), Span(1, 2), {"x"}, 1.5)]


@pytest.mark.parametrize(
    "arguments",
    ["", "  ", "{}", "{", "null", "[1]", '"x"', '{"a": 1, "a": 2}', '{"a": "one"}', '{"a": 1, "b": 2}', '{"a": NaN}',
     '{"a": ' + "[" * 500 + "]" * 500 + "}", "{'a': 1}", '{"a": "\\ud800"}', "\ud800"],
)  # fmt: skip
async def test_arguments_that_cannot_be_used(arguments):
    ran = []

    async def act(a: int) -> None:
        ran.append(a)

    said = await call(act, arguments)
    assert said.startswith("error: the arguments of act cannot be used: ")
    assert len(said) < 700
    said.encode()
    assert not ran


@pytest.mark.parametrize(
    ("result", "output"),
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, "null"),
        (3, "3"),
        (1.0, "1"),
        ({"b": 1, "a": [True, "ü"]}, '{"a":[true,"ü"],"b":1}'),
        (Place(name="Rigi"), '{"height":0,"name":"Rigi"}'),
        (Span(1, 2), '{"first":1,"last":2}'),
        ([date(2026, 3, 1), Colour.RED], '["2026-03-01","red"]'),
        ("half \ud83d", "half \ufffd"),
        ("pair \ud83d\ude42", "pair 🙂"),
    ],
)
async def test_results(result, output):
    async def act() -> object:
        return result

    assert await call(act) == output


@pytest.mark.parametrize("result", [object(), {1: object()}, ["\ud800"], {"a": b"\xff\xfe"}])
async def test_results_that_are_no_json(result):
    async def act() -> object:
        return result

    said = await call(act)
    assert said.startswith("error: the result is no JSON: ")
    said.encode()


# -- what goes wrong


async def test_errors_are_told_to_the_model():
    class Odd(Exception):
        def __str__(self):
            return "odd \ud800"

    for error, said in (
        (ValueError("no such order"), "error: act raised ValueError: no such order"),
        (ExceptionGroup("both", [ValueError("a"), KeyError("b")]), "error: act raised ExceptionGroup: both (2 sub-"),
        (StopAsyncIteration(), "error: act raised "),
        (TimeoutError("the database"), "error: act raised TimeoutError: the database"),
        (asyncio.CancelledError("gone"), "error: act raised CancelledError: what it waited for was cancelled"),
        (Odd(), "error: act raised Odd: odd \ufffd"),
    ):
        for timeout in (None, 5.0):

            async def act(error=error) -> None:
                raise error

            made = Tool(act, timeout=timeout)
            assert (await made.run("{}", context())).startswith(said)


async def test_a_tool_that_takes_too_long():
    stopped = []

    async def slow() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(1)

    assert await call(slow, timeout=0.01) == "error: slow did not finish within 0.01 s"
    assert stopped == [1]

    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except BaseException:
            return "all the same"

    assert await call(stubborn, timeout=0.01) == "all the same"

    async def clumsy() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("while stopping")

    assert await call(clumsy, timeout=0.01) == "error: clumsy raised LookupError: while stopping"


async def test_a_cancelled_tool_is_cancelled():
    async def slow() -> str:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await call(slow)
    assert scope.cancelled_caught
    task = asyncio.create_task(call(slow, timeout=None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- approval


async def refund(order: str, amount: float = 500.0) -> str:
    return f"{order} {amount}"


@pytest.mark.parametrize(
    ("approval", "arguments", "needed"),
    [
        (False, {"order": "a"}, False),
        (True, {"order": "a"}, True),
        (True, "no JSON", True),
        (lambda args: args["amount"] > 100, {"order": "a", "amount": 100.5}, True),
        (lambda args: args["amount"] > 100, {"order": "a", "amount": "7"}, False),
        (lambda args: args["amount"] > 100, {"order": "a"}, True),  # by its default
        (lambda args: 1 / 0, {"order": "a"}, True),
        (lambda args: args["gone"], {"order": "a"}, True),
        (lambda args: [], {"order": "a"}, False),
        (lambda args: True, "no JSON", False),  # nothing will be done with it
        (lambda args: True, {"order": 7}, False),
    ],
)
def test_whether_a_person_must_agree_first(approval, arguments, needed):
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    assert tool(approval=approval)(refund).needs_approval(given) is needed


def test_options_that_make_no_tool():
    async def asks(args):
        return True

    for approval in (None, 1, "yes", asks):
        with pytest.raises(Invalid, match="tool refund: approval="):
            tool(approval=approval)(refund)
    for safe in (None, 1, "yes"):
        with pytest.raises(Invalid, match="tool refund: rerun_safe="):
            tool(rerun_safe=safe)(refund)
    assert (Tool(refund).rerun_safe, tool(rerun_safe=True)(refund).rerun_safe) == (False, True)


# -- boxes


def test_a_box():
    async def look() -> None:
        pass

    schemas = [
        {"type": "function", "name": "ask", "parameters": {}},
        {"type": "web_search"},
        {"type": "mcp", "server_label": "s", "server_url": "http://x"},
    ]
    box = Toolbox([look, *schemas, tool(name="other")(look)])
    assert [schema.get("name") for schema in box.schemas] == ["look", "ask", None, None, "other"]
    assert box.get("look") is box.runnable["look"]
    assert box.get("ask") is None
    for name in ("None", "gone", ""):
        assert box.get(name) is not None
    for twice in ([look, look], [look, {"type": "function", "name": "look"}], [schemas[0]] * 2):
        with pytest.raises(Invalid, match="two of that name"):
            Toolbox(twice)
    for wrong in ({"name": "x"}, {"type": 3}, {"type": "function"}, {"type": "function", "function": {"name": "x"}}):
        with pytest.raises(Invalid):
            Toolbox([wrong])
    assert Toolbox(iter([look])).runnable.keys() == {"look"}


# -- in a turn


async def test_all_that_can_go_wrong_at_once(stage, api):
    started = []

    async def fine(n: int = 0) -> str:
        started.append(n)
        return f"fine {n}"

    async def fails() -> None:
        raise RuntimeError("no")

    @tool(timeout=0.02)
    async def slow() -> None:
        await anyio.sleep_forever()

    async def cancels() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    calls = Reply(
        Call("fine", {"n": 1}, id="a"),
        Call("fails", id="b"),
        Call("slow", id="c"),
        Call("fine", '{"n": ', id="d"),
        Call("made_up", {"x": 1}, id="e"),
        Call("cancels", id="f"),
        Call("fine", "", id="g"),
    )
    async with stage(calls, "Understood.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Go", tools=[fine, fails, slow, cancels])
        assert (result.status, result.output_text) == ("completed", "Understood.")
        outputs = {item["call_id"]: item["output"] for item in result.items if "output" in item}
        assert outputs["a"] == "fine 1"
        assert outputs["b"] == "error: fails raised RuntimeError: no"
        assert outputs["c"] == "error: slow did not finish within 0.02 s"
        assert outputs["d"].startswith("error: the arguments of fine cannot be used")
        assert outputs["e"] == "error: there is no tool made_up; there are: cancels, fails, fine, slow"
        assert outputs["f"].startswith("error: cancels raised CancelledError")
        assert outputs["g"] == "fine 0"
        assert sorted(started) == [0, 1]


async def test_tools_run_at_the_same_time(stage, api):
    meeting = []
    all_here = anyio.Event()

    async def meet(who: str) -> str:
        meeting.append(who)
        if len(meeting) == 3:
            all_here.set()
        await all_here.wait()
        return f"{who} met {len(meeting)}"

    async with stage(Reply(*[Call("meet", {"who": who}) for who in "abc"]), "Met.") as s:
        c = await s.engine.create()
        assert (await c.run(s.model(api), "Go", tools=[meet])).status == "completed"


async def test_what_a_tool_knows_of_its_call(stage, api):
    seen = []

    async def act(ctx: ToolContext, n: int) -> str:
        seen.append(ctx)
        return "ok"

    first = Reply(Call("act", {"n": 1}, id="same"), Call("act", {"n": 2}, id="b"))
    async with stage(first, Call("act", {"n": 3}, id="same"), "Done.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Go", tools=[act], deps={"db": 1})
        assert {ctx.conversation for ctx in seen} == {c.id}
        assert {ctx.turn for ctx in seen} == {result.turn}
        assert [ctx.deps for ctx in seen] == [{"db": 1}] * 3
        # Ids of calls may come back; these keys do not.
        assert len({ctx.idempotency_key for ctx in seen}) == 3
        assert all(len(ctx.idempotency_key) == 32 for ctx in seen)


async def test_a_tool_that_uses_the_conversation(stage, api):
    async def note(ctx: ToolContext) -> str:
        c = await ctx.deps.get(ctx.conversation)
        await c.append("A note of the tool's own")
        return str(len((await c.items()).data))

    async with stage(Call("note"), "Done.") as s:
        c = await s.engine.create()
        await c.run(s.model(api), "Go", tools=[note], deps=s.engine)
        assert [entry.item.get("role", entry.item.get("type")) async for entry in c.items()] == [
            "user", "function_call", "user", "function_call_output", "assistant",
        ]  # fmt: skip


async def test_calls_of_other_kinds_are_the_clients(stage, api):
    async def shell() -> None:
        raise AssertionError("a function of the same name")

    async with stage(CustomCall("shell", "ls"), "Done.") as s:
        c = await s.engine.create()
        schema = {"type": "custom", "name": "run_shell"}
        result = await c.run(s.model(api), "Go", tools=[shell, schema])
        assert (result.status, len(result.open_calls)) == ("waiting", 1)


async def test_calls_in_a_namespace_are_the_clients(stage):
    async def look() -> None:
        raise AssertionError("another tool of that name")

    found = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "look",
        "namespace": "crm",
        "arguments": "{}",
        "status": "completed",
    }
    async with stage(Reply(Item(found))) as s:
        c = await s.engine.create()
        schema = {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "look"}]}
        result = await c.run(s.model("responses"), "Go", tools=[look, schema])
        assert (result.status, len(result.open_calls)) == ("waiting", 1)


async def test_tools_that_are_found_by_search_are_the_clients(stage):
    async with stage(Call("found_later")) as s:
        c = await s.engine.create()
        result = await c.run(s.model("responses"), "Go", tools=[{"type": "tool_search"}])
        assert [call.name for call in result.open_calls] == ["found_later"]


async def test_a_failing_store_is_the_callers_and_no_group(stage, api):
    """Whatever stops several tools at once, the caller gets one plain error."""

    async def act() -> str:
        return "done"

    async with stage(Reply(*[Call("act") for _ in range(4)])) as s:
        c = await s.engine.create()
        append = s.engine.store.append

        async def full(name, events, **options):
            if any(one.shape == "function_call_output" and not one.flags & SEAL for one in events):
                raise StoreError("the disk is full") from OSError("no space")
            return await append(name, events, **options)

        s.engine.store.append = full
        with pytest.raises(StoreError, match="disk is full") as raised:
            await c.run(s.model(api), "Go", tools=[act])
        assert isinstance(raised.value.__cause__, OSError)
        del s.engine.store.append
        assert [call.status async for call in c.responses()] == ["completed"]
        interrupted = [event.data async for event in c.events() if event.type == "response.interrupted"]
        assert [said["cause"] for said in interrupted] == ["crashed"]
        assert len(interrupted[0]["sealed"]) == 4


# -- what a tool may say of itself, and return


def described(function):
    schema = tool()(function).schema
    return schema["description"], {
        name: one.get("description") for name, one in schema["parameters"].get("properties", {}).items()
    }


async def google(ctx: ToolContext, order: str, amount: float = 1.0, note: str = "") -> None:
    """Pay an order back.

    Nothing is paid twice.

    Args:
        ctx: the call.
        order: its number,
            as on the bill: "A1".
        amount (float): in euros

    Returns:
        Nothing.
    """


async def named(order: Annotated[str, pydantic.Field(description="The number.")]) -> None:
    """Args:
    order: something else.
    """


async def of_others(order: str) -> None:
    """Find.

    Args:
        order: its number.
        depth: of something that is no parameter.
    """


async def prose(order: str) -> None:
    """Find.

    Args:
        Whatever you like.
    """


def test_what_a_docstring_says_of_parameters_stands_with_them():
    assert described(google) == (
        "Pay an order back.\n\nNothing is paid twice.\n\nReturns:\n    Nothing.",
        {"order": 'its number, as on the bill: "A1".', "amount": "in euros", "note": None},
    )
    assert described(named)[1] == {"order": "The number."}


@pytest.mark.parametrize("function", [of_others, prose])
def test_a_section_that_speaks_of_something_else_stays_where_it_is(function):
    text, parameters = described(function)
    assert text.startswith("Find.\n\nArgs:\n    ")
    assert parameters == {"order": None}


def test_a_tool_has_one_context():
    async def two(a: ToolContext, b: ToolContext) -> None: ...

    with pytest.raises(Invalid, match="tool two: a and b both take the ToolContext; one is enough"):
        tool()(two)


PARTS = [{"type": "input_text", "text": "A1"}, {"type": "input_image", "image_url": "https://example.org/a1.png"}]


async def test_parts_go_as_parts(stage, api):
    async def photo() -> list[dict[str, str]]:
        return PARTS

    async with stage(Call("photo", {}, id="p"), "A parcel.") as s:
        c = await s.engine.create()
        result = await c.run(s.model(api), "Show it", tools=[photo])
        assert result.items[1]["output"] == PARTS
        told = s.bodies[1]["input" if api == "responses" else "messages"]
        if api == "responses":
            assert told[-1]["output"] == PARTS
        else:
            assert "A1" in str(told)


async def test_which_lists_are_parts():
    class Part(pydantic.BaseModel):
        type: str = "input_text"
        text: str = "one"

    async def returned(value):
        async def give() -> Any:
            return value

        return await call(give)

    assert await returned([Part()]) == [{"type": "input_text", "text": "one"}]
    file = {"type": "input_file", "file_id": "file_1"}
    assert await returned([file]) == [file]
    for value in ([], ["a"], [{"type": "note", "text": "a"}], [*PARTS, "a"], [{"text": "a"}], {"type": "input_text"}):
        assert await returned(value) == json.dumps(value, separators=(",", ":"), sort_keys=True)
    assert await returned([PARTS[0], {"type": "input_image"}]) == (
        "error: part 2 of the result, of type input_image, has no image_url or file_id"
    )
