"""What the command prints for people: tables, and a bar for what takes long. JSON documents are made here too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import UNSET
from rich.cells import cell_len
from rich.console import Console
from rich.json import JSON
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from turnlog.adapters.cli.importing import Report as Imports
from turnlog.engine.conversation import Conversation
from turnlog.engine.engine import Info
from turnlog.engine.items import parts, read
from turnlog.engine.listing import Event
from turnlog.engine.manifest import Manifest, stored
from turnlog.engine.pages import Page
from turnlog.engine.replay import Divergence
from turnlog.engine.replay import Report as Verified
from turnlog.engine.replay.differing import told as value_told
from turnlog.engine.replay.rechoosing import Rechosen
from turnlog.engine.window.window import Window

__all__ = (
    "STYLES",
    "console",
    "conversations",
    "cost",
    "counted",
    "document",
    "errors",
    "event",
    "events",
    "exported",
    "imported",
    "info",
    "lay",
    "manifest_rows",
    "plain",
    "progress",
    "rounded",
    "said",
    "short",
    "span",
    "table",
    "told",
    "verified",
    "visible",
    "window",
    "window_document",
)

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)
_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""What changes the direction of text: with it a line can say something else than what is logged."""
_CONTROLS: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"},
    **{code: f"\\u{code:04x}" for code in _BIDI},
}
_IN_JSON: Final = {code: f"\\u{code:04x}" for code in (*range(127, 160), *_BIDI)}
STYLES: Final[Mapping[str, str]] = {
    "kept": "green",
    "pinned": "cyan",
    "excerpted": "yellow",
    "dropped": "red",
    "compacted": "magenta",
}
_WIDE: Final = frozenset({"what", "why", "reason", "scenario"})
_REJECTED_SHOWN: Final = 20
_TEXT: Final = 24
"""Characters of a text in a table for which there is not the room."""
_LONGEST: Final = 10_000


@contextmanager
def progress(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, if that is a terminal, while something goes on; yield what is told of each step."""
    errors = Console(stderr=True, emoji=False)
    if not (shown and errors.is_terminal):
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        yield lambda step: bar.advance(task, step)


def table(*columns: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """Return an empty table."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="bold",
        expand=True,
    )
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in right else "left"
        if name in _WIDE:
            # The last column takes what the others leave.
            folds = name != "what"
            made.add_column(name, ratio=1, no_wrap=not folds, overflow="fold" if folds else "ellipsis")
        else:
            made.add_column(name, justify=justify, no_wrap=True)
    return made


def lay(made: Table) -> None:
    """Print a table. Where there is not the room its lines are longer: texts are cut short then, numbers never."""
    fixed = [column for column in made.columns if column.ratio is None]
    around = 2 * len(made.columns) + _TEXT * (len(made.columns) - len(fixed))
    if around + sum(map(_width, fixed)) > console.width:
        for column in fixed:
            if column.justify != "right":
                column.max_width = _TEXT
    needed = around + sum(min(_width(column), column.max_width or _LONGEST) for column in fixed)
    if needed <= console.width:
        console.print(made)
        return
    wide = Console(highlight=False, width=needed)
    with wide.capture() as captured:
        wide.print(made)
    console.file.write(captured.get())


def _width(column: Column) -> int:
    """Return the width of the longest cell of a column."""
    cells = [str(cell) for cell in (column.header, *column.cells)]
    return max(Text.from_markup(cell).cell_len if "[" in cell else cell_len(cell) for cell in cells)


def visible(text: str) -> str:
    """Return a text with its control characters shown: what is logged must not move a person's cursor."""
    return text.translate(_CONTROLS)


def plain(value: object) -> str:
    """Return a text for a terminal as what it says: nothing in it is markup or a control character."""
    return escape(visible(str(value)))


def cost(value: float | None) -> str:
    """Return what something costs: two places after the point, or as many as it takes to say that it is not nothing.

    >>> [cost(one) for one in (None, 0.0, 12.3456, 0.00001234)]
    ['-', '0', '12.35', '0.000012']
    """
    if value is None:
        return "-"
    if not value:
        return "0"
    return f"{value:,.2f}" if value >= 1 else f"{value:.{1 - math.floor(math.log10(value))}f}"


def rounded(value: float | None) -> float | None:
    """Return what something costs without what floats add: to a millionth of a thousandth."""
    return None if value is None else round(value, 9)


def counted(number: int, what: str) -> str:
    """Return how many there are of something.

    >>> counted(1, "event"), counted(2000, "event")
    ('1 event', '2,000 events')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def span(first: int, last: int) -> str:
    """Return seqs that lie side by side.

    >>> span(3, 3), span(3, 5)
    ('3', '3-5')
    """
    return f"{first}" if first == last else f"{first}-{last}"


# -- listings


def info(one: Info) -> dict[str, Any]:
    """Return a conversation's row as JSON."""
    return {
        "id": one.id,
        "version": one.version,
        "items": one.items,
        "last_item": one.last_item,
        "created": one.created.isoformat(),
        "updated": one.updated.isoformat(),
        "metadata": one.metadata,
        "parent": one.parent,
        "busy": one.busy,
    }


