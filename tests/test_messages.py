"""Chat Completions messages and items, both ways: value for value where it matters, and nothing lost unsaid."""

from itertools import chain, pairwise

import anyio
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from turnlog import Budget, open_engine
from turnlog.adapters.chat_completions import ENCODERS, ChatCompletions
from turnlog.engine.canonical import encode, plain
from turnlog.engine.errors import InvalidItem
from turnlog.engine.items import accept
from turnlog.engine.messages import pieces, to_items, to_messages
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.strategies import chat_messages
from turnlog.engine.window.render import Rendered

pytestmark = pytest.mark.anyio

filtered = settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def rendered(messages, **more):
    """Return messages as a window has them: what a message of the assistant holds is one response."""
    made = []
    for number, message in enumerate(messages, 1):
        response = number if message["role"] == "assistant" else None
        made += [Rendered(number, response, piece.item, piece.extra, **more) for piece in pieces(message)]
    return made


def bare(messages):
    """Return messages as a window has them that were appended as items."""
    made = []
    for number, message in enumerate(messages, 1):
        response = number if message["role"] == "assistant" else None
        made += [Rendered(number, response, item) for item in to_items([message])]
    return made


# -- recorded messages


@given(st.lists(chat_messages(), min_size=1, max_size=3))
def test_recorded_messages_come_back_value_for_value(messages):
    again = to_messages(rendered(messages), recorded=True)
    assert encode(again) == encode(plain(messages))


# -- messages that are appended as items


def is_part(part, kinds):
    match part:
        case {"type": "text", "text": str()} | {"type": "refusal", "refusal": str()} | {"type": "input_audio"}:
            return part["type"] in kinds
        case {"type": "image_url", "image_url": {"url": str(), **more}}:
            return "image_url" in kinds and isinstance(more.get("detail", "low"), str)
        case {"type": "file", "file": dict()}:
            return "file" in kinds
        case _:
            return False


def is_call(call):
    match call:
        case {"id": str(name), "type": "function", "function": {"name": str(), "arguments": str()}}:
            return name != ""
        case {"id": str(name), "type": "custom", "custom": {"name": str(), "input": str()}}:
            return name != ""
        case _:
            return False


def is_spoken(message):
    """Return whether what only the assistant's messages have is of the form that the API documents."""
    thoughts = [message.get("reasoning_content", ""), message.get("reasoning", "")]
    if not all(isinstance(text, str) for text in thoughts) or not isinstance(message.get("refusal"), str | None):
        return False
    if any(isinstance(message.get(field), dict) for field in ("function_call", "audio")):
        return False
    calls = message.get("tool_calls")
    return calls is None or (isinstance(calls, list) and all(map(is_call, calls)))


KINDS = {"assistant": ("text", "refusal"), "tool": ("text",)}


def is_proper(message):
    """Return whether a message is of the form that the API documents, or has fields beside it."""
    role, content = message["role"], message.get("content")
    if role == "assistant" and not is_spoken(message):
        return False
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        return False
    kinds = KINDS.get(role, ("text", "image_url", "file", "input_audio"))
    parts = content if isinstance(content, list) else []
    return isinstance(content, str | list | None) and all(is_part(part, kinds) for part in parts)


def part_of(part):
    """Return a part without what is not the API's own."""
    match part["type"]:
        case "text":
            return {key: part[key] for key in ("type", "text", "prompt_cache_breakpoint") if key in part}
        case "image_url":
            image = part["image_url"]
            return {"type": "image_url", "image_url": {key: image[key] for key in ("url", "detail") if key in image}}
        case "file":
            file = part["file"]
            return {
                "type": "file",
                "file": {key: file[key] for key in ("file_data", "file_id", "filename") if key in file},
            }
        case _:
            return part


def content_of(content):
    parts = [part_of(part) for part in content] if isinstance(content, list) else content or ""
    if isinstance(parts, list) and all(part.keys() == {"type", "text"} for part in parts) and len(parts) < 2:
        return parts[0]["text"] if parts else ""
    return parts


def call_of(call):
    kind, text = ("custom", "input") if call["type"] == "custom" else ("function", "arguments")
    return {"id": call["id"], "type": kind, kind: {"name": call[kind]["name"], text: call[kind][text]}}


