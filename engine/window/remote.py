"""What a server holds of a window already, and what is new. Pure.

A server that keeps state has, of a response, everything that its request's window stood for, and its answer. A window
that begins with all of that, unchanged, need not be sent whole: the request follows that response, and only what comes
behind it is sent. Whether it does is seen from the manifests of the two: a cut, a compaction, an erasure, a late output
for an older call make another beginning, and the window is sent whole again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..codec import body
from ..events import RemoteAttached, ResponseRequested, Target
from ..history import History
from ..manifest import Manifest, form_of
from .render import Rendered

__all__ = ("addressed", "following", "news")


def following(history: History, manifest: Manifest, target: Target) -> Manifest:
    """Return the manifest with what it follows at the server; as it is where the whole window has to be sent."""
    anchor = history.anchor(target)
    if anchor is None:
        return manifest
    said = body(anchor)
    if isinstance(said, ResponseRequested):
        held, seq, remote, model = said.manifest, anchor.seq, said.manifest.remote, said.target.model
        if target.state == "chained":
            remote = history.provider.get(seq, "")
    elif isinstance(said, RemoteAttached) and said.manifest is not None:
        held, seq, remote, model = said.manifest, said.manifest.as_of, said.id, said.model
    else:
        return manifest
    if manifest.base and model != target.model:
        return manifest  # what stands for compacted events is not the same for all
    if not remote or not _begins(history, manifest, held, seq):
        return manifest
    if isinstance(said, ResponseRequested) and not _is_whole(history, manifest, seq):
        return manifest
    return msgspec.structs.replace(manifest, follows=seq, remote=remote)


def _begins(history: History, manifest: Manifest, held: Manifest, seq: int) -> bool:
    """Return whether a window begins with what the window *held* had up to *seq*.

    Reasoning is as it may be: the server keeps it where it may not be sent, and reads what it can.
    """
    if (held.renderer, held.base, held.early) != (manifest.renderer, manifest.base, manifest.early):
        return False
    if tuple(call for call in manifest.sealed if call <= seq) != held.sealed:
        return False
    entries = {entry.seq: entry for entry in history.entries()}
    for at in _changed(held, manifest, seq):
        entry = entries.get(at)
        if entry is None:
            if at <= history.floor:
                return False  # it is not loaded, so it may be an item
        elif entry.reading.shape != "reasoning":
            return False
    return True


def _is_whole(history: History, manifest: Manifest, response: int) -> bool:
    """Return whether a window has the whole answer of a response.

    Its reasoning the server has in any case; but an answer that ends with it is not gone on from.
    """
    answer = history.groups.get(response)
    made = [entry for entry in answer.entries if not entry.reading.is_output] if answer else []
    if made and made[-1].reading.shape == "reasoning":
        return False
    return all(manifest.fate(one.seq) in ("kept", "pinned") or one.reading.shape == "reasoning" for one in made)


def _changed(held: Manifest, manifest: Manifest, seq: int) -> Iterator[int]:
    """Yield the seqs up to *seq* that are sent in one of two windows and not, or otherwise, in the other."""
    ends = sorted({run.last for one in (held, manifest) for run in one.runs if run.last < seq} | {held.as_of, seq})
    first = 1
    for last in ends:
        if first <= last and form_of(held.fate(first)) != form_of(manifest.fate(first)):
            yield from range(first, last + 1)
        first = last + 1


def news(rendered: Sequence[Rendered], manifest: Manifest) -> list[Rendered]:
    """Return what of a window is sent: all of it, or what comes behind the response that the request follows."""
    seq = manifest.follows
    return [one for one in rendered if one.seq > seq and one.response != seq] if seq else list(rendered)


def addressed(settings: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return a request's settings with what an encoder has to know of the server's state."""
    return {**settings, "remote": manifest.remote} if manifest.remote else dict(settings)
