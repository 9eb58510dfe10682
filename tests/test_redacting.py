"""Redacted exports: nothing of the content is left, and everything that a bug may be about is."""

import json

import pytest

from everything_log import everything
from instant_model import Instant, call
from turnlog import Budget, open_engine
from turnlog.engine.portable import Package, restore
from turnlog.engine.redacting import _WORDS, Redactor, redacted
from turnlog.engine.replay import RecordedModel, verify
from turnlog.engine.vocabulary import load

pytestmark = pytest.mark.anyio

SECRETS = ("Ada Lovelace", "ada@example.org", "4929 1234 5678", "Zanzibar")


@pytest.fixture
async def redactor():
    return Redactor((await load("o200k_base")).count)


async def lines(engine, name, redactor):
    return [line async for line, _ in redacted(engine.store, name, redactor)]


async def restored(engine, lines):
    package = None
    for line in lines:
        value = json.loads(line)
        if "turnlog" in value:
            package = Package(value)
        else:
            package.add(value)
        if package.whole:
            await restore(engine.store, package)
    return package.id


async def secretive(engine):
    who, mail, card, place = SECRETS
    c = await engine.create(id="c", metadata={"user": mail, "card": 492912345678})
    await c.append({"role": "system", "content": f"You serve {who}."})
    png = "data:image/png;base64," + "iVBORw0KGgo" * 40
    picture = {
        "role": "user",
        "content": [{"type": "input_text", "text": who}, {"type": "input_image", "image_url": png}],
    }

    def answer(number):
        if number == 1:
            thought = {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": place}],
                "encrypted_content": "gAAAAB" * 50,
            }
            return [thought, call("book", json.dumps({"to": place, "card": card, "nights": 31415926}), 1)]
        return f"Booked for {who}: {place}."

    async def book(to: str, card: str, nights: int) -> dict[str, str]:
        """Book a trip to Zanzibar."""
        return {"confirmation": f"{who} pays with {card}", "place": to}

    model = Instant(answer=answer, budget=Budget(100_000))
    await c.run(
        model,
        ["Book it, please.", picture],
        tools=[book],
        instructions=f"Mind {who}.",
        params={"metadata": {"of": mail}, "reasoning": {"effort": "low"}},
    )
    await c.append(f"My address: {mail}", meta={"seen": place})
    await c.append("x" * 100_000 + place)
    await c.run(model, "And now?", key=f"{mail}-1")
    return c


async def test_nothing_of_the_content_is_left(engine, redactor):
    await secretive(engine)
    text = b"".join(await lines(engine, "c", redactor)).decode()
    for secret in (
        *SECRETS,
        "Lovelace",
        "iVBOR",
        "gAAAAB",
        "492912345678",
        "31415926",  # long enough for no digest, checksum or time to have it by chance
        "xxxx",
        "Book it",
        'confirmation\\\\": \\\\"Ada',
    ):
        assert secret not in text, secret
    for kept in ('"book"', '"call_id":"call_1"', '"effort":"low"', '"rs_1"', '"to": "', '"nights', '"gpt-4o-mini"'):
        assert kept in text.replace("\\", ""), kept


async def test_shape_tokens_and_pairing_are_kept(engine, redactor):
    c = await secretive(engine)
    async with open_engine(":memory:") as other:
        await restored(other, await lines(engine, "c", redactor))
        theirs = [event async for event in (await other.get("c")).events()]
        ours = [event async for event in c.events()]
        assert [(e.seq, e.type, e.time, e.response, e.tokens) for e in theirs] == [
            (e.seq, e.type, e.time, e.response, e.tokens) for e in ours
        ]
        for mine, their in zip(ours, theirs, strict=True):
            assert shape(mine.item) == shape(their.item)
        # Counted anew, texts have as many tokens as they had.
        for event in theirs:
            if event.item and event.item.get("role") == "user" and isinstance(event.item["content"], str):
                assert (await other.intake.item(event.item)).tokens == event.tokens
        report = await verify(other.store, "c")
        assert (report.responses, report.verified) == (3, 3)


def shape(value):
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


async def test_the_recorded_model_plays_from_it(engine, redactor, tmp_path):
    path = tmp_path / "redacted.jsonl"
    await secretive(engine)
    made = await lines(engine, "c", redactor)
    path.write_bytes(b"".join(made))
    async with open_engine(":memory:") as other:
        await restored(other, made)
        said = [event async for event in (await other.get("c")).events()]
    given = [event.item for event in said if event.item and event.item.get("role") == "user"]

    async def book(to: str, card: str, nights: int) -> dict[str, str]:
        raise AssertionError("a recorded tool does not run")

    model = RecordedModel(path)
    c = await engine.create(id="again")
    await c.append(next(event.item for event in said if event.item))
    await c.run(model, given[:2], tools=model.tools([book]))
    await c.append(given[2])
    await c.append(given[3])
    result = await c.run(model, given[4])
    assert set(result.output_text.split()) <= set(_WORDS)
    model.check()


async def test_forks_rewinds_and_what_diverged_stay_what_they_were(engine, redactor):
    c = await everything(engine)
    fork = await c.fork(id="fork")
    await fork.run(Instant(budget=Budget(4_000, 200)), "And here?")
    erased = [entry.seq async for entry in c.items()][8]
    await c.erase(erased, reason="asked to by Ada")
    before = {name: await verify(engine.store, name) for name in ("everything", "fork")}
    async with open_engine(":memory:") as other:
        made = await lines(engine, "fork", redactor)
        assert b"Ada" not in b"".join(made)
        await restored(other, made)
        after = await verify(other.store, "fork")
        wanted = before["fork"]
        assert (after.responses, after.verified, after.erased) == (wanted.responses, wanted.verified, wanted.erased)
        manifests = [[call.manifest async for call in (await e.get("fork")).responses()] for e in (engine, other)]
        assert manifests[0] == manifests[1]


async def test_equal_texts_become_equal_and_another_export_says_other_words(redactor):
    count = (await load("o200k_base")).count
    text = "The quick brown fox jumps over the lazy dog."
    assert redactor.text(text) == redactor.text(text) != redactor.text(text + " Twice.")
    assert count(redactor.text(text)) == count(text)
    assert Redactor(count).text(text) != redactor.text(text)
    assert Redactor(count, b"salt").text(text) == Redactor(count, b"salt").text(text)
    assert redactor.json('{"a": [1, "b"], "c": "not json') == redactor.text('{"a": [1, "b"], "c": "not json')
    assert json.loads(redactor.json('{"a": [123, true, null]}')) == {"a": [111, True, None]}
    for word in _WORDS:
        assert count(word) == count(f" {word}") == 1
