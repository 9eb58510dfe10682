"""The events of a conversation, and the envelope they travel in.

An event is one immutable fact. Its name is its conversation and its seq; it has no other id. What an event says is one
of the structs below; where and when it was said is its envelope: `NewEvent` before it is appended, `Record` after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from .ids import Position
from .manifest import Manifest

__all__ = (
    "ASIDE",
    "CALLED",
    "ESTIMATED",
    "MISNAMED",
    "NAMED",
    "ODD",
    "PICTURED",
    "PINNED",
    "SEAL",
    "SECRET",
    "SURPLUS",
    "UNPLACED",
    "WANTING",
    "Blob",
    "CallDecided",
    "CallStarted",
    "CompactionUndone",
    "ContextCompacted",
    "ConversationCreated",
    "ConversationDeleted",
    "EventBody",
    "HistoryRewound",
    "ItemAppended",
    "ItemErased",
    "MetadataUpdated",
    "NewEvent",
    "Origin",
    "Purpose",
    "Record",
    "RemoteAttached",
    "ResponseCompleted",
    "ResponseFailed",
    "ResponseInterrupted",
    "ResponseRequested",
    "ResponseStarted",
    "StandIn",
    "Target",
    "Unknown",
    "Usage",
    "checksum",
)


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Who made an item: the adapter, the backend it spoke to, the model."""

    adapter: str
    backend: str
    model: str


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom a window is for."""

    api: Literal["responses", "chat"]
    backend: str = ""
    model: str = ""
    state: str = "stateless"
    """How the API holds state: "stateless", "chained", "conversation"; "recorded": the request was made elsewhere."""
    thoughts: str = "never"
    """What of its reasoning a model gets back as text: "never", "always", "tool_turns": where it called tools."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens as the API reported them. Cached ones are among the input, reasoning ones among the output."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.requests + other.requests,
        )


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields that are not here today are left to their defaults, so older logs read on."""


class ConversationCreated(_Body, frozen=True, kw_only=True, tag="conversation.created"):
    """The first event. A fork has a parent and its own first event is n + 1."""

    metadata: dict[str, Any] = {}
    parent: str | None = None
    at: int | None = None


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """A string of an item that stands out of line: where in the item, and the SHA-256 of its canonical JSON."""

    path: tuple[str | int, ...]
    digest: str


class ItemAppended(_Body, frozen=True, kw_only=True, tag="item.appended"):
    """An item; the raw JSON stands beside, in the envelope."""

    origin: Origin | None = None
    """Who made it, where its response does not say."""
    extra: Any = None
    """Fields of the maker's own shape for which an item has no place; only the adapter in origin reads it."""
    beside: int = 0
    """Tokens of what of `extra` goes back to its maker; in the envelope's tokens only the item counts."""
    blobs: list[Blob] = []
    """What of the item stands out of line; in its place stands the beginning."""
    meta: Any = None
    """The caller's small JSON, never sent."""
    repaired: list[str] = []
    """What had to be replaced in what the provider said, by JSON path."""


Purpose: TypeAlias = Literal["answer", "compaction", "aside"]


class ResponseRequested(_Body, frozen=True, kw_only=True, tag="response.requested"):
    """A model is about to be called. Its seq names the response."""

    purpose: Purpose = "answer"
    adapter: str
    encoder: int
    target: Target
    settings: str
    """The hash of instructions, tools and parameters."""
    manifest: Manifest
    digest: str
    """SHA-256 of the canonical request body."""
    cache_key: str | None = None
    """Whose requests share a prompt cache, where the provider wants to be told: the conversation's id, in a fork its
    parent's. Beside the settings, which many conversations share."""
    key: str | None = None
    retry_of: int | None = None
    continues: bool = False
    """Whether it goes on with a turn: what it answers is the output of a call."""


