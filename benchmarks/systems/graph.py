"""LangGraph: a graph over `MessagesState` whose checkpoints are in SQLite, trimmed as its documentation shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, trim_messages
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from benchmarks.systems import Read, Windowed
from benchmarks.workload import AROUND, Item

__all__ = ("SYSTEMS",)


class LangGraph(Windowed):
    """Messages are added with `aupdate_state`, and read with `aget_state` and `trim_messages` by an exact counter."""

    name = "LangGraph AsyncSqliteSaver"
    ways = ("trim_messages",)
    bulk = 1_000_000  # in one step, as each writes everything anew

    async def open(self) -> None:
        """See `System.open`."""
        self._stack = AsyncExitStack()
        saver = self._saver = await self._stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(self.path)))
        await saver.setup()
        graph = StateGraph(MessagesState)
        graph.add_node("model", _model)
        graph.add_edge(START, "model")
        graph.add_edge("model", END)
        self._graph: Any = graph.compile(checkpointer=saver)

    async def close(self) -> None:
        """See `System.close`."""
        await self._stack.aclose()

    async def begin(self, conversation: str) -> None:
        """See `System.begin`; a thread begins with its first message."""

    async def append(self, conversation: str, items: Sequence[Item]) -> None:
        """See `System.append`."""
        messages = {"messages": [_message(item) for item in items]}
        await self._graph.aupdate_state(_thread(conversation), messages, as_node="model")

    async def window(self, conversation: str, budget: int, way: str) -> Read:  # noqa: ARG002 - there is one
        """See `Windowed.window`."""
        state = await self._graph.aget_state(_thread(conversation))
        found = state.values["messages"]
        kept = trim_messages(
            found, max_tokens=budget, token_counter=self._sum, strategy="last", start_on="human", include_system=True
        )
        return Read(kept, len(found))

    def _sum(self, messages: Sequence[BaseMessage]) -> int:
        return sum(map(self.weight, messages))

    def weight(self, item: BaseMessage) -> int:
        """See `System.weight`."""
        count = self._count
        if isinstance(item, AIMessage) and item.tool_calls:
            call = item.tool_calls[0]
            return AROUND["function_call"] + count(call["name"]) + count(_arguments(call["args"]))
        kind = {"human": "user", "ai": "assistant", "tool": "function_call_output"}[item.type]
        return AROUND[kind] + count(str(item.content))

    def text(self, item: BaseMessage) -> str:
        """See `Windowed.text`."""
        calls = item.tool_calls if isinstance(item, AIMessage) else []
        return _arguments(calls[0]["args"]) if calls else str(item.content)

    async def pragma(self, name: str) -> Any:
        """See `System.pragma`."""
        async with self._saver.conn.execute(f"PRAGMA {name}") as cursor:
            return (await cursor.fetchone())[0]


def _model(_: MessagesState) -> dict[str, list[BaseMessage]]:
    return {"messages": []}


def _thread(conversation: str) -> Any:
    return {"configurable": {"thread_id": conversation}}


def _arguments(arguments: Any) -> str:
    return json.dumps(arguments, separators=(",", ":"))


def _message(item: Item) -> BaseMessage:
    kind = item.get("type")
    if kind == "function_call":
        call = {"name": item["name"], "args": json.loads(item["arguments"]), "id": item["call_id"]}
        return AIMessage("", tool_calls=[call], id=item["id"])
    if kind == "function_call_output":
        return ToolMessage(item["output"], tool_call_id=item["call_id"])
    if item["role"] == "user":
        return HumanMessage(item["content"])
    return AIMessage(item["content"][0]["text"], id=item["id"])


SYSTEMS: Final = (LangGraph,)
