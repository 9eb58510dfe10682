"""The public surface, as type checkers see it. Never run: checked by mypy --strict and by basedpyright."""

from collections.abc import Mapping, Sequence
from typing import assert_type

from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseInputItemParam

from turnlog import (
    Budget,
    Conversation,
    ConversationBusy,
    Engine,
    ResponseFailed,
    Result,
    StreamEvent,
    ToolContext,
    Window,
    open_engine,
    tool,
)
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.conversations import Conversations
from turnlog.adapters.responses import Responses
from turnlog.engine.engine import Info
from turnlog.engine.listing import Appended, Call, Entry
from turnlog.engine.manifest import Change, Verdict
from turnlog.engine.pages import Page
from turnlog.engine.window.policies import (
    Composed,
    DropTurns,
    Excerpts,
    LastTurns,
    LeaveRoom,
    OldestTurns,
    Pinned,
    Policy,
)


@tool(timeout=20)
async def search(query: str) -> list[str]:
    return [query]


async def plain(ctx: ToolContext, order: str) -> str:
    return f"{order} under {ctx.idempotency_key}"


async def engines(client: AsyncOpenAI) -> None:
    async with open_engine("app.db", budget=Budget(context=8_000)) as engine:
        assert_type(engine, Engine)
        conversation = await engine.create(metadata={"user": "ada"})
        assert_type(conversation, Conversation)
        assert_type(await engine.list(), Page[Info])
        async for info in engine.list(order="created", limit=10):
            assert_type(info, Info)
        await turns(conversation, client)
        await reading(conversation)


async def turns(conversation: Conversation, client: AsyncOpenAI) -> None:
    gpt = Responses(client, "gpt-5", params={"reasoning": {"effort": "low"}}, backend="openai/org-eu")
    qwen = ChatCompletions(
        client, "Qwen3-32B", traits="vllm", count=lambda text: len(text) // 3 + 1, budget=Budget(32_768, 4_096)
    )
    chained = Responses(client, "gpt-5", state="chained", stall=60)
    assert_type(await conversation.respond(chained, "Go on."), Result)
    remote = Conversations(client, model="gpt-5")
    assert_type(await remote.create(conversation), str)
    assert_type(await remote.push(conversation), int)
    try:
        result = await conversation.respond(gpt, "Go on.", key="m-81")
    except ResponseFailed as failed:
        assert_type(failed.result, Result)
        assert_type(failed.retryable, bool)
        result = await conversation.respond(qwen)
    except ConversationBusy as busy:
        assert_type(busy.retry_after, int)
        return
    assert_type(result, Result)
    result = await conversation.run(gpt, ["a", "b"], tools=[search, plain, {"type": "function", "name": "later"}])
    assert_type(result.output_text, str)
    async with conversation.stream(gpt, {"role": "user", "content": "hi"}, tools=[search]) as stream:
        async for event in stream:
            assert_type(event, StreamEvent)
        assert_type(await stream.result(), Result)
    opened = await conversation.stream(gpt, on_leave="finish")
    await opened.aclose()


async def sdk_values(conversation: Conversation, response: Response, params: Sequence[ResponseInputItemParam]) -> None:
    assert_type(await conversation.append(*response.output), Appended)
    await conversation.append("hello", {"role": "assistant", "content": "Hi."}, expected=3, key="k", meta={"a": 1})
    await conversation.append(*params)


async def reading(conversation: Conversation) -> None:
    window = await conversation.window(Budget(4_000), api="chat")
    assert_type(window, Window)
    assert_type(window.tokens.total, int)
    assert_type(window.explain(), Sequence[Verdict])
    assert_type(window.diff(window), Sequence[Change])
    assert_type(window.manifest.why(2), Verdict)
    policy: Policy = Composed(Pinned(), Excerpts(), DropTurns(keep=2), LastTurns(9), LeaveRoom(500), OldestTurns())
    await conversation.window(policy=policy)
    metadata: Mapping[str, object] = conversation.metadata
    assert_type(metadata, Mapping[str, object])
    async for call in conversation.responses(order="desc"):
        assert_type(call, Call)
        assert_type(await conversation.response(call.seq), Call)
    assert_type(await conversation.items(limit=30), Page[Entry])
