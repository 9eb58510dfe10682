"""Programs that users write, as type checkers see them; `tests/test_programs.py` runs them."""

from collections.abc import AsyncIterator, Mapping

from openai import AsyncOpenAI

from turnlog import (
    Budget,
    Conversation,
    Engine,
    ResponseFailed,
    Result,
    ToolContext,
    tool,
)
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine.erasing import Receipt
from turnlog.engine.model import Model
from turnlog.engine.turns.streams import Stream

# 1. The seed: history by hand, by both APIs, kept by the server, and compacted


async def seed(engine: Engine, client: AsyncOpenAI) -> None:
    chat, gpt = ChatCompletions(client, "gpt-4o-mini"), Responses(client, "gpt-4o-mini")
    c = await engine.create()
    await c.append("knock knock.", {"role": "assistant", "content": "Who's there?"}, "Orange.")
    print((await c.respond(chat)).output_text)
    print((await (await c.fork(at=3)).respond(gpt)).output_text)
    d = await engine.create()
    for text in ("tell me a joke", "tell me another"):
        print((await d.respond(gpt, text)).output_text)
    chained = Responses(client, "gpt-4o-mini", state="chained")
    e = await engine.create()
    first = await e.respond(chained, "tell me a joke")
    await e.respond(chained, [{"role": "user", "content": "explain why this is funny."}])
    await (await e.fork(at=first.version)).respond(chained, "in French, please")
    await e.respond(Responses(client, "gpt-4.1", state="conversation"), "What are the 5 Ds of dodgeball?")
    await e.compact(gpt, instructions="Be brief.")


# 2. What a streaming endpoint sends


async def sse(stream: Stream) -> AsyncIterator[str]:
    try:
        async for event in stream:
            if event.type == "response.output_text.delta":
                yield f"data: {event.delta}\n\n"
    except ResponseFailed as failed:
        yield f"event: error\ndata: {failed.code}\n\n"  # headers are out: the error must be an event
    finally:
        await stream.aclose()


# 3. An agent: parallel tools, one approval, days later


@tool(timeout=20)
async def search(query: str) -> list[str]:
    return [query]


@tool(approval=lambda args: args["amount"] > 100, timeout=60)
async def refund(ctx: ToolContext, order: str, amount: float) -> str:
    return f"{order}: {amount:.2f} back under {ctx.idempotency_key} for {ctx.deps}"


async def ask(engine: Engine, gpt: Model, chat: str, text: str) -> Mapping[str, object]:
    c = await engine.get(chat)
    r = await c.run(gpt, text, tools=[search, refund], deps="db session", when_busy="wait")
    return {
        "text": r.output_text,
        "pending": [(k.call_id, k.name, k.arguments) for k in r.open_calls if k.needs == "approval"],
    }


async def decided(engine: Engine, gpt: Model, chat: str, call_id: str, *, approve: bool, who: str) -> Result:
    c = await engine.get(chat)
    await c.decide(call_id, approve=approve, by=who, reason="policy 7")
    return await c.run(gpt, tools=[search, refund], deps="db session")


# 4. One model on Responses, then another backend on Chat Completions


async def change(engine: Engine, chat: str, openai_client: AsyncOpenAI, vllm_client: AsyncOpenAI) -> Result:
    c = await engine.get(chat)
    gpt = Responses(openai_client, "gpt-5.5", backend="openai/org-eu")
    qwen = ChatCompletions(
        vllm_client,
        "Qwen3-32B",
        backend="vllm-a",
        count=lambda s: len(s) // 3 + 1,
        budget=Budget(context=32_768, reserve=4_096),
        params={"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}, "temperature": 0.2},
    )
    try:
        return await c.respond(gpt, "Go on.", key="m-81")
    except ResponseFailed as e:
        if not e.retryable:
            raise
        return await c.respond(qwen)  # the input is there already


# 5. Three weeks old, with compaction


async def old(engine: Engine, chat: str, gpt: Model, mini: Model) -> None:
    c = await engine.get(chat)
    w = await c.window(model=gpt)
    if w.tokens.total > 0.8 * w.budget.context:
        done = await c.compact(mini, method="summary", expected=c.version)
        print(done.covered, done.before, "->", done.after)
        if done.after > done.before // 2:
            await c.rewind(to=done.seq - 1)  # undo
    await c.respond(gpt, "Where were we?")
    ui = await c.items(order="desc", limit=30)  # a person still sees every message
    print([e.item for e in ui.data], ui.has_more)


# 6. Regenerate, edit, and "2/3"


async def regenerate(c: Conversation, model: Model, turn: int) -> Result:
    t = [t async for t in c.turns() if t.number == turn][0]  # noqa: RUF015 - an async generator has no first
    await c.rewind(to=t.seq, expected=c.version)
    return await c.run(model)


async def edit(c: Conversation, model: Model, turn: int, text: str) -> Result:
    t = [t async for t in c.turns() if t.number == turn][0]  # noqa: RUF015 - as above
    await c.rewind(to=t.seq - 1, expected=c.version)
    return await c.run(model, text)


async def show_variant(c: Conversation, tip: int) -> None:
    await c.rewind(to=tip)  # the tip lies on a branch that was left


async def branch(c: Conversation, seq: int) -> str:
    return (await c.fork(at=seq)).id


# 9. Erase a user; list, titles, unread


async def forget(engine: Engine, user: str) -> list[Receipt]:
    return [await engine.delete(i.id, forks="keep", reason="GDPR 17") async for i in engine.list(where={"user": user})]


async def sidebar(engine: Engine, user: str, read: Mapping[str, int], cursor: str | None) -> Mapping[str, object]:
    page = await engine.list(where={"user": user}, limit=30, after=cursor)
    rows = [
        {
            "id": i.id,
            "title": i.metadata.get("title"),
            "at": i.updated.isoformat(),
            "unread": i.last_item > read.get(i.id, 0),
            "busy": i.busy,
        }
        for i in page.data
    ]
    return {"next": page.next, "rows": rows}


async def title(c: Conversation, mini: Model) -> None:
    r = await c.respond(mini, "Give this a title of four words.", aside=True)
    await c.update_metadata({"title": r.output_text})
