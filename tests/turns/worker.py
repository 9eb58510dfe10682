"""A worker to be killed: it forks for each line of orders, and the child runs turns until it is done or dead."""

import asyncio
import json
import os
import random
import sys
import traceback

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from turnlog import open_engine
from turnlog.adapters.chat_completions import ChatCompletions
from turnlog.adapters.responses import Responses
from turnlog.engine import vocabulary


async def look(at: str) -> str:
    await asyncio.sleep(random.random() / 100)
    return f"seen {at}"


async def work(order):
    transport = DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with (
        AsyncOpenAI(base_url=order["url"], api_key="sk", max_retries=0, http_client=transport) as client,
        open_engine(order["db"], lease=order["lease"]) as engine,
    ):

        async def talk(name, api):
            model = (Responses if api == "responses" else ChatCompletions)(client, "gpt-4o-mini")
            conversation = await engine.get_or_create(name)
            for number in range(order["turns"]):
                await conversation.append(f"By the way, {number}")
                await conversation.run(model, f"Go {number}", tools=[look], key=f"key {number}")
                async with conversation.stream(model, f"Stream {number}", tools=[look]) as stream:
                    async for _ in stream:
                        pass

        await asyncio.gather(*(talk(name, api) for name, api in order["conversations"].items()))


def main():
    asyncio.run(vocabulary.load())  # before the forks, whose time is short
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            random.seed(os.getpid())
            status = 1
            try:
                asyncio.run(work(json.loads(line)))
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


main()
