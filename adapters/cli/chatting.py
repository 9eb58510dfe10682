"""`turnlog chat`: a conversation on the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import anyio

from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.cli.show import console
from turnlog.adapters.responses import Responses
from turnlog.engine.conversation import Conversation
from turnlog.engine.engine import open_engine
from turnlog.engine.errors import Invalid, ResponseFailed
from turnlog.engine.model import Model
from turnlog.engine.window.budget import Budget, known

__all__ = ("talk",)

_DELTAS: Final = ("response.output_text.delta", "response.refusal.delta")


async def talk(
    db: Path, model: str, name: str | None, api: str, base_url: str | None, budget: Budget | None, *, quiet: bool
) -> dict[str, Any]:
    """Answer each line of standard input; return where the conversation is.

    Raises:
        Invalid: there is no key, or nothing is known of the model's context window.
        NotFound: there is no conversation of that name.
    """
    import openai  # noqa: PLC0415 - it takes a while, and only this command needs it

    if not os.environ.get("OPENAI_API_KEY") and base_url is None:
        raise Invalid("OPENAI_API_KEY is not set; set it, or name a backend that needs none with --base-url")
    if budget is None and known(model) is None:
        raise Invalid(f"{model}: context window unknown; name it with --context")
    turns = 0
    async with (
        openai.AsyncOpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY") or "none") as client,
        open_engine(db) as engine,
    ):
        conversation = await (engine.create() if name is None else engine.get(name))
        adapter = ChatCompletions if api == "chat" else Responses
        answering: Model = adapter(client, model, budget=budget)
        if not quiet:
            console.print(f"{conversation.id}; an empty line or the end of input ends it", style="dim")
        while text := (await anyio.to_thread.run_sync(_line, quiet)).strip():
            await _turn(conversation, answering, text, quiet=quiet)
            turns += 1
        await conversation.refresh()
        return {"id": conversation.id, "version": conversation.version, "turns": turns}


def _line(quiet: bool) -> str:
    if not quiet and sys.stdin.isatty():
        console.print("> ", end="", style="bold")
    try:
        return sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise Invalid(f"standard input is not {error.encoding}: {error.reason}") from error


async def _turn(conversation: Conversation, model: Model, text: str, *, quiet: bool) -> None:
    try:
        async with conversation.stream(model, text) as stream:
            async for event in stream:
                if event.type in _DELTAS and not quiet:
                    console.print(event.delta, end="", markup=False)
        if not quiet:
            console.print()
    except ResponseFailed as error:
        sys.stderr.write(f"turnlog: {error}\n")  # it is in the log; the conversation goes on
