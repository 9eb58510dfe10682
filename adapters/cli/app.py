"""The `turnlog` command: look into a log, move conversations in and out of it, talk to a model.

With `--json`, standard output carries one JSON document and nothing else, and standard error another one where the
command fails: `{"error": {"type": …, "message": …}}`. Exit status: 0; 1, a check has failed; 2, wrong usage or bad
input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console

from turnlog.adapters.cli import (
    bench,
    changing,
    explaining,
    exporting,
    guessing,
    keeping,
    replaying,
    reporting,
    show,
    totalling,
    verifying,
)
from turnlog.adapters.cli.chatting import talk
from turnlog.adapters.cli.common import DEFAULT, Db, Id, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named, when_needed
from turnlog.adapters.cli.importing import Into, Report, Source, import_file, sources
from turnlog.adapters.cli.options import POLICIES, api_named, policy_named
from turnlog.engine.checks import whole
from turnlog.engine.errors import CorruptLog, Invalid, TurnlogError
from turnlog.engine.replay import Report as Verified
from turnlog.engine.replay.rechoosing import Rechosen
from turnlog.engine.window.budget import Budget

__all__ = ("app", "main")

T = TypeVar("T")

app = typer.Typer(
    name="turnlog",
    help="Look into a turnlog database, move conversations in and out of it, talk to a model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_OPTIONS: Final = {
    "Budget(context=…)": "--context",
    'forks="keep" or "delete"': "--forks keep or --forks delete",
    'schema="turnlog"': "--schema turnlog",
    "get it, or choose another id": "choose another id",
    ', or pass when_busy="wait"': "",
    ', or pass open_calls="seal"': "",
    ", or open it once with migrate=True": "",
}
"""What a caller of the library passes as an argument is an option here, or there is none."""
_REFUSED: Final[Any] = [kind for kind in typer.BadParameter.__mro__ if hasattr(kind, "format_message")][-1]
"""What is raised for wrong usage: by the click that typer brings along, or by the one that is installed."""
errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command; the entry point."""
    code = 0
    try:
        try:
            if _as_json():
                code = app(standalone_mode=False) or 0
            else:
                app(standalone_mode=True)
        finally:
            sys.stdout.flush()
    except _REFUSED as error:
        complain(error.format_message(), error)
        raise SystemExit(error.exit_code) from None
    except typer.Abort as error:
        complain("aborted", error)
        raise SystemExit(1) from None
    except TurnlogError as error:
        complain(str(error), error)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # Whoever read the output has left; there is nobody to tell.
        _give_up_output()
        raise SystemExit(0) from None
    except OSError as error:
        _give_up_output()
        what = error.filename or "the output cannot be written"
        complain(f"{what}: {error.strerror or error}", error)
        raise SystemExit(2) from None
    raise SystemExit(code)


def _as_json() -> bool:
    """Return whether the command is asked to speak to programs, which holds for what it complains of as well."""
    return "--json" in list(takewhile("--".__ne__, sys.argv[1:]))


def complain(told: str, error: Exception) -> None:
    """Say on standard error what is wrong."""
    for argument, option in _OPTIONS.items():
        told = told.replace(argument, option)
    if _as_json():
        said = {"error": {"type": type(error).__name__, "message": told}}
        sys.stderr.write(json.dumps(said, ensure_ascii=False) + "\n")
    else:
        errors.print(f"turnlog: {show.visible(told)}", style="red", markup=False)


def _give_up_output() -> None:
    """Let what is still to be written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(shown: bool) -> None:
    if shown:
        sys.stdout.write(f"turnlog {version('turnlog')}\n")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_told, is_eager=True)
    ] = False,
) -> None:
    """Look into a turnlog database, move conversations in and out of it, talk to a model."""


# -- in and out


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Files of conversations; .gz is unpacked, - is standard input."),
    ],
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Import exchanges, arrays of items or messages, sessions, or turnlog's own exports; again, nothing changes."""
    report = Report()

    database = named(db, schema)

    async def work(found: list[Source], size: int) -> None:
        async with when_needed(database) as engine:
            into = Into(engine)
            with show.progress("importing", size, shown=not as_json) as advance:
                for one in found:
                    await import_file(into, one, report, advance)

    with sources(files) as (found, size):
        failed: TurnlogError | None = None
        try:
            run(lambda: work(found, size))
        except TurnlogError as error:
            failed = error  # what came in before it is in the log
    nothing = failed is not None and not (report.imported or report.rejected)
    if as_json and not nothing:
        put(
            {
                "imported": [msgspec.to_builtins(one) for one in report.imported],
                "rejected": [msgspec.to_builtins(one) for one in report.rejected],
            }
        )
    elif not nothing:
        show.imported(report)
    if failed is not None:
        raise failed
    if report.malformed:
        raise typer.Exit(2)