def conversations(page: Page[Info]) -> None:
    """Print a page of conversations."""
    if not page.data:
        console.print("no conversations", style="dim")
        return
    rows = table("id", "version", "items", "updated (UTC)", "what", right=("version", "items"))
    for one in page.data:
        updated = f"{one.updated:%Y-%m-%d %H:%M:%S}"
        rows.add_row(one.id, str(one.version), str(one.items), updated, plain(short(_about(one))))
    lay(rows)
    if page.next is not None:
        console.print(f"more: --after '{page.next}'", style="dim")


def _about(one: Info) -> str:
    """Return what there is to say of a conversation, in a line."""
    said = ["a turn is running"] if one.busy else []
    said += [f"fork of {one.parent[0]} behind {one.parent[1]}"] if one.parent else []
    said += [json.dumps(one.metadata, ensure_ascii=False)] if one.metadata else []
    return ", ".join(said)


def event(one: Event) -> dict[str, Any]:
    """Return an event as JSON."""
    return {
        "seq": one.seq,
        "type": one.type,
        "time": one.time.isoformat(),
        "response": one.response,
        "tokens": one.tokens,
        "item": one.item,
        "data": one.data,
    }


def events(conversation: Conversation, found: Sequence[Event]) -> None:
    """Print a conversation's events."""
    title = f"{conversation.id}, version {conversation.version}"
    days = sorted({f"{one.time:%Y-%m-%d}" for one in found})
    clock = "%H:%M:%S.%f" if len(days) < 2 else "%Y-%m-%d %H:%M:%S.%f"
    title += f", {days[0]} (UTC)" if len(days) == 1 else ", times are UTC" if days else ", no events up to there"
    rows = table("seq", "time", "event", "of", "tokens", "what", title=title, right=("seq", "of", "tokens"))
    for one in found:
        of = "" if one.response is None else str(one.response)
        tokens = str(one.tokens) if one.tokens else ""
        rows.add_row(str(one.seq), one.time.strftime(clock)[:-3], plain(one.type), of, tokens, plain(short(told(one))))
    lay(rows)


def told(one: Event) -> str:
    """Return what an event says, in a line."""
    if one.item is not None:
        return said(one.item)
    data = dict(one.data)
    if isinstance(data.get("manifest"), dict):
        tokens, context = data["manifest"].get("tokens", 0), data["manifest"].get("context", 0)
        target = data.get("target") or {}
        window_ = f"{tokens:,} of {context:,} tokens" if context else f"{tokens:,} tokens"
        return (
            f"{target.get('model', '')} over {target.get('api', '')}: {window_}, digest {str(data.get('digest'))[:12]}…"
        )
    return ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in data.items())


def said(item: Mapping[str, Any]) -> str:
    """Return what an item says, in a line."""
    form = read(item)
    if form.shape in ("function_call", "custom_tool_call"):
        return f"calls {item.get('name')}({item.get('arguments', item.get('input', ''))})"
    texts = [str(part.get("text", part.get("refusal", f"[{part.get('type')}]"))) for part in parts(item)]
    text = " ".join(" ".join(texts).split())
    return f"{form.shape}: {text}" if text else f"{form.shape}"


def short(text: str, width: int = 110) -> str:
    """Return a text, cut short if it is long."""
    return text if len(text) <= width else text[: width - 1] + "…"


# -- windows


def window_document(made: Window, api: Literal["responses", "chat"]) -> dict[str, Any]:
    """Return a window as JSON."""
    content = {"messages": made.messages} if api == "chat" else {"items": made.items}
    return {
        "version": made.version,
        "tokens": made.tokens.total,
        "budget": made.budget.context - made.budget.reserve,
        **content,
        "manifest": {**stored(made.manifest), "measured": made.tokens.measured, "bound": made.tokens.bound},
    }


def window(made: Window, api: Literal["responses", "chat"]) -> None:
    """Print a window, and why it is as it is."""
    content = made.messages if api == "chat" else made.items
    told = made.tokens
    exact = "counted" if told.measured else "estimated"
    left = made.budget.context - made.budget.reserve
    what = "messages" if api == "chat" else "items"
    title = f"{len(content)} {what}, {told.total:,} of {left:,} tokens ({exact}, ± {told.bound:,})"
    rows = table("seq", "counted", "what", title=title, right=("seq", "counted"))
    weights = dict(made.manifest.weights)
    for one in made.rendered:
        tokens = weights.pop(one.seq, None)  # what stands for a missing output has its call's seq, and counts with it
        rows.add_row(str(one.seq), "" if tokens is None else str(tokens), plain(short(said(one.item))))
    lay(rows)
    console.print(_added_up(made.manifest), style="dim")
    console.print()
    lay(manifest_rows(made.manifest))