def same(message):
    """Return what a proper message is to the API, in the form that it comes back in; see `to_items`."""
    if message["role"] == "tool":
        return {"role": "tool", "tool_call_id": message["tool_call_id"], "content": content_of(message.get("content"))}
    name = {"name": message["name"]} if isinstance(message.get("name"), str) and message["name"] else {}
    if message["role"] != "assistant":
        return {"role": message["role"], "content": content_of(message.get("content")), **name}
    content = message.get("content") or ""
    if message.get("refusal"):
        said = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        content = [*said, {"type": "refusal", "refusal": message["refusal"]}]
    calls = [call_of(call) for call in message.get("tool_calls") or ()]
    made = {"role": "assistant", "content": content_of(content)} | (name if content or not calls else {})
    if calls:
        made |= {"content": made["content"] if content else None, "tool_calls": calls}
    return made


@filtered
@given(chat_messages().filter(is_proper))
def test_a_message_comes_back_as_what_the_api_treats_as_the_same(message):
    message = plain(message)
    items = to_items([message])
    (again,) = to_messages(bare([message]))
    if "content" not in again:  # a thought and nothing else, which no window has
        assert [item["type"] for item in items] == ["reasoning"]
        return
    assert encode(again) == encode(same(message))
    assert to_messages(bare([again])) == [again]
    for item in items:
        if item.get("call_id") != "":
            assert accept(item, "items[0]")[0] == item


def outcome(messages):
    """Return the items of messages, or where they were refused."""
    try:
        return to_items(messages)
    except InvalidItem as error:
        return error.path


@given(st.lists(chat_messages().filter(lambda message: message["role"] != "tool"), max_size=3))
def test_each_message_is_converted_by_itself(messages):
    alone = [outcome([message]) for message in messages]
    refused = [path.replace("[0]", f"[{at}]", 1) for at, path in enumerate(alone) if isinstance(path, str)]
    assert outcome(messages) == (refused[0] if refused else list(chain(*alone)))


VALUES = st.sampled_from(
    [None, 1, "", "user", "message", "function_call", [], [[]], ["a"], [{"type": "text"}], {}, {"a": []}]
)
ITEMS = st.dictionaries(st.sampled_from(["type", "role", "content", "output", "summary"]), VALUES)
PATHS = st.lists(st.sampled_from(["content", "tool_calls", "name", 0, 7]), min_size=1, max_size=3)


@given(ITEMS, PATHS)
def test_writing_a_message_never_fails_whatever_the_item_is(item, path):
    assume(item.get("type") not in ("function_call", "custom_tool_call"))
    window = [Rendered(1, 1, item, {"set": [[path, 1]], "unset": [path]}, home=True)]
    assert len(to_messages(window)) == len(to_messages(window, recorded=True)) == 1


# -- examples

WEATHER = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
SHELL = {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}}


def text(said):
    return {"type": "text", "text": said}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content=None, **more):
    return {"role": "assistant", "content": content, **more}


def tool(call_id, content):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


