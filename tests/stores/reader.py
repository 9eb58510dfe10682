"""A process that follows a log under a name and says what it has seen; run by the tests of followers.

    reader.py PATH NAME LEASE     (or, for PATH, a PostgreSQL url, "#" and a schema)

It says "ready" once it has opened the log, "seen", conversation and seq for each event, and "acknowledged" once that is
stored, batch by batch. It ends when its standard input does.
"""

import os
import sys

import anyio

from turnlog import open_engine


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(path, name, lease):
    url, _, schema = path.partition("#")
    async with (
        open_engine(url, schema=schema or None, lease=float(lease)) as engine,
        anyio.create_task_group() as group,
    ):
        group.start_soon(ended, group.cancel_scope)
        async with engine.follow(name=name, batch=3) as batches:
            say("ready")
            async for batch in batches:
                for event in batch:
                    say("seen", event.conversation, event.seq)
                await batches.ack(batch[-1].position)
                say("acknowledged", len(batch))


async def ended(scope):
    await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
    scope.cancel()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
