"""Server-sent events, however they are written and wherever they are cut."""

import json

from hypothesis import given
from hypothesis import strategies as st

from turnlog.adapters.wire import ServerSentEvents

NEWLINES = st.sampled_from([b"\n", b"\r\n", b"\r"])
PRINTABLE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw):
    """Draw a stream's bytes and the data of its events."""
    written = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    events = []
    for data in draw(st.lists(st.lists(PRINTABLE, max_size=3), max_size=5)):
        newline = draw(NEWLINES)
        lines = [b"data:%s%s" % (draw(st.sampled_from([b"", b" "])), text.encode()) for text in data]
        other = [b": a comment", b"event: x", b"id: 7", b"retry: 10", b"unknown", b"datax: 1", b":"]
        for line in draw(st.lists(st.sampled_from(other), max_size=2)):
            lines.insert(draw(st.integers(0, len(lines))), line)
        written += b"".join(line + newline for line in lines) + newline
        if data:
            # One space behind the colon belongs to it, whether it was written there or is the text's own.
            texts = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
            events.append(b"\n".join(texts))
    return written, events


@st.composite
def cut(draw, content):
    places = sorted(draw(st.sets(st.integers(0, len(content)), max_size=12)))
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]


def told(chunks):
    events = ServerSentEvents()
    found = [data for chunk in chunks for data in events.feed(chunk)]
    return [*found, *events.finish()]


@given(st.data())
def test_any_cut_gives_the_same_events(data):
    content, events = data.draw(streams())
    assert told(data.draw(cut(content))) == events


def test_every_byte_by_itself():
    content = b"\xef\xbb\xbfdata: one\r\n\r\ndata: t\r\ndata: wo\r\n\r\n: no\r\rdata\r\rdata: \xc3\xbc\n\n\n\ndata:last"
    expected = [b"one", b"t\nwo", b"", "ü".encode(), b"last"]
    assert told([content]) == expected
    assert told([content[at : at + 1] for at in range(len(content))]) == expected
    for at in range(len(content)):
        assert told([content[:at], b"", content[at:]]) == expected


def test_an_end_in_the_middle():
    assert told([b"data: a\n"]) == [b"a"]
    assert told([b"data: a"]) == [b"a"]
    assert told([b"data: a\n\n"]) == [b"a"]
    assert told([b": only this"]) == []
    assert told([]) == []


@given(st.recursive(st.none() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_json_comes_through(value):
    data = json.dumps(value, ensure_ascii=False).encode(errors="replace")
    assert told([b"data: " + data[:3], data[3:] + b"\n\n"]) == [data]