class ResponseStarted(_Body, frozen=True, kw_only=True, tag="response.started"):
    """The provider took the request."""

    id: str | None = None
    model: str | None = None
    background: bool = False
    """Whether it goes on at its server without anybody listening."""
    stored: bool = False
    """Whether its server keeps it."""


class ResponseCompleted(_Body, frozen=True, kw_only=True, tag="response.completed"):
    """The model has answered, in full or up to a limit."""

    status: Literal["completed", "incomplete"] = "completed"
    reason: str | None = None
    usage: Usage | None = None
    retries: int = 0
    """How often the client tried again before it was answered."""
    removed: Any = None
    """What the server said it left out of the input."""
    approvals: list[str] = []
    """The calls, by link, that are not run before a person has agreed."""


class ResponseFailed(_Body, frozen=True, kw_only=True, tag="response.failed"):
    """The model did not answer. Whatever items came before count for nothing in later windows."""

    kind: str
    code: str | None = None
    param: str | None = None
    """The place in the request that it is about, as the API names it."""
    message: str = ""
    status_code: int | None = None
    retryable: bool = False
    retries: int = 0


class ResponseInterrupted(_Body, frozen=True, kw_only=True, tag="response.interrupted"):
    """The response, or the tools it called, did not get to their end."""

    cause: Literal["cancelled", "left", "crashed"]
    items: list[Any] = []
    """Unfinished items as far as they came. Unfinished text also stands as an item in the envelope."""
    sealed: list[str] = []
    """The calls that were given an output saying so."""


class CallStarted(_Body, frozen=True, kw_only=True, tag="call.started"):
    """A tool is about to run: from here on its effect may have happened."""

    call_id: str


class CallDecided(_Body, frozen=True, kw_only=True, tag="call.decided"):
    """A person's decision on a call."""

    call_id: str
    approve: bool
    by: str
    reason: str = ""


class StandIn(_Body, frozen=True, kw_only=True):
    """One item of what stands for a compacted range: a logged one by its seq, or a new one."""

    seq: int | None = None
    item: Any = None


class ContextCompacted(_Body, frozen=True, kw_only=True, tag="context.compacted"):
    """From here on a stand-in is sent for the covered events, which stay. An empty range (0, 0) covers none."""

    first: int
    last: int
    digest: str = ""
    """SHA-256 over the covered items; over its digest, where an earlier compaction covers the first of them."""
    stand_in: list[StandIn]
    """Its tokens are the event's."""
    readable: list[StandIn] = []
    """What those get who did not make the stand-in, where part of that is opaque."""
    readable_tokens: int = 0
    method: str
    """remote, server, summary or extract."""
    origin: Origin | None = None
    usage: Usage | None = None
    responses: list[int] = []
    """The model calls by which it was made: what they said is in the log too."""


class CompactionUndone(_Body, frozen=True, kw_only=True, tag="compaction.undone"):
    """The compaction at `seq` counts no more."""

    seq: int


class HistoryRewound(_Body, frozen=True, kw_only=True, tag="history.rewound"):
    """The path continues from where it was at `to`."""

    to: int


class ItemErased(_Body, frozen=True, kw_only=True, tag="item.erased"):
    """The content of the item at `seq` was overwritten."""

    seq: int
    reason: str


class MetadataUpdated(_Body, frozen=True, kw_only=True, tag="metadata.updated"):
    """A JSON merge patch (RFC 7396) of the conversation's metadata."""

    patch: dict[str, Any]


class RemoteAttached(_Body, frozen=True, kw_only=True, tag="remote.attached"):
    """A server-side conversation that mirrors this one. Forks do not share it."""

    id: str
    backend: str = ""
    model: str = ""
    """Whose encrypted content went along."""
    manifest: Manifest | None = None
    """What it holds as of now, as the window that was written to it; None: that is for the responses behind to say."""
    detached: bool = False
    """Whether it mirrors this one no longer."""


class ConversationDeleted(_Body, frozen=True, kw_only=True, tag="conversation.deleted"):
    """The tombstone."""

    reason: str = ""


