"""`turnlog chat`: a conversation on the terminal."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import anyio

from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.cli.databases import Database, existing
from turnlog.adapters.cli.options import Api
from turnlog.adapters.cli.show import console, errors, visible
from turnlog.adapters.responses import Responses
from turnlog.engine.conversation import Conversation
from turnlog.engine.errors import Invalid, ResponseFailed
from turnlog.engine.model import Model
from turnlog.engine.opening import open_engine
from turnlog.engine.window.budget import Budget, known

__all__ = ("talk",)

_ENDS: Final = "an empty line or the end of input ends it"
_DELTAS: Final = ("response.output_text.delta", "response.refusal.delta")


async def talk(
    database: Database,
    model: str,
    name: str | None,
    api: Api,
    base_url: str | None,
    budget: Budget | None,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Answer each line of standard input; return where the conversation is, and how many turns failed.

    Raises:
        Invalid: there is no key, nothing is known of the model's context window, or a line does not fit it. A
            conversation that would be new is not made by then.
        NotFound: there is no conversation of that name.
    """
    import openai  # noqa: PLC0415 - it takes a while, and only this command needs it

    if not os.environ.get("OPENAI_API_KEY") and base_url is None:
        raise Invalid("OPENAI_API_KEY is not set; set it, or name a backend that needs none with --base-url")
    if budget is None and known(model) is None:
        raise Invalid(f"{model}: context window unknown; name it with --context")
    async with openai.AsyncOpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY") or "none") as client:
        adapter = ChatCompletions if api == "chat" else Responses
        answering: Model = adapter(client, model, budget=budget)
        if name is not None:
            async with existing(database) as engine:
                conversation = await engine.get(name)
                _say(f"{name}; {_ENDS}", quiet=quiet)
                return await _talked(conversation, answering, await _line(quiet), quiet=quiet)
        _say(f"a new conversation; {_ENDS}", quiet=quiet)
        first = await _line(quiet)
        if not first:
            return {"id": None, "version": 0, "turns": 0, "failed": 0}
        await _tried(answering, first)
        async with database.opened() as engine:
            conversation = await engine.create()
            told = await _talked(conversation, answering, first, quiet=quiet)
        _say(f"to go on: --id {conversation.id}", quiet=quiet)
        return told


async def _tried(model: Model, text: str) -> None:
    """See to it that a first line can be answered at all, before a conversation is made for it."""
    async with open_engine(":memory:") as engine:
        conversation = await engine.create()
        await conversation.append(text)
        await conversation.window(model=model)


async def _talked(conversation: Conversation, model: Model, text: str, *, quiet: bool) -> dict[str, Any]:
    turns = failed = 0
    while text:
        failed += not await _turn(conversation, model, text, quiet=quiet)
        turns += 1
        text = await _line(quiet)
    await conversation.refresh()
    return {"id": conversation.id, "version": conversation.version, "turns": turns, "failed": failed}


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        errors.print(text, style="dim")


async def _line(quiet: bool) -> str:
    """Return what a person types next, an empty text at the end."""
    return (await anyio.to_thread.run_sync(_read, quiet)).strip()


def _read(quiet: bool) -> str:
    if not quiet and sys.stdin.isatty():
        console.print("> ", end="", style="bold")
    try:
        return sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise Invalid(f"standard input is not {error.encoding}: {error.reason}") from error


async def _turn(conversation: Conversation, model: Model, text: str, *, quiet: bool) -> bool:
    """Have a line answered; return whether it was."""
    try:
        async with conversation.stream(model, text) as stream:
            async for event in stream:
                if event.type in _DELTAS and not quiet:
                    console.print(visible(event.delta), end="", markup=False, soft_wrap=True)
        if not quiet:
            console.print()
    except ResponseFailed as error:
        sys.stderr.write(f"turnlog: {visible(str(error))}\n")  # it is in the log; the conversation goes on
        return False
    return True
