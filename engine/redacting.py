"""Redaction: a conversation whose content is replaced, for bug reports.

What is said is gone: texts, arguments, outputs, pictures, encrypted content, instructions, descriptions, metadata,
idempotency keys, and the messages of errors. What is kept is what a bug may be about: the events and their times, kinds
and roles, ids and what pairs by them, names of tools and models, the keys of objects, how many tokens everything has,
and which texts and keys are equal. Requests are written anew from what is left, so that they can be verified, and the
answers played.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from .blobs import packed, whole
from .canonical import digest, encode, loads
from .codec import body as body_of
from .codec import event, item_of, renewed
from .errors import NotFound, TurnlogError
from .events import (
    CallDecided,
    ContextCompacted,
    ConversationCreated,
    ConversationDeleted,
    EventBody,
    ItemAppended,
    ItemErased,
    MetadataUpdated,
    NewEvent,
    Record,
    ResponseCompleted,
    ResponseFailed,
    ResponseInterrupted,
    ResponseRequested,
    StandIn,
    Unknown,
    checksum,
)
from .items import reading
from .log import KeyUse, Store
from .portable import Package, dump
from .replay.rebuilding import rebuild
from .stores.memory import MemoryStore
from .tokens import Counter, count_text

__all__ = ("Redactor", "redacted")

_WORDS: Final = tuple(
    "one two red blue sun moon tree house water fire stone river bird fish door window light dark day night hand foot "  # noqa: SIM905
    "head heart road sea wind rain snow gold iron green".split()
)
"""One token each, in OpenAI's vocabularies, with the space before it."""
_KEPT: Final = frozenset(
    {
        *(
            "type",
            "role",
            "id",
            "call_id",
            "name",
            "status",
            "phase",
            "namespace",
            "model",
            "state",
            "effort",
            "detail",
        ),
        *(
            "tool_choice",
            "service_tier",
            "verbosity",
            "include",
            "truncation",
            "required",
            "strict",
            "execution",
            "syntax",
        ),
    }
)
"""Fields whose value is a word of the API or a name, if it looks like one."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")
_DATA: Final = re.compile(r"(data:[a-zA-Z0-9.+/-]{0,100};base64,)(.*)", re.DOTALL)
_OPAQUE: Final = frozenset({"encrypted_content", "result", "file_data", "data"})
"""Fields whose value is no text, and weighs by its length."""
_JSON: Final = frozenset({"arguments"})
"""Fields that hold JSON as a text."""


class Redactor:
    """Replaces content. Equal texts become equal ones; what they become cannot be undone.

    *counter* is what tokens are counted with; *salt* makes what a text becomes another one in every export.
    """

    def __init__(self, counter: Counter, salt: bytes | None = None) -> None:
        self._counter = counter
        self.salt = secrets.token_bytes(16) if salt is None else salt
        self._known: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Return a text of as many tokens that says nothing."""
        if not text:
            return text
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = self._made(text)
        return found

    def key(self, name: str) -> str:
        """Return another key, or digest: the same for the same one."""
        return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=self.salt, digest_size=16).hexdigest()

    def _made(self, text: str) -> str:
        data = _DATA.fullmatch(text)
        if data is not None:
            return data[1] + "A" * len(data[2])
        return self._words(count_text(text, self._counter), text)

    def _words(self, tokens: int, text: str) -> str:
        seed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self.salt, digest_size=32).digest()
        words = [_WORDS[seed[at % 32] % len(_WORDS)] for at in range(tokens)]
        return " ".join(words)

    def number(self, value: float) -> float:
        """Return a number of as many digits."""
        if isinstance(value, bool):
            return value
        digits = len(str(abs(int(value))))
        return int("1" * min(digits, 15)) if isinstance(value, int) else 1.5

    def json(self, text: str) -> str:
        """Return a JSON text of the same keys; one that is none is a text."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        if not isinstance(value, dict | list):
            return self.text(text)
        return json.dumps(self.value(value, numbers=True), ensure_ascii=False, separators=_separators(text))

    def value(self, value: Any, *, key: str = "", numbers: bool = False) -> Any:
        """Return a value of the same shape; *numbers* says whether numbers are content."""
        match value:
            case str():
                if key in _KEPT and not numbers and _NAME.fullmatch(value):
                    return value
                if key in _OPAQUE and " " not in value and not value.startswith("data:"):
                    return "A" * len(value)
                return self.json(value) if key in _JSON and not numbers else self.text(value)
            case dict():
                return {name: self.value(part, key=name, numbers=numbers) for name, part in value.items()}
            case list():
                return [self.value(part, key=key, numbers=numbers) for part in value]
            case int() | float() if numbers:
                return self.number(value)
        return value

    def settings(self, data: bytes) -> bytes:
        """Return a request's settings."""
        return encode(self.value(loads(data)))

    def said(self, said: EventBody) -> EventBody:
        """Return what an event says."""
        change = msgspec.structs.replace
        match said:
            case ConversationCreated():
                return change(said, metadata=self.value(said.metadata, numbers=True))
            case MetadataUpdated():
                return change(said, patch=self.value(said.patch, numbers=True))
            case ItemAppended():
                return change(
                    said, meta=self.value(said.meta, numbers=True), extra=self._extra(said.extra), repaired=[]
                )
            case ResponseCompleted():
                return change(said, removed=self.value(said.removed))
            case ResponseFailed():
                return change(said, message=self.text(said.message))
            case ResponseInterrupted():
                return change(said, items=[self.value(item) for item in said.items])
            case CallDecided():
                return change(said, by=self.text(said.by), reason=self.text(said.reason))
            case ItemErased() | ConversationDeleted():
                return change(said, reason=self.text(said.reason))
            case ContextCompacted():
                parts = [StandIn(seq=part.seq, item=self.value(part.item)) for part in said.stand_in]
                return change(said, stand_in=parts)
            case Unknown():
                return change(said, data=self.value(said.data, numbers=True))
        return said

    def _extra(self, extra: Any) -> Any:
        """Return what an item has no place for: where it belongs stays, what it is does not."""
        if not isinstance(extra, Mapping):
            return self.value(extra)
        made = dict(extra)
        if isinstance(extra.get("set"), list):
            made["set"] = [[path, self.value(value, key=str(path[-1]) if path else "")] for path, value in extra["set"]]
        return made


