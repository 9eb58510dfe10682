"""A process to be killed, or traced: it forks for each line of orders, so that Python is started once.

An order is JSON: the database, its durability, and from which list of `store_history` on, up to which. The child opens
the log, so that its threads and files are there, says "ready PID", waits for a line, makes the calls, and says after
each list up to which it has come. Then it closes the log and says "closed".
"""

import asyncio
import json
import os
import sys
import traceback

from store_history import HISTORY, clock, make
from turnlog.engine.stores.sqlite import SqliteStore
from turnlog.engine.testing.contract_kit import together


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def work(order):
    store = await SqliteStore.open(order["db"], durability=order["durability"], clock=clock)
    await store.renew("nobody", 1, 1.0)
    if order["pages"]:
        await store._writer.run(lambda db: db.execute(f"PRAGMA wal_autocheckpoint = {order['pages']}").fetchone())
    say("ready", os.getpid())
    sys.stdin.readline()
    for number in range(order["first"], order["last"] + 1):
        await make(store, HISTORY[number], together)
        say("done", number)
    await store.close()
    say("closed")


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