CONVERSATIONS = {
    "text": [user("Hi"), assistant("Hello!"), user("Bye")],
    "leading": [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Or not."}, user("Hi")],
    "tools": [
        user("Weather?"),
        assistant(tool_calls=[WEATHER, SHELL]),
        tool("call_1", "clear"),
        tool("call_2", "total 0"),
        assistant("It is clear."),
    ],
    "words and calls": [user("Weather?"), assistant("Let me look.", tool_calls=[WEATHER]), tool("call_1", "")],
    "names": [
        {"role": "system", "content": "Be brief.", "name": "guide"},
        user("Hi", name="ada"),
        assistant("Hello!", name="bot"),
        user([text("Hi"), IMAGE], name="bob"),
    ],
    "parts": [user([text("What is this?"), IMAGE, AUDIO, FILE]), assistant("A picture.")],
    "a file by id": [user([{"type": "file", "file": {"file_id": "file-1"}}, text("?")]), assistant("A text.")],
    "refusal part": [user("Hi"), assistant([text("Well,"), {"type": "refusal", "refusal": "no."}]), user("Oh")],
    "tool parts": [user("?"), assistant(tool_calls=[WEATHER]), tool("call_1", [text("clear"), text("and cold")])],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_conversations_come_back_through_a_log(name):
    messages = CONVERSATIONS[name]
    async with open_engine(":memory:") as engine:
        c = await engine.create()
        await c.append(*to_items(messages))
        assert (await c.window(Budget(100_000), api="chat")).messages == messages


@pytest.mark.parametrize(
    ("message", "comes_back"),
    [
        (user([text("Hi")]), user("Hi")),
        (user([]), user("")),
        (user("Hi", name=""), user("Hi")),
        (user("Hi", name=["ada"]), user("Hi")),
        (assistant(tool_calls=[WEATHER], name="bot"), assistant(tool_calls=[WEATHER])),
        (user([{**text("Hi"), "cache_control": {"type": "ephemeral"}}]), user("Hi")),
        (assistant("Hi", refusal=None, tool_calls=None, audio=None, annotations=[]), assistant("Hi")),
        ({"role": "assistant"}, assistant("")),
        (assistant("", tool_calls=[WEATHER]), assistant(tool_calls=[WEATHER])),
        (assistant(tool_calls=[{**WEATHER, "index": 0}]), assistant(tool_calls=[WEATHER])),
        (assistant(refusal="No."), assistant([{"type": "refusal", "refusal": "No."}])),
        (assistant("So: ", refusal="No."), assistant([text("So: "), {"type": "refusal", "refusal": "No."}])),
        (assistant("Yes.", reasoning_content="Hm."), assistant("Yes.")),
        (tool("call_1", [text("clear")]), tool("call_1", "clear")),
        (tool("call_1", [IMAGE]), tool("call_1", "[input_image left out: this API takes none here]")),
    ],
)  # fmt: skip
def test_what_comes_back_in_another_form(message, comes_back):
    assert to_messages(bare([message])) == [comes_back]
    assert to_messages(rendered([message]), recorded=True) == [message]


async def test_what_the_assistant_says_in_a_row_is_one_message():
    async with open_engine(":memory:") as engine:
        c = await engine.create()
        await c.append(*to_items([user("Hi"), assistant("Hello."), assistant("How are you?")]))
        window = await c.window(Budget(1000), api="chat")
    assert window.messages == [user("Hi"), assistant([text("Hello."), text("How are you?")])]


def test_messages_as_items():
    told = assistant([text("So")], reasoning="Hm.", tool_calls=[WEATHER, SHELL])
    asked = user([text("Hi"), IMAGE, FILE])
    assert to_items([asked, told, tool("call_2", [text("total")]), tool("call_1", "clear")]) == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hi"},
                {"type": "input_image", "image_url": IMAGE["image_url"]["url"], "detail": "high"},
                {"type": "input_file", **FILE["file"]},
            ],
        },
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So"}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Köln"}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "shell", "input": "ls -l"},
        {
            "type": "custom_tool_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "total"}],
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "clear"},
    ]


def test_what_goes_home_to_its_backend():
    thought = {"reasoning_content": "Hm.", "name": "bot", "reasoning_details": [{"text": "Hm."}], "x": 1}
    said = assistant("Yes.", **thought)
    (home,) = to_messages(rendered([said], home=True))
    assert home == assistant("Yes.", reasoning_content="Hm.", name="bot", reasoning_details=[{"text": "Hm."}])
    assert to_messages(rendered([said])) == [assistant("Yes.", name="bot")]
    assert to_messages(rendered([said]), recorded=True) == [said]


def test_of_two_fields_of_reasoning_the_first_is_an_item():
    said = assistant("Yes.", reasoning="Hm,", reasoning_content="Hm.")
    thought, _ = pieces(said)
    assert thought.item["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert thought.extra == {"field": "reasoning_content", "set": [(["reasoning"], "Hm,")]}


@pytest.mark.parametrize(("detail", "sent"), [("original", "high"), ("low", "low"), ("auto", "auto")])
def test_details_of_images_that_chat_completions_has(detail, sent):
    image = {"type": "input_image", "image_url": "https://x/a.png", "detail": detail}
    (message,) = to_messages([Rendered(1, None, {"role": "user", "content": [image]})])
    assert message["content"] == [{"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": sent}}]


def test_calls_without_ids_and_with_arguments_that_are_no_text():
    calls = [{"function": {"name": "look", "arguments": {"at": 1}}}, {"custom": {"name": "shell"}}, {"id": "call_x"}]
    items = to_items([assistant(tool_calls=calls)])
    assert [(item["type"], item["call_id"]) for item in items] == [
        ("function_call", "call_0"), ("custom_tool_call", "call_1"), ("function_call", "call_x"),
    ]  # fmt: skip
    assert (items[0]["arguments"], items[1]["input"], items[2]["arguments"]) == ('{"at":1}', "", "")


# -- who says it

SPEECHES = st.lists(
    st.tuples(st.sampled_from([None, None, "ada", "bob"]), st.sampled_from(["Hi.", "Yes."])), min_size=1, max_size=6
)


def in_a_row(messages):
    """Return messages of the assistant as a window has them that were appended as items: one response."""
    return [Rendered(number, 1, item) for number, item in enumerate(to_items(messages), 2)]


def speeches(messages):
    """Return who says what, text by text."""
    contents = [(message.get("name"), message["content"]) for message in messages]
    texts = [
        (name, [content] if isinstance(content, str) else [part["text"] for part in content])
        for name, content in contents
    ]
    return [(name, text) for name, said in texts for text in said]