@app.command()
def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The file to write; .gz is packed, - is standard output.")
    ],
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="turnlog: all events; chat or responses: what is alive, as messages or input; agents: as sessions of "
            "the Agents SDK, in SQLite.",
        ),
    ] = "turnlog",
    redact: Annotated[
        bool, typer.Option("--redacted", help="Replace all content, keep shape, tokens and pairing: for bug reports.")
    ] = False,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Write conversations to a file of JSON Lines; importing it gives the same events, and uses up the same keys."""
    if form not in ("turnlog", "chat", "responses", "agents"):
        raise typer.BadParameter(f"{form!r} is none of turnlog, chat, responses, agents", param_hint="--format")
    if redact and form != "turnlog":
        raise typer.BadParameter("only turnlog's own form is redacted", param_hint="--redacted")

    plain = str(output) == "-"
    if plain and as_json:
        raise typer.BadParameter("- is standard output, which --json needs; name a file", param_hint="-o")

    async def work() -> list[dict[str, Any]]:
        database = named(db, schema)
        database.check_apart(output)
        async with existing(database) as engine:
            if redact:
                return await exporting.export_redacted(engine, ids or (), output)
            if form != "turnlog":
                return await exporting.export_as(engine, ids or (), output, form)
            return await exporting.export_file(engine, ids or (), output)

    exported = run(work)
    if plain:
        return
    if as_json:
        put({"exported": exported, "file": str(output)})
    else:
        show.exported(exported, output)


# -- looking


@app.command("list")
def list_(
    db: Db = DEFAULT,
    schema: Schema = None,
    limit: Annotated[int, typer.Option(help="Conversations at most.")] = 50,
    after: Annotated[str | None, typer.Option(help="The `next` of the page before.")] = None,
    order: Annotated[str, typer.Option(help="-updated, -created or created.")] = "-updated",
    where: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with this metadata; JSON, or a text.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List conversations."""
    wanted = _wanted(where or ())

    async def work() -> Any:
        async with existing(named(db, schema)) as engine:
            return await engine.list(where=wanted, order=order, limit=limit, after=after)  # type: ignore[arg-type]

    page = run(work)
    if as_json:
        put({"conversations": [show.info(one) for one in page.data], "next": page.next})
    else:
        show.conversations(page)


def _wanted(pairs: Iterable[str]) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is no NAME=VALUE", param_hint="--where")
        if name in wanted:
            raise typer.BadParameter(f"{name!r} is named twice", param_hint="--where")
        try:
            wanted[name] = json.loads(value)
        except ValueError:
            wanted[name] = value
    return wanted


@app.command("show")
def show_(
    id: Id,
    db: Db = DEFAULT,
    schema: Schema = None,
    at: Annotated[int | None, typer.Option(help="Only up to this seq.")] = None,
    as_json: Json = False,
) -> None:
    """Show a conversation's events."""

    async def work() -> tuple[Any, list[Any]]:
        async with existing(named(db, schema)) as engine:
            conversation = await engine.get(id)
            if at is not None:
                whole("at", at, 0, conversation.version)
            return conversation, [one async for one in conversation.events() if at is None or one.seq <= at]

    conversation, events = run(work)
    if as_json:
        put(
            {
                "id": conversation.id,
                "version": conversation.version,
                "metadata": conversation.metadata,
                "events": [show.event(one) for one in events],
            }
        )
    else:
        show.events(conversation, events)


