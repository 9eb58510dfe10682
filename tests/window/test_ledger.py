"""What the API's reports teach: hidden words come back as often as they are, foreign text by a factor, both bounded."""

import pytest

from pictures import png
from turnlog import Budget, BudgetExceeded, open_engine
from turnlog.adapters.responses import encode
from turnlog.engine.manifest import Verdict
from turnlog.engine.model import StreamEvent
from turnlog.engine.window.ledger import Seen

pytestmark = pytest.mark.anyio

TEXT = "All work and no play makes Jack a dull boy. "
AROUND = 6


class Reporting:
    """A model that answers with a word, and reports the input that it is told to."""

    adapter = api = "responses"
    budget = Budget(32_000)

    def __init__(self, name="gpt-4o", backend="b", reports=None, **more):
        self.name, self.backend, self.reports = name, backend, reports
        self.__dict__ |= more
        self.windows = []

    def encode(self, window, settings):
        self.windows.append(window)
        return encode(window.rendered, settings)

    async def send(self, request):
        content = [{"type": "output_text", "text": "Yes.", "annotations": []}]
        number = len(self.windows)
        item = {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }
        items = [*({**one, "id": f"rs_{number}"} for one in self.__dict__.get("thinks", ())), item]
        for index, made in enumerate(items):
            raw = {"type": "response.output_item.done", "output_index": index, "item": made}
            yield StreamEvent(type="response.output_item.done", item=made, raw=raw)
        counted = self.windows[-1].tokens.total
        made = self.__dict__.get("made", {"output_tokens": 2})
        usage = None if self.reports is None else {"input_tokens": self.reports(counted), **made}
        end = {"status": "completed", "output": [item], "usage": usage}
        yield StreamEvent(type="response.completed", raw={"type": "response.completed", "response": end})


@pytest.fixture
async def c():
    async with open_engine(":memory:") as engine:
        yield await engine.create()


async def test_a_page_that_nobody_sees_is_added_once_and_does_not_grow(c):
    """A greeting under fifteen hundred hidden tokens is no reason to refuse a long message."""
    model = Reporting(reports=lambda counted: counted + 1500)
    await c.respond(model, "Hi")
    assert (model.windows[0].manifest.hidden, model.windows[0].manifest.factor) == (0, 1000)
    await c.append(TEXT * 2000)
    window = await c.window(model=model)
    plain = window.manifest.items + 3
    assert plain > 20_000
    assert (window.manifest.hidden, window.manifest.factor) == (1500, 1000)
    assert window.manifest.overhead == 3 + 1500
    assert window.tokens.total == plain + 1500


async def test_what_is_hidden_is_looked_at_anew_with_each_report(c):
    reported = iter([1500, 10, 400, 0])
    model = Reporting(reports=lambda counted: counted - model.windows[-1].manifest.hidden + next(reported))
    hidden = []
    for _ in range(4):
        await c.respond(model, "Hi")
        hidden.append((await c.window(model=model)).manifest.hidden)
    assert hidden == [1500, 10, 400, 0]


async def test_a_request_without_a_report_leaves_it_as_it_was(c):
    await c.respond(Reporting(reports=lambda counted: counted + 700), "Hi")
    silent = Reporting()
    await c.respond(silent, "Hi")
    assert (await c.window(model=silent)).manifest.hidden == 700
    await c.respond(silent, "Hi")
    assert (await c.window(model=silent)).manifest.hidden == 700


async def test_another_budget_begins_with_what_the_latest_request_showed(c):
    model = Reporting(reports=lambda counted: counted + 700)
    await c.respond(model, "Hi")
    assert (await c.window(Budget(20_000), model=model)).manifest.hidden == 700
    for other in (Reporting("gpt-4.1"), Reporting(backend="elsewhere")):
        assert (await c.window(model=other)).manifest.hidden == 0
    assert (await c.window(Budget(20_000))).manifest.hidden == 0  # the items alone


