"""Conversations in which anything may happen in any order, compactions among it: what holds of all of them."""

import random
from contextlib import suppress
from itertools import count

import pytest

from turnlog import Budget, BudgetExceeded, Conflict, Invalid, ResponseFailed, open_engine
from turnlog.engine.replay import verify
from turnlog.engine.testing.judge import refusals
from turnlog.engine.testing.server import Call, Fail, Reason, Reply, Text
from turnlog.engine.window.policies import Compacting

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]

NO = Fail(500, headers={"x-should-retry": "false"})


async def look(at: str = "here") -> str:
    return f"seen {at} " * 40


class Dealer:
    """Answers by chance, and as a service that compacts."""

    def __init__(self, chance):
        self.chance = chance

    def words(self, most):
        return " ".join(self.chance.choices(["so", "then", "it", "rained", "in Zürich,", "again."], k=most))

    def __call__(self, received):
        said = received.body["input" if received.api != "chat" else "messages"]
        if received.api == "compact":
            return self.chance.choice([Text("opaque"), Text("opaque"), Reply(), NO])
        if str(said[-1].get("content", "")).startswith("Sum up"):
            return self.chance.choice([f"In short: {self.words(8)}"] * 4 + [NO, "", "Error: no", Call("look")])
        if self.chance.random() < 0.05:
            return NO
        parts = [Text(self.words(self.chance.randrange(1, 120)))]
        if self.chance.random() < 0.5:
            parts.insert(0, Reason("Hm"))
        if received.body.get("tools") and self.chance.random() < 0.5:
            parts += [Call("look", {"at": str(n)}) for n in range(self.chance.randrange(1, 3))]
        return Reply(*parts)


class Player:
    """Does one thing after another with one conversation, and looks at it after each."""

    def __init__(self, s, chance, c):
        self.s, self.chance, self.c = s, chance, c
        self.models = [
            s.model("responses", budget=Budget(20_000)),
            s.model("responses", "gpt-4.1", budget=Budget(1500)),
            s.model("chat", budget=Budget(3000, 300)),
            s.model("chat", "qwen", budget=Budget(1200), count=lambda text: len(text) // 3 + 1),
        ]
        self.compactions = 0

    @property
    def model(self):
        return self.chance.choice(self.models)

    async def step(self):
        """Do something; what was refused has changed nothing that counts."""
        does = self.chance.choices(
            [self.say, self.ask, self.run, self.compact, self.undo, self.rewind, self.erase, self.fork, self.aside],
            [2, 5, 4, 4, 1, 2, 1, 1, 1],
        )[0]
        with suppress(ResponseFailed, BudgetExceeded):
            await does()
        await self.look()

    async def say(self):
        words = "word " * self.chance.randrange(1, 60)
        await self.c.append(words, pinned=self.chance.random() < 0.1)

    def policy(self):
        return self.chance.choice([None, Compacting(), Compacting("summary", at=0.4), Compacting("extract", at=0.3)])

    async def ask(self):
        text = self.chance.choice([None, "And?", "Go on " * 20])
        with suppress(Invalid):  # there may be nothing to answer
            await self.c.respond(self.model, text, policy=self.policy(), open_calls="seal")

    async def run(self):
        await self.c.run(self.model, "Look", tools=[look], policy=self.policy(), max_rounds=3, open_calls="seal")

    async def aside(self):
        await self.c.respond(self.model, "A title, please", aside=True)

    async def compact(self):
        before = [entry.item async for entry in self.c.items()]
        method = self.chance.choice(["auto", "remote", "summary", "extract"])
        model = self.models[self.chance.randrange(2)] if method == "remote" else self.model
        with suppress(Conflict):
            made = await self.c.compact(model if method != "extract" else None, method=method)
            self.compactions += 1
            assert self.c.version == made.seq
            assert made.covered[0] == 1 < made.covered[1] < made.seq
            window = await self.c.window(Budget(100_000))
            assert window.manifest.base == made.seq
        assert [entry.item async for entry in self.c.items()] == before

    async def undo(self):
        with suppress(Invalid):
            await self.c.undo_compaction()

    async def rewind(self):
        with suppress(Invalid):
            await self.c.rewind(to=self.chance.randrange(1, self.c.version + 1))

    async def erase(self):
        users = [entry.seq async for entry in self.c.items() if entry.item.get("role") == "user"]
        if users:
            seq = self.chance.choice(users)
            receipt = await self.c.erase(seq, reason="by chance")
            assert seq in receipt.seqs

    async def fork(self):
        self.c = await self.c.fork()

    async def look(self):
        await self.c.refresh()
        head = (await self.s.engine.store.read(self.c.id)).head
        assert head.lease is None
        for model in self.models:
            try:
                window = await self.c.window(model=model)
            except BudgetExceeded as error:
                assert error.needed > error.available  # noqa: PT017 - it may fit or not
                continue
            assert window.tokens.total <= window.budget.context - window.budget.reserve
            if window.items:
                body = model.encode(window, {"model": model.name})
                found = refusals(model.api, body, window=model.budget.context, count=_roughly)
                assert [str(one) for one in found] == []
                if model.api == "chat":
                    assert "compaction" not in str(window.messages)


def _roughly(text):
    return len(text) // 8


async def test_what_holds_whatever_happens(stage_for, db, seed, long):
    chance = random.Random(seed)
    played = 0
    async with open_engine(db) as engine, stage_for(Dealer(chance), engine=engine) as s:
        for game in count():
            if game >= (120 if long else 12) and played > 20:
                break
            player = Player(s, chance, await engine.create())
            for _ in range(25):
                await player.step()
            played += player.compactions
            report = await verify(engine.store, player.c.id)
            assert report.diverged == []
