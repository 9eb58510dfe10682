"""Finding a tokenizer's vocabulary and loading it, off the event loop.

tiktoken downloads its vocabularies at first use, and many machines cannot. The order here: tiktoken's own cache (or
the folder that TIKTOKEN_CACHE_DIR names), the `offline` extra, a download, else an estimate that errs upward and is
logged once. Nothing happens at import, and no failure here ever reaches a conversation.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import importlib.util
import io
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from .families import bare_name
from .logs import Log
from .tokens import Counter

if TYPE_CHECKING:
    import tiktoken

__all__ = ("DEFAULT", "Vocabulary", "estimate", "load", "vocabulary_of")

DEFAULT: Final = "o200k_base"
"""In which items are counted when they are appended."""

_PATIENCE: Final = 10.0
"""Seconds that a download may take."""
_LOOKS: Final = 0.05
"""Seconds between looks at one."""

# tiktoken's own table raises on new names and puts fine-tuned gpt-4o into the wrong family; what is not here is
# o200k_base, as every family since gpt-4o has been.
_CL100K: Final = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-")
_URL: Final = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_SHA256: Final = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
"""Of the vocabularies' files, as tiktoken_ext.openai_public has them."""

# How the vocabularies split text before they look for tokens, as tiktoken_ext.openai_public has it, whose own functions
# download. Special tokens are not needed: text never stands for one.
_SPLITS: Final = {
    "o200k_base": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"  # noqa: E501 - one alternative
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k_base": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s",
}

_log = Log("turnlog.vocabulary")
_loaded: dict[str, Vocabulary] = {}
_downloads: dict[str, threading.Thread] = {}
_looking: Final = threading.Lock()
"""Held while files are read, in a worker thread, never on the event loop."""
_starting: Final = threading.Lock()


class Vocabulary:
    """A way to count: exact with a tokenizer, else an upward estimate."""

    __slots__ = ("count", "exact", "name", "source")

    def __init__(self, name: str, count: Counter, *, exact: bool, source: str) -> None:
        self.name = name
        self.count = count
        self.exact = exact
        self.source = source
        """Where it was found: "cache", "offline", "download" or "estimate"."""

    def __repr__(self) -> str:
        return f"<Vocabulary {self.name} from {self.source}>"


def vocabulary_of(model: str) -> str:
    """Return the name of a model's vocabulary; of an unknown one, `o200k_base`."""
    name = bare_name(model)
    return "cl100k_base" if name == "gpt-4" or name.startswith(_CL100K) else DEFAULT


_PIECE: Final = re.compile(r" ?[A-Z]*[a-z]+| ?[A-Z]+|[0-9]{1,3}|\s+|[\x00-\x7f]", re.ASCII)
_WORD: Final = re.compile(r"[A-Z]*[a-z]+|[A-Z]+")
_BLANKS: Final = re.compile(r"\s\s", re.ASCII)
_LETTER: Final = re.compile(r"[A-Za-z]+")


def estimate(text: str) -> int:
    """Return more tokens than a text has: prose, code, tables, hexadecimal and base64 digits, any script.

    Every vocabulary splits text where this does, at words, numbers and signs. A word has a token, and one more for
    each letter and a half behind the first; what is not ASCII has one for each byte, which no vocabulary exceeds.
    """
    words = len(_WORD.findall(text))
    letters = sum(map(len, _LETTER.findall(text)))
    wide = len(text.encode(errors="replace")) - len(text.encode("ascii", errors="ignore"))
    return len(_PIECE.findall(text)) + len(_BLANKS.findall(text)) + (2 * (letters - words) + 2) // 3 + wide + bool(text)


async def load(name: str = DEFAULT) -> Vocabulary:
    """Return the vocabulary *name*, loaded once in a process and never on the event loop."""
    known = _loaded.get(name)
    if known is not None:
        return known
    found = await anyio.to_thread.run_sync(_local, name) or await _download(name)
    return found or _estimated(name)


