"""A process that hosts the systems of one package and does what it is told, line by line.

Each line of standard input is a JSON object: the task, the system, the folder, and the task's own arguments. Each
answer is one line: {"done": …}, or {"failed": …} with the reason. Nothing runs between two tasks.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.systems import PACKAGES, System, systems_of
from turnlog.engine import vocabulary

__all__ = ("main",)


class Host:
    """The systems of one package, opened in folders as they are asked for."""

    def __init__(self, package: str) -> None:
        begun = time.perf_counter()
        self._package = next(one for one in PACKAGES if one.name == package)
        self._kinds = {kind.name: kind for kind in systems_of(self._package)}
        self._open: dict[tuple[str, str], System] = {}
        self.imported = time.perf_counter() - begun

    async def do(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do one task."""
        match said["task"]:
            case "systems":
                kinds = self._kinds.items()
                return {name: {"ways": kind.ways, "most": kind.most, "quickly": kind.quickly} for name, kind in kinds}
            case "close":
                return await self._closed(said["system"], said["folder"])
            case name:
                module = importlib.import_module(said.get("module", "benchmarks.tasks"))
                system = await self._system(said["system"], said["folder"])
                done: Mapping[str, Any] = await module.TASKS[name](system, **said["with"])
                return done

    async def _system(self, name: str, folder: str) -> System:
        place = name, folder
        if place not in self._open:
            os.makedirs(folder, exist_ok=True)
            system = self._kinds[name](Path(folder), (await vocabulary.load()).count)
            await system.open()
            self._open[place] = system
        return self._open[place]

    async def _closed(self, name: str, folder: str) -> Mapping[str, Any]:
        system = self._open.pop((name, folder), None)
        if system is None:
            return {}
        await system.close()
        return {"bytes": system.bytes()}


def main() -> None:
    """Serve until standard input ends."""
    # What a package prints goes with its warnings, so that only answers are on standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    host = Host(sys.argv[1])
    answers.write(json.dumps({"done": {"imported": host.imported}}) + "\n")
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            try:
                answer: Mapping[str, Any] = {"done": runner.run(_within(host, json.loads(line)))}
            except Exception as error:  # noqa: BLE001 - whatever a system raises is told to who asked
                traceback.print_exc()
                answer = {"failed": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")


async def _within(host: Host, said: Mapping[str, Any]) -> Mapping[str, Any]:
    async with asyncio.timeout(said.get("limit")):
        return await host.do(said)


if __name__ == "__main__":
    main()
