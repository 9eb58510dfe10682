"""`turnlog report`: one page that needs nothing else, seen by a real browser."""

import json
import re
from html.parser import HTMLParser

import anyio
import pytest

from browser import browser
from command_line import turnlog
from everything_log import clock, everything
from instant_model import Instant
from turnlog import Budget, open_engine

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


@pytest.fixture
def every(db):
    async def make():
        async with open_engine(db, clock=clock()) as engine:
            await everything(engine)

    anyio.run(make)
    return db


def reported(db, name, tmp_path):
    path = tmp_path / "page.html"
    told = turnlog("report", name, "-o", path, "--db", db, "--json")
    assert told.code == 0, told.err
    assert told.json["bytes"] == path.stat().st_size
    return path


def data_in(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def body(data, step):
    """Return a request's body as the page puts it together."""
    items = [data["pieces"][at] for first, count in step["pieces"] for at in range(first, first + count)]
    return {**data["frames"][step["frame"]], **({step["field"]: items} if step["field"] else {})}


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
    assert "items at the beginning are the same" in chromium.text("#detail")
    assert "What of these two?" in chromium.text("#detail pre.removed")
    chromium.click("[role=tab]:nth-child(3)")
    assert json.loads(chromium.value("document.querySelector('#detail pre').textContent")) == body(data, step)
    chromium.press("ArrowRight")
    assert f"Response {data['steps'][at + 1]['seq']}" in chromium.text("#detail h2")
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
