"""The commands that look back: `replay`, `why`, `tail`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import anyio
import msgspec
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Id, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named, shown
from turnlog.adapters.cli.stepped import Shown, document, overview
from turnlog.engine.engine import Engine
from turnlog.engine.errors import NotFound, TurnlogError
from turnlog.engine.listing import Call, Event
from turnlog.engine.replay import stepping
from turnlog.engine.replay.stepping import Goal, Step

__all__ = ("call_of", "replay", "tail", "why")

_HELP: Final = (
    "n next · p back · t N to turn N · r SEQ to a response · e error · c compaction · x cut (E, C, X: back) · "
    "w window · d diff · b body · q quit"
)
_LONGEST: Final = 200
_GOALS: Final[dict[str, Goal]] = {"e": "error", "c": "compaction", "x": "cut"}


def replay(
    id: Id,
    response: Annotated[int | None, typer.Option(help="Begin at this response, by its seq.")] = None,
    turn: Annotated[int | None, typer.Option(help="Begin at this turn, by its number.")] = None,
    interactive: Annotated[
        bool | None, typer.Option("--step/--all", help="Step with commands, or show all; default: step on a terminal.")
    ] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Step through a conversation's model calls: what was new, what was sent, what was dropped and why."""
    stepping_ = sys.stdin.isatty() and sys.stdout.isatty() if interactive is None else interactive

    async def work() -> None:
        async with existing(named(db, schema)) as engine:
            found = await stepping.steps(engine, id)
            begin = _begin(found, id, response, turn)
            if as_json:
                differing = stepping.diffs(engine, id, found[begin:])
                put({"id": id, "steps": [document(step, one) async for step, one in differing]})
            elif stepping_:
                await _stepped(Shown(engine, id), found, begin)
            else:
                overview(id, found)
                shown_ = Shown(engine, id)
                async for step, one in stepping.diffs(engine, id, found[begin:]):
                    await shown_.step(step)
                    shown_.differs(step, one)

    run(work)


def _begin(found: Sequence[Step], name: str, response: int | None, turn: int | None) -> int:
    """Return the index of the step to begin with.

    Raises:
        NotFound: there is no model call, or not that one.
    """
    if not found:
        raise NotFound(f"conversation {name}, response (no model was ever asked)")
    if response is not None:
        seqs = [one.seq for one in found]
        if response not in seqs:
            raise NotFound(f"conversation {name}, response {response} (there are {', '.join(map(str, seqs[:20]))})")
        return seqs.index(response)
    return 0 if turn is None else stepping.find(found, 0, turn=turn)


async def _stepped(shown: Shown, found: Sequence[Step], at: int) -> None:
    """Show one step after another, as the commands on standard input say."""
    show.console.print(_HELP, style="dim", markup=False)
    await shown.step(found[at])
    while words := await anyio.to_thread.run_sync(_command):
        if words[0] in ("q", "quit"):
            return
        try:
            moved = await _obeyed(words, shown, found, at)
        except TurnlogError as error:
            show.console.print(show.visible(str(error)), style="red", markup=False)
            continue
        if moved is not None:
            at = moved
            await shown.step(found[at])


async def _obeyed(words: Sequence[str], shown: Shown, found: Sequence[Step], at: int) -> int | None:
    """Do what a command says; return the step to go to, None to stay.

    Raises:
        NotFound: there is nothing to go to.
    """
    match words:
        case ["n"] | ["p"]:
            return stepping.find(found, at, back=words[0] == "p")
        case [("e" | "c" | "x" | "E" | "C" | "X") as letter]:
            return stepping.find(found, at, goal=_GOALS[letter.lower()], back=letter.isupper())
        case ["t", number] if number.isdigit():
            return stepping.find(found, at, turn=int(number))
        case ["r", seq] if seq.isdigit():
            return _begin(found, shown.name, int(seq), None)
        case ["w"]:
            await shown.window(found[at])
        case ["d"]:
            await shown.diff(found[at])
        case ["b"]:
            await shown.body(found[at])
        case _:
            show.console.print(_HELP, style="dim", markup=False)
    return None