@app.command()
def window(
    id: Id,
    context: Annotated[int, typer.Option(help="Tokens that the model takes.")],
    db: Db = DEFAULT,
    schema: Schema = None,
    reserve: Annotated[int, typer.Option(help="Tokens kept free for the answer.")] = 0,
    api: Annotated[str, typer.Option(help="responses or chat.")] = "responses",
    at: Annotated[int | None, typer.Option(help="As it was at this version.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(POLICIES)}, or your own as package.module:Name; default: the engine's."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="What became of every event instead, and by which rule.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a model would be sent: the items or messages, without instructions and tools."""
    shape = api_named(api)
    chosen = policy_named(policy) if policy is not None else None

    async def work() -> Any:
        async with existing(named(db, schema)) as engine:
            conversation = await engine.get(id)
            return await conversation.window(Budget(context, reserve), at=at, api=shape, policy=chosen)

    made = run(work)
    if as_json:
        document = show.window_document(made, shape)
        put({**document, "explained": explaining.explained(made)} if explain else document)
    elif explain:
        explaining.explain(made)
    else:
        show.window(made, shape)


@app.command()
def request(
    id: Id,
    response: Annotated[int | None, typer.Option(help="The response's seq; default: the latest.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Show a recorded request, rebuilt from the log and checked against the digest of what was sent."""

    async def work() -> Any:
        async with existing(named(db, schema)) as engine:
            return await (await replaying.call_of(engine, id, response)).request()

    try:
        body = run(work)
    except CorruptLog as error:
        complain(str(error), error)
        raise typer.Exit(1) from None
    if as_json:
        put(body)
    else:
        show.document(body)


@app.command()
def verify(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Conversations; default: all.")] = None,
    db: Db = DEFAULT,
    schema: Schema = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Also ask today's policy whether it would send the same.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="A copy, such as a backup: where a request diverges, what was sent is told from it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebuild every recorded request from the log and compare it with the digest of what was sent."""

    async def work() -> tuple[Verified, Rechosen | None]:
        async with existing(named(db, schema)) as engine:
            return await verifying.verify_all(engine, ids or [], shown=not as_json, policy=policy, against=against)

    report, rechosen = run(work)
    if as_json:
        put(verifying.document(report, rechosen))
    else:
        show.verified(report, rechosen)
    if not report.sound:
        raise typer.Exit(1)


app.command()(replaying.replay)
app.command()(replaying.why)
app.command()(replaying.tail)
app.command()(reporting.report)
app.command()(guessing.whatif)
app.command()(totalling.usage)


# -- changing

app.command()(changing.fork)
app.command()(changing.rewind)
app.command()(changing.erase)
app.command()(changing.delete)
app.command()(changing.expire)


# -- comparing

app.command()(bench.bench)


# -- keeping

app.command()(keeping.backup)
app.command()(keeping.migrate)


# -- talking


@app.command()
def chat(
    model: Annotated[str, typer.Option(help="The model's name.")],
    db: Db = DEFAULT,
    schema: Schema = None,
    id: Annotated[str | None, typer.Option(help="A conversation to go on with; default: a new one.")] = None,
    api: Annotated[str, typer.Option(help="responses or chat.")] = "responses",
    base_url: Annotated[str | None, typer.Option(help="Of another backend than OpenAI's.")] = None,
    context: Annotated[int | None, typer.Option(help="The model's context window, if it is not known.")] = None,
    as_json: Json = False,
) -> None:
    """Talk to a model: each line of standard input is a turn. The key is taken from OPENAI_API_KEY."""
    shape = api_named(api)
    database, budget = named(db, schema), None if context is None else Budget(context)
    ended = run(lambda: talk(database, model, id, shape, base_url, budget, quiet=as_json))
    if as_json:
        put(ended)
    if ended["failed"]:
        raise typer.Exit(1)


@app.command()
def demo(
    db: Annotated[
        str | None, typer.Option("--db", metavar="FILE", help="Keep the database here; default: it is thrown away.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the main job from nothing: no key, no network, a scripted model on this machine."""
    try:
        from turnlog.adapters.cli.demo import demonstrate  # noqa: PLC0415
    except ImportError as error:
        raise Invalid(f'the demo needs more packages ({error}): pip install "turnlog[demo]"') from error
    path = None if db is None else named(db).file("demo")
    told = run(lambda: demonstrate(path, quiet=as_json))
    if as_json:
        put(told)
    if told["diverged"]:
        raise typer.Exit(1)
