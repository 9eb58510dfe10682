"""`turnlog report`: one page that needs nothing else, seen by a real browser."""

import json
import re
import sqlite3
from contextlib import closing
from difflib import SequenceMatcher
from html.parser import HTMLParser

import anyio
import pytest

from browser import browser
from command_line import turnlog
from instant_model import Instant
from turnlog import Budget, open_engine
from turnlog.adapters.cli import reporting

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!--<script>window.hacked = 1",
    "{js}{data}{css}${window.hacked = 1}",
    "]]>\u2028\u2029\ufeff'\"`\\u003c/script>",
    "javascript:window.hacked=1",
)


@pytest.fixture(scope="module")
def chromium():
    with browser() as page:
        yield page


def reported(db, name, tmp_path):
    path = tmp_path / "page.html"
    told = turnlog("report", name, "-o", path, "--db", db, "--json")
    assert told.code == 0, told.err
    assert told.json["bytes"] == path.stat().st_size
    return path


def data_in(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def places(data, step):
    """Return where the items of a request are, as the page finds them."""
    same, ranges = step["pieces"]
    before = places(data, data["steps"][step["before"]]) if same else []
    return [*before[:same], *(at for first, count in ranges for at in range(first, first + count))]


def body(data, step):
    """Return a request's body as the page puts it together."""
    items = [json.loads(data["pieces"][at]) for at in places(data, step)]
    frame = {key: json.loads(part) for key, part in data["frames"][step["frame"]].items()}
    return {**frame, **({step["field"]: items} if step["field"] else {})}


def test_every_request_is_there_as_it_was_sent(every, tmp_path):
    data = data_in(reported(every, "everything", tmp_path))
    steps = turnlog("replay", "everything", "--db", every, "--json").json["steps"]
    assert [one["seq"] for one in data["steps"]] == [one["seq"] for one in steps]
    for step in data["steps"]:
        sent = turnlog("request", "everything", "--response", step["seq"], "--db", every, "--json").json
        assert body(data, step) == sent
        assert sum(step["kinds"]) == step["tokens"]
    assert [turn["number"] for turn in data["turns"]] == list(range(1, len(data["turns"]) + 1))
    assert [turn["alive"] for turn in data["turns"]].count(False) == 2


def test_the_page_is_one_file_that_asks_nobody_for_anything(every, tmp_path):
    text = reported(every, "everything", tmp_path).read_text()
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    Parser().feed(text)
    assert not any("src" in attrs or "href" in attrs for _, attrs in found)
    (policy,) = [attrs["content"] for tag, attrs in found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_a_conversation_without_a_model_call_has_a_page_too(db, tmp_path, chromium):
    async def make():
        async with open_engine(db) as engine:
            await (await engine.create(id="c")).append("Hello?")

    anyio.run(make)
    path = reported(db, "c", tmp_path)
    chromium.open(path)
    assert "Hello?" in chromium.text("#turns")
    assert chromium.said == []
    assert turnlog("report", "nobody", "-o", tmp_path / "no.html", "--db", db).code == 2
    assert turnlog("report", "c", "-o", tmp_path / "no" / "folder.html", "--db", db).code == 2
    assert not (tmp_path / "no.html").exists()


def test_a_person_finds_the_cut_its_diff_and_the_exact_request(every, tmp_path, chromium):
    path = reported(every, "everything", tmp_path)
    data = data_in(path)
    chromium.open(path)
    assert "33" in chromium.text("#tiles")
    assert chromium.value("document.querySelectorAll('.row').length") == len(data["steps"])
    at = next(index for index, one in enumerate(data["steps"]) if one["cut"] and index > 10)
    step = data["steps"][at]
    # A click on the chart, where the request's bar is.
    chromium.click("#tokens svg", at=((at + 0.4) / len(data["steps"]), 0.9))
    assert f"Response {step['seq']} completed" in chromium.text("#detail h2")
    assert "oldest-turns@1: over" in chromium.text("#detail")
    chromium.click("[role=tab]:nth-child(2)")
    counts = [chromium.value(f"document.querySelectorAll('#detail pre.{one}').length") for one in ("removed", "added")]
    old, new = places(data, data["steps"][step["before"]]), places(data, step)
    same = len(set(old) & set(new))
    assert f"{same} items are the same" in chromium.text("#detail")
    assert counts == [len(old) - same, len(new) - same] != [len(old), len(new)]
    assert "What of these two?" in chromium.text("#detail pre.removed")
    chromium.click("[role=tab]:nth-child(3)")
    assert json.loads(chromium.value("document.querySelector('#detail pre').textContent")) == body(data, step)
    chromium.press("ArrowRight")
    assert f"Response {data['steps'][at + 1]['seq']}" in chromium.text("#detail h2")
    assert chromium.text("[role=tab][aria-selected=true]") == "Request"
    assert chromium.said == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(
            (kind, change)
            for kind in ("requested", "started", "completed")
            for change in ("data = x'7b22'", "time = 'x'")
        ),
        ("requested", "data = NULL"),
        ("requested", "kind = 'other'"),
        ("requested", """data = replace(CAST(data AS TEXT), '"runs":[[1,', '"runs":[[77,')"""),
        ("completed", 'data = \'{"usage": {"input_tokens": "many"}}\''),
    ],
)
def test_a_call_that_cannot_be_read_is_shown_as_damaged_and_the_rest_is_drawn(log, tmp_path, chromium, kind, change):
    whole = data_in(reported(log, "talk", tmp_path))["steps"]
    with closing(sqlite3.connect(log, isolation_level=None)) as db:
        one = "SELECT seq, coalesce(response, seq) FROM events WHERE kind = ? LIMIT 1 OFFSET 1"
        seq, response = db.execute(one, (f"response.{kind}",)).fetchone()
        db.execute(f"UPDATE events SET {change} WHERE seq = ?", (seq,))
    path = reported(log, "talk", tmp_path)
    found = data_in(path)["steps"]
    at = [one["seq"] for one in found].index(response)
    said = ("seq", "turn", "status", "tokens", "missing")
    one, other = ([[step[key] for key in said] for step in (*some[:at], *some[at + 1 :])] for some in (found, whole))
    assert one == other
    assert found[at]["status"] == "damaged"
    assert f"talk/{seq}: " in found[at]["error"]
    chromium.open(path)
    chromium.click(f"#row-{at}")
    assert "restore it from a backup" in chromium.text("#detail")
    assert ("damaged" in chromium.text("#tiles"), chromium.said) == (True, [])
    told = turnlog("replay", "talk", "--all", "--db", log)
    assert (told.code, "damaged" in told.out) == (0, True), told.err