def _estimated(name: str) -> Vocabulary:
    made = Vocabulary(name, estimate, exact=False, source="estimate")
    known = _loaded.setdefault(name, made)
    if known is made:
        _log.warning(
            "turnlog.vocabulary.missing",
            vocabulary=name,
            remedy='tokens are estimated upward; pip install "turnlog[offline]", or set TIKTOKEN_CACHE_DIR',
        )
    return known


def _local(name: str) -> Vocabulary | None:
    """Return a vocabulary that is on this machine; while one thread looks, others wait for what it finds."""
    with _looking:
        if name in _loaded:
            return _loaded[name]
        for source, find in (("cache", _cached), ("offline", _packaged)):
            try:
                encoding = find(name)
            except Exception as error:  # noqa: BLE001 - a broken file or package is as good as none
                _log.info("turnlog.vocabulary.unusable", vocabulary=name, source=source, error=type(error).__name__)
                continue
            if encoding is not None:
                _loaded[name] = Vocabulary(name, _counter(encoding), exact=True, source=source)
                return _loaded[name]
    return None


def _cached(name: str) -> tiktoken.Encoding | None:
    """Return an encoding whose file tiktoken has in its cache already.

    tiktoken itself is not asked: where the file is damaged it would download it again, for as long as that takes, and
    while it downloads one vocabulary it gives out no other.
    """
    import tempfile  # noqa: PLC0415 - it brings much along, and only who counts needs it

    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder == "" or name not in _SHA256:
        return None  # an empty name turns tiktoken's cache off
    place = Path(tempfile.gettempdir(), "data-gym-cache") if folder is None else Path(folder)
    file = place / hashlib.sha1(_URL.format(name).encode(), usedforsecurity=False).hexdigest()
    if not file.is_file():
        return None
    lines = file.read_bytes()
    if hashlib.sha256(lines).hexdigest() != _SHA256[name]:
        raise ValueError(f"{file} is not what was published")
    return _encoding(name, lines)


def _packaged(name: str) -> tiktoken.Encoding | None:
    """Return an encoding made from the data files of the `offline` extra, whose own code is not imported."""
    spec = importlib.util.find_spec("bpe_openai")
    if spec is None or spec.origin is None or name not in _SPLITS:
        return None
    packed = (Path(spec.origin).parent / "data" / f"{name}.tiktoken.gz").read_bytes()
    return _encoding(name, gzip.decompress(packed))


def _encoding(name: str, lines: bytes) -> tiktoken.Encoding:
    """Return an encoding made from a vocabulary's file: each line a token in base64, and its rank.

    The lines are read one by one, so that other threads get their turn. tiktoken's own part is one call, which lets no
    other thread run for as long as it takes, about a fifth of a second: `open_engine(preload=True)` has it done before.
    """
    pairs = (line.split() for line in io.BytesIO(lines) if not line.isspace())
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    encoding: tiktoken.Encoding = _tiktoken().Encoding(
        name, pat_str=_SPLITS[name], mergeable_ranks=ranks, special_tokens={}
    )
    return encoding


async def _download(name: str) -> Vocabulary | None:
    """Let tiktoken download it, for a few seconds, in a daemon thread that may be left behind: it has no time limit."""

    def work() -> None:
        try:
            found = Vocabulary(name, _counter(_tiktoken().get_encoding(name)), exact=True, source="download")
        except Exception as error:  # noqa: BLE001 - no network, no such encoding: the estimate remains
            _log.info("turnlog.vocabulary.download", vocabulary=name, error=type(error).__name__)
        else:
            _loaded[name] = found

    with _starting:
        thread = _downloads.get(name)
        if thread is None:
            thread = _downloads[name] = threading.Thread(target=work, name=f"turnlog download {name}", daemon=True)
            thread.start()
    with anyio.move_on_after(_PATIENCE):
        while thread.is_alive():  # noqa: ASYNC110 - the thread may outlive this event loop, and serve others
            await anyio.sleep(_LOOKS)
    return _loaded.get(name)


def _tiktoken() -> Any:
    """Import tiktoken where it is first needed, off the event loop: it brings an HTTP client along."""
    return importlib.import_module("tiktoken")


def _counter(encoding: tiktoken.Encoding) -> Counter:
    encode = encoding.encode_ordinary
    return lambda text: len(encode(text))
