"""`turnlog report`: a conversation as one page to look at, in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer

from turnlog.adapters.cli import show
from turnlog.adapters.cli.common import DEFAULT, Db, Id, Json, Schema, put, run
from turnlog.adapters.cli.databases import existing, named
from turnlog.adapters.cli.exporting import appearing
from turnlog.engine.canonical import encode, loads
from turnlog.engine.codec import item_of, when
from turnlog.engine.engine import Engine
from turnlog.engine.errors import CorruptLog
from turnlog.engine.events import Record
from turnlog.engine.listing import Listing
from turnlog.engine.log import Query
from turnlog.engine.replay import stepping
from turnlog.engine.replay.differing import alike
from turnlog.engine.replay.encoders import encoders
from turnlog.engine.replay.legible import Legible
from turnlog.engine.replay.sent import Pieces, sent
from turnlog.engine.replay.stepping import KINDS, Step
from turnlog.engine.turns.listed import Turn

__all__ = ("page", "report")

_LARGEST: Final = 4_500_000
"""Bytes of data that a page may have, with room for the rest of it below five million."""
_CUTOFFS: Final = (100_000, 20_000, 5_000, 1_500, 500, 150)
"""Characters of a text that are shown where all of them would be too much, tried in this order."""
_PARTS: Final = 4
"""Times as many are shown of an item, or of what else a request says, whatever it is made of."""
_QUESTION: Final = 300
_RUNS: Final = 80
_TURNS: Final = 200
"""Turns that are listed at once."""


def report(
    id: Id,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")],
    db: Db = DEFAULT,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Write a page to look at: every request's tokens against the budget, what went and why, exact bodies, diffs."""

    async def work() -> tuple[str, int]:
        async with existing(named(db, schema)) as engine:
            data = await _data(engine, id)
            return page(data), len(data["steps"])

    made, requests = run(work)
    content = made.encode()
    with appearing(output) as file:
        file.write(content)
    if as_json:
        put({"id": id, "file": str(output), "requests": requests, "bytes": len(content)})
    else:
        show.console.print(
            f"{output}: {show.counted(requests, 'request')}, {len(content):,} bytes", markup=False, soft_wrap=True
        )


