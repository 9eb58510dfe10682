"""A process to be killed, or traced: it forks for each line of orders, so that Python is started once.

An order is JSON: the database, its durability, and what to do: make the calls of `store_history` from which list on, up
to which; or "forget" in one of the ways of `forgetting`; or "open". The child opens the log, so that its threads and
files are there, says "ready PID", waits for a line, does it, and says after each list up to which it has come, or when
it is done. Then it closes the log and says "closed". If it is to open the log, it is ready before it does.
"""

import asyncio
import json
import os
import sys
import traceback

from forgetting import forget
from store_history import HISTORY, clock, make
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import together


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def ready():
    say("ready", os.getpid())
    sys.stdin.readline()


async def work(order):
    if order["what"] == "open":
        ready()
    store = await SqliteStore.open(order["db"], durability=order["durability"], clock=clock)
    await {"history": history, "forget": forgets, "open": opened}[order["what"]](store, order)
    await store.close()
    say("closed")


async def opened(store, order):
    say("done", 0)


async def forgets(store, order):
    await store.renew("nobody", 1, 1.0)
    ready()
    await forget(store, order["way"])
    say("done", 0)


async def history(store, order):
    await store.renew("nobody", 1, 1.0)
    if order["pages"]:
        await store._writer.run(lambda db: db.execute(f"PRAGMA wal_autocheckpoint = {order['pages']}").fetchone())
    ready()
    for number in range(order["first"], order["last"] + 1):
        await make(store, HISTORY[number], together)
        say("done", number)


def main():
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(work(json.loads(line)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        say("ended", os.waitstatus_to_exitcode(status))


main()
