"""How a step of a replay looks: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from turnlog.adapters.cli import show
from turnlog.engine.blobs import whole
from turnlog.engine.engine import Engine
from turnlog.engine.listing import Event, event_of
from turnlog.engine.log import Query
from turnlog.engine.manifest import SENT, stored
from turnlog.engine.replay import stepping
from turnlog.engine.replay.differing import told
from turnlog.engine.replay.legible import Legible
from turnlog.engine.replay.stepping import BAD, KINDS, Diff, Step

__all__ = ("COLORS", "Shown", "document", "overview")

COLORS: Final[Mapping[str, str]] = {
    "instructions": "bright_black",
    "system": "cyan",
    "user": "blue",
    "assistant": "green",
    "reasoning": "magenta",
    "calls": "yellow",
    "outputs": "red",
    "compacted": "bright_magenta",
    "other": "white",
}
_BAR: Final = 60
_NEW: Final = 20
_CAME: Final = 16
_RUNS: Final = 40


def document(step: Step, found: Diff | str) -> dict[str, Any]:
    """Return a step as JSON, with how its request differs from the one before, or why that is not known."""
    made: dict[str, Any] = msgspec.to_builtins(step)
    made["manifest"] = stored(step.manifest)
    made["diff"] = {"error": found} if isinstance(found, str) else _diffed(found)
    return made


def _diffed(found: Diff) -> dict[str, Any]:
    items = [msgspec.to_builtins(one) for one in found.changes if one.kind != "same"]
    same = sum(one.kind == "same" for one in found.changes)
    return {"same": same, "items": items, "frame": msgspec.to_builtins(list(found.frame))}


def overview(name: str, found: Sequence[Step]) -> None:
    """Print a table of all steps."""
    right = ("seq", "turn", "tokens", "budget", "shared", "seconds")
    rows = show.table(
        "seq", "turn", "status", "model", "tokens", "budget", "shared", "seconds", "what", title=name, right=right
    )
    for one in found:
        seconds = "" if one.seconds is None else f"{one.seconds:.2f}"
        what = ", ".join(filter(None, (one.error, f"cut: {one.cut}" if one.cut else "", _moved(one))))
        row = (one.seq, one.turn_number or "", one.status, one.model, f"{one.tokens:,}", _room(one), f"{one.shared:,}")
        rows.add_row(*map(show.plain, row), seconds, show.plain(what))
    show.lay(rows)


def _room(step: Step) -> str:
    return f"{step.room:,}" if step.context else ""


def _moved(step: Step) -> str:
    return ", ".join(f"{one.items} {one.fate}" for one in step.moved)


class Shown:
    """Prints steps of one conversation."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._store = Legible(engine.store)
        self.name = name

    async def _events(self, after: int, limit: int, before: int | None = None) -> list[Event]:
        snapshot = await self._store.read(self.name, Query(after=after, before=before, limit=limit))
        records = snapshot.records[0] if snapshot is not None else ()
        return [event_of(await whole(self._store, one)) for one in records]

    async def _items(self, seqs: Sequence[int]) -> list[Event]:
        """Return events, most of which lie side by side."""
        found: list[Event] = []
        for _, run in groupby(enumerate(seqs), lambda pair: pair[1] - pair[0]):
            some = [seq for _, seq in run]
            found += await self._events(some[0] - 1, len(some), some[-1] + 1)
        return found

    async def step(self, step: Step) -> None:
        """Print a step: what was new, the tokens against the budget, what went and why, the outcome."""
        line = show.console.print
        head = f"response {step.seq} ({step.number})"
        line(f"\n[bold]{head}[/], turn {step.turn_number or '-'}, {show.plain(_asked(step))}")
        line(_bar(step))
        shared = f", {step.shared:,} shared with the one before" if step.shared else ""
        exact = "counted" if step.measured else f"estimated, ± {step.bound:,}"
        room = f" of {step.room:,} ({step.context:,} less {step.reserve:,})" if step.context else ""
        line(f"{step.tokens:,}{room} tokens, {exact}{shared}", style="dim")
        line("  ".join(f"[{COLORS[name]}]■[/] {name} {step.kinds[name]:,}" for name in KINDS if name in step.kinds))
        line("items: " + ", ".join(f"{count} {fate}" for fate, count in step.fates.items()))
        for one in step.moved:
            rule = "" if one.rule == one.fate else f": {show.plain(one.rule)}"
            line(f"[yellow]now {one.fate}[/]: {one.items} at {show.span(one.first, one.last)}{rule}")
        if step.cut:
            line(f"[yellow]cut[/]: {show.plain(step.cut)}")
        if step.compacted:
            line(f"[magenta]from the compaction at {step.compacted} on[/]")
        for event in await self._items(step.new[-_NEW:]):
            line(f"  [dim]+ {event.seq}[/] {show.plain(show.short(show.said(event.item or {})))}")
        if len(step.new) > _NEW:
            line(f"  [dim]and {len(step.new) - _NEW} more before them[/]")
        await self._came(step)
        line(_outcome(step))

    async def _came(self, step: Step) -> None:
        """Print what was answered."""
        after = step.seq
        while True:
            page = await self._events(after, _CAME)
            for event in page:
                after = event.seq
                if event.response == step.seq and event.item is not None:
                    show.console.print(f"  [dim]= {event.seq}[/] {show.plain(show.short(show.said(event.item)))}")
                if event.response == step.seq and event.type in ("response.completed", "response.failed"):
                    return
                if event.type == "response.requested":
                    return
            if len(page) < _CAME:
                return

    async def window(self, step: Step) -> None:
        """Print what was sent, item by item, and the fate of everything else."""
        request = await (await (await self._engine.get(self.name)).response(step.seq)).request()
        given = request.get("messages", request.get("input"))
        rows = show.table("at", "what", title=f"response {step.seq}", right=("at",))
        for index, item in enumerate(given if isinstance(given, list) else [{"role": "user", "content": given}]):
            rows.add_row(str(index), show.plain(show.short(show.said(item) if isinstance(item, dict) else told(item))))
        show.lay(rows)
        runs = [run for run in step.manifest.runs if run.fate not in SENT or run.fate == "excerpted"]
        if runs:
            kept = msgspec.structs.replace(step.manifest, runs=tuple(runs[-_RUNS:]))
            show.lay(show.manifest_rows(kept))

    async def diff(self, step: Step) -> None:
        """Print how the request differs from the one before."""
        self.differs(step, await stepping.diff(await self._engine.get(self.name), step.before, step.seq))

    def differs(self, step: Step, found: Diff | str) -> None:
        """Print a diff to the request before, or why there is none."""
        what = f"response {step.before}" if step.before is not None else "nothing: it is the first of its kind"
        show.console.print(f"response {step.seq} against {what}", style="bold")
        for line, style in [(found, "red")] if isinstance(found, str) else _lines(found):
            show.console.print(show.visible(line), style=style, markup=False)

    async def body(self, step: Step) -> None:
        """Print the request's body."""
        show.document(await (await (await self._engine.get(self.name)).response(step.seq)).request())


