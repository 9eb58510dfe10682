"""Finding a tokenizer's vocabulary and loading it, off the event loop.

tiktoken downloads its vocabularies at first use, and many machines cannot. The order here: tiktoken's own cache (or
the folder that TIKTOKEN_CACHE_DIR names), the `offline` extra, a download, else an estimate that errs upward and is
logged once. Nothing happens at import, and no failure here ever reaches a conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from .logs import Log
from .tokens import Counter

if TYPE_CHECKING:
    import tiktoken

__all__ = ("DEFAULT", "Vocabulary", "estimate", "load", "vocabulary_of")

DEFAULT: Final = "o200k_base"
"""In which items are counted when they are appended."""

_PATIENCE: Final = 10.0
"""Seconds that a download may take."""

# tiktoken's own table raises on new names and puts fine-tuned gpt-4o into the wrong family; what is not here is
# o200k_base, as every family since gpt-4o has been.
_CL100K: Final = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-")
_URL: Final = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"

_log = Log("turnlog.vocabulary")
_loaded: dict[str, Vocabulary] = {}


class Vocabulary:
    """A way to count: exact with a tokenizer, else an upward estimate."""

    __slots__ = ("count", "exact", "name", "source")

    def __init__(self, name: str, count: Counter, *, exact: bool, source: str) -> None:
        self.name = name
        self.count = count
        self.exact = exact
        self.source = source

    def __repr__(self) -> str:
        return f"<Vocabulary {self.name} from {self.source}>"


def vocabulary_of(model: str) -> str:
    """Return the name of a model's vocabulary; of an unknown one, `o200k_base`."""
    name = model.rsplit("/", 1)[-1]
    if name.startswith("ft:"):
        name = name.split(":")[1]
    return "cl100k_base" if name == "gpt-4" or name.startswith(_CL100K) else DEFAULT


def estimate(text: str) -> int:
    """Return more tokens than text, code, JSON and hexadecimal digits have: three for every five bytes."""
    return -(-len(text.encode(errors="replace")) * 3 // 5)


async def load(name: str = DEFAULT) -> Vocabulary:
    """Return the vocabulary *name*, loaded at most once in a process and never on the event loop."""
    known = _loaded.get(name)
    if known is not None:
        return known
    found = await anyio.to_thread.run_sync(_local, name) or await _download(name)
    if found is None:
        _log.warning(
            "turnlog.vocabulary.missing",
            vocabulary=name,
            remedy='tokens are estimated upward; pip install "turnlog[offline]", or set TIKTOKEN_CACHE_DIR',
        )
        found = Vocabulary(name, estimate, exact=False, source="estimate")
    return _loaded.setdefault(name, found)


def _local(name: str) -> Vocabulary | None:
    for source, find in (("cache", _cached), ("offline", _packaged)):
        try:
            encoding = find(name)
        except Exception as error:  # noqa: BLE001 - a broken file or package is as good as none
            _log.info("turnlog.vocabulary.unusable", vocabulary=name, source=source, error=type(error).__name__)
            continue
        if encoding is not None:
            return Vocabulary(name, _counter(encoding), exact=True, source=source)
    return None


def _cached(name: str) -> tiktoken.Encoding | None:
    """Return an encoding whose file tiktoken has in its cache already; it checks the file's hash itself."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    place = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    key = hashlib.sha1(_URL.format(name).encode(), usedforsecurity=False).hexdigest()
    if not (place / key).exists():
        return None
    encoding: tiktoken.Encoding = _tiktoken().get_encoding(name)
    return encoding


def _packaged(name: str) -> tiktoken.Encoding | None:
    """Return an encoding made from the data of the `offline` extra."""
    if importlib.util.find_spec("bpe_openai") is None:
        return None
    registry = importlib.import_module("bpe_openai.registry")
    table: Callable[[], dict[str, Any]] | None = getattr(registry, name, None)
    return None if table is None else _tiktoken().Encoding(**table())


async def _download(name: str) -> Vocabulary | None:
    """Let tiktoken download it, for a few seconds, in a daemon thread that may be left behind: it has no time limit."""
    loop = asyncio.get_running_loop()
    done = anyio.Event()
    found: list[Vocabulary] = []

    def work() -> None:
        try:
            found.append(Vocabulary(name, _counter(_tiktoken().get_encoding(name)), exact=True, source="download"))
        except Exception as error:  # noqa: BLE001 - no network, no such encoding: the estimate remains
            _log.info("turnlog.vocabulary.download", vocabulary=name, error=type(error).__name__)
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name=f"turnlog download {name}", daemon=True).start()
    with anyio.move_on_after(_PATIENCE):
        await done.wait()
    return found[0] if found else None


def _tiktoken() -> Any:
    """Import tiktoken where it is first needed, off the event loop: it brings an HTTP client along."""
    return importlib.import_module("tiktoken")


def _counter(encoding: tiktoken.Encoding) -> Counter:
    encode = encoding.encode_ordinary
    return lambda text: len(encode(text))