async def test_a_report_below_the_count_lowers_nothing(c):
    model = Reporting(reports=lambda counted: counted // 2)
    await c.respond(model, "Hi")
    window = await c.window(model=model)
    assert (window.manifest.hidden, window.manifest.factor) == (0, 1000)


async def test_hidden_words_count_against_the_budget(c):
    model = Reporting(reports=lambda counted: counted + 700)
    await c.respond(model, "Hi")
    needed = (await c.window(model=model)).tokens.total
    assert needed > 700
    await c.respond(model, "word " * 700)
    await c.respond(model, "And now?")
    short = await c.window(Budget(1_400), model=model)
    assert short.manifest.cut
    assert 700 < short.tokens.total <= 1_400


async def test_hidden_words_never_make_a_request_impossible(c):
    """A report may mislead: no more than half of the room is taken for hidden."""
    model = Reporting(reports=lambda counted: counted + 50_000)
    await c.respond(model, "Hi")
    window = await c.window(Budget(1_000), model=model)
    assert 500 < window.tokens.total <= 1_000
    with pytest.raises(BudgetExceeded):
        await c.window(Budget(6), model=model)


# -- foreign text


async def test_foreign_text_grows_with_a_factor(c):
    model = Reporting("acme-7b", reports=lambda counted: counted * 13 // 10)
    await c.respond(model, TEXT * 400)
    counted = model.windows[0].tokens.total
    manifest = (await c.window(model=model)).manifest
    assert 1270 <= manifest.factor < 1300
    assert abs(manifest.tokens - manifest.items * 1.3) < 80
    assert manifest.tokens > counted * 1.29


async def test_a_factor_stays_plausible(c):
    """No vocabulary differs by more than half: what a greeting lacks beyond that is hidden."""
    model = Reporting("acme-7b", reports=lambda counted: counted + 1500)
    await c.respond(model, "Hi")
    await c.append(TEXT * 1500)
    manifest = (await c.window(model=model)).manifest
    assert manifest.factor == 1500
    assert 1500 <= manifest.tokens - manifest.items * 1.5 < 1530
    assert manifest.tokens < 32_000


async def test_a_models_own_counter_is_its_own_vocabulary(c):
    model = Reporting("acme-7b", reports=lambda counted: counted * 13 // 10, count=len)
    await c.respond(model, TEXT * 100)
    manifest = (await c.window(model=model)).manifest
    assert manifest.factor == 1000
    assert manifest.hidden == len(TEXT) * 100 * 3 // 10 + 2


# -- how sure it is


def test_the_bound_adds_up():
    assert Seen().bound(1000, 200, 10, 1000) == 200 + 10 * AROUND
    assert Seen().bound(1000, 200, 10, 1500) == 300 + 15 * AROUND
    assert Seen(doubt=16).bound(1000, 0, 10, 1000) == 10 * AROUND + 16
    assert Seen(doubt=16, share=100).bound(1005, 0, 1, 1000) == AROUND + 16 + 101


async def test_a_window_is_surer_once_the_api_has_reported(c):
    known = Reporting(reports=lambda counted: counted)
    await c.append("Hi")
    assert (await c.window(model=known)).tokens.bound == AROUND + 256
    await c.respond(known)
    assert (await c.window(model=known)).tokens.bound == 2 * AROUND + 16
    foreign = Reporting("acme-7b", reports=lambda counted: counted)
    unseen = (await c.window(model=foreign)).tokens
    assert unseen.bound == 2 * AROUND + 256 + -(-unseen.total // 2)
    assert not unseen.measured
    await c.respond(foreign)
    seen = (await c.window(model=foreign)).tokens
    assert seen.bound == 3 * AROUND + 16 + -(-seen.total // 10)


# -- what a model forgets

SECRET = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 2800}
THOUGHT = 4 + 300


@pytest.mark.parametrize(
    ("name", "params", "forgets"),
    [
        ("gpt-5", {}, True),
        ("gpt-5.5", {"reasoning": {"effort": "low"}}, True),
        ("gpt-5.5", {"reasoning": {"context": "auto"}}, True),
        ("gpt-5.5", {"reasoning": {"context": "all_turns"}}, False),
        ("gpt-5.6", {}, False),
        ("gpt-5.6", {"reasoning": {"context": "current_turn"}}, True),
        ("acme-7b", {}, False),
        ("o3", {}, True),
    ],
)
async def test_what_a_model_is_not_shown_again_does_not_count(c, name, params, forgets):
    model = Reporting(name, thinks=[SECRET], params=params)
    await c.respond(model, "Hi")
    before = (await c.window(model=model)).manifest
    thought = next(seq for seq, tokens in before.weights.items() if tokens == THOUGHT)
    await c.append("And?")
    window = await c.window(model=model)
    after = window.manifest
    assert after.items - before.items == after.weights[after.as_of] - (THOUGHT if forgets else 0)
    assert [sum(manifest.weights.values()) for manifest in (before, after)] == [before.items, after.items]
    assert before.why(thought).rule == "it fits"
    rule = "it fits, and the model is not shown it again" if forgets else "it fits"
    assert window.explain()[thought - 1] == Verdict(thought, "kept", rule, 0 if forgets else THOUGHT)
    assert thought in {one.seq for one in window.rendered}


async def test_reasoning_in_the_log_weighs_what_was_reported(c):
    made = {"output_tokens": 230, "output_tokens_details": {"reasoning_tokens": 220}}
    model = Reporting("gpt-5", thinks=[SECRET], made=made, reports=lambda counted: counted)
    await c.respond(model, "Hi")
    weights = (await c.window(model=model)).manifest.weights
    assert [weights[seq] for seq in sorted(weights)] == [5, 230 - 6, 6]
    c._engine.reader.forget(c.id)
    assert (await c.window(model=model)).manifest.weights == weights


async def test_what_is_thought_in_the_current_turn_counts(c):
    model = Reporting("gpt-5", thinks=[SECRET])
    for earlier in range(3):
        await c.respond(model, "Hi")
        manifest = (await c.window(model=model)).manifest
        assert sum(manifest.weights.values()) == manifest.items
        thoughts = [tokens for tokens in manifest.weights.values() if tokens in (0, THOUGHT)]
        assert thoughts == [*[0] * earlier, THOUGHT]


async def test_what_is_forgotten_makes_no_cut(c):
    model = Reporting("gpt-5", thinks=[{**SECRET, "encrypted_content": "x" * 40_000}])
    for _ in range(8):
        await c.respond(model, "Hi", budget=Budget(12_600))
    assert [window.manifest.cut for window in model.windows] == [0] * 8
    remembering = Reporting("gpt-5.6", thinks=model.thinks)
    assert (await c.window(Budget(12_600), model=remembering)).manifest.cut == 0  # it is not this model's
    model.params = {"reasoning": {"context": "all_turns"}}
    assert (await c.window(Budget(12_600), model=model)).manifest.cut > 0


# -- pictures, for families whose pictures weigh something else


async def test_a_window_weighs_pictures_for_its_model(c):
    part = {"type": "input_image", "image_url": png(1024, 1024)}
    await c.append("Look.", {"role": "user", "content": [part]})
    weights = {}
    for name in ("gpt-5.5", "gpt-4o", "gpt-4o-mini", "gpt-5"):
        window = await c.window(Budget(100_000), model=Reporting(name))
        weights[name] = window.manifest.weights[3] - 4
        assert window.tokens.total == sum(window.manifest.weights.values()) + (2 if "5" in name else 3)
    assert weights == {"gpt-5.5": 1229, "gpt-4o": 765, "gpt-4o-mini": 25_501, "gpt-5": 630}


async def test_a_window_for_another_family_is_the_same_however_much_is_loaded(c):
    part = {"type": "input_image", "image_url": png(1024, 1024)}
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    for _ in range(3):
        await c.append({"role": "user", "content": [part]}, {"role": "assistant", "content": TEXT * 20}, TEXT * 30)
    await c.append("now", call)
    model = Reporting("gpt-4o")
    live = [(await c.window(Budget(context), model=model)).manifest for context in (1500, 40_000)]
    for manifest, context in zip(live, (1500, 40_000), strict=True):
        c._engine.reader.forget(c.id)
        assert (await c.window(Budget(context), model=model)).manifest == manifest
    assert live[0].items < live[1].items