def test_a_person_finds_the_failure(every, tmp_path, chromium):
    chromium.open(reported(every, "everything", tmp_path))
    chromium.click("#row-1")
    chromium.press("Escape")
    assert chromium.value("document.getElementById('detail').hidden")
    chromium.value(
        "document.getElementById('filter').value = 'error';"
        "document.getElementById('filter').dispatchEvent(new Event('change'))"
    )
    assert chromium.value("document.querySelectorAll('.row').length") == 1
    chromium.click(".row")
    assert "server_error: busy" in chromium.text("#detail")
    assert chromium.said == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_it_is_legible_in_light_and_dark_at_a_desk_and_on_a_phone(every, tmp_path, chromium, dark, phone):
    width, height = (390, 844) if phone else (1200, 900)
    chromium.open(reported(every, "everything", tmp_path), width=width, height=height, dark=dark, phone=phone)
    chromium.click(".row")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert chromium.value(CONTRAST) == []
    if phone:
        low = "[...document.querySelectorAll('button')].filter(one => one.getBoundingClientRect().height < 40).length"
        assert chromium.value(low) == 0
    assert chromium.said == []


CONTRAST = """
(() => {
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const curve = (one) => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((one) => curve(one / 255))
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return rgb(getComputedStyle(document.documentElement).backgroundColor);
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || ["SCRIPT", "STYLE"].includes(one.tagName)) continue;
    const [over, under] = [light(rgb(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(over, under) + 0.05) / (Math.min(over, under) + 0.05);
    if (ratio < 4.5) poor.push(`${one.tagName} ${one.className} ${one.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""


def test_nothing_that_was_said_is_run(db, tmp_path, chromium):
    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c", metadata={text: text for text in HOSTILE})
            for index, text in enumerate(HOSTILE):
                model = Instant()
                model.answer = [model.message(text, index)]
                model.name, model.backend = f"gpt-4o-mini{text}", text
                await c.run(
                    model,
                    text,
                    instructions=text,
                    tools=[{"type": "function", "name": f"t{index}", "description": text}],
                )

    anyio.run(make)
    path = reported(db, "c", tmp_path)
    assert path.read_text().count("<script") == 2
    chromium.open(path)
    for at in range(len(HOSTILE)):
        chromium.click(f"#row-{at}")
        for tab in (2, 3, 1):
            chromium.click(f"[role=tab]:nth-child({tab})")
    assert chromium.value("window.hacked") is None
    assert (
        chromium.value("document.images.length + document.querySelectorAll('#turns script, #detail script').length")
        == 0
    )
    for text in HOSTILE[:3]:
        assert text in chromium.value("document.getElementById('turns').textContent")
    assert chromium.said == []


def test_five_thousand_events_are_less_than_five_megabytes(db, tmp_path, chromium):
    """However long the texts are: then they are cut short, and the page says how to see them whole."""

    async def make():
        async with open_engine(db, durability="normal") as engine:
            c = await engine.create(id="long")
            model = Instant(answer=lambda number: f"{number} " + "word " * 1_000, budget=Budget(16_000))
            for turn in range(1_000):
                await c.run(model, f"Question {turn}: " + "and what of it? " * 10)
            assert c.version >= 5_000

    anyio.run(make)
    path = reported(db, "long", tmp_path)
    assert path.stat().st_size < 5_000_000
    chromium.open(path)
    assert chromium.value("document.querySelectorAll('.row').length") == 1_000
    chromium.click("#row-999")
    chromium.click("[role=tab]:nth-child(3)")
    assert "are cut short on this page" in chromium.text("#detail")
    assert "Question 999" in chromium.text("#detail")


def test_numbers_and_keys_are_as_they_were_sent(db, tmp_path, chromium):
    properties = {"10": {"maximum": 2**60 + 1}, "2": {"default": 0.5}, "a": {"description": "user\u202etxt\u2066.exe"}}
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": properties}}

    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c")
            await c.run(Instant(), 'A "quoted" \\ [text], {with}: signs \u202e.', tools=[tool])

    anyio.run(make)
    path = reported(db, "c", tmp_path)
    chromium.open(path)
    chromium.click("#row-0")
    chromium.click("[role=tab]:nth-child(3)")
    shown = chromium.value("document.querySelector('#detail pre').textContent")
    sent = turnlog("request", "c", "--db", db, "--json").json
    assert json.loads(shown) == sent
    assert str(2**60 + 1) in shown
    assert shown.index('"10"') < shown.index('"2"')
    assert r"user\u202etxt\u2066.exe" in shown
    text = chromium.value("document.body.innerText")
    assert not set(text) & set("\u202e\u2066")
    assert shown == json.dumps(sent, indent=2, ensure_ascii=False, sort_keys=True).replace("\u202e", r"\u202e").replace(
        "\u2066", r"\u2066"
    )


def test_no_content_makes_a_page_too_large(db, tmp_path, chromium):
    """Many parts, many keys, instructions that are another each time: all of them are shortened, and it says so."""

    async def make():
        async with open_engine(db, durability="normal") as engine:
            c = await engine.create(id="parts")
            model = Instant(budget=Budget(1_000_000))
            for turn in range(60):
                parts = [{"type": "input_text", "text": f"{turn}.{part} " + "x" * 90} for part in range(1_000)]
                await c.run(model, [{"role": "user", "content": parts}], instructions=f"{turn} " * 3_000)

    anyio.run(make)
    path = reported(db, "parts", tmp_path)
    assert path.stat().st_size < 5_000_000
    chromium.open(path)
    chromium.click("#row-59")
    chromium.click("[role=tab]:nth-child(3)")
    assert "turnlog request parts --response" in chromium.text("#detail .warn")
    assert "more characters" in chromium.text("#detail pre")
    assert chromium.said == []


def test_what_is_still_too_much_is_left_out_oldest_first(monkeypatch, every, tmp_path, chromium):
    monkeypatch.setattr(reporting, "_LARGEST", 12_000)
    path = reported(every, "everything", tmp_path)
    data = data_in(path)
    assert path.stat().st_size < 60_000
    assert 0 < len(data["steps"]) < 33
    chromium.open(path)
    assert f"the first {33 - len(data['steps'])} requests are left out" in chromium.text("#about")
    chromium.click(".row")
    chromium.click("[role=tab]:nth-child(3)")
    assert "this page would be too large with it: turnlog request everything" in chromium.text("#detail")
    assert chromium.said == []


def test_one_huge_request_does_not_flatten_the_chart(db, tmp_path, chromium):
    async def make():
        async with open_engine(db, durability="normal") as engine:
            c = await engine.create(id="c")
            for turn in range(40):
                model = Instant(budget=Budget(200_000 if turn == 20 else 1_000))
                await c.run(model, "word " * (60_000 if turn == 20 else 20))

    anyio.run(make)
    chromium.open(reported(db, "c", tmp_path))
    assert chromium.value("document.querySelectorAll('#tokens .over').length") == 1
    assert "more than the chart shows" in chromium.text("#legend")
    assert "the top is 2,000 tokens" in chromium.text("#tokens")


def test_the_diff_finds_what_is_the_same_in_lists_of_any_length(db, tmp_path, chromium):
    """As difflib does where the lists are short; in long ones by what stands in each only once."""

    async def make():
        async with open_engine(db) as engine:
            c = await engine.create(id="c")
            model = Instant(budget=Budget(700))
            for turn in range(60):
                await c.run(model, "Yes." if turn % 3 else f"Question {turn}: " + "and what of it? " * 6)

    anyio.run(make)
    path = reported(db, "c", tmp_path)
    data = data_in(path)
    chromium.open(path)
    cuts = [at for at, one in enumerate(data["steps"]) if one["cut"] and one["before"] is not None]
    assert cuts
    for at in cuts:
        step = data["steps"][at]
        old, new = places(data, data["steps"][step["before"]]), places(data, step)
        blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
        chromium.click(f"#row-{at}")
        chromium.click("[role=tab]:nth-child(2)")
        same = int(chromium.text("#detail .hint").split("items are the same")[0].split(": ")[1])
        assert same >= sum(one.size for one in blocks) > 1