def _separators(text: str) -> tuple[str, str]:
    return (", ", ": ") if '": ' in text else (",", ":")


async def redacted(
    store: Store,
    name: str,
    redactor: Redactor,
    made: MemoryStore | None = None,
    written: dict[str, int] | None = None,
) -> AsyncIterator[tuple[bytes, str]]:
    """Yield a conversation's lines as `turnlog.engine.portable.dump` does, with its content replaced.

    It is made in memory, all of it: in *made*, which conversations for the same file share, as they do *written*.

    Raises:
        NotFound: there is no such conversation.
        CorruptLog: an event in it cannot be read.
    """
    made = MemoryStore() if made is None else made
    written = {} if written is None else written
    package: Package | None = None
    async for line, _ in dump(store, name, dict(written)):
        value = loads(line)
        if "turnlog" in value:
            package = Package(value)
        elif package is not None:
            package.add(value)
        if package is not None and package.whole:
            await _write(store, made, package, redactor)
            package = None
    async for line, of in dump(made, name, written):
        yield line, of


async def _write(store: Store, made: MemoryStore, package: Package, redactor: Redactor) -> None:
    """Write one conversation's own events into a store, with their content replaced."""
    there = await made.read(package.id)
    version = there.head.version if there is not None else 0
    for index, record in enumerate(package.records):
        if record.seq <= version:
            continue  # of what a fork shares, it was made before
        bodies: dict[str, bytes] = {}
        said = redactor.said(body_of(record))
        if isinstance(said, ResponseRequested):
            said, bodies = await _request(store, made, record, said, redactor)
        new = await _event(store, record, said, redactor, bodies)
        fork = package.fork if index == 0 else None
        expected = package.first - 1 + index if index else 0
        await made.append(package.id, [new], expected=expected, bodies=bodies, fork=fork)
    uses = {
        redactor.key(key): KeyUse(redactor.key(use.digest), use.first, use.last) for key, use in package.uses.items()
    }
    if uses:
        await made.append(package.id, [], uses=uses)


async def _event(
    store: Store, record: Record, said: EventBody, redactor: Redactor, bodies: dict[str, bytes]
) -> NewEvent:
    item = None
    if record.item is not None:
        value = redactor.value(item_of(await whole(store, record)))
        if isinstance(said, ItemAppended):
            value, blobs, large = packed(value)
            said = msgspec.structs.replace(said, blobs=blobs)
            bodies |= large
        item = encode(value)
    form = reading(record.shape, record.link) if record.shape is not None else None
    # Counted, flagged and timed as it was.
    new = event(
        said,
        item=item,
        form=form,
        response=record.response,
        tokens=record.tokens,
        excerpt=record.excerpt,
        flags=record.flags,
    )
    return msgspec.structs.replace(new, time=record.time, sum=checksum(item, new.data), marks=renewed(record).marks)


async def _request(
    store: Store, made: MemoryStore, record: Record, said: ResponseRequested, redactor: Redactor
) -> tuple[ResponseRequested, dict[str, bytes]]:
    """Return a request of what is left; one that was not what was sent is none here either."""
    settings = redactor.settings(await store.body(said.settings) or b"{}")
    name = digest(settings)
    key = None if said.key is None else redactor.key(said.key)
    asked = msgspec.structs.replace(said, settings=name, key=key, digest=digest(b""))
    try:
        same = (await rebuild(store, record)).digest == said.digest
        # It has to be there to be rebuilt from.
        there = _Beside(made, {name: settings})
        new = msgspec.structs.replace(record, data=encode(_data(asked)))
        found = (await rebuild(there, new)).digest if same else asked.digest
    except NotFound:
        found = asked.digest  # it held what was erased since
    except TurnlogError:
        found = asked.digest  # it cannot be rebuilt, here as there
    return msgspec.structs.replace(asked, digest=found), {name: settings}


def _data(said: ResponseRequested) -> Any:
    return loads(event(said).data or b"{}")


class _Beside:
    """A store, with bodies that are about to be in it."""

    def __init__(self, store: MemoryStore, bodies: Mapping[str, bytes]) -> None:
        self._store = store
        self._bodies = bodies
        self.read = store.read

    async def body(self, digest: str) -> bytes | None:
        """See `turnlog.engine.log.Store.body`."""
        return self._bodies.get(digest) or await self._store.body(digest)
