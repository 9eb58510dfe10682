"""The scripted server in a process of its own, so that clients are measured without it: `python -m benchmarks.server`.

It prints its address and serves until standard input ends. A question about a place is answered with a call of the
tool, everything else with a text of the workload.
"""

from __future__ import annotations

import sys

import anyio
import anyio.to_thread

from benchmarks.workload import ASKS_TOOL, text, turn
from turnlog.engine.testing.server import Call, Received, Reply, Text, scripted_server

__all__ = ("main",)

ANSWER = text(turn(2)[3])


def answer(request: Received) -> Reply:
    """Answer a request."""
    last = request.body["input"][-1]
    asks = last.get("role") == "user" and str(last.get("content", "")).startswith(ASKS_TOOL)
    return Reply(Call("look_up", {"place": "harbour"})) if asks else Reply(Text(ANSWER))


async def main() -> None:
    """Serve."""
    async with scripted_server(answer, judge=False) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main)