def _asked(step: Step) -> str:
    purpose = "" if step.purpose == "answer" else f", {step.purpose}"
    again = f", again after {step.retry_of}" if step.retry_of is not None else ""
    where = f"{step.model} at {step.backend} over {step.api}" if step.model else "an unknown model"
    return f"{where}, {step.policy}{purpose}{again}, {step.requested:%Y-%m-%d %H:%M:%S}"


def _bar(step: Step) -> str:
    """Return the tokens by kind as a bar; the room is as wide as the bar can be."""
    most = max(step.room if step.context else 0, step.tokens, 1)
    made = left = 0.0
    parts: list[str] = []
    for name in KINDS:
        made += step.kinds.get(name, 0) * _BAR / most
        width = round(made) - round(left)
        parts.append(f"[{COLORS[name]}]{'█' * width}[/]" if width else "")
        left = made
    return "".join(parts) + "[dim]" + "·" * (_BAR - round(made)) + "[/]"


def _outcome(step: Step) -> str:
    style = "green" if step.status == "completed" else "red" if step.status in BAD else "yellow"
    told_ = [f"[{style}]{step.status}[/]"]
    if step.error:
        told_.append(show.plain(step.error))
    if step.seconds is not None:
        first = f", first item after {step.first:.2f} s" if step.first is not None else ""
        told_.append(f"{step.seconds:.2f} s{first}")
    if step.usage is not None:
        used = step.usage
        told_.append(f"{used.input_tokens:,} in ({used.cached_tokens:,} cached), {used.output_tokens:,} out")
    return " · ".join(told_)


def _lines(found: Diff) -> Iterable[tuple[str, str]]:
    same = 0
    for one in found.changes:
        if one.kind == "same":
            same += 1
            continue
        if same:
            yield f"  {same} the same", "dim"
            same = 0
        if one.kind == "changed":
            yield from ((f"~ {one.new}: {part}", "yellow") for part in one.differences)
        elif one.kind == "added" and one.new is not None:
            yield f"+ {one.new}: {told(found.new[one.new])}", "green"
        elif one.old is not None:
            yield f"- {one.old}: {told(found.old[one.old])}", "red"
    if same:
        yield f"  {same} the same", "dim"
    yield from ((f"~ {part}", "yellow") for part in found.frame)