def page(data: Mapping[str, Any]) -> str:
    """Return the page that shows some data. Whatever the data holds, nothing of it is read as markup or script."""
    folder = files("turnlog.adapters.cli") / "page"
    parts = {name: (folder / f"report.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    filling = {
        "style": _hash(parts["css"]),
        "script": _hash(parts["js"]),
        "title": html.escape(f"turnlog: {data['about']['id']}"),
        "css": parts["css"],
        "js": parts["js"],
        "data": _fitted(data),
    }
    # In one pass: what is filled in is not looked through again.
    return re.sub(r"\{(style|script|title|css|js|data)\}", lambda found: filling[found[1]], parts["html"])


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


_ESCAPES: Final = {ord(one): f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}


def _fitted(data: Mapping[str, Any]) -> str:
    """Return data as JSON that can stand in a script element; of what is too much, less and less."""
    text = _written(data)
    for cutoff in _CUTOFFS:
        if len(text) <= _LARGEST:
            return text
        text = _written(_cut(data, cutoff))
    most = max(len(data["steps"]), len(data["turns"]))
    while len(text) > _LARGEST and most:
        text = _written(_bare(_cut(data, _CUTOFFS[-1]), most))
        most //= 2
    return text


def _cut(data: Mapping[str, Any], cutoff: int) -> dict[str, Any]:
    """Return data with long texts cut short, and what is made of very many."""
    frames = [{key: _short(part, cutoff) for key, part in frame.items()} for frame in data["frames"]]
    about = {**data["about"], "cutoff": cutoff, "metadata": _short(data["about"]["metadata"], cutoff)}
    return {**data, "pieces": [_short(one, cutoff) for one in data["pieces"]], "frames": frames, "about": about}


def _bare(data: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return data without requests, and with so many steps and turns at most, the newest ones."""
    bare = {"pieces": [0, []], "frame": None, "field": None, "missing": "this page would be too large with it"}
    less = {**bare, "before": None, "runs": [], "rules": [], "moved": []}
    steps, turns = data["steps"][-most:], data["turns"][-most:]
    about = {**data["about"], "left_out": len(data["steps"]) - len(steps)}
    kept = [{**one, **less, "error": one["error"] and show.short(one["error"], _QUESTION)} for one in steps]
    return {**data, "about": about, "steps": kept, "turns": turns, "frames": [], "pieces": []}


def _written(data: Mapping[str, Any]) -> str:
    made = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return made.translate(_ESCAPES).encode("utf-8", "replace").decode()


def _short(text: str, most: int) -> str:
    """Return canonical JSON with its long texts cut short; no JSON any more if it has too many parts."""
    if len(text) <= most:
        return text
    made = encode(_cut_short(loads(text), most)).decode()
    longest = _PARTS * most
    return made if len(made) <= longest else f"{made[:longest]}… ({len(made) - longest:,} more characters)"


def _cut_short(value: Any, most: int) -> Any:
    match value:
        case str() if len(value) > most:
            return f"{value[:most]}… ({len(value) - most:,} more characters)"
        case dict():
            return {key: _cut_short(part, most) for key, part in value.items()}
        case list():
            return [_cut_short(part, most) for part in value]
    return value


# -- what the page shows


class _Frames:
    """What stands around the items of requests, by its members, each as canonical JSON."""

    def __init__(self) -> None:
        self.values: list[dict[str, str]] = []
        self._places: dict[bytes, int] = {}

    def place(self, frame: Mapping[str, Any]) -> int:
        """Return where a frame is."""
        place = self._places.setdefault(encode(frame), len(self.values))
        if place == len(self.values):
            self.values.append({key: encode(frame[key]).decode() for key in sorted(frame)})
        return place


async def _data(engine: Engine, name: str) -> dict[str, Any]:
    """Return what a page shows of a conversation.

    Raises:
        NotFound: there is no such conversation.
        CorruptLog: see `steps`.
    """
    conversation = await engine.get(name)
    found = await stepping.steps(engine, name)
    places = {one.seq: index for index, one in enumerate(found)}
    pieces, frames = Pieces(), _Frames()
    requests = await _requests(engine, name, {one.seq: one.before for one in found}, pieces, frames)
    steps = [{**_step(one, places), **(requests.get(one.seq) or _unknown(one))} for one in found]
    snapshot = await engine.store.read(name, Query(limit=1), Query(limit=1, reverse=True))
    times = [_time(one) for some in (snapshot.records if snapshot else ()) for one in some]
    listing = Listing(engine, name, Legible(engine.store))
    turns = [await _turn(engine, name, one) async for one in listing.turns(None, _TURNS, "asc", abandoned=True)]
    return {
        "about": {
            "id": name,
            "version": conversation.version,
            "metadata": encode(conversation.metadata).decode(),
            "first": times[0],
            "last": times[-1],
            "turnlog": version("turnlog"),
            "cutoff": None,
            "left_out": 0,
        },
        "kinds": KINDS,
        "steps": steps,
        "turns": turns,
        "frames": frames.values,
        "pieces": [one.decode() for one in pieces.values],
    }


def _time(record: Record) -> str:
    try:
        return f"{when(record):%Y-%m-%d %H:%M:%S}"
    except CorruptLog:
        return "an unknown time"


def _unknown(step: Step) -> dict[str, Any]:
    """Return what there is of a request that is not in the log as one."""
    return {"missing": step.error, "pieces": (0, []), "frame": None, "field": None}


async def _turn(engine: Engine, name: str, turn: Turn) -> dict[str, Any]:
    """Return a turn, with what it began with."""
    snapshot = await engine.store.read(name, Query(after=turn.seq - 1, before=turn.seq + 1))
    said = ""
    if snapshot is not None and snapshot.records[0]:
        try:
            item = item_of(snapshot.records[0][0])
            said = "[erased]" if item is None else show.said(item).removeprefix("user: ")
        except CorruptLog:
            said = "[damaged]"
    return {
        "seq": turn.seq,
        "number": turn.number,
        "alive": turn.alive,
        "status": turn.status,
        "text": show.short(said, _QUESTION),
    }


def _step(step: Step, places: Mapping[int, int]) -> dict[str, Any]:
    usage = step.usage
    used = (
        None
        if usage is None
        else [usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens]
    )
    runs, rules = _runs(step)
    return {
        "seq": step.seq,
        "turn": step.turn,
        "before": None if step.before is None else places[step.before],
        "purpose": step.purpose,
        "status": step.status,
        "error": step.error,
        "api": step.api,
        "model": step.model,
        "backend": step.backend,
        "policy": step.policy,
        "time": f"{step.requested:%Y-%m-%d %H:%M:%S}",
        "first": step.first,
        "seconds": step.seconds,
        "context": step.context,
        "reserve": step.reserve,
        "tokens": step.tokens,
        "measured": step.measured,
        "bound": step.bound,
        "shared": step.shared,
        "kinds": [step.kinds.get(name, 0) for name in KINDS],
        "fates": dict(step.fates),
        "moved": [
            {"first": one.first, "last": one.last, "items": one.items, "fate": one.fate, "rule": one.rule}
            for one in step.moved
        ],
        "cut": step.cut,
        "compacted": step.compacted,
        "usage": used,
        "runs": runs,
        "rules": rules,
    }


def _runs(step: Step) -> tuple[list[tuple[int, int, str, int]], Sequence[str]]:
    """Return the fates of all events; of very many stretches the last ones."""
    runs = [(run.first, run.last, str(run.fate), run.rule) for run in step.manifest.runs]
    return runs[-_RUNS:], step.manifest.rules


async def _requests(
    engine: Engine, name: str, before: Mapping[int, int | None], pieces: Pieces, frames: _Frames
) -> dict[int, dict[str, Any]]:
    """Return where the parts of every request are, by its seq; or why it cannot be shown."""
    known = await anyio.to_thread.run_sync(encoders)
    made: dict[int, dict[str, Any]] = {}
    last: dict[int, Sequence[int]] = {}
    async for record, one in sent(engine.store, name, known, pieces):
        # Only what follows on each line is looked at again.
        old = last.pop(before.get(record.seq) or 0, ())
        last[record.seq] = one.places
        made[record.seq] = {
            "missing": one.missing or None,
            "pieces": _behind(old, one.places),
            "frame": None if one.missing else frames.place(one.frame),
            "field": one.field,
        }
    return made


def _behind(old: Sequence[int], new: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """Return with how many of the places before it a request begins, and the others as ranges: (first, how many)."""
    same = alike(old, new)
    made: list[tuple[int, int]] = []
    for place in new[same:]:
        if made and made[-1][0] + made[-1][1] == place:
            made[-1] = made[-1][0], made[-1][1] + 1
        else:
            made.append((place, 1))
    return same, made