@given(SPEECHES)
def test_what_is_said_in_a_row_keeps_its_names(said):
    messages = [assistant(text) | ({"name": name} if name else {}) for name, text in said]
    made = to_messages(in_a_row(messages))
    assert speeches(made) == said
    names = [message.get("name") for message in made]
    assert all(left != right for left, right in pairwise(names)), "under one name it is one message"
    assert refusals("chat", {"model": "gpt-4o-mini", "messages": made}) == []
    assert to_messages(in_a_row(made)) == made


def test_messages_of_several_names_go_through_a_log():
    ada, bob = assistant("I will look.", name="ada", tool_calls=[WEATHER]), assistant("Good.", name="bob")
    clear = {"role": "tool", "tool_call_id": "call_1", "content": "clear"}
    messages = [user("Who is there?"), assistant("Me.", name="ada"), assistant("And me.", name="bob"), bob | {"x": 1}]
    messages += [user("Is it sunny?"), ada, clear, bob, assistant("We are done.")]
    expected = [*messages[:2], bob | {"content": [{"type": "text", "text": text} for text in ("And me.", "Good.")]}]

    async def main():
        async with open_engine(":memory:") as engine:
            c = await engine.create()
            await c.append(*to_items(messages))
            return (await c.window(Budget(5000), api="chat")).messages

    made = anyio.run(main)
    assert made == [*expected, *messages[4:]]
    assert refusals("chat", {"model": "gpt-4o-mini", "messages": made}) == []


@pytest.mark.parametrize("first", [None, "ada"])
def test_calls_go_into_the_last_message_of_their_response(first):
    """Their outputs have to stand right behind them."""
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    says = [assistant("I will look.") | ({"name": first} if first else {}), assistant("Do!", name="bob")]
    thought = {"type": "reasoning", "summary": [], "id": "rs_1"}
    window = [Rendered(2, 2, thought), Rendered(3, 2, says[0]), Rendered(4, 2, call), Rendered(5, 2, thought)]
    window += [Rendered(6, 2, says[1]), Rendered(7, 2, thought)]
    window += [Rendered(8, None, {"type": "function_call_output", "call_id": "call_1", "output": "clear"})]
    made = to_messages([Rendered(1, None, user("Hi")), *window])
    assert [message.get("name") for message in made] == [None, first, "bob", None]
    assert [len(message.get("tool_calls", ())) for message in made] == [0, 0, 1, 0]
    assert refusals("chat", {"model": "gpt-4o-mini", "messages": made}) == []


def test_what_an_earlier_release_sent_is_still_written_so():
    window = in_a_row([assistant("One.", name="ada"), assistant("Two.", name="bob")])
    said = [{"type": "text", "text": text} for text in ("One.", "Two.")]
    settings_ = {"model": "gpt-4o-mini"}
    assert ENCODERS[1](window, settings_)["messages"] == [assistant(said, name="bob")]
    assert ENCODERS[2](window, settings_)["messages"] == [assistant("One.", name="ada"), assistant("Two.", name="bob")]
    assert ENCODERS[3](window, settings_)["messages"] == ENCODERS[2](window, settings_)["messages"]
    assert ChatCompletions.encoder == max(ENCODERS) == 3


# -- what is refused

OLD = {"name": "weather", "arguments": "{}"}


@pytest.mark.parametrize(
    ("message", "path", "says"),
    [
        ({"content": "Hi"}, "messages[1].role", "None is none of user, assistant, system, developer, tool"),
        ({"role": "function", "name": "weather", "content": "clear"}, "messages[1].role", "none of user, assistant"),
        ({"role": ["user"], "content": "Hi"}, "messages[1].role", "none of user"),
        (assistant(function_call=OLD), "messages[1].function_call", "old form of a call; write it as tool_calls"),
        (assistant("Let me look.", function_call=OLD), "messages[1].function_call", "old form of a call"),
        (assistant(audio={"id": "audio_1"}), "messages[1].audio", "pass its transcript as content"),
        (user(float("nan")), "messages[1].content", "nan has no place in JSON"),
    ],
)
def test_what_would_be_lost_is_refused(message, path, says):
    with pytest.raises(InvalidItem) as raised:
        to_items([user("Hi"), message])
    assert raised.value.path == path
    assert says in raised.value.reason


def test_a_recorded_message_of_an_old_form_is_kept_beside():
    message = assistant(function_call=OLD, audio={"id": "audio_1"})
    assert to_messages(rendered([message]), recorded=True) == [message]
    assert to_items([assistant("With words.", audio={"id": "audio_1"})]) == to_items([assistant("With words.")])