def _command() -> list[str]:
    """Return the next command, nothing at the end of the input; an empty line goes on."""
    if sys.stdin.isatty():
        show.console.print("> ", end="", style="bold")
    line = sys.stdin.readline()
    if not line:
        return []
    try:
        return shlex.split(line) or ["n"]
    except ValueError:
        return ["?"]


def why(
    id: Id,
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="The event, by its seq.")],
    response: Annotated[int | None, typer.Option(help="The response's seq; default: the latest.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Say what became of an event in a request, and by which rule."""

    async def work() -> dict[str, Any]:
        async with existing(named(db, schema)) as engine:
            call = await call_of(engine, id, response)
            verdict = await call.why(seq)
            event = await anext((await engine.get(id)).events(after=seq - 1))
            return {**msgspec.to_builtins(verdict), "response": call.seq, "type": event.type, "item": event.item}

    told = run(work)
    if as_json:
        put(told)
        return
    what = show.said(told["item"]) if told["item"] is not None else told["type"]
    tokens = f", {told['tokens']:,} tokens" if told["tokens"] else ""
    rule = "" if told["rule"] == told["fate"] else f" ({told['rule']})"
    show.console.print(f"seq {seq} in response {told['response']}: {told['fate']}{rule}{tokens}", markup=False)
    show.console.print(show.visible(what), style="dim", markup=False)


async def call_of(engine: Engine, name: str, response: int | None) -> Call:
    """Return one of a conversation's model calls by its seq, or else the latest.

    Raises:
        NotFound: there is no such conversation, or no such response.
    """
    conversation = await engine.get(name)
    if response is not None:
        return await conversation.response(response)
    latest = (await conversation.responses(order="desc", limit=1)).data
    if not latest:
        raise NotFound(f"conversation {name}, response (none was ever requested)")
    return latest[0]


def tail(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    begin: Annotated[
        str, typer.Option("--from", help="start: all that is there first; end: only what comes from now on.")
    ] = "end",
    count: Annotated[int | None, typer.Option(help="Stop after so many events; default: never.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a JSON document, on its line.")] = False,
) -> None:
    """Follow a database while others write it: each event as it comes, until it is interrupted."""
    if begin not in ("start", "end"):
        raise typer.BadParameter(f"{begin!r} is neither start nor end", param_hint="--from")
    wanted = frozenset(ids or ())
    database = named(db, schema)

    async def work() -> None:
        left = count
        async with existing(database) as engine:
            for one in wanted:
                await engine.get(one)
            # Where the end is now: what comes while somebody reads the next line is not missed.
            place = None if begin == "start" else await engine.store.end()
            async with engine.follow(after="start" if place is None else place) as batches:
                show.errors.print(f"following {shown(database)}; interrupt to stop", style="dim", markup=False)
                async for batch in batches:
                    for event in batch:
                        if wanted and event.conversation not in wanted:
                            continue
                        _tell(event, as_json=as_json)
                        left = None if left is None else left - 1
                        if left == 0:
                            return

    try:
        run(work)
    except KeyboardInterrupt:
        return  # the way to end it


def _tell(event: Event, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"conversation": event.conversation, **show.event(event)}, ensure_ascii=False, default=str)
        sys.stdout.write(f"{line}\n")
    else:
        sys.stdout.write(f"{_line(event)}\n")
    sys.stdout.flush()  # somebody is watching


def _line(event: Event) -> str:
    told = " ".join(_words(event))
    return show.visible(f"{event.time:%H:%M:%S.%f}"[:-3] + f" {event.conversation}/{event.seq} {told}")


def _words(event: Event) -> Iterator[str]:
    yield event.type
    if event.response is not None:
        yield f"of {event.response}"
    told = " ".join(show.told(event).split())
    if told:
        yield told[:_LONGEST]
