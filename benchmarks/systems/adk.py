"""google-adk: its two session services that keep sessions on a disk of one's own.

A service appends one event at a time, and gives back a session with all of its events, or the last so many; the number
is a hundredth of the budget, as for openai-agents.
"""

from __future__ import annotations

import json
import sqlite3
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

from google.adk.events.event import Event
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

from benchmarks.systems import Read, Windowed
from benchmarks.workload import AROUND, Item

__all__ = ("SYSTEMS",)

OF: Final = {"app_name": "benchmarks", "user_id": "ada"}


class _Service(Windowed):
    """Sessions of one service."""

    ways = ("num_recent_events", "full")
    most = 100
    service: Any

    async def open(self) -> None:
        """See `System.open`."""
        self.service = self.made()
        self._sessions: dict[str, Any] = {}

    @abstractmethod
    def made(self) -> Any:
        """Return a new service."""

    async def begin(self, conversation: str) -> None:
        """See `System.begin`."""
        found = await self._session(conversation, 0)
        self._sessions[conversation] = found or await self.service.create_session(**OF, session_id=conversation)

    async def _session(self, conversation: str, events: int | None) -> Any:
        config = None if events is None else GetSessionConfig(num_recent_events=events)
        return await self.service.get_session(**OF, session_id=conversation, config=config)

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """See `System.append`."""
        for item in items:
            await self.service.append_event(self._sessions[conversation], _event(item))

    async def window(self, conversation: str, budget: int, way: str) -> Read:
        """See `Windowed.window`."""
        session = await self._session(conversation, budget // 100 if way == "num_recent_events" else None)
        # What is appended next is appended to the session that was read last, as its runner does.
        self._sessions[conversation] = session
        return Read(self.fitting(session.events, budget, _begins), len(session.events))

    def weight(self, item: Event) -> int:
        """See `System.weight`."""
        part = _part(item)
        call = part.function_call
        if call is not None:
            return AROUND["function_call"] + self._count(str(call.name)) + self._count(self.text(item))
        kind = "function_call_output" if part.function_response else "user" if item.author == "user" else "assistant"
        return AROUND[kind] + self._count(self.text(item))

    def text(self, item: Event) -> str:
        """See `Windowed.text`."""
        part = _part(item)
        if part.function_call is not None:
            return json.dumps(part.function_call.args, separators=(",", ":"))
        if part.function_response is not None:
            return str((part.function_response.response or {})["output"])
        return str(part.text)


def _part(event: Event) -> types.Part:
    assert event.content is not None
    assert event.content.parts is not None
    return event.content.parts[0]


def _begins(event: Event) -> bool:
    return event.author == "user" and _part(event).text is not None


def _event(item: Item) -> Event:
    kind = item.get("type")
    if kind == "function_call":
        call = types.FunctionCall(id=item["call_id"], name=item["name"], args=json.loads(item["arguments"]))
        return Event(author="agent", content=types.Content(role="model", parts=[types.Part(function_call=call)]))
    if kind == "function_call_output":
        answer = types.FunctionResponse(id=item["call_id"], name="look_up", response={"output": item["output"]})
        return Event(author="agent", content=types.Content(role="user", parts=[types.Part(function_response=answer)]))
    if item["role"] == "user":
        return Event(author="user", content=types.Content(role="user", parts=[types.Part(text=item["content"])]))
    text = item["content"][0]["text"]
    return Event(author="agent", content=types.Content(role="model", parts=[types.Part(text=text)]))


class Sqlite(_Service):
    """`SqliteSessionService`: a new connection for every call. WAL mode gains nothing: it is flushed as one closes."""

    name = "google-adk SqliteSessionService"
    quickly = 10

    def made(self) -> Any:
        """See `_Service.made`."""
        return SqliteSessionService(str(self.path))

    async def close(self) -> None:
        """See `System.close`; it holds nothing open."""

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        opened = self.service._get_db_connection()  # noqa: SLF001 - it opens one for every call
        async with opened as connection, connection.execute(f"PRAGMA {name}") as cursor:
            return (await cursor.fetchone())[0]


class Database(_Service):
    """`DatabaseSessionService` on SQLite with aiosqlite; the file is put into WAL mode for it, which it keeps."""

    name = "google-adk DatabaseSessionService"

    def made(self) -> Any:
        """See `_Service.made`."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        return DatabaseSessionService(f"sqlite+aiosqlite:///{self.path}")

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        async with self.service.db_engine.connect() as connection:
            return (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()

    async def close(self) -> None:
        """See `System.close`."""
        await self.service.close()


SYSTEMS: Final = (Database, Sqlite)