class Unknown(msgspec.Struct, frozen=True):
    """An event of a kind that this version does not know; kept and passed on as it is."""

    kind: str
    data: Any


EventBody: TypeAlias = (
    ConversationCreated
    | ItemAppended
    | ResponseRequested
    | ResponseStarted
    | ResponseCompleted
    | ResponseFailed
    | ResponseInterrupted
    | CallStarted
    | CallDecided
    | ContextCompacted
    | CompactionUndone
    | HistoryRewound
    | ItemErased
    | MetadataUpdated
    | RemoteAttached
    | ConversationDeleted
    | Unknown
)

PINNED: Final = 1
"""Flag: stays in every window."""
SEAL: Final = 2
"""Flag: an output that says that the call was not carried out; a real one may still replace it."""
ASIDE: Final = 4
"""Flag: logged, and in no later window."""
ESTIMATED: Final = 8
"""Flag: the token figure is an estimate (an image, encrypted content, no vocabulary at hand)."""
SECRET: Final = 16
"""Flag: the item carries encrypted content, which only its maker can read."""
NAMED: Final = 32
"""Flag: the item has an id of the form that the Responses API gives to its kind."""
MISNAMED: Final = 64
"""Flag: the item has an id of another form, which the API would refuse."""


CALLED: Final = 256
"""Flag: a program called it, which the item names as its caller."""


ERASED: Final = 128
"""Flag: the content was overwritten; an item is sent no more, a compaction stands for nothing any more."""
PICTURED: Final = 512
"""Flag: pictures are in it, which weigh something else for each family of models."""
ODD: Final = 1024
"""Flag: the API would refuse something in it, and is sent it put right (`turnlog.engine.forms`)."""
UNPLACED: Final = 2048
"""Flag: something in it has no place in Chat Completions."""
SURPLUS: Final = 4096
"""Flag: it has fields that its kind has not (`turnlog.engine.fields`)."""
WANTING: Final = 8192
"""Flag: it has not what every request needs of its kind, and that cannot be put right."""


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event on its way into the log: what a window needs to know as columns, the rest as canonical JSON."""

    kind: str
    schema: int = 1
    response: int | None = None
    """The response it belongs to, by seq; -n names the n-th event of the same append."""
    shape: str | None = None
    """Of an item: its kind, a message's role."""
    link: str | None = None
    """Of an item: what pairs it with its call or output."""
    tokens: int = 0
    excerpt: int | None = None
    """Tokens of the excerpt that may stand for it; None where there is none."""
    flags: int = 0
    item: bytes | None = None
    data: bytes | None = None
    sum: int = 0
    """A checksum of item and data as they were written (`checksum`), to tell later which row changed."""
    marks: tuple[str, ...] = ()
    """Names under which the event is found by index."""
    refs: tuple[str, ...] = ()
    """The bodies, by SHA-256, that belong to this event alone."""
    blobs: Mapping[str, bytes] = {}
    """Their content, where it comes with the event."""
    time: int | None = None
    """Microseconds since 1970, UTC; None: the store's writer says when."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event in the log."""

    conversation: str
    seq: int
    kind: str
    schema: int = 1
    response: int | None = None
    shape: str | None = None
    link: str | None = None
    tokens: int = 0
    excerpt: int | None = None
    flags: int = 0
    item: bytes | None = None
    data: bytes | None = None
    position: Position = Position("")
    """Where it stands in the store's feed."""
    time: int = 0
    """Microseconds since 1970, UTC, by the clock of its writer."""
    sum: int = 0


def checksum(item: bytes | None, data: bytes | None) -> int:
    """Return 64 bits over an event's bytes, as a signed integer, which every SQL database can hold."""
    seal = hashlib.blake2b((item or b"") + b"\0" + (data or b""), digest_size=8)
    return int.from_bytes(seal.digest(), "big", signed=True)
