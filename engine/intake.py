"""Intake: items from callers and models, checked, measured and wrapped as events. Each item is tokenised here, once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from . import vocabulary
from .blobs import LIMIT, packed
from .canonical import canonical, digest, encode, loads
from .codec import BARE, event
from .common import is_common
from .errors import InvalidItem
from .events import (
    CALLED,
    ESTIMATED,
    MISNAMED,
    NAMED,
    ODD,
    PICTURED,
    PINNED,
    SEAL,
    SECRET,
    SURPLUS,
    UNPLACED,
    WANTING,
    ItemAppended,
    NewEvent,
    Record,
    ResponseInterrupted,
)
from .extras import goes_back
from .fields import surplus, wanting
from .forms import mended, unplaced
from .items import InputItem, Reading, accept, read, reading
from .threads import COUNTED, apart, is_large
from .tokens import Count, Counter, count_json, measure
from .window.kinds import CHAT as COMMON
from .window.render import seal

__all__ = ("Intake", "as_responses", "content_digest", "inputs", "leading", "shifted")

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

META_LIMIT: Final = 16 * 1024


def inputs(value: InputItem | Sequence[InputItem] | None) -> list[InputItem]:
    """Return an input as a list of items."""
    if value is None:
        return []
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Sequence):
        return [value]
    return list(value)


def flags_of(item: Mapping[str, Any], reading: Reading) -> int:
    """Return what choosing must know of an item's body.

    That is whether it has encrypted content, whether its id is of the API's form, and whether all of it can be sent, to
    whom, and as it is.
    """
    if is_common(item):
        return _id_flag(item, reading)
    secret = item.get("encrypted_content")
    flags = SECRET if isinstance(secret, str) and secret else 0
    sent = mended(item, reading.shape)
    if sent is not item:
        flags |= ODD
    if any(unplaced(item, reading.shape)):
        flags |= UNPLACED
    if any(surplus(sent, reading.shape)):
        flags |= SURPLUS
    if reading.shape not in COMMON and any(wanting(sent, reading.shape)):
        flags |= WANTING
    caller = item.get("caller")
    if caller is not None and isinstance(caller, Mapping) and caller.get("type") == "program":
        flags |= CALLED
    return flags | _id_flag(item, reading)


def _id_flag(item: Mapping[str, Any], reading: Reading) -> int:
    name = item.get("id")
    kind = reading.kind
    if name is None or (kind is not None and kind.answers is not None and kind.link == "id"):
        return 0  # of this output, the id is the link to its call
    prefix = kind.prefix if kind else None
    good = isinstance(name, str) and _ID.fullmatch(name) is not None and (prefix is None or name.startswith(prefix))
    return NAMED if good else MISNAMED


def as_responses(events: Sequence[NewEvent]) -> list[NewEvent]:
    """Return items with each run of what a model made marked as one response, named by its first event."""
    marked: list[NewEvent] = []
    run: int | None = None
    for number, one in enumerate(events, 1):
        run = _run(run, reading(one.shape or "unknown", one.link), number)
        part = run is not None and one.response is None
        marked.append(msgspec.structs.replace(one, response=-run) if part and run is not None else one)
    return marked


def _run(run: int | None, form: Reading, number: int) -> int | None:
    """Return the number of the item that begins the run of what a model made that this one is in, None if in none."""
    if form.maker == "model":
        return number if run is None else run
    return None if form.maker in ("input", "output") else run


def shifted(events: Sequence[NewEvent], by: int) -> list[NewEvent]:
    """Return items that stand *by* events later in their append, with their responses named from its beginning."""
    return [one if one.response is None else msgspec.structs.replace(one, response=one.response - by) for one in events]


def content_digest(events: Iterable[NewEvent | Record]) -> str:
    """Return the digest of items, as an idempotency key remembers them: all that their caller said.

    That is each item, whole, with its meta, and whether it is pinned; not what was found out about it, such as tokens,
    nor what the log makes of it.
    """
    return digest(b"\n".join(map(_said, events)))


def _said(one: NewEvent | Record) -> bytes:
    """Return an item, and what was said of it where that is anything."""
    data = loads(one.data) if one.data else {}
    beside = {name: data[name] for name in ("meta", "blobs") if name in data}
    if one.flags & PINNED:
        beside["pinned"] = True
    return (one.item or b"") + (encode(beside) if beside else b"")


def leading(events: Sequence[NewEvent]) -> list[NewEvent]:
    """Return items with the system and developer messages that come before any other pinned."""
    made: list[NewEvent] = []
    ahead = True
    for one in events:
        ahead = ahead and one.shape in ("system", "developer")
        if ahead and not one.flags & PINNED:
            made.append(msgspec.structs.replace(one, flags=one.flags | PINNED, marks=(*one.marks, "pin")))
        else:
            made.append(one)
    return made


def _event(
    item: Mapping[str, Any],
    data: bytes,
    form: Reading,
    by: vocabulary.Vocabulary,
    said: ItemAppended,
    flags: int,
    response: int | None,
) -> NewEvent:
    """Return the event of an item and its canonical bytes: counted, and what of it is large out of line."""
    count, bodies = measure(item, by.count, form), dict[str, bytes]()
    if len(data) > LIMIT:
        stub, blobs, bodies = packed(item)
        said = msgspec.structs.replace(said, blobs=blobs)
        data = encode(stub)
    flags |= flags_of(item, form)
    if count.estimated or not by.exact:
        flags |= ESTIMATED
    if count.pictured:
        flags |= PICTURED
    made = event(said, item=data, form=form, response=response, tokens=count.tokens, excerpt=count.excerpt, flags=flags)
    return msgspec.structs.replace(made, blobs=bodies) if bodies else made


class Intake:
    """Makes events of items, with one vocabulary."""

    def __init__(self, name: str = vocabulary.DEFAULT) -> None:
        self.name = name
        self._vocabulary: vocabulary.Vocabulary | None = None

    async def vocabulary(self) -> vocabulary.Vocabulary:
        """Return the vocabulary that items are counted in."""
        if self._vocabulary is None:
            self._vocabulary = await vocabulary.load(self.name)
        return self._vocabulary

    async def caller(
        self,
        values: Iterable[InputItem],
        *,
        pinned: bool = False,
        meta: Mapping[str, Any] | None = None,
        path: str = "items",
    ) -> list[NewEvent]:
        """Return events for a caller's items.

        Raises:
            InvalidItem: one of them is no item, or cannot be pinned; nothing has been written.
        """
        said = BARE if meta is None else ItemAppended(meta=_meta(meta))
        counting = self._vocabulary or await self.vocabulary()
        made: list[NewEvent] = []
        run: int | None = None
        for number, value in enumerate(values, 1):
            place = f"{path}[{number - 1}]"
            item, data = await apart(accept, value, place, when=is_large(value))
            form = read(item)
            flags = PINNED if pinned and not _follows(form, made, place) else 0
            run = _run(run, form, number)
            response = None if run is None else -run
            one = await apart(_event, item, data, form, counting, said, flags, response, when=len(data) >= COUNTED)
            made.append(one)
        return made

    async def item(
        self,
        item: Mapping[str, Any],
        data: bytes | None = None,
        *,
        said: ItemAppended | None = None,
        flags: int = 0,
        response: int | None = None,
    ) -> NewEvent:
        """Return the event of one item that is plain JSON already; *data* is its canonical bytes, when at hand."""
        if data is None:
            data = encode(item)
        counting = self._vocabulary or await self.vocabulary()
        if said is not None and said.extra is not None:
            said = msgspec.structs.replace(said, beside=await self._beside(said.extra))
        given = item, data, read(item), counting, said or BARE, flags, response
        return await apart(_event, *given, when=len(data) >= COUNTED)

    async def count(self, item: Mapping[str, Any], size: int, counter: Counter | None = None) -> Count:
        """Return what an item weighs; a long one is counted off the event loop."""
        by = counter or (await self.vocabulary()).count
        return await apart(measure, item, by, when=size >= COUNTED)

    async def _beside(self, extra: Mapping[str, Any]) -> int:
        """Return the tokens of what of an extra goes back to its maker; much is counted off the event loop."""
        texts = [encode(value).decode() for value in goes_back(extra)]
        counter = (await self.vocabulary()).count

        def counted() -> int:
            return sum(count_json(text, counter) for text in texts)

        return await apart(counted, when=sum(map(len, texts)) >= COUNTED)

    async def counts(self, items: Sequence[bytes], counter: Counter) -> list[Count]:
        """Return what items weigh by a counter, given as the log has them; many at once are counted in one thread."""

        def measured() -> list[Count]:
            return [measure(loads(item), counter) for item in items]

        return await apart(measured, when=sum(map(len, items)) >= COUNTED)

    async def seals(self, calls: Iterable[tuple[Mapping[str, Any], str, str]]) -> list[NewEvent]:
        """Return outputs that say what became of calls: (call, its kind, the words)."""
        return [await self.item(seal(call, shape, words), flags=SEAL) for call, shape, words in calls]

    async def partial(self, said: ResponseInterrupted, item: Mapping[str, Any], response: int) -> NewEvent:
        """Return the event of an interruption that unfinished text stands in."""
        data = canonical(item)
        count = await self.count(item, len(data))
        return event(
            said,
            item=data,
            form=read(item),
            response=response,
            tokens=count.tokens,
            flags=ESTIMATED if count.estimated or not (await self.vocabulary()).exact else 0,
        )


def _follows(form: Reading, before: Sequence[NewEvent], place: str) -> bool:
    """Return whether a pinned item is an output, which is pinned with its call.

    Raises:
        InvalidItem: it is, and its call is not among those before it.
    """
    if not form.is_output:
        return False
    answers = form.kind.answers if form.kind else None
    if not any((one.shape, one.link) == (answers, form.link) for one in before):
        raise InvalidItem(place, "an output is pinned with its call: append both in one call, or pin a message")
    return True


def _meta(meta: Mapping[str, Any] | None) -> Any:
    if meta is None:
        return None
    if not isinstance(meta, Mapping):
        raise InvalidItem("meta", f"{meta!r:.100}: a mapping is needed")
    data = canonical(meta, "meta")
    if len(data) > META_LIMIT:
        raise InvalidItem("meta", f"{len(data):,} bytes of JSON; at most {META_LIMIT:,} are kept beside an item")
    return msgspec.json.decode(data)
