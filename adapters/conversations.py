"""The Conversations API: a conversation at the server that mirrors one of ours.

    remote = Conversations(client)
    await remote.create(chat)  # a new one, with everything that the log has
    await remote.push(chat)  # what is new
    await remote.attach(engine_chat, "conv_123")  # an existing one, imported whole
    await remote.delete(chat)

With `Responses(client, model, state="conversation")` the same conversation then goes on at the server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import openai

from turnlog.adapters.wire import check_client, label
from turnlog.engine.canonical import salvage
from turnlog.engine.checks import switch
from turnlog.engine.conversation import Conversation
from turnlog.engine.errors import Conflict, Invalid
from turnlog.engine.remotes import attach, detach, import_items, lacking, remote_of, target_of

__all__ = ("Conversations",)

_AT_ONCE: Final = 20
"""Items that one call may add."""
_PAGE: Final = 100
"""Items on a page."""
_INCLUDE: Final = (
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "file_search_call.results",
)
"""What the API leaves out of items unless asked for it."""


class Conversations:
    """Creates, fills, reads and deletes conversations at a server. Errors of the client come through as they are.

    Args:
        client: an `openai.AsyncOpenAI`, or any client of that shape.
        model: whose encrypted reasoning goes along: only its maker can read it; default: nobody's.
        backend: a label of where it runs, as `Responses` has it; default: the client's host and port.

    Raises:
        Invalid: an argument that is of another type.
    """

    def __init__(self, client: Any, *, model: str = "", backend: str | None = None) -> None:
        check_client(client, "conversations")
        for name, text in (("model", model), ("backend", backend or "")):
            if not isinstance(text, str):
                raise Invalid(f"{name}={text!r:.100}: a text is needed")
        self.client = client
        self.backend = backend or label(client)
        self._target = target_of(self.backend, model)
        # What adds something may have done so although its answer was lost: a second request would add it again.
        self._once = client.with_options(max_retries=0)

    def __repr__(self) -> str:
        return f"Conversations(backend={self.backend!r})"

    async def create(self, conversation: Conversation, *, metadata: Mapping[str, str] | None = None) -> str:
        """Make a conversation at the server that has what this one has; return its id.

        It takes the place of one that mirrored this one before, which stays as it is.

        Raises:
            ConversationBusy: a turn is running.
            openai.OpenAIError: the server's word. What was made is in the log, to be deleted or done anew.
        """
        made = await self._once.conversations.create(**({"metadata": dict(metadata)} if metadata else {}))
        remote = str(made.id)
        await attach(conversation, remote, self._target)
        await self._write(conversation, remote, new=True)
        return remote

    async def attach(self, conversation: Conversation, remote: str) -> int:
        """Import a conversation of the server's whole into a new one of ours, which it mirrors from now on.

        Return the number of its items. All or nothing.

        Raises:
            Invalid: this one has items of its own.
            openai.OpenAIError: the server's word.
        """
        items = [item async for item in self._items(remote, include=_INCLUDE)]
        return await import_items(conversation, items, remote, self.backend)

    async def push(self, conversation: Conversation) -> int:
        """Add to the server's conversation what came since; return the number of items.

        Raises:
            Conflict: there is none, or it does not begin like the log any more, so that a new one has to be created.
            ConversationBusy: a turn is running.
            openai.OpenAIError: the server's word; what of the items came in is unknown then, and a new one is needed.
        """
        return await self._write(conversation, await self._remote(conversation), new=False)

    async def delete(self, conversation: Conversation, *, items: bool = True) -> int:
        """Delete the server's conversation, and its items first: the API keeps these otherwise. Return how many.

        Raises:
            Conflict: there is none.
            openai.OpenAIError: the server's word; what is gone already counts as deleted.
        """
        switch("items", items)
        remote, gone = await self._remote(conversation), 0
        try:
            for name in [str(item.get("id")) async for item in self._items(remote)] if items else ():
                try:
                    await self.client.conversations.items.delete(name, conversation_id=remote)
                except openai.NotFoundError:
                    continue
                gone += 1
            await self.client.conversations.delete(remote)
        except openai.NotFoundError:
            pass
        await detach(conversation, remote, self.backend)
        return gone

    async def _remote(self, conversation: Conversation) -> str:
        remote = await remote_of(conversation, self.backend)
        if remote is None:
            raise Conflict(f"{conversation.id}: no conversation at {self.backend} mirrors it; create or attach one")
        return remote

    async def _write(self, conversation: Conversation, remote: str, *, new: bool) -> int:
        """Write what is not there, between two events: whoever finds only the first knows that it was cut short."""
        found = await lacking(conversation, self._target, None if new else remote)
        if found.items or new:
            if not new:
                await attach(conversation, remote, self._target, expected=found.version)
            for first in range(0, len(found.items), _AT_ONCE):
                await self._add(remote, found.items[first : first + _AT_ONCE])
            await attach(conversation, remote, self._target, found.manifest)
        return len(found.items)

    async def _add(self, remote: str, items: Sequence[Mapping[str, Any]]) -> None:
        add = self._once.conversations.items.with_raw_response.create
        await add(remote, items=[], extra_body={"items": list(items)})

    async def _items(self, remote: str, include: Sequence[str] = ()) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the items of a server's conversation, oldest first, as the server has them."""
        after: dict[str, Any] = {}
        seen: set[str] = set()
        more = {"include": list(include)} if include else {}
        while True:
            raw = await self.client.conversations.items.with_raw_response.list(
                remote, order="asc", limit=_PAGE, **after, **more
            )
            page, _ = salvage(raw.http_response.content)
            data = page.get("data") if isinstance(page, dict) else None
            new = [item for item in data or () if isinstance(item, dict) and item.get("id") not in seen]
            for item in new:
                seen.add(str(item.get("id")))
                yield item
            # A server that does not say whether there is more is asked until nothing new comes.
            if not new or page.get("has_more") is False:
                return
            after = {"after": str(new[-1].get("id"))}