def _added_up(manifest: Manifest) -> str:
    """Say how the tokens of a window come from those of its items."""
    told = [f"counted: {manifest.items:,} of items"]
    if manifest.overhead:
        told.append(f" + {manifest.overhead:,} of instructions and tools")
    if manifest.factor != 1000:
        told.append(f", times {manifest.factor / 1000:.3f}, as the API reported before")
    return "".join([*told, f" = {manifest.tokens:,} tokens"])


def manifest_rows(manifest: Manifest) -> Table:
    """Return a manifest's runs as a table."""
    rows = table("seqs", "fate", "why", title=f"{plain(manifest.policy)}, as of {manifest.as_of}")
    for run in manifest.runs:
        style = STYLES.get(run.fate, "dim")
        rows.add_row(span(run.first, run.last), f"[{style}]{run.fate}[/]", plain(manifest.rule(run)))
    if manifest.sealed:
        rows.add_row(", ".join(map(str, manifest.sealed)), "sealed", "no output in the log: the window says so")
    return rows


def document(value: Any) -> None:
    """Print a JSON document for people; its lines are not broken, so that it is one in a file too."""
    console.print(JSON(json.dumps(value, ensure_ascii=False).translate(_IN_JSON)), soft_wrap=True)


# -- reports


def imported(report: Imports) -> None:
    """Print what an import did."""
    found: dict[str, int] = {}
    for came in report.imported:  # one that came twice is there once
        found[came.id] = max(came.events, found.get(came.id, 0))
    are = "is" if len(found) == 1 else "are"
    told = f"{counted(len(found), 'conversation')} with {counted(sum(found.values()), 'event')} {are} in the log"
    console.print(told if report.imported else "no conversation was imported")
    if not report.rejected:
        return
    rows = table("where", "reason", title=f"{counted(len(report.rejected), 'line')} made none")
    for one in report.rejected[:_REJECTED_SHOWN]:
        rows.add_row(plain(f"{one.source}:{one.line}"), plain(one.error))
    lay(rows)
    if len(report.rejected) > _REJECTED_SHOWN:
        console.print(f"and {len(report.rejected) - _REJECTED_SHOWN:,} more; --json lists all", style="dim")


def exported(done: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Print what an export did."""
    what = next((word for word in ("item", "message") if done and f"{word}s" in done[0]), "event")
    count = counted(sum(one[f"{what}s"] for one in done), what)
    are = "is" if len(done) == 1 else "are"
    console.print(f"{counted(len(done), 'conversation')} with {count} {are} in {plain(path)}", soft_wrap=True)


def verified(report: Verified, rechosen: Rechosen | None = None) -> None:
    """Print what verifying found."""
    style = "green" if report.sound else "red"
    console.print(f"{report.verified:,} of {counted(report.responses, 'request')} verified", style=style)
    if report.erased:
        console.print(f"{report.erased:,} held an item that was erased since")
    if report.damaged:
        rows = table("where", "reason", title=f"{counted(len(report.damaged), 'event')} damaged")
        for one in report.damaged:
            rows.add_row(f"{one.conversation}/{one.seq}", plain(one.reason))
        lay(rows)
    if report.diverged:
        lay(_diverged(report.diverged))
    if rechosen is not None:
        _rechosen(rechosen)


def _diverged(found: Sequence[Divergence]) -> Table:
    """Return a table of divergences; those of one cause, in later requests and in forks, are one row."""
    causes: dict[str, list[Divergence]] = {}
    for one in found:
        causes.setdefault(one.cause or f"{one.conversation}/{one.response}", []).append(one)
    rows = table("where", "path", "reason", title=f"{len(found):,} diverged")
    for first, *others in causes.values():
        values = [(name, value) for name, value in (("sent", first.sent), ("now", first.rebuilt)) if value is not UNSET]
        told = [first.reason, *(f"{name}: {value_told(value)}" for name, value in values)]
        if others:
            forks = len({one.conversation for one in others} - {first.conversation})
            where = f", in {counted(forks, 'other conversation')} too" if forks else ""
            told.append(f"and {counted(len(others), 'later request')} with it{where}; --json lists all")
        rows.add_row(f"{first.conversation}/{first.response}", plain(first.path), plain("\n".join(told)))
    return rows


def _rechosen(found: Rechosen) -> None:
    unknown = f"; {found.unknown:,} cannot be asked for again" if found.unknown else ""
    console.print(
        f"today's policy would send the same for {found.same:,}, other items for {len(found.other):,}{unknown}"
    )
    if found.other:
        rows = table("where", "seq", "why", right=("seq",))
        for one in found.other:
            rows.add_row(f"{one.conversation}/{one.response}", str(one.seq or ""), plain(one.reason))
        lay(rows)
