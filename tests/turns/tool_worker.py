"""A worker to be killed while its tools run: it says on standard output what it does, and never finishes."""

import asyncio
import json

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from turnlog import ToolContext, open_engine, tool
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses


def say(ctx, name):
    print(json.dumps([name, ctx.call_id, ctx.attempt, ctx.idempotency_key]), flush=True)


async def quick(ctx: ToolContext) -> str:
    say(ctx, "quick")
    return "quick"


async def risky(ctx: ToolContext) -> str:
    say(ctx, "risky")
    await asyncio.Event().wait()


@tool(rerun_safe=True)
async def safe(ctx: ToolContext) -> str:
    say(ctx, "safe")
    await asyncio.Event().wait()


async def main(order):
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with (
        AsyncOpenAI(base_url=order["url"], api_key="sk", max_retries=0, http_client=transport) as client,
        open_engine(order["db"], lease=order["lease"]) as engine,
    ):
        model = (Responses if order["api"] == "responses" else ChatCompletions)(client, "gpt-4o-mini")
        conversation = await engine.get_or_create("c")
        tools = [quick, tool(approval=True)(risky) if order.get("approval") else risky, safe]
        await conversation.run(model, order.get("text"), tools=tools, key=order.get("key"))
        print("done", flush=True)


def work(order):
    asyncio.run(main(order))
