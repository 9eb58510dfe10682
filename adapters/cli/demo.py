"""`turnlog demo`: the main job, from nothing.

A conversation of a dozen turns with tools, through both adapters, against a scripted model on this machine, under a
budget tight enough to cut; a worker that is killed while it streams; the conversation reopened, sealed and continued;
every request rebuilt from the log and verified.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import openai

from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.cli import show
from turnlog.adapters.responses import Responses
from turnlog.engine.conversation import Conversation
from turnlog.engine.listing import Call as Recorded
from turnlog.engine.model import Model
from turnlog.engine.opening import open_engine
from turnlog.engine.replay import verify
from turnlog.engine.testing.server import Call, Reason, Received, Reply, Text, scripted_server
from turnlog.engine.tokens import scaled
from turnlog.engine.tools import tool
from turnlog.engine.vocabulary import load
from turnlog.engine.window.budget import Budget

__all__ = ("demonstrate",)

MODEL: Final = "gpt-4o-mini"
BUDGET: Final = Budget(context=1_400, reserve=200)
LEASE: Final = 2.0
INSTRUCTIONS: Final = "You are the help desk of a small bookshop. Be brief."
QUESTIONS: Final = (
    "Good morning! Do you have anything by Ursula Le Guin?",
    "Is The Dispossessed in stock?",
    "And A Wizard of Earthsea?",
    "Please show me the whole list of what came in this week.",
    "Which of them is the cheapest?",
    "What do you say about The Left Hand of Darkness?",
    "Is it in stock, and is The Word for World Is Forest?",
    "Could you set The Dispossessed aside for me?",
    "How long do you keep it?",
    "Do you ship to Iceland?",
    "Then I will come by. When do you open on Saturday?",
    "Thank you, that was all!",
)
INTERRUPTED: Final = "One more thing: tell me a long story about a bookshop."


@tool(timeout=5)
async def in_stock(title: str) -> dict[str, object]:
    """Say whether a book is in stock, and what it costs."""
    copies = len(title) % 4
    return {"title": title, "copies": copies, "price": f"{8 + len(title) % 7}.50"}


@tool(timeout=5)
async def arrivals() -> str:
    """List everything that came in this week."""
    return "\n".join(
        f"{number:03}: shelf {number % 9}, a book about subject {number * 7 % 97}" for number in range(1, 161)
    )


def script(request: Received) -> Reply:
    """Answer as a model might: a tool where one helps, else a sentence."""
    asked, answered = _asked(request)
    if answered:
        return Reply(Text(f"I have looked it up: {asked.split('?')[0].strip()} - yes, as listed."))
    if "list" in asked:
        return Reply(Call("arrivals", {}))
    titles = [
        title
        for title in ("The Dispossessed", "A Wizard of Earthsea", "The Word for World Is Forest")
        if title in asked
    ]
    if titles and "stock" in asked:
        calls = [Call("in_stock", {"title": title}) for title in titles]
        return Reply(Reason("I should look at the shelves."), *calls) if request.api == "responses" else Reply(*calls)
    if "story" in asked:
        return Reply(Text("Once upon a time there was a bookshop with a single shelf. " * 40), delay=0.02)
    return Reply(Text(f"Certainly. You asked: {asked} It is a pleasure to help with that, and with anything else."))


def _asked(request: Received) -> tuple[str, bool]:
    """Return the last question, and whether a tool has been asked about it already."""
    field = "input" if request.api == "responses" else "messages"
    answered = False
    for item in reversed(request.body[field]):
        if item.get("type") == "function_call_output" or item.get("role") == "tool":
            answered = True
        if item.get("role") == "user":
            content = item["content"]
            return content if isinstance(content, str) else json.dumps(content), answered
    return "", answered


async def demonstrate(db: Path | None, *, quiet: bool) -> dict[str, Any]:
    """Run the demo; return what came of it."""
    began = time.monotonic()
    logging.getLogger("turnlog").setLevel(logging.ERROR)  # the demo tells the story itself
    counter = (await load()).count
    with tempfile.TemporaryDirectory() as folder:
        path = db or Path(folder) / "demo.db"
        async with scripted_server(script, windows={MODEL: BUDGET.context}, count=counter) as server:
            stage = _Stage(path, server.base_url, quiet=quiet)
            name = await stage.talk()
            killed = await stage.kill(name)
            told = await stage.recover(name, killed)
        told["seconds"] = round(time.monotonic() - began, 1)
        told["refused"] = len(server.refused)
        told["requests"] = len(server.requests)
        stage.say(
            f"\n[bold]{told['verified']} of {told['responses']} requests verified[/]: rebuilt from the log alone, they "
            f"have the digests of what was sent. The server refused {told['refused']}. {told['seconds']} s."
        )
        if db is not None:
            stage.say(f"Look around: turnlog show {name} --db {db}")
        return told


class _Stage:
    """What the parts of the demo share."""

    def __init__(self, path: Path, url: str, *, quiet: bool) -> None:
        self.path = path
        self.url = url
        self.quiet = quiet

    def say(self, text: Any) -> None:
        """Tell the person who watches."""
        if not self.quiet:
            show.console.print(text)

    def models(self, client: openai.AsyncOpenAI) -> list[Model]:
        """Return the same model behind both APIs."""
        return [Responses(client, MODEL, budget=BUDGET), ChatCompletions(client, MODEL, budget=BUDGET)]

    # -- a dozen turns

    async def talk(self) -> str:
        """Hold a conversation; each turn goes through the other API."""
        self.say(
            f"[bold]1. A dozen turns[/], {BUDGET.context:,} tokens of context, {BUDGET.reserve} of them kept free\n"
        )
        async with _client(self.url) as client, open_engine(self.path, lease=LEASE) as engine:
            conversation = await engine.create(metadata={"title": "Bookshop"})
            models = self.models(client)
            for number, question in enumerate(QUESTIONS):
                model = models[number % 2]
                result = await conversation.run(model, question, instructions=INSTRUCTIONS, tools=[in_stock, arrivals])
                calls = sum(item.get("type") == "function_call" for item in result.items)
                api = "responses" if number % 2 == 0 else "chat"
                self.say(f"[dim]{api:>9}[/] [bold]{show.plain(question)}[/]")
                tools = f"[dim]({calls} tool call{'s' * (calls > 1)})[/] " if calls else ""
                self.say(f"          {tools}{show.plain(result.output_text)}")
            return conversation.id

    # -- a worker that dies

    async def kill(self, name: str) -> dict[str, Any]:
        """Let another process answer, and kill it while the answer streams."""
        self.say("\n[bold]2. A worker is killed while it streams[/]\n")
        command = [sys.executable, "-m", __name__, str(self.path), self.url, name]
        async with await anyio.open_process(command, stderr=None) as worker:
            heard = 0
            assert worker.stdout is not None
            with anyio.fail_after(30):
                async for chunk in worker.stdout:
                    heard += chunk.count(b".")
                    if heard >= 5:
                        break
            worker.send_signal(signal.SIGKILL)
            await worker.wait()
        self.say(f"the worker (process {worker.pid}) had passed on {heard} pieces of text when it got SIGKILL")
        return {"pid": worker.pid, "heard": heard}

    # -- reopened

    async def recover(self, name: str, killed: Mapping[str, Any]) -> dict[str, Any]:
        """Reopen the log, look at it, go on, and verify everything."""
        async with _client(self.url) as client, open_engine(self.path, lease=LEASE) as engine:
            conversation = await engine.get(name)
            before = conversation.version
            lease = (await engine.reader.head(name)).lease
            left = lease.remaining if lease else 0.0
            self.say(f"reopened at version {before}; its turn is held for {left:.1f} s more, and reading seals nothing")
            result = await conversation.run(
                self.models(client)[0],
                "Sorry, I lost you. Are you still there?",
                instructions=INSTRUCTIONS,
                when_busy="wait",
            )
            sealed = [
                event async for event in conversation.events(after=before) if event.type == "response.interrupted"
            ]
            self.say(f"waited, sealed the lost response ({len(sealed)} event), and asked again:")
            self.say(show.plain(result.output_text))
            await self._show(conversation)
            report = await verify(engine.store, name)
            items = {event.seq async for event in conversation.events() if event.item is not None}
            windows = [_window(one, items) async for one in conversation.responses(limit=1000)]
            return {
                "conversation": name,
                "turns": len(QUESTIONS) + 2,
                "version": conversation.version,
                "responses": report.responses,
                "verified": report.verified,
                "diverged": [one.path for one in report.diverged],
                "cuts": sum(1 for one in windows if one["dropped"] or one["excerpted"]),
                "recovered": {
                    "killed": killed,
                    "interrupted": [event.seq for event in sealed],
                    "answer": result.output_text,
                },
                "windows": windows,
            }

    async def _show(self, conversation: Conversation) -> None:
        if self.quiet:
            return
        self.say("\n[bold]3. The log[/] (its last 24 events)\n")
        shown = [event async for event in conversation.events()]
        show.events(conversation, shown[-24:])
        self.say("\n[bold]4. What each request saw[/]\n")
        columns = ("response", "api", "tokens", "shared", "kept", "excerpted", "dropped")
        rows = show.table(*columns, right=("response", *columns[2:]))
        items = {event.seq for event in shown if event.item is not None}
        cuts: dict[str, int] = {}
        async for call in conversation.responses(limit=1000):
            made = _window(call, items)
            cuts.setdefault(made["cut"], call.seq)
            rows.add_row(*(str(made[name]) for name in columns))
        show.lay(rows)
        self.say(
            "\n[dim]tokens: of 1,200, counted, and corrected by what the API reported before; shared: those of them "
            "that the request before began with too, which a prompt cache keeps; the others: items[/]"
        )
        for rule, seq in cuts.items():
            if rule:
                self.say(f"[dim]cut at {seq}: {show.plain(rule)}[/]")
        self.say("\n[bold]5. The window now[/], and the fate of everything that was ever said\n")
        show.window(await conversation.window(BUDGET), "responses")


def _client(url: str) -> openai.AsyncOpenAI:
    """Return a client of the scripted model, which is on this machine: no proxy leads there."""
    direct = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=url, api_key="demo", max_retries=0, http_client=direct)


def _window(call: Recorded, items: set[int]) -> dict[str, Any]:
    """Return what one request saw, in numbers: of items, and of tokens."""
    manifest = call.manifest
    count = dict.fromkeys(("kept", "pinned", "excerpted", "dropped"), 0)
    for run in manifest.runs:
        if run.fate in count:
            count[run.fate] += sum(run.first <= seq <= run.last for seq in items)
    cuts = [rule for rule in manifest.rules if rule.startswith(manifest.policy)]
    return {
        "response": call.seq,
        "api": call.adapter,
        "status": call.status,
        "tokens": manifest.tokens,
        "of": manifest.context - manifest.reserve,
        "shared": scaled(manifest.shared, manifest.factor),
        "cut": cuts[-1] if cuts else "",
        **count,
    }


async def _work(*arguments: str) -> None:
    """Be the worker that is killed: stream an answer and pass each piece on."""
    path, url, name = arguments
    async with _client(url) as client, open_engine(path, lease=LEASE) as engine:
        conversation = await engine.get(name)
        model = Responses(client, MODEL, budget=BUDGET)
        async with conversation.stream(model, INTERRUPTED, instructions=INSTRUCTIONS) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    os.write(1, b".")


if __name__ == "__main__":
    anyio.run(_work, *sys.argv[1:4])
